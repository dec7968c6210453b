//! The conformance suite on every back end of this crate.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dodai_core::task::Tasks;
use dodai_store::{Execution, MemoryStore, Options, SqliteStore, Store, conformance};

#[tokio::test(start_paused = true)]
async fn memory_conforms() {
    let tasks = Tasks::new();
    let open = || async { Arc::new(MemoryStore::new(&tasks)) as Arc<dyn Store> };
    conformance::all(open, Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn sqlite_conforms_inline() {
    sqlite_conforms(Execution::Inline, Duration::from_secs(5)).await;
}

#[tokio::test]
async fn sqlite_conforms_with_threads() {
    sqlite_conforms(Execution::Threads, Duration::from_millis(400)).await;
}

async fn sqlite_conforms(execution: Execution, ttl: Duration) {
    let folder = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let count = AtomicUsize::new(0);
    let open = || async {
        let name = format!("{}.db", count.fetch_add(1, Ordering::Relaxed));
        open_sqlite(&folder.path().join(name), execution, &tasks).await
    };
    conformance::all(open, ttl).await;
}

async fn open_sqlite(path: &Path, execution: Execution, tasks: &Tasks) -> Arc<dyn Store> {
    let options = Options { execution, ..Options::default() };
    Arc::new(SqliteStore::open(path, options, tasks).await.unwrap())
}
