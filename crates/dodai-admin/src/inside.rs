//! What is inside of components: messages of topics, dead letters that go back, locks.

use axum::extract::{Path, State};
use dodai_api::{Document, Kind};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Refusal;
use crate::api::{Parts, Shared};
use crate::node::TopicPath;
use crate::seam::{Done, Locks, Place, Topics, WaitingPage, Wish};
use crate::wire::{Answer, Ask, Asked, Query, relayed};

/// How many messages, locks or jobs one answer has when nothing is said, and at most.
const USUAL_ITEMS: usize = 50;
const MAX_ITEMS: usize = 500;

/// How many items one answer has where so many are wanted.
pub(crate) fn within(limit: Option<usize>) -> usize {
    limit.unwrap_or(USUAL_ITEMS).clamp(1, MAX_ITEMS)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlaceQuery {
    /// The namespace of the component; `default` where it is left out.
    namespace: Option<String>,
    /// The base, where there are several.
    base: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeekQuery {
    /// The namespace of the component; `default` where it is left out.
    namespace: Option<String>,
    /// The base, where there are several.
    base: Option<String>,
    /// The group; left out for what waits for the first.
    #[serde(default)]
    group: String,
    /// Only messages after this one: what the answer before said.
    after: Option<String>,
    /// How many messages at most: 50 where it is left out, 500 in any case.
    limit: Option<usize>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LocksQuery {
    /// The namespace of the component; `default` where it is left out.
    namespace: Option<String>,
    /// The base, where there are several.
    base: Option<String>,
    /// Only locks after this one: what the answer before said.
    after: Option<String>,
    /// How many locks at most: 50 where it is left out, 500 in any case.
    limit: Option<usize>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnlockQuery {
    /// The namespace of the component; `default` where it is left out.
    namespace: Option<String>,
    /// The base, where there are several.
    base: Option<String>,
    /// Who holds it.
    #[serde(default)]
    owner: String,
}

fn place(name: String, namespace: Option<String>, base: Option<String>) -> Place {
    Place { namespace: namespace.unwrap_or_else(|| "default".to_owned()), name, base }
}

/// Asks, and says which driver it is that cannot.
async fn ask<T: DeserializeOwned>(parts: &Parts, place: Place, wish: Wish) -> Answer<T> {
    let view = parts.control.view();
    let kind = view.documents.of_kind(Kind::Component).find_map(|document| {
        let Document::Component(component) = document.as_ref() else { return None };
        let metadata = &component.metadata;
        let is_this = metadata.name.as_str() == place.name && metadata.namespace.as_str() == place.namespace;
        is_this.then(|| component.spec.kind.clone())
    });
    let kind = kind.ok_or_else(|| {
        let text = format!("there is no component `{}` in namespace `{}`", place.name, place.namespace);
        Refusal::not_found(text).remedy("`dodai get components -A` lists them")
    })?;
    let told = parts.node.inside(place, wish).await;
    let told = told.map_err(|refusal| match refusal.status {
        StatusCode::NOT_IMPLEMENTED => {
            let text = format!("`{kind}`: {}", refusal.message);
            Refusal::new(refusal.status, "unsupported", text)
        }
        _ => refusal,
    });
    relayed(&told?)
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct PubsubPath {
    /// The pub/sub component.
    pubsub: String,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct StorePath {
    /// The lock store component.
    store: String,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct LockPath {
    /// The lock store component.
    store: String,
    /// What is locked, with the prefix that its app has in the store.
    resource: String,
}

/// `GET /v1/topics/{pubsub}?namespace=default`: how the groups of its topics stand.
pub(crate) async fn topics(
    State(parts): Shared,
    Path(PubsubPath { pubsub }): Path<PubsubPath>,
    Query(PlaceQuery { namespace, base }): Query<PlaceQuery>,
) -> Answer<Topics> {
    ask(&parts, place(pubsub, namespace, base), Wish::Topics).await
}

/// `GET /v1/topics/{pubsub}/{topic}?group=shop&after=7&limit=50`: messages that a group has yet to settle. Nothing is
/// taken or counted by looking.
pub(crate) async fn peek(
    State(parts): Shared,
    Path(TopicPath { pubsub, topic }): Path<TopicPath>,
    Query(PeekQuery { namespace, base, group, after, limit }): Query<PeekQuery>,
) -> Answer<WaitingPage> {
    let wish = Wish::Peek { topic, group, after, limit: within(limit) };
    ask(&parts, place(pubsub, namespace, base), wish).await
}

/// A message that is to go to another topic.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Replay")]
pub(crate) struct Again {
    /// The group that has yet to settle it; left out for what waits for the first.
    #[serde(default)]
    group: String,
    /// The message.
    id: String,
    /// The topic that it goes to.
    to: String,
}

impl Ask for Again {
    const LOOKS: &'static str = r#"{"group": "GROUP", "id": "ID", "to": "TOPIC"}"#;
}

/// `POST /v1/topics/{pubsub}/{topic}/replay` with `{"group": "", "id": "7", "to": "orders"}`: moves a message that the
/// group has yet to settle to another topic, in one step.
pub(crate) async fn replay(
    State(parts): Shared,
    Path(TopicPath { pubsub, topic }): Path<TopicPath>,
    Query(PlaceQuery { namespace, base }): Query<PlaceQuery>,
    Asked(Again { group, id, to }): Asked<Again>,
) -> Answer<Done> {
    if to.is_empty() {
        return Err(Refusal::bad_request("`to` names no topic"));
    }
    ask(&parts, place(pubsub, namespace, base), Wish::Replay { topic, group, id, to }).await
}

/// `GET /v1/locks/{store}?namespace=default`: locks that are held.
pub(crate) async fn locks(
    State(parts): Shared,
    Path(StorePath { store }): Path<StorePath>,
    Query(LocksQuery { namespace, base, after, limit }): Query<LocksQuery>,
) -> Answer<Locks> {
    ask(&parts, place(store, namespace, base), Wish::Locks { after, limit: within(limit) }).await
}

/// `DELETE /v1/locks/{store}/{resource}?owner=shop-1`: takes a lock away from its owner.
pub(crate) async fn unlock(
    State(parts): Shared,
    Path(LockPath { store, resource }): Path<LockPath>,
    Query(UnlockQuery { namespace, base, owner }): Query<UnlockQuery>,
) -> Answer<Done> {
    ask(&parts, place(store, namespace, base), Wish::Unlock { resource, owner }).await
}
