//! Rate limits that all bases keep together: each has its share of the rate, which control, or a Redis between the bases,
//! sets by how much is asked of each.
//!
//! Of a limit with a key, the keys that most calls come by have shares of their own; every base has an even part of others.
//! The share scales a local bucket, so a call never waits for another base. A base that hears nothing new keeps the
//! share that it has. One limit of a policy is one, whichever of its rules a call comes by.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dodai_core::snapshot::{BUSIEST_KEYS, RateLimit, RateStore, Share};

use crate::filter::Seen;
use crate::jwt::Claims;
use crate::rate::{self, Taken, WHOLE};

/// A limit that is shared, where it is asked.
#[derive(Debug)]
pub struct SharedRate {
    spec: RateLimit,
    name: String,
    /// Found when the table is put together: filters of one policy share it.
    limit: OnceLock<Arc<Limit>>,
}

/// One limit on this base.
#[derive(Debug)]
pub struct Limit {
    rate: rate::RateLimit,
    /// Of 10,000 calls that all bases may take, how many this one may.
    share: AtomicU32,
    asked: AtomicU64,
}

impl Limit {
    fn new(spec: &RateLimit, share: u32) -> Limit {
        let (share, asked) = (AtomicU32::new(share), AtomicU64::new(0));
        Limit { rate: rate::RateLimit::new(spec), share, asked }
    }

    /// How many calls wanted to pass so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }

    /// By what the bases share it; `None` for control.
    pub fn store(&self) -> Option<&RateStore> {
        self.rate.spec().shared.as_ref()?.store.as_ref()
    }

    /// Takes a call.
    ///
    /// # Errors
    /// It does not fit: in how long one would.
    pub fn take(&self, seen: &Seen<'_>, claims: Option<&Claims>) -> Result<Taken, Duration> {
        self.asked.fetch_add(1, Relaxed);
        self.rate.take(seen, claims, self.share())
    }

    /// Takes back that a call was taken.
    pub fn give_back(&self, taken: &Taken) {
        self.rate.give_back(taken);
    }

    /// Whether calls are counted by a key.
    pub fn is_keyed(&self) -> bool {
        self.rate.is_keyed()
    }

    /// How many calls wanted to pass since the last look by each of the keys that most came by, by mark.
    pub fn busiest(&self) -> BTreeMap<u64, u64> {
        self.rate.busiest(BUSIEST_KEYS)
    }

    /// Sets the shares of keys by their marks; others have that of the limit.
    pub fn set_shares_of_keys(&self, shares: impl Iterator<Item = (u64, u16)>) {
        self.rate.set_shares(shares.map(|(mark, share)| (mark, share.into())));
    }

    /// The shares of keys by their marks.
    pub fn shares_of_keys(&self) -> BTreeMap<u64, u32> {
        self.rate.shares()
    }

    /// Sets how many of 10,000 calls that all bases may take this one may, of each key that has no share of its own.
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
    /// A limit that goes by `name` on all bases.
    pub fn new(spec: &RateLimit, name: &str) -> SharedRate {
        SharedRate { spec: spec.clone(), name: name.to_owned(), limit: OnceLock::new() }
    }

    /// Joins the others of its name: those of `limits`, else those that the table before had.
    pub fn join(&self, limits: &mut Limits, before: &Limits) {
        let same = |known: &&Arc<Limit>| *known.rate.spec() == self.spec;
        let known = limits.get(&self.name).filter(same).or(before.get(&self.name).filter(same));
        let share = || before.get(&self.name).map_or(WHOLE, |before| before.share());
        let limit = || known.cloned().unwrap_or_else(|| Arc::new(Limit::new(&self.spec, share())));
        limits.insert(self.name.clone(), self.limit.get_or_init(limit).clone());
    }

    /// The limit on this base.
    pub fn limit(&self) -> &Limit {
        self.limit.get_or_init(|| Arc::new(Limit::new(&self.spec, WHOLE)))
    }
}

/// Sets the shares that control gives out; limits that it says nothing of keep theirs.
pub fn set<'a>(limits: &Limits, shares: impl Iterator<Item = &'a Share>) {
    for share in shares {
        if let Some(limit) = limits.get(&share.limit) {
            limit.set_share(share.per_ten_thousand.into());
            limit.set_shares_of_keys(share.keys.iter().map(|(mark, share)| (*mark, *share)));
        }
    }
}
