//! Tables that change under load, listeners that come and go, and draining.

use crate::support::*;
use dodai_core::id::ServiceId;
use dodai_core::snapshot::*;
use dodai_dataplane::plane::NotApplied;

fn answering(body: &str) -> Vec<Resource> {
    usual(service("shop/catalog/http"), rule(Action::Respond { status: 200, body: body.into() }))
}

#[tokio::test(start_paused = true)]
async fn listeners_come_change_and_go() {
    local(async {
        let world = World::of(answering("one")).await;
        let mut kept = world.client().await;
        assert_eq!(kept.ask(GET).await.body, "one");
        assert!(world.try_client(82).await.is_none());
        let mut resources = answering("two");
        resources.push(listener("more", 82, Role::Gateway { routes: "all".into() }));
        world.apply(resources.clone()).await;
        assert_eq!(kept.ask(GET).await.body, "two", "a table counts from the next call on");
        assert_eq!(world.client_of(82).await.ask(GET).await.body, "two");
        // The same address under another name and role: the socket stays, not one connection is refused.
        resources.retain(|resource| resource.key().name != "more");
        resources.push(listener("renamed", 82, Role::Outbound { app: app("shop/front") }));
        world.apply(resources).await;
        let mut client = world.client_of(82).await;
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n").await.status(), 404);
        assert_eq!(world.records.take().last().map(|record| record.direction), Some("outbound"));
        world.apply(answering("three")).await;
        assert!(world.try_client(82).await.is_none());
        assert_eq!(world.client().await.ask(GET).await.body, "three");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_of_a_listener_that_goes_end_after_their_call() {
    local(async {
        let with = |role: Option<Role>| {
            let mut resources = answering("x");
            resources.extend(role.map(|role| listener("more", 82, role)));
            resources
        };
        let front = || Some(Role::Gateway { routes: "all".into() });
        for after in [None, Some(Role::Outbound { app: app("shop/front") })] {
            let world = World::of(with(front())).await;
            let (mut stays, mut goes) = (world.client().await, world.client_of(82).await);
            assert_eq!(goes.ask(GET).await.header("connection"), None);
            world.apply(with(after)).await;
            assert_eq!(goes.ask(GET).await.header("connection"), Some("close"));
            goes.ended().await;
            assert_eq!(stays.ask(GET).await.header("connection"), None);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn and_so_do_those_of_http_2_that_never_come_to_rest() {
    local(async {
        let catalog = service("shop/catalog/http");
        let mut resources = usual(catalog.clone(), filtered(vec![]));
        resources.push(listener("more", 82, Role::Gateway { routes: "all".into() }));
        let world = World::of(resources).await;
        let mut backends = world.backend(1);
        let (client, connection) =
            h2::client::handshake(world.client_of(82).await.stream).await.expect("shaken");
        let ending = beside(connection);
        let call = || http::Request::get("http://a/").body(()).expect("valid");
        let open = async || client.clone().ready().await.map_err(|_gone| ());
        let (slow, _) = open().await.expect("open").send_request(call(), true).expect("sent");
        let mut last = backends.accept().await;
        last.head().await;
        world.apply(usual(catalog, filtered(vec![]))).await;
        let (next, _) = open().await.expect("open").send_request(call(), true).expect("sent");
        backends.accept().await.answer(OK).await;
        assert_eq!(next.await.expect("answered").status(), 200);
        settle().await;
        assert!(open().await.is_err(), "no further call");
        last.send(OK).await;
        assert_eq!(slow.await.expect("what is under way ends as it should").status(), 200);
        let _ended = ending.await.expect("no panic");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn listeners_can_swap_their_addresses() {
    local(async {
        let swapped = |a, b| {
            let mut resources = answering("x");
            resources.push(listener("a", a, Role::Gateway { routes: "all".into() }));
            resources.push(listener("b", b, Role::Outbound { app: app("shop/front") }));
            resources
        };
        let world = World::of(swapped(90, 91)).await;
        world.apply(swapped(91, 90)).await;
        assert_eq!(world.client_of(91).await.ask(GET).await.body, "x");
        let answer = world.client_of(90).await.ask("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n").await;
        assert_eq!(answer.status(), 404);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_cannot_be_applied_changes_nothing() {
    local(async {
        let world = World::of(answering("old")).await;
        let mut bad = answering("new");
        bad.push(listener("x", 99, Role::Gateway { routes: "missing".into() }));
        let refused = world.plane.apply(&Snapshot::of(2, bad)).await.expect_err("refused");
        assert!(matches!(refused, NotApplied::Refused(_)), "{refused}");
        let edits =
            HeaderEdits { set: vec![("Content-Length".into(), "5".into())], ..HeaderEdits::default() };
        let filter = usual(service("shop/catalog/http"), filtered(vec![Filter::RequestHeaders(edits)]));
        let refused = world.plane.apply(&Snapshot::of(3, filter)).await.expect_err("refused");
        assert!(refused.to_string().contains("written by the proxy"), "{refused}");
        let mut mesh = answering("new");
        mesh.push(listener("mesh", 98, Role::Mesh));
        let refused = world.plane.apply(&Snapshot::of(5, mesh)).await.expect_err("refused");
        assert!(matches!(refused, NotApplied::NoMesh { .. }), "{refused}");
        assert_eq!(world.client().await.ask(GET).await.body, "old");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_cannot_open_fails_alone_and_goes_on_as_it_was() {
    local(async {
        let world = World::of(answering("old")).await;
        let host = world.net.host(GATEWAY);
        let apply = async |body: &str, x: u16| {
            let mut resources = answering(body);
            resources.push(listener("x", x, Role::Gateway { routes: "all".into() }));
            let applied = world.plane.apply(&Snapshot::of(2, resources)).await.expect("applied");
            settle().await;
            let not_open: Vec<String> = applied.not_open.keys().cloned().collect();
            (not_open, applied.listeners.get("x").map(std::net::SocketAddr::port))
        };
        let holder = listen(&host, 99);
        // What else is new holds at once.
        assert_eq!(apply("new", 99).await, (vec!["x".to_owned()], None));
        assert_eq!(world.client().await.ask(GET).await.body, "new");
        // The same once more, as a base asks for it again and again.
        assert_eq!(apply("new", 99).await, (vec!["x".to_owned()], None));
        drop(holder);
        settle().await;
        assert_eq!(apply("new", 99).await, (vec![], Some(99)));
        assert_eq!(world.client_of(99).await.ask(GET).await.body, "new");
        // It is to move to where somebody is: it stays where it was, with what is new to it otherwise.
        let holder = listen(&host, 97);
        assert_eq!(apply("newer", 97).await, (vec!["x".to_owned()], Some(99)));
        assert_eq!(world.client_of(99).await.ask(GET).await.body, "newer");
        drop(holder);
        settle().await;
        assert_eq!(apply("newer", 97).await, (vec![], Some(97)));
        assert_eq!(world.client_of(97).await.ask(GET).await.body, "newer");
        let free = listen(&host, 99);
        drop(free);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn tables_swap_under_load_and_nothing_is_lost() {
    local(async {
        let world = World::plain().await;
        let mut loads = Vec::new();
        for last in [1, 2] {
            let mut backends = world.backend(last);
            beside(async move {
                loop {
                    let mut backend = backends.accept().await;
                    beside(async move {
                        loop {
                            backend.answer(OK).await;
                        }
                    });
                }
            });
        }
        for _ in 0..8 {
            let mut client = world.client().await;
            loads.push(beside(async move {
                for _ in 0..200 {
                    assert_eq!(client.ask(GET).await.body, "ok");
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            }));
        }
        for round in 0..100u8 {
            let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
            resources.push(endpoints("shop/catalog/http", vec![endpoint(1 + round % 2, "r1")]));
            world.apply(resources).await;
        }
        for load in loads {
            load.await.expect("every call was answered");
        }
        assert_eq!(world.records.take().iter().filter(|record| record.status != 200).count(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn draining_lets_calls_end_and_takes_no_new_ones() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let (mut idle, mut busy, mut silent) =
            (world.client().await, world.client().await, world.client().await);
        idle.send(GET).await;
        let mut backend = backends.accept().await;
        backend.answer(OK).await;
        idle.message().await;
        busy.send(GET).await;
        backend.head().await;
        let World { plane, net, .. } = world;
        let plane = std::rc::Rc::new(plane);
        let draining = {
            let plane = plane.clone();
            beside(async move { plane.drain(secs(30)).await })
        };
        settle().await;
        idle.ended().await;
        silent.ended().await;
        let network = dodai_transport::network::Network::Memory(net.host([10, 0, 0, 5]));
        assert!(network.connect_addr((GATEWAY, 80).into(), secs(1)).await.is_err());
        assert!(!draining.is_finished());
        backend.send(OK).await;
        let answer = busy.message().await;
        assert_eq!((answer.body.as_str(), answer.header("connection")), ("ok", Some("close")));
        busy.finish().await;
        let start = tokio::time::Instant::now();
        draining.await.expect("no panic");
        assert!(start.elapsed() < secs(3), "{:?}", start.elapsed());
        let later = plane.apply(&Snapshot::default()).await;
        assert!(matches!(later, Ok(_) | Err(NotApplied::Down)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_end_is_cut_at_the_drain_deadline() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.head().await;
        let start = tokio::time::Instant::now();
        world.plane.drain(secs(10)).await;
        assert!(start.elapsed() >= secs(10) && start.elapsed() < secs(11));
        client.ended().await;
        backend.ended().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_leaves_takes_its_routes_along() {
    local(async {
        let world = World::plain().await;
        assert!(
            world.plane.table().service(&ServiceId::parse("shop/catalog/http").expect("valid")).is_some()
        );
        world.apply(vec![gateway(), routes(vec![filtered(vec![])])]).await;
        let answer = world.client().await.ask(GET).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("no_endpoint")));
    })
    .await;
}

fn limit(burst: u32) -> Filter {
    Filter::RateLimits(vec![RateLimit { interval: secs(600), burst, key: Vec::new(), shared: None }])
}

/// How many of five calls a limit lets through.
async fn let_through(world: &World) -> usize {
    let (mut client, mut passed) = (world.client().await, 0);
    for _ in 0..5 {
        passed += usize::from(client.ask(GET).await.status() != 429);
    }
    passed
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_goes_on_counting_while_the_rest_of_its_rule_changes() {
    local(async {
        let resources = |header: &str, timeout: u64, burst: u32| {
            let edits = HeaderEdits { set: vec![(header.into(), "x".into())], ..HeaderEdits::default() };
            let mut rule = rule(Action::Respond { status: 200, body: header.into() });
            rule.filters = vec![Filter::ResponseHeaders(edits), limit(burst)];
            rule.policy.timeout = Some(secs(timeout));
            usual(service("shop/catalog/http"), rule)
        };
        let world = World::of(resources("x-a", 5, 3)).await;
        assert_eq!(let_through(&world).await, 3);
        world.apply(resources("x-b", 9, 3)).await;
        assert_eq!(let_through(&world).await, 0, "what it had counted still counts");
        world.apply(resources("x-b", 9, 4)).await;
        assert_eq!(let_through(&world).await, 4, "another limit begins anew");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_of_an_app_goes_on_counting_while_its_instances_come_and_go() {
    local(async {
        let resources = |places: &[u8], timeout: u64| {
            let mut catalog = service("shop/catalog/http");
            catalog.inbound = vec![limit(3)];
            catalog.policy.timeout = Some(secs(timeout));
            let mut resources = usual(catalog, filtered(vec![]));
            let list = places.iter().map(|last| endpoint(*last, "r1")).collect();
            resources.push(endpoints("shop/catalog/http", list));
            resources
        };
        let world = World::of(resources(&[1], 5)).await;
        for last in [1, 2] {
            let mut backends = world.backend(last);
            beside(async move {
                loop {
                    let mut backend = backends.accept().await;
                    beside(async move {
                        loop {
                            backend.answer(OK).await;
                        }
                    });
                }
            });
        }
        assert_eq!(let_through(&world).await, 3);
        world.apply(resources(&[1, 2], 5)).await;
        assert_eq!(let_through(&world).await, 0);
        world.apply(resources(&[2], 9)).await;
        assert_eq!(let_through(&world).await, 0);
    })
    .await;
}
