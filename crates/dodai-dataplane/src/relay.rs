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
use dodai_core::head::Edits;

use crate::attempt::{Sent, Terms};
use crate::endpoint::Need;
use crate::foreign;
use crate::h1::{self, Flow, HeaderList};
use crate::pipe;
use crate::reach::{self, Target};
use crate::refused::Refused;
use crate::request::Request;
use crate::serve_h1::{Client, Next};
use crate::spine::{Forward, Headers, Outcome};
use crate::timer::Patience;
use crate::wire::{Broken, Wire};

/// Response bodies up to this size are copied behind the head; larger ones are written beside it.
const COPY: usize = 4096;

/// A response is held back while no more than this is missing of its body: its head says nothing yet that
/// anybody could use. nginx does so below `postpone_output`, 1,460 bytes
/// (<https://nginx.org/en/docs/http/ngx_http_core_module.html#postpone_output>).
const SHORT: u64 = 1460;

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
    /// The endpoint answered with a status that is tried again after this wait.
    Again(u16, Duration),
}

/// Whether an answer is tried again, and after which wait. A yes is charged to the retry budget.
pub type Again<'a> = &'a dyn Fn(Refused, Sent) -> Option<Duration>;

/// A connection to an endpoint during one call.
struct Exchange<'a> {
    client: &'a Client,
    request: &'a Request,
    /// How the call is sent on, if by a route.
    forward: Option<&'a Forward>,
    up: &'a Wire,
    up_carry: RefCell<Vec<u8>>,
    body_sent: Cell<bool>,
    /// Whether a byte of a response may have reached the client.
    started: Cell<bool>,
    uploaded: Cell<bool>,
    received: Cell<u64>,
}

/// How the response side ended.
enum Response {
    /// The body is whole; whether the endpoint's connection can serve another call, and whether we close.
    Whole { keep_up: bool, close: bool },
    /// The endpoint agreed to another protocol.
    Upgraded,
    /// A status that is tried again.
    Again(u16, Duration),
    /// Before any response byte.
    Failed(Failure),
    /// After the head was sent.
    Cut(Failure),
    /// The client is gone.
    ClientGone,
}

/// One try at an HTTP/1 endpoint.
pub fn once<'a>(
    client: &'a Client,
    request: &'a mut Request,
    forward: &'a Forward,
    target: &'a Target,
    terms: &'a Terms<'_>,
    again: Again<'a>,
    outcome: &'a mut Outcome,
) -> impl Future<Output = Ended> {
    let breaker = &forward.service.spec.breaker;
    exchange(client, request, target, breaker, Some(forward), terms, again, outcome)
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
    exchange(client, request, target, &caps, None, terms, &|_, _| None, outcome).await
}

#[expect(clippy::too_many_arguments, reason = "one call's parts, from two callers")]
async fn exchange(
    client: &Client,
    request: &mut Request,
    target: &Target,
    caps: &dodai_core::snapshot::Breaker,
    forward: Option<&Forward>,
    terms: &Terms<'_>,
    again: Again<'_>,
    outcome: &mut Outcome,
) -> Ended {
    let need = Need::of(request.idempotent);
    let (up, keep, reused) =
        match reach::connection(&client.worker, &client.deadline, target, caps, need).await {
            Ok(found) => found,
            Err(failure) => return Ended::Failed(failure, Sent::NOTHING),
        };
    request.lap.reached();
    let took_it = match up.write_all(&request.bytes, &client.deadline).await {
        Ok(()) => !up.with(|stream| stream.is_tls()) || up.flush(&client.deadline).await.is_ok(),
        // An endpoint may answer, close, and never read the rest: its answer counts, if there is one.
        Err(Broken::Io(_)) => false,
        Err(Broken::TimedOut) => {
            return Ended::Failed(broken_endpoint(&Broken::TimedOut, reused, target), Sent::HEAD);
        }
    };
    let mut upload = std::mem::replace(&mut request.upload, Flow::Done);
    let exchange = Exchange {
        client,
        request,
        forward,
        up: &up,
        up_carry: RefCell::default(),
        body_sent: Cell::new(false),
        started: Cell::new(false),
        uploaded: Cell::new(took_it && upload.is_done()),
        received: Cell::new((request.bytes.len() - request.head_len) as u64),
    };
    let response = if upload.is_done() || !took_it {
        exchange.respond(terms, again, reused, target, outcome).await
    } else {
        client.upload.set_at(terms.patience.due());
        let respond = exchange.respond(terms, again, reused, target, outcome);
        // Boxed, so that connections which wait or download do not pay for both directions.
        let response = Box::pin(exchange.both(respond, exchange.pump(&mut upload, terms))).await;
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
                keep.keep(up.into_inner(), client.worker.ticked());
            }
            if close || !uploaded {
                return Ended::Answered(Next::Linger);
            }
            Ended::Answered(Next::Keep)
        }
        Response::Upgraded => {
            let carry = std::mem::take(&mut *client.carry.borrow_mut());
            let joined = pipe::upgraded(client, request, forward, &up, carry, up_carry);
            ([outcome.received, outcome.sent], outcome.failure) = Box::pin(joined).await;
            Ended::Answered(Next::Close)
        }
        Response::Again(status, wait) => Ended::Again(status, wait),
        Response::Failed(failure) => {
            if failure.kind == Kind::Stale {
                keep.died();
            }
            Ended::Failed(failure, sent)
        }
        Response::Cut(failure) => Ended::Cut(failure),
        Response::ClientGone => Ended::ClientGone,
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
                            Some(failure) if self.started.get() => Response::Cut(failure),
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
    async fn pump(&self, upload: &mut Flow, terms: &Terms<'_>) -> Result<(), PumpError> {
        let (client, worker) = (self.client, &self.client.worker);
        while !upload.is_done() {
            client.upload.set_at(terms.patience.due());
            let got = match client.wire.read(worker, &client.upload).await {
                Ok(0) => return Err(PumpError::Client(None)),
                Ok(got) => got,
                Err(Broken::TimedOut) => {
                    let text = "the request body stood still for too long";
                    return Err(PumpError::Client(Some(terms.patience.late(Kind::ClientTimeout, text))));
                }
                Err(Broken::Io(_)) => return Err(PumpError::Client(None)),
            };
            self.review().map_err(|failure| PumpError::Client(Some(failure)))?;
            let used = {
                let scratch = worker.scratch.borrow();
                let bad = |bad: h1::BadChunk| PumpError::Client(Some(Failure::new(Kind::BadRequest, bad.0)));
                let used = upload.feed(&scratch[..got]).map_err(bad)?;
                client.carry.borrow_mut().extend_from_slice(&scratch[used..got]);
                used
            };
            self.received.set(self.received.get() + used as u64);
            if terms.max_body.is_some_and(|max| self.received.get() - upload.coding() > max) {
                let failure = Failure::new(Kind::BodyTooLarge, "the body is larger than this route allows");
                return Err(PumpError::Client(Some(failure)));
            }
            self.body_sent.set(true);
            self.up.write_scratch(worker, 0..used, &client.upload).await.map_err(|_| PumpError::Endpoint)?;
        }
        if self.up.with(|stream| stream.is_tls()) {
            self.up.flush(&client.upload).await.map_err(|_| PumpError::Endpoint)?;
        }
        Ok(())
    }

    /// Reads the response and passes it on.
    async fn respond(
        &self,
        terms: &Terms<'_>,
        again: Again<'_>,
        reused: bool,
        target: &Target,
        outcome: &mut Outcome,
    ) -> Response {
        let mut nothing_yet = true;
        let mut interim = false;
        loop {
            // Behind an interim response the next head may lie in what was read already.
            let got = match if interim { Waited::Bytes(0) } else { self.next_bytes().await } {
                Waited::Bytes(0) if !interim => {
                    let ended =
                        std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "closed without a response");
                    return Response::Failed(broken_endpoint(
                        &Broken::Io(ended),
                        reused && nothing_yet,
                        target,
                    ));
                }
                Waited::Bytes(got) => got,
                Waited::ClientGone => return Response::ClientGone,
                Waited::Broken(broken) => {
                    return Response::Failed(broken_endpoint(&broken, reused && nothing_yet, target));
                }
            };
            interim = false;
            nothing_yet = false;
            if let Err(failure) = self.review() {
                return Response::Failed(failure);
            }
            let mut step = self.head(got, again, outcome);
            match step {
                Step::More => {}
                Step::Bad(reason) => {
                    let text =
                        format!("{} sent a response that is not HTTP/1.1: {reason}", target.key.address);
                    return Response::Failed(Failure::new(Kind::Protocol, text));
                }
                Step::Again(status, wait) => return Response::Again(status, wait),
                Step::Interim(out) => {
                    if self.tell(out).await.is_err() {
                        return Response::ClientGone;
                    }
                    self.started.set(false);
                    interim = true;
                }
                Step::Upgrade(out) => {
                    outcome.status = 101;
                    return match self.tell(out).await {
                        Ok(()) => Response::Upgraded,
                        Err(_) => Response::ClientGone,
                    };
                }
                Step::Final(ref mut last) => {
                    return match self.pass_on(last, &terms.patience, target, outcome).await {
                        Ok(()) => Response::Whole { keep_up: last.keep_up, close: last.close },
                        Err(ended) => ended,
                    };
                }
            }
        }
    }

    /// Writes a head without a body.
    async fn tell(&self, out: Vec<u8>) -> Result<(), Broken> {
        let client = self.client;
        self.started.set(true);
        client.wire.write_all(&out, &client.deadline).await?;
        client.worker.recycle(out);
        if client.side.secure { client.wire.flush(&client.deadline).await } else { Ok(()) }
    }

    /// Waits for bytes of the endpoint in the scratch buffer; notices when the client leaves meanwhile.
    async fn next_bytes(&self) -> Waited {
        let client = self.client;
        poll_fn(|cx| {
            match self.up.poll_read(&client.worker, &client.deadline, cx) {
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

    /// Looks at `got` new bytes in the scratch buffer, behind what was left over.
    fn head(&self, got: usize, again: Again<'_>, outcome: &mut Outcome) -> Step {
        let scratch = self.client.worker.scratch.borrow();
        let mut carried = self.up_carry.take();
        let carries = !carried.is_empty();
        if carries {
            carried.extend_from_slice(&scratch[..got]);
        }
        let bytes: &[u8] = if carries { &carried } else { &scratch[..got] };
        let (step, keep_from) = self.read_head(bytes, !carries, again, outcome);
        self.up_carry.replace(bytes[keep_from..].to_vec());
        step
    }

    /// Reads a response head; also says from where on `bytes` must be kept. `in_scratch` tells whether they
    /// can still be written from the scratch buffer.
    fn read_head(
        &self,
        bytes: &[u8],
        in_scratch: bool,
        again: Again<'_>,
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
            Err(bad) => return (Step::Bad(foreign::bad_answer(&bad, bytes)), all),
        };
        let mut out = worker.buffer();
        if response.status < 200 {
            let upgraded = response.status == 101;
            if upgraded && !self.request.upgrade {
                return (Step::Bad("it switched protocols without being asked".to_owned()), all);
            }
            h1::write_response(&mut out, bytes, &response, &headers, &parsed, &Edits::new(), false);
            return (if upgraded { Step::Upgrade(out) } else { Step::Interim(out) }, parsed.len);
        }
        let refused = Refused::of(response.status, || Headers::Raw(&headers).get("retry-after"));
        if let Some(wait) = again(refused, Sent { any: true, body: self.body_sent.get() }) {
            return (Step::Again(response.status, wait), all);
        }
        let until_close = parsed.framing == h1::Framing::UntilClose;
        let close =
            !self.request.keep_alive || until_close || !self.uploaded.get() || self.client.is_ending();
        let mut edits = Edits::new();
        self.request.response_edits(self.forward, outcome.endpoint.as_deref(), &mut edits);
        h1::write_response(&mut out, bytes, &response, &headers, &parsed, &edits, close);
        let mut flow = Flow::new(parsed.framing, &worker.shared.limits);
        let rest = &bytes[parsed.len..];
        let used = match flow.feed(rest) {
            Ok(used) => used,
            Err(bad) => return (Step::Bad(bad.0.to_owned()), all),
        };
        outcome.status = response.status;
        outcome.answered(&self.request.lap, worker.now());
        self.request.lap.note(worker, |name| Headers::Raw(&headers).get(name));
        let body = if !in_scratch || used <= COPY {
            out.extend_from_slice(&rest[..used]);
            Body::Copied(used)
        } else {
            Body::Scratch(parsed.len..parsed.len + used)
        };
        let keep_up = parsed.keep_alive && !until_close && used == rest.len();
        (Step::Final(Final { out, body, flow, keep_up, close, until_close }), all)
    }

    /// Whether the call may go on, as far as the newest table says.
    fn review(&self) -> Result<(), Failure> {
        self.request.review(self.client, self.forward)
    }

    /// Writes the response head with what came of the body, then passes the rest on.
    async fn pass_on(
        &self,
        last: &mut Final,
        patience: &Patience,
        target: &Target,
        outcome: &mut Outcome,
    ) -> Result<(), Response> {
        let (client, worker) = (self.client, &self.client.worker);
        // Both in one write, as many endpoints send the two apart. As long as nothing was written, a body that
        // breaks off is a failed try and not a cut response. It waits no longer than the head itself could have been
        // waited for, no longer than nothing may move, and not while the client still sends: that may wait for the head.
        let (mut moved, mut ends_try) = (false, None);
        while self.uploaded.get()
            && matches!((&last.body, &last.flow), (Body::Copied(_), Flow::Length(1..=SHORT)))
        {
            let ends_try = *ends_try.get_or_insert_with(|| client.deadline.bounds(patience.due()));
            let waited = self.next_bytes().await;
            if matches!(waited, Waited::Broken(Broken::TimedOut))
                && !patience.is_over()
                && (ends_try || moved)
            {
                client.deadline.set_at(patience.due());
                break;
            }
            let used = self.arrived(waited, last, patience, target).map_err(|ended| {
                (outcome.status, outcome.answered_at, outcome.first_byte) = (0, None, None);
                if let Response::Cut(failure) = ended { Response::Failed(failure) } else { ended }
            })?;
            moved = true;
            last.out.extend_from_slice(&worker.scratch.borrow()[..used]);
            if let Body::Copied(copied) = &mut last.body {
                *copied += used;
            }
        }
        self.started.set(true);
        if last.until_close {
            client.wire.with(|stream| stream.set_abrupt(true));
        }
        let written = match &last.body {
            Body::Copied(length) => {
                outcome.sent += *length as u64;
                client.wire.write_all(&last.out, &client.deadline).await
            }
            Body::Scratch(range) => {
                outcome.sent += range.len() as u64;
                client.wire.write_head_and_scratch(worker, &last.out, range.clone(), &client.deadline).await
            }
        };
        worker.recycle(std::mem::take(&mut last.out));
        if written.is_err() || client.side.secure && client.wire.flush(&client.deadline).await.is_err() {
            return Err(Response::ClientGone);
        }
        while !last.flow.is_done() {
            client.deadline.set_at(patience.due());
            let used = self.arrived(self.next_bytes().await, last, patience, target)?;
            outcome.sent += used as u64;
            // The wait for the endpoint is not the client's fault.
            client.deadline.set_at(patience.due());
            let mut written = client.wire.write_scratch(worker, 0..used, &client.deadline).await;
            if client.side.secure && written.is_ok() {
                written = client.wire.flush(&client.deadline).await;
            }
            if let Err(broken) = written {
                return Err(unwritten(&broken, patience));
            }
        }
        if last.until_close {
            client.wire.with(|stream| stream.set_abrupt(false));
        }
        Ok(())
    }

    /// What the wait for a response body brought: how many bytes of it lie in the scratch buffer.
    fn arrived(
        &self,
        waited: Waited,
        last: &mut Final,
        patience: &Patience,
        target: &Target,
    ) -> Result<usize, Response> {
        let (worker, who) = (&self.client.worker, &target.key.address);
        let cut = |kind, what: &str| Err(Response::Cut(Failure::new(kind, format!("{who} {what}"))));
        let got = match waited {
            Waited::Bytes(0) if matches!(last.flow, Flow::UntilClose) => {
                last.flow = Flow::Done;
                0
            }
            Waited::Bytes(0) => return cut(Kind::Reset, "ended in the middle"),
            Waited::Bytes(got) => got,
            Waited::ClientGone => return Err(Response::ClientGone),
            Waited::Broken(Broken::TimedOut) => {
                let text = format!("{who} stood still for too long");
                return Err(Response::Cut(patience.late(Kind::Idle, text)));
            }
            Waited::Broken(Broken::Io(error)) => return cut(Kind::Reset, &format!("broke off: {error}")),
        };
        self.review().map_err(Response::Cut)?;
        match last.flow.feed(&worker.scratch.borrow()[..got]) {
            Ok(used) => {
                last.keep_up &= used == got;
                Ok(used)
            }
            Err(bad) => Err(Response::Cut(Failure::new(Kind::Protocol, bad.0))),
        }
    }
}

/// What it means that the client did not take what there was for it.
fn unwritten(broken: &Broken, patience: &Patience) -> Response {
    match broken {
        Broken::TimedOut if patience.is_over() => Response::Cut(patience.late(Kind::Idle, "")),
        Broken::TimedOut | Broken::Io(_) => Response::ClientGone,
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
    Again(u16, Duration),
    Interim(Vec<u8>),
    Upgrade(Vec<u8>),
    Final(Final),
}

/// The last head of a response, with where its body stands.
struct Final {
    out: Vec<u8>,
    body: Body,
    flow: Flow,
    /// Whether the endpoint's connection can serve another call.
    keep_up: bool,
    /// Whether we close the client's.
    close: bool,
    /// Whether the body is whole when the client's ends in order: before, it may not.
    until_close: bool,
}
