//! SOCKS 5 on outbound listeners: the same places as by CONNECT, and calls where the service speaks HTTP.

use crate::support::*;
use dodai_core::snapshot::*;

/// A request for a name, after the greeting.
fn connect(name: &str, port: u16) -> Vec<u8> {
    let length = u8::try_from(name.len()).expect("a short name");
    [&[5, 1, 0, 3, length][..], name.as_bytes(), &port.to_be_bytes()].concat()
}

fn reply(code: u8) -> Vec<u8> {
    vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

fn with_db() -> Vec<Resource> {
    let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
    let db = Service { protocol: Protocol::Tcp, port: Some(5432), ..service("shop/db/pg") };
    resources.extend([Resource::Service(db), endpoints("shop/db/pg", vec![endpoint(2, "r1")])]);
    resources
}

/// A client that was let in, with or without a password.
async fn greeted(world: &World, password: bool) -> Peer {
    let mut client = world.client_of(81).await;
    if password {
        client.send([5, 1, 2]).await;
        assert_eq!(client.take(2).await, [5, 2]);
        client.send(b"\x01\x02me\x06secret").await;
        assert_eq!(client.take(2).await, [1, 0]);
    } else {
        client.send([5, 2, 0, 1]).await;
        assert_eq!(client.take(2).await, [5, 0]);
    }
    client
}

#[tokio::test(start_paused = true)]
async fn bytes_reach_tcp_services_by_name_and_hosts_outside() {
    local(async {
        let world = World::of(with_db()).await;
        world.net.name("out.example", &[[10, 0, 1, 7].into()]);
        let (mut database, mut outside) = (world.backend(2), world.backend(7));
        for password in [false, true] {
            let mut client = greeted(&world, password).await;
            client.send(connect("db", 5432)).await;
            assert_eq!(client.take(10).await, reply(0));
            let mut backend = database.accept().await;
            backend.send("welcome").await;
            assert_eq!(client.text(7).await, "welcome", "the server may speak first");
            client.send("query").await;
            client.finish().await;
            assert_eq!(backend.rest().await, "query");
            drop(backend);
            client.ended().await;
            let record = world.records.next().await;
            assert_eq!((record.status, record.failure, &*record.service), (200, None, "shop/db/pg"));
            assert_eq!((record.received, record.sent), (5, 7));
        }
        let mut client = greeted(&world, false).await;
        client.send([&connect("out.example", 8000), &b"early"[..]].concat()).await;
        assert_eq!(client.take(10).await, reply(0));
        assert_eq!(outside.accept().await.text(5).await, "early");
        let mut client = greeted(&world, false).await;
        client.send([5, 1, 0, 1, 10, 0, 1, 7, 0x1f, 0x40]).await;
        assert_eq!(client.take(10).await, reply(0));
        outside.accept().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_service_of_http_gets_calls_not_bytes() {
    local(async {
        let world = World::of(with_db()).await;
        let mut catalog = world.backend(1);
        let mut client = greeted(&world, false).await;
        client.send(connect("catalog", 80)).await;
        assert_eq!(client.take(10).await, reply(0));
        client.send("GET /x HTTP/1.1\r\nHost: catalog\r\n\r\n").await;
        let request = catalog.accept().await.answer(OK).await;
        assert!(request.head.starts_with("GET /x HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(client.message().await.body, "ok");
        assert_eq!(&*world.records.next().await.service, "shop/catalog/http");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_served_is_told_and_the_connection_ends() {
    local(async {
        let world = World::of(with_db()).await;
        world.net.name("out.example", &[[10, 0, 1, 7].into()]);
        for (request, answer) in [
            (connect("out.example", 1), reply(5)),
            (connect("nobody.example", 1), reply(5)),
            (vec![5, 2, 0, 1, 10, 0, 1, 7, 0, 80], reply(7)),
            (vec![5, 3, 0, 1, 10, 0, 1, 7, 0, 80], reply(7)),
            (vec![5, 1, 0, 9, 10, 0, 1, 7, 0, 80], reply(8)),
            (connect("a\r\nb", 80), reply(1)),
        ] {
            let mut client = greeted(&world, false).await;
            client.send(&request).await;
            assert_eq!(client.rest_bytes().await, answer, "{request:?}");
        }
        let mut client = world.client_of(81).await;
        client.send([5, 1, 1]).await;
        assert_eq!(client.rest_bytes().await, [5, 0xff], "no way to log in that we know");
        // A gateway serves no SOCKS: there the byte is a bad request.
        let mut client = world.client().await;
        client.send([5, 1, 0, b'\r', b'\n', b'\r', b'\n']).await;
        assert!(client.rest_bytes().await.starts_with(b"HTTP/1.1 400 "));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_service_says_who_may_come_in_by_socks() {
    local(async {
        let access = Filter::Access(Access { default_allow: false, rules: vec![] });
        let mut resources = with_db();
        let db = Service {
            protocol: Protocol::Tcp,
            port: Some(5432),
            inbound: vec![access],
            ..service("shop/db/pg")
        };
        resources.push(Resource::Service(db));
        let world = World::of(resources).await;
        let mut database = world.backend(2);
        let mut client = greeted(&world, false).await;
        client.send(connect("db", 5432)).await;
        assert_eq!(client.rest_bytes().await, reply(2));
        assert!(database.is_left_alone().await);
        let record = world.records.next().await;
        assert_eq!(record.failure.map(|kind| kind.code()), Some("denied"));
    })
    .await;
}
