//! The base's main loop: a new snapshot goes to the components, the data plane and the workloads, in that
//! order, and what they say goes back as status.
//!
//! The order matters: a workload starts only when its listeners are open and its components are known, and
//! an old instance is closed only after the data plane stopped choosing it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use dodai_capability::component::Registry;
use dodai_capability::{jobs, memory};
use dodai_core::features::Type;
use dodai_core::id::{AppId, BaseId, InstanceId};
use dodai_core::record::Sink;
use dodai_core::snapshot::{App, Snapshot, Workload};
use dodai_core::status::{Link, Refusal, Status, Wants};
use dodai_core::task::{Kind, Tasks};
use dodai_dataplane::demand::Demand;
use dodai_dataplane::limits::Limits;
use dodai_dataplane::plane::{self, Applied, DataPlane, NotOpen};
use dodai_dataplane::rate_meter::Meter;
use dodai_dataplane::service::Wish;
use dodai_drivers::Folders;
use dodai_drivers::sqlite::Jobs;
use dodai_modules::{Child, Compiler, Host, HostOptions};
use dodai_runtime::Runtime;
use dodai_transport::network::Network;
use dodai_transport::tls::public::RootsFrom;
use thiserror::Error;
use tokio::sync::watch;

use crate::certificates;
use crate::footprint;
use crate::membership::Membership;
use crate::not_open;
use crate::process::{self, Logs, Ports, Supervisor};
use crate::prune;
use crate::rates;
use crate::reveal;
use crate::workload::{self, Order, Runner};

pub use crate::workload::Source;

/// How often the base looks at what changes by itself.
const LOOK: Duration = Duration::from_millis(250);
/// How often it tries again what is not in force: a port may have become free, a certificate may be mended.
const RETRY: Duration = Duration::from_secs(2);
/// How long calls may go on among the apps once nobody is let in from outside, before the apps themselves close.
const CALM: Duration = Duration::from_secs(10);

/// The file of jobs.
const JOBS: &str = "jobs.db";

/// How a base is set up.
pub struct Config {
    /// Its name.
    pub base: BaseId,
    /// Where it keeps what must survive: artefacts, component data, logs.
    pub data_dir: PathBuf,
    /// What relative paths in documents are relative to.
    pub project_dir: PathBuf,
    /// Program and leading arguments to which `shim` and `compile-module` are added: this executable.
    pub executable: Vec<OsString>,
    /// Data-plane threads.
    pub threads: usize,
    /// Limits of the data path.
    pub limits: Limits,
    /// Who wants call records.
    pub sinks: Vec<Arc<dyn Sink>>,
    /// Of 10,000 traces that start here, how many are sampled.
    pub sample_per_ten_thousand: u16,
    /// The environment, for components and as what processes inherit of it.
    pub environment: BTreeMap<String, String>,
    /// Which services it asks for: all, or these, those that were wanted when it last ran, and what is called.
    pub wants: Wants,
    /// Its place among other bases, if it has one.
    pub membership: Option<Membership>,
    /// Where it gets artefacts that it lacks, if from anywhere.
    pub artifacts: Option<Arc<dyn Source>>,
    /// Limits and seams of the runtime API.
    pub runtime: dodai_runtime::Settings,
    /// Where relative paths of components' data begin; `None` for `components` in the data folder.
    pub components_dir: Option<PathBuf>,
}

/// Why a base cannot start.
#[derive(Debug, Error)]
pub enum Error {
    /// Its threads cannot be started.
    #[error("cannot start the data plane: {0}")]
    Plane(std::io::Error),
    /// The module host cannot open its folder.
    #[error(transparent)]
    Modules(#[from] dodai_modules::Error),
    /// The process supervisor cannot start.
    #[error(transparent)]
    Processes(#[from] process::Error),
}

/// Asks for what is called through the status, which tells control.
fn ask_through(status: &watch::Sender<Status>, more: &BTreeSet<AppId>) -> Demand {
    let mut wanted = more.clone();
    if let Wants::Only(before) = &status.borrow().wants {
        wanted.extend(before.iter().cloned());
    }
    let status = status.clone();
    let ask = move |wanted| status.send_modify(|status| status.wants = Wants::Only(wanted));
    ask(wanted.clone());
    Demand::new(wanted, Box::new(ask))
}

/// What every part of a base may use.
pub struct Parts {
    /// How it is set up.
    pub config: Config,
    /// The data plane.
    pub plane: DataPlane,
    /// The module host.
    pub modules: Arc<Host>,
    /// The process supervisor.
    pub processes: Supervisor,
    /// What watches processes; told to end after their workloads, which let calls finish first.
    pub watching: Tasks,
    /// Components and APIs.
    pub runtime: Runtime,
    /// Ports for processes.
    pub ports: Ports,
    /// What is reported.
    pub status: watch::Sender<Status>,
    /// Output of instances by id; kept for a while after they are gone.
    pub logs: std::sync::Mutex<BTreeMap<InstanceId, (AppId, Logs)>>,
    /// The apps of the instances that run here.
    pub apps: std::sync::Mutex<BTreeMap<InstanceId, AppId>>,
    /// What apps send to the runtime API to prove themselves.
    pub tokens: std::sync::Mutex<BTreeMap<AppId, String>>,
    /// One artefact at a time comes from elsewhere.
    pub fetching: tokio::sync::Mutex<()>,
    /// Whether each Redis by which rate limits are shared can be reached.
    pub rate_stores: ArcSwap<BTreeMap<String, bool>>,
    /// Handles of process instances, for usage figures.
    pub handles: std::sync::Mutex<BTreeMap<InstanceId, Arc<process::Handle>>>,
}

/// A running base.
#[derive(Clone)]
pub struct Base {
    parts: Arc<Parts>,
    tasks: Tasks,
}

impl Base {
    /// Starts a base at the end of `link`. It serves nothing until the first snapshot.
    pub async fn start(config: Config, link: Link, tasks: &Tasks) -> Result<Base, Error> {
        let demand = match &config.wants {
            Wants::All => {
                link.status.send_modify(|status| status.wants = Wants::All);
                None
            }
            Wants::Only(more) => Some(ask_through(&link.status, more)),
        };
        let plane = DataPlane::start(plane::Config {
            base: config.base.clone(),
            limits: config.limits.clone(),
            network: Network::system(),
            threads: config.threads.max(1),
            sinks: config.sinks.clone(),
            sample_per_ten_thousand: config.sample_per_ten_thousand,
            mesh: config.membership.as_ref().map(Membership::mesh),
            demand,
            data_dir: config.data_dir.clone(),
            roots: RootsFrom::environment(|name| config.environment.get(name).cloned()),
        })
        .map_err(Error::Plane)?;
        let mut options = HostOptions::new(config.data_dir.join("modules"));
        let command = |subcommand: &str| {
            let mut command = config.executable.clone();
            command.push(subcommand.into());
            command
        };
        options.compiler = Compiler::Child(Child::new(command("compile-module")));
        let modules = Arc::new(Host::open(options, tasks)?);
        let supervised = process::Config::new(command("shim"), config.base.as_str());
        let processes = Supervisor::open(supervised.keeping(&config.data_dir)).await?;
        let environment = Arc::new(config.environment.clone());
        let components = config.components_dir.clone();
        let components = components.unwrap_or_else(|| config.data_dir.join("components"));
        let folders = Folders { data: components.clone(), project: config.project_dir.clone() };
        let registry = drivers(environment.clone(), &folders);
        let mut settings = config.runtime.clone();
        settings.jobs.get_or_insert_with(|| Arc::new(Jobs::new(config.data_dir.join(JOBS), false)));
        let runtime =
            Runtime::new(registry, Arc::new(plane.door()), environment, components, settings, tasks);
        let parts = Arc::new(Parts {
            config,
            plane,
            modules,
            processes,
            watching: Tasks::new(),
            runtime,
            ports: Ports::default(),
            status: link.status,
            logs: std::sync::Mutex::default(),
            apps: std::sync::Mutex::default(),
            tokens: std::sync::Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            rate_stores: ArcSwap::default(),
            handles: std::sync::Mutex::default(),
        });
        let base = Base { parts: parts.clone(), tasks: tasks.child() };
        if let Some(membership) = parts.config.membership.clone() {
            let (told, status) = (link.snapshots.clone(), parts.status.clone());
            let heed = membership.clone().heed(told, status, base.tasks.clone());
            base.tasks.spawn(Kind::Loop, heed);
            let tend = membership.tend(link.snapshots.clone(), base.tasks.clone());
            base.tasks.spawn(Kind::Loop, tend);
        }
        let tend = prune::tend(parts.clone(), link.snapshots.clone(), base.tasks.clone());
        base.tasks.spawn(Kind::Loop, tend);
        tasks.spawn(Kind::Loop, follow(parts.clone(), link.snapshots, base.tasks.clone()));
        base.tasks.spawn(Kind::Loop, rates::tend(parts.clone(), base.tasks.clone()));
        base.tasks.spawn(Kind::Loop, certificates::tend(parts, base.tasks.clone()));
        base.tasks.spawn(Kind::Loop, footprint::tend(base.tasks.clone()));
        Ok(base)
    }

    /// The base's parts, for metrics, logs and administration.
    pub fn parts(&self) -> &Arc<Parts> {
        &self.parts
    }

    /// Drains calls, stops every instance and closes the components; nothing is left behind.
    pub async fn stop(&self, deadline: Duration) {
        let parts = &self.parts;
        // First nobody new, then the calls under way with all that they call, then the apps.
        parts.plane.close_edges().await;
        let _noisy = tokio::time::timeout(deadline.min(CALM), calm(parts)).await;
        self.tasks.close();
        // Workloads stop while the data plane still lets their last calls out.
        let _cut = self.tasks.drain(deadline).await;
        parts.watching.close();
        let _cut = parts.watching.drain(deadline).await;
        parts.plane.drain(deadline).await;
        parts.modules.shutdown(deadline).await;
        parts.runtime.close(deadline).await;
    }
}

/// The drivers that are built in.
fn drivers(environment: Arc<BTreeMap<String, String>>, folders: &Folders) -> Registry {
    let mut registry = Registry::new();
    memory::register(&mut registry);
    dodai_drivers::register(&mut registry, environment, folders);
    registry
}

/// Jobs in a folder that outlives the base's own, which other processes of the same app may share.
pub fn shared_jobs(folder: &Path) -> Arc<dyn jobs::Store> {
    Arc::new(Jobs::new(folder.join(JOBS), true))
}

/// The types of components that a base of this build can open, and what each can serve.
pub fn component_types() -> Vec<Type> {
    let nowhere = Folders { data: PathBuf::new(), project: PathBuf::new() };
    drivers(Arc::default(), &nowhere).types().collect()
}

/// Waits for a moment in which no instance here has a call. Cancel safe.
async fn calm(parts: &Parts) {
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let locals = parts.plane.locals();
    loop {
        looks.tick().await;
        let instances: Vec<InstanceId> = parts.status.borrow().instances.keys().cloned().collect();
        if instances.iter().all(|instance| locals.get(instance).in_flight() == 0) {
            return;
        }
    }
}

/// Takes snapshots until told to stop.
async fn follow(parts: Arc<Parts>, mut snapshots: watch::Receiver<Arc<Snapshot>>, tasks: Tasks) {
    let mut runners = BTreeMap::new();
    let (mut known, mut whole) = (0, true);
    let mut meter = Meter::default();
    let mut looks = tokio::time::interval(LOOK);
    let mut retries = tokio::time::interval(RETRY);
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if snapshot.version > 0 {
            // What is new may have stores that come up a moment later; what is old has been waited for.
            let patience = if snapshot.version == known { Duration::ZERO } else { reveal::PATIENCE };
            known = snapshot.version;
            whole = take(&parts, &snapshot, patience, &mut runners, &tasks).await;
        }
        let changed = loop {
            tokio::select! {
                // Waiting for a change, for a moment and for the end are all cancel safe.
                changed = snapshots.changed() => break changed.is_ok(),
                now = looks.tick() => {
                    look(&parts);
                    measure(&parts, &mut meter, now);
                }
                _ = retries.tick(), if !whole || is_lacking(&parts.status.borrow()) => break true,
                () = tasks.closing() => break false,
            }
        };
        if !changed {
            break;
        }
    }
    // The runners watch the same tracker and end by themselves.
    tasks.closing().await;
}

/// Reports what changes by itself: how components are, how many calls are in flight.
fn look(parts: &Parts) {
    let (health, blocks) = (parts.runtime.health(), parts.runtime.blocks());
    if let Some(membership) = &parts.config.membership {
        membership.brought().keep(&health);
    }
    let locals = parts.plane.locals();
    parts.status.send_if_modified(|status| {
        let mut changed = status.components != health || status.blocks != blocks;
        (status.components, status.blocks) = (health, blocks);
        for (instance, entry) in &mut status.instances {
            let in_flight = locals.get(instance).in_flight();
            changed |= entry.in_flight != in_flight;
            entry.in_flight = in_flight;
        }
        changed
    });
}

/// Reports how much is asked of limits that all bases keep together.
fn measure(parts: &Parts, meter: &mut Meter, now: tokio::time::Instant) {
    if let Some(told) = meter.look(parts.plane.table().limits(), now) {
        parts.status.send_modify(|status| (status.demand, status.busiest) = (told.demand, told.busiest));
    }
}

/// Makes one snapshot the truth, as far as it can be. `false` if a secret in it could not be read yet.
async fn take(
    parts: &Arc<Parts>,
    snapshot: &Arc<Snapshot>,
    patience: Duration,
    runners: &mut BTreeMap<InstanceId, Runner>,
    tasks: &Tasks,
) -> bool {
    parts.runtime.apply(snapshot);
    for app in snapshot.apps() {
        parts.remember_token(app);
        parts.plane.set_api(&app.id, Some(parts.runtime.api(&app.id)));
    }
    let (revealed, whole) = reveal::reveal(&parts.runtime, snapshot, patience).await;
    match parts.plane.apply(&revealed).await {
        Ok(applied) => {
            let not_open = why_not_open(parts, &applied);
            parts.status.send_modify(|status| {
                status.applied = snapshot.version;
                status.refused = None;
                let member = parts.config.membership.as_ref().zip(applied.listeners.get("mesh"));
                status.mesh = member.map(|(membership, at)| membership.address(*at));
                (status.listeners, status.not_open) = (applied.listeners, not_open);
            });
        }
        Err(error) => {
            let refusal = Refusal { version: snapshot.version, reason: error.to_string() };
            if parts.status.borrow().refused.as_ref() == Some(&refusal) {
                return whole;
            }
            tracing::warn!(
                version = snapshot.version,
                reason = refusal.reason,
                "a snapshot was refused; the last good one stays"
            );
            parts.status.send_modify(|status| status.refused = Some(refusal));
            return whole;
        }
    }
    look(parts);
    reconcile(parts, snapshot, runners, tasks);
    whole
}

/// Whether something of the newest snapshot is not in force.
fn is_lacking(status: &Status) -> bool {
    status.refused.is_some() || !status.not_open.is_empty()
}

/// Why listeners are not open; what is new is logged.
fn why_not_open(parts: &Parts, applied: &Applied) -> BTreeMap<String, String> {
    let is_member = parts.config.membership.is_some();
    let told = |(name, why): (&String, &NotOpen)| (name.clone(), not_open::reason(name, why, is_member));
    let all: BTreeMap<String, String> = applied.not_open.iter().map(told).collect();
    let known = parts.status.borrow().not_open.clone();
    for (listener, reason) in all.iter().filter(|(listener, reason)| known.get(*listener) != Some(*reason)) {
        let before = applied.listeners.get(listener).map(|at| at.to_string());
        tracing::warn!(
            listener,
            reason,
            goes_on_at = before.as_deref().unwrap_or("nowhere"),
            "a listener is not open"
        );
    }
    all
}

/// Starts, drains and forgets workloads, so that they are what the snapshot says.
fn reconcile(
    parts: &Arc<Parts>,
    snapshot: &Snapshot,
    runners: &mut BTreeMap<InstanceId, Runner>,
    tasks: &Tasks,
) {
    let wanted: BTreeMap<&InstanceId, &Workload> =
        snapshot.workloads().map(|workload| (&workload.instance, workload)).collect();
    for (instance, workload) in &wanted {
        let order = if workload.draining { Order::Drain } else { Order::Run };
        match runners.get(*instance) {
            Some(runner) => {
                runner.awaits(&workload.depends_on);
                runner.order(order);
            }
            None => {
                let mut apps = parts.apps.lock().unwrap_or_else(PoisonError::into_inner);
                apps.insert((*instance).clone(), workload.app.clone());
                drop(apps);
                let runner = workload::spawn(parts.clone(), (*workload).clone(), order, tasks);
                runners.insert((*instance).clone(), runner);
            }
        }
    }
    runners.retain(|instance, runner| {
        if wanted.contains_key(instance) {
            return true;
        }
        runner.order(Order::Drain);
        let gone = runner.is_gone();
        if gone {
            parts.apps.lock().unwrap_or_else(PoisonError::into_inner).remove(instance);
            parts.status.send_if_modified(|status| status.instances.remove(instance).is_some());
        }
        !gone
    });
}

impl Parts {
    fn remember_token(&self, app: &App) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        match &app.scopes.api_token {
            Some(token) => tokens.insert(app.id.clone(), token.clone()),
            None => tokens.remove(&app.id),
        };
    }

    /// The token that an app must send to the runtime API, if any.
    pub fn token_of(&self, app: &AppId) -> Option<String> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(app).cloned()
    }

    /// The app of an instance that runs here.
    pub fn app_of(&self, instance: &InstanceId) -> Option<AppId> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner).get(instance).cloned()
    }

    /// Whether calls to an app would find an instance, here or elsewhere.
    pub fn serves(&self, app: &AppId) -> bool {
        self.plane.table().default_service(app).is_some_and(|service| service.pick(&Wish::default()).is_ok())
    }
}
