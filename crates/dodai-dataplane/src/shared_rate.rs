//! Rate limits that all bases keep together: each has its share of the rate, which control, or a Redis between the bases,
//! sets by how much is asked of each.
//!
//! The share scales a local bucket, so a call never waits for another base. A base that hears nothing new keeps the
//! share that it has. One bucket stands for a policy, whichever of its rules a call comes by.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dodai_core::snapshot::{RateKey, RateStore, Share};

use crate::filter::Seen;
use crate::jwt::Claims;
use crate::rate::{RateLimit, WHOLE};

/// A filter by a limit that is shared.
#[derive(Debug)]
pub struct SharedRate {
    spec: Spec,
    /// Found when the table is put together: filters of one policy share it.
    limit: OnceLock<Arc<Limit>>,
}

/// What a limit is.
#[derive(Clone, Debug, PartialEq)]
struct Spec {
    name: String,
    interval: Duration,
    burst: u32,
    key: Vec<RateKey>,
    store: Option<RateStore>,
}

/// One limit on this base.
#[derive(Debug)]
pub struct Limit {
    spec: Spec,
    rate: RateLimit,
    /// Of 10,000 calls that all bases may take, how many this one may.
    share: AtomicU32,
    asked: AtomicU64,
}

impl Limit {
    /// How many calls wanted to pass so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }

    /// By what the bases share it; `None` for control.
    pub fn store(&self) -> Option<&RateStore> {
        self.spec.store.as_ref()
    }

    /// Sets how many of 10,000 calls that all bases may take this one may.
    pub fn set_share(&self, per_ten_thousand: u32) {
        self.share.store(per_ten_thousand.clamp(1, WHOLE), Relaxed);
    }

    /// Of 10,000 calls that all bases may take, how many this one may.
    pub fn share(&self) -> u32 {
        self.share.load(Relaxed)
    }
}

/// The limits of one table by name.
pub type Limits = BTreeMap<String, Arc<Limit>>;

impl SharedRate {
    /// A limit called `name` of one call per `interval` over time and `burst` at once, all bases together.
    pub fn new(
        name: &str,
        interval: Duration,
        burst: u32,
        key: &[RateKey],
        store: Option<&RateStore>,
    ) -> SharedRate {
        let spec = Spec { name: name.to_owned(), interval, burst, key: key.to_vec(), store: store.cloned() };
        SharedRate { spec, limit: OnceLock::new() }
    }

    /// Joins the others of its name: those of `limits`, else those that the table before had.
    pub fn join(&self, limits: &mut Limits, before: &Limits) {
        let Spec { name, interval, burst, key, .. } = &self.spec;
        let same = |known: &&Arc<Limit>| known.spec == self.spec;
        let known = self.limit.get().or(limits.get(name).filter(same)).or(before.get(name).filter(same));
        let limit = known.cloned().unwrap_or_else(|| {
            let rate = RateLimit::new(*interval, *burst, key);
            let share = before.get(name).map_or(WHOLE, |before| before.share());
            let (share, asked) = (AtomicU32::new(share), AtomicU64::new(0));
            Arc::new(Limit { spec: self.spec.clone(), rate, share, asked })
        });
        limits.insert(name.clone(), self.limit.get_or_init(|| limit).clone());
    }

    /// Takes a call.
    ///
    /// # Errors
    /// It does not fit: in how long one would.
    pub fn take(&self, seen: &Seen<'_>, claims: Option<&Claims>) -> Result<(), Duration> {
        let Some(limit) = self.limit.get() else { return Ok(()) };
        limit.asked.fetch_add(1, Relaxed);
        limit.rate.take_share(seen, claims, limit.share())
    }
}

/// Sets the shares that control gives out; limits that it says nothing of keep theirs.
pub fn set<'a>(limits: &Limits, shares: impl Iterator<Item = &'a Share>) {
    for share in shares {
        if let Some(limit) = limits.get(&share.limit) {
            limit.set_share(share.per_ten_thousand.into());
        }
    }
}
