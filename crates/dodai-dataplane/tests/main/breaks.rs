//! Connections that break in the middle of a body, by a reset or because nothing passes any more: nobody takes half a body
//! for a whole one, and nothing else suffers.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::time::Instant;

const GATEWAY_ADDR: ([u8; 4], u16) = (GATEWAY, 80);
const ENDPOINT: [u8; 4] = [10, 0, 1, 1];
const CLIENT: [u8; 4] = [10, 0, 0, 5];

/// Beginnings of messages with five bytes of their body, and whether an end of the connection is the body's.
const FRAMINGS: [(&str, bool); 3] = [
    ("Content-Length: 5000\r\n\r\nabcde", false),
    ("Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", false),
    ("X: until close\r\n\r\nabcde", true),
];

/// Requests that go on: a request does not end with its connection.
fn uploads() -> impl Iterator<Item = String> {
    let framings = FRAMINGS.iter().filter(|(_, until_close)| !until_close);
    framings.map(|(framing, _)| format!("POST /p HTTP/1.1\r\nHost: shop\r\n{framing}"))
}

async fn over_h2(world: &World) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(world.client().await.stream).await.expect("shaken");
    beside(async move {
        let _ended = connection.await;
    });
    sender.ready().await.expect("ready")
}

fn get() -> http::Request<()> {
    http::Request::get("http://shop/").body(()).expect("valid")
}

/// What breaks the connection between the base and its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    Reset,
    /// Nothing passes any more: the idle timeout ends it.
    BlackHole,
}

impl Break {
    fn hit(self, world: &World) {
        match self {
            Break::Reset => assert_eq!(world.net.reset(backend_addr(1)), 1),
            Break::BlackHole => world.net.partition(GATEWAY, ENDPOINT),
        }
    }

    /// Asserts what came of a call that began at `start`, and that the next one is well.
    async fn passed(self, world: &World, start: Instant, backends: &mut Peers, what: &str) {
        let (code, least) = match self {
            Break::Reset => ("reset", Duration::ZERO),
            Break::BlackHole => ("idle", secs(60)),
        };
        let took = start.elapsed();
        assert!(took >= least && took < least + secs(1), "{what}: {took:?}");
        let record = world.records.next().await;
        assert_eq!(record.failure.map(|kind| kind.code()), Some(code), "{what}");
        assert_eq!((record.status, record.retries), (200, 0), "{what}: it had begun");
        world.net.heal(GATEWAY, ENDPOINT);
        answers(world, backends, what).await;
    }
}

/// Asserts that a call is answered, over a new connection to the endpoint.
async fn answers(world: &World, backends: &mut Peers, what: &str) {
    let mut client = world.client().await;
    client.send(GET).await;
    let mut backend = backends.accept().await;
    assert!(backend.answer(OK).await.head.starts_with("GET /a?q=1 "), "{what}");
    assert_eq!(client.message().await.body, "ok", "{what}");
}

#[tokio::test(start_paused = true)]
async fn a_response_that_breaks_off_is_no_whole_one() {
    local(async {
        for (framing, until_close) in FRAMINGS {
            for by in [Break::Reset, Break::BlackHole] {
                let what = format!("{by:?} {framing:?}");
                let world = World::plain().await;
                let mut backends = world.backend(1);
                let mut client = world.client().await;
                client.send(GET).await;
                let mut backend = backends.accept().await;
                backend.answer(&format!("HTTP/1.1 200 OK\r\n{framing}")).await;
                assert_eq!(client.until("abcde").await.matches("200 OK").count(), 1, "{what}");
                let start = Instant::now();
                by.hit(&world);
                let (rest, in_order) = client.end().await;
                assert_eq!(rest.trim(), "", "{what}");
                assert_eq!(in_order, !until_close, "{what}: an end in order would be the end of the body");
                by.passed(&world, start, &mut backends, &what).await;
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_that_breaks_off_resets_its_stream() {
    local(async {
        for (framing, _) in FRAMINGS {
            for by in [Break::Reset, Break::BlackHole] {
                let what = format!("{by:?} {framing:?}");
                let world = World::plain().await;
                let mut backends = world.backend(1);
                let mut sender = over_h2(&world).await;
                let (answer, _) = sender.send_request(get(), true).expect("sent");
                let mut backend = backends.accept().await;
                backend.answer(&format!("HTTP/1.1 200 OK\r\n{framing}")).await;
                let mut body = answer.await.expect("a head").into_body();
                assert_eq!(body.data().await.expect("data").expect("whole"), "abcde", "{what}");
                let start = Instant::now();
                by.hit(&world);
                let error = body.data().await.expect("an end").expect_err("it is not whole");
                assert!(error.is_reset(), "{what}: {error}");
                by.passed(&world, start, &mut backends, &what).await;
                sender.ready().await.expect("the connection stands");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_that_breaks_off_is_no_whole_one_for_clients_of_http_1_0() {
    local(async {
        for (framing, _) in FRAMINGS {
            for by in [Break::Reset, Break::BlackHole] {
                let what = format!("{by:?} {framing:?}");
                let world = World::plain().await;
                let mut backends = world.backend(1);
                let mut client = world.client().await;
                client.send("GET / HTTP/1.0\r\nHost: shop\r\n\r\n").await;
                let mut backend = backends.accept().await;
                backend.answer(&format!("HTTP/1.1 200 OK\r\n{framing}")).await;
                let head = client.until("abcde").await;
                let start = Instant::now();
                by.hit(&world);
                let (rest, in_order) = client.end().await;
                let by_length = head.to_lowercase().contains("content-length");
                assert_eq!((rest.as_str(), in_order), ("", by_length), "{what}: {head}");
                by.passed(&world, start, &mut backends, &what).await;
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_until_the_end_of_its_connection_is_whole_when_that_ends_in_order() {
    local(async {
        for version in ["1.0", "1.1"] {
            let world = World::plain().await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            client.send(format!("GET / HTTP/{version}\r\nHost: shop\r\n\r\n")).await;
            let mut backend = backends.accept().await;
            backend.answer("HTTP/1.1 200 OK\r\n\r\nabcde").await;
            client.until("abcde").await;
            backend.send("fgh").await;
            drop(backend);
            assert_eq!(client.end().await, ("fgh".to_owned(), true), "HTTP/{version}");
            assert_eq!(world.records.next().await.failure, None);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_whose_client_breaks_off_is_no_whole_one() {
    local(async {
        for upload in uploads() {
            let world = World::plain().await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            client.send(&upload).await;
            let mut backend = backends.accept().await;
            backend.until("abcde").await;
            assert_eq!(world.net.reset(SocketAddr::from(GATEWAY_ADDR)), 1);
            assert_eq!(backend.rest().await.trim(), "", "{upload}: no end of the body");
            let record = world.records.next().await;
            assert_eq!(record.failure.map(|kind| kind.code()), Some("client_gone"), "{upload}");
            answers(&world, &mut backends, &upload).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_through_which_nothing_passes_ends_with_the_idle_timeout() {
    local(async {
        for upload in uploads() {
            let world = World::plain().await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            client.send(&upload).await;
            let mut backend = backends.accept().await;
            backend.until("abcde").await;
            let start = Instant::now();
            world.net.partition(GATEWAY, CLIENT);
            assert_eq!(backend.rest().await.trim(), "", "{upload}: no end of the body");
            let took = start.elapsed();
            assert!(took >= secs(60) && took < secs(61), "{upload}: {took:?}");
            let code = world.records.next().await.failure.map(|kind| kind.code());
            assert!([Some("client_timeout"), Some("timeout")].contains(&code), "{upload}: {code:?}");
            world.net.heal(GATEWAY, CLIENT);
            answers(&world, &mut backends, &upload).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_breaks_an_upload_off_is_not_asked_again() {
    local(async {
        for upload in uploads() {
            let world = World::plain().await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            client.send(&upload).await;
            let mut backend = backends.accept().await;
            backend.until("abcde").await;
            assert_eq!(world.net.reset(backend_addr(1)), 1);
            let answer = client.message().await;
            assert_eq!((answer.status(), answer.header("dodai-failure")), (502, Some("reset")), "{upload}");
            assert!(backends.is_left_alone().await, "{upload}");
            assert_eq!(world.records.next().await.retries, 0);
            answers(&world, &mut backends, &upload).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_an_upload_does_not_reach_has_the_time_of_a_try() {
    local(async {
        for upload in uploads() {
            let mut catalog = service("shop/catalog/http");
            catalog.policy.try_timeout = Some(secs(3));
            let world = World::of(usual(catalog, filtered(vec![]))).await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            client.send(&upload).await;
            let mut backend = backends.accept().await;
            backend.until("abcde").await;
            let start = Instant::now();
            world.net.partition(GATEWAY, ENDPOINT);
            let answer = client.message().await;
            assert_eq!((answer.status(), answer.header("dodai-failure")), (504, Some("timeout")), "{upload}");
            let took = start.elapsed();
            assert!(took >= secs(2) && took < secs(4), "{upload}: {took:?}");
            world.net.heal(GATEWAY, ENDPOINT);
            answers(&world, &mut backends, &upload).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_breaks_a_download_off_ends_the_call() {
    local(async {
        for (framing, _) in FRAMINGS {
            let world = World::plain().await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            client.send(GET).await;
            let mut backend = backends.accept().await;
            backend.answer(&format!("HTTP/1.1 200 OK\r\n{framing}")).await;
            client.until("abcde").await;
            assert_eq!(world.net.reset(SocketAddr::from(GATEWAY_ADDR)), 1);
            backend.ended().await;
            let record = world.records.next().await;
            assert_eq!(record.failure.map(|kind| kind.code()), Some("client_gone"), "{framing:?}");
            answers(&world, &mut backends, framing).await;
        }
    })
    .await;
}
