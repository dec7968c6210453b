//! The document store: etcd's semantics (revisions, transactions, watches, leases) on SQLite or in memory.
//!
//! It knows keys and bytes, not documents. A write goes through `plan`, which computes its events, is
//! recorded by a back end, and is published to the watchers by `feed`. Always holds: an answered write
//! is durable (on disk), and a watcher sees every revision once and in order. Rejected: a push queue per
//! watcher, which loses events or memory when a consumer is slow.

mod change;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod feed;
mod key_value;
mod lease;
mod memory;
mod plan;
mod sqlite;
mod store;
mod txn;
mod watch;

pub use change::{Action, Cause, Change, Changes, Retention};
pub use error::{Error, Result};
pub use key_value::{Got, KeyValue, Lease, LeaseId, Page, Range, Revision, Status};
pub use memory::MemoryStore;
pub use sqlite::{Execution, Options, SqliteStore, restore, verify};
pub use store::{Listing, Store};
pub use txn::{
    Check, Compare, MAX_KEY_BYTES, MAX_OPERATIONS, MAX_REQUEST_BYTES, Op, OpOutcome, Ordering, Txn,
    TxnOutcome, validate_key,
};
pub use watch::{Batch, Event, Feed, Watch};
