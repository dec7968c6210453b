//! A cluster in one thread: control over a store that outlives it, bases, and what connects them.
//!
//! Call it within a `LocalSet` under paused time. Control may be killed and started again, bases too; the
//! store and what was acknowledged stay.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dodai_api::{Document, Located};
use dodai_control::control::{Control, Settings};
use dodai_control::documents::{Apply, Artifacts, FieldOwner};
use dodai_control::snapshot::BaseSettings;
use dodai_core::id::{AppId, BaseId, Digest};
use dodai_core::task::Tasks;
use dodai_store::{MemoryStore, Store};
use dodai_transport::memory::Net;
use dodai_transport::network::Network;
use dodai_transport::tls::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::mesh::Issuer;
use crate::node::Node;
use crate::seed::Seed;
use crate::wire::Wire;

/// Where bases reach each other.
const MESH_PORT: u16 = 15_008;
/// How long a call may take before the caller gives up.
const PATIENCE: Duration = Duration::from_secs(90);

/// A cluster.
pub struct Cluster {
    net: Net,
    issuer: Issuer,
    store: Arc<dyn Store>,
    clock: Clock,
    control: Option<(Control, Tasks)>,
    bases: Vec<Member>,
    seed: Seed,
    tasks: Tasks,
}

/// One base's place; the base itself may be away.
struct Member {
    id: BaseId,
    ip: IpAddr,
    node: Option<(Node, Tasks)>,
    wire: Option<Wire>,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Called {
    /// The status and the body of the answer.
    Answered(u16, String),
    /// The connection failed, or nothing came in time.
    Lost(String),
}

/// The digest of an artefact is made of its name.
struct ByName;

impl Artifacts for ByName {
    fn module(&self, _app: &AppId, artifact: &str) -> Result<Digest, String> {
        let hex: String = artifact.bytes().cycle().take(32).map(|byte| format!("{byte:02x}")).collect();
        Ok(Digest::new(format!("sha256:{hex}")))
    }
}

impl Cluster {
    /// A cluster of `bases` bases that may run `apps`. Control and the bases run and are connected.
    pub async fn start(bases: u8, apps: &[AppId], mut seed: Seed) -> Cluster {
        let tasks = Tasks::new();
        let (epoch, start) = (UNIX_EPOCH + Duration::from_secs(1_800_000_000), tokio::time::Instant::now());
        let ids: Vec<BaseId> = (1..=bases).map(|number| BaseId::new(format!("base-{number}"))).collect();
        let member = |(at, id): (usize, &BaseId)| {
            let last = u8::try_from(at + 1).expect("few bases");
            Member { id: id.clone(), ip: Ipv4Addr::new(10, 0, 0, last).into(), node: None, wire: None }
        };
        let mut cluster = Cluster {
            net: Net::new(),
            issuer: Issuer::new(apps, &ids),
            store: Arc::new(MemoryStore::new(&tasks)),
            clock: Clock::from_fn(move || -> SystemTime { epoch + start.elapsed() }),
            control: None,
            bases: ids.iter().enumerate().map(member).collect(),
            seed: seed.fork(),
            tasks,
        };
        cluster.start_control().await;
        for at in 0..cluster.len() {
            cluster.start_base(at);
            cluster.join(at, Duration::ZERO).await;
        }
        cluster
    }

    /// How many bases there are, with those that are away.
    pub fn len(&self) -> usize {
        self.bases.len()
    }

    /// Whether there are no bases.
    pub fn is_empty(&self) -> bool {
        self.bases.is_empty()
    }

    /// The running control.
    pub fn control(&self) -> Option<Control> {
        self.control.as_ref().map(|(control, _)| control.clone())
    }

    /// The running base at a place.
    pub fn node(&self, at: usize) -> Option<Node> {
        self.bases[at].node.as_ref().map(|(node, _)| node.clone())
    }

    /// The id of the base at a place.
    pub fn id(&self, at: usize) -> BaseId {
        self.bases[at].id.clone()
    }

    /// Starts control, if it is not running. Bases must be joined again.
    ///
    /// # Panics
    /// When control cannot read its store.
    pub async fn start_control(&mut self) {
        if self.control.is_none() {
            let tasks = Tasks::new();
            let settings =
                Settings { artifacts: Arc::new(ByName), clock: self.clock.clone(), ..Settings::default() };
            let control = Control::start(self.store.clone(), settings, &tasks).await;
            self.control = Some((control.expect("control starts over what is in the store"), tasks));
        }
    }

    /// Ends control wherever it is; nothing of it stays but the store.
    pub async fn kill_control(&mut self) {
        for member in &mut self.bases {
            member.wire = None;
        }
        if let Some((control, tasks)) = self.control.take() {
            drop(control);
            let _cut = tasks.drain(Duration::ZERO).await;
        }
    }

    /// Starts the base at a place, if it is not running. It is not joined yet.
    ///
    /// # Panics
    /// When the data plane cannot start.
    pub fn start_base(&mut self, at: usize) {
        let seed = self.seed.fork();
        let member = &mut self.bases[at];
        if member.node.is_none() {
            let tasks = self.tasks.child();
            let network = Network::Memory(self.net.host(member.ip));
            let mesh = (self.issuer.mesh(&member.id), SocketAddr::new(member.ip, MESH_PORT));
            let node = Node::start(member.id.clone(), network, mesh, seed, &tasks).expect("a base starts");
            member.node = Some((node, tasks));
        }
    }

    /// Ends the base at a place, with all it runs.
    pub async fn kill_base(&mut self, at: usize) {
        let member = &mut self.bases[at];
        member.wire = None;
        if let Some((node, tasks)) = member.node.take() {
            let _cut = tasks.drain(Duration::ZERO).await;
            node.kill().await;
        }
    }

    /// Connects the base at a place to control, if both run; news takes `delay` each way.
    ///
    /// # Panics
    /// When control cannot write down that the base is there.
    pub async fn join(&mut self, at: usize, delay: Duration) {
        let (Some((control, tasks)), member) = (&self.control, &mut self.bases[at]) else { return };
        let Some((node, _)) = &member.node else { return };
        let settings =
            BaseSettings { mesh: Some(SocketAddr::new(member.ip, MESH_PORT)), ..BaseSettings::default() };
        let first = node.status().borrow().clone();
        let link = control.link_again(member.id.clone(), settings, first).await.expect("the base is let in");
        member.wire = Some(Wire::join(link, node.snapshots(), node.status(), delay, tasks));
    }

    /// Cuts the connection between control and the base at a place. Both run on.
    pub fn cut(&mut self, at: usize) {
        self.bases[at].wire = None;
    }

    /// Keeps two bases from reaching each other.
    pub fn partition(&self, a: usize, b: usize) {
        if a != b {
            self.net.partition(self.bases[a].ip, self.bases[b].ip);
        }
    }

    /// Lets two bases reach each other again.
    pub fn reunite(&self, a: usize, b: usize) {
        self.net.heal(self.bases[a].ip, self.bases[b].ip);
    }

    /// Ends every fault: all partitions heal, whoever is away comes back, and everybody is joined.
    pub async fn heal(&mut self) {
        for a in 0..self.len() {
            for b in 0..a {
                self.reunite(a, b);
            }
        }
        self.start_control().await;
        for at in 0..self.len() {
            self.start_base(at);
            self.join(at, Duration::ZERO).await;
        }
    }

    /// Applies documents. `true` is the acknowledgement.
    pub async fn apply(&self, documents: &[Located<Document>]) -> bool {
        let Some(control) = self.control() else { return false };
        let owner = FieldOwner::File;
        control.apply(&Apply { documents, actor: "test", owner, prune: None, dry_run: false }).await.is_ok()
    }

    /// What every base runs, by instance.
    pub fn running(&self) -> BTreeMap<String, (BaseId, AppId)> {
        let mut all = BTreeMap::new();
        for member in &self.bases {
            let Some((node, _)) = &member.node else { continue };
            let mine = node.instances();
            all.extend(mine.into_iter().map(|(id, app)| (id.to_string(), (member.id.clone(), app))));
        }
        all
    }

    /// A user of the network, for calls beside what else happens.
    pub fn user(&self) -> User {
        User { net: self.net.clone(), ips: self.bases.iter().map(|member| member.ip).collect() }
    }
}

/// Somebody who calls gateways.
#[derive(Clone)]
pub struct User {
    net: Net,
    ips: Vec<IpAddr>,
}

impl User {
    /// Calls `host` through the gateway on `port` of the base at a place.
    pub async fn call(&self, at: usize, port: u16, host: &str) -> Called {
        let exchange = async {
            let network = Network::Memory(self.net.host([10, 0, 1, 1]));
            let to = SocketAddr::new(self.ips[at], port);
            let lost = |error: std::io::Error| error.to_string();
            let mut stream = network.connect_addr(to, PATIENCE).await.map_err(|error| error.to_string())?;
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.map_err(lost)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map_err(lost)?;
            Ok(answer)
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Err(_) => Called::Lost("no answer in time".to_owned()),
            Ok(Err(error)) => Called::Lost(error),
            Ok(Ok(answer)) => read(&answer),
        }
    }
}

fn read(answer: &str) -> Called {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    match (status, answer.split_once("\r\n\r\n")) {
        (Some(status), Some((_, body))) => Called::Answered(status, body.to_owned()),
        _ => Called::Lost(format!("the answer was cut: {answer:?}")),
    }
}
