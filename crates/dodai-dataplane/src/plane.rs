//! The data plane as a whole: its threads, its listeners, and the table they read.
//!
//! Applying a snapshot compiles it, binds what is new, and only then swaps; if it does not compile, everything
//! stays as it was and the reason goes back. A listener that cannot be opened fails alone, and stays as it was if it
//! was open before. Threads are told about listeners over bounded queues.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use dodai_core::call::Serve;
use dodai_core::id::{AppId, BaseId};
use dodai_core::record::Sink;
use dodai_core::seldom::Seldom;
use dodai_core::snapshot::{Listener, Protocol, Role, Snapshot};
use dodai_core::task::{Cut, Kind, Tasks};
use dodai_transport::datagram;
use dodai_transport::listen::{self, BindError, Options};
use dodai_transport::network::{self, Network};
use dodai_transport::tls::files;
use dodai_transport::tls::public::RootsFrom;
use tokio::net::UdpSocket;
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::arrivals::{Arrivals, Dialled};
use crate::captures::{self, Captures};
use crate::checks;
use crate::connection;
use crate::demand::Demand;
use crate::door::{self, PlaneDoor, Visit};
use crate::gauges::{self, Gauges};
use crate::hosts::{self, Hosts};
use crate::jwt::Sources;
use crate::limits::Limits;
use crate::local::Locals;
use crate::mesh::Mesh;
use crate::roll;
use crate::secure::Outward;
use crate::service;
use crate::shared_rate;
use crate::stats::Stats;
use crate::table::Table;
use crate::timer::TICK;
use crate::tls::Tls;
use crate::udp;
use crate::users::Users;
use crate::worker::{Shared, Worker};

mod applied;
mod look;

pub use applied::{Applied, NotApplied, NotOpen};

/// What a data plane is made with.
pub struct Config {
    /// This base.
    pub base: BaseId,
    /// Limits of the whole base.
    pub limits: Limits,
    /// Where connections come from and go to.
    pub network: Network,
    /// Data-plane threads; 0 runs one worker as a task of the current thread, for tests.
    pub threads: usize,
    /// Who wants call records.
    pub sinks: Vec<Arc<dyn Sink>>,
    /// Of 10,000 calls that start a trace here, how many are sampled.
    pub sample_per_ten_thousand: u16,
    /// How other bases are reached and let in; without it, neither happens.
    pub mesh: Option<Mesh>,
    /// How names are asked for that this base has not been told of; without it, it has been told of all.
    pub demand: Option<Demand>,
    /// Where relative paths of certificates begin.
    pub data_dir: PathBuf,
    /// The roots that hosts outside the mesh are checked against; read when first needed.
    pub roots: RootsFrom,
}

/// A running data plane.
pub struct DataPlane {
    shared: Arc<Shared>,
    door: PlaneDoor,
    commands: Vec<mpsc::Sender<Command>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: watch::Sender<Option<Duration>>,
    stopped: tokio::sync::Mutex<mpsc::Receiver<()>>,
    bound: tokio::sync::Mutex<BTreeMap<String, Bound>>,
    /// The certificate files of bound listeners, for those who look.
    files: ArcSwap<Vec<(String, files::Files)>>,
    /// No snapshot is taken any more.
    closed: AtomicBool,
    data_dir: PathBuf,
}

struct Bound {
    listener: Arc<Listener>,
    address: SocketAddr,
    files: Option<files::Files>,
}

/// Sockets are known by the address they got; TCP and UDP have ports of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    udp: bool,
    address: SocketAddr,
}

impl At {
    fn of(listener: &Listener, address: SocketAddr) -> At {
        At { udp: listener.protocol == Protocol::Udp, address }
    }
}

enum Command {
    Listen {
        at: At,
        listener: Arc<Listener>,
        socket: Socket,
        tls: Option<Tls>,
    },
    /// The socket stays open and serves something else from now on.
    Become {
        at: At,
        listener: Arc<Listener>,
        tls: Option<Tls>,
    },
    Close {
        at: At,
    },
    /// Somebody wants to see who is connected; one thread's answer.
    Roll {
        wanted: Arc<roll::Wanted>,
        answer: mpsc::Sender<Vec<roll::Connection>>,
    },
}

enum Socket {
    Std(std::net::TcpListener),
    Ready(Box<network::Listener>),
    Datagrams(std::net::UdpSocket),
}

impl DataPlane {
    /// Starts the threads. No listener is open until a snapshot is applied.
    pub fn start(config: Config) -> std::io::Result<DataPlane> {
        let shared = Arc::new(Shared {
            base: config.base,
            table: ArcSwap::from_pointee(Table::empty()),
            epoch: AtomicU64::new(0),
            limits: config.limits,
            locals: Arc::new(Locals::default()),
            users: Arc::default(),
            apis: ArcSwap::default(),
            stats: Arc::new(Stats::default()),
            gauges: Gauges::default(),
            holdings: Arc::default(),
            arrivals: Arrivals::default(),
            dialled: Dialled::default(),
            not_accepted: Seldom::default(),
            not_http: Seldom::default(),
            captures: Captures::default(),
            sinks: config.sinks,
            network: config.network,
            sample_per_ten_thousand: config.sample_per_ten_thousand,
            mesh: config.mesh,
            key_sources: Sources::new(config.data_dir.clone()),
            hosts: Hosts::default(),
            datagrams: udp::Counts::default(),
            demand: config.demand,
            outward: Outward::new(config.roots, config.data_dir.clone()),
        });
        let (stop, stopping) = watch::channel(None);
        let (ended, stopped) = mpsc::channel(1);
        let (mut commands, mut visits, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..config.threads.max(1) {
            let (command, commands_in) = mpsc::channel(64);
            let (visit, visits_in) = mpsc::channel(shared.limits.door_queue);
            commands.push(command);
            visits.push(visit);
            let inbox = Inbox {
                commands: commands_in,
                visits: visits_in,
                stop: stopping.clone(),
                ended: ended.clone(),
            };
            let shared = shared.clone();
            if config.threads == 0 {
                let tasks = Tasks::new();
                // Tests drive time by hand, so their worker is a task among the test's own.
                Tasks::new().spawn_local(Kind::Loop, run(shared, tasks, inbox));
            } else {
                let thread = std::thread::Builder::new().name(format!("data-{index}"));
                threads.push(thread.spawn(move || run_thread(shared, inbox))?);
            }
        }
        let door = PlaneDoor::new(visits, &shared);
        Ok(DataPlane {
            shared,
            door,
            commands,
            threads: Mutex::new(threads),
            stop,
            stopped: tokio::sync::Mutex::new(stopped),
            bound: tokio::sync::Mutex::default(),
            files: ArcSwap::default(),
            closed: AtomicBool::new(false),
            data_dir: config.data_dir,
        })
    }

    /// The way in for calls from inside the base.
    pub fn door(&self) -> PlaneDoor {
        self.door.clone()
    }

    /// Instances on this base.
    pub fn locals(&self) -> &Arc<Locals> {
        &self.shared.locals
    }

    /// The users that apps on this base run as.
    pub fn users(&self) -> &Arc<Users> {
        &self.shared.users
    }

    /// Call counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.shared.stats
    }

    /// How full connections, pools and queues are.
    pub fn gauges(&self) -> gauges::Reading {
        let (door_queued, door_capacity) = self.door.queued();
        let clients_limit = self.shared.limits.client_connections * self.commands.len();
        let now = service::now_nanos();
        let table = self.shared.table.load();
        let all = || table.services().flat_map(|service| service.endpoints());
        gauges::Reading {
            door_queued,
            door_capacity,
            clients_limit,
            endpoints_ejected: all().filter(|one| one.standing.is_ejected(now)).count(),
            endpoints_unwell: all().filter(|one| one.standing.is_unwell()).count(),
            datagrams: self.shared.datagrams.read(),
            captured: self.shared.captures.read(),
            ..self.shared.gauges.read()
        }
    }

    /// The live table.
    pub fn table(&self) -> Arc<Table> {
        self.shared.table.load_full()
    }

    /// Whether `host` names something in the mesh to a caller in `namespace`; asks for it if this base has not been
    /// told. Cancel safe.
    pub async fn knows(&self, host: &str, namespace: &str) -> bool {
        if let Some(app) = self.shared.asks_for(host, namespace) {
            self.shared.wait_for(&app).await;
        }
        self.shared.table.load().knows(host, namespace)
    }

    /// Sets the runtime API of one app; `None` takes it away.
    pub fn set_api(&self, app: &AppId, api: Option<Arc<dyn Serve>>) {
        self.shared.apis.rcu(|apis| {
            let mut apis = apis.as_ref().clone();
            match &api {
                Some(api) => apis.insert(app.clone(), api.clone()),
                None => apis.remove(app),
            };
            apis
        });
    }

    /// Makes `snapshot` the truth, or leaves everything as it was and says why. Listeners that cannot be opened are
    /// told of; applied once more, they are tried again.
    pub async fn apply(&self, snapshot: &Snapshot) -> Result<Applied, NotApplied> {
        let mut bound = self.bound.lock().await;
        if self.closed.load(Relaxed) {
            return Err(NotApplied::Down);
        }
        let old = self.shared.table.load_full();
        let shared = &self.shared;
        let table = Table::compile(snapshot, &old, &shared.base, &shared.locals, &shared.hosts)?;
        self.shared.captures.prepare(table.listeners.values(), &self.shared.network);
        let stays = |listener: &Arc<Listener>, bound: &BTreeMap<String, Bound>| {
            bound.get(&listener.name).is_some_and(|known| *known.listener == **listener)
        };
        // Sockets of listeners that go, by the address that was asked for: a successor takes them over, so that
        // not one connection is refused in between.
        let mut free: BTreeMap<At, String> = BTreeMap::new();
        for (name, known) in bound.iter() {
            let kept = table.listeners.get(name).is_some_and(|listener| **listener == *known.listener);
            if !kept && known.listener.address.port() != 0 {
                free.insert(At::of(&known.listener, known.listener.address), name.clone());
            }
        }
        let (mut fresh, mut not_open) = (Vec::new(), BTreeMap::new());
        for listener in table.listeners.values().filter(|listener| !stays(listener, &bound)) {
            let mesh = self.mesh_tls(listener)?;
            let opened = mesh.map_or_else(|| self.tls(listener), |tls| Ok((Some(tls), None)));
            let opened = opened.and_then(|(tls, files)| {
                let source = match free.remove(&At::of(listener, listener.address)) {
                    Some(was) => Source::Taken { address: bound[&was].address, was },
                    None => self.bind(listener)?,
                };
                Ok((listener.clone(), tls, files, source))
            });
            match opened {
                Ok(opened) => fresh.push(opened),
                Err(NotOpen::Bind(source)) if captures::is_dispensable(listener, &source) => {
                    tracing::info!(listener = listener.name, reason = %source, "connections over IPv6 are not intercepted");
                }
                Err(why) => drop(not_open.insert(listener.name.clone(), why)),
            }
        }
        let listeners = table.listeners.clone();
        self.shared.table.store(Arc::new(table));
        self.shared.epoch.fetch_add(1, Release);
        shared_rate::set(self.shared.table.load().limits(), snapshot.shares());
        if let Some(demand) = &self.shared.demand {
            demand.told();
        }
        let mut old = std::mem::take(&mut *bound);
        for (listener, tls, files, source) in fresh {
            let (name, address) = (listener.name.clone(), source.address());
            let at = At::of(&listener, address);
            match source {
                Source::Taken { was, .. } => {
                    old.remove(&was);
                    let tell = || Command::Become { at, listener: listener.clone(), tls: tls.clone() };
                    self.tell(tell).await?;
                }
                Source::Bound { sockets, .. } => {
                    for (thread, socket) in self.commands.iter().zip(sockets) {
                        let command =
                            Command::Listen { at, listener: listener.clone(), socket, tls: tls.clone() };
                        thread.send(command).await.map_err(|_| NotApplied::Down)?;
                    }
                }
            }
            bound.insert(name, Bound { listener, address, files });
        }
        for (name, known) in old {
            let stays = listeners.get(&name).is_some_and(|listener| **listener == *known.listener);
            if stays || not_open.contains_key(&name) {
                bound.insert(name, known);
            } else {
                self.tell(|| Command::Close { at: At::of(&known.listener, known.address) }).await?;
            }
        }
        let with_files = bound.iter().filter_map(|(name, one)| Some((name.clone(), one.files.clone()?)));
        self.files.store(Arc::new(with_files.collect()));
        let listeners = bound.iter().map(|(name, bound)| (name.clone(), bound.address)).collect();
        Ok(Applied { listeners, not_open })
    }

    /// Reads the listeners' certificate files again; connections stay, and new ones get what is new. What cannot
    /// be used stays as it was and is reported.
    pub async fn reload_certificates(&self) -> Vec<(String, files::BadFiles)> {
        let bound = self.bound.lock().await;
        let mut bad = Vec::new();
        for (name, bound) in bound.iter() {
            match bound.files.as_ref().map(files::Files::reload) {
                Some(Ok(true)) => tracing::info!(listener = name, "the certificates were replaced"),
                Some(Err(error)) => bad.push((name.clone(), error)),
                Some(Ok(false)) | None => {}
            }
        }
        bad
    }

    async fn tell(&self, command: impl Fn() -> Command) -> Result<(), NotApplied> {
        for thread in &self.commands {
            thread.send(command()).await.map_err(|_| NotApplied::Down)?;
        }
        Ok(())
    }

    /// Binds a listener for every thread.
    fn bind(&self, listener: &Arc<Listener>) -> Result<Source, BindError> {
        let captures = matches!(listener.role, Role::Captured(_));
        let mark = if captures { self.shared.captures.mark() } else { 0 };
        let named = Options::named(listener.name.clone());
        let options = Options { reuse_port: true, captures, mark, ..named };
        let asked = listener.address;
        match &self.shared.network {
            _ if listener.protocol == Protocol::Udp => {
                let sockets = datagram::bind_set(asked, self.commands.len(), &options)?;
                let address = sockets.first().and_then(|socket| socket.local_addr().ok()).unwrap_or(asked);
                Ok(Source::Bound { sockets: sockets.into_iter().map(Socket::Datagrams).collect(), address })
            }
            Network::System(_) => {
                let sockets = listen::bind_set(asked, self.commands.len(), &options)?;
                let address = sockets.first().and_then(|socket| socket.local_addr().ok()).unwrap_or(asked);
                Ok(Source::Bound { sockets: sockets.into_iter().map(Socket::Std).collect(), address })
            }
            Network::Memory(_) => {
                let socket = self.shared.network.listen(asked, &options)?;
                let address = socket.local_addr().unwrap_or(asked);
                Ok(Source::Bound { sockets: vec![Socket::Ready(Box::new(socket))], address })
            }
        }
    }

    /// The TLS of a listener for other bases.
    fn mesh_tls(&self, listener: &Arc<Listener>) -> Result<Option<Tls>, NotApplied> {
        if listener.role != Role::Mesh {
            return Ok(None);
        }
        let mesh = self.shared.mesh.as_ref();
        let mesh = mesh.ok_or_else(|| NotApplied::NoMesh { listener: listener.name.clone() })?;
        Ok(Some(Tls::ending(mesh.acceptor.clone())))
    }

    /// What any other listener does with TLS, and the files behind it.
    fn tls(&self, listener: &Arc<Listener>) -> Result<(Option<Tls>, Option<files::Files>), NotOpen> {
        let Some(spec) = &listener.tls else { return Ok((None, None)) };
        let (tls, files) = Tls::load(spec, listener.protocol, &self.data_dir)?;
        Ok((Some(tls), files))
    }

    /// Lets nobody in from outside any more: gateways and the listener for other bases close, their connections end
    /// after the call under way. Calls between what runs here go on. Later snapshots are not taken.
    pub async fn close_edges(&self) {
        let mut bound = self.bound.lock().await;
        self.closed.store(true, Relaxed);
        let edges =
            bound.values().filter(|one| matches!(one.listener.role, Role::Gateway { .. } | Role::Mesh));
        for at in edges.map(|one| At::of(&one.listener, one.address)).collect::<Vec<_>>() {
            if self.tell(|| Command::Close { at }).await.is_err() {
                return;
            }
        }
        bound.retain(|_, one| !matches!(one.listener.role, Role::Gateway { .. } | Role::Mesh));
    }

    /// Stops accepting, lets calls end until `deadline`, then cuts what is left.
    pub async fn drain(&self, deadline: Duration) {
        self.stop.send_replace(Some(deadline));
        let _all_ended = self.stopped.lock().await.recv().await;
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a data-plane thread panicked");
            }
        }
    }
}

/// Where a new listener's socket comes from.
enum Source {
    /// Bound just now.
    Bound { sockets: Vec<Socket>, address: SocketAddr },
    /// From a listener that goes.
    Taken { was: String, address: SocketAddr },
}

impl Source {
    fn address(&self) -> SocketAddr {
        match self {
            Source::Bound { address, .. } | Source::Taken { address, .. } => *address,
        }
    }
}

/// What a thread is told.
struct Inbox {
    commands: mpsc::Receiver<Command>,
    visits: mpsc::Receiver<Visit>,
    stop: watch::Receiver<Option<Duration>>,
    /// Dropped when the thread is done.
    ended: mpsc::Sender<()>,
}

fn run_thread(shared: Arc<Shared>, inbox: Inbox) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a data-plane thread has no runtime"),
    };
    runtime.block_on(run(shared, Tasks::new(), inbox));
}

/// One thread's life: take commands and calls until told to stop, then drain.
async fn run(shared: Arc<Shared>, tasks: Tasks, inbox: Inbox) {
    let Inbox { mut commands, visits, mut stop, ended } = inbox;
    let worker = Rc::new(Worker::new(shared, tasks.clone()));
    tasks.spawn_local(Kind::Listener, door::serve(worker.clone(), visits));
    // Not a task of the tracker: deadlines must fire until the last call has drained.
    let mut sweeping = Box::pin(sweep(worker.clone()));
    let mut listeners = Listeners::new();
    let deadline = loop {
        tokio::select! {
            // Receiving and waiting for a change are both cancel safe, and so is the sweep's tick.
            command = commands.recv() => match command {
                Some(command) => obey(&worker, &mut listeners, command),
                None => break Duration::ZERO,
            },
            changed = stop.changed() => match (changed, *stop.borrow()) {
                (Err(_), _) => break Duration::ZERO,
                (Ok(()), Some(deadline)) => break deadline,
                (Ok(()), None) => {}
            },
            () = &mut sweeping => {}
        }
    };
    worker.close();
    worker.deadlines.interrupt();
    worker.pools.close();
    worker.h2.close();
    let cut = tokio::select! {
        cut = tasks.drain(deadline) => cut,
        () = sweeping => Cut::default(),
    };
    if !cut.is_empty() {
        tracing::warn!(cut = ?cut.0, "calls were cut at the drain deadline");
    }
    drop(ended);
}

/// The accept loops of one thread by address, with what they serve at the moment.
type Listeners = BTreeMap<At, (AbortHandle, Rc<connection::Serving>)>;

fn obey(worker: &Rc<Worker>, listeners: &mut Listeners, command: Command) {
    match command {
        Command::Listen { at, listener, socket, tls } => {
            let name = listener.name.clone();
            let serving = Rc::new(connection::Serving::new(listener, tls, worker));
            let accept = |socket| connection::accept(worker.clone(), serving.clone(), socket);
            let spawned = match socket {
                Socket::Ready(socket) => Ok(worker.tasks.spawn_local(Kind::Listener, accept(*socket))),
                Socket::Std(socket) => network::Listener::from_std(socket)
                    .map(|socket| worker.tasks.spawn_local(Kind::Listener, accept(socket))),
                Socket::Datagrams(socket) => UdpSocket::from_std(socket)
                    .map(|socket| udp::serve(worker.clone(), serving.clone(), socket))
                    .map(|serve| worker.tasks.spawn_local(Kind::Listener, serve)),
            };
            match spawned {
                Ok(task) => drop(listeners.insert(at, (task, serving))),
                Err(error) => tracing::error!(listener = name, %error, "cannot listen"),
            }
        }
        Command::Become { at, listener, tls } => {
            if let Some((_, serving)) = listeners.get(&at) {
                serving.replace(listener, tls, worker);
            }
        }
        Command::Close { at } => {
            if let Some((task, _)) = listeners.remove(&at) {
                task.abort();
            }
        }
        Command::Roll { wanted, answer } => {
            // Who asked may be gone.
            let _gone = answer.try_send(worker.roll.read(&wanted, Instant::now()));
        }
    }
}

/// Fires deadlines, closes idle connections, gives memory back.
async fn sweep(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0u32;
    loop {
        let now = ticks.tick().await;
        worker.tick(now);
        worker.deadlines.sweep(now);
        let epoch = worker.shared.epoch.load(Acquire);
        worker.live.review(&worker.shared.table.load(), epoch);
        count = count.wrapping_add(1);
        if count.is_multiple_of(20) {
            let longest = worker.shared.limits.pool_idle_timeout;
            worker.leave();
            worker.pools.sweep(now, longest);
            worker.h2.sweep(now, longest);
            checks::sweep(&worker, now);
            hosts::sweep(&worker, now);
            worker.publish();
            worker.shared.key_sources.renew(&worker);
        }
        if count.is_multiple_of(200) {
            worker.shrink();
        }
    }
}
