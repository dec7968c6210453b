//! Another service that decides who may call, asked for each call: Envoy's ext_authz, over HTTP or gRPC.
//!
//! The question goes out through the spine as a call of the base itself, so balance, mutual TLS and breakers are those
//! of any call. Always holds: without an answer in time a call is refused, unless the policy says to let it through.

mod check;

use std::rc::Rc;

use bytes::{BufMut as _, Bytes, BytesMut};
use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context, Reply, tells_identity};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edit, Edits, Short};
use dodai_core::snapshot::{self, AuthorizerProtocol};
use dodai_core::trace::Span;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, TE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use prost::Message as _;

use crate::door;
use crate::filter::Seen;
use crate::message;
use crate::route::BadRule;
use crate::tally::{Event, Tally};
use crate::worker::Worker;

/// The largest answer that is read, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// A service that is asked, compiled.
#[derive(Debug)]
pub struct Authorizer {
    spec: snapshot::Authorizer,
    request_headers: Vec<HeaderName>,
    call_headers: Vec<HeaderName>,
    client_headers: Vec<HeaderName>,
    /// What it said.
    pub tally: Tally,
}

/// What it decided.
pub enum Verdict {
    /// The call goes on, changed so; and so is its answer.
    Allowed(Box<Edits>, Box<Edits>),
    /// The client gets this.
    Denied(StatusCode, HeaderMap, String),
}

impl Authorizer {
    /// Compiles `spec` of `rule`.
    pub fn compile(rule: &str, spec: &snapshot::Authorizer) -> Result<Authorizer, BadRule> {
        let names = |list: &[String]| {
            let name = |header: &String| {
                let bad = |_| BadRule::Header { rule: rule.to_owned(), header: header.clone() };
                HeaderName::from_bytes(header.as_bytes()).map_err(bad)
            };
            list.iter().map(name).collect::<Result<Vec<_>, _>>()
        };
        Ok(Authorizer {
            request_headers: names(&spec.request_headers)?,
            call_headers: names(&spec.call_headers)?,
            client_headers: names(&spec.client_headers)?,
            spec: spec.clone(),
            tally: Tally::default(),
        })
    }

    /// Asks about a call.
    pub async fn ask(&self, worker: &Rc<Worker>, seen: &Seen<'_>) -> Result<Verdict, Failure> {
        let asked = async {
            match &self.spec.protocol {
                AuthorizerProtocol::Http { path_prefix } => self.ask_http(worker, seen, path_prefix).await,
                AuthorizerProtocol::Grpc => self.ask_grpc(worker, seen).await,
            }
        };
        let reason = match tokio::time::timeout(self.spec.timeout, asked).await {
            Ok(Ok(verdict)) => {
                let event = match verdict {
                    Verdict::Allowed(..) => Event::AuthorizerAllowed,
                    Verdict::Denied(..) => Event::AuthorizerDenied,
                };
                self.tally.count(event);
                return Ok(verdict);
            }
            Ok(Err(reason)) => reason,
            Err(_) => "no answer in time".to_owned(),
        };
        self.tally.count(Event::AuthorizerFailed);
        if self.spec.fail_open {
            tracing::debug!(service = %self.spec.service, reason, "an authorizer gave no answer; the call goes on");
            return Ok(Verdict::Allowed(Box::default(), Box::default()));
        }
        let text = format!("{}, which decides who may call, gave no answer: {reason}", self.spec.service);
        Err(Failure::new(Kind::AuthorizerDown, text))
    }

    async fn send(&self, worker: &Rc<Worker>, request: http::Request<Body>) -> Result<Reply, String> {
        let (head, body) = request.into_parts();
        let context = Context::new(Caller::Base, Span::root(false));
        let call = Call { head, body, context };
        let side = door::side_to(&self.spec.service);
        message::forward(worker, &side, call, "in-process").await.map_err(|failure| failure.to_string())
    }

    fn authority(&self) -> String {
        let owner = &self.spec.service.owner;
        format!("{}.{}.svc.cluster.local", owner.name, owner.namespace)
    }

    /// Head as it came, without its body: the status decides.
    async fn ask_http(&self, worker: &Rc<Worker>, seen: &Seen<'_>, prefix: &str) -> Result<Verdict, String> {
        let target =
            format!("http://{}{}{}", self.authority(), prefix.trim_end_matches('/'), seen.head.target());
        let mut request = http::Request::builder().method(seen.head.method()).uri(target);
        let own = [AUTHORIZATION, COOKIE];
        let wanted = |name: &HeaderName| own.contains(name) || self.request_headers.contains(name);
        seen.head.for_each_header(|name, value| {
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes())
                && wanted(&name)
            {
                request = std::mem::take(&mut request).header(name, value);
            }
        });
        if !seen.head.authority().is_empty() {
            request = request.header("x-forwarded-host", seen.head.authority());
        }
        if let Some(client) = seen.client {
            request = request.header("x-forwarded-for", client);
        }
        if let Some(app) = seen.caller.app() {
            request = request.header(dodai_core::call::CALLER_HEADER, app.name.as_str());
        }
        let request = request.body(Body::empty()).map_err(|error| error.to_string())?;
        let reply = self.send(worker, request).await?;
        let headers = &reply.head.headers;
        if reply.head.status.is_success() {
            let mut edits = Edits::new();
            for name in &self.call_headers {
                edits.push(Edit::Remove(name.clone()));
                for value in headers.get_all(name) {
                    edits.push(Edit::Append(name.clone(), Short::from_slice(value.as_bytes())));
                }
            }
            return Ok(Verdict::Allowed(Box::new(edits), Box::default()));
        }
        let status = reply.head.status;
        if status.is_server_error() {
            return Err(format!("it answered {status}"));
        }
        let usual =
            [http::header::WWW_AUTHENTICATE, http::header::LOCATION, CONTENT_TYPE, http::header::SET_COOKIE];
        let mut told = HeaderMap::new();
        for name in usual.iter().chain(&self.client_headers) {
            for value in
                headers.get_all(name).iter().filter(|_| !told.contains_key(name)).cloned().collect::<Vec<_>>()
            {
                told.append(name, value);
            }
        }
        let body = String::from_utf8_lossy(&read(reply.body).await?.0).into_owned();
        Ok(Verdict::Denied(status, told, body))
    }

    async fn ask_grpc(&self, worker: &Rc<Worker>, seen: &Seen<'_>) -> Result<Verdict, String> {
        let question = question(worker, seen).encode_to_vec();
        let mut frame = BytesMut::with_capacity(5 + question.len());
        frame.put_u8(0);
        frame.put_u32(u32::try_from(question.len()).map_err(|_| "the head is too large")?);
        frame.extend_from_slice(&question);
        let request = http::Request::post(format!("http://{}{}", self.authority(), check::METHOD))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Body::full(frame.freeze()))
            .map_err(|error| error.to_string())?;
        let reply = self.send(worker, request).await?;
        let headers = reply.head.headers;
        let (bytes, trailers) = read(reply.body).await?;
        let status = trailers.as_ref().unwrap_or(&headers).get("grpc-status").or(headers.get("grpc-status"));
        match status.and_then(|status| status.to_str().ok()) {
            Some("0") => {}
            Some(code) => return Err(format!("it answered with gRPC status {code}")),
            None => return Err("its answer has no gRPC status".to_owned()),
        }
        answered(&bytes)
    }
}

/// What the answer of an authorizer decides: one message of gRPC with its length before it.
pub fn answered(bytes: &[u8]) -> Result<Verdict, String> {
    let length = bytes.get(1..5).map(|four| four.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte)));
    let message = length.filter(|_| bytes[0] == 0).and_then(|length| bytes.get(5..5 + length));
    let message = message.ok_or("its answer is no gRPC message")?;
    let answer = check::CheckResponse::decode(message).map_err(|error| error.to_string())?;
    Ok(verdict(answer))
}

/// What is asked of a call: the head, who sends it, and where it goes.
fn question(worker: &Worker, seen: &Seen<'_>) -> check::CheckRequest {
    let domain = worker
        .shared
        .mesh
        .as_ref()
        .map_or(dodai_transport::identity::DEFAULT_TRUST_DOMAIN, |mesh| mesh.domain.as_str());
    let source = check::Peer {
        address: seen.client.map(|client| check::Address {
            socket_address: Some(check::SocketAddress { address: client.to_owned() }),
        }),
        service: seen.caller.app().map(ToString::to_string).unwrap_or_default(),
        principal: match seen.certified {
            Some(certified) => certified.certificate.name().to_owned(),
            None => seen.caller.app().map(|app| app.spiffe(domain)).unwrap_or_default(),
        },
    };
    let mut http = check::HttpRequest {
        method: seen.head.method().to_owned(),
        path: seen.head.target().to_owned(),
        host: seen.head.authority().to_owned(),
        scheme: "http".to_owned(),
        size: -1,
        protocol: "HTTP/1.1".to_owned(),
        ..check::HttpRequest::default()
    };
    seen.head.for_each_header(|name, value| {
        if name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str()) {
            http.size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(-1);
        }
        let value = String::from_utf8_lossy(value);
        let all = http.headers.entry(name.to_ascii_lowercase()).or_default();
        if !all.is_empty() {
            all.push(',');
        }
        all.push_str(&value);
    });
    let request = check::Request { http: Some(http) };
    let attributes =
        check::AttributeContext { source: Some(source), destination: None, request: Some(request) };
    check::CheckRequest { attributes: Some(attributes) }
}

fn verdict(answer: check::CheckResponse) -> Verdict {
    if answer.status.as_ref().is_none_or(|status| status.code == 0) && answer.denied_response.is_none() {
        let allowed = answer.ok_response.unwrap_or_default();
        let mut edits = options(&allowed.headers);
        for name in allowed.headers_to_remove.iter().filter_map(|name| ours(name)) {
            edits.push(Edit::Remove(name));
        }
        return Verdict::Allowed(Box::new(edits), Box::new(options(&allowed.response_headers_to_add)));
    }
    let denied = answer.denied_response.unwrap_or_default();
    let status = denied.status.and_then(|status| StatusCode::from_u16(u16::try_from(status.code).ok()?).ok());
    let mut headers = HeaderMap::new();
    options(&denied.headers).apply_to(&mut headers);
    Verdict::Denied(status.unwrap_or(StatusCode::FORBIDDEN), headers, denied.body)
}

/// A header that an authorizer may change: not those that tell where a message ends or who calls.
fn ours(name: &str) -> Option<HeaderName> {
    let kept =
        ["connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive"];
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let mine = kept.contains(&name.as_str()) || name == HOST || tells_identity(name.as_str().as_bytes());
    (!mine).then_some(name)
}

fn options(list: &[check::HeaderOption]) -> Edits {
    let mut edits = Edits::new();
    for option in list {
        let Some(header) = &option.header else { continue };
        let (Some(name), Ok(_)) = (ours(&header.key), HeaderValue::from_bytes(header.bytes())) else {
            continue;
        };
        let value = Short::from_slice(header.bytes());
        let appends = option.append.as_ref().is_some_and(|append| append.value);
        edits.push(if appends { Edit::Append(name, value) } else { Edit::Set(name, value) });
    }
    edits
}

/// A whole body and its trailers.
async fn read(mut body: Body) -> Result<(Bytes, Option<HeaderMap>), String> {
    let (mut bytes, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map_err(|failure| failure.to_string())?.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        if bytes.len() > MAX_BYTES {
            return Err(format!("its answer is larger than {MAX_BYTES} bytes"));
        }
    }
    Ok((bytes.freeze(), trailers))
}
