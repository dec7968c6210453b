//! A running project made of given documents and peers, on ports of its own, with the tools to look at it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;

use crate::project::{Done, binary, until};
use crate::wire::Wire;

/// Python with the Debian packages of its modules; another one may come first in PATH.
pub const PYTHON: &str = "/usr/bin/python3";

/// Ports that nobody has. Below those that the system gives to who asks for any, and below those of instances: what is
/// started in between does not get one of them.
pub fn free_ports<const N: usize>() -> [u16; N] {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 9_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap();
    let mut candidates = std::iter::repeat_with(|| {
        let next = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        FIRST + next % COUNT
    });
    [(); N].map(|()| candidates.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap())
}

/// A project folder and the server that runs it; taken away at the end whatever happened.
pub struct Site {
    folder: tempfile::TempDir,
    data: PathBuf,
    /// Another home folder for what it runs.
    home: Option<PathBuf>,
}

impl Site {
    pub fn new(name: &str) -> Site {
        let folder = tempfile::Builder::new().prefix(&format!("dodai-{name}-")).tempdir().unwrap();
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
        for entry in std::fs::read_dir(peers).unwrap().flatten() {
            if entry.path().is_file() {
                std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
            }
        }
        let data = folder.path().join(".dodai");
        Site { folder, data, home: None }
    }

    /// The same with its data somewhere else.
    pub fn with_data(mut self, data: PathBuf) -> Site {
        self.data = data;
        self
    }

    /// The same with an empty home folder, where nothing of the machine's user is found.
    pub fn with_home(mut self) -> Site {
        let home = self.folder.path().join("home");
        std::fs::create_dir(&home).unwrap();
        self.home = Some(home);
        self
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A command in the project's folder.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Done {
        Done::of(Command::new(program).args(arguments).current_dir(self.folder.path()))
    }

    /// Runs the binary in the project's folder.
    pub fn dodai(&self, arguments: &[&str]) -> Done {
        let data = self.data.display().to_string();
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.folder.path());
        if let Some(home) = &self.home {
            command.env("HOME", home).env_remove("DAPR_RUNTIME_PATH").env_remove("DAPR_API_TOKEN");
        }
        match arguments.first() {
            Some(&"up") => command.args(["--data", &data, "--admin", "127.0.0.1:0", "--threads", "2"]),
            Some(_) | None => command.args(["--data-folder", &data]),
        };
        Done::of(&mut command)
    }

    /// Starts it in the background, or fails.
    pub fn up(&self) {
        let up = self.try_up();
        assert!(up.status.success(), "{}", up.all());
    }

    pub fn try_up(&self) -> Done {
        // The folder is named in full, so that the processes are found by it.
        self.dodai(&["up", &self.folder.path().display().to_string(), "-d"])
    }

    pub fn down(&self) {
        let down = self.dodai(&["down"]);
        assert!(down.status.success(), "{}", down.all());
        until("nothing is left", || self.left().is_empty());
    }

    /// What the running server left for others to find it.
    pub fn admin(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.data.join("admin.json")).ok()?).ok()
    }

    /// What the management API answers.
    pub fn ask(&self, path: &str) -> Value {
        let admin = self.admin().unwrap();
        let (address, token) = (admin["address"].as_str().unwrap(), admin["token"].as_str().unwrap());
        let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        serde_json::from_slice(&Wire::to(port).ask(&request).body).unwrap()
    }

    /// The process id of the server.
    pub fn pid(&self) -> u64 {
        self.admin().unwrap()["pid"].as_u64().unwrap()
    }

    /// A value of the server's `/proc/PID/status`, in kB.
    pub fn memory(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Forgets how much memory the server has had at most (proc(5), clear_refs).
    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").unwrap();
    }

    /// What the server said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.join("up.log")).unwrap_or_default()
    }

    /// Processes that were started for this project and still live.
    pub fn left(&self) -> Vec<String> {
        processes_of(self.folder.path())
    }
}

/// Processes that run in a folder, or have it in their command line.
pub fn processes_of(folder: &Path) -> Vec<String> {
    let marker = folder.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let inside = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&marker));
        if inside || command.contains(&marker) {
            found.push(format!("{}: {command}", entry.file_name().display()));
        }
    }
    found
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.data.join("admin.json").exists() {
            // The test failed half-way: its server must not stay.
            let _stopped = self.dodai(&["down"]);
        }
        if std::thread::panicking() {
            eprintln!("up.log:\n{}", self.log());
        }
    }
}

/// An App document of a process.
pub fn process(name: &str, command: &[&str], more: &str) -> String {
    let command = serde_json::to_string(command).unwrap();
    format!(
        "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{name: {name}}}\nspec:\n  process: {{command: {command}}}\n{more}\n---\n"
    )
}

/// A Gateway document.
pub fn gateway(name: &str, listeners: &[String]) -> String {
    let listeners: String = listeners.iter().map(|one| format!("    - {one}\n")).collect();
    format!(
        "apiVersion: dodai.dev/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  listeners:\n{listeners}---\n"
    )
}

/// A Route document that sends what comes to one parent to apps by path prefix.
pub fn route(name: &str, parent: &str, rules: &[(&str, &str)]) -> String {
    let rules: String = rules
        .iter()
        .map(|(path, app)| {
            format!("    - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n      backendRefs: [{{name: {app}}}]\n")
        })
        .collect();
    format!(
        "apiVersion: dodai.dev/v1\nkind: Route\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: [{{{parent}}}]\n  rules:\n{rules}---\n"
    )
}

/// A Route document that sends the bytes that come to one parent to an app.
pub fn bytes_to(app: &str, parent: &str) -> String {
    format!(
        "apiVersion: dodai.dev/v1\nkind: Route\nmetadata: {{name: bytes-to-{app}}}\nspec:\n  parentRefs: [{{{parent}}}]\n  rules: [{{backendRefs: [{{name: {app}}}]}}]\n---\n"
    )
}
