//! The spine for parsed messages: calls that arrive over HTTP/2 or from inside this process, and calls whose
//! endpoint is no HTTP/1 connection.
//!
//! The stations are the same as for relayed bytes; only the carrying differs. Both directions are bodies
//! that are pulled, so nothing is buffered beyond their credit, but for small request bodies that are kept
//! for another try.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edits, RequestHead};
use dodai_core::snapshot::{Protocol, Role};
use dodai_core::trace::Span;
use http::request::Parts;
use tokio::time::Instant;

use crate::bodies::{guarded, timed};
use crate::fault;
use crate::limits::KEPT_BODY;
use crate::reach::{self, Reach, Target};
use crate::replay::Replay;
use crate::request::Side;
use crate::review::{Came, Watched};
use crate::spine::{self, Decision, Entry, Forward, Headers, Lap, Line, Outcome};
use crate::timer::Patience;
use crate::tries::{self, Asked};
use crate::under_way::{UnderWay, Went};
use crate::worker::Worker;
use crate::{client_h1, client_h2};

/// Sends a parsed call through the stations. The failure's answer is up to the caller's protocol.
pub async fn forward(
    worker: &Rc<Worker>,
    side: &Side,
    call: Call,
    protocol: &'static str,
) -> Result<Reply, Failure> {
    let Call { mut head, body, context } = call;
    let span = context.span;
    let mut lap = Lap::new(spine::direction(&side.listener.role), side.label.clone(), span, Instant::now());
    if let Role::Outbound { app } = &side.listener.role
        && let Some(wanted) = worker.shared.asks_for(RequestHead::Map(&head).host(), app.namespace.as_str())
    {
        worker.shared.wait_for(&wanted).await;
    }
    let (routed, stamps) = (Cell::new(None), worker.stamps(&span));
    let entry = Entry { routed: stamps.then_some(&routed), ..side.entry() };
    let mut came = None;
    // Before the table, so that a newer one is not taken for the one that decides.
    let epoch = worker.shared.epoch.load(Acquire);
    let decision = admit(worker, &entry, &mut head, &lap, &mut came);
    if stamps {
        lap.admitted(routed.get());
    }
    decided(worker, side, Call { head, body, context }, protocol, lap, (decision, epoch), came).await
}

/// Carries a call that was decided, by the table that was in force at the `epoch`, with its head changed accordingly;
/// `came` is what that was, where it is kept.
pub async fn decided(
    worker: &Rc<Worker>,
    side: &Side,
    call: Call,
    protocol: &'static str,
    lap: Lap,
    (decision, epoch): (Result<Decision, Failure>, u64),
    came: Option<Came>,
) -> Result<Reply, Failure> {
    let Call { mut head, body, context } = call;
    let mut decision = decision;
    if let Ok(Decision::Later(later)) = decision {
        let mut edits = Edits::new();
        let waiting = UnderWay::new(worker, &lap, || line(side, &head, protocol));
        decision = later.resume(worker, side, &head, lap.start, &mut edits).await;
        waiting.ended();
        if let Ok(Decision::Forward(_)) = decision {
            edits.apply_to_request(&mut head);
        }
    }
    let head = Arc::new(head);
    let watched = match &decision {
        Ok(Decision::Forward(forward)) => {
            Some(Arc::new(Watched::new(worker, side, &lap, forward, came, head.clone(), epoch)))
        }
        Ok(_) | Err(_) => None,
    };
    let mut under_way = UnderWay::new(worker, &lap, || line(side, &head, protocol));
    let streams = !http_body::Body::is_end_stream(&body);
    let body = Replay::new(body, KEPT_BODY, watched.clone());
    let result = match decision {
        Ok(Decision::Forward(forward)) => {
            lap.tried();
            under_way.went = Went { service: Some(forward.service.clone()), rule: forward.rule.clone() };
            let asked = Asked { head: &head, body: &body, context: &context, start: lap.start };
            let answer = send_on(worker, side, &forward, asked, &mut under_way.outcome);
            let mut answer = std::pin::pin!(answer);
            let call = watched.as_ref().filter(|_| streams);
            poll_fn(|cx| match call {
                Some(call) => call.poll_unless_cut(answer.as_mut(), cx),
                None => answer.as_mut().poll(cx),
            })
            .await
        }
        Ok(Decision::External) => external(worker, side, Parts::clone(&head), body.lend()).await,
        Ok(Decision::Answer(local)) => {
            under_way.went.rule.clone_from(&local.rule);
            under_way.outcome.failure = local.failure.clone();
            Ok(local_reply(&local, RequestHead::Map(&head).is_grpc()))
        }
        Ok(Decision::Refused(refused)) => {
            let (failure, rule) = *refused;
            under_way.went.rule = Some(rule);
            Err(failure)
        }
        Ok(Decision::Api) => Err(Failure::new(Kind::Internal, "an API call took the mesh's way")),
        Ok(Decision::Later(_)) => Err(Failure::new(Kind::Internal, "a call was not decided")),
        Err(failure) => Err(failure),
    };
    let (went, mut outcome) = under_way.ended();
    let cut = match (&watched, &result) {
        (Some(call), Ok(_)) => call.review().err(),
        // It may have failed because the request was cut.
        (Some(call), Err(_)) => call.cut(),
        (None, _) => None,
    };
    match cut.map_or(result, Err) {
        Ok(reply) => {
            outcome.status = reply.head.status.as_u16();
            outcome.first_byte = Some(lap.start.elapsed());
            let (service, rule) = (went.service.as_deref(), went.rule.as_deref());
            let ending = lap.finish_later(
                worker,
                service,
                rule,
                outcome,
                line(side, &head, protocol),
                Some(body.received()),
                watched,
            );
            Ok(ending.with(reply))
        }
        Err(failure) => {
            outcome.status = failure.kind.http_status();
            outcome.grpc_status = RequestHead::Map(&head).is_grpc().then(|| failure.kind.grpc_status());
            outcome.failure = Some(failure.clone());
            let line = || line(side, &head, protocol);
            lap.finish(worker, went.service.as_deref(), went.rule.as_deref(), &outcome, line);
            Err(failure)
        }
    }
}

/// What records say of a call.
fn line<'a>(side: &'a Side, head: &'a Parts, protocol: &'static str) -> Line<'a> {
    let view = RequestHead::Map(head);
    Line {
        listener: &side.listener.name,
        from: side.from(),
        headers: Headers::Map(&head.headers),
        method: view.method(),
        target: view.target(),
        authority: view.authority(),
        protocol,
    }
}

/// Sends a call to its service and waits for the head of the reply, with what the way changes in it.
pub async fn send_on(
    worker: &Rc<Worker>,
    side: &Side,
    forward: &Forward,
    asked: Asked<'_>,
    outcome: &mut Outcome,
) -> Result<Reply, Failure> {
    if let Some(fault) = &forward.fault
        && let Some(reply) = Box::pin(fault::befall(worker, forward, fault, asked.head)).await?
    {
        outcome.failure = Some(fault::failure());
        return Ok(reply);
    }
    let mut reply = tries::run(worker, forward, asked, side, outcome).await?;
    let mut edits = Edits::new();
    forward.response_edits(outcome.endpoint.as_deref(), &mut edits);
    edits.apply_to(&mut reply.head.headers);
    forward.slow(&mut reply);
    Ok(reply)
}

/// Decides a call and changes its head, if it is sent on; what that was goes to `came` where it is kept.
fn admit(
    worker: &Worker,
    entry: &Entry<'_>,
    head: &mut Parts,
    lap: &Lap,
    came: &mut Option<Came>,
) -> Result<Decision, Failure> {
    let mut edits = Edits::new();
    let table = worker.shared.table.load();
    let decided = spine::admit(&table, entry, &RequestHead::Map(head), &lap.span, lap.start, &mut edits)?;
    if decided.keeps_head() {
        *came = Some(Came::Parts(Box::new(head.clone())));
    }
    if let Decision::Forward(_) | Decision::External | Decision::Later(_) = decided {
        edits.apply_to_request(head);
    }
    Ok(decided)
}

/// An answer of this base's own.
pub fn local_reply(local: &spine::Local, is_grpc: bool) -> Reply {
    if is_grpc {
        return local.grpc();
    }
    let status = http::StatusCode::from_u16(local.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = Reply::new(status, local.body.clone());
    reply.head.headers = local.headers.clone();
    if !local.body.is_empty() {
        let text = http::HeaderValue::from_static("text/plain; charset=utf-8");
        reply.head.headers.entry(http::header::CONTENT_TYPE).or_insert(text);
    }
    reply
}

/// Hands a call to its endpoint.
pub async fn carry(
    worker: &Rc<Worker>,
    reach: Reach,
    mut call: Call,
    caps: &dodai_core::snapshot::Breaker,
) -> Result<Reply, Failure> {
    match reach {
        Reach::Serve(serve, in_flight) => {
            if call.head.headers.contains_key(http::header::UPGRADE) {
                return Err(Failure::new(Kind::NotImplemented, "a module cannot take over a connection"));
            }
            // A module's own calls count on from here, or two modules could call each other for ever.
            call.context.hops = spine::hops(&RequestHead::Map(&call.head));
            let reply = serve.serve(call).await?;
            Ok(guarded(reply, in_flight))
        }
        Reach::Http1(mut target) => {
            let in_flight = target.in_flight.take();
            Ok(guarded(client_h1::send(worker, target, call, caps).await?, in_flight))
        }
        Reach::Http2(mut target) => {
            let in_flight = target.in_flight.take();
            Ok(guarded(client_h2::send(worker, target, call, caps).await?, in_flight))
        }
    }
}

/// A call to a host outside the mesh, as its URL says: `https` goes out in TLS or not at all.
async fn external(worker: &Rc<Worker>, side: &Side, head: Parts, body: Body) -> Result<Reply, Failure> {
    let limits = &worker.shared.limits;
    let view = RequestHead::Map(&head);
    let (authority, is_grpc) = (view.authority().to_owned(), view.is_grpc());
    let is_captured = side.captured().is_some();
    let target = if is_captured {
        reach::beyond(side, &authority, 80)?
    } else {
        reach::url(&authority, head.uri.scheme().unwrap_or(&http::uri::Scheme::HTTP))?
    };
    // gRPC is carried by HTTP/2 only, so its callers' scheme decides no more than whether that is in TLS. A server that
    // the client meant to speak HTTP/2 to itself does so.
    let reach = if is_grpc || (is_captured && head.version == http::Version::HTTP_2) {
        Reach::Http2(Target { protocol: Protocol::Grpc, ..target })
    } else {
        Reach::Http1(target)
    };
    let context = Context::new(Caller::Base, Span::root(false));
    let caps = dodai_core::snapshot::Breaker::default();
    let call = carry(worker, reach, Call { head, body, context }, &caps);
    match tokio::time::timeout(limits.call_timeout, call).await {
        Ok(reply) => reply.map(|reply| timed(reply, Patience { idle: limits.idle_timeout, end: None })),
        Err(_) => Err(Failure::new(Kind::Timeout, format!("{authority} did not answer in time"))),
    }
}
