//! The configuration API: read values, follow their changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use dodai_capability::component::Capabilities;
use dodai_capability::configuration::Store;
use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::refusal::{Outcome, Refusal, empty, encoded};
use super::{Api, query};
use crate::components::{Block, Live};
use crate::delivery::Followed;
use crate::delivery::follow::{Follow, Shown};

/// The running subscriptions of one app, by id. They end with the API.
#[derive(Default)]
pub(super) struct Followers(Mutex<HashMap<String, (String, CancellationToken)>>);

impl Drop for Followers {
    fn drop(&mut self) {
        for (_, stop) in self.0.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            stop.cancel();
        }
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
        let items = configuration.get(&keys, &query::metadata(query)).await;
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
        let limit = self.shared.settings.max_followers;
        if self.followers.0.lock().unwrap_or_else(PoisonError::into_inner).len() >= limit {
            return Err(failed(&format!("the app has {limit} subscriptions already; unsubscribe some")));
        }
        let feed =
            configuration.subscribe(&keys, &metadata).await.map_err(|error| failed(&error.to_string()))?;
        let id = uuid::Uuid::new_v4().to_string();
        let stop = CancellationToken::new();
        let followed = Followed {
            app: self.app.clone(),
            store: store.to_owned(),
            keys: keys.clone(),
            metadata,
            id: id.clone(),
        };
        self.followers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.clone(), (store.to_owned(), stop.clone()));
        Follow::spawn(&self.shared.deliveries, followed, stop, live, feed);
        encoded(StatusCode::OK, &Subscribed { id: &id })
    }

    pub(super) fn unfollow_configuration(&self, store: &str, id: &str) -> Outcome {
        self.configuration(store)?;
        let mut followers = self.followers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if followers.get(id).is_some_and(|(of, _)| of == store)
            && let Some((_, stop)) = followers.remove(id)
        {
            stop.cancel();
            return encoded(StatusCode::OK, &Unsubscribed { ok: true, message: String::new() });
        }
        let message = format!(
            "failed to unsubscribe to configuration request {id}: subscription with id {id} does not exist"
        );
        encoded(StatusCode::INTERNAL_SERVER_ERROR, &Unsubscribed { ok: false, message })
    }
}
