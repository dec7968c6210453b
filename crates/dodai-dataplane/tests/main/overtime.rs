//! A whole call has an end, however its bodies trickle.

use crate::support::*;
use bytes::Bytes;
use dodai_core::snapshot::{CallPolicy, Protocol, Service};
use h2::client::SendRequest;
use tokio::time::{Instant, sleep};

/// A catalog whose calls may take ten seconds altogether.
async fn world(protocol: Protocol) -> World {
    let policy = CallPolicy { total_timeout: Some(secs(10)), ..CallPolicy::default() };
    let catalog = Service { protocol, policy, ..service("shop/catalog/http") };
    World::of(usual(catalog, filtered(vec![]))).await
}

fn took_ten(start: Instant) {
    let took = start.elapsed();
    assert!(took >= secs(10) && took < secs(11), "{took:?}");
}

async fn failure(world: &World) -> Option<&'static str> {
    world.records.next().await.failure.map(|kind| kind.code())
}

async fn sender(world: &World) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(world.client().await.stream).await.expect("shaken");
    beside(async move {
        let _ended = connection.await;
    });
    sender.ready().await.expect("ready")
}

/// An endpoint that takes one call over HTTP/2 and goes on answering it; ends with why it cannot any more.
fn endless(mut backends: Peers) -> tokio::task::JoinHandle<h2::Reason> {
    beside(async move {
        let stream = backends.accept().await.stream;
        let mut connection = h2::server::handshake(stream).await.expect("shaken");
        let (_asked, mut respond) = connection.accept().await.expect("a call").expect("whole");
        beside(async move { while let Some(Ok(_)) = connection.accept().await {} });
        let mut body = respond.send_response(http::Response::new(()), false).expect("open");
        loop {
            let cut = std::future::poll_fn(|cx| body.poll_reset(cx));
            match tokio::time::timeout(secs(1), cut).await {
                Ok(cut) => return cut.expect("reset"),
                Err(_) => body.send_data("x".into(), false).expect("open"),
            }
        }
    })
}

/// Reads a body to its end.
async fn drain(body: &mut h2::RecvStream) -> Result<usize, h2::Error> {
    let mut all = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all += data.len();
    }
    Ok(all)
}

fn grpc() -> http::Request<()> {
    let request = http::Request::post("http://shop/s/m").header("content-type", "application/grpc");
    request.header("te", "trailers").body(()).expect("valid")
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_trickles_is_cut_with_its_connection() {
    local(async {
        let world = world(Protocol::Http).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let start = Instant::now();
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n").await;
        client.head().await;
        let trickle = beside(async move {
            while backend.try_send("x").await {
                sleep(secs(1)).await;
            }
        });
        assert!(client.rest().await.len() < 12);
        took_ten(start);
        assert_eq!(failure(&world).await, Some("overtime"));
        trickle.await.expect("its connection was closed");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn so_is_a_request_that_trickles() {
    local(async {
        for protocol in [Protocol::Http, Protocol::Http2] {
            let world = world(protocol).await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            let start = Instant::now();
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n").await;
            let backend = beside(async move {
                let stream = backends.accept().await.stream;
                if protocol == Protocol::Http {
                    return assert!(Peer::new(stream).rest().await.ends_with("xxxxxxxxx"));
                }
                let mut connection = h2::server::handshake(stream).await.expect("shaken");
                let _call = connection.accept().await.expect("a call").expect("whole");
                while let Some(Ok(_)) = connection.accept().await {}
            });
            while start.elapsed() < secs(9) {
                client.send("x").await;
                sleep(secs(1)).await;
            }
            let answer = client.message().await;
            assert_eq!(answer.status(), 504, "{answer:?}");
            took_ten(start);
            client.ended().await;
            backend.abort();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_little_is_cut_too() {
    local(async {
        let world = world(Protocol::Http).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let start = Instant::now();
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.head().await;
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n").await;
        while backend.try_send(vec![0u8; 10_000]).await {}
        took_ten(start);
        assert_eq!(failure(&world).await, Some("overtime"));
        drop(client);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_reset_and_one_of_grpc_ends_with_its_status() {
    local(async {
        for is_grpc in [false, true] {
            let world = world(Protocol::Http2).await;
            let backend = endless(world.backend(1));
            let mut sender = sender(&world).await;
            let start = Instant::now();
            let request =
                if is_grpc { grpc() } else { http::Request::get("http://shop/").body(()).expect("valid") };
            let (answer, _open) = sender.send_request(request, !is_grpc).expect("sent");
            let mut body = answer.await.expect("answered").into_body();
            let read = drain(&mut body).await;
            took_ten(start);
            if is_grpc {
                assert!(read.expect("cut in order") < 12);
                let trailers = body.trailers().await.expect("whole").expect("told");
                assert_eq!(trailers["grpc-status"], "4");
            } else {
                assert_eq!(read.expect_err("cut").reason(), Some(h2::Reason::CANCEL));
            }
            assert_eq!(backend.await.expect("it was told"), h2::Reason::CANCEL);
            let record = world.records.next().await;
            let told = (record.failure.map(|kind| kind.code()), record.grpc_status);
            assert_eq!(told, (Some("overtime"), is_grpc.then_some(4)));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn from_one_protocol_to_another_too() {
    local(async {
        // HTTP/1 to HTTP/2.
        let world = world(Protocol::Http2).await;
        let backend = endless(world.backend(1));
        let mut client = world.client().await;
        let start = Instant::now();
        client.send(GET).await;
        client.head().await;
        client.rest().await;
        took_ten(start);
        assert_eq!(failure(&world).await, Some("overtime"));
        assert_eq!(backend.await.expect("it was told"), h2::Reason::CANCEL);
        // HTTP/2 to HTTP/1, with and without a client that reads.
        let world = self::world(Protocol::Http).await;
        let mut backends = world.backend(1);
        for reads in [true, false] {
            let mut sender = sender(&world).await;
            let start = Instant::now();
            let request = http::Request::get("http://shop/").body(()).expect("valid");
            let (answer, _) = sender.send_request(request, true).expect("sent");
            let mut backend = backends.accept().await;
            backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n").await;
            let mut body = answer.await.expect("answered").into_body();
            let trickle = beside(async move {
                while backend.try_send(vec![0u8; if reads { 1 } else { 10_000 }]).await {
                    if reads {
                        sleep(secs(1)).await;
                    }
                }
            });
            if reads {
                drain(&mut body).await.expect_err("cut");
            } else {
                trickle.await.expect("its connection was closed");
            }
            took_ten(start);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_of_grpc_says_counts_to_the_trailers() {
    local(async {
        let world = World::of(usual(
            Service { protocol: Protocol::Grpc, ..service("shop/catalog/http") },
            filtered(vec![]),
        ))
        .await;
        let backend = endless(world.backend(1));
        let mut sender = sender(&world).await;
        let start = Instant::now();
        let mut request = grpc();
        request.headers_mut().insert("grpc-timeout", "10S".parse().expect("valid"));
        let (answer, _open) = sender.send_request(request, false).expect("sent");
        let mut body = answer.await.expect("answered").into_body();
        drain(&mut body).await.expect("cut in order");
        took_ten(start);
        assert_eq!(body.trailers().await.expect("whole").expect("told")["grpc-status"], "4");
        assert_eq!(backend.await.expect("it was told"), h2::Reason::CANCEL);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_instance_is_blamed_and_a_websocket_goes_on() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        catalog.policy.total_timeout = Some(secs(10));
        catalog.breaker.consecutive_failures = 1;
        catalog.breaker.open_for = secs(3600);
        catalog.breaker.refuses = true;
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nabc").await;
        client.head().await;
        assert_eq!(client.rest().await, "abc");
        let mut client = world.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        let mut backend = backends.accept().await;
        let switch = "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        backend.answer(switch).await;
        assert!(client.head().await.starts_with("HTTP/1.1 101"));
        sleep(secs(60)).await;
        backend.send("still here").await;
        assert_eq!(client.text(10).await, "still here");
    })
    .await;
}
