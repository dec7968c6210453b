//! Errors as Dapr's APIs give them: a status, `errorCode`, `message`, and for some APIs `details`.
//!
//! Codes, statuses and messages are daprd 1.18's, since client libraries match on them. What a refusal looks like over
//! HTTP is said in `http/reply.rs`, over gRPC in `grpc/status.rs`.

use dodai_core::failure::{Failure, Kind};
use http::StatusCode;

use crate::components::{Absent, Block};

/// An API call that is refused or has failed.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    pub details: Vec<Detail>,
    /// The methods that the path takes.
    pub allowed: Option<&'static str>,
    /// What the data path said.
    pub failure: Option<Failure>,
}

/// What an error tells programs besides its code: messages of `google.rpc`.
#[derive(Debug)]
pub(super) enum Detail {
    Info { reason: String, metadata: Vec<(String, String)> },
    Resource { kind: String, name: String, description: String },
    Violation { field: String, description: String },
    Help { url: String, description: String },
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        let message = message.into();
        Refusal { status, code, message, details: Vec::new(), allowed: None, failure: None }
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
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "ERR_BAD_REQUEST", message);
        Refusal { allowed: Some(allowed), ..refusal }
    }

    pub fn with_info(mut self, reason: &str, metadata: &[(&str, &str)]) -> Refusal {
        let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.details.push(Detail::Info { reason: reason.to_owned(), metadata: metadata.collect() });
        self
    }

    pub fn with_resource(mut self, kind: &str, name: &str, description: &str) -> Refusal {
        let (kind, name, description) = (kind.to_owned(), name.to_owned(), description.to_owned());
        self.details.push(Detail::Resource { kind, name, description });
        self
    }

    pub fn with_violation(mut self, field: &str) -> Refusal {
        let description = self.message.clone();
        self.details.push(Detail::Violation { field: field.to_owned(), description });
        self
    }

    pub fn with_help(mut self, url: &str, description: &str) -> Refusal {
        self.details.push(Detail::Help { url: url.to_owned(), description: description.to_owned() });
        self
    }

    /// Keeps what the data path said, for the headers that all its answers have.
    pub fn because(self, failure: &Failure) -> Refusal {
        Refusal { failure: Some(failure.clone()), ..self }
    }
}

/// The component an API call names cannot be used: each API has words of its own for that.
pub(super) fn absent(block: Block, name: &str, app: &str, absent: Absent) -> Refusal {
    match absent {
        Absent::Unconfigured => unconfigured(block, name, app),
        Absent::Missing => missing(block, name, app),
        // daprd knows none such: it does not start without its components.
        Absent::NotReady(reason) => Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ERR_COMPONENT_NOT_READY",
            format!("{} {name} is not ready: {reason}", block.noun()),
        )
        .with_info("DODAI_COMPONENT_NOT_READY", &[("appID", app), ("component", name)]),
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
            Refusal::new(StatusCode::NOT_FOUND, "ERR_PUBSUB_NOT_FOUND", message.clone())
                .with_resource("pubsub", name, &message)
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
