//! The Redis drivers against a real server.

mod dapr;
mod following;
mod messages;
mod refusals;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use dodai_capability::component::{Component, Context, Spec};
use dodai_capability::conformance::{self, Bench};
use dodai_capability::metadata::Metadata;

use crate::servers::Redis;
use crate::{does_as_its_type_says, registry, upsets};

/// Lets time pass for everything that the server keeps: what expires and what is pending.
const ADVANCE: &str = "\
local by = tonumber(ARGV[1])
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  if left >= 0 then redis.call('PEXPIRE', key, left - by) end
  if redis.call('TYPE', key).ok == 'stream' then
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
      for _, held in ipairs(redis.call('XPENDING', key, group[2], '-', '+', 10000)) do
        redis.call('XCLAIM', key, group[2], held[2], 0, held[1], 'IDLE', held[3] + by, 'JUSTID')
      end
    end
  end
end
return 0";

fn spec(kind: &str, redis: &Redis) -> Spec {
    let spec = Spec::new("under-test", kind).with("redisHost", redis.host());
    if kind == "pubsub.redis" { spec.with("redeliverInterval", "50ms") } else { spec }
}

async fn open(kind: &str, redis: &Redis) -> Component {
    let component = opened(spec(kind, redis)).await;
    assert!(component.warnings.is_empty(), "{:?}", component.warnings);
    component
}

async fn opened(spec: Spec) -> Component {
    let registry = registry(std::path::Path::new("."), &[]);
    let component = registry.open(spec, &Context::default()).await.unwrap_or_else(|error| panic!("{error}"));
    does_as_its_type_says(&registry, &component);
    component
}

async fn bench(kind: &'static str, redis: &Redis) -> Bench {
    let (spec, port) = (spec(kind, redis), redis.port);
    Bench {
        component: opened(spec.clone()).await,
        reopen: Box::new(move || Box::pin(opened(spec.clone()))),
        advance: Box::new(move |by| {
            advance(port, by);
            Box::pin(std::future::ready(()))
        }),
    }
}

fn advance(port: u16, by: Duration) {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).expect("an address");
    let mut admin = client.get_connection().expect("connected");
    let millis = by.as_millis().to_string();
    redis::cmd("EVAL").arg(ADVANCE).arg(0).arg(millis).exec(&mut admin).expect("time passes");
}

#[tokio::test(flavor = "multi_thread")]
async fn state() {
    let redis = Redis::start();
    conformance::state::run(&mut bench("state.redis", &redis).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pubsub() {
    let redis = Redis::start();
    conformance::pubsub::run(&mut bench("pubsub.redis", &redis).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration() {
    let redis = Redis::start();
    conformance::configuration::run(&mut bench("configuration.redis", &redis).await, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lock() {
    let redis = Redis::start();
    conformance::lock::run(&bench("lock.redis", &redis).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_a_server_that_is_killed() {
    let mut redis = Redis::start();
    let store = open("state.redis", &redis).await.serves.state.clone().expect("state");
    upsets::writes(store, 2, async || {
        redis.down();
        redis.up();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_cut_connections() {
    let redis = Redis::start();
    let store = open("state.redis", &redis).await.serves.state.clone().expect("state");
    upsets::writes(store, 10, async || redis.cut()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_messages_survive_a_server_that_is_killed() {
    let mut redis = Redis::start();
    let broker = open("pubsub.redis", &redis).await.serves.pubsub.clone().expect("pubsub");
    upsets::messages(broker, 2, async || {
        redis.down();
        redis.up();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_messages_survive_cut_connections() {
    let redis = Redis::start();
    let broker = open("pubsub.redis", &redis).await.serves.pubsub.clone().expect("pubsub");
    upsets::messages(broker, 10, async || redis.cut()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_are_told_the_last_value_whatever_befalls_the_server() {
    let mut redis = Redis::start();
    let component = open("configuration.redis", &redis).await;
    upsets::configuration(&component, 4, async || redis.cut()).await;
    let restart = async || {
        redis.down();
        redis.up();
    };
    upsets::configuration(&component, 2, restart).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_never_given_twice_whatever_befalls_the_server() {
    let mut redis = Redis::start();
    let locks = open("lock.redis", &redis).await.serves.lock.clone().expect("locks");
    upsets::locks(locks.clone(), 8, async || redis.cut()).await;
    let restart = async || {
        redis.down();
        redis.up();
    };
    upsets::locks(locks, 2, restart).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_while_the_server_is_away_are_told_when_it_is_back() {
    let mut redis = Redis::start();
    let component = open("configuration.redis", &redis).await;
    let store = component.serves.configuration.clone().expect("configuration");
    redis::cmd("SET").arg(&["colour", "green||1"]).exec(&mut redis.admin()).expect("set");
    redis::cmd("SET").arg(&["gone", "soon||1"]).exec(&mut redis.admin()).expect("set");
    let mut feed = store.subscribe(&[], &Metadata::new()).await.expect("subscribed");
    redis.cut();
    redis::cmd("SET").arg(&["colour", "blue||2"]).exec(&mut redis.admin()).expect("set");
    redis::cmd("DEL").arg("gone").exec(&mut redis.admin()).expect("deleted");
    redis.down();
    redis.up();
    let mut seen = std::collections::BTreeMap::new();
    let told = async {
        while seen.len() < 2 {
            for change in feed.next().await.expect("open").expect("no lag") {
                seen.insert(change.key, change.item.map(|item| (item.value, item.version)));
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("both changes are told");
    assert_eq!(seen["colour"], Some(("blue".to_owned(), "2".to_owned())));
    assert_eq!(seen["gone"], None);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_in_two_processes_share_a_group() {
    use dodai_capability::pubsub::{Publish, Subscribe, Verdict};
    let redis = Redis::start();
    let (one, two) = (open("pubsub.redis", &redis).await, open("pubsub.redis", &redis).await);
    let (one, two) = (one.serves.pubsub.clone().expect("pubsub"), two.serves.pubsub.clone().expect("pubsub"));
    let mut there = two.subscribe(Subscribe::new("t", "g")).await.expect("joined");
    for at in 0..40 {
        one.publish(Publish::new("t", at.to_string())).await.expect("published");
        let delivery = tokio::time::timeout(Duration::from_secs(20), there.next()).await.expect("it comes");
        let delivery = delivery.expect("open").expect("a delivery");
        assert_eq!((delivery.attempt, &*delivery.message.data), (1, at.to_string().as_bytes()));
        delivery.settle(Verdict::Ack).await.expect("settled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_whose_redis_is_away_does_not_open_and_says_where_it_looked() {
    let port = crate::servers::free_port();
    let spec = Spec::new("stock", "state.redis").with("redisHost", format!("127.0.0.1:{port}"));
    let registry = registry(std::path::Path::new("."), &[]);
    let error = registry.open(spec, &Context::default()).await.expect_err("nobody is there").to_string();
    assert!(error.contains("`stock`") && error.contains(&format!("127.0.0.1:{port}")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_during_an_outage_end_soon_and_name_the_server() {
    let mut redis = Redis::start();
    let component = open("state.redis", &redis).await;
    let store: Arc<dyn dodai_capability::state::Store> = component.serves.state.clone().expect("state");
    redis.down();
    let get = dodai_capability::state::Get::new("k");
    let outcome = tokio::time::timeout(Duration::from_secs(20), store.get(&get)).await.expect("bounded");
    let error = outcome.expect_err("it is away");
    assert_eq!(error.code(), "unavailable");
    let text = error.to_string();
    assert!(text.contains("reading key `k`") && text.contains("`under-test`"), "{text}");
    assert!(text.contains(&redis.host()), "{text}");
    redis.up();
    let back = async { while store.get(&get).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("it is reached again");
}
