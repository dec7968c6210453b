//! Every limit trips, says so, and leaves the other calls alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dodai_core::call::Serve;
use dodai_core::failure::{Failure, Kind};
use dodai_core::snapshot::ModuleSpec;
use dodai_modules::{Module, Stream};

use crate::fixture::*;

/// Makes the call that should fail while others run, and checks that those do not notice.
async fn fails_alone(module: &Arc<Module>, target: &str) -> Failure {
    let others = futures_util::future::join_all((0..4).map(|_| get(module, "/sleep?ms=30")));
    let (failure, others) = tokio::join!(get(module, target), others);
    for other in others {
        assert_eq!(other, Ok((200, "slept 30 ms\n".to_owned())));
    }
    assert_eq!(get(module, "/").await, Ok((200, "hello from v1\n".to_owned())));
    failure.expect_err("the call fails")
}

#[tokio::test]
async fn a_guest_that_burns_is_stopped() {
    let (module, _) = install(ModuleSpec { cpu_time: Duration::from_millis(60), ..spec() }).await;
    let failure = fails_alone(&module, "/burn").await;
    assert_eq!(failure.to_string(), "quota: hello used more than 60ms of CPU time");
    assert_eq!(module.metrics().over_cpu, 1);
}

#[tokio::test]
async fn a_guest_that_waits_uses_no_cpu_time() {
    let (module, _) = install(ModuleSpec { cpu_time: Duration::from_millis(100), ..spec() }).await;
    assert_eq!(get(&module, "/sleep?ms=300").await.expect("answered").0, 200);
}

#[tokio::test]
async fn a_guest_that_grows_is_stopped() {
    for reuse in [false, true] {
        let (module, _) = install(ModuleSpec { reuse, memory: 16 << 20, ..spec() }).await;
        let failure = fails_alone(&module, "/grow").await;
        assert_eq!(failure.to_string(), "quota: hello used more than 16 MiB");
        let metrics = module.metrics();
        assert_eq!(metrics.over_memory, 1);
        assert!(metrics.memory_peak <= 16 << 20);
    }
}

#[tokio::test]
async fn a_trap_fails_one_call_and_is_logged() {
    let (module, world) = install(ModuleSpec { reuse: true, ..spec() }).await;
    let failure = fails_alone(&module, "/panic").await;
    assert_eq!(failure.kind, Kind::Trap);
    assert!(failure.detail.starts_with("hello trapped: "), "{failure}");
    let lines = world.lines_of(Stream::Stderr).join("\n");
    assert!(lines.contains("hello was asked to panic"), "{lines}");
    assert!(lines.contains("wasm backtrace"), "{lines}");
    assert_eq!(module.metrics().traps, 1);
}

#[tokio::test]
async fn wall_clock_time_is_bounded() {
    let (module, _) = install(ModuleSpec { wall_time: Duration::from_millis(150), ..spec() }).await;
    let failure = fails_alone(&module, "/sleep?ms=60000").await;
    assert_eq!(failure.to_string(), "quota: hello took longer than 150ms (its wallTime)");
    assert_eq!(module.metrics().over_wall_time, 1);
}

#[tokio::test]
async fn a_body_that_is_cut_is_not_taken_for_a_whole_one() {
    let (module, _) = install(ModuleSpec { wall_time: Duration::from_millis(150), ..spec() }).await;
    // More than the pipe's credit: the guest waits for a reader that never comes.
    let reply = module.serve(call("/stream?n=100000&size=1000")).await.expect("a head");
    eventually("the time is up", || module.metrics().over_wall_time == 1).await;
    let failure = reply.body.collect(1 << 30).await.expect_err("cut");
    assert_eq!(failure.kind, Kind::Quota);
}

#[tokio::test]
async fn the_callers_deadline_is_kept() {
    let (module, _) = install(spec()).await;
    let mut call = call("/sleep?ms=60000");
    call.context.deadline = Some(Instant::now() + Duration::from_millis(50));
    let failure = module.serve(call).await.expect_err("late");
    assert_eq!(failure.kind, Kind::Timeout);
    eventually("it is counted", || module.metrics().timeouts == 1).await;
}

#[tokio::test]
async fn the_queue_is_bounded_and_in_order() {
    let (module, _) = install(ModuleSpec { max_concurrency: 1, ..spec() }).await;
    let mut holding = module.serve(call("/sleep?ms=60000"));
    let mut queued: Vec<_> = (0..1_000).map(|_| module.serve(call("/"))).collect();
    assert!(futures_util::poll!(&mut holding).is_pending());
    for call in &mut queued {
        assert!(futures_util::poll!(call).is_pending());
    }
    assert_eq!(module.metrics().queued, 1_000);
    let refused = module.serve(call("/")).await.expect_err("full");
    assert_eq!(refused.kind, Kind::QueueFull);
    drop(holding);
    queued.truncate(2);
    for call in queued {
        assert_eq!(call.await.expect("answered").head.status, 200);
    }
    assert_eq!(module.metrics().queued, 0);
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_guest() {
    let (module, _) = install(spec()).await;
    for target in ["/burn", "/sleep?ms=60000"] {
        let mut waiting = module.serve(call(target));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        eventually("the guest runs", || module.metrics().instances == 1).await;
        drop(waiting);
        eventually("the guest is gone", || module.metrics().instances == 0).await;
    }
    let reply = module.serve(call("/stream?n=100000&size=1000")).await.expect("a head");
    drop(reply);
    eventually("the guest is gone", || module.metrics().instances == 0).await;
    eventually("the calls are wound up", || module.metrics().in_flight == 0).await;
    assert_eq!(module.metrics().cancelled, 3);
}

#[tokio::test]
async fn a_module_that_needs_more_than_it_gets_is_not_installed() {
    let world = Arc::new(World::default());
    let small = ModuleSpec { memory: 64 << 10, ..spec() };
    let error = host().install(new_instance(), app(), small, world.seams()).await.err().expect("refused");
    assert_eq!(error.to_string(), "hello does not start: hello used more than 64 KiB");
}
