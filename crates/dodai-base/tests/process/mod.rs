//! The process supervisor with real processes. The shim and a small base are the examples of this crate.
#![expect(
    clippy::unwrap_used,
    reason = "the lint's exception for tests does not reach their shared functions"
)]

mod cgroup;
mod life;
mod orphan;
mod probe;
mod proc;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use dodai_base::process::{Config, Handle, LogPolicy, Restart, Spec, Status, Supervisor};
use dodai_core::task::Tasks;
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// The path of a built example.
pub fn example(name: &str) -> PathBuf {
    let me = std::env::current_exe().unwrap();
    let path = me.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not built: run `cargo build -p dodai-base --examples`", path.display());
    path
}

/// A supervisor with its own folder and base id.
struct Base {
    supervisor: Supervisor,
    tasks: Tasks,
    folder: TempDir,
    mark: String,
}

impl Base {
    async fn new(name: &str) -> Base {
        Base::with(name, |_| {}).await
    }

    async fn with(name: &str, change: impl FnOnce(&mut Config)) -> Base {
        let mark = format!("{name}-{}", std::process::id());
        let mut config = Config::new(vec![example("shim").into()], format!("test-{mark}"));
        config.lease_grace = Duration::from_millis(200);
        config.leftover_grace = Duration::from_millis(500);
        change(&mut config);
        Base {
            supervisor: Supervisor::open(config).await.unwrap(),
            tasks: Tasks::new(),
            folder: tempfile::tempdir().unwrap(),
            mark,
        }
    }

    /// A shell script, run once.
    fn script(&self, script: &str) -> Spec {
        let argv = ["/bin/sh", "-c", script].map(String::from).to_vec();
        let logs = LogPolicy::under(self.folder.path().join("logs"));
        let mut spec = Spec::new("app", format!("app-{}", self.mark), argv, logs);
        spec.env.insert("APP_MARK".into(), self.mark.as_str().into());
        spec.env.insert("DIR".into(), self.folder.path().to_str().unwrap().into());
        spec.restart = Restart::never();
        spec
    }

    fn start(&self, spec: Spec) -> Handle {
        self.supervisor.start(spec, &self.tasks).unwrap()
    }

    /// How many processes of this test live.
    fn alive(&self) -> usize {
        proc::marked(&self.mark).len()
    }
}

/// Waits until the status is as wanted.
async fn until(handle: &Handle, what: &str, wanted: impl FnMut(&Status) -> bool) -> Status {
    let mut status = handle.status();
    let seen = tokio::time::timeout(DEADLINE, status.wait_for(wanted)).await;
    match seen {
        Ok(Ok(seen)) => seen.clone(),
        Ok(Err(_)) => panic!("ended before {what}: {:?}", handle.status().borrow()),
        Err(_) => panic!("not {what} in time: {:?}, log {:?}", handle.status().borrow(), texts(handle)),
    }
}

async fn ended(handle: &Handle) -> Status {
    until(handle, "ended", |status| status.phase.is_final()).await
}

/// Waits until a condition holds that nobody announces.
async fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + limit;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn texts(handle: &Handle) -> Vec<String> {
    handle.logs().tail(100).iter().map(|line| line.text.clone()).collect()
}

/// Says aloud that a test could not check what it is there for.
fn skip(what: &str, why: &str) {
    // Not `eprintln`, which the test harness keeps to itself when the test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {why}");
}
