//! What a guest sends re-enters the front door.

use std::time::{Duration, Instant};

use dodai_core::call::{Caller, Serve};
use dodai_modules::Stream;

use crate::fixture::*;

#[tokio::test]
async fn an_outbound_call_continues_the_call_being_served() {
    let (module, world) = install(spec()).await;
    let mut call = call("/call?url=http://shop.default/items".replace("shop.default", "shop").as_str());
    let (span, deadline) = (call.context.span, Instant::now() + Duration::from_secs(5));
    call.context.deadline = Some(deadline);
    call.context.hops = 3;
    let reply = module.serve(call).await.expect("answered");
    assert_eq!(reply.body.collect(1000).await.expect("whole"), "you asked for /items");
    let calls = world.calls.lock().expect("sound");
    let [(head, context)] = calls.as_slice() else { panic!("one call, not {}", calls.len()) };
    assert_eq!(head.uri, "http://shop/items");
    assert_eq!(context.caller, Caller::App(app()));
    assert_eq!((context.span.trace, context.span.parent), (span.trace, span.id));
    assert_eq!(context.hops, 4);
    assert!(context.deadline.is_some_and(|outbound| outbound <= deadline));
}

#[tokio::test]
async fn a_failure_on_the_way_is_an_answer() {
    let (module, _) = install(spec()).await;
    let (status, text) = get(&module, "/call?url=http://shop/down").await.expect("answered");
    assert_eq!((status, text.as_str()), (503, "no_endpoint: shop has no ready instance\n"));
}

#[tokio::test]
async fn hosts_outside_need_to_be_allowed() {
    let (module, world) = install(spec()).await;
    assert_eq!(get(&module, "/call?url=http://allowed.example/x").await.expect("answered").0, 200);
    let (status, text) = get(&module, "/call?url=http://denied.example/x").await.expect("answered");
    assert_eq!(status, 502);
    assert!(text.contains("HttpRequestDenied"), "{text}");
    let lines = world.lines_of(Stream::Stderr);
    assert_eq!(
        lines,
        ["outbound call to `denied.example` refused: not a name of the mesh and not in allowedHosts"]
    );
    let metrics = module.metrics();
    assert_eq!((metrics.outbound, metrics.outbound_denied), (1, 1));
}
