//! Faults made on purpose, and conditions of retries.

use std::time::Duration;

use crate::support::*;
use dodai_core::snapshot::*;
use dodai_dataplane::attempt::default_retry;
use dodai_dataplane::tally::Event;
use http::Request;
use tokio::time::Instant;

const ALL: u16 = 10_000;

/// The fault at the gateway's rule, or at the service itself.
fn broken(fault: &Fault, of_service: bool) -> Vec<Resource> {
    let filter = Filter::Fault(fault.clone());
    let mut catalog = service("shop/catalog/http");
    if of_service {
        catalog.inbound = vec![filter];
        return usual(catalog, filtered(vec![]));
    }
    usual(catalog, filtered(vec![filter]))
}

#[tokio::test(start_paused = true)]
async fn calls_are_held_back_and_answered() {
    local(async {
        for of_service in [false, true] {
            let delay = Fault { delay: Some((secs(3), ALL)), ..Fault::default() };
            let world = World::of(broken(&delay, of_service)).await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            let start = Instant::now();
            client.send(GET).await;
            backends.accept().await.answer(OK).await;
            assert_eq!(client.message().await.status(), 200);
            assert!(start.elapsed() >= secs(3) && start.elapsed() < secs(4), "{:?}", start.elapsed());
            let abort = Fault { abort: Some((FaultAbort::Http(418), ALL)), ..Fault::default() };
            world.apply(broken(&abort, of_service)).await;
            let answer = client.ask(GET).await;
            assert_eq!((answer.status(), answer.header("dodai-failure")), (418, Some("fault_injected")));
            let told = world.plane.table().tallies();
            assert!(told.iter().any(|one| one.event == Event::FaultAborted && one.count == 1), "{told:?}");
            // The connection goes on.
            world.apply(broken(&Fault::default(), of_service)).await;
            client.send(GET).await;
            backends.accept().await.answer(OK).await;
            assert_eq!(client.message().await.status(), 200);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_delay_counts_against_the_timeout() {
    local(async {
        let fault = Fault { delay: Some((secs(30), ALL)), ..Fault::default() };
        let mut rule = filtered(vec![Filter::Fault(fault)]);
        rule.policy.timeout = Some(secs(2));
        let world = World::of(usual(service("shop/catalog/http"), rule)).await;
        let start = Instant::now();
        let answer = world.client().await.ask(GET).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (504, Some("timeout")));
        assert!(start.elapsed() < secs(3));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_are_cut_and_answers_come_slowly() {
    local(async {
        let cut = Fault { reset: Some(ALL), ..Fault::default() };
        let world = World::of(broken(&cut, false)).await;
        let mut client = world.client().await;
        client.send(GET).await;
        client.ended().await;
        assert_eq!(world.records.next().await.failure.map(|kind| kind.code()), Some("fault_injected"));
        let (sender, connection) = h2::client::handshake(world.client().await.stream).await.expect("shaken");
        beside(connection);
        let mut sender = sender.ready().await.expect("ready");
        let request = || Request::get("http://shop/b").body(()).expect("valid");
        let (answer, _) = sender.send_request(request(), true).expect("sent");
        let whole = async { answer.await.ok()?.into_body().data().await?.ok() };
        assert_eq!(whole.await, None, "the stream was reset");
        let slow = Fault { throttle: Some((1000, ALL)), ..Fault::default() };
        world.apply(broken(&slow, false)).await;
        let mut backends = world.backend(1);
        let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{}", "x".repeat(5000));
        let mut client = world.client().await;
        let start = Instant::now();
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.answer(&long).await;
        assert_eq!(client.message().await.body.len(), 5000);
        assert!(start.elapsed() >= Duration::from_millis(4900) && start.elapsed() < secs(6));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_calls_with_the_headers_are_harmed() {
    local(async {
        let value = ValuePattern::Exact("yes".into());
        let headers = vec![ValueMatch { name: "x-chaos".into(), value }];
        let fault = Fault { abort: Some((FaultAbort::Grpc(8), ALL)), headers, ..Fault::default() };
        let world = World::of(broken(&fault, false)).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        backends.accept().await.answer(OK).await;
        assert_eq!(client.message().await.status(), 200);
        let harmed = "GET / HTTP/1.1\r\nHost: a\r\nX-Chaos: yes\r\n\r\n";
        assert_eq!(client.ask(harmed).await.status(), 503);
        let grpc = harmed.replace("X-Chaos", "Content-Type: application/grpc\r\nX-Chaos");
        let answer = client.ask(&grpc).await;
        assert_eq!((answer.status(), answer.header("grpc-status")), (200, Some("8")));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_what_is_named_is_tried_again() {
    local(async {
        let check = async |on: Vec<RetryOn>, status: u16, again: bool| {
            let mut catalog = service("shop/catalog/http");
            let retry =
                RetryPolicy { attempts: 1, statuses: vec![429], on: Some(on.clone()), ..default_retry() };
            catalog.policy.retry = Some(retry);
            let world = World::of(usual(catalog, filtered(vec![]))).await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            client.send(GET).await;
            let failed = format!("HTTP/1.1 {status} No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            backends.accept().await.answer(&failed).await;
            if again {
                backends.accept().await.answer(OK).await;
            }
            let expect = if again { 200 } else { status };
            assert_eq!(client.message().await.status(), expect, "{on:?} {status}");
        };
        check(vec![RetryOn::GatewayError], 503, true).await;
        check(vec![RetryOn::GatewayError], 500, false).await;
        check(vec![RetryOn::ServerError], 500, true).await;
        check(vec![RetryOn::ServerError], 429, false).await;
        check(vec![RetryOn::Statuses], 429, true).await;
        check(vec![RetryOn::ConnectFailure], 503, false).await;
        // A connection that breaks is tried again only where that is named.
        for (on, expect) in [(RetryOn::Reset, 200), (RetryOn::ConnectFailure, 502)] {
            let mut catalog = service("shop/catalog/http");
            catalog.policy.retry = Some(RetryPolicy { attempts: 1, on: Some(vec![on]), ..default_retry() });
            let world = World::of(usual(catalog, filtered(vec![]))).await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            client.send(GET).await;
            backends.accept().await.head().await;
            if expect == 200 {
                backends.accept().await.answer(OK).await;
            }
            assert_eq!(client.message().await.status(), expect, "{on:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn statuses_of_grpc_are_tried_again_where_they_are_named() {
    local(async {
        for (on, tries) in [(vec![RetryOn::Grpc(14)], 2), (vec![RetryOn::Grpc(8)], 1)] {
            let mut catalog = Service { protocol: Protocol::Grpc, ..service("shop/catalog/http") };
            catalog.policy.retry = Some(RetryPolicy { attempts: 1, on: Some(on), ..default_retry() });
            let world = World::of(usual(catalog, filtered(vec![]))).await;
            let mut backends = world.backend(1);
            let (sender, connection) =
                h2::client::handshake(world.client().await.stream).await.expect("shaken");
            beside(connection);
            let mut sender = sender.ready().await.expect("ready");
            let request = Request::post("http://shop/S/M").header("content-type", "application/grpc");
            let (answer, _) = sender.send_request(request.body(()).expect("valid"), true).expect("sent");
            let mut server = h2::server::handshake(backends.accept().await.stream).await.expect("shaken");
            let served = beside(async move {
                for round in 1..=tries {
                    let (_, mut respond) = server.accept().await.expect("a stream").expect("no error");
                    let status = if round == 2 { "0" } else { "14" };
                    let head =
                        http::Response::builder().header("grpc-status", status).body(()).expect("valid");
                    respond.send_response(head, true).expect("open");
                }
                while let Some(Ok(_)) = server.accept().await {}
            });
            let status = answer.await.expect("answered").headers()["grpc-status"].clone();
            assert_eq!(status, if tries == 2 { "0" } else { "14" });
            served.abort();
        }
    })
    .await;
}
