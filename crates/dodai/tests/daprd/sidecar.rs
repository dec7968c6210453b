//! Sidecars as processes of their own, in a folder of their own.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::project::{binary, until};

/// How long an answer may take; far more than it does.
const DEADLINE: Duration = Duration::from_secs(60);

/// A folder that sidecars run in and find each other by.
pub struct World(tempfile::TempDir);

impl World {
    pub fn new() -> World {
        World(tempfile::Builder::new().prefix("dodai-daprd-").tempdir().unwrap())
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        std::fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        std::fs::write(self.path(path), text).unwrap();
    }

    /// Files that sidecars left in their runtime folder.
    pub fn left(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.path("run")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = entry.file_name().to_string_lossy().into_owned();
                if path.is_file() || name.starts_with("daprd-") {
                    found.push(path.display().to_string());
                } else {
                    folders.push(path);
                }
            }
        }
        found
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // What runs the tests may ignore SIGHUP (`nohup`), and a process that starts so goes on to.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=HUP")
            .arg(binary())
            .arg("daprd")
            .args(arguments)
            .current_dir(self.0.path())
            .env("DODAI_RUNTIME_DIR", self.path("run"))
            .env("XDG_DATA_HOME", self.path("data"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        for name in [
            "APP_ID",
            "APP_PORT",
            "DAPR_HTTP_PORT",
            "DAPR_GRPC_PORT",
            "DAPR_API_TOKEN",
            "APP_API_TOKEN",
            "NAMESPACE",
            "DODAI_LOG",
        ] {
            command.env_remove(name);
        }
        command
    }
}

/// A running sidecar. One that a failed test leaves is killed.
pub struct Sidecar {
    child: Child,
    /// The port that is named for HTTP.
    pub api: SocketAddr,
    /// The port that is named for gRPC.
    pub grpc: SocketAddr,
    metrics: SocketAddr,
    log: Arc<Mutex<String>>,
}

/// What a call was answered.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    pub body: String,
}

impl Told {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn error(&self) -> String {
        self.json()["errorCode"].as_str().unwrap_or_default().to_owned()
    }
}

impl Sidecar {
    /// Starts one on free ports and waits until it says that it runs.
    pub fn start(world: &World, arguments: &[&str], environment: &[(&str, &str)]) -> Sidecar {
        let ports = ["--dapr-http-port", "0", "--dapr-grpc-port", "0", "--metrics-port", "0"];
        let mut child = world
            .command(&[arguments, &ports].concat())
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, copy) = (BufReader::new(child.stderr.take().unwrap()), log.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut log = copy.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let text = || log.lock().unwrap().clone();
        let child = RefCell::new(child);
        until("the sidecar runs", || {
            assert!(child.borrow_mut().try_wait().unwrap().is_none(), "it ended: {}", text());
            text().contains("dapr initialized. Status: Running.")
        });
        let address = |words: &str| {
            let text = text();
            let (_, rest) = text.split_once(words).unwrap_or_else(|| panic!("no `{words}` in {text}"));
            let address = rest.split([',', '\n']).next().unwrap_or_default().trim();
            address.parse().unwrap_or_else(|error| panic!("{error}: {address}"))
        };
        let (api, metrics) = (address("Dapr HTTP API: http://"), address("metrics: http://"));
        let grpc = address("Dapr gRPC API: ");
        Sidecar { child: child.into_inner(), api, grpc, metrics, log }
    }

    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Told {
        call(self.api, method, path, headers, body)
    }

    pub fn metrics(&self) -> String {
        call(self.metrics, "GET", "/", &[], "").body
    }

    /// What it logged so far.
    pub fn logged(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Asks it to stop, as a launcher does. What it logged.
    pub fn stop(self) -> String {
        self.signal();
        self.ended()
    }

    /// Asks it to stop, and waits for nothing.
    pub fn signal(&self) {
        self.send("-TERM");
    }

    /// Sends it a signal, as `kill` names it.
    pub fn send(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Its exit code, once it has ended.
    pub fn code(mut self) -> Option<i32> {
        let child = RefCell::new(&mut self.child);
        until("the sidecar ends", || child.borrow_mut().try_wait().unwrap().is_some());
        child.into_inner().wait().unwrap().code()
    }

    /// Waits for its end, which must be a good one. What it logged.
    pub fn ended(mut self) -> String {
        let child = RefCell::new(&mut self.child);
        let status = RefCell::new(None);
        until("the sidecar ends", || {
            *status.borrow_mut() = child.borrow_mut().try_wait().unwrap();
            status.borrow().is_some()
        });
        let log = self.log.lock().unwrap().clone();
        assert!(status.into_inner().unwrap().success(), "{log}");
        log
    }

    /// Gives it no chance to tidy up.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
        if std::thread::panicking() {
            eprintln!("sidecar:\n{}", self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        }
    }
}

/// Runs one that ends by itself: its exit code and everything it wrote.
pub fn refused(world: &World, arguments: &[&str]) -> (i32, String) {
    let output =
        world.command(arguments).args(["--dapr-grpc-port", "0", "--metrics-port", "0"]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout) + &text(&output.stderr))
}

fn call(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Told {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all((head + body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) =
        answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {path}: {answer}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status: {head}"));
    Told { status, head: head.to_owned(), body: body.to_owned() }
}
