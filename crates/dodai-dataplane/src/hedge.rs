//! A further try beside one that is slow: the first good answer is the call's, and the other try is cut.
//!
//! Only of calls that may be made twice, whose body is here whole, and within the budget of retries. How long is slow is
//! said by the policy, or found from how long answers take: the delay that 95 of 100 keep, followed by small steps.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use dodai_core::body::Body;
use dodai_core::failure::Failure;
use dodai_core::snapshot::Hedge;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::attempt::{self, Tries};
use crate::service::{self, Attempt, Endpoint, Verdict};
use crate::tally::{Event, Tally};
use crate::tries::{Answer, Course, trailers_only};

/// Answers that must have come before the found delay counts.
const ENOUGH: u32 = 20;
/// The shortest delay that is found.
const SHORTEST: Duration = Duration::from_millis(1);

/// What hedged calls of one service have taught, all threads together.
#[derive(Debug, Default)]
pub struct Hedges {
    /// About the time within which 95 of 100 answers came, in nanoseconds.
    slow: AtomicU64,
    /// Answers so far; stops at [`ENOUGH`].
    answers: AtomicU32,
    /// What was done.
    pub tally: Tally,
}

impl Hedges {
    /// An answer came after `took` nanoseconds, or had not come by then. Steps up are 19 times those down, so that they
    /// balance where one in twenty takes longer.
    fn learn(&self, took: u64) {
        let old = self.slow.load(Relaxed);
        let step = (old / 200).max(1_000);
        let new = if old == 0 {
            took
        } else if took > old {
            old.saturating_add(step * 19).min(took.max(old))
        } else {
            old.saturating_sub(step).max(took)
        };
        // What another thread learnt at the same moment may be lost; the next answer teaches it again.
        self.slow.store(new.max(1), Relaxed);
        if self.answers.load(Relaxed) < ENOUGH {
            self.answers.fetch_add(1, Relaxed);
        }
    }

    /// How long a try may take before it gets another beside it; `None` while that is not known.
    pub fn delay(&self, policy: &Hedge) -> Option<Duration> {
        policy.delay.or_else(|| {
            let known = self.answers.load(Relaxed) >= ENOUGH;
            known.then(|| Duration::from_nanos(self.slow.load(Relaxed)).max(SHORTEST))
        })
    }
}

type Running<'a> = Pin<Box<dyn Future<Output = (Attempt, Result<Answer, Failure>)> + 'a>>;

/// One try, and further ones beside it while it is slow; what the first good one brought, else the last.
pub async fn several(
    course: &Course<'_>,
    policy: &Hedge,
    tries: &mut Tries,
    endpoint: Arc<Endpoint>,
    start: Instant,
) -> (Attempt, Result<Answer, Failure>) {
    let hedges = course.forward.service.hedges();
    let delay = hedges.delay(policy);
    let first = endpoint.id;
    let mut running: SmallVec<[Running<'_>; 2]> = SmallVec::new();
    running.push(begin(course, tries.clone(), endpoint, start, course.body.lend()));
    let mut left = delay.map_or(0, |_| policy.attempts);
    let delay = delay.unwrap_or(Duration::MAX / 4);
    let mut wake = Box::pin(tokio::time::sleep(delay));
    loop {
        let next = poll_fn(|cx| {
            for at in 0..running.len() {
                if let Poll::Ready(ended) = running[at].as_mut().poll(cx) {
                    drop(running.remove(at));
                    return Poll::Ready(Some(ended));
                }
            }
            if left > 0 && wake.as_mut().poll(cx).is_ready() { Poll::Ready(None) } else { Poll::Pending }
        })
        .await;
        match next {
            Some((attempt, result)) => {
                let now = service::now_nanos();
                let is_answer = matches!(result, Ok(Answer::Reply(_)));
                // What fails at once says nothing of how long answers take.
                if is_answer {
                    hedges.learn(attempt.took(now));
                }
                if running.is_empty() || is_good(course, &result) {
                    if attempt.endpoint.id != first && is_answer && is_good(course, &result) {
                        hedges.tally.count(Event::HedgeWon);
                        // The one that is cut would have taken longer than this.
                        hedges.learn(now.saturating_sub(service::nanos(start)));
                    }
                    return (attempt, result);
                }
                lost(course, &attempt, &result, now);
            }
            None => {
                let now = Instant::now();
                wake.as_mut().reset(now + delay);
                // A body that is still on its way can be read by one try only, and one that is too large for good.
                let Some(bytes) = course.body.copy() else {
                    left = if course.body.is_whole() { left } else { 0 };
                    continue;
                };
                let Some(other) = another(course, tries, now) else {
                    left = 0;
                    continue;
                };
                left -= 1;
                tries.beside(other.id);
                hedges.tally.count(Event::Hedged);
                running.push(begin(course, tries.clone(), other, now, Body::full(bytes)));
            }
        }
    }
}

fn begin<'a>(
    course: &'a Course<'_>,
    tries: Tries,
    endpoint: Arc<Endpoint>,
    now: Instant,
    body: Body,
) -> Running<'a> {
    Box::pin(async move { course.once(&tries, endpoint, now, body).await })
}

/// Another endpoint for a further try, if there is one and the budget allows it.
fn another(course: &Course<'_>, tries: &Tries, now: Instant) -> Option<Arc<Endpoint>> {
    let service = &course.forward.service;
    if now >= tries.deadline() {
        return None;
    }
    let nanos = service::nanos(now);
    let found = service.pick_at(nanos, &course.forward.wish(tries.tried())).ok()?;
    if tries.tried().contains(&found.id) || !service.budget.withdraw(course.retry) {
        found.give_back(nanos, &service.spec.breaker);
        return None;
    }
    Some(found)
}

/// Whether nothing better is waited for.
fn is_good(course: &Course<'_>, result: &Result<Answer, Failure>) -> bool {
    match result {
        Ok(Answer::Reply(reply)) => {
            let (status, code) = (reply.head.status.as_u16(), trailers_only(reply));
            let wanted = code.is_some_and(|code| course.retry.covers_grpc(code));
            let Verdict::Status(verdict) = Verdict::of(status, code) else { return false };
            verdict < 500 && !course.retry.covers_status(status) && !wanted
        }
        Ok(Answer::Denied(_)) => true,
        Err(_) => false,
    }
}

/// Says of an endpoint that it did badly; another may do better.
fn lost(course: &Course<'_>, attempt: &Attempt, result: &Result<Answer, Failure>, now: u64) {
    let service = &course.forward.service;
    match result {
        Ok(Answer::Reply(reply)) => {
            let status = reply.head.status.as_u16();
            service.answered(attempt, Verdict::of(status, trailers_only(reply)), now);
        }
        Ok(Answer::Denied(_)) => {}
        Err(failure) if attempt::counts(failure.kind) => service.failed(attempt, Verdict::Broken),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_follows_what_most_answers_keep() {
        let policy = Hedge { delay: None, attempts: 1, any_method: false };
        let hedges = Hedges::default();
        let one = |at: u64| if at % 100 < 10 { 100_000_000 } else { 10_000_000 };
        for at in 0..u64::from(ENOUGH) {
            assert_eq!(hedges.delay(&policy), None, "{at}");
            hedges.learn(one(at * 7));
        }
        (0..5_000).for_each(|at| hedges.learn(one(at * 7)));
        let slow = hedges.delay(&policy).expect("known");
        assert!(slow > Duration::from_millis(50), "one in ten takes longer than {slow:?}");
        // From now on one in fifty.
        let one = |at: u64| if at % 100 < 2 { 100_000_000 } else { 10_000_000 };
        (0..5_000).for_each(|at| hedges.learn(one(at * 7)));
        let slow = hedges.delay(&policy).expect("known");
        assert!(slow < Duration::from_millis(30), "{slow:?}");
        let fixed = Hedge { delay: Some(Duration::from_millis(5)), ..policy };
        assert_eq!(Hedges::default().delay(&fixed), Some(Duration::from_millis(5)));
    }
}
