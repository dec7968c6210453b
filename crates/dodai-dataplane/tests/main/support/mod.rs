//! A base with a gateway and an outbound listener, and peers that read and write raw bytes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dodai_core::id::{AppId, BaseId, InstanceId, RevisionId, ServiceId};
use dodai_core::record::{Brief, Heeds, Record, Sink};
use dodai_core::snapshot::{
    Action, Backend, Balance, CallPolicy, Endpoint, Endpoints, Filter, Listener, Protocol, Resource, Role,
    Routes, Rule, Service, Snapshot, Target, VirtualHost,
};
use dodai_dataplane::limits::Limits;
use dodai_dataplane::plane::{Config, DataPlane};
use dodai_transport::memory::{Host, Net};
use dodai_transport::network::{self, Network};
use dodai_transport::stream::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::LocalSet;

pub const GATEWAY: [u8; 4] = [10, 0, 0, 1];
/// How long a test waits for anything, in paused time.
const PATIENCE: Duration = Duration::from_secs(7200);

pub fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Runs a test on a `LocalSet`, as a data-plane thread does.
pub async fn local<F: Future<Output = ()>>(test: F) {
    LocalSet::new().run_until(test).await;
}

/// Starts a peer's script beside the test; the test awaits it.
#[expect(clippy::disallowed_methods, reason = "a test's peers have no tracker; the test awaits them")]
pub fn beside<F: Future<Output = T> + 'static, T: 'static>(script: F) -> tokio::task::JoinHandle<T> {
    tokio::task::spawn_local(script)
}

/// Every record of every call, with what was asked for.
#[derive(Default)]
pub struct Records(Mutex<Vec<Record>>, Heeds);

impl Sink for Records {
    fn wants(&self, _: &Brief<'_>) -> bool {
        true
    }
    fn heeds(&self) -> Heeds {
        self.1
    }
    fn request_headers(&self, ask: &mut dyn FnMut(&str)) {
        ask("x-asked");
    }
    fn response_headers(&self, ask: &mut dyn FnMut(&str)) {
        ask("x-told");
    }
    fn record(&self, record: &Arc<Record>) {
        self.0.lock().expect("no panic").push(record.as_ref().clone());
    }
}

impl Records {
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }

    /// The next record, once there is one.
    pub async fn next(&self) -> Record {
        for _ in 0..10_000 {
            let first = {
                let mut all = self.0.lock().expect("no panic");
                if all.is_empty() { None } else { Some(all.remove(0)) }
            };
            match first {
                Some(record) => return record,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        panic!("no record came")
    }
}

pub struct World {
    pub net: Net,
    pub plane: DataPlane,
    pub records: Arc<Records>,
}

pub fn id(text: &str) -> ServiceId {
    ServiceId::parse(text).expect("a service id")
}

pub fn app(text: &str) -> AppId {
    AppId::parse(text).expect("an app id")
}

pub fn backend_addr(last: u8) -> SocketAddr {
    ([10, 0, 1, last], 8000).into()
}

pub fn service(text: &str) -> Service {
    Service { balance: Balance::RoundRobin, ..Service::new(id(text)) }
}

pub fn endpoint(last: u8, revision: &str) -> Endpoint {
    let target = Target::Address(backend_addr(last).to_string());
    Endpoint::new(RevisionId::new(revision), target)
}

pub fn instance(name: &str) -> Endpoint {
    let target = Target::Instance { instance: InstanceId::new(name), base: BaseId::new("b"), mesh: None };
    Endpoint::new(RevisionId::new("r1"), target)
}

pub fn endpoints(text: &str, list: Vec<Endpoint>) -> Resource {
    Resource::Endpoints(Endpoints { service: id(text), list })
}

pub fn to(text: &str) -> Backend {
    Backend::new(id(text))
}

pub fn rule(action: Action) -> Rule {
    Rule { name: "r".into(), matches: vec![], filters: vec![], action, policy: CallPolicy::default() }
}

pub fn filtered(filters: Vec<Filter>) -> Rule {
    Rule { filters, ..rule(Action::Forward(vec![to("shop/catalog/http")])) }
}

pub fn routes(rules: Vec<Rule>) -> Resource {
    let hosts = vec![VirtualHost { names: vec!["*".into()], rules }];
    Resource::Routes(Routes { name: "all".into(), hosts, trusted: false })
}

pub fn listener(name: &str, port: u16, role: Role) -> Resource {
    let address = (GATEWAY, port).into();
    Resource::Listener(Listener::new(name, address, Protocol::Http, role))
}

pub fn gateway() -> Resource {
    listener("gateway", 80, Role::Gateway { routes: "all".into() })
}

pub fn outbound() -> Resource {
    listener("outbound", 81, Role::Outbound { app: app("shop/front") })
}

/// A gateway and an outbound listener in front of `catalog`, which is at backend 1.
pub fn usual(catalog: Service, rule: Rule) -> Vec<Resource> {
    let list = endpoints("shop/catalog/http", vec![endpoint(1, "r1")]);
    vec![gateway(), outbound(), routes(vec![rule]), Resource::Service(catalog), list]
}

impl World {
    pub async fn plain() -> World {
        World::of(usual(service("shop/catalog/http"), filtered(vec![]))).await
    }

    pub async fn of(resources: Vec<Resource>) -> World {
        World::with(Limits::default(), resources).await
    }

    pub async fn with(limits: Limits, resources: Vec<Resource>) -> World {
        let world = World::bare(limits);
        world.apply(resources).await;
        world
    }

    pub fn bare(limits: Limits) -> World {
        World::on(Net::new(), limits, None)
    }

    pub fn on(net: Net, limits: Limits, mesh: Option<dodai_dataplane::mesh::Mesh>) -> World {
        World::at(net, GATEWAY, "b", limits, mesh)
    }

    pub fn at(
        net: Net,
        ip: [u8; 4],
        base: &str,
        limits: Limits,
        mesh: Option<dodai_dataplane::mesh::Mesh>,
    ) -> World {
        World::start(net, ip, base, limits, mesh, None)
    }

    /// A base that asks for what it has not been told of.
    pub fn asking(ask: dodai_dataplane::demand::Ask) -> World {
        let demand = dodai_dataplane::demand::Demand::new(Default::default(), ask);
        World::start(Net::new(), GATEWAY, "b", Limits::default(), None, Some(demand))
    }

    /// A base whose sink asks for more than plain records.
    pub fn heeding(heeds: Heeds) -> World {
        World::recording(
            Net::new(),
            GATEWAY,
            "b",
            Limits::default(),
            None,
            None,
            Records(Mutex::default(), heeds),
        )
    }

    fn start(
        net: Net,
        ip: [u8; 4],
        base: &str,
        limits: Limits,
        mesh: Option<dodai_dataplane::mesh::Mesh>,
        demand: Option<dodai_dataplane::demand::Demand>,
    ) -> World {
        World::recording(net, ip, base, limits, mesh, demand, Records::default())
    }

    fn recording(
        net: Net,
        ip: [u8; 4],
        base: &str,
        limits: Limits,
        mesh: Option<dodai_dataplane::mesh::Mesh>,
        demand: Option<dodai_dataplane::demand::Demand>,
        records: Records,
    ) -> World {
        let records = Arc::new(records);
        let plane = DataPlane::start(Config {
            base: BaseId::new(base),
            limits,
            network: Network::Memory(net.host(ip)),
            threads: 0,
            sinks: vec![records.clone()],
            sample_per_ten_thousand: 0,
            mesh,
            demand,
            data_dir: std::path::PathBuf::new(),
            roots: Default::default(),
        })
        .expect("started");
        World { net, plane, records }
    }

    pub async fn apply(&self, resources: Vec<Resource>) {
        self.plane.apply(&Snapshot::of(1, resources)).await.expect("applied").all_open().expect("open");
        settle().await;
    }

    /// A listening backend.
    pub fn backend(&self, last: u8) -> Peers {
        Peers(listen(&self.net.host([10, 0, 1, last]), 8000))
    }

    pub async fn client(&self) -> Peer {
        self.client_of(80).await
    }

    pub async fn client_of(&self, port: u16) -> Peer {
        self.try_client(port).await.expect("connected")
    }

    pub async fn try_client(&self, port: u16) -> Option<Peer> {
        let network = Network::Memory(self.net.host([10, 0, 0, 5]));
        network.connect_addr((GATEWAY, port).into(), secs(1)).await.ok().map(Peer::new)
    }
}

pub fn listen(host: &Host, port: u16) -> network::Listener {
    Network::Memory(host.clone()).listen(([0, 0, 0, 0], port).into(), &Default::default()).expect("listening")
}

/// Lets every task run until it waits.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Accepts connections for a test.
pub struct Peers(pub network::Listener);

impl Peers {
    pub async fn accept(&mut self) -> Peer {
        let (stream, _) = patient(self.0.accept()).await.expect("accepted");
        Peer::new(stream)
    }

    /// Whether nobody connects for a while.
    pub async fn is_left_alone(&mut self) -> bool {
        tokio::time::timeout(secs(1), self.0.accept()).await.is_err()
    }
}

async fn patient<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("something happened in time")
}

/// Answers every call at a backend with its own number.
pub fn answer_with_number(world: &World, last: u8) {
    let mut backends = world.backend(last);
    beside(async move {
        loop {
            let mut backend = backends.accept().await;
            beside(async move {
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{last}");
                while backend.try_head().await.is_some() {
                    backend.send(&answer).await;
                }
            });
        }
    });
}

/// One end of a connection.
pub struct Peer {
    pub stream: Stream,
    seen: Vec<u8>,
}

/// A message as it came: head as text, body without its coding, trailers as text.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub head: String,
    pub body: String,
    pub trailers: String,
}

impl Message {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers(name);
        let first = all.next();
        assert!(all.next().is_none(), "{name} is repeated in {}", self.head);
        first
    }

    pub fn headers<'a, 'b>(&'a self, name: &'b str) -> impl Iterator<Item = &'a str> + use<'a, 'b> {
        let lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        let named = lines.filter(move |(found, _)| found.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim_matches([' ', '\t']))
    }
}

impl Peer {
    pub fn new(stream: Stream) -> Peer {
        Peer { stream, seen: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        patient(self.stream.write_all(bytes.as_ref())).await.expect("written");
        patient(self.stream.flush()).await.expect("flushed");
    }

    /// Writes as long as the other side lets us.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        patient(self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    pub async fn finish(&mut self) {
        patient(self.stream.shutdown()).await.expect("shut down");
    }

    async fn more(&mut self) -> bool {
        matches!(patient(self.stream.read_buf(&mut self.seen)).await, Ok(got) if got > 0)
    }

    /// Exactly `count` bytes.
    pub async fn take(&mut self, count: usize) -> Vec<u8> {
        while self.seen.len() < count {
            assert!(self.more().await, "the end came after {:?}", String::from_utf8_lossy(&self.seen));
        }
        self.seen.drain(..count).collect()
    }

    pub async fn text(&mut self, count: usize) -> String {
        String::from_utf8(self.take(count).await).expect("text")
    }

    /// Everything up to and with `end`.
    pub async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.seen.windows(end.len()).position(|window| window == end.as_bytes()) {
                return self.text(at + end.len()).await;
            }
            assert!(self.more().await, "the end came after {:?}", String::from_utf8_lossy(&self.seen));
        }
    }

    /// The same; `None` if the other side ends before that.
    pub async fn try_until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.seen.windows(end.len()).position(|window| window == end.as_bytes()) {
                return Some(self.text(at + end.len()).await);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// The next head; `None` if the other side ends before it begins.
    pub async fn try_head(&mut self) -> Option<String> {
        if self.seen.is_empty() && !self.more().await {
            return None;
        }
        Some(self.head().await)
    }

    /// A message with the body its head announces; responses to HEAD are read with `head`.
    pub async fn message(&mut self) -> Message {
        let head = self.head().await;
        let mut message = Message { head, body: String::new(), trailers: String::new() };
        if message.header("transfer-encoding").is_some() {
            loop {
                let line = self.until("\r\n").await;
                let size = usize::from_str_radix(line.trim_end().split(';').next().unwrap_or(""), 16)
                    .expect("a size");
                if size == 0 {
                    break;
                }
                message.body.push_str(&self.text(size).await);
                assert_eq!(self.text(2).await, "\r\n");
            }
            loop {
                let line = self.until("\r\n").await;
                if line == "\r\n" {
                    break;
                }
                message.trailers.push_str(&line);
            }
        } else if let Some(length) = message.header("content-length") {
            let length = length.parse().expect("a length");
            message.body = self.text(length).await;
        }
        message
    }

    /// Everything until the other side ends.
    pub async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8(std::mem::take(&mut self.seen)).expect("text")
    }

    /// As [`Peer::rest`], of what need not be text.
    pub async fn rest_bytes(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.seen)
    }

    /// What the other side still says, and whether it ends in order, not with a reset.
    pub async fn end(&mut self) -> (String, bool) {
        loop {
            match patient(self.stream.read_buf(&mut self.seen)).await {
                Ok(1..) => {}
                end => {
                    let rest = String::from_utf8(std::mem::take(&mut self.seen)).expect("text");
                    return (rest, end.is_ok());
                }
            }
        }
    }

    /// Asserts that the other side ends without a further byte.
    pub async fn ended(&mut self) {
        assert_eq!(self.rest().await, "");
    }

    /// Whether nothing comes for a moment.
    pub async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(20), self.more()).await.is_err()
    }

    /// Sends a request and reads the answer.
    pub async fn ask(&mut self, request: &str) -> Message {
        self.send(request).await;
        self.message().await
    }

    /// Reads a request and answers it.
    pub async fn answer(&mut self, response: &str) -> Message {
        let message = self.message().await;
        self.send(response).await;
        message
    }
}

pub const GET: &str = "GET /a?q=1 HTTP/1.1\r\nHost: shop.example\r\n\r\n";
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
