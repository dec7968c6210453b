//! Answers and refusals as JSON.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Response, StatusCode, header};
use serde::Serialize;
use serde_json::json;

/// What this app answers with.
pub type Reply = Response<Full<Bytes>>;

/// Why there is no proper answer: a status, a word for programs and a sentence for people.
#[derive(Debug)]
pub struct Refusal {
    /// The status code.
    pub status: StatusCode,
    /// A stable word.
    pub code: &'static str,
    /// What happened, and what would help.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, code, message: message.into() }
    }

    /// Something this app needs did not do its part.
    pub fn unavailable(what: &str, reason: impl std::fmt::Display) -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", format!("{what}: {reason}"))
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Reply {
        json_reply(refusal.status, &json!({ "error": refusal.code, "message": refusal.message }))
    }
}

/// A JSON answer.
pub fn json_reply(status: StatusCode, value: &impl Serialize) -> Reply {
    let body = serde_json::to_vec(value).expect("answers have string keys only");
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    reply
}

/// An answer without a body.
pub fn empty_reply(status: StatusCode) -> Reply {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = status;
    reply
}
