//! The spine for parsed messages: calls that arrive over HTTP/2 or from inside this process, and calls whose
//! endpoint is no HTTP/1 connection.
//!
//! The stations are the same as for relayed bytes; only the carrying differs. Both directions are bodies
//! that are pulled, so nothing is buffered beyond their credit, but for small request bodies that are kept
//! for another try.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edits, RequestHead};
use dodai_core::snapshot::{Protocol, Role};
use dodai_core::trace::Span;
use tokio::time::Instant;

use crate::attempt::{self, DEFAULT_RETRY, Sent, Terms, Tries};
use crate::bodies::{guarded, idle_bounded, limit};
use crate::fault;
use crate::later;
use crate::limits::KEPT_BODY;
use crate::mirror;
use crate::reach::{self, Reach, Target};
use crate::replay::Replay;
use crate::request::Side;
use crate::route::Rule;
use crate::service::{self, Endpoint, Service, Verdict};
use crate::spine::{self, Decision, Forward, Lap, Line, Outcome};
use crate::worker::Worker;
use crate::{client_h1, client_h2};

/// Where a call went, for its record.
#[derive(Default)]
struct Went {
    service: Option<Arc<Service>>,
    rule: Option<Arc<Rule>>,
}

/// Sends a parsed call through the stations. The failure's answer is up to the caller's protocol.
pub async fn forward(
    worker: &Rc<Worker>,
    side: &Side,
    call: Call,
    protocol: &'static str,
) -> Result<Reply, Failure> {
    let Call { mut head, body, context } = call;
    let span = context.span;
    let lap = Lap::new(spine::direction(&side.listener.role), side.label.clone(), span);
    if let Role::Outbound { app } = &side.listener.role
        && let Some(wanted) = worker.shared.asks_for(RequestHead::Map(&head).host(), app.namespace.as_str())
    {
        worker.shared.wait_for(&wanted).await;
    }
    let decision = admit(worker, side, &mut head, &lap);
    decided(worker, side, Call { head, body, context }, protocol, lap, decision).await
}

/// Carries a call that was decided, with its head changed accordingly.
pub async fn decided(
    worker: &Rc<Worker>,
    side: &Side,
    call: Call,
    protocol: &'static str,
    lap: Lap,
    decision: Result<Decision, Failure>,
) -> Result<Reply, Failure> {
    let Call { mut head, body, context } = call;
    let epoch = worker.shared.epoch.load(Relaxed);
    let mut decision = decision;
    if let Ok(Decision::Later(later)) = decision {
        let mut edits = Edits::new();
        decision = later.resume(worker, side, &head, &mut edits).await;
        if let Ok(Decision::Forward(_)) = decision {
            edits.apply_to_request(&mut head);
        }
    }
    let mut outcome = Outcome::default();
    let mut went = Went::default();
    let body = Replay::new(body, KEPT_BODY);
    let result = match decision {
        Ok(Decision::Forward(forward)) => {
            went = Went { service: Some(forward.service.clone()), rule: forward.rule.clone() };
            let befallen = match &forward.fault {
                Some(fault) => Box::pin(fault::befall(worker, &forward, fault, &head)).await,
                None => Ok(None),
            };
            match befallen {
                Ok(Some(reply)) => {
                    outcome.failure = Some(fault::failure());
                    Ok(reply)
                }
                Ok(None) => tries_of(worker, &forward, &head, &body, &context, side, &mut outcome).await.map(
                    |mut reply| {
                        let mut edits = Edits::new();
                        forward.response_edits(outcome.endpoint.as_deref(), &mut edits);
                        edits.apply_to(&mut reply.head.headers);
                        forward.slow(&mut reply);
                        reply
                    },
                ),
                Err(failure) => Err(failure),
            }
        }
        Ok(Decision::External) => external(worker, head.clone(), body.lend()).await,
        Ok(Decision::Answer(local)) => {
            went.rule = Some(local.rule.clone());
            outcome.failure = local.failure.clone();
            Ok(local_reply(&local, RequestHead::Map(&head).is_grpc()))
        }
        Ok(Decision::Api) => Err(Failure::new(Kind::Internal, "an API call took the mesh's way")),
        Ok(Decision::Later(_)) => Err(Failure::new(Kind::Internal, "a call was not decided")),
        Err(failure) => Err(failure),
    };
    let view = RequestHead::Map(&head);
    let line = Line {
        listener: &side.listener.name,
        method: view.method(),
        target: view.target(),
        authority: view.authority(),
        protocol,
    };
    match result {
        Ok(reply) => {
            outcome.status = reply.head.status.as_u16();
            outcome.first_byte = Some(lap.start.elapsed());
            let (service, rule) = (went.service.as_deref(), went.rule.as_deref());
            let ending = lap.finish_later(worker, service, rule, outcome, line, Some(body.received()));
            Ok(ending.watched(side, epoch).with(reply))
        }
        Err(failure) => {
            outcome.status = failure.kind.http_status();
            outcome.grpc_status = view.is_grpc().then(|| failure.kind.grpc_status());
            outcome.failure = Some(failure.clone());
            lap.finish(worker, went.service.as_deref(), went.rule.as_deref(), &outcome, || line);
            Err(failure)
        }
    }
}

/// Decides a call and changes its head, if it is sent on.
fn admit(
    worker: &Worker,
    side: &Side,
    head: &mut http::request::Parts,
    lap: &Lap,
) -> Result<Decision, Failure> {
    let mut edits = Edits::new();
    let table = worker.shared.table.load();
    let decided =
        spine::admit(&table, &side.entry(), &RequestHead::Map(head), &lap.span, lap.start, &mut edits)?;
    if let Decision::Forward(_) | Decision::External | Decision::Later(_) = decided {
        edits.apply_to_request(head);
    }
    Ok(decided)
}

fn local_reply(local: &spine::Local, is_grpc: bool) -> Reply {
    if let Some(failure) = local.failure.as_ref().filter(|_| is_grpc) {
        return crate::serve_h2::grpc_failure(failure);
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

/// Tries endpoints until one answers.
async fn tries_of(
    worker: &Rc<Worker>,
    forward: &Forward,
    head: &http::request::Parts,
    body: &Replay,
    context: &Context,
    side: &Side,
    outcome: &mut Outcome,
) -> Result<Reply, Failure> {
    let service = &forward.service;
    let limits = &worker.shared.limits;
    let terms = Terms::of(forward.rule.as_ref().map(|rule| &rule.policy), &service.spec.policy, limits);
    let retry = terms.retry.unwrap_or(&DEFAULT_RETRY);
    service.budget.deposit(retry);
    let now = Instant::now();
    let idempotent = RequestHead::Map(head).is_idempotent();
    let told = forward.left.map(|left| now + left);
    let outer = context.deadline.map(Instant::from_std).into_iter().chain(told).min();
    let mut tries = Tries::new(&terms, idempotent, now, outer);
    loop {
        let now = Instant::now();
        let nanos = service::nanos(now);
        let endpoint = match service.pick_at(nanos, &forward.wish(tries.tried())) {
            Ok(endpoint) => endpoint,
            Err(failure) => match forward.renewed(worker) {
                Some(newer) => {
                    return Box::pin(tries_of(worker, &newer, head, body, context, side, outcome)).await;
                }
                None => return Err(failure),
            },
        };
        tries.begin(endpoint.id);
        outcome.retries = tries.retries();
        outcome.endpoint = Some(endpoint.clone());
        let attempt = endpoint.attempt(nanos);
        let deadline = tries.try_deadline(&terms, now);
        let body_now = limit(body.lend(), terms.max_body)?;
        let once = once_at(worker, forward, &endpoint, head.clone(), body_now, context, side, deadline);
        let result = match tokio::time::timeout_at(deadline, once).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(Kind::Timeout, format!("{} did not answer in time", service.label))),
        };
        if let Err(failure) = &result
            && failure.kind == Kind::NoEndpoint
            && let Some(newer) = forward.renewed(worker)
            && body.recall()
        {
            // It was closed before it got anything.
            drop(attempt);
            return Box::pin(tries_of(worker, &newer, head, body, context, side, outcome)).await;
        }
        let sent = if body.is_whole() { Sent::HEAD } else { Sent::BODY };
        if let Err(failure) = &result
            && tries.is_forgivable(failure, sent)
            && body.recall()
        {
            tries.forgive();
            continue;
        }
        let now = Instant::now();
        let wait = match &result {
            Ok(reply) => {
                let status = reply.head.status.as_u16();
                let wait = match trailers_only(reply) {
                    Some(code) => tries.again_after_grpc(retry, code, sent, &service.budget, now),
                    None => tries.again_after_status(retry, status, sent, &service.budget, || now),
                };
                match wait {
                    Some(_) => service.failed(&attempt, Verdict::Status(status)),
                    None => {
                        let verdict = Verdict::of(status, trailers_only(reply));
                        service.answered(&attempt, verdict, service::nanos(now));
                    }
                }
                wait
            }
            Err(failure) => {
                if attempt::counts(failure.kind) {
                    service.failed(&attempt, Verdict::Broken);
                }
                tries.again(retry, failure, sent, &service.budget, now)
            }
        };
        // The old try may still be reading; it must stop before another begins, or this answer is the last.
        let Some(wait) = wait.filter(|_| body.recall()) else {
            if !forward.mirrors.is_empty()
                && let Some(bytes) = body.copy()
            {
                mirror::send(worker, forward, &side.caller, context.span, head, &bytes);
            }
            body.commit();
            // Where calls under way are limited, one is until its body ends.
            let is_counted = service.spec.breaker.max_requests.is_some() || service.overload.is_some();
            let under_way = is_counted.then_some(attempt);
            return result.map(|reply| guarded(idle_bounded(reply, terms.idle_timeout), under_way));
        };
        drop(attempt);
        drop(result);
        tokio::time::sleep(wait).await;
    }
}

/// The status of a gRPC answer that has nothing else.
fn trailers_only(reply: &Reply) -> Option<u8> {
    let status = reply.head.headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    (status != 0).then_some(status)
}

/// One try at one endpoint.
#[expect(clippy::too_many_arguments, reason = "one call's parts")]
async fn once_at(
    worker: &Rc<Worker>,
    forward: &Forward,
    endpoint: &Arc<Endpoint>,
    mut head: http::request::Parts,
    body: Body,
    context: &Context,
    side: &Side,
    deadline: Instant,
) -> Result<Reply, Failure> {
    let caller = &side.caller;
    let reach = reach::of(endpoint, &forward.service, caller, &worker.shared)?;
    let reach = reach.by(forward.rule.as_deref()).behalf_of(side);
    if reach.is_checked_here() && later::is_deep(&forward.service.inbound) {
        let edits = later::arrive(worker, &forward.service, caller, &head).await?;
        edits.apply_to_request(&mut head);
    } else if reach.is_checked_here() {
        spine::admit_inbound(&forward.service, &RequestHead::Map(&head), caller)?;
    }
    let context = Context { deadline: Some(deadline.into_std()), ..context.clone() };
    carry(worker, reach, Call { head, body, context }, &forward.service.spec.breaker).await
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
async fn external(worker: &Rc<Worker>, head: http::request::Parts, body: Body) -> Result<Reply, Failure> {
    let limits = &worker.shared.limits;
    let view = RequestHead::Map(&head);
    let (authority, is_grpc) = (view.authority().to_owned(), view.is_grpc());
    let target = reach::url(&authority, head.uri.scheme().unwrap_or(&http::uri::Scheme::HTTP))?;
    // gRPC is carried by HTTP/2 only, so its callers' scheme decides no more than whether that is in TLS.
    let reach = if is_grpc {
        Reach::Http2(Target { protocol: Protocol::Grpc, ..target })
    } else {
        Reach::Http1(target)
    };
    let context = Context::new(Caller::Base, Span::root(false));
    let caps = dodai_core::snapshot::Breaker::default();
    let call = carry(worker, reach, Call { head, body, context }, &caps);
    match tokio::time::timeout(limits.call_timeout, call).await {
        Ok(reply) => reply.map(|reply| idle_bounded(reply, limits.idle_timeout)),
        Err(_) => Err(Failure::new(Kind::Timeout, format!("{authority} did not answer in time"))),
    }
}
