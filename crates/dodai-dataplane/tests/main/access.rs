//! Who may call: by what a rule asks for, on trial, and again when a table comes while a call is under way.

use crate::support::*;
use bytes::Bytes;
use dodai_core::snapshot::*;
use dodai_dataplane::tally::Event;
use http::{HeaderMap, HeaderName, Request, Response};

fn allow(rule: AccessRule) -> Filter {
    Filter::Access(Access { default_allow: false, rules: vec![AccessRule { allow: true, ..rule }] })
}

fn nobody() -> Filter {
    Filter::Access(Access::default())
}

fn guarded(filters: Vec<Filter>) -> Vec<Resource> {
    usual(service("shop/catalog/http"), filtered(filters))
}

#[tokio::test(start_paused = true)]
async fn users_are_told_apart_by_address_host_and_header() {
    local(async {
        let value = ValuePattern::Exact("1".into());
        let rules = vec![
            (AccessRule { addresses: vec!["10.0.0.0/24".into()], ..AccessRule::default() }, 200),
            (AccessRule { addresses: vec!["192.0.2.0/24".into()], ..AccessRule::default() }, 403),
            (AccessRule { hosts: vec!["*.example".into()], ..AccessRule::default() }, 200),
            (AccessRule { hosts: vec!["other.example".into()], ..AccessRule::default() }, 403),
            (
                AccessRule {
                    headers: vec![ValueMatch { name: "x-a".into(), value: value.clone() }],
                    ..AccessRule::default()
                },
                403,
            ),
            (
                AccessRule {
                    headers: vec![ValueMatch { name: "x-b".into(), value }],
                    ..AccessRule::default()
                },
                200,
            ),
        ];
        for (rule, expect) in rules {
            let world = World::of(guarded(vec![allow(rule.clone())])).await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            client.send("GET / HTTP/1.1\r\nHost: shop.example:8080\r\nX-B: 1\r\n\r\n").await;
            if expect == 200 {
                backends.accept().await.answer(OK).await;
            }
            assert_eq!(client.message().await.status(), expect, "{rule:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_on_trial_counts_and_lets_through() {
    local(async {
        let trial = |filter| Filter::Trial { policy: "shop/try".into(), filter: Box::new(filter) };
        let limit = Filter::RateLimits(vec![RateLimit {
            interval: secs(60),
            burst: 1,
            key: Vec::new(),
            shared: None,
        }]);
        let world = World::of(guarded(vec![trial(nobody()), trial(limit)])).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.status(), 200);
        client.send(GET).await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.status(), 200);
        let told = world.plane.table().tallies();
        let count: Vec<_> = told.iter().map(|one| (&*one.rule, one.event, one.count)).collect();
        assert_eq!(count, [("r", Event::WouldRefuse, 3)], "two by access, one by the limit");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn conditions_are_asked_of_calls() {
    local(async {
        let rule = AccessRule {
            except: AccessExcept { paths: vec!["/admin/*".into()], ..AccessExcept::default() },
            cel: Some("request.headers['x-a'] == '1'".into()),
            ..AccessRule::default()
        };
        let world = World::of(guarded(vec![allow(rule)])).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        for (call, expect) in [
            ("GET / HTTP/1.1\r\nHost: a", 403),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-A: 2", 403),
            ("GET /admin/x HTTP/1.1\r\nHost: a\r\nX-A: 1", 403),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-A: 1", 200),
        ] {
            client.send(&format!("{call}\r\n\r\n")).await;
            if expect == 200 {
                backends.accept().await.answer(OK).await;
            }
            assert_eq!(client.message().await.status(), expect, "{call}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_may_trust_who_comes() {
    local(async {
        let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
        for resource in &mut resources {
            if let Resource::Routes(routes) = resource {
                routes.trusted = true;
            }
        }
        let world = World::of(resources).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send("GET /a HTTP/1.1\r\nHost: a\r\ndapr-caller-app-id: front\r\n\r\n").await;
        let request = backends.accept().await.answer(OK).await;
        assert_eq!(request.header("dapr-caller-app-id"), Some("front"));
    })
    .await;
}

const SPOOF: &str = "dapr-caller-app-id: admin\r\nDAPR-Callee-App-Id: x\r\nX-Forwarded-Client-Cert: y\r\n";

#[tokio::test(start_paused = true)]
async fn nobody_outside_says_who_he_is() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        // To programs behind CGI and its like `_` is `-`.
        let spelled = "dapr_caller_app_id: admin\r\nX_Forwarded-Client_Cert: x\r\n";
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Stay: 1\r\n{SPOOF}{spelled}\r\n")).await;
        let mut backend = backends.accept().await;
        let request = backend.answer(OK).await;
        assert!(!request.head.contains('_'), "{}", request.head);
        for name in dodai_core::call::IDENTITY_HEADERS {
            assert_eq!(request.header(name), None, "{name}");
        }
        assert_eq!(request.header("x-stay"), Some("1"));
        client.message().await;
        // An app is who it proved to be, whatever it says.
        let mut app = world.client_of(81).await;
        app.send("GET / HTTP/1.1\r\nHost: catalog\r\nDapr-Caller-App-Id: admin\r\n\r\n").await;
        let request = backend.answer(OK).await;
        assert_eq!(request.header("dapr-caller-app-id"), Some("front"));
        assert_eq!(app.message().await.status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn trailers_say_nothing_of_identities() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer =
            client.ask(&format!("{head}2\r\nab\r\n0\r\nX-A: 1\r\nDAPR-caller-app-id: admin\r\n\r\n")).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (400, Some("bad_request")));
        // The same after the call has gone out.
        let mut client = world.client().await;
        client.send(format!("{head}2\r\nab\r\n")).await;
        let mut backend = backends.accept().await;
        backend.until("ab\r\n").await;
        client.send("0\r\ndapr-caller-app-id: admin\r\n\r\n").await;
        assert_eq!(client.message().await.status(), 400);
        assert!(!backend.rest().await.contains("admin"));
        // Other trailers pass.
        let mut client = world.client().await;
        client.send(format!("{head}2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n")).await;
        let mut backend = backends.accept().await;
        assert_eq!(backend.answer(OK).await.trailers, "X-Sum: 1\r\n");
        assert_eq!(client.message().await.status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn http2_says_nothing_of_identities_either() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let (sender, connection) = h2::client::handshake(world.client().await.stream).await.expect("shaken");
        beside(connection);
        let mut sender = sender.ready().await.expect("ready");
        let spoofed = |method: &str| {
            let request =
                Request::builder().method(method).uri("http://shop/a").header("dapr-caller-app-id", "admin");
            request.body(()).expect("valid")
        };
        let (answer, _) = sender.send_request(spoofed("GET"), true).expect("sent");
        let mut backend = backends.accept().await;
        let request = backend.answer(OK).await;
        assert_eq!(request.header("dapr-caller-app-id"), None);
        assert_eq!(answer.await.expect("answered").status(), 200);
        let (answer, mut body) = sender.send_request(spoofed("POST"), false).expect("sent");
        body.send_data(Bytes::from_static(b"ab"), false).expect("sent");
        let name = HeaderName::from_static("dapr-caller-app-id");
        body.send_trailers(HeaderMap::from_iter([(name, "admin".parse().expect("valid"))])).expect("sent");
        let answer: Response<_> = answer.await.expect("answered");
        assert_eq!(answer.status(), 400);
        assert_eq!(answer.headers()["dodai-failure"], "bad_request");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_a_new_table_does_not_allow_is_cut() {
    local(async {
        let world = World::of(guarded(vec![])).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await;
        let mut backend = backends.accept().await;
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
        backend.answer(switch).await;
        client.head().await;
        let other = AccessRule { allow: false, paths: vec!["/other".into()], ..AccessRule::default() };
        world.apply(guarded(vec![Filter::Access(Access { default_allow: true, rules: vec![other] })])).await;
        tokio::time::sleep(secs(1)).await;
        client.send("ping").await;
        assert_eq!(backend.text(4).await, "ping", "what is still allowed goes on");
        world.records.take();
        world.apply(guarded(vec![nobody()])).await;
        client.ended().await;
        backend.ended().await;
        let record = world.records.next().await;
        assert_eq!(record.failure.map(|kind| kind.code()), Some("denied"));
        assert!(record.detail.contains("the policy changed"), "{}", record.detail);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_asked_by_the_rules_of_the_service_that_was_meant() {
    local(async {
        let ruled = |name: &str, filters: Vec<Filter>| {
            let onward = rule(Action::Forward(vec![to("shop/next/http")]));
            Service { rules: vec![Rule { filters, ..onward }], ..service(name) }
        };
        let leading = |own: Vec<Filter>, of_the_other: Vec<Filter>| {
            let mut resources = usual(ruled("shop/catalog/http", own), filtered(vec![]));
            resources.push(Resource::Service(ruled("shop/next/http", of_the_other)));
            resources.push(endpoints("shop/next/http", vec![endpoint(2, "r1")]));
            resources
        };
        let world = World::of(leading(vec![], vec![])).await;
        let mut backends = world.backend(2);
        let mut client = world.client_of(81).await;
        client.send("GET /a HTTP/1.1\r\nHost: catalog\r\n\r\n").await;
        let mut backend = backends.accept().await;
        backend.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        client.head().await;
        world.apply(leading(vec![], vec![nobody()])).await;
        backend.send("1\r\na\r\n").await;
        client.until("1\r\na\r\n").await;
        world.apply(leading(vec![nobody()], vec![])).await;
        backend.send("1\r\nb\r\n").await;
        client.ended().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_tcp_connection_is_cut_by_the_policy_of_its_service() {
    local(async {
        let tcp = |inbound: Vec<Filter>| {
            let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
            let db = Service { protocol: Protocol::Tcp, port: Some(5432), inbound, ..service("shop/db/pg") };
            let role = Role::Dependency { app: app("shop/front"), service: id("shop/db/pg") };
            let address = (GATEWAY, 90).into();
            let listener = Listener::new("db", address, Protocol::Tcp, role);
            resources.extend([
                Resource::Service(db),
                endpoints("shop/db/pg", vec![endpoint(2, "r1")]),
                Resource::Listener(listener),
            ]);
            resources
        };
        let world = World::of(tcp(vec![])).await;
        let mut database = world.backend(2);
        let mut client = world.client_of(90).await;
        client.send("hello").await;
        let mut db = database.accept().await;
        assert_eq!(db.text(5).await, "hello");
        let front = AccessRule { apps: vec![app("shop/front")], ..AccessRule::default() };
        world.apply(tcp(vec![allow(front)])).await;
        tokio::time::sleep(secs(1)).await;
        db.send("still").await;
        assert_eq!(client.text(5).await, "still");
        let back = AccessRule { apps: vec![app("shop/back")], ..AccessRule::default() };
        world.apply(tcp(vec![allow(back)])).await;
        client.ended().await;
        db.ended().await;
        assert_eq!(world.records.next().await.failure.map(|kind| kind.code()), Some("denied"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn long_answers_are_cut_with_their_next_bytes() {
    local(async {
        let world = World::of(guarded(vec![])).await;
        let mut backends = world.backend(1);
        // Over HTTP/1, byte for byte.
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        client.head().await;
        // Over HTTP/2, as a message.
        let (sender, connection) = h2::client::handshake(world.client().await.stream).await.expect("shaken");
        beside(connection);
        let mut sender = sender.ready().await.expect("ready");
        let request = Request::get("http://shop/b").body(()).expect("valid");
        let (answer, _) = sender.send_request(request, true).expect("sent");
        let mut other = backends.accept().await;
        other.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
        let mut body = answer.await.expect("answered").into_body();
        assert_eq!(body.data().await.expect("more").expect("whole"), "a");
        world.records.take();
        world.apply(guarded(vec![nobody()])).await;
        backend.send("6\r\nsecret\r\n").await;
        assert!(!client.rest().await.contains("secret"));
        other.send("6\r\nsecret\r\n").await;
        assert!(body.data().await.is_none_or(|data| data.is_err()), "nothing more comes");
        for _ in 0..2 {
            let record = world.records.next().await;
            assert_eq!(record.failure.map(|kind| kind.code()), Some("denied"), "{record:?}");
        }
    })
    .await;
}

fn raw(filters: Vec<Filter>) -> Vec<Resource> {
    let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
    let rule = Rule { filters, ..rule_to("shop/db/pg") };
    let hosts = vec![VirtualHost { names: vec!["*".into()], rules: vec![rule] }];
    let role = Role::Gateway { routes: "raw".into() };
    resources.extend([
        Resource::Service(Service { protocol: Protocol::Tcp, ..service("shop/db/pg") }),
        endpoints("shop/db/pg", vec![endpoint(2, "r1")]),
        Resource::Routes(Routes { name: "raw".into(), hosts, trusted: false }),
        Resource::Listener(Listener::new("raw", (GATEWAY, 91).into(), Protocol::Tcp, role)),
    ]);
    resources
}

#[tokio::test(start_paused = true)]
async fn a_tcp_listener_of_a_gateway_asks_who_connects() {
    local(async {
        let from = |network: &str| {
            vec![allow(AccessRule { addresses: vec![network.into()], ..AccessRule::default() })]
        };
        let world = World::of(raw(from("192.0.2.0/24"))).await;
        let mut database = world.backend(2);
        world.client_of(91).await.ended().await;
        let record = world.records.next().await;
        assert_eq!(record.failure.map(|kind| kind.code()), Some("denied"), "{}", record.detail);
        world.apply(raw(from("10.0.0.0/24"))).await;
        let mut client = world.client_of(91).await;
        client.send("hello").await;
        assert_eq!(database.accept().await.text(5).await, "hello");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_no_connection_can_show_it_does_not_have() {
    local(async {
        let claims =
            vec![ClaimMatch { name: "role".into(), values: vec![ValuePattern::Exact("admin".into())] }];
        let admins = allow(AccessRule { claims, ..AccessRule::default() });
        let world = World::of(raw(vec![admins])).await;
        world.client_of(91).await.ended().await;
        let record = world.records.next().await;
        assert_eq!(record.failure.map(|kind| kind.code()), Some("denied"), "{}", record.detail);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_to_a_gateway_are_limited_and_tried() {
    local(async {
        let limit = Filter::RateLimits(vec![RateLimit {
            interval: secs(60),
            burst: 1,
            key: Vec::new(),
            shared: None,
        }]);
        let trial = |filter| Filter::Trial { policy: "shop/try".into(), filter: Box::new(filter) };
        let asked = trial(Filter::Authorizer(Authorizer {
            service: id("shop/catalog/http"),
            protocol: AuthorizerProtocol::Grpc,
            timeout: secs(1),
            fail_open: false,
            request_headers: Vec::new(),
            call_headers: Vec::new(),
            client_headers: Vec::new(),
        }));
        let world = World::of(raw(vec![trial(nobody()), asked, limit])).await;
        let mut database = world.backend(2);
        let mut client = world.client_of(91).await;
        client.send("hello").await;
        assert_eq!(database.accept().await.text(5).await, "hello");
        world.client_of(91).await.ended().await;
        let record = world.records.next().await;
        assert_eq!(record.failure.map(|kind| kind.code()), Some("rate_limited"), "{}", record.detail);
        let told = world.plane.table().tallies();
        let count: Vec<_> = told.iter().map(|one| (one.event, one.count)).collect();
        assert_eq!(count, [(Event::WouldRefuse, 4)], "an authorizer cannot be asked about a connection");
    })
    .await;
}

fn rule_to(service: &str) -> Rule {
    rule(Action::Forward(vec![to(service)]))
}
