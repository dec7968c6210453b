//! Calls from the base to an app: they enter through the `Door` like any other call.

mod grpc;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context, Door};
use dodai_core::failure::{Failure, Kind};
use dodai_core::id::AppId;
use dodai_core::trace::Span;
use http::header::{CONTENT_TYPE, HOST};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use tokio::time::Instant;

pub(crate) use grpc::Unanswered;

/// The most of an app's answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// Whether the call certainly did not reach the app: that says nothing about what it brings.
pub(crate) fn is_unreachable(failure: &Failure) -> bool {
    let is_away = matches!(failure.kind, Kind::NoEndpoint | Kind::Connect | Kind::Tls | Kind::Draining);
    is_away || matches!(failure.kind, Kind::BreakerOpen | Kind::QueueFull | Kind::Shed | Kind::Refused)
}

/// What is asked of an app.
pub(crate) struct Ask<'a> {
    pub method: Method,
    /// Path and query, with the leading slash.
    pub path: &'a str,
    pub content_type: &'static str,
    /// Beside those that every call has; those win.
    pub headers: HeaderMap,
    pub body: Bytes,
    pub span: Span,
}

/// What the trace that a call belongs to says of itself, as a header; nothing if it says what no header holds.
pub(crate) fn trace_state(said: Option<String>) -> HeaderMap {
    let value = said.and_then(|state| HeaderValue::try_from(state).ok());
    value.map(|value| (HeaderName::from_static("tracestate"), value)).into_iter().collect()
}

/// Calls apps.
#[derive(Clone)]
pub(crate) struct Callbacks {
    pub door: Arc<dyn Door>,
    pub timeout: Duration,
}

impl Callbacks {
    /// Calls `app` and reads its whole answer, within the timeout.
    pub async fn call(&self, app: &AppId, ask: Ask<'_>) -> Result<(StatusCode, Bytes), Failure> {
        self.call_within(self.timeout, app, ask).await
    }

    /// The same, with the head of the answer. One that is too long is an error.
    pub async fn call_whole(&self, app: &AppId, ask: Ask<'_>) -> Result<(Parts, Bytes), Failure> {
        let (head, body) = self.answered(self.timeout, app, ask).await?;
        Ok((head, body?))
    }

    /// The same, with a timeout of its own. A body that is too long says nothing, so that the status alone counts.
    pub async fn call_within(
        &self,
        timeout: Duration,
        app: &AppId,
        ask: Ask<'_>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let (head, body) = self.answered(timeout, app, ask).await?;
        match body {
            Err(failure) if failure.kind == Kind::BodyTooLarge => Ok((head.status, Bytes::new())),
            body => Ok((head.status, body?)),
        }
    }

    async fn answered(
        &self,
        timeout: Duration,
        app: &AppId,
        ask: Ask<'_>,
    ) -> Result<(Parts, Result<Bytes, Failure>), Failure> {
        let deadline = Instant::now() + timeout;
        let call = call_of(app, ask, deadline)?;
        let answered = async {
            let reply = self.door.enter(call).await?;
            Ok((reply.head, reply.body.collect(MAX_ANSWER).await))
        };
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::new(Kind::Timeout, format!("{app} did not answer within {timeout:?}"))),
        }
    }
}

fn call_of(app: &AppId, ask: Ask<'_>, deadline: Instant) -> Result<Call, Failure> {
    let bad = |error: &dyn std::fmt::Display| {
        Failure::new(Kind::BadRequest, format!("`{}` is no path of an app: {error}", ask.path))
    };
    let authority = format!("{}.{}", app.name, app.namespace);
    // A route may be written without the slash that a path begins with.
    let slash = if ask.path.starts_with('/') { "" } else { "/" };
    let path = format!("{slash}{}", ask.path);
    let uri = Uri::builder().scheme("http").authority(authority.as_str()).path_and_query(path).build();
    let uri = uri.map_err(|error| bad(&error))?;
    let request =
        Request::builder().method(ask.method.clone()).uri(uri).body(()).map_err(|error| bad(&error))?;
    let (mut head, ()) = request.into_parts();
    head.headers = ask.headers;
    if let Ok(host) = HeaderValue::try_from(authority) {
        head.headers.insert(HOST, host);
    }
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(ask.content_type));
    let mut context = Context::new(Caller::Base, ask.span);
    context.deadline = Some(deadline.into_std());
    Ok(Call { head, body: Body::full(ask.body), context })
}

/// A text as one or more path segments: what may not stand there is escaped, slashes stay.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=:@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_paths() {
        assert_eq!(escaped("a/b c?d#e%\u{e9}"), "a/b%20c%3Fd%23e%25%C3%A9");
    }
}
