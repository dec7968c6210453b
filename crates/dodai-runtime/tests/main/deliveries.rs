//! Messages on their way to apps: verdicts, pauses, dead letters, apps that come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use dodai_core::call::{Caller, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::id::Name;
use dodai_core::snapshot::{App, BulkDelivery, Patience, Resource, RetryPolicy, Subscription};
use dodai_runtime::Settings;
use http::StatusCode;
use serde_json::json;
use tokio::time::Instant;

use crate::world::{Seen, World, app, blocks, component, data_of, reply, subscription};

/// A world whose app `shop/cart` is ready and has these subscriptions, joined.
async fn subscribed(subscriptions: Vec<Subscription>) -> World {
    let mut all = blocks();
    all.extend(subscriptions.into_iter().map(Resource::Subscription));
    let world = World::new(all).await;
    world.runtime.app_ready(&app("shop/cart"), true);
    joined(&world).await;
    world
}

async fn joined(world: &World) {
    let all_up = || {
        let all = world.runtime.subscriptions();
        !all.is_empty() && all.values().all(|health| health.ready)
    };
    world.until("subscriptions joined", all_up).await;
}

#[tokio::test(start_paused = true)]
async fn it_is_known_when_what_is_published_reaches_an_app() {
    let world = World::new(blocks()).await;
    world.script_all(|seen| match seen.path.as_str() {
        "/dapr/subscribe" => reply(200, r#"[{"pubsubname":"bus","topic":"t","route":"/t"}]"#),
        _ => reply(200, ""),
    });
    let cart = app("shop/cart");
    assert!(world.runtime.unsubscribed(&cart).is_none(), "nothing is asked of it yet");
    world.runtime.app_ready(&cart, true);
    assert!(world.runtime.is_subscribing(&cart), "it has not answered");
    world.until("it has subscribed", || world.runtime.unsubscribed(&cart).is_none()).await;
    assert_eq!(world.send("shop/other", "POST", "/v1.0/publish/bus/t", &[], "first").await.status, 204);
    world.until("the first event came", || world.seen_at("/t").len() == 1).await;
}

fn dead_letters(path: &str) -> Subscription {
    let dead = subscription(path, None, &[]);
    Subscription { name: "shop/cart/dead".into(), topic: "dead".into(), ..dead }
}

#[tokio::test(start_paused = true)]
async fn a_message_arrives_as_an_event() {
    let world = subscribed(vec![subscription("orders?x=1", None, &[])]).await;
    let kind = [("content-type", "application/json"), ("tracestate", "v=1")];
    let told = world.send("shop/other", "POST", "/v1.0/publish/bus/t", &kind, r#"{"n":1.50}"#).await;
    assert_eq!(told.status, 204);
    world.until("delivered", || world.seen_at("/orders").len() == 1).await;
    let seen = world.seen_at("/orders").remove(0);
    assert_eq!(seen.caller, Caller::Base);
    assert_eq!((seen.method.as_str(), seen.authority.as_str()), ("POST", "cart.shop"));
    assert_eq!(seen.path, "/orders?x=1");
    assert_eq!(seen.headers["content-type"], "application/cloudevents+json");
    assert_eq!(seen.headers["tracestate"], "v=1");
    assert!(seen.context.deadline.is_some());
    let text = std::str::from_utf8(&seen.body).expect("text");
    assert!(text.contains(r#""data":{"n":1.50}"#), "{text}");
    let event: serde_json::Value = serde_json::from_str(text).expect("an event");
    for (name, value) in [
        ("source", "other"),
        ("topic", "t"),
        ("pubsubname", "bus"),
        ("type", "com.dapr.event.sent"),
        ("specversion", "1.0"),
    ] {
        assert_eq!(event[name], value, "{name}");
    }
    let parent = event["traceparent"].as_str().expect("a trace");
    assert_eq!(parent[3..35], format!("{:032x}", seen.context.span.trace));
    let told = world.cart("GET", "/v1.0/metadata", "").await.json();
    assert_eq!(
        told["subscriptions"],
        json!([{ "pubsubname": "bus", "topic": "t", "rules": [{ "path": "orders?x=1" }], "deadLetterTopic": "", "type": "DECLARATIVE" }])
    );
}

#[tokio::test(start_paused = true)]
async fn bulk_messages_arrive_each_by_itself() {
    let world = subscribed(vec![subscription("/orders", None, &[])]).await;
    let body = r#"[{"entryId":"1","event":"a","contentType":"text/plain"},{"entryID":"2","event":"b","contentType":"text/plain"}]"#;
    for (path, count) in [("/v1.0/publish/bulk/bus/t", 2), ("/v1.0-alpha1/publish/bulk/bus/t", 4)] {
        assert_eq!(world.cart("POST", path, body).await.status, 204);
        world.until("delivered", || world.seen_at("/orders").len() == count).await;
    }
    let mut data: Vec<String> = world.seen_at("/orders").iter().map(data_of).collect();
    data.sort();
    assert_eq!(data, ["a", "a", "b", "b"]);
}

#[tokio::test(start_paused = true)]
async fn retries_pause_longer_and_longer_until_the_app_takes_it() {
    let world = subscribed(vec![subscription("/orders", None, &[])]).await;
    let times = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = times.clone();
    world.script(move |_| {
        let mut log = log.lock().expect("not poisoned");
        log.push(Instant::now());
        match log.len() {
            1 => reply(500, ""),
            2 => reply(200, r#"{"status":"RETRY"}"#),
            3 => Err(Failure::new(Kind::Reset, "it broke off")),
            4 => reply(200, r#"{"status":"WHAT"}"#),
            _ => reply(200, r#"{"status":"SUCCESS"}"#),
        }
    });
    world.publish("t", "x").await;
    world.until("taken", || times.lock().expect("not poisoned").len() == 5).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let times = times.lock().expect("not poisoned").clone();
    assert_eq!(times.len(), 5, "taken is done with");
    let pauses: Vec<u64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(pauses, [1, 2, 4, 8]);
}

#[tokio::test(start_paused = true)]
async fn dropped_messages_do_not_come_again() {
    let world = subscribed(vec![subscription("/orders", None, &[])]).await;
    for (status, body) in [(404, ""), (200, r#"{"status":"DROP"}"#)] {
        let before = world.seen_at("/orders").len();
        world.script(move |_| reply(status, body));
        world.publish("t", "x").await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(world.seen_at("/orders").len(), before + 1, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_delivered_goes_to_the_dead_letter_topic() {
    let world = subscribed(vec![subscription("/orders", Some("dead"), &[]), dead_letters("/dead")]).await;
    let known = |namespace: &str, pubsub: &str| {
        world.runtime.dead_letters(&Name::new(namespace).expect("a name"), pubsub)
    };
    assert_eq!(known("shop", "bus"), [("dead".to_owned(), ["t".to_owned()].into())].into());
    assert!(known("default", "bus").is_empty() && known("shop", "other").is_empty());
    for (status, body, tries) in [(500, "", 4), (404, "", 1), (200, r#"{"status":"DROP"}"#, 1)] {
        let (before, dead) = (world.seen_at("/orders").len(), world.seen_at("/dead").len());
        world.script(move |seen| if seen.path == "/dead" { reply(200, "") } else { reply(status, body) });
        world.publish("t", "letter").await;
        world.until("buried", || world.seen_at("/dead").len() == dead + 1).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(world.seen_at("/orders").len(), before + tries, "{status} {body}");
        assert_eq!(world.seen_at("/dead").len(), dead + 1);
        let letter = world.seen_at("/dead").pop().expect("a letter");
        assert_eq!(data_of(&letter), "letter");
        assert!(
            std::str::from_utf8(&letter.body).expect("text").contains(r#""topic":"t""#),
            "it is as it came"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_read_up_to_so_much() {
    let world = subscribed(vec![subscription("/orders", Some("dead"), &[]), dead_letters("/dead")]).await;
    // One that is longer says no more than its status.
    for (bytes, buried) in [(1 << 20, 1), ((1 << 20) + 1, 0)] {
        let before = world.seen_at("/orders").len();
        let answer = r#"{"status":"DROP"}"#.to_owned() + &" ".repeat(bytes - 17);
        world.script(move |seen| {
            let body = if seen.path == "/dead" { String::new() } else { answer.clone() };
            Ok(Reply::new(StatusCode::OK, body))
        });
        let dead = world.seen_at("/dead").len();
        world.publish("t", "letter").await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(world.seen_at("/dead").len(), dead + buried, "{bytes}");
        assert_eq!(world.seen_at("/orders").len(), before + 1, "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn expired_and_unreadable_messages_are_not_delivered() {
    let world = subscribed(vec![subscription("/orders", Some("dead"), &[]), dead_letters("/dead")]).await;
    let event = [("content-type", "application/cloudevents+json")];
    let old = r#"{"id":"1","data":"old","expiration":"2001-01-01T00:00:00Z"}"#;
    assert_eq!(world.send("shop/other", "POST", "/v1.0/publish/bus/t", &event, old).await.status, 204);
    let raw = "/v1.0/publish/bus/t?metadata.rawPayload=true";
    assert_eq!(world.send("shop/other", "POST", raw, &[], "no event").await.status, 204);
    // The second letter is no event for the dead letter topic's subscriber either, and is dropped there.
    world.until("buried", || world.seen_at("/dead").len() == 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(data_of(&world.seen_at("/dead")[0]), "old");
    assert!(world.seen_at("/orders").is_empty());
}

#[tokio::test(start_paused = true)]
async fn raw_messages_are_wrapped_for_a_raw_subscription() {
    let world = subscribed(vec![subscription("/orders", None, &[("rawPayload", "true")])]).await;
    let raw = "/v1.0/publish/bus/t?metadata.rawPayload=true";
    assert_eq!(world.send("shop/other", "POST", raw, &[], "bytes").await.status, 204);
    world.until("delivered", || world.seen_at("/orders").len() == 1).await;
    let event: serde_json::Value =
        serde_json::from_slice(&world.seen_at("/orders")[0].body).expect("an event");
    assert_eq!((&event["data_base64"], &event["pubsubname"]), (&json!("Ynl0ZXM="), &json!("bus")));
    assert_eq!(event["id"].as_str().map(str::len), Some(36), "an id that no broker gives out twice");
}

#[tokio::test(start_paused = true)]
async fn messages_wait_for_an_app_that_is_not_ready() {
    let world = subscribed(vec![subscription("/orders", Some("dead"), &[]), dead_letters("/dead")]).await;
    world.runtime.app_ready(&app("shop/cart"), false);
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.publish("t", "x").await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(world.seen_at("/orders").is_empty());
    world.runtime.app_ready(&app("shop/cart"), true);
    world.until("delivered", || world.seen_at("/orders").len() == 1).await;
    assert!(world.seen_at("/dead").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_in_hand_outlasts_its_app_without_counting() {
    let world = subscribed(vec![subscription("/orders", Some("dead"), &[]), dead_letters("/dead")]).await;
    let up = Arc::new(AtomicBool::new(false));
    let answers = up.clone();
    world.script(move |_| {
        if answers.load(SeqCst) {
            reply(200, "")
        } else {
            Err(Failure::new(Kind::NoEndpoint, "cart has no ready instance"))
        }
    });
    world.publish("t", "x").await;
    // Longer than a lease: the message must not come to a second consumer, nor to the dead letters.
    world.until("tried", || world.seen_at("/orders").len() > 300).await;
    world.runtime.app_ready(&app("shop/cart"), false);
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    up.store(true, SeqCst);
    let tried = world.seen_at("/orders").len();
    world.runtime.app_ready(&app("shop/cart"), true);
    world.until("delivered", || world.seen_at("/orders").len() > tried).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.seen_at("/orders").len(), tried + 1);
    assert!(world.seen_at("/dead").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_app_tells_its_subscriptions_again_after_each_start() {
    let world = World::new(blocks()).await;
    let answers = Arc::new(AtomicU32::new(0));
    let script = answers.clone();
    world.script_all(move |seen| match (seen.path.as_str(), script.load(SeqCst)) {
        ("/dapr/subscribe", 0) => reply(500, "starting"),
        ("/dapr/subscribe", 1) => reply(200, r#"[{"pubsubname":"bus","topic":"t","route":"/first"}]"#),
        ("/dapr/subscribe", 2) => reply(200, r#"[{"pubsubname":"bus","topic":"t","routes":{"rules":[{"match":"event.type == \"big\"","path":"/big"}],"default":"/small"}}]"#),
        ("/dapr/subscribe", _) => reply(404, ""),
        _ => reply(200, ""),
    });
    let cart = app("shop/cart");
    world.runtime.app_ready(&cart, true);
    world
        .until("a problem", || {
            world.runtime.subscriptions().values().any(|health| health.reason.contains("500"))
        })
        .await;
    answers.store(1, SeqCst);
    let running = |count: usize| {
        let all = world.runtime.subscriptions();
        all.len() == count && all.values().all(|health| health.ready)
    };
    world.until("told", || running(1)).await;
    let asked = world.seen_at("/dapr/subscribe").remove(0);
    assert_eq!(
        (asked.method.as_str(), asked.authority.as_str(), asked.caller),
        ("GET", "cart.shop", Caller::Base)
    );
    world.publish("t", "x").await;
    world.until("first", || world.seen_at("/first").len() == 1).await;

    answers.store(2, SeqCst);
    world.runtime.app_ready(&cart, false);
    world.runtime.app_ready(&cart, true);
    let asked = world.seen_at("/dapr/subscribe").len();
    world.until("asked again", || world.seen_at("/dapr/subscribe").len() > asked && running(1)).await;
    let big = "/v1.0/publish/bus/t?metadata.cloudevent.type=big";
    assert_eq!(world.send("shop/other", "POST", big, &[], "x").await.status, 204);
    world.publish("t", "x").await;
    world.until("routed", || world.seen_at("/big").len() == 1 && world.seen_at("/small").len() == 1).await;
    let told = world.cart("GET", "/v1.0/metadata", "").await.json();
    assert_eq!(
        told["subscriptions"][0]["rules"][0],
        json!({ "match": "event.type == \"big\"", "path": "/big" })
    );

    answers.store(3, SeqCst);
    world.runtime.app_ready(&cart, false);
    world.runtime.app_ready(&cart, true);
    world.until("none left", || world.runtime.subscriptions().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_run_is_a_status() {
    let unknown = Subscription {
        name: "shop/cart/cel".into(),
        topic: "u".into(),
        rules: vec![("data.n > 1".into(), "/n".into())],
        ..subscription("/x", None, &[])
    };
    let missing = Subscription {
        name: "shop/cart/gone".into(),
        pubsub: "nope".into(),
        ..subscription("/x", None, &[])
    };
    let mut all = blocks();
    all.push(Resource::Component(component(
        "guarded",
        "pubsub.in-memory",
        &[("subscriptionScopes", "cart=")],
    )));
    let guarded = Subscription {
        name: "shop/cart/guarded".into(),
        pubsub: "guarded".into(),
        ..subscription("/x", None, &[])
    };
    all.extend([unknown, missing, guarded].map(Resource::Subscription));
    let world = World::new(all).await;
    let reason = |key: &str| {
        world.runtime.subscriptions().get(key).map(|health| health.reason.clone()).unwrap_or_default()
    };
    world.until("refused", || reason("shop/cart shop/cart/cel").contains("data.n > 1")).await;
    world.until("missing", || reason("shop/cart nope/t").contains("no pub/sub component `nope`")).await;
    world.until("forbidden", || reason("shop/cart guarded/t").contains("subscriptionScopes")).await;
    // It is mended without a restart.
    let mut all = blocks();
    all.push(Resource::Component(component("nope", "pubsub.in-memory", &[])));
    all.push(Resource::Subscription(Subscription { pubsub: "nope".into(), ..subscription("/x", None, &[]) }));
    world.apply(all).await;
    joined(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_outlives_the_change_of_its_component() {
    let world = subscribed(vec![subscription("/orders", None, &[])]).await;
    let mut all = blocks();
    all.push(Resource::Component(component("bus", "pubsub.in-memory", &[("maxMessages", "77")])));
    all.push(Resource::Subscription(subscription("/orders", None, &[])));
    world.apply(all).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    joined(&world).await;
    world.publish("t", "x").await;
    world.until("delivered", || world.seen_at("/orders").len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn deliveries_at_once_are_bounded() {
    let all = [component("bus", "pubsub.in-memory", &[("concurrencyMode", "single")])];
    let mut resources = blocks();
    resources.extend(all.map(Resource::Component));
    resources.push(Resource::Subscription(subscription("/orders", None, &[])));
    let world = World::new(resources).await;
    world.runtime.app_ready(&app("shop/cart"), true);
    joined(&world).await;
    world.script(|_| Err(Failure::new(Kind::NoEndpoint, "nobody")));
    for _ in 0..5 {
        world.publish("t", "x").await;
    }
    world.until("tried", || world.seen_at("/orders").len() > 20).await;
    let ids: std::collections::BTreeSet<String> = world
        .seen_at("/orders")
        .iter()
        .map(|seen| {
            serde_json::from_slice::<serde_json::Value>(&seen.body).expect("an event")["id"].to_string()
        })
        .collect();
    assert_eq!(ids.len(), 1, "one at a time");
}

/// The data of the entries of a bulk delivery, with their ids.
fn entries(seen: &Seen) -> Vec<(String, String)> {
    let envelope: serde_json::Value = serde_json::from_slice(&seen.body).expect("an envelope");
    assert_eq!(envelope["type"], "com.dapr.event.sent.bulk");
    assert_eq!((envelope["topic"].as_str(), envelope["pubsubname"].as_str()), (Some("t"), Some("bus")));
    let entry = |entry: &serde_json::Value| {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let data = if entry["contentType"] == "application/cloudevents+json" {
            text(&entry["event"]["data"])
        } else {
            text(&entry["event"])
        };
        (text(&entry["entryId"]), data)
    };
    envelope["entries"].as_array().expect("entries").iter().map(entry).collect()
}

fn in_bulk(metadata: &[(&str, &str)]) -> Subscription {
    let bulk = BulkDelivery { most: 3, wait: Duration::from_secs(2) };
    Subscription { bulk: Some(bulk), ..subscription("/orders", Some("dead"), metadata) }
}

#[tokio::test(start_paused = true)]
async fn bulk_subscriptions_get_many_at_once_and_give_a_verdict_each() {
    let world = subscribed(vec![in_bulk(&[]), dead_letters("/dead")]).await;
    let first = Arc::new(AtomicBool::new(true));
    world.script(move |seen| {
        if seen.path == "/dead" {
            return reply(200, "");
        }
        let status = |data: &str| match data {
            "drop" => "DROP",
            "again" if first.swap(false, SeqCst) => "RETRY",
            _ => "SUCCESS",
        };
        let statuses: Vec<_> =
            entries(seen).iter().map(|(id, data)| json!({ "entryId": id, "status": status(data) })).collect();
        Ok(Reply::new(StatusCode::OK, json!({ "statuses": statuses }).to_string()))
    });
    for data in ["take", "again", "drop", "late"] {
        world.publish("t", data).await;
    }
    world.until("all brought", || world.seen_at("/orders").len() == 2).await;
    let brought: Vec<Vec<String>> = world
        .seen_at("/orders")
        .iter()
        .map(|seen| entries(seen).into_iter().map(|(_, data)| data).collect())
        .collect();
    assert_eq!(brought[0], ["take", "again", "drop"], "a full batch does not wait");
    let mut rest = brought[1].clone();
    rest.sort();
    assert_eq!(rest, ["again", "late"], "what comes while one waits goes with it");
    world.until("the dropped one is a dead letter", || world.seen_at("/dead").len() == 1).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.seen_at("/orders").len(), 2, "each is settled");
}

#[tokio::test(start_paused = true)]
async fn bulk_deliveries_without_envelopes_carry_base64_and_wait_for_an_app_that_is_gone() {
    let world = subscribed(vec![in_bulk(&[("rawPayload", "true")])]).await;
    let away = Arc::new(AtomicU32::new(0));
    let calls = away.clone();
    world.script(move |seen| {
        if calls.fetch_add(1, SeqCst) < 2 {
            return Err(Failure::new(Kind::Connect, "nobody listens"));
        }
        let statuses: Vec<_> =
            entries(seen).iter().map(|(id, _)| json!({ "entryId": id, "status": "SUCCESS" })).collect();
        Ok(Reply::new(StatusCode::OK, json!({ "statuses": statuses }).to_string()))
    });
    let path = "/v1.0/publish/bus/t?metadata.rawPayload=true";
    assert_eq!(world.send("shop/other", "POST", path, &[], "raw").await.status, 204);
    world.until("taken", || away.load(SeqCst) == 3).await;
    let last = world.seen_at("/orders").pop().expect("a delivery");
    assert_eq!(entries(&last)[0].1, "cmF3");
    assert_eq!(last.headers["content-type"], "application/json");
}

#[tokio::test(start_paused = true)]
async fn a_component_s_retries_and_timeout_are_those_of_the_documents() {
    let retry = RetryPolicy {
        attempts: 2,
        statuses: Vec::new(),
        on: None,
        backoff: Duration::from_secs(7),
        constant: true,
        max_backoff: None,
        budget_percent: 100,
        min_per_second: 100,
    };
    let all = || {
        let mut all = blocks();
        all.extend(
            [subscription("/orders", Some("dead"), &[]), dead_letters("/dead")].map(Resource::Subscription),
        );
        all
    };
    let world = World::new(all()).await;
    let mut patient = all();
    for resource in &mut patient {
        if let Resource::Component(component) = resource {
            let timeout = Some(Duration::from_secs(3));
            component.inbound = Patience { timeout, retry: Some(retry.clone()) };
        }
    }
    world.apply(patient).await;
    world.runtime.app_ready(&app("shop/cart"), true);
    joined(&world).await;
    let times = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = times.clone();
    world.script(move |seen| {
        if seen.path == "/dead" {
            return reply(200, "");
        }
        let left = seen.context.deadline.expect("a delivery has a deadline")
            - std::time::Instant::from(Instant::now());
        log.lock().expect("not poisoned").push((Instant::now(), left.as_secs()));
        reply(500, "")
    });
    world.publish("t", "x").await;
    world.until("buried", || world.seen_at("/dead").len() == 1).await;
    let times = times.lock().expect("not poisoned").clone();
    let pauses: Vec<u64> = times.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs()).collect();
    assert_eq!(pauses, [7, 7], "two retries, then the dead letter");
    assert!(times.iter().all(|(_, left)| *left == 3), "{times:?}");
}

/// How often `shop/cart` is asked for its subscriptions in an hour when it answers so, and what is then wrong.
async fn asked_in_an_hour(content_type: &'static str, body: &'static str) -> (usize, Vec<String>) {
    asked_with(Settings::default(), content_type, body).await
}

async fn asked_with(
    settings: Settings,
    content_type: &'static str,
    body: &'static str,
) -> (usize, Vec<String>) {
    let world = World::with(blocks(), settings, |_| {}).await;
    world.script_all(move |_| {
        let mut reply = reply(200, body)?;
        reply.head.headers.insert("content-type", content_type.parse().expect("a header"));
        Ok(reply)
    });
    world.runtime.app_ready(&app("shop/cart"), true);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let problems = world.runtime.subscriptions().into_values().filter(|health| !health.ready);
    (world.seen_at("/dapr/subscribe").len(), problems.map(|health| health.reason).collect())
}

#[tokio::test(start_paused = true)]
async fn an_app_that_answers_every_path_has_no_subscriptions() {
    for (content_type, body) in
        [("text/html", "<!doctype html>"), ("text/plain", "hello"), ("application/json", "")]
    {
        let (asked, problems) = asked_in_an_hour(content_type, body).await;
        assert_eq!((asked, problems), (1, Vec::new()), "{content_type} {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_shape_is_told_once_with_its_remedy() {
    for (content_type, body) in [("application/json", r#"{"hello":"world"}"#), ("text/plain", "[{")] {
        let (asked, problems) = asked_in_an_hour(content_type, body).await;
        assert_eq!((asked, problems.len()), (1, 1), "{content_type} {body}: {problems:?}");
        assert!(problems[0].contains("dapr: {enabled: false}"), "{problems:?}");
    }
    let of_a_sidecar = Settings { sidecar_of: Some(app("shop/cart")), ..Settings::default() };
    let (_, problems) = asked_with(of_a_sidecar, "text/plain", "[{").await;
    assert!(problems[0].contains("--disable-init-endpoints subscribe"), "{problems:?}");
}

#[tokio::test(start_paused = true)]
async fn an_app_without_the_runtime_api_is_never_called_back() {
    let cart = app("shop/cart");
    let with_cart = |runtime_api: bool| {
        let mut all = blocks();
        all.retain(|resource| !matches!(resource, Resource::App(one) if one.id == cart));
        all.push(Resource::App(App { runtime_api, ..App::new(cart.clone()) }));
        all.push(Resource::Subscription(subscription("/orders", None, &[])));
        all
    };
    let world = World::new(with_cart(false)).await;
    world.runtime.app_ready(&cart, true);
    world.publish("t", "x").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.seen().is_empty(), "{:?}", world.seen());

    world.apply(with_cart(true)).await;
    world.until("asked", || world.seen_at("/dapr/subscribe").len() == 1).await;
    world.until("joined", || world.runtime.subscriptions().values().any(|health| health.ready)).await;
    world.publish("t", "y").await;
    world.until("brought", || !world.seen_at("/orders").is_empty()).await;

    world.apply(with_cart(false)).await;
    assert!(world.runtime.subscriptions().is_empty());
}
