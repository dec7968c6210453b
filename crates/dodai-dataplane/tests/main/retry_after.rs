//! Endpoints that say when they can be asked again.

use crate::support::*;
use dodai_core::snapshot::{Protocol, RetryPolicy, Service};
use tokio::time::Instant;

fn retried(protocol: Protocol) -> Vec<dodai_core::snapshot::Resource> {
    let retry = RetryPolicy { statuses: vec![429, 503], ..dodai_dataplane::attempt::default_retry() };
    let mut catalog = Service { protocol, ..service("shop/catalog/http") };
    catalog.policy.retry = Some(retry);
    usual(catalog, filtered(vec![]))
}

fn busy(after: u32) -> String {
    format!("HTTP/1.1 429 Busy\r\nRetry-After: {after}\r\nContent-Length: 0\r\n\r\n")
}

#[tokio::test(start_paused = true)]
async fn a_further_try_waits_as_long_as_the_endpoint_asks() {
    local(async {
        let world = World::of(retried(Protocol::Http)).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let start = Instant::now();
        client.send(GET).await;
        backends.accept().await.answer(&busy(3)).await;
        backends.accept().await.answer(OK).await;
        assert_eq!(client.message().await.status(), 200);
        assert!(start.elapsed() >= secs(3) && start.elapsed() < secs(4), "{:?}", start.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_asks_for_too_long_has_answered() {
    local(async {
        let world = World::of(retried(Protocol::Http)).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let start = Instant::now();
        client.send(GET).await;
        backends.accept().await.answer(&busy(60)).await;
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.header("retry-after")), (429, Some("60")));
        assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn over_http2_too() {
    local(async {
        for (protocol, mixed) in [(Protocol::Http2, false), (Protocol::Http2, true), (Protocol::Http, true)] {
            let world = World::of(retried(protocol)).await;
            let mut backends = world.backend(1);
            let start = Instant::now();
            let served = beside(async move {
                if protocol == Protocol::Http {
                    backends.accept().await.answer(&busy(3)).await;
                    return drop(backends.accept().await.answer(OK).await);
                }
                let stream = backends.accept().await.stream;
                let mut backend = h2::server::handshake(stream).await.expect("shaken");
                let mut statuses = [429, 200].into_iter();
                while let Some(Ok((_, mut respond))) = backend.accept().await {
                    let status = statuses.next().expect("two calls");
                    let head = http::Response::builder().status(status).header("retry-after", "3");
                    respond.send_response(head.body(()).expect("valid"), true).expect("open");
                }
            });
            let status = if mixed && protocol == Protocol::Http2 {
                world.client().await.ask(GET).await.status()
            } else {
                let stream = world.client().await.stream;
                let (sender, connection) = h2::client::handshake(stream).await.expect("shaken");
                beside(connection);
                let mut sender = sender.ready().await.expect("ready");
                let request = http::Request::get("http://shop/").body(()).expect("valid");
                let (answer, _) = sender.send_request(request, true).expect("sent");
                answer.await.expect("answered").status().as_u16()
            };
            assert_eq!(status, 200);
            assert!(start.elapsed() >= secs(3) && start.elapsed() < secs(4), "{:?}", start.elapsed());
            served.abort();
        }
    })
    .await;
}
