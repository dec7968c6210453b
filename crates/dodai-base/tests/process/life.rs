//! Starting, logging, restarting and stopping.

use std::time::Duration;

use dodai_base::process::{
    EnvValue, Exit, Followed, Handle, Phase, Restart, RestartPolicy, Secret, Signal, Stream,
};
use nix::sys::signal::{Signal as NixSignal, kill};
use nix::unistd::{Pid, geteuid};

use super::{Base, DEADLINE, ended, eventually, example, proc, skip, texts, until};

#[tokio::test]
async fn starts_logs_and_stops() {
    let base = Base::new("starts").await;
    let spec =
        base.script("trap 'echo bye; exit 7' TERM; echo out; echo err >&2; while :; do sleep 0.05; done");
    let handle = base.start(spec);
    let mut follow = handle.logs().follow(10);
    let status = until(&handle, "ready", |s| s.phase == Phase::Ready).await;
    assert!(status.pid.is_some() && status.started_at.is_some(), "{status:?}");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let Some(Followed::Line(line)) = follow.next().await else { panic!("the log ended") };
        seen.push((line.stream, line.text.clone()));
    }
    assert!(
        seen.contains(&(Stream::Stdout, "out".into())) && seen.contains(&(Stream::Stderr, "err".into())),
        "{seen:?}"
    );
    let status = handle.stop(DEADLINE).await;
    assert_eq!(status.phase, Phase::Exited { code: Some(7) });
    assert_eq!((status.last_exit, status.pid), (Some(Exit::Code(7)), None));
    assert_eq!(texts(&handle).last().map(String::as_str), Some("bye"));
    let file = std::fs::read_to_string(handle.logs().path()).unwrap();
    assert!(file.ends_with(" stdout bye\n"), "{file}");
    assert_eq!(base.alive(), 0);
    assert_eq!(handle.usage(), None);
}

#[tokio::test]
async fn the_whole_tree_is_killed_after_the_grace() {
    for isolate in [true, false] {
        let base = Base::new(&format!("grace-{isolate}")).await;
        let daemon = r#"setsid sh -c 'trap "" TERM HUP; echo up > "$DIR/up"; while :; do sleep 1; done' &"#;
        let mut spec =
            base.script(&format!("trap '' TERM; ({daemon}); sleep 1000 & while :; do sleep 1; done"));
        spec.isolate = isolate;
        spec.stop.grace = Duration::from_millis(300);
        let handle = base.start(spec);
        let up = base.folder.path().join("up");
        eventually("the daemon is up", DEADLINE, || up.exists()).await;
        assert!(base.alive() >= 3);
        let status = handle.stop(DEADLINE).await;
        assert_eq!(status.last_exit, Some(Exit::Signal(9)), "isolate {isolate}");
        assert_eq!(status.phase, Phase::Exited { code: None });
        assert_eq!(base.alive(), 0, "isolate {isolate}");
    }
}

#[tokio::test]
async fn what_a_main_process_leaves_behind_is_ended() {
    for isolate in [true, false] {
        let base = Base::new(&format!("leftover-{isolate}")).await;
        let mut spec = base.script(
            r#"(setsid sh -c 'trap "" TERM; echo up > "$DIR/up"; while :; do sleep 1; done' &); while [ ! -e "$DIR/up" ]; do sleep 0.02; done"#,
        );
        spec.isolate = isolate;
        let handle = base.start(spec);
        let status = ended(&handle).await;
        assert_eq!(status.phase, Phase::Exited { code: Some(0) }, "isolate {isolate}");
        assert_eq!(base.alive(), 0, "isolate {isolate}");
    }
}

#[tokio::test]
async fn an_order_to_stop_may_come_at_any_moment() {
    let base = Base::new("early").await;
    for wait_for_pid in [false, true, false] {
        let handle = base.start(base.script("trap '' TERM; while :; do sleep 1; done"));
        if wait_for_pid {
            until(&handle, "running", |s| s.pid.is_some()).await;
        }
        let status = handle.stop(Duration::ZERO).await;
        assert!(status.phase.is_final(), "{status:?}");
        assert_eq!(base.alive(), 0);
    }
}

#[tokio::test]
async fn a_flood_of_lines_is_written_or_counted() {
    const LINES: usize = 100_000;
    let base = Base::new("flood").await;
    let handle = base.start(base.script(&format!("seq 1 {LINES}")));
    ended(&handle).await;
    assert_eq!(texts(&handle).last(), Some(&LINES.to_string()));
    let file = std::fs::read_to_string(handle.logs().path()).unwrap();
    let (notes, lines): (Vec<&str>, Vec<&str>) = file.lines().partition(|line| line.contains(" note "));
    let dropped =
        notes.iter().map(|note| note.split(' ').nth(2).unwrap().parse::<usize>().unwrap()).sum::<usize>();
    assert_eq!(lines.len() + dropped, LINES, "{notes:?}");
}

#[tokio::test]
async fn restarts_with_backoff_and_keeps_the_log() {
    let base = Base::new("restarts").await;
    let mut spec = base.script("echo run; exit 3");
    spec.restart = Restart { initial: Duration::from_millis(20), ..Restart::default() };
    let handle = base.start(spec);
    let status =
        until(&handle, "backing off", |s| matches!(s.phase, Phase::BackingOff { attempt: 3, .. })).await;
    assert_eq!((status.last_exit, status.restarts), (Some(Exit::Code(3)), 2));
    assert_eq!(status.reason.as_deref(), Some("exit code 3"));
    let runs = texts(&handle).iter().filter(|text| *text == "run").count();
    assert_eq!(runs, 3);
    let status = handle.stop(DEADLINE).await;
    assert!(status.phase.is_final(), "{status:?}");
}

#[tokio::test]
async fn run_once_tells_success_from_failure() {
    let base = Base::new("once").await;
    let handle = base.start(base.script("exit 0"));
    assert_eq!(ended(&handle).await.phase, Phase::Exited { code: Some(0) });
    let handle = base.start(base.script("exit 4"));
    assert_eq!(ended(&handle).await.phase, Phase::Failed { reason: "exit code 4".into() });
    let handle = base.start(base.script("kill -SEGV $$"));
    assert_eq!(ended(&handle).await.phase, Phase::Failed { reason: "killed by SIGSEGV".into() });
    // A signal that has no name.
    let handle = base.start(base.script("kill -40 $$"));
    assert_eq!(ended(&handle).await.phase, Phase::Failed { reason: "killed by signal 40".into() });
}

#[tokio::test]
async fn gives_up_after_the_last_attempt() {
    let base = Base::new("attempts").await;
    let mut spec = base.script("exit 1");
    let policy = RestartPolicy::OnFailure;
    let initial = Duration::from_millis(1);
    spec.restart = Restart { policy, initial, max_attempts: Some(2), ..Restart::default() };
    let status = ended(&base.start(spec)).await;
    assert_eq!((status.phase, status.restarts), (Phase::Failed { reason: "exit code 1".into() }, 2));
}

#[tokio::test]
async fn what_does_not_start_says_why() {
    let base = Base::new("refused").await;
    let reason = async |change: &dyn Fn(&mut dodai_base::process::Spec)| {
        let mut spec = base.script("");
        change(&mut spec);
        failure(&base.start(spec)).await
    };
    let folder = base.folder.path();
    std::fs::write(folder.join("plain"), "text").unwrap();
    let plain = folder.join("plain").to_str().unwrap().to_owned();
    let got = reason(&|spec| spec.argv = vec!["no-such-program".into()]).await;
    assert!(got.contains("no-such-program: not found in PATH"), "{got}");
    let got = reason(&|spec| spec.argv = vec![plain.clone()]).await;
    assert!(got.contains("make it executable"), "{got}");
    let got = reason(&|spec| spec.cwd = Some("/no/such/folder".into())).await;
    assert!(got.contains("enter directory /no/such/folder"), "{got}");
    assert_eq!(base.alive(), 0);
}

#[tokio::test]
async fn a_shim_that_does_not_exist_is_told() {
    let base = Base::with("noshim", |config| config.shim = vec!["/no/such/shim".into()]).await;
    let reason = failure(&base.start(base.script("exit 0"))).await;
    assert!(reason.contains("start the shim /no/such/shim: No such file"), "{reason}");
}

#[tokio::test]
async fn an_id_is_taken_while_its_process_lives() {
    let base = Base::new("twice").await;
    let handle = base.start(base.script("sleep 1000"));
    let error = base.supervisor.start(base.script("exit 0"), &base.tasks).err().unwrap().to_string();
    assert!(error.contains("stop that one first"), "{error}");
    assert!(handle.kill().await.phase.is_final());
}

#[tokio::test]
async fn the_environment_is_exactly_the_given_one() {
    let base = Base::new("environment").await;
    let mut spec = base.script("env; pwd; umask; ulimit -n");
    spec.env.insert("TOKEN".into(), EnvValue::Secret(Secret::new("s3cret value")));
    spec.cwd = Some("/usr".into());
    spec.limits.open_files = Some(77);
    let handle = base.start(spec);
    ended(&handle).await;
    let lines = texts(&handle);
    assert!(lines.contains(&"TOKEN=s3cret value".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("HOME=") || line.starts_with("CARGO")), "{lines:?}");
    assert_eq!(lines[lines.len() - 3..], ["/usr", "0022", "77"]);
}

#[tokio::test]
async fn runs_as_another_user() {
    let base = Base::new("user").await;
    let mut spec = base.script("id -u; id -g; id -G");
    spec.user = Some("65532".into());
    if !geteuid().is_root() {
        let error = base.supervisor.start(spec, &base.tasks).err().unwrap().to_string();
        assert!(error.contains("run the base as root"), "{error}");
        return skip("running as another user", "needs root");
    }
    spec.group = Some("65533".into());
    let handle = base.start(spec);
    ended(&handle).await;
    let lines = texts(&handle);
    assert_eq!(lines[..2], ["65532", "65533"], "{lines:?}");
    assert!(!lines[2].split(' ').any(|gid| gid == "0"), "kept a group of root: {lines:?}");
}

#[tokio::test]
async fn signals_to_the_shim_do_not_end_the_app() {
    for isolate in [true, false] {
        let base = Base::new(&format!("signals-{isolate}")).await;
        let mut spec = base.script("trap 'exit 9' QUIT; while :; do sleep 0.05; done");
        spec.isolate = isolate;
        spec.stop.signal = Signal::QUIT;
        let handle = base.start(spec);
        let pid = until(&handle, "running", |s| s.pid.is_some()).await.pid.unwrap();
        let keeper = proc::parent(pid);
        for signal in [NixSignal::SIGINT, NixSignal::SIGTERM, NixSignal::SIGHUP, NixSignal::SIGQUIT] {
            kill(Pid::from_raw(keeper), signal).unwrap();
            if isolate && geteuid().is_root() {
                kill(Pid::from_raw(proc::parent(keeper)), signal).unwrap();
            }
        }
        // The trap is set once the script has begun to loop.
        eventually("the script loops", DEADLINE, || base.alive() == 2).await;
        let status = handle.stop(DEADLINE).await;
        assert_eq!(status.last_exit, Some(Exit::Code(9)), "isolate {isolate}");
    }
}

#[tokio::test]
async fn a_killed_shim_is_noticed_and_the_app_starts_again() {
    for (isolate, cgroups, outer) in
        [(true, false, false), (true, false, true), (false, true, false), (false, false, false)]
    {
        let case = format!("isolate-{isolate}-groups-{cgroups}-outer-{outer}");
        let base = Base::with(&format!("lost-{case}"), |config| config.cgroups = cgroups).await;
        let mut spec = base.script("sleep 1000 & sleep 1000");
        spec.isolate = isolate;
        spec.restart = Restart { initial: Duration::from_millis(20), ..Restart::default() };
        let handle = base.start(spec);
        let first = until(&handle, "running", |s| s.pid.is_some()).await.pid.unwrap();
        let keeper = proc::parent(first);
        // As root there are two: the first process of the namespace, and the one outside that waits.
        let shim = if outer && geteuid().is_root() { proc::parent(keeper) } else { keeper };
        kill(Pid::from_raw(shim), NixSignal::SIGKILL).unwrap();
        let status = until(&handle, "running again", |s| s.restarts == 1 && s.pid.is_some()).await;
        assert_ne!(status.pid, Some(first), "{case}");
        assert_eq!(status.last_exit, Some(Exit::Lost), "{case}");
        eventually("only the new ones live", DEADLINE, || base.alive() == 3).await;
        assert!(handle.stop(DEADLINE).await.phase.is_final());
        assert_eq!(base.alive(), 0, "{case}");
    }
}

#[tokio::test]
async fn draining_the_tracker_stops_everything() {
    let base = Base::new("drain").await;
    let mut spec = base.script("trap 'exit 0' TERM; while :; do sleep 0.05; done");
    spec.restart = Restart::default();
    let handle = base.start(spec);
    until(&handle, "ready", |s| s.phase == Phase::Ready).await;
    assert!(base.tasks.drain(DEADLINE).await.is_empty());
    assert!(handle.status().borrow().phase.is_final());
    assert_eq!(base.alive(), 0);
}

#[tokio::test]
async fn a_cut_tracker_loses_the_lease_and_with_it_the_app() {
    let base = Base::new("cut").await;
    let mut spec = base.script(r#"trap '' TERM; echo up > "$DIR/up"; while :; do sleep 0.05; done"#);
    spec.stop.grace = DEADLINE;
    let handle = base.start(spec);
    let up = base.folder.path().join("up");
    eventually("the script ignores SIGTERM", DEADLINE, || up.exists()).await;
    assert!(!base.tasks.drain(Duration::from_millis(50)).await.is_empty());
    eventually("nothing lives", DEADLINE, || base.alive() == 0).await;
    assert!(!handle.status().borrow().phase.is_final(), "nobody was left to tell the end");
}

#[tokio::test]
async fn the_shim_is_small() {
    let base = Base::new("small").await;
    let mut spec = base.script("sleep 1000");
    spec.isolate = false;
    let handle = base.start(spec);
    let pid = until(&handle, "running", |s| s.pid.is_some()).await.pid.unwrap();
    let shim = proc::parent(pid);
    let kib: u64 =
        proc::status_field(shim, "RssAnon").unwrap().trim_end_matches(" kB").trim().parse().unwrap();
    println!("the shim holds {kib} KiB of its own");
    assert!(kib < 2048, "the shim holds {kib} KiB of its own; {}", example("shim").display());
    handle.kill().await;
}

#[tokio::test]
async fn use_of_resources_is_measured() {
    for (isolate, cgroups) in [(true, true), (false, false), (true, false)] {
        let base = Base::with(&format!("usage-{isolate}-{cgroups}"), |config| config.cgroups = cgroups).await;
        let mut spec = base.script("while :; do :; done");
        spec.isolate = isolate;
        let handle = base.start(spec);
        until(&handle, "running", |s| s.pid.is_some()).await;
        eventually("processor time grows", DEADLINE, || {
            handle
                .usage()
                .is_some_and(|usage| usage.cpu > Duration::from_millis(50) && usage.memory_bytes > 0)
        })
        .await;
        assert_eq!(handle.usage().map(|usage| usage.processes), Some(1));
        handle.kill().await;
    }
}

async fn failure(handle: &Handle) -> String {
    let status = ended(handle).await;
    let Phase::Failed { reason } = status.phase else { panic!("{status:?}") };
    reason
}
