//! What happens at the listeners and at dialling: connections and TLS handshakes, counted for all threads together.
//!
//! Counted once per connection, never per call. Listeners are those of documents, kinds of failure a closed set, and
//! of the peers' proven names only the first [`MAX_PEERS`] are told apart, so nothing here grows with what clients do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use dodai_transport::tls::Why;

/// Peers of one listener that are counted apart; the rest is `other`.
pub const MAX_PEERS: usize = 200;
/// What stands in for those beyond.
const OTHER: &str = "other";
/// Versions of TLS that are counted, in this order.
pub const VERSIONS: [&str; 2] = ["1.2", "1.3"];

/// What happened at one listener.
#[derive(Debug, Default)]
pub struct Counts {
    open: AtomicU64,
    accepted: AtomicU64,
    handshakes: [AtomicU64; VERSIONS.len()],
    failures: [AtomicU64; Why::ALL.len()],
    peers: Mutex<BTreeMap<Arc<str>, u64>>,
}

fn version_at(version: &str) -> usize {
    usize::from(version == VERSIONS[1])
}

impl Counts {
    /// A connection was accepted, before anything was read of it.
    pub fn accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    /// A handshake ended well, in this version.
    pub fn secured(&self, version: &str) {
        self.handshakes[version_at(version)].fetch_add(1, Relaxed);
    }

    /// A handshake failed.
    pub fn failed(&self, why: Why) {
        self.failures[why as usize].fetch_add(1, Relaxed);
    }

    /// A peer has proven to be this one.
    pub fn met(&self, peer: &Arc<str>) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = peers.get_mut(peer) {
            *count += 1;
        } else if peers.len() < MAX_PEERS {
            peers.insert(peer.clone(), 1);
        } else {
            *peers.entry(OTHER.into()).or_default() += 1;
        }
    }

    /// A connection is served from here on.
    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// It is over.
    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    fn read(&self, listener: &str) -> Reading {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = Why::ALL.into_iter().map(|why| (why, get(&self.failures[why as usize])));
        Reading {
            listener: listener.to_owned(),
            open: get(&self.open),
            accepted: get(&self.accepted),
            handshakes: std::array::from_fn(|at| get(&self.handshakes[at])),
            failures: failures.filter(|(_, count)| *count > 0).collect(),
            peers: peers.iter().map(|(peer, count)| (peer.clone(), *count)).collect(),
        }
    }
}

/// A copy of what happened at one listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The listener.
    pub listener: String,
    /// Connections that are served now.
    pub open: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Handshakes that ended well, by [`VERSIONS`].
    pub handshakes: [u64; VERSIONS.len()],
    /// Handshakes that failed; kinds without any are left out.
    pub failures: Vec<(Why, u64)>,
    /// Connections by who the peer has proven to be.
    pub peers: Vec<(Arc<str>, u64)>,
}

/// The listeners of one base.
#[derive(Debug, Default)]
pub struct Arrivals(Mutex<BTreeMap<String, Arc<Counts>>>);

impl Arrivals {
    /// The counters of a listener; the same for all threads, and when it comes back.
    pub fn of(&self, listener: &str) -> Arc<Counts> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = all.get(listener) {
            return counts.clone();
        }
        all.entry(listener.to_owned()).or_default().clone()
    }

    /// A copy of all; listeners that are gone, and whose last connection is, are read once more and forgotten.
    pub fn read(&self) -> Vec<Reading> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let readings = all.iter().map(|(listener, counts)| counts.read(listener)).collect();
        all.retain(|_, counts| Arc::strong_count(counts) > 1);
        readings
    }
}

/// Handshakes of the dialling side: towards other bases, and towards hosts that want TLS.
#[derive(Debug, Default)]
pub struct Dialled {
    handshakes: [AtomicU64; VERSIONS.len()],
    failures: AtomicU64,
}

impl Dialled {
    /// A handshake ended, in this version if well.
    pub fn count(&self, version: Option<&str>) {
        match version {
            Some(version) => self.handshakes[version_at(version)].fetch_add(1, Relaxed),
            None => self.failures.fetch_add(1, Relaxed),
        };
    }

    /// Those that ended well by [`VERSIONS`], and those that failed.
    pub fn read(&self) -> ([u64; VERSIONS.len()], u64) {
        (std::array::from_fn(|at| self.handshakes[at].load(Relaxed)), self.failures.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_counts_for_all_threads_and_is_forgotten_after_its_last_reading() {
        let arrivals = Arrivals::default();
        let (one, other) = (arrivals.of("web"), arrivals.of("web"));
        one.accepted();
        other.accepted();
        other.opened();
        one.secured("1.3");
        one.failed(Why::NotTls);
        let reading = arrivals.read().remove(0);
        assert_eq!((reading.accepted, reading.open, reading.handshakes), (2, 1, [0, 1]));
        assert_eq!(reading.failures, [(Why::NotTls, 1)]);
        other.closed();
        drop((one, other));
        assert_eq!(arrivals.read().remove(0).open, 0);
        assert!(arrivals.read().is_empty());
    }

    #[test]
    fn so_many_peers_and_no_more_are_told_apart() {
        let counts = Counts::default();
        for number in 0..MAX_PEERS + 5 {
            counts.met(&format!("shop/app-{number:04}").into());
        }
        counts.met(&"shop/app-0000".into());
        let peers = counts.read("mesh").peers;
        assert_eq!(peers.len(), MAX_PEERS + 1);
        assert_eq!(peers.iter().find(|(peer, _)| &**peer == OTHER).map(|(_, count)| *count), Some(5));
        assert_eq!(
            peers.iter().find(|(peer, _)| &**peer == "shop/app-0000").map(|(_, count)| *count),
            Some(2)
        );
    }
}
