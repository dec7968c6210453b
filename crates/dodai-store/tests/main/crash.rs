//! A process that writes is killed, and a disk that fills up. Both need a process of their own: the
//! example `store_writer`, which `cargo test` builds.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dodai_core::task::Tasks;
use dodai_store::{Options, SqliteStore, Store, verify};

const KILLS: usize = 25;

/// Examples lie beside the folder that tests lie in.
fn store_writer() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples/store_writer");
    assert!(path.exists(), "{} is missing; run `cargo build --examples -p dodai-store`", path.display());
    path
}

/// A different number each time, small ones most often: the moment of death has to vary.
fn acknowledged_before_kill(round: usize) -> usize {
    let spread = (round * 7919 + std::process::id() as usize) % 211;
    spread * spread / 211
}

#[tokio::test]
async fn what_was_answered_survives_kill_nine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let mut answered = BTreeSet::new();
    for round in 0..KILLS {
        let mut child =
            Command::new(store_writer()).arg("write").arg(&path).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let enough = acknowledged_before_kill(round);
        answered.extend(lines.by_ref().take(enough));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still printed was answered too. A last line without its end is at most a part of a key.
        let mut rest: Vec<String> = lines.collect();
        rest.pop();
        answered.extend(rest);
        let store = SqliteStore::open(&path, Options::default(), &Tasks::new()).await.unwrap();
        let listing = store.list("/w/").await.unwrap();
        let found: BTreeSet<String> = listing.items.into_iter().map(|kv| kv.key).collect();
        let lost: Vec<_> = answered.difference(&found).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
        store.close().await;
        verify(&path).unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    assert!(answered.len() > KILLS, "the writer got hardly anything done: {}", answered.len());
}

#[test]
fn a_full_disk_stops_writes_only_until_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("small");
    fs::create_dir(&mount).unwrap();
    // A file system of 1 MiB in a mount namespace of its own; a quarter of it is ballast.
    let script = "mount -t tmpfs -o size=1m none \"$1\" && head -c 262144 /dev/zero > \"$1/ballast\" \
        && exec \"$2\" fill \"$1/store.db\" \"$1/ballast\"";
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
            .arg(&mount)
            .arg(store_writer());
        command.output()
    };
    let possible = unshare("mount -t tmpfs -o size=1m none \"$1\"");
    if !possible.as_ref().is_ok_and(|output| output.status.success()) {
        // Not `eprintln`, which the test harness keeps to itself when the test passes.
        let _said = writeln!(
            std::io::stderr(),
            "SKIPPED: this machine lets us mount no small file system: {possible:?}"
        );
        return;
    }
    let output = unshare(script).unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.ends_with("recovered\n"), "{out}{err}");
}
