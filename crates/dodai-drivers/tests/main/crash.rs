//! What was acknowledged survives a kill: a child writes and tells of each acknowledgement, the parent kills it in
//! the middle and looks for every one of them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dodai_capability::component::Context;
use dodai_capability::pubsub::{Publish, Subscribe, Verdict};
use dodai_capability::state::{Get, Set};

use crate::sqlite;

/// The child finds its folder as its working directory.
const CHILD: &str = "crash::child_that_is_killed";

#[tokio::test]
#[ignore = "it writes until it is killed: only the test below runs it, as a process of its own"]
async fn child_that_is_killed() {
    let dir = PathBuf::from(".");
    let state = sqlite(&dir, "state.sqlite", &Context::default()).await.serves.state.expect("state");
    let broker = sqlite(&dir, "pubsub.sqlite", &Context::default()).await.serves.pubsub.expect("pubsub");
    drop(broker.subscribe(Subscribe::new("t", "g")).await.expect("joined"));
    for at in 0_u32.. {
        state.set(Set::new(format!("key-{at}"), at.to_string())).await.expect("written");
        broker.publish(Publish::new("t", at.to_string())).await.expect("published");
        let mut out = std::io::stdout().lock();
        writeln!(out, "acknowledged {at}").and_then(|()| out.flush()).expect("the parent listens");
    }
}

/// Runs the child until it has told of `count` acknowledgements, kills it, and returns the last it told of.
fn run_and_kill(dir: &Path, count: u32) -> u32 {
    let program = std::env::current_exe().expect("this test");
    let mut child = Command::new(program)
        .args(["--ignored", "--exact", CHILD, "--nocapture", "--test-threads=1"])
        .current_dir(dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let mut last = None;
    for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
        let line = line.expect("a line");
        // The harness writes the test's name before the first of them.
        let Some((_, number)) = line.split_once("acknowledged ") else { continue };
        let number: u32 = number.trim().parse().expect("a number");
        last = Some(number);
        if number + 1 == count {
            child.kill().expect("killed");
        }
    }
    child.wait().expect("it is gone");
    last.expect("the child has told of something")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().expect("a folder");
    let last = run_and_kill(dir.path(), 50);
    assert!(last >= 49, "{last}");
    let state = sqlite(dir.path(), "state.sqlite", &Context::default()).await.serves.state.expect("state");
    let broker =
        sqlite(dir.path(), "pubsub.sqlite", &Context::default()).await.serves.pubsub.expect("pubsub");
    let mut subscription = broker.subscribe(Subscribe::new("t", "g")).await.expect("joined");
    for at in 0..=last {
        let item = state.get(&Get::new(format!("key-{at}"))).await.expect("read");
        assert_eq!(item.map(|item| item.value), Some(at.to_string().into()), "key-{at}");
        let delivery = subscription.next().await.expect("open").expect("a delivery");
        assert_eq!(delivery.message.data, at.to_string());
        delivery.settle(Verdict::Ack).await.expect("settled");
    }
}
