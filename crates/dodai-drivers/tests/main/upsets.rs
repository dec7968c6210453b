//! What a driver must keep while its server is killed and its connections are cut under load: what it acknowledged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dodai_capability::pubsub::{Broker, Publish, Subscribe, Verdict};
use dodai_capability::state::{Get, Set, Store};
use tokio::sync::watch;

/// How long a load may take, upsets included.
const PATIENCE: Duration = Duration::from_secs(120);
const WRITERS: u32 = 4;
/// Acknowledged writes of each.
const WRITES: u32 = 150;

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
