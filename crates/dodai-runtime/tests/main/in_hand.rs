//! Messages between a broker and an app's word of them: leases and dead letters.

use std::time::Duration;

use dodai_core::call::Reply;
use dodai_core::snapshot::{BulkDelivery, Resource, Subscription};
use dodai_runtime::Settings;
use http::StatusCode;
use serde_json::json;

use crate::world::{World, app, blocks, reply, subscription};

async fn subscribed(subscriptions: Vec<Subscription>, settings: Settings) -> World {
    let mut all = blocks();
    all.extend(subscriptions.into_iter().map(Resource::Subscription));
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
