//! Apps that speak gRPC: events by their own service, and by streams that they read.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dodai_core::body::{Body, pipe};
use dodai_core::call::Reply;
use dodai_core::failure::Failure;
use dodai_core::snapshot::{App, BulkDelivery, Resource, Subscription};
use dodai_proto::apps::dapr::proto::common::v1::http_extension::Verb;
use dodai_proto::apps::dapr::proto::common::v1::{InvokeRequest, InvokeResponse};
use dodai_proto::apps::dapr::proto::runtime::v1::subscribe_topic_events_request_alpha1::SubscribeTopicEventsRequestType as Say;
use dodai_proto::apps::dapr::proto::runtime::v1::subscribe_topic_events_response_alpha1::SubscribeTopicEventsResponseType as Told;
use dodai_proto::apps::dapr::proto::runtime::v1::*;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

use crate::grpc::{dapr, pairs};
use crate::world::{Seen, World, app, blocks, component, data_of, reply, subscription};

pub const SERVICE: &str = "/dapr.proto.runtime.v1.AppCallback/";

/// An answer of a gRPC server: one message, and that it is all right.
pub fn answered(message: &impl Message) -> Result<Reply, Failure> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    let whole = [&[0][..], &length, &message].concat();
    let (mut writer, body) = pipe(1 << 20, None);
    writer.push(Bytes::from(whole)).expect("room");
    writer.finish(Some(HeaderMap::from_iter([(
        "grpc-status".parse().expect("a name"),
        HeaderValue::from_static("0"),
    )])));
    Ok(grpc_reply(body))
}

fn grpc_reply(body: Body) -> Reply {
    let mut reply = Reply::new(StatusCode::OK, "");
    reply.body = body;
    reply.head.headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    reply
}

pub fn refused(status: &'static str) -> Result<Reply, Failure> {
    let mut reply = grpc_reply(Body::empty());
    reply.head.headers.insert("grpc-status", HeaderValue::from_static(status));
    Ok(reply)
}

pub fn message<M: Message + Default>(seen: &Seen) -> M {
    M::decode(&seen.body[5..]).expect("a message")
}

/// Dead letters go to an app that speaks HTTP.
fn letters() -> Subscription {
    let name = "shop/other/dead".to_owned();
    Subscription {
        name,
        app: app("shop/other"),
        topic: "dead".to_owned(),
        ..subscription("/dead", None, &[])
    }
}

fn resources(subscriptions: Vec<Subscription>) -> Vec<Resource> {
    let mut all = blocks();
    all.push(Resource::App(App { grpc_callbacks: true, ..App::new(app("shop/cart")) }));
    all.extend(subscriptions.into_iter().map(Resource::Subscription));
    all
}

#[tokio::test(start_paused = true)]
async fn an_app_tells_its_subscriptions_and_takes_events() {
    let world = World::new(resources(Vec::new())).await;
    let given = Arc::new(Mutex::new(Vec::new()));
    let log = given.clone();
    world.script_all(move |seen| match seen.path.strip_prefix(SERVICE) {
        Some("ListTopicSubscriptions") => {
            let rules =
                vec![TopicRule { r#match: "event.type == \"x\"".to_owned(), path: "special".to_owned() }];
            let routes = Some(TopicRoutes { rules, default: "plain".to_owned() });
            let own = TopicSubscription {
                pubsub_name: "bus".to_owned(),
                topic: "t".to_owned(),
                routes,
                ..TopicSubscription::default()
            };
            let bare = TopicSubscription { topic: "u".to_owned(), routes: None, ..own.clone() };
            answered(&ListTopicSubscriptionsResponse { subscriptions: vec![own, bare] })
        }
        Some("OnTopicEvent") => {
            let event: TopicEventRequest = message(seen);
            let again = event.data == "again" && seen_once(&log, &event);
            log.lock().expect("not poisoned").push(event);
            let status = if again {
                topic_event_response::TopicEventResponseStatus::Retry
            } else {
                Default::default()
            };
            answered(&TopicEventResponse { status: status.into() })
        }
        other => panic!("{other:?}"),
    });
    world.runtime.app_ready(&app("shop/cart"), true);
    world
        .until("both run", || world.runtime.subscriptions().values().filter(|one| one.ready).count() == 2)
        .await;
    world.publish("t", "one").await;
    world.publish("u", "two").await;
    world.publish("t", "again").await;
    world.until("all arrive", || given.lock().expect("not poisoned").len() == 4).await;
    let all = given.lock().expect("not poisoned").clone();
    let find = |data: &str| all.iter().filter(|event| event.data == data).collect::<Vec<_>>();
    let one = find("one")[0];
    assert_eq!((one.path.as_str(), one.topic.as_str(), one.pubsub_name.as_str()), ("plain", "t", "bus"));
    assert_eq!((one.source.as_str(), one.data_content_type.as_str()), ("other", "text/plain"));
    assert!(one.extensions.as_ref().is_some_and(|more| more.fields.contains_key("traceid")), "{one:?}");
    assert_eq!(find("two")[0].path, "", "without rules no path is made up");
    assert_eq!(find("again").len(), 2, "what was put off comes again");
    let seen = world.seen_at(SERVICE).remove(0);
    assert_eq!(
        (seen.headers["te"].as_bytes(), seen.authority.as_str()),
        (&b"trailers"[..], "cart.shop.svc.cluster.local")
    );
}

fn seen_once(log: &Arc<Mutex<Vec<TopicEventRequest>>>, event: &TopicEventRequest) -> bool {
    !log.lock().expect("not poisoned").iter().any(|known| known.id == event.id)
}

#[tokio::test(start_paused = true)]
async fn an_app_without_the_call_is_brought_nothing_and_loses_what_it_subscribed_to() {
    let world = World::new(resources(vec![subscription("/x", Some("dead"), &[]), letters()])).await;
    world.script_all(|seen| if seen.path.starts_with(SERVICE) { refused("12") } else { reply(200, "") });
    world.runtime.app_ready(&app("shop/cart"), true);
    world.runtime.app_ready(&app("shop/other"), true);
    world.until("both run", || world.runtime.subscriptions().values().all(|one| one.ready)).await;
    world.publish("t", "lost").await;
    world.until("buried", || !world.seen_at("/dead").is_empty()).await;
    assert_eq!(data_of(&world.seen_at("/dead")[0]), "lost");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_does_not_say_what_it_subscribes_to_is_asked_again() {
    let world = World::new(resources(Vec::new())).await;
    world.script_all(|_| refused("16"));
    world.runtime.app_ready(&app("shop/cart"), true);
    let problem = || world.runtime.subscriptions().remove("shop/cart ListTopicSubscriptions");
    world.until("it is told", || problem().is_some()).await;
    let reason = problem().expect("told").reason;
    assert!(reason.contains("Unauthenticated") && reason.contains("enabled: false"), "{reason}");
    world.script_all(|_| answered(&ListTopicSubscriptionsResponse::default()));
    world.until("it is well", || problem().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn many_events_come_in_one_call() {
    let bulk = Some(BulkDelivery { most: 2, wait: std::time::Duration::from_secs(1) });
    let world = World::new(resources(vec![Subscription { bulk, ..subscription("/x", None, &[]) }])).await;
    world.script_all(move |seen| match seen.path.strip_prefix(SERVICE) {
        // An older app knows it by another name.
        Some("OnBulkTopicEvent") => refused("12"),
        None if seen.path.ends_with("AppCallbackAlpha/OnBulkTopicEventAlpha1") => {
            let events: TopicEventBulkRequest = message(seen);
            assert_eq!((events.path.as_str(), events.topic.as_str()), ("/x", "t"));
            let statuses = events
                .entries
                .iter()
                .map(|entry| TopicEventBulkResponseEntry { entry_id: entry.entry_id.clone(), status: 0 });
            answered(&TopicEventBulkResponse { statuses: statuses.collect() })
        }
        _ => refused("12"),
    });
    world.runtime.app_ready(&app("shop/cart"), true);
    for data in ["a", "b", "c"] {
        world.publish("t", data).await;
    }
    let alpha = "/dapr.proto.runtime.v1.AppCallbackAlpha/";
    let count = || {
        let calls = world.seen_at(alpha);
        calls.iter().map(|seen| message::<TopicEventBulkRequest>(seen).entries.len()).sum::<usize>()
    };
    world.until("all arrive", || count() == 3).await;
    assert_eq!(world.seen_at(alpha).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn health_is_asked_of_the_apps_own_service() {
    let world = World::new(resources(Vec::new())).await;
    let second = std::time::Duration::from_secs(1);
    for (status, well) in [("0", true), ("12", false), ("14", false)] {
        world.script_all(move |seen| {
            assert_eq!(seen.path, "/dapr.proto.runtime.v1.AppCallbackHealthCheck/HealthCheck");
            if status == "0" { answered(&HealthCheckResponse {}) } else { refused(status) }
        });
        assert_eq!(world.runtime.is_well(&app("shop/cart"), second).await, well, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn older_clients_invoke_an_app_by_its_callback() {
    let world = World::new(resources(Vec::new())).await;
    world.script_all(|seen| {
        assert_eq!(seen.path, format!("{SERVICE}OnInvoke"));
        let asked: InvokeRequest = message(seen);
        if asked.method != "greet" {
            return refused("5");
        }
        let data = Some(prost_types::Any { type_url: String::new(), value: b"hello".to_vec() });
        answered(&InvokeResponse { data, content_type: "text/plain".to_owned() })
    });
    let invoke = |method: &str| InvokeServiceRequest {
        id: "cart".to_owned(),
        message: Some(InvokeRequest { method: method.to_owned(), ..InvokeRequest::default() }),
    };
    let mut greet = tonic::Request::new(invoke("greet"));
    for name in ["dapr-callee-app-id", "dapr-caller-app-id", "dapr-app-id"] {
        greet.metadata_mut().insert(name, "forged".parse().expect("a value"));
    }
    let told = dapr(&world).invoke_service(greet).await.expect("invoked").into_inner();
    assert_eq!(
        (told.data.expect("data").value, told.content_type),
        (b"hello".to_vec(), "text/plain".to_owned())
    );
    let seen = world.seen().remove(0);
    assert_eq!(seen.caller, dodai_core::call::Caller::App(app("shop/cart")));
    for (name, id) in
        [("dapr-caller-app-id", Some("cart")), ("dapr-callee-app-id", Some("cart")), ("dapr-app-id", None)]
    {
        let all: Vec<&[u8]> = seen.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(all, id.into_iter().map(str::as_bytes).collect::<Vec<_>>(), "{name}");
    }
    assert_eq!(dapr(&world).invoke_service(invoke("else")).await.expect_err("none").code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn calls_over_http_reach_an_app_by_its_callback() {
    let world = World::new(resources(Vec::new())).await;
    world.script_all(|seen| {
        assert_eq!(seen.path, format!("{SERVICE}OnInvoke"));
        let asked: InvokeRequest = message(seen);
        let extension = asked.http_extension.expect("an extension");
        let verb = Verb::try_from(extension.verb).expect("a verb").as_str_name();
        match asked.method.as_str() {
            "a/missing" => return refused("5"),
            "a/empty" => return answered(&InvokeResponse::default()),
            _ => {}
        }
        let data = asked.data.expect("data").value;
        let told = format!("{verb} {} {} {}", asked.method, extension.querystring, asked.content_type);
        let value = [told.as_bytes(), b" ", &data].concat();
        let data = Some(prost_types::Any { type_url: String::new(), value });
        answered(&InvokeResponse { data, content_type: "text/x-told".to_owned() })
    });
    let headers = [
        ("content-type", "text/plain"),
        ("x-own", "1"),
        ("dapr-caller-app-id", "forged"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("content-length", "5"),
    ];
    let told = world.send("shop/cart", "PUT", "/v1.0/invoke/cart/method/a/b?q=1&r", &headers, "hello").await;
    assert_eq!((told.status, told.body.as_str()), (200, "PUT a/b q=1&r text/plain hello"));
    assert_eq!(told.headers["content-type"], "text/x-told");
    let seen = world.seen().remove(0);
    assert_eq!(seen.caller, dodai_core::call::Caller::App(app("shop/cart")));
    for (name, value) in
        [("x-own", Some("1")), ("dapr-caller-app-id", Some("cart")), ("x-hop", None), ("connection", None)]
    {
        let found = seen.headers.get(name).map(|value| value.to_str().expect("text"));
        assert_eq!(found, value, "{name}");
    }
    // By the header, too, and with nothing in the answer.
    let told = world.send("shop/cart", "GET", "/a/empty", &[("dapr-app-id", "cart")], "").await;
    assert_eq!((told.status, told.body.as_str()), (200, ""));
    let told = world.cart("POST", "/v1.0/invoke/cart/method/a/missing", "").await;
    assert_eq!((told.status, told.json()["code"].as_i64()), (404, Some(5)));
    // An app of HTTP is called as before.
    world.script(|seen| reply(200, if seen.path == "/a/b" { "over HTTP" } else { "no" }));
    let told = world.cart("POST", "/v1.0/invoke/other/method/a/b", "").await;
    assert_eq!((told.status, told.body.as_str()), (200, "over HTTP"));
}

/// The app's side of a stream.
pub struct Stream {
    say: mpsc::Sender<SubscribeTopicEventsRequestAlpha1>,
    pub told: Streaming<SubscribeTopicEventsResponseAlpha1>,
}

fn said(what: Say) -> SubscribeTopicEventsRequestAlpha1 {
    SubscribeTopicEventsRequestAlpha1 { subscribe_topic_events_request_type: Some(what) }
}

pub fn wish(pubsub: &str, topic: &str, dead_letter: Option<&str>) -> SubscribeTopicEventsRequestAlpha1 {
    said(Say::InitialRequest(SubscribeTopicEventsRequestInitialAlpha1 {
        pubsub_name: pubsub.to_owned(),
        topic: topic.to_owned(),
        metadata: pairs(&[]),
        dead_letter_topic: dead_letter.map(str::to_owned),
    }))
}

impl Stream {
    pub async fn open(
        world: &World,
        first: SubscribeTopicEventsRequestAlpha1,
    ) -> Result<Stream, tonic::Status> {
        let (say, said) = mpsc::channel(4);
        say.send(first).await.expect("room");
        let said = stream::unfold(said, |mut said| async move { Some((said.recv().await?, said)) });
        let told = dapr(world).subscribe_topic_events_alpha1(said).await?.into_inner();
        Ok(Stream { say, told })
    }

    pub async fn next(&mut self) -> Told {
        let told = self.told.message().await.expect("a message").expect("the stream goes on");
        told.subscribe_topic_events_response_type.expect("something")
    }

    pub async fn event(&mut self) -> TopicEventRequest {
        match self.next().await {
            Told::EventMessage(event) => event,
            Told::InitialResponse(_) => panic!("once is enough"),
        }
    }

    pub async fn settle(&self, event: &TopicEventRequest, status: i32) {
        let status = Some(TopicEventResponse { status });
        let processed = SubscribeTopicEventsRequestProcessedAlpha1 { id: event.id.clone(), status };
        self.say.send(said(Say::EventProcessed(processed))).await.expect("room");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_brings_events_and_takes_verdicts() {
    let mut all = blocks();
    all.push(Resource::Subscription(letters()));
    let world = World::new(all).await;
    world.runtime.app_ready(&app("shop/other"), true);
    let mut stream = Stream::open(&world, wish("bus", "t", Some("dead"))).await.expect("subscribed");
    assert!(matches!(stream.next().await, Told::InitialResponse(_)));
    let told = dapr(&world).get_metadata(GetMetadataRequest {}).await.expect("told").into_inner();
    assert_eq!(told.subscriptions[0].r#type(), PubsubSubscriptionType::Streaming);
    let dead = world.runtime.dead_letters(&app("shop/cart").namespace, "bus");
    assert_eq!(dead, [("dead".to_owned(), ["t".to_owned()].into())].into());
    world.publish("t", "one").await;
    let event = stream.event().await;
    assert_eq!((&event.data[..], event.topic.as_str()), (&b"one"[..], "t"));
    stream.settle(&event, 1).await;
    let again = stream.event().await;
    assert_eq!(again.id, event.id, "what was put off comes again");
    stream.settle(&again, 0).await;

    world.publish("t", "two").await;
    let event = stream.event().await;
    stream.settle(&event, 2).await;
    tokio::select! {
        () = world.until("buried", || !world.seen_at("/dead").is_empty()) => {}
        told = stream.next() => panic!("{told:?}"),
    }
    assert_eq!(data_of(&world.seen_at("/dead")[0]), "two");

    world.publish("t", "three").await;
    let unsettled = stream.event().await;
    let before = tokio::time::Instant::now();
    drop(stream);
    let mut other = Stream::open(&world, wish("bus", "t", None)).await.expect("subscribed");
    assert!(matches!(other.next().await, Told::InitialResponse(_)));
    assert_eq!(other.event().await.id, unsettled.id, "what was not spoken of comes to the next reader");
    assert!(before.elapsed().as_secs() < 5, "and that at once: {:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_refused_what_a_subscription_is() {
    let mut all = blocks();
    all.push(Resource::Component(component(
        "guarded",
        "pubsub.in-memory",
        &[("subscriptionScopes", "cart=mine")],
    )));
    let world = World::new(all).await;
    for (first, code) in [
        (wish("nope", "t", None), Code::InvalidArgument),
        (wish("bus", "", None), Code::InvalidArgument),
        (wish("guarded", "theirs", None), Code::PermissionDenied),
        (said(Say::EventProcessed(Default::default())), Code::InvalidArgument),
    ] {
        let refused = Stream::open(&world, first.clone()).await.map(|_| ()).expect_err("refused");
        assert_eq!(refused.code(), code, "{first:?}");
    }
}
