//! Retries, breakers, limits, refusals, and clients that leave.

use crate::support::*;
use dodai_core::call::Caller;
use dodai_core::snapshot::*;
use dodai_dataplane::local::Way;
use dodai_transport::memory::Faults;
use std::time::Duration;

const POST: &str = "POST /p HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nhi";

fn retry(attempts: u32, statuses: &[u16]) -> RetryPolicy {
    RetryPolicy { attempts, statuses: statuses.to_vec(), ..dodai_dataplane::attempt::default_retry() }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_the_call() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.head().await;
        drop(client);
        backend.ended().await;
        assert_eq!(world.records.next().await.failure.map(|kind| kind.code()), Some("client_gone"));
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await;
        client.head().await;
        drop(client);
        backend.ended().await;
        let mut client = world.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await;
        let mut backend = backends.accept().await;
        backend.head().await;
        drop(client);
        assert_eq!(backend.rest().await, "abc");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_that_was_closed_is_not_used_again() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.answer(OK).await;
        client.message().await;
        drop(backend);
        // Nothing was sent on the closed one, so even a POST just takes another.
        client.send(POST).await;
        let mut backend = backends.accept().await;
        assert_eq!(backend.answer(OK).await.body, "hi");
        assert_eq!(client.message().await.body, "ok");
        // Closed after the request arrived: a GET is sent again, which is no retry,
        client.send(GET).await;
        backend.head().await;
        drop(backend);
        let mut backend = backends.accept().await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.body, "ok");
        // and a POST is not.
        client.send(POST).await;
        backend.message().await;
        drop(backend);
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("stale")));
        assert!(backends.is_left_alone().await);
        let retries: Vec<_> = world.records.take().iter().map(|record| record.retries).collect();
        assert_eq!(retries, [0, 0, 0, 0]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_goes_to_another_endpoint() {
    local(async {
        let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
        resources.push(endpoints("shop/catalog/http", vec![endpoint(1, "r1"), endpoint(2, "r1")]));
        let world = World::of(resources).await;
        let mut good = world.backend(2);
        let mut client = world.client().await;
        for _ in 0..4 {
            client.send(POST).await;
            let mut backend = good.accept().await;
            backend.answer("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
            assert_eq!(client.message().await.status(), 200);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn statuses_are_tried_again_for_idempotent_calls_within_attempts() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        catalog.policy.retry = Some(retry(1, &[503]));
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let busy = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
        client.send(GET).await;
        backends.accept().await.answer(busy).await;
        let mut backend = backends.accept().await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.body, "ok");
        // The last answer is the endpoint's own, whatever it is.
        client.send(GET).await;
        backend.answer(busy).await;
        let mut backend = backends.accept().await;
        backend.answer(busy).await;
        let answer = client.message().await;
        assert_eq!((answer.body.as_str(), answer.header("dodai-failure")), ("busy", None));
        client.send(POST).await;
        backend.answer(busy).await;
        assert_eq!(client.message().await.body, "busy");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn retries_stop_when_the_budget_is_used_up() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        let budget = RetryPolicy { budget_percent: 50, min_per_second: 0, ..retry(5, &[503]) };
        catalog.policy.retry = Some(budget);
        catalog.breaker.consecutive_failures = 0;
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let busy = "HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy";
        let answering = beside(async move {
            let mut seen = 0;
            while seen < 15 {
                backends.accept().await.answer(busy).await;
                seen += 1;
            }
            backends.is_left_alone().await
        });
        let mut client = world.client().await;
        for _ in 0..10 {
            assert_eq!(client.ask(GET).await.body, "busy");
        }
        assert!(answering.await.expect("no panic"), "10 calls earn 5 retries");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_breaker_opens_and_closes() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        catalog.policy.retry = Some(retry(0, &[]));
        catalog.breaker = Breaker { consecutive_failures: 2, refuses: true, ..Breaker::default() };
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let refuse = |refuse| world.net.set_faults(backend_addr(1), Faults { refuse, ..Faults::default() });
        refuse(true);
        let mut client = world.client().await;
        for code in ["connect", "connect", "breaker_open", "breaker_open"] {
            let answer = client.ask(GET).await;
            assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some(code)));
        }
        tokio::time::sleep(secs(6)).await;
        assert_eq!(client.ask(GET).await.header("dodai-failure"), Some("connect"), "one probe");
        assert_eq!(client.ask(GET).await.header("dodai-failure"), Some("breaker_open"));
        refuse(false);
        tokio::time::sleep(secs(6)).await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.head().await;
        let mut other = world.client().await;
        assert_eq!(other.ask(GET).await.header("dodai-failure"), Some("breaker_open"), "while it is probed");
        backend.send(OK).await;
        assert_eq!(client.message().await.body, "ok");
        other.send(GET).await;
        backend.answer(OK).await;
        assert_eq!(other.message().await.body, "ok", "one answer closes it");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_no_success_open_a_breaker_that_counts_them() {
    const ERROR: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 3\r\n\r\nbad";
    const MISSING: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nbad";
    for (counts_answers, then) in [(true, "breaker_open"), (false, "ok")] {
        local(async move {
            let mut catalog = service("shop/catalog/http");
            catalog.policy.retry = Some(retry(0, &[]));
            catalog.breaker =
                Breaker { consecutive_failures: 3, refuses: true, counts_answers, ..Breaker::default() };
            let world = World::of(usual(catalog, filtered(vec![]))).await;
            let mut backends = world.backend(1);
            let answering = beside(async move {
                let mut backend = backends.accept().await;
                for answer in [ERROR, MISSING, OK, ERROR, MISSING, ERROR] {
                    backend.answer(answer).await;
                }
                if !counts_answers {
                    backend.answer(OK).await;
                }
                backend
            });
            let mut client = world.client().await;
            for body in ["bad", "bad", "ok", "bad", "bad", "bad"] {
                assert_eq!(client.ask(GET).await.body, body);
            }
            let last = client.ask(GET).await;
            assert_eq!(last.header("dodai-failure").unwrap_or(&last.body), then, "{last:?}");
            let _backend = answering.await.expect("no panic");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_is_not_taken_away_by_failures_unless_that_was_asked_for() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        catalog.policy.retry = Some(retry(0, &[]));
        catalog.breaker.consecutive_failures = 2;
        let mut resources = usual(catalog, filtered(vec![]));
        let world = World::of(resources.clone()).await;
        let refuse =
            |last, refuse| world.net.set_faults(backend_addr(last), Faults { refuse, ..Faults::default() });
        refuse(1, true);
        let mut client = world.client().await;
        for _ in 0..4 {
            assert_eq!(client.ask(GET).await.header("dodai-failure"), Some("connect"), "it is the only one");
        }
        // With another beside it, it is left alone.
        resources.push(endpoints("shop/catalog/http", vec![endpoint(1, "r1"), endpoint(2, "r1")]));
        world.apply(resources).await;
        let mut good = world.backend(2);
        let answering = beside(async move {
            let mut backend = good.accept().await;
            for _ in 0..4 {
                backend.answer(OK).await;
            }
        });
        for _ in 0..4 {
            assert_eq!(client.ask(GET).await.body, "ok");
        }
        answering.await.expect("no panic");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_an_instance_the_answer_says_why_at_once() {
    local(async {
        let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
        resources.push(endpoints("shop/catalog/http", vec![]));
        let world = World::of(resources.clone()).await;
        let mut client = world.client().await;
        let answer = client.ask(GET).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("no_endpoint")));
        resources.push(endpoints("shop/catalog/http", vec![instance("i-1")]));
        world.apply(resources).await;
        let start = tokio::time::Instant::now();
        let answer = client.ask(GET).await;
        assert!(answer.status() == 503 && answer.body.contains("has not started yet"), "{answer:?}");
        let local = world.plane.locals().get(&dodai_core::id::InstanceId::new("i-1"));
        local.set(Way::Closed("exited with code 3".into()));
        let answer = client.ask(GET).await;
        assert!(answer.body.contains("exited with code 3"), "{answer:?}");
        assert!(start.elapsed() < Duration::from_millis(100));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_queue_for_connections_and_the_queue_has_an_end() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        catalog.policy.retry = Some(retry(0, &[]));
        catalog.breaker.max_connections = 1;
        catalog.breaker.max_pending = 1;
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let (mut a, mut b, mut c) = (world.client().await, world.client().await, world.client().await);
        a.send(GET).await;
        let mut backend = backends.accept().await;
        backend.head().await;
        b.send(GET).await;
        assert!(b.is_quiet().await);
        let answer = c.ask(GET).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("queue_full")));
        backend.send(OK).await;
        assert_eq!(a.message().await.body, "ok");
        backend.answer(OK).await;
        assert_eq!(b.message().await.body, "ok");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_to_a_service_have_a_most() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        catalog.policy.retry = Some(retry(0, &[]));
        catalog.breaker.max_requests = Some(1);
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let (mut a, mut b) = (world.client().await, world.client().await);
        a.send(GET).await;
        let mut backend = backends.accept().await;
        backend.head().await;
        let answer = b.ask(GET).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("queue_full")));
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").await;
        assert_eq!(b.ask(GET).await.status(), 503, "a call is under way until its body ends");
        backend.send("k").await;
        assert_eq!(a.message().await.body, "ok");
        b.send(GET).await;
        backend.answer(OK).await;
        assert_eq!(b.message().await.body, "ok");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bodies_have_a_largest_size() {
    local(async {
        let mut limited = filtered(vec![]);
        limited.policy.max_body = Some(5);
        let world = World::of(usual(service("shop/catalog/http"), limited)).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let answer = client.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabcdef").await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (413, Some("body_too_large")));
        let mut client = world.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        backends.accept().await.head().await;
        client.send("20\r\n01234567890123456789012345678901\r\n").await;
        assert_eq!(client.message().await.status(), 413);
        client.ended().await;
        let mut client = world.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n01234567890123456789012345678901\r\n0\r\n\r\n").await;
        assert_eq!(client.message().await.status(), 413, "also when it came with the head");
        // The sizes of chunks and what else belongs to the coding are no part of it.
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let body = "1;note=long\r\na\r\n4\r\nbcde\r\n0\r\nX-Sum: 1\r\n\r\n";
        let mut client = world.client().await;
        client.send(head).await;
        let mut backend = backends.accept().await;
        client.send(body).await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.status(), 200);
        client.send(&format!("{head}{body}")).await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rates_are_limited() {
    local(async {
        let limit = Filter::RateLimits(vec![RateLimit {
            interval: secs(1),
            burst: 2,
            key: Vec::new(),
            shared: None,
        }]);
        let mut answering = rule(Action::Respond { status: 200, body: String::new() });
        answering.filters = vec![limit];
        let world = World::of(usual(service("shop/catalog/http"), answering)).await;
        let mut client = world.client().await;
        for (status, wait) in [(200, None), (200, None), (429, Some("1"))] {
            let answer = client.ask(GET).await;
            assert_eq!((answer.status(), answer.header("retry-after")), (status, wait));
        }
        let grpc =
            "POST /s/m HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
        let answer = client.ask(grpc).await;
        assert_eq!(["grpc-status", "retry-after"].map(|name| answer.header(name)), [Some("8"), None]);
        tokio::time::sleep(secs(1)).await;
        assert_eq!(client.ask(GET).await.status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_runs_outside_the_mesh_is_guarded_by_the_base_that_calls() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        let front = AccessRule { allow: true, apps: vec![app("shop/front")], ..AccessRule::default() };
        let edits =
            |name: &str| HeaderEdits { set: vec![(name.into(), "yes".into())], ..HeaderEdits::default() };
        catalog.inbound = vec![
            Filter::Access(Access { default_allow: false, rules: vec![front] }),
            Filter::RequestHeaders(edits("x-in")),
            Filter::ResponseHeaders(edits("x-out")),
        ];
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let answer = world.client().await.ask(GET).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (403, Some("denied")));
        let mut client = world.client_of(81).await;
        client.send("GET / HTTP/1.1\r\nHost: catalog.shop\r\n\r\n").await;
        let mut backend = backends.accept().await;
        assert_eq!(backend.answer(OK).await.header("x-in"), Some("yes"));
        assert_eq!(client.message().await.header("x-out"), Some("yes"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_callee_decides_who_may_call() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        let front = AccessRule { allow: true, apps: vec![app("shop/front")], ..AccessRule::default() };
        let admin = AccessRule { allow: false, paths: vec!["/admin/*".into()], ..AccessRule::default() };
        catalog.inbound = vec![Filter::Access(Access { default_allow: false, rules: vec![front, admin] })];
        let mut resources = usual(catalog, filtered(vec![]));
        resources.push(endpoints("shop/catalog/http", vec![instance("i-1")]));
        let role = Role::Dependency { app: app("shop/front"), service: id("shop/catalog/http") };
        resources.push(listener("declared", 90, role));
        let world = World::of(resources).await;
        let local = world.plane.locals().get(&dodai_core::id::InstanceId::new("i-1"));
        let port = dodai_core::id::Name::new("http").expect("valid");
        local.set(Way::Ports(std::sync::Arc::new([(port, backend_addr(1))].into())));
        let mut backends = world.backend(1);
        let answer = world.client().await.ask(GET).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (403, Some("denied")));
        let mut client = world.client_of(81).await;
        assert_eq!(client.ask("GET /admin/x HTTP/1.1\r\nHost: catalog\r\n\r\n").await.status(), 403);
        let mut declared = world.client_of(90).await;
        let answer = declared.ask("GET /admin/x HTTP/1.1\r\nHost: 10.0.0.1:90\r\n\r\n").await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (403, Some("denied")));
        client.send("GET / HTTP/1.1\r\nHost: catalog.shop\r\n\r\n").await;
        let mut backend = backends.accept().await;
        backend.head().await;
        assert_eq!(local.in_flight(), 1);
        backend.send(OK).await;
        assert_eq!(client.message().await.body, "ok");
        settle().await;
        assert_eq!(local.in_flight(), 0);
        let record = world.records.take().pop().expect("recorded");
        assert_eq!(&*record.caller, Caller::App(app("shop/front")).to_string());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_loop_ends() {
    local(async {
        let world = World::plain().await;
        let mut client = world.client().await;
        let answer = client.ask("GET / HTTP/1.1\r\nHost: a\r\ndodai-hops: 16\r\n\r\n").await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (508, Some("loop")));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_limits_of_an_app_outside_count_calls_and_not_their_tries() {
    local(async {
        for h2 in [false, true] {
            for deep in [false, true] {
                let once = RateLimit { interval: secs(600), burst: 2, key: Vec::new(), shared: None };
                let mut catalog = service("shop/catalog/http");
                catalog.inbound = vec![Filter::RateLimits(vec![once])];
                if deep {
                    // It may have to wait, so it is asked another way.
                    let issuers = Vec::new();
                    catalog.inbound.push(Filter::Jwt(Jwt { issuers, optional: true }));
                }
                let retry = dodai_dataplane::attempt::default_retry();
                catalog.policy.retry = Some(RetryPolicy { statuses: vec![503], attempts: 2, ..retry });
                let world = World::of(usual(catalog, filtered(vec![]))).await;
                let mut backends = world.backend(1);
                beside(async move {
                    for status in [503, 503, 200, 200, 200] {
                        let mut backend = backends.accept().await;
                        let answer =
                            format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                        backend.answer(&answer).await;
                    }
                });
                let mut ask = crate::ends::Ask::new(world.client().await, h2).await;
                for expect in [200, 200, 429] {
                    assert_eq!(ask.get("a", "x-none", None).await, expect, "{h2} {deep}");
                }
            }
        }
    })
    .await;
}
