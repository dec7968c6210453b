//! How old connections may get: one that is too old takes no further call, so that instances which came later behind the same
//! address get some.

use std::time::Duration;

use dodai_core::trace::random;
use tokio::time::Instant;

use crate::place::nanos;

/// How long a connection lives whose age is bounded by `most`: up to a tenth less or more, by where `chance` lies between 0
/// and its greatest value, so that not all end at once.
pub fn life(most: Duration, chance: u64) -> Duration {
    let share = (chance >> 11) as f64 / (1u64 << 53) as f64;
    most.mul_f64(0.9 + share / 5.0)
}

/// When a connection takes no further call, in [`UNIT`]s on a clock that starts anew every day and a half; 0 is never. Small,
/// as every HTTP/1 connection of a client has room for that of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Until(u16);

const UNIT: Duration = Duration::from_secs(2);

impl Until {
    /// For a connection that is made at `now` and may get as old as `most`: at most half of what the clock holds, 18 hours.
    pub fn of(most: Option<Duration>, now: Instant) -> Until {
        most.map_or(Until::default(), |most| Until(units(now + life(most, random())).max(1)))
    }

    /// Whether that is over at `now`.
    pub fn is_over(self, now: Instant) -> bool {
        // The clock goes round, so what lies less than half of it ahead is to come.
        self.0 != 0 && units(now).wrapping_sub(self.0) < u16::MAX / 2
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the clock goes round")]
fn units(at: Instant) -> u16 {
    (nanos(at) / UNIT.as_nanos() as u64) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_spread_by_a_tenth() {
        let most = Duration::from_secs(100);
        assert_eq!(life(most, 0), Duration::from_secs(90));
        let longest = life(most, u64::MAX);
        assert!(longest > Duration::from_secs(109) && longest <= Duration::from_secs(110), "{longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_found_wherever_the_clock_stands() {
        assert!(!Until::of(None, Instant::now()).is_over(Instant::now()));
        let hour = Duration::from_secs(3600);
        for hours in 0..80u32 {
            let now = Instant::now() + hour * hours;
            let until = Until::of(Some(12 * hour), now);
            let at = |hours: f64| until.is_over(now + hour.mul_f64(hours));
            assert_eq!([at(0.0), at(10.7), at(13.3), at(20.0)], [false, false, true, true], "{hours}");
        }
    }
}
