//! Upgrades, CONNECT and raw TCP: bytes both ways, with their ends.

use crate::support::*;
use dodai_core::id::RevisionId;
use dodai_core::snapshot::*;
use tokio::time::Instant;

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_carries_bytes_both_ways_and_half_closes() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(UPGRADE).await;
        let mut backend = backends.accept().await;
        let request = backend.answer(&format!("{SWITCH}hello")).await;
        assert_eq!(
            (request.header("connection"), request.header("upgrade")),
            (Some("upgrade"), Some("websocket"))
        );
        let answer = client.head().await;
        assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("upgrade: websocket\r\n"), "{answer}");
        assert_eq!(client.text(5).await, "hello");
        client.send("ping").await;
        assert_eq!(backend.text(4).await, "ping");
        client.finish().await;
        backend.ended().await;
        backend.send("still here").await;
        drop(backend);
        assert_eq!(client.rest().await, "still here");
        let record = world.records.next().await;
        assert_eq!((record.status, record.received, record.sent), (101, 4, 15));
        let readings = world.plane.stats().read();
        assert_eq!((readings[0].received, readings[0].sent), (4, 15));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_stands_still_both_ways_ends() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(UPGRADE).await;
        let mut backend = backends.accept().await;
        backend.answer(SWITCH).await;
        client.head().await;
        tokio::time::sleep(secs(3000)).await;
        backend.send("x").await;
        assert_eq!(client.text(1).await, "x");
        let start = Instant::now();
        client.ended().await;
        assert!(start.elapsed() >= secs(3600) && start.elapsed() < secs(3601));
        backend.ended().await;
    })
    .await;
}

fn tcp(mut resources: Vec<Resource>) -> Vec<Resource> {
    resources.push(Resource::Service(Service {
        protocol: Protocol::Tcp,
        port: Some(5432),
        ..service("shop/db/pg")
    }));
    resources.push(endpoints("shop/db/pg", vec![endpoint(2, "r1")]));
    let role = Role::Dependency { app: app("shop/front"), service: id("shop/db/pg") };
    let address = (GATEWAY, 90).into();
    let db = Listener::new("db", address, Protocol::Tcp, role);
    resources.push(Resource::Listener(db));
    resources
}

#[tokio::test(start_paused = true)]
async fn connect_reaches_tcp_services_and_hosts_outside_only() {
    local(async {
        let world = World::of(tcp(usual(service("shop/catalog/http"), filtered(vec![])))).await;
        let mut database = world.backend(2);
        let mut client = world.client_of(81).await;
        client.send("CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\nearly").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        let mut backend = database.accept().await;
        assert_eq!(backend.text(5).await, "early");
        backend.send("late").await;
        backend.finish().await;
        assert_eq!(client.rest().await, "late");
        world.net.name("out.example", &[[10, 0, 1, 7].into()]);
        let mut outside = world.backend(7);
        let mut client = world.client_of(81).await;
        client.send("CONNECT out.example:8000 HTTP/1.1\r\nHost: out.example\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        client.send("hi").await;
        assert_eq!(outside.accept().await.text(2).await, "hi");
        for (authority, port, status) in
            [("catalog:80", 81, 501), ("db:5432", 80, 501), ("out.example:1", 81, 503), ("db:5433", 81, 404)]
        {
            let mut client = world.client_of(port).await;
            let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
            assert_eq!(client.ask(&request).await.status(), status, "{authority} {port}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn raw_connections_may_start_at_either_side() {
    local(async {
        let world = World::of(tcp(usual(service("shop/catalog/http"), filtered(vec![])))).await;
        let mut database = world.backend(2);
        let mut client = world.client_of(90).await;
        let mut backend = database.accept().await;
        backend.send("welcome").await;
        assert_eq!(client.text(7).await, "welcome");
        client.send("query").await;
        client.finish().await;
        assert_eq!(backend.rest().await, "query");
        backend.send("rows").await;
        drop(backend);
        assert_eq!(client.rest().await, "rows");
        let record = world.records.next().await;
        assert_eq!((record.received, record.sent, &*record.service), (5, 11, "shop/db/pg"));
        world.net.set_faults(
            backend_addr(2),
            dodai_transport::memory::Faults { refuse: true, ..Default::default() },
        );
        world.client_of(90).await.ended().await;
        assert_eq!(world.records.next().await.failure.map(|kind| kind.code()), Some("connect"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_endpoints_are_gone_goes_where_the_newer_table_leads() {
    local(async {
        for by_connect in [false, true] {
            let world = World::of(tcp(usual(service("shop/catalog/http"), filtered(vec![])))).await;
            let mut moved = world.backend(3);
            // Nobody listens at the old address any more, which shows only when the newer table is there.
            let slow = dodai_transport::memory::Faults {
                connect_delay: secs(1),
                refuse: true,
                ..Default::default()
            };
            world.net.set_faults(backend_addr(2), slow);
            let mut client = world.client_of(if by_connect { 81 } else { 90 }).await;
            if by_connect {
                client.send("CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n").await;
            }
            settle().await;
            let mut resources = tcp(usual(service("shop/catalog/http"), filtered(vec![])));
            resources.retain(|resource| resource.key().name != "shop/db/pg" || !is_endpoints(resource));
            resources.push(endpoints("shop/db/pg", vec![endpoint(3, "r2")]));
            world.apply(resources).await;
            let mut backend = moved.accept().await;
            if by_connect {
                assert!(client.head().await.starts_with("HTTP/1.1 200 "));
            }
            client.send("query").await;
            client.finish().await;
            assert_eq!(backend.rest().await, "query");
            drop(backend);
            client.ended().await;
            let record = world.records.next().await;
            assert_eq!((record.status, record.failure), (200, None), "by CONNECT: {by_connect}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn raw_connections_are_shared_out_by_weight_and_revision() {
    local(async {
        let backend = |revision: &str, weight| Backend {
            revision: Some(RevisionId::new(revision)),
            weight,
            ..to("shop/db/pg")
        };
        let with = |one, two| {
            let mut resources = tcp(usual(service("shop/catalog/http"), filtered(vec![])));
            resources.retain(|resource| resource.key().name != "shop/db/pg" || !is_endpoints(resource));
            resources.push(endpoints("shop/db/pg", vec![endpoint(2, "r1"), endpoint(3, "r2")]));
            let forward = rule(Action::Forward(vec![backend("r1", one), backend("r2", two)]));
            let hosts = vec![VirtualHost { names: vec!["*".into()], rules: vec![forward] }];
            resources.push(Resource::Routes(Routes { name: "raw".into(), hosts, trusted: false }));
            let role = Role::Gateway { routes: "raw".into() };
            let address = (GATEWAY, 83).into();
            resources.push(Resource::Listener(Listener::new("raw", address, Protocol::Tcp, role)));
            resources
        };
        for (weights, last) in [((0, 1), 3), ((1, 0), 2)] {
            let world = World::of(with(weights.0, weights.1)).await;
            let mut chosen = world.backend(last);
            for _ in 0..5 {
                let mut client = world.client_of(83).await;
                client.send("x").await;
                assert_eq!(chosen.accept().await.text(1).await, "x");
            }
        }
    })
    .await;
}

/// A listener of an app for its dependency, which has two instances.
fn depending(db: Service) -> Vec<Resource> {
    let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
    let role = Role::Dependency { app: app("shop/front"), service: id("shop/db/pg") };
    resources.extend([
        Resource::Service(db),
        endpoints("shop/db/pg", vec![endpoint(2, "r1"), endpoint(3, "r2")]),
        Resource::Listener(Listener::new("db", (GATEWAY, 90).into(), Protocol::Tcp, role)),
    ]);
    resources
}

#[tokio::test(start_paused = true)]
async fn the_rules_of_a_service_lead_its_connections_too() {
    local(async {
        let db = |revision: &str| {
            let backend = Backend { revision: Some(RevisionId::new(revision)), ..to("shop/db/pg") };
            let rules = vec![rule(Action::Forward(vec![backend]))];
            Service { protocol: Protocol::Tcp, port: Some(5432), rules, ..service("shop/db/pg") }
        };
        for (revision, last) in [("r1", 2), ("r2", 3)] {
            let world = World::of(depending(db(revision))).await;
            let mut chosen = world.backend(last);
            for _ in 0..5 {
                let mut client = world.client_of(90).await;
                client.send("x").await;
                assert_eq!(chosen.accept().await.text(1).await, "x");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_count_at_their_endpoints_until_they_end() {
    local(async {
        let balance = Balance::LeastRequest;
        let db = Service { protocol: Protocol::Tcp, port: Some(5432), balance, ..service("shop/db/pg") };
        let world = World::of(depending(db)).await;
        let mut backends = [world.backend(2), world.backend(3)];
        let mut held = Vec::new();
        for _ in 0..5 {
            for _ in 0..2 {
                held.push(world.client_of(90).await);
                settle().await;
            }
            for backend in &mut backends {
                held.push(backend.accept().await);
            }
        }
    })
    .await;
}

fn is_endpoints(resource: &Resource) -> bool {
    matches!(resource, Resource::Endpoints(_))
}

#[tokio::test(start_paused = true)]
async fn proxied_requests_reach_hosts_outside() {
    local(async {
        let world = World::plain().await;
        world.net.name("out.example", &[[10, 0, 1, 7].into()]);
        let mut outside = world.backend(7);
        let mut client = world.client_of(81).await;
        client.send("GET http://out.example:8000/x HTTP/1.1\r\nHost: y\r\n\r\n").await;
        let mut backend = outside.accept().await;
        let request = backend.answer(OK).await;
        assert!(request.head.starts_with("GET /x HTTP/1.1\r\n"));
        assert_eq!(request.header("host"), Some("out.example:8000"));
        assert_eq!(client.message().await.body, "ok");
        client.send("GET /y HTTP/1.1\r\nHost: out.example:8000\r\n\r\n").await;
        assert!(backend.answer(OK).await.head.starts_with("GET /y "));
        assert_eq!(client.message().await.body, "ok");
        let answer = client.ask("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n").await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (404, Some("no_route")));
    })
    .await;
}
