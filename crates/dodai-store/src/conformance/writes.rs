//! Transactions and what is built on them.

use std::sync::Arc;

use bytes::Bytes;
use dodai_core::task::{Kind, Tasks};

use super::{cause, get, keys, put, refused, revision, value, within};
use crate::{
    Action, Cause, Changes, Check, Error, MAX_KEY_BYTES, MAX_OPERATIONS, MAX_REQUEST_BYTES, Op, OpOutcome,
    Ordering, Revision, Store, Txn, TxnOutcome,
};

async fn run(store: &Arc<dyn Store>, txn: Txn) -> TxnOutcome {
    within(store.txn(txn)).await.expect("transaction")
}

pub(super) async fn versions_and_revisions_count(store: Arc<dyn Store>) {
    let start = revision(&store).await;
    let first = put(&store, "/a", "1").await;
    assert_eq!(first, start.next(), "a put takes the next revision");
    let second = put(&store, "/a", "2").await;
    let kv = get(&store, "/a").await.expect("it was put");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (first, second, 2));
    assert_eq!(kv.value, value("2"));
    let gone = within(store.delete("/a", cause())).await.expect("delete").expect("it was there");
    assert_eq!(gone, kv, "delete tells what it removed");
    assert_eq!(revision(&store).await, second.next(), "a delete takes a revision");
    assert_eq!(within(store.delete("/a", cause())).await.expect("delete"), None);
    assert_eq!(revision(&store).await, second.next(), "deleting nothing takes none");
    put(&store, "/a", "3").await;
    let kv = get(&store, "/a").await.expect("it was put");
    assert_eq!((kv.create_revision, kv.version), (kv.mod_revision, 1), "a new life starts at version 1");
    let got = within(store.get("/none")).await.expect("get");
    assert_eq!((got.kv, got.revision), (None, kv.mod_revision));
}

pub(super) async fn compares_decide_the_branch(store: Arc<dyn Store>) {
    let created = put(&store, "/a", "m").await;
    let written = put(&store, "/a", "m").await;
    let later = written.next();
    let cases = [
        (Check::ModRevision(Ordering::Equal, written), true),
        (Check::ModRevision(Ordering::Equal, created), false),
        (Check::ModRevision(Ordering::NotEqual, created), true),
        (Check::ModRevision(Ordering::Less, later), true),
        (Check::ModRevision(Ordering::Less, written), false),
        (Check::ModRevision(Ordering::Greater, created), true),
        (Check::ModRevision(Ordering::Greater, written), false),
        (Check::CreateRevision(Ordering::Equal, created), true),
        (Check::CreateRevision(Ordering::Equal, written), false),
        (Check::Version(Ordering::Equal, 2), true),
        (Check::Version(Ordering::Greater, 2), false),
        (Check::Value(Ordering::Equal, value("m")), true),
        (Check::Value(Ordering::Less, value("n")), true),
        (Check::Value(Ordering::Greater, value("l")), true),
        (Check::Value(Ordering::NotEqual, value("m")), false),
        (Check::Present, true),
        (Check::Absent, false),
    ];
    for (check, expect) in cases {
        let outcome = run(&store, Txn::new(cause()).when("/a", check.clone())).await;
        assert_eq!((outcome.held, outcome.revision), (expect, written), "{check:?}");
    }
    let cases = [
        (Check::Absent, true),
        (Check::Present, false),
        (Check::ModRevision(Ordering::Equal, Revision::ZERO), true),
        (Check::Version(Ordering::Equal, 0), true),
        (Check::CreateRevision(Ordering::Greater, Revision::ZERO), false),
        (Check::Value(Ordering::NotEqual, value("x")), false),
    ];
    for (check, expect) in cases {
        let outcome = run(&store, Txn::new(cause()).when("/none", check.clone())).await;
        assert_eq!(outcome.held, expect, "of a key that does not exist: {check:?}");
    }
    let both = Txn::new(cause()).when("/a", Check::Present).when("/none", Check::Present);
    let outcome = run(&store, both.put("/yes", "1").otherwise(put_op("/no", "1"))).await;
    assert!(!outcome.held, "all compares have to hold");
    assert!(get(&store, "/yes").await.is_none() && get(&store, "/no").await.is_some());
}

fn put_op(key: &str, text: &str) -> Op {
    Op::Put { key: key.to_owned(), value: value(text), lease: None }
}

pub(super) async fn a_transaction_is_one_revision(store: Arc<dyn Store>) {
    for key in ["/d/1", "/d/2", "/keep"] {
        put(&store, key, "x").await;
    }
    let before = revision(&store).await;
    let txn = Txn::new(cause())
        .put("/a", "1")
        .put("/b", "2")
        .then(Op::DeletePrefix { prefix: "/d/".to_owned() })
        .delete("/d/1")
        .then(Op::Get { key: "/a".to_owned() });
    let outcome = run(&store, txn).await;
    assert_eq!(outcome.revision, before.next());
    let deleted = |count| OpOutcome::Deleted { count, previous: Vec::new() };
    let written = || OpOutcome::Put { previous: None };
    let expect = [written(), written(), deleted(2), deleted(0), OpOutcome::Got(None)];
    assert_eq!(outcome.results, expect, "a get sees the state before; a key is deleted once");
    for key in ["/a", "/b"] {
        assert_eq!(get(&store, key).await.expect("it was put").mod_revision, outcome.revision);
    }
    assert_eq!(keys(&store, "").await, ["/a", "/b", "/keep"]);
    let outcome = run(&store, Txn::new(cause()).when("/a", Check::Present)).await;
    assert_eq!(outcome.revision, before.next(), "changing nothing takes no revision");
}

pub(super) async fn previous_values_are_told(store: Arc<dyn Store>) {
    put(&store, "/a", "1").await;
    put(&store, "/b", "2").await;
    let (a, b) = (get(&store, "/a").await, get(&store, "/b").await);
    let txn = Txn::new(cause()).put("/a", "3").put("/c", "4").delete("/b").with_previous();
    let outcome = run(&store, txn).await;
    let expect = [
        OpOutcome::Put { previous: a },
        OpOutcome::Put { previous: None },
        OpOutcome::Deleted { count: 1, previous: b.into_iter().collect() },
    ];
    assert_eq!(outcome.results, expect);
}

pub(super) async fn guarded_writes_conflict(store: Arc<dyn Store>) {
    let created = within(store.create("/a", value("1"), cause())).await.expect("create");
    let conflict = |expected, found| Error::Conflict { key: "/a".to_owned(), expected, found };
    let error = refused(within(store.create("/a", value("2"), cause())).await);
    assert_eq!(error, conflict(None, Some(created)));
    let written = within(store.put_if("/a", value("2"), created, cause())).await.expect("put_if");
    let error = refused(within(store.put_if("/a", value("3"), created, cause())).await);
    assert_eq!(error, conflict(Some(created), Some(written)));
    let error = refused(within(store.delete_if("/a", created, cause())).await);
    assert_eq!(error, conflict(Some(created), Some(written)));
    assert_eq!(get(&store, "/a").await.expect("still there").value, value("2"));
    within(store.delete_if("/a", written, cause())).await.expect("delete_if");
    let error = refused(within(store.put_if("/a", value("3"), written, cause())).await);
    assert_eq!(error, conflict(Some(written), None));
}

pub(super) async fn bad_requests_are_refused_and_change_nothing(store: Arc<dyn Store>) {
    let before = revision(&store).await;
    let txn = || Txn::new(cause());
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    for bad in [txn().put("", "x"), txn().delete("a\0b"), txn().put(long, "x"), txn().when("", Check::Absent)]
    {
        let error = refused(within(store.txn(bad)).await);
        assert!(matches!(error, Error::InvalidKey { .. }), "{error}");
    }
    let everything = txn().then(Op::DeletePrefix { prefix: String::new() });
    let error = refused(within(store.txn(everything)).await);
    assert!(matches!(error, Error::InvalidKey { .. }), "{error}");
    let twice = [
        txn().put("/a/b", "1").put("/a/b", "2"),
        txn().put("/a/b", "1").delete("/a/b"),
        txn().then(Op::DeletePrefix { prefix: "/a".to_owned() }).put("/a/b", "1"),
        txn().otherwise(put_op("/a/b", "1")).otherwise(put_op("/a/b", "2")),
    ];
    for bad in twice {
        let error = refused(within(store.txn(bad)).await);
        assert_eq!(error, Error::DuplicateKey { key: "/a/b".to_owned() });
    }
    assert_eq!(revision(&store).await, before);
}

pub(super) async fn limits_are_exact(store: Arc<dyn Store>) {
    let puts = |count: usize| (0..count).fold(Txn::new(cause()), |txn, n| txn.put(format!("/n/{n}"), "x"));
    let error = refused(within(store.txn(puts(MAX_OPERATIONS + 1))).await);
    assert_eq!(error, Error::TooManyOperations { count: MAX_OPERATIONS + 1, limit: MAX_OPERATIONS });
    run(&store, puts(MAX_OPERATIONS)).await;
    let sized = |bytes: usize| Txn::new(cause()).put("/large", Bytes::from(vec![7; bytes]));
    let room = MAX_REQUEST_BYTES - sized(0).size_bytes();
    let error = refused(within(store.txn(sized(room + 1))).await);
    assert_eq!(error, Error::RequestTooLarge { size: MAX_REQUEST_BYTES + 1, limit: MAX_REQUEST_BYTES });
    run(&store, sized(room)).await;
    assert_eq!(get(&store, "/large").await.expect("it fits").value.len(), room);
}

pub(super) async fn racing_writers_lose_no_update(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const ROUNDS: u64 = 10;
    put(&store, "/counter", "").await;
    let tasks = Tasks::new();
    for _ in 0..WRITERS {
        let store = store.clone();
        tasks.spawn(Kind::Call, async move {
            for _ in 0..ROUNDS {
                count_one(&store).await;
            }
        });
    }
    let cut = tasks.drain(super::PATIENCE).await;
    assert!(cut.is_empty(), "writers did not finish: {cut:?}");
    let kv = get(&store, "/counter").await.expect("it was put");
    assert_eq!(kv.value.len() as u64, WRITERS * ROUNDS);
    assert_eq!(kv.version, WRITERS * ROUNDS + 1);
}

/// Adds one byte to the counter, however often that takes.
async fn count_one(store: &Arc<dyn Store>) {
    loop {
        let kv = get(store, "/counter").await.expect("it was put");
        let more = Bytes::from([kv.value.as_ref(), b"."].concat());
        match within(store.put_if("/counter", more, kv.mod_revision, cause())).await {
            Ok(_) => return,
            Err(Error::Conflict { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("put_if: {error}"),
        }
    }
}

pub(super) async fn changes_are_recorded(store: Arc<dyn Store>) {
    let start = revision(&store).await;
    let by = |actor: &str| Cause::new(actor, format!("{actor} said so"));
    within(store.put("/a", value("1"), by("ada"))).await.expect("put");
    within(store.put("/a", value("2"), by("bob"))).await.expect("put");
    within(store.txn(Txn::new(by("cyd")).delete("/a").put("/b", "1"))).await.expect("transaction");
    let changes = Changes { prefix: String::new(), after: start, limit: 100 };
    let found = within(store.changes(changes)).await.expect("changes");
    let told: Vec<_> = found
        .iter()
        .map(|change| {
            (change.revision.0 - start.0, change.key.as_str(), change.action, change.cause.actor.as_str())
        })
        .collect();
    let expect = [
        (1, "/a", Action::Create, "ada"),
        (2, "/a", Action::Update, "bob"),
        (3, "/a", Action::Delete, "cyd"),
        (3, "/b", Action::Create, "cyd"),
    ];
    assert_eq!(told, expect);
    assert_eq!(found[0].cause.reason, "ada said so");
    let age = std::time::SystemTime::now().duration_since(found[0].at).unwrap_or_default();
    assert!(age.as_secs() < 3600, "the time of a change is now, not {age:?} ago");
}
