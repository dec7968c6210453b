//! The one WebAssembly engine of a base.
//!
//! It starts when the first module is installed, so that a base without modules does not pay for it. The
//! pooling allocator reserves address space (not memory) for every instance that may live at once; where
//! the kernel refuses the reservation, instances are allocated on demand instead.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::error::Error;
use crate::ticker::Ticker;

/// How the engine allocates.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Whether instances come from a pool of reserved address space. Each one reserves about 4 GiB of it:
    /// switch it off where `ulimit -v` or strict overcommit is set.
    pub pooling: bool,
    /// How many instances may live at once in the pool.
    pub max_instances: u32,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions { pooling: true, max_instances: 1_000 }
    }
}

/// The engine, started at first use.
pub struct Engine {
    options: EngineOptions,
    started: OnceLock<Result<Started, String>>,
}

pub(crate) struct Started {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) ticker: Ticker,
    pub(crate) pooled: bool,
    /// Names the code this engine makes and takes: version, settings and CPU features.
    pub(crate) fingerprint: String,
}

impl Engine {
    /// An engine that has not started yet.
    pub fn new(options: EngineOptions) -> Engine {
        Engine { options, started: OnceLock::new() }
    }

    /// Whether something has needed the engine so far.
    pub fn is_started(&self) -> bool {
        self.started.get().is_some_and(Result::is_ok)
    }

    /// Whether instances come from a reserved pool; false until the engine has started.
    pub fn is_pooled(&self) -> bool {
        matches!(self.started.get(), Some(Ok(started)) if started.pooled)
    }

    pub(crate) fn start(&self) -> Result<&Started, Error> {
        self.started
            .get_or_init(|| start(&self.options).map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|reason| Error::Engine { reason: reason.clone() })
    }
}

fn start(options: &EngineOptions) -> wasmtime::Result<Started> {
    let (wasmtime, pooled) = match options.pooling.then(|| pooled_engine(options.max_instances)) {
        Some(Ok(engine)) => (engine, true),
        Some(Err(error)) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "no address space for a pool of module instances; allocating them on demand"
            );
            (wasmtime::Engine::new(&config())?, false)
        }
        None => (wasmtime::Engine::new(&config())?, false),
    };
    let ticker = Ticker::start(wasmtime.weak())?;
    let fingerprint = fingerprint(&wasmtime);
    Ok(Started { wasmtime, ticker, pooled, fingerprint })
}

/// An engine that only compiles: the same code as the pooled one, without any reservation.
pub(crate) fn compiler() -> wasmtime::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&config())
}

pub(crate) fn fingerprint(engine: &wasmtime::Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn config() -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.epoch_interruption(true);
    config.memory_init_cow(true);
    // WASI 0.2 guests run one call at a time; the bookkeeping for concurrent guests is not paid.
    config.concurrency_support(false);
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    config
}

fn pooled_engine(max_instances: u32) -> wasmtime::Result<wasmtime::Engine> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(max_instances)
        // A component is several core instances: its own code, adapters, shims.
        .total_core_instances(max_instances.saturating_mul(4))
        .total_memories(max_instances)
        .total_tables(max_instances.saturating_mul(4))
        .total_stacks(max_instances)
        .max_memories_per_component(1)
        .max_core_instances_per_component(64)
        .max_tables_per_component(64)
        .table_elements(100_000)
        // An unloaded module may leave its image in a slot until the slot is used again.
        .max_unused_warm_slots(16);
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    wasmtime::Engine::new(&config)
}
