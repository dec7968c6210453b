//! Service invocation over HTTP.
//!
//! The target is in the path (`/v1.0/invoke/<app>/method/<path>`), or for any other path in the header
//! `dapr-app-id` or the user of Basic credentials. An app that is known to speak gRPC is asked by its callback.

use dodai_core::body::Body;
use dodai_core::call::{Call, Reply};
use dodai_core::id::AppId;
use dodai_proto::apps::dapr::proto::common::v1::http_extension::Verb;
use dodai_proto::apps::dapr::proto::common::v1::{HttpExtension, InvokeRequest, InvokeResponse};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use prost_types::Any;
use serde_json::json;
use tonic::{Code, Response, Status};

use super::query;
use super::reply::{Outcome, encoded};
use crate::api::Api;
use crate::api::grpc::passed;
use crate::api::invoke::{APP_ID_HEADER, basic_user, clean, not_delivered};
use crate::api::refusal::Refusal;
use crate::callback::Unanswered;

/// Whom a call is for, and the path it asks for there.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    id: String,
    /// Without the leading slash.
    method: String,
}

fn target(path: &str, headers: &HeaderMap) -> Option<Target> {
    let by_header = headers.get(APP_ID_HEADER).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    if let Some(id) = by_header.map(str::to_owned).or_else(|| basic_user(headers)) {
        return Some(Target { id, method: cleaned(path) });
    }
    let rest = path.trim_start_matches('/').strip_prefix("v1.0/")?;
    let rest = rest.trim_start_matches('/').strip_prefix("invoke/")?;
    let (id, method) = rest.trim_start_matches('/').split_once("/method/")?;
    let id = query::unescape(id).filter(|id| !id.is_empty())?;
    Some(Target { id, method: method.to_owned() })
}

/// A path without its leading slash, without empty parts and dots, as daprd asks for it where the app is not in the path;
/// a slash at its end stays.
fn cleaned(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if path.ends_with('/') && !parts.is_empty() {
        parts.push("");
    }
    parts.join("/")
}

impl Api {
    pub(super) async fn http_invoke(&self, call: Call) -> Outcome {
        let Some(target) = target(call.head.uri.path(), &call.head.headers) else {
            let message = "failed getting app id either from the URL path or the header dapr-app-id";
            return Err(Refusal::new(StatusCode::NOT_FOUND, "ERR_DIRECT_INVOKE", message));
        };
        if !is_for_servers_of_grpc(&call.head.headers)
            && let Some(app) = self.called_back(&target.id).await
        {
            return self.call_back(&app, target, call).await;
        }
        let query = call.head.uri.query().map_or_else(String::new, |query| format!("?{query}"));
        self.invoke(&target.id, &format!("{}{query}", target.method), call).await
    }

    /// Asks an app that serves `AppCallback`: `OnInvoke`, and its answer as one of HTTP.
    async fn call_back(&self, app: &AppId, target: Target, call: Call) -> Outcome {
        let Call { head, body, context } = call;
        let data = body.collect(self.shared.settings.max_body).await;
        let data = data.map_err(|failure| Refusal::body(&failure))?;
        let mut headers = head.headers;
        clean(&mut headers);
        leave_binary_out(&mut headers);
        if basic_user(&headers).is_some() {
            headers.remove(AUTHORIZATION);
        }
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let message = InvokeRequest {
            method: method_of(&target.method),
            content_type: kind.to_owned(),
            data: Some(Any { type_url: String::new(), value: data.into() }),
            http_extension: Some(HttpExtension {
                verb: Verb::from_str_name(head.method.as_str()).unwrap_or(Verb::None).into(),
                querystring: head.uri.query().unwrap_or_default().to_owned(),
            }),
        };
        match self.on_invoke(context, headers, (app, &target.id), message).await {
            Ok(answer) => Ok(answered(answer)),
            Err(Unanswered::Refused(status)) => refused_by_app(&status),
            Err(Unanswered::Failed(failure)) => Err(not_delivered(&target.id, &failure)),
        }
    }
}

/// Whether a call is written for a server of gRPC that takes such calls over HTTP, too.
fn is_for_servers_of_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    [&b"application/grpc"[..], b"application/connect"].iter().any(|of_grpc| kind.starts_with(of_grpc))
}

/// The name of a method, as daprd reads it from a path: without escapes, unless one stands for a slash.
fn method_of(path: &str) -> String {
    let is_slash = |at: usize| path.get(at..at + 3).is_some_and(|escape| escape.eq_ignore_ascii_case("%2f"));
    let has_slash = path.match_indices('%').any(|(at, _)| is_slash(at));
    query::unescape(&path.replace('+', "%2B")).filter(|_| !has_slash).unwrap_or_else(|| path.to_owned())
}

/// Headers by such a name are binary to gRPC, in Base64; over HTTP they mean nothing.
fn leave_binary_out(headers: &mut HeaderMap) {
    let binary: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().ends_with("-bin")).cloned().collect();
    for name in binary {
        headers.remove(name);
    }
}

fn answered(answer: Response<InvokeResponse>) -> Reply {
    let (metadata, InvokeResponse { data, content_type }, _) = answer.into_parts();
    let mut reply = Reply::new(StatusCode::OK, "");
    reply.head.headers = passed(metadata.into_headers());
    clean(&mut reply.head.headers);
    leave_binary_out(&mut reply.head.headers);
    let kind = HeaderValue::try_from(content_type).ok().filter(|kind| !kind.is_empty());
    reply.head.headers.extend(kind.map(|kind| (CONTENT_TYPE, kind)));
    reply.body = Body::full(data.map(|data| data.value).unwrap_or_default());
    reply
}

/// An app's own error, as daprd gives it: a `google.rpc.Status` in JSON. Its details are left out, since their types
/// are the app's.
fn refused_by_app(status: &Status) -> Outcome {
    let code = i32::from(status.code());
    let mut reply = encoded(status_of(status.code()), &json!({ "code": code, "message": status.message() }))?;
    let mut headers = passed(status.metadata().clone().into_headers());
    clean(&mut headers);
    leave_binary_out(&mut headers);
    reply.head.headers.extend(headers);
    Ok(reply)
}

/// The status of HTTP that belongs to a code (`google/rpc/code.proto`; daprd has 408 for CANCELLED).
fn status_of(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_read_as_daprd_reads_them() {
        for (path, expect) in [
            ("a/b", "a/b"),
            ("hello%20world", "hello world"),
            ("%C3%A9", "\u{e9}"),
            ("a%2Fb%20", "a%2Fb%20"),
            ("a%zz", "a%zz"),
            ("a+b%20c", "a+b c"),
            ("", ""),
        ] {
            assert_eq!(method_of(path), expect);
        }
    }

    fn found(path: &str, headers: &[(&str, &str)]) -> Option<(String, String)> {
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::try_from(*name).expect("a name"), HeaderValue::try_from(*value).expect("a value"))
        });
        target(path, &headers.collect()).map(|target| (target.id, target.method))
    }

    #[test]
    fn targets_by_path_header_and_credentials() {
        let is = |id: &str, method: &str| Some((id.to_owned(), method.to_owned()));
        assert_eq!(found("/v1.0/invoke/cart/method/a/b%2Fc", &[]), is("cart", "a/b%2Fc"));
        assert_eq!(found("/v1.0/invoke/cart.shop/method/", &[]), is("cart.shop", ""));
        assert_eq!(found("/v1.0/invoke/http://a:1/method/b/c", &[]), is("http://a:1", "b/c"));
        assert_eq!(found("/v1.0/invoke/https://a/method/b", &[]), is("https://a", "b"));
        assert_eq!(found("/v1.0/invoke/https%3A%2F%2Fa%3A1/method/b", &[]), is("https://a:1", "b"));
        assert_eq!(found("/v1.0/invoke/cart/orders", &[]), None);
        assert_eq!(found("/v1.0/invoke//method/x", &[]), None);
        assert_eq!(found("/orders/1", &[]), None);
        assert_eq!(found("/orders/1", &[("dapr-app-id", "cart")]), is("cart", "orders/1"));
        for (path, expect) in [
            ("/a/../b//c/", "b/c/"),
            ("/../../b", "b"),
            ("/a/./b", "a/b"),
            ("//", ""),
            ("/a/..", ""),
            ("/a%2F..%2Fb", "a%2F..%2Fb"),
        ] {
            assert_eq!(found(path, &[("dapr-app-id", "cart")]), is("cart", expect), "{path}");
        }
        assert_eq!(found("/v1.0/invoke/cart/method/a//b/", &[]), is("cart", "a//b/"));
        // "dapr-app-id:cart" in base64.
        let basic = [("authorization", "Basic ZGFwci1hcHAtaWQ6Y2FydA==")];
        assert_eq!(found("/orders", &basic), is("cart", "orders"));
        assert_eq!(found("/orders", &[("authorization", "Basic dXNlcjpwYXNz")]), None);
    }
}
