//! The store on SQLite: one file, one writer with group commit, a few readers.
//!
//! An answered write survives `kill -9` and loss of power. A write that fails says so and leaves nothing
//! behind; reads go on meanwhile, and writing resumes when its cause is gone.

mod db;
mod file;
mod lock;
mod readers;
mod rows;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use dodai_core::task::{Kind, Tasks};
use futures_core::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use self::db::Db;
use self::lock::Lock;
use self::readers::Readers;
use self::writer::{Job, Write, Writer};
use crate::change::{Cause, Change, Changes, Retention};
use crate::error::{Error, Result};
use crate::feed::{History, Hub, Stretch};
use crate::key_value::{Got, Lease, LeaseId, Page, Range, Revision, Status};
use crate::lease::{self, EndLease, Terms};
use crate::plan::{self, View};
use crate::store::Store;
use crate::txn::{Txn, TxnOutcome};
use crate::watch::Watch;

pub use self::file::{restore, verify};

/// How many requests may wait for the writer; further ones wait to be queued.
const QUEUE: usize = 1024;

/// Where the work is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Execution {
    /// On a thread for writes and on tokio's threads for reads. What a server wants.
    #[default]
    Threads,
    /// Within the caller's future, which it blocks. For tests under paused time, where waiting for a
    /// thread would let the clock run ahead.
    Inline,
}

/// How a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How much history and change log is kept.
    pub retention: Retention,
    /// The most the file may grow to, in bytes, its log not counted; `None` for what the disk holds.
    pub max_bytes: Option<u64>,
    /// Where the work is done.
    pub execution: Execution,
}

impl Default for Options {
    fn default() -> Options {
        Options { retention: Retention::DISK, max_bytes: None, execution: Execution::Threads }
    }
}

/// A store on SQLite. Cheap to clone; clones share one store. The last one to go stops it, as
/// [`Store::close`] does, and then blocks for the commit that is under way.
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    hub: Arc<Hub>,
    terms: Arc<Terms>,
    readers: Readers,
    lane: Mutex<Lane>,
    last_lease: AtomicU64,
    /// Held as long as anything here may touch the file.
    lock: Mutex<Option<Lock>>,
}

/// The way to the writer.
enum Lane {
    Thread { queue: mpsc::Sender<Job>, thread: JoinHandle<()> },
    Inline(Box<Writer>),
    Closed,
}

impl SqliteStore {
    /// Opens the store at `path`, or creates it. Its folder has to exist. `tasks` carries the loop that
    /// ends leases.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::Corrupt`], [`Error::NewerSchema`], [`Error::NotAStore`], and whatever the
    /// file system says.
    pub async fn open(path: impl Into<PathBuf>, options: Options, tasks: &Tasks) -> Result<SqliteStore> {
        let path = path.into();
        let inner = match options.execution {
            Execution::Inline => Inner::open(path, options),
            Execution::Threads => tokio::task::spawn_blocking(move || Inner::open(path, options))
                .await
                .unwrap_or_else(|error| {
                    error
                        .try_into_panic()
                        .map_or(Err(Error::Closed), |panic| std::panic::resume_unwind(panic))
                }),
        }?;
        let inner = Arc::new(inner);
        let terms = inner.terms.clone();
        tasks.spawn(Kind::Loop, lease::run(terms, Arc::downgrade(&inner), tasks.clone()));
        Ok(SqliteStore(inner))
    }
}

impl Inner {
    fn open(path: PathBuf, options: Options) -> Result<Inner> {
        let lock = Lock::acquire(&path)?;
        let db = Db::open_writer(&path, options.max_bytes)?;
        let hub = Arc::new(Hub::new(db.revision()?, db.compacted()?, options.retention.recent));
        let terms = Arc::new(Terms::default());
        for (id, ttl, rest) in db.leases()? {
            terms.resume(id, ttl, rest);
        }
        let last_lease = AtomicU64::new(db.meta("last_lease")?);
        let writer = Writer::new(db, hub.clone(), terms.clone(), options.retention)?;
        let inline = options.execution == Execution::Inline;
        let lane = if inline { Lane::Inline(Box::new(writer)) } else { Lane::thread(writer, &path)? };
        let readers = Readers::new(path, inline);
        Ok(Inner { hub, terms, readers, lane: Mutex::new(lane), last_lease, lock: Mutex::new(Some(lock)) })
    }

    fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has something written. Once queued it happens even if the future is dropped.
    async fn write(&self, write: Write) -> Result<TxnOutcome> {
        let queue = match &mut *self.lane() {
            Lane::Closed => return Err(Error::Closed),
            Lane::Inline(writer) => return writer.run_now(write),
            Lane::Thread { queue, .. } => queue.clone(),
        };
        let (answer, answered) = oneshot::channel();
        queue.send(Job { write, answer }).await.map_err(|_| Error::Closed)?;
        drop(queue);
        answered.await.map_err(|_| Error::Closed)?
    }

    /// Lets nobody queue anything any more; what is to be waited for.
    fn close_lane(&self) -> Option<JoinHandle<()>> {
        match std::mem::replace(&mut *self.lane(), Lane::Closed) {
            Lane::Thread { thread, .. } => Some(thread),
            Lane::Inline(writer) => {
                writer.finish();
                None
            }
            Lane::Closed => None,
        }
    }

    /// The gauge of the queue.
    fn queued_writes(&self) -> usize {
        match &*self.lane() {
            Lane::Thread { queue, .. } => queue.max_capacity() - queue.capacity(),
            Lane::Inline(_) | Lane::Closed => 0,
        }
    }

    fn release(&self) {
        self.terms.close();
        self.hub.close();
    }
}

impl Lane {
    fn thread(writer: Writer, path: &Path) -> Result<Lane> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("dodai-store".to_owned())
            .spawn(move || writer.serve(jobs))
            .map_err(|error| Error::Storage {
                operation: "start the writer of",
                path: path.to_owned(),
                detail: error.to_string(),
            })?;
        Ok(Lane::Thread { queue, thread })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(thread) = self.close_lane() {
            report(thread.join());
        }
        self.release();
    }
}

/// A panic of the writer is a bug that must not pass unnoticed, but nor may it take down who closes.
fn report(joined: std::thread::Result<()>) {
    if joined.is_err() {
        tracing::error!("the store's writer panicked; answered writes are safe, others failed");
    }
}

/// The history as watchers hold it: a watch does not keep the store open.
struct Past(Weak<Inner>);

impl History for Past {
    fn stretch<'a>(
        &'a self,
        prefix: &'a str,
        from: Revision,
        limit: usize,
    ) -> BoxFuture<'a, Result<Stretch>> {
        let prefix = prefix.to_owned();
        Box::pin(async move {
            let inner = self.0.upgrade().ok_or(Error::Closed)?;
            inner.readers.read(move |db| db.stretch(&prefix, from, limit)).await
        })
    }
}

impl EndLease for Inner {
    fn expire(&self, id: LeaseId) -> BoxFuture<'_, Result<()>> {
        let cause = plan::expiry_cause(id);
        Box::pin(async move { self.write(Write::EndLease { id, cause }).await.map(drop) })
    }
}

impl Store for SqliteStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Got>> {
        let key = key.to_owned();
        Box::pin(self.0.readers.read(move |db| Ok(Got { kv: db.current(&key)?, revision: db.revision()? })))
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page>> {
        Box::pin(self.0.readers.read(move |db| db.range(&range)))
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome>> {
        Box::pin(async move {
            txn.validate()?;
            self.0.write(Write::Txn(txn)).await
        })
    }

    fn watch(&self, prefix: &str, from: Revision) -> Watch {
        self.0.hub.watch(Arc::new(Past(Arc::downgrade(&self.0))), prefix, from)
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<Lease>> {
        Box::pin(async move {
            lease::check_ttl(ttl)?;
            let id = LeaseId(self.0.last_lease.fetch_add(1, Ordering::Relaxed) + 1);
            self.0.write(Write::Grant { id, ttl }).await?;
            Ok(Lease { id, ttl })
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<Duration>> {
        Box::pin(async move {
            let renewal = self.0.terms.renew(lease)?;
            if renewal.was_shortened
                && let Err(error) = self.0.write(Write::Renew { id: lease }).await
            {
                self.0.terms.still_shortened(lease);
                return Err(error);
            }
            Ok(renewal.ttl)
        })
    }

    fn revoke(&self, lease: LeaseId, cause: Cause) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move { Ok(self.0.write(Write::EndLease { id: lease, cause }).await?.revision) })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move { Ok(self.0.write(Write::Compact(revision)).await?.revision) })
    }

    fn changes(&self, changes: Changes) -> BoxFuture<'_, Result<Vec<Change>>> {
        Box::pin(self.0.readers.read(move |db| db.changes(&changes)))
    }

    fn changes_of<'a>(&'a self, key: &'a str, limit: usize) -> BoxFuture<'a, Result<Vec<Change>>> {
        let key = key.to_owned();
        Box::pin(self.0.readers.read(move |db| db.changes_of(&key, limit)))
    }

    fn status(&self) -> BoxFuture<'_, Result<Status>> {
        Box::pin(async move {
            let status = self.0.readers.read(Db::status).await?;
            Ok(Status { queued_writes: self.0.queued_writes(), ..status })
        })
    }

    fn backup<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<()>> {
        let path = path.to_owned();
        Box::pin(self.0.readers.read(move |db| file::backup(db, &path)))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(thread) = self.0.close_lane() {
                let joined = tokio::task::spawn_blocking(move || thread.join()).await;
                report(joined.unwrap_or(Ok(())));
            }
            self.0.release();
            self.0.readers.close().await;
            self.0.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        })
    }
}
