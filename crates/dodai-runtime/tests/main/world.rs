//! A runtime with a door that records calls and answers by script.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dodai_capability::component::Registry;
use dodai_core::body::Body;
use dodai_core::call::{Answer, Call, Caller, Context, Door, Reply};
use dodai_core::failure::Failure;
use dodai_core::id::{AppId, Name};
use dodai_core::snapshot::{App, Component, Resource, Setting, Snapshot, Subscription, Value};
use dodai_core::task::Tasks;
use dodai_core::trace::Span;
use dodai_runtime::{Runtime, Settings};
use http::{HeaderMap, Request, StatusCode};
use tokio::sync::watch;

/// A call as it came to the door.
#[derive(Clone, Debug)]
pub struct Seen {
    pub caller: Caller,
    pub authority: String,
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub context: Context,
}

type Script = Box<dyn FnMut(&Seen) -> Result<Reply, Failure> + Send>;

/// Records calls, answers by script.
pub struct Scripted {
    script: Mutex<Script>,
    seen: watch::Sender<Vec<Seen>>,
}

impl Door for Scripted {
    fn enter(&self, call: Call) -> Answer<'_> {
        Box::pin(async move {
            let Call { head, body, context } = call;
            let seen = Seen {
                caller: context.caller.clone(),
                authority: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
                method: head.method.to_string(),
                path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
                headers: head.headers,
                body: body.collect(usize::MAX).await?,
                context,
            };
            let answer = (self.script.lock().expect("not poisoned"))(&seen);
            self.seen.send_modify(|all| all.push(seen));
            answer
        })
    }
}

/// A runtime under test.
pub struct World {
    pub runtime: Runtime,
    pub door: Arc<Scripted>,
    pub tasks: Tasks,
}

/// What the API answered.
pub struct Told {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

pub fn app(text: &str) -> AppId {
    AppId::parse(text).expect("an app")
}

pub fn reply(status: u16, body: &'static str) -> Result<Reply, Failure> {
    Ok(Reply::new(StatusCode::from_u16(status).expect("a status"), body))
}

/// A component of namespace `shop` with plain settings.
pub fn component(name: &str, driver: &str, settings: &[(&str, &str)]) -> Component {
    let setting = |(name, value): &(&str, &str)| Setting {
        name: (*name).to_owned(),
        value: Value::Plain((*value).to_owned()),
    };
    Component {
        namespace: self::name("shop"),
        name: name.to_owned(),
        driver: driver.to_owned(),
        version: "v1".to_owned(),
        settings: settings.iter().map(setting).collect(),
        scopes: Vec::new(),
        ignore_errors: false,
        init_timeout: Duration::from_secs(5),
        inbound: Default::default(),
        outbound: Default::default(),
    }
}

/// A subscription of `shop/cart` to topic `t` of component `bus`.
pub fn subscription(path: &str, dead_letter: Option<&str>, metadata: &[(&str, &str)]) -> Subscription {
    Subscription {
        name: "shop/cart/sub".to_owned(),
        app: app("shop/cart"),
        pubsub: "bus".to_owned(),
        topic: "t".to_owned(),
        rules: Vec::new(),
        path: Some(path.to_owned()),
        dead_letter_topic: dead_letter.map(str::to_owned),
        bulk: None,
        metadata: metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    }
}

/// Every building block in memory, and the apps `shop/cart` and `shop/other`.
pub fn blocks() -> Vec<Resource> {
    let mut all: Vec<Resource> = [
        component("store", "state.in-memory", &[]),
        component("bus", "pubsub.in-memory", &[]),
        component("config", "configuration.in-memory", &[]),
        component("locks", "lock.in-memory", &[]),
        component("vault", "secretstores.test", &[("db", "hunter2"), ("api", "key")]),
    ]
    .map(Resource::Component)
    .into();
    all.extend(["shop/cart", "shop/other"].map(|id| Resource::App(App::new(app(id)))));
    all
}

impl World {
    /// A runtime with these resources, its components up. The door answers 404 to `/dapr/subscribe` and 200
    /// to all else until a script is set.
    pub async fn new(resources: Vec<Resource>) -> World {
        World::with(resources, Settings::default(), |_| {}).await
    }

    pub async fn with(
        resources: Vec<Resource>,
        settings: Settings,
        more: impl FnOnce(&mut Registry),
    ) -> World {
        let mut registry = Registry::new();
        dodai_capability::memory::register(&mut registry);
        crate::drivers::register(&mut registry);
        more(&mut registry);
        let script: Script =
            Box::new(|seen| if seen.path == "/dapr/subscribe" { reply(404, "") } else { reply(200, "") });
        let door = Arc::new(Scripted { script: Mutex::new(script), seen: watch::Sender::default() });
        let environment = BTreeMap::from([("PASS", "s3cret"), ("DAPR_X", "no")]);
        let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let tasks = Tasks::new();
        let (environment, dir) = (Arc::new(environment.collect()), std::path::PathBuf::new());
        let runtime = Runtime::new(registry, door.clone(), environment, dir, settings, &tasks);
        let world = World { runtime, door, tasks };
        world.apply(resources).await;
        world
    }

    /// Applies and waits until every component is up.
    pub async fn apply(&self, resources: Vec<Resource>) {
        self.runtime.apply(&Snapshot::of(1, resources));
        self.until("components up", || self.runtime.health().values().all(|health| health.ready)).await;
    }

    /// Sets what apps answer; they have no subscriptions to tell.
    pub fn script(&self, mut script: impl FnMut(&Seen) -> Result<Reply, Failure> + Send + 'static) {
        self.script_all(
            move |seen| if seen.path == "/dapr/subscribe" { reply(404, "") } else { script(seen) },
        );
    }

    /// Sets what apps answer to whatever they are asked.
    pub fn script_all(&self, script: impl FnMut(&Seen) -> Result<Reply, Failure> + Send + 'static) {
        *self.door.script.lock().expect("not poisoned") = Box::new(script);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.door.seen.borrow().clone()
    }

    /// The calls to paths that begin so.
    pub fn seen_at(&self, path: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.path.starts_with(path)).collect()
    }

    /// Waits for a condition, up to an hour of paused time.
    pub async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..360_000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}; {:?} {:?}", self.runtime.health(), self.runtime.subscriptions());
    }

    pub async fn send(
        &self,
        from: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Told {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let context = Context::new(Caller::App(app(from)), Span::root(true));
        self.serve(from, Call { head, body: Body::full(body.to_owned()), context }).await
    }

    pub async fn serve(&self, from: &str, call: Call) -> Told {
        let reply = self.runtime.api(&app(from)).serve(call).await.expect("an answer");
        let body = reply.body.collect(usize::MAX).await.expect("a whole body");
        let body = String::from_utf8(body.to_vec()).expect("text");
        Told { status: reply.head.status.as_u16(), headers: reply.head.headers, body }
    }

    pub async fn cart(&self, method: &str, path: &str, body: &str) -> Told {
        self.send("shop/cart", method, path, &[], body).await
    }

    pub async fn publish(&self, topic: &str, data: &str) {
        let told = self.send("shop/other", "POST", &format!("/v1.0/publish/bus/{topic}"), &[], data).await;
        assert_eq!(told.status, 204, "{}", told.body);
    }
}

impl Told {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The error code, the status beside it.
    pub fn error(&self) -> (u16, String) {
        (self.status, self.json()["errorCode"].as_str().unwrap_or_default().to_owned())
    }
}

/// The data of an event.
pub fn data_of(seen: &Seen) -> String {
    let event: serde_json::Value = serde_json::from_slice(&seen.body).expect("an event");
    event["data"].as_str().unwrap_or_default().to_owned()
}
