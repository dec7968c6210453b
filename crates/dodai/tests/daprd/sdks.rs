//! Dapr's own SDKs for Go, Node.js and Java, unchanged, beside a sidecar of ours. Their versions are those of
//! `examples/polyglot`; what they do is in `peers/`.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;

use super::app::App;
use super::sdk::COMPONENTS;
use super::sidecar::{Sidecar, World};
use crate::project::{DEADLINE, Done, until};
use crate::site::free_ports;
use crate::toolchain::{built, need};

/// Sets a key as another program would that writes into the store.
const SET: &str = "
import sqlite3, sys
store = sqlite3.connect(sys.argv[1], timeout=60)
with store:
    (version,) = store.execute('UPDATE configuration_version SET last = last + 1 RETURNING last').fetchone()
    row = ('colour', 'red', version, '{}', False, 0)
    store.execute('INSERT INTO configuration VALUES (?, ?, ?, ?, ?, ?)', row)
";

/// A running program. One that a failed test leaves is killed.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// Runs a program that speaks by an SDK beside a sidecar, to which it speaks that protocol as an app, until it says that
/// all was well.
fn runs(program: &mut Command, protocol: &str) {
    let world = World::new();
    world.write("components/all.yaml", COMPONENTS);
    world.write("secrets.json", r#"{"password": "hunter2"}"#);
    let app = App::start(|seen| match seen.path.as_str() {
        "/orders" => (200, format!("got {}", seen.body)),
        _ => (404, String::new()),
    });
    let [own_port] = free_ports().map(|port| port.to_string());
    let port = app.port.to_string();
    let orders = Sidecar::start(&world, &["--app-id", "orders", "--app-port", &port], &[]);
    let tokens = [("DAPR_API_TOKEN", "for-the-sidecar"), ("APP_API_TOKEN", "for-the-app")];
    let peer = [
        ["--app-id", "peer"],
        ["--app-port", &own_port],
        ["--app-protocol", protocol],
        ["--resources-path", "components"],
    ];
    let peer = Sidecar::start(&world, &peer.concat(), &tokens);
    let child = program
        .current_dir(world.path(""))
        .envs(tokens)
        .env("APP_PORT", own_port)
        .env("DAPR_HTTP_ENDPOINT", format!("http://{}", peer.api))
        .env("DAPR_GRPC_ENDPOINT", format!("http://{}", peer.grpc))
        .env("DAPR_HTTP_PORT", peer.api.port().to_string())
        .env("DAPR_GRPC_PORT", peer.grpc.port().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = RefCell::new(Program(child.unwrap()));
    let mut errors = child.borrow_mut().0.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _closed = errors.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let out = child.borrow_mut().0.stdout.take().unwrap();
    let (says, hears) = std::sync::mpsc::sync_channel(64);
    std::thread::spawn(move || {
        BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| says.send(line))
    });
    let mut said = Vec::new();
    loop {
        match hears.recv_timeout(DEADLINE) {
            Ok(line) if line == "following" => {
                let store = world.path("config.db").display().to_string();
                let set = Done::of(Command::new("python3").args(["-c", SET, &store]));
                assert!(set.status.success(), "{}", set.all());
                said.push(line);
            }
            Ok(line) => said.push(line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("it says nothing more after:\n{}", said.join("\n")),
        }
    }
    until("the program ends", || child.borrow_mut().0.try_wait().unwrap().is_some());
    let errors = errors.join().unwrap();
    assert_eq!(said.last().map(String::as_str), Some("ok"), "{}\n{errors}", said.join("\n"));
    // The SDK asked it to shut down.
    peer.ended();
    orders.stop();
}

#[test]
fn the_go_sdk_works_unchanged() {
    need(&["python3"]);
    let own = "examples/polyglot/apps/stock";
    let (module, sums) = (format!("{own}/go.mod"), format!("{own}/go.sum"));
    let files = [(&*module, "go.mod"), (&sums, "go.sum"), ("crates/dodai/tests/peers/sdk.go", "main.go")];
    let folder = built("sdk-go", &["go"], &files, &["go", "build", "-o", "sdk", "."], "sdk");
    runs(&mut Command::new(folder.join("sdk")), "http");
    runs(Command::new(folder.join("sdk")).arg("grpc"), "grpc");
}

#[test]
fn the_javascript_sdk_works_unchanged() {
    need(&["python3"]);
    let own = "examples/polyglot/apps/shipping";
    let (package, lock) = (format!("{own}/package.json"), format!("{own}/package-lock.json"));
    let files = [(&*package, "package.json"), (&lock, "package-lock.json")];
    let folder = built("sdk-node", &["node", "npm"], &files, &["npm", "ci"], "node_modules/@dapr/dapr");
    let script = folder.join("sdk.mjs");
    std::fs::write(&script, include_str!("../peers/sdk.mjs")).unwrap();
    runs(Command::new("node").arg(script), "http");
}

#[test]
fn the_java_sdk_works_unchanged() {
    need(&["python3"]);
    let files = [
        ("examples/polyglot/apps/billing/pom.xml", "pom.xml"),
        ("crates/dodai/tests/peers/Sdk.java", "src/main/java/polyglot/Sdk.java"),
    ];
    let folder = built(
        "sdk-java",
        &["mvn"],
        &files,
        &["mvn", "--quiet", "--batch-mode", "package"],
        "target/billing.jar",
    );
    let mut java = Command::new("java");
    runs(java.arg("-cp").arg(folder.join("target/billing.jar")).arg("polyglot.Sdk"), "http");
}
