//! Components: opening, failing, changing, references to secrets.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use dodai_capability::memory;
use dodai_capability::state::{Get, Set, Store};
use dodai_core::features::Blocks;
use dodai_core::id::AppId;
use dodai_core::snapshot::{App, Component, Resource, Setting, Snapshot, Value};
use dodai_runtime::Settings;
use futures_util::future::join_all;

use crate::drivers::{Given, Watching};
use crate::world::{World, app, blocks, component, name};

fn with_app(components: Vec<Component>) -> Vec<Resource> {
    let mut all: Vec<Resource> = components.into_iter().map(Resource::Component).collect();
    all.push(Resource::App(App::new(app("shop/cart"))));
    all
}

fn secret(store: &str, secret: &str) -> Value {
    Value::Secret { store: store.into(), name: secret.into(), key: secret.into() }
}

#[tokio::test(start_paused = true)]
async fn a_component_that_fails_is_tried_again_and_told() {
    let world = World::new(vec![]).await;
    world
        .runtime
        .apply(&Snapshot::of(1, with_app(vec![component("db", "state.flaky", &[("failures", "3")])])));
    let reason = || world.runtime.health()["shop/db"].reason.clone();
    world.until("failed", || reason().contains("nobody answers at store:6379")).await;
    let told = world.cart("GET", "/v1.0/state/db/k", "").await;
    assert_eq!(told.error(), (503, "ERR_COMPONENT_NOT_READY".into()));
    assert!(told.body.contains("nobody answers"), "{}", told.body);
    let mut dapr = crate::grpc::dapr(&world);
    let get = dodai_proto::apps::dapr::proto::runtime::v1::GetStateRequest {
        store_name: "db".into(),
        key: "k".into(),
        ..Default::default()
    };
    let refused = dapr.get_state(get).await.expect_err("not ready");
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert_eq!(crate::grpc::reason(&refused), "DODAI_COMPONENT_NOT_READY");
    let told = world.cart("GET", "/v1.0/healthz", "").await;
    assert_eq!(told.error(), (500, "ERR_HEALTH_NOT_READY".into()));
    assert_eq!(world.cart("GET", "/v1.0/healthz/outbound", "").await.status, 204);
    let begun = tokio::time::Instant::now();
    world.until("up", || world.runtime.health()["shop/db"].ready).await;
    assert!(begun.elapsed() > Duration::from_secs(6), "1 + 2 + 4 seconds of pauses");
    assert_eq!(world.cart("GET", "/v1.0/state/db/k", "").await.status, 204);
    assert_eq!(world.cart("GET", "/v1.0/healthz", "").await.status, 204);
}

#[tokio::test(start_paused = true)]
async fn what_may_fail_does_not_hold_up_health() {
    let world = World::new(vec![]).await;
    let mut broken = component("db", "state.nonsense", &[]);
    broken.ignore_errors = true;
    world.runtime.apply(&Snapshot::of(1, with_app(vec![broken])));
    let reason = || world.runtime.health()["shop/db"].reason.clone();
    world.until("failed", || reason().contains("unknown type `state.nonsense`")).await;
    assert_eq!(world.cart("GET", "/v1.0/healthz", "").await.status, 204);
}

#[tokio::test(start_paused = true)]
async fn a_change_under_load_fails_no_call() {
    let watching = Watching::default();
    let driver = watching.clone();
    let register = |registry: &mut dodai_capability::component::Registry| {
        registry.register("state.watched", "v1", Blocks::default(), driver)
    };
    let marked = |mark: &str| with_app(vec![component("db", "state.watched", &[("mark", mark)])]);
    let world = World::with(marked("0"), Settings::default(), register).await;
    let worker = async |offset: u64| {
        let mut marks = Vec::new();
        tokio::time::sleep(Duration::from_millis(offset)).await;
        for _ in 0..60 {
            let told = world.cart("GET", "/v1.0/state/db/k", "").await;
            assert_eq!(told.status, 200, "{}", told.body);
            marks.push(told.body);
        }
        marks
    };
    let change = async {
        for mark in 1..=5 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            world.runtime.apply(&Snapshot::of(mark, marked(&mark.to_string())));
        }
    };
    let (marks, ()) = tokio::join!(join_all((0..7).map(worker)), change);
    for marks in marks {
        assert!(marks.is_sorted(), "never back to an older one: {marks:?}");
        assert_eq!(marks.last().map(String::as_str), Some("\"5\""));
    }
    let all = watching.all();
    assert_eq!(all.len(), 6);
    for watched in &all {
        assert!(!watched.used_after_close.load(SeqCst), "{} was closed under its users", watched.mark);
        assert_eq!(watched.closed.load(SeqCst), watched.mark != "5", "{}", watched.mark);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_change_leaves_the_old_component_and_says_so() {
    let watching = Watching::default();
    let driver = watching.clone();
    let register = |registry: &mut dodai_capability::component::Registry| {
        registry.register("state.watched", "v1", Blocks::default(), driver)
    };
    let marked = |mark: &str| with_app(vec![component("db", "state.watched", &[("mark", mark)])]);
    let world = World::with(marked("good"), Settings::default(), register).await;
    world.runtime.apply(&Snapshot::of(2, marked("broken")));
    let health = || world.runtime.health()["shop/db"].clone();
    world.until("refused", || health().reason.contains("it is broken")).await;
    assert!(health().ready);
    assert_eq!(world.cart("GET", "/v1.0/state/db/k", "").await.body, "\"good\"");
    // Unchanged and changed back: nothing is opened anew.
    world.apply(marked("good")).await;
    world.until("mended", || health().reason.is_empty()).await;
    assert_eq!(watching.all().len(), 1);
    world.runtime.apply(&Snapshot::of(3, with_app(vec![])));
    world.until("closed", || watching.all()[0].closed.load(SeqCst)).await;
    assert!(world.runtime.health().is_empty());
    let told = world.cart("GET", "/v1.0/state/db/k", "").await;
    assert_eq!(told.error(), (500, "ERR_STATE_STORE_NOT_CONFIGURED".into()));
}

#[tokio::test(start_paused = true)]
async fn settings_come_from_secrets_and_the_environment() {
    let watching = Watching::default();
    let driver = watching.clone();
    let world = World::with(vec![], Settings::default(), |registry| {
        registry.register("state.watched", "v1", Blocks::default(), driver)
    })
    .await;
    let mut first = component("db", "state.watched", &[]);
    first.settings = vec![Setting { name: "mark".into(), value: secret("vault", "db") }];
    let mut second = component("cache", "state.watched", &[]);
    second.settings = vec![Setting { name: "mark".into(), value: Value::Environment("PASS".into()) }];
    world.runtime.apply(&Snapshot::of(1, with_app(vec![first.clone(), second.clone()])));
    let health = |name: &str| world.runtime.health()[name].clone();
    world.until("waiting", || health("shop/db").reason.contains("no component `vault`")).await;
    // As soon as the secret store is there, what waits for it comes up.
    let vault = component("vault", "secretstores.test", &[("db", "hunter2")]);
    world.apply(with_app(vec![first, second, vault])).await;
    let marks: Vec<String> = watching.all().iter().map(|watched| watched.mark.clone()).collect();
    assert_eq!(marks, ["s3cret", "hunter2"]);
}

#[tokio::test(start_paused = true)]
async fn values_are_resolved_for_the_base() {
    let world =
        World::new(with_app(vec![component("vault", "secretstores.test", &[("db", "hunter2")])])).await;
    let resolve = async |value: Value| world.runtime.secret(&name("shop"), &value).await;
    assert_eq!(resolve(Value::Plain("x".into())).await.expect("plain"), "x");
    assert_eq!(resolve(Value::Environment("PASS".into())).await.expect("set"), "s3cret");
    assert_eq!(resolve(secret("vault", "db")).await.expect("there"), "hunter2");
    assert_eq!(resolve(secret("", "PASS")).await.expect("the environment"), "s3cret");
    for (value, code) in [
        (Value::Environment("DAPR_X".into()), "environment_variable"),
        (Value::Environment("NOPE".into()), "environment_variable"),
        (secret("vault", "zz"), "secret_not_found"),
        (secret("nope", "db"), "component_not_found"),
        (
            Value::Secret { store: "vault".into(), name: "db".into(), key: "zz".into() },
            "secret_key_not_found",
        ),
        (Value::Config { store: "vault".into(), key: "k".into() }, "component_wrong_kind"),
    ] {
        let error = resolve(value).await.expect_err("refused");
        assert_eq!(error.code(), code, "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn templates_that_differ_by_app_are_refused_where_they_cannot_hold() {
    let world = World::new(vec![]).await;
    let bad = component("db", "state.in-memory", &[("host", "{appID}.local")]);
    world.runtime.apply(&Snapshot::of(1, with_app(vec![bad])));
    world.until("refused", || world.runtime.health()["shop/db"].reason.contains("{appID}")).await;
}

#[tokio::test(start_paused = true)]
async fn templates_stand_for_the_app_of_a_sidecar() {
    let watching = Watching::default();
    let driver = watching.clone();
    let register = |registry: &mut dodai_capability::component::Registry| {
        registry.register("state.watched", "v1", Blocks::default(), driver)
    };
    let settings = Settings { sidecar_of: AppId::parse("shop/cart").ok(), ..Settings::default() };
    let marked = |name: &str, mark: &str| component(name, "state.watched", &[("mark", mark)]);
    let all = vec![marked("db", "{appID} of {namespace}"), marked("pod", "{podName}")];
    let world = World::with(vec![], settings, register).await;
    world.runtime.apply(&Snapshot::of(1, with_app(all)));
    let health = |name: &str| world.runtime.health()[name].clone();
    world.until("up", || health("shop/db").ready).await;
    assert_eq!(watching.all()[0].mark, "cart of shop.cart");
    world.until("refused", || health("shop/pod").reason.contains("POD_NAME")).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_with_an_encryption_key_keeps_no_plain_text() {
    let mut all = blocks();
    let mut sealed = component("sealed", "state.watched", &[]);
    let key = "cb321007ad11a9d23f963bff600d58e0";
    all.push(Resource::Component(component("keys", "secretstores.test", &[("mine", key)])));
    sealed.settings.push(Setting { name: "primaryEncryptionKey".into(), value: secret("keys", "mine") });
    all.push(Resource::Component(sealed));
    let behind: Arc<dyn Store> = Arc::new(memory::State::new(1 << 20));
    let given = behind.clone();
    let world = World::with(all, Settings::default(), |registry| {
        registry.register("state.watched", "v1", Blocks::default(), Given(given))
    })
    .await;
    let saved = world.cart("POST", "/v1.0/state/sealed", r#"[{"key":"k","value":"hunter2"}]"#).await;
    assert_eq!(saved.status, 204);
    let kept = behind.get(&Get::new("cart||k")).await.expect("read").expect("there").value;
    let kept = String::from_utf8(kept.to_vec()).expect("text");
    assert!(kept.ends_with("||mine") && !kept.contains("hunter2"), "{kept}");
    assert_eq!(world.cart("GET", "/v1.0/state/sealed/k", "").await.body, "\"hunter2\"");
    let bulk = world.cart("POST", "/v1.0/state/sealed/bulk", r#"{"keys":["k"]}"#).await;
    assert_eq!(bulk.json()[0]["data"], "hunter2");
    behind.set(Set::new("cart||old", "1")).await.expect("written");
    let old = world.cart("GET", "/v1.0/state/sealed/old", "").await;
    assert_eq!(old.error(), (500, "ERR_STATE_GET".into()), "{}", old.body);
    assert!(old.body.contains("is not encrypted"), "{}", old.body);
}
