//! The server itself: status, events, change log, configuration, messages, store, stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use dodai_control::control::Event;
use dodai_core::id::AppId;
use futures_util::StreamExt;
use http::{HeaderMap, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::api::{MAX_VALUE_BYTES, Shared};
use crate::feed::Events;
use crate::seam::{CallFilter, Change, ConfigKey, Message, NodeState, NotReady, Own, StoreState, Told};
use crate::wire::{Answer, Json, MetricsPage, Or, Query, Raw, Sent, Text, json};

/// `GET /healthz`.
pub(crate) async fn health() -> Raw<Text> {
    Raw::new("ok\n".into_response())
}

/// `GET /metrics`.
pub(crate) async fn metrics(State(parts): Shared, headers: HeaderMap) -> Raw<MetricsPage> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let (kind, text) = (parts.metrics)(accept);
    Raw::new(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// The server.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// The version of the program.
    version: String,
    /// Its process.
    pid: u32,
    /// The project folder whose artefacts it can read.
    folder: Option<PathBuf>,
    /// Where its data is.
    data: PathBuf,
    /// Whether what was started first is ready, or has had its time.
    settled: bool,
    /// What of that is not ready.
    not_ready: Vec<NotReady>,
    /// What the node says of itself.
    node: NodeState,
    /// What the store says of itself.
    store: StoreState,
}

/// `GET /v1/status`.
pub(crate) async fn status(State(parts): Shared) -> Answer<Status> {
    let about = &parts.about;
    let settled = parts.settled.borrow().clone();
    json(&Status {
        version: about.version.clone(),
        pid: about.pid,
        folder: about.folder.clone(),
        data: about.data.clone(),
        settled: settled.is_some(),
        not_ready: settled.unwrap_or_default(),
        node: parts.node.state(),
        store: parts.ledger.state().await?,
    })
}

/// How long a base may take to say what it uses, and how many are asked at once.
const PATIENCE: Duration = Duration::from_secs(1);
const AT_ONCE: usize = 32;

/// A base that was seen.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Base {
    /// Its name.
    name: String,
    /// Whether it is connected.
    connected: bool,
    /// Since when it is or is not, in milliseconds since 1970.
    since_ms: u64,
    /// The version of the snapshot in force.
    applied: u64,
    /// What it uses itself, modules included; null if it did not say so at once.
    own: Option<Own>,
    /// Why the newest snapshot was refused, if it was.
    refused: Option<String>,
    /// Where each listener listens.
    listeners: BTreeMap<String, SocketAddr>,
    /// Listeners that are not as the documents say, with the reason.
    not_open: BTreeMap<String, String>,
    /// Where other bases reach it.
    mesh: Option<SocketAddr>,
    /// The instances that are placed on it.
    instances: Vec<String>,
    /// Components, and whether each is ready.
    components: BTreeMap<String, bool>,
}

/// Every base that was seen.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Bases {
    /// By name.
    items: Vec<Base>,
    /// The version of the server.
    version: String,
}

/// `GET /v1/bases`: every base that was seen, with what it reported last, and what it uses if it says so at once.
pub(crate) async fn bases(State(parts): Shared) -> Answer<Bases> {
    let (view, observed) = (parts.control.view(), parts.control.observed());
    let names: Vec<String> = observed.bases().map(|(base, _)| base.to_string()).collect();
    let uses = futures_util::stream::iter(names).map(|name| {
        let node = parts.node.clone();
        async move {
            let own = tokio::time::timeout(PATIENCE, node.own(&name)).await;
            own.ok().and_then(Result::ok).flatten()
        }
    });
    let mut uses = uses.buffered(AT_ONCE).collect::<Vec<_>>().await.into_iter();
    let mut items = Vec::new();
    for (base, sighting) in observed.bases() {
        let status = &sighting.status;
        let own = view.records.instances().filter(|record| record.base == *base);
        let components = status.components.iter();
        items.push(Base {
            name: base.to_string(),
            connected: sighting.connected,
            since_ms: sighting.since,
            applied: status.applied,
            own: uses.next().flatten(),
            refused: status.refused.as_ref().map(|refused| refused.reason.clone()),
            listeners: status.listeners.clone(),
            not_open: status.not_open.clone(),
            mesh: status.mesh,
            instances: own.map(|record| record.id.to_string()).collect(),
            components: components.map(|(name, one)| (name.clone(), one.ready)).collect(),
        });
    }
    json(&Bases { items, version: parts.about.version.clone() })
}

/// A stop that begins.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Stopping {
    /// True.
    stopping: bool,
    /// The process that will end.
    pid: u32,
}

/// `POST /v1/shutdown`: begins an orderly stop and answers at once.
pub(crate) async fn shutdown(State(parts): Shared) -> Answer<Stopping> {
    let response = json(&Stopping { stopping: true, pid: parts.about.pid })?;
    parts.stop.send_replace(true);
    Ok(response)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventsQuery {
    /// Only those after the one with this number.
    #[serde(default)]
    after: u64,
    /// Whether to go on with what comes, without end.
    #[serde(default)]
    follow: bool,
}

/// What happened, oldest first.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Events")]
pub(crate) struct Happened {
    /// The last of them; older ones are not kept.
    items: Vec<Event>,
}

/// `GET /v1/events?after=0&follow=false`: what happened, oldest first.
pub(crate) async fn events(
    State(parts): Shared,
    Query(EventsQuery { after, follow }): Query<EventsQuery>,
) -> Result<Or<Json<Happened>, Events<Event>>, Refusal> {
    if !follow {
        return json(&Happened { items: parts.control.events(after) }).map(Or::One);
    }
    let start =
        (parts.control.clone(), parts.control.events_changed(), after, std::collections::VecDeque::new());
    let stream =
        futures_util::stream::unfold(start, |(control, mut changed, mut after, mut queue)| async move {
            loop {
                if let Some(event) = queue.pop_front() {
                    return Some((event, (control, changed, after, queue)));
                }
                let _seen = *changed.borrow_and_update();
                queue.extend(control.events(after));
                match queue.back() {
                    Some(last) => after = dodai_control::control::Event::clone(last).sequence,
                    None => changed.changed().await.ok()?,
                }
            }
        });
    Ok(Or::Other(Events::of(stream, parts.tasks.clone())))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CallsQuery {
    /// Only calls that this app makes or gets, `namespace/name`.
    app: Option<String>,
    /// Only calls with this status: 400 (at least), 4xx or 500-503.
    status: Option<String>,
    /// Only calls that the base answered itself.
    #[serde(default)]
    failures: bool,
    /// Only calls that end in an error: a status of 400 or more, a failure, or a caller that left.
    #[serde(default)]
    errors: bool,
    /// Only calls by this rule.
    route: Option<String>,
    /// Only calls with this method.
    method: Option<String>,
    /// Only calls whose path begins so.
    path: Option<String>,
    /// Only calls that took at least so long, in microseconds.
    slower_than_us: Option<u64>,
    /// Only calls with this request header: `name` or `name:value`.
    header: Option<String>,
    /// Only calls of this caller: an app, `outside`, `base`, or a proven SPIFFE id.
    caller: Option<String>,
}

/// `GET /v1/calls?app=default/shop&status=400&failures=false&path=/a&header=x-lane:blue`: calls as they end, without
/// end. What is given must all hold.
pub(crate) async fn calls(
    State(parts): Shared,
    Query(asked): Query<CallsQuery>,
) -> Result<Events<Told>, Refusal> {
    let app = asked.app.map(|app| AppId::parse(&app)).transpose();
    let app = app.map_err(|error| Refusal::bad_request(format!("app: {error}")))?;
    let header = asked.header.as_deref().map(header_of).transpose()?;
    let (least_status, statuses) = asked.status.as_deref().map_or(Ok((None, None)), statuses_of)?;
    let calls = parts.node.calls(CallFilter {
        app,
        least_status,
        statuses,
        failures: asked.failures,
        route: asked.route,
        method: asked.method,
        path: asked.path,
        slower_than_us: asked.slower_than_us,
        header,
        caller: asked.caller,
        errors: asked.errors,
    });
    Ok(Events::of(calls, parts.tasks.clone()))
}

/// `name` or `name:value`.
fn header_of(text: &str) -> Result<(String, Option<String>), Refusal> {
    let (name, value) = match text.split_once(':') {
        Some((name, value)) => (name, Some(value.trim().to_owned())),
        None => (text, None),
    };
    let name = http::HeaderName::from_bytes(name.trim().as_bytes());
    let name =
        name.map_err(|_| Refusal::bad_request(format!("header: `{text}` is no header; write name:value")))?;
    Ok((name.as_str().to_owned(), value))
}

/// The least status, and the first and last of a range.
type Statuses = (Option<u16>, Option<(u16, u16)>);

/// `400` is at least that; `4xx` and `500-503` are those.
fn statuses_of(text: &str) -> Result<Statuses, Refusal> {
    let is_status = |status: &u16| (100..600).contains(status);
    let read = |text: &str| text.parse::<u16>().ok().filter(is_status);
    let class =
        |text: &str| text.strip_suffix("xx")?.parse::<u16>().ok().filter(|class| (1..=5).contains(class));
    let range = |text: &str| {
        let (least, most) = text.split_once('-')?;
        Some((read(least)?, read(most)?)).filter(|(least, most)| least <= most)
    };
    match (read(text), class(text), range(text)) {
        (Some(least), _, _) => Ok((Some(least), None)),
        (None, Some(class), _) => Ok((None, Some((class * 100, class * 100 + 99)))),
        (None, None, Some(range)) => Ok((None, Some(range))),
        (None, None, None) => {
            let text = format!("status: `{text}` is none; write 400 (at least), 4xx or 500-503");
            Err(Refusal::bad_request(text))
        }
    }
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct ChangesQuery {
    /// Only those after this revision.
    #[serde(default)]
    after: u64,
    /// About how many at most: 500 where it is left out, 10,000 in any case.
    limit: Option<usize>,
    /// Only of documents whose key begins so, such as `App/default/`.
    #[serde(default)]
    prefix: String,
}

/// The change log, oldest first.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Changes {
    /// Its lines.
    items: Vec<Change>,
}

/// `GET /v1/changes?after=0&limit=500&prefix=App/default/`: the store's change log, oldest first.
pub(crate) async fn changes(
    State(parts): Shared,
    Query(ChangesQuery { after, limit, prefix }): Query<ChangesQuery>,
) -> Answer<Changes> {
    let items =
        parts.ledger.changes(format!("/{prefix}"), after, limit.unwrap_or(500).clamp(1, 10_000)).await?;
    json(&Changes { items })
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Namespaced {
    /// The namespace of the component; `default` where it is left out.
    namespace: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct ConfigPath {
    /// The configuration store component.
    store: String,
    /// The key.
    key: String,
}

fn config_key(ConfigPath { store, key }: ConfigPath, asked: Namespaced) -> ConfigKey {
    ConfigKey { namespace: asked.namespace.unwrap_or_else(|| "default".to_owned()), store, key }
}

/// One value of a configuration store.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ConfigValue {
    /// The component.
    store: String,
    /// The key.
    key: String,
    /// The value.
    value: String,
}

/// `GET /v1/config/{store}/{key}?namespace=default`.
pub(crate) async fn config_get(
    State(parts): Shared,
    Path(path): Path<ConfigPath>,
    Query(asked): Query<Namespaced>,
) -> Answer<ConfigValue> {
    let key = config_key(path, asked);
    match parts.node.config_get(key.clone()).await? {
        Some(value) => json(&ConfigValue { store: key.store, key: key.key, value }),
        None => {
            Err(Refusal::not_found(format!("configuration store `{}` has no key `{}`", key.store, key.key)))
        }
    }
}

/// A key of a configuration store that was written.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ConfigWritten {
    /// The component.
    store: String,
    /// The key.
    key: String,
}

/// `PUT /v1/config/{store}/{key}?namespace=default`: the value is the body.
pub(crate) async fn config_set(
    State(parts): Shared,
    Path(path): Path<ConfigPath>,
    Query(asked): Query<Namespaced>,
    body: Sent<Text>,
) -> Answer<ConfigWritten> {
    let key = config_key(path, asked);
    let value = String::from_utf8(body.read(MAX_VALUE_BYTES).await?.to_vec())
        .map_err(|_| Refusal::bad_request("the value is not UTF-8 text"))?;
    parts.node.config_set(key.clone(), Some(value)).await?;
    json(&ConfigWritten { store: key.store, key: key.key })
}

/// A key of a configuration store that was removed.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ConfigRemoved {
    /// The component.
    store: String,
    /// The key.
    key: String,
    /// True.
    deleted: bool,
}

/// `DELETE /v1/config/{store}/{key}?namespace=default`.
pub(crate) async fn config_delete(
    State(parts): Shared,
    Path(path): Path<ConfigPath>,
    Query(asked): Query<Namespaced>,
) -> Answer<ConfigRemoved> {
    let key = config_key(path, asked);
    if parts.node.config_set(key.clone(), None).await? {
        return json(&ConfigRemoved { store: key.store, key: key.key, deleted: true });
    }
    Err(Refusal::not_found(format!("configuration store `{}` has no key `{}`", key.store, key.key)))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct TopicPath {
    /// The pub/sub component.
    pub(crate) pubsub: String,
    /// The topic.
    pub(crate) topic: String,
}

/// Where a message went.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Published {
    /// The pub/sub component.
    pubsub: String,
    /// The topic.
    topic: String,
}

/// `POST /v1/publish/{pubsub}/{topic}?namespace=default`: the message is the body.
pub(crate) async fn publish(
    State(parts): Shared,
    Path(TopicPath { pubsub, topic }): Path<TopicPath>,
    Query(Namespaced { namespace }): Query<Namespaced>,
    headers: HeaderMap,
    body: Sent<Text>,
) -> Answer<Published> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("text/plain");
    let message = Message {
        namespace: namespace.unwrap_or_else(|| "default".to_owned()),
        pubsub: pubsub.clone(),
        topic: topic.clone(),
        content_type: kind.to_owned(),
        data: body.read(MAX_VALUE_BYTES).await?,
    };
    parts.node.publish(message).await?;
    json(&Published { pubsub, topic })
}

/// `GET /v1/store`.
pub(crate) async fn store(State(parts): Shared) -> Answer<StoreState> {
    json(&parts.ledger.state().await?)
}
