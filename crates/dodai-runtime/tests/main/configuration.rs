//! Configuration: reading, and changes on their way to apps.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dodai_capability::component::{Capabilities, Context, Registry, Spec};
use dodai_capability::configuration::Writer;
use dodai_capability::memory;
use dodai_core::failure::{Failure, Kind};
use dodai_core::features::Blocks;
use dodai_core::snapshot::{App, Resource};
use dodai_runtime::Settings;
use serde_json::json;

use crate::world::{World, app, component, name, reply};

type Stores = Arc<Mutex<Vec<Arc<memory::Configuration>>>>;

/// A world whose configuration stores the test can write to.
async fn world(stores: &Stores) -> World {
    let made = stores.clone();
    let register = move |registry: &mut Registry| {
        registry.register("configuration.open", "v1", Blocks::default(), Opened(made));
    };
    let world = World::with(resources(""), Settings::default(), register).await;
    world.runtime.app_ready(&app("shop/cart"), true);
    world
}

fn resources(mark: &str) -> Vec<Resource> {
    let component = component("config", "configuration.open", &[("mark", mark)]);
    vec![Resource::Component(component), Resource::App(App::new(app("shop/cart")))]
}

struct Opened(Stores);

impl dodai_capability::component::Factory for Opened {
    fn open<'a>(
        &'a self,
        _: &'a Spec,
        _: &'a Context,
    ) -> std::pin::Pin<
        Box<
            dyn Future<
                    Output = Result<dodai_capability::component::Opening, dodai_capability::component::Error>,
                > + Send
                + 'a,
        >,
    > {
        Box::pin(async move {
            let store = Arc::new(memory::Configuration::new(100));
            self.0.lock().expect("not poisoned").push(store.clone());
            let serves = Capabilities {
                configuration: Some(store.clone()),
                lifecycle: Some(store),
                ..Capabilities::default()
            };
            Ok((serves, vec![]))
        })
    }
}

async fn set(stores: &Stores, key: &str, value: &str) {
    let store = stores.lock().expect("not poisoned").last().expect("opened").clone();
    store.set(key, value, Default::default()).await.expect("set");
}

#[tokio::test(start_paused = true)]
async fn values_are_read() {
    let stores = Stores::default();
    let world = world(&stores).await;
    assert_eq!(world.cart("GET", "/v1.0/configuration/config", "").await.status, 204);
    set(&stores, "a", "1").await;
    set(&stores, "b", "2").await;
    for path in ["/v1.0/configuration/config", "/v1.0-alpha1/configuration/config?key=a&key=b&key=zz"] {
        let told = world.cart("GET", path, "").await;
        assert_eq!(
            (told.status, &told.json()["a"]["value"], &told.json()["b"]["value"]),
            (200, &json!("1"), &json!("2"))
        );
    }
    let told = world.cart("GET", "/v1.0/configuration/nope", "").await;
    assert_eq!(told.error(), (500, "ERR_CONFIGURATION_STORE_NOT_FOUND".into()));
    let value = world.runtime.configuration(&name("shop"), "config", "a").await.expect("up");
    assert_eq!(value.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn changes_are_brought_until_unsubscribed() {
    let stores = Stores::default();
    let world = world(&stores).await;
    let told = world.cart("GET", "/v1.0/configuration/config/subscribe?key=a%20b", "").await;
    let id = told.json()["id"].as_str().expect("an id").to_owned();
    set(&stores, "other", "0").await;
    set(&stores, "a b", "1").await;
    world.until("brought", || world.seen_at("/configuration").len() == 1).await;
    let seen = world.seen_at("/configuration").remove(0);
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/configuration/config/a%20b"));
    let update: serde_json::Value = serde_json::from_slice(&seen.body).expect("JSON");
    assert_eq!((&update["id"], &update["items"]["a b"]["value"]), (&json!(id), &json!("1")));

    let store = stores.lock().expect("not poisoned")[0].clone();
    assert!(store.delete("a b").await.expect("deleted"));
    world.until("brought", || world.seen_at("/configuration").len() == 2).await;
    let update: serde_json::Value =
        serde_json::from_slice(&world.seen_at("/configuration")[1].body).expect("JSON");
    assert_eq!(update["items"], json!({ "a b": {} }));

    let path = format!("/v1.0/configuration/config/{id}/unsubscribe");
    let told = world.cart("GET", &path, "").await;
    assert_eq!((told.status, told.body.as_str()), (200, r#"{"ok":true}"#));
    assert_eq!(world.cart("GET", &path, "").await.status, 500, "only once");
    set(&stores, "a b", "2").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.seen_at("/configuration").len(), 2);
}

async fn follow(world: &World, query: &str) -> String {
    let told = world.cart("GET", &format!("/v1.0/configuration/config/subscribe{query}"), "").await;
    assert_eq!(told.status, 200, "{}", told.body);
    told.json()["id"].as_str().expect("an id").to_owned()
}

/// The changes of `key` that have been brought once everything has settled.
async fn brought(world: &World, key: &str) -> usize {
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.seen_at(&format!("/configuration/config/{key}")).len()
}

#[tokio::test(start_paused = true)]
async fn an_app_that_starts_again_is_told_once() {
    let stores = Stores::default();
    let world = world(&stores).await;
    let id = follow(&world, "?key=a&key=b&metadata.x=1").await;
    for _ in 0..300 {
        assert_eq!(follow(&world, "?key=b&key=a&key=a&metadata.x=1").await, id);
    }
    assert_ne!(follow(&world, "?key=c&metadata.x=1").await, id, "other keys");
    assert_ne!(follow(&world, "?key=a&key=b").await, id, "other metadata");
    let path = format!("/v1.0/configuration/config/{id}/unsubscribe");
    set(&stores, "b", "1").await;
    assert_eq!(brought(&world, "b").await, 2, "by two subscriptions");
    assert_eq!(world.cart("GET", &path, "").await.status, 200);
    set(&stores, "b", "2").await;
    assert_eq!(brought(&world, "b").await, 3);
    assert_ne!(follow(&world, "?key=a&key=b&metadata.x=1").await, id, "it had been ended");
}

#[tokio::test(start_paused = true)]
async fn subscriptions_end_with_the_instance_and_with_the_app() {
    let stores = Stores::default();
    let world = world(&stores).await;
    let cart = app("shop/cart");
    follow(&world, "?key=a").await;
    world.runtime.app_unwell(&cart);
    world.runtime.app_ready(&cart, true);
    set(&stores, "a", "1").await;
    assert_eq!(brought(&world, "a").await, 1, "an app that was not well follows what it followed");
    world.runtime.app_ready(&cart, false);
    world.runtime.app_ready(&cart, true);
    set(&stores, "a", "2").await;
    assert_eq!(brought(&world, "a").await, 1, "the next instance has not asked for it");
    follow(&world, "?key=b").await;
    let without: Vec<Resource> =
        resources("").into_iter().filter(|one| !matches!(one, Resource::App(_))).collect();
    world.apply(without).await;
    world.apply(resources("")).await;
    world.runtime.app_ready(&cart, true);
    set(&stores, "b", "1").await;
    assert_eq!(brought(&world, "b").await, 0, "the app was taken away meanwhile");
}

#[tokio::test(start_paused = true)]
async fn too_many_subscriptions_push_out_the_one_asked_for_longest_ago() {
    let stores = Stores::default();
    let made = stores.clone();
    let register = move |registry: &mut Registry| {
        registry.register("configuration.open", "v1", Blocks::default(), Opened(made))
    };
    let settings = Settings { max_followers: 3, ..Settings::default() };
    let world = World::with(resources(""), settings, register).await;
    world.runtime.app_ready(&app("shop/cart"), true);
    for key in ["a", "b", "c", "a", "d"] {
        follow(&world, &format!("?key={key}")).await;
    }
    for key in ["a", "b", "c", "d"] {
        set(&stores, key, "1").await;
        assert_eq!(brought(&world, key).await, usize::from(key != "b"), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_outlives_its_component_and_waits_for_its_app() {
    let stores = Stores::default();
    let world = world(&stores).await;
    assert_eq!(world.cart("GET", "/v1.0/configuration/config/subscribe", "").await.status, 200);
    world.apply(resources("another")).await;
    world.until("replaced", || stores.lock().expect("not poisoned").len() == 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.script(|_| Err(Failure::new(Kind::NoEndpoint, "nobody")));
    set(&stores, "a", "1").await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let tried = world.seen_at("/configuration").len();
    assert!(tried > 50, "it is kept on offer");
    world.script(|_| reply(200, ""));
    world.until("brought", || world.seen_at("/configuration").len() > tried).await;
}

#[tokio::test(start_paused = true)]
async fn keys_that_the_new_store_does_not_have_are_told_to_be_gone() {
    let stores = Stores::default();
    let world = world(&stores).await;
    follow(&world, "").await;
    set(&stores, "a", "1").await;
    assert_eq!(brought(&world, "a").await, 1);
    world.apply(resources("another")).await;
    assert_eq!(brought(&world, "a").await, 2);
    let last = world.seen_at("/configuration/config/a").remove(1);
    let update: serde_json::Value = serde_json::from_slice(&last.body).expect("JSON");
    assert_eq!(update["items"], json!({ "a": {} }));
    world.apply(resources("third")).await;
    assert_eq!(brought(&world, "a").await, 2, "once");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_gone_holds_no_old_component() {
    let stores = Stores::default();
    let world = world(&stores).await;
    follow(&world, "?key=a").await;
    world.script(|_| Err(Failure::new(Kind::NoEndpoint, "nobody")));
    set(&stores, "a", "old").await;
    world.until("tried", || world.seen_at("/configuration").len() > 3).await;
    world.apply(resources("another")).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let old = stores.lock().expect("not poisoned")[0].clone();
    assert_eq!(Arc::strong_count(&old), 2, "here and in the list");
    set(&stores, "a", "new").await;
    let tried = world.seen_at("/configuration").len();
    world.script(|_| reply(200, ""));
    world.until("brought", || world.seen_at("/configuration").len() > tried).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let last = world.seen_at("/configuration").pop().expect("a change");
    let update: serde_json::Value = serde_json::from_slice(&last.body).expect("JSON");
    assert_eq!(update["items"]["a"]["value"], json!("new"));
}
