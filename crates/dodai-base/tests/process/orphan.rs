//! A base that dies leaves nothing behind.

use std::fs::remove_dir;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::unistd::{Uid, chown, geteuid};
use tokio::process::Command;

use super::cgroup::directories;
use super::{DEADLINE, eventually, example, proc, skip};

const ROUNDS: usize = 10;
const INSTANCES: usize = 2;
/// The promise.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// Everything ignores SIGTERM; two daemons have forked twice and left session and group.
const TREE: &str = r#"
trap '' TERM HUP
(setsid sh -c 'trap "" TERM HUP INT; (setsid sh -c "trap \"\" TERM; echo up > $APP_DIR/$INSTANCE.up; while :; do sleep 1; done" &); while :; do sleep 1; done' &)
sleep 1000 &
while :; do sleep 1; done
"#;

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// Whatever this user may.
    Full,
    /// No namespace, no control group.
    Plain,
    /// As an ordinary user.
    Unprivileged,
}

async fn a_killed_base_leaves_nothing(mode: Mode) {
    for round in 0..ROUNDS {
        let folder = tempfile::tempdir().unwrap();
        let mark = format!("orphan-{mode:?}-{round}-{}", std::process::id());
        let mut base = start_base(mode, folder.path(), &mark);
        let up = |number| folder.path().join(format!("{mark}-{number}.up"));
        eventually("every daemon is up", DEADLINE, || (0..INSTANCES).all(|number| up(number).exists())).await;
        let before = proc::marked(&mark).len();
        assert!(before >= 4 * INSTANCES, "only {before} processes");
        base.start_kill().unwrap();
        base.wait().await.unwrap();
        let what = format!("{mode:?}, round {round}: no descendant is alive");
        // The base itself has the mark as well, but is gone by now.
        eventually(&what, GONE_WITHIN, || proc::marked(&mark).is_empty()).await;
        // The shims remove the groups of their apps; the base's own folder waits for a base of the same id.
        for folder in directories(&mark) {
            eventually(&format!("{} is empty", folder.display()), DEADLINE, || remove_dir(&folder).is_ok())
                .await;
        }
    }
}

fn start_base(mode: Mode, folder: &Path, mark: &str) -> tokio::process::Child {
    let [supervise, shim] = ["supervise", "shim"].map(|name| match mode {
        Mode::Full | Mode::Plain => example(name),
        // The folder of the build may be closed to other users.
        Mode::Unprivileged => {
            let copy = folder.join(name);
            std::fs::copy(example(name), &copy).unwrap();
            copy
        }
    });
    let mut command = Command::new(supervise);
    command.arg(shim).arg(folder).arg(mark).arg(TREE).arg(INSTANCES.to_string());
    command.env_clear().env("APP_MARK", mark).env("APP_DIR", folder);
    command.stdin(Stdio::piped());
    match mode {
        Mode::Full => {}
        Mode::Plain => drop(command.arg("plain")),
        Mode::Unprivileged => {
            let nobody = 65534;
            chown(folder, Some(Uid::from_raw(nobody)), None).unwrap();
            command.uid(nobody).gid(nobody);
        }
    }
    command.spawn().unwrap()
}

#[tokio::test]
async fn a_killed_base_leaves_nothing_with_all_that_is_permitted() {
    a_killed_base_leaves_nothing(Mode::Full).await;
}

#[tokio::test]
async fn a_killed_base_leaves_nothing_without_namespaces_and_control_groups() {
    a_killed_base_leaves_nothing(Mode::Plain).await;
}

#[tokio::test]
async fn a_killed_base_leaves_nothing_without_root() {
    if !geteuid().is_root() {
        return skip("a base of another user", "the tests run without root, so the other cases show it");
    }
    a_killed_base_leaves_nothing(Mode::Unprivileged).await;
}

#[tokio::test]
async fn a_base_that_ends_in_order_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mark = format!("orderly-{}", std::process::id());
    let script = "trap 'exit 0' TERM; echo up > $APP_DIR/$INSTANCE.up; while :; do sleep 0.05; done";
    let mut command = Command::new(example("supervise"));
    command.arg(example("shim")).arg(folder.path()).arg(&mark).arg(script).arg("2");
    command.env_clear().env("APP_MARK", &mark).env("APP_DIR", folder.path()).stdin(Stdio::piped());
    let mut base = command.spawn().unwrap();
    let up = |number| folder.path().join(format!("{mark}-{number}.up"));
    eventually("both are up", DEADLINE, || up(0).exists() && up(1).exists()).await;
    drop(base.stdin.take());
    assert!(base.wait().await.unwrap().success());
    assert!(proc::marked(&mark).is_empty());
}
