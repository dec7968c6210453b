//! The live components of a base, by namespace and name.
//!
//! Each component has a [`Slot`] and a task that keeps what is live equal to what is wanted: it opens, retries,
//! and replaces. A new version is opened and answers before it takes the place of the old one; the old one is
//! closed when its last user has let go of it. Always holds: a failure is a status, never a crash, and while
//! a change fails the former version stays. Rejected: closing first, which leaves a gap under load.

mod live;
pub(crate) mod resolve;
mod slot;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use dodai_capability::component::{Capabilities, Context, Registry};
use dodai_core::features::Blocks;
use dodai_core::id::{AppId, Name};
use dodai_core::snapshot::{self, Snapshot};
use dodai_core::status::Health;
use dodai_core::task::{Kind, Tasks};
use tokio::sync::watch;

pub use live::Live;
pub(crate) use slot::Slot;

use crate::error::Error;
use crate::settings::Backoff;

/// A sort of component, by what it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Key-value state.
    State,
    /// Messages.
    Pubsub,
    /// Secrets.
    Secrets,
    /// Configuration.
    Configuration,
    /// Locks.
    Lock,
    /// Bindings.
    Bindings,
}

impl Block {
    /// How the types of such components begin.
    pub fn prefix(self) -> &'static str {
        match self {
            Block::State => "state.",
            Block::Pubsub => "pubsub.",
            Block::Secrets => "secretstores.",
            Block::Configuration => "configuration.",
            Block::Lock => "lock.",
            Block::Bindings => "bindings.",
        }
    }

    /// What such a component is called.
    pub fn noun(self) -> &'static str {
        match self {
            Block::State => "state store",
            Block::Pubsub => "pub/sub component",
            Block::Secrets => "secret store",
            Block::Configuration => "configuration store",
            Block::Lock => "lock store",
            Block::Bindings => "binding",
        }
    }
}

/// Why a component cannot be used by an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The app has no component of that sort at all.
    Unconfigured,
    /// It has some, none of that name.
    Missing,
    /// It is configured and not up.
    NotReady(String),
}

type Index = HashMap<Name, BTreeMap<String, Arc<Slot>>>;

pub(crate) struct Shared {
    pub registry: Registry,
    pub context: Context,
    pub environment: Arc<BTreeMap<String, String>>,
    pub backoff: Backoff,
    /// The one app that everything here is for, if this is its sidecar.
    pub only: Option<AppId>,
    index: ArcSwap<Index>,
    /// Grows whenever some component is new, has come up, changed or gone.
    changes: watch::Sender<u64>,
}

/// The components of one base. Cheap to clone.
#[derive(Clone)]
pub struct Components {
    shared: Arc<Shared>,
    tasks: Tasks,
    applying: Arc<Mutex<()>>,
}

impl Components {
    /// No components yet. `data_dir` is where relative paths of drivers begin.
    pub fn new(
        registry: Registry,
        environment: Arc<BTreeMap<String, String>>,
        data_dir: PathBuf,
        backoff: Backoff,
        only: Option<AppId>,
    ) -> Components {
        // Not a child of the base's tracker: components must outlive the deliveries and calls that use them.
        let tasks = Tasks::new();
        let context = Context { data_dir, tasks: tasks.clone(), ..Context::default() };
        let index = ArcSwap::default();
        let changes = watch::Sender::new(0);
        let shared = Arc::new(Shared { registry, context, environment, backoff, only, index, changes });
        Components { shared, tasks, applying: Arc::default() }
    }

    /// Makes the set of components that of the snapshot. Unchanged ones are not touched. Returns at once.
    pub fn apply(&self, snapshot: &Snapshot) {
        let _one_at_a_time = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.shared.index.load_full();
        let mut index = Index::new();
        let mut fresh = Vec::new();
        for wanted in snapshot.components() {
            let known = before.get(&wanted.namespace).and_then(|names| names.get(&wanted.name));
            let slot = match known {
                Some(slot) => {
                    slot.want(wanted);
                    slot.clone()
                }
                None => {
                    let slot = Arc::new(Slot::new(wanted.clone()));
                    fresh.push(slot.clone());
                    slot
                }
            };
            index.entry(wanted.namespace.clone()).or_default().insert(wanted.name.clone(), slot);
        }
        let gone = before
            .values()
            .flat_map(BTreeMap::values)
            .filter(|slot| index.get(slot.namespace()).is_none_or(|names| !names.contains_key(slot.name())));
        gone.for_each(|slot| slot.want_none());
        self.shared.index.store(Arc::new(index));
        if !fresh.is_empty() {
            self.shared.changes.send_modify(|change| *change += 1);
        }
        for slot in fresh {
            self.tasks.spawn(Kind::Loop, slot::keep(slot, self.clone()));
        }
    }

    /// The component of that name, whatever its state.
    pub(crate) fn slot(&self, namespace: &Name, name: &str) -> Option<Arc<Slot>> {
        self.shared.index.load().get(namespace)?.get(name).cloned()
    }

    /// What an app uses: the live component of that name, and the capability that `pick` takes from it. The
    /// component stays open while the returned [`Live`] is held.
    ///
    /// # Errors
    /// There is none, it is out of the app's scope, or it is not up.
    pub fn find<T>(
        &self,
        app: &AppId,
        block: Block,
        name: &str,
        pick: impl FnOnce(&Capabilities) -> Option<T>,
    ) -> Result<(Arc<Live>, T), Absent> {
        let index = self.shared.index.load();
        let names = index.get(&app.namespace).ok_or(Absent::Unconfigured)?;
        let absent = || {
            let mut of_block = names.values().filter(|slot| slot.is(block) && slot.serves(app));
            if of_block.next().is_some() { Absent::Missing } else { Absent::Unconfigured }
        };
        let slot = names.get(name).filter(|slot| slot.serves(app)).ok_or_else(absent)?;
        match slot.live() {
            Some(live) => {
                let capability = pick(&live.component.serves).ok_or_else(absent)?;
                Ok((live, capability))
            }
            None if slot.is(block) => Err(Absent::NotReady(slot.health().reason)),
            None => Err(absent()),
        }
    }

    /// What is configured under that name, if anything is.
    pub(crate) fn wanted(&self, namespace: &Name, name: &str) -> Option<Arc<snapshot::Component>> {
        self.slot(namespace, name)?.wanted()
    }

    /// The component of that name for the base's own use, with the capability that `pick` takes.
    ///
    /// # Errors
    /// There is none, it is not up, or it does something else.
    pub(crate) fn own<T>(
        &self,
        namespace: &Name,
        block: Block,
        name: &str,
        pick: impl FnOnce(&Capabilities) -> Option<T>,
    ) -> Result<(Arc<Live>, T), Error> {
        let slot = self.slot(namespace, name);
        let slot =
            slot.ok_or_else(|| Error::NoComponent { namespace: namespace.clone(), name: name.to_owned() })?;
        let not_ready = || Error::NotReady { name: name.to_owned(), reason: slot.health().reason };
        let live = slot.live().ok_or_else(not_ready)?;
        let wrong =
            || Error::WrongKind { name: name.to_owned(), wanted: block.noun(), prefix: block.prefix() };
        let capability = pick(&live.component.serves).ok_or_else(wrong)?;
        Ok((live, capability))
    }

    /// The components an app may use, in name order, with their health.
    pub(crate) fn of_app(&self, app: &AppId) -> Vec<Arc<Slot>> {
        let index = self.shared.index.load();
        let names = index.get(&app.namespace).into_iter().flat_map(BTreeMap::values);
        names.filter(|slot| slot.serves(app)).cloned().collect()
    }

    /// How every component is, by `namespace/name`.
    pub fn health(&self) -> BTreeMap<String, Health> {
        let index = self.shared.index.load();
        let slots = index.values().flat_map(BTreeMap::values);
        slots.map(|slot| (format!("{}/{}", slot.namespace(), slot.name()), slot.health())).collect()
    }

    /// What every open component serves, by `namespace/name`.
    pub fn blocks(&self) -> BTreeMap<String, Blocks> {
        let index = self.shared.index.load();
        let slots = index.values().flat_map(BTreeMap::values);
        let open =
            |slot: &Arc<Slot>| Some((format!("{}/{}", slot.namespace(), slot.name()), slot.live()?.blocks()));
        slots.filter_map(open).collect()
    }

    /// The value itself, wherever it lives.
    ///
    /// # Errors
    /// It is not there, or its store cannot be read.
    pub async fn resolve(&self, namespace: &Name, value: &snapshot::Value) -> Result<String, Error> {
        resolve::value(self, namespace, value).await
    }

    /// The pauses between tries to open a component.
    pub(crate) fn backoff(&self) -> Backoff {
        self.shared.backoff
    }

    /// A receiver that changes whenever some component is new, has come up, changed or gone.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Closes all components, waiting for their users up to `deadline`. Nothing opens afterwards.
    pub async fn close(&self, deadline: std::time::Duration) {
        let cut = self.tasks.drain(deadline).await;
        if !cut.is_empty() {
            tracing::warn!(?cut, "components were cut while they closed");
        }
    }
}
