//! What control remembers beside documents: instances, and which revision of an app is wanted and serves.

use std::sync::Arc;

use bytes::Bytes;
use dodai_core::id::{AppId, BaseId, InstanceId, RevisionId};
use serde::{Deserialize, Serialize};

use crate::reads::{Read, Reads};
use crate::shared_map::{SharedMap, same};

pub use crate::observed::{Observed, Sighting};

/// Milliseconds since 1970.
pub type Millis = u64;

/// Where the records of instances stand in the store.
pub(crate) const INSTANCE_PREFIX: &str = "/x/instance/";
/// Where the records of apps stand.
pub(crate) const APP_PREFIX: &str = "/x/app/";
/// Where the number of the next instance stands.
pub(crate) const COUNTER: &str = "/x/counter/instance";

/// One instance: where it was placed and how far its life is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Its id.
    pub id: InstanceId,
    /// Its app.
    pub app: AppId,
    /// The revision it runs.
    pub revision: RevisionId,
    /// The base it runs on.
    pub base: BaseId,
    /// When it was placed.
    pub created: Millis,
    /// Since when it should end.
    pub draining: Option<Millis>,
    /// It ran once and ended well.
    pub succeeded: bool,
}

/// How far the rollout of an app is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRecord {
    /// The revision that the app's template makes.
    pub current: RevisionId,
    /// Since when.
    pub since: Millis,
    /// The revision that `latest` means: the newest that became ready.
    pub serving: Option<RevisionId>,
    /// The revision that it meant before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<RevisionId>,
}

/// Instances by id.
type Instances = SharedMap<InstanceId, Arc<InstanceRecord>>;

/// All records. Clones share what they have in common.
#[derive(Clone, Debug, Default)]
pub struct Records {
    instances: Instances,
    /// The same, by app and by base.
    of: SharedMap<AppId, Instances>,
    on: SharedMap<BaseId, Instances>,
    apps: SharedMap<AppId, Arc<AppRecord>>,
    /// The number of the next instance.
    pub next: u64,
    reads: Reads,
}

impl PartialEq for Records {
    fn eq(&self, other: &Records) -> bool {
        self.instances == other.instances && self.apps == other.apps && self.next == other.next
    }
}

impl Records {
    /// The same records; looks at them are noted in `reads`.
    pub(crate) fn noting(&self, reads: &Reads) -> Records {
        Records { reads: reads.clone(), ..self.clone() }
    }

    /// Every instance in the order of their ids. Not noted: nothing that is kept is made of all of them.
    pub fn instances(&self) -> impl Iterator<Item = &InstanceRecord> {
        self.instances.values().map(Arc::as_ref)
    }

    /// One instance.
    pub fn instance(&self, id: &InstanceId) -> Option<&InstanceRecord> {
        let found = self.instances.get(id).map(Arc::as_ref);
        if let Some(found) = found {
            self.reads.note(|| Read::Instances(found.app.clone()));
        }
        found
    }

    /// The instances of one app.
    pub fn of(&self, app: &AppId) -> impl Iterator<Item = &InstanceRecord> {
        self.reads.note(|| Read::Instances(app.clone()));
        self.of.get(app).into_iter().flat_map(SharedMap::values).map(Arc::as_ref)
    }

    /// The instances on one base.
    pub fn on(&self, base: &BaseId) -> impl Iterator<Item = &InstanceRecord> {
        self.reads.note(|| Read::On(base.clone()));
        self.on.get(base).into_iter().flat_map(SharedMap::values).map(Arc::as_ref)
    }

    /// The bases that instances were placed on.
    pub fn bases(&self) -> impl Iterator<Item = &BaseId> {
        self.on.keys()
    }

    /// The record of one app.
    pub fn app(&self, app: &AppId) -> Option<&AppRecord> {
        self.reads.note(|| Read::App(app.clone()));
        self.apps.get(app).map(Arc::as_ref)
    }

    /// The records of all apps. Not noted, as all instances are not.
    pub fn apps(&self) -> impl Iterator<Item = (&AppId, &AppRecord)> {
        self.apps.iter().map(|(app, record)| (app, record.as_ref()))
    }

    /// Adds or replaces an instance.
    pub fn put_instance(&mut self, record: InstanceRecord) {
        self.remove_instance(&record.id);
        let record = Arc::new(record);
        enter(&mut self.of, &record.app, &record);
        enter(&mut self.on, &record.base, &record);
        self.instances.insert(record.id.clone(), record);
    }

    /// Removes an instance.
    pub fn remove_instance(&mut self, id: &InstanceId) {
        if let Some(gone) = self.instances.remove(id) {
            leave(&mut self.of, &gone.app, id);
            leave(&mut self.on, &gone.base, id);
        }
    }

    /// Adds or replaces the record of an app.
    pub fn put_app(&mut self, app: AppId, record: AppRecord) {
        self.apps.insert(app, Arc::new(record));
    }

    /// Removes the record of an app.
    pub fn remove_app(&mut self, app: &AppId) {
        self.apps.remove(app);
    }

    /// Tells what is not the same in `to`.
    pub(crate) fn differences(&self, to: &Records, mut tell: impl FnMut(Read)) {
        self.instances.differences(&to.instances, |_, old, new| {
            if same(old, new) {
                return;
            }
            for one in old.into_iter().chain(new) {
                tell(Read::Instances(one.app.clone()));
                tell(Read::On(one.base.clone()));
            }
        });
        self.apps.differences(&to.apps, |app, old, new| {
            if !same(old, new) {
                tell(Read::App(app.clone()));
            }
        });
    }
}

fn enter<K: Ord + Clone>(index: &mut SharedMap<K, Instances>, key: &K, record: &Arc<InstanceRecord>) {
    let mut own = index.get(key).cloned().unwrap_or_default();
    own.insert(record.id.clone(), record.clone());
    index.insert(key.clone(), own);
}

fn leave<K: Ord + Clone>(index: &mut SharedMap<K, Instances>, key: &K, id: &InstanceId) {
    let mut own = index.get(key).cloned().unwrap_or_default();
    own.remove(id);
    if own.is_empty() {
        index.remove(key);
    } else {
        index.insert(key.clone(), own);
    }
}

pub(crate) fn instance_key(id: &InstanceId) -> String {
    format!("{INSTANCE_PREFIX}{id}")
}

pub(crate) fn app_key(app: &AppId) -> String {
    format!("{APP_PREFIX}{app}")
}

pub(crate) fn bytes(record: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(record).expect("records have text keys only, which JSON can always hold"))
}
