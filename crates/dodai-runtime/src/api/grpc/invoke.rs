//! Invocation over gRPC: calls of an app's own service, carried as they are, and the older `InvokeService`.

use bytes::Bytes;
use dodai_core::body::Body;
use dodai_core::call::{CALLER_HEADER, Call, Context, Reply};
use dodai_core::failure::Failure;
use dodai_core::id::AppId;
use dodai_proto::apps::dapr::proto::common::v1::http_extension::Verb;
use dodai_proto::apps::dapr::proto::common::v1::{InvokeRequest, InvokeResponse};
use dodai_proto::apps::dapr::proto::runtime::v1::InvokeServiceRequest;
use dodai_proto::apps::google::rpc;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::{HeaderMap, Method, Request, StatusCode, response};
use prost::Message as _;
use prost_types::Any;
use tonic::metadata::MetadataMap;
use tonic::{Code, Response, Status};

use super::refused;
use super::status::{self, Told};
use crate::api::invoke::{APP_ID_HEADER, not_delivered};
use crate::api::refusal::Refusal;
use crate::api::{Api, TOKEN_HEADER};
use crate::callback::Unanswered;

/// The newer name of [`APP_ID_HEADER`]; it wins.
const CALLEE_HEADER: &str = "dapr-callee-app-id";

/// What a status tells of the body of an app's answer, as daprd cuts it: details travel in a header.
const MAX_DETAIL: usize = 63;

/// The status of an app that answers over HTTP.
const STATUS_HEADER: &str = "dapr-http-status";

/// The app that the metadata of a call name.
pub(super) fn target(headers: &HeaderMap) -> Option<String> {
    let named = |name| headers.get(name).and_then(|id: &HeaderValue| id.to_str().ok());
    let ids = [named(CALLEE_HEADER), named(APP_ID_HEADER)];
    ids.into_iter().flatten().find(|id| !id.is_empty()).map(str::to_owned)
}

/// The service that Dapr's workflow clients call, of microsoft/durabletask-protobuf.
const WORKFLOWS: &str = "TaskHubSidecarService/";

impl Api {
    /// Sends a call of a service that is not ours to the app that it is for. What the app answers passes unchanged.
    pub(super) async fn proxy(&self, target: Option<String>, mut call: Call) -> Result<Reply, Failure> {
        let path = call.head.uri.path().trim_start_matches('/').to_owned();
        let Some(target) = target else {
            if path.starts_with(WORKFLOWS) {
                let message = "workflows are not served here".to_owned();
                return Ok(refused(&status::plain(Code::Unimplemented, "ERR_UNIMPLEMENTED", message)));
            }
            let message = format!(
                "there is no `{path}` here; to call an app, name it in the metadata as `{APP_ID_HEADER}`"
            );
            return Ok(refused(&status::plain(Code::Unimplemented, "ERR_DIRECT_INVOKE", message)));
        };
        if let Err(refusal) = self.address(&target, &path, &mut call) {
            let refusal = Refusal { status: StatusCode::BAD_REQUEST, ..refusal };
            return Ok(refused(&status::status(refusal)));
        }
        // It went with what concerns one connection, and servers of gRPC look for it.
        call.head.headers.insert(TE, HeaderValue::from_static("trailers"));
        let reply = self.shared.door.enter(call).await?;
        Ok(if is_grpc(&reply.head.headers) { reply } else { refused(&no_grpc(&target, &reply.head)) })
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(super::MEDIA_TYPE))
}

/// What is said of an answer that a client of gRPC could make nothing of.
fn no_grpc(target: &str, head: &response::Parts) -> Status {
    let status = head.status.as_u16();
    let (code, why) = match status {
        // What stands before an app says so (gRPC's `http-grpc-status-mapping.md`).
        429 | 502 | 503 | 504 => (Code::Unavailable, "which is no answer of gRPC"),
        _ => (
            Code::Unimplemented,
            "which is no answer of gRPC: it does not speak gRPC on its port; call it over HTTP, or say `grpc` as its \
             protocol if it does",
        ),
    };
    let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("no media type");
    status::plain(code, "ERR_DIRECT_INVOKE", format!("app `{target}` answered {status} with {kind}, {why}"))
}

/// What an app is asked for, as a request of HTTP.
fn request(context: Context, metadata: MetadataMap, asked: InvokeRequest) -> Result<(String, Call), Refusal> {
    let InvokeRequest { method, data, content_type, http_extension } = asked;
    let extension = http_extension.unwrap_or_default();
    let verb = match Verb::try_from(extension.verb) {
        // Callers who leave it out mean a plain invocation.
        Ok(Verb::None) | Err(_) => Method::POST,
        Ok(verb) => Method::from_bytes(verb.as_str_name().as_bytes()).unwrap_or(Method::POST),
    };
    let query = match extension.querystring.as_str() {
        "" => String::new(),
        query => format!("?{query}"),
    };
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = verb;
    head.headers = passed(metadata.into_headers());
    if !content_type.is_empty() {
        let bad = |_| Refusal::bad_request("ERR_BAD_REQUEST", "the content type is no header value");
        head.headers.insert(CONTENT_TYPE, HeaderValue::try_from(content_type).map_err(bad)?);
    }
    let body = Body::full(data.map(|data| Bytes::from(data.value)).unwrap_or_default());
    Ok((format!("{}{query}", method.trim_start_matches('/')), Call { head, body, context }))
}

/// Headers that mean the same on both sides: none of gRPC's own, nor such as describe a body.
pub(in crate::api) fn passed(mut headers: HeaderMap) -> HeaderMap {
    let own = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("grpc-")
            || (name.starts_with("content-") && name != "content-encoding")
            || matches!(name, "te" | "host" | "user-agent")
    };
    let away: Vec<HeaderName> = headers.keys().filter(|name| own(name)).cloned().collect();
    for name in away {
        headers.remove(name);
    }
    headers
}

/// Calls an app as older clients ask for it: over HTTP, or where it is known to serve `AppCallback` by that.
pub(super) async fn invoke(
    api: &Api,
    context: Context,
    metadata: MetadataMap,
    asked: InvokeServiceRequest,
) -> Told<InvokeResponse> {
    let message = asked.message.unwrap_or_default();
    if let Some(app) = api.called_back(&asked.id).await {
        return call_back(api, context, metadata, (&app, &asked.id), message).await;
    }
    let (path, call) = request(context, metadata, message).map_err(status::status)?;
    let reply = api.invoke(&asked.id, &path, call).await.map_err(status::status)?;
    let body = reply.body.collect(api.shared.settings.max_body).await;
    let body = body.map_err(|failure| status::status(Refusal::body(&failure)))?;
    let kind = reply.head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let content_type = kind.unwrap_or_default().to_owned();
    let mut headers = passed(reply.head.headers);
    headers.insert(HeaderName::from_static(STATUS_HEADER), HeaderValue::from(reply.head.status.as_u16()));
    let metadata = MetadataMap::from_headers(headers);
    if !reply.head.status.is_success() {
        return Err(failed(reply.head.status, &body, metadata));
    }
    let data = Some(Any { type_url: String::new(), value: body.into() });
    Ok(Response::from_parts(metadata, InvokeResponse { data, content_type }, tonic::Extensions::new()))
}

/// Calls an app that serves `AppCallback`; the second of the pair is what the caller named it.
async fn call_back(
    api: &Api,
    context: Context,
    metadata: MetadataMap,
    (app, callee): (&AppId, &str),
    message: InvokeRequest,
) -> Told<InvokeResponse> {
    let answer = api.on_invoke(context, metadata.into_headers(), (app, callee), message).await;
    answer.map_err(|unanswered| match unanswered {
        Unanswered::Refused(status) => status::of_app(status),
        Unanswered::Failed(failure) => status::status(not_delivered(app.name.as_str(), &failure)),
    })
}

impl Api {
    /// Asks an app that serves `AppCallback`, as this one; the second of the pair is what the caller named it. `headers`
    /// go along as metadata.
    pub(in crate::api) async fn on_invoke(
        &self,
        mut context: Context,
        headers: HeaderMap,
        (app, callee): (&AppId, &str),
        message: InvokeRequest,
    ) -> Result<Response<InvokeResponse>, Unanswered> {
        let mut headers = passed(headers);
        headers.remove(TOKEN_HEADER);
        headers.remove(APP_ID_HEADER);
        let parties = [(CALLER_HEADER, self.app.name.as_str()), (CALLEE_HEADER, callee)];
        for (name, id) in parties {
            headers.remove(name);
            headers.extend(HeaderValue::from_str(id).ok().map(|id| (HeaderName::from_static(name), id)));
        }
        self.own(&mut context, &headers);
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        let most = self.shared.settings.max_body;
        self.shared.deliveries.callbacks().on_invoke(app, context, request, most).await
    }
}

/// What an app's answer means that is no success: daprd's codes for statuses of HTTP.
fn failed(status: StatusCode, body: &[u8], metadata: MetadataMap) -> Status {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        408 => Code::Cancelled,
        409 => Code::AlreadyExists,
        429 => Code::ResourceExhausted,
        501 => Code::Unimplemented,
        503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Unknown,
    };
    let message = status.canonical_reason().unwrap_or("the app answered with an unknown status").to_owned();
    let pairs = [("http.code", status.as_str().to_owned()), ("http.error_message", beginning(body))];
    let pairs: Vec<(String, String)> =
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let details = vec![status::info(&message, &pairs)];
    let whole = rpc::Status { code: code.into(), message: message.clone(), details };
    Status::with_details_and_metadata(code, message, whole.encode_to_vec().into(), metadata)
}

/// The first bytes of a text, cut between two characters.
fn beginning(body: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&body[..body.len().min(2 * MAX_DETAIL)]).into_owned();
    text.truncate(text.floor_char_boundary(MAX_DETAIL));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bodies_are_cut_between_characters() {
        assert_eq!(beginning(b"short"), "short");
        assert_eq!(beginning(&[b'a'; 1 << 20]), "a".repeat(63));
        assert_eq!(beginning("\u{e9}".repeat(100).as_bytes()), "\u{e9}".repeat(31));
        assert_eq!(beginning(&[0xff; 100]), "\u{fffd}".repeat(21));
    }

    #[test]
    fn the_newer_name_of_an_app_wins() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            pairs.collect::<HeaderMap>()
        };
        assert_eq!(target(&headers(&[("dapr-app-id", "a")])).as_deref(), Some("a"));
        let both = headers(&[("dapr-app-id", "a"), ("dapr-callee-app-id", "b")]);
        assert_eq!(target(&both).as_deref(), Some("b"));
        assert_eq!(target(&headers(&[("dapr-app-id", "")])), None);
    }
}
