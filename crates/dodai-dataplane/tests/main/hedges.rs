//! Further tries beside one that is slow.

use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use dodai_core::snapshot::*;
use dodai_dataplane::tally::Event;
use tokio::time::Instant;

const SOON: Duration = Duration::from_millis(50);

fn hedge(any_method: bool) -> Hedge {
    Hedge { delay: Some(SOON), attempts: 1, any_method }
}

/// Three instances of one service.
fn three(protocol: Protocol, hedge: Hedge) -> Vec<Resource> {
    let mut catalog = service("shop/catalog/http");
    catalog.protocol = protocol;
    catalog.policy.hedge = Some(hedge);
    let mut resources = usual(catalog, filtered(vec![]));
    let list = (1..=3).map(|last| endpoint(last, "r1")).collect();
    resources.push(endpoints("shop/catalog/http", list));
    resources
}

/// The next two connections to any of three backends, in the order they came.
struct Three([Peers; 3]);

impl Three {
    fn of(world: &World) -> Three {
        Three([1, 2, 3].map(|last| world.backend(last)))
    }

    async fn accept(&mut self) -> Peer {
        let [a, b, c] = &mut self.0;
        tokio::select! {
            peer = a.accept() => peer,
            peer = b.accept() => peer,
            peer = c.accept() => peer,
        }
    }

    async fn is_left_alone(&mut self) -> bool {
        tokio::time::timeout(secs(1), self.accept()).await.is_err()
    }
}

fn count(world: &World, event: Event) -> u64 {
    world.plane.table().tallies().iter().find(|one| one.event == event).map_or(0, |one| one.count)
}

#[tokio::test(start_paused = true)]
async fn the_first_good_answer_wins_and_the_other_try_is_cut() {
    local(async {
        let world = World::of(three(Protocol::Http, hedge(false))).await;
        let mut backends = Three::of(&world);
        let mut client = world.client().await;
        let start = Instant::now();
        client.send(GET).await;
        let mut slow = backends.accept().await;
        assert!(slow.head().await.starts_with("GET /a?q=1"));
        let mut quick = backends.accept().await;
        assert!(start.elapsed() >= SOON && start.elapsed() < SOON * 2, "{:?}", start.elapsed());
        quick.answer(OK).await;
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.body.as_str()), (200, "ok"));
        slow.ended().await;
        assert_eq!((count(&world, Event::Hedged), count(&world, Event::HedgeWon)), (1, 1));
        // It is no retry, and the connection serves on.
        assert_eq!(world.records.next().await.retries, 0);
        client.send(GET).await;
        let mut next = tokio::select! {
            peer = backends.accept() => peer,
            _ = quick.message() => quick,
        };
        next.send(OK).await;
        assert_eq!(client.message().await.status(), 200);
        assert_eq!(count(&world, Event::Hedged), 1, "a quick answer needs no second try");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_first_try_may_still_win_and_a_bad_answer_waits_for_the_other() {
    local(async {
        let world = World::of(three(Protocol::Http, hedge(false))).await;
        let mut backends = Three::of(&world);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut first = backends.accept().await;
        let mut second = backends.accept().await;
        second.answer("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n").await;
        assert!(client.is_quiet().await, "the other try may do better");
        first.answer(OK).await;
        assert_eq!(client.message().await.status(), 200);
        assert_eq!((count(&world, Event::Hedged), count(&world, Event::HedgeWon)), (1, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_made_twice_is_not() {
    local(async {
        let world = World::of(three(Protocol::Http, hedge(false))).await;
        let mut backends = Three::of(&world);
        let mut client = world.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
        let mut only = backends.accept().await;
        only.message().await;
        assert!(backends.is_left_alone().await);
        only.send(OK).await;
        assert_eq!(client.message().await.status(), 200);
        // The policy may know better; the body goes twice, if it is here whole.
        let world = World::of(three(Protocol::Http, hedge(true))).await;
        let mut backends = Three::of(&world);
        let mut client = world.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nhi").await;
        let mut slow = backends.accept().await;
        slow.head().await;
        assert!(backends.is_left_alone().await, "half a body is not sent twice");
        client.send("ho").await;
        let mut quick = backends.accept().await;
        assert_eq!(quick.answer(OK).await.body, "hiho");
        assert_eq!(client.message().await.status(), 200);
        assert_eq!(slow.text(4).await, "hiho");
        slow.ended().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_budget_of_retries_bounds_them() {
    local(async {
        let mut resources = three(Protocol::Http, hedge(false));
        let Some(Resource::Service(catalog)) =
            resources.iter_mut().find(|one| matches!(one, Resource::Service(_)))
        else {
            panic!("there is a service")
        };
        let retry = dodai_dataplane::attempt::default_retry();
        catalog.policy.retry = Some(RetryPolicy { budget_percent: 50, min_per_second: 0, ..retry });
        let world = World::of(resources).await;
        let mut backends = Three::of(&world);
        let mut made = 0;
        for _ in 0..4 {
            let mut client = world.client().await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            let mut held = Vec::new();
            while let Ok(mut peer) = tokio::time::timeout(secs(1), backends.accept()).await {
                peer.head().await;
                held.push(peer);
            }
            made += held.len() - 1;
            held[0].send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
            assert_eq!(client.message().await.status(), 200);
        }
        assert_eq!(made, 2, "half of the calls");
        assert_eq!(count(&world, Event::Hedged), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn with_one_instance_nothing_is_doubled() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        catalog.policy.hedge = Some(hedge(false));
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut only = backends.accept().await;
        only.message().await;
        assert!(backends.is_left_alone().await);
        only.send(OK).await;
        assert_eq!(client.message().await.status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn grpc_is_hedged_where_the_policy_says_that_it_may_be() {
    local(Box::pin(async {
        let world = World::of(three(Protocol::Grpc, hedge(true))).await;
        let mut backends = Three::of(&world);
        let (sender, connection) = h2::client::handshake(world.client().await.stream).await.expect("shaken");
        beside(connection);
        let mut sender = sender.ready().await.expect("ready");
        let request = http::Request::post("http://shop/a.B/C")
            .header("content-type", "application/grpc")
            .body(())
            .expect("valid");
        let (answer, mut up) = sender.send_request(request, false).expect("sent");
        up.send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), true).expect("open");
        let (first, second) = (backends.accept().await, backends.accept().await);
        let mut slow = h2::server::handshake(first.stream).await.expect("shaken");
        let (_request, mut unanswered) = slow.accept().await.expect("a call").expect("whole");
        let cut = beside(async move {
            beside(async move { while slow.accept().await.is_some() {} });
            std::future::poll_fn(|cx| unanswered.poll_reset(cx)).await
        });
        let mut quick = h2::server::handshake(second.stream).await.expect("shaken");
        let (request, mut respond) = quick.accept().await.expect("a call").expect("whole");
        beside(async move { while quick.accept().await.is_some() {} });
        let mut body = request.into_body();
        assert_eq!(body.data().await.expect("more").expect("whole"), &b"\0\0\0\0\x02hi"[..]);
        let head =
            http::Response::builder().header("content-type", "application/grpc").body(()).expect("valid");
        let mut out = respond.send_response(head, false).expect("open");
        let status = http::HeaderName::from_static("grpc-status");
        out.send_trailers(http::HeaderMap::from_iter([(status, "0".parse().expect("valid"))])).expect("open");
        let answer = answer.await.expect("answered");
        assert_eq!(answer.status(), 200);
        assert_eq!(cut.await.expect("no panic").expect("reset"), h2::Reason::CANCEL);
        assert_eq!(count(&world, Event::HedgeWon), 1);
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn failures_teach_nothing_of_how_long_answers_take() {
    local(async {
        let found = Hedge { delay: None, ..hedge(false) };
        let world = World::of(three(Protocol::Http, found)).await;
        let mut client = world.client().await;
        for _ in 0..30 {
            assert_eq!(client.ask(GET).await.status(), 503, "nobody is there");
        }
        let mut backends = Three::of(&world);
        client.send(GET).await;
        let mut only = backends.accept().await;
        only.head().await;
        assert!(backends.is_left_alone().await, "what is slow is not known yet");
        only.send(OK).await;
        assert_eq!(client.message().await.status(), 200);
        assert_eq!(count(&world, Event::Hedged), 0);
    })
    .await;
}
