//! A guest of WASI 0.3 under the same rules as one of 0.2.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dodai_core::body::{self, Body};
use dodai_core::call::{Caller, Serve};
use dodai_core::failure::{Failure, Kind};
use dodai_core::snapshot::ModuleSpec;
use dodai_modules::{Drained, Module, Stream};
use http::{HeaderMap, HeaderValue};

use crate::fixture::*;

fn of_0_3() -> ModuleSpec {
    ModuleSpec { artifact: dodai_modules::digest_of(&hello_async()), ..spec() }
}

async fn wound_up(module: &Module) {
    eventually("the call is wound up", || module.metrics().in_flight == 0).await;
}

/// Makes the call that should fail while others run, and checks that those do not notice.
async fn fails_alone(module: &Arc<Module>, target: &str) -> Failure {
    let others = futures_util::future::join_all((0..4).map(|_| get(module, "/sleep?ms=30")));
    let (failure, others) = tokio::join!(get(module, target), others);
    for other in others {
        assert_eq!(other, Ok((200, "slept 30 ms\n".to_owned())));
    }
    assert_eq!(get(module, "/").await, Ok((200, "hello from 0.3\n".to_owned())));
    failure.expect_err("the call fails")
}

#[tokio::test]
async fn a_module_answers_beside_one_of_0_2() {
    let (module, _) = install(of_0_3()).await;
    let (older, _) = install(spec()).await;
    assert_eq!(get(&module, "/").await, Ok((200, "hello from 0.3\n".to_owned())));
    assert_eq!(get(&older, "/").await, Ok((200, "hello from v1\n".to_owned())));
    assert_eq!(get(&module, "/nothing").await.expect("answered").0, 404);
    wound_up(&module).await;
    let metrics = module.metrics();
    assert_eq!((metrics.calls, metrics.answered, metrics.instances), (2, 2, 0));
    assert!(metrics.cpu_ns > 0 && metrics.memory_peak > 0);
    let reply = module.serve(call("/")).await.expect("answered");
    assert_eq!(reply.body.exact_length(), Some(15));
}

#[tokio::test]
async fn a_megabyte_streams_through_both_ways_at_once_with_its_trailers() {
    let (module, _) = install(of_0_3()).await;
    for target in ["/echo", "/pass"] {
        let (mut writer, body) = body::pipe(body::CREDIT, None);
        let mut call = call_with(target, body);
        call.head.method = http::Method::POST;
        let mut reply = module.serve(call).await.expect("the head comes before the body ends");
        for round in 0..64u8 {
            echoed(&mut writer, &mut reply, Bytes::from(vec![round; 16 << 10])).await;
        }
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-sum"),
            HeaderValue::from_static("1048576"),
        )]);
        writer.finish(Some(trailers.clone()));
        let last = reply.body.frame().await.expect("more").expect("whole");
        assert_eq!(last.into_trailers().expect("trailers"), trailers, "{target}");
        assert!(reply.body.frame().await.is_none());
    }
    assert!(module.metrics().memory_peak < 8 << 20);
}

#[tokio::test]
async fn a_request_body_that_breaks_off_breaks_the_answer_off() {
    let (module, _) = install(of_0_3()).await;
    let (mut writer, body) = body::pipe(body::CREDIT, None);
    writer.send(Bytes::from_static(b"half")).await.expect("room");
    drop(writer);
    let reply = module.serve(call_with("/echo", body)).await.expect("a head");
    assert_eq!(reply.body.collect(1000).await.expect_err("broken").kind, Kind::Protocol);
}

#[tokio::test]
async fn a_large_answer_streams_with_bounded_memory_and_waits_for_its_reader() {
    let (module, _) = install(of_0_3()).await;
    let reply = module.serve(call("/stream?n=200&size=65536")).await.expect("answered");
    assert_eq!(reply.body.collect(32 << 20).await.expect("whole").len(), 200 * 65536);
    assert!(module.metrics().memory_peak < 8 << 20);
}

#[tokio::test]
async fn two_calls_run_at_once_and_continue_the_call_being_served() {
    let (module, world) = install(of_0_3()).await;
    let mut call = call("/both?a=http://shop/meet&b=http://cart/meet");
    let (span, deadline) = (call.context.span, Instant::now() + Duration::from_secs(5));
    call.context.deadline = Some(deadline);
    call.context.hops = 3;
    let reply = module.serve(call).await.expect("answered");
    let answer = reply.body.collect(1000).await.expect("whole");
    assert_eq!(answer, "you asked for /meet and you asked for /meet\n");
    let calls = world.calls.lock().expect("sound");
    assert_eq!(calls.len(), 2);
    for (head, context) in calls.iter() {
        assert!(["http://shop/meet", "http://cart/meet"].contains(&head.uri.to_string().as_str()));
        assert_eq!(context.caller, Caller::App(app()));
        assert_eq!((context.span.trace, context.span.parent), (span.trace, span.id));
        assert_eq!(context.hops, 4);
        assert!(context.deadline.is_some_and(|outbound| outbound <= deadline));
    }
}

#[tokio::test]
async fn the_body_of_an_outbound_call_streams() {
    let (module, world) = install(of_0_3()).await;
    let (mut writer, body) = body::pipe(body::CREDIT, None);
    let send = async {
        for _ in 0..64 {
            writer.send(Bytes::from(vec![7; 16 << 10])).await.expect("the guest reads");
        }
        writer.finish(None);
    };
    let (reply, ()) = tokio::join!(module.serve(call_with("/send?url=http://shop/length", body)), send);
    let answer = reply.expect("answered").body.collect(1000).await.expect("whole");
    assert_eq!(answer, "1048576 bytes");
    assert_eq!(world.calls.lock().expect("sound")[0].0.method, http::Method::POST);
    assert!(module.metrics().memory_peak < 8 << 20);
}

#[tokio::test]
async fn hosts_outside_need_to_be_allowed_and_failures_are_answers() {
    let (module, world) = install(of_0_3()).await;
    assert_eq!(get(&module, "/call?url=http://allowed.example/x").await.expect("answered").0, 200);
    let (status, text) = get(&module, "/call?url=http://denied.example/x").await.expect("answered");
    assert_eq!(status, 502);
    assert!(text.contains("HttpRequestDenied"), "{text}");
    assert_eq!(
        world.lines_of(Stream::Stderr),
        ["outbound call to `denied.example` refused: not a name of the mesh and not in allowedHosts"]
    );
    assert_eq!((module.metrics().outbound, module.metrics().outbound_denied), (1, 1));
    let (status, text) = get(&module, "/call?url=http://shop/down").await.expect("answered");
    assert_eq!((status, text.as_str()), (503, "no_endpoint: shop has no ready instance\n"));
}

#[tokio::test]
async fn configuration_and_state_are_there() {
    let (module, _) = install(of_0_3()).await;
    assert_eq!(get(&module, "/config?key=greeting").await, Ok((200, "hei".to_owned())));
    assert_eq!(get(&module, "/config?key=other").await.expect("answered").0, 404);
    let counts = futures_util::future::join_all((0..10).map(|_| get(&module, "/count?key=visits"))).await;
    assert!(counts.iter().all(|count| count.as_ref().is_ok_and(|(status, _)| *status == 200)), "{counts:?}");
    assert_eq!(get(&module, "/count?key=visits").await, Ok((200, "11".to_owned())));
    assert_eq!(get(&module, "/count?key=x&store=unknown").await.expect("answered").0, 503);
}

#[tokio::test]
async fn a_trap_fails_one_call_and_is_logged() {
    let (module, world) = install(ModuleSpec { reuse: true, ..of_0_3() }).await;
    let failure = fails_alone(&module, "/panic").await;
    assert_eq!(failure.kind, Kind::Trap);
    assert!(failure.detail.starts_with("hello trapped: "), "{failure}");
    let lines = world.lines_of(Stream::Stderr).join("\n");
    assert!(lines.contains("hello was asked to panic") && lines.contains("wasm backtrace"), "{lines}");
    assert_eq!(module.metrics().traps, 1);
    let failure = fails_alone(&module, "/fail").await;
    assert_eq!(failure.kind, Kind::Protocol);
    assert!(failure.detail.contains("hello was asked to fail"), "{failure}");
}

#[tokio::test]
async fn every_limit_trips() {
    let (module, _) = install(ModuleSpec { cpu_time: Duration::from_millis(60), ..of_0_3() }).await;
    let failure = fails_alone(&module, "/burn").await;
    assert_eq!(failure.to_string(), "quota: hello used more than 60ms of CPU time");

    let (module, _) = install(ModuleSpec { memory: 16 << 20, ..of_0_3() }).await;
    let failure = fails_alone(&module, "/grow").await;
    assert_eq!(failure.to_string(), "quota: hello used more than 16 MiB");

    let (module, _) = install(ModuleSpec { wall_time: Duration::from_millis(250), ..of_0_3() }).await;
    let failure = fails_alone(&module, "/sleep?ms=60000").await;
    assert_eq!(failure.to_string(), "quota: hello took longer than 250ms (its wallTime)");
    // More than the pipe's credit: the guest waits for a reader that never comes.
    let reply = module.serve(call("/stream?n=100000&size=1000")).await.expect("a head");
    eventually("the time is up", || module.metrics().over_wall_time == 2).await;
    assert_eq!(reply.body.collect(1 << 30).await.expect_err("cut").kind, Kind::Quota);

    let mut late = call("/sleep?ms=60000");
    late.context.deadline = Some(Instant::now() + Duration::from_millis(50));
    assert_eq!(module.serve(late).await.expect_err("late").kind, Kind::Timeout);
    wound_up(&module).await;
    assert_eq!(module.metrics().instances, 0);
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_guest() {
    let (module, _) = install(of_0_3()).await;
    let mut waiting = module.serve(call("/sleep?ms=60000"));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    let reply = module.serve(call("/stream?n=100000&size=1000")).await.expect("a head");
    eventually("both run", || module.metrics().instances == 2).await;
    drop((waiting, reply));
    wound_up(&module).await;
    assert_eq!((module.metrics().cancelled, module.metrics().instances), (2, 0));
}

#[tokio::test]
async fn what_goes_on_behind_an_answer_is_drained_too() {
    let (module, world) = install(of_0_3()).await;
    assert_eq!(get(&module, "/behind?ms=50").await, Ok((200, "answered\n".to_owned())));
    assert_eq!(module.drain(PATIENCE).await.cut, 0);
    assert_eq!(world.lines_of(Stream::Stdout), ["worked 50 ms behind the caller's back"]);
    assert_eq!(module.metrics().instances, 0);
}

#[tokio::test]
async fn instances_are_used_again_only_when_asked() {
    let (fresh, _) = install(of_0_3()).await;
    let (kept, _) = install(ModuleSpec { reuse: true, ..of_0_3() }).await;
    for module in [&fresh, &kept] {
        for target in ["/", "/sleep?ms=1", "/stream", "/config?key=greeting", "/"] {
            get(module, target).await.expect("answered");
            wound_up(module).await;
        }
    }
    // The first instance of each was made at install and served the first call.
    assert_eq!((fresh.metrics().instantiated, fresh.metrics().warm), (5, 0));
    assert_eq!((kept.metrics().instantiated, kept.metrics().warm), (1, 1));
}

#[tokio::test]
async fn an_unload_under_load_answers_cuts_or_refuses_every_call() {
    let (module, _) = install(ModuleSpec { max_concurrency: 8, ..of_0_3() }).await;
    let calls = (0..60).map(|at| {
        let module = module.clone();
        async move {
            match at % 3 {
                0 => get(&module, "/").await.map(drop),
                1 => get(&module, "/sleep?ms=5").await.map(drop),
                _ => {
                    let body = Body::full(Bytes::from(vec![7; 100_000]));
                    let reply = module.serve(call_with("/echo", body)).await?;
                    reply.body.collect(1 << 20).await.map(|back| assert_eq!(back.len(), 100_000))
                }
            }
        }
    });
    let forever = module.serve(call("/sleep?ms=60000"));
    let unload = async {
        eventually("some are answered", || module.metrics().answered >= 5).await;
        module.drain(Duration::from_secs(2)).await
    };
    let (ends, forever, drained) = tokio::join!(futures_util::future::join_all(calls), forever, unload);
    assert_eq!(forever.expect_err("cut").kind, Kind::Draining);
    for end in &ends {
        assert!(end.as_ref().err().is_none_or(|failure| failure.kind == Kind::Draining), "{end:?}");
    }
    assert_eq!(drained.cut, 1, "the one that never ends; all others had the time: {drained:?}");
    assert_eq!(module.serve(call("/")).await.expect_err("unloaded").kind, Kind::Draining);
    let metrics = module.metrics();
    assert_eq!((metrics.in_flight, metrics.instances, metrics.warm), (0, 0, 0));
    assert_eq!(module.drain(PATIENCE).await, Drained { finished: 0, cut: 1 });
}
