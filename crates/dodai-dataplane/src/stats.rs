//! Counters and latency histograms of calls: one [`Series`] per (direction, caller, service, route), made
//! when a table is compiled or a caller first calls, never per label value seen on the wire.
//!
//! Recording is a few relaxed atomic adds. Labels come from documents only, and each thread's map of lazily
//! made series is capped, so cardinality is bounded whatever clients send.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use dodai_core::failure::Kind;
use dodai_core::id::{BaseId, RevisionId};
use dodai_core::record::effective_status;
use dodai_core::trace::Span;
use tokio::time::Instant;

/// Upper bounds of the latency buckets in seconds; the last bucket has none.
pub const BUCKETS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

const BUCKET_NANOS: [u64; 14] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    5_000_000_000,
    30_000_000_000,
];

/// Which lap of the stations a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// A user came in at a gateway.
    Gateway,
    /// A local workload called out.
    Outbound,
    /// A call arrived at a local workload.
    Inbound,
    /// A local workload called the runtime API.
    Api,
}

impl Direction {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Gateway => "gateway",
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
            Direction::Api => "api",
        }
    }
}

/// What a series counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels {
    /// The lap.
    pub direction: Direction,
    /// The caller: an app, `outside`, or `base`.
    pub caller: Arc<str>,
    /// The service called, `namespace/app/port`; empty when no route matched.
    pub service: Arc<str>,
    /// The rule that matched; empty for a service without rules.
    pub route: Arc<str>,
}

/// Labels that are not owned.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The lap.
    pub direction: Direction,
    /// The caller.
    pub caller: &'a Arc<str>,
    /// The service called.
    pub service: &'a Arc<str>,
    /// The rule that matched.
    pub route: &'a Arc<str>,
}

impl Names<'_> {
    /// Whether they are these.
    pub fn are(&self, labels: &Labels) -> bool {
        self.direction == labels.direction
            && *self.route == labels.route
            && *self.service == labels.service
            && *self.caller == labels.caller
    }

    /// An owned copy.
    pub fn labels(&self) -> Labels {
        let [caller, service, route] = [self.caller, self.service, self.route].map(Arc::clone);
        Labels { direction: self.direction, caller, service, route }
    }
}

/// Statuses of HTTP that are told apart: those that have a name (RFC 9110 section 15 and IANA's registry), and 499 for
/// callers that left. All others are counted together.
const STATUSES: [u16; 60] = [
    101, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400, 401,
    402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424,
    425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
];

/// The place of each status among [`STATUSES`]; behind the last of them for all others.
static PLACES: [u8; 600] = {
    let mut places = [STATUSES.len() as u8; 600];
    let mut at = 0;
    while at < STATUSES.len() {
        places[STATUSES[at] as usize] = at as u8;
        at += 1;
    }
    places
};

/// Statuses that gRPC knows: 0 to 16.
const GRPC: usize = 17;

/// How a call ended, as far as it is counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ended {
    /// The status sent; 0 if none could be.
    pub status: u16,
    /// The gRPC status, if it is known.
    pub grpc_status: Option<u8>,
    /// Why we answered ourselves.
    pub failure: Option<Kind>,
    /// How long it took.
    pub took: Duration,
    /// Tries after the first.
    pub retries: u32,
    /// Bytes from the caller, without heads.
    pub received: u64,
    /// Bytes to the caller, without heads.
    pub sent: u64,
}

/// The counters of one series.
#[derive(Debug)]
pub struct Series {
    /// What is counted.
    pub labels: Labels,
    classes: [AtomicU64; 6],
    /// As [`STATUSES`], then all others.
    statuses: [AtomicU64; STATUSES.len() + 1],
    /// From 0 to 16, then all others.
    grpc: [AtomicU64; GRPC + 1],
    received: AtomicU64,
    sent: AtomicU64,
    failures: [AtomicU64; Kind::ALL.len()],
    buckets: [AtomicU64; BUCKETS.len() + 1],
    nanos: AtomicU64,
    retries: AtomicU64,
    /// The last sampled call of each bucket; made with the first of them.
    exemplars: OnceLock<Box<Exemplars>>,
}

/// One place per bucket. Taken without waiting: when two calls come at once, one is as good an example as the other.
type Exemplars = [Mutex<Option<Exemplar>>; BUCKETS.len() + 1];

/// A sampled call that stands for others of its bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// Its trace.
    pub trace: u128,
    /// Its span.
    pub span: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// When it ended.
    pub at: SystemTime,
}

/// A copy of a series' counters.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What is counted.
    pub labels: Labels,
    /// Calls by status class: index 1 is 1xx (101), 5 is 5xx, 0 is "no response".
    pub classes: [u64; 6],
    /// Calls by the status that was sent; `None` for one that has no name. Those that never came are left out, as are calls
    /// without a response.
    pub statuses: Vec<(Option<u16>, u64)>,
    /// Calls of gRPC by their status, the same way.
    pub grpc: Vec<(Option<u16>, u64)>,
    /// Bytes from callers, without heads.
    pub received: u64,
    /// Bytes to callers, without heads.
    pub sent: u64,
    /// Local failures by kind; kinds without any are left out.
    pub failures: Vec<(Kind, u64)>,
    /// Calls per latency bucket, not cumulated; the last is for longer ones.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// The sum of all latencies in seconds.
    pub seconds: f64,
    /// Tries after the first.
    pub retries: u64,
    /// The last sampled call of each bucket; empty before the first.
    pub exemplars: Vec<Option<Exemplar>>,
}

impl Reading {
    /// All calls.
    pub fn calls(&self) -> u64 {
        self.classes.iter().sum()
    }
}

impl Series {
    fn new(labels: Labels) -> Series {
        Series {
            labels,
            classes: Default::default(),
            statuses: [const { AtomicU64::new(0) }; STATUSES.len() + 1],
            grpc: Default::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            failures: [const { AtomicU64::new(0) }; Kind::ALL.len()],
            buckets: [const { AtomicU64::new(0) }; BUCKETS.len() + 1],
            nanos: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            exemplars: OnceLock::new(),
        }
    }

    /// Counts one finished call; the bucket of its time.
    pub fn record(&self, ended: &Ended) -> usize {
        let Ended { status, grpc_status, failure, took, retries, received, sent } = *ended;
        let class = usize::from(effective_status(status, grpc_status) / 100).min(5);
        self.classes[class].fetch_add(1, Relaxed);
        if status > 0 {
            let place = PLACES.get(usize::from(status)).map_or(STATUSES.len(), |place| usize::from(*place));
            self.statuses[place].fetch_add(1, Relaxed);
        }
        if let Some(status) = grpc_status {
            self.grpc[usize::from(status).min(GRPC)].fetch_add(1, Relaxed);
        }
        for (counter, bytes) in [(&self.received, received), (&self.sent, sent)] {
            if bytes > 0 {
                counter.fetch_add(bytes, Relaxed);
            }
        }
        let (nanos, bucket) = bucket_of(took);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
        if let Some(kind) = failure {
            self.failures[kind as usize].fetch_add(1, Relaxed);
        }
        if retries > 0 {
            self.retries.fetch_add(u64::from(retries), Relaxed);
        }
        bucket
    }

    /// Keeps a sampled call as the example of its bucket. Never waits.
    #[cold]
    pub fn exemplify(&self, span: &Span, took: Duration) {
        let places = self.exemplars.get_or_init(Box::default);
        if let Ok(mut place) = places[bucket_of(took).1].try_lock() {
            let (trace, seconds, at) = (span.trace, took.as_secs_f64(), SystemTime::now());
            *place = Some(Exemplar { trace, span: span.id, seconds, at });
        }
    }

    /// A copy of the counters.
    pub fn read(&self) -> Reading {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let named = |names: &mut dyn Iterator<Item = u16>, counts: &[AtomicU64]| {
            let counts = counts.iter().map(|counter| (names.next(), get(counter)));
            counts.filter(|(_, count)| *count > 0).collect()
        };
        let failures = Kind::ALL.iter().map(|kind| (*kind, get(&self.failures[*kind as usize])));
        Reading {
            labels: self.labels.clone(),
            classes: std::array::from_fn(|i| get(&self.classes[i])),
            statuses: named(&mut STATUSES.into_iter(), &self.statuses),
            grpc: named(&mut (0..=16), &self.grpc),
            received: get(&self.received),
            sent: get(&self.sent),
            failures: failures.filter(|(_, count)| *count > 0).collect(),
            buckets: std::array::from_fn(|i| get(&self.buckets[i])),
            seconds: Duration::from_nanos(get(&self.nanos)).as_secs_f64(),
            retries: get(&self.retries),
            exemplars: self.exemplars.get().map_or_else(Vec::new, |places| {
                places.iter().map(|place| *place.lock().unwrap_or_else(PoisonError::into_inner)).collect()
            }),
        }
    }
}

/// Calls that one revision of a service answered on one base. Beside [`Series`], which are told apart before an endpoint is chosen.
#[derive(Debug, Default)]
pub struct Tally {
    errors: AtomicU64,
    buckets: [AtomicU64; BUCKETS.len() + 1],
}

impl Tally {
    /// Counts a call that ended with this effective status, in the bucket of its time.
    pub fn record(&self, status: u16, bucket: usize) {
        self.buckets[bucket.min(BUCKETS.len())].fetch_add(1, Relaxed);
        if status == 0 || status >= 500 {
            self.errors.fetch_add(1, Relaxed);
        }
    }
}

/// A copy of the counters of a revision on a base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The service, `namespace/app/port`.
    pub service: Arc<str>,
    /// The revision.
    pub revision: RevisionId,
    /// The base that its instances are on; none for addresses outside of the mesh.
    pub base: Option<BaseId>,
    /// Calls that ended with a status of 500 or more, or whose caller left before a response.
    pub errors: u64,
    /// Calls per latency bucket, not cumulated; the last is for longer ones.
    pub buckets: [u64; BUCKETS.len() + 1],
}

/// How long the counts of a revision without endpoints are kept for those who read.
const UNUSED: Duration = Duration::from_secs(60);

/// The most revisions without endpoints whose counts are kept; those that have been so the longest go first.
const MAX_UNUSED: usize = 256;

/// A time in nanoseconds and its bucket.
fn bucket_of(took: Duration) -> (u64, usize) {
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    (nanos, BUCKET_NANOS.iter().position(|bound| nanos <= *bound).unwrap_or(BUCKETS.len()))
}

/// Every series of one base. A series whose users are gone is kept until it has been read once more, so that
/// no count is lost between two scrapes.
#[derive(Default)]
pub struct Stats {
    series: Mutex<BTreeMap<Labels, Slot>>,
    tallies: Mutex<BTreeMap<Answering, Kept>>,
}

/// The service, the revision and the base that counts are of.
pub type Answering = (Arc<str>, RevisionId, Option<BaseId>);

/// The counts of a revision on a base, and since when no endpoint holds them.
#[derive(Default)]
struct Kept {
    tally: Arc<Tally>,
    unused: Option<Instant>,
}

struct Slot {
    weak: Weak<Series>,
    keep: Option<Arc<Series>>,
}

impl Stats {
    /// The series of these labels; the same one as long as anybody holds it.
    pub fn series(&self, labels: Labels) -> Arc<Series> {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = all.get_mut(&labels)
            && let Some(series) = slot.weak.upgrade()
        {
            slot.keep = Some(series.clone());
            return series;
        }
        let series = Arc::new(Series::new(labels.clone()));
        all.insert(labels, Slot { weak: Arc::downgrade(&series), keep: Some(series.clone()) });
        series
    }

    /// The counts of a revision on a base; the same ones for all its endpoints there.
    pub fn tally(&self, answering: Answering) -> Arc<Tally> {
        let mut all = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        forget_unused(&mut all, Instant::now());
        let kept = all.entry(answering).or_default();
        kept.unused = None;
        kept.tally.clone()
    }

    /// What each revision answered. One whose endpoints are gone is told for a minute more.
    pub fn answered(&self) -> Vec<Answered> {
        let mut all = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        forget_unused(&mut all, Instant::now());
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let told = all.iter().map(|((service, revision, base), Kept { tally, .. })| Answered {
            service: service.clone(),
            revision: revision.clone(),
            base: base.clone(),
            errors: get(&tally.errors),
            buckets: std::array::from_fn(|i| get(&tally.buckets[i])),
        });
        told.collect()
    }

    /// Reads every series and forgets none: for whoever looks at them beside who keeps the counts.
    pub fn look(&self) -> Vec<Reading> {
        let all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().filter_map(|slot| slot.weak.upgrade()).map(|series| series.read()).collect()
    }

    /// Reads every series and forgets those that nobody uses any more.
    pub fn read(&self) -> Vec<Reading> {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let mut readings = Vec::with_capacity(all.len());
        all.retain(|_, slot| {
            let kept = slot.keep.take();
            let Some(series) = slot.weak.upgrade() else { return false };
            readings.push(series.read());
            drop(kept);
            if Arc::strong_count(&series) > 1 {
                slot.keep = Some(series);
            }
            true
        });
        readings
    }
}

/// Forgets revisions that nobody has counted for long, and sooner where many come and go.
fn forget_unused(all: &mut BTreeMap<Answering, Kept>, now: Instant) {
    all.retain(|_, kept| {
        if Arc::strong_count(&kept.tally) > 1 {
            kept.unused = None;
            return true;
        }
        now.saturating_duration_since(*kept.unused.get_or_insert(now)) < UNUSED
    });
    let mut unused: Vec<Instant> = all.values().filter_map(|kept| kept.unused).collect();
    if unused.len() > MAX_UNUSED {
        unused.sort_unstable_by(|one, other| other.cmp(one));
        let last = unused[MAX_UNUSED - 1];
        let mut room = unused[..MAX_UNUSED].iter().filter(|since| **since == last).count();
        all.retain(|_, kept| match kept.unused {
            Some(since) if since == last => {
                let stays = room > 0;
                room = room.saturating_sub(1);
                stays
            }
            since => since.is_none_or(|since| since > last),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn revisions_that_come_and_go_do_not_pile_up() {
        let stats = Stats::default();
        let of = |number: usize| ("a/b/http".into(), RevisionId::new(format!("r{number:04}")), None);
        let kept = stats.tally(of(0));
        // Many at once, and many one after the other.
        let at_once: Vec<_> = (1..=2 * MAX_UNUSED).map(|number| stats.tally(of(number))).collect();
        drop(at_once);
        assert_eq!(stats.answered().len(), 1 + MAX_UNUSED);
        for number in 1_000..1_000 + 2 * MAX_UNUSED {
            tokio::time::advance(Duration::from_millis(10)).await;
            drop(stats.tally(of(number)));
        }
        tokio::time::advance(Duration::from_millis(10)).await;
        let told = stats.answered();
        assert_eq!(told.len(), 1 + MAX_UNUSED);
        let first = told[1].revision.as_str();
        assert_eq!(first, format!("r{:04}", 1_000 + MAX_UNUSED), "those that were there last are kept");
        drop(kept);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_revision_answered_is_told_until_a_minute_after_its_last_endpoint() {
        let stats = Stats::default();
        let service: Arc<str> = "a/b/http".into();
        let (old, new) = (RevisionId::new("old"), RevisionId::new("new"));
        let tally = stats.tally((service.clone(), old, None));
        for (status, bucket) in [(200, 0), (404, 0), (503, 1), (0, 99)] {
            tally.record(status, bucket);
        }
        stats.tally((service, new, None)).record(200, 3);
        let told = stats.answered();
        let row =
            |at: usize| (told[at].revision.as_str(), told[at].errors, told[at].buckets.iter().sum::<u64>());
        assert_eq!((row(0), row(1)), (("new", 0, 1), ("old", 2, 4)));
        assert_eq!((told[1].buckets[0], told[1].buckets[1], told[1].buckets[BUCKETS.len()]), (2, 1, 1));
        tokio::time::advance(UNUSED - Duration::from_secs(1)).await;
        assert_eq!(stats.answered().len(), 2);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(stats.answered().iter().map(|one| one.revision.as_str()).collect::<Vec<_>>(), ["old"]);
        drop(tally);
        assert_eq!(stats.answered().len(), 1, "it has just gone");
    }

    fn labels(route: &str) -> Labels {
        Labels {
            direction: Direction::Gateway,
            caller: "outside".into(),
            service: "a/b/http".into(),
            route: route.into(),
        }
    }

    #[test]
    fn calls_are_counted_by_class_bucket_and_failure() {
        let stats = Stats::default();
        let series = stats.series(labels("r"));
        let ok = Ended { status: 200, took: Duration::from_micros(200), ..Ended::default() };
        series.record(&Ended { received: 3, sent: 5, ..ok });
        let took = Duration::from_secs(60);
        series.record(&Ended { status: 503, failure: Some(Kind::Connect), took, retries: 2, sent: 7, ..ok });
        let reading = &stats.read()[0];
        assert_eq!((reading.received, reading.sent), (3, 12));
        assert_eq!((reading.calls(), reading.classes[2], reading.classes[5], reading.retries), (2, 1, 1, 2));
        assert_eq!((reading.buckets[1], reading.buckets[BUCKETS.len()]), (1, 1));
        assert_eq!(reading.failures, [(Kind::Connect, 1)]);
    }

    #[test]
    fn statuses_without_a_name_are_one() {
        let stats = Stats::default();
        let series = stats.series(labels("r"));
        for (status, grpc_status) in
            [(200, Some(0)), (200, Some(14)), (200, Some(99)), (0, None), (299, None)]
        {
            series.record(&Ended { status, grpc_status, ..Ended::default() });
        }
        for status in [799, 499, 65_535] {
            series.record(&Ended { status, ..Ended::default() });
        }
        let reading = &stats.read()[0];
        assert_eq!(reading.statuses, [(Some(200), 3), (Some(499), 1), (None, 3)]);
        assert_eq!(reading.grpc, [(Some(0), 1), (Some(14), 1), (None, 1)]);
        assert_eq!((reading.classes[2], reading.classes[5], reading.calls()), (3, 3, 8));
    }

    #[test]
    fn a_sampled_call_stands_for_its_bucket() {
        let stats = Stats::default();
        let series = stats.series(labels("r"));
        series.record(&Ended { status: 200, took: Duration::from_micros(200), ..Ended::default() });
        assert!(stats.read()[0].exemplars.is_empty(), "calls that are not sampled leave nothing");
        let (first, last) = (Span::root(true), Span::root(true));
        series.exemplify(&first, Duration::from_micros(150));
        series.exemplify(&last, Duration::from_micros(200));
        series.exemplify(&first, Duration::from_secs(60));
        let exemplars = &stats.read()[0].exemplars;
        let kept = |at: usize| exemplars[at].map(|one| (one.trace, one.span));
        assert_eq!(kept(1), Some((last.trace, last.id)));
        assert_eq!(kept(BUCKETS.len()), Some((first.trace, first.id)));
        assert_eq!(exemplars.iter().flatten().count(), 2);
    }

    #[test]
    fn a_series_survives_until_it_was_read_after_its_last_use() {
        let stats = Stats::default();
        stats.series(labels("r")).record(&Ended::default());
        assert_eq!((stats.look().len(), stats.look().len()), (1, 1), "a look keeps nothing from who counts");
        assert_eq!(stats.read().len(), 1);
        assert!(stats.read().is_empty());
    }
}
