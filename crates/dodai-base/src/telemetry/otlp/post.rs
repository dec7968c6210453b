//! One export: an HTTP/1.1 POST on a connection of its own, bounded in time and in what is read back.
//!
//! A connection per export needs no pool and no keep-alive races, and exports are seconds apart.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use dodai_transport::stream::Stream;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Settings;

/// The most bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;

/// The longest wait that a collector may ask for.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What became of an export.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Taken, but for so many spans that the collector rejected.
    Taken { rejected: u64 },
    /// Not taken, and it never will be.
    Refused(String),
    /// Not taken; it may be taken later, not before the collector's wish.
    Later { reason: String, after: Option<Duration> },
}

/// Posts an encoded message.
pub(super) async fn post(settings: &Settings, message: Bytes) -> Outcome {
    match timeout(settings.timeout, exchange(settings, message)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(reason)) => Outcome::Later { reason, after: None },
        Err(_) => Outcome::Later { reason: format!("no answer within {:?}", settings.timeout), after: None },
    }
}

async fn exchange(settings: &Settings, message: Bytes) -> Result<Outcome, String> {
    let failed = |what: &str, error: &dyn fmt::Display| format!("{what} {}: {error}", settings.authority);
    let host = settings.authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = settings.authority.port_u16().unwrap_or(if settings.tls.is_some() { 443 } else { 80 });
    let stream =
        TcpStream::connect((host, port)).await.map_err(|error| failed("cannot connect to", &error))?;
    let stream = match &settings.tls {
        None => Stream::from(stream),
        Some(tls) => {
            let opened = tls.connect(stream.into(), host).await;
            opened.map_err(|failure| failed("no TLS with", &failure.detail))?
        }
    };
    let handshake = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed("cannot talk to", &error))?;
    let mut request = Request::new(Full::new(message));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from(settings.path.clone());
    let headers = request.headers_mut();
    headers.extend(settings.headers.iter().cloned());
    let host = settings.authority.as_str().parse().map_err(|error| failed("no host header for", &error))?;
    headers.insert(HOST, host);
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("application/x-protobuf"));
    let agent = concat!("dodai/", env!("CARGO_PKG_VERSION"));
    headers.entry(USER_AGENT).or_insert(http::HeaderValue::from_static(agent));
    let answer = async move {
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body =
            Limited::new(body, MAX_ANSWER).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Ok::<_, hyper::Error>((head, body))
    };
    // Driven here and dropped with the export, so that no task is needed.
    tokio::pin!(connection);
    tokio::pin!(answer);
    let (head, body) = tokio::select! {
        // Neither is polled again after the other has decided.
        biased;
        answered = &mut answer => answered,
        closed = &mut connection => match closed {
            // The connection has handed over all it read; the answer may be complete.
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    }
    .map_err(|error| failed("cannot export to", &error))?;
    Ok(judge(head.status, retry_after(&head.headers), &body))
}

/// What the specification says of a status: some are worth a retry, all others are not.
fn judge(status: StatusCode, after: Option<Duration>, body: &[u8]) -> Outcome {
    match status.as_u16() {
        200..=299 => {
            let answer = ExportTraceServiceResponse::decode(body).unwrap_or_default();
            let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
            Outcome::Taken { rejected: u64::try_from(rejected).unwrap_or(0) }
        }
        429 | 502..=504 => Outcome::Later { reason: format!("the collector answered {status}"), after },
        _ => Outcome::Refused(format!("the collector answered {status}")),
    }
}

fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_WAIT))
}
