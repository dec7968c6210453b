//! How much is asked of limits that all bases keep together: measured here, told to control, which gives out shares.
//!
//! Told only when it changed by a good part, or a mesh of steady load would be told about nothing all the time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// How long is measured at once.
const WINDOW: Duration = Duration::from_secs(1);

/// Calls per second by limit, from counts that only grow.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    since: Option<Instant>,
    counts: BTreeMap<String, u64>,
    told: BTreeMap<String, u64>,
}

impl Meter {
    /// Looks at the counts at `now`; what is to be told, if that differs enough from what was.
    pub fn look(&mut self, counts: BTreeMap<String, u64>, now: Instant) -> Option<BTreeMap<String, u64>> {
        let same_limits = counts.keys().eq(self.counts.keys());
        let since = *self.since.get_or_insert(now);
        let took = now.saturating_duration_since(since);
        if same_limits && took < WINDOW {
            return None;
        }
        let rate = |(name, count): (&String, &u64)| {
            let before = self.counts.get(name).copied().unwrap_or(*count);
            let more = count.saturating_sub(before) as f64;
            let rate = if took.is_zero() { 0.0 } else { more / took.as_secs_f64() };
            (name.clone(), rate.round() as u64)
        };
        let rates: BTreeMap<String, u64> = counts.iter().map(rate).collect();
        (self.since, self.counts) = (Some(now), counts);
        let differs = |(name, rate): (&String, &u64)| {
            self.told.get(name).is_none_or(|told| rate.abs_diff(*told) > (told / 4).max(1))
        };
        if rates.len() == self.told.len() && !rates.iter().any(differs) {
            return None;
        }
        self.told.clone_from(&rates);
        Some(rates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_changed_by_a_good_part_is_told() {
        let mut meter = Meter::default();
        let counts = |count: u64| BTreeMap::from([("a".to_owned(), count)]);
        assert_eq!(meter.look(BTreeMap::new(), Instant::now()), None, "no limit, nothing to tell");
        assert_eq!(meter.look(counts(0), Instant::now()), Some(counts(0)), "a new limit is told at once");
        let mut total = 0;
        for (more, expect) in
            [(100, Some(100)), (110, None), (90, None), (200, Some(200)), (0, Some(0)), (1, None)]
        {
            tokio::time::advance(Duration::from_millis(500)).await;
            assert_eq!(meter.look(counts(total), Instant::now()), None, "half a window is too early");
            tokio::time::advance(Duration::from_millis(500)).await;
            total += more;
            assert_eq!(meter.look(counts(total), Instant::now()), expect.map(counts), "{more}");
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(meter.look(BTreeMap::new(), Instant::now()), Some(BTreeMap::new()), "a limit that went");
    }
}
