//! A request of an HTTP/1 client once its head is read: the bytes to send on, what is still to come, and
//! what was decided.
//!
//! Built in one go while the head lies in the scratch buffer; everything in it is owned, so that the buffer
//! is free again before the first await.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use dodai_core::call::Caller;
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edit, Edits, RequestHead, Short};
use dodai_core::id::AppId;
use dodai_core::snapshot::Role;
use dodai_transport::proxy_protocol::Ends;
use http::HeaderName;
use tokio::time::Instant;

use crate::forwarded::{Client, Via};
use crate::h1::{self, BadHead, Flow, Framing, HeaderList, Parsed, RequestLine};
use crate::identity::Certified;
use crate::limits::MAX_HEADERS;
use crate::roll::Speaks;
use crate::service::Endpoint;
use crate::spine::{self, Decision, Entry, Forward, Lap};
use crate::worker::Worker;

/// A request on its way through this base.
pub struct Request {
    /// The head for the next hop, followed by the body bytes that came with it.
    pub bytes: Vec<u8>,
    /// Where the body starts in `bytes`.
    pub head_len: usize,
    /// The head as it came, where a policy that changes may have to ask for it again; empty otherwise.
    pub came: Vec<u8>,
    /// What `bytes` and `head_len` were before a try changed the head for itself.
    kept: Option<Box<(Vec<u8>, usize)>>,
    /// What of the body is still to come from the client.
    pub upload: Flow,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the method is HEAD: the response has no body.
    pub is_head: bool,
    /// Whether the method is idempotent.
    pub idempotent: bool,
    /// What changes in the response because of what was said where the call arrived.
    pub reply: Option<Box<Edits>>,
    /// Whether the client keeps its connection.
    pub keep_alive: bool,
    /// Whether the client speaks HTTP/1.0.
    pub http10: bool,
    /// Whether the client asks for another protocol.
    pub upgrade: bool,
    /// Whether the client waits for `100 Continue` before it sends its body.
    pub expect_continue: bool,
    /// Whether the call is gRPC.
    pub is_grpc: bool,
    /// The tables that there had been when it was let in.
    pub epoch: Cell<u64>,
    /// For its record.
    pub lap: Lap,
}

/// A request and what becomes of it.
pub struct Decided {
    /// The request.
    pub request: Request,
    /// What was decided.
    pub decision: Result<Decision, Failure>,
    /// Whose call it is, if a proxy may say that.
    pub client: Option<Client>,
}

/// What reading a head led to.
pub enum Read {
    /// It has not arrived whole.
    More,
    /// It is refused; the connection ends after the answer.
    Bad(Failure),
    /// It arrived. The number says how many bytes were used.
    Request(Box<Decided>, usize),
    /// It is for an app that this base has yet to be told of; it has not been used up.
    Ask(AppId),
    /// A tunnel is asked for. The number says how many bytes were used.
    Connect(Box<Asked>, usize),
}

impl Read {
    /// Whose call it is, if a proxy may say that and did.
    pub fn client(&self) -> Option<Client> {
        match self {
            Read::Request(decided, _) => decided.client.clone(),
            Read::More | Read::Bad(_) | Read::Ask(_) | Read::Connect(..) => None,
        }
    }
}

/// A tunnel that is asked for.
pub struct Asked {
    /// Where to.
    pub authority: String,
    /// The head as it came, of a client that may have meant it for a proxy which it connected to itself.
    pub head: Option<Vec<u8>>,
}

/// What the client of a connection meant to reach.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The address.
    pub address: SocketAddr,
    /// What holds because the kernel led the connection here; `None` where a proxy told.
    pub captured: Option<Captured>,
}

/// What holds for a connection that the kernel led here.
#[derive(Clone, Copy, Debug)]
pub struct Captured {
    /// Whether it goes on to its address where nothing is known of that.
    pub allow_unknown: bool,
    /// The endpoint with that address, for a connection that came from elsewhere: only that one is meant.
    pub endpoint: Option<u64>,
}

/// Who is at the other end of a connection, and where it came in.
#[derive(Clone)]
pub struct Side {
    /// The listener.
    pub listener: std::sync::Arc<dodai_core::snapshot::Listener>,
    /// The caller.
    pub caller: Caller,
    /// The caller as a metric label.
    pub label: std::sync::Arc<str>,
    /// The client's address, for gateways.
    pub client: std::sync::Arc<str>,
    /// The client's port, for gateways.
    pub port: u16,
    /// The proxy that brings the calls, if what it says of their clients counts.
    pub via: Option<Rc<Via>>,
    /// The certificate that a gateway's client has shown.
    pub certified: Option<std::sync::Arc<Certified>>,
    /// What the client connected to, if a proxy or the kernel told.
    pub wanted: Option<Box<Wanted>>,
    /// Whether it is encrypted.
    pub secure: bool,
    /// The service that another base asked for by SNI.
    pub service: Option<Box<dodai_core::id::ServiceId>>,
    /// What is known of the connection, if it is one.
    pub facts: Option<std::rc::Rc<crate::roll::Facts>>,
}

impl Side {
    /// The client and what it connected to, for endpoints that want to be told.
    pub fn ends(&self) -> Option<Ends> {
        let source = SocketAddr::new(self.client.parse().ok()?, self.port);
        Some(Ends {
            source,
            destination: self.wanted.as_ref().map_or(self.listener.address, |wanted| wanted.address),
        })
    }

    /// The client of the next call is this one.
    pub fn belong_to(&mut self, client: Option<Client>) {
        if let Some(via) = &self.via {
            (self.client, self.port) = client.unwrap_or_else(|| via.peer.clone());
        }
    }

    /// Whether the listener that it came in by is not there any more.
    pub fn is_retired(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.is_retired())
    }

    /// How long it may still take calls at `now`, if its listener bounds that.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.facts.as_ref().and_then(|facts| facts.left(now))
    }

    /// Notes what is spoken.
    pub fn speaks(&self, speaks: Speaks) {
        if let Some(facts) = &self.facts {
            facts.speaks(speaks);
        }
    }

    /// What the spine wants to know.
    pub fn entry(&self) -> Entry<'_> {
        Entry {
            listener: &self.listener,
            caller: &self.caller,
            client: Some(&self.client),
            port: self.port,
            facts: self.facts.as_deref(),
            via: self.via.as_deref(),
            certified: self.certified.as_deref(),
            secure: self.secure,
            service: self.service.as_deref(),
            captured: self.captured(),
            routed: None,
            redraws: None,
        }
    }

    /// What records say of where a call came from.
    pub fn from(&self) -> crate::lap::Origin<'_> {
        let facts = self.facts.as_deref();
        let client = Some(&self.client).filter(|client| !client.is_empty());
        crate::lap::Origin {
            client,
            port: self.port,
            identity: facts.and_then(|facts| facts.identity()),
            certified: self.certified.as_ref(),
            tls: facts.and_then(|facts| facts.tls()),
        }
    }

    /// What holds because the kernel led the connection here, if it did.
    pub fn captured(&self) -> Option<&Captured> {
        self.wanted.as_ref()?.captured.as_ref()
    }
}

/// Reads a head from the start of `bytes` and decides the call.
pub fn read(bytes: &[u8], worker: &Worker, side: &Side) -> Read {
    let mut headers = HeaderList::new();
    let limit = worker.shared.limits.head_bytes;
    let (line, parsed) = match h1::parse_request(bytes, &mut headers) {
        Ok(Some(found)) if found.1.len > limit => return Read::Bad(bad_head(BadHead::TooLarge)),
        Ok(Some(found)) => found,
        Ok(None) if bytes.len() > limit => return Read::Bad(bad_head(BadHead::TooLarge)),
        Ok(None) => return Read::More,
        Err(bad) => return Read::Bad(bad_head(bad)),
    };
    if line.method == "CONNECT" {
        return match side.listener.role {
            Role::Outbound { .. } => {
                let head = side.captured().map(|_| bytes[..parsed.len].to_vec());
                Read::Connect(Box::new(Asked { authority: line.authority.to_owned(), head }), parsed.len)
            }
            Role::Gateway { .. }
            | Role::Dependency { .. }
            | Role::Mesh
            | Role::Api { .. }
            | Role::Captured(_) => {
                Read::Bad(Failure::new(Kind::NotImplemented, "CONNECT is served on outbound listeners only"))
            }
        };
    }
    let view = RequestHead::Raw(line.view(&headers));
    // Before the table, so that a newer one is not taken for the one that decides.
    let epoch = worker.shared.epoch.load(Acquire);
    if let Role::Outbound { app } = &side.listener.role
        && let Some(wanted) = worker.shared.asks_for(view.host(), app.namespace.as_str())
    {
        return Read::Ask(wanted);
    }
    let (span, ours) = spine::span(&view, worker);
    let drawn = Cell::new(span);
    let mut lap = Lap::new(spine::direction(&side.listener.role), side.label.clone(), span, worker.now());
    let (routed, stamps) = (Cell::new(None), worker.stamps(&span));
    let redraws = ours.then_some(&drawn);
    let client = side.via.as_ref().map(|via| via.client(&view));
    let own = side.entry();
    let (address, port) = client.as_ref().map_or((own.client, own.port), |(ip, port)| (Some(&**ip), *port));
    let entry = Entry { client: address, port, routed: stamps.then_some(&routed), redraws, ..own };
    let mut edits = Edits::new();
    let decision = match side.listener.role {
        Role::Api { .. } => Ok(Decision::Api),
        Role::Gateway { .. }
        | Role::Outbound { .. }
        | Role::Dependency { .. }
        | Role::Mesh
        | Role::Captured(_) => {
            spine::admit(&worker.shared.table.load(), &entry, &view, &span, lap.start, &mut edits)
        }
    };
    lap.span = drawn.get();
    if worker.stamps(&lap.span) {
        lap.admitted(routed.get());
    }
    if !matches!(decision, Ok(Decision::Forward(_) | Decision::External | Decision::Later(_))) {
        // It goes nowhere; its head stays as it came, for the log.
        edits.clear();
    }
    if line.authority.is_empty() && !edits.iter().any(|edit| matches!(edit, Edit::Authority(_))) {
        // HTTP/1.0 without Host: the next hop speaks HTTP/1.1 and needs one.
        let name = match &decision {
            Ok(Decision::Forward(forward)) => forward.service.spec.id.owner.name.as_str(),
            Ok(_) | Err(_) => "localhost",
        };
        edits.push(Edit::Authority(Short::from_slice(name.as_bytes())));
    }
    match assemble(bytes, worker, &line, &headers, &parsed, view, lap, &edits) {
        Ok((mut request, used)) => {
            request.epoch.set(epoch);
            if decision.as_ref().is_ok_and(Decision::keeps_head) {
                request.came = worker.buffer();
                request.came.extend_from_slice(&bytes[..parsed.len]);
            }
            Read::Request(Box::new(Decided { request, decision, client }), used)
        }
        Err(failure) => Read::Bad(failure),
    }
}

#[expect(clippy::too_many_arguments, reason = "the pieces of one parse, used once")]
fn assemble(
    bytes: &[u8],
    worker: &Worker,
    line: &RequestLine<'_>,
    headers: &HeaderList<'_>,
    parsed: &Parsed,
    view: RequestHead<'_>,
    lap: Lap,
    edits: &Edits,
) -> Result<(Request, usize), Failure> {
    let mut out = worker.buffer();
    h1::write_request(&mut out, bytes, line, headers, parsed, edits, parsed.upgrade);
    let head_len = out.len();
    let mut upload = Flow::new(parsed.framing, &worker.shared.limits);
    let rest = &bytes[parsed.len..];
    let body = upload.feed(rest).map_err(|bad| Failure::new(Kind::BadRequest, bad.0))?;
    out.extend_from_slice(&rest[..body]);
    let request = Request {
        bytes: out,
        head_len,
        came: Vec::new(),
        kept: None,
        upload,
        framing: parsed.framing,
        is_head: line.method == "HEAD",
        idempotent: view.is_idempotent(),
        reply: None,
        keep_alive: parsed.keep_alive,
        http10: parsed.http10,
        upgrade: parsed.upgrade,
        expect_continue: parsed.expect_continue && !parsed.http10,
        is_grpc: view.is_grpc(),
        epoch: Cell::new(0),
        lap,
    };
    Ok((request, parsed.len + body))
}

fn bad_head(bad: BadHead) -> Failure {
    let kind = if bad == BadHead::TooLarge { Kind::HeadTooLarge } else { Kind::BadRequest };
    Failure::new(kind, bad.to_string())
}

impl Request {
    /// The head once more, parsed from the bytes for the next hop.
    pub fn parse_again<T>(
        &self,
        with: impl FnOnce(&RequestLine<'_>, &HeaderList<'_>) -> T,
    ) -> Result<T, Failure> {
        parse(&self.bytes[..self.head_len], with)
    }

    /// The head that the call came with, and the one that its service saw.
    fn both(&self) -> [&[u8]; 2] {
        let (bytes, head_len) = match self.kept.as_deref() {
            Some((bytes, head_len)) => (bytes, *head_len),
            None => (&self.bytes, self.head_len),
        };
        let went = &bytes[..head_len];
        [if self.came.is_empty() { went } else { &self.came }, went]
    }

    /// The same, parsed.
    pub fn parse_both<T>(
        &self,
        with: impl FnOnce(RequestHead<'_>, RequestHead<'_>) -> T,
    ) -> Result<T, Failure> {
        let [came, went] = self.both();
        parse(came, |line, headers| {
            let came = RequestHead::Raw(line.view(headers));
            parse(went, |line, headers| with(came, RequestHead::Raw(line.view(headers))))
        })?
    }

    /// The same as owned parts.
    pub fn parts_of_both(&self) -> Result<[http::request::Parts; 2], Failure> {
        let [came, went] = self.both();
        Ok([parts(came)?, parts(went)?])
    }

    /// Adds what changes in the head of the response of `endpoint`.
    pub fn response_edits(&self, forward: Option<&Forward>, endpoint: Option<&Endpoint>, edits: &mut Edits) {
        if let Some(forward) = forward {
            forward.response_edits(endpoint, edits);
        }
        if let Some(reply) = &self.reply {
            edits.extend(reply);
        }
    }

    /// Keeps the head as it is, for a further try.
    pub fn keep(&mut self) {
        self.kept = Some(Box::new((self.bytes.clone(), self.head_len)));
    }

    /// Goes back to the head that was kept.
    pub fn restore(&mut self) {
        if let Some(kept) = self.kept.take() {
            (self.bytes, self.head_len) = *kept;
        }
    }

    /// Changes the head, which lies there as it goes out.
    pub fn edit(&mut self, worker: &Worker, edits: &Edits) -> Result<(), Failure> {
        if edits.is_empty() {
            return Ok(());
        }
        let mut out = worker.buffer();
        {
            let (head, body) = self.bytes.split_at(self.head_len);
            let mut headers = HeaderList::new();
            let parsed = h1::parse_request(head, &mut headers).map_err(|bad| unreadable(Some(&bad)))?;
            let (line, parsed) = parsed.ok_or_else(|| unreadable(None))?;
            h1::write_request(&mut out, head, &line, &headers, &parsed, edits, parsed.upgrade);
            self.head_len = out.len();
            out.extend_from_slice(body);
        }
        worker.recycle(std::mem::replace(&mut self.bytes, out));
        Ok(())
    }

    /// The head as owned parts, for endpoints that are not spoken to in HTTP/1.
    pub fn parts(&self) -> Result<http::request::Parts, Failure> {
        parts(&self.bytes[..self.head_len])
    }

    /// Whether the body is still with us whole, so that the call can be sent again.
    pub fn is_whole(&self) -> bool {
        self.upload.is_done()
    }
}

fn parse<T>(head: &[u8], with: impl FnOnce(&RequestLine<'_>, &HeaderList<'_>) -> T) -> Result<T, Failure> {
    let mut headers = HeaderList::new();
    match h1::parse_request(head, &mut headers) {
        Ok(Some((line, _))) => Ok(with(&line, &headers)),
        Ok(None) => Err(unreadable(None)),
        Err(bad) => Err(unreadable(Some(&bad))),
    }
}

fn parts(head: &[u8]) -> Result<http::request::Parts, Failure> {
    let bad = |what: &str| Failure::new(Kind::BadRequest, format!("{what} cannot be passed on"));
    parse(head, |line, headers| {
        let uri = if line.authority.is_empty() {
            http::Uri::builder().path_and_query(line.target).build()
        } else {
            http::Uri::builder().scheme("http").authority(line.authority).path_and_query(line.target).build()
        };
        let mut request =
            http::Request::builder().method(line.method).uri(uri.map_err(|_| bad("the target"))?);
        for header in headers {
            let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| bad("a header name"))?;
            if name != http::header::TRANSFER_ENCODING && name != http::header::EXPECT {
                request = request.header(name, header.value);
            }
        }
        Ok(request.body(()).map_err(|_| bad("the head"))?.into_parts().0)
    })?
}

/// Why a head that was written here cannot be read again: what is added may make it too long for it.
fn unreadable(bad: Option<&BadHead>) -> Failure {
    match bad {
        Some(BadHead::TooLarge) => Failure::new(
            Kind::HeadTooLarge,
            format!("with what is added here the head has more than {MAX_HEADERS} headers"),
        ),
        Some(_) | None => Failure::new(Kind::Internal, "a head that we wrote does not parse"),
    }
}
