//! One gateway hop and nothing else, for profilers: `hop LISTEN BACKEND [http2]`, both as `address:port`; `http2`
//! is what the backend speaks.
//!
//! It does what `bench/hop.py` asks of a whole base (a route, three filters, a timeout, counters, trace
//! context) on one thread, in a program that is built in seconds.

use std::net::SocketAddr;
use std::time::Duration;

use dodai_core::id::{BaseId, RevisionId, ServiceId};
use dodai_core::snapshot::{
    Balance, CallPolicy, Endpoint, Endpoints, Filter, HeaderEdits, Listener, Protocol, RateLimit, Resource,
    Role, Routes, Rule, Service, Snapshot, Target, VirtualHost,
};
use dodai_dataplane::limits::Limits;
use dodai_dataplane::plane::{Config, DataPlane};
use dodai_transport::network::Network;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(backend)) = (arguments.next(), arguments.next()) else {
        return Err("usage: hop LISTEN BACKEND [http2]".into());
    };
    let protocol = match arguments.next().as_deref() {
        None => Protocol::Http,
        Some("http2") => Protocol::Http2,
        Some(other) => return Err(format!("`{other}` is not http2").into()),
    };
    let plane = DataPlane::start(Config {
        base: BaseId::new("hop"),
        limits: Limits::default(),
        network: Network::system(),
        threads: 1,
        sinks: Vec::new(),
        sample_per_ten_thousand: 0,
        mesh: None,
        demand: None,
        data_dir: std::path::PathBuf::new(),
        roots: Default::default(),
    })?;
    let snapshot = Snapshot::of(1, resources(listen.parse()?, &backend, protocol)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bound = runtime.block_on(plane.apply(&snapshot))?;
    println!("{bound:?}");
    loop {
        std::thread::park();
    }
}

fn resources(
    listen: SocketAddr,
    backend: &str,
    protocol: Protocol,
) -> Result<Vec<Resource>, Box<dyn std::error::Error>> {
    let id = ServiceId::parse("default/backend/http")?;
    let set = |name: &str, value: &str| HeaderEdits {
        set: vec![(name.to_owned(), value.to_owned())],
        ..HeaderEdits::default()
    };
    let rule = Rule {
        filters: vec![
            Filter::RequestHeaders(set("x-edge", "bench")),
            Filter::ResponseHeaders(set("x-served-by", "dodai")),
            Filter::RateLimits(vec![RateLimit {
                interval: Duration::from_nanos(100),
                burst: 1_000_000,
                key: Vec::new(),
                shared: None,
            }]),
        ],
        policy: CallPolicy { timeout: Some(Duration::from_secs(10)), ..CallPolicy::default() },
        ..Rule::forward("all/0", id.clone())
    };
    let service = Service { protocol, balance: Balance::LeastLatency, ..Service::new(id.clone()) };
    let endpoint = Endpoint::new(RevisionId::new("r1"), Target::Address(backend.to_owned()));
    Ok(vec![
        Resource::Listener(Listener::new(
            "front",
            listen,
            Protocol::Http,
            Role::Gateway { routes: "all".into() },
        )),
        Resource::Routes(Routes {
            name: "all".into(),
            hosts: vec![VirtualHost { names: vec!["*".into()], rules: vec![rule] }],
            trusted: false,
        }),
        Resource::Service(service),
        Resource::Endpoints(Endpoints { service: id, list: vec![endpoint] }),
    ])
}
