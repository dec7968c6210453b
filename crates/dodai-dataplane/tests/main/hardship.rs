//! What a base must live through: clients that grant nothing, floods, names that cannot be resolved, tables that change
//! all the time.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use dodai_core::failure::Kind;
use dodai_core::snapshot::*;
use dodai_dataplane::limits::Limits;
use h2::client::SendRequest;
use http::{Request, StatusCode};
use tokio::time::Instant;

fn over_h2() -> Vec<Resource> {
    usual(Service { protocol: Protocol::Http2, ..service("shop/catalog/http") }, filtered(vec![]))
}

/// A client that lets `window` bytes of each answer come.
async fn client(world: &World, window: u32) -> SendRequest<Bytes> {
    let stream = world.client().await.stream;
    let mut builder = h2::client::Builder::new();
    let (sender, connection) = builder.initial_window_size(window).handshake(stream).await.expect("shaken");
    beside(async move {
        let _ended = connection.await;
    });
    settle().await;
    sender.ready().await.expect("ready")
}

fn get() -> Request<()> {
    Request::get("http://shop/a").body(()).expect("valid")
}

/// An endpoint that answers every call over HTTP/2 with `size` bytes.
fn endless(mut peers: Peers, size: usize) {
    beside(async move {
        loop {
            let stream = peers.accept().await.stream;
            beside(async move {
                let mut connection = h2::server::handshake(stream).await.expect("shaken");
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut body = respond.send_response(http::Response::new(()), false).expect("open");
                    body.send_data(vec![b'x'; size].into(), true).expect("open");
                }
            });
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_client_that_grants_no_window_is_given_up_on() {
    local(async {
        for resources in [over_h2(), usual(service("shop/catalog/http"), filtered(vec![]))] {
            let relayed =
                matches!(&resources[3], Resource::Service(service) if service.protocol == Protocol::Http2);
            let world = World::of(resources).await;
            let mut backends = world.backend(1);
            if relayed {
                endless(backends, 100_000);
            } else {
                beside(async move {
                    let mut backend = backends.accept().await;
                    backend.message().await;
                    let body = "x".repeat(100_000);
                    backend
                        .try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{body}"))
                        .await;
                    std::future::pending::<()>().await;
                });
            }
            let mut sender = client(&world, 0).await;
            let start = Instant::now();
            let (response, _) = sender.send_request(get(), true).expect("sent");
            let mut body = response.await.expect("a head").into_body();
            let cut = body.data().await.expect("an end").expect_err("it is not whole");
            assert_eq!(cut.reason(), Some(h2::Reason::CANCEL), "{cut}");
            assert!(start.elapsed() >= secs(60) && start.elapsed() < secs(62), "{:?}", start.elapsed());
            let record = world.records.next().await;
            assert!(matches!(record.failure, Some(Kind::Idle | Kind::ClientGone)), "{:?}", record.failure);
            poll_fn(|cx| sender.poll_ready(cx)).await.expect("the connection lives");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_connections_come_and_go() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        beside(async move {
            let mut backend = backends.accept().await;
            loop {
                backend.answer(OK).await;
            }
        });
        for round in 0..100 {
            let mut crowd = Vec::new();
            for number in 0..100 {
                let mut client = world.client().await;
                // Some say nothing, some half a head, some begin HTTP/2.
                match number % 3 {
                    0 => {}
                    1 => client.send("GET / HTTP/1.1\r\nHost: a\r\n").await,
                    _ => client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await,
                }
                crowd.push(client);
            }
            settle().await;
            drop(crowd);
            if round % 10 == 0 {
                assert_eq!(world.client().await.ask(GET).await.body, "ok");
            }
        }
        // Gauges are read once a second.
        tokio::time::sleep(secs(2)).await;
        assert_eq!(world.plane.gauges().clients, 0);
        assert_eq!(world.client().await.ask(GET).await.body, "ok");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_cannot_be_resolved_is_tried_again_later() {
    local(async {
        let mut named = endpoint(1, "r1");
        named.target = Target::Address("catalog.example:8000".to_owned());
        let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
        resources.push(endpoints("shop/catalog/http", vec![named]));
        let world = World::of(resources).await;
        let mut backends = world.backend(1);
        let answer = world.client().await.ask(GET).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("connect")), "{answer:?}");
        assert!(answer.body.contains("catalog.example"), "{}", answer.body);
        world.net.name("catalog.example", &[[10, 0, 1, 1].into()]);
        beside(async move {
            backends.accept().await.answer(OK).await;
        });
        tokio::time::sleep(secs(10)).await;
        assert_eq!(world.client().await.ask(GET).await.body, "ok");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_name_server_that_says_nothing_costs_a_call_its_time_to_connect() {
    local(async {
        for each_address in [false, true] {
            let mut named = endpoint(1, "r1");
            named.target = Target::Address("catalog.example:8000".to_owned());
            named.each_address = each_address;
            let world = World::bare(Limits::default());
            world.net.silence("catalog.example");
            let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
            resources.push(endpoints("shop/catalog/http", vec![named]));
            world.apply(resources).await;
            let (mut backends, start) = (world.backend(1), Instant::now());
            let answer = world.client().await.ask(GET).await;
            assert_eq!(answer.status(), 503, "{answer:?}");
            assert!(start.elapsed() < secs(20), "{:?}", start.elapsed());
            // It answers at last, and nothing of its silence is left.
            world.net.name("catalog.example", &[[10, 0, 1, 1].into()]);
            beside(async move {
                backends.accept().await.answer(OK).await;
            });
            tokio::time::sleep(secs(60)).await;
            assert_eq!(world.client().await.ask(GET).await.body, "ok");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_head_over_http2_that_never_ends_is_given_up_on() {
    local(async {
        let world = World::plain().await;
        let mut client = world.client().await;
        let start = Instant::now();
        // A HEADERS frame of 100 bytes on stream 1, of which one byte comes each second.
        client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        client.send(b"\0\0\0\x04\0\0\0\0\0\0\0\x64\x01\x04\0\0\0\x01").await;
        for _ in 0..99 {
            tokio::time::sleep(secs(1)).await;
            if !client.try_send(b"\0").await {
                break;
            }
        }
        assert!(start.elapsed() <= secs(80), "{:?}", start.elapsed());
        assert_eq!(world.plane.gauges().clients, 0);
        // And one that stops within the preface, or before its settings.
        for said in ["PRI * HTTP/2.0\r\n\r\nSM", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"] {
            let (mut client, start) = (world.client().await, Instant::now());
            client.send(said).await;
            client.rest_bytes().await;
            assert!(start.elapsed() >= secs(15) && start.elapsed() < secs(17), "{:?}", start.elapsed());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn tables_change_a_hundred_times_a_second_under_streams() {
    local(async {
        let world = World::of(over_h2()).await;
        for last in [1, 2] {
            endless(world.backend(last), 3000);
        }
        let mut loads = Vec::new();
        for _ in 0..4 {
            let mut sender = client(&world, 65_535).await;
            loads.push(beside(async move {
                for _ in 0..300 {
                    sender = sender.ready().await.expect("ready");
                    let (response, _) = sender.send_request(get(), true).expect("sent");
                    let response = response.await.expect("answered");
                    assert_eq!(response.status(), StatusCode::OK);
                    let (mut body, mut size) = (response.into_body(), 0);
                    while let Some(data) = body.data().await {
                        let data = data.expect("whole");
                        size += data.len();
                        body.flow_control().release_capacity(data.len()).expect("open");
                    }
                    assert_eq!(size, 3000);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }));
        }
        let mut tables = Vec::new();
        for round in 0..300u32 {
            let mut resources = over_h2();
            resources.push(endpoints("shop/catalog/http", vec![endpoint(1 + (round % 2) as u8, "r1")]));
            world.apply(resources).await;
            tables.push(Arc::downgrade(&world.plane.table()));
            tokio::time::sleep(Duration::from_millis(9)).await;
        }
        for load in loads {
            load.await.expect("every call was answered");
        }
        assert_eq!(world.records.take().iter().filter(|record| record.status != 200).count(), 0);
        // Nothing holds on to what is no longer in force.
        tokio::time::sleep(secs(2)).await;
        let held = tables.iter().filter(|table| table.strong_count() > 0).count();
        assert!(held <= 1, "{held} tables of {} are still there", tables.len());
    })
    .await;
}
