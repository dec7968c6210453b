//! Streams that apps read, from their first word to their last.

use std::time::Duration;

use dodai_core::snapshot::{Resource, Snapshot, Subscription};
use dodai_proto::apps::dapr::proto::runtime::v1::subscribe_topic_events_response_alpha1::SubscribeTopicEventsResponseType as Told;
use dodai_runtime::Settings;
use tokio::time::Instant;
use tonic::Code;

use crate::callbacks::{Stream, wish};
use crate::grpc::reason;
use crate::world::{World, app, blocks, component, subscription};

async fn open(world: &World, pubsub: &str, topic: &str) -> Stream {
    let mut stream = Stream::open(world, wish(pubsub, topic, None)).await.expect("subscribed");
    assert!(matches!(stream.next().await, Told::InitialResponse(_)));
    stream
}

fn with_slow(settings: &[(&str, &str)]) -> Vec<Resource> {
    let mut all = blocks();
    all.push(Resource::Component(component("slow", "pubsub.slow", settings)));
    all
}

#[tokio::test(start_paused = true)]
async fn what_is_published_after_the_first_word_comes() {
    let mut all = with_slow(&[("delay", "3s")]);
    let other =
        Subscription { pubsub: "slow".into(), app: app("shop/other"), ..subscription("/x", None, &[]) };
    all.push(Resource::Subscription(other));
    let world = World::new(all).await;
    world.runtime.app_ready(&app("shop/other"), true);
    // Another group is there, so that nothing waits for the first one.
    world.until("joined", || world.runtime.subscriptions().values().all(|health| health.ready)).await;
    let mut stream = open(&world, "slow", "t").await;
    let told = world.send("shop/other", "POST", "/v1.0/publish/slow/t", &[], "now").await;
    assert_eq!(told.status, 204, "{}", told.body);
    let event = tokio::time::timeout(Duration::from_secs(60), stream.event()).await.expect("it comes");
    assert_eq!((&event.data[..], event.path.as_str()), (&b"now"[..], "/"));
    let health = world.runtime.subscriptions();
    assert!(health["shop/cart slow/t (stream)"].ready, "{health:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_cannot_be_joined_is_refused() {
    for (settings, word) in [
        (("refuses", "the door is shut"), "the door is shut"),
        (("delay", "1h"), "did not answer within 10s"),
    ] {
        let world = World::new(with_slow(&[settings])).await;
        let refused =
            tokio::time::timeout(Duration::from_secs(60), Stream::open(&world, wish("slow", "t", None)));
        let refused = refused.await.expect("a word in time").map(|_| ()).expect_err("refused");
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        assert_eq!(reason(&refused), "ERR_PUBSUB_SUBSCRIBE");
        assert!(refused.message().contains(word), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_app_and_with_the_base() {
    let world = World::new(blocks()).await;
    let mut stream = open(&world, "bus", "t").await;
    let without: Vec<Resource> = blocks()
        .into_iter()
        .filter(|one| !matches!(one, Resource::App(one) if one.id == app("shop/cart")))
        .collect();
    world.apply(without).await;
    let last = tokio::time::timeout(Duration::from_secs(60), stream.told.message()).await.expect("an end");
    assert_eq!(last.expect_err("the app has left").code(), Code::Unavailable);

    let world = World::new(blocks()).await;
    let mut stream = open(&world, "bus", "t").await;
    world.publish("t", "in hand").await;
    let event = stream.event().await;
    let close = world.runtime.close(Duration::from_secs(30));
    let rest = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stream.settle(&event, 0).await;
        stream.told.message().await
    };
    let (_, last) = tokio::join!(close, rest);
    assert_eq!(last.expect_err("the base closes").code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn events_with_one_id_are_each_spoken_of() {
    let world = World::new(blocks()).await;
    let mut stream = open(&world, "bus", "t").await;
    let event = |data: &str| {
        format!(r#"{{"specversion":"1.0","id":"same","source":"s","type":"x","data":"{data}"}}"#)
    };
    let kind = [("content-type", "application/cloudevents+json")];
    for data in ["one", "two"] {
        let told = world.send("shop/other", "POST", "/v1.0/publish/bus/t", &kind, &event(data)).await;
        assert_eq!(told.status, 204, "{}", told.body);
    }
    let (one, two) = (stream.event().await, stream.event().await);
    assert_eq!((one.id.as_str(), two.id.as_str()), ("same", "same"));
    stream.settle(&one, 0).await;
    stream.settle(&two, 0).await;
    let more = tokio::time::timeout(Duration::from_secs(600), stream.next()).await;
    assert!(more.is_err(), "both were taken: {more:?}");
}

#[tokio::test(start_paused = true)]
async fn an_app_reads_so_many_streams() {
    let settings = Settings { max_streams: 2, ..Settings::default() };
    let world = World::with(blocks(), settings, |_| {}).await;
    let first = open(&world, "bus", "t").await;
    let _second = open(&world, "bus", "t").await;
    let refused = Stream::open(&world, wish("bus", "u", None)).await.map(|_| ()).expect_err("too many");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(first);
    open(&world, "bus", "u").await;
}

#[tokio::test(start_paused = true)]
async fn a_new_component_is_read_while_the_old_one_s_messages_are_in_hand() {
    let world = World::new(blocks()).await;
    let mut stream = open(&world, "bus", "t").await;
    world.publish("t", "old").await;
    let old = stream.event().await;
    let mut all = blocks();
    all.push(Resource::Component(component("bus", "pubsub.in-memory", &[("maxMessages", "77")])));
    world.runtime.apply(&Snapshot::of(2, all));
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.publish("t", "new").await;
    let begun = Instant::now();
    let new = stream.event().await;
    assert_eq!(new.data, "new");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for event in [&old, &new] {
        stream.settle(event, 0).await;
    }
    let more = tokio::time::timeout(Duration::from_secs(600), stream.next()).await;
    assert!(more.is_err(), "both were taken: {more:?}");
}
