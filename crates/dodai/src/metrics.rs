//! `--metrics`: Prometheus metrics on a port of their own, for scrapers that hold no token.
//!
//! The management API serves the same page, but its token is new at every start, which no scrape job follows.
//! What is told here (names of apps and counts of calls) is open to whoever reaches the address.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use anyhow::Context;
use axum::Router;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Args;
use dodai_admin::api::Metrics;
use dodai_admin::{gate, server};
use dodai_core::task::Tasks;
use tokio::net::TcpListener;

use crate::output::Output;

/// The port of a base, if it is free.
pub const BASE_PORT: u16 = 7071;
/// The port of a server, if it is free.
pub const SERVER_PORT: u16 = 7072;

/// Where metrics are served.
#[derive(Args, Clone, Debug, Default)]
#[group(skip)]
pub struct Flags {
    /// Where Prometheus metrics are served without a token, or `off`; default: port 7071 of loopback for `base`,
    /// 7072 for `server`, off for `up`.
    #[arg(long, value_name = "ADDRESS", help_heading = "Telemetry")]
    pub metrics: Option<Place>,
}

/// An address, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere.
    Off,
    /// There.
    At(SocketAddr),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        if text == "off" {
            return Ok(Place::Off);
        }
        let address = text.parse();
        address.map(Place::At).map_err(|_| "write IP:PORT, such as 127.0.0.1:7071, or off".to_owned())
    }
}

impl Flags {
    /// Opens the port that was asked for, or the usual one of loopback if this role has one and it is free.
    ///
    /// # Errors
    /// The port that was asked for cannot be had.
    pub async fn listener(&self, usual: Option<u16>, output: &Output) -> anyhow::Result<Option<TcpListener>> {
        match (self.metrics, usual) {
            (Some(Place::Off), _) | (None, None) => Ok(None),
            (Some(Place::At(address)), _) => {
                let bound = TcpListener::bind(address).await;
                let bound = bound.with_context(|| {
                    format!("metrics cannot be served on {address}; choose another address with --metrics")
                })?;
                Ok(Some(bound))
            }
            (None, Some(port)) => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                match TcpListener::bind(address).await {
                    Ok(bound) => Ok(Some(bound)),
                    Err(error) => {
                        output.warn(&format!(
                            "no metrics are served, because {address} cannot be had ({error}); choose another address with --metrics"
                        ));
                        Ok(None)
                    }
                }
            }
        }
    }
}

/// Serves the page at `/metrics` until `tasks` close.
///
/// # Errors
/// The listener has no address.
pub fn serve(
    listener: TcpListener,
    metrics: Metrics,
    output: &Output,
    tasks: &Tasks,
) -> anyhow::Result<SocketAddr> {
    let address = listener.local_addr().context("the metrics have no address")?;
    let is_local = address.ip().is_loopback();
    if !is_local {
        output.warn(&format!("metrics are open to everybody who reaches {address}"));
    }
    output.say(&format!("metrics: http://{address}/metrics"));
    let page = get(async move |headers: HeaderMap| page(&metrics, is_local, &headers));
    server::serve(listener, Router::new().route("/metrics", page), tasks);
    Ok(address)
}

fn page(metrics: &Metrics, is_local: bool, headers: &HeaderMap) -> Response {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    // On loopback a web page could ask under a name that it has bound to 127.0.0.1.
    let host = text(HOST).map(dodai_core::head::host_of).unwrap_or_default();
    if is_local && !gate::is_address(host) && !host.eq_ignore_ascii_case("localhost") {
        return (StatusCode::MISDIRECTED_REQUEST, "use 127.0.0.1 or localhost\n").into_response();
    }
    let (kind, page) = metrics(text(ACCEPT));
    ([(CONTENT_TYPE, kind)], page).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_place_is_an_address_or_off() {
        assert_eq!("off".parse(), Ok(Place::Off));
        assert_eq!("[::1]:0".parse(), Ok(Place::At("[::1]:0".parse().unwrap())));
        assert!("7071".parse::<Place>().unwrap_err().contains("127.0.0.1:7071"));
    }

    #[test]
    fn a_page_that_rebinds_its_name_reads_nothing_on_loopback() {
        let metrics: Metrics = Arc::new(|_| ("text/plain", "up 1\n".to_owned()));
        let ask = |host: &str, is_local: bool| {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            page(&metrics, is_local, &headers).status()
        };
        for host in ["127.0.0.1:7071", "localhost", "[::1]:7071"] {
            assert_eq!(ask(host, true), StatusCode::OK, "{host}");
        }
        assert_eq!(ask("evil.example:7071", true), StatusCode::MISDIRECTED_REQUEST);
        assert_eq!(ask("base-1.internal:7071", false), StatusCode::OK, "a name of this host in a network");
    }
}
