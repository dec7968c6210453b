//! The processes of one test, each on a data folder of its own, as if on machines of their own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::project::{DEADLINE, Done, binary, until};
use crate::site::{PYTHON, free_ports, process};
use crate::wire::Wire;

/// An App document of `member.py`.
pub fn member(name: &str, more: &str) -> String {
    process(name, &[PYTHON, "member.py", name], &format!("  services: [{{name: http}}]\n{more}"))
}

/// A folder with a project, and the processes that run on it.
pub struct Machines {
    folder: PathBuf,
    /// Removed with the value, if it was made for it.
    own: Option<tempfile::TempDir>,
    tag: String,
    control: u16,
    running: BTreeMap<String, Child>,
}

impl Machines {
    pub fn new(name: &str, documents: &str) -> Machines {
        let folder = tempfile::Builder::new().prefix(&format!("dodai-{name}-")).tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let copy = |from: &str| {
            let from = root.join(from);
            std::fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
        };
        copy("tests/peers/member.py");
        copy("../../examples/hello/artifacts/hello-v1.wasm");
        copy("../../examples/hello/artifacts/hello-v2.wasm");
        std::fs::write(folder.path().join("dodai.yaml"), documents).unwrap();
        let mut machines = Machines::at(name, folder.path());
        machines.own = Some(folder);
        machines
    }

    /// On a project that is there.
    pub fn at(name: &str, folder: &Path) -> Machines {
        let [control] = free_ports();
        // Bases of one name on one machine would take each other's control groups.
        let tag = format!("{name}{}", std::process::id());
        Machines { folder: folder.to_owned(), own: None, tag, control, running: BTreeMap::new() }
    }

    /// A path below the folder.
    pub fn path(&self, below: &str) -> String {
        self.folder.join(below).display().to_string()
    }

    /// A base's name that no other test uses.
    pub fn name(&self, base: &str) -> String {
        format!("{base}-{}", self.tag)
    }

    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.folder.join(path), text).unwrap();
    }

    /// A process that goes on; its output is in a file of its name.
    pub fn start(&mut self, name: &str, arguments: &[&str]) {
        let log = File::options().create(true).append(true).open(self.path(&format!("{name}.log"))).unwrap();
        let child = Command::new(binary())
            .args(arguments)
            .current_dir(&self.folder)
            .env_remove("DODAI_SERVER")
            .env_remove("DODAI_TOKEN")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        assert!(self.running.insert(name.to_owned(), child).is_none(), "{name} runs already");
    }

    /// Starts the server and waits until it answers.
    pub fn serve(&mut self, more: &[&str]) {
        let (data, listen) = (self.path("server"), format!("127.0.0.1:{}", self.control));
        let own = ["server", "--data", &data, "--listen", &listen, "--admin", "127.0.0.1:0"];
        self.start("server", &[&own, more].concat());
        let pid = u64::from(self.running["server"].id());
        until("the server answers", || self.admin().is_some_and(|admin| admin["pid"] == pid));
    }

    fn admin(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.path("server/admin.json")).ok()?).ok()
    }

    /// What the management API says of the server and the bases.
    pub fn status(&self) -> Value {
        self.ask("/v1/status")
    }

    /// What the server's management API answers.
    pub fn ask(&self, path: &str) -> Value {
        let (port, request) = self.request(path);
        serde_json::from_slice(&Wire::to(port).ask(&request).body).unwrap()
    }

    /// An answer of it without end, from its first byte on.
    pub fn follow(&self, path: &str) -> TcpStream {
        let (port, request) = self.request(path);
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// The port of the management API, and what asks it for a path.
    fn request(&self, path: &str) -> (u16, String) {
        let admin = self.admin().unwrap();
        let (address, token) = (admin["address"].as_str().unwrap(), admin["token"].as_str().unwrap());
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        (address.rsplit_once(':').unwrap().1.parse().unwrap(), request)
    }

    pub fn token(&self, more: &[&str]) -> Value {
        self.json(&[&["token", "create"], more].concat())
    }

    /// A base with a fresh token; waits until the server knows it.
    pub fn join(&mut self, base: &str, more: &[&str]) {
        let name = self.name(base);
        let token = self.token(&["--base", &name]);
        let (text, pin) = (token["token"].as_str().unwrap(), token["pin"].as_str().unwrap());
        self.start_base(base, &[&["--token", text, "--pin", pin], more].concat());
        until("the base is connected", || {
            self.json(&["events"]).to_string().contains(&format!("base {name} is connected"))
        });
    }

    /// A base that has joined before.
    pub fn join_again(&mut self, base: &str) {
        self.start_base(base, &[]);
    }

    pub fn start_base(&mut self, base: &str, more: &[&str]) {
        let arguments = self.base(base, more);
        self.start(base, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn base(&self, base: &str, more: &[&str]) -> Vec<String> {
        let mut arguments: Vec<String> = ["base", "--join"].into_iter().map(str::to_owned).collect();
        arguments.push(format!("127.0.0.1:{}", self.control));
        arguments.extend(["--data".to_owned(), self.path(base), "--project".to_owned(), self.path("")]);
        arguments.extend(["--threads".to_owned(), "1".to_owned()]);
        if !more.contains(&"--name") {
            arguments.extend(["--name".to_owned(), self.name(base)]);
        }
        arguments.extend(more.iter().map(|&one| one.to_owned()));
        arguments
    }

    /// A base that is to fail.
    pub fn try_join(&self, base: &str, more: &[&str]) -> Done {
        Done::of(Command::new(binary()).args(self.base(base, more)).current_dir(&self.folder))
    }

    /// A command that talks to the server.
    pub fn dodai(&self, arguments: &[&str]) -> Done {
        self.dodai_on("server", arguments)
    }

    /// A command that talks to whoever runs on a data folder.
    pub fn dodai_on(&self, data: &str, arguments: &[&str]) -> Done {
        let data = self.path(data);
        let arguments = [arguments, &["--data-folder", &data]].concat();
        Done::of(Command::new(binary()).args(arguments).current_dir(&self.folder))
    }

    /// Runs a command with `-o json` and reads what it printed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let done = self.dodai(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(done.out()).unwrap_or_else(|error| panic!("{error}: {}", done.all()))
    }

    pub fn apply(&self, file: &str) {
        let done = self.dodai(&["apply", "-f", file]);
        assert!(done.status.success(), "{}", done.all());
    }

    /// Calls an app from the server, until it answers this.
    pub fn call(&self, app: &str, path: &str, expect: &str) {
        until(&format!("{app}{path} answers {expect}"), || {
            let done = self.dodai(&["call", app, path]);
            done.out() == expect
        });
    }

    /// All certificates of apps on base `one`.
    pub fn certificates(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.path("one/identity/apps")).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "pem") {
                all.push_str(&std::fs::read_to_string(entry.path()).unwrap_or_default());
            }
        }
        all
    }

    /// Ends a process as a power cut would.
    pub fn kill(&mut self, name: &str) {
        let mut child = self.running.remove(name).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends all and looks that nothing is left.
    pub fn end(mut self) {
        for (name, child) in &mut self.running {
            let pid = child.id().to_string();
            assert!(Command::new("kill").arg(&pid).status().unwrap().success());
            let status = child.wait().unwrap();
            assert!(status.success(), "{name} ended with {status}");
        }
        self.running.clear();
        until("nothing is left", || self.left().is_empty());
    }

    fn left(&self) -> Vec<String> {
        let marker = self.folder.display().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let cwd = std::fs::read_link(entry.path().join("cwd"));
            if cwd.is_ok_and(|cwd| cwd.starts_with(&marker)) {
                found.push(entry.file_name().display().to_string());
            }
        }
        found
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            let _gone = child.kill();
            let _gone = child.wait();
        }
        if std::thread::panicking() {
            for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|extension| extension == "log") {
                    let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                    eprintln!("{}:\n{text}", entry.file_name().display());
                }
            }
        }
    }
}
