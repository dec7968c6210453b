//! The small ports beside the API: metrics, and health and metadata for whoever may not use the API.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::Request;
use axum::http::header::{ACCEPT, CONTENT_TYPE, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dodai_admin::server;
use dodai_base::node::Parts;
use dodai_base::telemetry::collect::{Collector, ReadSink};
use dodai_base::telemetry::metrics::{Format, Source, render};
use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context, Serve};
use dodai_core::task::Tasks;
use dodai_core::trace::Span;
use tokio::net::TcpListener;

use super::options::Options;

/// The most bytes of an answer on the public port.
const MAX_ANSWER: usize = 4 << 20;

/// Opens the ports that are wanted. Their names and addresses.
///
/// # Errors
/// A port is taken.
pub async fn open(
    options: &Options,
    parts: &Arc<Parts>,
    sinks: Vec<ReadSink>,
    tasks: &Tasks,
) -> anyhow::Result<Vec<(&'static str, SocketAddr)>> {
    let mut opened = Vec::new();
    if let Some(address) = options.metrics {
        let listener = bind(address, "metrics-port", "; or --enable-metrics=false").await?;
        opened.push(("metrics", listener.local_addr()?));
        server::serve(listener, metrics(parts, sinks), tasks);
    }
    if let Some(address) = options.public {
        let listener = bind(address, "dapr-public-port", "").await?;
        opened.push(("health and metadata", listener.local_addr()?));
        server::serve(listener, public(options, parts), tasks);
    }
    Ok(opened)
}

async fn bind(address: SocketAddr, flag: &str, or: &str) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("cannot listen on {address}; choose another port with --{flag}{or}"))
}

/// Prometheus metrics at every path, as daprd has them.
fn metrics(parts: &Arc<Parts>, sinks: Vec<ReadSink>) -> Router {
    let collector = Arc::new(Collector::new(parts.clone(), env!("CARGO_PKG_VERSION"), sinks));
    let read = move |headers: HeaderMap| {
        let format = Format::negotiate(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
        let text = render(&collector.read(), format);
        async move { ([(CONTENT_TYPE, format.content_type())], text) }
    };
    Router::new().fallback(get(read))
}

/// Health and metadata, without a token: they are what the port is for.
fn public(options: &Options, parts: &Arc<Parts>) -> Router {
    let api = parts.runtime.api(&options.app);
    let token = options.api_token.as_ref().and_then(|token| HeaderValue::from_str(token).ok());
    let ask = move |request: Request| answer(api.clone(), token.clone(), request);
    Router::new()
        .route("/v1.0/healthz", get(ask.clone()))
        .route("/v1.0/healthz/outbound", get(ask.clone()))
        .route("/v1.0/metadata", get(ask))
}

async fn answer(api: Arc<dyn Serve>, token: Option<HeaderValue>, request: Request) -> Response {
    let (mut head, _body) = request.into_parts();
    // The port is not for pages of a browser.
    head.headers.remove(ORIGIN);
    if let Some(token) = token {
        head.headers.insert(HeaderName::from_static("dapr-api-token"), token);
    }
    let context = Context::new(Caller::Outside, Span::root(false));
    let reply = match api.serve(Call { head, body: Body::empty(), context }).await {
        Ok(reply) => reply,
        Err(failure) => return (StatusCode::BAD_GATEWAY, failure.to_string()).into_response(),
    };
    match reply.body.collect(MAX_ANSWER).await {
        Ok(body) => (reply.head.status, reply.head.headers, body).into_response(),
        Err(failure) => (StatusCode::BAD_GATEWAY, failure.to_string()).into_response(),
    }
}
