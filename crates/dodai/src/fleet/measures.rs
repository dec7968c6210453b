//! What bases measure, gathered by their server: each tells every second what came since its last answer, and the
//! server adds it up for the same history that `dodai up` keeps.
//!
//! Calls are counted where they begin, at a gateway or by the app that makes them, because the base of their callee
//! counts them once more. Buckets travel and not quantiles, which cannot be added.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dodai_admin::Refusal;
use dodai_admin::history::MAX_TRACKS;
use dodai_admin::seam::{Node as _, Pair, Traffic, Usage};
use dodai_core::id::{BaseId, InstanceId};
use dodai_core::task::Tasks;
use dodai_dataplane::stats::{Answering, BUCKETS};
use futures_util::stream::{BoxStream, SelectAll, StreamExt, once, unfold};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::questions::Question;
use super::remote::Fleet;
use crate::admin::{Node, add, answered, begun, crossed, usages};

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
/// The most bytes of a name that a base tells, the most buckets of a pair, and the most subscriptions of a base.
const MAX_NAME: usize = 512;
const MAX_BUCKETS: usize = 256;
const MAX_SUBSCRIPTIONS: usize = 10_000;
/// How much longer than a beat a base may take to its first answer.
const GRACE: Duration = Duration::from_secs(5);
/// So many bases fewer than a beat is for, and it is shortened: bases that come and go must not change it back and forth.
const SPARE: usize = 20;
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
    let of = |series: Vec<(Answering, Pair)>| Told::of(series);
    let told = (Told::of(begun(&node.base)), of(answered(&node.base)), of(crossed(&node.base)));
    unfold((node, told), move |(node, (mut pairs, mut revisions, mut bases))| async move {
        tokio::time::sleep(until_beat(SystemTime::now(), beat)).await;
        let came = Traffic {
            bounds_s: BUCKETS.to_vec(),
            pairs: pairs.since(begun(&node.base)),
            revisions: revisions.since(answered(&node.base)),
            bases: bases.since(crossed(&node.base)),
        };
        let answer = Measured {
            came,
            usages: usages(&node.base).into_iter().collect(),
            subscriptions: node.subscriptions(),
        };
        Some((answer, (node, (pairs, revisions, bases))))
    })
    .boxed()
}

fn until_beat(now: SystemTime, beat: Duration) -> Duration {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let gone = u64::try_from(since % beat.as_nanos().max(1)).unwrap_or_default();
    beat.saturating_sub(Duration::from_nanos(gone))
}

/// What the server knows of, and what it does not yet, of series with such keys.
struct Told<K> {
    /// Every series as it was read last. A pair is the sum of several: one of them that is forgotten, because nobody
    /// uses it any more, takes nothing from what the others have counted.
    read: HashMap<K, Pair>,
    /// What came and went into no answer.
    open: BTreeMap<Edge, Pair>,
}

impl<K: Eq + Hash> Told<K> {
    fn of(series: Vec<(K, Pair)>) -> Told<K> {
        Told { read: series.into_iter().collect(), open: BTreeMap::new() }
    }

    /// What came since. What does not go into one answer stays for the next.
    fn since(&mut self, series: Vec<(K, Pair)>) -> Vec<Pair> {
        let before = std::mem::take(&mut self.read);
        for (key, pair) in series {
            let fresh = before.get(&key).map_or_else(|| pair.clone(), |before| less(&pair, before));
            let has_room = self.open.len() < MAX_PAIRS;
            if fresh.calls > 0
                && (has_room || self.open.contains_key(&(fresh.caller.clone(), fresh.app.clone())))
            {
                add(&mut self.open, fresh);
            }
            self.read.insert(key, pair);
        }
        let mut fresh: Vec<Pair> = std::mem::take(&mut self.open).into_values().collect();
        if fresh.len() > MAX_PAIRS_TOLD {
            fresh.sort_by_key(|pair| Reverse(pair.calls));
            let rest = fresh.split_off(MAX_PAIRS_TOLD);
            rest.into_iter().for_each(|pair| add(&mut self.open, pair));
        }
        fresh
    }
}

/// What a series has more than an earlier reading of it; all of it where counters went back, for then it began anew.
fn less(now: &Pair, before: &Pair) -> Pair {
    if now.calls < before.calls || now.errors < before.errors {
        return now.clone();
    }
    let earlier = before.buckets.iter().copied().chain(std::iter::repeat(0));
    Pair {
        calls: now.calls - before.calls,
        errors: now.errors - before.errors,
        buckets: now.buckets.iter().zip(earlier).map(|(now, then)| now.saturating_sub(then)).collect(),
        ..now.clone()
    }
}

/// Sums, and when something was added last.
type Sums = BTreeMap<Edge, (Pair, Instant)>;

/// What all bases told.
#[derive(Default)]
pub(super) struct Gathered(Mutex<State>);

#[derive(Default)]
struct State {
    pairs: Sums,
    /// By revision and app.
    revisions: Sums,
    /// By base and base.
    crossed: Sums,
    bases: BTreeMap<BaseId, Heard>,
    /// When each base that is connected should have told.
    expected: BTreeMap<BaseId, Instant>,
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

    /// A base was asked at `now`, and is to tell every `beat`.
    fn asked(&self, base: &BaseId, beat: Duration, now: Instant) {
        self.lock().expected.entry(base.clone()).or_insert(now + beat + GRACE);
    }

    /// The bases that are connected; of others nothing is expected.
    fn are_connected(&self, bases: &[BaseId]) {
        let there: BTreeSet<&BaseId> = bases.iter().collect();
        self.lock().expected.retain(|base, _| there.contains(base));
    }

    /// Takes what a base told at `now`, which tells every `beat`. What it may tell is bounded: a base that is broken
    /// or somebody else's must not harm what the others tell.
    fn take(&self, base: BaseId, told: Measured, beat: Duration, now: Instant) {
        let mut state = self.lock();
        state.is_known = true;
        let Measured { came, usages, mut subscriptions } = told;
        let is_named = |pair: &Pair| pair.caller.len() <= MAX_NAME && pair.app.len() <= MAX_NAME;
        let Traffic { bounds_s, pairs, revisions, bases: mut crossed } = came;
        // Whose calls these are is known without it.
        crossed.iter_mut().for_each(|pair| pair.caller = base.to_string());
        let State { pairs: sums, revisions: of_revisions, crossed: of_bases, is_full, .. } = &mut *state;
        for (sums, told) in [(sums, pairs), (of_revisions, revisions), (of_bases, crossed)] {
            for pair in told.into_iter().filter(is_named).take(MAX_PAIRS_TOLD) {
                let buckets = rebucketed(&pair.buckets, &bounds_s);
                sum_up(sums, is_full, Pair { buckets, ..pair }, now);
            }
        }
        let is_short = |text: &String| text.len() <= MAX_NAME;
        subscriptions.retain(|name, reason| is_short(name) && reason.as_ref().is_none_or(is_short));
        let subscriptions = subscriptions.into_iter().take(MAX_SUBSCRIPTIONS).collect();
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
        let State { pairs, is_full, .. } = &mut *self.lock();
        sum_up(pairs, is_full, pair, Instant::now());
    }

    /// All calls until now; `None` if no base ever told.
    pub(super) fn traffic(&self, now: Instant) -> Option<Traffic> {
        let mut state = self.lock();
        let told = |sums: &mut Sums| {
            sums.retain(|_, (_, at)| now.saturating_duration_since(*at) < QUIET);
            sums.values().map(|(pair, _)| pair.clone()).collect()
        };
        let (pairs, revisions) = (told(&mut state.pairs), told(&mut state.revisions));
        let bases = told(&mut state.crossed);
        state.is_known.then(|| Traffic { bounds_s: BUCKETS.to_vec(), pairs, revisions, bases })
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
        let tells = |base: &BaseId| state.bases.get(base).is_some_and(|one| one.counts(now));
        // One that has just come has had no time for it.
        let is_late = |base: &BaseId| state.expected.get(base).is_some_and(|at| *at <= now);
        connected.iter().filter(|base| is_late(base) && !tells(base)).map(ToString::to_string).collect()
    }
}

/// Adds to a sum, unless there are too many: then it says so once.
fn sum_up(sums: &mut Sums, is_full: &mut bool, pair: Pair, now: Instant) {
    let edge = (pair.caller.clone(), pair.app.clone());
    if sums.len() >= MAX_PAIRS && !sums.contains_key(&edge) {
        if !std::mem::replace(is_full, true) {
            let most = MAX_PAIRS;
            tracing::warn!(
                most,
                "more pairs of caller or revision and app have calls than are counted on a server"
            );
        }
        return;
    }
    let empty = || Pair { calls: 0, errors: 0, buckets: vec![0; BUCKETS.len() + 1], ..pair.clone() };
    let (sum, at) = sums.entry(edge).or_insert_with(|| (empty(), now));
    sum.calls = sum.calls.saturating_add(pair.calls);
    sum.errors = sum.errors.saturating_add(pair.errors);
    for (sum, more) in sum.buckets.iter_mut().zip(&pair.buckets) {
        *sum = sum.saturating_add(*more);
    }
    *at = now;
}

/// The bucket of a time in seconds.
fn place(seconds: f64) -> usize {
    BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len())
}

/// Counts in the buckets of this version: a base of another may have others.
fn rebucketed(buckets: &[u64], bounds_s: &[f64]) -> Vec<u64> {
    let mut own = vec![0; BUCKETS.len() + 1];
    for (at, count) in buckets.iter().take(MAX_BUCKETS).enumerate() {
        let own: &mut u64 = &mut own[bounds_s.get(at).map_or(BUCKETS.len(), |bound| place(*bound))];
        *own = own.saturating_add(*count);
    }
    own
}

/// One step of an answer that does not end; `None` is its end.
type Step = (BaseId, Duration, Option<Result<Measured, Refusal>>);

impl Fleet {
    /// Asks every base that is connected for what it measures, until the tasks close.
    pub async fn gather(self: Arc<Self>, tasks: Tasks) {
        let mut answers: SelectAll<BoxStream<'static, Step>> = SelectAll::new();
        let mut asked: BTreeMap<BaseId, Asked> = BTreeMap::new();
        let mut later: BTreeMap<BaseId, Instant> = BTreeMap::new();
        let mut looks = tokio::time::interval(LOOK);
        let mut bases = 0;
        loop {
            tokio::select! {
                // All only wait; an empty set of answers has nothing to give yet.
                () = tasks.closing() => return,
                _ = looks.tick() => {
                    let now = Instant::now();
                    later.retain(|_, until| *until > now);
                    let connected = self.connected();
                    self.gathered.are_connected(&connected);
                    bases = connected.len();
                    let fresh = |base: &BaseId| !asked.contains_key(base) && !later.contains_key(base);
                    for base in connected.into_iter().filter(fresh).collect::<Vec<_>>() {
                        self.gathered.asked(&base, beat_of(bases), now);
                        let (question, told) = self.measures(&base, beat_of(bases));
                        answers.push(told);
                        asked.insert(base, question);
                    }
                }
                Some((base, beat, told)) = answers.next(), if !answers.is_empty() => match told {
                    Some(Ok(told)) => {
                        self.gathered.take(base.clone(), self.of_its_own(&base, told), beat, Instant::now());
                        let is_current = asked.get(&base).is_some_and(|question| question.beat == beat);
                        // It has just told all until now, so nothing is lost between two questions.
                        if is_current && has_other_beat(beat, bases) {
                            let (question, told) = self.measures(&base, beat_of(bases));
                            answers.push(told);
                            asked.insert(base, question);
                        }
                    }
                    Some(Err(why)) => {
                        tracing::debug!(%base, %why, "a base does not say what it measures");
                        later.insert(base, Instant::now() + AGAIN);
                    }
                    // A question that another has taken the place of.
                    None if asked.get(&base).is_some_and(|question| question.beat != beat) => {}
                    None => {
                        self.gathered.left(&base);
                        asked.remove(&base);
                    }
                },
            }
        }
    }

    /// What a base told, without what it says of instances that are not placed on it.
    fn of_its_own(&self, base: &BaseId, mut told: Measured) -> Measured {
        let view = self.control.view();
        told.usages.retain(|id, _| view.records.instance(id).is_some_and(|record| record.base == *base));
        told
    }

    fn measures(&self, base: &BaseId, beat: Duration) -> (Asked, BoxStream<'static, Step>) {
        let every_ms = u64::try_from(beat.as_millis()).unwrap_or(u64::MAX);
        let (own, end) = (base.clone(), base.clone());
        let told = self.answers(base, &Question::Measures { every_ms });
        let (keep, ended) = oneshot::channel::<()>();
        let told = told.take_until(ended).map(move |told| (own.clone(), beat, Some(told)));
        let told = told.chain(once(async move { (end, beat, None) })).boxed();
        (Asked { beat, _keep: keep }, told)
    }
}

/// A question that is open; when this goes, its answers end.
struct Asked {
    beat: Duration,
    _keep: oneshot::Sender<()>,
}

/// Whether so many bases should tell more seldom than every `beat`, or may tell more often.
fn has_other_beat(beat: Duration, bases: usize) -> bool {
    beat_of(bases) > beat || beat_of(bases + SPARE) < beat
}

/// The more bases there are, the more seldom each tells.
fn beat_of(bases: usize) -> Duration {
    let hundreds = u32::try_from(bases).unwrap_or(u32::MAX) / BASES_A_BEAT;
    (BEAT * (hundreds + 1).min(LONGEST_BEAT.as_secs() as u32)).min(LONGEST_BEAT)
}

#[cfg(test)]
mod tests {
    use dodai_dataplane::stats::{Direction, Labels};

    use super::*;

    fn pair(caller: &str, calls: u64, errors: u64, bucket: usize) -> Pair {
        let mut buckets = vec![0; BUCKETS.len() + 1];
        buckets[bucket] = calls;
        Pair { caller: caller.to_owned(), app: "default/shop".to_owned(), calls, errors, buckets }
    }

    fn series(route: &str, pair: Pair) -> (Labels, Pair) {
        let (caller, service) = (pair.caller.as_str().into(), format!("{}/http", pair.app).into());
        (Labels { direction: Direction::Gateway, caller, service, route: route.into() }, pair)
    }

    fn traffic(pairs: Vec<Pair>) -> Traffic {
        Traffic { bounds_s: BUCKETS.to_vec(), pairs, ..Traffic::default() }
    }

    fn told(pairs: Vec<Pair>) -> Measured {
        Measured { came: traffic(pairs), ..Measured::default() }
    }

    #[test]
    fn a_base_tells_what_came_since_its_last_answer() {
        let a = |calls, errors, bucket| series("r", pair("a", calls, errors, bucket));
        let b = |calls| series("r", pair("b", calls, 0, 0));
        let mut base = Told::of(vec![a(10, 1, 2)]);
        assert_eq!(base.since(vec![a(10, 1, 2)]), [], "nothing came");
        assert_eq!(base.since(vec![a(15, 3, 2), b(2)]), [pair("a", 5, 2, 2), pair("b", 2, 0, 0)]);
        let anew = base.since(vec![a(4, 0, 1), b(2)]);
        assert_eq!(anew, [pair("a", 4, 0, 1)], "counters that went back began anew");
        // A series that went away and came back counts from zero.
        assert_eq!(base.since(vec![a(4, 0, 1)]), []);
        assert_eq!(base.since(vec![a(4, 0, 1), b(1)]), [pair("b", 1, 0, 0)]);
    }

    #[test]
    fn a_route_that_vanishes_takes_nothing_from_the_others_of_its_pair() {
        let route = |name: &str, calls| series(name, pair("a", calls, 0, 0));
        let mut base = Told::of(vec![route("old", 1_000), route("new", 50)]);
        assert_eq!(base.since(vec![route("new", 53)]), [pair("a", 3, 0, 0)]);
        let both = base.since(vec![route("new", 54), route("other", 2)]);
        assert_eq!(both, [pair("a", 3, 0, 0)], "the series of a pair are added up");
    }

    #[test]
    fn an_answer_is_bounded_and_what_is_left_out_comes_later() {
        let mut base = Told::of(Vec::new());
        let all = |calls: u64| -> Vec<_> {
            (0..MAX_PAIRS_TOLD + 5).map(|at| series("r", pair(&format!("c{at:05}"), calls, 0, 0))).collect()
        };
        let first = base.since(all(1));
        let rest = base.since(all(1));
        assert_eq!((first.len(), rest.len(), base.since(all(1)).len()), (MAX_PAIRS_TOLD, 5, 0));
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
    fn what_revisions_and_bases_answered_is_added_up_beside_it() {
        let (gathered, now) = (Gathered::default(), Instant::now());
        for (base, revision) in [("one", "old"), ("two", "old"), ("two", "new")] {
            let revisions = vec![pair(revision, 3, 1, 0)];
            // A base speaks for itself alone, whatever it says.
            let bases = vec![Pair { app: "two".to_owned(), ..pair("three", 3, 1, 0) }];
            let came = Traffic { revisions, bases, ..traffic(vec![pair("outside", 3, 1, 0)]) };
            gathered.take(BaseId::new(base), Measured { came, ..Measured::default() }, BEAT, now);
        }
        let all = gathered.traffic(now).unwrap();
        assert_eq!(all.pairs, [pair("outside", 9, 3, 0)]);
        assert_eq!(all.revisions, [pair("new", 3, 1, 0), pair("old", 6, 2, 0)]);
        let crossed: Vec<_> = all.bases.iter().map(|one| (&*one.caller, &*one.app, one.calls)).collect();
        assert_eq!(crossed, [("one", "two", 3), ("two", "two", 6)]);
        // A base of an older version tells none.
        let told = r#"{"came":{"bounds_s":[],"pairs":[]},"usages":{},"subscriptions":{}}"#;
        assert_eq!(serde_json::from_str::<Measured>(told).unwrap(), Measured::default());
    }

    #[test]
    fn bases_of_another_version_count_in_other_buckets() {
        let (gathered, now) = (Gathered::default(), Instant::now());
        let other = Pair { buckets: vec![3, 2, 1], ..pair("outside", 6, 0, 0) };
        let came = Traffic { bounds_s: vec![0.000_2, 0.3], pairs: vec![other], ..Traffic::default() };
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
        gathered.asked(&one, BEAT, now);
        gathered.asked(&two, BEAT, now);
        let later = now + BEAT + GRACE;
        assert!(later >= now + BEAT * MISSED_BEATS);
        gathered.take(two.clone(), tells("b-1", None), BEAT, later - BEAT);
        assert_eq!((gathered.usages(now).len(), running(now)), (2, Some(None)), "it runs somewhere");
        assert_eq!(gathered.usages(later).into_keys().collect::<Vec<_>>(), [InstanceId::new("b-1")]);
        assert_eq!(gathered.silent(&[one.clone(), two.clone()], later), ["one"]);
        gathered.left(&two);
        let both = [one.clone(), two.clone()];
        assert_eq!(gathered.silent(&both, later), ["one", "two"]);
        // One that comes has time for its first answer, and so has one that comes back.
        gathered.are_connected(&both[..1]);
        gathered.asked(&two, BEAT, later);
        assert_eq!(gathered.silent(&both, later + GRACE), ["one"]);
        assert_eq!(gathered.silent(&both, later + GRACE + BEAT), ["one", "two"]);
    }

    #[test]
    fn what_a_base_tells_is_bounded() {
        let (gathered, now) = (Gathered::default(), Instant::now());
        let most = Pair { calls: u64::MAX, buckets: vec![u64::MAX; MAX_BUCKETS + 9], ..pair("a", 1, 1, 0) };
        let long = pair(&"x".repeat(MAX_NAME + 1), 1, 0, 0);
        let names = (0..MAX_SUBSCRIPTIONS + 1).map(|at| (at.to_string(), None));
        for _ in 0..2 {
            let came = traffic(vec![most.clone(), long.clone()]);
            let told = Measured { came, subscriptions: names.clone().collect(), ..Measured::default() };
            gathered.take(BaseId::new("one"), told, BEAT, now);
        }
        let pairs = gathered.traffic(now).unwrap().pairs;
        assert_eq!((pairs.len(), pairs[0].calls, pairs[0].buckets[0]), (1, u64::MAX, u64::MAX));
        assert_eq!(gathered.subscriptions(now).len(), MAX_SUBSCRIPTIONS);
    }

    #[test]
    fn pairs_are_bounded() {
        let (gathered, now) = (Gathered::default(), Instant::now());
        let many: Vec<Pair> = (0..MAX_PAIRS + 1).map(|at| pair(&at.to_string(), 1, 0, 0)).collect();
        for some in many.chunks(MAX_PAIRS_TOLD) {
            gathered.take(BaseId::new("one"), told(some.to_vec()), BEAT, now);
        }
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
        // Those that were asked when there were few are asked anew when there are many.
        for (beat_s, bases, expect) in
            [(1, 99, false), (1, 100, true), (2, 99, false), (2, 80, false), (2, 79, true)]
        {
            assert_eq!(has_other_beat(Duration::from_secs(beat_s), bases), expect, "{beat_s} s, {bases}");
        }
    }
}
