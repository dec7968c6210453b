//! Two machines and a line between them, as network namespaces: `here` has the clients, `there` the servers.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::project::{Done, binary, until};
use crate::site::PYTHON;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Here,
    There,
}

/// The addresses of `there`, as they stand in URLs.
pub const FAMILIES: [&str; 2] = ["10.91.0.2", "[fd91::2]"];

/// The namespaces, and what runs in them; all of it ends with the value.
pub struct Lab {
    folder: tempfile::TempDir,
    names: [String; 2],
    running: Vec<(String, Child)>,
}

fn ip(arguments: &[&str]) {
    let done = Done::of(Command::new("ip").args(arguments));
    assert!(
        done.status.success(),
        "ip {}: {}\nTHIS TEST NEEDS NETWORK NAMESPACES: run it as root, where `ip netns add` is allowed. \
         It is not skipped, because interception would go untested.",
        arguments.join(" "),
        done.all()
    );
}

impl Lab {
    pub fn new(name: &str) -> Lab {
        let folder = tempfile::Builder::new().prefix(&format!("dodai-{name}-")).tempdir().unwrap();
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
        for peer in ["servers.py", "listens_first.py"] {
            std::fs::copy(peers.join(peer), folder.path().join(peer)).unwrap();
        }
        // Programs of other users look into it.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let names = ["here", "there"].map(|side| format!("dodai-{name}-{}-{side}", std::process::id()));
        let lab = Lab { folder, names, running: Vec::new() };
        let [here, there] = &lab.names;
        for namespace in [here, there] {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        ip(&["-n", here, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", there]);
        for (namespace, host) in [(here, 1), (there, 2)] {
            ip(&["-n", namespace, "address", "add", &format!("10.91.0.{host}/24"), "dev", "eth0"]);
            ip(&["-n", namespace, "address", "add", &format!("fd91::{host}/64"), "dev", "eth0", "nodad"]);
            ip(&["-n", namespace, "link", "set", "eth0", "up"]);
        }
        lab
    }

    fn name(&self, on: On) -> &str {
        match on {
            On::Here => &self.names[0],
            On::There => &self.names[1],
        }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn command(&self, on: On, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name(on), program]).args(arguments);
        command.current_dir(self.folder.path());
        command
    }

    /// Runs a program to its end.
    pub fn run(&self, on: On, program: &str, arguments: &[&str]) -> Done {
        Done::of(&mut self.command(on, program, arguments))
    }

    /// Runs the binary to its end.
    pub fn dodai(&self, on: On, arguments: &[&str]) -> Done {
        self.run(on, binary().to_str().unwrap(), arguments)
    }

    /// The same, which must succeed.
    pub fn does(&self, on: On, arguments: &[&str]) -> String {
        let done = self.dodai(on, arguments);
        assert!(done.status.success(), "dodai {}: {}", arguments.join(" "), done.all());
        done.out().to_owned()
    }

    fn start(&mut self, on: On, name: &str, program: &str, arguments: &[&str]) {
        let log = File::create(self.path(&format!("{name}.log"))).unwrap();
        let mut command = self.command(on, program, arguments);
        let child = command
            .env_remove("DODAI_SERVER")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running.push((name.to_owned(), child));
    }

    /// Servers on `there`.
    pub fn serve(&mut self, ports: &[&str]) {
        self.start(On::There, "servers", PYTHON, &[&["servers.py"], ports].concat());
        until("the servers listen", || self.path("ready").exists());
    }

    /// A base with these documents.
    pub fn base(&mut self, on: On, documents: &str) {
        let name = format!("base{}", self.running.len());
        self.write(&format!("{name}/dodai.yaml"), documents);
        let folder = self.path(&name).display().to_string();
        let program = binary().display().to_string();
        let arguments = [
            "base",
            "--from",
            &folder,
            "--admin",
            "127.0.0.1:0",
            "--metrics",
            "127.0.0.1:7071",
            "--threads",
            "1",
        ];
        self.start(on, &name, &program, &arguments);
        until("the base is ready", || self.log(&name).contains("management API"));
    }

    /// What something said so far.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Ends what was started last.
    pub fn end_last(&mut self) {
        let (name, mut child) = self.running.pop().expect("something runs");
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(child.wait().unwrap().success(), "{name} ended badly: {}", self.log(&name));
    }

    /// What curl gets, which must be an answer.
    pub fn curl(&self, on: On, arguments: &[&str]) -> String {
        let own = ["-sS", "-g", "--max-time", "20"];
        let done = self.run(on, "curl", &[&own, arguments].concat());
        assert!(done.status.success(), "curl {}: {}\n{}", arguments.join(" "), done.all(), self.logs());
        done.out().to_owned()
    }

    /// Only the status that curl gets.
    pub fn status(&self, on: On, arguments: &[&str]) -> String {
        self.curl(on, &[&["-o", "/dev/null", "-w", "%{http_code}"], arguments].concat())
    }

    /// The metrics of the base on a side.
    pub fn metrics(&self, on: On) -> String {
        self.curl(on, &["http://127.0.0.1:7071/metrics"])
    }

    /// How many intercepted connections of a base had this fate.
    pub fn fate(&self, on: On, way: &str, fate: &str) -> u64 {
        let start = format!("dodai_intercepted_connections_total{{way=\"{way}\",fate=\"{fate}\"}} ");
        let metrics = self.metrics(on);
        metrics.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(0)
    }

    fn logs(&self) -> String {
        self.running.iter().map(|(name, _)| format!("{name}: {}\n", self.log(name))).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for (_, child) in &mut self.running {
            let _gone = child.kill();
            let _gone = child.wait();
        }
        for name in &self.names {
            let _gone = Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status();
        }
    }
}
