//! `lock.redis`: one key per lock whose value is its owner, with an expiry, as Dapr's component writes it.
//!
//! Fencing tokens come from a counter of their own, which Dapr does not know: a lock that Dapr gave has taken none.

use std::sync::Arc;
use std::time::Duration;

use dodai_capability::Answer;
use dodai_capability::component::Lifecycle;
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::lock::{Error, Features, Held, Outcome, Release, Store};

use super::link::{Again, Link};

/// What it can do.
pub(super) const FEATURES: Features = Features { list: false };

/// Where tokens are counted.
const TOKENS: &str = "dodai:lock:tokens";

/// Takes a lock that nobody has; answers its token, or 0.
const TAKE: &str = "\
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return redis.call('INCR', KEYS[2]) end
return 0";

/// Gives a lock back (no expiry) or keeps it: 1 done, 0 nobody has it, -1 somebody else has it.
const SETTLE: &str = "\
local owner = redis.call('GET', KEYS[1])
if not owner then return 0 end
if owner ~= ARGV[1] then return -1 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1";

/// A lock store in a Redis.
pub struct Redis(Arc<Link>);

impl Redis {
    /// Over this connection.
    pub fn new(link: Arc<Link>) -> Redis {
        Redis(link)
    }

    async fn settle(&self, what: &str, resource: &str, owner: &str, expiry: &str) -> Result<Release, Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("EVAL").arg(SETTLE).arg(1).arg(resource).arg(owner).arg(expiry);
        let (answer,): (i64,) =
            self.0.ask(&|| format!("{what} the lock `{resource}`"), &pipe, Again::Unsent).await?;
        Ok(match answer {
            1 => Release::Success,
            0 => Release::DoesNotExist,
            _ => Release::BelongsToOthers,
        })
    }
}

fn millis(expiry: Duration) -> u64 {
    u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX.unsigned_abs() / 2)
}

impl Store for Redis {
    fn features(&self) -> Features {
        FEATURES
    }

    fn try_lock<'a>(
        &'a self,
        resource: &'a str,
        owner: &'a str,
        expiry: Duration,
    ) -> Answer<'a, Result<Outcome, Error>> {
        Answer::later(async move {
            let mut pipe = redis::pipe();
            pipe.cmd("EVAL").arg(TAKE).arg(2).arg(resource).arg(TOKENS).arg(owner).arg(millis(expiry));
            let (token,): (u64,) =
                self.0.ask(&|| format!("locking `{resource}`"), &pipe, Again::Unsent).await?;
            Ok(if token == 0 { Outcome::Held } else { Outcome::Acquired { token } })
        })
    }

    fn unlock<'a>(&'a self, resource: &'a str, owner: &'a str) -> Answer<'a, Result<Release, Error>> {
        Answer::later(self.settle("giving back", resource, owner, ""))
    }

    fn held<'a>(&'a self, _after: Option<&'a str>, _limit: usize) -> Answer<'a, Result<Vec<Held>, Error>> {
        let what = "locks in a Redis cannot be listed: each is a plain key, as Dapr writes it, and nothing tells it from \
                    the other keys of the database";
        Answer::ready(Err(Fault::new(Kind::Unsupported, what).into()))
    }

    fn renew<'a>(
        &'a self,
        resource: &'a str,
        owner: &'a str,
        expiry: Duration,
    ) -> Answer<'a, Result<Release, Error>> {
        Answer::later(
            async move { self.settle("renewing", resource, owner, &millis(expiry).to_string()).await },
        )
    }
}

impl Lifecycle for Redis {
    fn ping(&self) -> Answer<'_, Result<(), Fault>> {
        Answer::later(self.0.ping())
    }

    fn close(&self) -> Answer<'_, ()> {
        Answer::later(self.0.close())
    }
}
