//! A world for the API: control over a store in memory, and seams that remember what they were asked.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use dodai_admin::Refusal;
use dodai_admin::api::{About, Parts, router};
use dodai_admin::gate::Gate;
use dodai_admin::joining::Joining;
use dodai_admin::live::Live;
use dodai_admin::seam::{
    self, Artifacts, CallFilter, Change, ConfigKey, Done, Flow, Job, Jobs, Kept, Keys, Ledger, Lock, Locks,
    LogLine, Look, Message, Missed, Node, NodeState, Own, Pair, Pending, Place, Root, RootStep, Roots, Shelf,
    Silent, Standing, Stations, StoreState, Told, TopicGroup, Topics, Traffic, Trust, Usage, Waiting,
    WaitingPage, Wish,
};
use dodai_admin::session::Sessions;
use dodai_control::control::{Control, Settings};
use dodai_control::trust::Revocation;
use dodai_core::call::{Call, Door, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::features::{self, Blocks, Type};
use dodai_core::id::{AppId, Digest, InstanceId};
use dodai_core::snapshot::Whose;
use dodai_core::task::Tasks;
use dodai_store::MemoryStore;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt;

use super::described;

/// The API and what it works on.
pub struct World {
    pub router: Router,
    pub control: Control,
    pub node: Arc<FakeNode>,
    pub stop: watch::Sender<bool>,
    pub tasks: Tasks,
    pub data: tempfile::TempDir,
}

/// What came back.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

/// An answer without end. Each event is compared with the description.
pub struct Events {
    path: String,
    body: Body,
    queue: VecDeque<(Value, u64)>,
}

impl Events {
    pub async fn next(&mut self) -> Value {
        self.next_with_id().await.0
    }

    /// An event with its number, 0 if it has none.
    pub async fn next_with_id(&mut self) -> (Value, u64) {
        loop {
            if let Some(told) = self.queue.pop_front() {
                return told;
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame())
                .await
                .expect("an event in time");
            let data = frame.expect("more events").unwrap().into_data().unwrap();
            let text = String::from_utf8(data.to_vec()).unwrap();
            let mut id = 0;
            for line in text.lines() {
                if let Some(told) = line.strip_prefix("id: ") {
                    id = told.parse().unwrap();
                } else if let Some(data) = line.strip_prefix("data: ") {
                    let value = serde_json::from_str(data).unwrap();
                    described::event(&self.path, &value);
                    self.queue.push_back((value, id));
                }
            }
        }
    }

    pub async fn ends(&mut self) -> bool {
        let all = async { while self.body.frame().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(10), all).await.is_ok()
    }
}

impl World {
    pub async fn new() -> World {
        let tasks = Tasks::new();
        let store = Arc::new(MemoryStore::new(&tasks));
        let control = Control::start(store, Settings::default(), &tasks).await.unwrap();
        let node = Arc::new(FakeNode::default());
        let (stop, _) = watch::channel(false);
        let data = tempfile::tempdir().unwrap();
        let parts = Parts {
            control: control.clone(),
            node: node.clone(),
            ledger: node.clone(),
            artifacts: node.clone(),
            door: node.clone(),
            joining: Some(Joining {
                address: "127.0.0.1:7443".to_owned(),
                pin: watch::channel("sha256:aa".to_owned()).1,
                domain: "cluster.local".to_owned(),
            }),
            roots: Some(node.clone()),
            live: Live::start(control.clone(), node.clone(), &tasks),
            sessions: Sessions::default(),
            gate: Gate::new(Arc::new(|token| token == "right"), vec!["console.internal".to_owned()]),
            about: About {
                version: "1".to_owned(),
                pid: 7,
                folder: None,
                data: data.path().to_owned(),
                component_types: vec![sqlite()],
            },
            metrics: Arc::new(|_| ("text/plain", "# EOF\n".to_owned())),
            stop: stop.clone(),
            settled: watch::channel(Some(Vec::new())).1,
            tasks: tasks.clone(),
        };
        World { router: router(Arc::new(parts)), control, node, stop, tasks, data }
    }

    async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in [("host", "127.0.0.1:7070"), ("authorization", "Bearer right")] {
            if !headers.iter().any(|(other, _)| *other == name) {
                request = request.header(name, value);
            }
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, HeaderValue::from_str(value).unwrap());
        }
        self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap()
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.upload(method, path, headers, Body::from(body.to_owned())).await
    }

    /// Sends a body that need not be text, and may come in pieces. Whatever is answered is compared with the description.
    pub async fn upload(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Answer {
        let (head, body) = self.request(method, path, headers, body).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let answer = Answer { status: head.status, headers: head.headers, text };
        described::answer(method, path, &answer);
        answer
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub async fn apply(&self, query: &str, documents: &str) -> Answer {
        self.send("POST", &format!("/v1/documents{query}"), &[], documents).await
    }

    pub async fn stream(&self, path: &str) -> Events {
        self.stream_with(path, &[]).await
    }

    pub async fn stream_with(&self, path: &str, headers: &[(&str, &str)]) -> Events {
        let response = self.request("GET", path, headers, Body::empty()).await;
        assert_eq!(response.status(), StatusCode::OK);
        Events { path: path.to_owned(), body: response.into_body(), queue: VecDeque::new() }
    }

    /// Whether the mirror of the store has a document of a kind.
    pub fn has(&self, kind: dodai_api::Kind) -> bool {
        self.control.view().documents.of_kind(kind).next().is_some()
    }

    /// Waits until the mirror of the store has seen what was written.
    pub async fn until(&self, holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("in time");
    }
}

/// The one type of component that it knows.
pub fn sqlite() -> Type {
    let state = features::State { etag: true, ttl: true, ..features::State::default() };
    let blocks = Blocks { state: Some(state), ..Blocks::default() };
    Type { kind: "state.sqlite".to_owned(), version: "v1".to_owned(), blocks }
}

/// Remembers.
#[derive(Default)]
pub struct FakeNode {
    done: Mutex<Vec<String>>,
    config: Mutex<BTreeMap<String, String>>,
    calls: Mutex<u64>,
    /// What it says of itself.
    pub state: Mutex<NodeState>,
}

impl FakeNode {
    fn note(&self, text: String) {
        self.done.lock().unwrap().push(text);
    }

    pub fn done(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }
}

impl Node for FakeNode {
    fn usages(&self) -> HashMap<InstanceId, Usage> {
        HashMap::new()
    }

    fn traffic(&self) -> Option<Traffic> {
        let mut calls = self.calls.lock().unwrap();
        // One more with each look.
        *calls += 1;
        let pair = Pair {
            caller: "outside".to_owned(),
            app: "default/shop".to_owned(),
            calls: *calls,
            errors: 0,
            buckets: vec![*calls, 0],
        };
        Some(Traffic { bounds_s: vec![0.1], pairs: vec![pair], ..Traffic::default() })
    }

    fn subscriptions(&self) -> BTreeMap<String, Option<String>> {
        BTreeMap::from([("default/shop bus/orders".to_owned(), Some("no such component".to_owned()))])
    }

    fn own<'a>(&'a self, _base: &'a str) -> Pending<'a, Option<Own>> {
        Box::pin(async { Ok(Some(Own::default())) })
    }

    fn keys(&self, shelf: Shelf, prefix: String, after: Option<String>, limit: usize) -> Pending<'_, Keys> {
        self.note(format!("keys {} {} {prefix} {after:?} {limit}", shelf.app, shelf.store));
        Box::pin(async { Ok(Keys { keys: vec!["cart-1".to_owned()], next: None }) })
    }

    fn value(&self, _shelf: Shelf, key: String) -> Pending<'_, Option<Kept>> {
        let text = (key == "cart/1").then(|| "{}".to_owned());
        Box::pin(async {
            Ok(text.map(|text| Kept { bytes: text.len(), text: Some(text), ..Kept::default() }))
        })
    }

    fn state(&self) -> NodeState {
        self.state.lock().unwrap().clone()
    }

    fn logs(
        &self,
        _app: &AppId,
        _instance: Option<&InstanceId>,
        tail: usize,
        _follow: bool,
    ) -> Flow<LogLine> {
        let line = |number| LogLine {
            instance: "i-1".to_owned(),
            time_ms: 0,
            stream: "stdout".to_owned(),
            text: format!("line {number}"),
        };
        futures_util::stream::iter(1..=tail).map(line).boxed()
    }

    fn keeps_output_of(&self, _app: &AppId, instance: &InstanceId) -> bool {
        instance.as_str() == "shop-1"
    }

    fn calls(&self, filter: CallFilter) -> Flow<Told> {
        let call = seam::Call {
            detail: format!("{filter:?}"),
            stations: Some(Stations::default()),
            request_headers: BTreeMap::from([("x-lane".to_owned(), "blue".to_owned())]),
            ..seam::Call::default()
        };
        let missed = Missed { missed: 7, base: Some("one".to_owned()) };
        let silent = Silent { base: "one".to_owned(), ended: "it left".to_owned() };
        let all = [Told::Call(Box::new(call)), Told::Missed(missed), Told::Silent(silent)];
        futures_util::stream::iter(all).boxed()
    }

    fn look(&self, look: Look) -> Pending<'_, serde_json::Value> {
        Box::pin(async move { Ok(serde_json::json!({ "items": [format!("{look:?}")], "next": null })) })
    }

    fn inside(&self, place: Place, wish: Wish) -> Pending<'_, Value> {
        self.note(format!("inside {}/{} {wish:?}", place.namespace, place.name));
        let failed = BTreeMap::from([("one".to_owned(), "it left".to_owned())]);
        let answer = match wish {
            Wish::Topics => serde_json::to_value(Topics { items: vec![TopicGroup::default()], failed }),
            Wish::Peek { .. } => {
                serde_json::to_value(WaitingPage { items: vec![Waiting::default()], next: None })
            }
            Wish::Locks { .. } => {
                let base = Some("one".to_owned());
                serde_json::to_value(Locks {
                    items: vec![Lock { base, ..Lock::default() }],
                    next: Some("a".to_owned()),
                    failed,
                })
            }
            Wish::Replay { to, .. } if to == "orders" => {
                let text = "the driver cannot";
                let refusal = Refusal::new(StatusCode::NOT_IMPLEMENTED, "unsupported", text);
                return Box::pin(async { Err(refusal) });
            }
            Wish::Replay { .. } | Wish::Unlock { .. } => serde_json::to_value(Done {}),
        };
        Box::pin(async move { Ok(answer.unwrap()) })
    }

    fn jobs(&self, wanted: Jobs) -> Pending<'_, Value> {
        self.note(format!("jobs {wanted:?}"));
        let items = serde_json::to_value([Job::default()]).unwrap();
        Box::pin(async move { Ok(serde_json::json!({ "items": items, "next": null, "failed": {} })) })
    }

    fn forget_job(&self, app: AppId, name: String, base: Option<String>) -> Pending<'_, ()> {
        self.note(format!("forget {app} {name} {base:?}"));
        let is_there = name == "report";
        Box::pin(
            async move { if is_there { Ok(()) } else { Err(Refusal::not_found("there is no such job")) } },
        )
    }

    fn publish(&self, message: Message) -> Pending<'_, ()> {
        let Message { namespace, pubsub, topic, content_type, data } = message;
        self.note(format!("publish {namespace} {pubsub} {topic} {content_type} {}", data.len()));
        Box::pin(async { Ok(()) })
    }

    fn config_get(&self, key: ConfigKey) -> Pending<'_, Option<String>> {
        Box::pin(async move { Ok(self.config.lock().unwrap().get(&key.key).cloned()) })
    }

    fn config_set(&self, key: ConfigKey, value: Option<String>) -> Pending<'_, bool> {
        Box::pin(async move {
            let mut config = self.config.lock().unwrap();
            match value {
                Some(value) => {
                    config.insert(key.key, value);
                    Ok(true)
                }
                None => Ok(config.remove(&key.key).is_some()),
            }
        })
    }
}

impl FakeNode {
    fn trust(&self) -> Pending<'_, Trust> {
        let root = Root { pin: "sha256:aa".to_owned(), signs: true, expires_ms: 1 };
        let one = Standing {
            name: "one".to_owned(),
            connected: true,
            trusts: [root.pin.clone()].into(),
            signed_by: [(root.pin.clone(), 2)].into(),
            revoked: 0,
            waits_for: None,
        };
        let revoked = Revocation {
            whose: Whose::parse("app/default/shop").unwrap(),
            until: 1,
            actor: "me".to_owned(),
            forgotten_ms: 2,
        };
        let trust =
            Trust { phase: "steady".to_owned(), roots: vec![root], bases: vec![one], revoked: vec![revoked] };
        Box::pin(async { Ok(trust) })
    }
}

impl Roots for FakeNode {
    fn show(&self) -> Pending<'_, Trust> {
        self.trust()
    }

    fn step(&self, step: RootStep, force: bool, actor: String) -> Pending<'_, Trust> {
        self.note(format!("{step:?} {force} {actor}"));
        self.trust()
    }

    fn revoke(&self, whose: Whose, undo: bool, actor: String) -> Pending<'_, Trust> {
        self.note(format!("revoke {whose} {undo} {actor}"));
        self.trust()
    }
}

impl Artifacts for FakeNode {
    fn put(&self, bytes: Bytes) -> Pending<'_, Digest> {
        let broken = bytes.ends_with(b"broken");
        self.note(format!("put {}", bytes.len()));
        Box::pin(
            async move { Ok(Digest::new(format!("sha256:{}", if broken { "b" } else { "a" }.repeat(64)))) },
        )
    }

    fn prepare<'a>(&'a self, name: &'a str, digest: &'a Digest) -> Pending<'a, ()> {
        self.note(format!("prepare {name} {digest}"));
        let broken = digest.as_str().ends_with('b');
        let refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "artifact", "it does not compile");
        Box::pin(async move { if broken { Err(refusal) } else { Ok(()) } })
    }
}

impl Ledger for FakeNode {
    fn state(&self) -> Pending<'_, StoreState> {
        let backend = "fake".to_owned();
        Box::pin(async {
            Ok(StoreState { backend, revision: 1, compacted: 0, keys: 0, size_bytes: 0, schema_version: 1 })
        })
    }

    fn at(&self, _key: String, _revision: u64) -> Pending<'_, Option<Bytes>> {
        let document = serde_json::json!({
            "apiVersion": "dodai.dev/v1", "kind": "App", "metadata": {"name": "shop", "namespace": "default"},
        });
        Box::pin(async move { Ok(Some(Bytes::from(document.to_string()))) })
    }

    fn changes(&self, prefix: String, _after: u64, _limit: usize) -> Pending<'_, Vec<Change>> {
        let (action, actor, reason) = ("create".to_owned(), "me".to_owned(), String::new());
        Box::pin(async { Ok(vec![Change { revision: 1, key: prefix, action, actor, reason, time_ms: 0 }]) })
    }

    fn changes_of(&self, key: String, limit: usize) -> Pending<'_, Vec<Change>> {
        self.changes(key.trim_start_matches('/').to_owned(), 0, limit)
    }

    fn backup(&self, path: PathBuf) -> Pending<'_, ()> {
        Box::pin(async move {
            std::fs::write(path, "a copy").map_err(|error| Refusal::internal(error.to_string()))
        })
    }
}

impl Door for FakeNode {
    fn enter(&self, call: Call) -> dodai_core::call::Answer<'_> {
        Box::pin(async move {
            if call.head.uri.host() == Some("away.default") {
                return Err(Failure::new(Kind::NoRoute, "nobody is there"));
            }
            let body = call.body.collect(1000).await?;
            let text = format!("{} {} {}", call.head.method, call.head.uri, String::from_utf8_lossy(&body));
            let mut reply = Reply::new(StatusCode::IM_A_TEAPOT, text);
            let seen = call.head.headers.get("authorization").cloned();
            reply.head.headers.extend(seen.map(|seen| (HeaderName::from_static("seen"), seen)));
            Ok(reply)
        })
    }
}
