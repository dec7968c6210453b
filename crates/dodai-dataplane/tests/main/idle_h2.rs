//! Endpoints that close idle HTTP/2 connections after a time of their own: no call may notice.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::idle::without_retries;
use crate::support::*;
use bytes::Bytes;
use dodai_core::snapshot::*;
use http::Response;

/// What an endpoint saw.
#[derive(Default)]
struct Seen {
    connections: Cell<u32>,
    calls: RefCell<Vec<String>>,
}

/// How an endpoint ends a connection.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It closes.
    Plain,
    /// It says GOAWAY before.
    Told,
}

/// Backend 1, which answers calls over HTTP/2 and ends a connection exactly `idle` after its last answer.
fn closing_after(world: &World, idle: Duration, by: End) -> Rc<Seen> {
    let mut peers = world.backend(1);
    let seen = Rc::new(Seen::default());
    let counted = seen.clone();
    beside(async move {
        loop {
            let stream = peers.accept().await.stream;
            counted.connections.set(counted.connections.get() + 1);
            let counted = counted.clone();
            beside(async move {
                let mut server = h2::server::handshake(stream).await.expect("shaken");
                while let Ok(Some(Ok((asked, mut respond)))) =
                    tokio::time::timeout(idle, server.accept()).await
                {
                    let (head, mut body) = asked.into_parts();
                    let reading = async {
                        let mut all = Vec::new();
                        while let Some(data) = body.data().await {
                            all.extend_from_slice(&data.expect("whole"));
                        }
                        String::from_utf8(all).expect("text")
                    };
                    let mut reading = std::pin::pin!(reading);
                    // What comes of the body comes by way of the connection.
                    let body = tokio::select! {
                        body = &mut reading => body,
                        other = server.accept() => panic!("{:?}", other.map(|one| one.map(|_| ()))),
                    };
                    counted.calls.borrow_mut().push(format!("{} {body}", head.method));
                    let mut down = respond.send_response(Response::new(()), false).expect("open");
                    down.send_data(Bytes::from_static(b"ok"), true).expect("open");
                }
                if matches!(by, End::Told) {
                    server.abrupt_shutdown(h2::Reason::NO_ERROR);
                    let _over = server.accept().await;
                }
            });
        }
    });
    seen
}

async fn world() -> World {
    World::of(usual(Service { protocol: Protocol::Http2, ..without_retries() }, filtered(vec![]))).await
}

const POST: &str = "POST /a HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 4\r\n\r\nbody";

/// A client of either protocol.
enum Client {
    H1(Box<Peer>),
    H2(h2::client::SendRequest<Bytes>),
}

impl Client {
    async fn new(world: &World, modern: bool) -> Client {
        let peer = world.client().await;
        if !modern {
            return Client::H1(Box::new(peer));
        }
        let (sender, connection) = h2::client::handshake(peer.stream).await.expect("shaken");
        beside(async move {
            let _ended = connection.await;
        });
        Client::H2(sender.ready().await.expect("ready"))
    }

    async fn ask(&mut self, post: bool) -> (u16, String) {
        match self {
            Client::H1(peer) => {
                let answer = peer.ask(if post { POST } else { GET }).await;
                (answer.status(), answer.body)
            }
            Client::H2(sender) => {
                let request = http::Request::builder().uri("http://shop/a");
                let request = request.method(if post { "POST" } else { "GET" }).body(()).expect("valid");
                let (answer, mut upload) = sender.send_request(request, !post).expect("sent");
                if post {
                    upload.send_data("body".into(), true).expect("sent");
                }
                let answer = answer.await.expect("answered");
                let status = answer.status().as_u16();
                let mut body = answer.into_body();
                let mut all = Vec::new();
                while let Some(data) = body.data().await {
                    all.extend_from_slice(&data.expect("whole"));
                }
                (status, String::from_utf8(all).expect("text"))
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_at_its_idle_timeout_fails_no_call() {
    local(async {
        for (modern, by) in [(true, End::Plain), (true, End::Told), (false, End::Plain), (false, End::Told)] {
            for idle in [secs(2), secs(5)] {
                let world = world().await;
                let seen = closing_after(&world, idle, by);
                let mut client = Client::new(&world, modern).await;
                let mut asked = 0;
                // At that very moment, around it, and in between.
                let offsets: [i64; 9] = [0, -1, 1, 0, -50, 50, 0, -400, 0];
                for round in 0..12 {
                    for offset in offsets {
                        let post = (round + asked) % 3 == 0;
                        let (status, said) = client.ask(post).await;
                        asked += 1;
                        let what = format!("{by:?}: call {asked}, {offset} ms beside {idle:?}");
                        assert_eq!((status, said.as_str()), (200, "ok"), "{what}");
                        let wait = i64::try_from(idle.as_millis()).expect("short") + offset;
                        tokio::time::sleep(Duration::from_millis(u64::try_from(wait).expect("positive")))
                            .await;
                    }
                }
                let calls = seen.calls.borrow();
                assert_eq!(calls.len(), asked, "{by:?}: every call was made once");
                assert!(calls.iter().all(|call| call == "GET " || call == "POST body"), "{calls:?}");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_to_endpoints_that_left_are_not_kept() {
    local(async {
        for protocol in [Protocol::Http, Protocol::Http2] {
            let catalog = Service { protocol, ..service("shop/catalog/http") };
            let world = World::of(usual(catalog.clone(), filtered(vec![]))).await;
            let mut backends = world.backend(1);
            let over = beside(async move {
                let mut backend = backends.accept().await;
                if protocol == Protocol::Http {
                    backend.answer(OK).await;
                    return backend.ended().await;
                }
                let mut server = h2::server::handshake(backend.stream).await.expect("shaken");
                let (_, mut respond) = server.accept().await.expect("open").expect("whole");
                respond.send_response(Response::new(()), true).expect("open");
                assert!(server.accept().await.is_none());
            });
            let mut client = world.client().await;
            client.send(GET).await;
            assert!(client.head().await.starts_with("HTTP/1.1 200"));
            let mut resources = usual(catalog, filtered(vec![]));
            resources.retain(|one| !matches!(one, Resource::Endpoints(_)));
            resources.push(endpoints("shop/catalog/http", vec![endpoint(2, "r1")]));
            world.apply(resources).await;
            let start = tokio::time::Instant::now();
            over.await.expect("the connection ends");
            assert!(start.elapsed() < secs(5), "{protocol:?}: {:?}", start.elapsed());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_are_kept_below_what_was_learnt() {
    local(async {
        for by in [End::Plain, End::Told] {
            let world = world().await;
            let seen = closing_after(&world, secs(5), by);
            let mut client = Client::new(&world, true).await;
            // Two connections show how long the server waits.
            for _ in 0..2 {
                assert_eq!(client.ask(true).await.0, 200);
                tokio::time::sleep(secs(7)).await;
            }
            assert_eq!(client.ask(true).await.0, 200);
            let before = seen.connections.get();
            for _ in 0..20 {
                tokio::time::sleep(secs(3)).await;
                assert_eq!(client.ask(true).await.0, 200);
            }
            assert_eq!(seen.connections.get(), before, "well below its timeout one connection serves all");
            tokio::time::sleep(Duration::from_millis(4_900)).await;
            assert_eq!(client.ask(false).await.0, 200);
            assert_eq!(seen.connections.get(), before + 1, "too near its timeout a new one is made");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_be_repeated_waits_for_the_answer_to_a_ping() {
    local(async {
        let world = world().await;
        let seen = closing_after(&world, secs(25), End::Plain);
        let mut client = Client::new(&world, true).await;
        for wait in [10, 20, 0] {
            assert_eq!(client.ask(true).await.0, 200);
            tokio::time::sleep(secs(wait)).await;
        }
        assert_eq!(seen.connections.get(), 1, "it answered, so it is open");
        // Nothing passes any more: a call that could not be made again goes another way at once.
        tokio::time::sleep(secs(21)).await;
        world.net.partition(GATEWAY, [10, 0, 1, 1]);
        let ((status, _), ()) = tokio::join!(client.ask(true), async {
            tokio::time::sleep(secs(3)).await;
            world.net.heal(GATEWAY, [10, 0, 1, 1]);
        });
        assert_eq!((status, seen.connections.get()), (200, 2));
        assert_eq!(seen.calls.borrow().len(), 4, "every call was made once");
    })
    .await;
}

/// One frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// Reads up to the end of a request; says on which stream it is.
async fn request(peer: &mut Peer) -> u8 {
    loop {
        let header = peer.take(9).await;
        peer.take(usize::from(header[1]) << 8 | usize::from(header[2])).await;
        // HEADERS or DATA that end a stream.
        if header[3] <= 1 && header[4] & 1 == 1 {
            return header[8];
        }
    }
}

/// A connection as an endpoint has it that writes its frames by hand.
async fn by_hand(peers: &mut Peers) -> Peer {
    let mut peer = peers.accept().await;
    peer.take(24).await;
    peer.send(frame(4, 0, 0, &[])).await;
    peer
}

#[tokio::test(start_paused = true)]
async fn a_call_that_crosses_a_goaway_is_made_again_whatever_it_is() {
    local(async {
        for modern in [true, false] {
            for post in [true, false] {
                let world = world().await;
                let mut peers = world.backend(1);
                let mut client = Client::new(&world, modern).await;
                let calling = beside(async move {
                    assert_eq!(client.ask(post).await.0, 200);
                    client.ask(post).await.0
                });
                let mut first = by_hand(&mut peers).await;
                assert_eq!(request(&mut first).await, 1);
                // The index of `:status: 200`, and the end of the stream.
                first.send(frame(1, 5, 1, &[0x88])).await;
                assert_eq!(request(&mut first).await, 3);
                // The last stream that it looked at is the first one.
                first.send(frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).await;
                drop(first);
                let mut second = by_hand(&mut peers).await;
                assert_eq!(request(&mut second).await, 1);
                second.send(frame(1, 5, 1, &[0x88])).await;
                assert_eq!(calling.await.expect("no panic"), 200, "{modern} {post}");
                assert_eq!(world.records.take().iter().map(|one| one.retries).sum::<u32>(), 0);
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_meets_the_end_of_a_kept_connection_is_made_again_if_it_can_be() {
    local(async {
        for (modern, post, status) in
            [(true, false, 200), (false, false, 200), (true, true, 503), (false, true, 503)]
        {
            let world = world().await;
            let mut peers = world.backend(1);
            let mut client = Client::new(&world, modern).await;
            let calling = beside(async move {
                assert_eq!(client.ask(post).await.0, 200);
                client.ask(post).await.0
            });
            let mut first = by_hand(&mut peers).await;
            assert_eq!(request(&mut first).await, 1);
            first.send(frame(1, 5, 1, &[0x88])).await;
            assert_eq!(request(&mut first).await, 3);
            drop(first);
            if status == 200 {
                let mut second = by_hand(&mut peers).await;
                assert_eq!(request(&mut second).await, 1);
                second.send(frame(1, 5, 1, &[0x88])).await;
            } else {
                assert!(peers.is_left_alone().await, "it may have acted");
            }
            assert_eq!(calling.await.expect("no panic"), status, "{modern} {post}");
        }
    })
    .await;
}
