//! When an ended process starts again: a pure function of the restart policy and its history.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use super::spec::{Restart, RestartPolicy};
use super::status::Exit;

/// What follows an exit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    /// It ended as it should.
    Done,
    /// It stays down.
    GiveUp,
    /// Start again after the delay.
    After { delay: Duration, attempt: u32 },
}

/// Counts restarts in a row.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    in_a_row: u32,
}

impl Backoff {
    /// Decides after a run of `ran_for`. `exit` is absent when the program could not be started, and for
    /// what is no program; `dice` is uniform in 0..1.
    pub(crate) fn after(
        &mut self,
        restart: &Restart,
        exit: Option<Exit>,
        ran_for: Duration,
        dice: f64,
    ) -> Next {
        let success = exit.is_some_and(Exit::is_success);
        match restart.policy {
            RestartPolicy::Never | RestartPolicy::OnFailure if success => return Next::Done,
            RestartPolicy::Never => return Next::GiveUp,
            RestartPolicy::OnFailure | RestartPolicy::Always => {}
        }
        if ran_for >= restart.stable_after {
            self.in_a_row = 0;
        }
        if restart.max_attempts.is_some_and(|max| self.in_a_row >= max) {
            return Next::GiveUp;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        Next::After { delay: delay(restart, self.in_a_row, dice), attempt: self.in_a_row }
    }
}

/// The delay before the `attempt`-th restart in a row. The random share only shortens it, so `max` holds.
fn delay(restart: &Restart, attempt: u32, dice: f64) -> Duration {
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let full = (restart.initial.as_secs_f64() * restart.factor.powi(exponent)).min(restart.max.as_secs_f64());
    Duration::from_secs_f64(full * (1.0 - restart.jitter * dice.clamp(0.0, 1.0)))
}

/// Uniform in 0..1; good enough to keep restarts out of step.
pub(crate) fn dice() -> f64 {
    let bits = std::collections::hash_map::RandomState::new().build_hasher().finish() >> 11;
    // 53 bits: exactly what the mantissa holds.
    bits as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    fn restart(policy: RestartPolicy) -> Restart {
        let seconds = Duration::from_secs;
        Restart { policy, initial: seconds(1), max: seconds(10), jitter: 0.5, ..Restart::default() }
    }

    #[test]
    fn delays_double_to_the_limit_and_start_over_after_a_stable_run() {
        let restart = restart(RestartPolicy::Always);
        let mut backoff = Backoff::default();
        let mut after = |ran_for| {
            let next = backoff.after(&restart, Some(Exit::Code(0)), ran_for, 0.0);
            let Next::After { delay, attempt } = next else { panic!("{next:?}") };
            (delay.as_secs(), attempt)
        };
        let delays: Vec<_> = (0..6).map(|_| after(SHORT)).collect();
        assert_eq!(delays, [(1, 1), (2, 2), (4, 3), (8, 4), (10, 5), (10, 6)]);
        assert_eq!(after(Duration::from_secs(60)), (1, 1));
    }

    #[test]
    fn jitter_only_shortens() {
        let restart = restart(RestartPolicy::Always);
        assert_eq!(delay(&restart, 1, 1.0), Duration::from_millis(500));
        assert_eq!(delay(&restart, 1, 0.5), Duration::from_millis(750));
        assert_eq!(delay(&restart, u32::MAX, 0.0), Duration::from_secs(10));
    }

    #[test]
    fn policies() {
        #[track_caller]
        fn check(policy: RestartPolicy, exit: Option<Exit>, restarts: bool, done: bool) {
            let next = Backoff::default().after(&restart(policy), exit, SHORT, 0.0);
            assert_eq!(matches!(next, Next::After { .. }), restarts, "{policy:?} {exit:?}");
            assert_eq!(next == Next::Done, done, "{policy:?} {exit:?}");
        }
        use RestartPolicy::{Always, Never, OnFailure};
        check(Always, Some(Exit::Code(0)), true, false);
        check(Always, None, true, false);
        check(OnFailure, Some(Exit::Code(0)), false, true);
        check(OnFailure, Some(Exit::Signal(9)), true, false);
        check(OnFailure, None, true, false);
        check(Never, Some(Exit::Code(0)), false, true);
        check(Never, Some(Exit::Code(1)), false, false);
        check(Never, None, false, false);
    }

    #[test]
    fn gives_up_after_the_last_attempt() {
        let restart = Restart { max_attempts: Some(2), ..restart(RestartPolicy::OnFailure) };
        let mut backoff = Backoff::default();
        let next: Vec<_> = (0..3).map(|_| backoff.after(&restart, Some(Exit::Lost), SHORT, 0.0)).collect();
        assert!(matches!(next[1], Next::After { attempt: 2, .. }));
        assert_eq!(next[2], Next::GiveUp);
    }

    #[test]
    fn the_dice_are_fair_enough() {
        let rolls: Vec<f64> = (0..100).map(|_| dice()).collect();
        assert!(rolls.iter().all(|roll| (0.0..1.0).contains(roll)));
        assert!(rolls.iter().any(|roll| *roll < 0.5) && rolls.iter().any(|roll| *roll >= 0.5));
    }
}
