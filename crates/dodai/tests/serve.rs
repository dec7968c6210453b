//! `dodai serve`: one component behind a port, and what is left when it goes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

use crate::project::{Done, binary, get, until};

fn hello() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hello/artifacts/hello-v1.wasm")
}

/// A folder for everything that a run makes, and by whose name its processes are found.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::Builder::new().prefix("dodai-served-").tempdir().unwrap())
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("TMPDIR", self.0.path()).current_dir(self.0.path());
        command
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    /// What lies in it.
    fn entries(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// The living processes that were started with it as their place for temporary files.
    fn processes(&self) -> Vec<String> {
        let mark = format!("TMPDIR={}", self.0.path().display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let variables = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if variables.split(|byte| *byte == 0).any(|one| one == mark.as_bytes()) {
                found.push(entry.file_name().display().to_string());
            }
        }
        found
    }
}

/// A running `dodai serve`, ended whatever happens.
struct Served {
    child: Child,
    said: BufReader<ChildStderr>,
    port: u16,
}

impl Served {
    /// Starts it and reads the first thing it says, which is where it listens.
    fn start(mut command: Command) -> Served {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let port = line.trim_end().strip_prefix("http://127.0.0.1:").and_then(|port| port.parse().ok());
        Served { child, said, port: port.unwrap_or_else(|| panic!("the first line is no URL: {line}")) }
    }

    fn signal(&self, signal: &str) {
        signal_to(self.child.id(), signal);
    }

    /// Waits for its end; how it ended and what it said last.
    fn end(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn signal_to(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

fn serve(place: &Place, component: &Path, more: &[&str]) -> Command {
    let mut command = place.command(binary());
    command.arg("serve").arg(component).args(["--addr", "127.0.0.1:0"]).args(more);
    command
}

#[test]
fn a_component_is_served_until_it_is_interrupted() {
    let place = Place::new();
    let served = Served::start(serve(&place, &hello(), &["--config", "greeting=hei", "--reuse"]));
    assert_eq!(get(served.port, "/"), Ok("hello from v1\n".to_owned()));
    assert_eq!(get(served.port, "/config?key=greeting"), Ok("hei".to_owned()));
    let refused = get(served.port, "/call?url=http://example.com/").unwrap_err();
    assert!(refused.contains(" 502 "), "no host is allowed by itself: {refused}");
    let made = place.entries();
    let [folder] = made.as_slice() else { panic!("{made:?}") };
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o7777, 0o700, "nobody else gets in");
    served.signal("-INT");
    let (status, rest) = served.end();
    assert_eq!(status.code(), Some(0), "{rest}");
    assert_eq!(place.entries(), Vec::<PathBuf>::new(), "its folder is gone");
    assert_eq!(place.processes(), Vec::<String>::new());
}

#[test]
fn a_second_signal_waits_for_no_call() {
    let place = Place::new();
    let served = Served::start(serve(&place, &hello(), &[]));
    let mut slow = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    // More than fits into any buffer on the way, so the call lasts for as long as nobody reads on.
    write!(slow, "GET /stream?n=4000&size=65536 HTTP/1.1\r\nHost: hello\r\n\r\n").unwrap();
    slow.read_exact(&mut [0; 1024]).unwrap();
    served.signal("-INT");
    let port = served.port;
    until("it takes no new connection", || TcpStream::connect(("127.0.0.1", port)).is_err());
    served.signal("-INT");
    let (status, rest) = served.end();
    assert_eq!(status.code(), Some(130), "{rest}");
    assert_eq!(place.entries(), Vec::<PathBuf>::new(), "its folder is gone");
}

#[test]
fn a_folder_that_somebody_has_prepared_is_not_used() {
    let place = Place::new();
    let binary = binary();
    let script = "mkdir -m 777 \"$TMPDIR/dodai-serve-$$\" && echo planted > \"$TMPDIR/dodai-serve-$$/seal.key\"; \
        exec \"$0\" serve \"$1\" --addr 127.0.0.1:0";
    let mut command = place.command("sh");
    command.args(["-c", script]).arg(binary).arg(hello());
    let served = Served::start(command);
    let prepared = place.0.path().join(format!("dodai-serve-{}", served.child.id()));
    assert_eq!(std::fs::read_dir(&prepared).unwrap().count(), 1, "nothing was put there");
    assert_eq!(get(served.port, "/"), Ok("hello from v1\n".to_owned()));
    served.signal("-TERM");
    assert_eq!(served.end().0.code(), Some(0));
    assert_eq!(place.entries(), [prepared], "and it is still as it was");
}

#[test]
fn what_cannot_be_served_is_told_and_leaves_nothing() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let core = b"\0asm\x01\0\0\0";
    for (component, more, words) in [
        ("missing.wasm".to_owned(), &[][..], "cannot read missing.wasm"),
        (place.write("text.wasm", "hello\n"), &[], "is not WebAssembly"),
        (place.write("core.wasm", core), &[], "is not a component but a core module"),
        (place.write("cut.wasm", &std::fs::read(hello()).unwrap()[..5000]), &[], "cut"),
        (hello().display().to_string(), &["--config", "greeting"], "write KEY=VALUE"),
        (hello().display().to_string(), &["--addr", &address], "is taken by pid"),
    ] {
        let before = place.entries();
        let mut command = place.command(binary());
        command.args(["serve", &component]);
        if !more.contains(&"--addr") {
            command.args(["--addr", "127.0.0.1:0"]);
        }
        let done = Done::of(command.args(more));
        assert_eq!(done.status.code(), Some(1), "{component}: {}", done.all());
        assert!(done.all().contains(words), "{component}: {}", done.all());
        assert_eq!(place.entries(), before, "{component}: nothing is left");
    }
}

#[test]
fn a_killed_server_leaves_no_process() {
    let place = Place::new();
    let served = Served::start(serve(&place, &hello(), &[]));
    served.signal("-KILL");
    assert_eq!(served.end().0.code(), None);
    until("nothing runs", || place.processes().is_empty());

    // While its compiler runs, which ends by itself at the latest with its work.
    let mut child = serve(&place, &hello(), &[]).stderr(Stdio::null()).spawn().unwrap();
    let compiled = || place.entries().iter().any(|folder| code_in(folder) > 1);
    until("the compiler has started", || place.processes().len() > 1 || compiled());
    child.kill().unwrap();
    child.wait().unwrap();
    until("nothing runs", || place.processes().is_empty());
}

/// How many files there are among the compiled code, the key included.
fn code_in(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("code")).map_or(0, Iterator::count)
}
