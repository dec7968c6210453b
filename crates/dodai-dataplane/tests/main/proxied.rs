//! The PROXY protocol: what a proxy in front says, and what endpoints outside the mesh are told.

use std::net::SocketAddr;

use crate::support::*;
use dodai_core::snapshot::*;
use dodai_transport::proxy_protocol::{self, Ends};

const V1: &str = "PROXY TCP4 192.0.2.7 10.0.0.1 5678 80\r\n";

fn v2() -> Vec<u8> {
    let at = |text: &str| text.parse().expect("an address");
    let ends = Ends { source: at("192.0.2.7:5678"), destination: at("10.0.0.1:80") };
    proxy_protocol::write(ProxyVersion::V2, Some(&ends))
}

/// The gateway behind proxies at `trusted`.
fn behind(required: bool, trusted: &str, filters: Vec<Filter>) -> Vec<Resource> {
    let mut resources = usual(service("shop/catalog/http"), filtered(filters));
    for resource in &mut resources {
        if let Resource::Listener(listener) = resource
            && listener.name == "gateway"
        {
            listener.proxy = Some(ProxyProtocol { required, trusted: vec![trusted.into()] });
        }
    }
    resources
}

#[tokio::test(start_paused = true)]
async fn the_client_is_who_a_trusted_proxy_says() {
    local(async {
        let own = proxy_protocol::write(ProxyVersion::V2, None);
        let said = Some("192.0.2.7");
        for (required, header, expect) in [
            (true, V1.as_bytes().to_vec(), said),
            (true, v2(), said),
            (true, b"PROXY UNKNOWN\r\n".to_vec(), Some("10.0.0.5")),
            (true, own, Some("10.0.0.5")),
            (false, V1.as_bytes().to_vec(), said),
            (false, v2(), said),
            (false, Vec::new(), Some("10.0.0.5")),
        ] {
            let world = World::of(behind(required, "10.0.0.0/24", vec![])).await;
            let mut backends = world.backend(1);
            for in_pieces in [false, true] {
                let mut client = world.client().await;
                let whole = [&header, GET.as_bytes()].concat();
                if in_pieces {
                    for byte in whole.chunks(5) {
                        client.send(byte).await;
                        settle().await;
                    }
                } else {
                    client.send(&whole).await;
                }
                let mut backend = backends.accept().await;
                let request = backend.answer(OK).await;
                assert_eq!(request.header("x-forwarded-for"), expect, "{required} {header:?}");
                assert_eq!(client.message().await.body, "ok");
                // The header comes once, not before each call.
                client.send(GET).await;
                assert_eq!(backend.answer(OK).await.header("x-forwarded-for"), expect);
                assert_eq!(client.message().await.body, "ok");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_that_say_it_wrongly_or_may_not_are_refused() {
    local(async {
        let (here, elsewhere) = ("10.0.0.5", "10.0.9.0/24");
        for (required, trusted, sent) in [
            (true, here, GET),
            (true, elsewhere, V1),
            (false, elsewhere, V1),
            (true, here, "PROXY TCP4 192.0.2.7 10.0.0.1 5678\r\nGET / HTTP/1.1\r\n"),
            (false, here, "PROXY TCP9 192.0.2.7 10.0.0.1 5678 80\r\nGET / HTTP/1.1\r\n"),
            (false, here, "\r\n\r\n\0\r\nQUIT\n\x51 GET / HTTP/1.1\r\n"),
            // It says nothing more, and the header has its time.
            (true, here, "PROXY TCP4 192.0"),
        ] {
            let world = World::of(behind(required, trusted, vec![])).await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            client.send(sent).await;
            client.ended().await;
            assert!(backends.is_left_alone().await, "{sent:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rules_of_access_go_by_what_the_proxy_says() {
    local(async {
        let allowed =
            AccessRule { allow: true, addresses: vec!["192.0.2.0/24".into()], ..Default::default() };
        let access = Filter::Access(Access { default_allow: false, rules: vec![allowed] });
        let world = World::of(behind(false, "10.0.0.5", vec![access])).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        assert_eq!(client.ask(GET).await.status(), 403);
        let mut client = world.client().await;
        client.send(format!("{V1}{GET}")).await;
        backends.accept().await.answer(OK).await;
        assert_eq!(client.message().await.status(), 200);
    })
    .await;
}

/// The catalog and a database, both outside and told who connects.
fn told(version: ProxyVersion) -> Vec<Resource> {
    let announced = |last| Endpoint {
        target: Target::Announced { address: backend_addr(last).to_string(), tls: None, version },
        ..endpoint(last, "r1")
    };
    let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
    resources.push(endpoints("shop/catalog/http", vec![announced(1)]));
    let db = Service { protocol: Protocol::Tcp, port: Some(5432), ..service("shop/db/pg") };
    resources.extend([Resource::Service(db), endpoints("shop/db/pg", vec![announced(2)])]);
    let hosts = vec![VirtualHost {
        names: vec!["*".into()],
        rules: vec![rule(Action::Forward(vec![to("shop/db/pg")]))],
    }];
    resources.push(Resource::Routes(Routes { name: "raw".into(), hosts, trusted: false }));
    let role = Role::Gateway { routes: "raw".into() };
    let proxy = Some(ProxyProtocol { required: true, trusted: vec!["10.0.0.5".into()] });
    let address = (GATEWAY, 83).into();
    let raw = Listener { proxy, ..Listener::new("raw", address, Protocol::Tcp, role) };
    resources.push(Resource::Listener(raw));
    resources
}

fn local_of(peer: &Peer) -> SocketAddr {
    peer.stream.local_addr().expect("an address")
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_outside_is_told_for_whom_a_connection_is() {
    local(async {
        let world = World::of(told(ProxyVersion::V1)).await;
        let mut catalog = world.backend(1);
        let (mut first, mut second) = (world.client().await, world.client().await);
        for client in [&mut first, &mut second] {
            let port = local_of(client).port();
            client.send(GET).await;
            let mut backend = catalog.accept().await;
            let line = backend.until("\r\n").await;
            assert_eq!(line, format!("PROXY TCP4 10.0.0.5 10.0.0.1 {port} 80\r\n"));
            backend.answer(OK).await;
            assert_eq!(client.message().await.body, "ok");
            client.send(GET).await;
            backend.answer(OK).await;
            assert_eq!(client.message().await.body, "ok", "its next call takes the same connection");
        }
        let mut app = world.client_of(81).await;
        app.send("GET / HTTP/1.1\r\nHost: catalog\r\n\r\n").await;
        let line = catalog.accept().await.until("\r\n").await;
        assert!(
            line.starts_with("PROXY TCP4 10.0.0.1 10.0.1.1 "),
            "a call from the mesh is the base's: {line}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_proxy_said_is_told_on() {
    local(async {
        let world = World::of(told(ProxyVersion::V2)).await;
        let mut database = world.backend(2);
        let mut client = world.client_of(83).await;
        client.send(V1).await;
        let mut backend = database.accept().await;
        assert_eq!(backend.take(v2().len()).await, v2(), "before the client has sent a byte of its own");
        backend.send("hello").await;
        assert_eq!(client.text(5).await, "hello");
        client.send("query").await;
        assert_eq!(backend.text(5).await, "query");
        client.finish().await;
        backend.ended().await;
    })
    .await;
}
