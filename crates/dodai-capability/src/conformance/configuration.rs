//! The suite for configuration stores that operators can write to.

use std::sync::Arc;

use super::{Bench, soon};
use crate::configuration::{Item, Store, Subscription, Writer};
use crate::metadata::Metadata;

/// Runs every case.
pub async fn run(bench: &mut Bench, durable: bool) {
    let (store, writer) = served(bench);
    values_are_read_by_key(&*store, &*writer).await;
    changes_are_told(&*store, &*writer).await;
    if durable {
        drop((store, writer));
        values_survive_a_restart(bench).await;
    }
    closing_ends_feeds(bench).await;
}

fn served(bench: &Bench) -> (Arc<dyn Store>, Arc<dyn Writer>) {
    let serves = &bench.component.serves;
    let store = serves.configuration.clone().expect("the component serves configuration");
    (store, serves.configuration_writer.clone().expect("operators can write to it"))
}

async fn set(writer: &dyn Writer, key: &str, value: &str) -> Item {
    writer.set(key, value, Metadata::new()).await.unwrap_or_else(|error| panic!("setting {key}: {error}"))
}

fn keys(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

async fn values_are_read_by_key(store: &dyn Store, writer: &dyn Writer) {
    let none = Metadata::new();
    let metadata = Metadata::from([("owner".into(), "shop".into())]);
    let first = writer.set("a", "1", metadata.clone()).await.expect("set");
    assert_eq!((first.value.as_str(), &first.metadata), ("1", &metadata));
    set(writer, "b", "gr\u{fc}n").await;
    let found = store.get(&keys(&["a", "none"]), &none).await.expect("read");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [("a".to_owned(), first.clone())]);
    let second = set(writer, "a", "2").await;
    assert_ne!(first.version, second.version, "a change makes a new version");
    let all = store.get(&[], &none).await.expect("read");
    assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert!(writer.delete("b").await.expect("deleted"));
    assert!(!writer.delete("b").await.expect("nothing to delete"));
    assert_eq!(store.get(&[], &none).await.expect("read").len(), 1);
}

/// Reads the feed until `key` is told to be `value`; fails if it tells of a key that `allowed` does not know.
async fn told(feed: &mut Subscription, key: &str, value: Option<&str>, allowed: &[&str]) {
    loop {
        let changes = soon("a change", feed.next()).await.expect("the feed is open").expect("no lag");
        for change in changes {
            assert!(allowed.contains(&change.key.as_str()), "not asked for: {}", change.key);
            if change.key == key && change.item.as_ref().map(|item| item.value.as_str()) == value {
                return;
            }
        }
    }
}

async fn changes_are_told(store: &dyn Store, writer: &dyn Writer) {
    let none = Metadata::new();
    let mut some = store.subscribe(&keys(&["x", "y"]), &none).await.expect("subscribed");
    let mut all = store.subscribe(&[], &none).await.expect("subscribed");
    set(writer, "x", "1").await;
    told(&mut some, "x", Some("1"), &["x", "y"]).await;
    set(writer, "z", "1").await;
    set(writer, "x", "2").await;
    set(writer, "x", "3").await;
    told(&mut some, "x", Some("3"), &["x", "y"]).await;
    told(&mut all, "x", Some("3"), &["a", "b", "x", "z"]).await;
    assert!(writer.delete("x").await.expect("deleted"));
    told(&mut some, "x", None, &["x", "y"]).await;
    set(writer, "x", "back").await;
    told(&mut some, "x", Some("back"), &["x", "y"]).await;
}

async fn values_survive_a_restart(bench: &mut Bench) {
    let (store, writer) = served(bench);
    let before = set(&*writer, "kept", "v").await;
    set(&*writer, "dropped", "v").await;
    writer.delete("dropped").await.expect("deleted");
    drop((store, writer));
    bench.restart().await;
    let (store, writer) = served(bench);
    let found = store.get(&keys(&["kept", "dropped"]), &Metadata::new()).await.expect("read");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [("kept".to_owned(), before.clone())]);
    assert_ne!(set(&*writer, "kept", "w").await.version, before.version);
}

async fn closing_ends_feeds(bench: &Bench) {
    let (store, writer) = served(bench);
    let mut feed = store.subscribe(&keys(&["never set"]), &Metadata::new()).await.expect("subscribed");
    let (end, ()) = soon("the end", async { tokio::join!(feed.next(), bench.component.close()) }).await;
    assert!(end.is_none());
    assert_eq!(writer.set("a", "1", Metadata::new()).await.expect_err("closed").code(), "closed");
}
