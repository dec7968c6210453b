//! The runtime of one base: components, the API of each app, deliveries, in one handle.
//!
//! Order at shutdown: deliveries end while the components they settle with are still open, then components close.
//! The base calls [`Runtime::close`] before it drains its own tasks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use dodai_capability::component::Registry;
use dodai_capability::jobs::Which;
use dodai_capability::keys::Prefix;
use dodai_capability::pubsub::Broker;
use dodai_capability::{lock, state};
use dodai_core::call::{Door, Serve};
use dodai_core::features::Blocks;
use dodai_core::id::{AppId, Name};
use dodai_core::snapshot::{App, Snapshot, Value};
use dodai_core::status::Health;
use dodai_core::task::Tasks;
use tokio::time::Instant;

use crate::api::{Api, Shared, about};
use crate::callback::Callbacks;
use crate::components::{self, Block, Components, Live};
use crate::delivery::Deliveries;
use crate::error::Error;
use crate::inputs::Inputs;
use crate::jobs::{JobStatus, Jobs};
use crate::keyvalue;
use crate::settings::Settings;

/// A state store as one app sees it: keys go through the prefix, which other APIs of the app use too.
pub struct KeyValue {
    /// The store; it follows changes of its component.
    pub store: Arc<dyn state::Store>,
    /// How keys are prefixed in it.
    pub prefix: Prefix,
}

/// What a component does, for somebody who looks into it. The component stays open as long as this is held.
pub struct Opened<T: ?Sized> {
    _live: Arc<Live>,
    /// What it does.
    pub serves: Arc<T>,
}

/// The runtime of one base.
pub struct Runtime {
    components: Components,
    deliveries: Deliveries,
    inputs: Inputs,
    jobs: Jobs,
    shared: Arc<Shared>,
    apis: Mutex<HashMap<AppId, Api>>,
}

impl Runtime {
    /// A runtime without apps and components. Drivers come from `registry`, calls leave through `door`,
    /// relative paths of drivers begin in `data_dir`. Deliveries wind down when `tasks` closes.
    pub fn new(
        registry: Registry,
        door: Arc<dyn Door>,
        environment: Arc<BTreeMap<String, String>>,
        data_dir: PathBuf,
        settings: Settings,
        tasks: &Tasks,
    ) -> Runtime {
        let (backoff, only) = (settings.component_backoff, settings.sidecar_of.clone());
        let components = Components::new(registry, environment, data_dir, backoff, only);
        let callbacks = Callbacks { door: door.clone(), timeout: settings.delivery_timeout };
        let inputs = Inputs::new(components.clone(), callbacks.clone(), tasks.child());
        let jobs = Jobs::new(callbacks.clone(), &settings, tasks.child());
        let deliveries = Deliveries::new(components.clone(), callbacks, settings.clone(), tasks.child());
        let shared = Arc::new(Shared {
            components: components.clone(),
            door,
            deliveries: deliveries.clone(),
            jobs: jobs.clone(),
            settings,
            endpoints: ArcSwap::default(),
            closing: AtomicBool::new(false),
        });
        Runtime { components, deliveries, inputs, jobs, shared, apis: Mutex::default() }
    }

    /// Makes components, apps and declared subscriptions those of the snapshot. What did not change is not
    /// touched. Returns at once; [`Runtime::health`] tells how far it is.
    pub fn apply(&self, snapshot: &Snapshot) {
        self.components.apply(snapshot);
        self.shared.endpoints.store(Arc::new(about::endpoints(snapshot)));
        let mut apis = self.apis.lock().unwrap_or_else(PoisonError::into_inner);
        apis.retain(|id, api| {
            let stays = snapshot.app(id).is_some();
            if !stays {
                // A listener may hold the API a while longer.
                api.end_followers();
            }
            stays
        });
        for app in snapshot.apps() {
            if let Some(api) = apis.get(&app.id) {
                api.set_terms(app);
            } else {
                apis.insert(app.id.clone(), Api::new(app.clone(), self.shared.clone()));
            }
        }
        drop(apis);
        self.deliveries.apply(snapshot);
        self.inputs.apply(snapshot);
        self.jobs.apply(snapshot);
    }

    /// The API of an app, for its listener. One that no snapshot has named has no restrictions yet.
    pub fn api(&self, app: &AppId) -> Arc<dyn Serve> {
        let mut apis = self.apis.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Api::new(App::new(app.clone()), self.shared.clone());
        Arc::new(apis.entry(app.clone()).or_insert_with(make).clone())
    }

    /// Tells whether an app has a ready instance on this base. Messages are pulled only while it has; each time
    /// it becomes ready it is asked for its subscriptions. With its last instance the configuration it follows
    /// is followed no longer.
    pub fn app_ready(&self, app: &AppId, ready: bool) {
        self.deliveries.app_ready(app, ready);
        self.inputs.app_ready(app, ready);
        self.jobs.app_ready(app, ready);
        let apis = self.apis.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(api) = apis.get(app).filter(|_| !ready) {
            api.end_followers();
        }
    }

    /// Why what is published now may not reach an app that is ready: it has not said what it subscribes to, or not all
    /// of that has been joined. `None` if it does, also for an app that subscribes to nothing.
    pub fn unsubscribed(&self, app: &AppId) -> Option<String> {
        self.deliveries.unsubscribed(app)
    }

    /// Whether that is about to change by itself: the app is being asked, or what it said is being joined for the first
    /// time.
    pub fn is_subscribing(&self, app: &AppId) -> bool {
        self.deliveries.is_subscribing(app)
    }

    /// Tells that an app is there and takes nothing now: no messages are pulled until it is ready again, and it
    /// goes on following what it follows.
    pub fn app_unwell(&self, app: &AppId) {
        self.deliveries.app_ready(app, false);
        self.inputs.app_ready(app, false);
        self.jobs.app_ready(app, false);
    }

    /// Whether an app that is called back by gRPC answers its health check within `timeout`. Cancel safe.
    pub async fn is_well(&self, app: &AppId, timeout: Duration) -> bool {
        self.deliveries.callbacks().is_well(app, timeout).await
    }

    /// How each component is, by `namespace/name`.
    pub fn health(&self) -> BTreeMap<String, Health> {
        self.components.health()
    }

    /// What each open component serves, by `namespace/name`.
    pub fn blocks(&self) -> BTreeMap<String, Blocks> {
        self.components.blocks()
    }

    /// The topics of a pub/sub component that take dead letters, each with those that they come from: as far as
    /// subscriptions of apps here say so, be they documents, told by the app or streams.
    pub fn dead_letters(&self, namespace: &Name, pubsub: &str) -> BTreeMap<String, BTreeSet<String>> {
        self.deliveries.dead_letters(namespace, pubsub)
    }

    /// How each subscription is: `namespace/app pubsub/topic`, or what names one that cannot run.
    pub fn subscriptions(&self) -> BTreeMap<String, Health> {
        self.deliveries.health()
    }

    /// The jobs that are kept here, or those of one app, by app and name: when each runs next, and how its last run
    /// ended. Those of apps that are gone are among them.
    ///
    /// # Errors
    /// The store of jobs cannot be read.
    pub async fn jobs(&self, only: Option<&AppId>) -> Result<Vec<JobStatus>, dodai_capability::jobs::Error> {
        self.jobs.status(only).await
    }

    /// Forgets a job, and tells whether there was one. A run that is under way goes on.
    ///
    /// # Errors
    /// The store of jobs cannot be read or written.
    pub async fn forget_job(&self, app: &AppId, name: &str) -> Result<bool, dodai_capability::Fault> {
        if self.jobs.get(app, name).await?.is_none() {
            return Ok(false);
        }
        self.jobs.delete(app, Which::Name(name.to_owned())).await?;
        Ok(true)
    }

    /// The value itself, wherever it lives.
    ///
    /// # Errors
    /// It is not there, or its store is not up.
    pub async fn secret(&self, namespace: &Name, value: &Value) -> Result<String, Error> {
        self.components.resolve(namespace, value).await
    }

    /// One value of a configuration store; `None` if it has no such key.
    ///
    /// # Errors
    /// There is no such store, or it is not up.
    pub async fn configuration(
        &self,
        namespace: &Name,
        store: &str,
        key: &str,
    ) -> Result<Option<String>, Error> {
        components::resolve::configuration(&self.components, namespace, store, key).await
    }

    /// Every value of a configuration store.
    ///
    /// # Errors
    /// There is no such store, it is not up, or it cannot be read.
    pub async fn configurations(
        &self,
        namespace: &Name,
        store: &str,
    ) -> Result<BTreeMap<String, String>, Error> {
        components::resolve::configurations(&self.components, namespace, store).await
    }

    /// Sets one value of a configuration store, or deletes it; tells whether there was one to delete. Apps that
    /// follow the key are told.
    ///
    /// # Errors
    /// There is no such store, it is not up, or it cannot be written.
    pub async fn set_configuration(
        &self,
        namespace: &Name,
        store: &str,
        key: &str,
        value: Option<&str>,
    ) -> Result<bool, Error> {
        components::resolve::write_configuration(&self.components, namespace, store, key, value).await
    }

    /// The broker of a pub/sub component.
    ///
    /// # Errors
    /// There is no such component, it is another one, or it is not up.
    pub fn broker(&self, namespace: &Name, name: &str) -> Result<Opened<dyn Broker>, Error> {
        let opened = self.components.own(namespace, Block::Pubsub, name, |all| all.pubsub.clone());
        opened.map(|(live, serves)| Opened { _live: live, serves })
    }

    /// The locks of a lock store.
    ///
    /// # Errors
    /// There is no such component, it is another one, or it is not up.
    pub fn locks(&self, namespace: &Name, name: &str) -> Result<Opened<dyn lock::Store>, Error> {
        let opened = self.components.own(namespace, Block::Lock, name, |all| all.lock.clone());
        opened.map(|(live, serves)| Opened { _live: live, serves })
    }

    /// A state store for an app's module.
    ///
    /// # Errors
    /// There is no such component now, it keeps no state, or the app is not among its scopes.
    pub fn keyvalue(&self, app: &AppId, component: &str) -> Result<KeyValue, Error> {
        keyvalue::open(&self.components, app, component)
    }

    /// Ends deliveries, then closes components, within `deadline` for both.
    pub async fn close(&self, deadline: Duration) {
        let until = Instant::now() + deadline;
        self.shared.closing.store(true, Relaxed);
        self.inputs.close(deadline).await;
        self.jobs.close(until.saturating_duration_since(Instant::now())).await;
        self.deliveries.close(until.saturating_duration_since(Instant::now())).await;
        self.components.close(until.saturating_duration_since(Instant::now())).await;
    }
}
