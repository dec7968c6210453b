//! What one sidecar is to be: flags and environment, checked.
//!
//! A flag wins over the environment, which wins over daprd's default.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use dodai_core::id::{AppId, Name};
use dodai_runtime::Origins;
use serde::{Deserialize, Serialize};

use super::flags::Given;
use super::resources;
use crate::environment::Environment;

/// The port of daprd's HTTP API.
const HTTP_PORT: u16 = 3500;
const GRPC_PORT: u16 = 50_001;
/// The port of daprd's metrics.
const METRICS_PORT: u16 = 9090;
/// What `-1` means for a limit of bytes: more than a machine holds.
const UNLIMITED: usize = usize::MAX >> 1;

/// One sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The app it stands beside.
    pub app: AppId,
    /// Where the app listens; `None` for an app that only calls.
    pub channel: Option<Channel>,
    /// The port of the API; 0 for a free one.
    pub http_port: u16,
    /// The port that is named for gRPC; 0 for a free one. Both ports serve both.
    pub grpc_port: u16,
    /// Where the API listens, and whether that is the default.
    pub listen: Listen,
    /// Where health and metadata alone are served.
    pub public: Option<SocketAddr>,
    /// Whose pages may call the API from a browser.
    pub origins: Option<Origins>,
    /// Whether the app is asked for its subscriptions.
    pub asks_subscriptions: bool,
    /// The port other sidecars use; `None` for a free one.
    pub peer_port: Option<u16>,
    /// Folders of documents.
    pub resources: Vec<PathBuf>,
    /// Files of Configuration documents.
    pub configurations: Vec<PathBuf>,
    /// Write a line per call.
    pub log_calls: bool,
    /// The longest body of an API request in bytes.
    pub max_body: usize,
    /// The longest head in bytes.
    pub max_head: Option<usize>,
    /// How long calls may take to finish at the end.
    pub drain: Duration,
    /// How long the API stays after a stop was asked for.
    pub block_shutdown: Duration,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// What the app must send to the API.
    pub api_token: Option<String>,
    /// What is sent to the app.
    pub app_token: Option<String>,
}

/// Addresses of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// Nobody asked for these: one that the machine does not have is left out.
    pub is_default: bool,
}

/// The way to the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// An address or a host name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Calls at once.
    pub max_concurrency: Option<u32>,
    /// How its health is asked for; `None` if it is not.
    pub health: Option<HealthCheck>,
}

/// What an app speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/2 without TLS.
    H2c,
    /// gRPC without TLS; it is called back by gRPC too.
    Grpc,
}

impl Protocol {
    /// What services of an App call it.
    pub fn of_service(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::H2c => "http2",
            Protocol::Grpc => "grpc",
        }
    }

    /// The flag's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::H2c => "h2c",
            Protocol::Grpc => "grpc",
        }
    }
}

/// How an app's health is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The path; of no meaning to an app that speaks gRPC.
    pub path: String,
    /// The time between two checks.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// Failures in a row that mean unhealthy.
    pub threshold: u32,
}

/// How log lines are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogStyle {
    /// A filter of the logging library.
    pub filter: String,
    /// One JSON object per line.
    pub json: bool,
}

impl LogStyle {
    /// From the flags.
    ///
    /// # Errors
    /// No such level.
    pub fn read(given: &Given) -> anyhow::Result<LogStyle> {
        let level = given.last("log-level").unwrap_or("info").to_ascii_lowercase();
        let level = match level.as_str() {
            "debug" | "info" | "error" => level.as_str(),
            "warn" | "warning" => "warn",
            "fatal" | "panic" => "error",
            other => bail!("--log-level {other}: write debug, info, warn, error or fatal"),
        };
        // Nothing is supervised here, so what the host cannot enforce on processes is nobody's business.
        let filter = format!("{level},h2=warn,hyper=warn,dodai_base::process=error");
        Ok(LogStyle { filter, json: given.truth("log-as-json").unwrap_or(false) })
    }
}

impl Options {
    /// Checks flags and environment.
    ///
    /// # Errors
    /// The first value that cannot be used, with the flag.
    pub fn read(given: &Given, environment: &Environment) -> anyhow::Result<Options> {
        let fallback = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let id = given.last("app-id").or(fallback("APP_ID"));
        let id = id.context("the app has no name; write --app-id NAME")?;
        let name = resources::app_name("--app-id", id)?;
        let namespace = fallback("NAMESPACE").unwrap_or("default");
        let namespace = Name::new(namespace).with_context(|| format!("NAMESPACE {namespace}"))?;
        let mode = given.last("mode").unwrap_or("standalone");
        ensure!(mode == "standalone", "--mode {mode}: only `standalone` runs here");
        let api_port = |flag: &str, variable: &str, default: u16| {
            given.last(flag).or(fallback(variable)).map_or(Ok(default), |text| port(flag, text))
        };
        let http_port = api_port("dapr-http-port", "DAPR_HTTP_PORT", HTTP_PORT)?;
        let grpc_port = api_port("dapr-grpc-port", "DAPR_GRPC_PORT", GRPC_PORT)?;
        let secret = |name: &str| fallback(name).map(str::to_owned);
        let paths = |name: &str| {
            let listed = given.all(name).flat_map(|list| list.split(','));
            listed.map(str::trim).filter(|one| !one.is_empty()).map(PathBuf::from).collect::<Vec<_>>()
        };
        let mut resources = paths("resources-path");
        if resources.is_empty() {
            resources = paths("components-path");
        }
        Ok(Options {
            app: AppId::new(namespace, name),
            channel: channel(given, fallback("APP_PORT"))?,
            http_port,
            grpc_port,
            listen: listen(given)?,
            public: public(given)?,
            origins: given.last("allowed-origins").and_then(Origins::parse),
            asks_subscriptions: asks_subscriptions(given)?,
            peer_port: optional(given, "dapr-internal-grpc-port", port)?.filter(|port| *port != 0),
            resources,
            configurations: paths("config"),
            log_calls: given.truth("enable-api-logging").unwrap_or(false),
            max_body: max_body(given)?,
            max_head: max_head(given)?,
            drain: Duration::from_secs(number(given, "dapr-graceful-shutdown-seconds", 5)?),
            block_shutdown: optional(given, "dapr-block-shutdown-duration", span)?.unwrap_or_default(),
            metrics: metrics(given)?,
            api_token: secret("DAPR_API_TOKEN"),
            app_token: secret("APP_API_TOKEN"),
        })
    }
}

fn public(given: &Given) -> anyhow::Result<Option<SocketAddr>> {
    let address = given.last("dapr-public-listen-address").unwrap_or("0.0.0.0");
    let address = ip("dapr-public-listen-address", address)?;
    Ok(optional(given, "dapr-public-port", port)?.map(|port| SocketAddr::new(address, port)))
}

/// `config` and `subscribe` are what daprd knows; the app's configuration of actors is never asked for here.
fn asks_subscriptions(given: &Given) -> anyhow::Result<bool> {
    let mut asks = true;
    for endpoint in given.last("disable-init-endpoints").into_iter().flat_map(|list| list.split(',')) {
        match endpoint.trim() {
            "subscribe" => asks = false,
            "config" | "" => {}
            other => bail!("--disable-init-endpoints {other}: write subscribe, config or both"),
        }
    }
    Ok(asks)
}

fn optional<T>(
    given: &Given,
    flag: &str,
    read: fn(&str, &str) -> anyhow::Result<T>,
) -> anyhow::Result<Option<T>> {
    given.last(flag).map(|text| read(flag, text)).transpose()
}

fn port(flag: &str, text: &str) -> anyhow::Result<u16> {
    text.parse().with_context(|| format!("--{flag} {text}: a port is a number from 0 to 65535"))
}

fn span(flag: &str, text: &str) -> anyhow::Result<Duration> {
    let span: dodai_api::TimeSpan = text.parse().with_context(|| format!("--{flag} {text}"))?;
    Ok(span.get())
}

fn number(given: &Given, flag: &str, default: u64) -> anyhow::Result<u64> {
    let Some(text) = given.last(flag) else { return Ok(default) };
    text.parse().with_context(|| format!("--{flag} {text}: write a whole number"))
}

fn quantity(flag: &str, text: &str) -> anyhow::Result<usize> {
    if text == "-1" {
        return Ok(UNLIMITED);
    }
    let size: dodai_api::ByteSize = text.parse().with_context(|| format!("--{flag} {text}"))?;
    Ok(usize::try_from(size.bytes()).unwrap_or(UNLIMITED))
}

/// A limit that daprd takes as a quantity, and by its older flag as a number of a unit.
fn limit(given: &Given, newer: &str, older: &str, unit: usize) -> anyhow::Result<Option<usize>> {
    if let Some(size) = optional(given, newer, quantity)? {
        return Ok(Some(size));
    }
    let Some(text) = given.last(older) else { return Ok(None) };
    let number: i64 = text.parse().with_context(|| format!("--{older} {text}: write a whole number"))?;
    let size = usize::try_from(number).map_or(UNLIMITED, |number| number.saturating_mul(unit));
    ensure!(size > 0, "--{older} {text}: nothing would fit; write a positive number, or -1 for no limit");
    Ok(Some(size))
}

fn max_body(given: &Given) -> anyhow::Result<usize> {
    Ok(limit(given, "max-body-size", "dapr-http-max-request-size", 1 << 20)?.unwrap_or(4 << 20))
}

/// The longest head; never shorter than the data plane's own limit, which fits every client.
fn max_head(given: &Given) -> anyhow::Result<Option<usize>> {
    const MOST: usize = 1 << 20;
    let size = limit(given, "read-buffer-size", "dapr-http-read-buffer-size", 1 << 10)?;
    Ok(size.map(|size| size.min(MOST)))
}

fn metrics(given: &Given) -> anyhow::Result<Option<SocketAddr>> {
    let address = given.last("metrics-listen-address").unwrap_or("127.0.0.1");
    let address = ip("metrics-listen-address", address)?;
    let port = optional(given, "metrics-port", port)?.unwrap_or(METRICS_PORT);
    Ok(given.truth("enable-metrics").unwrap_or(true).then_some(SocketAddr::new(address, port)))
}

fn ip(flag: &str, text: &str) -> anyhow::Result<IpAddr> {
    let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
    bare.parse().with_context(|| format!("--{flag} {text}: write an IP address such as 127.0.0.1 or [::1]"))
}

fn listen(given: &Given) -> anyhow::Result<Listen> {
    let Some(text) = given.last("dapr-listen-addresses") else {
        let addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        return Ok(Listen { addresses, is_default: true });
    };
    let list = text.split(',').filter(|one| !one.trim().is_empty());
    let mut addresses = Vec::new();
    for one in list {
        let address = ip("dapr-listen-addresses", one)?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    ensure!(!addresses.is_empty(), "--dapr-listen-addresses {text}: there is no address in it");
    Ok(Listen { addresses, is_default: false })
}

fn channel(given: &Given, from_environment: Option<&str>) -> anyhow::Result<Option<Channel>> {
    let protocol = given.last("app-protocol").unwrap_or("http").to_ascii_lowercase();
    let protocol = match protocol.as_str() {
        "http" => Protocol::Http,
        "h2c" => Protocol::H2c,
        "grpc" => Protocol::Grpc,
        "https" | "grpcs" => bail!(
            "--app-protocol {protocol}: apps are called without TLS here; let the app listen in plain on loopback"
        ),
        other => bail!("--app-protocol {other}: write http, h2c or grpc"),
    };
    let concurrency: i64 = match given.last("app-max-concurrency") {
        None => -1,
        Some(text) => {
            text.parse().with_context(|| format!("--app-max-concurrency {text}: write a number"))?
        }
    };
    let max_concurrency = u32::try_from(concurrency).ok().filter(|most| *most > 0);
    ensure!(
        max_concurrency.is_none() || protocol == Protocol::Http,
        "--app-max-concurrency is kept by connections, which h2c and gRPC share; leave it out or write --app-protocol http"
    );
    let health = health(given)?;
    let Some(text) = given.last("app-port").or(from_environment) else {
        ensure!(health.is_none(), "--enable-app-health-check: there is no app to ask; write --app-port PORT");
        return Ok(None);
    };
    let port = port("app-port", text)?;
    if port == 0 {
        return Ok(None);
    }
    let host = given.last("app-channel-address").unwrap_or("127.0.0.1");
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Some(Channel { host, port, protocol, max_concurrency, health }))
}

fn health(given: &Given) -> anyhow::Result<Option<HealthCheck>> {
    if !given.truth("enable-app-health-check").unwrap_or(false) {
        return Ok(None);
    }
    let path = given.last("app-health-check-path").unwrap_or("/healthz");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let interval = Duration::from_secs(number(given, "app-health-probe-interval", 5)?);
    let timeout = Duration::from_millis(number(given, "app-health-probe-timeout", 500)?);
    let threshold = number(given, "app-health-threshold", 3)?;
    ensure!(!interval.is_zero(), "--app-health-probe-interval: write at least 1 second");
    ensure!(!timeout.is_zero(), "--app-health-probe-timeout: write at least 1 millisecond");
    ensure!(timeout <= interval, "--app-health-probe-timeout: a check may not take longer than the interval");
    let threshold = u32::try_from(threshold.max(1)).unwrap_or(u32::MAX);
    Ok(Some(HealthCheck { path, interval, timeout, threshold }))
}

#[cfg(test)]
mod tests {
    use super::super::flags::{self, Asked};
    use super::*;

    fn read(line: &str, environment: &[(&str, &str)]) -> anyhow::Result<Options> {
        let given = match flags::parse(line.split_whitespace().map(str::to_owned)) {
            Ok(Asked::Run(given)) => given,
            other => panic!("{line}: {other:?}"),
        };
        let pairs = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Options::read(&given, &Environment(pairs.collect()))
    }

    #[test]
    fn defaults_are_those_of_daprd() {
        let options = read("--app-id orders", &[]).expect("valid");
        assert_eq!(options.app.to_string(), "default/orders");
        assert_eq!((options.http_port, options.grpc_port, options.channel), (3500, 50_001, None));
        assert_eq!(options.metrics, Some(([127, 0, 0, 1], 9090).into()));
        assert_eq!((options.max_body, options.drain.as_secs()), (4 << 20, 5));
        assert!(options.listen.is_default && options.listen.addresses.iter().all(IpAddr::is_loopback));
        assert_eq!((options.api_token, options.app_token), (None, None));
    }

    #[test]
    fn a_flag_wins_over_the_environment() {
        let environment = [
            ("APP_ID", "env"),
            ("APP_PORT", "81"),
            ("DAPR_HTTP_PORT", "3600"),
            ("DAPR_GRPC_PORT", "3601"),
            ("NAMESPACE", "prod"),
            ("DAPR_API_TOKEN", "in"),
            ("APP_API_TOKEN", ""),
        ];
        let options = read("--app-port 80", &environment).expect("valid");
        assert_eq!(options.app.to_string(), "prod/env");
        assert_eq!(options.channel.map(|channel| channel.port), Some(80));
        assert_eq!((options.http_port, options.grpc_port), (3600, 3601));
        assert_eq!(options.api_token.as_deref(), Some("in"));
        assert_eq!(options.app_token, None);
    }

    #[test]
    fn the_app_is_described_whole() {
        let line = "--app-id a -app-port 80 --app-channel-address [::1] --app-max-concurrency 2 \
                    --enable-app-health-check --app-health-check-path up --app-health-threshold 1";
        let channel = read(line, &[]).expect("valid").channel.expect("an app");
        assert_eq!((channel.host.as_str(), channel.max_concurrency), ("::1", Some(2)));
        let health = channel.health.expect("checks");
        assert_eq!((health.path.as_str(), health.interval.as_secs(), health.threshold), ("/up", 5, 1));
    }

    #[test]
    fn sizes_and_times_are_read() {
        let options = read("--app-id a --max-body-size 16Mi --dapr-block-shutdown-duration 1m30s", &[]);
        let options = options.expect("valid");
        assert_eq!((options.max_body, options.block_shutdown.as_secs()), (16 << 20, 90));
        let older = read("--app-id a --dapr-http-max-request-size 8 --read-buffer-size 64Ki", &[]);
        assert_eq!(
            older.map(|options| (options.max_body, options.max_head)).ok(),
            Some((8 << 20, Some(64 << 10)))
        );
        let unlimited = read("--app-id a --dapr-http-max-request-size -1", &[]).expect("valid");
        assert!(unlimited.max_body > 1 << 40);
        let addresses = read("--app-id a --dapr-listen-addresses 0.0.0.0,[::1],0.0.0.0", &[]).expect("valid");
        assert_eq!(addresses.listen.addresses.len(), 2);
        let public = read("--app-id a --dapr-public-port 81 --dapr-public-listen-address 127.0.0.1", &[]);
        assert_eq!(public.expect("valid").public, Some(([127, 0, 0, 1], 81).into()));
        let lists =
            read("--app-id a --resources-path a,b --resources-path c --config x,y", &[]).expect("valid");
        assert_eq!(lists.resources, ["a", "b", "c"].map(PathBuf::from));
        assert_eq!(lists.configurations, ["x", "y"].map(PathBuf::from));
        let quiet = read("--app-id a --disable-init-endpoints config,subscribe", &[]).expect("valid");
        assert!(!quiet.asks_subscriptions && quiet.origins.is_none());
    }

    #[test]
    fn what_cannot_be_used_names_the_flag() {
        for (line, expect) in [
            ("", "--app-id NAME"),
            (
                "--app-id My_App",
                "--app-id My_App: an app's name stands in host names here; write --app-id my-app",
            ),
            ("--app-id a --dapr-public-listen-address here", "--dapr-public-listen-address here"),
            ("--app-id a --disable-init-endpoints all", "--disable-init-endpoints all"),
            ("--app-id a --mode kubernetes", "--mode kubernetes"),
            ("--app-id a --app-port http", "--app-port http"),
            ("--app-id a --app-port 1 --app-protocol grpcs", "without TLS"),
            ("--app-id a --app-port 1 --app-protocol https", "without TLS"),
            ("--app-id a --log-level loud --dapr-http-port x", "--dapr-http-port x"),
            ("--app-id a --dapr-listen-addresses localhost", "--dapr-listen-addresses localhost"),
            ("--app-id a --enable-app-health-check", "--app-port PORT"),
            ("--app-id a --dapr-http-max-request-size 0", "nothing would fit"),
            ("--app-id a --max-body-size big", "--max-body-size big"),
        ] {
            let error = read(line, &[]).expect_err(line);
            assert!(format!("{error:#}").contains(expect), "{line}: {error:#}");
        }
    }
}
