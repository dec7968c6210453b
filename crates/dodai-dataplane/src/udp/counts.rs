//! What UDP listeners carried, all threads together. Counting is a relaxed add.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The counters.
#[derive(Debug, Default)]
pub struct Counts {
    opened: AtomicU64,
    closed: AtomicU64,
    refused: AtomicU64,
    dropped: AtomicU64,
    datagrams: [AtomicU64; 2],
    bytes: [AtomicU64; 2],
}

/// A copy of the counters. Pairs are from clients, and to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Sessions that are open.
    pub open: u64,
    /// Sessions that were opened.
    pub sessions: u64,
    /// Datagrams of clients beyond the most sessions.
    pub refused: u64,
    /// Datagrams that could not be passed on.
    pub dropped: u64,
    /// Datagrams that were passed on.
    pub datagrams: [u64; 2],
    /// Their bytes.
    pub bytes: [u64; 2],
}

impl Counts {
    pub(super) fn opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    pub(super) fn closed(&self) {
        self.closed.fetch_add(1, Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(super) fn dropped(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    /// One from a client (0) or to it (1).
    pub(super) fn passed(&self, way: usize, bytes: usize) {
        self.datagrams[way].fetch_add(1, Relaxed);
        self.bytes[way].fetch_add(bytes as u64, Relaxed);
    }

    /// A copy.
    pub fn read(&self) -> Reading {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let closed = get(&self.closed);
        let sessions = get(&self.opened);
        Reading {
            open: sessions.saturating_sub(closed),
            sessions,
            refused: get(&self.refused),
            dropped: get(&self.dropped),
            datagrams: [get(&self.datagrams[0]), get(&self.datagrams[1])],
            bytes: [get(&self.bytes[0]), get(&self.bytes[1])],
        }
    }
}
