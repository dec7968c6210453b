//! The data plane as a whole: its threads, its listeners, and the table they read.
//!
//! Applying a snapshot compiles it, binds what is new, and only then swaps; if any of that fails, everything
//! stays as it was and the reason goes back. Threads are told about listeners over bounded queues.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use dodai_core::call::Serve;
use dodai_core::id::{AppId, BaseId};
use dodai_core::record::Sink;
use dodai_core::snapshot::{Listener, Snapshot};
use dodai_core::task::{Kind, Tasks};
use dodai_transport::listen::{self, BindError, Options};
use dodai_transport::network::{self, Network};
use dodai_transport::tls::{Acceptor, Alpn, Clock, files};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::connection;
use crate::door::{self, PlaneDoor, Visit};
use crate::limits::Limits;
use crate::local::Locals;
use crate::stats::Stats;
use crate::table::{Refused, Table};
use crate::timer::TICK;
use crate::worker::{Shared, Worker};

/// What a data plane is made with.
pub struct Config {
    /// This base.
    pub base: BaseId,
    /// Limits of the whole base.
    pub limits: Limits,
    /// Where connections come from and go to.
    pub network: Network,
    /// Data-plane threads; 0 runs one worker as a task of the current `LocalSet`, for tests.
    pub threads: usize,
    /// Who wants call records.
    pub sinks: Vec<Arc<dyn Sink>>,
    /// Of 10,000 calls that start a trace here, how many are sampled.
    pub sample_per_ten_thousand: u16,
}

/// Why a snapshot was not applied.
#[derive(Debug, Error)]
pub enum NotApplied {
    /// It does not compile.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A listener cannot be bound.
    #[error("listener {listener}: {source}")]
    Bind {
        /// The listener.
        listener: String,
        /// Why.
        source: BindError,
    },
    /// A listener's certificate cannot be used.
    #[error("listener {listener}: {source}")]
    Certificate {
        /// The listener.
        listener: String,
        /// Why.
        source: files::BadFiles,
    },
    /// The data plane has been shut down.
    #[error("the data plane has shut down")]
    Down,
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
}

struct Bound {
    listener: Arc<Listener>,
    address: SocketAddr,
    files: Option<files::Files>,
}

enum Command {
    Listen { listener: Arc<Listener>, socket: Socket, tls: Option<Acceptor> },
    Close { name: String },
}

enum Socket {
    Std(std::net::TcpListener),
    Ready(Box<network::Listener>),
}

impl DataPlane {
    /// Starts the threads. No listener is open until a snapshot is applied.
    pub fn start(config: Config) -> std::io::Result<DataPlane> {
        let shared = Arc::new(Shared {
            base: config.base,
            table: ArcSwap::from_pointee(Table::empty()),
            limits: config.limits,
            locals: Arc::new(Locals::default()),
            apis: ArcSwap::default(),
            stats: Arc::new(Stats::default()),
            sinks: config.sinks,
            network: config.network,
            sample_per_ten_thousand: config.sample_per_ten_thousand,
        });
        let (stop, stopping) = watch::channel(None);
        let (ended, stopped) = mpsc::channel(1);
        let (mut commands, mut visits, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..config.threads.max(1) {
            let (command, commands_in) = mpsc::channel(64);
            let (visit, visits_in) = mpsc::channel(shared.limits.door_queue);
            commands.push(command);
            visits.push(visit);
            let inbox = Inbox { commands: commands_in, visits: visits_in, stop: stopping.clone(), ended: ended.clone() };
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
        let door = PlaneDoor::new(visits);
        Ok(DataPlane {
            shared,
            door,
            commands,
            threads: Mutex::new(threads),
            stop,
            stopped: tokio::sync::Mutex::new(stopped),
            bound: tokio::sync::Mutex::default(),
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

    /// Call counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.shared.stats
    }

    /// The live table.
    pub fn table(&self) -> Arc<Table> {
        self.shared.table.load_full()
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

    /// Makes `snapshot` the truth, or leaves everything as it was and says why. Returns where each listener
    /// listens.
    pub async fn apply(&self, snapshot: &Snapshot) -> Result<BTreeMap<String, SocketAddr>, NotApplied> {
        let mut bound = self.bound.lock().await;
        let old = self.shared.table.load_full();
        let table = Table::compile(snapshot, &old, &self.shared.base, &self.shared.locals)?;
        let stays = |listener: &Arc<Listener>, bound: &BTreeMap<String, Bound>| {
            bound.get(&listener.name).is_some_and(|known| *known.listener == **listener)
        };
        let mut fresh = Vec::new();
        for listener in table.listeners.values().filter(|listener| !stays(listener, &bound)) {
            // A changed listener on an unchanged address takes over the socket's place after the old one closed.
            let same_address = bound.get(&listener.name).filter(|known| known.listener.address == listener.address);
            fresh.push(self.open(listener, same_address.map(|known| known.address))?);
        }
        let listeners = table.listeners.clone();
        self.shared.table.store(Arc::new(table));
        let gone: Vec<_> = bound.keys().filter(|name| !listeners.contains_key(*name)).cloned().collect();
        for name in gone {
            bound.remove(&name);
            self.tell(|| Command::Close { name: name.clone() }).await?;
        }
        for opened in fresh {
            let name = opened.bound.listener.name.clone();
            if bound.insert(name.clone(), opened.bound).is_some() {
                self.tell(|| Command::Close { name: name.clone() }).await?;
            }
            let acceptor = opened.acceptor;
            let listener = bound[&name].listener.clone();
            for (thread, socket) in self.commands.iter().zip(opened.sockets) {
                let command = Command::Listen { listener: listener.clone(), socket, tls: acceptor.clone() };
                thread.send(command).await.map_err(|_| NotApplied::Down)?;
            }
        }
        Ok(bound.iter().map(|(name, bound)| (name.clone(), bound.address)).collect())
    }

    /// Reads the listeners' certificate files again; what cannot be used stays as it was and is reported.
    pub async fn reload_certificates(&self) -> Vec<(String, files::BadFiles)> {
        let bound = self.bound.lock().await;
        let reload = |(name, bound): (&String, &Bound)| Some((name.clone(), bound.files.as_ref()?.reload().err()?));
        bound.iter().filter_map(reload).collect()
    }

    async fn tell(&self, command: impl Fn() -> Command) -> Result<(), NotApplied> {
        for thread in &self.commands {
            thread.send(command()).await.map_err(|_| NotApplied::Down)?;
        }
        Ok(())
    }

    /// Binds a listener for every thread.
    fn open(&self, listener: &Arc<Listener>, shared_with: Option<SocketAddr>) -> Result<Opened, NotApplied> {
        let failed = |source| NotApplied::Bind { listener: listener.name.clone(), source };
        let options = Options { reuse_port: true, share: shared_with.is_some(), ..Options::named(listener.name.clone()) };
        let address = shared_with.unwrap_or(listener.address);
        let (sockets, address) = match &self.shared.network {
            Network::System(_) => {
                let sockets = listen::bind_set(address, self.commands.len(), &options).map_err(failed)?;
                let address = sockets.first().and_then(|socket| socket.local_addr().ok()).unwrap_or(address);
                (sockets.into_iter().map(Socket::Std).collect(), address)
            }
            Network::Memory(_) => {
                let socket = self.shared.network.listen(address, &options).map_err(failed)?;
                let address = socket.local_addr().unwrap_or(address);
                (vec![Socket::Ready(Box::new(socket))], address)
            }
        };
        let files = match &listener.tls {
            None => None,
            Some(tls) => {
                let pair = files::Pair { chain: (&tls.certificate_file).into(), key: (&tls.key_file).into() };
                let failed = |source| NotApplied::Certificate { listener: listener.name.clone(), source };
                Some(files::Files::load(vec![pair]).map_err(failed)?)
            }
        };
        let acceptor = files.as_ref().map(|files| files.acceptor(&[Alpn::H2, Alpn::Http1], Clock::system()));
        let bound = Bound { listener: listener.clone(), address, files };
        Ok(Opened { bound, sockets, acceptor })
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

struct Opened {
    bound: Bound,
    sockets: Vec<Socket>,
    acceptor: Option<Acceptor>,
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(LocalSet::new().run_until(run(shared, Tasks::new(), inbox))),
        Err(error) => tracing::error!(%error, "a data-plane thread has no runtime"),
    }
}

/// One thread's life: take commands and calls until told to stop, then drain.
async fn run(shared: Arc<Shared>, tasks: Tasks, inbox: Inbox) {
    let Inbox { mut commands, visits, mut stop, ended } = inbox;
    let worker = Rc::new(Worker::new(shared, tasks.clone()));
    tasks.spawn_local(Kind::Listener, sweep(worker.clone()));
    tasks.spawn_local(Kind::Listener, door::serve(worker.clone(), visits));
    let mut listeners = BTreeMap::new();
    let deadline = loop {
        tokio::select! {
            // Receiving and waiting for a change are both cancel safe.
            command = commands.recv() => match command {
                Some(Command::Listen { listener, socket, tls }) => {
                    let socket = match socket {
                        Socket::Std(socket) => network::Listener::from_std(socket),
                        Socket::Ready(socket) => Ok(*socket),
                    };
                    match socket {
                        Ok(socket) => {
                            let name = listener.name.clone();
                            let accept = connection::accept(worker.clone(), listener, socket, tls);
                            listeners.insert(name, tasks.spawn_local(Kind::Listener, accept));
                        }
                        Err(error) => tracing::error!(listener = listener.name, %error, "cannot listen"),
                    }
                }
                Some(Command::Close { name }) => {
                    if let Some(listening) = listeners.remove(&name) {
                        listening.abort();
                    }
                }
                None => break Duration::ZERO,
            },
            changed = stop.changed() => match (changed, *stop.borrow()) {
                (Err(_), _) => break Duration::ZERO,
                (Ok(()), Some(deadline)) => break deadline,
                (Ok(()), None) => {}
            },
        }
    };
    tasks.close();
    worker.deadlines.interrupt();
    worker.pools.close();
    worker.h2.close();
    let cut = tasks.drain(deadline).await;
    if !cut.is_empty() {
        tracing::warn!(cut = ?cut.0, "calls were cut at the drain deadline");
    }
    drop(ended);
}

/// Fires deadlines, closes idle connections, gives memory back.
async fn sweep(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0u32;
    loop {
        let now = ticks.tick().await;
        worker.deadlines.sweep(now);
        count = count.wrapping_add(1);
        if count.is_multiple_of(20) {
            let oldest = now.checked_sub(worker.shared.limits.pool_idle_timeout).unwrap_or(now);
            worker.pools.sweep(oldest);
            worker.h2.sweep(oldest);
        }
        if count.is_multiple_of(200) {
            worker.shrink();
        }
    }
}
