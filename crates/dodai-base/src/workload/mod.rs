//! One workload from its order to its end: wait for what it depends on, start, open its way in while it is
//! ready, drain, stop, report each step.

mod check;
mod env;
mod fetch;
mod module;
mod native;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dodai_core::id::AppId;
use dodai_core::snapshot::{Protocol, Shape, Value, Workload};
use dodai_core::status::{InstanceStatus, Phase};
use dodai_core::task::{Kind, Tasks};
use dodai_dataplane::local::{Local, Way};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::node::Parts;

pub use fetch::Source;

/// How long an instance waits for a certificate in its name. After that it starts all the same: calls within
/// the base need none.
const CERTIFICATE: Duration = Duration::from_secs(10);
/// How long an instance waits for the stores that its environment names. After that its start says what is wrong.
const STORES: Duration = Duration::from_secs(5);
/// Between two looks at them.
const STORE_LOOK: Duration = Duration::from_millis(20);
/// How long an instance gets to finish the calls it has when it is drained.
const DRAIN: Duration = Duration::from_secs(30);

/// What is wanted of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It runs.
    Run,
    /// It finishes its calls and ends.
    Drain,
}

/// The task of one workload.
pub struct Runner {
    order: watch::Sender<Order>,
    awaited: watch::Sender<Vec<AppId>>,
    gone: watch::Receiver<bool>,
}

impl Runner {
    /// Changes what is wanted. A drain is never taken back.
    pub fn order(&self, order: Order) {
        self.order.send_if_modified(|now| {
            let changed = *now != order && *now != Order::Drain;
            if changed {
                *now = order;
            }
            changed
        });
    }

    /// Changes which apps it waits for before it starts. What runs already is not disturbed.
    pub fn awaits(&self, apps: &[AppId]) {
        self.awaited.send_if_modified(|now| {
            let changed = now != apps;
            if changed {
                *now = apps.to_vec();
            }
            changed
        });
    }

    /// Whether nothing of it is left.
    pub fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }
}

/// What a running workload works with.
pub struct Context {
    /// The base.
    pub parts: Arc<Parts>,
    /// What it is.
    pub workload: Workload,
    /// Its way in.
    pub local: Arc<Local>,
    /// Tasks of this workload.
    pub tasks: Tasks,
    order: watch::Receiver<Order>,
    /// The apps it waits for; fewer while others of them end well.
    awaited: watch::Receiver<Vec<AppId>>,
}

/// Starts a workload's task.
pub fn spawn(parts: Arc<Parts>, workload: Workload, order: Order, tasks: &Tasks) -> Runner {
    let (order_in, order) = watch::channel(order);
    let (gone_in, gone) = watch::channel(false);
    let (awaited_in, awaited) = watch::channel(workload.depends_on.clone());
    let local = parts.plane.locals().get(&workload.instance);
    let context = Context { parts, workload, local, tasks: tasks.clone(), order, awaited };
    tasks.spawn(Kind::Process, async move {
        context.run().await;
        gone_in.send_replace(true);
    });
    Runner { order: order_in, awaited: awaited_in, gone }
}

impl Context {
    async fn run(mut self) {
        self.report(Phase::Waiting, "waiting for its turn");
        if self.dependencies().await && self.certificate().await && self.stores().await {
            match self.workload.shape.clone() {
                Shape::Module(spec) => module::run(&mut self, spec).await,
                Shape::Process(spec) => native::run(&mut self, &spec).await,
            }
        }
        self.close("is gone");
        // What ran once and succeeded stays known, so that those who depend on it may start.
        let done = self.phase() == Some(Phase::Succeeded);
        if done {
            self.until_drained().await;
        }
        self.report(Phase::Gone, "");
        if !self.another_is_ready() {
            self.parts.runtime.app_ready(&self.workload.app, false);
        }
    }

    /// Whether another instance of the app takes calls here: then the app stays when this one goes.
    fn another_is_ready(&self) -> bool {
        let app = Some(&self.workload.app);
        self.parts.status.borrow().instances.iter().any(|(instance, status)| {
            *instance != self.workload.instance
                && status.phase == Phase::Ready
                && self.parts.app_of(instance).as_ref() == app
        })
    }

    /// Waits until every app it depends on is there; that one which runs once has succeeded, control knows. False if it should not start any more.
    async fn dependencies(&mut self) -> bool {
        let mut status = self.parts.status.subscribe();
        let mut met = BTreeSet::new();
        loop {
            // Asked anew each time: one that ran once to its end is waited for no longer, and may be forgotten
            // before anybody here has looked.
            let awaited = self.awaited.borrow_and_update().clone();
            met.extend(awaited.iter().filter(|app| self.is_there(app)).cloned());
            let Some(app) = awaited.iter().find(|app| !met.contains(*app)) else { break };
            self.report(Phase::Waiting, &self.why_not(app));
            tokio::select! {
                // Each only waits; the timer covers apps on other bases, which no local status tells of.
                _ = status.changed() => {}
                Ok(()) = self.awaited.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(250)) => {}
                () = wait_for_drain(&mut self.order, &self.tasks) => return false,
            }
        }
        !self.is_draining()
    }

    /// Waits for a certificate, so that other bases can call as soon as they are told of the instance. False if
    /// it should not start any more.
    async fn certificate(&mut self) -> bool {
        let Some(membership) = self.parts.config.membership.clone() else { return true };
        if !membership.holds(&self.workload.app) {
            self.report(Phase::Waiting, "waiting for its certificate");
            tokio::select! {
                // All only wait.
                () = membership.held(&self.workload.app) => {}
                () = tokio::time::sleep(CERTIFICATE) => {
                    tracing::warn!(instance = %self.workload.instance, "starts without a certificate; other bases cannot call it yet");
                }
                () = wait_for_drain(&mut self.order, &self.tasks) => return false,
            }
        }
        !self.is_draining()
    }

    fn is_there(&self, app: &AppId) -> bool {
        let of_app =
            |instance: &dodai_core::id::InstanceId| self.parts.app_of(instance).as_ref() == Some(app);
        let here = self
            .parts
            .status
            .borrow()
            .instances
            .iter()
            .any(|(instance, status)| status.phase == Phase::Ready && of_app(instance));
        here || self.parts.serves(app)
    }

    /// Why an app that it depends on is not there, as far as that is known here.
    fn why_not(&self, app: &AppId) -> String {
        let status = self.parts.status.borrow();
        let own = || {
            let all = status.instances.iter();
            all.filter(|(instance, _)| self.parts.app_of(instance).as_ref() == Some(app)).map(|(_, one)| one)
        };
        if let Some(failed) = own().find(|one| one.phase == Phase::Failed) {
            return format!("waiting for {app}, which failed: {}", failed.reason);
        }
        match own().any(|one| one.phase == Phase::Running) {
            true => format!("waiting for {app} to succeed"),
            false => format!("waiting for {app} to be ready"),
        }
    }

    /// Waits for the stores that its environment names, which may just be coming up. False if it should not start
    /// any more.
    async fn stores(&mut self) -> bool {
        let namespace = self.workload.app.namespace.clone();
        let named = self.workload.env.iter().filter_map(|setting| match &setting.value {
            Value::Secret { store, .. } | Value::Config { store, .. } => Some(format!("{namespace}/{store}")),
            Value::Plain(_) | Value::Environment(_) => None,
        });
        let named: BTreeSet<String> = named.collect();
        let until = Instant::now() + STORES;
        while !self.is_draining() {
            let health = self.parts.runtime.health();
            // One that is not there at all is not waited for: the start says so.
            let mut down = named.iter().filter_map(|store| Some((store, health.get(store)?)));
            let Some((store, health)) = down.find(|(_, health)| !health.ready) else { return true };
            if Instant::now() >= until {
                return true;
            }
            self.report(Phase::Waiting, &format!("waiting for component {store}: {}", health.reason));
            tokio::select! {
                // Both only wait.
                () = tokio::time::sleep(STORE_LOOK) => {}
                () = wait_for_drain(&mut self.order, &self.tasks) => return false,
            }
        }
        false
    }

    /// Ends when the workload should end.
    pub async fn until_drained(&mut self) {
        wait_for_drain(&mut self.order, &self.tasks).await;
    }

    /// Whether it should end.
    pub fn is_draining(&self) -> bool {
        *self.order.borrow() == Order::Drain || self.tasks.is_closing()
    }

    /// Lets calls in.
    pub fn open(&self, way: Way) {
        self.local.set(way);
        // What runs once is there for others when it has ended well, not before.
        self.report(if self.workload.once { Phase::Running } else { Phase::Ready }, "");
        // What speaks neither HTTP nor gRPC on its first service cannot be asked for subscriptions or be sent any.
        let first = self.workload.services.first().map(|service| service.protocol);
        if matches!(first, Some(Protocol::Http | Protocol::Http2 | Protocol::Grpc)) {
            self.parts.runtime.app_ready(&self.workload.app, true);
        }
    }

    /// Lets no more calls in.
    pub fn close(&self, why: &str) {
        self.local.set(Way::Closed(why.into()));
    }

    /// Closes the way in and waits for the calls in flight, within bounds.
    pub async fn drain(&self) {
        self.close("is shutting down");
        self.report(Phase::Draining, "finishing its calls");
        if tokio::time::timeout(DRAIN, self.local.drained()).await.is_err() {
            tracing::warn!(instance = %self.workload.instance, in_flight = self.local.in_flight(), "calls are cut");
        }
    }

    fn phase(&self) -> Option<Phase> {
        self.parts.status.borrow().instances.get(&self.workload.instance).map(|status| status.phase)
    }

    /// Reports where it stands.
    pub fn report(&self, phase: Phase, reason: &str) {
        self.update(|status| {
            status.phase = phase;
            status.reason = reason.to_owned();
        });
    }

    /// Changes what is reported.
    pub fn update(&self, change: impl FnOnce(&mut InstanceStatus)) {
        self.parts.status.send_if_modified(|status| {
            let entry = status.instances.entry(self.workload.instance.clone()).or_insert_with(blank);
            let before = entry.clone();
            change(entry);
            entry.in_flight = self.local.in_flight();
            *entry != before
        });
    }
}

fn blank() -> InstanceStatus {
    InstanceStatus {
        phase: Phase::Waiting,
        reason: String::new(),
        restarts: 0,
        pid: None,
        ports: std::collections::BTreeMap::new(),
        in_flight: 0,
    }
}

async fn wait_for_drain(order: &mut watch::Receiver<Order>, tasks: &Tasks) {
    tokio::select! {
        // Both only wait.
        _drained_or_forgotten = order.wait_for(|order| *order == Order::Drain) => {}
        () = tasks.closing() => {}
    }
}
