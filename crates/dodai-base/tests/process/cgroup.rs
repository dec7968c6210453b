//! Limits that control groups hold. Where they cannot be written, the tests say so and check the fallback.

use std::path::PathBuf;
use std::process::Command;

use dodai_base::process::{Config, Exit, Limits, Phase, Supervisor};

use super::proc::{marked, status_field};
use super::{Base, DEADLINE, ended, eventually, example, skip, texts, until};

/// Whether a controller is there. What another one lacks is no reason to skip.
fn has(base: &Base, controller: &str) -> bool {
    let lacking = base.supervisor.conditions().iter().find(|condition| lacks(condition, controller));
    if let Some(condition) = lacking {
        skip(&format!("the {controller} controller of control groups"), condition);
    }
    lacking.is_none()
}

/// Whether a condition, such as `limits not enforced: memory, pids (why); remedy`, names a controller.
fn lacks(condition: &str, controller: &str) -> bool {
    let list = condition.strip_prefix("limits not enforced: ").unwrap_or_default();
    let list = list.split_once(" (").map_or(list, |(list, _)| list);
    list.split(", ").any(|one| one == controller)
}

/// The base's folders in every hierarchy that it can write; empty where there is none.
fn folders(base: &Base) -> Vec<PathBuf> {
    let found = directories(&format!("test-{}", base.mark));
    if found.is_empty() {
        skip("control groups", &base.supervisor.conditions().join("; "));
    }
    found
}

#[test]
fn one_controller_that_is_missing_skips_no_test_of_another() {
    let condition = "limits not enforced: cpu, pids (no control group has them); run the base as root";
    assert!(lacks(condition, "cpu") && lacks(condition, "pids") && !lacks(condition, "memory"));
    assert!(!lacks("something else: memory", "memory"));
}

#[tokio::test]
async fn an_app_over_its_memory_limit_is_killed_and_told_so() {
    let base = Base::new("memory").await;
    if !has(&base, "memory") {
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

/// `dodai ps` shows what the control group is charged with. Pages of files that another group has read first,
/// such as the program's own, are not in it; what the app takes for itself is.
#[tokio::test]
async fn what_an_app_takes_for_itself_is_in_the_memory_that_is_shown() {
    let base = Base::new("usage").await;
    if !has(&base, "memory") {
        return;
    }
    let handle = base.start(base.script("x=$(head -c 33554432 /dev/zero | tr '\\0' x); sleep 1000; echo $x"));
    let anonymous = |pid: &i32| -> u64 {
        let told = status_field(*pid, "RssAnon").unwrap_or_default();
        told.trim_end_matches(" kB").parse().map_or(0, |kib: u64| kib * 1024)
    };
    eventually("the app has taken 32 MiB", DEADLINE, || {
        let anonymous: u64 = marked(&base.mark).iter().map(anonymous).sum();
        let shown = handle.usage().map_or(0, |usage| usage.memory_bytes);
        anonymous >= 32 << 20 && shown >= anonymous
    })
    .await;
    handle.kill().await;
}

#[tokio::test]
async fn an_app_cannot_have_more_processes_than_its_limit() {
    let base = Base::new("pids").await;
    if !has(&base, "pids") {
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
    let found = folders(&base);
    if found.is_empty() {
        return;
    }
    let handle = base.start(base.script("cat /proc/self/cgroup; sleep 1000"));
    let mine = format!("/dodai/test-{}/app-{}", base.mark, base.mark);
    eventually("the app told its groups", DEADLINE, || {
        texts(&handle).iter().any(|line| line.ends_with(&mine))
    })
    .await;
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
    let found = folders(&base);
    let Some(folder) = found.first() else { return };
    let left = folder.join("left");
    std::fs::create_dir(&left).unwrap();
    let mut sleeper = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    std::fs::write(left.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
    let reaped = tokio::task::spawn_blocking(move || sleeper.wait().unwrap());
    let config = Config::new(vec![example("shim").into()], format!("test-{}", base.mark));
    let again = Supervisor::open(config).await.unwrap();
    assert_eq!(again.conditions(), base.supervisor.conditions());
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
