//! A copy of the store in memory: what documents are checked with, what the reconciler plans on, what watchers see.
//!
//! It is brought up to date by a watch, by whoever needs it: the loop that follows the store all the time, or a writer
//! that must see every write that was answered before its own. So there is one copy, and reading it costs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dodai_api::{Document, DocumentKey};
use dodai_core::task::Tasks;
use dodai_store::{Batch, Error, Event, KeyValue, Revision, Store};
use serde_json::Value;
use tokio::sync::{Mutex, watch};

use crate::documents::{Documents, STATUS_PREFIX, decode, parse_key, set_status};
use crate::records::{APP_PREFIX, COUNTER, INSTANCE_PREFIX, Records};
use crate::shared_map::SharedMap;

/// How long to wait after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// Everything that stood in the store at one revision. Clones share what they have in common.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The documents, without their statuses.
    pub documents: Documents,
    /// The records.
    pub records: Records,
    /// The statuses.
    pub statuses: SharedMap<DocumentKey, Arc<Value>>,
    /// The revision of the store.
    pub revision: Revision,
    /// Where each key was written last.
    pub(crate) known: SharedMap<String, u64>,
    /// What is no document, or none of this version: where it was written, and what is wrong with it. It can be
    /// overwritten and removed, and is not there for the others.
    pub(crate) unreadable: BTreeMap<DocumentKey, (u64, String)>,
}

impl View {
    /// A document with its status.
    pub fn document(&self, key: &DocumentKey) -> Option<Document> {
        let mut document = self.documents.get(key)?.as_ref().clone();
        if let Some(status) = self.statuses.get(key) {
            set_status(&mut document, status);
        }
        Some(document)
    }

    fn put(&mut self, kv: &KeyValue) {
        if let Err(detail) = self.read(kv) {
            tracing::error!(key = %kv.key, %detail, "a key of the store cannot be read; it is passed over");
            self.drop_key(&kv.key);
            if let Some(key) = parse_key(&kv.key) {
                self.unreadable.insert(key, (kv.mod_revision.0, detail));
            }
        }
        self.known.insert(kv.key.clone(), kv.mod_revision.0);
    }

    fn read(&mut self, kv: &KeyValue) -> Result<(), String> {
        let text = |error: serde_json::Error| error.to_string();
        if let Some(key) = kv.key.strip_prefix(STATUS_PREFIX).and_then(parse_key) {
            self.statuses.insert(key, Arc::new(serde_json::from_slice(&kv.value).map_err(text)?));
        } else if kv.key.starts_with(INSTANCE_PREFIX) {
            self.records.put_instance(serde_json::from_slice(&kv.value).map_err(text)?);
        } else if let Some(app) = kv.key.strip_prefix(APP_PREFIX) {
            let app = dodai_core::id::AppId::parse(app).map_err(|bad| bad.to_string())?;
            self.records.put_app(app, serde_json::from_slice(&kv.value).map_err(text)?);
        } else if kv.key == COUNTER {
            self.records.next = serde_json::from_slice(&kv.value).map_err(text)?;
        } else if let Some(key) = parse_key(&kv.key) {
            let document = decode(kv).map_err(|error| error.to_string())?;
            self.documents.insert(Arc::new(document));
            self.unreadable.remove(&key);
        }
        Ok(())
    }

    fn drop_key(&mut self, key: &str) {
        self.known.remove(key);
        if let Some(key) = key.strip_prefix(STATUS_PREFIX).and_then(parse_key) {
            self.statuses.remove(&key);
        } else if let Some(id) = key.strip_prefix(INSTANCE_PREFIX) {
            self.records.remove_instance(&dodai_core::id::InstanceId::new(id));
        } else if let Some(Ok(app)) = key.strip_prefix(APP_PREFIX).map(dodai_core::id::AppId::parse) {
            self.records.remove_app(&app);
        } else if key == COUNTER {
            self.records.next = 0;
        } else if let Some(key) = parse_key(key) {
            self.documents.remove(&key);
            self.unreadable.remove(&key);
        }
    }

    fn take(&mut self, batch: &Batch) {
        self.revision = batch.revision;
        for event in &batch.events {
            match event {
                Event::Put { kv, .. } => self.put(kv),
                Event::Delete { key, .. } => self.drop_key(key),
            }
        }
    }
}

/// The copy, and how it is kept.
pub(crate) struct Mirror {
    store: Arc<dyn Store>,
    view: watch::Sender<Arc<View>>,
    /// The watch that goes on where the copy ends; none before the store was read whole.
    feed: Mutex<Option<dodai_store::Watch>>,
}

impl Mirror {
    pub fn new(store: Arc<dyn Store>) -> Mirror {
        Mirror { store, view: watch::Sender::default(), feed: Mutex::default() }
    }

    /// The store behind.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What stood in the store a moment ago.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Tells when that changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// What stands in the store now, with every write that was answered before. Cancel safe.
    ///
    /// # Errors
    /// What the store says.
    pub async fn now(&self) -> Result<Arc<View>, Error> {
        // Any key will do: what is asked for is the revision.
        let revision = self.store.get(COUNTER).await?.revision;
        let mut view = self.view.subscribe();
        loop {
            let seen = view.borrow_and_update().clone();
            // Before the store was read whole, that is zero.
            if seen.revision >= revision {
                return Ok(seen);
            }
            tokio::select! {
                // Cancel safe: the view is state.
                changed = view.changed() => changed.map_err(|_| Error::Closed)?,
                // Cancel safe: what is not pulled comes with the next pull.
                pulled = self.pull() => pulled?,
            }
        }
    }

    /// Waits for the next changes and takes them in. Cancel safe.
    async fn pull(&self) -> Result<(), Error> {
        let mut feed = self.feed.lock().await;
        let Some(watch) = feed.as_mut() else {
            let fresh = read(&*self.store).await?;
            *feed = Some(self.store.watch("/", fresh.revision.next()));
            self.view.send_replace(Arc::new(fresh));
            return Ok(());
        };
        let batch = match watch.next().await {
            Ok(batch) => batch,
            Err(Error::Compacted { .. }) => {
                // What happened in between is gone; what came of it is read.
                *feed = None;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.view.send_if_modified(|view| {
            let is_news = !batch.events.is_empty() || view.revision < batch.revision;
            if is_news {
                Arc::make_mut(view).take(&batch);
            }
            is_news
        });
        Ok(())
    }

    /// Follows the store until it closes or the tasks do.
    pub async fn follow(&self, tasks: Tasks) {
        loop {
            let done = tokio::select! {
                // Cancel safe: so is pulling.
                () = tasks.closing() => return,
                done = self.pull() => done,
            };
            let Err(error) = done else { continue };
            if matches!(error, Error::Closed) {
                return;
            }
            tracing::warn!(%error, "watching the store failed; trying again");
            tokio::select! {
                // Both only wait.
                () = tasks.closing() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}

/// Reads the store once, whole.
async fn read(store: &dyn Store) -> dodai_store::Result<View> {
    let listing = store.list("/").await?;
    let mut view = View { revision: listing.revision, ..View::default() };
    for kv in &listing.items {
        view.put(kv);
    }
    Ok(view)
}
