//! The suite for brokers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use super::{Bench, soon};
use crate::metadata::Metadata;
use crate::pubsub::{
    Broker, Delivery, NO_GROUP, Peek, Peeked, Publish, Replay, Replayed, Standing, Subscribe, Subscription,
    Verdict, WAITING_FOR_A_GROUP,
};

/// Runs every case.
pub async fn run(bench: &mut Bench) {
    let broker = bench.component.serves.pubsub.clone().expect("the component serves pubsub");
    messages_arrive_as_they_went(&*broker).await;
    every_group_gets_every_message(&*broker).await;
    members_compete(&*broker).await;
    a_retry_comes_again_later(bench, &*broker).await;
    a_dead_consumer_loses_its_messages(bench, &*broker).await;
    a_lease_can_be_extended(bench, &*broker).await;
    a_cancelled_wait_loses_nothing(&*broker).await;
    batches_fill_up(&*broker).await;
    the_first_group_gets_what_waited(&*broker).await;
    what_nobody_waits_for_fills_nothing(&*broker).await;
    a_group_collects_without_members(&*broker).await;
    a_forgotten_group_is_gone(&*broker).await;
    looking_takes_nothing(&*broker).await;
    a_message_is_moved_once(&*broker).await;
    if broker.features().ttl {
        messages_expire(bench, &*broker).await;
    }
    if broker.features().durable {
        messages_survive_a_restart(bench, broker).await;
    }
    closing_ends_subscriptions(bench).await;
}

async fn join(broker: &dyn Broker, topic: &str, group: &str) -> Subscription {
    broker
        .subscribe(Subscribe::new(topic, group))
        .await
        .unwrap_or_else(|error| panic!("joining {group}: {error}"))
}

async fn publish(broker: &dyn Broker, topic: &str, data: impl Into<Bytes>) {
    broker
        .publish(Publish::new(topic, data))
        .await
        .unwrap_or_else(|error| panic!("publishing to {topic}: {error}"));
}

async fn take(subscription: &mut Subscription) -> Delivery {
    let delivery = soon("a message", subscription.next()).await.expect("the subscription is open");
    delivery.expect("a delivery")
}

async fn done(delivery: Delivery) -> Bytes {
    let data = delivery.message.data.clone();
    delivery.settle(Verdict::Ack).await.expect("acknowledged in time");
    data
}

async fn standing(broker: &dyn Broker, topic: &str, group: &str) -> Option<Standing> {
    let standings = broker.standings().await.expect("the standings");
    standings.into_iter().find(|standing| standing.topic == topic && standing.group == group)
}

async fn pending(broker: &dyn Broker, topic: &str, group: &str) -> Option<u64> {
    standing(broker, topic, group).await.map(|standing| standing.pending)
}

async fn messages_arrive_as_they_went(broker: &dyn Broker) {
    let mut subscription = join(broker, "plain", "g").await;
    let message = Publish {
        content_type: Some("image/png".into()),
        metadata: Metadata::from([("rawPayload".into(), "true".into())]),
        ..Publish::new("plain", &b"\x00\xff binary"[..])
    };
    broker.publish(message.clone()).await.expect("published");
    publish(broker, "plain", "").await;
    publish(broker, "plain-other", "not for us").await;
    let delivery = take(&mut subscription).await;
    assert_eq!(delivery.attempt, 1);
    let seen = &delivery.message;
    assert_eq!((&seen.topic, &seen.data), (&message.topic, &message.data));
    assert_eq!((&seen.content_type, &seen.metadata), (&message.content_type, &message.metadata));
    let id = seen.id.clone();
    done(delivery).await;
    let second = take(&mut subscription).await;
    assert_ne!(second.message.id, id);
    assert!(done(second).await.is_empty());
    assert_eq!(pending(broker, "plain", "g").await, Some(0));
}

async fn every_group_gets_every_message(broker: &dyn Broker) {
    let mut groups = [join(broker, "fan", "one").await, join(broker, "fan", "two").await];
    let messages = (0..20).map(|at| Publish::new("fan", at.to_string())).collect();
    let outcomes = broker.publish_many(messages).await;
    assert!(outcomes.len() == 20 && outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    for subscription in &mut groups {
        for at in 0..20 {
            let data = done(take(subscription).await).await;
            assert_eq!(data, at.to_string(), "in the order published");
        }
    }
}

async fn members_compete(broker: &dyn Broker) {
    let mut members =
        [join(broker, "work", "g").await, join(broker, "work", "g").await, join(broker, "work", "g").await];
    for at in 0..60 {
        publish(broker, "work", at.to_string()).await;
    }
    let shares = join_all(members.iter_mut().map(|member| async {
        let mut share = Vec::new();
        for _ in 0..20 {
            share.push(done(take(member).await).await);
            tokio::task::yield_now().await;
        }
        share
    }))
    .await;
    let mut all: Vec<u32> =
        shares.concat().iter().filter_map(|data| std::str::from_utf8(data).ok()?.parse().ok()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..60).collect::<Vec<_>>(), "each message went to one member, once");
    assert_eq!(pending(broker, "work", "g").await, Some(0));
}

async fn a_retry_comes_again_later(bench: &Bench, broker: &dyn Broker) {
    let mut subscription = join(broker, "retry", "g").await;
    publish(broker, "retry", "first").await;
    publish(broker, "retry", "second").await;
    let first = take(&mut subscription).await;
    let id = first.message.id.clone();
    first.settle(Verdict::Retry { after: Duration::from_secs(30) }).await.expect("settled");
    assert_eq!(done(take(&mut subscription).await).await, "second", "others go on meanwhile");
    assert_eq!(pending(broker, "retry", "g").await, Some(1));
    (bench.advance)(Duration::from_secs(31)).await;
    let again = take(&mut subscription).await;
    assert_eq!((&again.message.id, again.attempt), (&id, 2));
    again.settle(Verdict::Retry { after: Duration::ZERO }).await.expect("settled");
    let third = take(&mut subscription).await;
    assert_eq!(third.attempt, 3);
    third.settle(Verdict::Drop).await.expect("settled");
    assert_eq!(pending(broker, "retry", "g").await, Some(0), "a dropped message is gone");
}

async fn a_dead_consumer_loses_its_messages(bench: &Bench, broker: &dyn Broker) {
    let mut dead = join(broker, "dead", "g").await;
    let mut alive = join(broker, "dead", "g").await;
    publish(broker, "dead", "m").await;
    let held = take(&mut dead).await;
    drop(dead);
    assert_eq!(standing(broker, "dead", "g").await.map(|standing| standing.in_delivery), Some(1));
    (bench.advance)(Duration::from_secs(61)).await;
    let again = take(&mut alive).await;
    assert_eq!((&again.message.id, again.attempt), (&held.message.id, 2));
    let error = held.settle(Verdict::Ack).await.expect_err("too late");
    assert_eq!(error.code(), "pubsub_lease_lost");
    assert_eq!(pending(broker, "dead", "g").await, Some(1), "a late verdict changes nothing");
    done(again).await;
}

async fn a_lease_can_be_extended(bench: &Bench, broker: &dyn Broker) {
    let mut subscription = join(broker, "extend", "g").await;
    publish(broker, "extend", "m").await;
    let held = take(&mut subscription).await;
    (bench.advance)(Duration::from_secs(50)).await;
    held.extend(Duration::from_secs(60)).await.expect("extended");
    (bench.advance)(Duration::from_secs(50)).await;
    done(held).await;
    assert_eq!(pending(broker, "extend", "g").await, Some(0));
}

async fn a_cancelled_wait_loses_nothing(broker: &dyn Broker) {
    let mut subscription = join(broker, "cancel", "g").await;
    for at in 0..20 {
        // Whether the wait is cancelled before, while or after it takes the message is up to chance.
        let early = tokio::select! {
            biased;
            () = async {
                publish(broker, "cancel", at.to_string()).await;
                tokio::task::yield_now().await;
            } => None,
            delivery = subscription.next() => delivery,
        };
        let delivery = match early {
            Some(delivery) => delivery.expect("a delivery"),
            None => take(&mut subscription).await,
        };
        assert_eq!((delivery.attempt, done(delivery).await), (1, at.to_string().into()));
    }
}

async fn batches_fill_up(broker: &dyn Broker) {
    let mut subscription = join(broker, "batch", "g").await;
    for at in 0..5 {
        publish(broker, "batch", at.to_string()).await;
    }
    let first = soon("a batch", subscription.next_many(3, super::PATIENCE)).await.expect("a batch");
    assert_eq!(first.len(), 3);
    let second =
        soon("a batch", subscription.next_many(3, Duration::from_millis(200))).await.expect("a batch");
    assert_eq!(second.len(), 2, "what is there when the wait is over");
    for (at, delivery) in first.into_iter().chain(second).enumerate() {
        assert_eq!(done(delivery).await, at.to_string());
    }
}

async fn the_first_group_gets_what_waited(broker: &dyn Broker) {
    publish(broker, "early", "before anybody came").await;
    let mut first = join(broker, "early", "first").await;
    let mut second = join(broker, "early", "second").await;
    publish(broker, "early", "after both").await;
    assert_eq!(done(take(&mut first).await).await, "before anybody came");
    assert_eq!(done(take(&mut first).await).await, "after both");
    assert_eq!(done(take(&mut second).await).await, "after both", "a later group begins where it came");
}

async fn what_nobody_waits_for_fills_nothing(broker: &dyn Broker) {
    let sent = WAITING_FOR_A_GROUP + 3;
    let messages = (0..sent).map(|at| Publish::new("nobody", at.to_string())).collect();
    let outcomes = broker.publish_many(messages).await;
    assert!(outcomes.iter().all(Result::is_ok), "a topic without groups is never full");
    let mut late = join(broker, "nobody", "late").await;
    assert_eq!(pending(broker, "nobody", "late").await, Some(WAITING_FOR_A_GROUP));
    assert_eq!(done(take(&mut late).await).await, "3", "the oldest gave way");
    broker.forget("nobody", "late").await.expect("forgotten");
}

async fn a_group_collects_without_members(broker: &dyn Broker) {
    drop(join(broker, "collect", "g").await);
    publish(broker, "collect", "kept").await;
    let mut subscription = join(broker, "collect", "g").await;
    assert_eq!(done(take(&mut subscription).await).await, "kept");
    assert_eq!(pending(broker, "collect", "g").await, Some(0));
}

async fn a_forgotten_group_is_gone(broker: &dyn Broker) {
    let mut member = join(broker, "forget", "g").await;
    let mut other = join(broker, "forget", "other").await;
    publish(broker, "forget", "m").await;
    broker.forget("forget", "g").await.expect("forgotten");
    broker.forget("forget", "never there").await.expect("nothing to forget");
    assert!(soon("the end", member.next()).await.is_none());
    assert_eq!(pending(broker, "forget", "g").await, None);
    assert_eq!(done(take(&mut other).await).await, "m", "other groups keep theirs");
}

async fn peek(broker: &dyn Broker, topic: &str, group: &str, after: Option<&str>) -> Vec<Peeked> {
    let (topic, group) = (topic.to_owned(), group.to_owned());
    let wanted = Peek { topic, group, after: after.map(str::to_owned), limit: 2, most: 5 };
    broker.peek(wanted).await.expect("a look")
}

fn data(peeked: &[Peeked]) -> Vec<&[u8]> {
    peeked.iter().map(|one| &*one.message.data).collect()
}

async fn looking_takes_nothing(broker: &dyn Broker) {
    let mut subscription = join(broker, "look", "g").await;
    let mut other = join(broker, "look", "h").await;
    assert!(
        peek(broker, "look", "g", None).await.is_empty() && peek(broker, "none", "g", None).await.is_empty()
    );
    for data in ["a", "b", "c"] {
        publish(broker, "look", data).await;
    }
    let held = take(&mut subscription).await;
    let seen = peek(broker, "look", "g", None).await;
    assert_eq!(data(&seen), [b"a", b"b"]);
    let held_of = |seen: &[Peeked]| seen.iter().map(|one| (one.attempt, one.in_delivery)).collect::<Vec<_>>();
    assert_eq!(held_of(&seen), [(1, true), (0, false)]);
    assert_eq!(seen[0].message.id, held.message.id);
    let rest = peek(broker, "look", "g", Some(&seen[1].message.id)).await;
    assert_eq!(data(&rest), [b"c"]);
    done(held).await;
    done(take(&mut subscription).await).await;
    assert_eq!(data(&peek(broker, "look", "g", None).await), [b"c"], "what is settled is not shown");
    assert_eq!(data(&peek(broker, "look", "h", None).await), [b"a", b"b"], "each group has its own");
    for data in ["a", "b", "c"] {
        assert_eq!(done(take(&mut other).await).await, data, "looking took nothing");
    }
    done(take(&mut subscription).await).await;
    publish(broker, "look", "a word").await;
    let long = &peek(broker, "look", "g", None).await[0];
    assert_eq!((&*long.message.data, long.bytes), (&b"a wor"[..], 6), "so many bytes as are wanted");
    for subscription in [&mut subscription, &mut other] {
        assert_eq!(done(take(subscription).await).await, "a word");
    }
    publish(broker, "look", "").await;
    let empty = &peek(broker, "look", "g", None).await[0];
    assert_eq!((&*empty.message.data, empty.bytes), (&b""[..], 0), "a message may have no data");
    for subscription in [&mut subscription, &mut other] {
        assert_eq!(done(take(subscription).await).await, "");
    }
}

async fn a_message_is_moved_once(broker: &dyn Broker) {
    let mut work = join(broker, "moved", "g").await;
    // Nobody listens to the dead letters.
    let letter = Publish {
        content_type: Some("text/x".into()),
        metadata: Metadata::from([("rawPayload".into(), "true".into())]),
        ..Publish::new("letters", "again")
    };
    broker.publish(letter.clone()).await.expect("published");
    publish(broker, "letters", "stays").await;
    let seen = peek(broker, "letters", NO_GROUP, None).await;
    assert_eq!(data(&seen), [&b"again"[..], b"stays"]);
    let waits = pending(broker, "letters", NO_GROUP).await;
    assert_eq!(waits, Some(2), "a topic that nobody reads is told of, too");
    let replay = async |group: &str, id: &str| {
        let [topic, group, id, to] = ["letters", group, id, "moved"].map(str::to_owned);
        broker.replay(Replay { topic, group, id, to }).await.expect("an answer")
    };
    let id = seen[0].message.id.as_str();
    assert_eq!(replay("g", id).await, Replayed::Gone, "that group has nothing here");
    assert_eq!(replay(NO_GROUP, id).await, Replayed::Moved);
    assert_eq!(replay(NO_GROUP, id).await, Replayed::Gone, "it goes once");
    assert_eq!(replay(NO_GROUP, "no id").await, Replayed::Gone);
    assert_eq!(data(&peek(broker, "letters", NO_GROUP, None).await), [b"stays"]);
    let delivery = take(&mut work).await;
    let message = &delivery.message;
    assert_eq!((&message.data, delivery.attempt), (&letter.data, 1));
    assert_eq!((&message.content_type, &message.metadata), (&letter.content_type, &letter.metadata));
    done(delivery).await;
    assert_eq!(pending(broker, "moved", "g").await, Some(0), "it came once");
    // What a consumer holds is its own; another group of the topic keeps what one has given away.
    let mut letters = join(broker, "letters", "reader").await;
    let mut other = join(broker, "letters", "other").await;
    publish(broker, "letters", "both").await;
    let held = take(&mut letters).await;
    assert_eq!(held.message.data, "stays", "the first group took over what waited");
    assert_eq!(replay("reader", &held.message.id).await, Replayed::Held);
    done(held).await;
    let tried = take(&mut letters).await;
    let id = tried.message.id.clone();
    tried.settle(Verdict::Retry { after: Duration::ZERO }).await.expect("settled");
    assert_eq!(replay("reader", &id).await, Replayed::Moved);
    assert_eq!(done(take(&mut work).await).await, "both");
    assert_eq!(done(take(&mut other).await).await, "both");
    assert_eq!(pending(broker, "letters", "reader").await, Some(0));
}

async fn messages_expire(bench: &Bench, broker: &dyn Broker) {
    let mut subscription = join(broker, "ttl", "g").await;
    let ttl = Some(Duration::from_secs(10));
    broker.publish(Publish { ttl, ..Publish::new("ttl", "old") }).await.expect("published");
    publish(broker, "ttl", "lasting").await;
    (bench.advance)(Duration::from_secs(11)).await;
    broker.publish(Publish { ttl, ..Publish::new("ttl", "fresh") }).await.expect("published");
    assert_eq!(done(take(&mut subscription).await).await, "lasting");
    assert_eq!(done(take(&mut subscription).await).await, "fresh");
    assert_eq!(pending(broker, "ttl", "g").await, Some(0));
}

async fn messages_survive_a_restart(bench: &mut Bench, broker: Arc<dyn Broker>) {
    let mut subscription = join(&*broker, "restart", "g").await;
    for data in ["done", "held", "waiting"] {
        publish(&*broker, "restart", data).await;
    }
    done(take(&mut subscription).await).await;
    let held = take(&mut subscription).await;
    assert_eq!(held.message.data, "held");
    drop((held, subscription, broker));
    bench.restart().await;
    let broker = bench.component.serves.pubsub.clone().expect("the component serves pubsub");
    publish(&*broker, "restart", "after").await;
    (bench.advance)(Duration::from_secs(61)).await;
    let mut subscription = join(&*broker, "restart", "g").await;
    for data in ["held", "waiting", "after"] {
        assert_eq!(done(take(&mut subscription).await).await, data);
    }
    assert_eq!(pending(&*broker, "restart", "g").await, Some(0));
}

async fn closing_ends_subscriptions(bench: &Bench) {
    let broker = bench.component.serves.pubsub.clone().expect("the component serves pubsub");
    let mut subscription = join(&*broker, "close", "g").await;
    let mut other = join(&*broker, "close", "g").await;
    let ends = async { tokio::join!(subscription.next(), other.next()) };
    let (ends, ()) = soon("the end", async { tokio::join!(ends, bench.component.close()) }).await;
    assert!(ends.0.is_none() && ends.1.is_none());
    let error = broker.publish(Publish::new("close", "m")).await.expect_err("closed");
    assert_eq!(error.code(), "closed");
}
