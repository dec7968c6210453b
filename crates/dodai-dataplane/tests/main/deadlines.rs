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
