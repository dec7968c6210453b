//! How fast a module gets calls: `activation HELLO.wasm OTHER.wasm [COUNT]`.
//!
//! A base with a gateway is told again and again to run another revision of one app, its artefact cached, and to
//! send the gateway's calls there. Measured is from the snapshot's arrival to the first routed 200 of the new
//! revision, over one kept connection. Prints the spread; the bar is p99 <= 20 ms.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dodai_base::node::{Base, Config};
use dodai_core::id::{AppId, BaseId, Digest, InstanceId, Name, RevisionId, ServiceId};
use dodai_core::snapshot::{
    App, Balance, Endpoint, Endpoints, Limits, Listener, ModuleSpec, Probes, Protocol, Resource, Role,
    Routes, Rule, Service, ServicePort, Shape, Snapshot, Target, VirtualHost, Workload,
};
use dodai_core::status::{Link, Status, Wants};
use dodai_core::task::Tasks;
use tokio::sync::watch;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Activations before the first that counts: both artefacts are compiled, links and threads are there.
const WARM_UP: usize = 4;
const BAR: Duration = Duration::from_millis(20);
/// After this, something is broken rather than slow.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args_os().skip(1);
    let words: Vec<_> = arguments.by_ref().collect();
    match words.first().and_then(|word| word.to_str()) {
        Some("shim") => dodai_base::shim::run(),
        Some("compile-module") => {
            std::process::exit(dodai_modules::compile_main(words.into_iter().skip(1)).into())
        }
        Some(_) | None => {}
    }
    let [first, second, rest @ ..] = words.as_slice() else {
        return Err("usage: activation HELLO.wasm OTHER.wasm [COUNT]".into());
    };
    let count = match rest.first().and_then(|word| word.to_str()) {
        Some(count) => count.parse()?,
        None => 100,
    };
    let modules = [std::fs::read(first)?, std::fs::read(second)?];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut times = runtime.block_on(measure(&modules, count))?;
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    println!("{count} activations: p50 {p50:.1?}, p90 {:.1?}, p99 {p99:.1?}, slowest {max:.1?}", at(0.9));
    if p99 > BAR { Err(format!("the bar is missed: p99 above {BAR:?}").into()) } else { Ok(()) }
}

async fn measure(modules: &[Vec<u8>; 2], count: usize) -> Result<Vec<Duration>, Error> {
    let folder = std::env::temp_dir().join(format!("dodai-activation-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let tasks = Tasks::new();
    let base = BaseId::new("local");
    let (snapshots, snapshots_out) = watch::channel(Arc::new(Snapshot::default()));
    let (status, mut status_out) = watch::channel(Status::default());
    let link = Link { base: base.clone(), snapshots: snapshots_out, status };
    let config = Config {
        base: base.clone(),
        data_dir: folder.clone(),
        project_dir: folder.clone(),
        executable: vec![std::env::current_exe()?.into()],
        threads: 1,
        limits: dodai_dataplane::limits::Limits::default(),
        sinks: Vec::new(),
        sample_per_ten_thousand: 0,
        environment: BTreeMap::new(),
        wants: Wants::All,
        membership: None,
        artifacts: None,
        runtime: dodai_runtime::Settings::default(),
        components_dir: None,
    };
    let running = Base::start(config, link, &tasks).await?;
    let digests = [0, 1].map(|which: usize| running.parts().modules.artifacts().put(&modules[which]));
    let digests = digests.into_iter().collect::<Result<Vec<Digest>, _>>()?;
    snapshots.send_replace(Arc::new(snapshot(1, &digests[0])?));
    let opened = status_out.wait_for(|status| !status.listeners.is_empty()).await?;
    let address = *opened.listeners.values().next().ok_or("no listener")?;
    drop(opened);
    let mut times = Vec::with_capacity(count);
    for number in 0..count + WARM_UP {
        let version = 2 + number as u64;
        let next = Arc::new(snapshot(version, &digests[number % 2])?);
        // The client runs on a thread of its own, so that waiting for it does not hold the base up.
        let polling = tokio::task::spawn_blocking(move || first_answer(address, version));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let start = Instant::now();
        snapshots.send_replace(next);
        let answered = polling.await??;
        if number >= WARM_UP {
            times.push(answered.saturating_duration_since(start));
        }
    }
    running.stop(Duration::from_secs(5)).await;
    std::fs::remove_dir_all(&folder)?;
    Ok(times)
}

/// Asks until the instance of `version` answers with 200; when that was.
fn first_answer(address: SocketAddr, version: u64) -> Result<Instant, Error> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let wanted = format!("x-instance: {}", instance(version));
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n")?;
        let (mut ok, mut ours, mut length, mut line) = (false, false, 0, String::new());
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Err("the base closed the connection".into());
            }
            let text = line.trim_end().to_ascii_lowercase();
            ok |= text.starts_with("http/1.1 200");
            ours |= text == wanted;
            if let Some(number) = text.strip_prefix("content-length: ") {
                length = number.parse()?;
            }
            if text.is_empty() {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length])?;
        if ok && ours {
            return Ok(Instant::now());
        }
    }
    Err(format!("no answer of version {version}").into())
}

fn instance(version: u64) -> InstanceId {
    InstanceId::new(format!("hello-{version}"))
}

/// A gateway, and the app's only instance; the rule names the instance in the response.
fn snapshot(version: u64, artifact: &Digest) -> Result<Snapshot, Error> {
    let (app, id) = (AppId::parse("default/hello")?, ServiceId::parse("default/hello/http")?);
    let revision = RevisionId::new(if version.is_multiple_of(2) { "even" } else { "odd" });
    let instance = instance(version);
    let module = ModuleSpec {
        artifact: artifact.clone(),
        reuse: true,
        max_concurrency: 64,
        memory: 64 << 20,
        wall_time: Duration::from_secs(10),
        cpu_time: Duration::from_secs(5),
        allowed_hosts: Vec::new(),
        config: Vec::new(),
        keyvalue: BTreeMap::new(),
    };
    let workload = Workload {
        instance: instance.clone(),
        app: app.clone(),
        revision: revision.clone(),
        shape: Shape::Module(module),
        services: vec![ServicePort { name: Name::new("http")?, protocol: Protocol::Http, port: None }],
        env: Vec::new(),
        probes: Probes::default(),
        limits: Limits::default(),
        depends_on: Vec::new(),
        once: false,
        draining: false,
    };
    let names_it = dodai_core::snapshot::HeaderEdits {
        set: vec![("x-instance".to_owned(), instance.to_string())],
        ..Default::default()
    };
    let rule = Rule {
        filters: vec![dodai_core::snapshot::Filter::ResponseHeaders(names_it)],
        ..Rule::forward("all/0", id.clone())
    };
    let service = Service { balance: Balance::LeastLatency, ..Service::new(id.clone()) };
    let target = Target::Instance { instance, base: BaseId::new("local"), mesh: None };
    Ok(Snapshot::of(
        version,
        [
            Resource::App(App::new(app)),
            Resource::Workload(workload),
            Resource::Service(service),
            Resource::Endpoints(Endpoints { service: id, list: vec![Endpoint::new(revision, target)] }),
            Resource::Routes(Routes {
                name: "all".into(),
                hosts: vec![VirtualHost { names: vec!["*".into()], rules: vec![rule] }],
                trusted: false,
            }),
            Resource::Listener(Listener::new(
                "front",
                ([127, 0, 0, 1], 0).into(),
                Protocol::Http,
                Role::Gateway { routes: "all".into() },
            )),
        ],
    ))
}
