//! Output bindings: an app asks, and a component does it.

use dodai_capability::Metadata;
use dodai_capability::binding::{Error, Output, Request, Response};

use super::Api;
use super::refusal::Refusal;
use crate::components::Block;
use crate::inputs::has_direction;

const FAILED: &str = "ERR_INVOKE_OUTPUT_BINDING";

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
    /// Asks a binding. Its answer may be empty.
    pub(super) async fn ask_binding(&self, name: &str, request: Request) -> Result<Response, NotDone> {
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
