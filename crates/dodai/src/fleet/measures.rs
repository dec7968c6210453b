//! What bases measure, gathered by their server: each tells every second what came since its last answer, and the
//! server adds it up for the same history that `dodai up` keeps.
//!
//! Calls are counted where they begin, at a gateway or by the app that makes them, because the base of their callee
//! counts them once more. Buckets travel and not quantiles, which cannot be added.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dodai_admin::Refusal;
use dodai_admin::history::MAX_TRACKS;
use dodai_admin::seam::{Node as _, Pair, Traffic, Usage};
use dodai_core::id::{BaseId, InstanceId};
use dodai_core::task::Tasks;
use dodai_dataplane::stats::BUCKETS;
use futures_util::stream::{BoxStream, SelectAll, StreamExt, once, unfold};
use serde::{Deserialize, Serialize};

use super::questions::Question;
use super::remote::Fleet;
use crate::admin::{Node, begun, usages};

/// How often it is looked which bases are there.
const LOOK: Duration = Duration::from_millis(500);
/// From one answer of a base to the next, and how much longer with each hundred bases, up to the longest.
const BEAT: Duration = Duration::from_secs(1);
const LONGEST_BEAT: Duration = Duration::from_secs(15);
const BASES_A_BEAT: u32 = 100;
/// When a base is asked again that would not answer, as one of another version.
const AGAIN: Duration = Duration::from_secs(10);
/// How many beats a base may leave out until what it said counts no more.
const MISSED_BEATS: u32 = 5;
/// The most pairs of caller and app in one answer: those with most calls, the others come later.
const MAX_PAIRS_TOLD: usize = MAX_TRACKS;
/// The most pairs of all bases.
const MAX_PAIRS: usize = 4 * MAX_TRACKS;
/// A pair without a call for so long makes room; when it comes again it begins at zero, and so does who reads it.
const QUIET: Duration = Duration::from_secs(60);

/// An edge: who calls, and what is called.
type Edge = (String, String);

/// What a base tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Calls that began here since the answer before.
    pub came: Traffic,
    /// What each instance uses.
    pub usages: BTreeMap<InstanceId, Usage>,
    /// Subscriptions, with the reason of those that do not run.
    pub subscriptions: BTreeMap<String, Option<String>>,
}

/// What this base measures, at the beginning of every `beat` of the clock, so that bases with clocks of one time tell
/// at once, and a reader's second holds one answer of each.
pub fn measured(node: Arc<Node>, beat: Duration) -> BoxStream<'static, Measured> {
    let beat = beat.clamp(BEAT, LONGEST_BEAT);
    let told = Told::of(begun(&node.base));
    unfold((node, told), move |(node, mut told)| async move {
        tokio::time::sleep(until_beat(SystemTime::now(), beat)).await;
        let answer = Measured {
            came: told.since(begun(&node.base)),
            usages: usages(&node.base).into_iter().collect(),
            subscriptions: node.subscriptions(),
        };
        Some((answer, (node, told)))
    })
    .boxed()
}

fn until_beat(now: SystemTime, beat: Duration) -> Duration {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let gone = u64::try_from(since % beat.as_nanos().max(1)).unwrap_or_default();
    beat.saturating_sub(Duration::from_nanos(gone))
}

/// The counters of which the server knows.
struct Told(BTreeMap<Edge, Pair>);

impl Told {
    fn of(traffic: Traffic) -> Told {
        Told(traffic.pairs.into_iter().map(|pair| ((pair.caller.clone(), pair.app.clone()), pair)).collect())
    }

    /// What came since. What does not go into one answer stays for the next.
    fn since(&mut self, traffic: Traffic) -> Traffic {
        let Traffic { bounds_s, pairs } = traffic;
        let now = Told::of(Traffic { bounds_s: Vec::new(), pairs });
        // Series that nobody uses any more are gone, and begin anew.
        self.0.retain(|edge, _| now.0.contains_key(edge));
        let none = Pair::default();
        let fresh = |(edge, pair): (&Edge, &Pair)| less(pair, self.0.get(edge).unwrap_or(&none));
        let mut fresh: Vec<Pair> = now.0.iter().map(fresh).filter(|pair| pair.calls > 0).collect();
        if fresh.len() > MAX_PAIRS_TOLD {
            fresh.sort_by_key(|pair| Reverse(pair.calls));
            fresh.truncate(MAX_PAIRS_TOLD);
        }
        for pair in &fresh {
            let edge = (pair.caller.clone(), pair.app.clone());
            if let Some(now) = now.0.get(&edge) {
                self.0.insert(edge, now.clone());
            }
        }
        Traffic { bounds_s, pairs: fresh }
    }
}

/// What a pair has more than an earlier reading of it; all of it where counters went back.
fn less(now: &Pair, before: &Pair) -> Pair {
    let went_back = now.calls < before.calls || now.errors < before.errors;
    let earlier = before.buckets.iter().copied().chain(std::iter::repeat(0));
    let buckets = now.buckets.iter().zip(earlier);
    if went_back {
        return now.clone();
    }
    Pair {
        calls: now.calls - before.calls,
        errors: now.errors - before.errors,
        buckets: buckets.map(|(now, then)| now.saturating_sub(then)).collect(),
        ..now.clone()
    }
}

/// What all bases told.
#[derive(Default)]
pub(super) struct Gathered(Mutex<State>);

#[derive(Default)]
struct State {
    pairs: BTreeMap<Edge, (Pair, Instant)>,
    bases: BTreeMap<BaseId, Heard>,
    /// Whether any base has told anything since the server started.
    is_known: bool,
    is_full: bool,
}

/// What one base told last.
struct Heard {
    at: Instant,
    /// For how long it counts.
    counts_for: Duration,
    usages: BTreeMap<InstanceId, Usage>,
    subscriptions: BTreeMap<String, Option<String>>,
}

impl Heard {
    fn counts(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < self.counts_for
    }
}

impl Gathered {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a base told at `now`, which tells every `beat`.
    fn take(&self, base: BaseId, told: Measured, beat: Duration, now: Instant) {
        let mut state = self.lock();
        state.is_known = true;
        let Measured { came, usages, subscriptions } = told;
        for pair in came.pairs {
            let buckets = rebucketed(&pair.buckets, &came.bounds_s);
            state.add(Pair { buckets, ..pair }, now);
        }
        let counts_for = beat * MISSED_BEATS;
        state.bases.insert(base, Heard { at: now, counts_for, usages, subscriptions });
    }

    /// A base is away, or says nothing any more.
    fn left(&self, base: &BaseId) {
        self.lock().bases.remove(base);
    }

    /// Counts a call that the server itself made, as somebody outside.
    pub(super) fn count(&self, app: &str, is_error: bool, took: Duration) {
        let mut buckets = vec![0; BUCKETS.len() + 1];
        buckets[place(took.as_secs_f64())] = 1;
        let (caller, app) = ("outside".to_owned(), app.to_owned());
        let pair = Pair { caller, app, calls: 1, errors: u64::from(is_error), buckets };
        self.lock().add(pair, Instant::now());
    }

    /// All calls until now; `None` if no base ever told.
    pub(super) fn traffic(&self, now: Instant) -> Option<Traffic> {
        let mut state = self.lock();
        state.pairs.retain(|_, (_, at)| now.saturating_duration_since(*at) < QUIET);
        let pairs = state.pairs.values().map(|(pair, _)| pair.clone()).collect();
        state.is_known.then(|| Traffic { bounds_s: BUCKETS.to_vec(), pairs })
    }

    pub(super) fn usages(&self, now: Instant) -> HashMap<InstanceId, Usage> {
        let state = self.lock();
        let heard = state.bases.values().filter(|one| one.counts(now));
        heard.flat_map(|one| &one.usages).map(|(instance, usage)| (instance.clone(), *usage)).collect()
    }

    /// Those of all bases: one that runs nowhere has a reason.
    pub(super) fn subscriptions(&self, now: Instant) -> BTreeMap<String, Option<String>> {
        let state = self.lock();
        let mut all: BTreeMap<String, Option<String>> = BTreeMap::new();
        for (base, heard) in state.bases.iter().filter(|(_, one)| one.counts(now)) {
            for (name, reason) in &heard.subscriptions {
                let reason = reason.as_ref().map(|reason| format!("base {base}: {reason}"));
                let known = all.entry(name.clone()).or_insert_with(|| reason.clone());
                if reason.is_none() {
                    *known = None;
                }
            }
        }
        all
    }

    /// Those of `connected` that do not tell.
    pub(super) fn silent(&self, connected: &[BaseId], now: Instant) -> Vec<String> {
        let state = self.lock();
        let tells = |base: &&BaseId| state.bases.get(*base).is_some_and(|one| one.counts(now));
        connected.iter().filter(|base| !tells(base)).map(ToString::to_string).collect()
    }
}

impl State {
    fn add(&mut self, pair: Pair, now: Instant) {
        let edge = (pair.caller.clone(), pair.app.clone());
        let is_full = self.pairs.len() >= MAX_PAIRS;
        if is_full && !self.pairs.contains_key(&edge) {
            if !std::mem::replace(&mut self.is_full, true) {
                let most = MAX_PAIRS;
                tracing::warn!(most, "more pairs of caller and app have calls than are counted on a server");
            }
            return;
        }
        let empty = || Pair { calls: 0, errors: 0, buckets: vec![0; BUCKETS.len() + 1], ..pair.clone() };
        let (sum, at) = self.pairs.entry(edge).or_insert_with(|| (empty(), now));
        sum.calls += pair.calls;
        sum.errors += pair.errors;
        for (sum, more) in sum.buckets.iter_mut().zip(&pair.buckets) {
            *sum += more;
        }
        *at = now;
    }
}

/// The bucket of a time in seconds.
fn place(seconds: f64) -> usize {
    BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len())
}

/// Counts in the buckets of this version: a base of another may have others.
fn rebucketed(buckets: &[u64], bounds_s: &[f64]) -> Vec<u64> {
    let mut own = vec![0; BUCKETS.len() + 1];
    for (at, count) in buckets.iter().enumerate() {
        own[bounds_s.get(at).map_or(BUCKETS.len(), |bound| place(*bound))] += count;
    }
    own
}

/// One step of an answer that does not end; `None` is its end.
type Step = (BaseId, Duration, Option<Result<Measured, Refusal>>);

impl Fleet {
    /// Asks every base that is connected for what it measures, until the tasks close.
    pub async fn gather(self: Arc<Self>, tasks: Tasks) {
        let mut answers: SelectAll<BoxStream<'static, Step>> = SelectAll::new();
        let mut asked: BTreeSet<BaseId> = BTreeSet::new();
        let mut later: BTreeMap<BaseId, Instant> = BTreeMap::new();
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                // All only wait; an empty set of answers has nothing to give yet.
                () = tasks.closing() => return,
                _ = looks.tick() => {
                    let now = Instant::now();
                    later.retain(|_, until| *until > now);
                    let connected = self.connected();
                    let beat = beat_of(connected.len());
                    let fresh = |base: &BaseId| !asked.contains(base) && !later.contains_key(base);
                    let fresh: Vec<BaseId> = connected.into_iter().filter(fresh).collect();
                    for base in fresh {
                        answers.push(self.measures(&base, beat));
                        asked.insert(base);
                    }
                }
                Some((base, beat, told)) = answers.next(), if !answers.is_empty() => match told {
                    Some(Ok(told)) => self.gathered.take(base, told, beat, Instant::now()),
                    Some(Err(why)) => {
                        tracing::debug!(%base, %why, "a base does not say what it measures");
                        later.insert(base, Instant::now() + AGAIN);
                    }
                    None => {
                        self.gathered.left(&base);
                        asked.remove(&base);
                    }
                },
            }
        }
    }

    fn measures(&self, base: &BaseId, beat: Duration) -> BoxStream<'static, Step> {
        let every_ms = u64::try_from(beat.as_millis()).unwrap_or(u64::MAX);
        let (own, end) = (base.clone(), base.clone());
        let told = self.answers(base, &Question::Measures { every_ms });
        let told = told.map(move |told| (own.clone(), beat, Some(told)));
        told.chain(once(async move { (end, beat, None) })).boxed()
    }
}

/// The more bases there are, the more seldom each tells.
fn beat_of(bases: usize) -> Duration {
    let hundreds = u32::try_from(bases).unwrap_or(u32::MAX) / BASES_A_BEAT;
    (BEAT * (hundreds + 1).min(LONGEST_BEAT.as_secs() as u32)).min(LONGEST_BEAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(caller: &str, calls: u64, errors: u64, bucket: usize) -> Pair {
        let mut buckets = vec![0; BUCKETS.len() + 1];
        buckets[bucket] = calls;
        Pair { caller: caller.to_owned(), app: "default/shop".to_owned(), calls, errors, buckets }
    }

    fn traffic(pairs: Vec<Pair>) -> Traffic {
        Traffic { bounds_s: BUCKETS.to_vec(), pairs }
    }

    fn told(pairs: Vec<Pair>) -> Measured {
        Measured { came: traffic(pairs), ..Measured::default() }
    }

    #[test]
    fn a_base_tells_what_came_since_its_last_answer() {
        let mut base = Told::of(traffic(vec![pair("a", 10, 1, 2)]));
        assert_eq!(base.since(traffic(vec![pair("a", 10, 1, 2)])).pairs, [], "nothing came");
        let came = base.since(traffic(vec![pair("a", 15, 3, 2), pair("b", 2, 0, 0)])).pairs;
        assert_eq!(came, [pair("a", 5, 2, 2), pair("b", 2, 0, 0)]);
        let anew = base.since(traffic(vec![pair("a", 4, 0, 1), pair("b", 2, 0, 0)])).pairs;
        assert_eq!(anew, [pair("a", 4, 0, 1)], "counters that went back began anew");
        // A series that went away and came back counts from zero.
        assert_eq!(base.since(traffic(vec![pair("a", 4, 0, 1)])).pairs, []);
        assert_eq!(
            base.since(traffic(vec![pair("a", 4, 0, 1), pair("b", 1, 0, 0)])).pairs,
            [pair("b", 1, 0, 0)]
        );
    }

    #[test]
    fn an_answer_is_bounded_and_what_is_left_out_comes_later() {
        let mut base = Told::of(Traffic::default());
        let all = |calls: u64| -> Traffic {
            traffic((0..MAX_PAIRS_TOLD + 5).map(|at| pair(&format!("c{at:05}"), calls, 0, 0)).collect())
        };
        let first = base.since(all(1)).pairs;
        let rest = base.since(all(1)).pairs;
        assert_eq!((first.len(), rest.len(), base.since(all(1)).pairs.len()), (MAX_PAIRS_TOLD, 5, 0));
    }

    #[test]
    fn what_bases_told_is_added_up_so_that_quantiles_are_those_of_all_calls() {
        let (gathered, now) = (Gathered::default(), Instant::now());
        assert_eq!(gathered.traffic(now), None, "nothing is known");
        for (base, bucket) in [("one", 0), ("two", 9), ("one", 0)] {
            gathered.take(BaseId::new(base), told(vec![pair("outside", 5, 1, bucket)]), BEAT, now);
        }
        let all = gathered.traffic(now).unwrap().pairs.remove(0);
        assert_eq!((all.calls, all.errors, all.buckets[0], all.buckets[9]), (15, 3, 10, 5));
        assert_eq!(gathered.traffic(now + QUIET).unwrap().pairs, [], "what is quiet takes no room");
    }

    #[test]
    fn bases_of_another_version_count_in_other_buckets() {
        let (gathered, now) = (Gathered::default(), Instant::now());
        let other = Pair { buckets: vec![3, 2, 1], ..pair("outside", 6, 0, 0) };
        let came = Traffic { bounds_s: vec![0.000_2, 0.3], pairs: vec![other] };
        gathered.take(BaseId::new("old"), Measured { came, ..Measured::default() }, BEAT, now);
        let buckets = gathered.traffic(now).unwrap().pairs.remove(0).buckets;
        assert_eq!((buckets[1], buckets[11], buckets[BUCKETS.len()]), (3, 2, 1), "{buckets:?}");
    }

    #[test]
    fn a_base_that_says_nothing_ages_out() {
        let (gathered, now) = (Gathered::default(), Instant::now());
        let (one, two) = (BaseId::new("one"), BaseId::new("two"));
        let usage = Usage { cpu_ms: Some(7), memory_bytes: Some(9) };
        let tells = |instance: &str, reason: Option<&str>| Measured {
            usages: BTreeMap::from([(InstanceId::new(instance), usage)]),
            subscriptions: BTreeMap::from([("default/a bus/t".to_owned(), reason.map(str::to_owned))]),
            ..Measured::default()
        };
        gathered.take(one.clone(), tells("a-1", Some("it is down")), BEAT, now);
        let running = |at: Instant| gathered.subscriptions(at).remove("default/a bus/t");
        assert_eq!(running(now), Some(Some("base one: it is down".to_owned())));
        let later = now + BEAT * MISSED_BEATS;
        gathered.take(two.clone(), tells("b-1", None), BEAT, later - BEAT);
        assert_eq!((gathered.usages(now).len(), running(now)), (2, Some(None)), "it runs somewhere");
        assert_eq!(gathered.usages(later).into_keys().collect::<Vec<_>>(), [InstanceId::new("b-1")]);
        assert_eq!(gathered.silent(&[one.clone(), two.clone()], later), ["one"]);
        gathered.left(&two);
        assert_eq!(gathered.silent(&[one, two], now), ["two"]);
    }

    #[test]
    fn pairs_are_bounded() {
        let (gathered, now) = (Gathered::default(), Instant::now());
        let many = (0..MAX_PAIRS + 1).map(|at| pair(&at.to_string(), 1, 0, 0)).collect();
        gathered.take(BaseId::new("one"), told(many), BEAT, now);
        assert_eq!(gathered.traffic(now).unwrap().pairs.len(), MAX_PAIRS);
    }

    #[test]
    fn bases_tell_at_the_same_moment_and_more_seldom_the_more_there_are() {
        let at = |millis: u64| UNIX_EPOCH + Duration::from_millis(millis);
        for (now_ms, beat_s, wait_ms) in [(0, 1, 1000), (7_250, 1, 750), (7_250, 5, 2750)] {
            let wait = until_beat(at(now_ms), Duration::from_secs(beat_s));
            assert_eq!(wait, Duration::from_millis(wait_ms), "{now_ms}");
        }
        for (bases, seconds) in [(0, 1), (99, 1), (100, 2), (450, 5), (5000, 15)] {
            assert_eq!(beat_of(bases), Duration::from_secs(seconds), "{bases}");
        }
    }
}
