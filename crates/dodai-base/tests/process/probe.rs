//! Probes of real processes.

use std::time::Duration;

use dodai_base::process::{Check, Exit, Phase, Probe, Restart};

use super::{Base, DEADLINE, ended, texts, until};

fn exec(script: &str) -> Probe {
    let argv = ["/bin/sh", "-c", script].map(String::from).to_vec();
    Probe { period: Duration::from_millis(30), failure_threshold: 2, ..Probe::new(Check::Exec { argv }) }
}

#[tokio::test]
async fn readiness_follows_the_app_and_runs_in_its_environment() {
    let base = Base::new("readiness").await;
    let mut spec = base.script("while :; do sleep 0.05; done");
    spec.probes.readiness = Some(exec(r#"test -e "$DIR/ready""#));
    let handle = base.start(spec);
    let status =
        until(&handle, "unready with a reason", |s| s.phase == Phase::Unready && s.reason.is_some()).await;
    assert_eq!(status.reason.as_deref(), Some("readiness probe: the command ended with exit code 1"));
    let file = base.folder.path().join("ready");
    std::fs::write(&file, "").unwrap();
    until(&handle, "ready", |s| s.phase == Phase::Ready).await;
    std::fs::remove_file(&file).unwrap();
    until(&handle, "unready again", |s| s.phase == Phase::Unready).await;
    assert_eq!(handle.stop(DEADLINE).await.restarts, 0);
}

#[tokio::test]
async fn a_failed_liveness_probe_restarts_the_app() {
    let base = Base::new("liveness").await;
    let mut spec =
        base.script(r#"trap 'exit 0' TERM; echo alive > "$DIR/alive"; while :; do sleep 0.05; done"#);
    // The startup probe holds the liveness probe back until the file is there.
    spec.probes.startup = Some(Probe { failure_threshold: 200, ..exec(r#"test -e "$DIR/alive""#) });
    spec.probes.liveness = Some(exec(r#"test -e "$DIR/alive""#));
    spec.restart = Restart { initial: Duration::from_millis(10), ..Restart::default() };
    let handle = base.start(spec);
    until(&handle, "ready", |s| s.phase == Phase::Ready).await;
    std::fs::remove_file(base.folder.path().join("alive")).unwrap();
    let status = until(&handle, "ready again", |s| s.phase == Phase::Ready && s.restarts == 1).await;
    assert_eq!(status.last_exit, Some(Exit::Code(0)));
    let note = "liveness probe failed: the command ended with exit code 1";
    assert!(texts(&handle).iter().any(|text| text == note), "{:?}", texts(&handle));
    handle.stop(DEADLINE).await;
}

#[tokio::test]
async fn a_startup_probe_that_hangs_is_killed_and_fails_the_start() {
    let base = Base::new("startup").await;
    let mut spec = base.script("sleep 1000");
    let hangs = exec("sleep 1000 & sleep 1000");
    spec.probes.startup = Some(Probe { timeout: Duration::from_millis(50), failure_threshold: 1, ..hangs });
    let handle = base.start(spec);
    let reason = "startup probe failed: the command took too long and was killed";
    assert_eq!(ended(&handle).await.phase, Phase::Failed { reason: reason.into() });
    assert_eq!(base.alive(), 0);
}

#[tokio::test]
async fn a_port_probe_waits_for_the_listener() {
    let base = Base::new("port").await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut spec = base.script("sleep 1000");
    let check = Check::TcpSocket { address };
    spec.probes.readiness = Some(Probe { period: Duration::from_millis(30), ..Probe::new(check) });
    let handle = base.start(spec);
    let status =
        until(&handle, "unready with a reason", |s| s.phase == Phase::Unready && s.reason.is_some()).await;
    assert!(status.reason.as_deref().is_some_and(|reason| reason.contains("refused")), "{status:?}");
    let _listener = std::net::TcpListener::bind(address).unwrap();
    until(&handle, "ready", |s| s.phase == Phase::Ready).await;
    handle.kill().await;
}
