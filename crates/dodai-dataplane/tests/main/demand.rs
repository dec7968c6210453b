//! A base that is told only of what its apps declare, and asks for the rest when it is called.

use std::collections::BTreeSet;

use crate::support::*;
use dodai_core::call::{Call, Caller, Context, Door as _};
use dodai_core::id::AppId;
use dodai_core::snapshot::*;
use dodai_core::trace::Span;
use tokio::sync::watch;
use tokio::time::Instant;

fn told() -> Vec<Resource> {
    usual(service("shop/catalog/http"), filtered(vec![]))
}

fn absent(text: &str) -> Resource {
    Resource::Absent(Absent { app: app(text) })
}

async fn world() -> (World, watch::Receiver<BTreeSet<AppId>>) {
    let (sender, asked) = watch::channel(BTreeSet::new());
    let world = World::asking(Box::new(move |wanted| drop(sender.send_replace(wanted))));
    world.apply(vec![outbound()]).await;
    (world, asked)
}

const CATALOG: &str = "GET /x HTTP/1.1\r\nHost: catalog\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_first_call_waits_until_its_app_is_told_of() {
    local(async {
        let (world, mut asked) = world().await;
        let mut backends = world.backend(1);
        let mut client = world.client_of(81).await;
        client.send(CATALOG).await;
        asked.changed().await.expect("asked");
        assert_eq!(*asked.borrow_and_update(), BTreeSet::from([app("shop/catalog")]));
        world.apply(told()).await;
        let mut backend = backends.accept().await;
        assert!(backend.answer(OK).await.head.starts_with("GET /x "), "the request came whole");
        assert_eq!(client.message().await.body, "ok");
        client.send(CATALOG).await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.body, "ok");
        assert!(!asked.has_changed().expect("open"), "it is known now");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_nobody_has_is_answered_at_once() {
    local(async {
        let (world, mut asked) = world().await;
        let mut client = world.client_of(81).await;
        client.send(CATALOG).await;
        asked.changed().await.expect("asked");
        let start = Instant::now();
        world.apply(vec![outbound(), absent("shop/catalog")]).await;
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (404, Some("no_route")));
        assert!(start.elapsed() < secs(1));
        let start = Instant::now();
        assert_eq!(client.ask(CATALOG).await.status(), 404);
        assert_eq!(start.elapsed(), secs(0));
        world.apply(told()).await;
        let mut backends = world.backend(1);
        client.send(CATALOG).await;
        backends.accept().await.answer(OK).await;
        assert_eq!(client.message().await.body, "ok", "somebody has taken the name");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_a_call_waits_once_and_not_for_ever() {
    local(async {
        let (world, _asked) = world().await;
        let mut client = world.client_of(81).await;
        for (wait, expect) in [(0, 1), (0, 0), (31, 1)] {
            tokio::time::sleep(secs(wait)).await;
            let start = Instant::now();
            assert_eq!(client.ask(CATALOG).await.status(), 404);
            assert_eq!(start.elapsed().as_secs(), expect);
        }
        // A host outside that could be a name: it is reached all the same.
        world.net.name("out.example", &[[10, 0, 1, 7].into()]);
        let mut outside = world.backend(7);
        client.send("GET http://out.example:8000/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
        outside.accept().await.answer(OK).await;
        assert_eq!(client.message().await.body, "ok");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_from_inside_and_tunnels_wait_too() {
    local(async {
        let (world, mut asked) = world().await;
        let (head, ()) = http::Request::get("http://catalog/x").body(()).expect("valid").into_parts();
        let context = Context::new(Caller::App(app("shop/front")), Span::root(false));
        let door = world.plane.door();
        let call = Call { head, body: dodai_core::body::Body::empty(), context };
        let entered = beside(async move { door.enter(call).await });
        asked.changed().await.expect("asked");
        let mut backends = world.backend(1);
        world.apply(told()).await;
        backends.accept().await.answer(OK).await;
        assert_eq!(entered.await.expect("no panic").expect("answered").head.status, 200);

        let mut client = world.client_of(81).await;
        client.send("CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n").await;
        asked.changed().await.expect("asked for db");
        let mut resources = told();
        let database = Service { protocol: Protocol::Tcp, port: Some(5432), ..service("shop/db/pg") };
        resources.extend([Resource::Service(database), endpoints("shop/db/pg", vec![endpoint(2, "r1")])]);
        let mut databases = world.backend(2);
        world.apply(resources).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        databases.accept().await;
    })
    .await;
}
