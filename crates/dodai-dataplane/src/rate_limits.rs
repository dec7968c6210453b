//! The rate limits of one policy: each must let a call pass, and one that any of them refuses is taken by none.

use std::sync::Arc;
use std::time::Duration;

use dodai_core::snapshot;
use smallvec::SmallVec;

use crate::filter::Seen;
use crate::jwt::Claims;
use crate::rate::{RateLimit, Taken, WHOLE};
use crate::rate_key;
use crate::route::BadRule;
use crate::shared_rate::SharedRate;

/// The limits of a policy.
#[derive(Debug)]
pub struct RateLimits(Box<[Kept]>);

/// A limit by who keeps it.
#[derive(Debug)]
enum Kept {
    /// This base, for this rule.
    Here(Arc<RateLimit>),
    /// All bases.
    Together(Box<SharedRate>),
}

impl RateLimits {
    /// Compiles the limits of `rule`. One that is the same as one of `counting` takes its place, once.
    pub fn compile(
        rule: &str,
        sources: &[snapshot::RateLimit],
        counting: &mut Vec<&Arc<RateLimit>>,
    ) -> Result<RateLimits, BadRule> {
        let compile = |source: &snapshot::RateLimit| {
            rate_key::check(rule, &source.key)?;
            if let Some(shared) = &source.shared {
                return Ok(Kept::Together(Box::new(SharedRate::new(source, &shared.name))));
            }
            let same = counting.iter().position(|known| known.spec() == source);
            let known = same.map(|at| counting.remove(at).clone());
            Ok(Kept::Here(known.unwrap_or_else(|| Arc::new(RateLimit::new(source)))))
        };
        sources.iter().map(compile).collect::<Result<_, _>>().map(RateLimits)
    }

    /// Those that all bases keep together.
    pub fn shared(&self) -> impl Iterator<Item = &SharedRate> {
        self.0.iter().filter_map(|kept| match kept {
            Kept::Together(shared) => Some(&**shared),
            Kept::Here(_) => None,
        })
    }

    /// Those that this base keeps for its rule.
    pub fn own(&self) -> impl Iterator<Item = &Arc<RateLimit>> {
        self.0.iter().filter_map(|kept| match kept {
            Kept::Here(limit) => Some(limit),
            Kept::Together(_) => None,
        })
    }

    /// Takes a call. `claims` are those of its token, if it showed one.
    ///
    /// # Errors
    /// One of them is used up: in how long all of them would let it pass.
    pub fn take(&self, seen: &Seen<'_>, claims: Option<&Claims>) -> Result<(), Duration> {
        let mut taken: SmallVec<[(&Kept, Taken); 4]> = SmallVec::new();
        let mut wait = None;
        for kept in &self.0 {
            match kept.take(seen, claims) {
                Ok(one) => taken.push((kept, one)),
                Err(longer) => wait = wait.max(Some(longer)),
            }
        }
        let Some(wait) = wait else { return Ok(()) };
        for (kept, one) in &taken {
            kept.give_back(one);
        }
        Err(wait)
    }
}

impl Kept {
    fn take(&self, seen: &Seen<'_>, claims: Option<&Claims>) -> Result<Taken, Duration> {
        match self {
            Kept::Here(limit) => limit.take(seen, claims, WHOLE),
            Kept::Together(shared) => shared.limit().take(seen, claims),
        }
    }

    fn give_back(&self, taken: &Taken) {
        match self {
            Kept::Here(limit) => limit.give_back(taken),
            Kept::Together(shared) => shared.limit().give_back(taken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Known;
    use dodai_core::call::Caller;
    use dodai_core::head::RequestHead;
    use dodai_core::snapshot::RateKey;
    use tokio::time::Instant;

    fn limit(interval_ms: u64, burst: u32, key: &[RateKey]) -> snapshot::RateLimit {
        let interval = Duration::from_millis(interval_ms);
        snapshot::RateLimit { interval, burst, key: key.to_vec(), shared: None }
    }

    fn ask(limits: &RateLimits, user: &str) -> Result<(), Duration> {
        let (parts, ()) = http::Request::get("/").header("x-user", user).body(()).unwrap().into_parts();
        let (head, caller, now) = (RequestHead::Map(&parts), Caller::Outside, Instant::now());
        limits.take(
            &Seen { head, caller: &caller, client: None, now, known: Known::All, certified: None },
            None,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn each_limit_must_let_a_call_pass() {
        let user = [RateKey::Header("x-user".to_owned())];
        // Ten a second for each user, and fifteen a minute together.
        let sources = [limit(100, 10, &user), limit(4_000, 15, &[])];
        let limits = RateLimits::compile("r", &sources, &mut Vec::new()).unwrap();
        assert_eq!((0..12).filter(|_| ask(&limits, "ada").is_ok()).count(), 10);
        assert_eq!((0..12).filter(|_| ask(&limits, "bob").is_ok()).count(), 5);
        assert_eq!(ask(&limits, "eve"), Err(Duration::from_secs(4)), "the longest wait");
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!((ask(&limits, "eve"), ask(&limits, "ada").is_ok()), (Ok(()), false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_one_refuses_is_taken_by_none() {
        let user = [RateKey::Header("x-user".to_owned())];
        // Whichever comes first in the list, and whether its bucket is by key.
        for (first, second) in [(&user[..], &[][..]), (&[][..], &user[..]), (&[][..], &[][..])] {
            let sources = [limit(1_000, 5, first), limit(60_000, 1, second)];
            let limits = RateLimits::compile("r", &sources, &mut Vec::new()).unwrap();
            assert_eq!(ask(&limits, "ada"), Ok(()));
            for _ in 0..20 {
                assert_eq!(ask(&limits, "ada"), Err(Duration::from_secs(60)), "{first:?} {second:?}");
            }
            let only = &limits.0[0];
            let (parts, ()) = http::Request::get("/").header("x-user", "ada").body(()).unwrap().into_parts();
            let (head, caller, now) = (RequestHead::Map(&parts), Caller::Outside, Instant::now());
            let seen = Seen { head, caller: &caller, client: None, now, known: Known::All, certified: None };
            assert_eq!((0..9).filter(|_| only.take(&seen, None).is_ok()).count(), 4, "{first:?}");
        }
    }
}
