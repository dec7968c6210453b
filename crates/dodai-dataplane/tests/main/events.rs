//! Server-sent events to a client of HTTP/2: each comes when it is written, and a stream lives while events do.

use std::time::Duration;

use crate::ends::Ask;
use crate::h2::{Server, piece};
use crate::support::*;
use bytes::Bytes;
use dodai_core::snapshot::*;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::time::Instant;

const EVENTS: &str = "text/event-stream";

/// An app that writes events.
enum Source {
    /// In chunks.
    H1(Peer),
    H2(SendStream<Bytes>),
}

impl Source {
    async fn accept(backends: &mut Peers, protocol: Protocol) -> Source {
        if protocol == Protocol::Http2 {
            let mut server = Server::accept(backends).await;
            let (asked, mut respond) = server.next().await;
            assert_eq!(asked.headers()["accept"], EVENTS);
            let _driving = server.drive();
            let head = Response::builder().header("content-type", EVENTS).body(()).expect("valid");
            return Source::H2(respond.send_response(head, false).expect("open"));
        }
        let mut peer = backends.accept().await;
        assert_eq!(peer.message().await.header("accept"), Some(EVENTS));
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        Source::H1(peer)
    }

    async fn write(&mut self, event: &str) {
        match self {
            Source::H1(peer) => peer.send(format!("{:x}\r\n{event}\r\n", event.len())).await,
            Source::H2(body) => body.send_data(event.to_owned().into(), false).expect("open"),
        }
    }

    /// The other side has given up.
    async fn cut(self) {
        match self {
            Source::H1(mut peer) => peer.ended().await,
            Source::H2(mut body) => {
                std::future::poll_fn(|cx| body.poll_reset(cx)).await.expect("reset");
            }
        }
    }
}

/// A stream of events through a world with this policy: both of its ends.
async fn open(world: &World, protocol: Protocol) -> (Source, RecvStream, Ask) {
    let mut backends = world.backend(1);
    let mut ask = Ask::new(world.client().await, true).await;
    let Ask::H2(sender) = &mut ask else { unreachable!("asked for") };
    let request = Request::get("http://shop/events").header("accept", EVENTS).body(()).expect("valid");
    let (response, _) = sender.send_request(request, true).expect("sent");
    let source = Source::accept(&mut backends, protocol).await;
    let response = response.await.expect("answered");
    assert_eq!(response.headers()["content-type"], EVENTS);
    (source, response.into_body(), ask)
}

async fn world(protocol: Protocol, idle: Option<Duration>) -> World {
    let policy = CallPolicy { timeout: Some(secs(10)), idle_timeout: idle, ..CallPolicy::default() };
    World::of(usual(Service { protocol, policy, ..service("shop/catalog/http") }, filtered(vec![]))).await
}

const BOTH: [Protocol; 2] = [Protocol::Http, Protocol::Http2];

#[tokio::test(start_paused = true)]
async fn each_event_comes_by_itself_for_much_longer_than_a_call_waits_for_its_head() {
    local(async {
        for protocol in BOTH {
            let world = world(protocol, None).await;
            let (mut source, mut events, _ask) = open(&world, protocol).await;
            for count in 0..8 {
                tokio::time::sleep(secs(50)).await;
                let event = format!("id: {count}\ndata: x\n\n");
                let start = Instant::now();
                source.write(&event).await;
                assert_eq!(piece(&mut events).await, event, "{protocol:?}");
                assert!(start.elapsed() < Duration::from_millis(5), "{protocol:?}: {:?}", start.elapsed());
            }
            let start = Instant::now();
            drop(events);
            source.cut().await;
            assert!(start.elapsed() < Duration::from_millis(100), "{protocol:?}: {:?}", start.elapsed());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_events_lives_as_long_as_one_may_stand_still() {
    local(async {
        for protocol in BOTH {
            for (idle, expect) in [(None, 60), (Some(secs(300)), 300)] {
                let world = world(protocol, idle).await;
                let (mut source, mut events, _ask) = open(&world, protocol).await;
                source.write("data: x\n\n").await;
                assert_eq!(piece(&mut events).await, "data: x\n\n");
                let start = Instant::now();
                let end = events.data().await.expect("no end, as the body is not whole");
                assert!(end.expect_err("cut").is_reset(), "{protocol:?}");
                let took = start.elapsed();
                assert!(took >= secs(expect) && took < secs(expect + 1), "{protocol:?}: {took:?}");
                source.cut().await;
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_with_its_connection_ends_well() {
    local(async {
        let world = world(Protocol::Http, None).await;
        let mut backends = world.backend(1);
        let mut ask = Ask::new(world.client().await, true).await;
        let Ask::H2(sender) = &mut ask else { unreachable!("asked for") };
        let request = Request::get("http://shop/events").body(()).expect("valid");
        let (response, _) = sender.send_request(request, true).expect("sent");
        let mut peer = backends.accept().await;
        peer.answer("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await;
        let mut events = response.await.expect("answered").into_body();
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            tokio::time::sleep(secs(30)).await;
            peer.send(event).await;
            assert_eq!(piece(&mut events).await, event);
        }
        drop(peer);
        assert!(events.data().await.is_none_or(|last| last.expect("whole").is_empty()));
        assert!(events.is_end_stream());
    })
    .await;
}
