//! CPU time of one call: counted only while the guest is being polled, by the thread's own CPU clock.
//!
//! A guest that waits (for a body, another app, a store) uses none. The engine's ticks only tell when to
//! look; the clock tells how much. Rejected: counting ticks, which charges a guest that wakes often for
//! time that others used.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::metrics::Counters;

/// The CPU time of the call that an instance serves. Only the thread that polls the guest writes it.
pub(crate) struct Meter {
    counters: Arc<Counters>,
    /// Nanoseconds used by polls that have ended.
    used: AtomicU64,
    /// The thread's clock when the running poll began.
    poll_began: AtomicU64,
}

impl Meter {
    pub(crate) fn new(counters: Arc<Counters>) -> Arc<Meter> {
        Arc::new(Meter { counters, used: AtomicU64::new(0), poll_began: AtomicU64::new(0) })
    }

    /// Forgets the previous call.
    pub(crate) fn reset(&self) {
        self.used.store(0, Ordering::Relaxed);
    }

    /// What the call has used, without the running poll.
    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    /// How long the running poll has been on the CPU; asked from within it.
    pub(crate) fn slice(&self) -> Duration {
        Duration::from_nanos(thread_clock().saturating_sub(self.poll_began.load(Ordering::Relaxed)))
    }
}

/// Runs `future`, counting the CPU time of its polls.
pub(crate) async fn metered<F: Future>(mut future: Pin<&mut F>, meter: &Meter) -> F::Output {
    poll_fn(|cx| {
        let began = thread_clock();
        meter.poll_began.store(began, Ordering::Relaxed);
        let polled = future.as_mut().poll(cx);
        let took = thread_clock().saturating_sub(began);
        meter.used.fetch_add(took, Ordering::Relaxed);
        meter.counters.cpu_ns.fetch_add(took, Ordering::Relaxed);
        polled
    })
    .await
}

fn thread_clock() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
