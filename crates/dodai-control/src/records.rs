//! What control remembers beside documents: instances, and which revision of an app is wanted and serves.

use std::collections::BTreeMap;

use bytes::Bytes;
use dodai_core::id::{AppId, BaseId, InstanceId, RevisionId};
use dodai_core::status::{InstanceStatus, Phase, Status};
use serde::{Deserialize, Serialize};

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
}

/// All records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// The instances.
    pub instances: BTreeMap<InstanceId, InstanceRecord>,
    /// The apps.
    pub apps: BTreeMap<AppId, AppRecord>,
    /// The number of the next instance.
    pub next: u64,
}

impl Records {
    /// The instances of one app.
    pub fn of<'a>(&'a self, app: &'a AppId) -> impl Iterator<Item = &'a InstanceRecord> {
        self.instances.values().filter(move |instance| instance.app == *app)
    }

    /// The instances on one base.
    pub fn on<'a>(&'a self, base: &'a BaseId) -> impl Iterator<Item = &'a InstanceRecord> {
        self.instances.values().filter(move |instance| instance.base == *base)
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

/// What is known of one base.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// What it reported last.
    pub status: Status,
    /// Whether it is connected.
    pub connected: bool,
    /// Since when it is, or is not.
    pub since: Millis,
}

/// What is known of all bases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Since when anything could be known.
    pub started: Millis,
    /// The bases that were seen since then.
    pub bases: BTreeMap<BaseId, Sighting>,
}

impl Observed {
    /// What a base says of an instance placed on it.
    pub fn instance(&self, record: &InstanceRecord) -> Option<&InstanceStatus> {
        self.bases.get(&record.base)?.status.instances.get(&record.id)
    }

    /// Where an instance stands, if its base says so.
    pub fn phase(&self, record: &InstanceRecord) -> Option<Phase> {
        self.instance(record).map(|status| status.phase)
    }

    /// Whether an instance takes calls.
    pub fn is_ready(&self, record: &InstanceRecord) -> bool {
        record.draining.is_none() && self.phase(record) == Some(Phase::Ready)
    }

    /// Whether an instance takes calls as far as anybody knows: its base is connected and says so. Calls go on to
    /// those of a base that only control cannot hear; nobody is told that they are well.
    pub fn is_seen_ready(&self, record: &InstanceRecord) -> bool {
        self.is_ready(record) && self.away_since(&record.base).is_none()
    }

    /// Since when a base is away; `None` while it is connected.
    pub fn away_since(&self, base: &BaseId) -> Option<Millis> {
        match self.bases.get(base) {
            Some(sighting) if sighting.connected => None,
            Some(sighting) => Some(sighting.since),
            None => Some(self.started),
        }
    }
}
