//! What calls were lately, by app and by edge (caller and app): counters of the node, read once a second, as rates and
//! latencies in rings.
//!
//! Seconds are kept for five minutes, and steps of fifteen seconds for an hour. A second without a call takes no room.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::seam::{Pair, Traffic};

/// How many seconds are kept one by one.
pub const FINE_SECONDS: u64 = 300;
/// The length of a coarse step.
pub const STEP_SECONDS: u64 = 15;
/// How many seconds are kept in coarse steps.
pub const COARSE_SECONDS: u64 = 3600;
/// The most apps and edges that are followed; what comes later is not.
pub const MAX_TRACKS: usize = 2000;

/// One step of a series. Serialises as `[second, calls, errors, p50_us, p99_us, cpu_milli, memory_bytes]`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// When it begins, in seconds since 1970.
    pub second: u64,
    /// Calls that ended in it.
    pub calls: u32,
    /// Those of them that ended in an error.
    pub errors: u32,
    /// Half of them took at most so long, in microseconds.
    pub p50_us: f32,
    /// All but one in a hundred took at most so long, in microseconds.
    pub p99_us: f32,
    /// Processor time, in thousandths of a core; of apps only.
    pub cpu_milli: f32,
    /// Memory in bytes at its end; of apps only.
    pub memory_bytes: u64,
}

impl Serialize for Point {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let round = |value: f32| value.round() as u64;
        (
            self.second,
            self.calls,
            self.errors,
            round(self.p50_us),
            round(self.p99_us),
            round(self.cpu_milli),
            self.memory_bytes,
        )
            .serialize(out)
    }
}

/// Counters as they were when they were read last.
#[derive(Clone, Debug, Default)]
struct Counters {
    calls: u64,
    errors: u64,
    buckets: Vec<u64>,
    known: bool,
}

impl Counters {
    /// What came since, as a point; counters that went back begin anew.
    fn until(&self, now: &Counters, second: u64, bounds: &[f64]) -> Point {
        let went_back = !self.known
            || now.calls < self.calls
            || self.buckets.iter().zip(&now.buckets).any(|(before, after)| after < before);
        let mut point = Point { second, ..Point::default() };
        if went_back {
            return point;
        }
        let before = self.buckets.iter().copied().chain(std::iter::repeat(0));
        let fresh: Vec<u64> = now.buckets.iter().zip(before).map(|(after, before)| after - before).collect();
        point.calls = u32::try_from(now.calls - self.calls).unwrap_or(u32::MAX);
        point.errors = u32::try_from(now.errors.saturating_sub(self.errors)).unwrap_or(u32::MAX);
        point.p50_us = quantile(&fresh, bounds, 0.5);
        point.p99_us = quantile(&fresh, bounds, 0.99);
        point
    }

    fn add(&mut self, flow: &Pair) {
        self.calls += flow.calls;
        self.errors += flow.errors;
        self.buckets.resize(self.buckets.len().max(flow.buckets.len()), 0);
        for (sum, more) in self.buckets.iter_mut().zip(&flow.buckets) {
            *sum += more;
        }
    }
}

/// The latency below which a share of the calls stayed, in microseconds: straight between the bounds of its bucket.
fn quantile(buckets: &[u64], bounds_s: &[f64], share: f64) -> f32 {
    let all: u64 = buckets.iter().sum();
    if all == 0 {
        return 0.0;
    }
    let wanted = all as f64 * share;
    let mut below = 0.0;
    for (at, count) in buckets.iter().enumerate() {
        let count = *count as f64;
        if count > 0.0 && below + count >= wanted {
            let from = at.checked_sub(1).and_then(|at| bounds_s.get(at)).copied().unwrap_or(0.0);
            // The last bucket has no end: what is known is where it begins.
            let to = bounds_s.get(at).copied().unwrap_or(from);
            return ((from + (to - from) * (wanted - below) / count) * 1e6) as f32;
        }
        below += count;
    }
    0.0
}

#[derive(Default)]
struct Track {
    fine: VecDeque<Point>,
    coarse: VecDeque<Point>,
    last: Counters,
    last_coarse: Counters,
    used: Use,
    /// When that was looked at, and the share of a core since the look before.
    used_at: u64,
    cpu_milli: f32,
    seen: u64,
}

impl Track {
    /// Takes the counters of a second, and what is used if that was looked at.
    fn step(&mut self, now: Counters, used: Option<Use>, second: u64, bounds: &[f64]) {
        if let Some(used) = used {
            let (spent, length) =
                (used.cpu_ms.checked_sub(self.used.cpu_ms), second.saturating_sub(self.used_at));
            let is_known = self.used_at > 0 && length > 0;
            self.cpu_milli = spent.filter(|_| is_known).map_or(0.0, |spent| spent as f32 / length as f32);
            (self.used, self.used_at) = (used, second);
        }
        self.seen = second;
        let memory_bytes = self.used.memory_bytes;
        let cpu_milli = self.cpu_milli;
        let fine = Point { memory_bytes, cpu_milli, ..self.last.until(&now, second, bounds) };
        keep(&mut self.fine, fine, second.saturating_sub(FINE_SECONDS));
        if second.is_multiple_of(STEP_SECONDS) || !self.last_coarse.known {
            let from = second.saturating_sub(STEP_SECONDS);
            let coarse = Point { memory_bytes, cpu_milli, ..self.last_coarse.until(&now, from, bounds) };
            keep(&mut self.coarse, coarse, second.saturating_sub(COARSE_SECONDS));
            self.last_coarse = now.clone();
        }
        self.last = now;
    }

    /// The last second, if something happened in it.
    fn latest(&self, second: u64) -> Option<&Point> {
        self.fine.back().filter(|point| point.second == second)
    }

    fn points(&self, range: Range) -> impl Iterator<Item = &Point> {
        let ring = if range.step == 1 { &self.fine } else { &self.coarse };
        ring.iter().filter(move |point| point.second >= range.from)
    }
}

/// Keeps a point with something in it, and drops those that are too old.
fn keep(ring: &mut VecDeque<Point>, point: Point, oldest: u64) {
    if point.calls > 0 || point.cpu_milli > 0.0 || point.memory_bytes > 0 {
        ring.push_back(point);
    }
    while ring.front().is_some_and(|point| point.second < oldest) {
        ring.pop_front();
    }
}

/// Which part of the past is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The length of a step in seconds.
    pub step: u64,
    /// The first second.
    pub from: u64,
    /// The last second that was read.
    pub to: u64,
    /// The first second that was ever read.
    pub since: u64,
}

/// What an app uses: processor time since its instances started, and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Processor time in milliseconds.
    pub cpu_ms: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// An edge: who calls, and what is called.
pub type Edge = (String, String);

/// Apps and edges with their rings.
#[derive(Default)]
pub struct History {
    apps: BTreeMap<String, Track>,
    edges: BTreeMap<Edge, Track>,
    first: Option<u64>,
    second: u64,
}

/// One edge over a range: what it carried in all, and its points if they were asked for.
#[derive(Debug, Serialize)]
pub struct EdgeOf {
    caller: String,
    app: String,
    calls: u64,
    errors: u64,
    /// The mean of the steps' medians, weighted by their calls.
    p50_us: u64,
    /// The worst of the steps.
    p99_us: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    points: Vec<Point>,
}

impl History {
    /// Takes the counters of one second, and what apps use if that was looked at.
    pub fn step(&mut self, second: u64, traffic: &Traffic, uses: Option<&BTreeMap<String, Use>>) {
        self.second = second;
        let _known = self.first.get_or_insert(second);
        let mut apps: BTreeMap<&str, Counters> = BTreeMap::new();
        for flow in &traffic.pairs {
            apps.entry(&flow.app).or_default().add(flow);
            let mut now = Counters { known: true, ..Counters::default() };
            now.add(flow);
            if let Some(track) = track(&mut self.edges, &(flow.caller.clone(), flow.app.clone())) {
                track.step(now, None, second, &traffic.bounds_s);
            }
        }
        let known = self.apps.iter().filter(|(_, track)| track.used != Use::default()).map(|(app, _)| app);
        let quiet: Vec<String> = known.chain(uses.into_iter().flat_map(BTreeMap::keys)).cloned().collect();
        for app in &quiet {
            apps.entry(app).or_default();
        }
        for (app, mut now) in apps {
            now.known = true;
            let used = uses.map(|uses| uses.get(app).copied().unwrap_or_default());
            if let Some(track) = track(&mut self.apps, &app.to_owned()) {
                track.step(now, used, second, &traffic.bounds_s);
            }
        }
        let oldest = second.saturating_sub(COARSE_SECONDS);
        self.apps.retain(|_, track| track.seen >= oldest);
        self.edges.retain(|_, track| track.seen >= oldest);
    }

    /// The last second of every app in which something happened.
    pub fn latest_apps(&self) -> BTreeMap<&str, &Point> {
        let all = self.apps.iter();
        all.filter_map(|(app, track)| Some((app.as_str(), track.latest(self.second)?))).collect()
    }

    /// The last second of every edge that carried something: caller, app, calls, errors, p50 and p99 in microseconds.
    pub fn latest_edges(&self) -> Vec<(&str, &str, u32, u32, u64, u64)> {
        let mut rows = Vec::new();
        for ((caller, app), track) in &self.edges {
            if let Some(point) = track.latest(self.second).filter(|point| point.calls > 0) {
                let (p50, p99) = (point.p50_us.round() as u64, point.p99_us.round() as u64);
                rows.push((caller.as_str(), app.as_str(), point.calls, point.errors, p50, p99));
            }
        }
        rows
    }

    /// The part of the past that `seconds` back from now mean.
    pub fn range(&self, seconds: u64) -> Range {
        let seconds = seconds.clamp(1, COARSE_SECONDS);
        let step = if seconds <= FINE_SECONDS { 1 } else { STEP_SECONDS };
        let since = self.first.unwrap_or_default();
        Range { step, from: self.second.saturating_sub(seconds), to: self.second, since }
    }

    /// The points of all apps, or of one.
    pub fn apps(&self, range: Range, only: Option<&str>) -> BTreeMap<&str, Vec<Point>> {
        let wanted = self.apps.iter().filter(|(app, _)| only.is_none_or(|only| only == *app));
        wanted.map(|(app, track)| (app.as_str(), track.points(range).copied().collect())).collect()
    }

    /// The edges that carried something, or those of one app with their points.
    pub fn edges(&self, range: Range, only: Option<&str>) -> Vec<EdgeOf> {
        let wanted = self
            .edges
            .iter()
            .filter(|((caller, app), _)| only.is_none_or(|only| only == caller || only == app));
        let row = |((caller, app), track): (&Edge, &Track)| {
            let mut edge = EdgeOf {
                caller: caller.clone(),
                app: app.clone(),
                calls: 0,
                errors: 0,
                p50_us: 0,
                p99_us: 0,
                points: Vec::new(),
            };
            let mut weighted = 0.0;
            for point in track.points(range) {
                edge.calls += u64::from(point.calls);
                edge.errors += u64::from(point.errors);
                weighted += f64::from(point.p50_us) * f64::from(point.calls);
                edge.p99_us = edge.p99_us.max(point.p99_us.round() as u64);
                if only.is_some() {
                    edge.points.push(*point);
                }
            }
            edge.p50_us = (weighted / edge.calls.max(1) as f64).round() as u64;
            (edge.calls > 0).then_some(edge)
        };
        wanted.filter_map(row).collect()
    }
}

/// The track of a key, a new one as long as there is room.
fn track<'a, K: Ord + Clone>(all: &'a mut BTreeMap<K, Track>, key: &K) -> Option<&'a mut Track> {
    if !all.contains_key(key) {
        if all.len() >= MAX_TRACKS {
            return None;
        }
        all.insert(key.clone(), Track::default());
    }
    all.get_mut(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(calls: u64, errors: u64) -> Traffic {
        let stream = Pair {
            caller: "outside".to_owned(),
            app: "default/shop".to_owned(),
            calls,
            errors,
            buckets: vec![calls - errors, errors, 0],
        };
        Traffic { bounds_s: vec![0.001, 0.01], pairs: vec![stream] }
    }

    #[test]
    fn counters_become_rates_and_latencies_and_a_silent_second_takes_no_room() {
        let mut history = History::default();
        let none = BTreeMap::new();
        for (second, calls, errors) in [(100, 5, 0), (101, 105, 50), (102, 105, 50), (103, 4, 0), (104, 6, 0)]
        {
            history.step(second, &traffic(calls, errors), Some(&none));
        }
        let apps = history.apps(history.range(60), None);
        let points: Vec<_> = apps["default/shop"].iter().map(|p| (p.second, p.calls, p.errors)).collect();
        // The first reading has nothing before it, and counters that went back begin anew.
        assert_eq!(points, [(101, 100, 50), (104, 2, 0)]);
        let edge = &history.edges(history.range(60), Some("default/shop"))[0];
        assert_eq!((edge.calls, edge.errors, edge.points.len()), (102, 50, 2));
        assert_eq!(history.latest_edges(), [("outside", "default/shop", 2, 0, 500, 990)]);
    }

    #[test]
    fn a_quantile_lies_straight_within_its_bucket() {
        let check = |buckets: &[u64], share, expect: f32| {
            let found = quantile(buckets, &[0.001, 0.002], share);
            assert!((found - expect).abs() < 0.5, "{buckets:?} {share}: {found}");
        };
        check(&[0, 0, 0], 0.5, 0.0);
        check(&[100, 0, 0], 0.5, 500.0);
        check(&[50, 50, 0], 0.99, 1980.0);
        check(&[0, 0, 10], 0.5, 2000.0);
    }

    #[test]
    fn what_is_used_is_a_share_of_the_time_between_two_looks() {
        let mut history = History::default();
        let look = |cpu_ms| BTreeMap::from([("default/a".to_owned(), Use { cpu_ms, memory_bytes: 10 })]);
        let none = Traffic::default();
        for (second, cpu_ms) in
            [(100, Some(1000)), (101, None), (102, Some(1500)), (103, None), (104, Some(100))]
        {
            history.step(second, &none, cpu_ms.map(look).as_ref());
        }
        let apps = history.apps(history.range(60), None);
        let shares: Vec<f32> = apps["default/a"].iter().map(|point| point.cpu_milli).collect();
        // Between looks the share of before goes on; a process that began anew is known from its second look.
        assert_eq!(shares, [0.0, 0.0, 250.0, 250.0, 0.0]);
        assert!(apps["default/a"].iter().all(|point| point.memory_bytes == 10));
    }

    #[test]
    fn rings_are_bounded_in_time_and_number() {
        let mut history = History::default();
        let uses = BTreeMap::from([("default/shop".to_owned(), Use { cpu_ms: 1, memory_bytes: 10 })]);
        for second in 0..5000 {
            history.step(second, &traffic(second * 10 + 1, 0), (second % STEP_SECONDS == 0).then_some(&uses));
        }
        let track = &history.apps["default/shop"];
        assert!(track.fine.len() as u64 <= FINE_SECONDS + 1 && track.coarse.len() as u64 <= 242);
        assert_eq!(history.range(3600).step, STEP_SECONDS);
        let hour = history.apps(history.range(3600), None);
        assert!(hour["default/shop"].iter().skip(1).all(|point| point.calls == 150), "{hour:?}");
        let many = Traffic {
            bounds_s: Vec::new(),
            pairs: (0..3000)
                .map(|at| Pair { caller: at.to_string(), app: "default/a".to_owned(), ..Pair::default() })
                .collect(),
        };
        history.step(5000, &many, Some(&uses));
        assert_eq!(history.edges.len(), MAX_TRACKS);
        history.step(5000 + COARSE_SECONDS * 2, &Traffic::default(), Some(&BTreeMap::new()));
        history.step(5000 + COARSE_SECONDS * 4, &Traffic::default(), None);
        assert!(history.edges.is_empty() && history.apps.is_empty());
    }
}
