//! Documents in the store: typed reads, validated compare-and-set writes, pruning, field ownership.
//!
//! A document stands under `/<Kind>/<namespace>/<name>`, its status apart under `/x/status/...`, so that what
//! control observes never collides with what a user writes. Always holds: what is stored was valid together
//! with everything else when it was written, and a document that would not change is not written.

mod apply;
pub(crate) mod merge;
mod restart;
mod rollback;
mod set;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use dodai_api::{Document, DocumentKey, Kind};
use dodai_core::id::{AppId, Digest};
use dodai_store::{Cause, Check, KeyValue, Ordering, Revision, Store, Txn};
use dodai_transport::tls::Clock;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::mirror::Mirror;

pub use apply::{Applied, Apply, Verdict, Written};
pub use merge::FieldOwner;
pub use set::Documents;
pub(crate) use set::{Belonging, parent_id, revision_key};

/// Where the statuses of documents stand.
pub(crate) const STATUS_PREFIX: &str = "/x/status";

/// How often a write is tried again that lost a race.
const ATTEMPTS: usize = 8;

/// Turns what documents say about artefacts into content addresses. Implemented by whoever can read the files.
pub trait Artifacts: Send + Sync + 'static {
    /// The digest of the module that `artifact` names: a path in the project, or `sha256:...` itself. `app` is
    /// for messages.
    ///
    /// # Errors
    /// Why there is none, and what to do about it.
    fn module(&self, app: &AppId, artifact: &str) -> Result<Digest, String>;

    /// The digest of a process's program, if a new build of it shall be a new revision.
    ///
    /// # Errors
    /// Why it cannot be read, and what to do about it.
    fn process(&self, _app: &AppId, _process: &dodai_api::Process) -> Result<Option<Digest>, String> {
        Ok(None)
    }
}

/// Takes digests as they are and refuses paths: for a server, which sees no project folder.
#[derive(Clone, Copy, Debug, Default)]
pub struct DigestsOnly;

impl Artifacts for DigestsOnly {
    fn module(&self, _app: &AppId, artifact: &str) -> Result<Digest, String> {
        let digits = artifact.strip_prefix("sha256:").unwrap_or_default();
        if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Digest::new(artifact));
        }
        Err(format!(
            "`{artifact}` is a path, which the server cannot read; run `dodai apply` in the project, which uploads it"
        ))
    }
}

/// The documents of one store. Cheap to clone.
#[derive(Clone)]
pub struct DocumentStore {
    mirror: Arc<Mirror>,
    artifacts: Arc<dyn Artifacts>,
    clock: Clock,
    remote: bool,
}

/// Where a document stands in the store.
pub(crate) fn store_key(key: &DocumentKey) -> String {
    format!("/{key}")
}

/// Reads a key of the store back; `None` for keys that are no documents.
pub(crate) fn parse_key(key: &str) -> Option<DocumentKey> {
    let rest = key.strip_prefix('/')?;
    (!rest.starts_with("x/")).then(|| rest.parse().ok())?
}

/// The bytes of a document: canonical, without status and without the store's own revision.
pub(crate) fn encode(document: &Document) -> Bytes {
    let mut document = document.clone();
    document.clear_status();
    document.metadata_mut().revision = None;
    Bytes::from(dodai_api::canonical_json(&document.to_value()))
}

/// Reads a document back.
pub(crate) fn decode(kv: &KeyValue) -> Result<Document> {
    let unreadable = |detail: String| Error::Unreadable { key: kv.key.clone(), detail };
    let value: Value = serde_json::from_slice(&kv.value).map_err(|error| unreadable(error.to_string()))?;
    let mut document = Document::from_value(&value).map_err(|problems| {
        unreadable(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    })?;
    document.metadata_mut().revision = Some(kv.mod_revision.0);
    Ok(document)
}

/// Puts a stored status on its document. A status of another version of the program is left out.
pub(crate) fn set_status(document: &mut Document, status: &Value) {
    macro_rules! with {
        ($document:expr) => {
            if let Ok(status) = serde_json::from_value(status.clone()) {
                $document.status = Some(status);
            }
        };
    }
    match document {
        Document::Namespace(document) => with!(document),
        Document::App(document) => with!(document),
        Document::Revision(document) => with!(document),
        Document::Service(document) => with!(document),
        Document::Gateway(document) => with!(document),
        Document::Route(document) => with!(document),
        Document::Policy(document) => with!(document),
        Document::Base(document) => with!(document),
        Document::Component(document) => with!(document),
        Document::Subscription(document) => with!(document),
        Document::Resiliency(document) => with!(document),
        Document::Configuration(document) => with!(document),
        Document::HttpEndpoint(document) => with!(document),
    }
}

impl DocumentStore {
    /// Documents in `store`; times come from `clock`, digests from `artifacts`.
    pub fn new(store: Arc<dyn Store>, artifacts: Arc<dyn Artifacts>, clock: Clock) -> DocumentStore {
        DocumentStore { mirror: Arc::new(Mirror::new(store)), artifacts, clock, remote: false }
    }

    /// Tells writers of what only bases that read the documents themselves would act on.
    #[must_use]
    pub fn for_remote_bases(self) -> DocumentStore {
        DocumentStore { remote: true, ..self }
    }

    /// The store behind.
    pub fn store(&self) -> &Arc<dyn Store> {
        self.mirror.store()
    }

    /// The copy of it.
    pub(crate) fn mirror(&self) -> &Arc<Mirror> {
        &self.mirror
    }

    /// Reads one document with its status.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get(&self, key: &DocumentKey) -> Result<Document> {
        let found = self.store().get(&store_key(key)).await?.kv;
        let mut document = decode(&found.ok_or_else(|| Error::NotFound(key.clone()))?)?;
        if let Some(status) = self.store().get(&format!("{STATUS_PREFIX}/{key}")).await?.kv
            && let Ok(status) = serde_json::from_slice(&status.value)
        {
            set_status(&mut document, &status);
        }
        Ok(document)
    }

    /// Reads the documents of a kind, of one namespace or of all, with their statuses.
    pub async fn list(&self, kind: Kind, namespace: Option<&dodai_api::Name>) -> Result<Vec<Document>> {
        let under = match namespace {
            Some(namespace) => format!("/{kind}/{namespace}/"),
            None => format!("/{kind}/"),
        };
        let statuses = self.store().list(&format!("{STATUS_PREFIX}{under}")).await?.items;
        let statuses: HashMap<&str, &KeyValue> = statuses.iter().map(|kv| (kv.key.as_str(), kv)).collect();
        let mut documents = Vec::new();
        for kv in &self.store().list(&under).await?.items {
            let mut document = match decode(kv) {
                Ok(document) => document,
                // One that another version wrote must not hide the others.
                Err(error) => {
                    tracing::warn!(%error, "a document is passed over");
                    continue;
                }
            };
            let own = format!("{STATUS_PREFIX}{}", kv.key);
            let status = statuses.get(own.as_str());
            if let Some(status) = status.and_then(|kv| serde_json::from_slice(&kv.value).ok()) {
                set_status(&mut document, &status);
            }
            documents.push(document);
        }
        Ok(documents)
    }

    /// Removes one document. Instances of an app are drained afterwards. A namespace must be empty.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotEmpty`].
    pub async fn delete(&self, key: &DocumentKey, actor: &str) -> Result<()> {
        if key.kind == Kind::Namespace {
            self.must_be_empty(key).await?;
        }
        let cause = Cause::new(actor, format!("delete {key}"));
        match self.store().delete(&store_key(key), cause).await? {
            Some(_) => Ok(()),
            None => Err(Error::NotFound(key.clone())),
        }
    }

    /// What is in a namespace would go on without it, and nobody would see where it belongs.
    async fn must_be_empty(&self, namespace: &DocumentKey) -> Result<()> {
        let mut held = Vec::new();
        for kind in Kind::ALL.iter().filter(|kind| kind.is_namespaced()) {
            let items = self.store().list(&format!("/{kind}/{}/", namespace.name)).await?.items;
            held.extend(items.iter().filter_map(|kv| parse_key(&kv.key)));
        }
        // Revisions go with their apps, so they are told last.
        held.sort_by_key(|key| key.kind == Kind::Revision);
        let told: Vec<String> = held.iter().take(5).map(ToString::to_string).collect();
        match held.len() {
            0 => Ok(()),
            count => {
                Err(Error::NotEmpty { namespace: namespace.name.to_string(), count, some: told.join(", ") })
            }
        }
    }

    /// Makes `digest` the artefact of an app's module; the artefact is owned by `deploy` from then on.
    /// Returns the document as written.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Artifact`] for apps that are no modules or digests that are unknown.
    pub async fn deploy(&self, app: &AppId, digest: &Digest, actor: &str) -> Result<Document> {
        let key: DocumentKey = format!("App/{app}").parse().expect("an app's id names a document");
        let artifact = |reason| Error::Artifact { app: app.to_string(), reason };
        self.artifacts.module(app, digest.as_str()).map_err(artifact)?;
        for _ in 0..ATTEMPTS {
            let found = self.store().get(&store_key(&key)).await?.kv;
            let kv = found.ok_or_else(|| Error::NotFound(key.clone()))?;
            let existing = decode(&kv)?;
            let mut wanted = existing.clone();
            let Document::App(document) = &mut wanted else { return Err(Error::NotFound(key)) };
            let Some(module) = &mut document.spec.module else {
                return Err(artifact("it is no module; build its program and apply its document".to_owned()));
            };
            digest.as_str().clone_into(&mut module.artifact);
            let claim = merge::Claim {
                owner: FieldOwner::Deploy,
                scope: None,
                digest: Some(digest.as_str()),
                now: &self.now(),
                uid: "",
            };
            let Some(mut next) = merge::merge(Some(&existing), &wanted, &claim) else { return Ok(existing) };
            // The document stays whose it was; only the artefact changes hands.
            let metadata = next.metadata_mut();
            for (owned, owner) in &existing.metadata().field_owners {
                if owned.is_empty() {
                    metadata.field_owners.insert(owned.clone(), owner.clone());
                }
            }
            if let Some(scope) = existing.metadata().annotations.get(merge::SCOPE) {
                metadata.annotations.insert(merge::SCOPE.to_owned(), scope.clone());
            }
            let txn = Txn::new(Cause::new(actor, format!("deploy {digest} to {app}")))
                .when(&kv.key, Check::ModRevision(Ordering::Equal, kv.mod_revision))
                .put(&kv.key, encode(&next));
            if self.store().txn(txn).await?.held {
                return Ok(next);
            }
        }
        Err(busy(&key.to_string()))
    }

    pub(crate) fn now(&self) -> String {
        timestamp(millis(&self.clock))
    }
}

/// Whether a document is in this namespace.
fn is_in(key: &DocumentKey, namespace: &DocumentKey) -> bool {
    key.kind.is_namespaced() && key.namespace.as_str() == namespace.name.as_str()
}

fn busy(key: &str) -> Error {
    Error::Conflict { key: key.to_owned(), detail: format!("others changed it {ATTEMPTS} times in a row") }
}

/// Milliseconds since 1970.
pub(crate) fn millis(clock: &Clock) -> u64 {
    let since = clock.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970 as RFC 3339 in UTC.
pub(crate) fn timestamp(millis: u64) -> String {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map(|time| time.to_string()).unwrap_or_default()
}

/// The condition that a key is as it was read.
pub(crate) fn unchanged(revision: Option<u64>) -> Check {
    match revision {
        Some(revision) => Check::ModRevision(Ordering::Equal, Revision(revision)),
        None => Check::Absent,
    }
}
