//! Errors as Dapr's HTTP API gives them: a status, `errorCode`, `message`, and for some APIs `details`.
//!
//! Codes, statuses and messages are daprd 1.18's, since client libraries match on them.

use dodai_core::body::Body;
use dodai_core::call::{FAILURE_HEADER, Reply};
use dodai_core::failure::{Failure, Kind};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use crate::components::{Absent, Block};

/// An API call that is refused or has failed.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    details: Vec<Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The body of an error, in daprd's order.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Shape<'a> {
    error_code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    details: &'a [Value],
}

/// What a handler returns.
pub(super) type Outcome = Result<Reply, Refusal>;

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, code, message: message.into(), details: Vec::new(), headers: Vec::new() }
    }

    pub fn internal(code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, code, message)
    }

    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// The body is no JSON of the wanted shape.
    pub fn malformed(error: &serde_json::Error) -> Refusal {
        Refusal::bad_request("ERR_MALFORMED_REQUEST", format!("failed deserializing HTTP body: {error}"))
    }

    /// The body could not be read, or is too long.
    pub fn body(failure: &Failure) -> Refusal {
        let status = if failure.kind == Kind::BodyTooLarge {
            StatusCode::PAYLOAD_TOO_LARGE
        } else {
            StatusCode::BAD_REQUEST
        };
        Refusal::new(status, "ERR_BODY_READ", format!("failed to read request body: {}", failure.detail))
            .because(failure)
    }

    pub fn not_served(api: &str) -> Refusal {
        let message =
            format!("this API is currently not implemented: this base does not serve the {api} API");
        Refusal::new(StatusCode::NOT_IMPLEMENTED, "ERR_API_UNIMPLEMENTED", message)
    }

    pub fn wrong_method(allowed: &'static str) -> Refusal {
        let message = format!("invalid request: the path takes {allowed}");
        let mut refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "ERR_BAD_REQUEST", message);
        refusal.headers.push((ALLOW, HeaderValue::from_static(allowed)));
        refusal
    }

    pub fn with_info(mut self, reason: &str, metadata: &[(&str, &str)]) -> Refusal {
        let pairs: Map<String, Value> =
            metadata.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
        let metadata = if pairs.is_empty() { Value::Null } else { Value::Object(pairs) };
        self.details.push(json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "domain": "dapr.io",
            "metadata": metadata,
            "reason": reason,
        }));
        self
    }

    pub fn with_resource(mut self, kind: &str, name: &str, description: &str) -> Refusal {
        self.details.push(json!({
            "@type": "type.googleapis.com/google.rpc.ResourceInfo",
            "description": description,
            "owner": "",
            "resource_name": name,
            "resource_type": kind,
        }));
        self
    }

    pub fn with_violation(mut self, field: &str) -> Refusal {
        self.details.push(json!({
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "field_violations": [{ "description": self.message, "field": field }],
        }));
        self
    }

    pub fn with_help(mut self, url: &str, description: &str) -> Refusal {
        self.details.push(json!({
            "@type": "type.googleapis.com/google.rpc.Help",
            "links": [{ "description": description, "url": url }],
        }));
        self
    }

    /// Names the data path's failure, and when to come again, in the headers that all its answers have.
    pub fn because(mut self, failure: &Failure) -> Refusal {
        self.headers
            .push((HeaderName::from_static(FAILURE_HEADER), HeaderValue::from_static(failure.kind.code())));
        let wait = failure.retry_after.map(|seconds| (RETRY_AFTER, HeaderValue::from(seconds.get())));
        self.headers.extend(wait);
        self
    }

    pub fn into_reply(self) -> Reply {
        let shape = Shape { error_code: self.code, message: &self.message, details: &self.details };
        let body = serde_json::to_vec(&shape).expect("texts and JSON values are JSON");
        let mut reply = Reply::new(self.status, body);
        reply.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        reply.head.headers.extend(self.headers);
        reply
    }
}

/// The component an API call names cannot be used: each API has words of its own for that.
pub(super) fn absent(block: Block, name: &str, app: &str, absent: Absent) -> Refusal {
    match absent {
        Absent::Unconfigured => unconfigured(block, name, app),
        Absent::Missing => missing(block, name, app),
        Absent::NotReady(reason) => {
            let Refusal { code, .. } = unconfigured(block, name, app);
            Refusal::internal(code, format!("{} {name} is not ready: {reason}", block.noun()))
        }
    }
}

fn unconfigured(block: Block, name: &str, app: &str) -> Refusal {
    match block {
        Block::State => Refusal::internal(
            "ERR_STATE_STORE_NOT_CONFIGURED",
            format!("state store {name} is not configured"),
        )
        .with_info("DAPR_STATE_NOT_CONFIGURED", &[("appID", app)]),
        // A publisher without any broker is told that the one it names is not there, as daprd does.
        Block::Pubsub => missing(block, name, app),
        Block::Secrets => {
            Refusal::internal("ERR_SECRET_STORES_NOT_CONFIGURED", "secret store is not configured")
        }
        Block::Configuration => {
            Refusal::internal("ERR_CONFIGURATION_STORE_NOT_CONFIGURED", "configuration stores not configured")
        }
        Block::Lock => Refusal::internal("ERR_LOCK_STORE_NOT_CONFIGURED", "lock store is not configured"),
        Block::Bindings => missing(block, name, app),
    }
}

fn missing(block: Block, name: &str, app: &str) -> Refusal {
    match block {
        Block::State => {
            Refusal::bad_request("ERR_STATE_STORE_NOT_FOUND", format!("state store {name} is not found"))
                .with_info("DAPR_STATE_NOT_FOUND", &[("appID", app)])
        }
        Block::Pubsub => {
            let message = format!("pubsub {name} is not found");
            Refusal::new(StatusCode::NOT_FOUND, "ERR_PUBSUB_NOT_FOUND", message)
                .with_info("DAPR_PUBSUB_NOT_FOUND", &[])
        }
        Block::Secrets => Refusal::new(
            StatusCode::UNAUTHORIZED,
            "ERR_SECRET_STORE_NOT_FOUND",
            format!("failed finding secret store with key {name}"),
        ),
        Block::Configuration => Refusal::internal(
            "ERR_CONFIGURATION_STORE_NOT_FOUND",
            format!("configuration store {name} not found"),
        ),
        Block::Lock => {
            Refusal::bad_request("ERR_LOCK_STORE_NOT_FOUND", format!("lock store {name} not found"))
        }
        Block::Bindings => {
            let message =
                format!("error invoking output binding {name}: couldn't find output binding {name}");
            Refusal::internal("ERR_INVOKE_OUTPUT_BINDING", message)
        }
    }
}

/// `204 No Content`.
pub(super) fn empty() -> Reply {
    Reply::new(StatusCode::NO_CONTENT, "")
}

/// A JSON body, written already.
pub(super) fn json_reply(status: StatusCode, body: impl Into<bytes::Bytes>) -> Reply {
    let mut reply = Reply::new(status, "");
    reply.body = Body::full(body);
    reply.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// A value as JSON.
pub(super) fn encoded<T: serde::Serialize>(status: StatusCode, value: &T) -> Outcome {
    match serde_json::to_vec(value) {
        Ok(body) => Ok(json_reply(status, body)),
        Err(error) => {
            Err(Refusal::internal("ERR_INTERNAL", format!("failed to encode response as JSON: {error}")))
        }
    }
}
