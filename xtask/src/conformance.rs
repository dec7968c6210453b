//! `cargo xtask conformance`: h2spec, the test suite for HTTP/2 servers, against a gateway: in TLS, where every case must
//! pass, and without.
//!
//! It comes through Go's module proxy, pinned by version; where there is no Go the check is skipped, and says so.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::ci::Outcome;
use crate::packages;
use crate::process::{Tool, find_program};
use crate::workspace::Workspace;

const SUITE: &str = "github.com/summerwind/h2spec/cmd/h2spec";
const VERSION: &str = "v2.2.1+incompatible";
/// Fewer cases than this mean that the suite did not run.
const LEAST_CASES: u32 = 140;
/// Without TLS a listener speaks HTTP/1 as well, and answers what is no preface of HTTP/2 with 400 before it hangs up.
const NOT_WITHOUT_TLS: &str = "2: Sends invalid connection preface";
/// How long a server may take to listen.
const START: Duration = Duration::from_secs(60);

pub fn check(workspace: &Workspace) -> Result<Outcome> {
    if find_program("go").is_none() {
        return Ok(Outcome::Skipped("h2spec is built by Go, which is not installed".to_owned()));
    }
    packages::ensure_tests(workspace)?;
    let suite = match install(workspace) {
        Ok(suite) => suite,
        Err(error) => return Ok(Outcome::Skipped(format!("h2spec cannot be had here: {error:#}"))),
    };
    let binary = workspace.binary()?;
    let folder = workspace.target.join("tmp/h2spec");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).context("removing what an earlier run left")?;
    }
    std::fs::create_dir_all(&folder).context("making a folder for the gateway's documents")?;
    let [backend, plain, secure] = free_ports()?;
    project(&folder, backend, plain, secure)?;
    let _endpoint = Server::start("nghttpd", &["--no-tls", "-d", "/", &backend.to_string()])?;
    let data = folder.join("data");
    let (from, data) = (folder.to_string_lossy(), data.to_string_lossy());
    let _base = Server::start(&binary.to_string_lossy(), &["base", "--from", &from, "--data", &data])?;
    for port in [backend, plain, secure] {
        await_port(port)?;
    }
    run(workspace, &suite, secure, &["-t", "-k"], &[])?;
    run(workspace, &suite, plain, &[], &[NOT_WITHOUT_TLS])?;
    Ok(Outcome::Passed)
}

fn install(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target.join("tools").join(format!("h2spec-{VERSION}"));
    let program = folder.join("h2spec");
    if !program.is_file() {
        Tool::new("go", &workspace.root)
            .args(["install", &format!("{SUITE}@{VERSION}")])
            .env("GOBIN", &folder)
            .env("GOFLAGS", "-mod=mod")
            .run()?;
    }
    Ok(program)
}

fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let bound: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&bound) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// A gateway with both listeners before an endpoint that speaks HTTP/2.
fn project(folder: &Path, backend: u16, plain: u16, secure: u16) -> Result<()> {
    Tool::new("openssl", folder)
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .stderr()?;
    let documents = format!(
        "apiVersion: dodai.dev/v1
kind: App
metadata: {{name: backend}}
spec:
  external: {{addresses: [\"127.0.0.1:{backend}\"]}}
  services: [{{name: main, port: {backend}, protocol: http2}}]
---
apiVersion: dodai.dev/v1
kind: Gateway
metadata: {{name: front}}
spec:
  listeners:
    - {{name: plain, port: {plain}, protocol: HTTP}}
    - {{name: secure, port: {secure}, protocol: HTTPS, tls: {{certificateFile: cert.pem, keyFile: key.pem}}}}
---
apiVersion: dodai.dev/v1
kind: Route
metadata: {{name: all}}
spec:
  parentRefs: [{{name: front}}]
  rules: [{{backendRefs: [{{name: backend}}]}}]
"
    );
    std::fs::write(folder.join("dodai.yaml"), documents).context("writing the gateway's documents")
}

/// A server that ends with its owner.
struct Server(Child);

impl Server {
    fn start(program: &str, args: &[&str]) -> Result<Server> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Server).with_context(|| format!("starting {program}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which the suite has noticed then.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn await_port(port: u16) -> Result<()> {
    let start = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if start.elapsed() > START {
            bail!("nothing listens on port {port} after {START:?}");
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

/// Runs the suite, the strict cases too; cases that are not among `allowed` must pass.
fn run(workspace: &Workspace, suite: &Path, port: u16, args: &[&str], allowed: &[&str]) -> Result<()> {
    let mut command = Command::new(suite);
    command.args(["-S", "-h", "127.0.0.1", "-p", &port.to_string()]).args(args);
    let output = command.current_dir(&workspace.root).output().context("starting h2spec")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (cases, failed) = verdict(&text)?;
    println!("h2spec {}: {cases} cases, failed: {failed:?}", args.join(" "));
    let wrong: Vec<&String> = failed.iter().filter(|case| !allowed.contains(&case.as_str())).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("h2spec {} fails:\n{text}", args.join(" "))
}

/// How many cases ran, and which failed, as the report says.
fn verdict(text: &str) -> Result<(u32, Vec<String>)> {
    let summary = text.lines().find(|line| line.contains(" tests, ")).context("h2spec printed no summary")?;
    let cases: u32 = summary.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
    if cases < LEAST_CASES {
        bail!("h2spec ran {cases} cases; there are more than {LEAST_CASES}");
    }
    let report = text.split_once("Failures:").map_or("", |(_, report)| report);
    let failed = report.lines().filter_map(|line| line.trim().strip_prefix("× ")).map(str::to_owned);
    Ok((cases, failed.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_what_failed() {
        let text = "  × 2: Sends x\n\nFailures: \n\nHypertext\n  3.5. Preface\n      × 2: Sends x\n\
                    \x20       -> must not\n\nFinished in 0.1 seconds\n145 tests, 144 passed, 0 skipped, 1 failed\n";
        assert_eq!(verdict(text).expect("read"), (145, vec!["2: Sends x".to_owned()]));
        assert!(verdict("0 tests, 0 passed, 0 skipped, 0 failed").is_err());
        assert!(verdict("").is_err());
    }
}
