//! Calls to other apps. The authority is the app's name; the base finds it, and applies policy and telemetry.

use crate::Request;
use crate::bindings::wasi::http::outgoing_handler::{self, FutureIncomingResponse};
use crate::bindings::wasi::http::types::{
    ErrorCode, Fields, IncomingResponse, Method, OutgoingRequest, RequestOptions, Scheme,
};
use crate::stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::time::Duration;

/// The longest answer a module takes from another app.
const ANSWER_LIMIT: usize = 4 * 1024 * 1024;

/// Headers that make one request of several hops.
const TRACE_HEADERS: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// A call that has not been made yet.
pub struct Call {
    method: Method,
    app: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
}

/// What the other app answered.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON, or `None` if it is something else.
    pub fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// No answer came.
#[derive(Debug)]
pub struct Unanswered {
    /// The app that was called.
    pub app: String,
    /// What the host says.
    pub reason: String,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} did not answer: {}", self.app, self.reason)
    }
}

impl Call {
    /// A call of `http://app/path`.
    pub fn new(method: &str, app: &str, path: impl Into<String>) -> Call {
        let method = match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            other => Method::Other(other.into()),
        };
        Call {
            method,
            app: app.into(),
            path: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
        }
    }

    /// A GET.
    pub fn get(app: &str, path: impl Into<String>) -> Call {
        Call::new("GET", app, path)
    }

    /// Part of the same trace as `request`.
    pub fn on_behalf_of(mut self, request: &Request) -> Call {
        for name in TRACE_HEADERS {
            if let Some(value) = request.header(name) {
                self = self.with(name, value);
            }
        }
        self
    }

    /// One more header.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Call {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A JSON body.
    pub fn json(self, value: &impl Serialize) -> Call {
        let body = serde_json::to_vec(value).unwrap_or_default();
        self.body("application/json", body)
    }

    /// A body of any media type.
    pub fn body(mut self, media_type: &str, body: Vec<u8>) -> Call {
        self.body = body;
        self.with("content-type", media_type)
    }

    /// Gives up when the answer has not begun by then. Without it the policy of the route decides.
    pub fn within(mut self, timeout: Duration) -> Call {
        self.timeout = Some(timeout);
        self
    }

    /// Makes the call and waits for the answer.
    pub fn send(self) -> Result<Reply, Unanswered> {
        self.start()?.finish()
    }

    fn start(self) -> Result<Started, Unanswered> {
        let app = self.app.clone();
        self.try_start().map_err(|reason| Unanswered { app, reason })
    }

    fn try_start(self) -> Result<Started, String> {
        let headers = Fields::new();
        for (name, value) in &self.headers {
            headers.append(name, value.as_bytes()).map_err(|error| format!("header {name}: {error:?}"))?;
        }
        let length = self.body.len();
        if length > 0 {
            let _ = headers.set("content-length", &[length.to_string().into_bytes()]);
        }
        let request = OutgoingRequest::new(headers);
        let parts = request
            .set_method(&self.method)
            .and_then(|()| request.set_scheme(Some(&Scheme::Http)))
            .and_then(|()| request.set_authority(Some(&self.app)))
            .and_then(|()| request.set_path_with_query(Some(&self.path)));
        parts.map_err(|()| format!("http://{}{} is not a URL", self.app, self.path))?;
        let options = self.timeout.map(|timeout| {
            let options = RequestOptions::new();
            let nanoseconds = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            let _ = options.set_connect_timeout(Some(nanoseconds));
            let _ = options.set_first_byte_timeout(Some(nanoseconds));
            options
        });
        let body = request.body().map_err(|()| "the body was taken".to_owned())?;
        let future = outgoing_handler::handle(request, options).map_err(|error| reason(&error))?;
        stream::write(body, &self.body);
        Ok(Started { app: self.app, future })
    }
}

/// Makes all calls at once and waits for all answers, in the order of the calls.
pub fn all(calls: Vec<Call>) -> Vec<Result<Reply, Unanswered>> {
    let started: Vec<_> = calls.into_iter().map(Call::start).collect();
    started.into_iter().map(|call| call?.finish()).collect()
}

struct Started {
    app: String,
    future: FutureIncomingResponse,
}

impl Started {
    fn finish(self) -> Result<Reply, Unanswered> {
        let Started { app, future } = self;
        await_response(&future).and_then(read_reply).map_err(|reason| Unanswered { app, reason })
    }
}

fn await_response(future: &FutureIncomingResponse) -> Result<IncomingResponse, String> {
    let ready = future.subscribe();
    loop {
        match future.get() {
            Some(Ok(Ok(response))) => return Ok(response),
            Some(Ok(Err(error))) => return Err(reason(&error)),
            Some(Err(())) => return Err("the answer was taken".into()),
            None => ready.block(),
        }
    }
}

fn read_reply(response: IncomingResponse) -> Result<Reply, String> {
    let status = response.status();
    let body = match response.consume() {
        Ok(body) => stream::read(body, ANSWER_LIMIT).map_err(|unread| match unread {
            stream::Unread::TooLong => format!("its answer has more than {ANSWER_LIMIT} bytes"),
            stream::Unread::Broken => "its answer broke off".into(),
        })?,
        Err(()) => Vec::new(),
    };
    Ok(Reply { status, body })
}

/// The commonest reasons in words; the rest as the standard names them.
fn reason(error: &ErrorCode) -> String {
    match error {
        ErrorCode::ConnectionRefused => "connection refused".into(),
        ErrorCode::ConnectionTimeout | ErrorCode::HttpResponseTimeout => "timed out".into(),
        ErrorCode::DestinationNotFound | ErrorCode::DnsError(_) => "no app of that name".into(),
        ErrorCode::HttpRequestDenied => "the policy does not allow the call".into(),
        ErrorCode::InternalError(Some(text)) => text.clone(),
        other => format!("{other:?}"),
    }
}
