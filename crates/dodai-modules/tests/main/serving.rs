//! Requests and responses of all shapes.

use std::path::Path;

use bytes::Bytes;
use dodai_capability::state::Get;
use dodai_core::body::{self, Body};
use dodai_core::call::Serve;
use dodai_core::failure::Kind;
use http::HeaderValue;

use crate::fixture::*;

#[tokio::test]
async fn a_module_answers() {
    let (module, _) = install(spec()).await;
    assert_eq!(get(&module, "/").await, Ok((200, "hello from v1\n".to_owned())));
    eventually("the call is wound up", || module.metrics().in_flight == 0).await;
    let metrics = module.metrics();
    assert_eq!((metrics.calls, metrics.answered, metrics.instances), (1, 1, 0));
    assert!(metrics.cpu_ns > 0 && metrics.memory_peak > 0);
}

#[tokio::test]
async fn a_short_answer_has_a_known_length() {
    let (module, _) = install(spec()).await;
    let reply = module.serve(call("/")).await.expect("answered");
    assert_eq!(reply.head.headers["x-hello-version"], HeaderValue::from_static("v1"));
    assert_eq!(reply.body.exact_length(), Some(14));
}

#[tokio::test]
async fn a_request_body_streams_through_both_ways_at_once() {
    let (module, _) = install(spec()).await;
    let (mut writer, body) = body::pipe(body::CREDIT, None);
    let mut reply =
        module.serve(call_with("/echo", body)).await.expect("the head comes before the body ends");
    for round in 0..50u8 {
        echoed(&mut writer, &mut reply, Bytes::from(vec![round; 1000])).await;
    }
    writer.finish(None);
    assert!(reply.body.frame().await.is_none());
}

#[tokio::test]
async fn a_request_body_that_breaks_off_is_seen_by_the_guest() {
    let (module, _) = install(spec()).await;
    let (mut writer, body) = body::pipe(body::CREDIT, None);
    writer.send(Bytes::from_static(b"half")).await.expect("room");
    drop(writer);
    let reply = module.serve(call_with("/sum", body)).await.expect("answered");
    assert_eq!(reply.head.status, 400);
}

#[tokio::test]
async fn a_large_answer_streams_with_bounded_memory() {
    let (module, _) = install(spec()).await;
    let reply = module.serve(call("/stream?n=200&size=65536")).await.expect("answered");
    let bytes = reply.body.collect(32 << 20).await.expect("whole");
    assert_eq!(bytes.len(), 200 * 65536);
    assert!(module.metrics().memory_peak < 8 << 20);
}

#[tokio::test]
async fn many_calls_run_at_once() {
    let (module, _) = install(spec()).await;
    let calls = (0..100).map(|_| get(&module, "/sleep?ms=20"));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer, Ok((200, "slept 20 ms\n".to_owned())));
    }
    eventually("all are wound up", || module.metrics().in_flight == 0).await;
    assert_eq!(module.metrics().answered, 100);
}

#[tokio::test]
async fn instances_are_used_again_only_when_asked() {
    let (fresh, _) = install(spec()).await;
    let (kept, _) = install(dodai_core::snapshot::ModuleSpec { reuse: true, ..spec() }).await;
    for module in [&fresh, &kept] {
        for _ in 0..5 {
            get(module, "/").await.expect("answered");
            eventually("the call is wound up", || module.metrics().in_flight == 0).await;
        }
    }
    // The first instance of each was made at install and served the first call.
    assert_eq!((fresh.metrics().instantiated, fresh.metrics().warm), (5, 0));
    assert_eq!((kept.metrics().instantiated, kept.metrics().warm), (1, 1));
}

#[tokio::test]
async fn upgrades_are_refused() {
    let (module, _) = install(spec()).await;
    let mut call = call("/");
    call.head.headers.insert("upgrade", HeaderValue::from_static("websocket"));
    assert_eq!(module.serve(call).await.expect_err("refused").kind, Kind::NotImplemented);
}

#[tokio::test]
async fn configuration_and_state_are_there() {
    let (module, world) = install(spec()).await;
    assert_eq!(get(&module, "/config?key=greeting").await, Ok((200, "hei".to_owned())));
    assert_eq!(get(&module, "/config?key=other").await.expect("answered").0, 404);
    assert_eq!(get(&module, "/kv?key=absent").await.expect("answered").0, 404);
    assert_eq!(get(&module, "/kv?key=x&store=unknown").await.expect("answered").0, 503);
    let post = |target: &str| {
        let mut call = call_with(target, Body::empty());
        call.head.method = http::Method::POST;
        module.serve(call)
    };
    let sums = futures_util::future::join_all((0..20).map(|_| post("/kv?key=visits"))).await;
    assert!(sums.iter().all(|sum| sum.as_ref().is_ok_and(|reply| reply.head.status == 200)));
    assert_eq!(get(&module, "/kv?key=visits").await, Ok((200, "20".to_owned())));
    // The state API of the same app reads what the guest wrote.
    let item = world.store.get(&Get::new("hello||visits")).await.expect("readable").expect("there");
    assert_eq!(item.value, "20");
}

#[tokio::test]
async fn the_shops_modules_fit() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop/artifacts");
    for name in ["catalog.wasm", "notify.wasm", "web.wasm"] {
        let wasm = std::fs::read(folder.join(name)).expect("examples/shop is built");
        let digest = host().artifacts().put(&wasm).expect("stored");
        host().prepare(name, &digest).await.expect("it compiles and links");
    }
}
