//! How long an endpoint lets a kept connection be idle, learnt from those that it closed.
//!
//! A server that closes connections after some idle time does so at the very moment when a call may go out on one. Kept
//! connections are closed a little before that here, once it is known; until then a call that cannot be made again goes
//! only on one that is surely open. It takes two that agree to learn something, since a server that restarts closes
//! connections of any age, and what was learnt is forgotten after a while.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// How often idle connections are looked at, so a closed one was open so long before.
const LOOKED_AT: Duration = Duration::from_secs(1);
/// Idle for less than this, a connection counts as open whatever is known: hardly a server is that quick.
const SURELY: Duration = Duration::from_secs(1);
/// For how long something learnt holds.
const HOLDS: Duration = Duration::from_secs(600);

/// The shortest life that is believed: no server means to be quicker.
pub const SHORTEST: Duration = Duration::from_millis(500);

/// What is known of the connections to one endpoint.
#[derive(Debug, Default)]
pub struct IdleLife {
    /// The age at which the last one died that agrees with no other, and when that was.
    suspected: Cell<Option<(Duration, Instant)>>,
    /// Connections die at this age, and when that was seen.
    ends: Cell<Option<(Duration, Instant)>>,
    /// The greatest age that one was seen to survive.
    survived: Cell<Duration>,
}

impl IdleLife {
    /// The age from which on no connection is used, if one is known at `now`.
    pub fn limit(&self, now: Instant) -> Option<Duration> {
        let (ends, seen) = self.ends.get()?;
        if now.saturating_duration_since(seen) > HOLDS {
            self.ends.set(None);
            return None;
        }
        // A tenth less: the endpoint's clock began a little before ours.
        Some(ends - ends / 10)
    }

    /// Whether nothing is known or suspected at `now`.
    pub fn is_blank(&self, now: Instant) -> bool {
        self.limit(now).is_none() && self.suspicion(now).is_none()
    }

    fn suspicion(&self, now: Instant) -> Option<Duration> {
        let fresh = |(_, seen): &(Duration, Instant)| now.saturating_duration_since(*seen) <= HOLDS;
        self.suspected.get().filter(fresh).map(|(age, _)| age)
    }

    /// Whether a connection that has been idle for `age` is surely still open.
    pub fn is_sure(&self, age: Duration) -> bool {
        age < SURELY || age <= self.survived.get()
    }

    /// A connection of this age served a call.
    pub fn survived(&self, age: Duration) {
        if age > self.survived.get() {
            self.survived.set(age);
        }
    }

    /// A connection was closed by the endpoint not long before it reached this age.
    pub fn closed_by(&self, age: Duration, now: Instant) {
        self.closed_at(age.saturating_sub(LOOKED_AT), now);
    }

    /// A connection was closed by the endpoint at this age.
    pub fn closed_at(&self, age: Duration, now: Instant) {
        self.ends_at(age.max(self.survived.get()), now);
    }

    /// A call went out on a connection of this age and found it closed.
    pub fn died(&self, age: Duration, now: Instant) {
        // What others survived was luck, or is no longer so.
        self.survived.set(self.survived.get().min(age / 2));
        self.ends_at(age, now);
    }

    fn ends_at(&self, age: Duration, now: Instant) {
        let age = age.max(SHORTEST);
        let agree = |other: &Duration| age <= *other * 2 && *other <= age * 2;
        let known = self.limit(now).and(self.ends.get()).map(|(known, _)| known);
        if known.is_some_and(|known| known <= age) {
            self.ends.set(known.map(|known| (known, now)));
        } else if let Some(other) = self.suspicion(now).or(known).filter(agree) {
            self.ends.set(Some((age.min(other), now)));
            self.suspected.set(None);
        } else {
            self.suspected.set(Some((age, now)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn two_that_agree_are_believed_for_a_while() {
        let life = IdleLife::default();
        let now = Instant::now();
        life.died(10 * SECOND, now);
        assert_eq!(life.limit(now), None, "one may be an accident");
        life.closed_by(SECOND * 3 / 2, now);
        assert_eq!(life.limit(now), None, "these do not agree");
        life.died(10 * SECOND, now);
        life.closed_by(12 * SECOND, now);
        assert_eq!(life.limit(now), Some(9 * SECOND));
        life.closed_by(30 * SECOND, now);
        assert_eq!(life.limit(now), Some(9 * SECOND), "a longer one says nothing against a shorter");
        life.died(6 * SECOND, now);
        assert_eq!(life.limit(now), Some(SECOND * 54 / 10), "a shorter one that agrees does");
        assert_eq!(life.limit(now + 601 * SECOND), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_survived_is_sure() {
        let life = IdleLife::default();
        let now = Instant::now();
        assert!(life.is_sure(SECOND / 2) && !life.is_sure(2 * SECOND));
        life.survived(4 * SECOND);
        assert!(life.is_sure(4 * SECOND) && !life.is_sure(5 * SECOND));
        life.closed_by(SECOND * 9 / 2, now);
        life.closed_by(SECOND * 9 / 2, now);
        assert_eq!(life.limit(now), Some(SECOND * 36 / 10), "never less than what survived");
        life.died(4 * SECOND, now);
        assert!(!life.is_sure(3 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn quick_ends_do_not_stop_connections_from_being_kept() {
        let life = IdleLife::default();
        let now = Instant::now();
        life.died(Duration::ZERO, now);
        life.closed_by(SECOND / 10, now);
        assert_eq!(life.limit(now), Some(SHORTEST * 9 / 10));
    }
}
