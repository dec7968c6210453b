//! A simulated base: a real data plane, and instances that are played.
//!
//! It follows its snapshot as a real base does: what is new starts after a while, what drains ends when its
//! calls have, what is no longer named is forgotten. An instance answers every call with its app's name.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dodai_core::call::{Answer, Call, Reply, Serve};
use dodai_core::failure::{Failure, Kind as FailureKind};
use dodai_core::id::{AppId, BaseId, InstanceId};
use dodai_core::snapshot::{Snapshot, Workload};
use dodai_core::status::{InstanceStatus, Phase, Refusal, Status, Wants};
use dodai_core::task::{Kind, Tasks};
use dodai_dataplane::limits::Limits;
use dodai_dataplane::local::{Local, Way};
use dodai_dataplane::mesh::Mesh;
use dodai_dataplane::plane::{Config, DataPlane, NotOpen};
use dodai_dataplane::rate_meter::Meter;
use dodai_transport::network::Network;
use tokio::sync::watch;

use crate::seed::Seed;

/// How often a base looks at what changes by itself.
const LOOK: Duration = Duration::from_millis(50);

/// A simulated base.
#[derive(Clone)]
pub struct Node(Arc<Parts>);

struct Parts {
    plane: DataPlane,
    status: watch::Sender<Status>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    running: Mutex<BTreeMap<InstanceId, Running>>,
    seed: Mutex<Seed>,
    meter: Mutex<Meter>,
    mesh: std::net::SocketAddr,
}

/// One played instance.
struct Running {
    app: AppId,
    local: Arc<Local>,
    phase: Phase,
    restarts: u32,
    /// When its phase ends by itself.
    until: Option<tokio::time::Instant>,
    /// Calls of an instance that crashed end with it.
    alive: Arc<AtomicBool>,
}

/// Answers with who it is, a little later.
struct Named {
    text: String,
    delay: Duration,
    alive: Arc<AtomicBool>,
}

impl Serve for Named {
    fn serve(&self, _call: Call) -> Answer<'_> {
        Box::pin(async {
            tokio::time::sleep(self.delay).await;
            if self.alive.load(Ordering::Relaxed) {
                Ok(Reply::new(http::StatusCode::OK, self.text.clone()))
            } else {
                Err(Failure::new(FailureKind::Reset, "the instance ended with the call"))
            }
        })
    }
}

impl Node {
    /// Starts a base on `network`, which other bases reach at `mesh_address`. Its tasks end with `tasks`.
    ///
    /// # Errors
    /// When the data plane cannot start.
    pub fn start(
        base: BaseId,
        network: Network,
        (mesh, mesh_address): (Mesh, std::net::SocketAddr),
        seed: Seed,
        tasks: &Tasks,
    ) -> std::io::Result<Node> {
        let plane = DataPlane::start(Config {
            base,
            limits: Limits::default(),
            network,
            threads: 0,
            sinks: Vec::new(),
            sample_per_ten_thousand: 0,
            mesh: Some(mesh),
            demand: None,
            data_dir: PathBuf::new(),
            roots: dodai_transport::tls::public::RootsFrom::default(),
        })?;
        let first = Status { wants: Wants::All, mesh: Some(mesh_address), ..Status::default() };
        let parts = Parts {
            plane,
            status: watch::Sender::new(first),
            snapshots: watch::Sender::new(Arc::new(Snapshot::default())),
            running: Mutex::default(),
            seed: Mutex::new(seed),
            meter: Mutex::default(),
            mesh: mesh_address,
        };
        let node = Node(Arc::new(parts));
        tasks.spawn_local(Kind::Loop, follow(node.clone(), tasks.clone()));
        Ok(node)
    }

    /// What it is, for a connection to control.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.status.subscribe()
    }

    /// Where it is told what to be.
    pub fn snapshots(&self) -> watch::Sender<Arc<Snapshot>> {
        self.0.snapshots.clone()
    }

    /// The instances that it has, by id, with their app.
    pub fn instances(&self) -> BTreeMap<InstanceId, AppId> {
        self.running().iter().map(|(id, one)| (id.clone(), one.app.clone())).collect()
    }

    /// Crashes the instance that `seed` chooses; it starts again after a while. Whether there was one.
    pub fn crash(&self, seed: &mut Seed) -> bool {
        let mut running = self.running();
        let ready: Vec<&mut Running> = running.values_mut().filter(|one| one.phase == Phase::Ready).collect();
        if ready.is_empty() {
            return false;
        }
        let chosen = seed.index(ready.len());
        let Some(one) = ready.into_iter().nth(chosen) else { return false };
        one.alive.store(false, Ordering::Relaxed);
        one.local.set(Way::Closed("it crashed".into()));
        one.phase = Phase::BackingOff;
        one.restarts += 1;
        one.until = Some(tokio::time::Instant::now() + seed.millis(100..5000));
        true
    }

    /// Ends without a word: its calls are cut and its instances are gone.
    pub async fn kill(&self) {
        for one in std::mem::take(&mut *self.running()).into_values() {
            one.alive.store(false, Ordering::Relaxed);
            one.local.set(Way::Closed("its base is gone".into()));
        }
        self.0.plane.drain(Duration::ZERO).await;
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(&self, snapshot: &Snapshot) {
        match self.0.plane.apply(snapshot).await {
            Ok(applied) => self.0.status.send_modify(|status| {
                status.applied = snapshot.version;
                status.refused = None;
                let told = |(name, why): (String, NotOpen)| (name, why.to_string());
                status.not_open = applied.not_open.into_iter().map(told).collect();
                status.listeners = applied.listeners;
            }),
            Err(error) => {
                let refused = Refusal { version: snapshot.version, reason: error.to_string() };
                self.0.status.send_modify(|status| status.refused = Some(refused));
                return;
            }
        }
        let named: BTreeMap<&InstanceId, &Workload> =
            snapshot.workloads().map(|workload| (&workload.instance, workload)).collect();
        let mut running = self.running();
        running.retain(|id, one| named.contains_key(id) || !matches!(one.phase, Phase::Gone));
        for (id, one) in running.iter_mut() {
            if named.get(id).is_none_or(|workload| workload.draining) {
                drain(one);
            }
        }
        for (id, workload) in named {
            if !running.contains_key(id) {
                running.insert(id.clone(), self.begin(workload));
            }
        }
    }

    fn begin(&self, workload: &Workload) -> Running {
        let starts = self.0.seed.lock().unwrap_or_else(PoisonError::into_inner).millis(10..1500);
        let mut one = Running {
            app: workload.app.clone(),
            local: self.0.plane.locals().get(&workload.instance),
            phase: Phase::Starting,
            restarts: 0,
            until: Some(tokio::time::Instant::now() + starts),
            alive: Arc::default(),
        };
        if workload.draining {
            drain(&mut one);
        }
        one
    }

    /// Moves every instance on whose time has come, and reports.
    fn look(&self) {
        let now = tokio::time::Instant::now();
        let mut seed = self.0.seed.lock().unwrap_or_else(PoisonError::into_inner).fork();
        let mut running = self.running();
        for one in running.values_mut() {
            match one.phase {
                Phase::Starting | Phase::BackingOff if one.until.is_some_and(|until| until <= now) => {
                    one.alive = Arc::new(AtomicBool::new(true));
                    let (text, delay) = (one.app.to_string(), seed.millis(0..20));
                    one.local.set(Way::Serve(Arc::new(Named { text, delay, alive: one.alive.clone() })));
                    (one.phase, one.until) = (Phase::Ready, None);
                }
                Phase::Draining if one.local.in_flight() == 0 => one.phase = Phase::Gone,
                Phase::Waiting
                | Phase::Starting
                | Phase::Running
                | Phase::Ready
                | Phase::Unready
                | Phase::BackingOff
                | Phase::Draining
                | Phase::Succeeded
                | Phase::Failed
                | Phase::Gone
                | Phase::Unknown => {}
            }
        }
        let instances: BTreeMap<InstanceId, InstanceStatus> =
            running.iter().map(|(id, one)| (id.clone(), report(one))).collect();
        drop(running);
        let mut meter = self.0.meter.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = meter.look(self.0.plane.table().limits(), now) {
            self.0.status.send_modify(|status| (status.demand, status.busiest) = (told.demand, told.busiest));
        }
        self.0.status.send_if_modified(|status| {
            let changed = status.instances != instances;
            status.instances = instances;
            status.mesh = Some(self.0.mesh);
            changed
        });
    }
}

fn drain(one: &mut Running) {
    if !matches!(one.phase, Phase::Draining | Phase::Gone) {
        one.local.set(Way::Closed("it drains".into()));
        (one.phase, one.until) = (Phase::Draining, None);
    }
}

fn report(one: &Running) -> InstanceStatus {
    InstanceStatus {
        phase: one.phase,
        reason: String::new(),
        restarts: one.restarts,
        pid: None,
        ports: BTreeMap::new(),
        in_flight: one.local.in_flight(),
    }
}

async fn follow(node: Node, tasks: Tasks) {
    let mut snapshots = node.0.snapshots.subscribe();
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            // All of these only wait.
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                let snapshot = snapshots.borrow_and_update().clone();
                if snapshot.version > 0 {
                    node.take(&snapshot).await;
                }
            }
            _ = looks.tick() => {
                node.look();
                // What has ended and is no longer named is forgotten.
                let named = snapshots.borrow().clone();
                let kept = |id: &InstanceId| named.workloads().any(|workload| workload.instance == *id);
                node.running().retain(|id, one| one.phase != Phase::Gone || kept(id));
            }
            () = tasks.closing() => return,
        }
    }
}
