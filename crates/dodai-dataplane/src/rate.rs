//! Rate limits by the generic cell rate algorithm: one bucket for all calls, or one for each key.
//!
//! A bucket is one number, the time at which the next call is due. Buckets by key are bounded: when there are
//! too many, those that are full again are forgotten; if that does not help, new keys share one, so that a
//! client that makes up keys cannot grow memory and gains nothing.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dodai_core::call::Caller;
use dodai_core::head::RequestHead;
use dodai_core::snapshot::RateKey;
use tokio::time::Instant;

/// All calls, in ten thousandths.
pub const WHOLE: u32 = 10_000;
/// Buckets that one limit keeps at most.
const MAX_KEYS: usize = 10_000;

/// A rate limit in live form.
#[derive(Debug)]
pub struct RateLimit {
    pace: Pace,
    /// The bucket of all calls, or of those whose key has none of its own.
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

#[derive(Debug)]
struct Keyed {
    key: RateKey,
    /// Seeded by chance, so that nobody can choose keys that meet in one bucket.
    hasher: RandomState,
    buckets: Mutex<HashMap<u64, u64>>,
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
        let interval = u128::from(self.interval) * u128::from(WHOLE) / u128::from(share.max(1));
        Pace { interval: u64::try_from(interval).unwrap_or(u64::MAX), ..self }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl RateLimit {
    /// One call per `interval` over time, `burst` at once after a pause, for each key.
    pub fn new(interval: Duration, burst: u32, key: &RateKey) -> RateLimit {
        let tolerance = nanos(interval).saturating_mul(u64::from(burst.max(1) - 1));
        let keyed = match key {
            RateKey::All => None,
            RateKey::Header(_) | RateKey::App | RateKey::Address => {
                Some(Keyed { key: key.clone(), hasher: RandomState::new(), buckets: Mutex::default() })
            }
        };
        let pace = Pace { start: Instant::now(), interval: nanos(interval), tolerance };
        RateLimit { pace, shared: AtomicU64::new(0), keyed }
    }

    /// Takes a call at `now`. `client` is the client's address, where it is known.
    ///
    /// # Errors
    /// It does not fit: in how long one would.
    pub fn take(
        &self,
        head: &RequestHead<'_>,
        caller: &Caller,
        client: Option<&str>,
        now: Instant,
    ) -> Result<(), Duration> {
        self.take_at(self.pace, head, caller, client, now)
    }

    /// Like [`RateLimit::take`], of `share` in 10,000 of the calls only.
    ///
    /// # Errors
    /// It does not fit: in how long one would.
    pub fn take_share(
        &self,
        head: &RequestHead<'_>,
        caller: &Caller,
        client: Option<&str>,
        now: Instant,
        share: u32,
    ) -> Result<(), Duration> {
        let pace = if share >= WHOLE { self.pace } else { self.pace.scaled(share) };
        self.take_at(pace, head, caller, client, now)
    }

    fn take_at(
        &self,
        pace: Pace,
        head: &RequestHead<'_>,
        caller: &Caller,
        client: Option<&str>,
        now: Instant,
    ) -> Result<(), Duration> {
        let now = pace.now(now);
        let Some(keyed) = &self.keyed else { return self.take_shared(pace, now) };
        let hash = match &keyed.key {
            RateKey::All => None,
            RateKey::Header(name) => head.header(name).map(|value| keyed.hasher.hash_one(value)),
            RateKey::App => caller.app().map(|app| keyed.hasher.hash_one(app)),
            RateKey::Address => client.map(|client| keyed.hasher.hash_one(client)),
        };
        let Some(hash) = hash else { return self.take_shared(pace, now) };
        let mut buckets = keyed.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_KEYS && !buckets.contains_key(&hash) {
            buckets.retain(|_, next| *next > now);
            if buckets.len() >= MAX_KEYS {
                drop(buckets);
                return self.take_shared(pace, now);
            }
        }
        let bucket = buckets.entry(hash).or_default();
        *bucket = pace.step(*bucket, now)?;
        Ok(())
    }

    fn take_shared(&self, pace: Pace, now: u64) -> Result<(), Duration> {
        let taken = self.shared.fetch_update(Relaxed, Relaxed, |next| pace.step(next, now).ok());
        taken.map_or_else(|next| pace.step(next, now).map(drop), |_| Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dodai_core::id::AppId;

    fn take(limit: &RateLimit, caller: &str, header: Option<&str>, client: Option<&str>) -> bool {
        let mut request = http::Request::get("/");
        if let Some(value) = header {
            request = request.header("x-user", value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let caller = AppId::parse(caller).map_or(Caller::Outside, Caller::App);
        limit.take(&RequestHead::Map(&parts), &caller, client, Instant::now()).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_burst_and_then_the_rate_come_through() {
        let limit = RateLimit::new(Duration::from_millis(100), 3, &RateKey::All);
        let all = || take(&limit, "a/b", None, None);
        assert_eq!((0..5).filter(|_| all()).count(), 3);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(all());
        assert!(!all());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_as_long_as_told_comes_through_and_not_before() {
        let (parts, ()) = http::Request::get("/").body(()).unwrap().into_parts();
        for key in [RateKey::All, RateKey::Address] {
            let limit = RateLimit::new(Duration::from_secs(4), 2, &key);
            let ask =
                || limit.take(&RequestHead::Map(&parts), &Caller::Outside, Some("10.0.0.1"), Instant::now());
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
        let limit = RateLimit::new(Duration::from_secs(4), 1, &RateKey::All);
        let all = || take(&limit, "a/b", None, None);
        assert!(all() && !all());
        tokio::time::advance(Duration::from_millis(3_999)).await;
        assert!(!all());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(all());
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_has_a_bucket_and_those_without_share_one() {
        let second = Duration::from_secs(1);
        let limit = RateLimit::new(second, 1, &RateKey::Header("x-user".to_owned()));
        assert!(take(&limit, "a/b", Some("ada"), None) && take(&limit, "a/b", Some("bob"), None));
        assert!(!take(&limit, "a/b", Some("ada"), None));
        assert!(take(&limit, "a/b", None, None) && !take(&limit, "c/d", None, None));
        let limit = RateLimit::new(second, 1, &RateKey::App);
        assert!(take(&limit, "a/b", None, None) && take(&limit, "a/c", None, None));
        assert!(!take(&limit, "a/b", None, None));
        let limit = RateLimit::new(second, 1, &RateKey::Address);
        assert!(take(&limit, "", None, Some("10.0.0.1")) && take(&limit, "", None, Some("10.0.0.2")));
        assert!(!take(&limit, "", None, Some("10.0.0.1")));
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_keys_neither_grow_memory_nor_get_through() {
        let limit = RateLimit::new(Duration::from_secs(1), 1, &RateKey::Address);
        let taken = (0..MAX_KEYS + 50).filter(|at| take(&limit, "", None, Some(&at.to_string()))).count();
        assert_eq!(taken, MAX_KEYS + 1, "those beyond share one bucket");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(take(&limit, "", None, Some("new")), "buckets that are full again make room");
        assert_eq!(limit.keyed.as_ref().unwrap().buckets.lock().unwrap().len(), 1);
    }
}
