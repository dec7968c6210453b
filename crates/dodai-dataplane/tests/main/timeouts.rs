//! Slow peers: every waiting has an end.

use crate::support::*;
use dodai_core::snapshot::*;
use dodai_dataplane::limits::Limits;
use dodai_transport::memory::Faults;
use tokio::time::Instant;

/// Asserts that about `expect` has passed since `start`.
fn took(start: Instant, expect: u64) {
    let took = start.elapsed();
    assert!(took >= secs(expect) && took < secs(expect + 1), "took {took:?}, not {expect} s");
}

#[tokio::test(start_paused = true)]
async fn a_client_must_finish_its_head_however_it_trickles() {
    local(async {
        let world = World::plain().await;
        let mut client = world.client().await;
        let start = Instant::now();
        client.send("GET / HTTP/1.1\r\nX: ").await;
        for _ in 0..14 {
            tokio::time::sleep(secs(1)).await;
            client.send("T").await;
        }
        assert_eq!(client.message().await.status(), 408);
        took(start, 15);
        client.ended().await;
        let mut silent = world.client().await;
        let start = Instant::now();
        silent.ended().await;
        took(start, 15);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn kept_connections_end_when_idle() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.answer(OK).await;
        client.message().await;
        let start = Instant::now();
        backend.ended().await;
        let idle = start.elapsed();
        assert!(idle >= secs(30) && idle < secs(32), "{idle:?}");
        client.ended().await;
        took(start, 75);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_later_head_has_its_own_deadline() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        backends.accept().await.answer(OK).await;
        client.message().await;
        tokio::time::sleep(secs(60)).await;
        let start = Instant::now();
        client.send("GET").await;
        assert_eq!(client.message().await.status(), 408);
        took(start, 15);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_must_accept_and_answer_in_time() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        let none = RetryPolicy { attempts: 0, ..dodai_dataplane::attempt::default_retry() };
        catalog.policy.retry = Some(none);
        let world = World::of(usual(catalog.clone(), filtered(vec![]))).await;
        let mut backends = world.backend(1);
        world.net.set_faults(backend_addr(1), Faults { connect_delay: secs(100), ..Faults::default() });
        let mut client = world.client().await;
        let start = Instant::now();
        let answer = client.ask(GET).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("connect")));
        took(start, 5);
        let mut quick = filtered(vec![]);
        for (of_service, of_rule, expect) in [(Some(2), None, 2), (Some(2), Some(1), 1)] {
            catalog.policy.connect_timeout = of_service.map(secs);
            quick.policy.connect_timeout = of_rule.map(secs);
            world.apply(usual(catalog.clone(), quick.clone())).await;
            let start = Instant::now();
            assert_eq!(client.ask(GET).await.status(), 503);
            took(start, expect);
        }
        catalog.policy.connect_timeout = None;
        world.apply(usual(catalog.clone(), filtered(vec![]))).await;
        world.net.set_faults(backend_addr(1), Faults::default());
        let start = Instant::now();
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.head().await;
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (504, Some("timeout")));
        took(start, 60);
        backend.ended().await;
        catalog.policy.timeout = Some(secs(3));
        world.apply(usual(catalog, filtered(vec![]))).await;
        let start = Instant::now();
        assert_eq!(client.ask(GET).await.status(), 504);
        took(start, 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bodies_may_not_stand_still() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nabc").await;
        client.head().await;
        let start = Instant::now();
        assert_eq!(client.rest().await, "abc");
        took(start, 60);
        assert_eq!(world.records.next().await.failure.map(|kind| kind.code()), Some("idle"));
        let mut client = world.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await;
        let mut backend = backends.accept().await;
        backend.head().await;
        let start = Instant::now();
        let answer = client.message().await;
        assert!([408, 504].contains(&answer.status()), "{answer:?}");
        took(start, 60);
        assert_eq!(backend.rest().await, "abc");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_given_up_on() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.head().await;
        let start = Instant::now();
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n").await;
        while backend.try_send(vec![0u8; 10_000]).await {}
        took(start, 60);
        drop(client);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn after_our_close_the_client_has_a_moment() {
    local(async {
        let world = World::plain().await;
        let mut client = world.client().await;
        client.send("nonsense\r\n\r\n").await;
        assert_eq!(client.message().await.status(), 400);
        client.ended().await;
        let start = Instant::now();
        // It goes on sending; after the lingering nobody reads it.
        while client.try_send(vec![0u8; 1000]).await {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert!(start.elapsed() >= secs(2) && start.elapsed() < secs(3), "{:?}", start.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn more_clients_than_allowed_wait() {
    local(async {
        let limits = Limits { client_connections: 1, ..Limits::default() };
        let world = World::with(
            limits,
            usual(service("shop/catalog/http"), rule(Action::Respond { status: 200, body: "x".into() })),
        )
        .await;
        let mut first = world.client().await;
        assert_eq!(first.ask(GET).await.status(), 200);
        let mut second = world.client().await;
        second.send(GET).await;
        assert!(second.is_quiet().await);
        drop(first);
        assert_eq!(second.message().await.status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_try_that_ends_in_its_own_time_is_followed_by_another() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        let twice = RetryPolicy { attempts: 1, ..dodai_dataplane::attempt::default_retry() };
        catalog.policy = CallPolicy {
            timeout: Some(secs(10)),
            try_timeout: Some(secs(2)),
            retry: Some(RetryPolicy { backoff: secs(1), constant: true, ..twice }),
            ..CallPolicy::default()
        };
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let start = Instant::now();
        client.send(GET).await;
        let mut silent = backends.accept().await;
        silent.head().await;
        let mut second = backends.accept().await;
        took(start, 3);
        second.answer(OK).await;
        assert_eq!(client.message().await.status(), 200);
        client.send("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n").await;
        let start = Instant::now();
        second.head().await;
        let answer = client.message().await;
        assert_eq!(
            (answer.status(), answer.header("dodai-failure")),
            (504, Some("timeout")),
            "it may have acted"
        );
        took(start, 2);
    })
    .await;
}
