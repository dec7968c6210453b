//! What goes wrong around a running system, and what must then still go right.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::project::{Project, until};
use crate::site::{PYTHON, Site, free_ports, gateway, process, route};
use crate::wire::{Answer, Wire, get, request};

const HTTP: &str = "  services: [{name: http}]";
const STATE: &str = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: state}\nspec:\n  type: state.sqlite\n  version: v1\n  metadata: [{name: connectionString, value: state.db}]\n---\n";

/// A plain app and one that keeps state, behind a gateway on `port`.
fn documents(port: u16) -> String {
    [
        process("plain", &[PYTHON, "plain.py"], HTTP),
        process("keeper", &[PYTHON, "keeper.py"], HTTP),
        STATE.to_owned(),
        gateway("front", &[format!("{{name: http, port: {port}, protocol: HTTP}}")]),
        route("all", "name: front", &[("/keys", "keeper"), ("/", "plain")]).replace(
            "      backendRefs: [{name: keeper}]",
            "      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]\n      backendRefs: [{name: keeper}]",
        ),
    ]
    .concat()
}

fn put(port: u16, key: &str, value: &str) -> Option<u16> {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let length = value.len();
        write!(
            stream,
            "PUT /keys/{key} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{value}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    exchange().ok()?.split(' ').nth(1)?.parse().ok()
}

#[test]
fn a_crashed_app_is_told_at_once_and_others_go_on() {
    let site = Site::new("crash");
    let [port] = free_ports();
    let once = "test -e started && exec sleep 3600; touch started; exec /usr/bin/python3 plain.py";
    let documents = [
        process("fragile", &["sh", "-c", once], HTTP),
        process("sturdy", &[PYTHON, "plain.py"], HTTP),
        gateway("front", &[format!("{{name: http, port: {port}, protocol: HTTP}}")]),
        route("all", "name: front", &[("/crash", "fragile"), ("/fragile", "fragile"), ("/", "sturdy")]),
    ];
    site.write("dodai.yaml", documents.concat());
    site.up();
    let mut other = Wire::to(port);
    assert_eq!(other.ask(&request("GET", "/plain", "")).text(), "plain\n");
    assert_eq!(get(port, "/fragile").status(), 200);
    let mut crashing = Wire::to(port);
    let hit = crashing.ask(&request("GET", "/crash", ""));
    assert!(matches!(hit.status(), 502 | 503), "the call that it crashed on: {hit:?}");
    let start = Instant::now();
    let after = get(port, "/fragile");
    assert!(start.elapsed() < Duration::from_secs(2), "nobody waits for it: {:?}", start.elapsed());
    assert_eq!(after.status(), 503, "{after:?}");
    assert!(after.text().contains("fragile"), "it says who is missing: {}", after.text());
    assert_eq!(
        other.ask(&request("GET", "/plain", "")).text(),
        "plain\n",
        "a connection to another app stays"
    );
    site.down();
}

#[test]
fn two_projects_on_one_machine_leave_each_other_alone() {
    let [first_port, second_port] = free_ports();
    let first = Site::new("first");
    first.write("dodai.yaml", documents(first_port));
    first.up();
    let pid = get(first_port, "/pid").text().to_owned();
    let second = Site::new("second");
    second.write("dodai.yaml", documents(second_port));
    second.up();
    assert_eq!(get(first_port, "/pid").text(), pid, "its app is still the same process");
    second.down();
    assert_eq!(get(first_port, "/pid").text(), pid);
    first.down();
}

#[test]
fn a_taken_port_names_its_holder() {
    let site = Site::new("taken");
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    site.write("dodai.yaml", documents(port));
    let up = site.try_up();
    assert_eq!(up.status.code(), Some(1), "{}", up.all());
    assert!(up.all().contains("not everything is ready"), "{}", up.all());
    let expect = format!("port {port} is taken by pid {}", std::process::id());
    assert!(up.all().contains(&expect), "{}", up.all());
    drop(holder);
    until("the port is tried again", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    until("calls get through", || get(port, "/plain").status() == 200);
    site.down();
}

#[test]
fn a_listener_without_its_certificate_holds_nothing_else_up() {
    let site = Site::new("nocert");
    let [port, secure] = free_ports();
    let other = format!(
        "---\napiVersion: dodai.dev/v1\nkind: Gateway\nmetadata: {{name: other}}\nspec:\n  listeners:\n    - {{name: secure, address: 127.0.0.1, port: {secure}, protocol: HTTPS, tls: {{certificateFile: no.pem, keyFile: no.key}}}}\n"
    );
    site.write("dodai.yaml", documents(port) + &other);
    let up = site.try_up();
    assert_eq!(up.status.code(), Some(1), "{}", up.all());
    assert!(up.all().contains("listener gateway/default/other/secure: cannot read"), "{}", up.all());
    assert_eq!(get(port, "/plain").text(), "plain\n", "the rest serves");
    let described = site.dodai(&["describe", "gateway", "other"]).all();
    assert!(described.contains("no.pem"), "{described}");
    site.down();
}

#[test]
fn data_that_another_server_uses_is_left_alone() {
    let site = Site::new("locked");
    let [port] = free_ports();
    site.write("dodai.yaml", documents(port));
    site.up();
    let admin = std::fs::read(site.data().join("admin.json")).unwrap();
    // Without the file that tells of the server, the store itself must notice.
    std::fs::remove_file(site.data().join("admin.json")).unwrap();
    let second = site.dodai(&["up", "."]);
    assert!(!second.status.success(), "{}", second.all());
    let told = second.all();
    assert!(told.contains("store.db") && told.contains("another"), "{told}");
    assert_eq!(get(port, "/plain").status(), 200, "the first one goes on");
    std::fs::write(site.data().join("admin.json"), admin).unwrap();
    site.down();
}

/// A small file system of its own, gone with this value.
struct Small(tempfile::TempDir);

impl Small {
    /// `None` where nothing may be mounted.
    fn mount(megabytes: usize) -> Option<Small> {
        let folder = tempfile::Builder::new().prefix("dodai-small-").tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        mount.is_ok_and(|mount| mount.status.success()).then(|| Small(folder))
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut file =
            std::fs::OpenOptions::new().create(true).append(true).open(self.0.path().join("fill")).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.0.path().join("fill")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn with_a_full_disk_reads_and_traffic_go_on_and_writes_say_so() {
    let Some(small) = Small::mount(64) else {
        // Not `eprintln`, which the test harness keeps to itself when the test passes.
        let _said = writeln!(
            std::io::stderr(),
            "SKIPPED: a full disk needs a file system of its own, and mounting one needs root"
        );
        return;
    };
    let site = Site::new("full").with_data(small.0.path().join("data"));
    let [port] = free_ports();
    site.write("dodai.yaml", documents(port));
    site.write("more.txt", "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: {name: more}\n");
    site.up();
    assert_eq!(put(port, "before", "kept"), Some(204));
    small.fill();
    let refused = site.dodai(&["apply", "-f", "more.txt"]);
    assert!(!refused.status.success(), "{}", refused.all());
    let told = refused.all();
    assert!(told.contains("full") || told.contains("space"), "it says why: {told}");
    let status = put(port, "during", &"x".repeat(500_000)).unwrap();
    assert!(status >= 500, "state is not kept, and that is told: {status}");
    assert_eq!(get(port, "/plain").text(), "plain\n", "traffic goes on");
    assert_eq!(get(port, "/keys/before").text(), "\"kept\"", "state is read");
    assert!(site.dodai(&["get", "apps"]).all().contains("keeper"), "documents are read");
    small.free();
    let applied = site.dodai(&["apply", "-f", "more.txt"]);
    assert!(applied.status.success(), "with space again: {}", applied.all());
    assert_eq!(put(port, "after", "kept"), Some(204));
    site.down();
}

/// Another program that holds the right to write a database, until it is dropped.
struct Holder(Child);

impl Holder {
    fn of(database: &Path) -> Holder {
        const HOLD: &str = "import sqlite3, sys\n\
            held = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
            held.execute('BEGIN IMMEDIATE')\n\
            print('held', flush=True)\n\
            sys.stdin.read()\n";
        let mut python = Command::new("python3");
        let mut child = python
            .args(["-c", HOLD])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "held\n");
        Holder(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ended = self.0.wait();
    }
}

#[test]
fn while_another_program_holds_the_store_reads_and_traffic_go_on_and_writes_say_so() {
    let site = Site::new("held");
    let [port] = free_ports();
    site.write("dodai.yaml", documents(port));
    site.write("more.txt", "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: {name: more}\n");
    site.up();
    let holder = Holder::of(&site.data().join("store.db"));
    let refused = site.dodai(&["apply", "-f", "more.txt"]);
    assert!(!refused.status.success(), "{}", refused.all());
    assert!(refused.all().contains("locked by another program"), "it says why: {}", refused.all());
    assert_eq!(get(port, "/plain").text(), "plain\n", "traffic goes on");
    assert!(site.dodai(&["get", "apps"]).all().contains("keeper"), "documents are read");
    drop(holder);
    let applied = site.dodai(&["apply", "-f", "more.txt"]);
    assert!(applied.status.success(), "once it is free: {}", applied.all());
    site.down();
}

/// Writes until told to stop; what was acknowledged, in order.
fn writer(port: u16, name: String, stop: Arc<AtomicBool>, kept: Arc<Mutex<Vec<String>>>) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("{name}-{number}");
        if put(port, &key, &key) == Some(204) {
            kept.lock().unwrap().push(key);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a longer run is asked for by the environment")]
fn rounds() -> usize {
    std::env::var("DODAI_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(8)
}

#[test]
fn a_server_killed_while_it_writes_keeps_every_acknowledged_write() {
    let site = Site::new("killed");
    let [port] = free_ports();
    site.write("dodai.yaml", documents(port));
    let kept: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut documents = 0;
    for round in 0..rounds() {
        site.up();
        let stop = Arc::new(AtomicBool::new(false));
        let before = kept.lock().unwrap().len();
        let writers: Vec<_> = (0..3)
            .map(|one| {
                let (name, stop, kept) = (format!("r{round}w{one}"), stop.clone(), kept.clone());
                std::thread::spawn(move || writer(port, name, stop, kept))
            })
            .collect();
        site.write(
            "more.txt",
            format!("apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: {{name: n-{round}}}\n"),
        );
        let applied = site.dodai(&["apply", "-f", "more.txt"]).status.success();
        assert!(applied, "round {round}");
        documents += 1;
        // A moment that is different in every round.
        until("writes are under way", || kept.lock().unwrap().len() > before + round * 3);
        let pid = site.pid().to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap();
        }
        until("its apps have ended with it", || site.left().is_empty());
    }
    site.up();
    let kept = kept.lock().unwrap();
    let mut wire = Wire::to(port);
    for key in kept.iter() {
        let found: Answer = wire.ask(&request("GET", &format!("/keys/{key}"), ""));
        assert_eq!(found.text(), format!("\"{key}\""), "of {} writes", kept.len());
    }
    let namespaces = site.dodai(&["get", "namespaces"]).all();
    for number in 0..documents {
        assert!(namespaces.contains(&format!("n-{number}")), "{namespaces}");
    }
    println!("{} writes in {} rounds", kept.len(), rounds());
    site.down();
}

#[test]
fn a_job_of_a_killed_server_runs_once_it_is_back() {
    let site = Site::new("jobs");
    let [port] = free_ports();
    site.write("dodai.yaml", documents(port));
    site.up();
    until("a job is kept", || put(port, "later/alarm", "3s") == Some(204));
    let due = Instant::now() + Duration::from_secs(3);
    assert!(site.data().join("jobs.db").exists(), "beside what else the base keeps");
    assert!(Command::new("kill").args(["-9", &site.pid().to_string()]).status().unwrap().success());
    until("its apps have ended with it", || site.left().is_empty());
    until("it falls due while nobody runs", || Instant::now() > due);
    site.up();
    until("it has run", || get(port, "/keys/ran-alarm").text() == "\"yes\"");
    site.down();
}

#[test]
fn malformed_input_is_refused_with_its_place_and_disturbs_nothing() {
    let project = Project::new("malformed");
    let up = project.dodai(&["up", &project.path(), "-d", "--threads", "1", "--admin", "127.0.0.1:0"]);
    assert!(up.status.success(), "{}", up.all());
    let serves = || assert_eq!(crate::project::get(project.port, "/"), Ok("hello from v1\n".to_owned()));

    project.write("bad.wasm", "\0asm this is no component");
    let deploy = project.dodai(&["deploy", "hello", "bad.wasm", "--wait"]);
    assert!(!deploy.status.success(), "{}", deploy.all());
    assert!(deploy.all().contains("bad.wasm") || deploy.all().contains("component"), "{}", deploy.all());
    serves();
    project.write("none.txt", "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {name: [x\n");
    let none = project.dodai(&["apply", "-f", "none.txt"]);
    assert_eq!(none.status.code(), Some(3), "{}", none.all());
    assert!(none.all().contains("none.txt:"), "{}", none.all());
    serves();

    let frames: [(&str, &[u8]); 4] = [
        ("a frame longer than allowed", b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"),
        ("DATA on a stream that is not open", b"\x00\x00\x01\x00\x00\x00\x00\x00\x05x"),
        ("SETTINGS of a wrong length", b"\x00\x00\x05\x04\x00\x00\x00\x00\x00hello"),
        ("HEADERS that do not decode", b"\x00\x00\x04\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff"),
    ];
    for (what, frame) in frames {
        let mut wire = Wire::to(project.port);
        wire.send(
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".as_slice(), frame]
                .concat(),
        );
        let answer = wire.rest();
        let goaway = frames_of(&answer).any(|kind| kind == 7);
        assert!(goaway, "{what} ends the connection with a GOAWAY: {answer:?}");
        serves();
    }
    let down = project.dodai(&["down"]);
    assert!(down.status.success(), "{}", down.all());
}

/// The types of the HTTP/2 frames in `bytes`.
fn frames_of(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let head = rest.get(..9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        rest = rest.get(9 + length..).unwrap_or_default();
        Some(head[3])
    })
}
