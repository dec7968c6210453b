//! Why a request was refused: one shape for every answer that is not a success.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use dodai_api::Problem;
use dodai_control::error::Error;
use http::{StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Refusal {
    /// The HTTP status.
    #[serde(skip)]
    pub status: StatusCode,
    /// One word for programs.
    pub code: Cow<'static, str>,
    /// What is wrong, for people.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// What is wrong with documents, with places.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl Refusal {
    /// A refusal without remedy.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, code: code.into(), message: message.into(), remedy: None, problems: Vec::new() }
    }

    /// 400: the request itself is wrong.
    pub fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 404: there is no such thing.
    pub fn not_found(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// 500: it is our fault or that of the machine.
    pub fn internal(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// 422 with what is wrong with documents.
    pub fn invalid(problems: Vec<Problem>) -> Refusal {
        let count = problems.len();
        let message =
            format!("{count} problem{} in documents; nothing was written", if count == 1 { "" } else { "s" });
        Refusal { problems, ..Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_documents", message) }
    }

    /// The same with a remedy.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Refusal {
        self.remedy = Some(remedy.into());
        self
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        self.remedy.as_ref().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl std::error::Error for Refusal {}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body =
            serde_json::to_vec(&self).expect("refusals have text keys only, which JSON can always hold");
        (self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let message = error.to_string();
        let of = |status, code| Refusal::new(status, code, message.clone());
        match error {
            Error::Refused(problems) => Refusal::invalid(problems),
            Error::NotFound(_) => of(StatusCode::NOT_FOUND, "not_found"),
            Error::Conflict { .. } | Error::NotEmpty { .. } => of(StatusCode::CONFLICT, "conflict"),
            Error::Artifact { .. } => of(StatusCode::UNPROCESSABLE_ENTITY, "artifact"),
            Error::NotRestarted { .. } => of(StatusCode::CONFLICT, "not_restarted"),
            Error::NotRolledBack { .. } => of(StatusCode::CONFLICT, "not_rolled_back"),
            Error::Unreadable { .. } => of(StatusCode::INTERNAL_SERVER_ERROR, "unreadable"),
            Error::Store(_) => of(StatusCode::SERVICE_UNAVAILABLE, "store"),
            Error::Token(_) | _ => of(StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }
}
