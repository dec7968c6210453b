//! What a driver must keep while its server is killed and its connections are cut under load: what it acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dodai_capability::Metadata;
use dodai_capability::component::Component;
use dodai_capability::configuration::Item;
use dodai_capability::lock::{self, Outcome, Release};
use dodai_capability::pubsub::{Broker, Publish, Subscribe, Verdict};
use dodai_capability::state::{Get, Set, Store};
use tokio::sync::watch;

/// How long a load may take, upsets included.
const PATIENCE: Duration = Duration::from_secs(120);
const WRITERS: u32 = 4;
/// Acknowledged writes of each.
const WRITES: u32 = 150;
/// Values that each key of a configuration is set to in one round.
const SETTINGS: u32 = 40;

/// Does `upset` each time when another part of the load is done, so often.
async fn upset_along(mut done: watch::Receiver<u32>, all: u32, times: u32, mut upset: impl AsyncFnMut()) {
    for time in 1..=times {
        let part = all * time / (times + 1);
        done.wait_for(|done| *done >= part).await.expect("the load goes on");
        upset().await;
    }
}

/// Writes under load; every write that was acknowledged is there in the end.
pub async fn writes(store: Arc<dyn Store>, times: u32, upset: impl AsyncFnMut()) {
    let done = watch::Sender::new(0);
    let failed = watch::Sender::new(0_u32);
    let write = async |writer: u32| {
        for at in 0..WRITES {
            let key = format!("load-{writer}-{at}");
            // A write that failed may have been done; it is written again until it is acknowledged.
            while let Err(error) = store.set(Set::new(&key, key.clone())).await {
                assert!(matches!(error.code(), "unavailable" | "timeout" | "busy"), "{error}");
                failed.send_modify(|count| *count += 1);
            }
            // Read at once: it is there.
            if let Ok(found) = store.get(&Get::new(&key)).await {
                assert_eq!(found.map(|item| item.value), Some(key.clone().into()), "{key} after its write");
            }
            done.send_modify(|count| *count += 1);
        }
    };
    let load = async { futures_util::future::join_all((0..WRITERS).map(&write)).await };
    let along = upset_along(done.subscribe(), WRITERS * WRITES, times, upset);
    tokio::time::timeout(PATIENCE, async { tokio::join!(load, along) }).await.expect("in time");
    for writer in 0..WRITERS {
        for at in 0..WRITES {
            let key = format!("load-{writer}-{at}");
            let found = store.get(&Get::new(&key)).await.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(found.map(|item| item.value), Some(key.clone().into()), "{key} was acknowledged");
        }
    }
}

/// Publishes and consumes under load; every message that was acknowledged arrives.
pub async fn messages(broker: Arc<dyn Broker>, times: u32, upset: impl AsyncFnMut()) {
    const MESSAGES: u32 = 600;
    let lease = Duration::from_secs(2);
    let request = Subscribe { lease, ..Subscribe::new("load", "g") };
    let mut subscription = broker.subscribe(request).await.expect("joined");
    let done = watch::Sender::new(0);
    let publish = async {
        for at in 0..MESSAGES {
            while let Err(error) = broker.publish(Publish::new("load", at.to_string())).await {
                assert!(matches!(error.code(), "unavailable" | "timeout" | "busy"), "{error}");
            }
            done.send_modify(|count| *count += 1);
        }
    };
    let consume = async {
        let mut seen = BTreeSet::new();
        while seen.len() < MESSAGES as usize {
            // A failure of the server is told; the subscription goes on.
            let Ok(delivery) = subscription.next().await.expect("the subscription is open") else { continue };
            let data = std::str::from_utf8(&delivery.message.data).expect("text").to_owned();
            if delivery.settle(Verdict::Ack).await.is_ok() {
                seen.insert(data);
            }
        }
    };
    let along = upset_along(done.subscribe(), MESSAGES, times, upset);
    tokio::time::timeout(PATIENCE, async { tokio::join!(publish, consume, along) }).await.expect("in time");
}

/// Sets keys that somebody follows, round by round; after each upset the follower is told what was set last, and nothing
/// out of its order.
pub async fn configuration(component: &Component, times: u32, mut upset: impl AsyncFnMut()) {
    let store = component.serves.configuration.clone().expect("configuration");
    let writer = component.serves.configuration_writer.clone().expect("a writer");
    let keys: Vec<String> = (0..WRITERS).map(|key| format!("load-{key}")).collect();
    let mut feed = store.subscribe(&keys, &Metadata::new()).await.expect("subscribed");
    let mut seen: BTreeMap<String, Item> = BTreeMap::new();
    for round in 1..=times {
        let done = watch::Sender::new(0);
        let set = async |key: &String| {
            for at in 0..SETTINGS {
                let value = format!("{round}-{at}");
                while let Err(error) = writer.set(key, &value, Metadata::new()).await {
                    assert!(matches!(error.code(), "unavailable" | "timeout" | "busy"), "{error}");
                }
                done.send_modify(|count| *count += 1);
            }
        };
        let last = format!("{round}-{}", SETTINGS - 1);
        let load = async { futures_util::future::join_all(keys.iter().map(&set)).await };
        let told = async {
            while keys.iter().any(|key| seen.get(key).is_none_or(|item| item.value != last)) {
                for change in feed.next().await.expect("open").expect("no lag") {
                    let item = change.item.expect("nobody deletes it");
                    let version = |item: &Item| item.version.parse::<u64>().expect("a number");
                    if let Some(before) = seen.get(&change.key) {
                        assert!(
                            version(before) < version(&item),
                            "{}: {before:?}, then {item:?}",
                            change.key
                        );
                    }
                    seen.insert(change.key, item);
                }
            }
        };
        let along = upset_along(done.subscribe(), WRITERS * SETTINGS, 1, &mut upset);
        let all = async { tokio::join!(load, told, along) };
        tokio::time::timeout(PATIENCE, all).await.expect("the last of each round is told in time");
        let found = store.get(&keys, &Metadata::new()).await.expect("read");
        assert_eq!(found, seen, "what was told is what is there");
    }
}

/// What is known of a lock from what was acknowledged.
#[derive(Default)]
struct Holding {
    /// Who has it, and until when at least.
    by: Option<(String, Instant)>,
    token: u64,
}

/// Owners race for one lock; while one has it that was told so, nobody else is told the same.
pub async fn locks(store: Arc<dyn lock::Store>, times: u32, upset: impl AsyncFnMut()) {
    const TURNS: u32 = 200;
    /// The server counts in whole milliseconds.
    const ROUNDING: Duration = Duration::from_millis(10);
    let held = Mutex::new(Holding::default());
    let (done, turns) = (watch::Sender::new(0), AtomicU32::new(0));
    let race = async |owner: u32| {
        let owner = format!("owner-{owner}");
        while turns.load(Ordering::SeqCst) < TURNS {
            // Now and then one is left to expire.
            let leaves = turns.load(Ordering::SeqCst) % 10 == 9;
            let expiry = Duration::from_millis(if leaves { 200 } else { 1_000 });
            let asked = Instant::now();
            let token = match store.try_lock("door", &owner, expiry).await {
                Ok(Outcome::Acquired { token }) => token,
                Ok(Outcome::Held) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Err(error) => {
                    assert!(matches!(error.code(), "unavailable" | "timeout" | "busy"), "{error}");
                    continue;
                }
            };
            // On the server its time runs from later than that.
            let until = asked + expiry.saturating_sub(ROUNDING);
            {
                let mut held = held.lock().expect("no panic");
                if until <= Instant::now() {
                    // The answer came too late to be worth anything.
                    continue;
                }
                if let Some((other, until)) = &held.by {
                    assert!(*until <= Instant::now(), "{owner} has it, and {other} has it still");
                }
                assert!(held.token < token, "token {token} came after {}", held.token);
                *held = Holding { by: Some((owner.clone(), until)), token };
            }
            turns.fetch_add(1, Ordering::SeqCst);
            done.send_modify(|count| *count += 1);
            if leaves {
                continue;
            }
            held.lock().expect("no panic").by = None;
            let mut told = false;
            loop {
                match store.unlock("door", &owner).await {
                    Ok(Release::Success) => break,
                    // The answer to an earlier try was lost, and somebody may have it by now.
                    Ok(_) if told => break,
                    Ok(other) => {
                        assert!(until <= Instant::now(), "{owner} had it: {other:?}");
                        break;
                    }
                    Err(error) => {
                        assert!(matches!(error.code(), "unavailable" | "timeout" | "busy"), "{error}");
                        told = true;
                    }
                }
            }
        }
    };
    let load = async { futures_util::future::join_all((0..WRITERS).map(&race)).await };
    let along = upset_along(done.subscribe(), TURNS, times, upset);
    tokio::time::timeout(PATIENCE, async { tokio::join!(load, along) }).await.expect("in time");
}
