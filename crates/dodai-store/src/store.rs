//! The `Store` trait: etcd's semantics behind an object-safe border.
//!
//! Reads are linearizable: they see every write that was answered before they were asked. Dropping the
//! future of a read is free; dropping that of a write leaves open whether it happens (as a lost answer of
//! any server does), never half of it.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_core::future::BoxFuture;

use crate::change::{Cause, Change, Changes};
use crate::error::{Error, Result};
use crate::key_value::{Got, KeyValue, Lease, LeaseId, Page, Range, Revision, Status};
use crate::txn::{Check, Op, OpOutcome, Txn, TxnOutcome};
use crate::watch::Watch;

/// How often [`Store::list`] starts over when the revision it reads at is compacted under it.
const LIST_ATTEMPTS: usize = 3;

/// Everything under a prefix at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The keys, in order.
    pub items: Vec<KeyValue>,
    /// The revision. A watch from the one after it misses nothing.
    pub revision: Revision,
}

/// A document store. Shared as `Arc<dyn Store>`.
///
/// Cancel safety, for all methods: reads, `keep_alive` and `status` are cancel safe. Writes (`txn` and what
/// is built on it, `grant`, `revoke`, `compact`, `backup`) may still happen after their future was dropped.
pub trait Store: Send + Sync + 'static {
    /// Reads one key.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Got>>;

    /// Reads one page of the keys under a prefix.
    ///
    /// # Errors
    /// [`Error::Compacted`] and [`Error::FutureRevision`] for revisions that cannot be read.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page>>;

    /// Runs a transaction. It takes a revision only if it changes something.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome>>;

    /// Watches the keys under a prefix: all changes with a revision of `from` or later.
    fn watch(&self, prefix: &str, from: Revision) -> Watch;

    /// Grants a lease. Keys put with it vanish when it has not been kept alive for `ttl`.
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<Lease>>;

    /// Starts a lease's time to live anew and returns it.
    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<Duration>>;

    /// Ends a lease now; its keys vanish in one transaction.
    fn revoke(&self, lease: LeaseId, cause: Cause) -> BoxFuture<'_, Result<Revision>>;

    /// Drops the history below `revision`, which stays readable itself. Returns the revision that history
    /// now starts at; compacting at or below what is compacted already changes nothing.
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<Revision>>;

    /// Reads the change log.
    fn changes(&self, changes: Changes) -> BoxFuture<'_, Result<Vec<Change>>>;

    /// Reads the last changes of exactly this key, newest first, at most `limit`.
    fn changes_of<'a>(&'a self, key: &'a str, limit: usize) -> BoxFuture<'a, Result<Vec<Change>>>;

    /// What the store is and how far it got.
    fn status(&self) -> BoxFuture<'_, Result<Status>>;

    /// Writes a consistent copy of the store to a new file while it stays in use.
    fn backup<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<()>>;

    /// Finishes what is queued, then stops. Watches end with [`Error::Closed`], as does every later call.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Reads everything under a prefix, all pages at one revision.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing>> {
        Box::pin(async move {
            let mut attempts = 1;
            loop {
                match list_once(self, prefix).await {
                    Err(Error::Compacted { .. }) if attempts < LIST_ATTEMPTS => attempts += 1,
                    done => return done,
                }
            }
        })
    }

    /// Writes a key, whatever it was.
    fn put<'a>(&'a self, key: &'a str, value: Bytes, cause: Cause) -> BoxFuture<'a, Result<Revision>> {
        Box::pin(async move { Ok(self.txn(Txn::new(cause).put(key, value)).await?.revision) })
    }

    /// Writes a key if it was last written at `expected` ([`Revision::ZERO`]: if it does not exist).
    ///
    /// # Errors
    /// [`Error::Conflict`] if not.
    fn put_if<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expected: Revision,
        cause: Cause,
    ) -> BoxFuture<'a, Result<Revision>> {
        Box::pin(async move {
            let txn = guarded(key, expected, cause).put(key, value);
            Ok(unless_conflict(key, expected, self.txn(txn).await?)?.revision)
        })
    }

    /// Writes a key that does not exist yet.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it does.
    fn create<'a>(&'a self, key: &'a str, value: Bytes, cause: Cause) -> BoxFuture<'a, Result<Revision>> {
        self.put_if(key, value, Revision::ZERO, cause)
    }

    /// Removes a key and returns what it was.
    fn delete<'a>(&'a self, key: &'a str, cause: Cause) -> BoxFuture<'a, Result<Option<KeyValue>>> {
        Box::pin(async move {
            let outcome = self.txn(Txn::new(cause).delete(key).with_previous()).await?;
            Ok(removed(outcome))
        })
    }

    /// Removes a key if it was last written at `expected`.
    ///
    /// # Errors
    /// [`Error::Conflict`] if not.
    fn delete_if<'a>(
        &'a self,
        key: &'a str,
        expected: Revision,
        cause: Cause,
    ) -> BoxFuture<'a, Result<Revision>> {
        Box::pin(async move {
            let txn = guarded(key, expected, cause).delete(key);
            Ok(unless_conflict(key, expected, self.txn(txn).await?)?.revision)
        })
    }
}

async fn list_once<S: Store + ?Sized>(store: &S, prefix: &str) -> Result<Listing> {
    let mut range = Range::prefix(prefix);
    let mut items = Vec::new();
    loop {
        let mut page = store.range(range.clone()).await?;
        items.append(&mut page.items);
        match range.following(&page) {
            Some(following) => range = following,
            None => return Ok(Listing { items, revision: page.revision }),
        }
    }
}

fn guarded(key: &str, expected: Revision, cause: Cause) -> Txn {
    Txn::new(cause)
        .when(key, Check::ModRevision(crate::txn::Ordering::Equal, expected))
        .otherwise(Op::Get { key: key.to_owned() })
}

fn unless_conflict(key: &str, expected: Revision, mut outcome: TxnOutcome) -> Result<TxnOutcome> {
    if outcome.held {
        return Ok(outcome);
    }
    let found = match outcome.results.pop() {
        Some(OpOutcome::Got(found)) => found.map(|kv| kv.mod_revision),
        Some(OpOutcome::Put { .. } | OpOutcome::Deleted { .. }) | None => None,
    };
    let expected = (expected != Revision::ZERO).then_some(expected);
    Err(Error::Conflict { key: key.to_owned(), expected, found })
}

fn removed(mut outcome: TxnOutcome) -> Option<KeyValue> {
    match outcome.results.pop() {
        Some(OpOutcome::Deleted { mut previous, .. }) => previous.pop(),
        Some(OpOutcome::Put { .. } | OpOutcome::Got(_)) | None => None,
    }
}
