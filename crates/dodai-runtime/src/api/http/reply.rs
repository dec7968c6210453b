//! Answers of the HTTP API: values as JSON, and refusals in daprd's shape.

use dodai_core::body::Body;
use dodai_core::call::{FAILURE_HEADER, Reply};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use crate::api::refusal::{Detail, Refusal};

/// What a route of the HTTP API returns.
pub(super) type Outcome = Result<Reply, Refusal>;

/// The body of an error, in daprd's order.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Shape<'a> {
    error_code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Value>,
}

fn shape(detail: &Detail) -> Value {
    match detail {
        Detail::Info { reason, metadata } => {
            let pairs: Map<String, Value> =
                metadata.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
            json!({
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "domain": "dapr.io",
                "metadata": if pairs.is_empty() { Value::Null } else { Value::Object(pairs) },
                "reason": reason,
            })
        }
        Detail::Resource { kind, name, description } => json!({
            "@type": "type.googleapis.com/google.rpc.ResourceInfo",
            "description": description,
            "owner": "",
            "resource_name": name,
            "resource_type": kind,
        }),
        Detail::Violation { field, description } => json!({
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "field_violations": [{ "description": description, "field": field }],
        }),
        Detail::Help { url, description } => json!({
            "@type": "type.googleapis.com/google.rpc.Help",
            "links": [{ "description": description, "url": url }],
        }),
    }
}

/// A refusal as its caller reads it.
pub(super) fn refused(refusal: Refusal) -> Reply {
    let details = refusal.details.iter().map(shape).collect();
    let shape = Shape { error_code: refusal.code, message: &refusal.message, details };
    let body = serde_json::to_vec(&shape).expect("texts and JSON values are JSON");
    let mut reply = json_reply(refusal.status, body);
    let headers = &mut reply.head.headers;
    if let Some(allowed) = refusal.allowed {
        headers.insert(ALLOW, HeaderValue::from_static(allowed));
    }
    if let Some(failure) = refusal.failure {
        let code = HeaderValue::from_static(failure.kind.code());
        headers.insert(HeaderName::from_static(FAILURE_HEADER), code);
        headers.extend(failure.retry_after.map(|seconds| (RETRY_AFTER, HeaderValue::from(seconds.get()))));
    }
    reply
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
