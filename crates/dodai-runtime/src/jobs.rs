//! Jobs: apps say when they want to be told, and are told then.
//!
//! A task for each app looks into the store for what is due while the app is ready, brings it (`POST /job/NAME`, or
//! `OnJobEvent` of an app that speaks gRPC), and keeps how that ended. Always holds: of one job one run is under way, and
//! what is due stays so until the store has taken its outcome; so a run may come twice and none is lost.

mod body;
mod runner;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dodai_capability::Fault;
use dodai_capability::clock::Clock;
use dodai_capability::jobs::{Error, Record, Store, Which};
use dodai_core::id::AppId;
use dodai_core::snapshot::Snapshot;
use dodai_core::task::{Kind, Tasks};
use tokio::sync::Notify;

pub(crate) use body::{as_any, as_json};
use runner::Runner;

use crate::callback::Callbacks;
use crate::settings::Settings;
use crate::watched::{Begun, Watched};

/// A job as it stands, for those who manage the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStatus {
    /// Whose it is.
    pub app: AppId,
    /// Its name.
    pub name: String,
    /// When it runs again and again.
    pub schedule: Option<String>,
    /// When it runs first, as the app wrote it.
    pub due_time: Option<String>,
    /// When it is due.
    pub next: SystemTime,
    /// Ticks that are over.
    pub ticks: u32,
    /// How many ticks it has in all; `None` without a bound.
    pub repeats: Option<u32>,
    /// Failed runs of the tick that is due.
    pub failures: u32,
    /// When the last run ended.
    pub last: Option<SystemTime>,
    /// Why the app did not take that run; `None` if it did, or if there was none.
    pub problem: Option<String>,
}

/// The jobs of one base. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Jobs(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    callbacks: Callbacks,
    settings: Settings,
    tasks: Tasks,
    /// Each with what wakes its runner: its jobs have changed.
    apps: Watched<Arc<Notify>>,
}

impl Jobs {
    pub fn new(callbacks: Callbacks, settings: &Settings, tasks: Tasks) -> Jobs {
        let (store, clock) = (settings.jobs(), settings.clock.clone());
        let settings = settings.clone();
        Jobs(Arc::new(Inner { store, clock, callbacks, settings, tasks, apps: Watched::default() }))
    }

    /// Forgets apps that left the snapshot or have no runtime API; their jobs stay in the store.
    pub fn apply(&self, snapshot: &Snapshot) {
        self.0.apps.apply(snapshot, |Begun { app, speaks_grpc, ready, stop }| {
            let (changed, key) = (Arc::new(Notify::new()), app.to_string());
            let runner = Runner { jobs: self.clone(), app, key, speaks_grpc, changed: changed.clone(), stop };
            self.0.tasks.spawn(Kind::Delivery, runner.run(ready));
            changed
        });
    }

    /// Tells whether an app has a ready instance here.
    pub fn app_ready(&self, app: &AppId, ready: bool) {
        self.0.apps.app_ready(app, ready);
    }

    fn wake(&self, app: &AppId) {
        self.0.apps.look(app, |changed| changed.notify_one());
    }

    /// The time by which jobs go, in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        self.0.clock.now_ms()
    }

    /// Whether an app is brought its jobs over gRPC.
    pub fn speaks_grpc(&self, app: &AppId) -> bool {
        self.0.apps.speaks_grpc(app)
    }

    /// Keeps a job.
    pub async fn put(&self, app: &AppId, record: Record, overwrite: bool) -> Result<(), Error> {
        self.0.store.put(&app.to_string(), record, overwrite, self.0.settings.max_jobs).await?;
        self.wake(app);
        Ok(())
    }

    /// One job.
    pub async fn get(&self, app: &AppId, name: &str) -> Result<Option<Record>, Fault> {
        self.0.store.get(&app.to_string(), name).await
    }

    /// All jobs of an app with their data.
    pub async fn list(&self, app: &AppId) -> Result<Vec<Record>, Error> {
        self.0.store.list(&app.to_string(), Some(self.0.settings.max_body)).await
    }

    /// Forgets jobs. A run that is under way goes on.
    pub async fn delete(&self, app: &AppId, which: Which) -> Result<(), Fault> {
        self.0.store.delete(&app.to_string(), which).await?;
        self.wake(app);
        Ok(())
    }

    /// How the jobs of all apps stand, or those of one, by app and name; also of apps that have left the snapshot.
    pub async fn status(&self, only: Option<&AppId>) -> Result<Vec<JobStatus>, Error> {
        let apps = match only {
            Some(only) => vec![only.clone()],
            None => self.0.store.apps().await?.iter().filter_map(|app| AppId::parse(app).ok()).collect(),
        };
        let mut all = Vec::new();
        for app in apps {
            let records = self.0.store.list(&app.to_string(), None).await?;
            all.extend(records.into_iter().map(|record| standing(&app, record)));
        }
        Ok(all)
    }

    /// Begins no more runs; those under way come to their end, up to `deadline`.
    pub async fn close(&self, deadline: Duration) {
        let cut = self.0.tasks.drain(deadline).await;
        if !cut.is_empty() {
            tracing::warn!(?cut, "runs of jobs were cut; they come again");
        }
    }
}

fn standing(app: &AppId, record: Record) -> JobStatus {
    let Record { job, progress, .. } = record;
    let (last, problem) = progress.last.map(|last| (time(last.at_ms), last.problem)).unzip();
    JobStatus {
        app: app.clone(),
        name: job.name,
        schedule: job.schedule,
        due_time: job.due_time,
        next: time(progress.due_ms),
        ticks: progress.ticks,
        repeats: job.repeats,
        failures: progress.failures,
        last,
        problem: problem.flatten(),
    }
}

fn time(ms: i64) -> SystemTime {
    let since = Duration::from_millis(ms.unsigned_abs());
    let at = if ms < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(since)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(since)
    };
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}
