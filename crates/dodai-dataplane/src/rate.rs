//! Rate limits by the generic cell rate algorithm: one bucket for all calls, or one for each key.
//!
//! A bucket is one number, the time at which the next call is due. Buckets by key are bounded: when there are
//! too many, those that are full again are forgotten; if that does not help, new keys share one, so that a
//! client that makes up keys cannot grow memory and gains nothing. A bucket that is not full is never forgotten.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dodai_core::snapshot;
use foldhash::HashMap;
use tokio::time::Instant;

use crate::filter::Seen;
use crate::jwt::Claims;
use crate::limits::RATE_KEYS;
use crate::rate_key::Key;

/// All calls, in ten thousandths.
pub const WHOLE: u32 = 10_000;
/// How often buckets to forget are looked for at most, in nanoseconds: with all of them in use it takes a moment.
const SWEEP: u64 = 100_000_000;

/// A rate limit in live form.
#[derive(Debug)]
pub struct RateLimit {
    spec: snapshot::RateLimit,
    pace: Pace,
    /// The bucket of all calls, or of those for whose key there is no room.
    shared: AtomicU64,
    keyed: Option<Keyed>,
}

/// How fast and how many at once.
#[derive(Clone, Copy, Debug)]
struct Pace {
    start: Instant,
    interval: u64,
    tolerance: u64,
}

/// That a call was taken.
#[derive(Debug)]
pub struct Taken {
    /// The key of its bucket, if that is one by key.
    mark: Option<u64>,
    /// What it took of it.
    cost: u64,
}

#[derive(Debug)]
struct Keyed {
    key: Key,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    by_mark: HashMap<u64, Bucket>,
    /// Until when nothing that could be forgotten is looked for.
    rest: u64,
    /// The shares of keys that have another than the rest.
    shares: HashMap<u64, u32>,
}

#[derive(Debug, Default)]
struct Bucket {
    due: u64,
    /// Calls since the last look.
    asked: u32,
}

impl Buckets {
    /// The bucket of the key with this mark, if there is room for it.
    fn of(&mut self, mark: u64, now: u64) -> Option<&mut Bucket> {
        if self.by_mark.len() >= RATE_KEYS && !self.by_mark.contains_key(&mark) {
            if now < self.rest {
                return None;
            }
            self.by_mark.retain(|_, bucket| bucket.due > now);
            self.rest = now.saturating_add(SWEEP);
            if self.by_mark.len() >= RATE_KEYS {
                return None;
            }
            self.by_mark.shrink_to(self.by_mark.len() * 2);
        }
        Some(self.by_mark.entry(mark).or_default())
    }
}

impl Pace {
    fn now(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.start))
    }

    /// When the call after this one is due, if this one fits at `now`; else in how long one would.
    fn step(&self, next: u64, now: u64) -> Result<u64, Duration> {
        let due = next.max(now);
        match (due - now).checked_sub(self.tolerance) {
            None | Some(0) => Ok(due.saturating_add(self.interval)),
            Some(early) => Err(Duration::from_nanos(early)),
        }
    }

    /// The pace of a share of the calls. Fewer come over time and at once; the time that it takes to be full again stays.
    fn scaled(self, share: u32) -> Pace {
        if share >= WHOLE {
            return self;
        }
        let interval = u128::from(self.interval) * u128::from(WHOLE) / u128::from(share.max(1));
        Pace { interval: u64::try_from(interval).unwrap_or(u64::MAX), ..self }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl RateLimit {
    /// The limit that `spec` says, on this base.
    pub fn new(spec: &snapshot::RateLimit) -> RateLimit {
        let interval = nanos(spec.interval);
        let tolerance = interval.saturating_mul(u64::from(spec.burst.max(1) - 1));
        let keyed = Key::of(spec).map(|key| Keyed { key, buckets: Mutex::default() });
        let pace = Pace { start: Instant::now(), interval, tolerance };
        RateLimit { spec: spec.clone(), pace, shared: AtomicU64::new(0), keyed }
    }

    /// Takes a call, of `share` in 10,000 of those that fit, unless its key has another share. `claims` are those of its
    /// token, if it showed one.
    ///
    /// # Errors
    /// It does not fit: in how long one would.
    pub fn take(&self, seen: &Seen<'_>, claims: Option<&Claims>, share: u32) -> Result<Taken, Duration> {
        let now = self.pace.now(seen.now);
        let Some(keyed) = &self.keyed else { return self.take_shared(self.pace.scaled(share), now) };
        let mark = keyed.key.mark(seen, claims);
        let mut buckets = keyed.buckets();
        let pace = self.pace.scaled(buckets.shares.get(&mark).copied().unwrap_or(share));
        let Some(bucket) = buckets.of(mark, now) else {
            drop(buckets);
            return self.take_shared(pace, now);
        };
        bucket.asked = bucket.asked.saturating_add(1);
        bucket.due = pace.step(bucket.due, now)?;
        Ok(Taken { mark: Some(mark), cost: pace.interval })
    }

    fn take_shared(&self, pace: Pace, now: u64) -> Result<Taken, Duration> {
        let taken = self.shared.fetch_update(Relaxed, Relaxed, |next| pace.step(next, now).ok());
        if let Err(next) = taken {
            pace.step(next, now)?;
        }
        Ok(Taken { mark: None, cost: pace.interval })
    }

    /// Takes back that a call was taken: it goes no further.
    pub fn give_back(&self, taken: &Taken) {
        match (taken.mark, &self.keyed) {
            (Some(mark), Some(keyed)) => {
                if let Some(bucket) = keyed.buckets().by_mark.get_mut(&mark) {
                    bucket.due = bucket.due.saturating_sub(taken.cost);
                }
            }
            (None, _) | (_, None) => {
                let _before = self.shared.fetch_sub(taken.cost, Relaxed);
            }
        }
    }

    /// What it was made from.
    pub fn spec(&self) -> &snapshot::RateLimit {
        &self.spec
    }

    /// Whether it has a key.
    pub fn is_keyed(&self) -> bool {
        self.keyed.is_some()
    }

    /// Sets the shares of keys, by their marks; all others have that of the limit.
    pub fn set_shares(&self, shares: impl Iterator<Item = (u64, u32)>) {
        if let Some(keyed) = &self.keyed {
            keyed.buckets().shares = shares.collect();
        }
    }

    /// The shares of keys by their marks.
    pub fn shares(&self) -> BTreeMap<u64, u32> {
        let shares =
            |keyed: &Keyed| keyed.buckets().shares.iter().map(|(mark, share)| (*mark, *share)).collect();
        self.keyed.as_ref().map(shares).unwrap_or_default()
    }

    /// The keys that most calls came by since the last look, `most` of them at most: how many calls by mark.
    pub fn busiest(&self, most: usize) -> BTreeMap<u64, u64> {
        let Some(keyed) = &self.keyed else { return BTreeMap::new() };
        let mut found = BinaryHeap::with_capacity(most + 1);
        for (mark, bucket) in &mut keyed.buckets().by_mark {
            let asked = std::mem::take(&mut bucket.asked);
            if asked > 0 {
                found.push(Reverse((asked, *mark)));
            }
            if found.len() > most {
                found.pop();
            }
        }
        found.into_iter().map(|Reverse((asked, mark))| (mark, asked.into())).collect()
    }
}

impl Keyed {
    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Known;
    use dodai_core::call::Caller;
    use dodai_core::head::RequestHead;
    use dodai_core::id::AppId;
    use dodai_core::snapshot::{RateKey, SharedRate};

    fn limit(interval: Duration, burst: u32, key: &[RateKey]) -> RateLimit {
        RateLimit::new(&snapshot::RateLimit { interval, burst, key: key.to_vec(), shared: None })
    }

    /// A call by its target, headers, caller and client; those that are empty are none.
    #[derive(Clone, Copy, Default)]
    struct Asked<'a> {
        target: &'a str,
        headers: &'a [(&'a str, &'a str)],
        caller: &'a str,
        client: &'a str,
        claims: &'a str,
    }

    fn ask(limit: &RateLimit, asked: Asked<'_>) -> Result<(), Duration> {
        let mut request = http::Request::get(if asked.target.is_empty() { "/" } else { asked.target });
        for (name, value) in asked.headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let caller = AppId::parse(asked.caller).map_or(Caller::Outside, Caller::App);
        let client = Some(asked.client).filter(|client| !client.is_empty());
        let (head, now) = (RequestHead::Map(&parts), Instant::now());
        let seen = Seen { head, caller: &caller, client, now, known: Known::All, certified: None };
        let claims = (!asked.claims.is_empty()).then(|| Claims::of(asked.claims));
        limit.take(&seen, claims.as_ref(), WHOLE).map(drop)
    }

    fn fits(limit: &RateLimit, asked: Asked<'_>) -> bool {
        ask(limit, asked).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_burst_and_then_the_rate_come_through() {
        let limit = limit(Duration::from_millis(100), 3, &[]);
        let all = || fits(&limit, Asked::default());
        assert_eq!((0..5).filter(|_| all()).count(), 3);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(all());
        assert!(!all());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_as_long_as_told_comes_through_and_not_before() {
        for key in [vec![], vec![RateKey::Address]] {
            let limit = limit(Duration::from_secs(4), 2, &key);
            let ask = || ask(&limit, Asked { client: "10.0.0.1", ..Asked::default() });
            assert_eq!((ask(), ask()), (Ok(()), Ok(())));
            tokio::time::advance(Duration::from_millis(1_500)).await;
            let wait = Duration::from_millis(2_500);
            assert_eq!(ask(), Err(wait));
            tokio::time::advance(wait - Duration::from_millis(1)).await;
            assert_eq!(ask(), Err(Duration::from_millis(1)));
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(ask(), Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_may_be_less_than_one_a_second() {
        let limit = limit(Duration::from_secs(4), 1, &[]);
        let all = || fits(&limit, Asked::default());
        assert!(all() && !all());
        tokio::time::advance(Duration::from_millis(3_999)).await;
        assert!(!all());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(all());
    }

    /// Asks in turn for one call each; each of `calls` fits or not.
    fn check(key: &[RateKey], calls: &[(Asked<'_>, bool)]) {
        let limit = limit(Duration::from_secs(1), 1, key);
        for (at, (asked, expect)) in calls.iter().enumerate() {
            assert_eq!(fits(&limit, *asked), *expect, "{key:?}: call {at}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_has_a_bucket_and_calls_without_it_share_one() {
        let none = Asked { caller: "a/b", ..Asked::default() };
        let header = |value| Asked { headers: value, ..none };
        let (ada, bob) = (header(&[("x-user", "ada")]), header(&[("x-user", "bob")]));
        check(
            &[RateKey::Header("x-user".into())],
            &[(ada, true), (bob, true), (ada, false), (none, true), (Asked { caller: "c/d", ..none }, false)],
        );
        let cookie = header(&[("cookie", "a=1; session=x; session=y")]);
        let other = header(&[("cookie", "session=y")]);
        let key = [RateKey::Cookie("session".into())];
        check(&key, &[(cookie, true), (other, true), (cookie, false), (none, true), (none, false)]);
        let target = |target| Asked { target, ..none };
        check(
            &[RateKey::Query("k".into())],
            &[
                (target("/?k=1"), true),
                (target("/x?a=b&k=1"), false),
                (target("/?k="), true),
                (target("/"), true),
                (target("/x"), false),
            ],
        );
        check(&[RateKey::App], &[(none, true), (Asked { caller: "a/c", ..none }, true), (none, false)]);
        let from = |client| Asked { client, ..Asked::default() };
        let (one, two) = (from("10.0.0.1"), from("10.0.0.2"));
        check(&[RateKey::Address], &[(one, true), (two, true), (one, false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn claims_of_a_token_are_keys_within_others_too() {
        let of = |claims| Asked { claims, ..Asked::default() };
        check(
            &[RateKey::Claim("org.id".into())],
            &[
                (of(r#"{"org":{"id":7}}"#), true),
                (of(r#"{"org":{"id":8},"sub":"x"}"#), true),
                (of(r#"{"org":{"id":7},"sub":"y"}"#), false),
                (of(r#"{"sub":"x"}"#), true),
                (Asked::default(), false),
            ],
        );
        let groups = [RateKey::Claim("groups".into())];
        let (both, one) = (of(r#"{"groups":["a","b"]}"#), of(r#"{"groups":["a"]}"#));
        check(&groups, &[(both, true), (one, true), (both, false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_tuple_of_parts_has_a_bucket() {
        let of = |client, headers| Asked { client, headers, ..Asked::default() };
        let (ada, bob) = (&[("x-user", "ada")][..], &[("x-user", "bob")][..]);
        check(
            &[RateKey::Address, RateKey::Header("x-user".into())],
            &[
                (of("10.0.0.1", ada), true),
                (of("10.0.0.1", bob), true),
                (of("10.0.0.2", ada), true),
                (of("10.0.0.1", &[]), true),
                (of("", ada), true),
                (of("10.0.0.1", ada), false),
                (of("10.0.0.1", &[]), false),
                (of("", ada), false),
            ],
        );
        // What one part ends with and the next begins with is not the same.
        let two = |a, b| (a, b);
        let pair = |(a, b): (&'static str, &'static str)| [("x-a", a), ("x-b", b)];
        let (first, second) = (pair(two("ab", "c")), pair(two("a", "bc")));
        let key = [RateKey::Header("x-a".into()), RateKey::Header("x-b".into())];
        check(&key, &[(of("", &first), true), (of("", &second), true)]);
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_keys_neither_grow_memory_nor_get_through() {
        let limit = limit(Duration::from_secs(1), 1, &[RateKey::Address]);
        let from = |client: &str| fits(&limit, Asked { client, ..Asked::default() });
        let buckets = || limit.keyed.as_ref().unwrap().buckets().by_mark.len();
        assert!(from("busy"));
        let taken = (0..RATE_KEYS + 50).filter(|at| from(&at.to_string())).count();
        assert_eq!(taken, RATE_KEYS, "those beyond share one bucket");
        assert_eq!(buckets(), RATE_KEYS);
        assert!(!from("busy"), "nobody else's keys make room for a busy one to begin anew");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(from("new"), "buckets that are full again make room");
        assert_eq!(buckets(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_busiest_keys_are_known_by_the_same_marks_on_every_base() {
        let shared = |name: &str| Some(SharedRate { name: name.to_owned(), store: None });
        let base = |name| {
            let (interval, key) = (Duration::from_secs(1), vec![RateKey::App, RateKey::Address]);
            RateLimit::new(&snapshot::RateLimit { interval, burst: 1, key, shared: shared(name) })
        };
        let (one, two, other) = (base("shop/p[0]"), base("shop/p[0]"), base("shop/q[0]"));
        for limit in [&one, &two, &other] {
            for (client, calls) in [("10.0.0.1", 5), ("10.0.0.2", 3), ("10.0.0.3", 1)] {
                for _ in 0..calls {
                    let _full = fits(limit, Asked { client, ..Asked::default() });
                }
            }
        }
        let busiest = one.busiest(2);
        let mut calls: Vec<u64> = busiest.values().copied().collect();
        calls.sort_unstable();
        assert_eq!(calls, [3, 5], "refused calls want to pass as well");
        assert_eq!(two.busiest(2), busiest);
        assert!(
            other.busiest(2).keys().all(|mark| !busiest.contains_key(mark)),
            "limits tell nothing of each other"
        );
        assert_eq!(one.busiest(2), BTreeMap::new(), "each call is told once");
    }
}
