//! How much is asked of limits that all bases keep together: measured here, told to control, which gives out shares.
//!
//! Told only when it changed by a good part, or a mesh of steady load would be told about nothing all the time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::shared_rate::Limits;

/// How long is measured at once.
const WINDOW: Duration = Duration::from_secs(1);

/// Calls per second by key; what is less than one in two seconds is not there.
type ByKey = BTreeMap<u64, u64>;

/// What a base tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Calls per second by limit.
    pub demand: BTreeMap<String, u64>,
    /// And by the marks of those keys that most come by.
    pub busiest: BTreeMap<String, ByKey>,
}

/// Calls per second, from counts that only grow.
#[derive(Debug, Default)]
pub struct Meter {
    since: Option<Instant>,
    counts: BTreeMap<String, u64>,
    told: Told,
}

impl Meter {
    /// Looks at those of `limits` that control shares out at `now`; what is to be told, if that differs enough from what
    /// was.
    pub fn look(&mut self, limits: &Limits, now: Instant) -> Option<Told> {
        let by_control = || limits.iter().filter(|(_, limit)| limit.store().is_none());
        let counts = by_control().map(|(name, limit)| (name.clone(), limit.asked())).collect();
        let keyed = by_control().filter(|(_, limit)| limit.is_keyed());
        self.measure(counts, || keyed.map(|(name, limit)| (name.clone(), limit.busiest())).collect(), now)
    }

    /// `keys` are counted since the last time, `counts` since the beginning.
    fn measure(
        &mut self,
        counts: BTreeMap<String, u64>,
        keys: impl FnOnce() -> BTreeMap<String, ByKey>,
        now: Instant,
    ) -> Option<Told> {
        let same_limits = counts.keys().eq(self.counts.keys());
        let since = *self.since.get_or_insert(now);
        let took = now.saturating_duration_since(since);
        if same_limits && took < WINDOW {
            return None;
        }
        let more =
            |name: &String, count: u64| count - self.counts.get(name).map_or(count, |old| count.min(*old));
        let of_limit = |(name, count): (&String, &u64)| (name.clone(), rate(more(name, *count), took));
        let of_keys = |keys: ByKey| {
            let rates = keys.into_iter().map(|(mark, count)| (mark, rate(count, took)));
            rates.filter(|(_, rate)| *rate > 0).collect()
        };
        let found = Told {
            demand: counts.iter().map(of_limit).collect(),
            busiest: keys().into_iter().map(|(name, keys)| (name, of_keys(keys))).collect(),
        };
        (self.since, self.counts) = (Some(now), counts);
        let told = &self.told;
        let same_limits =
            told.demand.keys().eq(found.demand.keys()) && told.busiest.keys().eq(found.busiest.keys());
        let mut keys = found.busiest.values().zip(told.busiest.values());
        let is_same = same_limits
            && is_about(&found.demand, &told.demand)
            && keys.all(|(now, told)| is_about(now, told));
        if is_same {
            return None;
        }
        self.told = found.clone();
        Some(found)
    }
}

fn rate(count: u64, took: Duration) -> u64 {
    if took.is_zero() { 0 } else { (count as f64 / took.as_secs_f64()).round() as u64 }
}

/// Whether no rate is another by a good part; what is not there is 0.
fn is_about<K: Ord>(now: &BTreeMap<K, u64>, told: &BTreeMap<K, u64>) -> bool {
    let differs = |now: u64, told: u64| now.abs_diff(told) > (told / 4).max(1);
    let gone = told.iter().filter(|(key, _)| !now.contains_key(key));
    !now.iter().any(|(key, rate)| differs(*rate, told.get(key).copied().unwrap_or(0)))
        && !gone.into_iter().any(|(_, rate)| differs(0, *rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(count: u64) -> BTreeMap<String, u64> {
        BTreeMap::from([("a".to_owned(), count)])
    }

    fn told(rate: u64) -> Told {
        Told { demand: counts(rate), busiest: BTreeMap::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_changed_by_a_good_part_is_told() {
        let mut meter = Meter::default();
        let mut look = |counts| meter.measure(counts, BTreeMap::new, Instant::now());
        assert_eq!(look(BTreeMap::new()), None, "no limit, nothing to tell");
        assert_eq!(look(counts(0)), Some(told(0)), "a new limit is told at once");
        let mut total = 0;
        for (more, expect) in
            [(100, Some(100)), (110, None), (90, None), (200, Some(200)), (0, Some(0)), (1, None)]
        {
            tokio::time::advance(Duration::from_millis(500)).await;
            assert_eq!(look(counts(total)), None, "half a window is too early");
            tokio::time::advance(Duration::from_millis(500)).await;
            total += more;
            assert_eq!(look(counts(total)), expect.map(told), "{more}");
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(look(BTreeMap::new()), Some(Told::default()), "a limit that went");
    }

    #[tokio::test(start_paused = true)]
    async fn so_is_what_changed_of_a_key() {
        let mut meter = Meter::default();
        let mut look = |keys: &[(u64, u64)]| {
            let keys = || BTreeMap::from([("a".to_owned(), keys.iter().copied().collect())]);
            meter.measure(counts(0), keys, Instant::now())
        };
        assert!(look(&[]).is_some());
        let one = |rate: u64| vec![(1, rate)];
        for (keys, expect) in [
            (vec![(1, 100), (2, 0)], Some(one(100))),
            (one(110), None),
            (vec![(1, 100), (2, 1)], None),
            (vec![(1, 100), (2, 50)], Some(vec![(1, 100), (2, 50)])),
            (vec![(2, 50)], Some(vec![(2, 50)])),
        ] {
            tokio::time::advance(Duration::from_secs(1)).await;
            let found = look(&keys).map(|told| told.busiest["a"].clone().into_iter().collect::<Vec<_>>());
            assert_eq!(found, expect, "{keys:?}");
        }
    }
}
