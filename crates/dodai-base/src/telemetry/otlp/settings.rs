//! Where spans go, from the environment variables of the OpenTelemetry specification ("OTLP exporter",
//! "SDK environment variables"). What is set and cannot be done is refused, not passed over.

use std::collections::BTreeMap;
use std::time::Duration;

use dodai_transport::tls::public::{Connector, RootsFrom};
use dodai_transport::tls::{Alpn, Clock};
use http::header::{HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Uri};
use thiserror::Error;

/// The service name of spans that belong to no app, when `OTEL_SERVICE_NAME` is not set.
pub const SERVICE_NAME: &str = "dodai";

/// How spans are exported.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Host and port of the collector.
    pub authority: Authority,
    /// How TLS with the collector begins; `None` for plain HTTP.
    pub tls: Option<Connector>,
    /// The path that spans are posted to.
    pub path: PathAndQuery,
    /// Headers of each request; their values may be secrets and are marked so.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The most time one request may take.
    pub timeout: Duration,
    /// The service name of spans that belong to no app.
    pub service_name: String,
    /// Further attributes of every resource.
    pub resource: Vec<(String, String)>,
    /// Spans that may wait.
    pub queue: usize,
    /// The most spans in one request.
    pub batch: usize,
    /// How long a span may wait for others.
    pub delay: Duration,
    /// The wait before a second try; it doubles from try to try.
    pub first_wait: Duration,
}

/// A variable that cannot be used. The value is not shown: it may hold a secret.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{variable} cannot be used: {reason}")]
pub struct BadSettings {
    /// The variable.
    pub variable: String,
    /// Why, and what to do.
    pub reason: String,
}

fn bad(variable: &str, reason: impl Into<String>) -> BadSettings {
    BadSettings { variable: variable.to_owned(), reason: reason.into() }
}

impl Settings {
    /// What the environment asks for; `None` if it asks for no export of traces.
    pub fn from_environment(environment: &BTreeMap<String, String>) -> Result<Option<Settings>, BadSettings> {
        let get =
            |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || get("OTEL_TRACES_EXPORTER") == Some("none")
        {
            return Ok(None);
        }
        // The variable for traces wins over the one for all signals.
        let either = |last: &str| {
            let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{last}"), format!("OTEL_EXPORTER_OTLP_{last}")];
            names.into_iter().find_map(|name| get(&name).map(|value| (name.clone(), value)))
        };
        let Some((variable, endpoint)) = either("ENDPOINT") else { return Ok(None) };
        let whole = variable.contains("TRACES");
        let (secure, authority, path) = endpoint_of(&variable, endpoint, whole)?;
        let tls = match (secure, either("CERTIFICATE")) {
            (false, _) => None,
            (true, Some((variable, file))) => Some(connector(&variable, &RootsFrom::file(file))?),
            (true, None) => {
                Some(connector(&variable, &RootsFrom::environment(|name| get(name).map(str::to_owned)))?)
            }
        };
        if let Some((variable, value)) = either("PROTOCOL").filter(|(_, value)| *value != "http/protobuf") {
            return Err(bad(
                &variable,
                format!("`{value}` is not offered; use http/protobuf (collector port 4318)"),
            ));
        }
        if let Some((variable, value)) = either("COMPRESSION").filter(|(_, value)| *value != "none") {
            return Err(bad(&variable, format!("`{value}` is not offered; use none")));
        }
        let headers = match either("HEADERS") {
            Some((variable, value)) => headers(&variable, value)?,
            None => Vec::new(),
        };
        let timeout = match either("TIMEOUT") {
            Some((variable, value)) => number(&variable, value)?,
            None => 10_000,
        };
        let count = |name: &str, default| get(name).map_or(Ok(default), |value| number(name, value));
        let queue = count("OTEL_BSP_MAX_QUEUE_SIZE", 2048)?.min(65_536) as usize;
        let batch = count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)? as usize;
        let mut resource = match get("OTEL_RESOURCE_ATTRIBUTES") {
            Some(value) => pairs("OTEL_RESOURCE_ATTRIBUTES", value)?,
            None => Vec::new(),
        };
        let named =
            resource.iter().position(|(name, _)| name == "service.name").map(|at| resource.remove(at).1);
        let service_name = get("OTEL_SERVICE_NAME").map(str::to_owned).or(named);
        Ok(Some(Settings {
            authority,
            tls,
            path,
            headers,
            timeout: Duration::from_millis(timeout),
            service_name: service_name.unwrap_or_else(|| SERVICE_NAME.to_owned()),
            resource,
            queue,
            batch: batch.min(queue),
            delay: Duration::from_millis(count("OTEL_BSP_SCHEDULE_DELAY", 5_000)?),
            first_wait: Duration::from_secs(1),
        }))
    }
}

/// Whether with TLS, host and port, and path. The variable for all signals names a base path; the one for traces the whole path.
fn endpoint_of(
    variable: &str,
    text: &str,
    whole: bool,
) -> Result<(bool, Authority, PathAndQuery), BadSettings> {
    let shape = "it is not a URL of the form http://HOST:PORT or https://HOST:PORT";
    let uri: Uri = text.parse().map_err(|_| bad(variable, shape))?;
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(bad(variable, shape)),
    };
    let authority = uri.authority().ok_or_else(|| bad(variable, shape))?.clone();
    if authority.as_str().contains('@') {
        return Err(bad(variable, "user and password do not belong in it; set OTEL_EXPORTER_OTLP_HEADERS"));
    }
    let path = match whole {
        true => uri.path().to_owned(),
        false => format!("{}/v1/traces", uri.path().trim_end_matches('/')),
    };
    let path = path.parse().map_err(|_| bad(variable, shape))?;
    Ok((secure, authority, path))
}

fn connector(variable: &str, roots: &RootsFrom) -> Result<Connector, BadSettings> {
    let roots = roots.load().map_err(|error| bad(variable, error.to_string()))?;
    Ok(Connector::new(&roots, &[Alpn::Http1], Clock::system()))
}

fn number(variable: &str, value: &str) -> Result<u64, BadSettings> {
    let number = value.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| bad(variable, format!("`{value}` is not a whole number from 1")))
}

/// `name=value,name=value` with percent-encoded values (the W3C baggage form).
fn pairs(variable: &str, text: &str) -> Result<Vec<(String, String)>, BadSettings> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').ok_or_else(|| bad(variable, "an entry has no `=`"))?;
        let value = decode(value.trim()).ok_or_else(|| bad(variable, "a value is not UTF-8"))?;
        Ok((name.trim().to_owned(), value))
    };
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(pair).collect()
}

fn decode(text: &str) -> Option<String> {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                // Two hexadecimal digits fit a byte.
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

fn headers(variable: &str, text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, BadSettings> {
    let header = |(name, value): (String, String)| {
        let shown = format!("`{name}` is not a header name");
        let name = HeaderName::try_from(name).map_err(|_| bad(variable, shown))?;
        let reason = || bad(variable, format!("the value of {name} is not a header value"));
        let mut value = HeaderValue::try_from(value).map_err(|_| reason())?;
        value.set_sensitive(true);
        Ok((name, value))
    };
    pairs(variable, text)?.into_iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, BadSettings> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::from_environment(&variables.collect())
    }

    #[test]
    fn nothing_is_exported_unless_asked_for() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[endpoint, ("OTEL_SDK_DISABLED", "true")]).unwrap().is_none());
        assert!(read(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().is_none());
        assert!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).unwrap().is_none());
        let settings = read(&[endpoint]).unwrap().unwrap();
        assert_eq!((settings.authority.as_str(), settings.path.as_str()), ("127.0.0.1:4318", "/v1/traces"));
        assert_eq!((settings.service_name.as_str(), settings.queue, settings.batch), ("dodai", 2048, 512));
    }

    #[test]
    fn variables_for_traces_win_and_values_are_decoded() {
        let settings = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:1/base/"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:2/in"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20abc, x-scope = a "),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop,deployment.environment.name=dev"),
        ]);
        let settings = settings.unwrap().unwrap();
        assert_eq!((settings.authority.as_str(), settings.path.as_str()), ("traces:2", "/in"));
        assert_eq!(settings.headers[0].1, "Basic abc");
        assert!(!format!("{settings:?}").contains("Basic"), "header values are not shown");
        assert_eq!(settings.headers[1].1, "a");
        assert_eq!((settings.timeout, settings.service_name.as_str()), (Duration::from_millis(250), "shop"));
        assert_eq!(settings.resource, [("deployment.environment.name".into(), "dev".into())]);
        let settings = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:1/base/")]).unwrap().unwrap();
        assert_eq!(settings.path.as_str(), "/base/v1/traces");
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_a_remedy() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        for (variables, expect) in [
            (
                vec![
                    ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4318"),
                    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
                ],
                "OTEL_EXPORTER_OTLP_CERTIFICATE cannot be used: cannot read root certificates from /nowhere/ca.pem",
            ),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4318")], "http://HOST:PORT"),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:p@c:4318")], "OTEL_EXPORTER_OTLP_HEADERS"),
            (vec![endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], "use http/protobuf"),
            (vec![endpoint, ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")], "use none"),
            (vec![endpoint, ("OTEL_EXPORTER_OTLP_TIMEOUT", "0")], "OTEL_EXPORTER_OTLP_TIMEOUT"),
            (vec![endpoint, ("OTEL_EXPORTER_OTLP_HEADERS", "a")], "no `=`"),
            (vec![endpoint, ("OTEL_EXPORTER_OTLP_HEADERS", "a b=c")], "`a b` is not a header name"),
            (vec![endpoint, ("OTEL_BSP_MAX_QUEUE_SIZE", "many")], "OTEL_BSP_MAX_QUEUE_SIZE"),
        ] {
            let error = read(&variables).expect_err(expect).to_string();
            assert!(error.contains(expect), "{error}");
        }
    }
}
