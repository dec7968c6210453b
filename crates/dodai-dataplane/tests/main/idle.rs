//! Endpoints that close kept connections after an idle time of their own: no call may notice.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::support::*;
use dodai_core::snapshot::*;

/// What a server saw.
#[derive(Default)]
struct Seen {
    connections: Cell<u32>,
    calls: Cell<u32>,
}

/// Backend 1, which answers calls and closes a connection exactly `idle` after it answered.
fn closing_after(world: &World, idle: Duration) -> Rc<Seen> {
    let mut peers = world.backend(1);
    let seen = Rc::new(Seen::default());
    let counted = seen.clone();
    beside(async move {
        loop {
            let mut peer = peers.accept().await;
            counted.connections.set(counted.connections.get() + 1);
            let counted = counted.clone();
            beside(async move {
                while let Ok(Some(head)) = tokio::time::timeout(idle, peer.try_head()).await {
                    if head.starts_with("POST") {
                        peer.text(4).await;
                    }
                    counted.calls.set(counted.calls.get() + 1);
                    if !peer.try_send(OK).await {
                        return;
                    }
                }
            });
        }
    });
    seen
}

pub fn without_retries() -> Service {
    let retry = RetryPolicy {
        attempts: 0,
        statuses: vec![],
        on: None,
        backoff: Duration::from_millis(1),
        constant: true,
        max_backoff: None,
        budget_percent: 0,
        min_per_second: 0,
    };
    Service {
        policy: CallPolicy { retry: Some(retry), ..CallPolicy::default() },
        ..service("shop/catalog/http")
    }
}

const POST: &str = "POST /a HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 4\r\n\r\nbody";

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_at_its_idle_timeout_fails_no_call() {
    local(async {
        for idle in [secs(2), secs(5)] {
            let world = World::of(usual(without_retries(), filtered(vec![]))).await;
            let seen = closing_after(&world, idle);
            let mut client = world.client().await;
            let mut asked = 0;
            // At that very moment, around it, and in between.
            let offsets: [i64; 9] = [0, -1, 1, 0, -50, 50, 0, -400, 0];
            for round in 0..12 {
                for offset in offsets {
                    let call = if (round + asked) % 3 == 0 { POST } else { GET };
                    let answer = client.ask(call).await;
                    asked += 1;
                    assert_eq!(
                        answer.status(),
                        200,
                        "call {asked}, {offset} ms beside {idle:?}: {}",
                        answer.body
                    );
                    let wait = i64::try_from(idle.as_millis()).expect("short") + offset;
                    tokio::time::sleep(Duration::from_millis(u64::try_from(wait).expect("positive"))).await;
                }
            }
            assert_eq!(seen.calls.get(), asked, "every call was made once");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_are_kept_below_what_was_learnt() {
    local(async {
        let world = World::of(usual(without_retries(), filtered(vec![]))).await;
        let seen = closing_after(&world, secs(5));
        let mut client = world.client().await;
        // Two connections show how long the server waits.
        for _ in 0..2 {
            assert_eq!(client.ask(GET).await.status(), 200);
            tokio::time::sleep(secs(7)).await;
        }
        assert_eq!(client.ask(GET).await.status(), 200);
        let before = seen.connections.get();
        for _ in 0..20 {
            tokio::time::sleep(secs(3)).await;
            assert_eq!(client.ask(GET).await.status(), 200);
        }
        assert_eq!(seen.connections.get(), before, "well below its timeout one connection serves all");
        tokio::time::sleep(Duration::from_millis(4_900)).await;
        assert_eq!(client.ask(GET).await.status(), 200);
        assert_eq!(seen.connections.get(), before + 1, "too near its timeout a new one is made");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_be_repeated_goes_where_it_is_safe() {
    local(async {
        let world = World::of(usual(without_retries(), filtered(vec![]))).await;
        let seen = closing_after(&world, secs(60));
        let mut client = world.client().await;
        assert_eq!(client.ask(POST).await.status(), 200);
        assert_eq!(client.ask(POST).await.status(), 200);
        assert_eq!(seen.connections.get(), 1, "at once, the same will do");
        tokio::time::sleep(secs(10)).await;
        assert_eq!(client.ask(POST).await.status(), 200);
        assert_eq!(seen.connections.get(), 2, "nothing says that it is still open");
        tokio::time::sleep(secs(10)).await;
        assert_eq!(client.ask(GET).await.status(), 200);
        tokio::time::sleep(secs(10)).await;
        assert_eq!(client.ask(POST).await.status(), 200);
        assert_eq!(seen.connections.get(), 2, "one of that age served a call");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_connection_is_forgiven_once() {
    local(async {
        let world = World::of(usual(without_retries(), filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.answer(OK).await;
        client.message().await;
        client.send(GET).await;
        backend.head().await;
        drop(backend);
        // The second try gets a new connection, and what that does counts.
        let mut second = backends.accept().await;
        second.head().await;
        drop(second);
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (502, Some("reset")));
        assert!(backends.is_left_alone().await);
        let record = world.records.take().pop().expect("a record");
        assert_eq!(record.retries, 0);
    })
    .await;
}
