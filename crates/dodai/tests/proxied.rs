//! The PROXY protocol with the proxy it comes from: in front of a gateway, and as an endpoint that wants to be told.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use crate::project::until;
use crate::site::{PYTHON, Site, bytes_to, free_ports, gateway, process, route};

/// A client that is somebody else than the proxy is.
const CLIENT: &str = "127.0.0.9";

/// Ends with the test.
struct Haproxy(Child);

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// What curl gets when it calls from [`CLIENT`].
fn curl(site: &Site, url: &str) -> String {
    let got =
        site.command("curl", &["-sS", "--fail-with-body", "--max-time", "20", "--interface", CLIENT, url]);
    assert!(got.status.success(), "{url}: {}", got.all());
    got.out().to_owned()
}

#[test]
fn haproxy_says_who_calls_and_is_told() {
    if Command::new("haproxy").arg("-v").stdout(Stdio::null()).status().is_err() {
        let _said = writeln!(std::io::stderr(), "SKIPPED: no haproxy is installed");
        return;
    }
    let site = Site::new("proxied");
    let [http, line, by_v1, by_v2, line_by_v2, teller] = free_ports();
    let proxied = |mode: &str| format!("proxyProtocol: {{mode: {mode}, trusted: [127.0.0.1]}}");
    let external = |version: &str| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{name: told-{version}}}\nspec:\n  services: [{{name: http}}]\n  external: {{addresses: [\"127.0.0.1:{teller}\"], proxyProtocol: {version}}}\n---\n"
        )
    };
    let documents = [
        process("plain", &[PYTHON, "plain.py"], "  services: [{name: http}]"),
        process("line", &[PYTHON, "line.py"], "  services: [{name: line, protocol: tcp}]"),
        external("v1"),
        external("v2"),
        gateway(
            "front",
            &[
                format!("{{name: http, port: {http}, protocol: HTTP, {}}}", proxied("accept")),
                format!("{{name: line, port: {line}, protocol: TCP, {}}}", proxied("require")),
            ],
        ),
        route(
            "http",
            "name: front, sectionName: http",
            &[("/v1", "told-v1"), ("/v2", "told-v2"), ("/", "plain")],
        ),
        bytes_to("line", "name: front, sectionName: line"),
    ];
    site.write("dodai.yaml", documents.concat());
    site.write(
        "haproxy.cfg",
        format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
             listen one\n  bind 127.0.0.1:{by_v1}\n  server dodai 127.0.0.1:{http} send-proxy\n\
             listen two\n  bind 127.0.0.1:{by_v2}\n  server dodai 127.0.0.1:{http} send-proxy-v2\n\
             listen line\n  bind 127.0.0.1:{line_by_v2}\n  server dodai 127.0.0.1:{line} send-proxy-v2\n\
             frontend teller\n  mode http\n  bind 127.0.0.1:{teller} accept-proxy\n  \
             http-request return status 200 content-type text/plain lf-string \"%[src]\"\n"
        ),
    );
    let mut haproxy = Command::new("haproxy");
    haproxy.args(["-db", "-f"]).arg(site.folder().join("haproxy.cfg"));
    let running = Haproxy(haproxy.stdout(Stdio::null()).spawn().unwrap());
    until("haproxy listens", || std::net::TcpStream::connect(("127.0.0.1", teller)).is_ok());
    site.up();

    let sees = |port: u16| curl(&site, &format!("http://127.0.0.1:{port}/headers")).to_ascii_lowercase();
    for port in [by_v1, by_v2, http] {
        let heard = sees(port);
        assert!(heard.contains(&format!("x-forwarded-for: {CLIENT}\r\n")), "{heard}");
    }
    for version in ["v1", "v2"] {
        for port in [by_v1, by_v2, http] {
            let told = curl(&site, &format!("http://127.0.0.1:{port}/{version}"));
            assert_eq!(told, CLIENT, "{version} by {port}");
        }
    }
    let mut wire = crate::wire::Wire::to(line_by_v2);
    assert_eq!(wire.until("\r\n"), "220 ready\r\n", "the server speaks first");
    wire.send("hello\r\n");
    assert_eq!(wire.until("\r\n"), "you said hello\r\n");
    let mut bare = crate::wire::Wire::to(line);
    bare.send("hello\r\n");
    assert_eq!(bare.rest(), b"", "without the header nobody gets through");
    until("the refusal is told", || {
        let log = site.log();
        log.contains("a connection is refused") && log.contains("proxyProtocol.mode: require")
    });
    // Its command names the project's folder, of which nothing may be left.
    drop(running);
    site.down();
}
