//! What a base tells about its calls: metrics, the access log, live records and traces.
//!
//! [`metrics`] reads counters when somebody scrapes; [`access_log`], [`ring`] and [`otlp`] are sinks of call
//! records. A sink never blocks a data-plane thread: its queue is bounded, and when it is full the record is
//! dropped and counted. Secrets are masked ([`mask`]) before a record leaves this module.

pub mod access_log;
pub mod collect;
pub mod line;
pub mod mask;
pub mod metrics;
pub mod otlp;
pub mod ring;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a sink did, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkReading {
    /// The sink: `access_log`, `otlp`, `ring`.
    pub sink: &'static str,
    /// Records that arrived where they should.
    pub written: u64,
    /// Records that were dropped: queue full, write failed, far side refused.
    pub dropped: u64,
    /// Records that wait now.
    pub queued: u64,
    /// The most that may wait.
    pub capacity: u64,
}

/// The live counters of one sink.
#[derive(Debug, Default)]
struct Meter {
    written: AtomicU64,
    dropped: AtomicU64,
    queued: AtomicU64,
}

impl Meter {
    /// A record is about to enter the queue.
    fn entering(&self) {
        self.queued.fetch_add(1, Relaxed);
    }

    /// It did not get in.
    fn refused(&self) {
        self.queued.fetch_sub(1, Relaxed);
        self.dropped.fetch_add(1, Relaxed);
    }

    /// Records left the queue and are not for this sink after all.
    fn passed(&self, count: u64) {
        self.queued.fetch_sub(count, Relaxed);
    }

    /// Records left the queue and arrived.
    fn wrote(&self, count: u64) {
        self.queued.fetch_sub(count, Relaxed);
        self.written.fetch_add(count, Relaxed);
    }

    /// Records left the queue and are lost.
    fn lost(&self, count: u64) {
        self.queued.fetch_sub(count, Relaxed);
        self.dropped.fetch_add(count, Relaxed);
    }

    fn read(&self, sink: &'static str, capacity: usize) -> SinkReading {
        SinkReading {
            sink,
            written: self.written.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            queued: self.queued.load(Relaxed),
            capacity: capacity as u64,
        }
    }
}
