//! One configuration subscription of an app: each change is posted to `/configuration/<store>/<key>`, or given to the
//! stream that reads it.
//!
//! When the store's component is replaced, the feed ends; the task subscribes again and brings the current values
//! once, since changes may have passed between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dodai_capability::configuration::{Change, Item, Subscription};
use dodai_core::failure::Kind as FailureKind;
use dodai_core::task::Kind;
use dodai_core::trace::Span;
use http::Method;
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
        let mut failures = 0;
        loop {
            self.read(&live, feed, &mut changes).await;
            drop(live);
            (live, feed) = loop {
                match self.subscribe().await {
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

    /// Brings changes until the feed ends or another component takes the store's place.
    async fn read(&self, live: &Arc<Live>, mut feed: Subscription, changes: &mut watch::Receiver<u64>) {
        loop {
            // Both branches are cancel safe.
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() || self.has_moved(live) {
                        return;
                    }
                }
                news = feed.next() => match news {
                    Some(Ok(news)) => self.bring(news).await,
                    Some(Err(_)) | None => return,
                },
            }
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

    async fn subscribe(&self) -> Result<(Arc<Live>, Subscription), String> {
        let (live, store) = self.find()?;
        let Followed { keys, metadata, .. } = &self.followed;
        let feed = store.subscribe(keys, metadata).await.map_err(|error| error.to_string())?;
        let now = store.get(keys, metadata).await.map_err(|error| error.to_string())?;
        let now: Vec<Change> = now.into_iter().map(|(key, item)| Change { key, item: Some(item) }).collect();
        self.bring(now).await;
        Ok((live, feed))
    }

    async fn bring(&self, changes: Changes) {
        if let To::Stream(to) = &self.to {
            // A reader that has gone ends the subscription by itself.
            let _gone = to.send(changes).await;
            return;
        }
        for change in &changes {
            let items = BTreeMap::from([(change.key.as_str(), Shown::of(change.item.as_ref()))]);
            let update = Update { id: &self.followed.id, items };
            let body = serde_json::to_vec(&update).expect("texts by text are JSON");
            self.bring_one(&change.key, body.into()).await;
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
                trace_state: None,
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
