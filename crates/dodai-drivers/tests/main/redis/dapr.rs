//! Layouts are those of Dapr's components: what it wrote is read, and ours is as it would write it.

use std::collections::BTreeMap;
use std::time::Duration;

use dodai_capability::Metadata;
use dodai_capability::lock::Outcome;
use dodai_capability::metadata::Ttl;
use dodai_capability::pubsub::{Publish, Subscribe, Verdict};
use dodai_capability::state::{Concurrency, Get, Set, Store};

use super::open;
use crate::servers::Redis;

/// Runs a command as somebody else would.
fn run<T: redis::FromRedisValue>(redis: &Redis, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    words[1..].iter().for_each(|word| {
        command.arg(word);
    });
    command.query(&mut redis.admin()).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

async fn found(store: &dyn Store, key: &str) -> Option<(Vec<u8>, Option<String>)> {
    let item = store.get(&Get::new(key)).await.unwrap_or_else(|error| panic!("{error}"))?;
    Some((item.value.to_vec(), item.etag.map(|etag| etag.to_string())))
}

#[tokio::test(flavor = "multi_thread")]
async fn state() {
    let redis = Redis::start();
    run::<i64>(&redis, &["HSET", "shop||cart", "data", r#"{"items":3}"#, "version", "7"]);
    run::<i64>(&redis, &["HSET", "shop||first", "data", "1", "version", "1", "first-write", "0"]);
    run::<()>(&redis, &["SET", "shop||old", "from before there were hashes"]);
    let component = open("state.redis", &redis).await;
    let store = component.serves.state.clone().expect("state");

    assert_eq!(found(&*store, "shop||cart").await, Some((br#"{"items":3}"#.to_vec(), Some("7".into()))));
    assert_eq!(found(&*store, "shop||old").await, Some((b"from before there were hashes".to_vec(), None)));
    let set = Set { etag: Some("7".into()), ..Set::new("shop||cart", "{}") };
    store.set(set).await.expect("its version admits the write");
    store.set(Set::new("shop||old", "a hash now")).await.expect("written");
    let set = Set { concurrency: Concurrency::FirstWrite, ..Set::new("shop||new", "1") };
    store.set(set).await.expect("a first write");
    let ttl = Ttl::After(Duration::from_secs(100));
    store.set(Set { ttl, ..Set::new("shop||short", "1") }).await.expect("written");

    let hash = |key: &str| run::<BTreeMap<String, String>>(&redis, &["HGETALL", key]);
    assert_eq!(
        hash("shop||cart"),
        BTreeMap::from([("data".into(), "{}".into()), ("version".into(), "8".into())])
    );
    assert_eq!(hash("shop||old")["data"], "a hash now");
    let new = hash("shop||new");
    assert_eq!((&*new["data"], &*new["first-write"]), ("1", "0"));
    assert!(new["version"].parse::<i64>().expect("a number that Dapr counts on") > 0);
    assert!((1..=100).contains(&run::<i64>(&redis, &["TTL", "shop||short"])));
    assert_eq!(run::<i64>(&redis, &["TTL", "shop||cart"]), -1);
    let malformed = store.set(Set { etag: Some("seven".into()), ..Set::new("shop||cart", "{}") }).await;
    assert_eq!(malformed.expect_err("no version").code(), "state_etag_malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn pubsub() {
    let redis = Redis::start();
    run::<()>(&redis, &["XGROUP", "CREATE", "orders", "shop", "0", "MKSTREAM"]);
    let metadata = r#"{"rawPayload":"true"}"#;
    run::<String>(&redis, &["XADD", "orders", "*", "data", "from Dapr", "metadata", metadata]);
    run::<String>(&redis, &["XADD", "orders", "*", "data", "held by Dapr"]);
    let component = open("pubsub.redis", &redis).await;
    let broker = component.serves.pubsub.clone().expect("pubsub");
    let mut subscription = broker.subscribe(Subscribe::new("orders", "shop")).await.expect("joined");
    let delivery = subscription.next().await.expect("open").expect("a delivery");
    assert_eq!((&*delivery.message.data, delivery.attempt), (&b"from Dapr"[..], 1));
    assert_eq!(delivery.message.metadata, Metadata::from([("rawPayload".into(), "true".into())]));
    delivery.settle(Verdict::Ack).await.expect("settled");
    // Another process, Dapr's perhaps, takes the next and settles it.
    type Read = Vec<(String, Vec<(String, BTreeMap<String, String>)>)>;
    let read = ["XREADGROUP", "GROUP", "shop", "shop", "COUNT", "1", "STREAMS", "orders", ">"];
    let taken: Read = run(&redis, &read);
    assert_eq!(taken[0].1[0].1["data"], "held by Dapr");
    run::<i64>(&redis, &["XACK", "orders", "shop", &taken[0].1[0].0]);

    let metadata = Metadata::from([("cloudevent.type".into(), "t".into())]);
    broker.publish(Publish { metadata, ..Publish::new("orders", "ours") }).await.expect("published");
    let taken: Read = run(&redis, &read);
    let fields = &taken[0].1[0].1;
    assert_eq!((&*fields["data"], &*fields["metadata"]), ("ours", r#"{"cloudevent.type":"t"}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_and_locks() {
    let redis = Redis::start();
    run::<()>(&redis, &["SET", "colour", "green||4"]);
    run::<()>(&redis, &["SET", "plain", "no version"]);
    run::<i64>(&redis, &["HSET", "shop||cart", "data", "1", "version", "1"]);
    let component = open("configuration.redis", &redis).await;
    let store = component.serves.configuration.clone().expect("configuration");
    let all = store.get(&[], &Metadata::new()).await.expect("read");
    let seen: Vec<_> = all.iter().map(|(key, item)| (&**key, &*item.value, &*item.version)).collect();
    assert_eq!(seen, [("colour", "green", "4"), ("plain", "no version", "")]);
    let writer = component.serves.configuration_writer.clone().expect("a writer");
    writer.set("colour", "blue", Metadata::new()).await.expect("set");
    assert_eq!(run::<String>(&redis, &["GET", "colour"]), "blue||5");
    let refused = writer.set("colour", "a||b", Metadata::new()).await.expect_err("ambiguous");
    assert_eq!(refused.code(), "invalid");

    let component = open("lock.redis", &redis).await;
    let locks = component.serves.lock.clone().expect("locks");
    let minute = Duration::from_secs(60);
    assert!(matches!(locks.try_lock("r", "me", minute).await, Ok(Outcome::Acquired { .. })));
    assert_eq!(run::<String>(&redis, &["GET", "r"]), "me");
    assert!((59_000..=60_000).contains(&run::<i64>(&redis, &["PTTL", "r"])));
    run::<()>(&redis, &["SET", "theirs", "dapr", "PX", "60000"]);
    assert!(matches!(locks.try_lock("theirs", "me", minute).await, Ok(Outcome::Held)));
}
