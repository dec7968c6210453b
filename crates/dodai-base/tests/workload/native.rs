//! Processes: how often they run, and on which ports.

use std::net::TcpListener;

use dodai_core::snapshot::{Resource, Restart};
use dodai_core::status::Phase;

use super::{Node, script, workload};

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
