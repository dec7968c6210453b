//! Instances of one module: made, lent to one call at a time, kept for the next call or dropped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::Store;
use wasmtime_wasi_http::{p2, p3};

use crate::guest::{self, Guest};
use crate::link::{Entry, Linked};
use crate::meter::Meter;
use crate::metrics::{Counters, Gauge, up};
use crate::plan::Plan;

/// A kept instance is dropped after so many calls: leaks of a guest stay bounded.
const MAX_USES: u32 = 1_000;

/// A kept instance without a call is dropped after this time.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(10);

/// One live instance.
pub(crate) struct Instance {
    pub(crate) store: Store<Guest>,
    pub(crate) exports: Exports,
    pub(crate) meter: Arc<Meter>,
    uses: u32,
}

/// What takes the calls of a live instance.
pub(crate) enum Exports {
    Preview2(p2::bindings::Proxy),
    Preview3(p3::bindings::Service),
}

/// A loaded, linked module and its waiting instances.
pub(crate) struct Loaded {
    pub(crate) plan: Arc<Plan>,
    pub(crate) linked: Arc<Linked>,
    warm: Mutex<Vec<Warm>>,
}

struct Warm {
    instance: Instance,
    since: Instant,
    _gauge: Gauge,
}

impl Loaded {
    pub(crate) fn new(plan: Arc<Plan>, linked: Arc<Linked>) -> Loaded {
        Loaded { plan, linked, warm: Mutex::default() }
    }

    /// A waiting instance, the one used last first.
    pub(crate) fn take(&self) -> Option<Instance> {
        self.lock().pop().map(|warm| warm.instance)
    }

    /// Makes an instance. May run guest code.
    pub(crate) async fn make(&self, meter: Arc<Meter>) -> wasmtime::Result<Instance> {
        let began = Instant::now();
        let mut store = guest::store(&self.linked.engine.wasmtime, &self.plan, &meter);
        let exports = match &self.linked.entry {
            Entry::Preview2(pre) => Exports::Preview2(pre.instantiate_async(&mut store).await?),
            Entry::Preview3(pre) => Exports::Preview3(pre.instantiate_async(&mut store).await?),
        };
        let counters = &self.plan.counters;
        up(&counters.instantiated);
        let took = began.elapsed().as_micros() as u64;
        counters.instantiate_us.fetch_add(took, std::sync::atomic::Ordering::Relaxed);
        Ok(Instance { store, exports, meter, uses: 0 })
    }

    /// Takes an instance back after a call that ended well.
    pub(crate) fn give_back(&self, mut instance: Instance) {
        instance.uses += 1;
        if self.plan.spec.reuse && instance.uses < MAX_USES {
            self.keep(instance);
        }
    }

    /// Keeps an instance for the next call.
    pub(crate) fn keep(&self, instance: Instance) {
        let gauge = Gauge::raise(&self.plan.counters, warm_gauge);
        let warm = Warm { instance, since: Instant::now(), _gauge: gauge };
        let mut waiting = self.lock();
        if waiting.len() < self.plan.spec.max_concurrency.max(1) as usize {
            waiting.push(warm);
        }
    }

    /// Drops the instances that have waited too long.
    pub(crate) fn sweep(&self, now: Instant) {
        let stale: Vec<Warm> = {
            let mut waiting = self.lock();
            // The stack is ordered: what has waited longest is at the bottom.
            let fresh = waiting.partition_point(|warm| now.saturating_duration_since(warm.since) >= MAX_IDLE);
            waiting.drain(..fresh).collect()
        };
        drop(stale);
    }

    /// Drops all waiting instances.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Warm>> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn warm_gauge(counters: &Counters) -> &std::sync::atomic::AtomicU64 {
    &counters.warm
}
