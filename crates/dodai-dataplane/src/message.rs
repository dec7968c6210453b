//! The spine for parsed messages: calls that arrive over HTTP/2 or from inside this process, and calls whose
//! endpoint is no HTTP/1 connection.
//!
//! The stations are the same as for relayed bytes; only the carrying differs. Both directions are bodies
//! that are pulled, so nothing is buffered beyond their credit.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use bytes::Bytes;
use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context, Reply};
use dodai_core::failure::{Blame, Failure, Kind};
use dodai_core::head::RequestHead;
use dodai_core::trace::Span;
use http_body::Frame;
use tokio::time::Instant;

use crate::attempt::{Sent, Terms, Tries, default_retry};
use crate::local::InFlight;
use crate::reach::{self, Reach};
use crate::request::Side;
use crate::route::Rule;
use crate::service::{Endpoint, Service};
use crate::spine::{self, Decision, Forward, Lap, Line, Outcome};
use crate::worker::Worker;
use crate::{client_h1, client_h2};

/// The most a body may hold to be kept for another try.
const KEPT_BODY: u64 = 64 * 1024;

/// Sends a parsed call through the stations. The failure's answer is up to the caller's protocol.
pub async fn forward(worker: &Rc<Worker>, side: &Side, call: Call, protocol: &'static str) -> Result<Reply, Failure> {
    let Call { mut head, body, context } = call;
    let span = context.span;
    let lap = Lap::new(spine::direction(&side.listener.role), side.label.clone(), span);
    let decided = {
        let view = RequestHead::Map(&head);
        spine::admit(&worker.shared.table.load(), &side.entry(), &view, &span)
    };
    let mut outcome = Outcome::default();
    let mut carried = Carried::default();
    let result = match decided {
        Ok(Decision::Forward(forward)) => {
            forward.effects.request.apply_to_request(&mut head);
            let record = Recorded { service: Some(forward.service.clone()), rule: forward.rule.clone() };
            carried.record = record;
            tries(worker, &forward, &head, body, &context, &side.caller, &mut outcome).await.map(|mut reply| {
                forward.effects.response.apply_to(&mut reply.head.headers);
                reply
            })
        }
        Ok(Decision::External(effects)) => {
            effects.request.apply_to_request(&mut head);
            external(worker, head.clone(), body).await
        }
        Ok(Decision::Answer(local)) => {
            carried.record.rule = Some(local.rule.clone());
            Ok(local_reply(&local))
        }
        Ok(Decision::Api) | Err(Failure { kind: Kind::Internal, .. }) => {
            Err(Failure::new(Kind::Internal, "an API call took the mesh's way"))
        }
        Err(failure) => Err(failure),
    };
    finish(worker, &lap, side, &head, &carried.record, result, outcome, protocol)
}

#[derive(Default)]
struct Carried {
    record: Recorded,
}

#[derive(Default)]
struct Recorded {
    service: Option<Arc<Service>>,
    rule: Option<Arc<Rule>>,
}

/// Counts the call. A response counts when its head is there: its body is the connection's affair.
#[expect(clippy::too_many_arguments, reason = "the record's parts, gathered once")]
fn finish(
    worker: &Rc<Worker>,
    lap: &Lap,
    side: &Side,
    head: &http::request::Parts,
    record: &Recorded,
    result: Result<Reply, Failure>,
    mut outcome: Outcome,
    protocol: &'static str,
) -> Result<Reply, Failure> {
    match &result {
        Ok(reply) => {
            outcome.status = reply.head.status.as_u16();
            outcome.first_byte = Some(lap.start.elapsed());
        }
        Err(failure) => {
            outcome.status = failure.kind.http_status();
            outcome.failure = Some(failure.clone());
        }
    }
    let view = RequestHead::Map(head);
    lap.finish(worker, record.service.as_deref(), record.rule.as_deref(), &outcome, || Line {
        listener: &side.listener.name,
        method: view.method(),
        target: view.target(),
        authority: view.authority(),
        protocol,
    });
    result
}

fn local_reply(local: &spine::Local) -> Reply {
    let status = http::StatusCode::from_u16(local.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = Reply::new(status, local.body.clone());
    if let Some(location) = local.location.as_ref().and_then(|location| http::HeaderValue::from_str(location).ok()) {
        reply.head.headers.insert(http::header::LOCATION, location);
    }
    reply
}

/// Tries endpoints until one answers.
async fn tries(
    worker: &Rc<Worker>,
    forward: &Forward,
    head: &http::request::Parts,
    body: Body,
    context: &Context,
    caller: &Caller,
    outcome: &mut Outcome,
) -> Result<Reply, Failure> {
    let service = &forward.service;
    let limits = &worker.shared.limits;
    let terms = Terms::of(forward.rule.as_ref().map(|rule| &rule.policy), &service.spec.policy, limits);
    let retry = terms.retry.cloned().unwrap_or_else(default_retry);
    service.budget.deposit(&retry);
    let now = Instant::now();
    let idempotent = RequestHead::Map(head).is_idempotent();
    let mut tries = Tries::new(&terms, idempotent, now, context.deadline.map(Instant::from_std));
    let mut bodies = Bodies::new(limit(body, terms.max_body)?);
    loop {
        let endpoint = service.pick(forward.revision.as_ref(), tries.tried(), forward.local_only)?;
        tries.begin(endpoint.id);
        outcome.retries = tries.retries();
        outcome.endpoint = Some((endpoint.label.clone(), endpoint.revision.clone()));
        let attempt = endpoint.attempt();
        let deadline = tries.try_deadline(&terms, Instant::now());
        let (body, replayable) = bodies.next();
        let once = once_at(worker, forward, &endpoint, head.clone(), body, context, caller, deadline);
        let result = match tokio::time::timeout_at(deadline, once).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(Kind::Timeout, format!("{} did not answer in time", service.label))),
        };
        let sent = if replayable { Sent::HEAD } else { Sent::BODY };
        let now = Instant::now();
        let wait = match &result {
            Ok(reply) if retry.statuses.contains(&reply.head.status.as_u16()) => {
                attempt.failed(&service.spec.breaker);
                tries.again_after_status(&retry, reply.head.status.as_u16(), sent, &service.budget, now)
            }
            Ok(_) => {
                attempt.succeeded();
                None
            }
            Err(failure) => {
                if failure.kind.blame() == Blame::Endpoint && failure.kind != Kind::Stale {
                    attempt.failed(&service.spec.breaker);
                }
                tries.again(&retry, failure, sent, &service.budget, now)
            }
        };
        match wait {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return result.map(|reply| idle_bounded(reply, terms.idle_timeout)),
        }
    }
}

/// A body that may be sent again, or only once.
enum Bodies {
    Kept(Bytes),
    Once(Option<Body>),
}

impl Bodies {
    fn new(body: Body) -> Bodies {
        match body.whole() {
            Ok(bytes) if bytes.len() as u64 <= KEPT_BODY => Bodies::Kept(bytes),
            Ok(bytes) => Bodies::Once(Some(Body::full(bytes))),
            Err(body) => Bodies::Once(Some(body)),
        }
    }

    /// The body for the next try, and whether there can be one after it.
    fn next(&mut self) -> (Body, bool) {
        match self {
            Bodies::Kept(bytes) => (Body::full(bytes.clone()), true),
            Bodies::Once(body) => (body.take().unwrap_or_default(), false),
        }
    }
}

/// Refuses a body that is too long, at once if its length is known.
fn limit(body: Body, max: Option<u64>) -> Result<Body, Failure> {
    let Some(max) = max else { return Ok(body) };
    match body.exact_length() {
        Some(length) if length > max => {
            Err(Failure::new(Kind::BodyTooLarge, format!("the body is {length} bytes; at most {max} are allowed here")))
        }
        Some(_) => Ok(body),
        None => Ok(Body::boxed(Limited { body, left: max })),
    }
}

/// One try at one endpoint.
#[expect(clippy::too_many_arguments, reason = "one call's parts")]
async fn once_at(
    worker: &Rc<Worker>,
    forward: &Forward,
    endpoint: &Arc<Endpoint>,
    head: http::request::Parts,
    body: Body,
    context: &Context,
    caller: &Caller,
    deadline: Instant,
) -> Result<Reply, Failure> {
    let reach = reach::of(endpoint, &forward.service, caller)?;
    if reach.is_local() {
        spine::admit_inbound(&forward.service, &RequestHead::Map(&head), caller)?;
    }
    let context = Context { deadline: Some(deadline.into_std()), ..context.clone() };
    carry(worker, reach, Call { head, body, context }, &forward.service.spec.breaker).await
}

/// Hands a call to its endpoint.
pub async fn carry(
    worker: &Rc<Worker>,
    reach: Reach,
    call: Call,
    caps: &dodai_core::snapshot::Breaker,
) -> Result<Reply, Failure> {
    match reach {
        Reach::Serve(serve, in_flight) => {
            if call.head.headers.contains_key(http::header::UPGRADE) {
                return Err(Failure::new(Kind::NotImplemented, "a module cannot take over a connection"));
            }
            let reply = serve.serve(call).await?;
            Ok(guarded(reply, in_flight))
        }
        Reach::Http1(mut target) => {
            let in_flight = target.in_flight.take();
            Ok(guarded(client_h1::send(worker, target, call, caps).await?, in_flight))
        }
        Reach::Http2(mut target) => {
            let in_flight = target.in_flight.take();
            Ok(guarded(client_h2::send(worker, target, call).await?, in_flight))
        }
    }
}

/// A call to a host outside the mesh.
async fn external(worker: &Rc<Worker>, head: http::request::Parts, body: Body) -> Result<Reply, Failure> {
    let authority = RequestHead::Map(&head).authority().to_owned();
    let target = reach::external(&authority, 80);
    let context = Context::new(Caller::Base, Span::root(false));
    let caps = dodai_core::snapshot::Breaker::default();
    let call = client_h1::send(worker, target, Call { head, body, context }, &caps);
    match tokio::time::timeout(worker.shared.limits.call_timeout, call).await {
        Ok(reply) => reply,
        Err(_) => Err(Failure::new(Kind::Timeout, format!("{authority} did not answer in time"))),
    }
}

/// A reply whose body keeps the instance in flight until it has ended.
fn guarded(reply: Reply, in_flight: Option<InFlight>) -> Reply {
    let Some(in_flight) = in_flight else { return reply };
    if http_body::Body::is_end_stream(&reply.body) {
        return reply;
    }
    Reply { head: reply.head, body: Body::boxed(Guarded { body: reply.body, _in_flight: in_flight }) }
}

/// A reply whose body may not stand still for longer than `idle`.
fn idle_bounded(reply: Reply, idle: Duration) -> Reply {
    if http_body::Body::is_end_stream(&reply.body) || reply.body.exact_length().is_some_and(|length| length <= KEPT_BODY) {
        return reply;
    }
    let timer = Box::pin(tokio::time::sleep(idle));
    Reply { head: reply.head, body: Body::boxed(IdleBounded { body: reply.body, idle, timer, waiting: false }) }
}

struct Guarded {
    body: Body,
    _in_flight: InFlight,
}

struct Limited {
    body: Body,
    left: u64,
}

struct IdleBounded {
    body: Body,
    idle: Duration,
    timer: Pin<Box<tokio::time::Sleep>>,
    waiting: bool,
}

type Framed = Poll<Option<Result<Frame<Bytes>, Failure>>>;

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Failure;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Framed {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Failure;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Framed {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                let failure = Failure::new(Kind::BodyTooLarge, "the body is larger than this route allows");
                return Poll::Ready(Some(Err(failure)));
            };
            self.left = left;
        }
        Poll::Ready(frame)
    }
}

impl http_body::Body for IdleBounded {
    type Data = Bytes;
    type Error = Failure;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Framed {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting = false;
            return Poll::Ready(frame);
        }
        if !self.waiting {
            let until = Instant::now() + self.idle;
            self.timer.as_mut().reset(until);
            self.waiting = true;
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Poll::Ready(Some(Err(Failure::new(Kind::Idle, "the response body stood still for too long"))))
            }
            Poll::Pending => Poll::Pending,
        }
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
