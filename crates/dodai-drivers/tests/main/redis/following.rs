//! Configuration among keys that are none.

use std::time::Duration;

use dodai_capability::Metadata;
use dodai_capability::configuration::{Change, Subscription};

use super::{opened, spec};
use crate::servers::Redis;

const PATIENCE: Duration = Duration::from_secs(30);

fn set(redis: &Redis, key: &[u8], value: &[u8]) {
    redis::cmd("SET").arg(key).arg(value).exec(&mut redis.admin()).expect("set");
}

async fn told(feed: &mut Subscription) -> Vec<(String, Option<String>)> {
    let changes = tokio::time::timeout(PATIENCE, feed.next()).await.expect("a change is told");
    let changes = changes.expect("open").expect("no lag");
    changes.into_iter().map(|Change { key, item }| (key, item.map(|item| item.value))).collect()
}

fn one(key: &str, value: Option<&str>) -> Vec<(String, Option<String>)> {
    vec![(key.to_owned(), value.map(str::to_owned))]
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_followed_by_name_whatever_else_the_database_has() {
    let redis = Redis::start();
    let component = opened(spec("configuration.redis", &redis).with("maxItems", "5")).await;
    let store = component.serves.configuration.clone().expect("configuration");
    set(&redis, b"colour", b"green||1");
    set(&redis, b"gone", b"soon||1");
    (0..20).for_each(|at| set(&redis, format!("cache-{at}").as_bytes(), b"x"));
    set(&redis, b"\xff\xfe", b"no key");
    set(&redis, b"bytes", b"\xff\xfe");
    let keys = ["colour", "bytes", "new"].map(str::to_owned);
    let found = store.get(&keys, &Metadata::new()).await.expect("read");
    assert_eq!(found.keys().collect::<Vec<_>>(), ["colour"]);
    let mut feed = store.subscribe(&keys, &Metadata::new()).await.expect("subscribed");
    let mut other = store.subscribe(&["gone".to_owned()], &Metadata::new()).await.expect("subscribed");
    set(&redis, b"\xff\xfe", b"still none");
    set(&redis, b"bytes", b"\xff\xfd");
    (0..20).for_each(|at| set(&redis, format!("cache-{at}").as_bytes(), b"y"));
    set(&redis, b"colour", b"blue||2");
    assert_eq!(told(&mut feed).await, one("colour", Some("blue")));
    set(&redis, b"new", b"now||1");
    assert_eq!(told(&mut feed).await, one("new", Some("now")));
    // A deletion is known from what was there when the feed began, also when it is missed.
    redis.cut();
    redis::cmd("DEL").arg("gone").exec(&mut redis.admin()).expect("deleted");
    assert_eq!(told(&mut other).await, one("gone", None));
    let refused = store.subscribe(&[], &Metadata::new()).await.err().expect("too many to follow all");
    assert_eq!(refused.code(), "full");
    set(&redis, b"colour", b"red||3");
    assert_eq!(told(&mut feed).await, one("colour", Some("red")), "the others go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keys_are_followed_but_those_that_are_no_text() {
    let redis = Redis::start();
    let component = opened(spec("configuration.redis", &redis)).await;
    let store = component.serves.configuration.clone().expect("configuration");
    set(&redis, b"colour", b"green||1");
    set(&redis, b"\xff\xfe", b"no key");
    set(&redis, b"bytes", b"\xff\xfe");
    let found = store.get(&[], &Metadata::new()).await.expect("read");
    assert_eq!(found.keys().collect::<Vec<_>>(), ["colour"]);
    let mut feed = store.subscribe(&[], &Metadata::new()).await.expect("subscribed");
    set(&redis, b"\xff\xfe", b"still none");
    set(&redis, b"colour", b"blue||2");
    assert_eq!(told(&mut feed).await, one("colour", Some("blue")));
}
