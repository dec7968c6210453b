//! The API of output bindings over HTTP.

use bytes::Bytes;
use dodai_capability::Metadata;
use dodai_capability::binding::{Request, Response};
use dodai_core::call::{Call, Reply};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::object::Object;
use super::reply::{Outcome, empty, json_reply, refused};
use crate::api::Api;
use crate::api::bindings::NotDone;
use crate::api::refusal::Refusal;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Asked<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    metadata: Metadata,
    operation: String,
}

impl Api {
    pub(super) async fn http_invoke_binding(&self, name: &str, call: Call) -> Outcome {
        let Call { head, body, .. } = call;
        let body = self.body(body).await?;
        let Object(asked): Object<Asked<'_>> =
            serde_json::from_slice(&body).map_err(|error| Refusal::malformed(&error))?;
        let data = asked.data.map(|data| Bytes::copy_from_slice(data.get().as_bytes())).unwrap_or_default();
        let request = Request { operation: asked.operation, data, metadata: asked.metadata };
        match self.ask_binding(name, request, &head.headers).await {
            Ok(Response { data, metadata }) if data.is_empty() && metadata.is_empty() => Ok(empty()),
            Ok(response) => Ok(with_metadata(json_reply(StatusCode::OK, response.data), &response.metadata)),
            Err(NotDone { refusal, metadata }) => Ok(with_metadata(refused(refusal), &metadata)),
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
