//! Limits that control groups hold. Where they cannot be written, the tests say so and check the fallback.

use std::path::PathBuf;
use std::process::Command;

use dodai_base::process::{Config, Exit, Limits, Phase, Supervisor};

use super::{Base, DEADLINE, ended, eventually, example, skip, texts, until};

/// Whether limits hold here.
fn limited(base: &Base) -> bool {
    let conditions = base.supervisor.conditions();
    if !conditions.is_empty() {
        skip("limits by control groups", &conditions.join("; "));
    }
    conditions.is_empty()
}

#[tokio::test]
async fn an_app_over_its_memory_limit_is_killed_and_told_so() {
    let base = Base::new("memory").await;
    if !limited(&base) {
        return;
    }
    for isolate in [true, false] {
        let mut spec = base.script("exec tail /dev/zero");
        spec.limits.memory = Some(16 << 20);
        spec.isolate = isolate;
        let status = ended(&base.start(spec)).await;
        assert_eq!(status.last_exit, Some(Exit::OutOfMemory), "{status:?}");
        assert!(status.conditions.is_empty(), "{status:?}");
    }
}

#[tokio::test]
async fn an_app_cannot_have_more_processes_than_its_limit() {
    let base = Base::new("pids").await;
    if !limited(&base) {
        return;
    }
    let mut spec = base.script("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo all");
    spec.limits.pids = Some(4);
    let handle = base.start(spec);
    ended(&handle).await;
    let lines = texts(&handle);
    assert!(
        !lines.contains(&"all".to_owned()) && lines.iter().any(|line| line.contains("fork")),
        "{lines:?}"
    );
    assert_eq!(base.alive(), 0);
}

#[tokio::test]
async fn groups_are_gone_with_their_instance_and_with_their_base() {
    let base = Base::new("groups").await;
    if !limited(&base) {
        return;
    }
    let mut spec = base.script("cat /proc/self/cgroup; sleep 1000");
    spec.limits.cpu_millicores = Some(500);
    let handle = base.start(spec);
    let mine = format!("/dodai/test-{}/app-{}", base.mark, base.mark);
    eventually("the app told its groups", DEADLINE, || {
        texts(&handle).iter().any(|line| line.ends_with(&mine))
    })
    .await;
    let found = directories(&format!("test-{}", base.mark));
    assert!(!found.is_empty());
    handle.kill().await;
    for folder in &found {
        assert_eq!(std::fs::read_dir(folder).unwrap().flatten().filter(|e| e.path().is_dir()).count(), 0);
    }
    drop((handle, base));
    eventually("the base's folders are gone", DEADLINE, || found.iter().all(|folder| !folder.exists())).await;
}

#[tokio::test]
async fn a_new_base_ends_what_a_dead_one_left_in_its_groups() {
    let base = Base::new("swept").await;
    if !limited(&base) {
        return;
    }
    let left = directories(&format!("test-{}", base.mark))[0].join("left");
    std::fs::create_dir(&left).unwrap();
    let mut sleeper = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    std::fs::write(left.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
    let reaped = tokio::task::spawn_blocking(move || sleeper.wait().unwrap());
    let config = Config::new(vec![example("shim").into()], format!("test-{}", base.mark));
    let again = Supervisor::open(config).await.unwrap();
    assert!(again.conditions().is_empty());
    assert!(!left.exists());
    assert!(!reaped.await.unwrap().success());
}

#[tokio::test]
async fn without_control_groups_the_status_says_what_does_not_hold() {
    let base = Base::with("none", |config| config.cgroups = false).await;
    assert!(base.supervisor.conditions()[0].contains("switched off"));
    let mut spec = base.script("sleep 1000");
    spec.limits = Limits { memory: Some(64 << 20), cpu_millicores: Some(100), ..Limits::default() };
    let handle = base.start(spec);
    let status = until(&handle, "ready", |s| s.phase == Phase::Ready).await;
    assert_eq!(status.conditions, ["limits not enforced: memory, cpu"]);
    handle.kill().await;
}

/// The folders of a base in every hierarchy.
pub(super) fn directories(base: &str) -> Vec<PathBuf> {
    fn walk(folder: PathBuf, depth: usize, wanted: &str, found: &mut Vec<PathBuf>) {
        if folder.ends_with(format!("dodai/{wanted}")) {
            return found.push(folder);
        }
        let entries = if depth > 0 { std::fs::read_dir(&folder).ok() } else { None };
        for entry in
            entries.into_iter().flatten().flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        {
            walk(entry.path(), depth - 1, wanted, found);
        }
    }
    let mut found = Vec::new();
    walk("/sys/fs/cgroup".into(), 7, base, &mut found);
    found
}
