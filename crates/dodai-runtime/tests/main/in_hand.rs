//! Messages between a broker and an app's word of them: leases and dead letters.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dodai_core::body::{Writer, pipe};
use dodai_core::call::Reply;
use dodai_core::snapshot::{BulkDelivery, Resource, Subscription};
use dodai_runtime::Settings;
use http::StatusCode;
use serde_json::json;

use crate::world::{World, app, blocks, component, reply, subscription};

async fn subscribed(subscriptions: Vec<Subscription>, settings: Settings) -> World {
    joined(subscriptions.into_iter().map(Resource::Subscription).collect(), settings).await
}

async fn joined(more: Vec<Resource>, settings: Settings) -> World {
    let mut all = blocks();
    all.extend(more);
    let world = World::with(all, settings, |_| {}).await;
    world.runtime.app_ready(&app("shop/cart"), true);
    let all_up = || {
        let all = world.runtime.subscriptions();
        !all.is_empty() && all.values().all(|health| health.ready)
    };
    world.until("subscriptions joined", all_up).await;
    world
}

#[tokio::test(start_paused = true)]
async fn messages_that_wait_for_others_are_claimed_once() {
    let bulk = BulkDelivery { most: 100, wait: Duration::from_secs(50) };
    let wish = Subscription { bulk: Some(bulk), ..subscription("/orders", None, &[]) };
    let settings = Settings { delivery_timeout: Duration::from_secs(10), ..Settings::default() };
    let world = subscribed(vec![wish], settings).await;
    let entries = |body: &[u8]| -> Vec<String> {
        let envelope: serde_json::Value = serde_json::from_slice(body).expect("an envelope");
        let entries = envelope["entries"].as_array().expect("entries").iter();
        entries.map(|entry| entry["entryId"].as_str().expect("an id").to_owned()).collect()
    };
    world.script(move |seen| {
        let statuses: Vec<_> =
            entries(&seen.body).iter().map(|id| json!({ "entryId": id, "status": "SUCCESS" })).collect();
        Ok(Reply::new(StatusCode::OK, json!({ "statuses": statuses }).to_string()))
    });
    world.publish("t", "one").await;
    world.publish("t", "two").await;
    world.until("brought", || !world.seen_at("/orders").is_empty()).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let brought: Vec<usize> = world.seen_at("/orders").iter().map(|seen| entries(&seen.body).len()).collect();
    assert_eq!(brought, [2]);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_without_envelopes_are_what_was_published() {
    let raw = [("rawPayload", "true")];
    let dead = Subscription {
        name: "shop/cart/dead".into(),
        topic: "dead".into(),
        ..subscription("/dead", None, &raw)
    };
    let world =
        subscribed(vec![subscription("/orders", Some("dead"), &raw), dead], Settings::default()).await;
    world.script(|seen| if seen.path == "/dead" { reply(200, "") } else { reply(404, "") });
    let body = r#"{"z":1,"expiration":"soon","a":2}"#;
    let path = "/v1.0/publish/bus/t?metadata.rawPayload=true";
    assert_eq!(world.send("shop/other", "POST", path, &[], body).await.status, 204);
    world.until("buried", || !world.seen_at("/dead").is_empty()).await;
    let event: serde_json::Value = serde_json::from_slice(&world.seen_at("/dead")[0].body).expect("an event");
    use base64::Engine as _;
    let data = event["data_base64"].as_str().expect("data");
    let data = base64::engine::general_purpose::STANDARD.decode(data).expect("base64");
    assert_eq!(String::from_utf8_lossy(&data), body);
}

/// Answers that are begun and not ended yet, in order; each takes all that it was asked of.
#[derive(Clone, Default)]
struct Pending(Arc<Mutex<Vec<(Writer, String)>>>);

impl Pending {
    fn begin(&self, body: &[u8]) -> Reply {
        let envelope: serde_json::Value = serde_json::from_slice(body).expect("an envelope");
        let entries = envelope["entries"].as_array().expect("entries").iter();
        let statuses: Vec<_> =
            entries.map(|entry| json!({ "entryId": entry["entryId"], "status": "SUCCESS" })).collect();
        let (writer, body) = pipe(1 << 20, None);
        let mut begun = self.0.lock().expect("not poisoned");
        begun.push((writer, json!({ "statuses": statuses }).to_string()));
        let mut reply = Reply::new(StatusCode::OK, "");
        reply.body = body;
        reply
    }

    fn count(&self) -> usize {
        self.0.lock().expect("not poisoned").len()
    }

    fn end_all(&self) {
        self.end(self.count());
    }

    /// Ends those that were begun first.
    fn end(&self, count: usize) {
        for (mut writer, body) in self.0.lock().expect("not poisoned").drain(..count) {
            writer.push(body.into()).expect("room");
            writer.finish(None);
        }
    }
}

/// A bulk subscription with so many paths, a message for each, and an app that answers when it is told to.
async fn paths(count: usize) -> (World, Pending) {
    paths_with(count, &[]).await
}

/// The same with settings of the component.
async fn paths_with(count: usize, settings: &[(&str, &str)]) -> (World, Pending) {
    let bulk = BulkDelivery { most: u32::try_from(count).expect("few"), wait: Duration::from_secs(1) };
    let rules = (0..count).map(|n| (format!("event.data.n == {n}"), format!("/path/{n}"))).collect();
    let wish = Subscription { bulk: Some(bulk), rules, ..subscription("/else", None, &[]) };
    let bus = Resource::Component(component("bus", "pubsub.in-memory", settings));
    let world = joined(vec![bus, Resource::Subscription(wish)], Settings::default()).await;
    let pending = Pending::default();
    let begun = pending.clone();
    world.script(move |seen| Ok(begun.begin(&seen.body)));
    for n in 0..count {
        let headers = [("content-type", "application/json")];
        let body = json!({ "n": n }).to_string();
        assert_eq!(
            world.send("shop/other", "POST", "/v1.0/publish/bus/t", &headers, &body).await.status,
            204
        );
    }
    (world, pending)
}

#[tokio::test(start_paused = true)]
async fn a_path_that_is_slow_does_not_hold_up_the_others() {
    let (world, pending) = paths(3).await;
    let before = tokio::time::Instant::now();
    world.until("all are brought", || pending.count() == 3).await;
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    pending.end_all();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.seen_at("/path").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn messages_of_paths_that_wait_for_their_turn_stay_in_hand() {
    let (world, pending) = paths(40).await;
    // Each round takes almost as long as a delivery may, all three longer than a lease.
    for (round, most) in [16, 16, 8].into_iter().enumerate() {
        world.until(&format!("round {round}"), || pending.count() == most).await;
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert_eq!(pending.count(), most, "no more at once");
        pending.end_all();
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.seen_at("/path").len(), 40, "each came once");
}

#[tokio::test(start_paused = true)]
async fn others_that_end_do_not_keep_the_waiting_from_being_kept() {
    let (world, pending) = paths(80).await;
    // Four at a time, each within its time, and all of them longer than a lease.
    for _ in 0..20 {
        world.until("some are brought", || pending.count() >= 4).await;
        tokio::time::sleep(Duration::from_secs(12)).await;
        pending.end(4);
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.seen_at("/path").len(), 80, "each came once");
}

#[tokio::test(start_paused = true)]
async fn a_component_that_brings_one_at_a_time_does_so_in_bulk() {
    let (world, pending) = paths_with(3, &[("concurrencyMode", "single")]).await;
    for round in 1..=3 {
        world.until("one is brought", || pending.count() == 1).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!((pending.count(), world.seen_at("/path").len()), (1, round));
        pending.end_all();
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.seen_at("/path").len(), 3, "each came once");
}
