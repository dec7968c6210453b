//! What calls were lately, by app and by edge (caller and app): counters of the node, read once a second, as rates and
//! latencies in rings.
//!
//! Seconds are kept for five minutes, and steps of fifteen seconds for an hour. A second without a call takes no room.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::seam::{Pair, Traffic};

/// How many seconds are kept one by one.
pub const FINE_SECONDS: u64 = 300;
/// The length of a coarse step.
pub const STEP_SECONDS: u64 = 15;
/// How many seconds are kept in coarse steps.
pub const COARSE_SECONDS: u64 = 3600;
/// The most apps and edges that are followed; a further one takes the place of the one that was quiet the longest.
pub const MAX_TRACKS: usize = 2000;

/// So long a track must have been quiet before another takes its place; those in use would only drive each other out.
const QUIET_SECONDS: u64 = 60;

/// One step of a series: second, calls, errors, p50 and p99 in microseconds, thousandths of a core, bytes of memory, and
/// how long the step really was in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(into = "Row")]
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
    /// How long it really was, in milliseconds: a reading may come late, and then counts more than its second.
    pub covered_ms: u32,
}

/// A point as it is sent.
type Row = (u64, u32, u32, u64, u64, u64, u64, u32);

impl From<Point> for Row {
    fn from(point: Point) -> Row {
        let round = |value: f32| value.round() as u64;
        (
            point.second,
            point.calls,
            point.errors,
            round(point.p50_us),
            round(point.p99_us),
            round(point.cpu_milli),
            point.memory_bytes,
            point.covered_ms,
        )
    }
}

/// Calls, either all until a reading or those of a time.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counts {
    calls: u64,
    errors: u64,
    buckets: Vec<u64>,
}

impl Counts {
    /// What came since an earlier reading; `None` where counters went back, which begin anew.
    fn since(&self, before: &Counts) -> Option<Counts> {
        let earlier = before.buckets.iter().copied().chain(std::iter::repeat(0));
        let buckets = self.buckets.iter().zip(earlier).map(|(now, then)| now.checked_sub(then));
        Some(Counts {
            calls: self.calls.checked_sub(before.calls)?,
            errors: self.errors.checked_sub(before.errors)?,
            buckets: buckets.collect::<Option<_>>()?,
        })
    }

    fn add(&mut self, more: &Counts) {
        self.calls = self.calls.saturating_add(more.calls);
        self.errors = self.errors.saturating_add(more.errors);
        self.buckets.resize(self.buckets.len().max(more.buckets.len()), 0);
        for (sum, count) in self.buckets.iter_mut().zip(&more.buckets) {
            *sum = sum.saturating_add(*count);
        }
    }
}

impl From<&Pair> for Counts {
    fn from(pair: &Pair) -> Counts {
        Counts { calls: pair.calls, errors: pair.errors, buckets: pair.buckets.clone() }
    }
}

/// The latency below which a share of the calls stayed, in microseconds: straight between the bounds of its bucket.
fn quantile(buckets: &[u64], bounds_s: &[f64], share: f64) -> f32 {
    let all: f64 = buckets.iter().map(|count| *count as f64).sum();
    if all == 0.0 {
        return 0.0;
    }
    let wanted = all * share;
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

/// A point with the buckets that have calls, so that those of a range can be put together.
struct Kept {
    point: Point,
    buckets: Box<[(u8, u32)]>,
}

impl Kept {
    fn new(counts: &Counts, point: Point, bounds: &[f64]) -> Kept {
        let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let own = counts.buckets.iter().zip(0u8..).filter(|(count, _)| **count > 0);
        Kept {
            point: Point {
                calls: small(counts.calls),
                errors: small(counts.errors),
                p50_us: quantile(&counts.buckets, bounds, 0.5),
                p99_us: quantile(&counts.buckets, bounds, 0.99),
                ..point
            },
            buckets: own.map(|(count, at)| (at, small(*count))).collect(),
        }
    }
}

/// When a step ended and how long it was.
#[derive(Clone, Copy)]
struct Beat {
    second: u64,
    covered_ms: u32,
    /// The coarse step that ends with it.
    coarse: Option<(u64, u32)>,
}

#[derive(Default)]
struct Track {
    fine: VecDeque<Kept>,
    coarse: VecDeque<Kept>,
    /// What belongs to the coarse step that has not ended.
    open: Counts,
    used: Use,
    /// How long ago that was looked at, in milliseconds, if ever; and the share of a core since the look before.
    used_ago_ms: Option<u64>,
    cpu_milli: f32,
    /// When a call was counted last, or something was used.
    seen: u64,
}

impl Track {
    /// Takes what came since the beat before, and what is used if that was looked at.
    fn step(&mut self, fresh: &Counts, used: Option<Use>, beat: Beat, bounds: &[f64]) {
        self.used_ago_ms = self.used_ago_ms.map(|ago| ago + u64::from(beat.covered_ms));
        if let Some(used) = used {
            let length_ms = self.used_ago_ms.filter(|ago| *ago > 0);
            self.cpu_milli =
                length_ms.map_or(0.0, |length_ms| (used.cpu_ms as f64 * 1000.0 / length_ms as f64) as f32);
            (self.used, self.used_ago_ms) = (used, Some(0));
        }
        if fresh.calls > 0 || self.used != Use::default() {
            self.seen = beat.second;
        }
        let point =
            Point { memory_bytes: self.used.memory_bytes, cpu_milli: self.cpu_milli, ..Point::default() };
        let Beat { second, covered_ms, coarse } = beat;
        let fine = Kept::new(fresh, Point { second, covered_ms, ..point }, bounds);
        keep(&mut self.fine, fine, second.saturating_sub(FINE_SECONDS));
        self.open.add(fresh);
        if let Some((from, covered_ms)) = coarse {
            let open = std::mem::take(&mut self.open);
            let step = Kept::new(&open, Point { second: from, covered_ms, ..point }, bounds);
            keep(&mut self.coarse, step, second.saturating_sub(COARSE_SECONDS));
        }
    }

    /// The last second, if something happened in it.
    fn latest(&self, second: u64) -> Option<&Point> {
        self.fine.back().map(|kept| &kept.point).filter(|point| point.second == second)
    }

    fn kept(&self, range: Range) -> impl Iterator<Item = &Kept> {
        let ring = if range.step == 1 { &self.fine } else { &self.coarse };
        ring.iter().filter(move |kept| kept.point.second >= range.from)
    }

    fn points(&self, range: Range) -> Vec<Point> {
        self.kept(range).map(|kept| kept.point).collect()
    }

    /// All calls of a range as one: a quantile of quantiles would be the one of nothing.
    fn sum(&self, range: Range, bounds: &[f64]) -> Sum {
        let mut sum = Sum::default();
        let mut buckets = vec![0; bounds.len() + 1];
        for kept in self.kept(range) {
            sum.calls += u64::from(kept.point.calls);
            sum.errors += u64::from(kept.point.errors);
            for (at, count) in &kept.buckets {
                if let Some(bucket) = buckets.get_mut(usize::from(*at)) {
                    *bucket += u64::from(*count);
                }
            }
        }
        let micros = |share| quantile(&buckets, bounds, share).round() as u64;
        Sum { p50_us: micros(0.5), p99_us: micros(0.99), ..sum }
    }
}

/// Keeps a point with something in it, and drops those that are too old.
fn keep(ring: &mut VecDeque<Kept>, kept: Kept, oldest: u64) {
    let point = kept.point;
    if point.calls > 0 || point.cpu_milli > 0.0 || point.memory_bytes > 0 {
        ring.push_back(kept);
    }
    while ring.front().is_some_and(|kept| kept.point.second < oldest) {
        ring.pop_front();
    }
}

/// Which part of the past is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
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

/// What an app uses: processor time since the look before, and memory.
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
    /// By revision and app.
    revisions: BTreeMap<Edge, Track>,
    /// By the base where calls began and the one that answered.
    bases: BTreeMap<Edge, Track>,
    /// The counters of every pair as they were read last; `None` as long as nothing was read.
    read: Option<BTreeMap<Edge, Counts>>,
    read_revisions: Option<BTreeMap<Edge, Counts>>,
    read_bases: Option<BTreeMap<Edge, Counts>>,
    bounds_s: Vec<f64>,
    first: Option<u64>,
    second: u64,
    /// How long the coarse step that has not ended is so far, in milliseconds.
    open_ms: u64,
}

/// One edge in the last second: caller, app, calls, errors, p50 and p99 in microseconds.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct LiveEdge<'a>(&'a str, &'a str, u32, u32, u64, u64);

/// What was carried over a range in all; quantiles are those of all its calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Sum {
    /// Calls that ended.
    pub calls: u64,
    /// Those of them that ended in an error.
    pub errors: u64,
    /// Half of them took at most so long, in microseconds.
    pub p50_us: u64,
    /// All but one in a hundred took at most so long, in microseconds.
    pub p99_us: u64,
}

/// A revision over a range.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RevisionSum {
    /// Its app, `namespace/name`.
    app: String,
    /// The revision.
    revision: String,
    #[serde(flatten)]
    sum: Sum,
}

/// Calls from one base to another, or within it, over a range.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BaseEdge {
    /// Where they began: at a gateway or with an app there.
    from: String,
    /// Where the instance is that answered; empty if that is outside of the mesh.
    to: String,
    #[serde(flatten)]
    sum: Sum,
}

/// Calls of one caller to one app over a range.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Edge")]
pub struct EdgeOf {
    /// The caller: an app, `outside` or `base`.
    caller: String,
    /// The app, or what else is called; empty when no route matched.
    app: String,
    #[serde(flatten)]
    sum: Sum,
    /// Its points, where one app was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    points: Vec<Point>,
}

impl History {
    /// Takes the counters at `second`, which is `elapsed` after the step before by a clock that never jumps, and what
    /// apps use if that was looked at. `None` where calls are not known.
    pub fn step(
        &mut self,
        second: u64,
        elapsed: Duration,
        traffic: Option<&Traffic>,
        uses: Option<&BTreeMap<String, Use>>,
    ) {
        let beat = self.begin(second, elapsed);
        let (mut fresh, mut answered, mut crossed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        if let Some(traffic) = traffic {
            self.bounds_s.clone_from(&traffic.bounds_s);
            fresh = came(&mut self.read, &traffic.pairs);
            answered = came(&mut self.read_revisions, &traffic.revisions);
            crossed = came(&mut self.read_bases, &traffic.bases);
        }
        let mut apps: BTreeMap<String, Counts> = BTreeMap::new();
        for (edge, counts) in fresh.iter().filter(|(_, counts)| counts.calls > 0) {
            apps.entry(edge.1.clone()).or_default().add(counts);
        }
        for app in apps.keys().chain(uses.into_iter().flat_map(BTreeMap::keys)) {
            room(&mut self.apps, app, second);
        }
        follow(&mut self.edges, &fresh, beat, &self.bounds_s);
        follow(&mut self.revisions, &answered, beat, &self.bounds_s);
        follow(&mut self.bases, &crossed, beat, &self.bounds_s);
        let none = Counts::default();
        for (app, track) in &mut self.apps {
            let used = uses.map(|uses| uses.get(app).copied().unwrap_or_default());
            track.step(apps.get(app).unwrap_or(&none), used, beat, &self.bounds_s);
        }
        let oldest = second.saturating_sub(COARSE_SECONDS);
        self.apps.retain(|_, track| track.seen >= oldest);
        for tracks in [&mut self.edges, &mut self.revisions, &mut self.bases] {
            tracks.retain(|_, track| track.seen >= oldest);
        }
    }

    fn begin(&mut self, second: u64, elapsed: Duration) -> Beat {
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let small = |millis: u64| u32::try_from(millis).unwrap_or(u32::MAX);
        let is_first = self.first.is_none();
        let _known = self.first.get_or_insert(second);
        self.open_ms = self.open_ms.saturating_add(if is_first { 0 } else { millis });
        let end = second - second % STEP_SECONDS;
        // A beat may come late or not at all: the step ends with the first one at its end or after it.
        let coarse = (!is_first && self.second < end)
            .then(|| (end.saturating_sub(STEP_SECONDS), small(std::mem::take(&mut self.open_ms))));
        self.second = second;
        Beat { second, covered_ms: small(millis), coarse }
    }

    /// Whether calls are known here.
    pub fn knows_calls(&self) -> bool {
        self.read.is_some()
    }

    /// The last second of every app in which something happened.
    pub fn latest_apps(&self) -> BTreeMap<&str, &Point> {
        let all = self.apps.iter();
        all.filter_map(|(app, track)| Some((app.as_str(), track.latest(self.second)?))).collect()
    }

    /// The last second of every edge that carried something.
    pub fn latest_edges(&self) -> Vec<LiveEdge<'_>> {
        let mut rows = Vec::new();
        for ((caller, app), track) in &self.edges {
            if let Some(point) = track.latest(self.second).filter(|point| point.calls > 0) {
                let (p50, p99) = (point.p50_us.round() as u64, point.p99_us.round() as u64);
                rows.push(LiveEdge(caller, app, point.calls, point.errors, p50, p99));
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
    pub fn apps(&self, range: Range, only: Option<&str>) -> BTreeMap<String, Vec<Point>> {
        let wanted = self.apps.iter().filter(|(app, _)| only.is_none_or(|only| only == *app));
        wanted.map(|(app, track)| (app.clone(), track.points(range))).collect()
    }

    /// What all apps got over a range, or one.
    pub fn sums(&self, range: Range, only: Option<&str>) -> BTreeMap<String, Sum> {
        let wanted = self.apps.iter().filter(|(app, _)| only.is_none_or(|only| only == *app));
        wanted.map(|(app, track)| (app.clone(), track.sum(range, &self.bounds_s))).collect()
    }

    /// What each revision answered over a range, if it did: those of all apps, or of one.
    pub fn revisions(&self, range: Range, only: Option<&str>) -> Vec<RevisionSum> {
        let wanted = self.revisions.iter().filter(|((_, app), _)| only.is_none_or(|only| only == *app));
        let sums = wanted.map(|((revision, app), track)| RevisionSum {
            app: app.clone(),
            revision: revision.clone(),
            sum: track.sum(range, &self.bounds_s),
        });
        sums.filter(|one| one.sum.calls > 0).collect()
    }

    /// The calls from base to base over a range, if there were any.
    pub fn bases(&self, range: Range) -> Vec<BaseEdge> {
        let all = self.bases.iter();
        let sums = all.map(|((from, to), track)| BaseEdge {
            from: from.clone(),
            to: to.clone(),
            sum: track.sum(range, &self.bounds_s),
        });
        sums.filter(|one| one.sum.calls > 0).collect()
    }

    /// The edges that carried something, or those of one app with their points.
    pub fn edges(&self, range: Range, only: Option<&str>) -> Vec<EdgeOf> {
        let wanted = self
            .edges
            .iter()
            .filter(|((caller, app), _)| only.is_none_or(|only| only == caller || only == app));
        let row = |((caller, app), track): (&Edge, &Track)| {
            let sum = track.sum(range, &self.bounds_s);
            let points = if only.is_some() { track.points(range) } else { Vec::new() };
            (sum.calls > 0).then(|| EdgeOf { caller: caller.clone(), app: app.clone(), sum, points })
        };
        wanted.filter_map(row).collect()
    }
}

/// What came of each pair since the reading before. The first reading has nothing before it; a pair that comes later began
/// at zero.
fn came(read: &mut Option<BTreeMap<Edge, Counts>>, pairs: &[Pair]) -> BTreeMap<Edge, Counts> {
    let mut now: BTreeMap<Edge, Counts> = BTreeMap::new();
    for pair in pairs {
        now.entry((pair.caller.clone(), pair.app.clone())).or_default().add(&pair.into());
    }
    let mut fresh = BTreeMap::new();
    if let Some(read) = read {
        for (edge, counts) in &now {
            let came = read.get(edge).map_or_else(|| Some(counts.clone()), |before| counts.since(before));
            fresh.extend(came.map(|came| (edge.clone(), came)));
        }
    }
    *read = Some(now);
    fresh
}

/// Gives every track what came, and what carries something for the first time a track.
fn follow(tracks: &mut BTreeMap<Edge, Track>, fresh: &BTreeMap<Edge, Counts>, beat: Beat, bounds_s: &[f64]) {
    for edge in fresh.iter().filter(|(_, counts)| counts.calls > 0).map(|(edge, _)| edge) {
        room(tracks, edge, beat.second);
    }
    let none = Counts::default();
    for (edge, track) in tracks {
        track.step(fresh.get(edge).unwrap_or(&none), None, beat, bounds_s);
    }
}

/// Makes a track for a key that has none; when there are too many, in the place of the one that was quiet the longest.
fn room<K: Ord + Clone>(all: &mut BTreeMap<K, Track>, key: &K, second: u64) {
    if all.contains_key(key) {
        return;
    }
    if all.len() >= MAX_TRACKS {
        let quiet = all.iter().filter(|(_, track)| track.seen.saturating_add(QUIET_SECONDS) <= second);
        let Some(quietest) = quiet.min_by_key(|(_, track)| track.seen).map(|(key, _)| key.clone()) else {
            return;
        };
        all.remove(&quietest);
    }
    all.insert(key.clone(), Track { seen: second, ..Track::default() });
}

#[cfg(test)]
mod tests;
