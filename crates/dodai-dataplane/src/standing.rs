//! How an endpoint stands: what calls through it show of it beside the others, and what it says when it is asked.
//!
//! Verdicts are shared by all threads and kept as atomics. Shares are compared by the call that finds the interval
//! over, so no task runs for it, and a service without calls costs nothing. The breaker is apart (`place`): it looks at
//! one endpoint only and is on by default; what is here a service asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use dodai_core::record::effective_status;
use dodai_core::snapshot::{FailurePercentage, HealthCheck, Outliers, SuccessRate};
use smallvec::SmallVec;

use crate::place::Endpoint;

/// What is known of one endpoint.
#[derive(Debug, Default)]
pub struct Standing {
    /// Answers of 500 and above, and those of gateways, in a row.
    errors: AtomicU32,
    gateway_errors: AtomicU32,
    /// Calls of this interval, and the good ones of them.
    calls: AtomicU32,
    good: AtomicU32,
    /// How often it was left alone, less the quiet intervals since.
    ejections: AtomicU32,
    ejected_until: AtomicU64,
    /// Since when it gets calls.
    pub since: AtomicU64,
    /// Whether its answers to checks say that it is not well.
    unwell: AtomicU32,
    /// Answers in a row that say the opposite of `unwell`.
    streak: AtomicU32,
    next_check: AtomicU64,
}

/// How a call ended, for the one who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// With this status.
    Status(u16),
    /// Without an answer, or without the end of one.
    Broken,
}

impl Verdict {
    /// Of an answer; where gRPC says how a call went, the status of HTTP does not.
    pub fn of(status: u16, grpc_status: Option<u8>) -> Verdict {
        Verdict::Status(effective_status(status, grpc_status))
    }

    /// Whether Dapr takes it for a failure: whatever is neither 2xx nor 3xx (`NewCodeError` of its `pkg/resiliency`).
    pub fn is_no_success(self) -> bool {
        match self {
            Verdict::Status(status) => status >= 400,
            Verdict::Broken => true,
        }
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX / 2)
}

impl Standing {
    /// Of an endpoint that gets calls from `now` on.
    pub fn new(now: u64) -> Standing {
        Standing { since: AtomicU64::new(now), ..Standing::default() }
    }

    /// Whether it is left alone at `now` for doing worse than it should.
    pub fn is_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Relaxed) > now
    }

    /// Until when it is left alone; in the past, or 0, if it is not.
    pub fn ejected_until(&self) -> u64 {
        self.ejected_until.load(Relaxed)
    }

    /// How often it was left alone, less the quiet intervals since.
    pub fn ejections(&self) -> u32 {
        self.ejections.load(Relaxed)
    }

    /// Whether it said that it is not well.
    pub fn is_unwell(&self) -> bool {
        self.unwell.load(Relaxed) != 0
    }

    /// Whether nothing speaks against it.
    pub fn is_good(&self, now: u64) -> bool {
        !self.is_ejected(now) && !self.is_unwell()
    }

    /// How much of its share it gets at `now`, in thousandths, when it takes `window` to get all of it.
    pub fn share(&self, now: u64, window: Duration) -> u64 {
        let age = now.saturating_sub(self.since.load(Relaxed));
        (age.saturating_mul(1000) / nanos(window).max(1)).clamp(100, 1000)
    }

    /// Whether it is to be asked at `now`; the one who is told yes does it.
    pub fn check_is_due(&self, now: u64, check: &HealthCheck) -> bool {
        let due = self.next_check.load(Relaxed);
        due <= now
            && self
                .next_check
                .compare_exchange(due, now.saturating_add(nanos(check.interval)), Relaxed, Relaxed)
                .is_ok()
    }

    /// It answered a check. Returns whether that changed what it counts as.
    pub fn checked(&self, is_well: bool, check: &HealthCheck, now: u64) -> bool {
        if is_well != self.is_unwell() {
            self.streak.store(0, Relaxed);
            return false;
        }
        let enough = if is_well { check.healthy_after } else { check.unhealthy_after };
        if self.streak.fetch_add(1, Relaxed) + 1 < enough {
            return false;
        }
        self.streak.store(0, Relaxed);
        self.unwell.store(u32::from(!is_well), Relaxed);
        if is_well {
            self.since.store(now, Relaxed);
        }
        true
    }
}

/// Judges the endpoints of one service.
#[derive(Debug, Default)]
pub struct Judge {
    /// When shares are compared next; 0 before the first call.
    next: AtomicU64,
    /// When the last call came, if endpoints are asked how they are.
    called_at: AtomicU64,
}

impl Judge {
    /// A call came at `now`.
    pub fn called(&self, now: u64) {
        self.called_at.store(now, Relaxed);
    }

    /// Whether a call came within `span` before `now`.
    pub fn was_called_within(&self, span: Duration, now: u64) -> bool {
        let at = self.called_at.load(Relaxed);
        at != 0 && now.saturating_sub(at) <= nanos(span)
    }

    /// A call to `one` of `all` ended at `now`.
    pub fn judge(&self, rules: &Outliers, all: &[Arc<Endpoint>], one: &Endpoint, verdict: Verdict, now: u64) {
        let (is_error, is_gateway) = match verdict {
            Verdict::Broken => (true, true),
            Verdict::Status(status) => (status >= 500, matches!(status, 502..=504)),
        };
        let standing = &one.standing;
        standing.calls.fetch_add(1, Relaxed);
        if !is_error {
            standing.good.fetch_add(1, Relaxed);
        }
        let in_a_row = |count: &AtomicU32, is: bool, most: u32| {
            if !is {
                count.store(0, Relaxed);
                return false;
            }
            let reached = count.fetch_add(1, Relaxed) + 1;
            most > 0 && reached >= most
        };
        let errors = in_a_row(&standing.errors, is_error, rules.consecutive_5xx);
        let gateway = in_a_row(&standing.gateway_errors, is_gateway, rules.consecutive_gateway);
        if errors || gateway {
            eject(rules, all, one, "it failed too often in a row", now);
        }
        self.compare_if_due(rules, all, now);
    }

    fn compare_if_due(&self, rules: &Outliers, all: &[Arc<Endpoint>], now: u64) {
        let due = self.next.load(Relaxed);
        if due > now {
            return;
        }
        let next = now.saturating_add(nanos(rules.interval)).max(1);
        if self.next.compare_exchange(due, next, Relaxed, Relaxed).is_err() || due == 0 {
            return;
        }
        if let Some(rate) = &rules.success_rate {
            compare(rules, rate, all, now);
        }
        if let Some(failures) = &rules.failure_percentage {
            count_failures(rules, failures, all, now);
        }
        for one in all {
            one.standing.calls.store(0, Relaxed);
            one.standing.good.store(0, Relaxed);
            // Good behaviour is forgotten as slowly as bad was learnt.
            if !one.standing.is_ejected(now) {
                let fewer = |count: u32| count.checked_sub(1);
                let _none = one.standing.ejections.fetch_update(Relaxed, Relaxed, fewer);
            }
        }
    }
}

/// Leaves those alone whose share of good answers is too far below the others'.
fn compare(rules: &Outliers, rate: &SuccessRate, all: &[Arc<Endpoint>], now: u64) {
    let share = |one: &Arc<Endpoint>| {
        let (calls, good) = (one.standing.calls.load(Relaxed), one.standing.good.load(Relaxed));
        (calls >= rate.min_calls.max(1)).then(|| f64::from(good.min(calls)) / f64::from(calls))
    };
    let shares: SmallVec<[f64; 32]> = all.iter().filter_map(share).collect();
    if shares.len() < rate.min_endpoints as usize {
        return;
    }
    let count = shares.len() as f64;
    let mean = shares.iter().sum::<f64>() / count;
    let deviation = (shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / count).sqrt();
    let least = mean - deviation * f64::from(rate.deviations_hundredths) / 100.0;
    for one in all {
        if share(one).is_some_and(|share| share < least) {
            eject(rules, all, one, "it fails more often than the others", now);
        }
    }
}

/// Leaves those alone of whose answers too many are failures.
fn count_failures(rules: &Outliers, failures: &FailurePercentage, all: &[Arc<Endpoint>], now: u64) {
    let enough = |one: &&Arc<Endpoint>| one.standing.calls.load(Relaxed) >= failures.min_calls.max(1);
    if all.iter().filter(enough).count() < failures.min_endpoints as usize {
        return;
    }
    for one in all.iter().filter(enough) {
        let calls = u64::from(one.standing.calls.load(Relaxed));
        let bad = calls.saturating_sub(one.standing.good.load(Relaxed).into());
        if bad * 100 >= calls * u64::from(failures.threshold) {
            eject(rules, all, one, "too many of its answers are failures", now);
        }
    }
}

/// Leaves an endpoint alone for a while, longer each time, unless too many are already.
fn eject(rules: &Outliers, all: &[Arc<Endpoint>], one: &Endpoint, why: &str, now: u64) {
    let ejected = all.iter().filter(|other| other.standing.is_ejected(now)).count();
    let most = (all.len() * rules.max_ejected_percent as usize / 100).max(1);
    if one.standing.is_ejected(now) || ejected >= most {
        return;
    }
    let times = one.standing.ejections.fetch_add(1, Relaxed) + 1;
    let long = rules.ejection.saturating_mul(times).min(rules.max_ejection);
    one.standing.ejected_until.store(now.saturating_add(nanos(long)).max(1), Relaxed);
    one.standing.errors.store(0, Relaxed);
    one.standing.gateway_errors.store(0, Relaxed);
    tracing::info!(endpoint = &*one.label, for_ms = long.as_millis(), "an endpoint is left alone: {why}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use dodai_core::id::{BaseId, RevisionId};
    use dodai_core::snapshot::{self, Question, Target};

    const SECOND: u64 = 1_000_000_000;

    fn endpoints(count: usize) -> Vec<Arc<Endpoint>> {
        let one = |at| {
            let target = Target::Address(format!("10.0.1.{at}:8000"));
            let source = snapshot::Endpoint::new(RevisionId::new("r"), target);
            Arc::new(
                Endpoint::new(&source, None, &BaseId::new("b"), &Default::default()).expect("an address"),
            )
        };
        (0..count).map(one).collect()
    }

    fn rules() -> Outliers {
        Outliers {
            consecutive_5xx: 3,
            consecutive_gateway: 2,
            success_rate: Some(SuccessRate { deviations_hundredths: 150, min_endpoints: 3, min_calls: 10 }),
            failure_percentage: None,
            interval: Duration::from_secs(10),
            ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(70),
            max_ejected_percent: 50,
        }
    }

    #[test]
    fn grpc_says_how_a_call_went() {
        for (grpc, expect) in [(None, 200), (Some(0), 200), (Some(5), 200), (Some(14), 503), (Some(13), 500)]
        {
            assert_eq!(Verdict::of(200, grpc), Verdict::Status(expect), "{grpc:?}");
        }
    }

    #[test]
    fn failures_in_a_row_are_counted_by_kind() {
        let check = |verdicts: &[Verdict], expect: bool| {
            let all = endpoints(2);
            let judge = Judge::default();
            for verdict in verdicts {
                judge.judge(&rules(), &all, &all[0], *verdict, SECOND);
            }
            assert_eq!(all[0].standing.is_ejected(SECOND), expect, "{verdicts:?}");
        };
        use Verdict::{Broken, Status};
        check(&[Status(500), Status(500)], false);
        check(&[Status(500), Status(500), Status(500)], true);
        check(&[Status(500), Status(500), Status(404), Status(500)], false);
        check(&[Status(503), Broken], true);
        check(&[Status(503), Status(500), Status(503)], true);
        check(&[Status(503), Status(500)], false);
    }

    #[test]
    fn each_time_is_longer_and_only_so_many_are_left_alone() {
        let all = endpoints(4);
        let interval = Duration::from_secs(1000);
        let (judge, rules) = (Judge::default(), Outliers { success_rate: None, interval, ..rules() });
        let fail = |at: usize, now: u64| {
            for _ in 0..2 {
                judge.judge(&rules, &all, &all[at], Verdict::Broken, now);
            }
        };
        fail(0, SECOND);
        fail(1, SECOND);
        fail(2, SECOND);
        let ejected = |now: u64| all.iter().map(|one| one.standing.is_ejected(now)).collect::<Vec<_>>();
        assert_eq!(ejected(SECOND), [true, true, false, false], "half of them at most");
        assert_eq!(ejected(31 * SECOND), [false; 4]);
        // Nothing was compared meanwhile, so the second time follows the first.
        fail(0, 31 * SECOND + 1);
        assert!(all[0].standing.is_ejected(90 * SECOND) && !all[0].standing.is_ejected(92 * SECOND));
        fail(0, 92 * SECOND);
        assert!(all[0].standing.is_ejected(161 * SECOND) && !all[0].standing.is_ejected(163 * SECOND));
    }

    #[test]
    fn one_that_fails_more_often_than_the_others_is_left_alone() {
        let all = endpoints(5);
        let judge = Judge::default();
        let rules = Outliers { consecutive_5xx: 0, consecutive_gateway: 0, ..rules() };
        for call in 0..20 {
            for (at, one) in all.iter().enumerate() {
                let bad = at == 3 && call % 2 == 0;
                judge.judge(&rules, &all, one, Verdict::Status(if bad { 500 } else { 200 }), SECOND);
            }
        }
        assert!(all.iter().all(|one| !one.standing.is_ejected(SECOND)), "the interval is not over");
        judge.judge(&rules, &all, &all[0], Verdict::Status(200), 12 * SECOND);
        let ejected: Vec<bool> = all.iter().map(|one| one.standing.is_ejected(12 * SECOND)).collect();
        assert_eq!(ejected, [false, false, false, true, false]);
    }

    #[test]
    fn one_that_fails_too_often_is_left_alone_whatever_the_others_do() {
        let check = |min_endpoints: u32, percent: u32, expect: [bool; 3]| {
            let all = endpoints(3);
            let judge = Judge::default();
            let failures = FailurePercentage { threshold: 80, min_endpoints, min_calls: 10 };
            let rules = Outliers {
                consecutive_5xx: 0,
                consecutive_gateway: 0,
                success_rate: None,
                failure_percentage: Some(failures),
                max_ejected_percent: percent,
                ..rules()
            };
            // Of ten calls, so many are bad at each; the last has too few calls for anything.
            for (one, bad, calls) in [(&all[0], 8, 10), (&all[1], 9, 10), (&all[2], 9, 9)] {
                for call in 0..calls {
                    let status = if call < bad { 500 } else { 200 };
                    judge.judge(&rules, &all, one, Verdict::Status(status), SECOND);
                }
            }
            judge.judge(&rules, &all, &all[0], Verdict::Status(500), 12 * SECOND);
            let ejected: Vec<bool> = all.iter().map(|one| one.standing.is_ejected(12 * SECOND)).collect();
            assert_eq!(ejected, expect, "{min_endpoints} {percent}");
        };
        check(2, 100, [true, true, false]);
        check(3, 100, [false, false, false]);
        check(2, 10, [true, false, false]);
    }

    #[test]
    fn answers_to_checks_must_agree_for_a_while() {
        let check = HealthCheck {
            asks: Question::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            healthy_after: 2,
            unhealthy_after: 3,
            idle_after: Duration::from_secs(60),
        };
        let standing = Standing::default();
        let after = |answers: &[bool]| {
            for is_well in answers {
                standing.checked(*is_well, &check, SECOND);
            }
            standing.is_unwell()
        };
        assert!(!after(&[false, false, true, false, false]));
        assert!(after(&[false]));
        assert!(after(&[true, false, true]));
        assert!(!after(&[true]));
        assert!(standing.check_is_due(SECOND, &check) && !standing.check_is_due(2 * SECOND, &check));
        assert!(standing.check_is_due(6 * SECOND, &check));
    }

    #[test]
    fn a_new_endpoint_gets_more_and_more() {
        let standing = Standing::default();
        standing.since.store(10 * SECOND, Relaxed);
        let share = |at: u64| standing.share(at * SECOND, Duration::from_secs(10));
        assert_eq!([share(10), share(15), share(20), share(99)], [100, 500, 1000, 1000]);
    }
}
