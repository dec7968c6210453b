//! gRPC, WebSocket, bytes and TLS with the clients that people use, through the gateway and from app to app.

use std::path::Path;

use crate::project::until;
use crate::site::{PYTHON, Site, bytes_to, free_ports, gateway, process, route};
use crate::wire::{Wire, get};

#[test]
fn apps_talk_in_every_protocol() {
    let site = Site::new("protocols");
    let [http, line, plain, greeter, hello] = free_ports();
    let own = [("plain", plain), ("greeter", greeter), ("hello", hello)]
        .map(|(app, port)| format!("{{app: {app}, listen: \"127.0.0.1:{port}\"}}"))
        .join(", ");
    let calls = format!(
        "  services: [{{name: http}}]\n  calls: [{{app: line}}, {own}]\n  dependsOn: [plain, greeter, line, hello]"
    );
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hello/artifacts/hello-v1.wasm");
    site.write("hello.wasm", std::fs::read(module).unwrap());
    let documents = [
        process("plain", &[PYTHON, "plain.py"], "  services: [{name: http}]"),
        process("greeter", &[PYTHON, "greeter.py"], "  services: [{name: grpc, protocol: grpc}]"),
        process("sockets", &[PYTHON, "sockets.py"], "  services: [{name: http}]"),
        process("line", &[PYTHON, "line.py"], "  services: [{name: line, protocol: tcp}]"),
        process("caller", &[PYTHON, "caller.py"], &calls),
        "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {name: hello}\nspec:\n  module: {artifact: hello.wasm}\n  services: [{name: http}]\n---\n".to_owned(),
        gateway(
            "front",
            &[
                format!("{{name: http, port: {http}, protocol: HTTP}}"),
                format!("{{name: line, port: {line}, protocol: TCP}}"),
            ],
        ),
        route(
            "http",
            "name: front, sectionName: http",
            &[("/test.Greeter", "greeter"), ("/ws", "sockets"), ("/call", "caller"), ("/", "plain")],
        ),
        bytes_to("line", "name: front, sectionName: line"),
    ];
    site.write("dodai.yaml", documents.concat());
    site.up();

    let rpc = site.command(PYTHON, &["greeter.py", &format!("127.0.0.1:{http}")]);
    assert_eq!(rpc.out(), "grpc ok\n", "through the gateway: {}", rpc.all());
    let socket = site.command(PYTHON, &["sockets.py", &format!("ws://127.0.0.1:{http}/ws")]);
    assert_eq!(socket.out(), "websocket ok\n", "{}", socket.all());

    let mut first = Wire::to(line);
    assert_eq!(first.until("\r\n"), "220 ready\r\n", "the server speaks first");
    first.send("hello\r\n");
    assert_eq!(first.until("\r\n"), "you said hello\r\n");
    first.finish();
    assert_eq!(first.rest(), b"221 bye\r\n", "half a close is passed on");

    let mut foreign = Wire::to(http);
    foreign.send(b"\x16\x03\x01\x00\x05hello");
    assert!(foreign.rest().starts_with(b"HTTP/1.1 400 "), "TLS where HTTP is spoken");
    until("what came is told with its bytes", || {
        let log = site.log();
        log.contains("this is no HTTP") && log.contains("16 03 01 00 05 68 65 6c 6c 6f")
    });

    let call = |path: &str| {
        let answer = get(http, &format!("/call{path}"));
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
        answer.text().to_owned()
    };
    assert_eq!(call("/proxied"), "plain\n", "a client that reads HTTP_PROXY");
    let heard = call("/direct").to_ascii_lowercase();
    assert!(heard.contains("host: plain.default"), "{heard}");
    assert_eq!(call("/line"), "220 ready\r\nyou said me\r\n221 bye\r\n", "a declared TCP dependency");
    assert_eq!(call("/tunnel"), "220 ready\r\n", "CONNECT to a TCP service");
    assert_eq!(call("/socks"), "plain\n220 ready\r\n", "SOCKS 5: calls by curl, and bytes");
    assert_eq!(call("/rpc"), "grpc ok", "from app to app");
    assert_eq!(call("/declared"), "plain\nhello from v1\ngrpc ok", "by addresses of their own");
    assert_eq!(call("/named"), "grpc ok", "by the runtime API, which carries all four kinds of calls");
    site.down();
}

/// Makes a certificate for `host` with openssl, signed by the authority of the folder, as `stem.crt` and `.key`.
fn certify(site: &Site, stem: &str, host: &str) {
    if !site.folder().join("ca.crt").exists() {
        let done = site.command(
            "openssl",
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=test authority",
                "-keyout",
                "ca.key",
                "-out",
                "ca.crt",
            ],
        );
        assert!(done.status.success(), "{}", done.all());
    }
    site.write("leaf.cnf", format!("subjectAltName=DNS:{host}\n"));
    let (key, fresh) = (format!("{stem}.key.new"), format!("{stem}.crt.new"));
    let request = site.command(
        "openssl",
        &[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            "/CN=leaf",
            "-keyout",
            &key,
            "-out",
            "leaf.csr",
        ],
    );
    assert!(request.status.success(), "{}", request.all());
    let signed = site.command(
        "openssl",
        &[
            "x509",
            "-req",
            "-in",
            "leaf.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "leaf.cnf",
            "-out",
            &fresh,
        ],
    );
    assert!(signed.status.success(), "{}", signed.all());
    for end in ["key", "crt"] {
        let (from, to) = (format!("{stem}.{end}.new"), format!("{stem}.{end}"));
        std::fs::create_dir_all(site.folder().join(&to).parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::rename(site.folder().join(from), site.folder().join(to)).unwrap();
    }
}

/// What curl gets from `host`, and over which version; or what it says instead.
fn curl(site: &Site, port: u16, host: &str, version: &str) -> Result<String, String> {
    let resolve = format!("{host}:{port}:127.0.0.1");
    let url = format!("https://{host}:{port}/plain");
    let show = ["-sS", "--cacert", "ca.crt", "--resolve", &resolve, "-w", "%{http_version}", &url];
    let done = site.command("curl", &[&show[..], &version.split(' ').collect::<Vec<_>>()].concat());
    if done.status.success() { Ok(done.out().to_owned()) } else { Err(done.all()) }
}

/// The pages under `/debug` show certificates, and nothing of the keys beside them.
fn no_view_shows_a_key(site: &Site) {
    let keys = ["site.key", ".dodai/certificates/api/tls.key"];
    let keys = keys.map(|key| std::fs::read_to_string(site.folder().join(key)).unwrap()).concat();
    let lines: Vec<&str> = keys.lines().filter(|line| line.len() > 40).collect();
    assert!(lines.len() >= 2, "{} lines of keys", lines.len());
    for view in ["table", "clusters", "connections", "certificates"] {
        for format in ["table", "json"] {
            let shown = site.dodai(&["debug", view, "-o", format]);
            assert!(shown.status.success(), "{view}: {}", shown.all());
            let text = shown.all();
            assert!(view != "certificates" || text.contains("shop.test"), "{text}");
            assert!(!text.contains("PRIVATE KEY"), "{view} -o {format}");
            assert!(!lines.iter().any(|line| text.contains(&line[..32])), "{view} -o {format}");
        }
    }
}

#[test]
fn a_gateway_ends_tls_and_its_certificates_change_without_a_restart() {
    let site = Site::new("tls");
    let [port] = free_ports();
    certify(&site, "site", "shop.test");
    std::fs::create_dir_all(site.data().join("certificates/api")).unwrap();
    certify(&site, ".dodai/certificates/api/tls", "api.test");
    let listeners = [
        format!(
            "{{name: shop, port: {port}, protocol: HTTPS, hostname: shop.test, tls: {{certificateFile: site.crt, keyFile: site.key}}}}"
        ),
        format!(
            "{{name: api, port: {port}, protocol: HTTPS, hostname: api.test, tls: {{certificateRefs: [{{name: api}}]}}}}"
        ),
    ];
    let documents = [
        process("plain", &[PYTHON, "plain.py"], "  services: [{name: http}]"),
        gateway("front", &listeners),
        route("all", "name: front", &[("/", "plain")]),
    ];
    site.write("dodai.yaml", documents.concat());
    site.up();
    for host in ["shop.test", "api.test"] {
        assert_eq!(curl(&site, port, host, "--http1.1"), Ok("plain\n1.1".to_owned()), "{host}");
        assert_eq!(curl(&site, port, host, "--http2"), Ok("plain\n2".to_owned()), "{host}");
    }
    no_view_shows_a_key(&site);
    let other = curl(&site, port, "other.test", "--http2").unwrap_err();
    assert!(other.contains("no alternative certificate subject name matches"), "{other}");

    site.write("site.crt", "this is no certificate\n");
    until("the bad file is told", || site.log().contains("the last good one stays"));
    let log = site.log();
    assert!(log.contains("site.crt") && log.contains("gateway/default/front/shop"), "{log}");
    assert_eq!(
        curl(&site, port, "shop.test", "--http2"),
        Ok("plain\n2".to_owned()),
        "the last good one stays"
    );

    certify(&site, "site", "new.test");
    until("the new certificate is served", || {
        curl(&site, port, "shop.test", "--http2").is_err_and(|why| why.contains("subject name"))
    });
    assert_eq!(curl(&site, port, "api.test", "--http2"), Ok("plain\n2".to_owned()), "the other one stays");

    assert_eq!(curl(&site, port, "api.test", "--http2 --tls-max 1.2"), Ok("plain\n2".to_owned()));
    let newest = gateway("front", &listeners).replace("name: api}]", "name: api}], minVersion: '1.3'");
    site.write("newest.txt", newest);
    assert!(site.dodai(&["apply", "-f", "newest.txt"]).status.success());
    until("TLS 1.2 is refused", || curl(&site, port, "api.test", "--http2 --tls-max 1.2").is_err());
    assert_eq!(curl(&site, port, "api.test", "--http2"), Ok("plain\n2".to_owned()));

    // A document that names a bad key: refused with the reason, and everything goes on as it was.
    site.write("bad.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let bad = gateway("front", &listeners).replace("keyFile: site.key", "keyFile: bad.key");
    site.write("bad.txt", bad);
    let applied = site.dodai(&["apply", "-f", "bad.txt"]);
    assert!(applied.status.success(), "{}", applied.all());
    until("the reason is told", || {
        let told = site.dodai(&["describe", "gateway", "front"]).all();
        told.contains("bad.key")
    });
    assert_eq!(
        curl(&site, port, "api.test", "--http2"),
        Ok("plain\n2".to_owned()),
        "nothing running is disturbed"
    );
    site.down();
}
