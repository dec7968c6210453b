//! Bounds that are the same for every base: copies for mirrors, checks, bodies that are kept, what others answer.

use std::cell::Cell;
use std::rc::Rc;

use crate::support::*;
use bytes::Bytes;
use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context, Door as _};
use dodai_core::failure::Kind;
use dodai_core::snapshot::*;
use dodai_core::trace::Span;
use dodai_dataplane::limits::{KEPT_BODY, MAX_CHECKS, MAX_MIRRORS};

#[tokio::test(start_paused = true)]
async fn mirrors_are_bounded_and_no_call_waits_for_them() {
    local(async {
        let mirror = Filter::Mirror { to: to("shop/shadow/http"), per_ten_thousand: 10_000 };
        let mut resources = usual(service("shop/catalog/http"), filtered(vec![mirror]));
        resources.push(Resource::Service(service("shop/shadow/http")));
        resources.push(endpoints("shop/shadow/http", vec![endpoint(2, "r1")]));
        let world = World::of(resources).await;
        let (mut backends, mut shadows) = (world.backend(1), world.backend(2));
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        let mut copies = Vec::new();
        for _ in 0..MAX_MIRRORS {
            backend.answer(OK).await;
            assert_eq!(client.message().await.body, "ok");
            copies.push(shadows.accept().await);
            client.send(GET).await;
        }
        backend.answer(OK).await;
        assert_eq!(client.message().await.body, "ok");
        assert!(shadows.is_left_alone().await, "one more is not made");
        let mut done = copies.pop().expect("there are some");
        done.answer(OK).await;
        settle().await;
        client.send(GET).await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.body, "ok");
        done.message().await;
        let large = "x".repeat(KEPT_BODY + 1);
        client
            .send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{large}", large.len()))
            .await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.body, "ok");
        let told = world.plane.table().tallies();
        let told: Vec<_> = told.iter().map(|one| (&*one.rule, one.event.as_str(), one.count)).collect();
        let sent = MAX_MIRRORS as u64 + 1;
        assert_eq!(told, [("r", "mirror_body", 1), ("r", "mirror_busy", 1), ("r", "mirrored", sent)]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn so_many_endpoints_are_asked_at_once_how_they_are() {
    local(async {
        let check = HealthCheck {
            asks: Question::Http { path: "/healthz".into(), host: None, statuses: (200, 299) },
            interval: secs(5),
            timeout: secs(20),
            healthy_after: 1,
            unhealthy_after: 1,
            idle_after: secs(600),
        };
        let catalog = Service {
            health: Health { check: Some(check), ..Health::default() },
            ..service("shop/catalog/http")
        };
        let last = u8::try_from(MAX_CHECKS + 1).expect("few");
        let list = (1..=last).map(|last| endpoint(last, "r1")).collect();
        let mut resources = usual(catalog, filtered(vec![]));
        resources.push(endpoints("shop/catalog/http", list));
        let world = World::of(resources).await;
        let asked = Rc::new(Cell::new(0));
        for last in 1..=last {
            let (mut peers, asked) = (world.backend(last), asked.clone());
            beside(async move {
                loop {
                    let (mut peer, asked) = (peers.accept().await, asked.clone());
                    beside(async move {
                        while let Some(head) = peer.try_head().await {
                            if head.starts_with("GET /healthz") {
                                // It says nothing until it is given up.
                                asked.set(asked.get() + 1);
                            } else {
                                peer.send(OK).await;
                            }
                        }
                    });
                }
            });
        }
        assert_eq!(world.client().await.ask(GET).await.status(), 200);
        tokio::time::sleep(secs(15)).await;
        assert_eq!(asked.get(), MAX_CHECKS);
        tokio::time::sleep(secs(15)).await;
        assert!(asked.get() > MAX_CHECKS, "the others had to wait");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_is_kept_for_another_try_up_to_so_much() {
    local(async {
        for (bytes, is_kept) in [(KEPT_BODY, true), (KEPT_BODY + 1, false)] {
            let world =
                World::of([usual(service("shop/catalog/http"), filtered(vec![])), vec![outbound()]].concat())
                    .await;
            let mut backends = world.backend(1);
            let (head, ()) = http::Request::put("http://catalog/x").body(()).expect("valid").into_parts();
            let context = Context::new(Caller::App(app("shop/front")), Span::root(false));
            let call = Call { head, body: Body::full(Bytes::from(vec![b'x'; bytes])), context };
            let door = world.plane.door();
            let entered = beside(async move { door.enter(call).await });
            let mut first = backends.accept().await;
            assert_eq!(first.message().await.body.len(), bytes);
            drop(first);
            if is_kept {
                assert_eq!(backends.accept().await.answer(OK).await.body.len(), bytes);
            }
            let outcome = entered.await.expect("no panic").map(|reply| reply.head.status.as_u16());
            let expect = if is_kept { Ok(200) } else { Err(Kind::Reset) };
            assert_eq!(outcome.map_err(|failure| failure.kind), expect, "{bytes} bytes");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_an_authorizer_answers_is_read_up_to_so_much() {
    local(async {
        let filter = Filter::Authorizer(Authorizer {
            service: id("shop/authz/http"),
            protocol: AuthorizerProtocol::Http { path_prefix: "/check".into() },
            timeout: secs(1),
            fail_open: false,
            request_headers: vec![],
            call_headers: vec![],
            client_headers: vec![],
        });
        let mut resources = usual(service("shop/catalog/http"), filtered(vec![filter]));
        resources.push(Resource::Service(service("shop/authz/http")));
        resources.push(endpoints("shop/authz/http", vec![endpoint(2, "r1")]));
        let world = World::of(resources).await;
        let mut deciders = world.backend(2);
        for (bytes, expect) in [(64 << 10, (403, "denied")), ((64 << 10) + 1, (503, "authorizer_down"))] {
            let mut client = world.client().await;
            client.send(GET).await;
            let why = "x".repeat(bytes);
            let answer =
                format!("HTTP/1.1 403 No\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n{why}");
            let mut decider = deciders.accept().await;
            decider.message().await;
            decider.try_send(answer).await;
            let answer = client.message().await;
            assert_eq!((answer.status(), answer.header("dodai-failure")), (expect.0, Some(expect.1)));
            assert_eq!(answer.body == why, answer.status() == 403);
        }
    })
    .await;
}
