//! Modules: what they are handed, what becomes of their output, and what their health checks change.

use std::time::Duration;

use dodai_core::id::{Digest, InstanceId};
use dodai_core::snapshot::{Check, Probe, Resource, Setting, Value, Workload};
use dodai_core::status::Phase;
use dodai_modules::Bucket;

use super::{Node, component, module, plain, workload};

#[tokio::test]
async fn a_module_finds_the_environment_of_its_document() {
    let node = Node::new().await;
    std::fs::write(node.path().join("secrets.json"), r#"{"password": "opensesame"}"#).unwrap();
    let mut hello = workload("hello-1", module(node.hello()));
    let secret = Value::Secret { store: "vault".into(), name: "password".into(), key: "password".into() };
    hello.env = vec![
        plain("GREETING", "hei"),
        Setting { name: "PASSWORD".to_owned(), value: secret },
        plain("DODAI_REVISION", "mine"),
    ];
    let vault = component("vault", "secretstores.local.file", vec![plain("secretsFile", "secrets.json")]);
    node.tell([Resource::Workload(hello), vault]);
    node.until("hello-1", "ready", |one| one.phase == Phase::Ready).await;
    for (name, value) in
        [("GREETING", "hei"), ("PASSWORD", "opensesame"), ("DODAI_REVISION", "mine"), ("APP_ID", "hello")]
    {
        assert_eq!(node.ask("hello-1", &format!("/env?name={name}")).await, (200, value.to_owned()));
    }
    node.stop().await;
}

#[tokio::test]
async fn a_variable_that_cannot_be_resolved_is_named_and_asked_for_again() {
    let node = Node::new().await;
    let mut hello = workload("hello-1", module(node.hello()));
    let secret = Value::Secret { store: "vault".into(), name: "pass".into(), key: "pass".into() };
    hello.env = vec![Setting { name: "PASSWORD".to_owned(), value: secret }];
    node.tell([Resource::Workload(hello.clone())]);
    let status = node.until("hello-1", "refused", |one| one.reason.contains("PASSWORD")).await;
    assert_eq!(status.phase, Phase::BackingOff, "{status:?}");
    std::fs::write(node.path().join("secrets.json"), r#"{"pass": "later"}"#).unwrap();
    let vault = component("vault", "secretstores.local.file", vec![plain("secretsFile", "secrets.json")]);
    node.tell([Resource::Workload(hello), vault]);
    node.until("hello-1", "ready", |one| one.phase == Phase::Ready).await;
    assert_eq!(node.ask("hello-1", "/env?name=PASSWORD").await, (200, "later".to_owned()));
    node.stop().await;
}

/// Asks for a key of the module's bucket, which is there or is not.
fn key(name: &str) -> Option<Probe> {
    Some(Probe {
        check: Check::Http { path: format!("/kv?key={name}"), service: None },
        period: Duration::from_millis(20),
        timeout: Duration::from_secs(10),
        failure_threshold: 2,
        success_threshold: 1,
        initial_delay: Duration::ZERO,
    })
}

fn state() -> Resource {
    component("state", "state.in-memory", Vec::new())
}

fn is_open(node: &Node) -> bool {
    node.base.parts().plane.locals().get(&InstanceId::new("hello-1")).is_open()
}

#[tokio::test]
async fn a_module_gets_calls_while_its_readiness_check_passes() {
    let node = Node::new().await;
    let mut hello: Workload = workload("hello-1", module(node.hello()));
    (hello.probes.startup, hello.probes.readiness) = (key("started"), key("ready"));
    hello.probes.startup.as_mut().unwrap().failure_threshold = 1_000;
    node.tell([state(), Resource::Workload(hello)]);
    node.until("hello-1", "starting", |one| one.phase == Phase::Starting).await;
    while node.base.parts().modules.module(&InstanceId::new("hello-1")).is_none() {
        node.pause().await;
    }
    assert_eq!(node.ask("hello-1", "/kv?key=started").await.0, 404, "it runs");
    assert!(!is_open(&node), "but gets no calls");
    node.bucket().set("started", "yes".into()).await.unwrap();
    let unready = node.until("hello-1", "unready", |one| one.phase == Phase::Unready).await;
    assert_eq!(unready.restarts, 0, "{unready:?}");
    let why = "readiness probe: GET /kv?key=ready answered 404";
    node.until("hello-1", "told why", |one| one.reason == why).await;
    assert!(!is_open(&node));
    node.bucket().set("ready", "yes".into()).await.unwrap();
    node.until("hello-1", "ready", |one| one.phase == Phase::Ready).await;
    assert!(is_open(&node));
    node.bucket().delete("ready").await.unwrap();
    node.until("hello-1", "unready again", |one| one.phase == Phase::Unready).await;
    assert!(!is_open(&node));
    node.stop().await;
}

#[tokio::test]
async fn a_module_that_fails_its_liveness_check_is_started_again() {
    let node = Node::new().await;
    let mut hello = workload("hello-1", module(node.hello()));
    hello.probes.liveness = key("alive");
    node.tell([state(), Resource::Workload(hello)]);
    let dead = node.until("hello-1", "dead", |one| one.phase == Phase::BackingOff).await;
    assert_eq!(dead.reason, "liveness probe failed: GET /kv?key=alive answered 404");
    assert!(!is_open(&node));
    node.until("hello-1", "dead twice", |one| one.restarts >= 2).await;
    node.bucket().set("alive", "yes".into()).await.unwrap();
    node.until("hello-1", "ready for good", |one| one.phase == Phase::Ready).await;
    let log = log_of(&node);
    assert!(log.contains("note liveness probe failed") && log.contains("starts again in"), "{log}");
    node.stop().await;
}

fn log_of(node: &Node) -> String {
    std::fs::read_to_string(node.path().join("data/logs/default.hello/hello-1.log")).unwrap_or_default()
}

#[tokio::test]
async fn what_a_module_says_is_on_disk() {
    let node = Node::new().await;
    node.tell([Resource::Workload(workload("hello-1", module(node.hello())))]);
    node.until("hello-1", "ready", |one| one.phase == Phase::Ready).await;
    assert!(node.try_ask("hello-1", "/panic").await.is_err());
    let (_, logs) = node.base.parts().logs.lock().unwrap()[&InstanceId::new("hello-1")].clone();
    let told = "hello was asked to panic";
    // Neither is there before the other for sure.
    while !(log_of(&node).contains(told) && logs.tail(1000).iter().any(|line| line.text.contains(told))) {
        node.pause().await;
    }
    node.stop().await;
}

/// Another machine that has the module.
struct Elsewhere;

impl dodai_base::node::Source for Elsewhere {
    fn fetch(
        &self,
        digest: Digest,
        file: std::path::PathBuf,
    ) -> futures_util::future::BoxFuture<'static, Result<(), String>> {
        assert_eq!(digest, dodai_modules::digest_of(&super::hello()));
        let written = std::fs::write(file, super::hello()).map_err(|error| error.to_string());
        Box::pin(std::future::ready(written))
    }
}

#[tokio::test]
async fn what_can_be_fetched_again_is_removed_when_nothing_needs_it() {
    let node = Node::fed_by(Some(std::sync::Arc::new(Elsewhere))).await;
    let artifacts = node.base.parts().modules.artifacts().clone();
    let left = artifacts.put(b"what an earlier life of the base left").unwrap();
    let hello = dodai_modules::digest_of(&super::hello());
    node.tell([Resource::Workload(workload("hello-1", module(hello.clone())))]);
    node.until("hello-1", "ready", |one| one.phase == Phase::Ready).await;
    while artifacts.contains(&left) {
        node.pause().await;
    }
    assert!(artifacts.contains(&hello), "it runs");
    node.tell([]);
    while artifacts.contains(&hello) {
        node.pause().await;
    }
    // Its code goes too, right behind it.
    let code = || {
        let left = std::fs::read_dir(node.path().join("data/modules/code")).unwrap();
        left.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    };
    while code() != ["seal.key"] {
        node.pause().await;
    }
    node.stop().await;
}
