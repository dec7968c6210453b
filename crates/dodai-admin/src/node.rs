//! The server itself: status, events, change log, configuration, messages, store, stop.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use dodai_core::id::AppId;
use futures_util::StreamExt;
use http::{HeaderMap, Uri, header};
use serde::Deserialize;
use serde_json::json;

use crate::Refusal;
use crate::api::{Answer, MAX_VALUE_BYTES, Shared, json as answer, query, read};
use crate::feed;
use crate::seam::{CallFilter, ConfigKey, Message};

/// `GET /metrics`.
pub(crate) async fn metrics(State(parts): Shared, headers: HeaderMap) -> Answer {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let (kind, text) = (parts.metrics)(accept);
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// `GET /v1/status`.
pub(crate) async fn status(State(parts): Shared) -> Answer {
    let about = &parts.about;
    let settled = parts.settled.borrow().clone();
    answer(&json!({
        "version": about.version,
        "pid": about.pid,
        "folder": about.folder,
        "data": about.data,
        "settled": settled.is_some(),
        "notReady": settled.unwrap_or_default(),
        "node": parts.node.state(),
        "store": parts.ledger.state().await?,
    }))
}

/// How long a base may take to say what it uses, and how many are asked at once.
const PATIENCE: Duration = Duration::from_secs(1);
const AT_ONCE: usize = 32;

/// `GET /v1/bases`: every base that was seen, with what it reported last, and what it uses if it says so at once.
pub(crate) async fn bases(State(parts): Shared) -> Answer {
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
    let mut rows = Vec::new();
    for (base, sighting) in observed.bases() {
        let status = &sighting.status;
        let own = view.records.instances().filter(|record| record.base == *base);
        let components = status.components.iter();
        rows.push(json!({
            "name": base.as_str(),
            "connected": sighting.connected,
            "since_ms": sighting.since,
            "applied": status.applied,
            "own": uses.next().flatten(),
            "refused": status.refused.as_ref().map(|refused| &refused.reason),
            "listeners": status.listeners,
            "not_open": status.not_open,
            "mesh": status.mesh,
            "instances": own.map(|record| record.id.to_string()).collect::<Vec<_>>(),
            "components": components.map(|(name, one)| (name.as_str(), one.ready)).collect::<BTreeMap<_, _>>(),
        }));
    }
    answer(&json!({ "items": rows, "version": parts.about.version }))
}

/// `POST /v1/shutdown`: begins an orderly stop and answers at once.
pub(crate) async fn shutdown(State(parts): Shared) -> Answer {
    let response = answer(&json!({ "stopping": true, "pid": parts.about.pid }))?;
    parts.stop.send_replace(true);
    Ok(response)
}

#[derive(Deserialize)]
struct EventsQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    follow: bool,
}

/// `GET /v1/events?after=0&follow=false`: what happened, oldest first.
pub(crate) async fn events(State(parts): Shared, uri: Uri) -> Answer {
    let EventsQuery { after, follow } = query(&uri)?;
    if !follow {
        return answer(&json!({ "items": parts.control.events(after) }));
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
    Ok(feed::respond(stream, parts.tasks.clone()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallsQuery {
    app: Option<String>,
    status: Option<String>,
    #[serde(default)]
    failures: bool,
    #[serde(default)]
    errors: bool,
    route: Option<String>,
    method: Option<String>,
    path: Option<String>,
    slower_than_us: Option<u64>,
    header: Option<String>,
    caller: Option<String>,
}

/// `GET /v1/calls?app=default/shop&status=400&failures=false&path=/a&header=x-lane:blue`: calls as they end, without
/// end. What is given must all hold.
pub(crate) async fn calls(State(parts): Shared, uri: Uri) -> Answer {
    let asked: CallsQuery = query(&uri)?;
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
    Ok(feed::respond(calls, parts.tasks.clone()))
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

#[derive(Deserialize)]
struct ChangesQuery {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
    #[serde(default)]
    prefix: String,
}

/// `GET /v1/changes?after=0&limit=500&prefix=App/default/`: the store's change log, oldest first.
pub(crate) async fn changes(State(parts): Shared, uri: Uri) -> Answer {
    let ChangesQuery { after, limit, prefix } = query(&uri)?;
    let items =
        parts.ledger.changes(format!("/{prefix}"), after, limit.unwrap_or(500).clamp(1, 10_000)).await?;
    answer(&json!({ "items": items }))
}

#[derive(Deserialize)]
struct Namespaced {
    namespace: Option<String>,
}

fn config_key(uri: &Uri, (store, key): (String, String)) -> Result<ConfigKey, Refusal> {
    let Namespaced { namespace } = query(uri)?;
    Ok(ConfigKey { namespace: namespace.unwrap_or_else(|| "default".to_owned()), store, key })
}

/// `GET /v1/config/{store}/{key}?namespace=default`.
pub(crate) async fn config_get(State(parts): Shared, Path(path): Path<(String, String)>, uri: Uri) -> Answer {
    let key = config_key(&uri, path)?;
    match parts.node.config_get(key.clone()).await? {
        Some(value) => answer(&json!({ "store": key.store, "key": key.key, "value": value })),
        None => {
            Err(Refusal::not_found(format!("configuration store `{}` has no key `{}`", key.store, key.key)))
        }
    }
}

/// `PUT /v1/config/{store}/{key}?namespace=default`: the value is the body.
pub(crate) async fn config_set(
    State(parts): Shared,
    Path(path): Path<(String, String)>,
    uri: Uri,
    body: Body,
) -> Answer {
    let key = config_key(&uri, path)?;
    let value = String::from_utf8(read(body, MAX_VALUE_BYTES).await?.to_vec())
        .map_err(|_| Refusal::bad_request("the value is not UTF-8 text"))?;
    parts.node.config_set(key.clone(), Some(value)).await?;
    answer(&json!({ "store": key.store, "key": key.key }))
}

/// `DELETE /v1/config/{store}/{key}?namespace=default`.
pub(crate) async fn config_delete(
    State(parts): Shared,
    Path(path): Path<(String, String)>,
    uri: Uri,
) -> Answer {
    let key = config_key(&uri, path)?;
    if parts.node.config_set(key.clone(), None).await? {
        return answer(&json!({ "store": key.store, "key": key.key, "deleted": true }));
    }
    Err(Refusal::not_found(format!("configuration store `{}` has no key `{}`", key.store, key.key)))
}

/// `POST /v1/publish/{pubsub}/{topic}?namespace=default`: the message is the body.
pub(crate) async fn publish(
    State(parts): Shared,
    Path((pubsub, topic)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let Namespaced { namespace } = query(&uri)?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("text/plain");
    let message = Message {
        namespace: namespace.unwrap_or_else(|| "default".to_owned()),
        pubsub: pubsub.clone(),
        topic: topic.clone(),
        content_type: kind.to_owned(),
        data: read(body, MAX_VALUE_BYTES).await?,
    };
    parts.node.publish(message).await?;
    answer(&json!({ "pubsub": pubsub, "topic": topic }))
}

/// `GET /v1/store`.
pub(crate) async fn store(State(parts): Shared) -> Answer {
    answer(&parts.ledger.state().await?)
}
