//! What only a store in a file can suffer: restarts, two owners, damage, limits, backup and restore.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dodai_core::task::{Kind, Tasks};
use dodai_store::{
    Cause, Changes, Error, Event, Execution, Op, Options, Range, Retention, Revision, SqliteStore, Store,
    Txn, restore, verify,
};
use rusqlite::Connection;
use tempfile::TempDir;

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    (folder, path)
}

async fn try_open(path: &Path, options: Options) -> Result<SqliteStore, Error> {
    SqliteStore::open(path, options, &Tasks::new()).await
}

async fn open(path: &Path) -> SqliteStore {
    try_open(path, Options::default()).await.unwrap()
}

fn inline() -> Options {
    Options { execution: Execution::Inline, ..Options::default() }
}

fn cause() -> Cause {
    Cause::new("test", "")
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn value(store: &SqliteStore, key: &str) -> Option<Bytes> {
    store.get(key).await.unwrap().kv.map(|kv| kv.value)
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let (_folder, path) = place();
    let store = open(&path).await;
    let first = store.put("/a", text("1"), cause()).await.unwrap();
    store.put("/a", text("2"), cause()).await.unwrap();
    store.delete("/a", cause()).await.unwrap();
    let last = store.put("/b", text("1"), cause()).await.unwrap();
    let before = store.status().await.unwrap();
    store.close().await;
    drop(store);
    let store = open(&path).await;
    assert_eq!(store.status().await.unwrap().revision, before.revision);
    let past = store.range(Range::prefix("/a").at(first)).await.unwrap();
    assert_eq!(past.items[0].value, text("1"));
    let mut watch = store.watch("/", first);
    let batch = watch.next().await.unwrap();
    assert_eq!((batch.events.len(), batch.revision), (4, last));
    let log = Changes { prefix: String::new(), after: Revision::ZERO, limit: 10 };
    assert_eq!(store.changes(log).await.unwrap().len(), 4);
    assert_eq!(store.put("/c", text("1"), cause()).await.unwrap(), last.next());
}

/// Dropping is as good as closing, and what was queued happens although nobody waits for it.
#[tokio::test]
async fn dropping_the_store_closes_it() {
    let (_folder, path) = place();
    let store = open(&path).await;
    let mut watch = store.watch("/", Revision::FIRST);
    watch.next().await.unwrap();
    {
        let put = store.put("/a", text("1"), cause());
        tokio::select! {
            biased;
            _ = put => {}
            () = std::future::ready(()) => {}
        }
    }
    drop(store);
    loop {
        match watch.next().await {
            Ok(_) => {}
            Err(error) => break assert_eq!(error, Error::Closed),
        }
    }
    let store = open(&path).await;
    assert_eq!(value(&store, "/a").await, Some(text("1")));
}

#[tokio::test]
async fn a_second_owner_is_told_who_the_first_is() {
    let (_folder, path) = place();
    let first = open(&path).await;
    let error = try_open(&path, Options::default()).await.err().unwrap();
    assert_eq!(error, Error::InUse { path: path.clone(), pid: Some(std::process::id()) });
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    first.close().await;
    open(&path).await;
}

#[tokio::test(start_paused = true)]
async fn leases_go_on_with_what_remained() {
    let (_folder, path) = place();
    let store = try_open(&path, inline()).await.unwrap();
    let short = store.grant(Duration::from_secs(60)).await.unwrap();
    let renewed = store.grant(Duration::from_secs(60)).await.unwrap();
    let ending = store.grant(Duration::from_secs(51)).await.unwrap();
    for (key, lease) in [("/short", short), ("/renewed", renewed), ("/ending", ending)] {
        let put = Op::Put { key: key.to_owned(), value: text("x"), lease: Some(lease.id) };
        store.txn(Txn::new(cause()).then(put)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(50)).await;
    store.close().await;
    drop(store);
    let store = try_open(&path, inline()).await.unwrap();
    store.keep_alive(renewed.id).await.unwrap();
    let opened = tokio::time::Instant::now();
    let mut watch = store.watch("/", store.status().await.unwrap().revision.next());
    let mut gone = Vec::new();
    while gone.len() < 3 {
        for event in watch.next().await.unwrap().events {
            gone.push((event.key().to_owned(), opened.elapsed().as_secs()));
        }
    }
    // Who had a second left gets some more: its holder could not speak to us meanwhile.
    let expect = [("/ending", 5), ("/short", 10), ("/renewed", 60)];
    assert_eq!(gone, expect.map(|(key, seconds)| (key.to_owned(), seconds)));
    assert_ne!(store.grant(Duration::from_secs(1)).await.unwrap().id, renewed.id);
}

#[tokio::test]
async fn newer_foreign_and_damaged_files_are_refused() {
    let (_folder, path) = place();
    open(&path).await.close().await;
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = try_open(&path, Options::default()).await.err().unwrap();
    assert_eq!(error, Error::NewerSchema { path: path.clone(), found: 99, known: 1 });
    assert_eq!(verify(&path).unwrap_err(), error);

    let (_folder, path) = place();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let error = try_open(&path, Options::default()).await.err().unwrap();
    assert!(matches!(error, Error::NotAStore { .. }), "{error}");
    let tables: i64 = Connection::open(&path)
        .unwrap()
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .unwrap();
    assert_eq!(tables, 1, "it was left alone");

    let (_folder, path) = place();
    fs::write(&path, "no database, ".repeat(1000)).unwrap();
    let error = try_open(&path, Options::default()).await.err().unwrap();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("restore"), "the remedy is told: {error}");

    let (folder, _) = place();
    let error = try_open(&folder.path().join("missing/store.db"), Options::default()).await.err().unwrap();
    assert!(matches!(error, Error::Storage { .. }), "{error}");
}

#[tokio::test]
async fn damage_in_the_middle_is_found_on_opening() {
    let (_folder, path) = place();
    let store = open(&path).await;
    for n in 0..200 {
        store.put(&format!("/k/{n}"), Bytes::from(vec![7; 500]), cause()).await.unwrap();
    }
    store.close().await;
    drop(store);
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(5 * 4096)).unwrap();
    file.write_all(&[0xA5; 4096 * 4]).unwrap();
    drop(file);
    let error = try_open(&path, Options::default()).await.err().unwrap();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    let error = verify(&path).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

/// Damage that SQLite cannot see.
#[tokio::test]
async fn verify_knows_the_stores_own_rules() {
    let (_folder, path) = place();
    let store = open(&path).await;
    store.put("/a", text("1"), cause()).await.unwrap();
    store.put("/b", text("1"), cause()).await.unwrap();
    store.delete("/b", cause()).await.unwrap();
    store.close().await;
    assert_eq!(verify(&path).unwrap().keys, 1);
    let damages = [
        "DELETE FROM present WHERE key = CAST('/a' AS BLOB)",
        "INSERT INTO present SELECT key, id, NULL FROM history WHERE value IS NULL",
        "UPDATE meta SET value = 2 WHERE name = 'revision'",
        "UPDATE present SET lease = 7; UPDATE history SET lease = 7",
    ];
    for damage in damages {
        let copy = path.with_extension("copy");
        fs::copy(&path, &copy).unwrap();
        Connection::open(&copy).unwrap().execute_batch(damage).unwrap();
        let error = verify(&copy).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{damage}: {error}");
    }
}

#[tokio::test]
async fn a_full_store_reads_on_and_writes_again_after_compaction() {
    let (_folder, path) = place();
    let options = Options { max_bytes: Some(512 * 1024), ..Options::default() };
    let store = try_open(&path, options).await.unwrap();
    let large = Bytes::from(vec![7; 20_000]);
    let mut written = Revision::ZERO;
    let error = loop {
        match store.put("/a", large.clone(), cause()).await {
            Ok(revision) => written = revision,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full { .. }), "{error}");
    let got = store.get("/a").await.unwrap();
    assert_eq!((got.kv.unwrap().mod_revision, got.revision), (written, written), "reads go on");
    assert!(store.put("/a", large.clone(), cause()).await.is_err());
    let mut watch = store.watch("/a", written);
    assert_eq!(watch.next().await.unwrap().events.len(), 1);
    store.compact(written).await.unwrap();
    // The space comes back while the writer has nothing else to do.
    let refill = async {
        while store.put("/a", large.clone(), cause()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), refill).await.expect("writing works again");
    let batch = watch.next().await.unwrap();
    assert_eq!((batch.events.len(), batch.revision), (1, written.next()), "what failed took no revision");
}

/// A request that has no room does not take its neighbours in the same commit with it.
#[tokio::test]
async fn a_small_write_succeeds_beside_one_that_is_too_large_for_the_disk() {
    let (_folder, path) = place();
    let options = Options { max_bytes: Some(400 * 1024), ..Options::default() };
    let store = try_open(&path, options).await.unwrap();
    for round in 0..10 {
        let (small, large) = (format!("/small/{round}"), format!("/large/{round}"));
        let (first, second, third) = tokio::join!(
            store.put(&small, text("x"), cause()),
            store.put(&large, Bytes::from(vec![7; 1_000_000]), cause()),
            store.put(&small, text("y"), cause()),
        );
        first.unwrap();
        assert!(matches!(second, Err(Error::Full { .. })), "{second:?}");
        third.unwrap();
        assert_eq!(value(&store, &small).await, Some(text("y")));
        assert_eq!(value(&store, &large).await, None);
    }
    store.close().await;
    verify(&path).unwrap();
}

#[tokio::test]
async fn the_store_compacts_itself_and_trims_its_log() {
    let (_folder, path) = place();
    let retention = Retention { history: 50, changes: 30, recent: 10 };
    let store = try_open(&path, Options { retention, ..Options::default() }).await.unwrap();
    for _ in 0..500 {
        store.put("/a", text("x"), cause()).await.unwrap();
    }
    let status = store.status().await.unwrap();
    let kept = status.revision.0 - status.compacted.0;
    assert!((50..=100).contains(&kept), "{kept} revisions are kept");
    let log = Changes { prefix: String::new(), after: Revision::ZERO, limit: 1000 };
    assert_eq!(store.changes(log).await.unwrap().len(), 30);
    store.close().await;
    let rows: i64 = Connection::open(&path)
        .unwrap()
        .query_row("SELECT count(*) FROM history", [], |row| row.get(0))
        .unwrap();
    assert!(rows <= 200, "{rows} rows of history are left");
}

#[tokio::test]
async fn a_backup_is_of_one_moment_while_writing_goes_on() {
    let (folder, path) = place();
    let store = open(&path).await;
    let backup = folder.path().join("backup.db");
    let pair = |n: usize| {
        let value = Bytes::from(format!("{n}"));
        Txn::new(cause()).put("/left", value.clone()).put("/right", value)
    };
    store.txn(pair(0)).await.unwrap();
    let writing = async {
        for n in 1..200 {
            store.txn(pair(n)).await.unwrap();
        }
    };
    let ((), written) = tokio::join!(writing, store.backup(&backup));
    written.unwrap();
    assert_eq!(verify(&backup).unwrap().keys, 2);
    let error = store.backup(&backup).await.unwrap_err();
    assert_eq!(error, Error::TargetExists { path: backup.clone() });
    assert_eq!(verify(&path).unwrap().revision, store.status().await.unwrap().revision, "also while in use");

    let target = folder.path().join("restored.db");
    restore(&backup, &target).unwrap();
    let restored = open(&target).await;
    assert_eq!(value(&restored, "/left").await, value(&restored, "/right").await);
}

#[tokio::test]
async fn restoring_goes_back_in_content_and_ahead_in_revisions() {
    let (folder, path) = place();
    let backup = folder.path().join("backup.db");
    let store = open(&path).await;
    let early = store.put("/a", text("backed up"), cause()).await.unwrap();
    store.backup(&backup).await.unwrap();
    let lost = store.put("/a", text("lost"), cause()).await.unwrap();
    let error = restore(&backup, &path).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    store.close().await;
    drop(store);
    restore(&backup, &path).unwrap();

    let store = open(&path).await;
    assert_eq!(value(&store, "/a").await, Some(text("backed up")));
    let restored = store.status().await.unwrap();
    assert!(restored.revision > lost, "revisions are never given out twice");
    for from in [early, lost] {
        let error = store.watch("/", from).next().await.unwrap_err();
        assert_eq!(error, Error::Compacted { requested: from, compacted: restored.compacted });
    }
    let log = Changes { prefix: String::new(), after: Revision::ZERO, limit: 10 };
    assert_eq!(store.changes(log).await.unwrap().len(), 1, "the change log comes with the backup");
    let mut watch = store.watch("/", restored.revision.next());
    store.put("/a", text("new"), cause()).await.unwrap();
    let batch = loop {
        let batch = watch.next().await.unwrap();
        if !batch.events.is_empty() {
            break batch;
        }
    };
    let Event::Put { prev, .. } = &batch.events[0] else { panic!("{batch:?}") };
    assert_eq!(prev.as_ref().map(|kv| kv.value.clone()), Some(text("backed up")));

    let kept = folder.path().join("store.db.before-restore");
    let kept = open(&kept).await;
    assert_eq!(value(&kept, "/a").await, Some(text("lost")), "what was replaced is kept");
}

#[tokio::test]
async fn a_damaged_backup_is_not_restored() {
    let (folder, path) = place();
    let store = open(&path).await;
    store.put("/a", text("1"), cause()).await.unwrap();
    store.close().await;
    drop(store);
    let backup = folder.path().join("backup.db");
    fs::write(&backup, "no database, ".repeat(1000)).unwrap();
    let error = restore(&backup, &path).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    let error = restore(&folder.path().join("missing.db"), &path).unwrap_err();
    assert!(matches!(error, Error::Storage { .. }), "{error}");
    assert_eq!(value(&open(&path).await, "/a").await, Some(text("1")));
    assert!(!folder.path().join("store.db.partial").exists());
}

/// The old log must not be played into the restored file.
#[tokio::test]
async fn a_crashed_store_is_restored_over_without_its_log() {
    let (folder, path) = place();
    let backup = folder.path().join("backup.db");
    let store = open(&path).await;
    store.put("/a", text("backed up"), cause()).await.unwrap();
    store.backup(&backup).await.unwrap();
    store.put("/a", text("lost"), cause()).await.unwrap();
    // As after a crash: everything is in the log, which has not yet been taken into the file.
    let crashed = folder.path().join("crashed.db");
    fs::copy(folder.path().join("store.db-wal"), folder.path().join("crashed.db-wal")).unwrap();
    fs::copy(&path, &crashed).unwrap();
    restore(&backup, &crashed).unwrap();
    assert_eq!(value(&open(&crashed).await, "/a").await, Some(text("backed up")));
    let kept = open(&folder.path().join("crashed.db.before-restore")).await;
    assert_eq!(value(&kept, "/a").await, Some(text("lost")), "the log went into what is kept");

    // Another program reads the file, so that its log cannot be taken in: it is kept where it was.
    let shared = folder.path().join("shared.db");
    fs::copy(folder.path().join("store.db-wal"), folder.path().join("shared.db-wal")).unwrap();
    fs::copy(&path, &shared).unwrap();
    let other = Connection::open(&shared).unwrap();
    other.execute_batch("BEGIN; SELECT count(*) FROM meta").unwrap();
    restore(&backup, &shared).unwrap();
    assert_eq!(value(&open(&shared).await, "/a").await, Some(text("backed up")));
    assert!(folder.path().join("shared.db.before-restore-wal").exists());
    drop(other);

    // A damaged log is damaged wherever it is; it only must not reach the restored file.
    let damaged = folder.path().join("damaged.db");
    fs::write(&damaged, "no database, ".repeat(1000)).unwrap();
    fs::write(folder.path().join("damaged.db-wal"), "no log, ".repeat(1000)).unwrap();
    restore(&backup, &damaged).unwrap();
    assert_eq!(value(&open(&damaged).await, "/a").await, Some(text("backed up")));
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path) = place();
    let store = open(&path).await;
    store.put("/secret", text("x"), cause()).await.unwrap();
    store.backup(&folder.path().join("backup.db")).await.unwrap();
    for name in ["store.db", "store.db-wal", "backup.db"] {
        let mode = fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn more_writes_than_the_queue_holds_wait_and_none_is_lost() {
    let (_folder, path) = place();
    let (store, tasks) = (Arc::new(open(&path).await), Tasks::new());
    for at in 0..1500 {
        let store = store.clone();
        tasks.spawn(Kind::Call, async move {
            store.put(&format!("/{at}"), text("1"), cause()).await.unwrap();
        });
    }
    assert!(tasks.drain(Duration::from_secs(60)).await.is_empty());
    let all = store.range(Range::prefix("/").limit(2000)).await.unwrap();
    assert_eq!(all.items.len(), 1500);
}
