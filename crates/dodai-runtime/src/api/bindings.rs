//! Output bindings: an app asks, and a component does it.

use dodai_capability::Metadata;
use dodai_capability::binding::{Error, Output, Request, Response};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Api;
use super::refusal::Refusal;
use crate::components::Block;
use crate::inputs::has_direction;

const FAILED: &str = "ERR_INVOKE_OUTPUT_BINDING";

/// What tells whose trace a request belongs to, which drivers may pass on.
const TRACED: [&str; 3] = ["traceparent", "tracestate", "baggage"];

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
    /// Asks a binding on behalf of a request with these headers. Its answer may be empty.
    pub(super) async fn ask_binding(
        &self,
        name: &str,
        headers: &HeaderMap,
        mut request: Request,
    ) -> Result<Response, NotDone> {
        let (live, output) = self.component(Block::Bindings, name, |all| all.output.clone())?;
        if !has_direction(&live, "output") {
            return Err(failed(name, &"its `direction` is input alone").into());
        }
        for name in TRACED {
            if let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) {
                request.metadata.entry(name.to_owned()).or_insert_with(|| value.to_owned());
            }
        }
        Output::invoke(&*output, request).await.map_err(|error| match error {
            Error::Refused { message, response } => {
                NotDone { refusal: failed(name, &message), metadata: response.metadata }
            }
            error @ (Error::UnknownOperation { .. } | Error::Fault(_)) => failed(name, &error).into(),
        })
    }
}

/// Metadata of an answer as headers; what cannot be one is left out.
pub(super) fn as_headers(metadata: &Metadata) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    metadata.iter().filter_map(|(name, value)| {
        let name = HeaderName::try_from(format!("metadata.{name}")).ok()?;
        Some((name, HeaderValue::try_from(value.as_str()).ok()?))
    })
}
