//! Refusals as gRPC tells them: a code, a message, and details of `google.rpc`.

use dodai_proto::apps::google::rpc;
use http::StatusCode;
use prost::Message as _;
use prost_types::Any;
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
    let whole = rpc::Status { code: code.into(), message: refusal.message.clone(), details };
    Status::with_details(code, refusal.message, whole.encode_to_vec().into())
}

/// daprd's codes: mostly those that belong to the status of HTTP.
fn code(refusal: &Refusal) -> Code {
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
