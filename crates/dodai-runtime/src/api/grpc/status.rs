//! Refusals as gRPC tells them: a code, a message, and details of `google.rpc`.

use dodai_proto::apps::google::rpc;
use http::{HeaderMap, StatusCode};
use prost::Message as _;
use prost_types::Any;
use tonic::metadata::MetadataValue;
use tonic::{Code, Response, Status};

use crate::api::refusal::{Detail, Refusal};

/// The domain of Dapr's words for programs.
const DOMAIN: &str = "dapr.io";

/// What a method of the service returns.
pub(super) type Told<T> = Result<Response<T>, Status>;

pub(super) fn told<T>(outcome: Result<T, Refusal>) -> Told<T> {
    outcome.map(Response::new).map_err(status)
}

/// A refusal as its caller reads it.
pub(super) fn status(refusal: Refusal) -> Status {
    let code = code(&refusal);
    let mut details: Vec<Any> = refusal.details.iter().map(any).collect();
    if details.is_empty() {
        details.push(info(refusal.code, &[]));
    }
    whole(code, refusal.message, details)
}

/// An error that belongs to no building block.
pub(super) fn plain(code: Code, reason: &str, message: impl Into<String>) -> Status {
    whole(code, message.into(), vec![info(reason, &[])])
}

fn whole(code: Code, message: String, details: Vec<Any>) -> Status {
    let whole = rpc::Status { code: code.into(), message: message.clone(), details };
    Status::with_details(code, message, whole.encode_to_vec().into())
}

/// Marks an error as an app's, whose words are not ours to change.
const OF_AN_APP: &str = "dodai-status-of-app";

/// An app's error on its way through our service.
pub(super) fn of_app(mut status: Status) -> Status {
    status.metadata_mut().insert(OF_AN_APP, MetadataValue::from_static("1"));
    status
}

/// Gives the errors that tonic finds by itself (a method that is not there, a message that cannot be read or is too
/// long) a reason like all others. `path` is that of the call.
pub(super) fn complete(headers: &mut HeaderMap, path: &str) {
    if headers.remove(OF_AN_APP).is_some() {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else { return };
    if status.code() == Code::Ok || !status.details().is_empty() {
        return;
    }
    let mut code = status.code();
    let mut message = status.message().to_owned();
    let reason = if code == Code::Unimplemented {
        if message.is_empty() {
            message = format!("there is no method `{}` here", path.trim_start_matches('/'));
        }
        "ERR_API_UNIMPLEMENTED"
    } else if matches!(code, Code::OutOfRange | Code::ResourceExhausted) {
        // A message that is too long is OUT_OF_RANGE to tonic; daprd and what is written for it look for this one.
        code = Code::ResourceExhausted;
        "ERR_BODY_READ"
    } else {
        "ERR_MALFORMED_REQUEST"
    };
    // What cannot be a header leaves the error as it is.
    let _whole = plain(code, reason, message).add_header(headers);
}

/// daprd's codes: mostly those that belong to the status of HTTP.
fn code(refusal: &Refusal) -> Code {
    // daprd says INTERNAL of whatever kept a call from its app, but for what a policy said.
    if refusal.code == "ERR_DIRECT_INVOKE" && refusal.status == StatusCode::INTERNAL_SERVER_ERROR {
        return Code::Internal;
    }
    if let Some(failure) = &refusal.failure {
        return Code::from(i32::from(failure.kind.grpc_status()));
    }
    match refusal.code {
        "ERR_STATE_STORE_NOT_CONFIGURED"
        | "ERR_SECRET_STORES_NOT_CONFIGURED"
        | "ERR_CONFIGURATION_STORE_NOT_CONFIGURED"
        | "ERR_LOCK_STORE_NOT_CONFIGURED" => Code::FailedPrecondition,
        "ERR_SECRET_STORE_NOT_FOUND"
        | "ERR_PUBSUB_NOT_FOUND"
        | "ERR_TOPIC_NAME_EMPTY"
        | "ERR_PUBSUB_CLOUD_EVENTS_SER"
        | "ERR_CONFIGURATION_STORE_NOT_FOUND"
        | "ERR_CONFIGURATION_SUBSCRIBE" => Code::InvalidArgument,
        "ERR_STATE_STORE_NOT_SUPPORTED" => Code::Unimplemented,
        "DAPR_SCHEDULER_SCHEDULE_JOB" if refusal.status == StatusCode::CONFLICT => Code::AlreadyExists,
        _ => match refusal.status {
            StatusCode::BAD_REQUEST => Code::InvalidArgument,
            StatusCode::FORBIDDEN => Code::PermissionDenied,
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::CONFLICT => Code::Aborted,
            StatusCode::PAYLOAD_TOO_LARGE => Code::ResourceExhausted,
            StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
            StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            _ => Code::Internal,
        },
    }
}

fn any(detail: &Detail) -> Any {
    match detail {
        Detail::Info { reason, metadata } => info(reason, metadata),
        Detail::Resource { kind, name, description } => packed(
            "ResourceInfo",
            &rpc::ResourceInfo {
                resource_type: kind.clone(),
                resource_name: name.clone(),
                owner: String::new(),
                description: description.clone(),
            },
        ),
        Detail::Violation { field, description } => {
            let (field, description) = (field.clone(), description.clone());
            let violation = rpc::bad_request::FieldViolation { field, description };
            packed("BadRequest", &rpc::BadRequest { field_violations: vec![violation] })
        }
        Detail::Help { url, description } => {
            let link = rpc::help::Link { description: description.clone(), url: url.clone() };
            packed("Help", &rpc::Help { links: vec![link] })
        }
    }
}

/// Words for programs.
pub(super) fn info(reason: &str, metadata: &[(String, String)]) -> Any {
    let metadata = metadata.iter().cloned().collect();
    packed("ErrorInfo", &rpc::ErrorInfo { reason: reason.to_owned(), domain: DOMAIN.to_owned(), metadata })
}

fn packed(name: &str, message: &impl prost::Message) -> Any {
    Any { type_url: format!("type.googleapis.com/google.rpc.{name}"), value: message.encode_to_vec() }
}
