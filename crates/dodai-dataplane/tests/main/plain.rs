//! Callers without mutual TLS at the port for other bases: taken where an app says so, refused elsewhere.

use dodai_core::snapshot::{Listener, Protocol, Resource, Role, Service};
use dodai_dataplane::limits::Limits;
use dodai_transport::memory::Net;
use dodai_transport::network::Network;

use crate::serve::Issuer;
use crate::support::*;

const PORT: u16 = 15_008;

/// A base whose port for others leads to `catalog` and to `strict`, both behind one instance.
async fn base(plain: bool) -> World {
    let world = World::on(Net::new(), Limits::default(), Some(Issuer::new().mesh()));
    let mesh = Listener::new("mesh", (GATEWAY, PORT).into(), Protocol::Http2, Role::Mesh);
    let services = [Service { plain, ..service("shop/catalog/http") }, service("shop/strict/http")];
    let mut all: Vec<Resource> = services.into_iter().map(Resource::Service).collect();
    all.push(Resource::Listener(mesh));
    for name in ["shop/catalog/http", "shop/strict/http"] {
        all.push(endpoints(name, vec![instance("i-1")]));
    }
    world.apply(all).await;
    world
}

async fn dial(world: &World) -> Peer {
    let network = Network::Memory(world.net.host([10, 0, 0, 5]));
    Peer::new(network.connect_addr((GATEWAY, PORT).into(), secs(1)).await.expect("connected"))
}

#[tokio::test(start_paused = true)]
async fn a_plain_caller_is_taken_where_an_app_is_permissive_and_counted() {
    local(async {
        let world = base(true).await;
        let (sender, mut calls) = tokio::sync::mpsc::channel(8);
        let here = world.plane.locals().get(&dodai_core::id::InstanceId::new("i-1"));
        here.set(dodai_dataplane::local::Way::Serve(std::sync::Arc::new(crate::serve::Scripted(sender))));
        let mut client = dial(&world).await;
        client.send("GET /x HTTP/1.1\r\nHost: catalog.shop\r\nDapr-Caller-App-Id: front\r\n\r\n").await;
        let (call, answer) = calls.recv().await.expect("a call");
        assert_eq!(call.context.caller, dodai_core::call::Caller::Outside, "nobody, whatever it says");
        assert!(answer.send(Ok(dodai_core::call::Reply::new(http::StatusCode::OK, "ok"))).is_ok());
        assert_eq!(client.message().await.body, "ok");
        let refused = client.ask("GET /x HTTP/1.1\r\nHost: strict.shop\r\n\r\n").await;
        assert_eq!((refused.status(), refused.header("dodai-failure")), (403, Some("denied")));
        assert!(
            refused.body.contains("mutual TLS only") && refused.body.contains("permissive"),
            "{refused:?}"
        );
        assert_eq!(world.plane.gauges().mesh_let_in, [0, 1]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_such_an_app_nobody_gets_past_the_handshake() {
    local(async {
        let world = base(false).await;
        let mut client = dial(&world).await;
        client.send("GET /x HTTP/1.1\r\nHost: catalog.shop\r\n\r\n").await;
        let answer = client.rest_bytes().await;
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
        assert_eq!(world.plane.gauges().mesh_let_in, [0, 0]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_says_nothing_is_let_go() {
    local(async {
        let world = base(true).await;
        let mut client = dial(&world).await;
        let start = tokio::time::Instant::now();
        client.ended().await;
        assert_eq!(start.elapsed(), dodai_transport::tls::HANDSHAKE_TIMEOUT);
    })
    .await;
}
