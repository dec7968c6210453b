//! How long a caller waits, told from hop to hop.

use crate::support::*;
use tokio::time::Instant;

fn get(header: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n")
}

#[tokio::test(start_paused = true)]
async fn what_is_told_is_kept_and_shrinks() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        catalog.policy.timeout = Some(secs(5));
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        let call = backend.answer(OK).await;
        assert_eq!(call.header("dodai-timeout-ms"), None, "who says nothing pays nothing");
        client.message().await;
        for (told, name, expect) in [
            ("dodai-timeout-ms: 2000", "dodai-timeout-ms", Some("2000")),
            ("dodai-timeout-ms: 9000", "dodai-timeout-ms", Some("5000")),
            ("grpc-timeout: 2S", "grpc-timeout", Some("2000m")),
            ("grpc-timeout: 1H", "grpc-timeout", Some("5000m")),
            ("grpc-timeout: 2S", "dodai-timeout-ms", None),
        ] {
            client.send(get(told)).await;
            assert_eq!(backend.answer(OK).await.header(name), expect, "{told}");
            client.message().await;
        }
        let start = Instant::now();
        client.send(get("dodai-timeout-ms: 1500")).await;
        backend.head().await;
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (504, Some("timeout")));
        assert!(start.elapsed() >= secs(1) && start.elapsed() < secs(2), "{:?}", start.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn over_http2_too() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let (sender, connection) = h2::client::handshake(world.client().await.stream).await.expect("shaken");
        beside(connection);
        let mut sender = sender.ready().await.expect("ready");
        let request =
            http::Request::get("http://shop/b").header("grpc-timeout", "300m").body(()).expect("valid");
        let start = Instant::now();
        let (answer, _) = sender.send_request(request, true).expect("sent");
        assert_eq!(backends.accept().await.message().await.header("grpc-timeout"), Some("300m"));
        assert_eq!(answer.await.expect("answered").status(), 504);
        assert!(start.elapsed() < secs(1));
    })
    .await;
}

/// A catalog that is tried again after 503, each try for at most a second.
fn retried(protocol: dodai_core::snapshot::Protocol) -> Vec<dodai_core::snapshot::Resource> {
    let mut catalog = service("shop/catalog/http");
    catalog.protocol = protocol;
    catalog.policy.timeout = Some(secs(5));
    let backoff = std::time::Duration::from_millis(400);
    let retry = dodai_dataplane::attempt::default_retry();
    catalog.policy.retry =
        Some(dodai_core::snapshot::RetryPolicy { statuses: vec![503], backoff, constant: true, ..retry });
    usual(catalog, filtered(vec![]))
}

const BUSY: &str = "HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// The time that a try was told in milliseconds; it must be about `expect`.
fn about(told: Option<&str>, expect: u64) {
    let told = told.map(|text| text.trim_end_matches('m').parse::<u64>().expect("a number"));
    assert!(told.is_some_and(|told| told <= expect && told + 20 > expect), "{told:?}, not {expect}");
}

#[tokio::test(start_paused = true)]
async fn a_further_try_tells_what_is_left_by_then() {
    local(async {
        let world = World::of(retried(dodai_core::snapshot::Protocol::Http)).await;
        let mut backends = world.backend(1);
        // Both ways: relayed, and as a parsed message.
        let mut client = world.client().await;
        for name in ["dodai-timeout-ms: 2000", "grpc-timeout: 2S"] {
            client.send(get(name)).await;
            let name = name.split(':').next().expect("a name");
            about(backends.accept().await.answer(BUSY).await.header(name), 2000);
            about(backends.accept().await.answer(OK).await.header(name), 1600);
            assert_eq!(client.message().await.status(), 200);
        }
        let (sender, connection) = h2::client::handshake(world.client().await.stream).await.expect("shaken");
        beside(connection);
        let mut sender = sender.ready().await.expect("ready");
        let request =
            http::Request::get("http://shop/b").header("grpc-timeout", "2S").body(()).expect("valid");
        let (answer, _) = sender.send_request(request, true).expect("sent");
        about(backends.accept().await.answer(BUSY).await.header("grpc-timeout"), 2000);
        about(backends.accept().await.answer(OK).await.header("grpc-timeout"), 1600);
        assert_eq!(answer.await.expect("answered").status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn so_it_does_from_stream_to_stream() {
    local(async {
        let world = World::of(retried(dodai_core::snapshot::Protocol::Http2)).await;
        let mut backends = world.backend(1);
        let (sender, connection) = h2::client::handshake(world.client().await.stream).await.expect("shaken");
        beside(connection);
        let mut sender = sender.ready().await.expect("ready");
        let request =
            http::Request::get("http://shop/b").header("grpc-timeout", "2S").body(()).expect("valid");
        let (answer, _) = sender.send_request(request, true).expect("sent");
        let mut backend = h2::server::handshake(backends.accept().await.stream).await.expect("shaken");
        let script = beside(async move {
            for (status, expect) in [(503, 2000), (200, 1600)] {
                let (request, mut respond) = backend.accept().await.expect("a call").expect("whole");
                about(request.headers().get("grpc-timeout").and_then(|told| told.to_str().ok()), expect);
                let head = http::Response::builder().status(status).body(()).expect("valid");
                respond.send_response(head, true).expect("open");
            }
            std::future::poll_fn(|cx| backend.poll_closed(cx)).await
        });
        assert_eq!(answer.await.expect("answered").status(), 200);
        script.abort();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_try_is_told_its_own_time_where_that_is_shorter() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        catalog.policy.try_timeout = Some(secs(1));
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(get("dodai-timeout-ms: 2000")).await;
        about(backends.accept().await.answer(OK).await.header("dodai-timeout-ms"), 1000);
        client.message().await;
    })
    .await;
}
