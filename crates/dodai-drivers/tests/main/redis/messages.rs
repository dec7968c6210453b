//! How long a message stays in hand, what is given again, and what a stream keeps.

use std::sync::Arc;
use std::time::Duration;

use dodai_capability::pubsub::{Broker, Delivery, Publish, Subscribe, Subscription, Verdict};

use super::{advance, opened, spec};
use crate::servers::Redis;

const PATIENCE: Duration = Duration::from_secs(20);

async fn broker(redis: &Redis, properties: &[(&str, &str)]) -> Arc<dyn Broker> {
    let spec = properties
        .iter()
        .fold(spec("pubsub.redis", redis), |spec, (name, value)| spec.with(*name, (*value).to_owned()));
    let component = opened(spec).await;
    assert!(component.warnings.is_empty(), "{:?}", component.warnings);
    component.serves.pubsub.clone().expect("pubsub")
}

async fn join(broker: &dyn Broker, lease: Duration) -> Subscription {
    broker.subscribe(Subscribe { lease, ..Subscribe::new("t", "g") }).await.expect("joined")
}

async fn take(member: &mut Subscription) -> Delivery {
    let next = tokio::time::timeout(PATIENCE, member.next()).await.expect("a message comes");
    next.expect("open").expect("a delivery")
}

/// Members look every 50 ms here.
async fn nothing(member: &mut Subscription) {
    let next = tokio::time::timeout(Duration::from_millis(500), member.next()).await;
    assert!(next.is_err(), "nothing comes: {next:?}");
}

fn run<T: redis::FromRedisValue>(redis: &Redis, words: &[&str]) -> T {
    redis::cmd(words[0]).arg(&words[1..]).query(&mut redis.admin()).expect("done")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_may_take_its_time_whatever_the_processing_timeout() {
    let redis = Redis::start();
    let broker = broker(&redis, &[("processingTimeout", "10s")]).await;
    let minute = Duration::from_secs(60);
    let (mut one, mut other) = (join(&*broker, minute).await, join(&*broker, minute).await);
    broker.publish(Publish::new("t", "slow")).await.expect("published");
    let held = take(&mut one).await;
    advance(redis.port, Duration::from_secs(12));
    nothing(&mut other).await;
    held.settle(Verdict::Ack).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_verdict_counts_while_nobody_else_has_the_message() {
    let redis = Redis::start();
    let broker = broker(&redis, &[]).await;
    let mut member = join(&*broker, Duration::from_secs(60)).await;
    broker.publish(Publish::new("t", "late")).await.expect("published");
    let held = take(&mut member).await;
    advance(redis.port, Duration::from_secs(600));
    held.settle(Verdict::Ack).await.expect("it counts");
    nothing(&mut member).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_can_be_kept_for_longer_than_a_lease() {
    let redis = Redis::start();
    let broker = broker(&redis, &[]).await;
    let lease = Duration::from_millis(200);
    let (mut one, mut other) = (join(&*broker, lease).await, join(&*broker, lease).await);
    broker.publish(Publish::new("t", "long")).await.expect("published");
    let held = take(&mut one).await;
    held.extend(Duration::from_secs(60)).await.expect("extended");
    nothing(&mut other).await;
    held.settle(Verdict::Ack).await.expect("still held");
    broker.publish(Publish::new("t", "dropped")).await.expect("published");
    let dropped = take(&mut one).await;
    dropped.extend(Duration::from_secs(60)).await.expect("extended");
    drop(dropped);
    assert_eq!(take(&mut other).await.attempt, 2, "nobody keeps it any longer");
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_numbers_are_milliseconds_and_zero_switches_redelivery_off() {
    let redis = Redis::start();
    let short = broker(&redis, &[("processingTimeout", "100"), ("redeliverInterval", "50")]).await;
    let mut member = join(&*short, Duration::from_millis(10)).await;
    short.publish(Publish::new("t", "m")).await.expect("published");
    drop(take(&mut member).await);
    let again = take(&mut member).await;
    assert_eq!(again.attempt, 2);
    again.settle(Verdict::Ack).await.expect("settled");

    for off in ["processingTimeout", "redeliverInterval"] {
        let never = broker(&redis, &[(off, "0")]).await;
        let mut member = join(&*never, Duration::from_millis(10)).await;
        never.publish(Publish::new("t", "m")).await.expect("published");
        let held = take(&mut member).await;
        advance(redis.port, Duration::from_secs(3600));
        nothing(&mut member).await;
        held.extend(Duration::from_millis(1)).await.expect("held");
        nothing(&mut member).await;
        held.settle(Verdict::Retry { after: Duration::from_millis(100) }).await.expect("held");
        let again = take(&mut member).await;
        assert_eq!(again.attempt, 2, "what the app gives back comes again");
        again.settle(Verdict::Ack).await.expect("settled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_is_taken_while_too_much_is_unsettled() {
    let redis = Redis::start();
    let broker = broker(&redis, &[]).await;
    let mut member = join(&*broker, Duration::from_secs(60)).await;
    let messages = (0..5_010).map(|at| Publish::new("t", at.to_string())).collect();
    assert!(broker.publish_many(messages).await.iter().all(Result::is_ok));
    let held = take(&mut member).await;
    let _taken: redis::Value =
        run(&redis, &["XREADGROUP", "GROUP", "g", "g", "COUNT", "4999", "STREAMS", "t", ">"]);
    nothing(&mut member).await;
    let next = async {
        let next = take(&mut member).await;
        assert_eq!(&*next.message.data, b"5000");
    };
    tokio::join!(next, async { held.settle(Verdict::Ack).await.expect("settled") });
}

#[tokio::test(flavor = "multi_thread")]
async fn standings_reckon_what_the_server_has_not_counted() {
    let redis = Redis::start();
    let broker = broker(&redis, &[]).await;
    let mut add = redis::pipe();
    for at in 1..=20_000 {
        add.cmd("XADD").arg("t").arg(format!("{at}-0")).arg("data").arg("m").ignore();
    }
    add.exec(&mut redis.admin()).expect("added");
    run::<()>(&redis, &["XGROUP", "CREATE", "t", "g", "100-0"]);
    run::<()>(&redis, &["XGROUP", "CREATE", "t", "near", "19995-0"]);
    let _joined = join(&*broker, Duration::from_secs(60)).await;
    let standings = broker.standings().await.expect("told");
    let pending = |group: &str| standings.iter().find(|one| one.group == group).map(|one| one.pending);
    assert!(pending("g").is_some_and(|pending| (19_800..=20_000).contains(&pending)), "{standings:?}");
    assert_eq!(pending("near"), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_others_and_those_whose_groups_are_lost_are_not_cut() {
    let redis = Redis::start();
    let broker = broker(&redis, &[]).await;
    let length = |topic: &str| run::<u64>(&redis, &["XLEN", topic]);
    let many = |topic: &str| (0..1_500).map(|at| Publish::new(topic, at.to_string())).collect();
    // Somebody reads it without a group.
    run::<String>(&redis, &["XADD", "read", "*", "data", "m"]);
    assert!(broker.publish_many(many("read")).await.iter().all(Result::is_ok));
    assert_eq!(length("read"), 1_501);
    // Its group is lost.
    drop(join(&*broker, Duration::from_secs(60)).await);
    assert!(broker.publish_many(many("t")).await.iter().all(Result::is_ok));
    run::<u64>(&redis, &["XGROUP", "DESTROY", "t", "g"]);
    broker.publish(Publish::new("t", "last")).await.expect("published");
    let mut member = join(&*broker, Duration::from_secs(60)).await;
    assert_eq!(length("t"), 1_501);
    assert_eq!(&*take(&mut member).await.message.data, b"0");
    // Nobody has ever come.
    assert!(broker.publish_many(many("nobody")).await.iter().all(Result::is_ok));
    assert_eq!(length("nobody"), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_of_many_has_its_own_outcome() {
    let redis = Redis::start();
    let broker = broker(&redis, &[]).await;
    run::<()>(&redis, &["SET", "text", "no stream"]);
    let messages = ["a", "text", "b"].map(|topic| Publish::new(topic, "m")).into();
    let outcomes = broker.publish_many(messages).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert_eq!(outcomes[1].as_ref().expect_err("no stream").code(), "invalid");
    assert_eq!(run::<u64>(&redis, &["XLEN", "a"]) + run::<u64>(&redis, &["XLEN", "b"]), 2);
}
