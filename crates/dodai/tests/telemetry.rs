//! What the binary tells about calls: spans to a collector, the access log, live records, metrics.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use prost::Message;
use serde_json::Value;

use crate::project::{Done, Project, binary, get, until};

/// A collector that takes everything and remembers it.
struct Collector {
    port: u16,
    exports: Arc<Mutex<Vec<(String, ExportTraceServiceRequest)>>>,
}

/// A span, as far as the tests look at it.
#[derive(Debug)]
struct Span {
    service: String,
    name: String,
    trace: String,
    id: Vec<u8>,
    parent: Vec<u8>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let exports: Arc<Mutex<Vec<_>>> = Arc::default();
        let kept = exports.clone();
        // It ends with the test's process; nobody else knows its port.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(export) = take(stream) {
                    kept.lock().unwrap().push(export);
                }
            }
        });
        Collector { port, exports }
    }

    fn spans(&self) -> Vec<Span> {
        let exports = self.exports.lock().unwrap();
        let mut all = Vec::new();
        for of in exports.iter().flat_map(|(_, export)| &export.resource_spans) {
            let service = text(&of.resource.as_ref().unwrap().attributes, "service.name");
            for span in of.scope_spans.iter().flat_map(|scope| &scope.spans) {
                let trace = span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
                all.push(Span {
                    service: service.clone(),
                    name: span.name.clone(),
                    trace,
                    id: span.span_id.clone(),
                    parent: span.parent_span_id.clone(),
                });
            }
        }
        all
    }
}

fn text(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Any::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

/// Reads one export and says thanks: its head in small letters, and the message.
fn take(stream: TcpStream) -> Option<(String, ExportTraceServiceRequest)> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).ok().filter(|read| *read > 0)?;
    }
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
    reader.get_mut().write_all(answer.as_bytes()).ok()?;
    Some((head, ExportTraceServiceRequest::decode(body.as_slice()).ok()?))
}

/// Reads a path of the management API.
fn admin(project: &Project, path: &str) -> String {
    let file = project.admin();
    let mut stream = TcpStream::connect(file["address"].as_str().unwrap()).unwrap();
    let token = file["token"].as_str().unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn lines(project: &Project, path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(format!("{}/{path}", project.path())).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_call_becomes_spans_a_log_line_a_live_record_and_counts() {
    let project = Project::new("calls");
    let collector = Collector::start();
    let up = Done::of(
        Command::new(binary())
            .args(["up", ".", "-d", "--threads", "1", "--admin", "127.0.0.1:0", "--access-log", "all.log"])
            .current_dir(project.path())
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", collector.port))
            .env("OTEL_EXPORTER_OTLP_HEADERS", "x-scope=tests")
            .env("OTEL_BSP_SCHEDULE_DELAY", "20"),
    );
    assert!(up.status.success(), "{}", up.all());
    let tap = Command::new(binary())
        // The module is also asked for its subscriptions, and has none.
        .args(["tap", "hello", "--status", "200", "--limit", "1", "-o", "json"])
        .current_dir(project.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let tap = Mutex::new(tap);
    until("somebody who taps sees a call", || {
        assert_eq!(get(project.port, "/?token=abc&page=2"), Ok("hello from v1\n".to_owned()));
        tap.lock().unwrap().try_wait().unwrap().is_some()
    });
    let mut tap = tap.into_inner().unwrap();
    let mut seen = String::new();
    tap.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
    assert!(tap.wait().unwrap().success());
    let seen: Value = serde_json::from_str(seen.lines().next().unwrap()).unwrap();
    assert_eq!((&seen["status"], &seen["target"]), (&200.into(), &"/?token=***&page=2".into()), "{seen}");

    until("the spans of calls are exported", || begun(&collector.spans()).is_some());
    let spans = collector.spans();
    let trace = begun(&spans).unwrap();
    assert!(spans.iter().all(|span| span.name == "GET default/hello/http"), "{spans:?}");
    assert!(collector.exports.lock().unwrap()[0].0.contains("x-scope: tests"));

    until("the call is in the log", || {
        lines(&project, "all.log").iter().any(|line| line["trace_id"] == *trace)
    });
    let log = std::fs::read_to_string(format!("{}/all.log", project.path())).unwrap();
    assert!(log.contains("/?token=***&page=2") && !log.contains("abc&"), "{log}");

    until("gauges are read", || {
        let metrics = admin(&project, "/metrics");
        ["otlp", "access_log"].iter().all(|sink| {
            let written = format!("dodai_telemetry_written_total{{sink=\"{sink}\"}} ");
            metrics.lines().any(|line| line.strip_prefix(&written).is_some_and(|count| count != "0"))
        }) && metrics.contains("dodai_client_connections_limit 20000\n")
    });
    assert!(project.dodai(&["down"]).status.success());
}

/// The trace of a span of the gateway, which begins it.
fn begun(spans: &[Span]) -> Option<&String> {
    let first = |span: &&Span| span.service == "dodai" && span.parent.is_empty() && span.id.len() == 8;
    spans.iter().find(first).map(|span| &span.trace)
}

#[test]
fn a_base_on_its_own_has_the_management_api_and_logs_failures() {
    let project = Project::new("alone");
    let port = project.port;
    project.write("dodai.yaml", &format!(
        "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{name: gone}}\nspec:\n  external: {{addresses: ['127.0.0.1:1']}}\n  services: [{{name: http}}]\n---\n\
         apiVersion: dodai.dev/v1\nkind: Gateway\nmetadata: {{name: front}}\nspec:\n  listeners: [{{name: http, port: {port}, protocol: HTTP}}]\n---\n\
         apiVersion: dodai.dev/v1\nkind: Route\nmetadata: {{name: all}}\nspec:\n  parentRefs: [{{name: front}}]\n  rules:\n    - matches: [{{path: {{type: PathPrefix, value: /a}}}}]\n      backendRefs: [{{name: gone}}]\n"
    ));
    let mut base = Command::new(binary())
        .args(["base", "--from", ".", "--threads", "1", "--admin", "127.0.0.1:0", "--name", "alone"])
        .current_dir(project.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the base answers", || get(port, "/a").is_err_and(|answer| answer.starts_with("HTTP/1.1 503")));
    until("the failure is in the log", || !lines(&project, ".dodai/access.log").is_empty());
    let line = &lines(&project, ".dodai/access.log")[0];
    assert_eq!((&line["status"], &line["failure"]), (&503.into(), &"connect".into()), "{line}");
    until("others can find it", || std::path::Path::new(&project.path()).join(".dodai/admin.json").exists());
    assert!(admin(&project, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(admin(&project, "/metrics").contains("base=\"alone\""));
    assert!(project.dodai(&["down"]).status.success());
    assert!(base.wait().unwrap().success(), "a base that is asked to stop ends well");
}
