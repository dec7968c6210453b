//! Station attempt for parsed messages: endpoints of a service are tried, one after another, until one answers. Where a
//! policy hedges, a try that is slow gets another beside it (`hedge`).

use std::rc::Rc;
use std::sync::Arc;

use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::RequestHead;
use dodai_core::snapshot::RetryPolicy;
use http::request::Parts;
use tokio::time::Instant;

use crate::answer::Local;
use crate::attempt::{self, DEFAULT_RETRY, Sent, Terms, Tries};
use crate::bodies::{guarded, limit, timed};
use crate::deadline;
use crate::hedge;
use crate::later::{self, Arrived};
use crate::message;
use crate::mirror;
use crate::reach;
use crate::refused::{Refused, retry_after};
use crate::replay::Replay;
use crate::request::Side;
use crate::service::{self, Attempt, Endpoint, Verdict};
use crate::spine::{self, Forward, Outcome};
use crate::worker::Worker;

/// What is asked of a service.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The head.
    pub head: &'a Parts,
    /// The body.
    pub body: &'a Replay,
    /// What is known of the call beside.
    pub context: &'a Context,
    /// When it began: all its time counts from then, also where it waited or is led anew.
    pub start: Instant,
}

/// One call on its way to a service.
pub struct Course<'a> {
    /// The thread it lives on.
    pub worker: &'a Rc<Worker>,
    /// Where it goes.
    pub forward: &'a Forward,
    /// Its head.
    pub head: &'a Parts,
    /// Its body.
    pub body: &'a Replay,
    /// What is known of it beside.
    pub context: &'a Context,
    /// Where it came in.
    pub side: &'a Side,
    /// Its policy.
    pub terms: Terms<'a>,
    /// When it is tried again.
    pub retry: &'a RetryPolicy,
}

/// What a try brought.
pub enum Answer {
    /// The endpoint's.
    Reply(Reply),
    /// What an authorizer wants to be said instead.
    Denied(Box<Local>),
}

/// Tries endpoints until one answers.
pub async fn run(
    worker: &Rc<Worker>,
    forward: &Forward,
    asked: Asked<'_>,
    side: &Side,
    outcome: &mut Outcome,
) -> Result<Reply, Failure> {
    let Asked { head, body, context, start } = asked;
    let service = &forward.service;
    let limits = &worker.shared.limits;
    // A call of the base itself says how long it may take: a run of a job is no request that somebody waits for.
    let own = context.deadline.filter(|_| context.caller == Caller::Base);
    let own = own.map(|deadline| Instant::from_std(deadline).saturating_duration_since(start));
    let terms = forward.terms_within(own.unwrap_or(limits.call_timeout), start, limits);
    let retry = terms.retry.unwrap_or(&DEFAULT_RETRY);
    if !forward.begun {
        service.budget.deposit(retry);
    }
    let idempotent = RequestHead::Map(head).is_idempotent();
    let hedges = forward.hedge(idempotent);
    let told = forward.left.map(|left| start + left);
    let outer = context.deadline.map(Instant::from_std).into_iter().chain(told).min();
    let mut tries = Tries::new(&terms, idempotent, start, outer);
    let course = Course { worker, forward, head, body, context, side, terms, retry };
    loop {
        let now = Instant::now();
        let endpoint = match service.pick_at(service::nanos(now), &forward.wish(tries.tried())) {
            Ok(endpoint) => endpoint,
            Err(failure) => match forward.renewed(worker) {
                Some(newer) => {
                    return Box::pin(run(worker, &newer, asked, side, outcome)).await;
                }
                None => return Err(failure),
            },
        };
        tries.begin(endpoint.id);
        outcome.retries = tries.retries();
        let (attempt, result) = match hedges {
            None => course.once(&tries, endpoint, now, body.lend()).await,
            Some(policy) => Box::pin(hedge::several(&course, policy, &mut tries, endpoint, now)).await,
        };
        outcome.endpoint = Some(attempt.endpoint.clone());
        if let Err(failure) = &result
            && failure.kind == Kind::NoEndpoint
            && let Some(newer) = forward.renewed(worker)
            && body.recall()
        {
            // It was closed before it got anything.
            drop(attempt);
            return Box::pin(run(worker, &newer, asked, side, outcome)).await;
        }
        let sent = course.sent();
        if let Err(failure) = &result
            && tries.is_forgivable(failure, sent)
            && body.recall()
        {
            tries.forgive();
            continue;
        }
        let result = match result {
            Ok(Answer::Denied(local)) => {
                // Nobody has seen the call, so nobody is judged by it, and no cookie leads to anybody.
                outcome.endpoint = None;
                outcome.failure.clone_from(&local.failure);
                body.commit();
                return Ok(message::local_reply(&local, RequestHead::Map(head).is_grpc()));
            }
            Ok(Answer::Reply(reply)) => Ok(reply),
            Err(failure) => Err(failure),
        };
        let wait = course.judge(&tries, &attempt, &result, sent);
        // The old try may still be reading; it must stop before another begins, or this answer is the last.
        let Some(wait) = wait.filter(|_| body.recall()) else {
            if !forward.mirrors.is_empty() {
                match body.copy() {
                    Some(bytes) => mirror::send(worker, forward, &side.caller, context.span, head, &bytes),
                    None => mirror::left_out(forward),
                }
            }
            body.commit();
            // Where calls under way are limited, one is until its body ends.
            let is_counted = service.spec.breaker.max_requests.is_some() || service.overload.is_some();
            let under_way = is_counted.then_some(attempt);
            return result.map(|reply| guarded(timed(reply, terms.patience), under_way));
        };
        drop(attempt);
        drop(result);
        tokio::time::sleep(wait).await;
    }
}

/// The status of a gRPC answer that has nothing else.
pub fn trailers_only(reply: &Reply) -> Option<u8> {
    let status = reply.head.headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    (status != 0).then_some(status)
}

impl Course<'_> {
    /// What is lost of the call if a try fails.
    fn sent(&self) -> Sent {
        if self.body.is_whole() { Sent::HEAD } else { Sent::BODY }
    }

    /// Says of an endpoint how it did, and after which wait the call is made again, if it is.
    fn judge(
        &self,
        tries: &Tries,
        attempt: &Attempt,
        result: &Result<Reply, Failure>,
        sent: Sent,
    ) -> Option<std::time::Duration> {
        let (service, retry, now) = (&self.forward.service, self.retry, Instant::now());
        match result {
            Ok(reply) => {
                let status = reply.head.status.as_u16();
                let wait = match trailers_only(reply) {
                    Some(code) => tries.again_after_grpc(retry, code, sent, &service.budget, now),
                    None => {
                        let refused = Refused::of(status, || retry_after(&reply.head.headers));
                        tries.again_after_status(retry, refused, sent, &service.budget, || now)
                    }
                };
                match wait {
                    Some(_) => service.failed(attempt, Verdict::Status(status)),
                    None => {
                        let verdict = Verdict::of(status, trailers_only(reply));
                        service.answered(attempt, verdict, service::nanos(now));
                    }
                }
                wait
            }
            Err(failure) => {
                if attempt::counts(failure.kind) {
                    service.failed(attempt, Verdict::Broken);
                }
                tries.again(retry, failure, sent, &service.budget, now)
            }
        }
    }

    /// One try at `endpoint`, which begins `now`.
    pub async fn once(
        &self,
        tries: &Tries,
        endpoint: Arc<Endpoint>,
        now: Instant,
        body: Body,
    ) -> (Attempt, Result<Answer, Failure>) {
        let attempt = endpoint.attempt(service::nanos(now));
        let deadline = tries.try_deadline(&self.terms, now);
        let mut head = self.head.clone();
        if tries.tried().len() > 1 {
            let left = tries.told(&self.terms, &self.forward.service, now);
            deadline::anew(&RequestHead::Map(self.head), left).apply_to(&mut head.headers);
        }
        let result = match tokio::time::timeout_at(deadline, self.at(&endpoint, head, body, deadline)).await {
            Ok(result) => result,
            Err(_) => {
                let text = format!("{} did not answer in time", self.forward.service.label);
                Err(Failure::new(Kind::Timeout, text))
            }
        };
        (attempt, result)
    }

    async fn at(
        &self,
        endpoint: &Arc<Endpoint>,
        mut head: Parts,
        body: Body,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let body = limit(body, self.terms.max_body)?;
        let (worker, forward, caller) = (self.worker, self.forward, &self.side.caller);
        let reach = reach::of(endpoint, &forward.service, caller, &worker.shared)?;
        let reach = reach.by(forward.rule.as_deref()).behalf_of(self.side);
        let mut told = None;
        if reach.is_checked_here() && later::is_deep(&forward.service.inbound) {
            match later::arrive(worker, forward, caller, &head).await? {
                Arrived::Through { call, reply } => {
                    call.apply_to_request(&mut head);
                    told = reply;
                }
                Arrived::Denied(local) => return Ok(Answer::Denied(local)),
            }
        } else if reach.is_checked_here() {
            let again = forward.counted.replace(true);
            spine::admit_inbound(&forward.service, &RequestHead::Map(&head), caller, again)?;
        }
        let context = Context { deadline: Some(deadline.into_std()), ..self.context.clone() };
        let call = Call { head, body, context };
        let mut reply = message::carry(worker, reach, call, &forward.service.spec.breaker).await?;
        if let Some(told) = told {
            told.apply_to(&mut reply.head.headers);
        }
        Ok(Answer::Reply(reply))
    }
}
