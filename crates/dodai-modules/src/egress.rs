//! Outbound HTTP of a guest: every request re-enters the base's front door as the guest's app.
//!
//! The call keeps the trace of the call being served, one hop more, and a deadline that is not later. A
//! failure on the way becomes the answer that a process would get from its proxy (the failure's status and
//! `dodai-failure`), so that an app sees the same mesh in every shape. Only a host that is neither in the
//! mesh nor allowed is refused here, before anything is sent.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context, FAILURE_HEADER, MAX_HOPS, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::host_of;
use dodai_core::trace::Span;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error as HttpError, RequestOptions, WasiBody, WasiHttpHooks};

use crate::metrics::up;
use crate::plan::Plan;
use crate::seam::Stream;

/// The most bytes that a guest writes to a body at once.
const CHUNK: usize = 64 * 1024;

/// The outbound side of one instance.
pub(crate) struct Egress {
    plan: Arc<Plan>,
    /// Of the call being served; outbound calls continue it.
    context: Context,
}

/// What wasmtime-wasi-http wants back: the response, and a future that drives its transport.
type Sent = (Response<WasiBody>, Box<dyn Future<Output = Result<(), HttpError>> + Send>);

impl Egress {
    pub(crate) fn new(plan: Arc<Plan>) -> Egress {
        let context = Context::new(Caller::App(plan.app.clone()), Span::root(false));
        Egress { plan, context }
    }

    /// Says for which call the guest now works, and until when.
    pub(crate) fn serve(&mut self, served: &Context, end: Instant) {
        self.context.span = served.span;
        self.context.deadline = Some(served.deadline.map_or(end, |deadline| deadline.min(end)));
        self.context.hops = served.hops;
    }

    fn call(&self, request: http::Request<WasiBody>, first_byte: Option<Duration>) -> Call {
        let (head, body) = request.into_parts();
        let body = Body::boxed(body.map_err(|error| {
            Failure::new(Kind::Reset, format!("the module did not finish its request body: {error}"))
        }));
        let mut context = self.context.clone();
        context.span = context.span.child();
        context.hops += 1;
        if let Some(first_byte) = first_byte.and_then(|wait| Instant::now().checked_add(wait)) {
            context.deadline = Some(context.deadline.map_or(first_byte, |end| end.min(first_byte)));
        }
        Call { head, body, context }
    }
}

impl WasiHttpHooks for Egress {
    fn default_scheme(&mut self) -> Option<http::uri::Scheme> {
        // The mesh encrypts on its own; a guest that wants TLS to an outside host says https.
        Some(http::uri::Scheme::HTTP)
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, HttpError>> + Send> {
        let host = host_of(request.uri().authority().map_or("", |authority| authority.as_str())).to_owned();
        let is_grpc = request
            .headers()
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        let call = self.call(request, options.and_then(|options| options.first_byte_timeout));
        let plan = self.plan.clone();
        Box::new(async move {
            if !is_allowed(&plan, &host).await {
                up(&plan.counters.outbound_denied);
                let line = format!(
                    "outbound call to `{host}` refused: not a name of the mesh and not in allowedHosts"
                );
                plan.seams.logs.line(Stream::Stderr, &line);
                return Err(HttpError::HttpRequestDenied);
            }
            up(&plan.counters.outbound);
            let reply = if call.context.hops > MAX_HOPS {
                Err(Failure::new(Kind::Loop, format!("the call went through more than {MAX_HOPS} hops")))
            } else {
                plan.seams.door.enter(call).await
            };
            let Reply { head, body } = reply.unwrap_or_else(|failure| refusal(&failure, is_grpc));
            let body = body.map_err(|failure| wasi_error(&failure)).boxed_unsync();
            let driver: Box<dyn Future<Output = Result<(), HttpError>> + Send> =
                Box::new(std::future::ready(Ok(())));
            Ok((Response::from_parts(head, body), driver))
        })
    }
}

async fn is_allowed(plan: &Plan, host: &str) -> bool {
    plan.spec.allowed_hosts.iter().any(|allowed| host_matches(allowed, host))
        || plan.seams.names.is_mesh_name(&plan.app, host).await
}

/// The answer that stands for a failure.
fn refusal(failure: &Failure, is_grpc: bool) -> Reply {
    let status = StatusCode::from_u16(failure.kind.http_status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let detail = failure.to_string();
    let mut reply =
        if is_grpc { Reply::new(StatusCode::OK, "") } else { Reply::new(status, format!("{detail}\n")) };
    let headers = &mut reply.head.headers;
    headers.insert(FAILURE_HEADER, HeaderValue::from_static(failure.kind.code()));
    if is_grpc {
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(failure.kind.grpc_status())));
        if let Ok(message) = HeaderValue::from_str(&detail) {
            headers.insert("grpc-message", message);
        }
    } else {
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.extend(failure.retry_after.map(|seconds| (RETRY_AFTER, HeaderValue::from(seconds.get()))));
    }
    reply
}

/// A response body that broke, in the words of `wasi:http/types.error-code`.
pub(crate) fn wasi_error(failure: &Failure) -> HttpError {
    match failure.kind {
        Kind::Timeout | Kind::Idle | Kind::Overtime => HttpError::HttpResponseTimeout,
        Kind::BodyTooLarge => HttpError::HttpResponseBodySize(None),
        Kind::Reset | Kind::Stale | Kind::Draining => HttpError::ConnectionTerminated,
        Kind::BadRequest
        | Kind::HeadTooLarge
        | Kind::ClientTimeout
        | Kind::ClientGone
        | Kind::NoRoute
        | Kind::NotImplemented
        | Kind::Loop
        | Kind::Unauthenticated
        | Kind::BadToken
        | Kind::KeysMissing
        | Kind::AuthorizerDown
        | Kind::FaultInjected
        | Kind::Shed
        | Kind::Denied
        | Kind::RateLimited
        | Kind::QueueFull
        | Kind::BreakerOpen
        | Kind::NoEndpoint
        | Kind::Connect
        | Kind::Tls
        | Kind::Refused
        | Kind::Protocol
        | Kind::Trap
        | Kind::Quota
        | Kind::Internal => HttpError::InternalError(Some(failure.to_string())),
    }
}

/// Whether `host` is `allowed`: the same name, or below `*.name`; `*` allows all.
fn host_matches(allowed: &str, host: &str) -> bool {
    let allowed = host_of(allowed);
    if allowed == "*" {
        return true;
    }
    match allowed.strip_prefix("*.") {
        Some(parent) => host.len().checked_sub(parent.len() + 1).is_some_and(|at| {
            host.as_bytes()[at] == b'.'
                && host.as_bytes()[at + 1..].eq_ignore_ascii_case(parent.as_bytes())
                && at > 0
        }),
        None => allowed.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_by_name_or_parent() {
        let check = |allowed: &str, host: &str, expect: bool| {
            assert_eq!(host_matches(allowed, host), expect, "{allowed} {host}");
        };
        check("api.example.com", "API.example.com", true);
        check("api.example.com:443", "api.example.com", true);
        check("*.example.com", "a.b.example.com", true);
        check("*.example.com", "example.com", false);
        check("*.example.com", ".example.com", false);
        check("*.example.com", "notexample.com", false);
        check("*", "anything", true);
        check("", "anything", false);
    }

    #[test]
    fn a_grpc_caller_gets_a_grpc_answer() {
        let failure = Failure::new(Kind::NoEndpoint, "catalog has no ready instance");
        let reply = refusal(&failure, true);
        assert_eq!(
            (reply.head.status.as_u16(), &reply.head.headers["grpc-status"]),
            (200, &HeaderValue::from(14u16))
        );
        let reply = refusal(&failure.after(Duration::from_secs(7)), false);
        assert_eq!(reply.head.headers[RETRY_AFTER], "7");
        assert_eq!(
            (reply.head.status.as_u16(), &reply.head.headers[FAILURE_HEADER]),
            (503, &HeaderValue::from_static("no_endpoint"))
        );
    }
}
