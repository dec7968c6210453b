//! `bindings.http`: requests to one URL. Each has a connection of its own: what is outside may close an idle one at any
//! time, and a request that was sent is not sent again.

use std::time::Duration;

use bytes::Bytes;
use dodai_capability::Answer;
use dodai_capability::binding::{Error, Output, Request, Response};
use dodai_capability::component::{Context, Error as Refusal, Reader};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::metadata::{Metadata, is_true, lookup};
use dodai_core::task::{self, Tasks};
use dodai_transport::tls::public::{Connector, RootsFrom};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use hyper_util::rt::TokioIo;

use crate::server::{Place, Security};

/// How long a connection may take.
const DIAL: Duration = Duration::from_secs(15);
/// How long an answer may take where nothing is said.
const ANSWER: Duration = Duration::from_secs(60);
/// The longest answer that is read where nothing is said.
const LONGEST: u64 = 100 << 20;
const JSON: &str = "application/json; charset=utf-8";
pub(super) const OPERATIONS: [&str; 9] =
    ["create", "get", "head", "post", "put", "patch", "delete", "options", "trace"];
/// What travels with a call's trace, though its name is in small letters.
const TRACE: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// One URL.
pub struct Http {
    url: String,
    connector: Option<Connector>,
    timeout: Duration,
    longest: usize,
    strict: bool,
    token: Option<(HeaderName, HeaderValue)>,
    tasks: Tasks,
}

impl Http {
    /// Reads `url`, `MTLSRootCA`, `MTLSClientCert`, `MTLSClientKey`, `securityToken`, `securityTokenHeader`,
    /// `responseTimeout`, `maxResponseBodySize` and `errorIfNot2XX`.
    ///
    /// # Errors
    /// The URL is missing or is none, or a value cannot be read.
    pub async fn read(read: &mut Reader<'_>, roots: &RootsFrom, context: &Context) -> Result<Http, Refusal> {
        let url = read.required(&["url"])?.to_owned();
        let usual = "a URL that begins with http:// or https://";
        let parsed = place(&url).ok_or_else(|| read.refuse("url", usual))?;
        let pem = |read: &mut Reader<'_>, name: &'static str| -> Result<Option<String>, Refusal> {
            let Some(text) = read.text(&[name]) else { return Ok(None) };
            if text.contains("-----BEGIN") {
                return Ok(Some(text.to_owned()));
            }
            let readable = "a PEM text or the name of a file that can be read";
            std::fs::read_to_string(text).map(Some).map_err(|_| read.refuse(name, readable))
        };
        let roots_given = pem(read, "MTLSRootCA")?;
        let certificate = match (pem(read, "MTLSClientCert")?, pem(read, "MTLSClientKey")?) {
            (Some(chain), Some(key)) => Some((chain, key)),
            (None, None) => None,
            (Some(_), None) => return Err(read.missing("MTLSClientKey")),
            (None, Some(_)) => return Err(read.missing("MTLSClientCert")),
        };
        read.text(&["MTLSRenegotiation"]);
        let connector = if parsed.1 {
            let (security, roots) = (Security { roots: roots_given, certificate }, roots.clone());
            let made = tokio::task::spawn_blocking(move || security.connector(&roots)).await;
            let made = made.map_err(|error| error.to_string()).and_then(|made| made);
            Some(made.map_err(|why| read.fault(Fault::new(Kind::Invalid, why)))?)
        } else {
            None
        };
        let token = match (read.text(&["securityTokenHeader"]), read.text(&["securityToken"])) {
            (Some(name), Some(value)) => {
                let wanted = "the name of a header, and a token of printable letters";
                let name =
                    HeaderName::try_from(name).map_err(|_| read.refuse("securityTokenHeader", wanted))?;
                let value =
                    HeaderValue::try_from(value).map_err(|_| read.refuse("securityTokenHeader", wanted))?;
                Some((name, value))
            }
            (None, _) | (_, None) => None,
        };
        let longest = read.bytes(&["maxResponseBodySize"], LONGEST)?;
        Ok(Http {
            url,
            connector,
            timeout: Some(read.duration(&["responseTimeout"], ANSWER)?)
                .filter(|d| !d.is_zero())
                .unwrap_or(ANSWER),
            longest: usize::try_from(if longest == 0 { LONGEST } else { longest }).unwrap_or(usize::MAX),
            strict: read.truth(&["errorIfNot2XX"], true)?,
            token,
            tasks: context.tasks.clone(),
        })
    }

    fn request(&self, asked: &Request) -> Result<(Place, hyper::Request<Full<Bytes>>), Error> {
        let invalid = |what: String| Error::from(Fault::new(Kind::Invalid, what));
        let operation = asked.operation.to_lowercase();
        if !OPERATIONS.contains(&operation.as_str()) {
            return Err(Error::unknown(&asked.operation, &OPERATIONS));
        }
        let method = if operation == "create" { "POST".to_owned() } else { operation.to_uppercase() };
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| invalid(error.to_string()))?;
        let url = match asked.metadata.get("path").filter(|path| !path.is_empty()) {
            None => self.url.clone(),
            Some(path) => format!("{}/{}", self.url.trim_end_matches('/'), path.trim_start_matches('/')),
        };
        // What is sent stays with the host that the component names, whatever the path says.
        let here = place(&self.url).map(|(place, tls, _)| (place, tls));
        let (place, path) = match place(&url) {
            Some((place, tls, path)) if Some((&place, &tls)) == here.as_ref().map(|(a, b)| (a, b)) => {
                (place, path)
            }
            Some(_) | None => {
                return Err(invalid(format!(
                    "path `{}` is none of the component's URL",
                    asked.metadata["path"]
                )));
            }
        };
        let has_body = matches!(method, Method::PUT | Method::POST | Method::PATCH);
        let authority = url.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
        let mut request = hyper::Request::builder().method(method).uri(path);
        request = request.header(HOST, authority.unwrap_or_else(|| place.to_string()));
        let body = if has_body { asked.data.clone() } else { Bytes::new() };
        let mut request = request.body(Full::new(body)).map_err(|error| invalid(error.to_string()))?;
        let headers = request.headers_mut();
        if has_body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        }
        headers.insert(ACCEPT, HeaderValue::from_static(JSON));
        headers.extend(self.token.iter().map(|(name, value)| (name.clone(), value.clone())));
        for (name, value) in &asked.metadata {
            if !name.starts_with(|first: char| first.is_ascii_uppercase()) && !TRACE.contains(&name.as_str())
            {
                continue;
            }
            let wrong = || invalid(format!("metadata `{name}` is no header that can be sent"));
            let name = HeaderName::try_from(name.as_str()).map_err(|_| wrong())?;
            let framing = ["content-length", "transfer-encoding", "connection", "upgrade", "te", "host"];
            if framing.contains(&name.as_str()) {
                continue;
            }
            headers.insert(name, HeaderValue::try_from(value.as_str()).map_err(|_| wrong())?);
        }
        Ok((place, request))
    }

    async fn send(&self, place: &Place, request: hyper::Request<Full<Bytes>>) -> Result<Response, Error> {
        let failed = |kind: Kind, why: String| {
            Error::from(Fault::new(kind, format!("a request to {place} failed: {why}")))
        };
        let stream = place.connect(DIAL).await.map_err(|why| failed(Kind::Unavailable, why))?;
        let stream = match &self.connector {
            None => stream,
            Some(connector) => {
                let secured = connector.connect(stream, &place.host).await;
                secured.map_err(|failure| failed(Kind::Unavailable, failure.detail.to_string()))?
            }
        };
        let greeted = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) =
            greeted.map_err(|error| failed(Kind::Unavailable, error.to_string()))?;
        // It ends with the request, whose future this may outlive by no more than a moment.
        self.tasks.spawn(task::Kind::OutboundConnection, async move {
            let _ended = connection.await;
        });
        let answer =
            sender.send_request(request).await.map_err(|error| failed(Kind::Timeout, error.to_string()))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, self.longest).collect().await;
        let body =
            body.map_err(|error| failed(Kind::Full, format!("its answer could not be read: {error}")))?;
        let mut metadata = Metadata::new();
        for name in head.headers.keys() {
            let values: Vec<_> = head
                .headers
                .get_all(name)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect();
            metadata.insert(canonical(name.as_str()), values.join(", "));
        }
        metadata.insert("statusCode".to_owned(), head.status.as_u16().to_string());
        metadata.insert("status".to_owned(), head.status.to_string());
        Ok(Response { data: body.to_bytes(), metadata })
    }
}

/// A header's name as Go writes it: `Content-Type`.
fn canonical(name: &str) -> String {
    let parts = name.split('-').map(|part| {
        let mut letters = part.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    parts.collect::<Vec<_>>().join("-")
}

/// Where a URL leads, whether with TLS, and its path with query.
fn place(url: &str) -> Option<(Place, bool, String)> {
    let uri: Uri = url.parse().ok()?;
    let (tls, port) = match uri.scheme_str()? {
        "http" => (false, 80),
        "https" => (true, 443),
        _ => return None,
    };
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let place = Place { host, port: uri.port_u16().unwrap_or(port) };
    Some((place, tls, if path.starts_with('/') { path } else { format!("/{path}") }))
}

impl Output for Http {
    fn operations(&self) -> &'static [&'static str] {
        &OPERATIONS
    }

    fn invoke(&self, asked: Request) -> Answer<'_, Result<Response, Error>> {
        Answer::later(async move {
            let (place, request) = self.request(&asked)?;
            let answered = tokio::time::timeout(self.timeout, self.send(&place, request)).await;
            let late = |_| {
                let what = format!(
                    "{place} did not answer within {:?}; whether it was done is unknown",
                    self.timeout
                );
                Error::from(Fault::new(Kind::Timeout, what))
            };
            let response = answered.map_err(late)??;
            let strict = lookup(&asked.metadata, "errorIfNot2XX").map_or(self.strict, is_true);
            let status = response.metadata.get("statusCode").cloned().unwrap_or_default();
            if strict && !status.starts_with('2') {
                return Err(Error::Refused { message: format!("received status code {status}"), response });
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_names() {
        let check = |url: &str, expect: Option<(&str, bool, &str)>| {
            let found = place(url).map(|(place, tls, path)| (place.to_string(), tls, path));
            let expect = expect.map(|(place, tls, path)| (place.to_owned(), tls, path.to_owned()));
            assert_eq!(found, expect, "{url}");
        };
        check("http://api/v1?x=1", Some(("api:80", false, "/v1?x=1")));
        check("https://[::1]:8443", Some(("[::1]:8443", true, "/")));
        check("ftp://api", None);
        check("api", None);
        assert_eq!(canonical("x-request-id"), "X-Request-Id");
    }
}
