//! What bounds HTTP/2: caps and queue towards endpoints, dead connections, streams, windows and heads of clients;
//! and bodies of HTTP/1 endpoints that stand still under HTTP/2 clients.

use std::future::poll_fn;
use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use dodai_core::snapshot::*;
use dodai_dataplane::limits::{Limits, MAX_HEADERS};
use dodai_transport::stream::Stream;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::{Connection, SendResponse};
use http::{Request, Response, StatusCode};
use tokio::time::Instant;

async fn client(world: &World) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(world.client().await.stream).await.expect("shaken");
    beside(async move {
        let _ended = connection.await;
    });
    settle().await;
    sender.ready().await.expect("ready")
}

fn post(sender: &mut SendRequest<Bytes>, path: &str) -> ResponseFuture {
    let request = Request::post(format!("http://shop{path}")).body(()).expect("valid");
    sender.send_request(request, true).expect("sent").0
}

async fn outcome(response: ResponseFuture) -> (u16, Option<String>) {
    let response = response.await.expect("answered");
    let code = response.headers().get("dodai-failure").map(|code| code.to_str().expect("text").to_owned());
    (response.status().as_u16(), code)
}

/// An HTTP/2 endpoint that lets `streams` calls in at once.
async fn shake(peers: &mut Peers, streams: u32) -> Connection<Stream, Bytes> {
    let stream = peers.accept().await.stream;
    h2::server::Builder::new().max_concurrent_streams(streams).handshake(stream).await.expect("shaken")
}

/// Hands the calls of a connection over, and drives it.
fn calls(mut connection: Connection<Stream, Bytes>) -> tokio::sync::mpsc::Receiver<SendResponse<Bytes>> {
    let (give, calls) = tokio::sync::mpsc::channel(16);
    beside(async move {
        while let Some(Ok((_, respond))) = connection.accept().await {
            give.send(respond).await.expect("the test listens");
        }
    });
    calls
}

fn h2_service(breaker: Breaker) -> Vec<Resource> {
    let service = Service { protocol: Protocol::Http2, breaker, ..service("shop/catalog/http") };
    usual(service, filtered(vec![]))
}

#[tokio::test(start_paused = true)]
async fn calls_beyond_the_streams_of_all_connections_wait_and_the_queue_is_bounded() {
    local(async {
        let breaker = Breaker { max_connections: 2, max_pending: 1, ..Breaker::default() };
        let world = World::of(h2_service(breaker)).await;
        let mut peers = world.backend(1);
        let mut sender = client(&world).await;
        let mut under_way = Vec::new();
        let mut answers = Vec::new();
        let mut feeds = Vec::new();
        for path in ["/1", "/2"] {
            answers.push(post(&mut sender, path));
            let mut calls = calls(shake(&mut peers, 1).await);
            under_way.push(calls.recv().await.expect("a call"));
            feeds.push(calls);
        }
        let waiting = post(&mut sender, "/3");
        settle().await;
        assert_eq!(outcome(post(&mut sender, "/4")).await, (503, Some("queue_full".into())));
        assert!(peers.is_left_alone().await, "two connections are the most");
        under_way.remove(0).send_response(Response::new(()), true).expect("sent");
        assert_eq!(outcome(answers.remove(0)).await.0, 200);
        let mut third = feeds[0].recv().await.expect("the one that waited");
        third.send_response(Response::new(()), true).expect("sent");
        assert_eq!(outcome(waiting).await.0, 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_noticed_and_given_up() {
    local(async {
        let world = World::of(h2_service(Breaker::default())).await;
        let mut peers = world.backend(1);
        let mut sender = client(&world).await;
        let start = Instant::now();
        let answer = post(&mut sender, "/");
        // It is there, and never says a word.
        let dead = peers.accept().await;
        assert_eq!(outcome(answer).await, (502, Some("reset".into())));
        let took = start.elapsed();
        assert!(took >= secs(20) && took < secs(22), "{took:?}");
        let answer = post(&mut sender, "/");
        let mut calls = calls(shake(&mut peers, 10).await);
        calls
            .recv()
            .await
            .expect("over a new connection")
            .send_response(Response::new(()), true)
            .expect("sent");
        assert_eq!(outcome(answer).await.0, 200);
        drop(dead);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_that_answers_pings_is_waited_for() {
    local(async {
        let world = World::of(h2_service(Breaker::default())).await;
        let mut peers = world.backend(1);
        let mut sender = client(&world).await;
        let answer = post(&mut sender, "/");
        let mut calls = calls(shake(&mut peers, 10).await);
        let mut call = calls.recv().await.expect("a call");
        tokio::time::sleep(secs(58)).await;
        call.send_response(Response::new(()), true).expect("sent");
        assert_eq!(outcome(answer).await.0, 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_short_body_that_stands_still_ends_with_the_idle_timeout() {
    local(async {
        let world = World::plain().await;
        let mut backend = world.backend(1);
        let mut sender = client(&world).await;
        let answer = post(&mut sender, "/");
        let mut peer = backend.accept().await;
        peer.answer("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this").await;
        let start = Instant::now();
        let mut body = answer.await.expect("a head").into_body();
        assert_eq!(body.data().await.expect("a piece").expect("whole"), "only this");
        let error = body.data().await.expect("an end").expect_err("it stood still");
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
        assert_eq!(start.elapsed().as_secs(), 60);
        peer.ended().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_has_so_many_streams_and_no_more() {
    local(async {
        let limits = Limits { h2_streams: 2, ..Limits::default() };
        let world = World::with(limits, usual(service("shop/catalog/http"), filtered(vec![]))).await;
        let mut backend = world.backend(1);
        let mut sender = client(&world).await;
        assert_eq!(sender.current_max_send_streams(), 2);
        let first = post(&mut sender, "/1");
        let mut peer = backend.accept().await;
        let _second = post(&mut sender, "/2");
        settle().await;
        let third = post(&mut sender, "/3");
        let sent = tokio::time::timeout(secs(1), poll_fn(|cx| sender.poll_ready(cx))).await;
        assert!(sent.is_err(), "the third waits for a stream");
        peer.answer(OK).await;
        assert_eq!(first.await.expect("answered").status(), StatusCode::OK);
        backend.accept().await.answer(OK).await;
        peer.answer(OK).await;
        assert_eq!(third.await.expect("answered").status(), StatusCode::OK);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_sends_as_much_as_the_windows_let_in() {
    local(async {
        let limits = Limits { h2_stream_window: 60_000, h2_connection_window: 200_000, ..Limits::default() };
        let world = World::with(limits, usual(service("shop/catalog/http"), filtered(vec![]))).await;
        // Nobody listens there: no body is read.
        let mut sender = client(&world).await;
        let mut streams = Vec::new();
        let mut given = Vec::new();
        for _ in 0..4 {
            let request = Request::post("http://shop/").body(()).expect("valid");
            let (_, mut stream) = sender.send_request(request, false).expect("sent");
            stream.reserve_capacity(1 << 20);
            settle().await;
            let room = tokio::time::timeout(Duration::from_millis(1), poll_fn(|cx| stream.poll_capacity(cx)));
            given.push(room.await.map_or(0, |room| room.expect("open").expect("open")));
            streams.push(stream);
        }
        assert_eq!(given, [60_000, 60_000, 60_000, 20_000]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn small_frames_that_waited_go_on_as_few() {
    local(async {
        let world = World::of(h2_service(Breaker::default())).await;
        let mut peers = world.backend(1);
        let mut sender = client(&world).await;
        let request = Request::post("http://shop/").body(()).expect("valid");
        let (answer, mut upload) = sender.send_request(request, false).expect("sent");
        let stream = peers.accept().await.stream;
        let mut server: Connection<Stream, Bytes> =
            h2::server::Builder::new().initial_window_size(0).handshake(stream).await.expect("shaken");
        let (asked, mut respond) = server.accept().await.expect("a call").expect("no error");
        for number in 0..5000_u32 {
            upload.send_data(vec![number as u8].into(), number == 4999).expect("sent");
        }
        let over = tokio::time::timeout(secs(1), server.accept()).await;
        assert!(over.is_err(), "the endpoint takes nothing of it, and the connection stands");
        server.set_initial_window_size(1 << 20).expect("no other change is under way");
        let _calls = calls(server);
        let (mut body, mut frames, mut got) = (asked.into_body(), 0, Vec::new());
        while let Some(data) = body.data().await {
            frames += 1;
            got.extend_from_slice(&data.expect("whole"));
        }
        let sent: Vec<u8> = (0..5000_u32).map(|number| number as u8).collect();
        assert!(got == sent && body.is_end_stream(), "{} bytes", got.len());
        assert!(frames <= 4, "{frames} frames");
        respond.send_response(Response::new(()), true).expect("sent");
        assert_eq!(outcome(answer).await.0, 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_too_large_is_refused_and_the_connection_stays() {
    local(async {
        let world = World::plain().await;
        let mut backend = world.backend(1);
        let mut sender = client(&world).await;
        let request = Request::get("http://shop/").header("x-large", "x".repeat(40 * 1024)).body(());
        let (answer, _) = sender.send_request(request.expect("valid"), true).expect("sent");
        assert_eq!(answer.await.expect("answered").status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        let answer = post(&mut sender, "/");
        backend.accept().await.answer(OK).await;
        assert_eq!(answer.await.expect("answered").status(), StatusCode::OK);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn headers_and_trailers_are_counted_as_with_http_1() {
    local(async {
        let world = World::of(h2_service(Breaker::default())).await;
        let mut peers = world.backend(1);
        let mut sender = client(&world).await;
        let with = |headers: usize| {
            let mut many = Request::get("http://shop/").body(()).expect("valid");
            for number in 0..headers {
                let name = http::HeaderName::try_from(format!("x-{number}")).expect("valid");
                many.headers_mut().insert(name, http::HeaderValue::from_static("1"));
            }
            many
        };
        let refused = sender.send_request(with(MAX_HEADERS + 1), true).expect("sent").0;
        assert_eq!(outcome(refused).await, (431, Some("head_too_large".to_owned())));

        let answer = sender.send_request(with(MAX_HEADERS), true).expect("sent").0;
        let mut calls = calls(shake(&mut peers, 8).await);
        let mut respond = calls.recv().await.expect("a call");
        let mut down = respond.send_response(Response::new(()), false).expect("sent");
        let mut body = answer.await.expect("answered").into_body();
        let long = http::HeaderValue::try_from("a".repeat(9000)).expect("valid");
        down.send_trailers([(http::HeaderName::from_static("x-long"), long)].into_iter().collect())
            .expect("sent");
        assert!(body.trailers().await.is_err(), "9,000 bytes of trailers are too many");
    })
    .await;
}
