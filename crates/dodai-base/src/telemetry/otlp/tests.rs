//! Against a collector on the loopback that decodes what it gets.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{self as otlp, span::SpanKind, status::StatusCode};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use dodai_core::failure::Kind;
use dodai_core::trace::Span;
use dodai_transport::ca::{Authority, Names};
use dodai_transport::identity::{PeerIdentity, TrustDomain};
use dodai_transport::tls::files::{Files, Pair, Versions};
use dodai_transport::tls::{Alpn, Clock};

use super::*;
use crate::telemetry::line::tests::record;

const SOON: Duration = Duration::from_secs(20);

/// A request that the collector got: its lower-case head lines and its message.
type Got = (Vec<String>, ExportTraceServiceRequest);

struct Collector {
    address: std::net::SocketAddr,
    got: mpsc::Receiver<Got>,
    tasks: Tasks,
}

impl Collector {
    /// Answers with these status lines (and header lines) in turn, then always with 200 and `answer`.
    async fn start(script: &'static [&'static str], answer: ExportTraceServiceResponse) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, got) = mpsc::channel(64);
        let tasks = Tasks::new();
        let script = Arc::new(Mutex::new(script.iter().copied().collect::<VecDeque<_>>()));
        tasks.spawn(task::Kind::Listener, async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let status = script.lock().unwrap().pop_front().unwrap_or("200 OK");
                // One after the other: exports do not overlap.
                sender.send(serve(stream, status, &answer.encode_to_vec()).await).await.unwrap();
            }
        });
        Collector { address, got, tasks }
    }

    fn settings(&self) -> Settings {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", self.address)),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=abc".into()),
        ];
        let variables: BTreeMap<_, _> =
            variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let settings = Settings::from_environment(&variables).unwrap().unwrap();
        let short = Duration::from_millis(5);
        Settings { delay: short, first_wait: short, timeout: SOON, ..settings }
    }

    async fn next(&mut self) -> Got {
        timeout(SOON, self.got.recv()).await.expect("in time").expect("the collector lives")
    }

    async fn stop(self) {
        assert!(self.tasks.drain(SOON).await.is_empty());
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, status: &str, answer: &[u8]) -> Got {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        if line.trim_end().is_empty() {
            break;
        }
        head.push(line.trim_end().to_lowercase());
    }
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let head_out = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", answer.len());
    stream.write_all(&[head_out.as_bytes(), answer].concat()).await.unwrap();
    (head, ExportTraceServiceRequest::decode(&body[..]).unwrap())
}

fn spans(got: &Got) -> Vec<otlp::Span> {
    let scopes = got.1.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    scopes.flat_map(|scope| scope.spans.clone()).collect()
}

/// Attributes as text.
fn told(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let value = |attribute: &KeyValue| {
        let value = attribute.value.as_ref().unwrap().value.as_ref().unwrap();
        if let Value::StringValue(text) = value {
            return text.clone();
        }
        let Value::IntValue(number) = value else { panic!("{value:?}") };
        number.to_string()
    };
    attributes.iter().map(|attribute| (attribute.key.as_str(), value(attribute))).collect()
}

async fn settled(exporter: &Exporter, written: u64, dropped: u64) {
    let deadline = Instant::now() + SOON;
    loop {
        let reading = exporter.reading();
        if (reading.written, reading.dropped) == (written, dropped) {
            return assert_eq!(reading.queued, 0);
        }
        assert!(Instant::now() < deadline, "{reading:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn start(settings: Settings) -> (Exporter, Tasks) {
    let tasks = Tasks::new();
    (Exporter::start(settings, &BaseId::new("b1"), &tasks), tasks)
}

#[tokio::test]
async fn a_call_through_a_base_becomes_linked_spans_of_the_right_services() {
    let mut collector = Collector::start(&[], ExportTraceServiceResponse::default()).await;
    let (exporter, tasks) = start(Settings { batch: 3, delay: SOON, ..collector.settings() });
    let gateway = record();
    let outbound = Record {
        direction: "outbound",
        caller: "shop/web".into(),
        span: gateway.span.child(),
        status: 404,
        ..record()
    };
    let inbound = Record {
        direction: "inbound",
        caller: "shop/web".into(),
        span: outbound.span.child(),
        failure: Some(Kind::Timeout),
        detail: "cart was slow".into(),
        status: 504,
        ..record()
    };
    let unsampled = Record { span: Span { sampled: false, ..record().span }, ..record() };
    exporter.record(&Arc::new(unsampled));
    for lap in [&gateway, &outbound, &inbound] {
        exporter.record(&Arc::new(lap.clone()));
    }
    let got = collector.next().await;
    assert!(got.0[0].starts_with("post /v1/traces http/1.1"), "{:?}", got.0);
    assert!(
        got.0.contains(&"content-type: application/x-protobuf".to_owned())
            && got.0.contains(&"x-key: abc".to_owned())
    );
    let found: BTreeMap<String, &otlp::Span> = got
        .1
        .resource_spans
        .iter()
        .map(|of| {
            let resource = told(&of.resource.as_ref().unwrap().attributes);
            assert_eq!(resource["dodai.base"], "b1");
            (resource["service.name"].clone(), &of.scope_spans[0].spans[0])
        })
        .collect();
    let (first, second, third) = (found["dodai"], found["web"], found["cart"]);
    assert_eq!(first.trace_id, 0xabc_u128.to_be_bytes());
    assert!(first.parent_span_id.is_empty());
    assert_eq!((&second.parent_span_id, &third.parent_span_id), (&first.span_id, &second.span_id));
    assert_eq!(
        (first.kind(), second.kind(), third.kind()),
        (SpanKind::Server, SpanKind::Client, SpanKind::Server)
    );
    assert_eq!(first.end_time_unix_nano - first.start_time_unix_nano, 1_500_000);
    assert_eq!(
        u128::from(first.start_time_unix_nano),
        gateway.start.duration_since(UNIX_EPOCH).unwrap().as_nanos()
    );
    assert_eq!(first.name, "GET shop/cart/http");
    assert_eq!(first.events[0].name, "dodai.first_byte");
    let attributes = told(&first.attributes);
    for (name, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/carts/7"),
        ("url.query", "token=***&page=2"),
        ("http.response.status_code", "200"),
        ("server.address", "shop.example"),
        ("server.port", "8080"),
        ("network.protocol.version", "1.1"),
        ("dodai.app", "shop/cart"),
        ("dodai.route", "carts"),
    ] {
        assert_eq!(attributes[name], value, "{name}");
    }
    assert!(first.status.is_none() && !attributes.contains_key("error.type"));
    assert_eq!(told(&second.attributes)["error.type"], "404", "a 4xx is an error of the client's span");
    assert_eq!(told(&third.attributes)["error.type"], "timeout");
    let status = third.status.as_ref().unwrap();
    assert_eq!((status.code(), status.message.as_str()), (StatusCode::Error, "cart was slow"));
    settled(&exporter, 3, 0).await;
    assert!(tasks.drain(SOON).await.is_empty());
    collector.stop().await;
}

#[tokio::test]
async fn a_busy_collector_is_tried_again_and_a_refusal_is_final() {
    let script = &["503 Busy", "429 Slow\r\nRetry-After: 0", "400 Bad"];
    let mut collector = Collector::start(script, ExportTraceServiceResponse::default()).await;
    let (exporter, tasks) = start(collector.settings());
    exporter.record(&Arc::new(record()));
    let first = collector.next().await;
    assert_eq!(first.1, collector.next().await.1, "the same batch again");
    collector.next().await;
    settled(&exporter, 0, 1).await;
    exporter.record(&Arc::new(record()));
    collector.next().await;
    settled(&exporter, 1, 1).await;
    assert!(tasks.drain(SOON).await.is_empty());
    collector.stop().await;
}

#[tokio::test]
async fn it_gives_up_after_so_many_tries() {
    let mut collector = Collector::start(&["503 Busy"; 5], ExportTraceServiceResponse::default()).await;
    let (exporter, tasks) = start(collector.settings());
    exporter.record(&Arc::new(record()));
    for _ in 0..TRIES {
        collector.next().await;
    }
    settled(&exporter, 0, 1).await;
    assert!(tasks.drain(SOON).await.is_empty());
    collector.stop().await;
}

#[tokio::test]
async fn spans_that_the_collector_rejects_are_counted() {
    let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: "too old".into() };
    let mut collector =
        Collector::start(&[], ExportTraceServiceResponse { partial_success: Some(partial) }).await;
    let (exporter, tasks) = start(Settings { batch: 2, delay: SOON, ..collector.settings() });
    exporter.record(&Arc::new(record()));
    exporter.record(&Arc::new(record()));
    assert_eq!(spans(&collector.next().await).len(), 2);
    settled(&exporter, 1, 1).await;
    assert!(tasks.drain(SOON).await.is_empty());
    collector.stop().await;
}

#[tokio::test]
async fn what_waits_is_exported_when_the_tracker_closes() {
    let mut collector = Collector::start(&[], ExportTraceServiceResponse::default()).await;
    let (exporter, tasks) = start(Settings { delay: SOON, batch: 2, queue: 8, ..collector.settings() });
    // The task has not run yet, so all of them wait.
    (0..10).for_each(|_| exporter.record(&Arc::new(record())));
    assert_eq!((exporter.reading().queued, exporter.reading().dropped), (8, 2));
    assert!(tasks.drain(SOON).await.is_empty());
    let mut count = 0;
    while count < 8 {
        count += spans(&collector.next().await).len();
    }
    settled(&exporter, 8, 2).await;
    exporter.record(&Arc::new(record()));
    assert_eq!(exporter.reading().dropped, 3, "after the end a record is dropped and counted");
    collector.stop().await;
}

#[tokio::test]
async fn without_a_collector_spans_are_dropped_and_the_end_is_quick() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let variables = BTreeMap::from([("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), format!("http://{address}"))]);
    let (exporter, tasks) = start(Settings::from_environment(&variables).unwrap().unwrap());
    exporter.record(&Arc::new(record()));
    assert!(tasks.drain(SOON).await.is_empty());
    settled(&exporter, 0, 1).await;
}

#[tokio::test]
async fn a_collector_behind_tls_gets_spans_if_its_certificate_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create(TrustDomain::default(), SystemTime::now()).unwrap();
    let names = Names { dns: vec!["localhost".to_owned()], ..Names::default() };
    let identity = PeerIdentity::Base(BaseId::new("collector"));
    let svid = authority.issue(&identity, &names, Duration::from_secs(3600), SystemTime::now()).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let root = file("root.pem", &authority.chain_pem());
    let other =
        file("other.pem", &Authority::create(TrustDomain::default(), SystemTime::now()).unwrap().chain_pem());
    let pair = Pair { chain: file("chain.pem", &svid.chain_pem()), key: file("key.pem", &svid.key_pem()) };
    let acceptor =
        Files::load(vec![pair]).unwrap().acceptor(&[Alpn::Http1], Versions::Usual, Clock::system());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let export = async |trusted: &std::path::Path| {
        let variables = BTreeMap::from(
            [
                ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("https://localhost:{port}")),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", trusted.display().to_string()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        let settings = Settings::from_environment(&variables).unwrap().unwrap();
        let message = Bytes::from(span::request(&[Arc::new(record())], &settings, "one").encode_to_vec());
        let collector = async {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = acceptor.accept(stream.into()).await.ok()?;
            Some(serve(stream, "200 OK", &[]).await)
        };
        tokio::join!(post(&settings, message), collector)
    };
    let (outcome, got) = export(&root).await;
    assert_eq!(outcome, Outcome::Taken { rejected: 0 });
    let got = got.expect("a request");
    assert!(got.0.contains(&format!("host: localhost:{port}")) && spans(&got).len() == 1);
    let (outcome, got) = export(&other).await;
    assert!(got.is_none(), "nothing is sent to somebody who is not trusted");
    let Outcome::Later { reason, .. } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("no TLS with localhost"), "{reason}");
}
