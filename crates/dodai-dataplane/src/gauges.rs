//! How full the data plane is: connections, pools and queues of all threads, for the metrics.
//!
//! Pools and connections belong to one thread and are not locked, so each thread writes its counts to its
//! `Gauge` once a second; a reading adds them up and is at most that old.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::captures::Counts;
use crate::udp;

/// What all threads hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Open connections from clients.
    pub clients: usize,
    /// The most there may be; more wait in the kernel's queue.
    pub clients_limit: usize,
    /// HTTP/1 connections to endpoints that carry a call.
    pub endpoints_busy: usize,
    /// HTTP/1 connections to endpoints that are kept for the next call.
    pub endpoints_idle: usize,
    /// HTTP/2 connections to endpoints.
    pub endpoints_h2: usize,
    /// Calls that wait for an HTTP/1 connection to an endpoint.
    pub endpoints_waiting: usize,
    /// Calls from inside the base that wait for a thread.
    pub door_queued: usize,
    /// The most that may wait; more are refused.
    pub door_capacity: usize,
    /// Calls under way to a mirror.
    pub mirrors: usize,
    /// Endpoints that are left alone because they do worse than they should.
    pub endpoints_ejected: usize,
    /// Connections from other bases that were let in: by mutual TLS, and without.
    pub mesh_let_in: [u64; 2],
    /// Endpoints whose answers to health checks say that they are not well.
    pub endpoints_unwell: usize,
    /// What UDP listeners carried.
    pub datagrams: udp::Reading,
    /// What became of connections that the kernel led here.
    pub captured: Counts,
}

/// The connections to one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// HTTP/1 connections that carry a call.
    pub busy: u64,
    /// HTTP/1 connections that are kept for the next call.
    pub idle: u64,
    /// Calls that wait for a connection or a stream.
    pub waiting: u64,
    /// HTTP/2 connections.
    pub shared: u64,
    /// Streams under way on them.
    pub streams: u64,
}

impl Pool {
    /// Adds the counts of another.
    pub fn add(&mut self, other: &Pool) {
        self.busy += other.busy;
        self.idle += other.idle;
        self.waiting += other.waiting;
        self.shared += other.shared;
        self.streams += other.streams;
    }
}

/// What one thread holds.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    counts: [AtomicUsize; 6],
    /// By endpoint; as many as have pools. Only locked once a second, and by who reads.
    pools: Mutex<Vec<(u64, Pool)>>,
}

impl Gauge {
    /// Writes the pools anew.
    pub fn set_pools(&self, tell: impl FnOnce(&mut Vec<(u64, Pool)>)) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.clear();
        tell(&mut pools);
        if pools.capacity() > 64 && pools.capacity() / 4 > pools.len() {
            pools.shrink_to_fit();
        }
    }

    /// Open client connections; busy, kept and HTTP/2 connections to endpoints; calls waiting for one; mirrors.
    pub fn set(&self, counts: [usize; 6]) {
        for (cell, count) in self.counts.iter().zip(counts) {
            cell.store(count, Relaxed);
        }
    }
}

/// The gauges of all threads.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    all: Mutex<Vec<Arc<Gauge>>>,
    mesh_let_in: [AtomicU64; 2],
}

impl Gauges {
    /// One more thread.
    pub fn register(&self) -> Arc<Gauge> {
        let gauge = Arc::new(Gauge::default());
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(gauge.clone());
        gauge
    }

    /// A connection at the port for other bases was let in, by mutual TLS or without.
    pub fn let_in(&self, secure: bool) {
        self.mesh_let_in[usize::from(!secure)].fetch_add(1, Relaxed);
    }

    /// The sums; limits, the door's queue and how endpoints stand are the plane's to add.
    pub fn read(&self) -> Reading {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: usize| all.iter().map(|gauge| gauge.counts[of].load(Relaxed)).sum();
        Reading {
            clients: sum(0),
            endpoints_busy: sum(1),
            endpoints_idle: sum(2),
            endpoints_h2: sum(3),
            endpoints_waiting: sum(4),
            mirrors: sum(5),
            mesh_let_in: [0, 1].map(|of: usize| self.mesh_let_in[of].load(Relaxed)),
            ..Reading::default()
        }
    }

    /// The pools of all threads by endpoint.
    pub fn pools(&self) -> BTreeMap<u64, Pool> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums: BTreeMap<u64, Pool> = BTreeMap::new();
        for gauge in all.iter() {
            for (endpoint, pool) in &*gauge.pools.lock().unwrap_or_else(PoisonError::into_inner) {
                sums.entry(*endpoint).or_default().add(pool);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up() {
        let gauges = Gauges::default();
        gauges.register().set([1, 2, 3, 4, 5, 6]);
        gauges.register().set([10, 20, 30, 40, 50, 60]);
        let reading = gauges.read();
        assert_eq!((reading.clients, reading.endpoints_busy, reading.endpoints_idle), (11, 22, 33));
        assert_eq!((reading.endpoints_h2, reading.endpoints_waiting, reading.mirrors), (44, 55, 66));
    }

    #[test]
    fn pools_add_up_by_endpoint_and_are_written_anew() {
        let gauges = Gauges::default();
        let (one, other) = (gauges.register(), gauges.register());
        let pool = |busy, idle| Pool { busy, idle, ..Pool::default() };
        one.set_pools(|pools| pools.push((9, pool(9, 9))));
        one.set_pools(|pools| pools.extend([(1, pool(1, 2)), (2, pool(3, 4)), (1, pool(1, 0))]));
        other.set_pools(|pools| pools.push((1, pool(5, 6))));
        assert_eq!(gauges.pools(), BTreeMap::from([(1, pool(7, 8)), (2, pool(3, 4))]));
    }
}
