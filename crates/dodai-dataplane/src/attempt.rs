//! Station five: how long a call may take and whether it is tried again.
//!
//! Retries happen only when the endpoint cannot have acted on the call, or when the method is idempotent and
//! no unbuffered body byte was sent; never past the deadline, never beyond the service's budget. The state
//! is pure: the spine asks [`Tries::again`] and waits what it says.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use dodai_core::failure::{Blame, Failure, Kind, Retry};
use dodai_core::snapshot::{CallPolicy, RetryPolicy};
use dodai_core::trace::random;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::deadline;
use crate::limits::Limits;
use crate::refused::Refused;
use crate::service::{Service, now_nanos};
use crate::timer::Patience;

/// Whether a failure of this kind counts against the endpoint. A kept connection that had been closed, or an
/// instance that is not there, says nothing about how the endpoint works.
pub fn counts(kind: Kind) -> bool {
    kind.blame() == Blame::Endpoint
        && !matches!(kind, Kind::Stale | Kind::NoEndpoint | Kind::KeysMissing | Kind::AuthorizerDown)
}

/// [`default_retry`], where it is only looked at.
pub static DEFAULT_RETRY: RetryPolicy = default_retry();

/// Retries when no policy says otherwise: failures before the endpoint could act are tried again.
pub const fn default_retry() -> RetryPolicy {
    RetryPolicy {
        attempts: 2,
        statuses: Vec::new(),
        on: None,
        backoff: Duration::from_millis(10),
        constant: false,
        max_backoff: None,
        budget_percent: 20,
        min_per_second: 10,
    }
}

/// What retries of one service may cost, all threads together: a share of its calls plus a floor.
#[derive(Debug, Default)]
pub struct Budget {
    /// Thousandths of a retry.
    balance: AtomicI64,
    refilled: AtomicU64,
    refused: AtomicU64,
}

/// The most that can be saved up, in thousandths of a retry.
const BUDGET_CAP: i64 = 100_000;

impl Budget {
    /// A call came in: it earns a share of a retry.
    pub fn deposit(&self, policy: &RetryPolicy) {
        let earned = i64::from(policy.budget_percent) * 10;
        if self.balance.load(Relaxed) < BUDGET_CAP {
            self.balance.fetch_add(earned, Relaxed);
        }
    }

    /// Whether one more retry is within budget; takes it if so.
    pub fn withdraw(&self, policy: &RetryPolicy) -> bool {
        let now = now_nanos();
        let then = self.refilled.swap(now, Relaxed);
        let elapsed = now.saturating_sub(then).min(1_000_000_000);
        let floor = i64::try_from(elapsed * u64::from(policy.min_per_second) / 1_000_000).unwrap_or(0);
        self.balance.fetch_add(floor, Relaxed);
        let take = |balance: i64| (balance >= 1_000).then(|| balance.min(BUDGET_CAP) - 1_000);
        let is_within = self.balance.fetch_update(Relaxed, Relaxed, take).is_ok();
        if !is_within {
            self.refused.fetch_add(1, Relaxed);
        }
        is_within
    }

    /// Retries that could be made at once, without what time adds.
    pub fn left(&self) -> f64 {
        self.balance.load(Relaxed).min(BUDGET_CAP) as f64 / 1000.0
    }

    /// Retries that were not made for want of budget.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

/// The policy of one call, with every gap filled.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// From now to the response head.
    pub timeout: Duration,
    /// One try; no longer than `timeout`.
    pub try_timeout: Duration,
    /// Its bodies.
    pub patience: Patience,
    /// The largest request body.
    pub max_body: Option<u64>,
    /// Retries; `None` means the default.
    pub retry: Option<&'a RetryPolicy>,
    /// Whether answers are tried again that `retry` names, or only what brought none.
    pub judges_answers: bool,
}

impl<'a> Terms<'a> {
    /// What the rule says, else the service, else the limits.
    pub fn of(rule: Option<&'a CallPolicy>, service: &'a CallPolicy, limits: &Limits) -> Terms<'a> {
        Terms::within(limits.call_timeout, rule, service, limits)
    }

    /// The same with the timeout that holds where neither rule nor service has one.
    pub fn within(
        call_timeout: Duration,
        rule: Option<&'a CallPolicy>,
        service: &'a CallPolicy,
        limits: &Limits,
    ) -> Terms<'a> {
        let pick = |get: fn(&CallPolicy) -> Option<Duration>| rule.and_then(get).or(get(service));
        let timeout = pick(|policy| policy.timeout).unwrap_or(call_timeout);
        Terms {
            timeout,
            try_timeout: pick(|policy| policy.try_timeout).unwrap_or(timeout).min(timeout),
            patience: Patience {
                idle: pick(|policy| policy.idle_timeout).unwrap_or(limits.idle_timeout),
                end: None,
            },
            max_body: rule.and_then(|policy| policy.max_body).or(service.max_body),
            retry: rule.and_then(|policy| policy.retry.as_ref()).or(service.retry.as_ref()),
            judges_answers: true,
        }
    }
}

/// The tries of one call.
#[derive(Clone, Debug)]
pub struct Tries {
    deadline: Instant,
    idempotent: bool,
    judges_answers: bool,
    made: u32,
    tried: SmallVec<[u64; 4]>,
    /// A kept connection that had been closed was met already.
    forgiven: bool,
}

/// What went wrong with one try, as far as trying again is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Whether any byte of the request may have reached the endpoint.
    pub any: bool,
    /// Whether a byte of a body that is not kept was sent.
    pub body: bool,
}

impl Sent {
    /// Nothing left this base.
    pub const NOTHING: Sent = Sent { any: false, body: false };
    /// The head, or a body that can be sent again.
    pub const HEAD: Sent = Sent { any: true, body: false };
    /// Bytes that cannot be sent again.
    pub const BODY: Sent = Sent { any: true, body: true };
}

impl Tries {
    /// The first try is about to be made.
    pub fn new(terms: &Terms<'_>, idempotent: bool, now: Instant, deadline: Option<Instant>) -> Tries {
        let own = now + terms.timeout;
        Tries {
            deadline: deadline.into_iter().chain(terms.patience.end).fold(own, Instant::min),
            idempotent,
            judges_answers: terms.judges_answers,
            made: 0,
            tried: SmallVec::new(),
            forgiven: false,
        }
    }

    /// When the response head must be there.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// When this try ends.
    pub fn try_deadline(&self, terms: &Terms<'_>, now: Instant) -> Instant {
        self.deadline.min(now + terms.try_timeout)
    }

    /// How long a try of `service` that begins `now` is told that it may take.
    pub fn told(&self, terms: &Terms<'_>, service: &Service, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now).min(deadline::of_try(terms.try_timeout, service))
    }

    /// Endpoints already tried.
    pub fn tried(&self) -> &[u64] {
        &self.tried
    }

    /// Tries after the first.
    pub fn retries(&self) -> u32 {
        self.made.saturating_sub(1)
    }

    /// An endpoint was chosen for the next try.
    pub fn begin(&mut self, endpoint: u64) {
        self.made += 1;
        self.tried.push(endpoint);
    }

    /// An endpoint was chosen for a try beside the last one, which is no retry.
    pub fn beside(&mut self, endpoint: u64) {
        self.tried.push(endpoint);
    }

    /// Whether a try that met a kept connection which the endpoint had closed, or was about to, does not count: once in a
    /// call, if that can be made again, as any can that the endpoint says it has not looked at. The endpoint is as good as
    /// before, and no policy on retries is meant for this.
    pub fn is_forgivable(&self, failure: &Failure, sent: Sent) -> bool {
        let again = (failure.kind == Kind::Stale && self.idempotent) || failure.kind == Kind::Refused;
        again && !self.forgiven && !sent.body
    }

    /// Forgets the last try.
    pub fn forgive(&mut self) {
        self.forgiven = true;
        self.made = self.made.saturating_sub(1);
        self.tried.pop();
    }

    /// Whether to try again after `failure`, and how long to wait first.
    pub fn again(
        &self,
        policy: &RetryPolicy,
        failure: &Failure,
        sent: Sent,
        budget: &Budget,
        now: Instant,
    ) -> Option<Duration> {
        let safe = match failure.kind.retry() {
            // What ended is this try, not the call, or there would be no time left: the next may be quicker.
            Retry::Never if failure.kind == Kind::Timeout => self.idempotent && !sent.body,
            Retry::Never => false,
            Retry::IfUnsent => !sent.any || (self.idempotent && !sent.body),
            Retry::Safe => !sent.body,
        };
        let covered = safe && policy.covers(failure.kind);
        if covered { self.wait(policy, budget, now, Duration::ZERO) } else { None }
    }

    /// Whether to try again after a response with this status, and how long to wait first: at least as long as the endpoint
    /// asks for. One that asks for more than the policy ever waits is not tried again.
    pub fn again_after_status(
        &self,
        policy: &RetryPolicy,
        refused: Refused,
        sent: Sent,
        budget: &Budget,
        now: impl FnOnce() -> Instant,
    ) -> Option<Duration> {
        let wanted = policy.covers_status(refused.status) && self.idempotent && !sent.body;
        if wanted && self.judges_answers { self.wait(policy, budget, now(), refused.after) } else { None }
    }

    /// Whether to try again after an answer that is nothing but this gRPC `status`.
    pub fn again_after_grpc(
        &self,
        policy: &RetryPolicy,
        status: u8,
        sent: Sent,
        budget: &Budget,
        now: Instant,
    ) -> Option<Duration> {
        let covered = policy.covers_grpc(status) && !sent.body;
        if covered && self.judges_answers { self.wait(policy, budget, now, Duration::ZERO) } else { None }
    }

    fn wait(&self, policy: &RetryPolicy, budget: &Budget, now: Instant, least: Duration) -> Option<Duration> {
        let full = policy.pause(self.made.saturating_sub(1));
        let too_long = least > policy.longest().max(full) || now + least >= self.deadline;
        if self.made > policy.attempts || too_long || !budget.withdraw(policy) {
            return None;
        }
        let own = match policy.constant {
            true => full,
            false => full / 2 + full.mul_f64((random() >> 11) as f64 / (1u64 << 53) as f64 / 2.0),
        };
        let wait = own.max(least);
        (now + wait < self.deadline).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms<'static> {
        let second = Duration::from_secs(1);
        let patience = Patience { idle: second, end: None };
        Terms {
            timeout: second,
            try_timeout: second,
            patience,
            max_body: None,
            retry: None,
            judges_answers: true,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_safe_is_tried_again() {
        let check = |idempotent: bool, kind: Kind, sent: Sent, expect: bool| {
            let mut tries = Tries::new(&terms(), idempotent, Instant::now(), None);
            tries.begin(1);
            let budget = Budget::default();
            let failure = Failure::new(kind, "test");
            let again = tries.again(&default_retry(), &failure, sent, &budget, Instant::now());
            assert_eq!(again.is_some(), expect, "{idempotent} {kind:?} {sent:?}");
        };
        check(false, Kind::Connect, Sent::NOTHING, true);
        check(false, Kind::Stale, Sent::HEAD, false);
        check(true, Kind::Stale, Sent::HEAD, true);
        check(true, Kind::Reset, Sent::BODY, false);
        check(false, Kind::Refused, Sent::HEAD, true);
        check(true, Kind::Timeout, Sent::HEAD, true);
        check(true, Kind::Timeout, Sent::BODY, false);
        check(false, Kind::Timeout, Sent::HEAD, false);
        check(true, Kind::Denied, Sent::NOTHING, false);
    }

    #[tokio::test(start_paused = true)]
    async fn tries_end_with_attempts_deadline_and_budget() {
        let policy = RetryPolicy { min_per_second: 0, budget_percent: 100, ..default_retry() };
        let failure = Failure::new(Kind::Connect, "test");
        let budget = Budget::default();
        let mut tries = Tries::new(&terms(), true, Instant::now(), None);
        let again =
            |tries: &Tries| tries.again(&policy, &failure, Sent::NOTHING, &budget, Instant::now()).is_some();
        tries.begin(1);
        assert!(!again(&tries), "nothing was earned yet");
        for _ in 0..5 {
            budget.deposit(&policy);
        }
        assert!(again(&tries));
        tries.begin(2);
        assert!(again(&tries));
        tries.begin(3);
        assert!(!again(&tries), "two retries are all");
        let mut late = Tries::new(&terms(), true, Instant::now(), None);
        late.begin(1);
        tokio::time::advance(Duration::from_millis(999)).await;
        assert!(!again(&late), "no time is left");
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_unless_they_are_constant() {
        let budget = Budget::default();
        let failure = Failure::new(Kind::Connect, "test");
        let second = Duration::from_secs(1);
        let minute = Terms { timeout: 60 * second, try_timeout: 60 * second, ..terms() };
        let waits = |policy: &RetryPolicy| {
            let mut tries = Tries::new(&minute, true, Instant::now(), None);
            let wait = |at: u64| {
                budget.deposit(policy);
                tries.begin(at);
                tries.again(policy, &failure, Sent::NOTHING, &budget, Instant::now()).expect("tried again")
            };
            (1..5).map(wait).collect::<Vec<_>>()
        };
        let policy = RetryPolicy { attempts: 9, budget_percent: 1000, backoff: second, ..default_retry() };
        assert_eq!(waits(&RetryPolicy { constant: true, ..policy.clone() }), [second; 4]);
        let bounded = waits(&RetryPolicy { max_backoff: Some(3 * second), ..policy });
        let within = |(at, wait): (usize, &Duration)| {
            let full = [1, 2, 3, 3][at] * second;
            *wait >= full / 2 && *wait <= full
        };
        assert!(bounded.iter().enumerate().all(within), "{bounded:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_is_left_alone_as_long_as_it_asks() {
        let minute = 60 * Duration::from_secs(1);
        let policy = RetryPolicy { statuses: vec![503], attempts: 1, min_per_second: 0, ..default_retry() };
        let waits = |policy: &RetryPolicy, after: u64, timeout: Duration| {
            let terms = Terms { timeout, ..terms() };
            let mut tries = Tries::new(&terms, true, Instant::now(), None);
            tries.begin(1);
            let budget = Budget::default();
            budget.balance.store(1_000, Relaxed);
            let refused = Refused { status: 503, after: Duration::from_secs(after) };
            let wait = tries.again_after_status(policy, refused, Sent::HEAD, &budget, Instant::now);
            assert_eq!(wait.is_none(), budget.left() >= 1.0, "what is not waited for costs nothing");
            wait.map(|wait| wait.as_secs())
        };
        assert_eq!(waits(&policy, 0, minute), Some(0));
        assert_eq!((waits(&policy, 5, minute), waits(&policy, 6, minute)), (Some(5), None));
        assert_eq!(waits(&policy, 3, Duration::from_secs(3)), None, "the call would be over");
        let slow = RetryPolicy { backoff: Duration::from_secs(8), constant: true, ..policy.clone() };
        assert_eq!((waits(&slow, 6, minute), waits(&slow, 9, minute)), (Some(8), None));
        let patient = RetryPolicy { max_backoff: Some(minute), ..policy };
        assert_eq!(waits(&patient, 30, minute), Some(30));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outer_deadline_only_shrinks() {
        let now = Instant::now();
        let near = now + Duration::from_millis(10);
        let far = now + Duration::from_secs(10);
        assert_eq!(Tries::new(&terms(), true, now, Some(near)).deadline(), near);
        assert_eq!(Tries::new(&terms(), true, now, Some(far)).deadline(), now + Duration::from_secs(1));
        let whole = Terms { patience: Patience { end: Some(near), ..terms().patience }, ..terms() };
        assert_eq!(Tries::new(&whole, true, now, Some(far)).deadline(), near);
    }
}
