//! The Dapr HTTP API: whatever an app sends to whatever part of it, and answers when it is asked, there is an answer in
//! time, and a refusal says why.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dodai_capability::component::Registry;
use dodai_core::body::Body;
use dodai_core::call::{Answer, Call, Caller, Context, Door, Reply};
use dodai_core::id::{AppId, Name};
use dodai_core::snapshot::{App, Component, Resource, Snapshot};
use dodai_core::task::Tasks;
use dodai_core::trace::Span;
use dodai_runtime::{Runtime, Settings};
use http::{Request, StatusCode};

const PATHS: &[(&str, &str)] = &[
    ("POST", "/v1.0/state/store"),
    ("POST", "/v1.0/state/store/bulk"),
    ("POST", "/v1.0/state/store/transaction"),
    ("POST", "/v1.0-alpha1/state/store/query"),
    ("POST", "/v1.0/publish/bus/t"),
    ("POST", "/v1.0/publish/bus/t?metadata.rawPayload=true"),
    ("POST", "/v1.0/publish/bulk/bus/t"),
    ("GET", "/v1.0/configuration/config/subscribe"),
    ("POST", "/v1.0-alpha1/lock/locks"),
    ("POST", "/v1.0-alpha1/unlock/locks"),
    ("PUT", "/v1.0/metadata/key"),
];
const TYPES: &[&str] = &["application/json", "application/cloudevents+json", "text/plain"];
const COMPONENTS: &[(&str, &str)] = &[
    ("store", "state.in-memory"),
    ("bus", "pubsub.in-memory"),
    ("config", "configuration.in-memory"),
    ("locks", "lock.in-memory"),
];

/// An app that answers everything with the same body.
struct Same(Bytes);

impl Door for Same {
    fn enter(&self, _call: Call) -> Answer<'_> {
        let reply = Reply::new(StatusCode::OK, self.0.clone());
        Box::pin(async move { Ok(reply) })
    }
}

/// The first byte chooses the path, the second the type of the content; the rest is the body, and what the app answers.
pub fn target(data: &[u8]) {
    let [path, kind, body @ ..] = data else { return };
    let (method, path) = PATHS[usize::from(*path) % PATHS.len()];
    let kind = TYPES[usize::from(*kind) % TYPES.len()];
    let clock = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    clock.expect("a runtime").block_on(async {
        let tasks = Tasks::new();
        let (runtime, app) = ready(Bytes::copy_from_slice(body), &tasks).await;
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let context = Context::new(Caller::App(app.clone()), Span::root(false));
        let call = Call { head, body: Body::full(Bytes::copy_from_slice(body)), context };
        let answer = async {
            let reply = runtime.api(&app).serve(call).await.expect("an answer");
            (reply.head.status.as_u16(), reply.body.collect(usize::MAX).await.expect("a whole answer"))
        };
        let (status, told) = tokio::time::timeout(Duration::from_secs(60), answer).await.expect("in time");
        assert!((200..=599).contains(&status));
        if status >= 400 {
            let told: serde_json::Value = serde_json::from_slice(&told).expect("a refusal is JSON");
            assert!(told.get("errorCode").or(told.get("message")).is_some(), "{told}");
        }
        // What was published is on its way to the app, if that told a subscription.
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
}

/// A runtime whose components are up and whose app is ready.
async fn ready(answer: Bytes, tasks: &Tasks) -> (Runtime, AppId) {
    let mut registry = Registry::new();
    dodai_capability::memory::register(&mut registry);
    let door = Arc::new(Same(answer));
    let runtime =
        Runtime::new(registry, door, Arc::default(), PathBuf::new(), Settings::default(), tasks);
    let app = AppId::parse("shop/cart").expect("an app");
    let mut all: Vec<Resource> = COMPONENTS.iter().map(|(name, driver)| component(name, driver)).collect();
    all.push(Resource::App(App::new(app.clone())));
    runtime.apply(&Snapshot::of(1, all));
    while !runtime.health().values().all(|health| health.ready) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    runtime.app_ready(&app, true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    (runtime, app)
}

fn component(name: &str, driver: &str) -> Resource {
    Resource::Component(Component {
        namespace: Name::new("shop").expect("a name"),
        name: name.to_owned(),
        driver: driver.to_owned(),
        version: "v1".to_owned(),
        settings: Vec::new(),
        scopes: Vec::new(),
        ignore_errors: false,
        init_timeout: Duration::from_secs(5),
        inbound: Default::default(),
        outbound: Default::default(),
    })
}
