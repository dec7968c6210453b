//! What a data plane tells about itself: who is connected, how services stand, examples of calls.

use crate::support::*;
use dodai_core::record::Heeds;
use dodai_core::snapshot::*;
use dodai_dataplane::roll::Wanted;
use dodai_dataplane::survey::State;
use dodai_log::Format;

fn all() -> Wanted {
    Wanted { limit: 10, ..Wanted::default() }
}

#[tokio::test(start_paused = true)]
async fn connections_are_told_while_they_are_there() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let (mut first, second) = (world.client().await, world.client_of(81).await);
        first.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
        let mut backend = backends.accept().await;
        backend.answer(OK).await;
        assert_eq!(first.message().await.body, "ok");
        settle().await;
        let told = world.plane.connections(all(), secs(1)).await;
        let gateway = told.iter().find(|one| one.listener == "gateway").expect("it is there");
        assert_eq!((&*gateway.caller, gateway.protocol, gateway.tls), ("outside", "HTTP/1.1", None));
        assert_eq!((gateway.calls, gateway.received, gateway.sent, gateway.streams), (1, 3, 2, 0));
        let app = Wanted { caller: Some("shop/front".to_owned()), ..all() };
        let own = world.plane.connections(app, secs(1)).await;
        assert_eq!(own.iter().map(|one| one.protocol).collect::<Vec<_>>(), ["-"], "it has sent nothing yet");
        let page = world.plane.connections(Wanted { limit: 1, ..all() }, secs(1)).await;
        let rest = world.plane.connections(Wanted { after: page[0].id, ..all() }, secs(1)).await;
        assert_eq!((page.len(), rest.len()), (1, told.len() - 1), "page by page");
        drop((first, second));
        settle().await;
        assert!(world.plane.connections(all(), secs(1)).await.is_empty());
        let arrivals = world.plane.arrivals();
        let gateway = arrivals.iter().find(|one| one.listener == "gateway").expect("it counts");
        assert_eq!((gateway.accepted, gateway.open), (1, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_service_tells_how_its_endpoints_stand() {
    local(async {
        let breaker = Breaker { consecutive_failures: 1, ..Breaker::default() };
        let catalog = Service { breaker, ..service("shop/catalog/http") };
        let mut resources = usual(catalog, filtered(vec![]));
        resources.pop();
        resources.push(endpoints("shop/catalog/http", vec![endpoint(1, "r1"), endpoint(2, "r1")]));
        let world = World::of(resources).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        // Nobody listens at the second: it fails, and the call goes to the first.
        for _ in 0..2 {
            client.send(GET).await;
            let mut backend = backends.accept().await;
            backend.answer("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
            assert_eq!(client.message().await.status(), 200);
        }
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.message().await;
        tokio::time::sleep(secs(2)).await;
        let services = world.plane.survey();
        let (view, pool) = services.first().expect("one");
        assert_eq!((&*view.label, view.in_flight()), ("shop/catalog/http", 1));
        assert_eq!((view.count(State::Ready), view.count(State::BreakerOpen)), (1, 1));
        let broken = view.endpoints.iter().find(|one| one.state == State::BreakerOpen).expect("one");
        assert_eq!((&*broken.label, broken.place), ("10.0.1.2:8000", "address"));
        assert!(broken.open_for.is_some() && broken.latency.is_none());
        let good = view.endpoints.iter().find(|one| one.state == State::Ready).expect("one");
        assert!(good.latency.is_some() && good.failures == 0);
        assert_eq!((pool.busy, pool.idle, pool.waiting), (1, 0, 0));
        backend.send(OK).await;
        assert_eq!(client.message().await.body, "ok");
        tokio::time::sleep(secs(2)).await;
        let (_, pool) = world.plane.survey().remove(0);
        assert_eq!((pool.busy, pool.idle), (0, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn retries_beyond_the_budget_are_counted() {
    local(async {
        let retry =
            RetryPolicy { budget_percent: 0, min_per_second: 0, ..dodai_dataplane::attempt::default_retry() };
        let policy = CallPolicy { retry: Some(retry), ..CallPolicy::default() };
        let catalog = Service { policy, ..service("shop/catalog/http") };
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut client = world.client().await;
        assert_eq!(client.ask(GET).await.status(), 503);
        assert_eq!(world.plane.survey()[0].0.retries_refused, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn sampled_calls_are_examples_of_their_bucket_and_others_are_not() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.answer(OK).await;
        client.message().await;
        let exemplars = |world: &World| -> Vec<_> {
            let readings = world.plane.stats().read();
            readings.iter().flat_map(|one| one.exemplars.iter().flatten().copied()).collect()
        };
        assert!(exemplars(&world).is_empty());
        client
            .send(format!("GET / HTTP/1.1\r\nHost: a\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\n\r\n"))
            .await;
        backend.answer(OK).await;
        client.message().await;
        settle().await;
        let found = exemplars(&world);
        assert_eq!(found.iter().map(|one| format!("{:032x}", one.trace)).collect::<Vec<_>>(), [trace]);
        assert_eq!(world.records.take().last().expect("one").span.id, found[0].span);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn records_carry_what_was_asked_for_and_nothing_else() {
    local(async {
        let heeds = Heeds { stations: true, request_headers: true, response_headers: true, openings: false };
        for (heeds, asked) in [(heeds, true), (Heeds::default(), false)] {
            let world = World::heeding(heeds);
            world.apply(usual(service("shop/catalog/http"), filtered(vec![]))).await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Asked: one\r\nX-Other: no\r\n\r\n").await;
            let mut backend = backends.accept().await;
            backend.message().await;
            tokio::time::sleep(secs(3)).await;
            backend.send("HTTP/1.1 200 OK\r\nX-Told: two\r\nX-Other: no\r\nContent-Length: 0\r\n\r\n").await;
            client.message().await;
            let record = world.records.next().await;
            assert_eq!(record.client, client.stream.local_addr().expect("an address").to_string());
            let only =
                |all: &[(Box<str>, String)]| all.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>();
            let expect = |text: &str| if asked { vec![text.to_owned()] } else { vec![] };
            assert_eq!(only(&record.response_headers), expect("two"));
            assert_eq!(only(&record.request_headers), ["one"], "a record that is built has them");
            let stations = record.stations.as_deref();
            assert_eq!(stations.is_some(), asked);
            if let Some(stations) = stations {
                assert!(stations.route <= stations.filter && stations.filter <= stations.attempt);
                assert!(stations.attempt <= stations.endpoint && stations.endpoint < secs(1));
                assert!(stations.response >= secs(3) && record.took >= stations.response);
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_text_hide_nothing() {
    local(async {
        let world = World::heeding(Heeds { request_headers: true, ..Heeds::default() });
        world.apply(usual(service("shop/catalog/http"), filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let head = b"GET /hidden HTTP/1.1\r\nHost: shop\r\nX-Odd: \xff\r\nX-Asked: one\r\n\r\n";
        client.send(head).await;
        let mut backend = backends.accept().await;
        backend.send(OK).await;
        client.message().await;
        let record = world.records.next().await;
        assert_eq!((&*record.method, &*record.target, &*record.authority), ("GET", "/hidden", "shop"));
        assert_eq!(record.request_headers, [(Box::from("x-asked"), "one".to_owned())]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_with_its_route() {
    local(async {
        let nobody = Filter::Access(dodai_core::snapshot::Access::default());
        let world = World::of(usual(service("shop/catalog/http"), filtered(vec![nobody]))).await;
        let mut client = world.client().await;
        assert_eq!(client.ask(GET).await.status(), 403);
        let record = world.records.next().await;
        assert_eq!(&*record.route, "r");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_record_has_the_headers_of_the_try_that_was_passed_on() {
    local(async {
        let world = World::heeding(Heeds { response_headers: true, ..Heeds::default() });
        world.apply(usual(service("shop/catalog/http"), filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut broken = backends.accept().await;
        broken.answer("HTTP/1.1 200 OK\r\nX-Told: broken\r\nContent-Length: 10\r\n\r\nabc").await;
        drop(broken);
        let whole = "HTTP/1.1 200 OK\r\nX-Told: whole\r\nContent-Length: 0\r\n\r\n";
        backends.accept().await.answer(whole).await;
        assert_eq!(client.message().await.status(), 200);
        let record = world.records.next().await;
        assert_eq!(record.response_headers, [(Box::from("x-told"), "whole".to_owned())]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_documents_say_of_the_access_log_goes_with_the_call() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let mut backend = None;
        let format = |text: &str| Some(AccessLog { format: Some(text.to_owned()), ..AccessLog::default() });
        let of_rule = AccessLog { response_headers: vec!["x-server".to_owned()], ..AccessLog::default() };
        let of_rule = AccessLog { filters: vec!["header:x-lane".to_owned()], ..of_rule };
        for (rule, of_service, expect) in [
            (None, None, None),
            (None, format("text"), Some(Some(Format::Text))),
            (Some(of_rule), format("text"), Some(None)),
            (None, format("json"), Some(Some(Format::Json))),
        ] {
            let mut catalog = service("shop/catalog/http");
            catalog.policy.access_log = of_service;
            let mut routed = filtered(vec![]);
            routed.policy.access_log = rule.clone();
            world.apply(usual(catalog, routed)).await;
            // Which headers are kept is looked up now and then.
            tokio::time::sleep(secs(3)).await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Lane: blue\r\nX-Other: no\r\n\r\n").await;
            if backend.is_none() {
                backend = Some(backends.accept().await);
            }
            let answer = "HTTP/1.1 200 OK\r\nX-Server: one\r\nContent-Length: 0\r\n\r\n";
            backend.as_mut().expect("there is one").answer(answer).await;
            client.message().await;
            let record = world.records.next().await;
            let format = record.logging.as_ref().map(|logging| logging.format.clone());
            assert_eq!(format, expect, "the rule's whole, else the service's");
            let named = |name: &str, value: &str| vec![(Box::from(name), value.to_owned())];
            let headers = if rule.is_some() {
                (named("x-lane", "blue"), named("x-server", "one"))
            } else {
                Default::default()
            };
            assert_eq!((record.request_headers, record.response_headers), headers);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_told_when_it_begins_and_when_it_ends() {
    local(async {
        let world = World::heeding(Heeds { openings: true, ..Heeds::default() });
        let mut db = service("shop/db/tcp");
        db.protocol = Protocol::Tcp;
        let role = Role::Dependency { app: app("shop/front"), service: id("shop/db/tcp") };
        let Resource::Listener(mut tcp) = listener("db", 5432, role) else { unreachable!("it is one") };
        tcp.protocol = Protocol::Tcp;
        let list = endpoints("shop/db/tcp", vec![endpoint(1, "r1")]);
        world.apply(vec![Resource::Listener(tcp), Resource::Service(db), list]).await;
        let mut backends = world.backend(1);
        let mut client = world.client_of(5432).await;
        client.send("hello").await;
        let mut backend = backends.accept().await;
        assert_eq!(backend.text(5).await, "hello");
        let opening = world.records.next().await;
        assert!(opening.is_opening && &*opening.service == "shop/db/tcp", "{opening:?}");
        let told = world.plane.connections(all(), secs(1)).await;
        assert_eq!((told[0].protocol, told[0].received), ("TCP", 5), "it counts while it is under way");
        drop((client, backend));
        let end = world.records.next().await;
        assert!(!end.is_opening && end.received == 5, "{end:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_rule_samples_what_begins_here_and_follows_who_has_decided() {
    local(async {
        // The base itself samples nothing.
        let mut always = filtered(vec![]);
        always.policy.sample_per_ten_thousand = Some(10_000);
        let world = World::of(usual(service("shop/catalog/http"), always)).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let mut backend = None;
        let ids = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
        for (told, expect) in [
            (String::new(), true),
            (format!("traceparent: 00-{ids}-00\r\n"), false),
            (format!("traceparent: 00-{ids}-01\r\n"), true),
            (format!("b3: {ids}-0\r\n"), false),
            (format!("b3: {ids}\r\n"), true),
            ("b3: 0\r\n".to_owned(), false),
            ("X-B3-Sampled: 0\r\n".to_owned(), false),
        ] {
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{told}\r\n")).await;
            if backend.is_none() {
                backend = Some(backends.accept().await);
            }
            let request = backend.as_mut().expect("there is one").answer(OK).await;
            client.message().await;
            let flag = if expect { "-01" } else { "-00" };
            let traceparent = request.header("traceparent").expect("it goes on");
            assert!(traceparent.ends_with(flag), "{told}: {traceparent}");
            if let Some(b3) = request.header("b3") {
                let word = b3.split('-').nth(2).expect("a decision");
                assert_eq!(word, if expect { "1" } else { "0" }, "{told}: {b3}");
                assert_eq!(b3.split('-').next(), traceparent.split('-').nth(1), "one trace in both");
            }
            assert_eq!(world.records.next().await.span.sampled, expect, "{told}");
        }
    })
    .await;
}
