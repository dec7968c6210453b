//! The bounds on what one instance may use, and how breaking one is told apart from other traps.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use wasmtime::ResourceLimiter;

use crate::metrics::Counters;

/// Elements of one table: function references of large guests stay far below.
const MAX_TABLE_ELEMENTS: usize = 100_000;

/// Handles that a guest may hold at once (bodies, streams, fields, buckets).
pub(crate) const MAX_HANDLES: usize = 10_000;

/// A bound that a guest broke; the reason of the trap that ended it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum Exceeded {
    #[error("more than {}", size(*.0))]
    Memory(u64),
    #[error("more than {0:?} of CPU time")]
    Cpu(Duration),
}

/// Linear memory of one instance.
pub(crate) struct MemoryLimit {
    limit: u64,
    used: u64,
    counters: Arc<Counters>,
}

impl MemoryLimit {
    pub(crate) fn new(limit: u64, counters: Arc<Counters>) -> MemoryLimit {
        MemoryLimit { limit, used: 0, counters }
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self.used + desired.saturating_sub(current) as u64;
        if wanted > self.limit {
            return Err(Exceeded::Memory(self.limit).into());
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.used = wanted;
        self.counters.memory_peak(wanted);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= maximum.unwrap_or(MAX_TABLE_ELEMENTS).min(MAX_TABLE_ELEMENTS))
    }
}

/// `bytes` for people: `64 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    match bytes {
        _ if bytes >= MIB && bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
        _ if bytes >= KIB && bytes.is_multiple_of(KIB) => format!("{} KiB", bytes / KIB),
        _ => format!("{bytes} bytes"),
    }
}
