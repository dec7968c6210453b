//! `lock.in-memory`: locks that hold within one process.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::answer::Answer;
use crate::fault::{Fault, Kind};
use crate::lock::{self, Error, Features, Outcome, Release, Store};

/// What it can do.
pub(super) const FEATURES: Features = Features { list: true };

struct Held {
    owner: String,
    until: Instant,
}

#[derive(Default)]
struct Locks {
    held: HashMap<String, Held>,
    // One counter for all resources: a resource's tokens grow, and nothing is kept of released locks.
    tokens: u64,
}

/// A lock store in memory.
pub struct Memory {
    locks: Mutex<Locks>,
    limit: u64,
}

impl Memory {
    /// A store of at most `limit` locks held at once.
    pub fn new(limit: u64) -> Memory {
        Memory { locks: Mutex::default(), limit }
    }

    /// Does `work` on the lock of `resource` if `owner` has it.
    fn as_owner(&self, resource: &str, owner: &str, work: impl FnOnce(&mut Locks)) -> Release {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        match locks.held.get(resource) {
            None => Release::DoesNotExist,
            Some(held) if held.until <= Instant::now() => {
                locks.held.remove(resource);
                Release::DoesNotExist
            }
            Some(held) if held.owner != owner => Release::BelongsToOthers,
            Some(_) => {
                work(&mut locks);
                Release::Success
            }
        }
    }
}

impl Store for Memory {
    fn features(&self) -> Features {
        FEATURES
    }

    fn try_lock<'a>(
        &'a self,
        resource: &'a str,
        owner: &'a str,
        expiry: Duration,
    ) -> Answer<'a, Result<Outcome, Error>> {
        let now = Instant::now();
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.held.get(resource).is_some_and(|held| held.until > now) {
            return Answer::ready(Ok(Outcome::Held));
        }
        if locks.held.len() as u64 >= self.limit {
            locks.held.retain(|_, held| held.until > now);
        }
        if locks.held.len() as u64 >= self.limit && !locks.held.contains_key(resource) {
            let what = format!(
                "`{resource}` was not locked: {} locks are held already; release some or raise maxItems",
                self.limit
            );
            return Answer::ready(Err(Fault::new(Kind::Full, what).into()));
        }
        locks.tokens += 1;
        let token = locks.tokens;
        locks.held.insert(resource.to_owned(), Held { owner: owner.to_owned(), until: now + expiry });
        Answer::ready(Ok(Outcome::Acquired { token }))
    }

    fn unlock<'a>(&'a self, resource: &'a str, owner: &'a str) -> Answer<'a, Result<Release, Error>> {
        Answer::ready(Ok(self.as_owner(resource, owner, |locks| {
            locks.held.remove(resource);
        })))
    }

    fn held<'a>(
        &'a self,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Result<Vec<lock::Held>, Error>> {
        let now = Instant::now();
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let later = locks.held.iter().filter(|(resource, held)| {
            held.until > now && after.is_none_or(|after| resource.as_str() > after)
        });
        let shown = |(resource, held): (&String, &Held)| lock::Held {
            resource: resource.clone(),
            owner: held.owner.clone(),
            left: held.until.duration_since(now),
        };
        let mut all: Vec<lock::Held> = later.map(shown).collect();
        all.sort_unstable_by(|a, b| a.resource.cmp(&b.resource));
        all.truncate(limit);
        Answer::ready(Ok(all))
    }

    fn renew<'a>(
        &'a self,
        resource: &'a str,
        owner: &'a str,
        expiry: Duration,
    ) -> Answer<'a, Result<Release, Error>> {
        Answer::ready(Ok(self.as_owner(resource, owner, |locks| {
            if let Some(held) = locks.held.get_mut(resource) {
                held.until = Instant::now() + expiry;
            }
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn locks_are_bounded_and_expired_ones_make_room() {
        let store = Memory::new(1);
        let second = Duration::from_secs(1);
        assert!(matches!(store.try_lock("a", "me", second).await, Ok(Outcome::Acquired { token: 1 })));
        assert_eq!(store.try_lock("b", "me", second).await.expect_err("full").code(), "full");
        tokio::time::advance(second).await;
        assert!(matches!(store.try_lock("b", "me", second).await, Ok(Outcome::Acquired { token: 2 })));
    }
}
