//! Connections that the kernel led here. In memory the PROXY protocol says what they were meant for, in its place.

use std::net::SocketAddr;

use crate::support::*;
use dodai_core::snapshot::*;
use dodai_dataplane::captures::Fate;
use dodai_transport::memory::Faults;
use dodai_transport::proxy_protocol::{self, Ends};

const PORT: u16 = 83;
const CONNECT: &str = "CONNECT 10.0.1.8:8000 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic YTpi\r\n\r\n";

fn takes(way: CaptureWay, allow_unknown: bool) -> Resource {
    let role = Role::Captured(Capture { way, allow_unknown });
    Resource::Listener(Listener {
        proxy: Some(ProxyProtocol { required: true, trusted: vec!["10.0.0.5".into()] }),
        ..Listener::new("intercept", (GATEWAY, PORT).into(), Protocol::Tcp, role)
    })
}

fn leaving() -> CaptureWay {
    CaptureWay::Outbound { callers: vec![CapturedCaller { user: None, app: app("shop/front") }] }
}

/// `catalog` is at backend 1, the TCP service `db` at backend 2.
fn shop(takes: Resource) -> Vec<Resource> {
    let db = Service { protocol: Protocol::Tcp, port: Some(5432), ..service("shop/db/pg") };
    vec![
        takes,
        Resource::Service(service("shop/catalog/http")),
        endpoints("shop/catalog/http", vec![endpoint(1, "r1")]),
        Resource::Service(db),
        endpoints("shop/db/pg", vec![endpoint(2, "r1")]),
    ]
}

async fn leaves(allow_unknown: bool) -> World {
    World::of(shop(takes(leaving(), allow_unknown))).await
}

/// A client that meant to connect to `destination`.
async fn meant_for(world: &World, destination: SocketAddr) -> Peer {
    let ends = Ends { source: ([10, 0, 0, 5], 4000).into(), destination };
    let mut client = world.client_of(PORT).await;
    client.send(proxy_protocol::write(ProxyVersion::V2, Some(&ends))).await;
    client
}

fn get(host: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn count(world: &World, way: usize, fate: Fate) -> u64 {
    world.plane.gauges().captured.0[way][fate as usize]
}

#[tokio::test(start_paused = true)]
async fn http_of_a_known_name_is_routed_whatever_its_address() {
    local(async {
        let world = leaves(true).await;
        let (mut catalog, mut meant) = (world.backend(1), world.backend(7));
        let mut client = meant_for(&world, backend_addr(7)).await;
        let mut spare = meant.accept().await;
        client.send(get("catalog")).await;
        let request = catalog.accept().await.answer(OK).await;
        assert!(request.header("traceparent").is_some(), "it went through the stations: {}", request.head);
        assert_eq!(client.message().await.body, "ok");
        spare.ended().await;
        let record = world.records.next().await;
        assert_eq!((&*record.caller, &*record.service), ("shop/front", "shop/catalog/http"));
        assert_eq!((record.direction, record.status), ("outbound", 200));
        assert_eq!(count(&world, 0, Fate::Routed), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_to_an_address_of_a_service_is_a_call_to_it() {
    local(async {
        let world = leaves(true).await;
        let mut catalog = world.backend(1);
        for host in ["10.0.1.1:8000", "nobody.example"] {
            let mut client = meant_for(&world, backend_addr(1)).await;
            client.send(get(host)).await;
            let request = catalog.accept().await.answer(OK).await;
            assert!(request.header("traceparent").is_some(), "{}", request.head);
            assert_eq!(client.message().await.body, "ok");
            assert_eq!(&*world.records.next().await.service, "shop/catalog/http");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_first_is_not_waited_for() {
    local(async {
        let world = leaves(true).await;
        let (mut declared, mut undeclared) = (world.backend(2), world.backend(7));
        let start = tokio::time::Instant::now();
        for (last, service, fate) in [(2, "shop/db/pg", Fate::Carried), (7, "", Fate::Passed)] {
            let mut client = meant_for(&world, backend_addr(last)).await;
            let peers = if last == 2 { &mut declared } else { &mut undeclared };
            let mut server = peers.accept().await;
            server.send("220 ready\r\n").await;
            assert_eq!(client.until("\r\n").await, "220 ready\r\n");
            client.send("GET / HTTP/1.1\r\nHost: catalog\r\n\r\n").await;
            client.finish().await;
            assert_eq!(server.rest().await, "GET / HTTP/1.1\r\nHost: catalog\r\n\r\n", "bytes for good");
            server.finish().await;
            client.ended().await;
            let record = world.records.next().await;
            assert_eq!((&*record.service, record.protocol, record.sent), (service, "TCP", 11));
            assert_eq!(record.authority, backend_addr(last).to_string());
            assert_eq!(count(&world, 0, fate), 1);
        }
        assert!(start.elapsed() < secs(1), "nobody waited: {:?}", start.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_passes_as_it_is() {
    local(async {
        let world = leaves(true).await;
        let mut meant = world.backend(7);
        for said in [
            get("legacy"),
            get("legacy.example:8000"),
            "PROPFOO / HTTP/1.1\r\nHost: catalog\r\n\r\n".to_owned(),
            "EHLO mail.example\r\n".to_owned(),
            "GET key\r\n".to_owned(),
            "P".to_owned(),
            "\u{16}\u{3}\u{1}\u{0}\u{1}\u{9}".to_owned(),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        ] {
            let mut client = meant_for(&world, backend_addr(7)).await;
            client.send(&said).await;
            let mut server = meant.accept().await;
            assert_eq!(server.text(said.len()).await, said);
            server.send("yes").await;
            assert_eq!(client.text(3).await, "yes");
            server.finish().await;
            client.finish().await;
            assert_eq!(server.rest().await, "");
            let record = world.records.next().await;
            assert_eq!((&*record.service, record.received), ("", said.len() as u64), "{said:?}");
        }
        assert_eq!(count(&world, 0, Fate::Passed), 8);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_only_listens_or_leaves_is_seen_by_the_server() {
    local(async {
        let world = leaves(true).await;
        let mut meant = world.backend(7);
        let mut client = meant_for(&world, backend_addr(7)).await;
        let mut server = meant.accept().await;
        tokio::time::sleep(secs(600)).await;
        server.send("at last").await;
        assert_eq!(client.text(7).await, "at last", "neither had anything to say for long");
        drop((client, server));
        let mut client = meant_for(&world, backend_addr(7)).await;
        client.finish().await;
        let mut server = meant.accept().await;
        server.ended().await;
        server.send("bye").await;
        drop(server);
        assert_eq!(client.rest().await, "bye");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn where_the_unknown_is_denied_nobody_dials_it() {
    local(async {
        let world = leaves(false).await;
        let (mut catalog, mut meant) = (world.backend(1), world.backend(7));
        let mut client = meant_for(&world, backend_addr(7)).await;
        client.send(get("legacy.example")).await;
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (403, Some("denied")));
        assert!(answer.body.contains("10.0.1.7:8000") && answer.body.contains("unknown: deny"), "{answer:?}");
        client.ended().await;
        assert_eq!(world.records.next().await.status, 403);
        let mut client = meant_for(&world, backend_addr(7)).await;
        client.send("EHLO mail.example\r\n").await;
        client.ended().await;
        assert_eq!(world.records.next().await.status, 0, "who speaks no HTTP is told nothing");
        meant_for(&world, backend_addr(7)).await.ended().await;
        assert!(meant.is_left_alone().await);
        assert_eq!(count(&world, 0, Fate::Denied), 2);
        // A known name goes where it always does; a later call of the connection goes no further either.
        let mut client = meant_for(&world, backend_addr(7)).await;
        client.send(get("catalog")).await;
        catalog.accept().await.answer(OK).await;
        assert_eq!(client.message().await.body, "ok");
        assert_eq!(client.ask(&get("legacy.example")).await.status(), 403);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_later_call_for_an_unknown_name_goes_where_the_client_meant_to_go() {
    local(async {
        let world = leaves(true).await;
        let (mut catalog, mut meant) = (world.backend(1), world.backend(7));
        let mut client = meant_for(&world, backend_addr(7)).await;
        client.send(get("catalog")).await;
        catalog.accept().await.answer(OK).await;
        client.message().await;
        assert!(meant.is_left_alone().await, "a client that speaks at once needs no other connection");
        client.send(get("legacy.example")).await;
        let request = meant.accept().await.answer(OK).await;
        assert_eq!(request.header("host"), Some("legacy.example"));
        assert_eq!(client.message().await.body, "ok");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_no_way_around_what_is_denied() {
    local(async {
        for allow in [false, true] {
            let world = leaves(allow).await;
            let (mut catalog, mut meant, mut named) = (world.backend(1), world.backend(7), world.backend(8));
            let mut client = meant_for(&world, backend_addr(7)).await;
            client.send(get("catalog")).await;
            catalog.accept().await.answer(OK).await;
            assert_eq!(client.message().await.body, "ok");
            client.send(CONNECT).await;
            if allow {
                let mut proxy = meant.accept().await;
                assert_eq!(proxy.text(CONNECT.len()).await, CONNECT, "whoever it was meant for answers");
                proxy.send("HTTP/1.1 200 OK\r\n\r\n").await;
                assert_eq!(client.head().await, "HTTP/1.1 200 OK\r\n\r\n");
                client.send("hello").await;
                assert_eq!(proxy.text(5).await, "hello");
            } else {
                let answer = client.message().await;
                assert_eq!((answer.status(), answer.header("dodai-failure")), (403, Some("denied")));
                client.ended().await;
                assert!(meant.is_left_alone().await);
                world.records.next().await;
                let record = world.records.next().await;
                assert_eq!((record.status, &*record.method), (403, "CONNECT"));
            }
            assert!(named.is_left_alone().await, "allowed: {allow}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nor_is_one_over_http_2() {
    local(async {
        let world = leaves(false).await;
        let (mut catalog, mut named) = (world.backend(1), world.backend(8));
        let stream = meant_for(&world, backend_addr(7)).await.stream;
        let (mut send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        beside(connection);
        let call = http::Request::get("http://catalog/").body(()).expect("valid");
        let (answer, _) = send.send_request(call, true).expect("sent");
        catalog.accept().await.answer(OK).await;
        assert_eq!(answer.await.expect("an answer").status(), 200);
        let tunnel = http::Request::connect("10.0.1.8:8000").body(()).expect("valid");
        let mut send = send.ready().await.expect("ready");
        let (answer, _sending) = send.send_request(tunnel, false).expect("sent");
        assert_eq!(answer.await.expect("an answer").status(), 403);
        assert!(named.is_left_alone().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_cannot_be_reached_keeps_no_known_name_from_being_called() {
    local(async {
        let world = leaves(true).await;
        let mut catalog = world.backend(1);
        let start = tokio::time::Instant::now();
        meant_for(&world, backend_addr(7)).await.ended().await;
        assert!(start.elapsed() < secs(2), "a refusal is told soon: {:?}", start.elapsed());
        assert_eq!(world.records.next().await.failure.map(|kind| kind.code()), Some("connect"));
        assert_eq!(count(&world, 0, Fate::Refused), 1);
        // One that answers to nothing at all.
        world.net.set_faults(backend_addr(8), Faults { connect_delay: secs(60), ..Faults::default() });
        for last in [7, 8] {
            let start = tokio::time::Instant::now();
            let mut client = meant_for(&world, backend_addr(last)).await;
            client.send(get("catalog")).await;
            catalog.accept().await.answer(OK).await;
            assert_eq!(client.message().await.body, "ok");
            assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_listener_itself_is_no_destination() {
    local(async {
        let world = leaves(true).await;
        meant_for(&world, (GATEWAY, PORT).into()).await.ended().await;
        assert_eq!(count(&world, 0, Fate::Refused), 1);
        assert_eq!(world.records.take().len(), 0);
    })
    .await;
}

/// What comes to this machine, where catalog has the addresses of backends 1 and 3 and lets nobody see `/secret`.
async fn comes(allow_unknown: bool) -> World {
    let mut resources = shop(takes(CaptureWay::Inbound, allow_unknown));
    let rule = AccessRule { allow: false, paths: vec!["/secret".into()], ..AccessRule::default() };
    let access = Filter::Access(Access { default_allow: true, rules: vec![rule] });
    for resource in &mut resources {
        if let Resource::Service(service) = resource
            && service.id == id("shop/catalog/http")
        {
            service.inbound.push(access.clone());
        }
        if let Resource::Endpoints(endpoints) = resource
            && endpoints.service == id("shop/catalog/http")
        {
            endpoints.list.push(endpoint(3, "r1"));
        }
    }
    World::of(resources).await
}

#[tokio::test(start_paused = true)]
async fn what_comes_goes_to_the_address_it_was_meant_for_if_the_app_lets_it() {
    local(async {
        let world = comes(true).await;
        let (mut first, mut third) = (world.backend(1), world.backend(3));
        for _ in 0..3 {
            let mut client = meant_for(&world, backend_addr(3)).await;
            client.send(get("whatever.example")).await;
            let request = third.accept().await.answer(OK).await;
            assert_eq!(request.header("host"), Some("whatever.example"));
            assert_eq!(client.message().await.body, "ok");
            let refused = client.ask("GET /secret HTTP/1.1\r\nHost: catalog\r\n\r\n").await;
            assert_eq!((refused.status(), refused.header("dodai-failure")), (403, Some("denied")));
            drop(client);
            for status in [200, 403] {
                let record = world.records.next().await;
                assert_eq!((record.direction, &*record.caller), ("inbound", "outside"));
                assert_eq!((&*record.service, record.status), ("shop/catalog/http", status));
            }
        }
        assert!(first.is_left_alone().await);
        let mut database = world.backend(2);
        let mut client = meant_for(&world, backend_addr(2)).await;
        let mut server = database.accept().await;
        server.send("welcome").await;
        assert_eq!(client.text(7).await, "welcome", "a server may speak first");
        assert_eq!(count(&world, 1, Fate::Routed), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_strict_takes_no_plain_caller_on_this_way_either() {
    local(async {
        let mut resources = shop(takes(CaptureWay::Inbound, true));
        for resource in &mut resources {
            if let Resource::Service(service) = resource {
                service.strict = true;
            }
        }
        let world = World::of(resources).await;
        let (mut catalog, mut database) = (world.backend(1), world.backend(2));
        let mut client = meant_for(&world, backend_addr(1)).await;
        let refused = client.ask(&get("catalog")).await;
        assert_eq!((refused.status(), refused.header("dodai-failure")), (403, Some("denied")));
        assert!(refused.body.contains("shop/catalog takes calls over mutual TLS only"), "{refused:?}");
        assert_eq!(world.records.next().await.status, 403);
        assert_eq!(count(&world, 1, Fate::Routed), 1, "as HTTP, which can be told why");
        // The first message of TLS with one cipher suite and one scheme of signatures.
        let mut hello = b"\x16\x03\x01\x00\x37\x01\x00\x00\x33\x03\x03".to_vec();
        hello.extend([7; 32]);
        hello.extend(b"\x00\x00\x02\x13\x01\x01\x00\x00\x08\x00\x0d\x00\x04\x00\x02\x04\x03");
        for (at, begins) in [(1, hello.as_slice()), (2, b"hello")] {
            let mut client = meant_for(&world, backend_addr(at)).await;
            client.send(begins).await;
            client.ended().await;
            let record = world.records.next().await;
            assert_eq!((record.status, record.failure), (0, Some(dodai_core::failure::Kind::Denied)), "{at}");
        }
        assert_eq!(count(&world, 1, Fate::Refused), 2);
        assert!(catalog.is_left_alone().await && database.is_left_alone().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_to_an_unknown_port_passes_or_is_denied() {
    local(async {
        for allow in [true, false] {
            let world = comes(allow).await;
            let mut unknown = world.backend(7);
            let mut client = meant_for(&world, backend_addr(7)).await;
            if allow {
                unknown.accept().await.send("hello").await;
                assert_eq!(client.text(5).await, "hello");
            } else {
                client.ended().await;
                assert!(unknown.is_left_alone().await);
            }
            assert_eq!(count(&world, 1, if allow { Fate::Passed } else { Fate::Denied }), 1);
        }
    })
    .await;
}
