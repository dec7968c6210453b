//! What the tests share: documents from YAML, digests without files, a base that does what it is told.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dodai_api::{Document, Located, Source, read};
use dodai_control::documents::{Apply, Artifacts, FieldOwner};
use dodai_core::id::{AppId, Digest};
use dodai_core::snapshot::Snapshot;
use dodai_core::status::{InstanceStatus, Link, Phase, Status, Wants};
use dodai_transport::tls::Clock;

/// Reads documents; what is wrong with them fails the test.
pub fn yaml(text: &str) -> Vec<Located<Document>> {
    let read = read(&Source { name: "test.yaml", bytes: text.as_bytes() });
    assert!(read.is_clean(), "{:?}", read.errors);
    read.documents
}

/// An app that is a module.
pub fn module(name: &str, artifact: &str, more: &str) -> String {
    format!(
        "apiVersion: dodai.dev/v1\nkind: App\nmetadata:\n  name: {name}\nspec:\n  module:\n    artifact: {artifact}\n  services:\n    - name: http\n{more}---\n"
    )
}

pub fn apply<'a>(documents: &'a [Located<Document>], owner: FieldOwner, prune: Option<&'a str>) -> Apply<'a> {
    Apply { documents, actor: "test", owner, prune, dry_run: false }
}

/// The digest of a path is made of the path; `missing.wasm` is not there.
pub struct ByPath;

/// The digest of an artefact that nobody has.
pub const ABSENT: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

pub fn digest(path: &str) -> Digest {
    if path.starts_with("sha256:") {
        return Digest::new(path);
    }
    let hex: String = path.bytes().cycle().take(32).map(|byte| format!("{byte:02x}")).collect();
    Digest::new(format!("sha256:{hex}"))
}

impl Artifacts for ByPath {
    fn module(&self, _app: &AppId, artifact: &str) -> Result<Digest, String> {
        if artifact == "missing.wasm" {
            return Err("no such file; build it first".to_owned());
        }
        if artifact == ABSENT {
            return Err(format!("the artefact {artifact} is not stored here"));
        }
        Ok(digest(artifact))
    }
}

/// A wall clock that goes with the paused clock.
pub fn clock() -> Clock {
    let (epoch, start) = (UNIX_EPOCH + Duration::from_secs(1_800_000_000), tokio::time::Instant::now());
    Clock::from_fn(move || -> SystemTime { epoch + start.elapsed() })
}

pub fn settings() -> dodai_control::control::Settings {
    dodai_control::control::Settings { artifacts: Arc::new(ByPath), clock: clock(), ..Default::default() }
}

pub fn instance(phase: Phase) -> InstanceStatus {
    InstanceStatus {
        phase,
        reason: String::new(),
        restarts: 0,
        pid: None,
        ports: Default::default(),
        in_flight: 0,
    }
}

/// Plays a base: what it is told to run is ready at once, unless `broken` is in its revision's artefact; what
/// it is told to drain is gone.
pub async fn play(mut link: Link, broken: Option<Digest>) {
    link.status.send_modify(|status| status.wants = Wants::All);
    loop {
        let snapshot = link.snapshots.borrow_and_update().clone();
        link.status.send_replace(report(&snapshot, broken.as_ref()));
        if link.snapshots.changed().await.is_err() {
            return;
        }
    }
}

fn report(snapshot: &Snapshot, broken: Option<&Digest>) -> Status {
    let mut status = Status { applied: snapshot.version, wants: Wants::All, ..Status::default() };
    for workload in snapshot.workloads() {
        let artifact = match &workload.shape {
            dodai_core::snapshot::Shape::Module(module) => Some(&module.artifact),
            dodai_core::snapshot::Shape::Process(_) => None,
        };
        let phase = match (workload.draining, workload.once) {
            (true, _) => Phase::Gone,
            (false, _) if artifact.is_some() && artifact == broken => Phase::BackingOff,
            (false, true) => Phase::Succeeded,
            (false, false) => Phase::Ready,
        };
        let mut one = instance(phase);
        if phase == Phase::BackingOff {
            one.reason = "it traps at start".to_owned();
        }
        status.instances.insert(workload.instance.clone(), one);
    }
    for listener in snapshot.listeners() {
        status.listeners.insert(listener.name.clone(), listener.address);
    }
    status
}
