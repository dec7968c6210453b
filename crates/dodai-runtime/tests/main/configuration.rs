//! Configuration: reading, and changes on their way to apps.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dodai_capability::component::{Capabilities, Context, Registry, Spec};
use dodai_capability::configuration::Writer;
use dodai_capability::memory;
use dodai_core::failure::{Failure, Kind};
use dodai_core::snapshot::{App, Resource};
use dodai_runtime::Settings;
use serde_json::json;

use crate::world::{World, app, component, name, reply};

type Stores = Arc<Mutex<Vec<Arc<memory::Configuration>>>>;

/// A world whose configuration stores the test can write to.
async fn world(stores: &Stores) -> World {
    let made = stores.clone();
    let register = move |registry: &mut Registry| {
        registry.register("configuration.open", "v1", Opened(made));
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
