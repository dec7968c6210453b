//! One data-plane thread: a single-threaded runtime with its scratch memory, pools and deadlines.
//!
//! Connections never leave their thread, so nothing here is locked. What all threads share is in [`Shared`].
//! Reads land in one scratch buffer per thread and are consumed before the next await; an idle connection
//! holds no buffer.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use dodai_core::call::Serve;
use dodai_core::id::{AppId, BaseId};
use dodai_core::record::{Heeds, Sink};
use dodai_core::seldom::Seldom;
use dodai_core::task::Tasks;
use dodai_core::trace::Span;
use dodai_transport::network::Network;
use tokio::time::Instant;

use crate::arrivals::{Arrivals, Dialled};
use crate::captures::Captures;
use crate::client_h2::Connections;
use crate::connection::Clients;
use crate::demand::Demand;
use crate::endpoint::Pools;
use crate::gauges::{Gauge, Gauges};
use crate::holdings::Holdings;
use crate::hosts::Hosts;
use crate::jwt::Sources;
use crate::limits::Limits;
use crate::live::Live;
use crate::local::Locals;
use crate::mesh::Mesh;
use crate::roll::Roll;
use crate::secure::Outward;
use crate::stats::{Labels, Names, Series, Stats};
use crate::table::Table;
use crate::timer::{Deadline, Deadlines};
use crate::udp;
use crate::users::Users;

/// Bytes of the scratch buffer: head and body of a 64 KiB response in one read.
pub const SCRATCH: usize = 128 * 1024;
/// Buffers larger than this are not kept for later use.
const KEPT_BUFFER: usize = 16 * 1024;
/// Deadlines that are kept for later use.
const SPARE_DEADLINES: usize = 64;
/// Series that one thread remembers; beyond that its map is emptied and fills again by use.
const MAX_SERIES: usize = 4096;
/// Series that are found without hashing.
const RECENT_SERIES: usize = 8;

/// What all threads of one data plane share.
pub struct Shared {
    /// This base.
    pub base: BaseId,
    /// The live table.
    pub table: ArcSwap<Table>,
    /// Goes up with every table, so that what was let in by an older one is looked at again.
    pub epoch: AtomicU64,
    /// Limits of the whole base.
    pub limits: Limits,
    /// Instances on this base.
    pub locals: Arc<Locals>,
    /// The users that apps here run as.
    pub users: Arc<Users>,
    /// Runtime APIs by app.
    pub apis: ArcSwap<HashMap<AppId, Arc<dyn Serve>>>,
    /// Call counters.
    pub stats: Arc<Stats>,
    /// How full the threads are.
    pub(crate) gauges: Gauges,
    /// What the threads hold of each endpoint.
    pub(crate) holdings: Arc<Holdings>,
    /// What happens at the listeners.
    pub arrivals: Arrivals,
    /// Handshakes with those that are called.
    pub dialled: Dialled,
    /// Connections that could not be accepted, by listener: of all threads together.
    pub not_accepted: Seldom,
    /// Warnings about listeners that get something else than HTTP.
    pub not_http: Seldom,
    /// What became of connections that the kernel led here.
    pub captures: Captures,
    /// Who wants call records.
    pub sinks: Vec<Arc<dyn Sink>>,
    /// How connections are made.
    pub network: Network,
    /// How other bases are reached and let in.
    pub mesh: Option<Mesh>,
    /// How connections that leave the mesh are secured.
    pub outward: Outward,
    /// Of 10,000 calls that start a trace here, how many are sampled.
    pub sample_per_ten_thousand: u16,
    /// Where the keys of issuers of tokens come from.
    pub key_sources: Sources,
    /// Where names outside the mesh are.
    pub hosts: Hosts,
    /// What UDP listeners carried.
    pub datagrams: udp::Counts,
    /// How names are asked for that this base has not been told of; without it, it has been told of all.
    pub demand: Option<Demand>,
}

impl Shared {
    /// The app that `host` may mean to a caller in `namespace`, if it is worth waiting to be told of it.
    pub fn asks_for(&self, host: &str, namespace: &str) -> Option<AppId> {
        let demand = self.demand.as_ref()?;
        let app = self.table.load().untold(host, namespace)?;
        demand.is_worth_waiting(&app).then_some(app)
    }

    /// Waits to be told of `app`. Cancel safe.
    pub async fn wait_for(&self, app: &AppId) {
        if let Some(demand) = &self.demand {
            demand.wait(self, app).await;
        }
    }
}

fn heeds_of(shared: &Shared) -> Heeds {
    // The headers that documents want serve nobody where nothing is recorded.
    let table = shared.table.load();
    let logged = match shared.sinks.is_empty() {
        true => Heeds::default(),
        false => Heeds {
            request_headers: !table.logged().request.is_empty(),
            response_headers: !table.logged().response.is_empty(),
            ..Heeds::default()
        },
    };
    shared.sinks.iter().fold(logged, |all, sink| all.and(sink.heeds()))
}

/// One data-plane thread's own state.
pub struct Worker {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Deadlines of this thread's connections.
    pub deadlines: Deadlines,
    /// HTTP/1 connections to endpoints.
    pub pools: Pools,
    /// HTTP/2 connections to endpoints.
    pub h2: Connections,
    /// The table, by its epoch, at the last two looks for endpoints that left.
    left: Cell<(u64, u64)>,
    /// Tasks of this thread.
    pub tasks: Tasks,
    /// Open connections from clients.
    pub clients: Clients,
    /// Where reads land.
    pub scratch: RefCell<Box<[u8]>>,
    /// Where reads of HTTP/2 connections land.
    pub input: RefCell<bytes::BytesMut>,
    /// Mirrored calls under way.
    pub mirrors: Cell<usize>,
    /// Tunnels under way.
    pub live: Live,
    /// Who is connected.
    pub roll: Roll,
    /// Endpoints that are being asked how they are.
    pub checks: Cell<usize>,
    gauge: Arc<Gauge>,
    ticked: Cell<Instant>,
    latest: Cell<Instant>,
    closing: Cell<bool>,
    heeds: Cell<Heeds>,
    buffers: RefCell<Vec<Vec<u8>>>,
    spares: RefCell<Vec<Deadline>>,
    series: RefCell<HashMap<Labels, Arc<Series>>>,
    /// The series used last, which are looked through before the map.
    recent: RefCell<Vec<(Labels, Arc<Series>)>>,
}

impl Worker {
    /// The state of a new thread.
    pub fn new(shared: Arc<Shared>, tasks: Tasks) -> Worker {
        Worker {
            gauge: shared.gauges.register(),
            heeds: Cell::new(heeds_of(&shared)),
            pools: Pools::new(shared.holdings.clone()),
            h2: Connections::new(shared.holdings.clone()),
            left: Cell::default(),
            shared,
            deadlines: Deadlines::default(),
            tasks,
            clients: Clients::default(),
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            input: RefCell::default(),
            mirrors: Cell::default(),
            live: Live::default(),
            roll: Roll::default(),
            checks: Cell::default(),
            ticked: Cell::new(Instant::now()),
            latest: Cell::new(Instant::now()),
            closing: Cell::new(false),
            buffers: RefCell::default(),
            spares: RefCell::default(),
            series: RefCell::default(),
            recent: RefCell::default(),
        }
    }

    /// An empty buffer, used before if possible.
    pub fn buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(2048))
    }

    /// Gives a buffer back.
    pub fn recycle(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffer.capacity() > 0 && buffer.capacity() <= KEPT_BUFFER && buffers.len() < 64 {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// A deadline that is not set, used before if possible.
    pub fn spare_deadline(&self) -> Deadline {
        self.spares.borrow_mut().pop().unwrap_or_else(|| self.deadlines.register())
    }

    /// Gives a deadline back, for the next call.
    pub fn spare(&self, deadline: Deadline) {
        let mut spares = self.spares.borrow_mut();
        if spares.len() < SPARE_DEADLINES {
            deadline.clear();
            spares.push(deadline);
        }
    }

    /// The time as of the last tick: good enough for what is measured in seconds, and free.
    pub fn ticked(&self) -> Instant {
        self.ticked.get()
    }

    /// The time, read from the clock and kept for [`Worker::latest`].
    pub fn now(&self) -> Instant {
        let now = Instant::now();
        self.latest.set(now);
        now
    }

    /// When this thread last looked at the clock by [`Worker::now`]: for what follows upon that without a wait.
    pub fn latest(&self) -> Instant {
        self.latest.get()
    }

    /// A tick has passed.
    pub fn tick(&self, now: Instant) {
        self.ticked.set(now);
        self.heeds.set(heeds_of(&self.shared));
    }

    /// What sinks ask for, as of the last tick.
    pub fn heeds(&self) -> Heeds {
        self.heeds.get()
    }

    /// Whether somebody wants to know when a call of this span leaves each station.
    pub fn stamps(&self, span: &Span) -> bool {
        span.sampled || self.heeds.get().stations
    }

    /// Whether connections are to end after the call they carry.
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Tells this thread's tasks to end.
    pub fn close(&self) {
        self.closing.set(true);
        self.tasks.close();
    }

    /// Counts in the series of these labels.
    pub fn count(&self, names: &Names<'_>, count: impl FnOnce(&Series)) {
        let mut recent = self.recent.borrow_mut();
        if let Some((_, series)) = recent.iter().find(|(labels, _)| names.are(labels)) {
            return count(series);
        }
        let labels = names.labels();
        let series = self.series(labels.clone());
        count(&series);
        if recent.len() >= RECENT_SERIES {
            recent.remove(0);
        }
        recent.push((labels, series));
    }

    /// The series of these labels.
    pub fn series(&self, labels: Labels) -> Arc<Series> {
        let mut all = self.series.borrow_mut();
        if let Some(series) = all.get(&labels) {
            return series.clone();
        }
        if all.len() >= MAX_SERIES {
            all.clear();
        }
        let series = self.shared.stats.series(labels.clone());
        all.insert(labels, series.clone());
        series
    }

    /// Tells how full this thread is.
    pub fn publish(&self) {
        let (open, idle, waiting) = self.pools.counts();
        let (busy, idle) = (open.saturating_sub(idle) as usize, idle as usize);
        let (h2, mirrors) = (self.h2.count(), self.mirrors.get());
        self.gauge.set([self.clients.get(), busy, idle, h2, waiting as usize, mirrors]);
        self.gauge.set_pools(|pools| {
            self.pools.tell(pools);
            self.h2.tell(pools);
        });
        self.roll.prune();
    }

    /// Ends connections to endpoints that the table has no more, but for what is under way on them. Looks twice for each
    /// table, as what was under way at the first look is idle at the second.
    pub fn leave(&self) {
        let epoch = self.shared.epoch.load(Relaxed);
        let looked = self.left.replace((epoch, self.left.get().0)) == (epoch, epoch);
        if looked {
            return;
        }
        let mut gone = HashSet::new();
        self.pools.endpoints(&mut gone);
        self.h2.endpoints(&mut gone);
        if gone.is_empty() {
            return;
        }
        for service in self.shared.table.load().services() {
            for endpoint in service.endpoints() {
                gone.remove(&endpoint.id);
            }
        }
        if !gone.is_empty() {
            self.pools.leave(&gone);
            self.h2.leave(&gone);
        }
    }

    /// Gives memory back that only a burst needed.
    pub fn shrink(&self) {
        let mut buffers = self.buffers.borrow_mut();
        buffers.truncate(8);
        buffers.shrink_to_fit();
    }
}
