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
use dodai_core::id::AppId;
use dodai_core::task::Tasks;
use dodai_core::trace::Span;
use dodai_transport::listen;
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
        let listener = bind(address, "--metrics-port", "; or --enable-metrics=false")?;
        opened.push(("metrics", listener.local_addr()?));
        server::serve(listener, metrics(parts, sinks), tasks);
    }
    if let Some(address) = options.public {
        let listener = bind(address, "--dapr-public-port", "")?;
        opened.push(("health and metadata", listener.local_addr()?));
        server::serve(listener, public(options, parts), tasks);
    }
    Ok(opened)
}

fn bind(address: SocketAddr, flag: &'static str, or: &str) -> anyhow::Result<TcpListener> {
    let bound = listen::bind(address, &listen::Options::named(flag));
    let bound = bound.map_err(|error| anyhow::anyhow!("cannot listen on {address}: {error}{or}"))?;
    TcpListener::from_std(bound).with_context(|| format!("cannot listen on {address}"))
}

/// Why a listener could not be opened, in the words of whoever gave the flags: the base names its own.
/// `grpc` is the listener whose port was given for gRPC.
pub fn in_flags(reason: &str, app: &AppId, grpc: &str) -> String {
    let http = format!("api/{app}");
    // One port for both is that of HTTP.
    let grpc_flag = if grpc == http { "--dapr-http-port" } else { "--dapr-grpc-port" };
    let ways = [
        (grpc.to_owned(), grpc_flag, "--dapr-listen-addresses"),
        (http, "--dapr-http-port", "--dapr-listen-addresses"),
        (
            format!("gateway/{}/peers/peers", app.namespace),
            "--dapr-internal-grpc-port",
            "the way in for others",
        ),
    ];
    for (listener, port, address) in ways {
        // The API has a listener for each of its addresses: `api/default/orders`, `api/default/orders/1`.
        let Some(rest) = reason.strip_prefix(&format!("listener {listener}")) else { continue };
        let Some((own, told)) = rest.split_once(": ") else { continue };
        let listener = format!("{listener}{own}");
        return told.replace(&format!("in {listener}"), &format!("with {port}")).replace(&listener, address);
    }
    reason.to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_by_its_flag() {
        let app = AppId::parse("default/y").expect("an app");
        for (reason, expect) in [
            (
                "listener api/default/y: port 3500 is taken by pid 7 (x); stop it or choose another port in api/default/y",
                "port 3500 is taken by pid 7 (x); stop it or choose another port with --dapr-http-port",
            ),
            (
                "listener api/default/y/1: port 3500 is taken by pid 7 (x); stop it or choose another port in api/default/y/1",
                "port 3500 is taken by pid 7 (x); stop it or choose another port with --dapr-http-port",
            ),
            (
                "listener api/default/y: 192.0.2.1 is no address of this machine; see `ip address` for those it has (api/default/y)",
                "192.0.2.1 is no address of this machine; see `ip address` for those it has (--dapr-listen-addresses)",
            ),
            (
                "listener api/default/y/2: port 1 is taken by pid 7 (x); stop it or choose another port in api/default/y/2",
                "port 1 is taken by pid 7 (x); stop it or choose another port with --dapr-grpc-port",
            ),
            (
                "listener gateway/default/peers/peers: port 1 is taken by pid 7 (x); stop it or choose another port in gateway/default/peers/peers",
                "port 1 is taken by pid 7 (x); stop it or choose another port with --dapr-internal-grpc-port",
            ),
            ("anything else", "anything else"),
        ] {
            assert_eq!(in_flags(reason, &app, "api/default/y/2"), expect);
        }
    }
}
