//! Instances that run on this base, as the data plane sees them: a state and a way in.
//!
//! The base's supervisor owns each [`Local`] and flips it; tables only hold it. So a crash is seen by the
//! very next call, without a new table. In-flight calls are counted here, which is what a drain waits for.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use dodai_core::call::Serve;
use dodai_core::id::{InstanceId, Name};
use tokio::sync::Notify;

/// How to reach a local instance.
#[derive(Clone)]
pub enum Way {
    /// Not yet, or no longer; the text says why.
    Closed(Arc<str>),
    /// A process listening on loopback, by service name.
    Ports(Arc<BTreeMap<Name, SocketAddr>>),
    /// A module in this process.
    Serve(Arc<dyn Serve>),
}

/// One local instance.
pub struct Local {
    /// Its id.
    pub instance: InstanceId,
    way: ArcSwap<Way>,
    in_flight: AtomicU32,
    idle: Notify,
}

impl Local {
    fn new(instance: InstanceId) -> Local {
        let way = ArcSwap::from_pointee(Way::Closed("has not started yet".into()));
        Local { instance, way, in_flight: AtomicU32::new(0), idle: Notify::new() }
    }

    /// The way in at this moment.
    pub fn way(&self) -> arc_swap::Guard<Arc<Way>> {
        self.way.load()
    }

    /// Whether calls can be sent.
    pub fn is_open(&self) -> bool {
        !matches!(**self.way.load(), Way::Closed(_))
    }

    /// Opens, closes or moves the way in. Calls in flight are not touched.
    pub fn set(&self, way: Way) {
        self.way.store(Arc::new(way));
    }

    /// Counts one call until the returned guard is dropped.
    pub fn enter(self: &Arc<Local>) -> InFlight {
        self.in_flight.fetch_add(1, SeqCst);
        InFlight(self.clone())
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(SeqCst)
    }

    /// Ends when no call is in flight. Close the way first. Cancel safe.
    pub async fn drained(&self) {
        loop {
            let notified = self.idle.notified();
            if self.in_flight() == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// A call in flight to a local instance.
pub struct InFlight(Arc<Local>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// The instances of one base.
#[derive(Default)]
pub struct Locals {
    all: Mutex<HashMap<InstanceId, Weak<Local>>>,
}

impl Locals {
    /// The instance of that id; a new one is closed.
    pub fn get(&self, instance: &InstanceId) -> Arc<Local> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(local) = all.get(instance).and_then(Weak::upgrade) {
            return local;
        }
        all.retain(|_, weak| weak.strong_count() > 0);
        let local = Arc::new(Local::new(instance.clone()));
        all.insert(instance.clone(), Arc::downgrade(&local));
        local
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_waits_for_the_last_call() {
        let locals = Locals::default();
        let local = locals.get(&InstanceId::new("a-1"));
        assert!(Arc::ptr_eq(&local, &locals.get(&InstanceId::new("a-1"))));
        let (first, second) = (local.enter(), local.enter());
        let mut drained = Box::pin(local.drained());
        assert!(futures_util::poll!(&mut drained).is_pending());
        drop(first);
        assert!(futures_util::poll!(&mut drained).is_pending());
        drop(second);
        drained.await;
    }
}
