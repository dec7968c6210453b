//! Processes: how often they run, and on which ports.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;

use dodai_core::id::InstanceId;
use dodai_core::snapshot::{Listener, Protocol, Resource, Restart, Role, Setting, Shape, Value};
use dodai_core::status::Phase;

use super::{DEADLINE, Node, app, component, script, workload};

#[tokio::test]
async fn what_runs_once_and_may_not_run_again_does_not() {
    let node = Node::new().await;
    let mut once = workload("hello-1", script("echo ran >> runs; exit 3", Restart::Never));
    (once.once, once.services) = (true, Vec::new());
    node.tell([Resource::Workload(once)]);
    let status = node.until("hello-1", "failed", |one| one.phase == Phase::Failed).await;
    assert_eq!((status.restarts, status.reason.as_str()), (0, "exit code 3"));
    assert_eq!(std::fs::read_to_string(node.path().join("runs")).unwrap(), "ran\n");
    node.stop().await;
}

#[tokio::test]
async fn what_runs_once_is_not_ready_while_it_runs() {
    let node = Node::new().await;
    let mut once = workload("hello-1", script("while [ ! -e go ]; do sleep 0.02; done", Restart::Never));
    (once.once, once.services) = (true, Vec::new());
    let mut after = workload("hello-2", script("exec sleep 3600", Restart::Never));
    (after.depends_on, after.services) = (vec![app()], Vec::new());
    node.tell([Resource::Workload(once.clone()), Resource::Workload(after.clone())]);
    node.until("hello-1", "running", |one| one.phase == Phase::Running).await;
    let told = "waiting for default/hello to succeed";
    node.until("hello-2", "told to wait", |one| one.phase == Phase::Waiting && one.reason == told).await;
    std::fs::write(node.path().join("go"), "").unwrap();
    node.until("hello-1", "done", |one| one.phase == Phase::Succeeded).await;
    // Control counts runs, wherever they were, and then tells that nothing is waited for.
    after.depends_on = Vec::new();
    node.tell([Resource::Workload(after)]);
    node.until("hello-2", "ready", |one| one.phase == Phase::Ready).await;
    node.stop().await;
}

#[tokio::test]
async fn what_waits_for_a_run_that_failed_says_so() {
    let node = Node::new().await;
    let mut once = workload("hello-1", script("exit 3", Restart::Never));
    (once.once, once.services) = (true, Vec::new());
    let mut after = workload("hello-2", script("exec sleep 3600", Restart::Never));
    (after.depends_on, after.services) = (vec![app()], Vec::new());
    node.tell([Resource::Workload(once), Resource::Workload(after)]);
    let told = "waiting for default/hello, which failed: exit code 3";
    node.until("hello-2", "told why", |one| one.phase == Phase::Waiting && one.reason == told).await;
    node.stop().await;
}

#[tokio::test]
async fn a_store_that_is_being_opened_is_waited_for() {
    let node = Node::new().await;
    let mut service = workload("hello-1", script("exec sleep 3600", Restart::Never));
    let secret = |name: &str| Value::Secret { store: "vault".into(), name: name.into(), key: name.into() };
    service.env = vec![Setting { name: "WHERE".into(), value: secret("PATH") }];
    service.services = Vec::new();
    let vault = component("vault", "secretstores.local.env", Vec::new());
    let mut status = node.status.clone();
    node.tell([vault, Resource::Workload(service)]);
    loop {
        let seen = status.borrow_and_update().instances.get(&InstanceId::new("hello-1")).cloned();
        match seen {
            Some(one) if one.phase == Phase::Ready => break,
            Some(one) => assert_ne!(one.phase, Phase::BackingOff, "{one:?}"),
            None => {}
        }
        tokio::time::timeout(DEADLINE, status.changed()).await.unwrap().unwrap();
    }
    node.stop().await;
}

#[tokio::test]
async fn a_process_whose_port_was_stolen_starts_again_on_another() {
    let node = Node::new().await;
    // Waits until the test has taken its port, fails as a server does then, and serves on any other one.
    let server = "echo $PORT > port; while [ ! -e stolen ]; do sleep 0.02; done
        [ $PORT != $(cat stolen) ] || exit 1
        exec python3 -m http.server --bind 127.0.0.1 $PORT";
    node.tell([Resource::Workload(workload("hello-1", script(server, Restart::Always)))]);
    let port = loop {
        let told = std::fs::read_to_string(node.path().join("port")).unwrap_or_default();
        match told.trim_end().parse::<u16>() {
            Ok(port) if told.ends_with('\n') => break port,
            Ok(_) | Err(_) => node.pause().await,
        }
    };
    let thief = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::fs::write(node.path().join("taking"), port.to_string()).unwrap();
    std::fs::rename(node.path().join("taking"), node.path().join("stolen")).unwrap();
    let name = super::http();
    let served = node
        .until("hello-1", "ready on another port", |one| {
            one.phase == Phase::Ready && one.ports.get(&name).is_some_and(|now| *now != port)
        })
        .await;
    assert!(served.restarts >= 1, "{served:?}");
    drop(thief);
    node.stop().await;
}

#[tokio::test]
async fn a_process_on_a_fixed_port_is_not_taken_for_who_else_listens_there() {
    let node = Node::new().await;
    let thief = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = thief.local_addr().unwrap().port();
    let server = "echo ran >> runs; exec python3 -m http.server --bind 127.0.0.1 $PORT";
    let mut fixed = workload("hello-1", script(server, Restart::Always));
    fixed.services[0].port = Some(port);
    node.tell([Resource::Workload(fixed)]);
    let told = format!("port {port} is taken by another listener of this process");
    node.until("hello-1", "told who has its port", |one| {
        assert_ne!(one.phase, Phase::Ready, "{one:?}");
        one.phase == Phase::BackingOff && one.reason.starts_with(&told)
    })
    .await;
    assert!(!node.path().join("runs").exists(), "it was not even started");
    drop(thief);
    node.until("hello-1", "ready", |one| one.phase == Phase::Ready).await;
    node.stop().await;
}

/// What a process of a user hears at a listener of the data plane; nothing if it is turned away.
async fn heard(by: u32, at: SocketAddr) -> String {
    let ask = "exec 3<>/dev/tcp/127.0.0.1/$0; printf 'GET / HTTP/1.1\r\nHost: x\r\n\r\n' >&3; head -c 8 <&3";
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", ask, &at.port().to_string()]).uid(by).current_dir("/");
    let told = tokio::process::Command::from(bash).output().await.unwrap();
    String::from_utf8(told.stdout).unwrap()
}

#[tokio::test]
async fn where_an_app_has_its_own_user_only_that_speaks_for_it() {
    const OWN: u32 = 65_534;
    const OTHER: u32 = 65_533;
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        // Not `eprintln`, which the test harness keeps to itself when the test passes.
        let _said = writeln!(std::io::stderr(), "SKIPPED: only root can start processes of other users");
        return;
    }
    let node = Node::new().await;
    let listener = Resource::Listener(Listener::new(
        "outbound",
        ([127, 0, 0, 1], 0).into(),
        Protocol::Http,
        Role::Outbound { app: app() },
    ));
    node.tell([listener.clone()]);
    let mut status = node.status.clone();
    let at = status.wait_for(|status| status.listeners.contains_key("outbound")).await.unwrap().listeners["outbound"];
    assert_eq!(heard(OTHER, at).await, "HTTP/1.1", "the app has no user of its own yet");

    let Shape::Process(mut spec) = script("exec sleep 3600", Restart::Never) else {
        unreachable!("a script")
    };
    (spec.user, spec.working_directory) = (Some(OWN.to_string()), Some("/".to_owned()));
    let mut service = workload("hello-1", Shape::Process(spec));
    service.services = Vec::new();
    node.tell([listener.clone(), Resource::Workload(service)]);
    node.until("hello-1", "ready", |one| one.phase == Phase::Ready).await;
    for (user, hears) in [(OWN, "HTTP/1.1"), (0, "HTTP/1.1"), (OTHER, "")] {
        assert_eq!(heard(user, at).await, hears, "user {user}");
    }
    node.tell([listener]);
    node.until_gone("hello-1").await;
    assert_eq!(heard(OTHER, at).await, "HTTP/1.1", "it is gone, and its user with it");
    node.stop().await;
}
