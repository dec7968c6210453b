//! What all data-plane threads together hold of each endpoint: connections, and calls that wait for one. A breaker's caps
//! hold for the base.
//!
//! Connections stay with the thread that made them, so one that is idle on another thread helps nobody here. Each pool may
//! therefore have one connection whatever the others have; without it, a call could wait for what never comes. Counters
//! change when a connection is opened or closed, not with each call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use dodai_core::failure::{Failure, Kind};
use dodai_core::snapshot::Breaker;

use crate::endpoint::Key;

/// By endpoint, and by service or host.
type Name = (u64, Arc<str>);

/// What is held, of every endpoint that some thread has a pool for.
#[derive(Default)]
pub struct Holdings(Mutex<HashMap<Name, Weak<Held>>>);

impl Holdings {
    /// What is held of the endpoint of `key`. For a new pool, not for each call.
    pub fn of(&self, key: &Key) -> Arc<Held> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (key.endpoint, key.address.clone());
        if let Some(held) = all.get(&name).and_then(Weak::upgrade) {
            return held;
        }
        if all.len() == all.capacity() {
            all.retain(|_, held| held.strong_count() > 0);
        }
        let held = Arc::<Held>::default();
        all.insert(name, Arc::downgrade(&held));
        held
    }
}

/// What is held of one endpoint.
#[derive(Debug, Default)]
pub struct Held {
    connections: AtomicU32,
    waiting: AtomicU32,
}

impl Held {
    /// Whether a pool that has `own` connections may open another.
    pub fn has_room(&self, caps: &Breaker, own: usize) -> bool {
        own == 0 || self.connections.load(Relaxed) < caps.max_connections
    }

    /// Counts one more connection of a pool that has `own`, if it may open another.
    pub fn open(&self, caps: &Breaker, own: usize) -> bool {
        let before = self.connections.fetch_add(1, Relaxed);
        let may = own == 0 || before < caps.max_connections;
        if !may {
            self.closed(1);
        }
        may
    }

    /// So many connections are closed.
    pub fn closed(&self, count: u32) {
        self.connections.fetch_sub(count, Relaxed);
    }

    /// Counts one more call that waits for a connection to `address`, if it may.
    pub fn wait(&self, caps: &Breaker, address: &str) -> Result<(), Failure> {
        let most = caps.max_pending;
        if self.waiting.fetch_add(1, Relaxed) < most {
            return Ok(());
        }
        self.waited();
        let text = format!("{most} calls already wait for a connection to {address}");
        Err(Failure::new(Kind::QueueFull, text))
    }

    /// A call waits no longer.
    pub fn waited(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }
}
