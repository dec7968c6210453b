//! The API of output bindings.

use bytes::Bytes;
use dodai_capability::Metadata;
use dodai_capability::binding::{Error, Output, Request, Response};
use dodai_core::call::{Call, Reply};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Api;
use super::object::Object;
use super::refusal::{Outcome, Refusal, empty, json_reply};
use crate::components::Block;
use crate::inputs::has_direction;

const FAILED: &str = "ERR_INVOKE_OUTPUT_BINDING";

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Asked<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    metadata: Metadata,
    operation: String,
}

fn failed(name: &str, why: &dyn std::fmt::Display) -> Refusal {
    Refusal::internal(FAILED, format!("error invoking output binding {name}: {why}"))
}

impl Api {
    pub(super) async fn invoke_binding(&self, name: &str, call: Call) -> Outcome {
        let traced = ["traceparent", "tracestate", "baggage"].map(|name| {
            let value = call.head.headers.get(name).and_then(|value| value.to_str().ok());
            value.map(|value| (name.to_owned(), value.to_owned()))
        });
        let body = self.body(call.body).await?;
        let Object(asked): Object<Asked<'_>> =
            serde_json::from_slice(&body).map_err(|error| Refusal::malformed(&error))?;
        let mut metadata = asked.metadata;
        for (name, value) in traced.into_iter().flatten() {
            metadata.entry(name).or_insert(value);
        }
        let data = asked.data.map(|data| Bytes::copy_from_slice(data.get().as_bytes())).unwrap_or_default();
        self.ask_binding(name, Request { operation: asked.operation, data, metadata }).await
    }

    async fn ask_binding(&self, name: &str, request: Request) -> Outcome {
        let (live, output) = self.component(Block::Bindings, name, |all| all.output.clone())?;
        if !has_direction(&live, "output") {
            return Err(failed(name, &"its `direction` is input alone"));
        }
        match Output::invoke(&*output, request).await {
            Ok(Response { data, metadata }) if data.is_empty() && metadata.is_empty() => Ok(empty()),
            Ok(response) => Ok(with_metadata(json_reply(StatusCode::OK, response.data), &response.metadata)),
            Err(Error::Refused { message, response }) => {
                Ok(with_metadata(failed(name, &message).into_reply(), &response.metadata))
            }
            Err(error) => Err(failed(name, &error)),
        }
    }
}

/// Answers' metadata are headers; what cannot be one is left out.
fn with_metadata(mut reply: Reply, metadata: &Metadata) -> Reply {
    for (name, value) in metadata {
        let name = HeaderName::try_from(format!("metadata.{name}"));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value.as_str())) {
            reply.head.headers.insert(name, value);
        }
    }
    reply
}
