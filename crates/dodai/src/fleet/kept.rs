//! Configuration values that were set through the server: kept in its store, and brought to every base that opens
//! the store they are for, now or later.
//!
//! A base that was known when a value was set gets it, whatever it has. One that joins later gets it unless its
//! store has a value already: several bases may share one, and somebody may have written to it since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use dodai_admin::Refusal;
use dodai_admin::seam::ConfigKey;
use dodai_api::{Document, DocumentKey, Kind};
use dodai_control::records::Millis;
use dodai_core::id::BaseId;
use dodai_core::task::Tasks;
use dodai_store::{Cause, KeyValue, Store};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::questions::Question;
use super::remote::Fleet;
use crate::client::connection::encode;

/// Where the values stand in the store.
const PREFIX: &str = "/x/config/";
/// How often it is looked who came.
const LOOK: Duration = Duration::from_millis(250);
/// Who writes what stands there.
const ACTOR: &str = "control:config";

/// What the server remembers beside its store.
#[derive(Default)]
pub(super) struct Desk {
    /// One at a time writes values, here and on bases.
    writing: Mutex<()>,
    /// Grows with every value.
    version: AtomicU64,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    namespace: String,
    store: String,
    key: String,
    /// `None` once it was deleted.
    value: Option<String>,
    /// The bases that were known when it was set and have not got it yet.
    due: BTreeSet<BaseId>,
}

/// What is done about a value on one base.
#[derive(Debug, PartialEq, Eq)]
enum Move {
    Write,
    Leave,
}

impl Kept {
    fn of(kv: &KeyValue) -> Option<Kept> {
        let read = serde_json::from_slice(&kv.value);
        read.inspect_err(|error| tracing::error!(key = kv.key, %error, "a kept value cannot be read")).ok()
    }

    fn component(&self) -> String {
        format!("{}/{}", self.namespace, self.store)
    }

    /// What to do on `base`, whose store has `current`.
    fn next(&self, base: &BaseId, current: Option<&str>) -> Move {
        let is_right = current == self.value.as_deref();
        let may = self.due.contains(base) || current.is_none();
        if !is_right && may { Move::Write } else { Move::Leave }
    }

    fn question(&self, value: Option<String>) -> Question {
        let (namespace, store, key) = (self.namespace.clone(), self.store.clone(), self.key.clone());
        Question::ConfigSet { namespace, store, key, value }
    }
}

fn place(key: &ConfigKey) -> String {
    format!("{PREFIX}{}/{}/{}", encode(&key.namespace), encode(&key.store), encode(&key.key))
}

fn failed(error: &dodai_store::Error) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "store", error.to_string())
}

/// What a base was when everything was brought to it: since when it is connected, the stores that it has open,
/// the version of the values.
type Settled = (Millis, BTreeSet<String>, u64);

impl Fleet {
    fn store(&self) -> Arc<dyn Store> {
        self.control.documents().store().clone()
    }

    /// The value that is kept.
    pub(super) async fn kept(&self, key: &ConfigKey) -> Result<Option<String>, Refusal> {
        let got = self.store().get(&place(key)).await.map_err(|error| failed(&error))?;
        Ok(got.kv.as_ref().and_then(Kept::of).and_then(|kept| kept.value))
    }

    /// Keeps a value, or that there is none, and brings it to the bases that are here. Whether there was one.
    pub(super) async fn keep(&self, key: ConfigKey, value: Option<String>) -> Result<bool, Refusal> {
        self.check(&key)?;
        let _alone = self.desk.writing.lock().await;
        let place = place(&key);
        let before = self.store().get(&place).await.map_err(|error| failed(&error))?.kv;
        let before = before.as_ref().and_then(Kept::of).and_then(|kept| kept.value);
        let view = self.control.view();
        let due = view.documents.bases().map(|base| BaseId::new(base.metadata.name.as_str())).collect();
        let ConfigKey { namespace, store, key } = key;
        let mut kept = Kept { namespace, store, key, value, due };
        self.write(&place, &kept).await?;
        self.desk.version.fetch_add(1, Relaxed);
        let mut there = before.is_some();
        let mut refused = None;
        for (base, open) in self.open() {
            if !open.contains(&kept.component()) {
                continue;
            }
            match self.answer::<bool>(&base, &kept.question(kept.value.clone())).await {
                Ok(was_there) => {
                    there |= was_there;
                    kept.due.remove(&base);
                }
                Err(refusal) => refused = Some(refusal),
            }
        }
        self.write(&place, &kept).await?;
        match refused {
            None => Ok(there),
            Some(refusal) => {
                Err(refusal.remedy("it is kept, and brought there as soon as that base takes it"))
            }
        }
    }

    /// Refuses what no component will ever take.
    fn check(&self, key: &ConfigKey) -> Result<(), Refusal> {
        let bad = |error: &dyn std::fmt::Display| Refusal::bad_request(error.to_string());
        let namespace: dodai_api::Name = key.namespace.parse().map_err(|error| bad(&error))?;
        let name: dodai_api::ObjectName = key.store.parse().map_err(|error| bad(&error))?;
        let found = DocumentKey { kind: Kind::Component, namespace, name };
        let view = self.control.view();
        let is_store = |document: &Arc<Document>| matches!(document.as_ref(), Document::Component(one) if one.spec.kind.starts_with("configuration."));
        if view.documents.get(&found).is_some_and(is_store) {
            return Ok(());
        }
        let text = format!(
            "there is no component `{}` that keeps configuration in namespace {}",
            key.store, key.namespace
        );
        Err(Refusal::not_found(text).remedy("`dodai get components -A` lists what there is"))
    }

    async fn write(&self, place: &str, kept: &Kept) -> Result<(), Refusal> {
        let cause = Cause::new(ACTOR, "a configuration value");
        // What was deleted everywhere need not be remembered.
        let done = if kept.value.is_none() && kept.due.is_empty() {
            self.store().delete(place, cause).await.map(|_| ())
        } else {
            let json = serde_json::to_vec(kept).map_err(|error| Refusal::internal(error.to_string()))?;
            self.store().put(place, json.into(), cause).await.map(|_| ())
        };
        done.map_err(|error| failed(&error))
    }

    /// The bases that are connected, with the components that are up on them.
    fn open(&self) -> Vec<(BaseId, BTreeSet<String>)> {
        let observed = self.control.observed();
        let up = |base: &dodai_control::records::Sighting| {
            let components = base.status.components.iter().filter(|(_, health)| health.ready);
            components.map(|(name, _)| name.clone()).collect()
        };
        let connected = observed.bases().filter(|(_, base)| base.connected);
        connected.map(|(id, base)| (id.clone(), up(base))).collect()
    }

    /// Brings to bases what is for them, as they come and open stores, until the tasks close.
    pub async fn bring_configuration(self: Arc<Fleet>, tasks: Tasks) {
        let mut settled: BTreeMap<BaseId, Settled> = BTreeMap::new();
        loop {
            tokio::select! {
                // Both only wait.
                () = tasks.closing() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            for (base, open) in self.open() {
                let since = self.control.observed().base(&base).map_or(0, |one| one.since);
                let now = (since, open, self.desk.version.load(Relaxed));
                if settled.get(&base) == Some(&now) {
                    continue;
                }
                match self.bring(&base, &now.1).await {
                    Ok(()) => {
                        settled.insert(base, now);
                    }
                    Err(why) => {
                        tracing::debug!(%base, %why, "configuration could not be brought to a base; trying again")
                    }
                }
            }
        }
    }

    async fn bring(&self, base: &BaseId, open: &BTreeSet<String>) -> Result<(), Refusal> {
        let _alone = self.desk.writing.lock().await;
        let known: BTreeSet<BaseId> = self
            .control
            .view()
            .documents
            .bases()
            .map(|one| BaseId::new(one.metadata.name.as_str()))
            .collect();
        for kv in self.store().list(PREFIX).await.map_err(|error| failed(&error))?.items {
            let Some(mut kept) = Kept::of(&kv).filter(|kept| open.contains(&kept.component())) else {
                continue;
            };
            let before = kept.clone();
            let ConfigKey { namespace, store, key } = kept.name();
            let current: Option<String> =
                self.answer(base, &Question::ConfigGet { namespace, store, key }).await?;
            if kept.next(base, current.as_deref()) == Move::Write {
                let _there: bool = self.answer(base, &kept.question(kept.value.clone())).await?;
            }
            kept.due.remove(base);
            kept.due.retain(|due| known.contains(due));
            if kept != before || kept.value.is_none() && kept.due.is_empty() {
                self.write(&kv.key, &kept).await?;
            }
        }
        self.answer(base, &Question::ConfigBrought { stores: open.clone() }).await
    }
}

impl Kept {
    fn name(&self) -> ConfigKey {
        ConfigKey { namespace: self.namespace.clone(), store: self.store.clone(), key: self.key.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_gets_what_it_lacks_and_what_was_set_while_it_was_away() {
        let check = |value: Option<&str>, is_due: bool, current: Option<&str>, expect: Move| {
            let base = BaseId::new("far");
            let kept = Kept {
                namespace: "default".into(),
                store: "settings".into(),
                key: "colour".into(),
                value: value.map(str::to_owned),
                due: is_due.then(|| base.clone()).into_iter().collect(),
            };
            assert_eq!(kept.next(&base, current), expect, "{value:?} {is_due} {current:?}");
        };
        check(Some("blue"), false, None, Move::Write);
        check(Some("blue"), true, None, Move::Write);
        check(Some("blue"), true, Some("red"), Move::Write);
        check(Some("blue"), true, Some("blue"), Move::Leave);
        check(Some("blue"), false, Some("red"), Move::Leave);
        check(None, true, Some("red"), Move::Write);
        check(None, true, None, Move::Leave);
        check(None, false, Some("red"), Move::Leave);
        check(None, false, None, Move::Leave);
    }
}
