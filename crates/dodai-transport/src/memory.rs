//! An in-memory network for tests: hosts with addresses, listeners, and lines with bounded buffers.
//!
//! It behaves like TCP where callers can tell (refusal, half close, back pressure, reset) and runs on
//! `tokio`'s clock, so under paused time a run is repeatable. Faults are set per listening address or per
//! pair of hosts. Lock order: a line before the net's cuts; no lock is held while a waker is called.

mod line;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use std::{fmt, io};

use tokio::sync::{Notify, mpsc};

pub use line::Line;

/// How many connections may wait for `accept`.
const BACKLOG: usize = 128;

/// How many bytes may be under way in each direction of a line.
pub const BUFFER: usize = 64 * 1024;

/// What goes wrong for connections to one listening address, from the moment it is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// New connections are refused.
    pub refuse: bool,
    /// New connections take so long to open.
    pub connect_delay: Duration,
    /// Each written chunk takes so long to arrive, in both directions.
    pub delay: Duration,
    /// The connection breaks after so many bytes towards the listener; those still arrive.
    pub cut_inbound_after: Option<u64>,
    /// The connection breaks after so many bytes from the listener; those still arrive.
    pub cut_outbound_after: Option<u64>,
}

/// A network. Clones share it.
#[derive(Clone, Default)]
pub struct Net(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    cuts: Mutex<BTreeSet<(IpAddr, IpAddr)>>,
    healed: Notify,
}

#[derive(Default)]
struct State {
    listeners: HashMap<SocketAddr, mpsc::Sender<Line>>,
    faults: HashMap<SocketAddr, Faults>,
    names: HashMap<String, Vec<IpAddr>>,
    /// Names that a question about is never answered.
    silent: HashSet<String>,
    lines: Vec<Weak<line::Shared>>,
    ports: u16,
}

/// The two ends of a connection that belongs to no network: both say that they are at `address`.
pub fn connected(address: SocketAddr) -> (Line, Line) {
    line::pair(Weak::new(), address, address, &Faults::default())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Net {
    /// An empty network.
    pub fn new() -> Net {
        Net::default()
    }

    /// The host with that address; any address is a host.
    pub fn host(&self, ip: impl Into<IpAddr>) -> Host {
        Host { net: self.clone(), ip: ip.into() }
    }

    /// Makes `name` resolve to `ips`.
    pub fn name(&self, name: &str, ips: &[IpAddr]) {
        let mut state = lock(&self.0.state);
        state.silent.remove(name);
        state.names.insert(name.to_owned(), ips.to_vec());
    }

    /// Makes nobody answer what `name` resolves to, until [`Net::name`] says it.
    pub fn silence(&self, name: &str) {
        lock(&self.0.state).silent.insert(name.to_owned());
    }

    /// Sets what goes wrong for connections that are opened to `listener` from now on.
    pub fn set_faults(&self, listener: SocketAddr, faults: Faults) {
        lock(&self.0.state).faults.insert(listener, faults);
    }

    /// Resets every open connection to `listener`: unread bytes are lost. Returns how many there were.
    pub fn reset(&self, listener: SocketAddr) -> usize {
        let lines = self.lines();
        let hit = lines.iter().filter(|line| line.listener() == listener && line.reset());
        hit.count()
    }

    /// Lets nothing pass between two hosts: bytes stay under way, new connections hang.
    pub fn partition(&self, a: impl Into<IpAddr>, b: impl Into<IpAddr>) {
        lock(&self.0.cuts).insert(pair(a.into(), b.into()));
    }

    /// Ends a partition: what was under way arrives.
    pub fn heal(&self, a: impl Into<IpAddr>, b: impl Into<IpAddr>) {
        lock(&self.0.cuts).remove(&pair(a.into(), b.into()));
        self.0.healed.notify_waiters();
        self.lines().iter().for_each(|line| line.wake());
    }

    fn lines(&self) -> Vec<Arc<line::Shared>> {
        let mut state = lock(&self.0.state);
        state.lines.retain(|line| line.strong_count() > 0);
        state.lines.iter().filter_map(Weak::upgrade).collect()
    }

    fn is_cut(&self, a: IpAddr, b: IpAddr) -> bool {
        lock(&self.0.cuts).contains(&pair(a, b))
    }
}

fn pair(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
    (a.min(b), a.max(b))
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory::Net")
    }
}

/// One host of a network.
#[derive(Clone, Debug)]
pub struct Host {
    net: Net,
    ip: IpAddr,
}

impl Host {
    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Its network.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Listens on `port`; 0 takes a free one.
    pub fn listen(&self, port: u16) -> io::Result<Listener> {
        let (sender, queue) = mpsc::channel(BACKLOG);
        let mut state = lock(&self.net.0.state);
        let port = if port == 0 { state.next_port() } else { port };
        let addr = SocketAddr::new(self.ip, port);
        if state.listeners.get(&addr).is_some_and(|listener| !listener.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.listeners.insert(addr, sender);
        Ok(Listener { addr, queue })
    }

    /// Opens a connection. Hangs while the two hosts are partitioned. Cancel safe.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<Line> {
        let faults = lock(&self.net.0.state).faults.get(&to).cloned().unwrap_or_default();
        tokio::time::sleep(faults.connect_delay).await;
        loop {
            let mut healed = std::pin::pin!(self.net.0.healed.notified());
            healed.as_mut().enable();
            if !self.net.is_cut(self.ip, to.ip()) {
                break;
            }
            healed.await;
        }
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let listener = lock(&self.net.0.state).listeners.get(&to).cloned();
        let listener = listener.filter(|_| !faults.refuse).ok_or_else(refused)?;
        let room = listener.reserve().await.map_err(|_| refused())?;
        let mut state = lock(&self.net.0.state);
        let from = SocketAddr::new(self.ip, state.next_port());
        let (ours, theirs) = line::pair(Arc::downgrade(&self.net.0), from, to, &faults);
        state.lines.retain(|line| line.strong_count() > 0);
        state.lines.push(Arc::downgrade(ours.shared()));
        room.send(theirs);
        Ok(ours)
    }

    /// The addresses of `name`, as set with [`Net::name`]. Cancel safe.
    pub async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(ip) = name.parse() {
            return Ok(vec![ip]);
        }
        if lock(&self.net.0.state).silent.contains(name) {
            std::future::pending::<()>().await;
        }
        let found = lock(&self.net.0.state).names.get(name).cloned();
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such name in this network"))
    }
}

impl State {
    /// An ephemeral port. Ends of lines need not be unique; listeners on port 0 are rare enough.
    fn next_port(&mut self) -> u16 {
        self.ports = if self.ports < 32_768 { 32_768 } else { (self.ports + 1).max(32_768) };
        self.ports
    }
}

/// A listening address.
#[derive(Debug)]
pub struct Listener {
    addr: SocketAddr,
    queue: mpsc::Receiver<Line>,
}

impl Listener {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection. Cancel safe.
    pub async fn accept(&mut self) -> io::Result<Line> {
        let next = poll_fn(|cx| self.queue.poll_recv(cx)).await;
        next.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the network is gone"))
    }
}
