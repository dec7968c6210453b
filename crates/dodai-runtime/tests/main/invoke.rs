//! Invocation: what reaches the door, and what comes back.

use dodai_core::body::{self, Body};
use dodai_core::call::{Answer, Call, Caller, Context, Door, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::task::Tasks;
use dodai_core::trace::Span;
use dodai_runtime::{Runtime, Settings};
use http::{HeaderValue, Request, StatusCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::world::{World, app, blocks, reply};

#[tokio::test(start_paused = true)]
async fn the_call_goes_on_as_the_app() {
    let world = World::new(blocks()).await;
    world.script(|_| {
        let mut reply = Reply::new(StatusCode::IM_A_TEAPOT, "short and stout");
        reply.head.headers.insert("x-callee", HeaderValue::from_static("yes"));
        reply.head.headers.insert("connection", HeaderValue::from_static("x-secret"));
        reply.head.headers.insert("x-secret", HeaderValue::from_static("no"));
        Ok(reply)
    });
    let request = Request::builder()
        .method("PATCH")
        .uri("/v1.0/invoke/other/method/a/b%2Fc?x=1&y=%20")
        .header("dapr-api-token", "t")
        .header("x-own", "kept")
        .header("dodai-hops", "3")
        .header("te", "trailers");
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let span = Span::root(true);
    let mut context = Context::new(Caller::App(app("shop/cart")), span);
    let deadline = Instant::now() + Duration::from_secs(9);
    context.deadline = Some(deadline);
    let told = world.serve("shop/cart", Call { head, body: Body::full("tea"), context }).await;
    assert_eq!((told.status, told.body.as_str()), (418, "short and stout"));
    assert_eq!(told.headers["x-callee"], "yes");
    assert!(!told.headers.contains_key("x-secret") && !told.headers.contains_key("connection"));

    let seen = world.seen().remove(0);
    assert_eq!(seen.caller, Caller::App(app("shop/cart")));
    assert_eq!((seen.method.as_str(), seen.authority.as_str()), ("PATCH", "other"));
    assert_eq!(seen.path, "/a/b%2Fc?x=1&y=%20");
    assert_eq!(&*seen.body, b"tea");
    assert_eq!(seen.headers["x-own"], "kept");
    assert_eq!(seen.headers["host"], "other");
    assert_eq!(seen.headers["dapr-caller-app-id"], "cart");
    assert_eq!(seen.headers["dapr-callee-app-id"], "other");
    assert!(!seen.headers.contains_key("dapr-api-token") && !seen.headers.contains_key("te"));
    assert_eq!((seen.context.hops, seen.context.deadline), (3, Some(deadline)));
    assert_eq!((seen.context.span.trace, seen.context.span.parent), (span.trace, span.id));
}

#[tokio::test(start_paused = true)]
async fn targets_by_namespace_header_and_credentials() {
    let world = World::new(blocks()).await;
    let none: &[(&str, &str)] = &[];
    let table = [
        ("/v1.0/invoke/pay.bank/method/x", none, "pay.bank.svc.cluster.local", "/x"),
        ("/v1.0/invoke/other.shop/method/x", &[], "other", "/x"),
        ("/v1.0/invoke/http://api.example:81/method/x?y=1", &[], "api.example:81", "/x?y=1"),
        ("/v1.0/invoke/https://api.example/v2/method/x", &[], "api.example", "/v2/x"),
        ("/orders/1", &[("dapr-app-id", "other")], "other", "/orders/1"),
        ("/orders", &[("authorization", "Basic ZGFwci1hcHAtaWQ6b3RoZXI=")], "other", "/orders"),
    ];
    for (path, headers, authority, method) in table {
        let told = world.send("shop/cart", "GET", path, headers, "").await;
        assert_eq!(told.status, 200, "{path}");
        let seen = world.seen().pop().expect("a call");
        assert_eq!((seen.authority.as_str(), seen.path.as_str()), (authority, method));
        assert!(!seen.headers.contains_key("dapr-app-id") && !seen.headers.contains_key("authorization"));
    }
    let calls = world.seen().len();
    for path in ["/v1.0/invoke/10.0.0.1/method/x", "/v1.0/invoke/ftp:%2F%2Fexample.com/method/x"] {
        let told = world.cart("GET", path, "").await;
        assert_eq!(told.error(), (500, "ERR_DIRECT_INVOKE".into()), "{path}");
    }
    assert_eq!(world.seen().len(), calls);
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_in_daprs_words() {
    let world = World::new(blocks()).await;
    for (kind, status) in [
        (Kind::NoRoute, 500),
        (Kind::NoEndpoint, 500),
        (Kind::Timeout, 500),
        (Kind::Denied, 403),
        (Kind::RateLimited, 429),
        (Kind::Loop, 508),
        (Kind::BodyTooLarge, 413),
    ] {
        world.script(move |_| Err(Failure::new(kind, "no app named `other` is known")));
        let told = world.cart("GET", "/v1.0/invoke/other/method/m", "").await;
        let expect = r#"{"errorCode":"ERR_DIRECT_INVOKE","message":"failed to invoke, id: other, err: no app named `other` is known"}"#;
        assert_eq!((told.status, told.body.as_str()), (status, expect), "{kind:?}");
        assert_eq!(told.headers["dodai-failure"], kind.code());
    }
    world.script(|_| Err(Failure::new(Kind::RateLimited, "").after(Duration::from_secs(7))));
    assert_eq!(world.cart("GET", "/v1.0/invoke/other/method/m", "").await.headers["retry-after"], "7");
    world.script(|_| reply(503, "the callee's own words"));
    let told = world.cart("GET", "/v1.0/invoke/other/method/m", "").await;
    assert_eq!((told.status, told.body.as_str()), (503, "the callee's own words"));
}

/// What another sidecar answers whose app is not there.
pub fn far_failure(body: &'static str) -> Result<Reply, Failure> {
    let mut reply = reply(503, body)?;
    reply.head.headers.insert("dodai-failure", HeaderValue::from_static("connect"));
    Ok(reply)
}

#[tokio::test(start_paused = true)]
async fn what_another_sidecar_says_is_no_answer_of_the_app() {
    let world = World::new(blocks()).await;
    world.script(|_| far_failure("dodai: connect: connection refused by 10.0.0.1:80\n"));
    let told = world.cart("GET", "/v1.0/invoke/other/method/m", "").await;
    assert_eq!(told.error(), (500, "ERR_DIRECT_INVOKE".into()));
    let expect = "failed to invoke, id: other, err: connection refused by 10.0.0.1:80";
    assert_eq!(told.json()["message"], expect);
    assert_eq!(told.headers["dodai-failure"], "connect");
    world.script(|_| far_failure(""));
    assert_eq!(world.cart("HEAD", "/v1.0/invoke/other/method/m", "").await.status, 500);
    world.script(|_| {
        let mut reply = reply(429, "dodai: rate_limited: too many\n")?;
        reply.head.headers.insert("dodai-failure", HeaderValue::from_static("rate_limited"));
        reply.head.headers.insert("retry-after", HeaderValue::from_static("7"));
        Ok(reply)
    });
    let told = world.cart("GET", "/v1.0/invoke/other/method/m", "").await;
    assert_eq!((told.status, &told.headers["retry-after"]), (429, &HeaderValue::from_static("7")));
    // An app that passes headers on which it got.
    world.script(|_| far_failure("the app's own words"));
    let told = world.cart("GET", "/v1.0/invoke/other/method/m", "").await;
    assert_eq!((told.status, told.body.as_str()), (503, "the app's own words"));
    world.script(|_| {
        let mut reply = reply(200, "dodai: connect: no")?;
        reply.head.headers.insert("dodai-failure", HeaderValue::from_static("connect"));
        Ok(reply)
    });
    assert_eq!(world.cart("GET", "/v1.0/invoke/other/method/m", "").await.status, 200);
}

/// Hands the request's body back as the reply's.
struct Echo;

impl Door for Echo {
    fn enter(&self, call: Call) -> Answer<'_> {
        Box::pin(async move {
            let mut reply = Reply::new(StatusCode::OK, "");
            reply.body = call.body;
            Ok(reply)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn both_directions_stream_at_once() {
    let tasks = Tasks::new();
    let runtime = Runtime::new(
        Default::default(),
        Arc::new(Echo),
        Default::default(),
        Default::default(),
        Settings { max_body: 1, ..Settings::default() },
        &tasks,
    );
    let (mut writer, body) = body::pipe(8, None);
    let (head, ()) = Request::post("/v1.0/invoke/other/method/m").body(()).expect("a request").into_parts();
    let context = Context::new(Caller::App(app("shop/cart")), Span::root(false));
    let api = runtime.api(&app("shop/cart"));
    let mut reply = api.serve(Call { head, body, context }).await.expect("an answer");
    for part in ["one", "two", "three"] {
        writer.send(part.into()).await.expect("read");
        let frame = reply.body.frame().await.expect("not over").expect("no failure");
        assert_eq!(frame.into_data().expect("data"), part);
    }
    writer.finish(None);
    assert!(reply.body.frame().await.is_none());
}
