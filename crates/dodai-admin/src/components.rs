//! Components as they stand, and what apps keep in state stores.

use axum::extract::{Path, State};
use dodai_api::{Document, Kind};
use dodai_core::id::AppId;
use http::Uri;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Refusal;
use crate::api::{Answer, Shared, json as answer, query};
use crate::seam::Shelf;

/// How many keys one answer has when nothing is said, and at most.
const USUAL_KEYS: usize = 100;
const MAX_KEYS: usize = 1000;

/// One component, without its settings: those are in its document.
#[derive(Serialize)]
struct Row {
    namespace: String,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    version: String,
    scopes: Vec<String>,
    /// Whether this build has a driver for it.
    known: bool,
    /// Whether it can be used; `None` if no base has said so yet.
    ready: Option<bool>,
    /// Why not.
    reason: String,
}

/// `GET /v1/components`.
pub(crate) async fn list(State(parts): Shared) -> Answer {
    let (view, state) = (parts.control.view(), parts.node.state());
    let mut rows = Vec::new();
    for document in view.documents.of_kind(Kind::Component) {
        let Document::Component(component) = document.as_ref() else { continue };
        let (namespace, name) =
            (component.metadata.namespace.to_string(), component.metadata.name.to_string());
        let id = format!("{namespace}/{name}");
        // A server says for each base how its components are.
        let told = state.components.iter().filter(|(known, _)| {
            **known == id || known.strip_suffix(&id).is_some_and(|base| base.ends_with(": "))
        });
        let told: Vec<&Option<String>> = told.map(|(_, reason)| reason).collect();
        let reason = told.iter().find_map(|reason| reason.as_deref()).unwrap_or_default().to_owned();
        rows.push(Row {
            known: parts.about.component_types.contains(&component.spec.kind),
            kind: component.spec.kind.clone(),
            version: component.spec.version.clone(),
            scopes: component.scopes.clone(),
            ready: (!told.is_empty()).then_some(reason.is_empty()),
            reason,
            namespace,
            name,
        });
    }
    rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let subscriptions = parts.node.subscriptions();
    answer(&json!({ "items": rows, "types": parts.about.component_types, "subscriptions": subscriptions }))
}

fn shelf(namespace: &str, name: &str, store: String) -> Result<Shelf, Refusal> {
    let app = AppId::parse(&format!("{namespace}/{name}"));
    Ok(Shelf { app: app.map_err(|error| Refusal::bad_request(error.to_string()))?, store })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysQuery {
    #[serde(default)]
    prefix: String,
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/apps/{namespace}/{name}/state/{store}?prefix=cart&after=cart-1&limit=100`: keys that an app keeps.
pub(crate) async fn keys(
    State(parts): Shared,
    Path((namespace, name, store)): Path<(String, String, String)>,
    uri: Uri,
) -> Answer {
    let KeysQuery { prefix, after, limit } = query(&uri)?;
    let limit = limit.unwrap_or(USUAL_KEYS).clamp(1, MAX_KEYS);
    answer(&parts.node.keys(shelf(&namespace, &name, store)?, prefix, after, limit).await?)
}

/// `GET /v1/apps/{namespace}/{name}/state/{store}/{key}`: one value that an app keeps.
pub(crate) async fn kept(
    State(parts): Shared,
    Path((namespace, name, store, key)): Path<(String, String, String, String)>,
) -> Answer {
    match parts.node.value(shelf(&namespace, &name, store.clone())?, key.clone()).await? {
        Some(value) => answer(&value),
        None => Err(Refusal::not_found(format!(
            "store `{store}` keeps no key `{key}` for app {namespace}/{name}"
        ))),
    }
}
