//! Locks as apps take and release them.

use std::sync::Arc;
use std::time::Duration;

use dodai_capability::lock::{Outcome, Release, Store};

use super::Api;
use super::refusal::Refusal;
use crate::components::{Block, Live};

/// What is to be locked, and by whom.
pub(super) struct Wish<'a> {
    pub resource: &'a str,
    pub owner: &'a str,
}

/// What is to be locked, as the store calls it.
struct Resource {
    _live: Arc<Live>,
    locks: Arc<dyn Store>,
    key: String,
}

fn wrong(what: &str, store: &str) -> Refusal {
    Refusal::bad_request("ERR_MALFORMED_REQUEST", format!("{what} in lock store {store}"))
}

impl Api {
    fn lock_of(&self, store: &str, wish: &Wish<'_>, code: &'static str) -> Result<Resource, Refusal> {
        let (live, locks) = self.component(Block::Lock, store, |all| all.lock.clone())?;
        if wish.resource.is_empty() {
            return Err(wrong("ResourceId is empty", store));
        }
        if wish.owner.is_empty() {
            return Err(wrong("LockOwner is empty", store));
        }
        let prefix = live.prefix(&self.app).map_err(|error| Refusal::internal(code, error.to_string()))?;
        let words =
            if code == "ERR_TRY_LOCK" { "failed to try acquiring lock" } else { "failed to release lock" };
        let key = prefix
            .apply(wish.resource)
            .map_err(|illegal| Refusal::internal(code, format!("{words}: {illegal}")))?;
        Ok(Resource { _live: live, locks, key: format!("lock||{key}") })
    }

    /// Whether the lock was taken.
    pub(super) async fn try_lock(
        &self,
        store: &str,
        wish: &Wish<'_>,
        expiry_in_seconds: i32,
    ) -> Result<bool, Refusal> {
        let resource = self.lock_of(store, wish, "ERR_TRY_LOCK")?;
        let seconds = u64::try_from(expiry_in_seconds).ok().filter(|seconds| *seconds > 0);
        let seconds = seconds.ok_or_else(|| wrong("ExpiryInSeconds is not positive", store))?;
        let outcome = resource.locks.try_lock(&resource.key, wish.owner, Duration::from_secs(seconds)).await;
        let outcome = outcome.map_err(|error| {
            Refusal::internal("ERR_TRY_LOCK", format!("failed to try acquiring lock: {error}"))
        })?;
        Ok(matches!(outcome, Outcome::Acquired { .. }))
    }

    pub(super) async fn unlock(&self, store: &str, wish: &Wish<'_>) -> Result<Release, Refusal> {
        let resource = self.lock_of(store, wish, "ERR_UNLOCK")?;
        let release = resource.locks.unlock(&resource.key, wish.owner).await;
        release.map_err(|error| Refusal::internal("ERR_UNLOCK", format!("failed to release lock: {error}")))
    }
}
