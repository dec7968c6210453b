//! Callers without mutual TLS at the port for other bases: taken where an app says so, refused elsewhere.

use dodai_core::id::{BaseId, InstanceId};
use dodai_core::snapshot::*;
use dodai_dataplane::limits::Limits;
use dodai_dataplane::local::Way;
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

#[tokio::test(start_paused = true)]
async fn what_a_plain_caller_says_of_instances_is_no_more_than_a_wish_among_those_here() {
    local(async {
        let (net, issuer) = (Net::new(), Issuer::new());
        let same_site = SameSite::Lax;
        let sticky = Some(Sticky { name: "at".into(), ttl: None, path: "/".into(), same_site });
        let catalog = Service { plain: true, sticky, ..service("shop/catalog/http") };
        let places = [("b", GATEWAY, "i-1"), ("far", [10, 0, 0, 2], "i-2")];
        let list = places.map(|(base, ip, name)| {
            let mesh = Some((ip, PORT).into());
            let target = Target::Instance { instance: InstanceId::new(name), base: BaseId::new(base), mesh };
            Endpoint { target, ..instance(name) }
        });
        let mut worlds = Vec::new();
        for (base, ip, name) in places {
            let world = World::at(net.clone(), ip, base, Limits::default(), Some(issuer.mesh()));
            let mesh = Listener::new("mesh", (ip, PORT).into(), Protocol::Http, Role::Mesh);
            let list = endpoints("shop/catalog/http", list.to_vec());
            world.apply(vec![Resource::Listener(mesh), Resource::Service(catalog.clone()), list]).await;
            let named = crate::serve::Named(name.to_owned());
            world.plane.locals().get(&InstanceId::new(name)).set(Way::Serve(std::sync::Arc::new(named)));
            worlds.push(world);
        }
        let ask = async |at: [u8; 4], said: &str| {
            let network = Network::Memory(net.host([10, 0, 0, 5]));
            let mut client =
                Peer::new(network.connect_addr((at, PORT).into(), secs(1)).await.expect("there"));
            client.ask(&format!("GET /x HTTP/1.1\r\nHost: catalog.shop\r\n{said}\r\n")).await
        };
        let there = ask([10, 0, 0, 2], "").await;
        assert_eq!(there.body, "i-2");
        let cookie = there.header("set-cookie").and_then(|set| set.split(';').next()).expect("a cookie");
        // A call that failed over comes with the cookie of where it was, and does not go back and forth.
        for said in [format!("Cookie: {cookie}\r\n"), "dodai-to: r9&zone=b\r\n".to_owned()] {
            let answer = ask(GATEWAY, &said).await;
            assert_eq!((answer.status(), answer.body.as_str()), (200, "i-1"), "{said}");
        }
    })
    .await;
}
