//! A project in a folder of its own, and what a test does with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take; far more than it does.
pub const DEADLINE: Duration = Duration::from_secs(60);

const APP: &str = r#"
import os, signal, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = (sys.argv[1] + "\n").encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "0"))), App)
print(sys.argv[1], "listens", server.server_port, flush=True)
server.serve_forever()
"#;

/// What a command did.
pub struct Done {
    pub status: ExitStatus,
    out: String,
    err: String,
}

impl Done {
    /// Runs a command to its end, without what would point it at another server.
    pub fn of(command: &mut Command) -> Done {
        let command = command.env_remove("DODAI_SERVER").env_remove("DODAI_TOKEN").stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done { status: output.status, out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// What it wrote to standard output.
    pub fn out(&self) -> &str {
        &self.out
    }

    /// Everything it wrote.
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// A running project, taken away at the end whatever happened.
pub struct Project {
    folder: tempfile::TempDir,
    outside: Child,
    /// The gateway's port.
    pub port: u16,
}

impl Project {
    pub fn new(name: &str) -> Project {
        let folder = tempfile::Builder::new().prefix(&format!("dodai-{name}-")).tempdir().unwrap();
        let write = |path: &str, text: &[u8]| std::fs::write(folder.path().join(path), text).unwrap();
        write("app.py", APP.as_bytes());
        std::fs::create_dir(folder.path().join("artifacts")).unwrap();
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hello/artifacts");
        for file in ["hello-v1.wasm", "hello-v2.wasm"] {
            std::fs::copy(examples.join(file), folder.path().join("artifacts").join(file)).unwrap();
        }
        let mut outside = Command::new("python3")
            .args(["app.py", "outside"])
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut line = String::new();
        BufReader::new(outside.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        // Somebody may take the port in between; nobody on a test machine does.
        let [port] = crate::site::free_ports();
        let marker = folder.path().display().to_string();
        write("dodai.yaml", manifest(port, &address, &marker).as_bytes());
        Project { folder, outside, port }
    }

    /// Its folder, which no other process's command line holds.
    pub fn path(&self) -> String {
        self.folder.path().display().to_string()
    }

    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.folder.path().join(path), text).unwrap();
    }

    /// Runs the binary in the project's folder.
    pub fn dodai(&self, arguments: &[&str]) -> Done {
        Done::of(Command::new(binary()).args(arguments).current_dir(self.folder.path()))
    }

    /// Runs a command with `-o json` and reads what it printed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let done = self.dodai(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {}", done.all()))
    }

    /// What the running server left for others to find it.
    pub fn admin(&self) -> Value {
        let path = self.folder.path().join(".dodai/admin.json");
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "only its owner reads the token");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// Processes that were started for this project and still live.
    pub fn left(&self) -> Vec<String> {
        let marker = self.path();
        let outside = self.outside.id().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let inside =
                std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&marker));
            if (inside || command.contains(&marker)) && entry.file_name() != *outside {
                found.push(format!("{}: {command}", entry.file_name().display()));
            }
        }
        found
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _gone = self.outside.kill();
        let _gone = self.outside.wait();
        if self.folder.path().join(".dodai/admin.json").exists() {
            // The test failed half-way: its server must not stay.
            let _stopped = self.dodai(&["down"]);
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join(".dodai/up.log")).unwrap_or_default();
            eprintln!("up.log:\n{log}");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test may be pointed at another build of the binary")]
pub fn binary() -> PathBuf {
    std::env::var_os("DODAI_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_dodai").into(), PathBuf::from)
}

fn manifest(port: u16, outside: &str, marker: &str) -> String {
    let app = |name: &str, workload: &str| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{name: {name}}}\nspec:\n  {workload}\n  services: [{{name: http}}]\n---\n"
        )
    };
    let rule = |path: &str, app: &str| {
        format!(
            "    - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n      backendRefs: [{{name: {app}}}]\n"
        )
    };
    [
        app("hello", "module: {artifact: artifacts/hello-v1.wasm, isolation: reuse}"),
        app("outside", &format!("external: {{addresses: ['127.0.0.1:{outside}']}}")),
        app("beside", &format!("process: {{command: [python3, app.py, beside, '{marker}']}}")),
        format!("apiVersion: dodai.dev/v1\nkind: Gateway\nmetadata: {{name: front}}\nspec:\n  listeners: [{{name: http, port: {port}, protocol: HTTP}}]\n---\n"),
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: state}\nspec:\n  type: state.sqlite\n  version: v1\n  metadata: [{name: connectionString, value: state.db}]\n---\n".to_owned(),
        "apiVersion: dodai.dev/v1\nkind: Route\nmetadata: {name: all}\nspec:\n  parentRefs: [{name: front}]\n  rules:\n".to_owned(),
        rule("/outside", "outside"),
        rule("/beside", "beside"),
        rule("/", "hello"),
    ]
    .concat()
}

/// One call on a connection of its own: the body of a 200.
pub fn get(port: u16, path: &str) -> Result<String, String> {
    let call = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = call().map_err(|error| error.to_string())?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(answer),
    }
}

/// Waits until something holds.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
