//! HTTP/1 to HTTP/1: one call relayed between two connections without taking its messages apart.
//!
//! The request goes out in one write with whatever of its body arrived with the head. Then both directions
//! run at once: the rest of the body up, the response down. The call is committed with the first response
//! byte, or once a body byte that we do not keep was sent; until then it may be tried again.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use dodai_core::failure::{Failure, Kind};
use dodai_transport::stream::Stream;

use crate::attempt::{Sent, Terms};
use crate::endpoint::{Lease, Taken};
use crate::h1::{self, Flow, HeaderList};
use crate::pipe;
use crate::reach::{Address, Target};
use crate::request::Request;
use crate::serve_h1::{Client, Next};
use crate::spine::{Forward, Outcome};
use crate::wire::{Broken, Wire};

/// Response bodies up to this size are copied behind the head; larger ones are written beside it.
const COPY: usize = 4096;

/// How a try ended.
pub enum Ended {
    /// The client has its response.
    Answered(Next),
    /// The client went away.
    ClientGone,
    /// It failed after the response had begun.
    Cut(Failure),
    /// It failed before; this much had been sent.
    Failed(Failure, Sent),
    /// The endpoint answered with a status that may be tried again.
    Status(u16, Sent),
}

/// A connection to an endpoint during one call.
struct Exchange<'a> {
    client: &'a Client,
    request: &'a Request,
    up: &'a Wire,
    up_carry: RefCell<Vec<u8>>,
    body_sent: Cell<bool>,
    uploaded: Cell<bool>,
    received: Cell<u64>,
}

/// How the response side ended.
enum Response {
    /// The body is whole; whether the endpoint's connection can serve another call, and whether we close.
    Whole { keep_up: bool, close: bool },
    /// The endpoint agreed to another protocol.
    Upgraded,
    /// A status that may be tried again.
    Status(u16),
    /// Before any response byte.
    Failed(Failure),
    /// After the head was sent.
    Cut(Failure),
    /// The client is gone.
    ClientGone,
}

/// One try at an HTTP/1 endpoint. `statuses` are those to be tried again.
pub async fn once(
    client: &Client,
    request: &mut Request,
    forward: &Forward,
    target: &Target,
    terms: &Terms<'_>,
    statuses: &[u16],
    outcome: &mut Outcome,
) -> Ended {
    let edits = &forward.effects.response;
    exchange(client, request, target, &forward.service.spec.breaker, edits, terms, statuses, outcome).await
}

/// One call to a host outside the mesh.
pub async fn external(
    client: &Client,
    request: &mut Request,
    target: &Target,
    terms: &Terms<'_>,
    outcome: &mut Outcome,
) -> Ended {
    let caps = dodai_core::snapshot::Breaker::default();
    let edits = dodai_core::head::Edits::new();
    exchange(client, request, target, &caps, &edits, terms, &[], outcome).await
}

#[expect(clippy::too_many_arguments, reason = "one call's parts, from two callers")]
async fn exchange(
    client: &Client,
    request: &mut Request,
    target: &Target,
    caps: &dodai_core::snapshot::Breaker,
    edits: &dodai_core::head::Edits,
    terms: &Terms<'_>,
    statuses: &[u16],
    outcome: &mut Outcome,
) -> Ended {
    let lease = match connection(client, target, caps).await {
        Ok(lease) => lease,
        Err(failure) => return Ended::Failed(failure, Sent::NOTHING),
    };
    let reused = lease.reused;
    let (stream, keep) = lease.split();
    let up = Wire::new(stream);
    if let Err(broken) = up.write_all(&request.bytes, &client.deadline).await {
        return Ended::Failed(broken_endpoint(&broken, reused, target), Sent::HEAD);
    }
    if up.with(|stream| stream.is_tls()) {
        let _later = up.flush().await;
    }
    let mut upload = std::mem::replace(&mut request.upload, Flow::Done);
    let exchange = Exchange {
        client,
        request,
        up: &up,
        up_carry: RefCell::default(),
        body_sent: Cell::new(false),
        uploaded: Cell::new(upload.is_done()),
        received: Cell::new((request.bytes.len() - request.head_len) as u64),
    };
    let respond = exchange.respond(edits, terms, statuses, reused, target, outcome);
    let response = if upload.is_done() {
        respond.await
    } else {
        client.upload.set(terms.idle_timeout);
        let max = terms.max_body;
        let response = exchange.both(respond, exchange.pump(&mut upload, terms.idle_timeout, max)).await;
        client.upload.clear();
        response
    };
    outcome.received = exchange.received.get();
    let sent = Sent { any: true, body: exchange.body_sent.get() };
    let uploaded = exchange.uploaded.get();
    let up_carry = exchange.up_carry.take();
    request.upload = upload;
    match response {
        Response::Whole { keep_up, close } => {
            if keep_up && uploaded && up_carry.is_empty() {
                keep.keep(up.into_inner());
            }
            if close || !uploaded {
                return Ended::Answered(Next::Linger);
            }
            Ended::Answered(Next::Keep)
        }
        Response::Upgraded => {
            let carry = std::mem::take(&mut *client.carry.borrow_mut());
            Box::pin(pipe::join(client, &up, carry, up_carry)).await;
            Ended::Answered(Next::Close)
        }
        Response::Status(status) => Ended::Status(status, sent),
        Response::Failed(failure) => Ended::Failed(failure, sent),
        Response::Cut(failure) => Ended::Cut(failure),
        Response::ClientGone => Ended::ClientGone,
    }
}

/// A kept connection to `target`, or a new one.
async fn connection(client: &Client, target: &Target, caps: &dodai_core::snapshot::Breaker) -> Result<Lease, Failure> {
    let worker = &client.worker;
    let late = || Failure::new(Kind::Timeout, format!("no connection to {} became free in time", target.key.address));
    match client.deadline.bound(worker.pools.take(&target.key, caps)).await.ok_or_else(late)?? {
        Taken::Kept(lease) => Ok(lease),
        Taken::New(slot) => {
            let stream = client.deadline.bound(Box::pin(dial(client, &target.address))).await.ok_or_else(late)??;
            Ok(slot.fill(stream))
        }
    }
}

/// Connects.
pub async fn dial(client: &Client, address: &Address) -> Result<Stream, Failure> {
    let shared = &client.worker.shared;
    match address {
        Address::Socket(address) => shared.network.connect_addr(*address, shared.limits.connect_timeout).await,
        Address::Host(host, port) => shared.network.connect(host, *port, shared.limits.connect_timeout).await,
    }
}

/// What a broken connection to an endpoint means before any response byte.
fn broken_endpoint(broken: &Broken, reused: bool, target: &Target) -> Failure {
    let who = &target.key.address;
    match broken {
        Broken::TimedOut => Failure::new(Kind::Timeout, format!("{who} did not answer in time")),
        Broken::Io(_) if reused => Failure::new(Kind::Stale, format!("{who} closed a kept connection")),
        Broken::Io(error) => Failure::new(Kind::Reset, format!("{who} broke the connection: {error}")),
    }
}

impl Exchange<'_> {
    /// Runs both directions until the response is done. A body that cannot be passed on ends the call only
    /// if the client is to blame; an endpoint that stops reading may still answer.
    async fn both(
        &self,
        respond: impl Future<Output = Response>,
        pump: impl Future<Output = Result<(), PumpError>>,
    ) -> Response {
        let mut respond = std::pin::pin!(respond);
        let mut pump = std::pin::pin!(pump);
        let mut pumping = true;
        poll_fn(|cx| {
            if pumping && let Poll::Ready(pumped) = pump.as_mut().poll(cx) {
                pumping = false;
                match pumped {
                    Ok(()) => self.uploaded.set(true),
                    Err(PumpError::Client(failure)) => {
                        return Poll::Ready(match failure {
                            Some(failure) => Response::Failed(failure),
                            None => Response::ClientGone,
                        });
                    }
                    Err(PumpError::Endpoint) => {}
                }
            }
            respond.as_mut().poll(cx)
        })
        .await
    }

    /// Passes the rest of the request body on.
    async fn pump(&self, upload: &mut Flow, idle: Duration, max: Option<u64>) -> Result<(), PumpError> {
        let (client, worker) = (self.client, &self.client.worker);
        while !upload.is_done() {
            client.upload.set(idle);
            let got = match client.wire.read(worker, &client.upload).await {
                Ok(0) => return Err(PumpError::Client(None)),
                Ok(got) => got,
                Err(Broken::TimedOut) => {
                    let failure = Failure::new(Kind::ClientTimeout, "the request body stood still for too long");
                    return Err(PumpError::Client(Some(failure)));
                }
                Err(Broken::Io(_)) => return Err(PumpError::Client(None)),
            };
            let used = {
                let scratch = worker.scratch.borrow();
                let bad = |bad: h1::BadChunk| PumpError::Client(Some(Failure::new(Kind::BadRequest, bad.0)));
                let used = upload.feed(&scratch[..got]).map_err(bad)?;
                client.carry.borrow_mut().extend_from_slice(&scratch[used..got]);
                used
            };
            self.received.set(self.received.get() + used as u64);
            if max.is_some_and(|max| self.received.get() > max) {
                let failure = Failure::new(Kind::BodyTooLarge, "the body is larger than this route allows");
                return Err(PumpError::Client(Some(failure)));
            }
            self.body_sent.set(true);
            self.up.write_scratch(worker, 0..used, &client.upload).await.map_err(|_| PumpError::Endpoint)?;
        }
        if self.up.with(|stream| stream.is_tls()) {
            self.up.flush().await.map_err(|_| PumpError::Endpoint)?;
        }
        Ok(())
    }

    /// Reads the response and passes it on.
    async fn respond(
        &self,
        edits: &dodai_core::head::Edits,
        terms: &Terms<'_>,
        statuses: &[u16],
        reused: bool,
        target: &Target,
        outcome: &mut Outcome,
    ) -> Response {
        let client = self.client;
        let mut nothing_yet = true;
        loop {
            let got = match self.next_bytes().await {
                Waited::Bytes(got) => got,
                Waited::ClientGone => return Response::ClientGone,
                Waited::Broken(broken) => return Response::Failed(broken_endpoint(&broken, reused && nothing_yet, target)),
            };
            nothing_yet = false;
            let step = self.head(got, edits, statuses, outcome);
            match step {
                Step::More => {}
                Step::Bad(reason) => {
                    let text = format!("{} sent a response that is not HTTP/1.1: {reason}", target.key.address);
                    return Response::Failed(Failure::new(Kind::Protocol, text));
                }
                Step::Status(status) => return Response::Status(status),
                Step::Interim(out) => {
                    if client.wire.write_all(&out, &client.deadline).await.is_err() {
                        return Response::ClientGone;
                    }
                }
                Step::Upgrade(out) => {
                    outcome.status = 101;
                    return match client.wire.write_all(&out, &client.deadline).await {
                        Ok(()) => Response::Upgraded,
                        Err(_) => Response::ClientGone,
                    };
                }
                Step::Final { out, body, flow, keep_up, close } => {
                    let started = self.start(out, body, outcome).await;
                    if started.is_err() {
                        return Response::ClientGone;
                    }
                    return match self.download(flow, terms.idle_timeout, target, outcome).await {
                        Response::Whole { keep_up: ended_well, .. } => Response::Whole { keep_up: keep_up && ended_well, close },
                        other => other,
                    };
                }
            }
        }
    }

    /// Waits for bytes of the endpoint in the scratch buffer; notices when the client leaves meanwhile.
    async fn next_bytes(&self) -> Waited {
        if !self.up_carry.borrow().is_empty() && self.up_carry_has_head() {
            return Waited::Bytes(0);
        }
        let client = self.client;
        poll_fn(|cx| {
            match self.up.poll_read(&client.worker, &client.deadline, cx) {
                Poll::Ready(Ok(0)) => {
                    let error = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "closed without a response");
                    return Poll::Ready(Waited::Broken(Broken::Io(error)));
                }
                Poll::Ready(Ok(got)) => return Poll::Ready(Waited::Bytes(got)),
                Poll::Ready(Err(broken)) => return Poll::Ready(Waited::Broken(broken)),
                Poll::Pending => {}
            }
            if self.uploaded.get() && client.is_gone(cx) {
                return Poll::Ready(Waited::ClientGone);
            }
            Poll::Pending
        })
        .await
    }

    /// Whether what was left over after an interim response holds another whole head.
    fn up_carry_has_head(&self) -> bool {
        memchr::memmem::find(&self.up_carry.borrow(), b"\r\n\r\n").is_some()
    }

    /// Looks at `got` new bytes in the scratch buffer, behind what was left over.
    fn head(&self, got: usize, edits: &dodai_core::head::Edits, statuses: &[u16], outcome: &mut Outcome) -> Step {
        let scratch = self.client.worker.scratch.borrow();
        let mut carried = self.up_carry.take();
        let carries = !carried.is_empty();
        if carries {
            carried.extend_from_slice(&scratch[..got]);
        }
        let bytes: &[u8] = if carries { &carried } else { &scratch[..got] };
        let (step, keep_from) = self.read_head(bytes, !carries, edits, statuses, outcome);
        self.up_carry.replace(bytes[keep_from..].to_vec());
        step
    }

    /// Reads a response head; also says from where on `bytes` must be kept. `in_scratch` tells whether they
    /// can still be written from the scratch buffer.
    fn read_head(
        &self,
        bytes: &[u8],
        in_scratch: bool,
        edits: &dodai_core::head::Edits,
        statuses: &[u16],
        outcome: &mut Outcome,
    ) -> (Step, usize) {
        let worker = &self.client.worker;
        let all = bytes.len();
        let mut headers = HeaderList::new();
        let limit = worker.shared.limits.head_bytes;
        let (response, parsed) = match h1::parse_response(bytes, &mut headers, self.request.is_head, false) {
            Ok(Some(found)) if found.1.len <= limit => found,
            Ok(None) if all <= limit => return (Step::More, 0),
            Ok(_) => return (Step::Bad("its head is too large".to_owned()), all),
            Err(bad) => return (Step::Bad(bad.to_string()), all),
        };
        let mut out = worker.buffer();
        if response.status < 200 {
            let upgraded = response.status == 101;
            if upgraded && !self.request.upgrade {
                return (Step::Bad("it switched protocols without being asked".to_owned()), all);
            }
            let none = dodai_core::head::Edits::new();
            h1::write_response(&mut out, bytes, &response, &headers, &parsed, &none, false);
            return (if upgraded { Step::Upgrade(out) } else { Step::Interim(out) }, parsed.len);
        }
        if statuses.contains(&response.status) && self.request.idempotent && !self.body_sent.get() {
            return (Step::Status(response.status), all);
        }
        let until_close = parsed.framing == h1::Framing::UntilClose;
        let close = !self.request.keep_alive || until_close || !self.uploaded.get() || worker.tasks.is_closing();
        h1::write_response(&mut out, bytes, &response, &headers, &parsed, edits, close);
        let mut flow = Flow::new(parsed.framing, &worker.shared.limits);
        let rest = &bytes[parsed.len..];
        let used = match flow.feed(rest) {
            Ok(used) => used,
            Err(bad) => return (Step::Bad(bad.0.to_owned()), all),
        };
        outcome.status = response.status;
        outcome.first_byte = Some(self.request.lap.start.elapsed());
        let body = if !in_scratch || used <= COPY {
            out.extend_from_slice(&rest[..used]);
            Body::Copied(used)
        } else {
            Body::Scratch(parsed.len..parsed.len + used)
        };
        let keep_up = parsed.keep_alive && !until_close && used == rest.len();
        (Step::Final { out, body, flow, keep_up, close }, all)
    }

    /// Writes the response head with what came of the body.
    async fn start(&self, out: Vec<u8>, body: Body, outcome: &mut Outcome) -> Result<(), Broken> {
        let client = self.client;
        let written = match body {
            Body::Copied(length) => {
                outcome.sent += length as u64;
                client.wire.write_all(&out, &client.deadline).await
            }
            Body::Scratch(range) => {
                outcome.sent += range.len() as u64;
                client.wire.write_head_and_scratch(&client.worker, &out, range, &client.deadline).await
            }
        };
        client.worker.recycle(out);
        written?;
        if client.side.secure { client.wire.flush().await } else { Ok(()) }
    }

    /// Passes the rest of the response body on.
    async fn download(&self, mut flow: Flow, idle: Duration, target: &Target, outcome: &mut Outcome) -> Response {
        let (client, worker) = (self.client, &self.client.worker);
        let mut clean = true;
        while !flow.is_done() {
            client.deadline.set(idle);
            let got = match self.up.read(worker, &client.deadline).await {
                Ok(0) if matches!(flow, Flow::UntilClose) => break,
                Ok(0) => return Response::Cut(Failure::new(Kind::Reset, format!("{} ended in the middle", target.key.address))),
                Ok(got) => got,
                Err(Broken::TimedOut) => {
                    return Response::Cut(Failure::new(Kind::Idle, format!("{} stood still for too long", target.key.address)));
                }
                Err(Broken::Io(error)) => {
                    return Response::Cut(Failure::new(Kind::Reset, format!("{} broke off: {error}", target.key.address)));
                }
            };
            let used = match flow.feed(&worker.scratch.borrow()[..got]) {
                Ok(used) => used,
                Err(bad) => return Response::Cut(Failure::new(Kind::Protocol, bad.0)),
            };
            clean &= used == got;
            outcome.sent += used as u64;
            if client.wire.write_scratch(worker, 0..used, &client.deadline).await.is_err() {
                return Response::ClientGone;
            }
            if client.side.secure && client.wire.flush().await.is_err() {
                return Response::ClientGone;
            }
        }
        Response::Whole { keep_up: clean, close: false }
    }
}

enum PumpError {
    /// The client's doing; with nothing to say if it is gone.
    Client(Option<Failure>),
    /// The endpoint does not read on.
    Endpoint,
}

enum Waited {
    Bytes(usize),
    ClientGone,
    Broken(Broken),
}

enum Body {
    Copied(usize),
    Scratch(std::ops::Range<usize>),
}

enum Step {
    More,
    Bad(String),
    Status(u16),
    Interim(Vec<u8>),
    Upgrade(Vec<u8>),
    Final { out: Vec<u8>, body: Body, flow: Flow, keep_up: bool, close: bool },
}
