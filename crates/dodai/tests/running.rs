//! How a long-running command begins and ends: readiness that is told, signals, builds, metrics.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use crate::project::{DEADLINE, binary, until};
use crate::site::{PYTHON, Site, free_ports, gateway, process, route};
use crate::wire::{Wire, get};

const HTTP: &str = "  services: [{name: http}]";

fn documents(port: u16) -> String {
    [
        process("plain", &[PYTHON, "plain.py"], HTTP),
        gateway("front", &[format!("{{name: http, port: {port}, protocol: HTTP}}")]),
        route("all", "name: front", &[("/", "plain")]),
    ]
    .concat()
}

/// A command in the foreground whose lines are read as they come.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    fn start(site: &Site, arguments: &[&str]) -> Running {
        let mut child = Command::new(binary())
            .args(arguments)
            .current_dir(site.folder())
            .env_remove("DODAI_SERVER")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (say, lines) = mpsc::sync_channel(1000);
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if say.send(line).is_err() {
                    return;
                }
            }
        });
        Running { child, lines, seen: Vec::new() }
    }

    /// The first line with these words.
    fn line(&mut self, words: &str) -> String {
        let start = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(start.elapsed());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("no `{words}` in {:#?}", self.seen));
            self.seen.push(line.clone());
            if line.contains(words) {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn code(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < DEADLINE, "it does not end");
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

const UP: [&str; 6] = ["up", ".", "--admin", "127.0.0.1:0", "--threads", "1"];
const BASE: [&str; 7] = ["base", "--from", ".", "--admin", "127.0.0.1:0", "--threads", "1"];

#[test]
fn a_signal_drains_what_runs_and_leaves_nothing() {
    for (command, signal) in [(&UP[..], "-INT"), (&UP, "-TERM"), (&BASE, "-TERM")] {
        let site = Site::new("signal");
        let [port] = free_ports();
        // It ends at the first SIGTERM, whatever it is doing: it must not get one before its calls are done.
        site.write("dodai.yaml", documents(port));
        let mut running = Running::start(&site, &[command, &["--metrics", "off"]].concat());
        running.line("management API");
        let mut wire = Wire::to(port);
        wire.send("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na");
        until("the call is under way", || {
            let ps = site.dodai(&["ps", "-o", "json"]);
            let ps: serde_json::Value = serde_json::from_str(ps.out()).unwrap();
            ps["items"][0]["in_flight"] == 1
        });
        running.signal(signal);
        running.line("stopping");
        wire.send("b");
        assert_eq!(wire.answer().status(), 200, "{command:?} {signal}: the call is finished first");
        assert_eq!(running.code(), Some(0), "{command:?} {signal}");
        until("no child is left", || site.left().is_empty());
        assert!(site.admin().is_none(), "nobody finds it any more");
    }
}

#[test]
fn up_says_what_runs_where_it_is_reached_and_how_it_is_stopped() {
    let site = Site::new("told");
    let [port] = free_ports();
    let outside = "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {name: outside}\nspec:\n  external: {addresses: ['127.0.0.1:9']}\n  services: [{name: http}]\n---\n";
    site.write("dodai.yaml", outside.to_owned() + &documents(port));
    let mut running = Running::start(&site, &[&UP[..], &["--metrics", "off"]].concat());
    running.line("stop with Ctrl-C");
    let seen = running.seen.join("\n");
    for (first, then) in [("default/plain", "ready"), ("default/outside", "127.0.0.1:9")] {
        let told = |line: &&String| line.starts_with(first) && line.contains(then);
        assert_eq!(running.seen.iter().filter(told).count(), 1, "{first} {then} in\n{seen}");
    }
    assert!(seen.contains(&format!("gateway/default/front/http: http://127.0.0.1:{port}")), "{seen}");
    running.signal("-INT");
    assert_eq!(running.code(), Some(0));
}

#[test]
fn a_signal_while_it_waits_for_apps_stops_it() {
    let site = Site::new("early");
    // An app that never is ready, so that the command waits for it.
    site.write("dodai.yaml", process("late", &["sleep", "3600"], HTTP));
    for command in [&UP[..], &BASE] {
        for by_request in [false, true] {
            let mut running = Running::start(&site, &[command, &["--metrics", "off"]].concat());
            until("its app has been started", || site.left().iter().any(|one| one.contains("sleep 3600")));
            let start = Instant::now();
            if by_request {
                let down = site.dodai(&["down"]);
                assert!(down.status.success(), "{}", down.all());
            } else {
                running.signal("-TERM");
            }
            assert_eq!(running.code(), Some(0), "{command:?}");
            assert!(start.elapsed().as_secs() < 25, "it did not wait for its app: {:?}", start.elapsed());
            until("no child is left", || site.left().is_empty());
        }
    }
}

#[test]
fn a_second_signal_ends_it_at_once_and_no_app_is_left() {
    let site = Site::new("hurry");
    let [port] = free_ports();
    // It does not end when asked.
    let stubborn = "trap '' TERM; while :; do sleep 1; done";
    site.write("dodai.yaml", [documents(port), process("stubborn", &["sh", "-c", stubborn], "")].concat());
    let mut running = Running::start(&site, &[&UP[..], &["--drain", "3000"]].concat());
    running.line("management API");
    running.signal("-INT");
    running.line("stopping");
    running.signal("-INT");
    let start = Instant::now();
    assert_eq!(running.code(), Some(130));
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    until("no app is left", || site.left().is_empty());
}

#[test]
fn up_in_the_background_says_what_is_not_ready() {
    let site = Site::new("unready");
    let broken = "echo cannot go on >&2; exit 7";
    site.write(
        "dodai.yaml",
        [
            process("plain", &[PYTHON, "plain.py"], HTTP),
            process("broken", &["sh", "-c", broken], "  run: once"),
        ]
        .concat(),
    );
    let up = site.dodai(&["up", ".", "-d", "-o", "json"]);
    assert_eq!(up.status.code(), Some(1), "{}", up.all());
    assert!(up.all().contains("app default/broken") && up.all().contains("dodai down"), "{}", up.all());
    let value: serde_json::Value = serde_json::from_str(up.out()).unwrap();
    assert_eq!(value["notReady"].as_array().unwrap().len(), 1, "{value}");
    assert!(site.dodai(&["ps"]).all().contains("ready"), "the others run");
    site.down();
}

#[test]
fn what_runs_once_runs_before_what_waits_for_it_and_not_again() {
    let site = Site::new("once");
    let [port] = free_ports();
    let script = "if [ -e broken ]; then sleep 1; exit 3; fi; sleep 1; echo ran >> runs";
    let once = process("migrate", &["sh", "-c", script], "  run: once")
        .replace("]}\n", "], restart: {policy: never}}\n");
    let start = format!("[ -s runs ] || echo too early > early; exec {PYTHON} plain.py");
    let waits = process("plain", &["sh", "-c", &start], &format!("{HTTP}\n  dependsOn: [migrate]"));
    let rest = documents(port).split_once("---\n").unwrap().1.to_owned();
    site.write("dodai.yaml", [once, waits, rest].concat());
    site.up();
    assert_eq!(get(port, "/plain").text(), "plain\n");
    let (app, ps) = (site.dodai(&["get", "app/migrate"]), site.dodai(&["ps", "migrate"]));
    assert!(app.out().contains(" 1/1 ") && ps.out().contains(" succeeded "), "{}{}", app.all(), ps.all());
    // Another start finds what is done.
    site.down();
    site.up();
    assert_eq!(std::fs::read_to_string(site.folder().join("runs")).unwrap(), "ran\n");
    let done = site.dodai(&["events"]).all();
    assert!(!done.contains("default/migrate: instance"), "nothing of it was placed again: {done}");
    assert!(!site.folder().join("early").exists(), "the other waited for its end");
    // A rollout of it ends as it does.
    site.write("broken", "");
    let failed = site.dodai(&["restart", "migrate", "--wait"]);
    assert!(!failed.status.success() && failed.all().contains("exit code 3"), "{}", failed.all());
    std::fs::remove_file(site.folder().join("broken")).unwrap();
    let again = site.dodai(&["restart", "migrate", "--wait"]);
    assert!(again.status.success(), "{}", again.all());
    assert_eq!(std::fs::read_to_string(site.folder().join("runs")).unwrap(), "ran\nran\n");
    site.down();
}

#[test]
fn a_start_builds_what_is_not_built_and_says_where_it_failed() {
    let site = Site::new("build");
    let [port] = free_ports();
    let app = "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {name: plain}\nspec:\n  process: {command: [./out/plain], build: {command: [sh, make.sh], workingDirectory: src, inputs: [src]}}\n  services: [{name: http}]\n---\n";
    let rest = documents(port).split_once("---\n").unwrap().1.to_owned();
    site.write("dodai.yaml", format!("{app}{rest}"));
    site.write("src/make.sh", "echo the compiler says no >&2; exit 3");
    let failed = site.try_up();
    assert_eq!(failed.status.code(), Some(1), "{}", failed.all());
    for words in ["building app plain", "/src", "sh make.sh", "3", "the compiler says no"] {
        assert!(failed.all().contains(words), "no `{words}` in {}", failed.all());
    }
    assert!(site.left().is_empty() && site.admin().is_none(), "nothing was started");

    site.write("src/make.sh", "echo built it");
    let nothing = site.try_up();
    assert_eq!(nothing.status.code(), Some(1), "{}", nothing.all());
    assert!(nothing.all().contains("out/plain is not there"), "{}", nothing.all());

    let script = format!(
        "echo built it\nmkdir -p ../out\nprintf '#!/bin/sh\\nexec {PYTHON} plain.py\\n' > ../out/plain\nchmod +x ../out/plain\n"
    );
    site.write("src/make.sh", &script);
    let build = site.dodai(&["build", ".", "-o", "json"]);
    assert!(build.status.success(), "{}", build.all());
    let value: serde_json::Value = serde_json::from_str(build.out()).unwrap();
    assert_eq!(value["built"], serde_json::json!(["plain"]), "what the build says is no part of the value");
    std::fs::remove_dir_all(site.folder().join("out")).unwrap();
    let up = site.try_up();
    assert!(up.status.success() && up.out().contains("built plain in"), "{}", up.all());
    assert_eq!(get(port, "/plain").text(), "plain\n");
    site.down();
}

#[test]
fn a_backup_brings_the_documents_back() {
    let site = Site::new("backup");
    let [port] = free_ports();
    site.write("dodai.yaml", documents(port));
    site.up();
    let namespace =
        |name: &str| format!("apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
    site.write("kept.txt", namespace("kept"));
    site.write("later.txt", namespace("later"));
    assert!(site.dodai(&["apply", "-f", "kept.txt"]).status.success());
    let backup = site.dodai(&["store", "backup", "site.backup"]);
    assert!(backup.status.success(), "{}", backup.all());
    let again = site.dodai(&["store", "backup", "site.backup"]);
    assert_eq!(again.status.code(), Some(1), "a backup is not written over: {}", again.all());
    let verify = site.dodai(&["store", "verify", "site.backup"]);
    assert!(verify.status.success() && verify.all().contains("sound"), "{}", verify.all());
    assert!(site.dodai(&["apply", "-f", "later.txt"]).status.success());
    let running = site.dodai(&["store", "restore", "site.backup"]);
    assert_eq!(running.status.code(), Some(1), "{}", running.all());
    assert!(running.all().contains("dodai down"), "{}", running.all());
    site.down();
    site.write("broken.backup", "no store");
    assert_eq!(site.dodai(&["store", "restore", "broken.backup"]).status.code(), Some(1));
    let restore = site.dodai(&["store", "restore", "site.backup"]);
    assert!(restore.status.success(), "{}", restore.all());
    site.up();
    let namespaces = site.dodai(&["get", "namespaces"]).all();
    assert!(namespaces.contains("kept") && !namespaces.contains("later"), "{namespaces}");
    assert_eq!(get(port, "/plain").text(), "plain\n");
    site.down();
}

#[test]
fn a_process_is_started_anew_when_its_script_changes_and_when_asked() {
    let site = Site::new("anew");
    let [port] = free_ports();
    site.write("dodai.yaml", documents(port));
    let mut running = Running::start(&site, &[&UP[..], &["--watch", "--metrics", "off"]].concat());
    running.line("management API");
    assert_eq!(get(port, "/plain").text(), "plain\n");
    let instance = || {
        let ps = site.dodai(&["ps", "-o", "json"]);
        let ps: serde_json::Value = serde_json::from_str(ps.out()).unwrap();
        ps["items"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect::<Vec<_>>()
    };
    let before = instance();
    let script = std::fs::read_to_string(site.folder().join("plain.py")).unwrap();
    site.write("plain.py", script.replace("plain\\n", "changed\\n"));
    until("the new script answers", || get(port, "/plain").text() == "changed\n");
    until("the old instance is gone", || instance().len() == 1);
    let changed = instance();
    assert_ne!(changed, before);
    let restart = site.dodai(&["restart", "plain", "--wait"]);
    assert!(restart.status.success() && restart.all().contains("drained"), "{}", restart.all());
    assert!(instance().len() == 1 && instance() != changed, "{:?}", instance());
    assert_eq!(get(port, "/plain").text(), "changed\n");
    // Written again as it is, the restart stays what it was.
    let restarted = instance();
    assert!(site.dodai(&["apply", "-f", "dodai.yaml"]).status.success());
    assert_eq!(instance(), restarted);
    let nobody = site.dodai(&["restart", "nobody"]);
    assert_eq!(nobody.status.code(), Some(4), "{}", nobody.all());
    running.signal("-TERM");
    assert_eq!(running.code(), Some(0));
}

#[test]
fn metrics_are_scraped_without_a_token() {
    let site = Site::new("scrape");
    let [port] = free_ports();
    site.write("dodai.yaml", documents(port));
    for command in [&UP[..], &BASE] {
        let mut running = Running::start(&site, &[command, &["--metrics", "127.0.0.1:0"]].concat());
        let line = running.line("metrics: ");
        let address = line.split("http://127.0.0.1:").nth(1).unwrap().trim_end_matches("/metrics");
        let metrics: u16 = address.parse().unwrap();
        running.line("management API");
        assert_eq!(get(port, "/plain").status(), 200);
        let scrape = |path: &str| {
            let head =
                format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{metrics}\r\nConnection: close\r\n\r\n");
            Wire::to(metrics).ask(&head)
        };
        assert_eq!(scrape("/metrics").status(), 200);
        let calls = |text: &str| {
            text.lines().any(|line| line.starts_with("dodai_calls_total{") && line.contains("plain"))
        };
        until("the call is counted", || calls(scrape("/metrics").text()));
        assert_eq!(scrape("/v1/status").status(), 404, "nothing else is told there");
        assert_eq!(get(metrics, "/metrics").status(), 421, "under a name that a page may have rebound");
        running.signal("-TERM");
        assert_eq!(running.code(), Some(0));
    }
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let up = site.dodai(&["up", ".", "--metrics", &taken]);
    assert_eq!(up.status.code(), Some(1), "{}", up.all());
    assert!(up.all().contains("--metrics"), "{}", up.all());
}

#[test]
fn the_management_api_is_reached_from_other_machines_by_its_address() {
    let site = Site::new("remote");
    let [port] = free_ports();
    site.write("dodai.yaml", documents(port));
    let mut running =
        Running::start(&site, &["up", ".", "--admin", "0.0.0.0:0", "--admin-host", "dodai.internal"]);
    running.line("management API");
    let admin = site.admin().unwrap();
    let own = admin["address"].as_str().unwrap();
    let api: u16 = own.rsplit_once(':').unwrap().1.parse().unwrap();
    assert!(own.starts_with("127.0.0.1:"), "commands on this machine reach it: {own}");
    assert!(site.dodai(&["ps"]).status.success());
    let token = admin["token"].as_str().unwrap();
    for (host, expect) in [
        ("192.0.2.7:7070", 200),
        ("[2001:db8::1]:7070", 200),
        ("dodai.internal:7070", 200),
        ("evil.example", 421),
    ] {
        let mut wire = Wire::to(api);
        wire.send(format!(
            "GET /v1/status HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"
        ));
        assert_eq!(wire.answer().status(), expect, "{host}");
    }
    running.signal("-TERM");
    assert_eq!(running.code(), Some(0));
}
