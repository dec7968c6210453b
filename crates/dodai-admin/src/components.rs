//! Components as they stand, and what apps keep in state stores.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use dodai_api::{Document, Kind};
use dodai_core::features::{Blocks, Type};
use dodai_core::id::AppId;
use dodai_core::status::Health;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::api::Shared;
use crate::seam::{Kept, Keys, Shelf};
use crate::wire::{Answer, Query, json};

/// How many keys one answer has when nothing is said, and at most.
const USUAL_KEYS: usize = 100;
const MAX_KEYS: usize = 1000;

/// One component as it stands, without its settings: those are in its document.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Component")]
pub(crate) struct Row {
    /// Its namespace.
    namespace: String,
    /// Its name.
    name: String,
    /// What it is, such as `state.sqlite`.
    #[serde(rename = "type")]
    kind: String,
    /// The version of its type.
    version: String,
    /// The apps that may use it; empty for all of its namespace.
    scopes: Vec<String>,
    /// Whether this build has a driver for it.
    known: bool,
    /// Whether it can be used; null if no base has said so yet.
    ready: Option<bool>,
    /// Why not. Of one that can be used: why a change of it was not made, so that it serves as it was before.
    reason: String,
    /// What it serves, as it is open; null as long as it is not, or if its base does not tell.
    blocks: Option<Blocks>,
}

/// Components as they stand.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Components {
    /// By namespace and name.
    items: Vec<Row>,
    /// The types that this build has drivers for, each version by itself, and what they can serve.
    types: Vec<Type>,
    /// Who listens, such as `default/shop events/order.placed`; the reason of those that do not run.
    subscriptions: BTreeMap<String, Option<String>>,
}

/// `GET /v1/components`.
pub(crate) async fn list(State(parts): Shared) -> Answer<Components> {
    let (view, state) = (parts.control.view(), parts.node.state());
    let mut items = Vec::new();
    for document in view.documents.of_kind(Kind::Component) {
        let Document::Component(component) = document.as_ref() else { continue };
        let (namespace, name) =
            (component.metadata.namespace.to_string(), component.metadata.name.to_string());
        let id = format!("{namespace}/{name}");
        // A server says for each base how its components are.
        let is_it =
            |known: &str| known == id || known.strip_suffix(&id).is_some_and(|base| base.ends_with(": "));
        let told = state.components.iter().filter(|(known, _)| is_it(known));
        let told: Vec<&Health> = told.map(|(_, health)| health).collect();
        // That it does not serve somewhere comes before a change that was not made somewhere.
        let worst = told.iter().min_by_key(|one| (one.ready, one.reason.is_empty()));
        let reason = worst.map(|one| one.reason.clone()).unwrap_or_default();
        items.push(Row {
            known: parts.about.component_types.iter().any(|one| one.kind == component.spec.kind),
            kind: component.spec.kind.clone(),
            version: component.spec.version.clone(),
            scopes: component.scopes.clone(),
            ready: worst.map(|one| one.ready),
            reason,
            blocks: state.blocks.iter().find(|(known, _)| is_it(known)).map(|(_, blocks)| blocks.clone()),
            namespace,
            name,
        });
    }
    items.sort_by(|a: &Row, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let (types, subscriptions) = (parts.about.component_types.clone(), parts.node.subscriptions());
    json(&Components { items, types, subscriptions })
}

fn shelf(namespace: &str, name: &str, store: String) -> Result<Shelf, Refusal> {
    let app = AppId::parse(&format!("{namespace}/{name}"));
    Ok(Shelf { app: app.map_err(|error| Refusal::bad_request(error.to_string()))?, store })
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct ShelfPath {
    /// The namespace of the app.
    namespace: String,
    /// The app.
    name: String,
    /// The state store component.
    store: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeysQuery {
    /// Only keys that begin so.
    #[serde(default)]
    prefix: String,
    /// Only keys after this one: what the answer before said.
    after: Option<String>,
    /// How many at most: 100 where it is left out, 1,000 in any case.
    limit: Option<usize>,
}

/// `GET /v1/apps/{namespace}/{name}/state/{store}?prefix=cart&after=cart-1&limit=100`: keys that an app keeps.
pub(crate) async fn keys(
    State(parts): Shared,
    Path(ShelfPath { namespace, name, store }): Path<ShelfPath>,
    Query(KeysQuery { prefix, after, limit }): Query<KeysQuery>,
) -> Answer<Keys> {
    let limit = limit.unwrap_or(USUAL_KEYS).clamp(1, MAX_KEYS);
    json(&parts.node.keys(shelf(&namespace, &name, store)?, prefix, after, limit).await?)
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct KeptPath {
    /// The namespace of the app.
    namespace: String,
    /// The app.
    name: String,
    /// The state store component.
    store: String,
    /// The key as the app knows it.
    key: String,
}

/// `GET /v1/apps/{namespace}/{name}/state/{store}/{key}`: one value that an app keeps.
pub(crate) async fn kept(
    State(parts): Shared,
    Path(KeptPath { namespace, name, store, key }): Path<KeptPath>,
) -> Answer<Kept> {
    match parts.node.value(shelf(&namespace, &name, store.clone())?, key.clone()).await? {
        Some(value) => json(&value),
        None => Err(Refusal::not_found(format!(
            "store `{store}` keeps no key `{key}` for app {namespace}/{name}"
        ))),
    }
}
