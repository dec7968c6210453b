//! What is inside of components: messages of topics, dead letters that go back, locks.

use axum::body::Body;
use axum::extract::{Path, State};
use dodai_api::{Document, Kind};
use http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::Value;

use crate::Refusal;
use crate::api::{Answer, Parts, Shared, json as answer, query, read};
use crate::seam::{Place, Wish};

/// How many messages, locks or jobs one answer has when nothing is said, and at most.
const USUAL_ITEMS: usize = 50;
const MAX_ITEMS: usize = 500;

/// How many items one answer has where so many are wanted.
pub(crate) fn within(limit: Option<usize>) -> usize {
    limit.unwrap_or(USUAL_ITEMS).clamp(1, MAX_ITEMS)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InsideQuery {
    namespace: Option<String>,
    base: Option<String>,
    #[serde(default)]
    group: String,
    #[serde(default)]
    owner: String,
    after: Option<String>,
    limit: Option<usize>,
}

impl InsideQuery {
    fn place(&self, name: String) -> Place {
        let namespace = self.namespace.clone().unwrap_or_else(|| "default".to_owned());
        Place { namespace, name, base: self.base.clone() }
    }

    fn limit(&self) -> usize {
        within(self.limit)
    }
}

/// Asks, and says which driver it is that cannot.
async fn ask(parts: &Parts, place: Place, wish: Wish) -> Result<Value, Refusal> {
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
    told.map_err(|refusal| match refusal.status {
        StatusCode::NOT_IMPLEMENTED => {
            let text = format!("`{kind}`: {}", refusal.message);
            Refusal::new(refusal.status, "unsupported", text)
        }
        _ => refusal,
    })
}

/// `GET /v1/topics/{pubsub}?namespace=default`: how the groups of its topics stand.
pub(crate) async fn topics(State(parts): Shared, Path(pubsub): Path<String>, uri: Uri) -> Answer {
    let asked: InsideQuery = query(&uri)?;
    answer(&ask(&parts, asked.place(pubsub), Wish::Topics).await?)
}

/// `GET /v1/topics/{pubsub}/{topic}?group=shop&after=7&limit=50`: messages that a group has yet to settle. Nothing is
/// taken or counted by looking.
pub(crate) async fn peek(
    State(parts): Shared,
    Path((pubsub, topic)): Path<(String, String)>,
    uri: Uri,
) -> Answer {
    let asked: InsideQuery = query(&uri)?;
    let (place, limit) = (asked.place(pubsub), asked.limit());
    answer(&ask(&parts, place, Wish::Peek { topic, group: asked.group, after: asked.after, limit }).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Again {
    #[serde(default)]
    group: String,
    id: String,
    to: String,
}

/// `POST /v1/topics/{pubsub}/{topic}/replay` with `{"group": "", "id": "7", "to": "orders"}`: moves a message that the
/// group has yet to settle to another topic, in one step.
pub(crate) async fn replay(
    State(parts): Shared,
    Path((pubsub, topic)): Path<(String, String)>,
    uri: Uri,
    body: Body,
) -> Answer {
    let asked: InsideQuery = query(&uri)?;
    let body = read(body, 4096).await?;
    let Again { group, id, to } = serde_json::from_slice(&body).map_err(|error| {
        Refusal::bad_request(format!("the body: {error}"))
            .remedy("send `{\"group\": \"GROUP\", \"id\": \"ID\", \"to\": \"TOPIC\"}`")
    })?;
    if to.is_empty() {
        return Err(Refusal::bad_request("`to` names no topic"));
    }
    answer(&ask(&parts, asked.place(pubsub), Wish::Replay { topic, group, id, to }).await?)
}

/// `GET /v1/locks/{store}?namespace=default`: locks that are held.
pub(crate) async fn locks(State(parts): Shared, Path(store): Path<String>, uri: Uri) -> Answer {
    let asked: InsideQuery = query(&uri)?;
    let (place, limit) = (asked.place(store), asked.limit());
    answer(&ask(&parts, place, Wish::Locks { after: asked.after, limit }).await?)
}

/// `DELETE /v1/locks/{store}/{resource}?owner=shop-1`: takes a lock away from its owner.
pub(crate) async fn unlock(
    State(parts): Shared,
    Path((store, resource)): Path<(String, String)>,
    uri: Uri,
) -> Answer {
    let asked: InsideQuery = query(&uri)?;
    let place = asked.place(store);
    answer(&ask(&parts, place, Wish::Unlock { resource, owner: asked.owner }).await?)
}
