//! Reads: each in a transaction of its own, on one of a few connections that never wait for the writer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::db::Db;
use crate::error::{Error, Result};

/// The most connections for reading, and so the most reads at one time. Further ones wait.
const MAX_READERS: u32 = 4;

/// The connections for reading, opened when needed.
pub(crate) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Db>>>,
    permits: Arc<Semaphore>,
    inline: bool,
}

impl Readers {
    pub(crate) fn new(path: PathBuf, inline: bool) -> Readers {
        let permits = Arc::new(Semaphore::new(MAX_READERS as usize));
        Readers { path, idle: Arc::default(), permits, inline }
    }

    /// Runs a read on a thread for blocking work. Cancel safe: a read that has begun ends unheard.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Db) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let (idle, path) = (self.idle.clone(), self.path.clone());
        let work = move || {
            let found = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let db = found.map_or_else(|| Db::open_reader(&path), Ok)?;
            let result = in_transaction(&db, read);
            if db.conn.is_autocommit() {
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(db);
            }
            drop(permit);
            result
        };
        if self.inline {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down.
                Err(_) => Err(Error::Closed),
            },
        }
    }

    /// Waits for running reads, then closes all connections. Later reads fail with `Closed`.
    pub(crate) async fn close(&self) {
        let all = self.permits.acquire_many(MAX_READERS).await;
        self.permits.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        drop(all);
    }
}

fn in_transaction<T>(db: &Db, read: impl FnOnce(&Db) -> Result<T>) -> Result<T> {
    db.conn.execute_batch("BEGIN").map_err(db.explain("begin a read"))?;
    let result = read(db);
    // Nothing to keep. If it fails the connection is still in the transaction, and is not used again.
    if let Err(error) = db.conn.execute_batch("ROLLBACK") {
        tracing::warn!(%error, "ending a read");
    }
    result
}
