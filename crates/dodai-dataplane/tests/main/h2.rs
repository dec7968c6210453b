//! HTTP/2 and gRPC, with the `h2` crate as client and server.

use std::future::poll_fn;

use crate::support::*;
use bytes::Bytes;
use dodai_core::snapshot::*;
use dodai_transport::stream::Stream;
use h2::client::SendRequest;
use h2::server::{Connection, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};

pub type Incoming = (Request<RecvStream>, SendResponse<Bytes>);

async fn client(world: &World) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(world.client().await.stream).await.expect("shaken");
    beside(async move {
        let _ended = connection.await;
    });
    sender.ready().await.expect("ready")
}

pub struct Server(Connection<Stream, Bytes>);

impl Server {
    pub async fn accept(peers: &mut Peers) -> Server {
        Server(h2::server::handshake(peers.accept().await.stream).await.expect("shaken"))
    }

    pub async fn next(&mut self) -> Incoming {
        self.0.accept().await.expect("a stream").expect("no error")
    }

    /// Goes on driving the connection beside the test.
    pub fn drive(mut self) -> tokio::task::JoinHandle<()> {
        beside(async move { while let Some(Ok(_)) = self.0.accept().await {} })
    }
}

fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://shop{path}")).body(()).expect("valid")
}

pub fn grpc(path: &str) -> Request<()> {
    let mut request = request("POST", path);
    request.headers_mut().insert("content-type", "application/grpc".parse().expect("valid"));
    request.headers_mut().insert("te", "trailers".parse().expect("valid"));
    request
}

pub async fn read(body: &mut RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.expect("whole");
        body.flow_control().release_capacity(data.len()).expect("open");
        all.extend_from_slice(&data);
    }
    all
}

pub async fn piece(body: &mut RecvStream) -> Bytes {
    let data = body.data().await.expect("more").expect("whole");
    body.flow_control().release_capacity(data.len()).expect("open");
    data
}

/// Both sides of a call write in turns, and what one wrote is there before the other goes on; then the caller ends.
pub async fn take_turns(
    (upload, asked): (&mut SendStream<Bytes>, &mut RecvStream),
    (down, answer): (&mut SendStream<Bytes>, &mut RecvStream),
) {
    for round in 0..5_u8 {
        write(upload, vec![round; 1000].into(), false).await;
        assert_eq!(piece(asked).await, vec![round; 1000]);
        write(down, vec![round; 10].into(), false).await;
        assert_eq!(piece(answer).await, vec![round; 10]);
    }
    upload.send_data(Bytes::new(), true).expect("sent");
    assert_eq!(read(asked).await, b"");
}

pub async fn write(to: &mut SendStream<Bytes>, mut data: Bytes, end: bool) {
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let room = poll_fn(|cx| to.poll_capacity(cx)).await.expect("open").expect("open");
        let piece = data.split_to(room.min(data.len()));
        to.send_data(piece, end && data.is_empty()).expect("sent");
    }
}

pub fn trailers(status: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), status.parse().expect("valid"))])
}

/// The same with what must not be in trailers and is left out on the way.
fn careless(status: &str) -> HeaderMap {
    let mut all = trailers(status);
    for name in ["content-length", "host", "authorization", "set-cookie", "content-type"] {
        all.insert(http::HeaderName::from_static(name), http::HeaderValue::from_static("1"));
    }
    all
}

async fn h2_world() -> World {
    let spoken = Service { protocol: Protocol::Http2, ..service("shop/catalog/http") };
    World::of(usual(spoken, filtered(vec![]))).await
}

#[tokio::test(start_paused = true)]
async fn a_unary_call_brings_its_trailers() {
    local(async {
        let world = h2_world().await;
        let mut backends = world.backend(1);
        let mut sender = client(&world).await;
        let (response, mut upload) = sender.send_request(grpc("/s/m"), false).expect("sent");
        upload.send_data("ask".into(), true).expect("sent");
        let mut server = Server::accept(&mut backends).await;
        let (asked, mut respond) = server.next().await;
        let driving = server.drive();
        assert_eq!((asked.uri().path(), asked.headers()["te"].as_bytes()), ("/s/m", b"trailers".as_slice()));
        assert_eq!(
            (asked.headers()["dodai-hops"].as_bytes(), asked.headers().contains_key("traceparent")),
            (b"01".as_slice(), true)
        );
        assert_eq!(read(&mut asked.into_body()).await, b"ask");
        let mut down = respond.send_response(Response::new(()), false).expect("sent");
        down.send_data("answer".into(), false).expect("sent");
        down.send_trailers(careless("0")).expect("sent");
        let response = response.await.expect("answered");
        let mut body = response.into_body();
        assert_eq!(read(&mut body).await, b"answer");
        assert_eq!(body.trailers().await.expect("whole"), Some(trailers("0")));
        let record = world.records.next().await;
        assert_eq!(
            (record.grpc_status, record.protocol, record.received, record.sent),
            (Some(0), "gRPC", 3, 6)
        );
        driving.abort();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn streams_flow_both_ways_at_once() {
    local(async {
        let world = h2_world().await;
        let mut backends = world.backend(1);
        let mut sender = client(&world).await;
        let (response, mut upload) = sender.send_request(grpc("/s/bidi"), false).expect("sent");
        let mut server = Server::accept(&mut backends).await;
        let (asked, mut respond) = server.next().await;
        let _driving = server.drive();
        let mut asked = asked.into_body();
        let mut down = respond.send_response(Response::new(()), false).expect("sent");
        let mut answer = response.await.expect("answered").into_body();
        take_turns((&mut upload, &mut asked), (&mut down, &mut answer)).await;
        down.send_trailers(careless("3")).expect("sent");
        assert_eq!(read(&mut answer).await, b"");
        assert_eq!(answer.trailers().await.expect("whole"), Some(trailers("3")));
        assert_eq!(world.records.next().await.grpc_status, Some(3));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_grpc_says_of_a_call_is_counted() {
    local(async {
        for (status, class) in [("0", 2), ("5", 2), ("13", 5), ("14", 5)] {
            let world = h2_world().await;
            let mut backends = world.backend(1);
            let mut sender = client(&world).await;
            let (response, _) = sender.send_request(grpc("/s/m"), true).expect("sent");
            let mut server = Server::accept(&mut backends).await;
            let (_, mut respond) = server.next().await;
            let _driving = server.drive();
            let mut down = respond.send_response(Response::new(()), false).expect("sent");
            down.send_data("answer".into(), false).expect("sent");
            down.send_trailers(careless(status)).expect("sent");
            read(&mut response.await.expect("answered").into_body()).await;
            assert_eq!(world.records.next().await.status, 200);
            let readings = world.plane.stats().read();
            let counted: u64 = readings.iter().map(|reading| reading.classes[class]).sum();
            assert_eq!(counted, 1, "{status}: {readings:?}");
            let (grpc, http) = (&readings[0].grpc, &readings[0].statuses);
            assert_eq!((&grpc[..], &http[..]), (&[(status.parse().ok(), 1)][..], &[(Some(200), 1)][..]));
            assert_eq!((readings[0].received, readings[0].sent), (0, 6));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn failures_have_their_protocols_form() {
    local(async {
        let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
        resources.push(endpoints("shop/catalog/http", vec![]));
        let world = World::of(resources).await;
        let mut sender = client(&world).await;
        let (response, _) = sender.send_request(grpc("/s/m"), true).expect("sent");
        let response = response.await.expect("answered");
        assert_eq!(
            (response.status(), response.headers()["grpc-status"].as_bytes()),
            (http::StatusCode::OK, b"14".as_slice())
        );
        assert_eq!(response.headers()["dodai-failure"], "no_endpoint");
        let (response, _) = sender.send_request(request("GET", "/x"), true).expect("sent");
        let response = response.await.expect("answered");
        assert_eq!(
            (response.status().as_u16(), response.headers()["dodai-failure"].as_bytes()),
            (503, b"no_endpoint".as_slice())
        );
        assert!(world.records.take().iter().any(|record| record.grpc_status == Some(14)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_2_clients_reach_http_1_endpoints() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut sender = client(&world).await;
        let mut asked = request("POST", "/p?q");
        for cookie in ["a=1", "b=2"] {
            asked.headers_mut().append("cookie", cookie.parse().expect("valid"));
        }
        let (response, mut upload) = sender.send_request(asked, false).expect("sent");
        upload.send_data("part".into(), false).expect("sent");
        let mut backend = backends.accept().await;
        let head = backend.head().await;
        assert!(head.starts_with("POST /p?q HTTP/1.1\r\nhost: shop\r\n") && head.contains("cookie: a=1; b=2\r\n"), "{head}");
        assert_eq!(backend.until("part\r\n").await, "4\r\npart\r\n");
        upload.send_trailers(careless("7")).expect("sent");
        assert_eq!(backend.until("\r\n\r\n").await, "0\r\ngrpc-status: 7\r\n\r\n");
        backend.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n2\r\nok\r\n0\r\nT: 1\r\n\r\n").await;
        let response = response.await.expect("answered");
        assert_eq!(response.headers()["x"], "y");
        let mut body = response.into_body();
        assert_eq!(read(&mut body).await, b"ok");
        assert_eq!(body.trailers().await.expect("whole").expect("trailers")["t"], "1");
        let (response, _) = sender.send_request(request("HEAD", "/"), true).expect("sent");
        backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n").await;
        assert_eq!(response.await.expect("answered").headers()["content-length"], "77");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_1_clients_reach_http_2_endpoints() {
    local(async {
        let world = h2_world().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send("POST /p HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let mut server = Server::accept(&mut backends).await;
        let (asked, mut respond) = server.next().await;
        let _driving = server.drive();
        assert_eq!(asked.uri(), "http://shop/p");
        assert!(client.head().await.starts_with("HTTP/1.1 100 "));
        client.send("3\r\nabc\r\n0\r\nT: 9\r\n\r\n").await;
        let mut body = asked.into_body();
        assert_eq!(read(&mut body).await, b"abc");
        assert_eq!(body.trailers().await.expect("whole").expect("trailers")["t"], "9");
        let mut down = respond.send_response(Response::new(()), false).expect("sent");
        down.send_data("hello".into(), false).expect("sent");
        client.until("5\r\nhello\r\n").await;
        down.send_trailers(careless("1")).expect("sent");
        assert_eq!(client.until("\r\n\r\n").await, "0\r\ngrpc-status: 1\r\n\r\n");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_slows_the_sender_and_a_dead_one_is_cut() {
    local(async {
        let world = h2_world().await;
        let mut backends = world.backend(1);
        let mut sender = client(&world).await;
        let (response, _) = sender.send_request(request("GET", "/"), true).expect("sent");
        let mut server = Server::accept(&mut backends).await;
        let (_, mut respond) = server.next().await;
        let _driving = server.drive();
        let mut down = respond.send_response(Response::new(()), false).expect("sent");
        let sending = beside(async move {
            let mut sent = 0usize;
            loop {
                down.reserve_capacity(10_000);
                match poll_fn(|cx| down.poll_capacity(cx)).await {
                    Some(Ok(room)) => {
                        sent += room;
                        if down.send_data(vec![0; room].into(), false).is_err() {
                            return sent;
                        }
                    }
                    _ => return sent,
                }
            }
        });
        let mut body = response.await.expect("answered").into_body();
        let first = body.data().await.expect("more").expect("whole").len();
        let start = tokio::time::Instant::now();
        let error = loop {
            match body.data().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("a whole body"),
            }
        };
        assert!(first > 0 && error.reason() == Some(h2::Reason::CANCEL), "{error:?}");
        assert!(start.elapsed() >= secs(60) && start.elapsed() < secs(62), "{:?}", start.elapsed());
        assert!(sending.await.expect("no panic") < 1_000_000, "windows bound what is under way");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reset_passes_to_the_other_side() {
    local(async {
        let world = h2_world().await;
        let mut backends = world.backend(1);
        let mut sender = client(&world).await;
        let (response, mut upload) = sender.send_request(request("POST", "/"), false).expect("sent");
        let mut server = Server::accept(&mut backends).await;
        let (asked, mut respond) = server.next().await;
        let (response_2, _upload) = sender.send_request(request("POST", "/2"), false).expect("sent");
        let (_asked_2, mut respond_2) = server.next().await;
        let _driving = server.drive();
        upload.send_reset(h2::Reason::CANCEL);
        drop(response);
        poll_fn(|cx| respond.poll_reset(cx)).await.expect("reset");
        drop(asked);
        let mut down = respond_2.send_response(Response::new(()), false).expect("sent");
        down.send_data("x".into(), false).expect("sent");
        let mut body = response_2.await.expect("answered").into_body();
        assert_eq!(piece(&mut body).await, "x");
        down.send_reset(h2::Reason::INTERNAL_ERROR);
        assert!(body.data().await.expect("an answer").is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn refused_streams_and_connections_told_to_go_are_tried_again() {
    local(async {
        let world = h2_world().await;
        let mut backends = world.backend(1);
        let mut sender = client(&world).await;
        let (response, mut upload) = sender.send_request(grpc("/s/m"), false).expect("sent");
        upload.send_data("ask".into(), true).expect("sent");
        let mut server = Server::accept(&mut backends).await;
        let (_, mut respond) = server.next().await;
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        let (asked, mut respond) = server.next().await;
        server.0.graceful_shutdown();
        let driving = server.drive();
        assert_eq!(read(&mut asked.into_body()).await, b"ask", "the body was kept");
        respond.send_response(Response::new(()), true).expect("sent");
        assert_eq!(response.await.expect("answered").status(), 200);
        driving.await.expect("the old connection ends");
        let (response, _) = sender.send_request(request("GET", "/"), true).expect("sent");
        let mut server = Server::accept(&mut backends).await;
        let (_, mut respond) = server.next().await;
        let _driving = server.drive();
        respond.send_response(Response::new(()), true).expect("sent");
        assert_eq!(response.await.expect("answered").status(), 200);
        let retries: Vec<_> = world.records.take().iter().map(|record| record.retries).collect();
        assert_eq!(retries, [0, 0], "nobody had looked at it");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn many_streams_share_one_connection() {
    local(async {
        let world = h2_world().await;
        let mut backends = world.backend(1);
        let mut sender = client(&world).await;
        let mut responses = Vec::new();
        for _ in 0..50 {
            responses.push(sender.send_request(request("GET", "/"), true).expect("sent").0);
        }
        let mut server = Server::accept(&mut backends).await;
        let mut asked = Vec::new();
        while asked.len() < 50 {
            asked.push(server.next().await.1);
        }
        let _driving = server.drive();
        for mut respond in asked {
            respond.send_response(Response::new(()), true).expect("sent");
        }
        for response in responses {
            assert_eq!(response.await.expect("answered").status(), 200);
        }
        assert!(backends.is_left_alone().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_end_when_idle_and_when_draining() {
    local(async {
        let world = h2_world().await;
        let mut backends = world.backend(1);
        let shake = async || h2::client::handshake(world.client().await.stream).await.expect("shaken");
        let (_sender, connection) = shake().await;
        let start = tokio::time::Instant::now();
        let _told = connection.await;
        assert!(start.elapsed() >= secs(75) && start.elapsed() < secs(78), "{:?}", start.elapsed());
        let (sender, connection) = shake().await;
        let ending = beside(connection);
        let mut sender = sender.ready().await.expect("ready");
        let (response, _) = sender.send_request(request("GET", "/"), true).expect("sent");
        let mut server = Server::accept(&mut backends).await;
        let (_, mut respond) = server.next().await;
        let _driving = server.drive();
        let World { plane, .. } = world;
        let draining = beside(async move { plane.drain(secs(30)).await });
        settle().await;
        assert!(!draining.is_finished() && !ending.is_finished());
        let mut down = respond.send_response(Response::new(()), false).expect("sent");
        down.send_data("late".into(), true).expect("sent");
        assert_eq!(read(&mut response.await.expect("answered").into_body()).await, b"late");
        let start = tokio::time::Instant::now();
        let _told = ending.await.expect("no panic");
        draining.await.expect("no panic");
        assert!(start.elapsed() < secs(4), "{:?}", start.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_is_the_callers_fault() {
    local(async {
        let mut limited = filtered(vec![]);
        limited.policy.max_body = Some(5);
        for protocol in [Protocol::Http2, Protocol::Http] {
            let spoken = Service { protocol, ..service("shop/catalog/http") };
            let world = World::of(usual(spoken, limited.clone())).await;
            let mut backends = world.backend(1);
            let mut sender = client(&world).await;
            let (response, mut upload) = sender.send_request(request("POST", "/"), false).expect("sent");
            let peer = backends.accept().await;
            let _driving = beside(async move {
                match protocol {
                    Protocol::Http2 => {
                        let mut server = h2::server::handshake(peer.stream).await.expect("shaken");
                        let mut streams = Vec::new();
                        while let Some(Ok(stream)) = server.accept().await {
                            streams.push(stream);
                        }
                    }
                    Protocol::Http | Protocol::Grpc | Protocol::Tcp | Protocol::Udp => drop({
                        let mut peer = peer;
                        peer.rest().await
                    }),
                }
            });
            upload.send_data("toolong".into(), false).expect("sent");
            assert_eq!(response.await.expect("answered").status(), 413, "{protocol:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_cookie_names_the_endpoint_over_http_2_too() {
    local(async {
        let sticky = Sticky { name: "at".into(), ttl: None, path: "/".into(), same_site: SameSite::Lax };
        let spoken =
            Service { protocol: Protocol::Http2, sticky: Some(sticky), ..service("shop/catalog/http") };
        let list = endpoints("shop/catalog/http", vec![endpoint(1, "r1"), endpoint(2, "r1")]);
        let rest = vec![gateway(), routes(vec![filtered(vec![])]), Resource::Service(spoken)];
        let world = World::of(rest.into_iter().chain([list]).collect()).await;
        for last in 1..=2 {
            let mut backends = world.backend(last);
            beside(async move {
                let mut server = Server::accept(&mut backends).await;
                loop {
                    let (_asked, mut respond) = server.next().await;
                    let response =
                        Response::builder().header("x-backend", last.to_string()).body(()).expect("valid");
                    respond.send_response(response, true).expect("sent");
                }
            });
        }
        let mut sender = client(&world).await;
        let mut ask = async |cookie: Option<&str>| {
            let mut request = request("GET", "/a");
            if let Some(cookie) = cookie {
                request.headers_mut().insert("cookie", cookie.parse().expect("valid"));
            }
            let (response, _) = sender.send_request(request, true).expect("sent");
            let response = response.await.expect("answered");
            let text = |name: &str| {
                response.headers().get(name).map(|value| value.to_str().expect("text").to_owned())
            };
            (text("x-backend"), text("set-cookie"))
        };
        let (first, set) = ask(None).await;
        let set = set.expect("a cookie");
        assert!(set.starts_with("at=") && set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
        let theirs = set.split(';').next().expect("a pair");
        for _ in 0..5 {
            assert_eq!(ask(Some(theirs)).await, (first.clone(), None));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn hints_before_the_answer_are_passed_on() {
    local(async {
        let world = h2_world().await;
        let mut backends = world.backend(1);
        let mut sender = client(&world).await;
        let (mut response, _) = sender.send_request(request("GET", "/a"), true).expect("sent");
        let mut server = Server::accept(&mut backends).await;
        let (_, mut respond) = server.next().await;
        let hint = Response::builder().status(103).header("link", "</a.css>").body(()).expect("valid");
        respond.send_informational(hint).expect("open");
        let driven = server.drive();
        let hint = poll_fn(|cx| response.poll_informational(cx)).await.expect("a hint").expect("whole");
        assert_eq!((hint.status().as_u16(), hint.headers()["link"].as_bytes()), (103, &b"</a.css>"[..]));
        respond.send_response(Response::new(()), true).expect("open");
        assert_eq!(response.await.expect("answered").status(), 200);
        driven.abort();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_cannot_be_reached_is_passed_over() {
    local(async {
        let spoken = Service { protocol: Protocol::Http2, ..service("shop/catalog/http") };
        let mut resources = usual(spoken, filtered(vec![]));
        resources.push(endpoints("shop/catalog/http", vec![instance("i-1"), instance("i-2")]));
        let world = World::of(resources).await;
        let ports = |port: &str| {
            let port = dodai_core::id::Name::new(port).expect("a name");
            dodai_dataplane::local::Way::Ports(std::sync::Arc::new([(port, backend_addr(1))].into()))
        };
        for (name, port) in [("i-1", "other"), ("i-2", "http")] {
            world.plane.locals().get(&dodai_core::id::InstanceId::new(name)).set(ports(port));
        }
        let mut backends = world.backend(1);
        let serve = beside(async move {
            let mut server = Server::accept(&mut backends).await;
            loop {
                let (_, mut respond) = server.next().await;
                respond.send_response(Response::new(()), true).expect("open");
            }
        });
        let mut sender = client(&world).await;
        for _ in 0..4 {
            let (response, _) = sender.send_request(request("GET", "/a"), true).expect("sent");
            assert_eq!(response.await.expect("answered").status(), 200);
        }
        serve.abort();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_its_client_gives_up_is_told_all_the_same() {
    local(async {
        let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
        resources.push(listener("api", 85, Role::Api { app: app("shop/front") }));
        let world = World::of(resources).await;
        let (asking, mut calls) = tokio::sync::mpsc::channel(8);
        let api = std::sync::Arc::new(crate::serve::Scripted(asking));
        world.plane.set_api(&app("shop/front"), Some(api));
        let mut backends = world.backend(1);
        for (port, direction, service) in [(80, "gateway", "shop/catalog/http"), (85, "api", "")] {
            let (mut sender, connection) =
                h2::client::handshake(world.client_of(port).await.stream).await.expect("shaken");
            beside(connection);
            let (answer, up) = sender.send_request(request("GET", "/x"), false).expect("sent");
            let mut backend = None;
            let _call = if port == 80 {
                backend.insert(backends.accept().await).head().await;
                None
            } else {
                calls.recv().await
            };
            drop((answer, up));
            let record = world.records.next().await;
            assert_eq!((record.direction, &*record.service, record.status), (direction, service, 0));
            let failure = record.failure.map(dodai_core::failure::Kind::code);
            assert_eq!((failure, &*record.target), (Some("client_gone"), "/x"));
        }
    })
    .await;
}
