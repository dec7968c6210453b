//! What can go wrong with the store. Display names the operation and the object, and a remedy where a
//! person can mend it. Errors are `Clone` because one failed commit answers a whole batch of writers.

use std::path::PathBuf;

use crate::key_value::{LeaseId, Revision};

/// The result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed store operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A write that was bound to one state of a key found another.
    #[error("{key} has changed: expected it {}, found it {}; read it again and retry", state(*expected), state(*found))]
    Conflict {
        /// The key.
        key: String,
        /// The modification revision that the writer expected; `None` for "does not exist".
        expected: Option<Revision>,
        /// The modification revision found; `None` when the key does not exist.
        found: Option<Revision>,
    },
    /// The history asked for has been compacted.
    #[error(
        "revision {requested} has been compacted (history starts at {compacted}); list again and go on from there"
    )]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can still be read.
        compacted: Revision,
    },
    /// A revision that does not exist yet.
    #[error("revision {requested} does not exist yet; the store is at {current}")]
    FutureRevision {
        /// What was asked for.
        requested: Revision,
        /// The store's revision.
        current: Revision,
    },
    /// The lease has expired, was revoked, or never existed.
    #[error("lease {lease} does not exist (expired or revoked); grant a new one")]
    LeaseNotFound {
        /// The lease.
        lease: LeaseId,
    },
    /// A lease needs a time to live.
    #[error("a lease of {ttl_ms} ms cannot be granted; ask for 1 ms to {max_ms} ms")]
    InvalidTtl {
        /// What was asked for.
        ttl_ms: u128,
        /// The longest time to live.
        max_ms: u128,
    },
    /// The request is larger than the store takes.
    #[error("the request has {size} bytes, the limit is {limit}; split it or store the payload elsewhere")]
    RequestTooLarge {
        /// The size of the request in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The transaction has more compares or operations than the store takes.
    #[error("the transaction has {count} operations, the limit is {limit}; split it")]
    TooManyOperations {
        /// The larger of the number of compares and operations in one branch.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// One branch of a transaction touches a key twice.
    #[error("the transaction writes {key} twice; a transaction may put a key once, and not also delete it")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// The key or prefix cannot be stored.
    #[error("{key:?} is no usable key: {reason}")]
    InvalidKey {
        /// The key, shortened.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no space left for a write; reads go on.
    #[error("{operation}: no space left for {}; free space on the disk, or raise the store's size limit, or compact it; reads go on, and writing resumes by itself", path.display())]
    Full {
        /// What was attempted.
        operation: &'static str,
        /// The store's file.
        path: PathBuf,
    },
    /// Reading or writing the file failed.
    #[error("{operation} {}: {detail}", path.display())]
    Storage {
        /// What was attempted.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The file is locked by another program for longer than the store waits.
    #[error("{operation}: {} is locked by another program; close whatever else has it open", path.display())]
    Busy {
        /// What was attempted.
        operation: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error("{} is damaged ({detail}); stop the server and restore it from a backup (`dodai store restore`)", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The file is a healthy SQLite database, but not one of ours.
    #[error("{} is not a dodai store ({detail}); choose another path", path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        detail: String,
    },
    /// Another process serves this store.
    #[error("the store {} is in use by {}; stop it or choose another data directory", path.display(), owner(*pid))]
    InUse {
        /// The store's file.
        path: PathBuf,
        /// The process that holds it, when it could be read.
        pid: Option<u32>,
    },
    /// The store was written by a newer version.
    #[error("the store {} has schema {found}, this program knows up to {known}; run the newer version, or restore a backup made before the upgrade", path.display())]
    NewerSchema {
        /// The store's file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The target of a backup exists already.
    #[error("{} exists already; choose another name or remove it first", path.display())]
    TargetExists {
        /// The file.
        path: PathBuf,
    },
    /// This back end cannot do that.
    #[error("the {backend} store cannot {operation}")]
    Unsupported {
        /// What was asked for.
        operation: &'static str,
        /// The back end.
        backend: &'static str,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// Whether the same request may succeed later without anyone changing it.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Error::Full { .. } | Error::Storage { .. } | Error::Busy { .. })
    }
}

fn state(revision: Option<Revision>) -> String {
    match revision {
        Some(revision) => format!("at revision {revision}"),
        None => "absent".to_owned(),
    }
}

fn owner(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}
