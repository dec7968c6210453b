//! Prints what the host costs: `figures GUEST.wasm`. Run it in release on a quiet machine; the ratios, not the
//! times, carry over to another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dodai_core::body::Body;
use dodai_core::call::{Answer, Call, Caller, Context, Door, Serve};
use dodai_core::failure::{Failure, Kind};
use dodai_core::id::{AppId, InstanceId};
use dodai_core::snapshot::ModuleSpec;
use dodai_core::task::Tasks;
use dodai_core::trace::Span;
use dodai_modules::{Host, HostOptions, LogSink, MeshNames, Module, NoKeyValue, Seams, Stream};

const CALLS: u32 = 5_000;
const MODULES: usize = 200;

struct Nothing;

impl Door for Nothing {
    fn enter(&self, _call: Call) -> Answer<'_> {
        Box::pin(std::future::ready(Err(Failure::new(Kind::NoRoute, "there is nothing outside"))))
    }
}

impl MeshNames for Nothing {
    fn is_mesh_name<'a>(&'a self, _app: &'a AppId, _host: &'a str) -> dodai_modules::Known<'a> {
        Box::pin(std::future::ready(false))
    }
}

impl LogSink for Nothing {
    fn line(&self, _stream: Stream, line: &str) {
        eprintln!("{line}");
    }
}

fn seams() -> Seams {
    let nothing = Arc::new(Nothing);
    Seams {
        door: nothing.clone(),
        names: nothing.clone(),
        config: Arc::new(BTreeMap::new()),
        keyvalue: Arc::new(NoKeyValue),
        logs: nothing,
        environment: Vec::new(),
    }
}

fn call() -> Call {
    let (head, ()) = http::Request::get("http://hello/").body(()).expect("valid").into_parts();
    Call { head, body: Body::empty(), context: Context::new(Caller::Outside, Span::root(false)) }
}

async fn calls(what: &str, module: &Module) {
    let mut times: Vec<Duration> = Vec::with_capacity(CALLS as usize);
    let before = module.metrics();
    let all = Instant::now();
    for _ in 0..CALLS {
        let began = Instant::now();
        let reply = module.serve(call()).await.expect("answered");
        reply.body.collect(1 << 20).await.expect("whole");
        times.push(began.elapsed());
    }
    let all = all.elapsed();
    times.sort_unstable();
    let after = module.metrics();
    let made = after.instantiated - before.instantiated;
    println!(
        "{what}: {:.0}/s one at a time, p50 {:?}, p99 {:?}; guest CPU {} us/call; {made} instantiations of {} us",
        f64::from(CALLS) / all.as_secs_f64(),
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        (after.cpu_ns - before.cpu_ns) / u64::from(CALLS) / 1_000,
        (after.instantiate_us - before.instantiate_us).checked_div(made).unwrap_or(0),
    );
}

fn resident_kib() -> u64 {
    pages(1) * 4
}

fn address_space_gib() -> u64 {
    pages(0) >> 18
}

fn pages(field: usize) -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').nth(field).and_then(|pages| pages.parse().ok()).expect("a number")
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let guest = std::env::args().nth(1).expect("usage: figures GUEST.wasm");
    let wasm = std::fs::read(&guest).expect("readable");
    let folder = tempfile::tempdir().expect("a folder");
    let host = Host::open(HostOptions::new(folder.path()), &Tasks::new()).expect("a host");
    println!("no module: {} KiB, {} GiB of address space", resident_kib(), address_space_gib());
    let artifact = host.artifacts().put(&wasm).expect("stored");
    let spec = |reuse| ModuleSpec {
        artifact: artifact.clone(),
        reuse,
        max_concurrency: 16,
        memory: 64 << 20,
        wall_time: Duration::from_secs(10),
        cpu_time: Duration::from_secs(1),
        allowed_hosts: Vec::new(),
        config: Vec::new(),
        keyvalue: BTreeMap::new(),
    };
    let app = AppId::parse("default/hello").expect("valid");
    let install = async |name: &str, reuse| {
        let began = Instant::now();
        let module = host.install(InstanceId::new(name), app.clone(), spec(reuse), seams()).await;
        (module.expect("installed"), began.elapsed())
    };
    let (first, took) = install("first", false).await;
    println!(
        "install with compilation: {took:?}; {} KiB, {} GiB of address space",
        resident_kib(),
        address_space_gib()
    );
    host.remove(first.instance(), Duration::ZERO).await;
    drop(first);
    let (fresh, took) = install("fresh", false).await;
    println!("install from compiled code: {took:?}; engine pooled: {}", host.engine().is_pooled());
    calls("new instance per call", &fresh).await;
    let (kept, took) = install("kept", true).await;
    println!("install beside the same artefact: {took:?}");
    calls("instances used again", &kept).await;
    let before = resident_kib();
    for index in 0..MODULES {
        install(&format!("more-{index}"), true).await;
    }
    println!(
        "{MODULES} more modules, one warm instance each: {} KiB a module",
        (resident_kib() - before) / MODULES as u64
    );
    host.shutdown(Duration::from_secs(1)).await;
}
