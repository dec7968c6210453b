//! The suite for state stores.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::join_all;

use super::Bench;
use crate::metadata::{Metadata, Ttl};
use crate::state::{Concurrency, Delete, Error, Etag, Get, Item, List, Operation, Set, Store};

/// Runs every case.
pub async fn run(bench: &mut Bench) {
    let store = bench.component.serves.state.clone().expect("the component serves state");
    values_come_back_as_they_went(&*store).await;
    etags_guard_writes(&*store).await;
    etags_of_others_are_refused(&*store).await;
    deletes_follow_the_same_rules(&*store).await;
    first_write_creates_once(&store).await;
    many_at_once(&*store).await;
    keys_are_listed_in_pages(&*store).await;
    increments_are_not_lost(&*store).await;
    if store.features().transaction {
        transactions_run_in_order(&*store).await;
        transactions_are_all_or_nothing(&*store).await;
    }
    if store.features().ttl {
        values_expire(bench, &*store).await;
        expiry_is_cleared(bench, &*store).await;
    }
    if store.features().durable {
        values_survive_a_restart(bench, store).await;
    }
}

async fn get(store: &dyn Store, key: &str) -> Option<Item> {
    store.get(&Get::new(key)).await.unwrap_or_else(|error| panic!("reading {key}: {error}"))
}

async fn value(store: &dyn Store, key: &str) -> Option<Bytes> {
    get(store, key).await.map(|item| item.value)
}

async fn etag(store: &dyn Store, key: &str) -> Etag {
    get(store, key).await.and_then(|item| item.etag).unwrap_or_else(|| panic!("{key} has no etag"))
}

async fn put(store: &dyn Store, key: &str, value: &'static str) {
    store.set(Set::new(key, value)).await.unwrap_or_else(|error| panic!("writing {key}: {error}"));
}

fn mismatch(outcome: Result<(), Error>, what: &str) {
    assert!(matches!(outcome, Err(Error::EtagMismatch { .. })), "{what}: {outcome:?}");
}

/// JSON, text, bytes that are no text, nothing at all, and a lot: the same bytes come back.
async fn values_come_back_as_they_went(store: &dyn Store) {
    assert!(get(store, "basic-none").await.is_none());
    let large = Bytes::from(vec![b'x'; 1 << 20]);
    let table: [(&str, Bytes); 8] = [
        ("basic-json", Bytes::from_static(br#"{"a": [1, 2.50], "b":12345678901234567890123}"#)),
        ("basic-json-text", Bytes::from_static(br#""hello""#)),
        ("basic-text", Bytes::from_static("gr\u{fc}n \u{1f331}".as_bytes())),
        ("basic-binary", Bytes::from_static(b"\x00\xff\xfe\x01")),
        ("basic-zero", Bytes::from_static(b"a\0b")),
        ("basic-empty", Bytes::new()),
        ("basic-large", large),
        ("app||Type||id||k\u{e9}y with 'quotes' % _", Bytes::from_static(b"odd key")),
    ];
    for (key, bytes) in &table {
        store
            .set(Set::new(*key, bytes.clone()))
            .await
            .unwrap_or_else(|error| panic!("writing {key}: {error}"));
    }
    for (key, bytes) in &table {
        assert!(value(store, key).await.as_ref() == Some(bytes), "{key} came back changed");
    }
    put(store, "basic-text", "other").await;
    assert_eq!(value(store, "basic-text").await, Some("other".into()));
}

async fn etags_guard_writes(store: &dyn Store) {
    put(store, "etag", "1").await;
    let first = etag(store, "etag").await;
    put(store, "etag", "1").await;
    let second = etag(store, "etag").await;
    assert_ne!(first, second, "every write makes a new etag, even of the same value");
    let set = |etag: Option<Etag>| Set { etag, ..Set::new("etag", "2") };
    mismatch(store.set(set(Some(first.clone()))).await, "a write with an old etag");
    assert_eq!(value(store, "etag").await, Some("1".into()));
    store.set(set(Some(second))).await.expect("the current etag admits the write");
    assert_eq!(value(store, "etag").await, Some("2".into()));
    store.set(set(Some("".into()))).await.expect("an empty etag counts as none");
    mismatch(
        store.set(Set { etag: Some(first), ..Set::new("etag-none", "1") }).await,
        "an etag for a key that is not there",
    );
    assert!(get(store, "etag-none").await.is_none());
}

/// An etag that the store never made is refused, as malformed where the store can tell.
async fn etags_of_others_are_refused(store: &dyn Store) {
    put(store, "etag-bad", "1").await;
    let refused = |outcome: Result<(), Error>, what: &str| {
        let right = matches!(outcome, Err(Error::EtagMismatch { .. } | Error::EtagMalformed { .. }));
        assert!(right, "{what}: {outcome:?}");
    };
    let bad = || Some(Etag::from("no etag of this store"));
    let set = Set { etag: bad(), ..Set::new("etag-bad", "2") };
    refused(store.set(set.clone()).await, "a write");
    refused(store.delete(Delete { etag: bad(), ..Delete::new("etag-bad") }).await, "a deletion");
    if store.features().transaction {
        let steps = vec![Operation::Upsert(Set::new("etag-bad", "3")), Operation::Upsert(set)];
        refused(store.transact(steps, Metadata::new()).await, "a transaction");
    }
    assert_eq!(value(store, "etag-bad").await, Some("1".into()));
}

async fn deletes_follow_the_same_rules(store: &dyn Store) {
    store.delete(Delete::new("del-none")).await.expect("deleting what is not there succeeds");
    put(store, "del", "1").await;
    let old = etag(store, "del").await;
    put(store, "del", "2").await;
    let delete = |etag: &Etag| Delete { etag: Some(etag.clone()), ..Delete::new("del") };
    mismatch(store.delete(delete(&old)).await, "deleting with an old etag");
    let current = etag(store, "del").await;
    store.delete(delete(&current)).await.expect("the current etag admits the deletion");
    assert!(get(store, "del").await.is_none());
    mismatch(store.delete(delete(&current)).await, "deleting with an etag what is not there");
    put(store, "del", "3").await;
    assert_ne!(etag(store, "del").await, current, "an etag does not come again after a deletion");
    store.delete(Delete::new("del")).await.expect("a plain deletion");
}

async fn first_write_creates_once(store: &Arc<dyn Store>) {
    let set = |value: String| Set { concurrency: Concurrency::FirstWrite, ..Set::new("first", value) };
    let outcomes = join_all((0..8).map(|writer| store.set(set(writer.to_string())))).await;
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
        1,
        "one of many creates: {outcomes:?}"
    );
    let before = get(&**store, "first").await.expect("created");
    mismatch(store.set(set("again".into())).await, "a first write of what exists");
    let second = Set { etag: before.etag, ..set("second".into()) };
    store.set(second).await.expect("a first write with the current etag");
    store.delete(Delete::new("first")).await.expect("deleted");
    store.set(set("anew".into())).await.expect("a first write after a deletion");
}

async fn many_at_once(store: &dyn Store) {
    let keys: Vec<String> = (0..40).map(|at| format!("many-{at}")).collect();
    let outcomes = store.set_many(keys.iter().map(|key| Set::new(key, key.clone())).collect()).await;
    assert!(outcomes.len() == 40 && outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let mut asked: Vec<Get> = keys.iter().map(Get::new).collect();
    asked.insert(3, Get::new("many-none"));
    let found = store.get_many(&asked, 4).await;
    for (asked, found) in asked.iter().zip(&found) {
        let found = found.as_ref().unwrap_or_else(|error| panic!("{}: {error}", asked.key));
        let expect = (asked.key != "many-none").then(|| Bytes::from(asked.key.clone()));
        assert_eq!(
            found.as_ref().map(|item| &item.value),
            expect.as_ref(),
            "answers come in the order asked"
        );
    }
    let bad = Set { etag: Some("stale".into()), ..Set::new("many-0", "lost") };
    let outcomes = store.set_many(vec![bad, Set::new("many-1", "won")]).await;
    assert!(outcomes[0].is_err() && outcomes[1].is_ok(), "each write stands alone: {outcomes:?}");
    assert_eq!(value(store, "many-1").await, Some("won".into()));
    let first = |key: &str| Set { concurrency: Concurrency::FirstWrite, ..Set::new(key.to_owned(), "first") };
    let outcomes = store.set_many(vec![first("many-2"), first("many-new")]).await;
    assert!(outcomes[0].is_err() && outcomes[1].is_ok(), "a first write among many: {outcomes:?}");
    let old = Delete { etag: Some(etag(store, "many-1").await), ..Delete::new("many-2") };
    let outcomes = store.delete_many(vec![old, Delete::new("many-new")]).await;
    assert!(outcomes[0].is_err() && outcomes[1].is_ok(), "each deletion stands alone: {outcomes:?}");
    let outcomes = store.delete_many(keys.iter().map(Delete::new).collect()).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(get(store, "many-7").await.is_none());
}

async fn keys_are_listed_in_pages(store: &dyn Store) {
    if !store.features().list {
        return;
    }
    for key in ["list/b", "list/a", "list/c%", "list0", "lis", "list/\u{e9}"] {
        put(store, key, "v").await;
    }
    let page = |after: Option<String>| List { prefix: "list/".into(), after, limit: 3 };
    let first = store.list(&page(None)).await.expect("the first page");
    assert_eq!(first.keys, ["list/a", "list/b", "list/c%"]);
    let second = store.list(&page(first.next)).await.expect("the second page");
    assert_eq!((second.keys, second.next), (vec!["list/\u{e9}".to_owned()], None));
    let all = List { prefix: String::new(), after: None, limit: usize::MAX };
    let all = store.list(&all).await.expect("everything");
    assert!(all.keys.is_sorted() && all.keys.iter().any(|key| key == "lis"));
}

/// Many read, add one and write back under the etag they read; a refused one tries again.
async fn increments_are_not_lost(store: &dyn Store) {
    put(store, "counter", "0").await;
    let worker = || async {
        for _ in 0..10 {
            loop {
                let item = get(store, "counter").await.expect("the counter is there");
                tokio::task::yield_now().await;
                let count: u32 = std::str::from_utf8(&item.value)
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .expect("a number");
                let set = Set { etag: item.etag, ..Set::new("counter", (count + 1).to_string()) };
                match store.set(set).await {
                    Ok(()) => break,
                    Err(Error::EtagMismatch { .. }) => {}
                    Err(error) => panic!("incrementing: {error}"),
                }
            }
        }
    };
    join_all((0..8).map(|_| worker())).await;
    assert_eq!(value(store, "counter").await, Some("80".into()));
}

async fn transactions_run_in_order(store: &dyn Store) {
    put(store, "tx-old", "old").await;
    let steps = vec![
        Operation::Upsert(Set::new("tx-a", "1")),
        Operation::Delete(Delete::new("tx-a")),
        Operation::Upsert(Set::new("tx-a", "2")),
        Operation::Upsert(Set::new("tx-b", "1")),
        Operation::Delete(Delete::new("tx-b")),
        Operation::Delete(Delete::new("tx-old")),
        Operation::Upsert(Set { concurrency: Concurrency::FirstWrite, ..Set::new("tx-old", "new") }),
    ];
    store.transact(steps, Metadata::new()).await.expect("the transaction");
    assert_eq!(value(store, "tx-a").await, Some("2".into()));
    assert_eq!(value(store, "tx-b").await, None);
    assert_eq!(value(store, "tx-old").await, Some("new".into()));
    store.transact(Vec::new(), Metadata::new()).await.expect("an empty transaction does nothing");
}

async fn transactions_are_all_or_nothing(store: &dyn Store) {
    put(store, "atom-a", "a").await;
    put(store, "atom-b", "b").await;
    let stale = etag(store, "atom-a").await;
    put(store, "atom-a", "a").await;
    let before = etag(store, "atom-a").await;
    let steps = vec![
        Operation::Upsert(Set::new("atom-a", "changed")),
        Operation::Delete(Delete::new("atom-b")),
        Operation::Upsert(Set::new("atom-new", "new")),
        Operation::Upsert(Set { etag: Some(stale), ..Set::new("atom-a", "never") }),
    ];
    mismatch(store.transact(steps, Metadata::new()).await, "a transaction with a stale etag");
    assert_eq!(value(store, "atom-a").await, Some("a".into()));
    assert_eq!(value(store, "atom-b").await, Some("b".into()));
    assert_eq!(value(store, "atom-new").await, None);
    assert_eq!(etag(store, "atom-a").await, before, "what was undone leaves no trace");
    let steps = vec![
        Operation::Upsert(Set { etag: Some(before), ..Set::new("atom-a", "done") }),
        Operation::Delete(Delete { etag: Some(etag(store, "atom-b").await), ..Delete::new("atom-b") }),
    ];
    store.transact(steps, Metadata::new()).await.expect("current etags admit it");
    assert_eq!((value(store, "atom-a").await, value(store, "atom-b").await), (Some("done".into()), None));
}

fn with_ttl(key: &str, seconds: u64) -> Set {
    Set { ttl: Ttl::After(Duration::from_secs(seconds)), ..Set::new(key, "v") }
}

async fn values_expire(bench: &Bench, store: &dyn Store) {
    store.set(with_ttl("ttl", 10)).await.expect("written");
    store.transact(vec![Operation::Upsert(with_ttl("ttl-tx", 10))], Metadata::new()).await.expect("written");
    let outcomes = store.set_many(vec![with_ttl("ttl-bulk", 10)]).await;
    assert!(outcomes.iter().all(Result::is_ok));
    put(store, "ttl-none", "v").await;
    let item = get(store, "ttl").await.expect("it lives");
    let expires = item.expires.expect("it says when it will expire");
    assert!(expires > SystemTime::UNIX_EPOCH);
    assert!(get(store, "ttl-none").await.expect("it lives").expires.is_none());
    (bench.advance)(Duration::from_secs(9)).await;
    assert!(get(store, "ttl").await.is_some());
    (bench.advance)(Duration::from_secs(2)).await;
    for key in ["ttl", "ttl-tx", "ttl-bulk"] {
        assert!(get(store, key).await.is_none(), "{key} has expired");
    }
    assert!(get(store, "ttl-none").await.is_some());
    if store.features().list {
        let page = store.list(&List { prefix: "ttl".into(), after: None, limit: 10 }).await.expect("a page");
        assert_eq!(page.keys, ["ttl-none"]);
    }
    mismatch(
        store.set(Set { etag: item.etag, ..Set::new("ttl", "v") }).await,
        "the etag of an expired value",
    );
    let anew = Set { concurrency: Concurrency::FirstWrite, ..Set::new("ttl", "v") };
    store.set(anew).await.expect("an expired key may be created again");
}

async fn expiry_is_cleared(bench: &Bench, store: &dyn Store) {
    for key in ["clear-never", "clear-longer", "clear-deleted"] {
        store.set(with_ttl(key, 10)).await.expect("written");
    }
    store.set(Set { ttl: Ttl::Never, ..Set::new("clear-never", "v") }).await.expect("written");
    store.set(with_ttl("clear-longer", 100)).await.expect("written");
    store.delete(Delete::new("clear-deleted")).await.expect("deleted");
    put(store, "clear-deleted", "v").await;
    assert!(get(store, "clear-never").await.expect("it lives").expires.is_none());
    (bench.advance)(Duration::from_secs(11)).await;
    for key in ["clear-never", "clear-longer", "clear-deleted"] {
        assert!(get(store, key).await.is_some(), "{key} lives on");
    }
}

async fn values_survive_a_restart(bench: &mut Bench, store: Arc<dyn Store>) {
    put(&*store, "kept", "v").await;
    store.set(with_ttl("kept-for-a-while", 10)).await.expect("written");
    let before = etag(&*store, "kept").await;
    drop(store);
    bench.restart().await;
    let store = bench.component.serves.state.clone().expect("the component serves state");
    let item = get(&*store, "kept").await.expect("it survived");
    assert_eq!((item.value, item.etag), ("v".into(), Some(before)));
    assert!(get(&*store, "kept-for-a-while").await.is_some());
    (bench.advance)(Duration::from_secs(11)).await;
    assert!(get(&*store, "kept-for-a-while").await.is_none(), "a limit survives too");
}
