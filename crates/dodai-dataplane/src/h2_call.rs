//! One call that arrived over HTTP/2: decided on its head as it came, then relayed to another HTTP/2 stream, or
//! carried as a parsed message to everything else.

use std::cell::{Cell, LazyCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use dodai_core::call::{Call, Context, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edits, RawHeader, RawRequest, RequestHead, is_idempotent};
use dodai_core::snapshot::{Protocol, Role};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::attempt::{DEFAULT_RETRY, Sent, Tries};
use crate::h2::{Block, Pseudo, Receiving, Sending};
use crate::h2_relay::{self, Downstream, Ended};
use crate::later;
use crate::limits::MAX_HEADERS;
use crate::reach::{self, Reach};
use crate::refused::Refused;
use crate::request::Side;
use crate::review::Came;
use crate::serve_h2::{Live, clean, grpc_failure, http_failure};
use crate::service::{self, Endpoint, Verdict, now_nanos};
use crate::spine::{self, Decision, Entry, Forward, Headers, Lap, Line, Outcome};
use crate::timer::Patience;
use crate::under_way::UnderWay;
use crate::worker::Worker;
use crate::{h2_body, h2_head, h2_tunnel, message};

/// How a head reads as a request.
pub struct View<'a> {
    pseudo: Pseudo<'a>,
    headers: SmallVec<[RawHeader<'a>; 24]>,
}

impl<'a> View<'a> {
    /// The view of a head.
    pub fn of(head: &'a Block) -> View<'a> {
        let text = |name: &'a [u8]| std::str::from_utf8(name).unwrap_or("");
        let fields = head.iter().filter(|(name, ..)| name.first() != Some(&b':'));
        let headers = fields.map(|(name, value, _)| RawHeader { name: text(name), value }).collect();
        View { pseudo: Pseudo::of(head), headers }
    }

    /// The same as the stations want it.
    pub fn head(&self) -> RequestHead<'_> {
        RequestHead::Raw(RawRequest {
            method: self.pseudo.method,
            target: if self.pseudo.path.is_empty() { "/" } else { self.pseudo.path },
            authority: self.pseudo.authority,
            headers: &self.headers,
        })
    }
}

/// Serves one stream.
pub async fn serve(
    worker: Rc<Worker>,
    side: Rc<Side>,
    head: Block,
    receiving: Receiving,
    sending: Sending,
    live: Live,
) {
    if !head.is_oversized() && head.get(b":method") == Some(b"CONNECT") {
        Box::pin(h2_tunnel::serve(&worker, &side, &head, receiving, sending)).await;
        return drop(live);
    }
    let side = belonging(side, &head);
    // Before the table, so that a newer one is not taken for the one that decides.
    let epoch = worker.shared.epoch.load(Acquire);
    let decided = decide(&worker, &side, &head).await;
    match decided {
        Ok(Decided { decision: Ok(Decision::Forward(forward)), edits, lap }) if relays(&forward, &head) => {
            relay(&worker, &side, Downstream::new(head, edits, receiving, sending, epoch), forward, lap)
                .await;
        }
        decided => Box::pin(parsed(&worker, &side, head, (receiving, sending), decided, epoch)).await,
    }
    drop(live);
}

/// The connection as one call sees it: behind a trusted proxy each may have another client.
fn belonging(side: Rc<Side>, head: &Block) -> Rc<Side> {
    let Some(via) = &side.via else { return side };
    let mut own = Side::clone(&side);
    own.belong_to(Some(via.client(&View::of(head).head())));
    Rc::new(own)
}

/// Whether a call is relayed as it is, unless its endpoint turns out to be in this process. What is seldom asked for
/// is done with parsed messages only.
fn relays(forward: &Forward, head: &Block) -> bool {
    let by_http2 = matches!(forward.service.spec.protocol, Protocol::Http2 | Protocol::Grpc);
    let is_plain = forward.mirrors.is_empty() && forward.fault.is_none();
    let hedges = || forward.hedge(head.get(b":method").is_some_and(is_idempotent)).is_some();
    by_http2 && is_plain && !hedges() && !later::is_deep(&forward.service.inbound) && !forward.retries_grpc()
}

/// Why no try brought an answer.
enum Stopped {
    Failed(Failure),
    /// The endpoint is in this process, and nothing of the body was used up.
    InProcess,
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Stopped {
        Stopped::Failed(failure)
    }
}

struct Decided {
    decision: Result<Decision, Failure>,
    edits: Edits,
    lap: Lap,
}

/// Stations route and filter. An error means that it is no call at all.
async fn decide(worker: &Worker, side: &Side, head: &Block) -> Result<Decided, Failure> {
    if head.is_oversized() {
        let text = format!("the request head is larger than {} bytes", worker.shared.limits.head_bytes);
        return Err(Failure::new(Kind::HeadTooLarge, text));
    }
    let view = View::of(head);
    if view.headers.len() > MAX_HEADERS {
        let text = format!("{} headers; at most {MAX_HEADERS} are taken", view.headers.len());
        return Err(Failure::new(Kind::HeadTooLarge, text));
    }
    if let Role::Outbound { app } = &side.listener.role
        && let Some(wanted) = worker.shared.asks_for(view.head().host(), app.namespace.as_str())
    {
        worker.shared.wait_for(&wanted).await;
    }
    let (span, ours) = spine::span(&view.head(), worker);
    let drawn = Cell::new(span);
    let mut lap = Lap::new(spine::direction(&side.listener.role), side.label.clone(), span, Instant::now());
    let (routed, stamps) = (Cell::new(None), worker.stamps(&span));
    let redraws = ours.then_some(&drawn);
    let entry = Entry { routed: stamps.then_some(&routed), redraws, ..side.entry() };
    let mut edits = Edits::new();
    let decision = match &side.listener.role {
        Role::Api { .. } => Ok(Decision::Api),
        Role::Gateway { .. }
        | Role::Outbound { .. }
        | Role::Dependency { .. }
        | Role::Mesh
        | Role::Captured(_) => {
            let table = worker.shared.table.load();
            spine::admit(&table, &entry, &view.head(), &span, lap.start, &mut edits)
        }
    };
    lap.span = drawn.get();
    if worker.stamps(&lap.span) {
        lap.admitted(routed.get());
    }
    Ok(Decided { decision, edits, lap })
}

/// What the records call the protocol.
fn protocol(is_grpc: bool) -> &'static str {
    if is_grpc { "gRPC" } else { "HTTP/2" }
}

/// Whether a message is one of gRPC.
pub fn is_grpc(head: &Block) -> bool {
    head.get(b"content-type").is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// Relays a call between two streams, trying endpoints until one answers.
async fn relay(worker: &Rc<Worker>, side: &Side, mut client: Downstream, mut forward: Forward, lap: Lap) {
    let mut outcome = Outcome::default();
    let deadline = worker.spare_deadline();
    let failure = loop {
        match tries(worker, side, &mut client, &forward, &lap, &deadline, &mut outcome).await {
            Ok(()) => break None,
            Err(Stopped::Failed(failure)) => {
                match forward.renewed(worker).filter(|_| failure.kind == Kind::NoEndpoint) {
                    // All endpoints were closed by a newer table than the one that led here.
                    Some(newer) => forward = newer,
                    None => break Some(failure),
                }
            }
            Err(Stopped::InProcess) => {
                forward.begun = true;
                let epoch = client.epoch;
                let (head, edits, receiving, sending) = client.into_parts();
                let decided = Ok(Decided { decision: Ok(Decision::Forward(forward)), edits, lap });
                return Box::pin(parsed(worker, side, head, (receiving, sending), decided, epoch)).await;
            }
        }
    };
    deadline.clear();
    worker.spare(deadline);
    let is_grpc = is_grpc(&client.head);
    if let Some(failure) = failure {
        outcome.status = failure.kind.http_status();
        outcome.grpc_status = is_grpc.then(|| failure.kind.grpc_status());
        let reply = failed(&failure, is_grpc);
        outcome.failure = Some(failure);
        let bodiless = client.head.get(b":method") == Some(b"HEAD");
        answer(worker, client.sending(), reply, bodiless).await;
    }
    outcome.received = client.received();
    let view = LazyCell::new(|| View::of(&client.head));
    let line = || Line {
        listener: &side.listener.name,
        from: side.from(),
        headers: Headers::Edited(&view.headers, &client.edits),
        method: view.pseudo.method,
        target: view.pseudo.path,
        authority: view.pseudo.authority,
        protocol: protocol(is_grpc),
    };
    lap.finish(worker, Some(&forward.service), forward.rule.as_deref(), &outcome, line);
}

/// Station attempt. An error means that the client has no answer yet.
async fn tries(
    worker: &Rc<Worker>,
    side: &Side,
    client: &mut Downstream,
    forward: &Forward,
    lap: &Lap,
    deadline: &crate::timer::Deadline,
    outcome: &mut Outcome,
) -> Result<(), Stopped> {
    let service = &forward.service;
    let terms = forward.terms(lap.start, &worker.shared.limits);
    let retry = terms.retry.unwrap_or(&DEFAULT_RETRY);
    if !forward.begun {
        service.budget.deposit(retry);
    }
    over_limit(&client.head, terms.max_body)?;
    let idempotent = client.head.get(b":method").is_some_and(is_idempotent);
    let told = forward.left.map(|left| lap.start + left);
    let mut tries = Tries::new(&terms, idempotent, lap.start, told);
    loop {
        let now = if tries.tried().is_empty() { lap.start } else { Instant::now() };
        let nanos = service::nanos(now);
        let endpoint = service.pick_at(nanos, &forward.wish(tries.tried()))?;
        tries.begin(endpoint.id);
        lap.tried();
        outcome.retries = tries.retries();
        outcome.endpoint = Some(endpoint.clone());
        let attempt = endpoint.attempt(nanos);
        deadline.set_at(tries.try_deadline(&terms, now));
        if now > lap.start {
            crate::deadline::retell(&mut client.edits, tries.told(&terms, service, now));
        }
        let again = |refused: Refused, sent: Sent| {
            tries.again_after_status(retry, refused, sent, &service.budget, Instant::now)
        };
        let ended = match way(worker, side, &client.head, forward, &endpoint) {
            Err(failure) => Ended::Failed(failure, Sent::NOTHING),
            Ok(Reach::Http2(target)) => {
                h2_relay::once(worker, side, client, forward, &target, &terms, deadline, &again, lap, outcome)
                    .await
            }
            Ok(Reach::Http1(_) | Reach::Serve(..)) if client.received() == 0 => {
                return Err(Stopped::InProcess);
            }
            Ok(Reach::Http1(_) | Reach::Serve(..)) => {
                let text = format!("{} came to run in this process between two tries", service.label);
                return Err(Stopped::Failed(Failure::new(Kind::Reset, text)));
            }
        };
        match ended {
            Ended::Answered => {
                let at = outcome.answered_at.map_or_else(now_nanos, service::nanos);
                service.answered(&attempt, Verdict::of(outcome.status, outcome.grpc_status), at);
                return Ok(());
            }
            Ended::ClientGone => {
                outcome.failure = Some(Failure::new(Kind::ClientGone, "the client went away"));
                return Ok(());
            }
            Ended::Cut(failure) => {
                service.broke(attempt, failure.kind);
                outcome.failure = Some(failure);
                return Ok(());
            }
            Ended::Failed(failure, sent) => {
                // One that was closed before it got anything: a deploy may have come between.
                if failure.kind == Kind::NoEndpoint && forward.renewed(worker).is_some() {
                    return Err(Stopped::Failed(failure));
                }
                if tries.is_forgivable(&failure, sent) {
                    tries.forgive();
                    continue;
                }
                service.broke(attempt, failure.kind);
                match tries.again(retry, &failure, sent, &service.budget, Instant::now()) {
                    Some(wait) => Box::pin(tokio::time::sleep(wait)).await,
                    None => return Err(Stopped::Failed(failure)),
                }
            }
            Ended::Again(status, wait) => {
                service.failed(&attempt, Verdict::Status(status));
                drop(attempt);
                Box::pin(tokio::time::sleep(wait)).await;
            }
        }
    }
}

/// How to talk to the endpoint, after the callee's own checks if it is on this base.
fn way(
    worker: &Worker,
    side: &Side,
    head: &Block,
    forward: &Forward,
    endpoint: &Arc<Endpoint>,
) -> Result<Reach, Failure> {
    let service = &forward.service;
    let reach = reach::of(endpoint, service, &side.caller, &worker.shared)?;
    let reach = reach.by(forward.rule.as_deref()).behalf_of(side);
    if reach.is_checked_here() && !service.inbound.is_empty() {
        let again = forward.counted.replace(true);
        spine::admit_inbound(service, &View::of(head).head(), &side.caller, again)?;
    }
    Ok(reach)
}

/// Refuses a body that announces to be too long.
fn over_limit(head: &Block, max: Option<u64>) -> Result<(), Failure> {
    let Some(max) = max else { return Ok(()) };
    let announced = head.get(b"content-length").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    match announced {
        Some(length) if length > max => {
            let text = format!("the body is {length} bytes; at most {max} are allowed here");
            Err(Failure::new(Kind::BodyTooLarge, text))
        }
        Some(0..) | None => Ok(()),
    }
}

/// Carries a call as a parsed message.
async fn parsed(
    worker: &Rc<Worker>,
    side: &Side,
    block: Block,
    (receiving, mut sending): (Receiving, Sending),
    decided: Result<Decided, Failure>,
    epoch: u64,
) {
    let is_grpc = is_grpc(&block);
    let is_head = block.get(b":method") == Some(b"HEAD");
    let answered = async {
        let Decided { decision, edits, lap } = decided?;
        let mut head = h2_head::request(&block)?;
        let length = h2_body::announced(&head.headers);
        let body = h2_body::received(receiving, length, worker.shared.limits.trailer_bytes, Kind::BadRequest);
        let mut context = Context::new(side.caller.clone(), lap.span);
        context.hops = spine::hops(&RequestHead::Map(&head));
        if let Role::Api { app } = &side.listener.role {
            return api(worker, side, app, Call { head, body, context }, is_grpc, &lap).await;
        }
        if let Ok(Decision::Forward(_) | Decision::External | Decision::Later(_)) = decision {
            edits.apply_to_request(&mut head);
        }
        let came = decision.as_ref().is_ok_and(Decision::keeps_head).then_some(Came::Block(block));
        let call = Call { head, body, context };
        message::decided(worker, side, call, protocol(is_grpc), lap, (decision, epoch), came).await
    };
    let result = tokio::select! {
        // A reset ends the call: dropping `answered` cancels it everywhere.
        result = answered => result,
        _gone = poll_fn(|cx| sending.poll_gone(cx)) => return,
    };
    let reply = result.unwrap_or_else(|failure| failed(&failure, is_grpc));
    answer(worker, &mut sending, reply, is_head).await;
}

fn failed(failure: &Failure, is_grpc: bool) -> Reply {
    if is_grpc { grpc_failure(failure) } else { http_failure(failure) }
}

/// Sends an answer of our own, or of something that is no HTTP/2 stream.
async fn answer(worker: &Worker, sending: &mut Sending, reply: Reply, bodiless: bool) {
    let Reply { mut head, body } = reply;
    clean(&mut head.headers);
    let empty = bodiless || http_body::Body::is_end_stream(&body);
    let own = Patience { idle: worker.shared.limits.idle_timeout, end: None };
    let patience = head.extensions.get().copied().unwrap_or(own);
    let kind = head.headers.get(http::header::CONTENT_TYPE);
    let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    sending.head(empty, |encoder, out| h2_head::write_response(encoder, out, &head));
    if !empty {
        let deadline = worker.deadlines.register();
        let _cut = h2_body::send(sending, body, &deadline, &patience, is_grpc).await;
    }
}

/// A call of the runtime API.
async fn api(
    worker: &Rc<Worker>,
    side: &Side,
    app: &dodai_core::id::AppId,
    mut call: Call,
    is_grpc: bool,
    lap: &Lap,
) -> Result<Reply, Failure> {
    let api = worker.shared.apis.load().get(app).cloned();
    let (method, target) = (call.head.method.clone(), call.head.uri.path().to_owned());
    let limits = &worker.shared.limits;
    call.context.deadline = Some((Instant::now() + limits.call_timeout).into_std());
    let line = || Line {
        listener: &side.listener.name,
        from: side.from(),
        headers: Headers::None,
        method: method.as_str(),
        target: &target,
        authority: "",
        protocol: protocol(is_grpc),
    };
    let under_way = UnderWay::new(worker, lap, line);
    let result = match api {
        Some(api) => {
            let late =
                |_| Failure::new(Kind::Timeout, format!("the runtime API of {app} did not answer in time"));
            tokio::time::timeout(limits.call_timeout, api.serve(call)).await.map_err(late).flatten()
        }
        None => Err(Failure::new(Kind::NoEndpoint, format!("the runtime API of {app} is not up"))),
    };
    under_way.ended();
    match result {
        Ok(reply) => {
            let first_byte = Some(lap.start.elapsed());
            let outcome = Outcome { status: reply.head.status.as_u16(), first_byte, ..Outcome::default() };
            Ok(lap.finish_later(worker, None, None, outcome, line(), None, None).with(reply))
        }
        Err(failure) => {
            let outcome = Outcome {
                status: failure.kind.http_status(),
                grpc_status: is_grpc.then(|| failure.kind.grpc_status()),
                failure: Some(failure.clone()),
                ..Outcome::default()
            };
            lap.finish(worker, None, None, &outcome, line);
            Err(failure)
        }
    }
}
