//! One configuration subscription of an app: each change is posted to `/configuration/<store>/<key>`, or given to the
//! stream that reads it.
//!
//! When the store's component is replaced, the feed ends; the task subscribes again and brings the current values
//! once and which of the told ones are gone, since changes may have passed between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dodai_capability::configuration::{Change, Item, Subscription};
use dodai_core::failure::Kind as FailureKind;
use dodai_core::task::Kind;
use dodai_core::trace::Span;
use http::{HeaderMap, Method};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Deliveries, Followed};
use crate::callback::{Ask, escaped};
use crate::components::{Block, Live};

/// How often a change is offered to an app that is there and does not take it.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// A value as the API shows it; a deleted one has nothing in it.
#[derive(Serialize)]
pub(crate) struct Shown<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    value: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a dodai_capability::Metadata>,
}

impl<'a> Shown<'a> {
    pub fn of(item: Option<&'a Item>) -> Shown<'a> {
        let metadata = item.map(|item| &item.metadata).filter(|metadata| !metadata.is_empty());
        Shown {
            value: item.map_or("", |item| &item.value),
            version: item.map_or("", |item| &item.version),
            metadata,
        }
    }
}

#[derive(Serialize)]
struct Update<'a> {
    id: &'a str,
    items: BTreeMap<&'a str, Shown<'a>>,
}

/// What has changed since the last time.
pub(crate) type Changes = Vec<Change>;

/// Keys whose values were told: as many as the store has at most. When the store is replaced, those that it no longer
/// has are told to be gone.
type Known = BTreeSet<String>;

/// Whom changes are told.
pub(crate) enum To {
    /// The app, by calls.
    App,
    /// A stream of one caller.
    Stream(mpsc::Sender<Changes>),
}

/// A running configuration subscription.
pub(crate) struct Follow {
    deliveries: Deliveries,
    followed: Followed,
    to: To,
    ready: watch::Receiver<bool>,
}

impl Follow {
    /// Starts following; ends with `stop`, or with the base.
    pub fn spawn(
        deliveries: &Deliveries,
        followed: Followed,
        stop: CancellationToken,
        to: To,
        live: Arc<Live>,
        feed: Subscription,
    ) {
        let ready = deliveries.ready(&followed.app);
        let follow = Follow { deliveries: deliveries.clone(), followed, to, ready };
        let tasks = deliveries.0.tasks.clone();
        let closing = tasks.clone();
        tasks.spawn(Kind::Delivery, async move {
            // Cancel safe: a change that is not delivered is lost with its subscription, as its app asked. What
            // stops it is looked at first, so that nothing is brought after an unsubscription.
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = closing.closing() => {}
                () = follow.run(live, feed) => {}
            }
        });
    }

    async fn run(&self, mut live: Arc<Live>, mut feed: Subscription) {
        let components = &self.deliveries.0.components;
        let mut changes = components.changes();
        let mut known = Known::new();
        let mut now = Changes::new();
        let mut failures = 0;
        loop {
            // Cancel safe: what is not told of the old component is made good by what the new one has.
            tokio::select! {
                () = self.moved(&live, &mut changes) => {}
                () = self.read(feed, now, &mut known) => {}
            }
            drop(live);
            (live, feed, now) = loop {
                match self.subscribe(&known).await {
                    Ok(again) => break again,
                    Err(problem) => {
                        failures += 1;
                        let (app, store) = (&self.followed.app, &self.followed.store);
                        tracing::warn!(%app, store, "configuration cannot be followed: {problem}");
                        // Both branches are cancel safe.
                        tokio::select! {
                            _ = changes.changed() => {}
                            () = tokio::time::sleep(components.backoff().pause(failures)) => {}
                        }
                    }
                }
            };
            failures = 0;
        }
    }

    /// Waits until another component takes the store's place. Cancel safe.
    async fn moved(&self, live: &Arc<Live>, changes: &mut watch::Receiver<u64>) {
        while !self.has_moved(live) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Brings what has changed meanwhile, then changes until the feed ends.
    async fn read(&self, mut feed: Subscription, now: Changes, known: &mut Known) {
        self.bring(now, known).await;
        while let Some(Ok(news)) = feed.next().await {
            self.bring(news, known).await;
        }
    }

    fn find(&self) -> Result<(Arc<Live>, Arc<dyn dodai_capability::configuration::Store>), String> {
        let Followed { app, store, .. } = &self.followed;
        let components = &self.deliveries.0.components;
        let found = components.find(app, Block::Configuration, store, |all| all.configuration.clone());
        found.map_err(|absent| format!("{absent:?}"))
    }

    fn has_moved(&self, live: &Arc<Live>) -> bool {
        self.find().map_or(true, |(now, _)| !Arc::ptr_eq(&now, live))
    }

    /// Follows the store that is there now, and says what has to be told of it: values that it has, and that those
    /// which were told of before are gone.
    async fn subscribe(&self, known: &Known) -> Result<(Arc<Live>, Subscription, Changes), String> {
        let (live, store) = self.find()?;
        let Followed { keys, metadata, .. } = &self.followed;
        let feed = store.subscribe(keys, metadata).await.map_err(|error| error.to_string())?;
        let now = store.get(keys, metadata).await.map_err(|error| error.to_string())?;
        let gone = known.iter().filter(|key| !now.contains_key(*key)).cloned();
        let gone: Changes = gone.map(|key| Change { key, item: None }).collect();
        let now = now.into_iter().map(|(key, item)| Change { key, item: Some(item) });
        Ok((live, feed, now.chain(gone).collect()))
    }

    async fn bring(&self, changes: Changes, known: &mut Known) {
        if changes.is_empty() {
            return;
        }
        // Known before it is told, since the task may be ended meanwhile; gone only after.
        let there = changes.iter().filter(|change| change.item.is_some());
        known.extend(there.map(|change| change.key.clone()));
        let gone: Vec<String> =
            changes.iter().filter(|change| change.item.is_none()).map(|change| change.key.clone()).collect();
        if let To::Stream(to) = &self.to {
            // A reader that has gone ends the subscription by itself.
            let _gone = to.send(changes).await;
        } else {
            for change in &changes {
                let items = BTreeMap::from([(change.key.as_str(), Shown::of(change.item.as_ref()))]);
                let update = Update { id: &self.followed.id, items };
                let body = serde_json::to_vec(&update).expect("texts by text are JSON");
                self.bring_one(&change.key, body.into()).await;
            }
        }
        for key in gone {
            known.remove(&key);
        }
    }

    async fn bring_one(&self, key: &str, body: bytes::Bytes) {
        let Followed { app, store, .. } = &self.followed;
        let path = format!("/configuration/{}/{}", escaped(store), escaped(key));
        let mut ready = self.ready.clone();
        let mut tries = 0;
        while tries < TRIES {
            if ready.wait_for(|ready| *ready).await.is_err() {
                return;
            }
            let ask = Ask {
                method: Method::POST,
                path: &path,
                content_type: "application/json",
                headers: HeaderMap::new(),
                body: body.clone(),
                span: Span::root(false),
            };
            let problem = match self.deliveries.0.callbacks.call(app, ask).await {
                Ok((status, _)) if status.is_success() => return,
                Ok((status, _)) => format!("the app answered {}", status.as_u16()),
                Err(failure) => {
                    // Nobody there: that is no refusal of this change.
                    if failure.kind == FailureKind::NoEndpoint {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                    failure.detail.into_owned()
                }
            };
            tries += 1;
            tracing::warn!(%app, store, key, tries, "a change of configuration was not taken: {problem}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}
