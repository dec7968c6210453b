//! The Dapr CLI, unmodified, starts this binary: what it looks for is a file `daprd`, and that is a link.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::sidecar::World;
use crate::project::{Done, binary, until};
use crate::site::free_ports;
use crate::toolchain::{built, need};

const PUBSUB: &str = "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: pubsub}
spec: {type: pubsub.in-memory, version: v1}
";

/// What `dapr init` leaves beside the components.
const CONFIGURATION: &str = "apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: daprConfig}
spec:
  tracing: {samplingRate: \"1\", zipkin: {endpointAddress: \"http://localhost:9411/api/v2/spans\"}}
";

/// How long a launcher that a failed test leaves may take to stop what it started.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// An app's name that no other run of these tests has: the Dapr CLI finds apps on the whole machine.
fn own(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// A home folder as `dapr init` prepares it, with this binary in place of daprd.
struct Home {
    world: World,
    cli: PathBuf,
}

impl Home {
    fn new() -> Home {
        need(&["python3"]);
        let peers = "crates/dodai/tests/peers";
        let (module, sums) = (format!("{peers}/dapr-cli.mod"), format!("{peers}/dapr-cli.sum"));
        let files = [(&*module, "go.mod"), (&sums, "go.sum")];
        let build = ["go", "build", "-mod=readonly", "-o", "dapr", "github.com/dapr/cli"];
        let cli = built("../tools/dapr-cli-1.16.5", &["go"], &files, &build, "dapr").join("dapr");
        let world = World::new();
        world.write("home/.dapr/components/pubsub.yaml", PUBSUB);
        world.write("home/.dapr/config.yaml", CONFIGURATION);
        world.write("app.py", include_str!("../peers/launched.py"));
        std::fs::create_dir(world.path("home/.dapr/bin")).unwrap();
        std::os::unix::fs::symlink(binary(), world.path("home/.dapr/bin/daprd")).unwrap();
        Home { world, cli }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cli);
        command.args(arguments).current_dir(self.world.path(""));
        command.env("HOME", self.world.path("home")).env("DODAI_RUNTIME_DIR", self.world.path("run"));
        command.env_remove("DAPR_API_TOKEN").env_remove("DAPR_RUNTIME_PATH");
        command
    }

    fn dapr(&self, arguments: &[&str]) -> String {
        let done = Done::of(&mut self.command(arguments));
        assert!(done.status.success(), "dapr {}: {}", arguments.join(" "), done.all());
        done.all()
    }

    /// The running sidecar of an app, as `dapr list` shows it.
    fn listed(&self, app: &str) -> Option<Value> {
        let all: Value = serde_json::from_str(&self.dapr(&["list", "-o", "json"])).ok()?;
        all.as_array()?.iter().find(|one| one["appId"] == app).cloned()
    }

    fn start(&self, arguments: &[&str]) -> Launched {
        let log = self.world.path("dapr.log");
        let file = std::fs::File::create(&log).unwrap();
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).process_group(0);
        Launched { child: command.spawn().unwrap(), log }
    }
}

/// A running `dapr run`. One that a failed test leaves is asked to stop what it started.
struct Launched {
    child: Child,
    log: PathBuf,
}

impl Launched {
    fn said(&self, words: &str) -> bool {
        read(&self.log).contains(words)
    }

    /// Waits for the end that `dapr stop` brings.
    fn ended(&mut self) {
        let child = std::cell::RefCell::new(&mut self.child);
        until("the launcher ends", || child.borrow_mut().try_wait().unwrap().is_some());
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _asked = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
            let end = Instant::now() + STOPS_WITHIN;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            // It leads a group; what is left of that goes too.
            let _killed =
                Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
            let _ended = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("dapr run:\n{}", read(&self.log));
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn the_dapr_cli_runs_lists_invokes_publishes_and_stops() {
    let home = Home::new();
    let [port] = free_ports().map(|port| port.to_string());
    let id = &*own("launched");
    let mut run = home.start(&["run", "--app-id", id, "--app-port", &port, "--", "python3", "app.py", &port]);
    until("it runs", || run.said("You're up and running!"));
    let listed = home.listed(id).unwrap();
    assert_eq!(listed["appPort"].to_string(), port, "{listed}");
    let invoked = home.dapr(&["invoke", "--app-id", id, "--method", "env", "--verb", "GET"]);
    let env: Value = serde_json::from_str(invoked.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&env["APP_ID"], &env["DAPR_HTTP_PORT"]),
        (&id.into(), &listed["httpPort"].to_string().into())
    );
    until("an event came", || {
        let data = ["--topic", "orders", "--data", r#"{"n": 1}"#];
        home.dapr(&[&["publish", "--publish-app-id", id, "--pubsub", "pubsub"][..], &data].concat());
        run.said(r#"== APP == heard {"n": 1}"#)
    });
    assert!(home.dapr(&["stop", "--app-id", id]).contains("app stopped successfully"));
    run.ended();
    assert!(run.said("Exited Dapr successfully") && home.listed(id).is_none());
}

#[test]
fn the_dapr_cli_runs_a_file_of_several_apps() {
    let home = Home::new();
    let [first, second] = free_ports();
    let app = |id: &str, port: u16| {
        format!(
            "  - {{appID: {id}, appDirPath: ., appPort: {port}, command: [python3, app.py, \"{port}\"]}}\n"
        )
    };
    let (one, two) = (&*own("filed-one"), &*own("filed-two"));
    let apps = app(one, first) + &app(two, second);
    home.world.write("dapr.yaml", &format!("version: 1\napps:\n{apps}"));
    let mut run = home.start(&["run", "-f", "dapr.yaml"]);
    until("both are started", || {
        [one, two].iter().all(|id| run.said(&format!("Started Dapr with app id \"{id}\"")))
    });
    for id in [one, two] {
        until("it answers", || {
            let invoke = ["invoke", "--app-id", id, "--method", "env", "--verb", "GET"];
            Done::of(&mut home.command(&invoke)).all().contains(&format!("\"APP_ID\": \"{id}\""))
        });
    }
    // One sidecar finds the other.
    let http = home.listed(one).unwrap()["httpPort"].as_u64().unwrap();
    let http = u16::try_from(http).unwrap();
    until("one calls the other", || {
        let called = crate::project::get(http, &format!("/v1.0/invoke/{two}/method/env"));
        called.is_ok_and(|env| env.contains(&format!("\"APP_ID\": \"{two}\"")))
    });
    home.dapr(&["stop", "-f", "dapr.yaml"]);
    run.ended();
    assert!(home.listed(one).is_none() && home.listed(two).is_none());
}
