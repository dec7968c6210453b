//! Two processes over one file. Each registry has connections of its own, so two of them stand for two processes.

use std::path::Path;
use std::time::Duration;

use dodai_capability::component::{Component, Context, Spec};
use dodai_capability::lock::{Outcome, Release};
use dodai_capability::metadata::Metadata;
use dodai_capability::pubsub::{Publish, Subscribe, Subscription, Verdict};
use dodai_capability::state::{Get, Set};

use crate::registry;

async fn open(dir: &Path, kind: &str) -> Component {
    let spec = Spec::new("shared", kind).with("connectionString", "shop.db");
    let spec = if kind == "state.sqlite" || kind == "lock.sqlite" {
        spec
    } else {
        spec.with("pollInterval", "10ms")
    };
    registry(dir, &[]).open(spec, &Context::default()).await.unwrap_or_else(|error| panic!("{error}"))
}

async fn both(dir: &Path, kind: &str) -> (Component, Component) {
    (open(dir, kind).await, open(dir, kind).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_of_both_count() {
    let dir = tempfile::tempdir().expect("a folder");
    let (one, two) = both(dir.path(), "state.sqlite").await;
    let increment = async |component: &Component| {
        let store = component.serves.state.clone().expect("state");
        for _ in 0..10 {
            loop {
                let item = store.get(&Get::new("n")).await.expect("read").expect("there");
                let count: u32 = std::str::from_utf8(&item.value).expect("text").parse().expect("a number");
                let set = Set { etag: item.etag, ..Set::new("n", (count + 1).to_string()) };
                match store.set(set).await {
                    Ok(()) => break,
                    Err(error) => assert_eq!(error.code(), "state_etag_mismatch", "{error}"),
                }
            }
        }
    };
    one.serves.state.clone().expect("state").set(Set::new("n", "0")).await.expect("written");
    tokio::join!(increment(&one), increment(&two));
    let store = one.serves.state.clone().expect("state");
    assert_eq!(store.get(&Get::new("n")).await.expect("read").map(|item| item.value), Some("20".into()));
}

async fn consume(subscription: &mut Subscription, until: &std::sync::atomic::AtomicU32) -> Vec<u32> {
    use std::sync::atomic::Ordering;
    let mut seen = Vec::new();
    while until.load(Ordering::Acquire) > 0 {
        // Whoever has nothing to do looks whether the other has finished.
        let Ok(delivery) = tokio::time::timeout(Duration::from_millis(100), subscription.next()).await else {
            continue;
        };
        let delivery = delivery.expect("open").expect("a delivery");
        seen.push(std::str::from_utf8(&delivery.message.data).expect("text").parse().expect("a number"));
        delivery.settle(Verdict::Ack).await.expect("settled");
        until.fetch_sub(1, Ordering::AcqRel);
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_group_compete_across_processes() {
    let dir = tempfile::tempdir().expect("a folder");
    let (one, two) = both(dir.path(), "pubsub.sqlite").await;
    let (one, two) = (one.serves.pubsub.expect("pubsub"), two.serves.pubsub.expect("pubsub"));
    let mut here = one.subscribe(Subscribe::new("t", "g")).await.expect("joined");
    let mut there = two.subscribe(Subscribe::new("t", "g")).await.expect("joined");
    let left = std::sync::atomic::AtomicU32::new(40);
    let publish = async {
        for at in 0..40 {
            one.publish(Publish::new("t", at.to_string())).await.expect("published");
        }
    };
    let consume = async { tokio::join!(consume(&mut here, &left), consume(&mut there, &left), publish) };
    let (a, b, ()) = tokio::time::timeout(Duration::from_secs(60), consume).await.expect("all are consumed");
    let mut all = [a, b].concat();
    all.sort_unstable();
    assert_eq!(all, (0..40).collect::<Vec<_>>(), "each message was delivered once");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_and_locks_reach_the_other_process() {
    let dir = tempfile::tempdir().expect("a folder");
    let (one, two) = both(dir.path(), "configuration.sqlite").await;
    let store = two.serves.configuration.clone().expect("configuration");
    let mut feed = store.subscribe(&["colour".to_owned()], &Metadata::new()).await.expect("subscribed");
    let writer = one.serves.configuration_writer.clone().expect("a writer");
    writer.set("colour", "green", Metadata::new()).await.expect("set");
    let changes = tokio::time::timeout(Duration::from_secs(60), feed.next()).await.expect("told");
    let changes = changes.expect("open").expect("no lag");
    assert_eq!(changes[0].item.as_ref().map(|item| item.value.as_str()), Some("green"));

    let (one, two) = both(dir.path(), "lock.sqlite").await;
    let (one, two) = (one.serves.lock.expect("locks"), two.serves.lock.expect("locks"));
    let minute = Duration::from_secs(60);
    assert!(matches!(one.try_lock("r", "a", minute).await, Ok(Outcome::Acquired { .. })));
    assert!(matches!(two.try_lock("r", "b", minute).await, Ok(Outcome::Held)));
    assert!(matches!(two.unlock("r", "b").await, Ok(Release::BelongsToOthers)));
    assert!(matches!(one.unlock("r", "a").await, Ok(Release::Success)));
    assert!(matches!(two.try_lock("r", "b", minute).await, Ok(Outcome::Acquired { .. })));
}
