//! Jobs in a file keep what those in memory keep, and longer.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use dodai_capability::jobs::{
    Data, Due, Error, FailurePolicy, Job, Last, Memory, Outcome, Record, Store, Which,
};
use dodai_drivers::sqlite::Jobs;

const APP: &str = "shop/cart";
const NOW: i64 = 1_767_225_600_000;

fn file(dir: &Path) -> Jobs {
    Jobs::new(dir.join("below/jobs.db"), true)
}

fn job(name: &str, wait: &str) -> Job {
    Job { name: name.to_owned(), due_time: Some(wait.to_owned()), ..Job::default() }
}

fn record(job: Job) -> Record {
    let id = format!("id of {}", job.name);
    job.start(id, NOW).unwrap_or_else(|invalid| panic!("{invalid}"))
}

async fn put(store: &dyn Store, app: &str, job: Job) -> Record {
    let record = record(job);
    store.put(app, record.clone(), false, 100).await.expect("kept");
    record
}

fn names(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.job.name.as_str()).collect()
}

async fn check_all(store: &dyn Store) {
    check_writes(store).await;
    check_due(store).await;
    check_settling(store).await;
}

async fn check_writes(store: &dyn Store) {
    assert_eq!(store.get(APP, "a").await.expect("read"), None);
    assert_eq!(store.list(APP, Some(0)).await.expect("read"), []);
    assert_eq!(store.apps().await.expect("read"), [""; 0]);
    store.delete(APP, Which::Prefix(String::new())).await.expect("nothing to do");
    let value = Bytes::from_static(b"\0\xff");
    let whole = Job {
        schedule: Some("@every 5s".to_owned()),
        ttl: Some("PT1H".to_owned()),
        repeats: Some(9),
        data: Some(Data::Any { type_url: "x.y/Z".to_owned(), value }),
        policy: FailurePolicy::Constant { interval: Duration::from_millis(1_500), retries: None },
        ..job("a", "1s")
    };
    let whole = put(store, APP, whole).await;
    assert_eq!(store.get(APP, "a").await.expect("read"), Some(whole.clone()));
    assert_eq!(store.get("shop/other", "a").await.expect("read"), None);
    let json =
        Job { data: Some(Data::Json("{}".to_owned())), policy: FailurePolicy::Drop, ..job("b_", "1s") };
    let json = put(store, APP, json).await;
    put(store, APP, job("b%", "1s")).await;
    put(store, "shop/other", job("b", "1s")).await;
    let again = store.put(APP, whole.clone(), false, 100).await.expect_err("there is one");
    assert!(matches!(&again, Error::Exists(name) if name == "a"), "{again}");
    let full = store.put(APP, record(job("c", "1s")), true, 3).await.expect_err("full");
    assert!(matches!(full, Error::Full(3)), "{full}");
    let newer = Record { id: "newer".to_owned(), ..whole };
    store.put(APP, newer.clone(), true, 3).await.expect("replaced");
    let listed = store.list(APP, Some(1_000)).await.expect("listed");
    assert_eq!((names(&listed), &listed[0], &listed[2]), (vec!["a", "b%", "b_"], &newer, &json));
    let large = store.list(APP, Some(3)).await.expect_err("too large");
    assert!(matches!(large, Error::TooLarge(3)), "{large}");
    // Names, texts and types count, and each in bytes.
    for (name, length) in [("n", 53), ("\u{e9}", 54)] {
        let type_url = "y".repeat(10);
        let data = Some(Data::Any { type_url, value: Bytes::from_static(&[0; 40]) });
        put(store, "shop/third", Job { data, ..job(name, "1s") }).await;
        let short = store.list("shop/third", Some(length - 1)).await.expect_err("too large");
        assert!(matches!(short, Error::TooLarge(_)), "{short}");
        assert_eq!(store.list("shop/third", Some(length)).await.expect("listed").len(), 1);
        store.delete("shop/third", Which::Prefix(String::new())).await.expect("deleted");
    }
    let bare = store.list(APP, None).await.expect("listed");
    assert!(bare.iter().all(|record| record.job.data.is_none()), "{bare:?}");
    // What begins so, letter by letter.
    store.delete(APP, Which::Prefix("b_".to_owned())).await.expect("deleted");
    store.delete(APP, Which::Name("b".to_owned())).await.expect("nothing to do");
    assert_eq!(names(&store.list(APP, None).await.expect("listed")), ["a", "b%"]);
    assert_eq!(store.apps().await.expect("read"), [APP, "shop/other"]);
    store.delete(APP, Which::Prefix(String::new())).await.expect("deleted");
    assert_eq!(store.list(APP, None).await.expect("listed"), []);
    assert_eq!(names(&store.list("shop/other", None).await.expect("listed")), ["b"]);
}

async fn check_due(store: &dyn Store) {
    for (name, wait) in [("third", "3s"), ("first", "1s"), ("second", "2s")] {
        put(store, APP, job(name, wait)).await;
    }
    let but = Vec::new;
    let due = async |after: i64, most: usize| {
        let Due { now, next_ms } = store.due(APP, NOW + after, most, but()).await.expect("read");
        let now: Vec<String> = now.into_iter().map(|record| record.job.name).collect();
        (now.join(" "), next_ms.map(|next| next - NOW))
    };
    assert_eq!(due(999, 9).await, (String::new(), Some(1_000)));
    assert_eq!(due(2_000, 9).await, ("first second".to_owned(), Some(3_000)));
    assert_eq!(due(2_000, 1).await, ("first".to_owned(), Some(3_000)));
    assert_eq!(due(9_000, 9).await, ("first second third".to_owned(), None));
    let but = vec!["first".to_owned(), "third".to_owned()];
    let others = store.due(APP, NOW + 2_000, 1, but.clone()).await.expect("read");
    assert_eq!((names(&others.now), others.next_ms), (vec!["second"], Some(NOW + 3_000)));
    assert_eq!(store.due(APP, NOW + 2_000, 0, but).await.expect("read").now, []);
    store.delete(APP, Which::Prefix(String::new())).await.expect("deleted");
}

async fn check_settling(store: &dyn Store) {
    let kept = put(store, APP, job("j", "1s")).await;
    let failed = kept.after(Outcome::Failed("no".to_owned()), NOW + 1_000).expect("tried again");
    store.settle(APP, &kept, Some(failed.clone())).await.expect("kept");
    let found = store.get(APP, "j").await.expect("read").expect("there");
    assert_eq!((&found.progress, found.progress.due_ms), (&failed, NOW + 2_000));
    assert_eq!(found.progress.last, Some(Last { at_ms: NOW + 1_000, problem: Some("no".to_owned()) }));
    // Who does not know how far it is has nothing to say.
    store.settle(APP, &kept, kept.after(Outcome::Taken, NOW + 1_000)).await.expect("nothing to do");
    store.settle(APP, &kept, Some(kept.progress.clone())).await.expect("nothing to do");
    assert_eq!(store.get(APP, "j").await.expect("read"), Some(found.clone()));
    // One that has taken its place has nothing to do with how the first ended.
    let newer = Record { id: "newer".to_owned(), ..kept.clone() };
    store.put(APP, newer.clone(), true, 100).await.expect("replaced");
    store.settle(APP, &kept, Some(failed)).await.expect("nothing to do");
    store.settle(APP, &kept, None).await.expect("nothing to do");
    assert_eq!(store.get(APP, "j").await.expect("read"), Some(newer.clone()));
    store.settle(APP, &newer, None).await.expect("forgotten");
    assert_eq!(store.get(APP, "j").await.expect("read"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_kept() {
    check_all(&Memory::default()).await;
    let dir = tempfile::tempdir().expect("a folder");
    check_all(&file(dir.path())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_made_with_the_first_job_and_outlives_its_process() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = file(dir.path());
    assert_eq!(store.due(APP, NOW, 9, Vec::new()).await.expect("read"), Due::default());
    assert!(store.hold(APP).await.expect("looked").is_none(), "there is nothing to hold");
    assert!(!dir.path().join("below").exists(), "who has no jobs leaves nothing behind");
    let kept = put(&store, APP, job("j", "1s")).await;
    drop(store);
    assert_eq!(file(dir.path()).get(APP, "j").await.expect("read"), Some(kept));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(dir.path().join("below")).expect("a folder").permissions(),
    );
    assert_eq!(mode & 0o777, 0o700, "what jobs bring is the app's own");
    // In a folder that others may read, its files are still the user's own.
    let open = dir.path().join("open");
    std::fs::create_dir(&open).expect("a folder");
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let store = Jobs::new(open.join("jobs.db"), true);
    put(&store, APP, job("j", "1s")).await;
    let held = store.hold(APP).await.expect("held").expect("nobody else");
    let are_own = || {
        let entries: Vec<_> = std::fs::read_dir(&open).expect("a folder").flatten().collect();
        for entry in &entries {
            let mode =
                std::os::unix::fs::PermissionsExt::mode(&entry.metadata().expect("there").permissions());
            assert_eq!(mode & 0o777, 0o600, "{:?}", entry.file_name());
        }
        entries.len()
    };
    let count = are_own();
    // A file that was open to others is so no longer, nor is what lies beside it while another process has it open.
    for entry in std::fs::read_dir(&open).expect("a folder").flatten() {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(entry.path(), mode).expect("set");
    }
    drop(held);
    let other = Jobs::new(open.join("jobs.db"), true);
    assert!(other.get(APP, "j").await.expect("read").is_some());
    let _held = other.hold(APP).await.expect("held").expect("nobody else");
    assert_eq!(are_own(), count);
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_share_a_file_one_runs_the_jobs() {
    let dir = tempfile::tempdir().expect("a folder");
    let (one, other) = (file(dir.path()), file(dir.path()));
    put(&one, APP, job("j", "1s")).await;
    assert!(other.get(APP, "j").await.expect("read").is_some(), "what one writes the other reads");
    let held = one.hold(APP).await.expect("held").expect("nobody else");
    assert!(other.hold(APP).await.expect("looked").is_none());
    drop(held);
    assert!(other.hold(APP).await.expect("held").is_some());
    let sole = Jobs::new(dir.path().join("sole.db"), false);
    for store in [&sole as &dyn Store, &Memory::default()] {
        let held = store.hold(APP).await.expect("held").expect("nobody else");
        assert!(store.hold(APP).await.expect("looked").is_none(), "one at a time, also in one process");
        assert!(store.hold("shop/other").await.expect("held").is_some());
        drop(held);
        assert!(store.hold(APP).await.expect("held").is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_first_version_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let kept = put(&file(dir.path()), APP, job("j", "1s")).await;
    let path = dir.path().join("below/jobs.db");
    let first = rusqlite::Connection::open(&path).expect("open");
    let back = "DROP INDEX jobs_due; ALTER TABLE jobs DROP COLUMN created_ms; \
        CREATE INDEX jobs_due ON jobs (app, due_ms); PRAGMA user_version = 1;";
    first.execute_batch(back).expect("as it was");
    drop(first);
    let store = file(dir.path());
    assert_eq!(store.get(APP, "j").await.expect("read"), Some(Record { created_ms: 0, ..kept }));
    let later = put(&store, APP, job("later", "2s")).await;
    assert_eq!(store.get(APP, "later").await.expect("read"), Some(later));
    let index: String = rusqlite::Connection::open(&path)
        .expect("open")
        .query_row("SELECT sql FROM sqlite_master WHERE name = 'jobs_due'", (), |row| row.get(0))
        .expect("an index");
    assert!(index.contains("due_ms, name"), "{index}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_later_version_is_not_touched() {
    let dir = tempfile::tempdir().expect("a folder");
    put(&file(dir.path()), APP, job("j", "1s")).await;
    let path = dir.path().join("below/jobs.db");
    rusqlite::Connection::open(&path).expect("open").pragma_update(None, "user_version", 99).expect("set");
    let refused = file(dir.path()).get(APP, "j").await.expect_err("refused").to_string();
    assert!(refused.contains("later version") && refused.contains("jobs.db"), "{refused}");
}
