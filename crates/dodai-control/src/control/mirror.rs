//! A copy of the store in memory, kept in step by a watch: what the reconciler plans on, what watchers see.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dodai_api::{Document, DocumentKey};
use dodai_core::task::Tasks;
use dodai_store::{Event, KeyValue, Revision, Store};
use serde_json::Value;
use tokio::sync::watch;

use crate::documents::{Documents, STATUS_PREFIX, decode, parse_key, set_status};
use crate::records::{APP_PREFIX, COUNTER, INSTANCE_PREFIX, Records};

/// How long to wait after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// Everything that stood in the store at one revision.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The documents, without their statuses.
    pub documents: Documents,
    /// The records.
    pub records: Records,
    /// The statuses.
    pub statuses: BTreeMap<DocumentKey, Value>,
    /// The revision of the store.
    pub revision: Revision,
    /// Where each key was written last.
    pub(crate) known: BTreeMap<String, u64>,
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
        }
        self.known.insert(kv.key.clone(), kv.mod_revision.0);
    }

    fn read(&mut self, kv: &KeyValue) -> Result<(), String> {
        let text = |error: serde_json::Error| error.to_string();
        if let Some(key) = kv.key.strip_prefix(STATUS_PREFIX).and_then(parse_key) {
            self.statuses.insert(key, serde_json::from_slice(&kv.value).map_err(text)?);
        } else if kv.key.starts_with(INSTANCE_PREFIX) {
            let record: crate::records::InstanceRecord = serde_json::from_slice(&kv.value).map_err(text)?;
            self.records.instances.insert(record.id.clone(), record);
        } else if let Some(app) = kv.key.strip_prefix(APP_PREFIX) {
            let app = dodai_core::id::AppId::parse(app).map_err(|bad| bad.to_string())?;
            self.records.apps.insert(app, serde_json::from_slice(&kv.value).map_err(text)?);
        } else if kv.key == COUNTER {
            self.records.next = serde_json::from_slice(&kv.value).map_err(text)?;
        } else if parse_key(&kv.key).is_some() {
            let document = decode(kv).map_err(|error| error.to_string())?;
            self.documents.insert(Arc::new(document));
        }
        Ok(())
    }

    fn drop_key(&mut self, key: &str) {
        self.known.remove(key);
        if let Some(key) = key.strip_prefix(STATUS_PREFIX).and_then(parse_key) {
            self.statuses.remove(&key);
        } else if let Some(id) = key.strip_prefix(INSTANCE_PREFIX) {
            self.records.instances.remove(&dodai_core::id::InstanceId::new(id));
        } else if let Some(Ok(app)) = key.strip_prefix(APP_PREFIX).map(dodai_core::id::AppId::parse) {
            self.records.apps.remove(&app);
        } else if key == COUNTER {
            self.records.next = 0;
        } else if let Some(key) = parse_key(key) {
            self.documents.remove(&key);
        }
    }
}

/// Reads the store once, whole.
pub(super) async fn read(store: &dyn Store) -> dodai_store::Result<View> {
    let listing = store.list("/").await?;
    let mut view = View { revision: listing.revision, ..View::default() };
    for kv in &listing.items {
        view.put(kv);
    }
    Ok(view)
}

/// Follows the store until it closes or the tasks do.
pub(super) async fn follow(store: Arc<dyn Store>, view: watch::Sender<Arc<View>>, tasks: Tasks) {
    loop {
        let from = view.borrow().revision.next();
        let done = tokio::select! {
            // Cancel safe: a watch that is dropped loses nothing that is not read again from the store.
            () = tasks.closing() => return,
            done = watch_from(&*store, from, &view) => done,
        };
        if matches!(done, dodai_store::Error::Closed) {
            return;
        }
        let compacted = matches!(done, dodai_store::Error::Compacted { .. });
        let fresh = if compacted { read(&*store).await } else { Err(done) };
        match fresh {
            Ok(fresh) => {
                view.send_replace(Arc::new(fresh));
            }
            Err(error) => {
                tracing::warn!(%error, "watching the store failed; trying again");
                tokio::select! {
                    () = tasks.closing() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }
}

async fn watch_from(
    store: &dyn Store,
    from: Revision,
    view: &watch::Sender<Arc<View>>,
) -> dodai_store::Error {
    let mut watch = store.watch("/", from);
    loop {
        let batch = match watch.next().await {
            Ok(batch) => batch,
            Err(error) => return error,
        };
        if batch.events.is_empty() && view.borrow().revision >= batch.revision {
            continue;
        }
        view.send_modify(|view| {
            // Copied only while somebody looks at the one before: many changes in a row cost one copy.
            let next = Arc::make_mut(view);
            next.revision = batch.revision;
            for event in &batch.events {
                match event {
                    Event::Put { kv, .. } => next.put(kv),
                    Event::Delete { key, .. } => next.drop_key(key),
                }
            }
        });
    }
}
