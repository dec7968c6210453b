//! Connections that are too old take no further call, and none is lost.

use crate::support::*;
use bytes::Bytes;
use dodai_core::snapshot::*;
use h2::client::SendRequest;
use h2::server::SendResponse;
use tokio::time::sleep;

const CLOSE: Option<&str> = Some("close");

/// A catalog to which connections get about a hundred seconds old.
async fn world(protocol: Protocol) -> World {
    let breaker = Breaker { max_connection_age: Some(secs(100)), ..Breaker::default() };
    let catalog = Service { protocol, breaker, ..service("shop/catalog/http") };
    World::of(usual(catalog, filtered(vec![]))).await
}

/// A gateway whose clients' connections get as old, and which answers by itself.
async fn gate() -> World {
    let Resource::Listener(mut listener) = gateway() else { panic!("it is a listener") };
    listener.max_connection_age = Some(secs(100));
    let answer = rule(Action::Respond { status: 200, body: "ok".into() });
    World::of(vec![Resource::Listener(listener), routes(vec![answer])]).await
}

#[tokio::test(start_paused = true)]
async fn one_to_an_endpoint_is_not_used_again() {
    local(async {
        let world = world(Protocol::Http).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut first = backends.accept().await;
        first.answer(OK).await;
        client.message().await;
        for _ in 0..4 {
            sleep(secs(20)).await;
            client.send(GET).await;
            first.answer(OK).await;
            client.message().await;
        }
        // It comes of age under a call, which ends as always.
        client.send(GET).await;
        first.head().await;
        sleep(secs(35)).await;
        first.send(OK).await;
        assert_eq!(client.message().await.body, "ok");
        first.ended().await;
        client.send(GET).await;
        backends.accept().await.answer(OK).await;
        assert_eq!(client.message().await.body, "ok");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_idle_is_closed() {
    local(async {
        let limits = dodai_dataplane::limits::Limits { pool_idle_timeout: secs(3600), ..Default::default() };
        let breaker = Breaker { max_connection_age: Some(secs(100)), ..Breaker::default() };
        let catalog = Service { breaker, ..service("shop/catalog/http") };
        let world = World::with(limits, usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut first = backends.accept().await;
        first.answer(OK).await;
        client.message().await;
        let start = tokio::time::Instant::now();
        first.ended().await;
        let age = start.elapsed();
        assert!(age > secs(87) && age < secs(114), "{age:?}");
    })
    .await;
}

/// The first call of a connection over HTTP/2, and what goes on driving that until it ends.
async fn taken(backends: &mut Peers) -> (SendResponse<Bytes>, tokio::task::JoinHandle<()>) {
    let stream = backends.accept().await.stream;
    let mut connection = h2::server::handshake(stream).await.expect("shaken");
    let (_call, respond) = connection.accept().await.expect("a call").expect("whole");
    (respond, beside(async move { while let Some(Ok(_)) = connection.accept().await {} }))
}

#[tokio::test(start_paused = true)]
async fn streams_of_an_old_one_go_on_and_new_ones_go_elsewhere() {
    local(async {
        let world = world(Protocol::Http2).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let (mut respond, first) = Box::pin(taken(&mut backends)).await;
        let mut body = respond.send_response(http::Response::new(()), false).expect("open");
        body.send_data("be".into(), false).expect("open");
        client.head().await;
        for _ in 0..6 {
            sleep(secs(19)).await;
            body.send_data("x".into(), false).expect("open");
        }
        let mut other = world.client().await;
        other.send(GET).await;
        let (mut respond, second) = Box::pin(taken(&mut backends)).await;
        respond.send_response(http::Response::new(()), true).expect("open");
        assert_eq!(other.message().await.status(), 200);
        body.send_data("gone".into(), true).expect("open");
        client.until("gone").await;
        first.await.expect("it ended in order");
        second.abort();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_1_is_told_with_an_answer() {
    local(async {
        let world = gate().await;
        let mut client = world.client().await;
        for _ in 0..3 {
            assert_eq!(client.ask(GET).await.header("connection"), None);
            sleep(secs(28)).await;
        }
        sleep(secs(28)).await;
        assert_eq!(client.ask(GET).await.header("connection"), CLOSE);
        client.ended().await;
        assert_eq!(world.client().await.ask(GET).await.header("connection"), None);
    })
    .await;
}

async fn call(sender: &SendRequest<Bytes>) -> Result<u16, h2::Error> {
    let mut sender = sender.clone().ready().await?;
    let request = http::Request::get("http://shop/").body(()).expect("valid");
    let (answer, _) = sender.send_request(request, true)?;
    answer.await.map(|answer| answer.status().as_u16())
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_2_is_sent_away_also_while_it_is_busy() {
    local(async {
        for pause in [20, 70] {
            let world = gate().await;
            let stream = world.client().await.stream;
            let (sender, connection) = h2::client::handshake(stream).await.expect("shaken");
            let ended = beside(connection);
            let start = tokio::time::Instant::now();
            while start.elapsed() < secs(85) {
                assert_eq!(call(&sender).await.expect("answered"), 200);
                sleep(secs(pause)).await;
            }
            sleep(secs(30)).await;
            call(&sender).await.expect_err("it went away");
            assert!(ended.await.expect("no panic").is_ok(), "in order");
            assert!(start.elapsed() < secs(175));
        }
    })
    .await;
}
