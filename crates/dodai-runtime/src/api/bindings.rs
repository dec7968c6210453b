//! Output bindings: an app asks, and a component does it.

use dodai_capability::Metadata;
use dodai_capability::binding::{Error, Output, Request, Response};
use http::HeaderMap;

use super::Api;
use super::refusal::Refusal;
use crate::components::Block;
use crate::inputs::has_direction;

const FAILED: &str = "ERR_INVOKE_OUTPUT_BINDING";

/// What makes one trace of a call and what it asks for; the component gets it as metadata.
const TRACE_HEADERS: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// Why a binding did not do what it was asked for.
pub(super) struct NotDone {
    /// What the app is told.
    pub refusal: Refusal,
    /// What the far side said beside that.
    pub metadata: Metadata,
}

impl From<Refusal> for NotDone {
    fn from(refusal: Refusal) -> NotDone {
        NotDone { refusal, metadata: Metadata::default() }
    }
}

fn failed(name: &str, why: &dyn std::fmt::Display) -> Refusal {
    Refusal::internal(FAILED, format!("error invoking output binding {name}: {why}"))
}

impl Api {
    /// Asks a binding for a call with these headers. Its answer may be empty.
    pub(super) async fn ask_binding(
        &self,
        name: &str,
        mut request: Request,
        headers: &HeaderMap,
    ) -> Result<Response, NotDone> {
        for traced in TRACE_HEADERS {
            let Some(value) = headers.get(traced).and_then(|value| value.to_str().ok()) else { continue };
            request.metadata.entry(traced.to_owned()).or_insert_with(|| value.to_owned());
        }
        let (live, output) = self.component(Block::Bindings, name, |all| all.output.clone())?;
        if !has_direction(&live, "output") {
            return Err(failed(name, &"its `direction` is input alone").into());
        }
        Output::invoke(&*output, request).await.map_err(|error| match error {
            Error::Refused { message, response } => {
                NotDone { refusal: failed(name, &message), metadata: response.metadata }
            }
            error @ (Error::UnknownOperation { .. } | Error::Fault(_)) => failed(name, &error).into(),
        })
    }
}
