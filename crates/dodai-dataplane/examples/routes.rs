//! What a long list of rules costs a call: `routes [CALLS]`.
//!
//! A gateway with 1 rule and one with 1,000 (hosts, prefixes, expressions and required headers, mixed; the one that
//! matches stands last) carry the same call in turns, from a client to an endpoint that are tasks of the same thread, so
//! that all the work there is on a call counts and nothing waits. Printed is what the calls took of the processor, the
//! ratio, and what finding the rule takes by itself. Build it with optimisations.

use std::rc::Rc;
use std::time::Duration;

use dodai_core::call::Caller;
use dodai_core::head::{RawHeader, RawRequest, RequestHead};
use dodai_core::id::{BaseId, RevisionId, ServiceId};
use dodai_core::snapshot::{
    Action, Backend, CallPolicy, Endpoint, Endpoints, Listener, Match, PathMatch, Protocol, Resource, Role,
    Routes, Rule, Service, Snapshot, Target, ValueMatch, ValuePattern, VirtualHost,
};
use dodai_core::task::{Kind, Tasks};
use dodai_dataplane::limits::Limits;
use dodai_dataplane::plane::{Config, DataPlane};
use dodai_dataplane::route::Router;
use dodai_transport::memory::Net;
use dodai_transport::network::Network;
use dodai_transport::stream::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::LocalSet;

type Failed = Box<dyn std::error::Error>;

const GATEWAY: [u8; 4] = [10, 0, 0, 1];
const BACKEND: [u8; 4] = [10, 0, 1, 1];
const REQUEST: &[u8] =
    b"GET /last/item/17?q=1 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: routes\r\nAccept: */*\r\n\
    Accept-Encoding: gzip\r\nX-Request-Id: 3b1f\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// What a call by the last of many rules may cost, where one by a single rule costs 1.
const BAR: f64 = 1.1;
/// Turns that each of the two gets.
const ROUNDS: usize = 15;

fn main() -> Result<(), Failed> {
    let calls = std::env::args().nth(1).map_or(Ok(20_000), |text| text.parse::<usize>())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(compare(calls)))
}

async fn compare(calls: usize) -> Result<(), Failed> {
    let tasks = Tasks::new();
    let id = ServiceId::parse("shop/catalog/http")?;
    let (few, lots) = (rules(1, &id), rules(1_000, &id));
    let mut one = Way::open(few.clone(), &id, &tasks).await?;
    let mut many = Way::open(lots.clone(), &id, &tasks).await?;
    let (mut by_one, mut by_many) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        by_one += one.run(calls).await?;
        by_many += many.run(calls).await?;
    }
    println!("call, 1 rule:      {:8.0} ns", each(by_one, calls));
    println!("call, 1000 rules:  {:8.0} ns", each(by_many, calls));
    let ratio = each(by_many, calls) / each(by_one, calls);
    println!("ratio:             {ratio:8.3}");
    println!("finding, 1 rule:   {:8.0} ns", finding(&few, calls)?);
    println!("finding, 1000:     {:8.0} ns", finding(&lots, calls)?);
    if ratio > BAR { Err(format!("the bar is missed: {ratio:.3} is more than {BAR}").into()) } else { Ok(()) }
}

/// What this thread has had of a processor so far: on a busy machine the clock says little.
fn spent() -> Result<Duration, Failed> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split(' ').next().ok_or("schedstat is empty")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

/// What finding the rule takes, in nanoseconds.
fn finding(hosts: &[VirtualHost], calls: usize) -> Result<f64, Failed> {
    let routes = Routes { name: "all".into(), hosts: hosts.to_vec(), trusted: false };
    let router = Router::compile(&routes, &std::sync::Arc::new(Resource::Routes(routes.clone())), None)?;
    let headers = [
        ("Host", "shop.example"),
        ("User-Agent", "routes"),
        ("Accept", "*/*"),
        ("Accept-Encoding", "gzip"),
        ("X-Request-Id", "3b1f"),
    ];
    let headers = headers.map(|(name, value)| RawHeader { name, value: value.as_bytes() });
    let head = RequestHead::Raw(RawRequest {
        method: "GET",
        target: "/last/item/17?q=1",
        authority: "shop.example",
        headers: &headers,
    });
    let start = spent()?;
    for _ in 0..calls * ROUNDS {
        let found = router.route(std::hint::black_box(&head), &Caller::Outside);
        std::hint::black_box(found.ok_or("no rule matches")?);
    }
    Ok(each(spent()? - start, calls))
}

/// One of the calls of all rounds, in nanoseconds.
fn each(all: Duration, calls: usize) -> f64 {
    all.as_nanos() as f64 / (calls * ROUNDS) as f64
}

/// So many rules in all, the one that matches last.
fn rules(count: usize, service: &ServiceId) -> Vec<VirtualHost> {
    let rule = |name: String, wanted: Match| Rule {
        name,
        matches: vec![wanted],
        filters: vec![],
        action: Action::Forward(vec![Backend::new(service.clone())]),
        policy: CallPolicy::default(),
    };
    let on = |path| Match { path: Some(path), ..Match::default() };
    let (mut hosts, mut here) = (Vec::new(), Vec::new());
    for n in 1..count {
        let wanted = match n % 4 {
            0 => {
                let wanted = on(PathMatch::Prefix("/".into()));
                let names = vec![format!("host-{n}.example")];
                hosts.push(VirtualHost { names, rules: vec![rule(format!("host/{n}"), wanted)] });
                continue;
            }
            1 => on(PathMatch::Prefix(format!("/prefix-{n}/items"))),
            2 => on(PathMatch::Regex(format!("/(v1|v2)/regex-{n}/[0-9]+"))),
            _ => {
                let value = ValuePattern::Exact(n.to_string());
                Match { headers: vec![ValueMatch { name: "x-tenant".into(), value }], ..Match::default() }
            }
        };
        here.push(rule(format!("rule/{n}"), wanted));
    }
    here.push(rule("last".into(), on(PathMatch::Prefix("/last/item".into()))));
    hosts.push(VirtualHost { names: vec!["shop.example".into()], rules: here });
    hosts
}

/// A client's connection through a gateway of its own.
struct Way {
    client: Stream,
    _plane: Rc<DataPlane>,
}

impl Way {
    async fn open(hosts: Vec<VirtualHost>, id: &ServiceId, tasks: &Tasks) -> Result<Way, Failed> {
        let net = Net::new();
        let backend = Network::Memory(net.host(BACKEND));
        let mut listener = backend.listen(([0, 0, 0, 0], 8000).into(), &Default::default())?;
        tasks.spawn_local(Kind::Loop, async move {
            while let Ok((stream, _)) = listener.accept().await {
                answer(stream).await;
            }
        });
        let plane = DataPlane::start(Config {
            base: BaseId::new("routes"),
            limits: Limits::default(),
            network: Network::Memory(net.host(GATEWAY)),
            threads: 0,
            sinks: Vec::new(),
            sample_per_ten_thousand: 0,
            mesh: None,
            demand: None,
            data_dir: std::path::PathBuf::new(),
            roots: Default::default(),
        })?;
        plane.apply(&Snapshot::of(1, resources(hosts, id))).await?;
        let network = Network::Memory(net.host([10, 0, 0, 5]));
        let client = network.connect_addr((GATEWAY, 80).into(), Duration::from_secs(1)).await?;
        Ok(Way { client, _plane: Rc::new(plane) })
    }

    async fn run(&mut self, calls: usize) -> Result<Duration, Failed> {
        let start = spent()?;
        let mut buffer = [0; 1024];
        for _ in 0..calls {
            self.client.write_all(REQUEST).await?;
            let got = self.client.read(&mut buffer).await?;
            if !buffer[..got].ends_with(b"ok") {
                return Err(String::from_utf8_lossy(&buffer[..got]).into());
            }
        }
        Ok(spent()? - start)
    }
}

async fn answer(mut stream: Stream) {
    let mut buffer = [0; 2048];
    while let Ok(got) = stream.read(&mut buffer).await {
        if got == 0 || stream.write_all(ANSWER).await.is_err() {
            return;
        }
    }
}

fn resources(hosts: Vec<VirtualHost>, id: &ServiceId) -> Vec<Resource> {
    let target = Target::Address(std::net::SocketAddr::from((BACKEND, 8000)).to_string());
    let list = vec![Endpoint::new(RevisionId::new("r1"), target)];
    vec![
        Resource::Listener(Listener::new(
            "front",
            (GATEWAY, 80).into(),
            Protocol::Http,
            Role::Gateway { routes: "all".into() },
        )),
        Resource::Routes(Routes { name: "all".into(), hosts, trusted: false }),
        Resource::Service(Service::new(id.clone())),
        Resource::Endpoints(Endpoints { service: id.clone(), list }),
    ]
}
