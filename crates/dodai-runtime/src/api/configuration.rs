//! The configuration API: read values, follow their changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use dodai_capability::Metadata;
use dodai_capability::component::Capabilities;
use dodai_capability::configuration::Store;
use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::refusal::{Outcome, Refusal, empty, encoded};
use super::{Api, patience, query};
use crate::components::{Block, Live};
use crate::delivery::Followed;
use crate::delivery::follow::{Follow, Shown};

/// What is followed. An app that starts again asks for the same, and is given what runs already.
#[derive(Clone, PartialEq, Eq)]
struct Wish {
    store: String,
    /// In order, each once.
    keys: Vec<String>,
    metadata: Metadata,
}

struct Running {
    wish: Wish,
    id: String,
    stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The running subscriptions of one app, the one asked for longest ago first. They end with the app's last
/// instance here, and with the API.
#[derive(Default)]
pub(super) struct Followers(Mutex<Vec<Running>>);

impl Followers {
    /// The id of what runs already for this wish, which counts as asked for now.
    fn again(&self, wish: &Wish) -> Option<String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|running| running.wish == *wish)?;
        let running = all.remove(at);
        let id = running.id.clone();
        all.push(running);
        Some(id)
    }

    /// Keeps one more; the id of what runs already if another request was quicker. Beyond `limit` the one asked
    /// for longest ago ends: it is most likely of a former version of the app.
    fn keep(&self, running: Running, limit: usize) -> Result<(), String> {
        if let Some(id) = self.again(&running.wish) {
            return Err(id);
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while all.len() >= limit.max(1) {
            let oldest = all.remove(0);
            let Wish { store, keys, .. } = &oldest.wish;
            tracing::warn!(
                store,
                keys = listed(keys),
                "an app has more than {limit} configuration subscriptions; the one asked for longest ago ends"
            );
        }
        all.push(running);
        Ok(())
    }

    fn end(&self, store: &str, id: &str) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|running| running.wish.store == store && running.id == id);
        at.map(|at| all.remove(at)).is_some()
    }

    pub fn end_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[derive(Serialize)]
struct Subscribed<'a> {
    id: &'a str,
}

#[derive(Serialize)]
struct Unsubscribed {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ok: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

/// Keys as daprd prints them: `[a b]`.
fn listed(keys: &[String]) -> String {
    format!("[{}]", keys.join(" "))
}

fn failure(code: &'static str, doing: &str, store: &str, keys: &[String], error: &str) -> Refusal {
    let message = format!("failed to {doing} {} from Configuration store {store}: {error}", listed(keys));
    Refusal::internal(code, message)
        .with_resource("configuration", store, "")
        .with_info("", &[("error", error)])
}

impl Api {
    fn configuration(&self, name: &str) -> Result<(Arc<Live>, Arc<dyn Store>), Refusal> {
        self.component(Block::Configuration, name, |all: &Capabilities| all.configuration.clone())
    }

    pub(super) async fn get_configuration(&self, store: &str, head: &Parts) -> Outcome {
        let (_live, configuration) = self.configuration(store)?;
        let query = head.uri.query();
        let keys = query::all(query, "key");
        let metadata = query::metadata(query);
        let wanted = self.wanted(store);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let items = patience::ask(patience, store, (), |()| configuration.get(&keys, &metadata)).await;
        let items = items
            .map_err(|error| failure("ERR_CONFIGURATION_GET", "get", store, &keys, &error.to_string()))?;
        if items.is_empty() {
            return Ok(empty());
        }
        let items: BTreeMap<&str, Shown<'_>> =
            items.iter().map(|(key, item)| (key.as_str(), Shown::of(Some(item)))).collect();
        encoded(StatusCode::OK, &items)
    }

    pub(super) async fn follow_configuration(&self, store: &str, head: &Parts) -> Outcome {
        let (live, configuration) = self.configuration(store)?;
        let query = head.uri.query();
        let keys = query::all(query, "key");
        let metadata = query::metadata(query);
        let failed = |error: &str| failure("ERR_CONFIGURATION_SUBSCRIBE", "subscribe", store, &keys, error);
        let wish = Wish {
            store: store.to_owned(),
            keys: keys.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
            metadata,
        };
        if let Some(id) = self.followers.again(&wish) {
            return encoded(StatusCode::OK, &Subscribed { id: &id });
        }
        let feed = configuration.subscribe(&wish.keys, &wish.metadata).await;
        let feed = feed.map_err(|error| failed(&error.to_string()))?;
        let id = uuid::Uuid::new_v4().to_string();
        let stop = CancellationToken::new();
        let Wish { store, keys, metadata } = wish.clone();
        let followed = Followed { app: self.app.clone(), store, keys, metadata, id: id.clone() };
        let running = Running { wish, id: id.clone(), stop: stop.clone() };
        if let Err(id) = self.followers.keep(running, self.shared.settings.max_followers) {
            return encoded(StatusCode::OK, &Subscribed { id: &id });
        }
        Follow::spawn(&self.shared.deliveries, followed, stop, live, feed);
        encoded(StatusCode::OK, &Subscribed { id: &id })
    }

    pub(super) fn unfollow_configuration(&self, store: &str, id: &str) -> Outcome {
        self.configuration(store)?;
        if self.followers.end(store, id) {
            return encoded(StatusCode::OK, &Unsubscribed { ok: true, message: String::new() });
        }
        let message = format!(
            "failed to unsubscribe to configuration request {id}: subscription with id {id} does not exist"
        );
        encoded(StatusCode::INTERNAL_SERVER_ERROR, &Unsubscribed { ok: false, message })
    }
}
