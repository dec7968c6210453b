//! Installing, draining, unloading.

use std::sync::Arc;
use std::time::Duration;

use dodai_core::call::Serve;
use dodai_core::failure::Kind;
use dodai_core::snapshot::ModuleSpec;
use dodai_core::task::Tasks;
use dodai_modules::{Drained, EngineOptions, Error, Host, HostOptions, Placement};

use crate::fixture::*;

#[tokio::test]
async fn a_drain_waits_for_streamed_bodies_and_refuses_new_calls() {
    let (module, _) = install(spec()).await;
    let mut reply = module.serve(call("/stream?n=200&size=1000")).await.expect("a head");
    let mut drain = Box::pin(module.drain(PATIENCE));
    assert!(futures_util::poll!(&mut drain).is_pending());
    let refused = module.serve(call("/")).await.expect_err("draining");
    assert_eq!(refused.kind, Kind::Draining);
    assert!(futures_util::poll!(&mut drain).is_pending());
    let mut length = 0;
    while let Some(frame) = reply.body.frame().await {
        length += frame.expect("whole").into_data().expect("data").len();
    }
    assert_eq!(length, 200_000);
    assert_eq!(drain.await, Drained { finished: 1, cut: 0 });
    let metrics = module.metrics();
    assert_eq!((metrics.in_flight, metrics.instances, metrics.warm, metrics.drained), (0, 0, 0, 1));
}

#[tokio::test]
async fn a_drain_cuts_what_does_not_end() {
    let (module, _) = install(spec()).await;
    let mut burning = module.serve(call("/burn"));
    let mut sleeping = module.serve(call("/sleep?ms=60000"));
    let reply = module.serve(call("/stream?n=100000&size=1000")).await.expect("a head");
    assert!(futures_util::poll!(&mut burning).is_pending());
    assert!(futures_util::poll!(&mut sleeping).is_pending());
    eventually("all run", || module.metrics().instances == 3).await;
    assert_eq!(module.drain(Duration::from_millis(20)).await, Drained { finished: 0, cut: 3 });
    assert_eq!(burning.await.expect_err("cut").kind, Kind::Draining);
    assert_eq!(sleeping.await.expect_err("cut").kind, Kind::Draining);
    assert_eq!(reply.body.collect(1 << 30).await.expect_err("cut").kind, Kind::Draining);
    assert_eq!(module.metrics().instances, 0);
}

#[tokio::test]
async fn an_instance_id_is_used_once() {
    let (module, world) = install(spec()).await;
    let again = host().install(module.instance().clone(), app(), spec(), world.seams()).await;
    assert!(matches!(again, Err(Error::Installed(id)) if id == *module.instance()));
    assert_eq!(host().remove(module.instance(), PATIENCE).await, Some(Drained::default()));
    assert_eq!(host().remove(module.instance(), PATIENCE).await, None);
    host().install(module.instance().clone(), app(), spec(), world.seams()).await.expect("free again");
}

#[tokio::test]
async fn a_host_without_modules_has_no_engine_and_a_closed_one_takes_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let tasks = Tasks::new();
    let host = Host::open(HostOptions::new(folder.path()), &tasks).expect("a host");
    assert!(!host.engine().is_started());
    assert_eq!(host.shutdown(PATIENCE).await, Drained::default());
    let world = Arc::new(World::default());
    let refused = host.install(new_instance(), app(), spec(), world.seams()).await;
    assert!(matches!(refused, Err(Error::ShuttingDown)));
    assert!(!host.engine().is_started());
}

/// Runs [`unload_cycles`] in a process of its own: other tests would blur what is measured.
#[test]
fn unloading_leaves_nothing_behind() {
    let tests = std::env::current_exe().expect("a path");
    let run = std::process::Command::new(tests)
        .args(["--exact", "life::unload_cycles", "--ignored", "--nocapture"])
        .output()
        .expect("started");
    let told = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success() && told.contains("1 passed"),
        "{told}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    println!("{told}");
}

#[tokio::test]
#[ignore = "measures the whole process; run by `unloading_leaves_nothing_behind`, or alone with more cycles"]
async fn unload_cycles() {
    let cycles: usize = std::env::args().find_map(|text| text.parse().ok()).unwrap_or(60);
    let folder = tempfile::tempdir().expect("a folder");
    let tasks = Tasks::new();
    let host = Host::open(HostOptions::new(folder.path()), &tasks).expect("a host");
    let artifacts = [hello(), hello_async()].map(|wasm| host.artifacts().put(&wasm).expect("stored"));
    let world = Arc::new(World::default());
    let mut after_warm_up = 0;
    for cycle in 0..cycles {
        if cycle == cycles / 4 {
            after_warm_up = resident();
        }
        let spec = ModuleSpec { artifact: artifacts[cycle % artifacts.len()].clone(), ..spec() };
        let module = host.install(new_instance(), app(), spec, world.seams()).await.expect("installed");
        assert_eq!(get(&module, "/").await.expect("answered").0, 200);
        let instance = module.instance().clone();
        drop(module);
        assert_eq!(host.remove(&instance, PATIENCE).await.expect("installed").cut, 0);
    }
    let grown = resident().saturating_sub(after_warm_up);
    // A module that stayed would be 300 KiB a cycle.
    let tolerated = 4 << 20;
    let leaked_module = cycles as u64 * 3 / 4 * (300 << 10);
    assert!(leaked_module > 2 * tolerated, "too few cycles to tell");
    assert!(grown < tolerated, "{cycles} cycles grew by {} KiB", grown >> 10);
    println!(
        "{cycles} cycles: {} KiB after warm-up, {} KiB more at the end",
        after_warm_up >> 10,
        grown >> 10
    );
    host.shutdown(PATIENCE).await;
    assert!(tasks.live().is_empty());
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split(' ').nth(1).expect("a field").parse().expect("a number");
    pages * 4096
}

#[tokio::test(start_paused = true)]
async fn guests_run_inline_in_paused_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = HostOptions { placement: Placement::Inline, ..HostOptions::new(folder.path()) };
    let host = Host::open(options, &Tasks::new()).expect("a host");
    host.artifacts().put(&hello()).expect("stored");
    let world = Arc::new(World::default());
    let spec = ModuleSpec { wall_time: Duration::from_secs(3600), ..spec() };
    let module = host.install(new_instance(), app(), spec, world.seams()).await.expect("installed");
    let began = std::time::Instant::now();
    let reply = module.serve(call("/sleep?ms=1200000")).await.expect("answered");
    assert_eq!(reply.head.status, 200);
    assert!(began.elapsed() < PATIENCE, "twenty minutes of the guest's time pass at once");
    host.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn without_room_for_a_pool_instances_are_made_on_demand() {
    let folder = tempfile::tempdir().expect("a folder");
    // Nobody has sixteen exabytes of address space.
    for engine in [
        EngineOptions { pooling: true, max_instances: u32::MAX },
        EngineOptions { pooling: false, max_instances: 10 },
    ] {
        let host = Host::open(HostOptions { engine, ..HostOptions::new(folder.path()) }, &Tasks::new())
            .expect("a host");
        host.artifacts().put(&hello()).expect("stored");
        let world = Arc::new(World::default());
        let module = host.install(new_instance(), app(), spec(), world.seams()).await.expect("installed");
        assert!(host.engine().is_started() && !host.engine().is_pooled());
        assert_eq!(get(&module, "/").await, Ok((200, "hello from v1\n".to_owned())));
        host.shutdown(PATIENCE).await;
    }
}

#[tokio::test]
async fn a_full_pool_is_said_and_passes() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = EngineOptions { pooling: true, max_instances: 2 };
    let host =
        Host::open(HostOptions { engine, ..HostOptions::new(folder.path()) }, &Tasks::new()).expect("a host");
    host.artifacts().put(&hello()).expect("stored");
    let world = Arc::new(World::default());
    let module = host.install(new_instance(), app(), spec(), world.seams()).await.expect("installed");
    assert!(host.engine().is_pooled());
    let mut holding: Vec<_> = (0..2).map(|_| module.serve(call("/sleep?ms=60000"))).collect();
    for held in &mut holding {
        assert!(futures_util::poll!(held).is_pending());
    }
    eventually("both run", || module.metrics().instances == 2).await;
    let refused = get(&module, "/").await.expect_err("no room");
    assert_eq!(refused.kind, Kind::QueueFull);
    assert!(refused.detail.contains("no room for another instance of hello"), "{refused}");
    drop(holding);
    eventually("they are gone", || module.metrics().instances == 0).await;
    assert_eq!(get(&module, "/").await, Ok((200, "hello from v1\n".to_owned())));
    host.shutdown(PATIENCE).await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_instance_goes_when_idle_or_worn() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = HostOptions { placement: Placement::Inline, ..HostOptions::new(folder.path()) };
    let host = Host::open(options, &Tasks::new()).expect("a host");
    host.artifacts().put(&hello()).expect("stored");
    let world = Arc::new(World::default());
    let spec = ModuleSpec { reuse: true, wall_time: Duration::from_secs(3600), ..spec() };
    let module = host.install(new_instance(), app(), spec, world.seams()).await.expect("installed");
    for (calls, instances) in [(1_000, 1), (1, 2)] {
        for _ in 0..calls {
            module.serve(call("/")).await.expect("answered");
            eventually("the call is wound up", || module.metrics().in_flight == 0).await;
        }
        assert_eq!(module.metrics().instantiated, instances);
    }
    assert_eq!(module.metrics().warm, 1);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!((module.metrics().warm, module.metrics().instances), (0, 0));
    host.shutdown(PATIENCE).await;
}
