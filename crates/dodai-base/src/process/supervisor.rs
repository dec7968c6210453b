//! The doors: [`Supervisor`] for the base, [`Handle`] for whoever owns an instance.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dodai_core::task::{Kind, Tasks};
use nix::unistd::geteuid;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::cgroup::Groups;
use super::instance::{Instance, Intent, Measured};
use super::logs::{Capture, OpenFiles};
use super::spec::{MAX_DURATION, is_name};
use super::{Error, LogPolicy, Logs, Spec, Status, Usage, identity, usage};

/// Beyond its deadline, how long [`Handle::stop`] waits for processes that not even SIGKILL ends.
const STUCK_WAIT: Duration = Duration::from_secs(10);

/// What the supervisor needs to know of its base.
#[derive(Clone, Debug)]
pub struct Config {
    /// The program that calls [`crate::shim::run`], and its first arguments. For the real binary:
    /// `/proc/self/exe` (the same version even after the file was replaced) and `shim`.
    pub shim: Vec<OsString>,
    /// The id of the base; a name like that of an instance.
    pub base: String,
    /// Use control groups where they can be written.
    pub cgroups: bool,
    /// When the base dies: from SIGTERM to SIGKILL for everything it ran.
    pub lease_grace: Duration,
    /// When a main process ends by itself: from SIGTERM to SIGKILL for what it left behind.
    pub leftover_grace: Duration,
}

impl Config {
    /// The defaults: control groups on, 1 s of grace when the base dies, 5 s for leftovers.
    pub fn new(shim: Vec<OsString>, base: impl Into<String>) -> Config {
        Config {
            shim,
            base: base.into(),
            cgroups: true,
            lease_grace: Duration::from_secs(1),
            leftover_grace: Duration::from_secs(5),
        }
    }

    /// The same for a base that keeps its data in `folder`. That tells bases of one id on one host apart, so
    /// that neither takes what the other runs for leftovers.
    pub fn keeping(mut self, folder: &Path) -> Config {
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        // FNV-1a: the same in every version of the program, and short.
        let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        let hash = folder.as_os_str().as_encoded_bytes().iter().fold(0x811c_9dc5, mix);
        self.base = format!("{}-{hash:08x}", self.base);
        self
    }
}

pub(super) struct Surroundings {
    pub config: Config,
    pub groups: Groups,
    open_files: OpenFiles,
    live: Mutex<BTreeSet<String>>,
    conditions: Vec<String>,
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        self.groups.remove_roots();
    }
}

/// Supervises the processes of one base. Cheap to clone.
#[derive(Clone)]
pub struct Supervisor(Arc<Surroundings>);

impl Supervisor {
    /// Looks at what the host allows, and ends what an earlier base of the same id left in its control
    /// groups.
    pub async fn open(mut config: Config) -> Result<Supervisor, Error> {
        config.lease_grace = config.lease_grace.min(MAX_DURATION);
        config.leftover_grace = config.leftover_grace.min(MAX_DURATION);
        if config.shim.is_empty() {
            return Err(Error::NoShim);
        }
        if !is_name(&config.base) {
            let problem = format!("{:?} is not a name; use letters, digits, '.', '_' or '-'", config.base);
            return Err(Error::Spec { instance: "of this base".into(), field: "base", problem });
        }
        let (groups, conditions) = if config.cgroups {
            Groups::open(&config.base).await
        } else {
            (Groups::none(), vec!["limits not enforced: control groups are switched off".to_owned()])
        };
        for condition in &conditions {
            tracing::warn!("{condition}");
        }
        Ok(Supervisor(Arc::new(Surroundings {
            config,
            groups,
            open_files: OpenFiles::default(),
            live: Mutex::default(),
            conditions,
        })))
    }

    /// What does not hold on this host, for the status of the base.
    pub fn conditions(&self) -> &[String] {
        &self.0.conditions
    }

    /// Opens the log of an instance that is no process, under the same cap as those of processes. The
    /// receiver ends when the last line is on disk.
    pub(crate) fn capture(
        &self,
        policy: &LogPolicy,
        app: &str,
        instance: &str,
        tasks: &Tasks,
    ) -> Result<(Capture, oneshot::Receiver<()>), Error> {
        Capture::open(policy, app, instance, self.0.open_files.clone(), tasks)
    }

    /// Starts an instance and keeps it running until [`Handle::stop`] or the end of `tasks`. Errors are
    /// those of the spec and of the log folder; a program that does not start shows in the status.
    pub fn start(&self, spec: Spec, tasks: &Tasks) -> Result<Handle, Error> {
        spec.check()?;
        let identity = identity::resolve(&spec)?;
        let live = Live::enter(&self.0, &spec.instance)?;
        let open_files = self.0.open_files.clone();
        let (capture, written) = Capture::open(&spec.logs, &spec.app, &spec.instance, open_files, tasks)?;
        let (status, seen) = watch::channel(Status::new());
        let (intent, orders) = watch::channel(Intent::Run);
        let intent = Arc::new(intent);
        let measured = Measured::default();
        let handle = Handle {
            seen,
            intent: intent.clone(),
            logs: capture.logs().clone(),
            measured: measured.clone(),
            grace: spec.stop.grace,
            user: identity.as_ref().map(|identity| identity.uid).filter(|uid| *uid != geteuid().as_raw()),
        };
        let instance = Instance {
            spec,
            identity,
            base: self.0.clone(),
            tasks: tasks.clone(),
            capture,
            written,
            status,
            orders,
            _intent: intent,
            measured,
        };
        tasks.spawn(Kind::Process, async move {
            // The id is free again only when nothing of the instance is left.
            let _live = live;
            instance.run().await;
        });
        Ok(handle)
    }
}

/// Holds the id of a live instance.
struct Live {
    base: Arc<Surroundings>,
    instance: String,
}

impl Live {
    fn enter(base: &Arc<Surroundings>, instance: &str) -> Result<Live, Error> {
        if !base.live.lock().unwrap_or_else(PoisonError::into_inner).insert(instance.to_owned()) {
            let problem =
                "is the id of a process that still runs; stop that one first or use another id".to_owned();
            return Err(Error::Spec { instance: instance.to_owned(), field: "instance", problem });
        }
        Ok(Live { base: base.clone(), instance: instance.to_owned() })
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.base.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.instance);
    }
}

/// A supervised instance. Dropping it does not stop the instance. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    seen: watch::Receiver<Status>,
    intent: Arc<watch::Sender<Intent>>,
    logs: Logs,
    measured: Measured,
    grace: Duration,
    user: Option<u32>,
}

impl Handle {
    /// The user it runs as, where that is not the base's own.
    pub fn user(&self) -> Option<u32> {
        self.user
    }

    /// The status, now and as it changes. The sender ends with the instance.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.seen.clone()
    }

    /// Its output.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// What it uses now; nothing when it does not run.
    pub fn usage(&self) -> Option<Usage> {
        let running = self.measured.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(running.group.usage().unwrap_or_else(|| usage::below(running.keeper)))
    }

    /// Asks it to end, kills its whole tree after its grace or `deadline`, whichever is earlier, and waits
    /// until nothing of it is left. The phase of the answer is not final only if processes survived SIGKILL
    /// for 10 seconds; the reason names them. Cancel safe: the order stands.
    pub async fn stop(&self, deadline: Duration) -> Status {
        let grace = self.grace.min(deadline);
        self.order(Intent::Stop { grace });
        self.ended(grace).await
    }

    /// Kills its whole tree at once and waits until nothing of it is left.
    pub async fn kill(&self) -> Status {
        self.order(Intent::Kill);
        self.ended(Duration::ZERO).await
    }

    fn order(&self, order: Intent) {
        self.intent.send_if_modified(|intent| {
            let further = order.exceeds(*intent);
            if further {
                *intent = order;
            }
            further
        });
    }

    async fn ended(&self, grace: Duration) -> Status {
        let mut seen = self.seen.clone();
        // Both an elapsed time and a lost sender leave the last status, which tells.
        let _ = timeout(grace + STUCK_WAIT, seen.wait_for(|status| status.phase.is_final())).await;
        let status = seen.borrow();
        status.clone()
    }
}
