//! Configuration as apps use it: read values, follow their changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use dodai_capability::Metadata;
use dodai_capability::component::Capabilities;
use dodai_capability::configuration::{Item, Store};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::refusal::Refusal;
use super::{Api, patience};
use crate::components::{Block, Live};
use crate::delivery::Followed;
use crate::delivery::follow::{Changes, Follow, To};

/// What is followed. An app that starts again asks for the same, and is given what runs already.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub store: String,
    /// In order, each once.
    pub keys: Vec<String>,
    pub metadata: Metadata,
}

impl Wish {
    pub fn new(store: &str, keys: &[String], metadata: Metadata) -> Wish {
        let keys = keys.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        Wish { store: store.to_owned(), keys, metadata }
    }
}

struct Running {
    wish: Wish,
    id: String,
    /// Read by a stream of one caller: others who wish for the same have their own.
    is_stream: bool,
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
        let at = all.iter().position(|running| !running.is_stream && running.wish == *wish)?;
        let running = all.remove(at);
        let id = running.id.clone();
        all.push(running);
        Some(id)
    }

    /// Keeps one more; the id of what runs already if another request was quicker. Beyond `limit` the one asked
    /// for longest ago ends: it is most likely of a former version of the app.
    fn keep(&self, running: Running, limit: usize) -> Result<(), String> {
        if let Some(id) = self.again(&running.wish).filter(|_| !running.is_stream) {
            return Err(id);
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Streams that ended by themselves.
        all.retain(|running| !running.stop.is_cancelled());
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
        at.map(|at| all.remove(at)).is_some_and(|running| !running.stop.is_cancelled())
    }

    pub fn end_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A subscription that one caller reads. Dropping it ends the subscription.
pub(super) struct Followable {
    pub id: String,
    pub changes: mpsc::Receiver<Changes>,
    _stop: tokio_util::sync::DropGuard,
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

    /// The values of these keys, or all where none is named.
    pub(super) async fn get_configuration(
        &self,
        store: &str,
        keys: &[String],
        metadata: &Metadata,
    ) -> Result<BTreeMap<String, Item>, Refusal> {
        let (_live, configuration) = self.configuration(store)?;
        let wanted = self.wanted(store);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let items = patience::ask(patience, store, (), |()| configuration.get(keys, metadata)).await;
        items.map_err(|error| failure("ERR_CONFIGURATION_GET", "get", store, keys, &error.to_string()))
    }

    /// Follows keys: changes are brought to the app. The id of the subscription.
    pub(super) async fn follow_configuration(&self, wish: Wish) -> Result<String, Refusal> {
        self.configuration(&wish.store)?;
        if let Some(id) = self.followers.again(&wish) {
            return Ok(id);
        }
        self.follow(wish, To::App, CancellationToken::new()).await
    }

    /// Follows keys: changes are read by whoever asks.
    pub(super) async fn stream_configuration(&self, wish: Wish) -> Result<Followable, Refusal> {
        // A feed keeps the latest change of each key while its reader is slow, so that a queue is not needed.
        let (to, changes) = mpsc::channel(1);
        let ended = CancellationToken::new();
        let id = self.follow(wish, To::Stream(to), ended.clone()).await?;
        Ok(Followable { id, changes, _stop: ended.drop_guard() })
    }

    async fn follow(&self, wish: Wish, to: To, stop: CancellationToken) -> Result<String, Refusal> {
        let (live, configuration) = self.configuration(&wish.store)?;
        let feed = configuration.subscribe(&wish.keys, &wish.metadata).await;
        let feed = feed.map_err(|error| {
            let error = error.to_string();
            failure("ERR_CONFIGURATION_SUBSCRIBE", "subscribe", &wish.store, &wish.keys, &error)
        })?;
        let id = uuid::Uuid::new_v4().to_string();
        let is_stream = matches!(to, To::Stream(_));
        let Wish { store, keys, metadata } = wish.clone();
        let followed = Followed { app: self.app.clone(), store, keys, metadata, id: id.clone() };
        let running = Running { wish, id: id.clone(), is_stream, stop: stop.clone() };
        if let Err(id) = self.followers.keep(running, self.shared.settings.max_followers) {
            return Ok(id);
        }
        Follow::spawn(&self.shared.deliveries, followed, stop, to, live, feed);
        Ok(id)
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// There is no such store. The inner error says that there is no such subscription.
    pub(super) fn unfollow_configuration(
        &self,
        store: &str,
        id: &str,
    ) -> Result<Result<(), String>, Refusal> {
        self.configuration(store)?;
        if self.followers.end(store, id) {
            return Ok(Ok(()));
        }
        Ok(Err(format!(
            "failed to unsubscribe to configuration request {id}: subscription with id {id} does not exist"
        )))
    }
}
