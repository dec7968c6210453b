//! Unmodified clients and awkward peers over HTTP/1.1 and HTTP/2: every shape of a body, every way to be slow
//! or to leave, and what must not get through.

use std::time::{Duration, Instant};

use crate::project::until;
use crate::site::{PYTHON, Site, free_ports, gateway, process, route};
use crate::wire::{Wire, get, request};

/// What memory may grow while 100 MB go through: buffers, not bodies.
const GROWTH_KB: u64 = 24 * 1024;
const LARGE: usize = 100_000_000;

/// A plain app behind a gateway, and one that is impatient with idle connections.
fn site(name: &str) -> (Site, u16) {
    let site = Site::new(name);
    let [port] = free_ports();
    let http = "  services: [{name: http}]";
    let documents = [
        process("plain", &[PYTHON, "plain.py"], http),
        process("hasty", &[PYTHON, "plain.py"], &format!("{http}\n  env: [{{name: IDLE, value: '0.2'}}]")),
        process(
            "files",
            &["sh", "-c", "exec nghttpd --no-tls -a 127.0.0.1 -d www \"$PORT\""],
            "  services: [{name: http, protocol: http2}]",
        ),
        gateway("front", &[format!("{{name: http, port: {port}, protocol: HTTP}}")]),
        route("all", "name: front", &[("/hasty", "hasty"), ("/files", "files"), ("/", "plain")]),
    ];
    site.write("www/files/hello.txt", "hello over h2\n");
    site.write("dodai.yaml", documents.concat());
    site.up();
    (site, port)
}

#[test]
fn every_shape_of_a_message_gets_through() {
    let (site, port) = site("shapes");
    answers_without_bodies(port);
    bodies_in_chunks_go_both_ways_at_once(port);
    trailers_are_kept(port);
    ends_of_connections(&site, port);
    protocols_are_translated(&site, port);
    continues(&site, port);
    streams_are_not_buffered(port);
    slow_peers(&site, port);
    site.down();
}

fn answers_without_bodies(port: u16) {
    let mut wire = Wire::to(port);
    wire.send(request("HEAD", "/plain", ""));
    let head = wire.until("\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.to_ascii_lowercase().contains("content-length: 6\r\n"),
        "{head}"
    );
    let none = wire.ask(&request("GET", "/204", ""));
    assert_eq!((none.status(), none.header("content-length")), (204, None), "{none:?}");
    let same = wire.ask(&request("GET", "/304", "If-None-Match: \"a\"\r\n"));
    assert_eq!((same.status(), same.header("etag")), (304, Some("\"a\"")), "{same:?}");
    let plain = wire.ask(&request("GET", "/plain", ""));
    assert_eq!((plain.status(), plain.text()), (200, "plain\n"), "the connection is still in step");
}

fn bodies_in_chunks_go_both_ways_at_once(port: u16) {
    let mut wire = Wire::to(port);
    wire.send(request("POST", "/echo", "Transfer-Encoding: chunked\r\n"));
    let head = wire.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    for word in ["one", "two", "three"] {
        wire.send(format!("{:x};note=x\r\n{word}\r\n", word.len()));
        assert_eq!(wire.chunk().as_deref(), Some(word.as_bytes()), "before the next is sent");
    }
    wire.send("0\r\n\r\n");
    assert_eq!(wire.chunk(), None);
    assert_eq!(wire.until("\r\n"), "\r\n");
}

fn trailers_are_kept(port: u16) {
    let mut wire = Wire::to(port);
    let body =
        "Transfer-Encoding: chunked\r\nTrailer: X-Up\r\nTE: trailers\r\n\r\n3\r\nabc\r\n0\r\nX-Up: there\r\n";
    let answer = wire.ask(&request("POST", "/trailers", body));
    assert_eq!(answer.text(), "X-Up: there", "{answer:?}");
    assert_eq!(answer.trailers.to_ascii_lowercase(), "x-sum: 42\r\n");
}

fn ends_of_connections(site: &Site, port: u16) {
    let until_close = get(port, "/close");
    assert_eq!((until_close.status(), until_close.text()), (200, "until the end"));
    let mut wire = Wire::to(port);
    let last = wire.ask(&request("GET", "/plain", "Connection: close\r\n"));
    assert_eq!(last.header("connection"), Some("close"), "{last:?}");
    assert_eq!(wire.rest(), b"", "closed after the answer");
    let mut old = Wire::to(port);
    old.send("GET /plain HTTP/1.0\r\nHost: plain.test\r\n\r\n");
    let old = String::from_utf8(old.rest()).unwrap();
    assert!(old.starts_with("HTTP/1.1 200 ") && old.ends_with("plain\n"), "{old}");
    let cut = site.command("curl", &["-sS", &format!("http://127.0.0.1:{port}/cut")]);
    assert_eq!(cut.status.code(), Some(18), "a cut body is seen as cut: {}", cut.all());
    let short = get(port, "/cut-short");
    assert_eq!(
        (short.status(), short.header("dodai-failure")),
        (502, Some("reset")),
        "of a short one nothing was sent"
    );
    let mut early = Wire::to(port);
    early.send(request("POST", "/early", "Content-Length: 50000000\r\n"));
    let _until_refused = (0..100).all(|_| early.try_send(vec![0; 65536]));
    let refused = early.answer();
    assert_eq!((refused.status(), refused.text()), (403, "no thanks\n"), "an answer before the body's end");
}

fn protocols_are_translated(site: &Site, port: u16) {
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let show = ["-sS", "--fail", "-w", "%{http_version}"];
    let curl = |more: &[&str]| {
        let done = site.command("curl", &[&show[..], more].concat());
        assert!(done.status.success(), "{}", done.all());
        done.out().to_owned()
    };
    let down = curl(&["--http2-prior-knowledge", &url("/plain")]);
    assert_eq!(down, "plain\n2", "HTTP/2 to HTTP/1.1");
    assert_eq!(curl(&["--http1.1", &url("/files/hello.txt")]), "hello over h2\n1.1", "HTTP/1.1 to HTTP/2");
    assert_eq!(curl(&["--http2-prior-knowledge", &url("/files/hello.txt")]), "hello over h2\n2");
    let posted = curl(&["--http2-prior-knowledge", "-d", "abc", &url("/echo")]);
    assert_eq!(posted, "abc2");
    let head = curl(&["--http2-prior-knowledge", "-I", &url("/plain")]);
    assert!(head.contains("content-length: 6"), "{head}");
    for path in ["/204", "/304"] {
        let none = curl(&["--http2-prior-knowledge", &url(path)]);
        assert_eq!(none, "2", "{path}");
    }
    let trailers = curl(&["--http2-prior-knowledge", "-D", "-", &url("/trailers")]);
    assert!(trailers.contains("x-sum: 42"), "{trailers}");
    let nghttp = site.command("nghttp", &["-v", "-m", "20", &url("/plain")]);
    assert!(nghttp.status.success() && !nghttp.all().contains("RST_STREAM"), "{}", nghttp.all());
}

fn continues(site: &Site, port: u16) {
    site.write("body.bin", vec![7; 1_000_000]);
    let post = |path: &str| {
        let url = format!("http://127.0.0.1:{port}{path}");
        let file = ["-H", "Expect: 100-continue", "--data-binary", "@body.bin", "--expect100-timeout", "30"];
        let start = Instant::now();
        let done = site.command("curl", &[&["-sSv", "--http1.1"], &file[..], &[url.as_str()]].concat());
        assert!(done.status.success(), "{}", done.all());
        assert!(start.elapsed() < Duration::from_secs(20), "curl did not wait in vain");
        done
    };
    let asked = post("/count");
    assert!(asked.all().contains("HTTP/1.1 100 Continue"), "{}", asked.all());
    assert!(asked.out().starts_with("1000000 "), "{}", asked.all());
    let refused = post("/refuse");
    assert!(refused.all().contains("HTTP/1.1 413") && refused.out() == "too much\n", "{}", refused.all());
    assert!(!refused.all().contains("100 Continue"), "the body was not asked for: {}", refused.all());
}

fn streams_are_not_buffered(port: u16) {
    let mut wire = Wire::to(port);
    wire.send(request("GET", "/events", "Accept: text/event-stream\r\n"));
    let head = wire.until("\r\n\r\n");
    assert!(head.contains("text/event-stream"), "{head}");
    assert_eq!(wire.chunk().unwrap(), b"data: first\n\n", "while the stream is still open");
    assert_eq!(get(port, "/gone").text(), "0\n");
    drop(wire);
    until("the endpoint sees that the client left", || get(port, "/gone").text() == "1\n");
}

fn slow_peers(site: &Site, port: u16) {
    assert_eq!(get(port, "/drip").text(), "drop by drop\n", "an endpoint that writes byte by byte");
    let mut slow = Wire::to(port);
    for byte in request("POST", "/count", "Content-Length: 4\r\n").bytes().chain(*b"abcd") {
        slow.send([byte]);
        std::thread::park_timeout(Duration::from_millis(1));
    }
    assert!(slow.answer().text().starts_with("4 "), "a client that writes byte by byte");
    site.forget_peak();
    let before = site.memory("VmHWM");
    let mut idle = Wire::to(port);
    idle.send(request("GET", &format!("/big/{LARGE}"), ""));
    idle.until("\r\n\r\n");
    std::thread::park_timeout(Duration::from_millis(500));
    assert_eq!(get(port, "/plain").text(), "plain\n", "others do not wait");
    let sip = site.command(
        "curl",
        &["-sS", "--data-binary", "@body.bin", "-H", "Expect:", &format!("http://127.0.0.1:{port}/sip")],
    );
    assert!(sip.out().starts_with("1000000 "), "an endpoint that reads slowly: {}", sip.all());
    let grown = site.memory("VmHWM") - before;
    assert!(grown < GROWTH_KB, "what nobody reads is not kept: {grown} kB");
}

#[test]
fn large_bodies_need_no_memory() {
    let (site, port) = site("large");
    let file = std::fs::File::create(site.folder().join("large.bin")).unwrap();
    file.set_len(LARGE as u64).unwrap();
    let sum = site.command("sha256sum", &["large.bin"]);
    let expect = format!("{LARGE} {}\n", sum.out().split(' ').next().unwrap());
    get(port, "/plain");
    site.forget_peak();
    let before = site.memory("VmHWM");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
        let sized = ["-sS", version, "-H", "Expect:", "-T", "large.bin"];
        let up = site.command("curl", &[&sized[..], &["-X", "POST", &url("/count")]].concat());
        assert_eq!(up.out(), expect, "{version}: {}", up.all());
        let piped = format!("curl -sS {version} -H Expect: -X POST -T - {} < large.bin", url("/count"));
        let chunked = site.command("sh", &["-c", &piped]);
        assert_eq!(chunked.out(), expect, "{version}, chunked: {}", chunked.all());
        let down = site.command(
            "curl",
            &["-sS", version, "-o", "/dev/null", "-w", "%{size_download}", &url(&format!("/big/{LARGE}"))],
        );
        assert_eq!(down.out(), LARGE.to_string(), "{version}: {}", down.all());
    }
    let grown = site.memory("VmHWM") - before;
    assert!(grown < GROWTH_KB, "memory grew by {grown} kB over bodies of {LARGE} bytes");
    site.down();
}

/// The endpoint closes idle connections after exactly the time after which the next request comes.
#[test]
fn a_connection_that_closes_just_when_it_is_used_fails_no_request() {
    let (site, port) = site("race");
    let clients: Vec<_> = (0..4)
        .map(|client| {
            std::thread::spawn(move || {
                let mut wire = Wire::to(port);
                for round in 0..25u64 {
                    let answer = wire.ask(&request("GET", "/hasty", ""));
                    assert_eq!(
                        (answer.status(), answer.text()),
                        (200, "plain\n"),
                        "round {round}: {answer:?}"
                    );
                    // Around the endpoint's 200 ms: a little less, exactly, a little more.
                    let pause = Duration::from_micros(199_000 + (round * 4 + client) % 20 * 150);
                    std::thread::park_timeout(pause);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    site.down();
}

#[test]
fn requests_that_two_readers_would_read_differently_are_refused() {
    let (site, port) = site("smuggling");
    let check = |what: &str, raw: &str, statuses: &[u16]| {
        let mut wire = Wire::to(port);
        wire.send(raw);
        wire.send("GET /smuggled HTTP/1.1\r\nHost: evil.test\r\n\r\n");
        let answer = wire.answer();
        assert!(statuses.contains(&answer.status()), "{what}: {answer:?}");
        let rest = String::from_utf8_lossy(&wire.rest()).into_owned();
        assert!(!rest.contains("HTTP/1.1 200"), "{what}: what follows is not read as a request: {rest}");
    };
    let post = |headers: &str, body: &str| {
        format!("POST /count HTTP/1.1\r\nHost: plain.test\r\n{headers}\r\n{body}")
    };
    let chunked = "Transfer-Encoding: chunked\r\n";
    check("both lengths", &post(&format!("Content-Length: 5\r\n{chunked}"), "0\r\n\r\n"), &[400]);
    check("two lengths", &post("Content-Length: 5\r\nContent-Length: 6\r\n", "abcdef"), &[400]);
    check("a list of lengths", &post("Content-Length: 5, 6\r\n", "abcdef"), &[400]);
    check("a signed length", &post("Content-Length: +5\r\n", "abcde"), &[400]);
    check("a length beyond all", &post("Content-Length: 18446744073709551617\r\n", "a"), &[400, 413]);
    check("a space before the colon", &post("Content-Length : 5\r\n", "abcde"), &[400]);
    check(
        "a space in the name",
        &post("Transfer Encoding: chunked\r\nContent-Length: 5\r\n", "abcde"),
        &[400],
    );
    check(
        "a folded line",
        &post("X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "abcde"),
        &[400],
    );
    check("an unknown coding", &post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), &[400, 501]);
    check("chunked not last", &post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), &[400, 501]);
    check("chunked twice", &post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), &[400, 501]);
    check(
        "a vertical tab",
        &post("Transfer-Encoding: \u{b}chunked\r\nContent-Length: 5\r\n", "abcde"),
        &[400, 501],
    );
    check("a bad chunk size", &post(chunked, "0x5\r\nabcde\r\n0\r\n\r\n"), &[400]);
    check("a chunk size beyond all", &post(chunked, "fffffffffffffffff\r\nabcde\r\n0\r\n\r\n"), &[400]);
    check("a chunk that is longer than it says", &post(chunked, "3\r\nabcde\r\n0\r\n\r\n"), &[400]);
    check("bare carriage returns", "GET /count HTTP/1.1\rHost: plain.test\r\r\n\r\n", &[400]);
    check(
        "a bare line feed in a header",
        &post("X-A: b\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", "abcde"),
        &[400],
    );
    check("a zero byte", &post("X-A: \0\r\n", ""), &[400]);
    check("two hosts", "GET /count HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", &[400]);
    check("no host", "GET /count HTTP/1.1\r\n\r\n", &[400]);
    check(
        "a body with HTTP/1.0 chunks",
        "POST /count HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    );
    check("another version", "GET /count HTTP/3.7\r\nHost: a.test\r\n\r\n", &[400, 505]);
    check("nonsense", "\u{1}\u{2}\u{3}\r\n\r\n", &[400]);
    assert_eq!(get(port, "/plain").text(), "plain\n", "it serves on");
    site.down();
}
