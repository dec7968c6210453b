//! From the engine's error that ended a guest to the failure that the caller sees.

use dodai_core::failure::{Failure, Kind};
use wasmtime::PoolConcurrencyLimitError;
use wasmtime::component::ResourceTableError;
use wasmtime_wasi::I32Exit;

use crate::limits::{Exceeded, MAX_HANDLES};
use crate::metrics::up;
use crate::plan::Plan;
use crate::seam::Stream;

/// The failure for `error`. A broken bound is counted, a trap's backtrace goes to the module's log.
pub(crate) fn failure_of(plan: &Plan, error: &wasmtime::Error) -> Failure {
    let name = plan.name();
    if let Some(exceeded) = error.downcast_ref::<Exceeded>() {
        up(match exceeded {
            Exceeded::Memory(_) => &plan.counters.over_memory,
            Exceeded::Cpu(_) => &plan.counters.over_cpu,
        });
        return Failure::new(Kind::Quota, format!("{name} used {exceeded}"));
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref::<ResourceTableError>() {
        let detail = format!("{name} held {MAX_HANDLES} handles (bodies, streams, fields, buckets) at once");
        return Failure::new(Kind::Quota, detail);
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        let detail = format!(
            "this base has no room for another instance of {name}; lower the maxConcurrency of its modules or place some on another base"
        );
        return Failure::new(Kind::QueueFull, detail);
    }
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return Failure::new(Kind::Trap, format!("{name} called exit({code}) instead of answering"));
    }
    for line in format!("{error:?}").lines() {
        plan.seams.logs.line(Stream::Stderr, line);
    }
    Failure::new(Kind::Trap, format!("{name} trapped: {}", error.root_cause()))
}
