//! What one module did and uses: counters that calls raise, and a copy of them for whoever reports.

use std::sync::atomic::{AtomicU64, Ordering};

use dodai_core::failure::Kind;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The live counters of one module.
        #[derive(Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64,)* }

        /// The counters of one module at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Metrics { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            pub(crate) fn read(&self) -> Metrics {
                Metrics { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Calls that came in, refused ones included.
    calls,
    /// Calls that the guest answered, whatever the status.
    answered,
    /// Calls that ended in a trap of the guest's own making.
    traps,
    /// Calls ended because the instance wanted more memory than it may have.
    over_memory,
    /// Calls ended because they used up their CPU time.
    over_cpu,
    /// Calls ended because they used up their wall-clock time.
    over_wall_time,
    /// Calls without a response head at the caller's deadline.
    timeouts,
    /// Calls whose guest returned without a response, or without ending its response body.
    incomplete,
    /// Calls whose caller went away.
    cancelled,
    /// Calls refused because the queue was full.
    queue_full,
    /// Calls refused or cut because the module was draining.
    drained,
    /// Calls that run now, streamed bodies included.
    in_flight,
    /// Calls that wait for a place now.
    queued,
    /// Instances that live now.
    instances,
    /// Instances that wait for a call now.
    warm,
    /// Instances made so far.
    instantiated,
    /// Microseconds spent making them.
    instantiate_us,
    /// The most linear memory that one instance has had, in bytes.
    memory_peak,
    /// Nanoseconds of CPU time that guests used.
    cpu_ns,
    /// Requests that guests sent.
    outbound,
    /// Requests of guests to hosts that they may not call.
    outbound_denied,
    /// Lines that guests wrote to standard output and error.
    log_lines,
}

pub(crate) fn up(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn memory_peak(&self, bytes: u64) {
        self.memory_peak.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Counts a call that failed with `kind` where the kind alone says why.
    pub(crate) fn failed(&self, kind: Kind) {
        let counter = match kind {
            Kind::Trap => &self.traps,
            Kind::Timeout => &self.timeouts,
            Kind::QueueFull => &self.queue_full,
            Kind::Draining => &self.drained,
            Kind::Protocol => &self.incomplete,
            Kind::ClientGone => &self.cancelled,
            Kind::BadRequest
            | Kind::HeadTooLarge
            | Kind::BodyTooLarge
            | Kind::ClientTimeout
            | Kind::NoRoute
            | Kind::NotImplemented
            | Kind::Loop
            | Kind::Unauthenticated
            | Kind::BadToken
            | Kind::KeysMissing
            | Kind::AuthorizerDown
            | Kind::FaultInjected
            | Kind::Shed
            | Kind::Denied
            | Kind::RateLimited
            | Kind::BreakerOpen
            | Kind::NoEndpoint
            | Kind::Connect
            | Kind::Tls
            | Kind::Stale
            | Kind::Reset
            | Kind::Refused
            | Kind::Idle
            | Kind::Overtime
            | Kind::Quota
            | Kind::Internal => return,
        };
        up(counter);
    }
}

/// A gauge raised for as long as this lives.
pub(crate) struct Gauge {
    counters: std::sync::Arc<Counters>,
    of: fn(&Counters) -> &AtomicU64,
}

impl Gauge {
    pub(crate) fn raise(counters: &std::sync::Arc<Counters>, of: fn(&Counters) -> &AtomicU64) -> Gauge {
        up(of(counters));
        Gauge { counters: counters.clone(), of }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        (self.of)(&self.counters).fetch_sub(1, Ordering::Relaxed);
    }
}
