//! Locks: one owner at a time, for a limited time.
//!
//! A grant carries a fencing token that grows with every grant of the resource, so that a store behind the lock
//! can refuse a former owner that has not noticed that its time is over.

use std::time::Duration;

pub use dodai_core::features::Lock as Features;

use crate::answer::Answer;
use crate::fault::{Fault, Kind};

/// What became of a wish to lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The lock is the asker's.
    Acquired {
        /// Greater than that of every grant before.
        token: u64,
    },
    /// Somebody has it; also when the asker itself does.
    Held,
}

/// What became of giving a lock back, or of prolonging it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Done.
    Success,
    /// Nobody has it: it was never taken, or its time is over.
    DoesNotExist,
    /// Another owner has it.
    BelongsToOthers,
}

/// Why a lock request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Error {
    /// A stable word for this error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Fault(fault) => fault.kind().as_str(),
        }
    }
}

/// A lock that somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What is locked, as the driver keeps it.
    pub resource: String,
    /// By whom.
    pub owner: String,
    /// For how long yet.
    pub left: Duration,
}

/// A lock store.
pub trait Store: Send + Sync {
    /// What it can do.
    fn features(&self) -> Features;

    /// Tries to become the owner of `resource` for `expiry`; does not wait.
    fn try_lock<'a>(
        &'a self,
        resource: &'a str,
        owner: &'a str,
        expiry: Duration,
    ) -> Answer<'a, Result<Outcome, Error>>;

    /// Gives the lock back.
    fn unlock<'a>(&'a self, resource: &'a str, owner: &'a str) -> Answer<'a, Result<Release, Error>>;

    /// Locks that are held, by resource: at most `limit` of those after `after`.
    fn held<'a>(&'a self, _after: Option<&'a str>, _limit: usize) -> Answer<'a, Result<Vec<Held>, Error>> {
        let what = "the lock store cannot list its locks";
        Answer::ready(Err(Fault::new(Kind::Unsupported, what).into()))
    }

    /// Keeps the lock for `expiry` from now on.
    fn renew<'a>(
        &'a self,
        resource: &'a str,
        owner: &'a str,
        expiry: Duration,
    ) -> Answer<'a, Result<Release, Error>>;
}
