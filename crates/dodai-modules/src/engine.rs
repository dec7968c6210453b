//! The WebAssembly engines of a base, each started when the first module needs it.
//!
//! WASI 0.3 guests need an engine with the bookkeeping for concurrent tasks, which would cost every call of
//! a 0.2 guest; so there is one engine for each. Both allocate from a pool, which reserves address space
//! (not memory) for all instances that may live at once. A component that does not fit the pool's slots is
//! allocated on demand, by a third and fourth engine; so is everything where there is no address space.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use wasmtime::component::Linker;
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::error::Error;
use crate::guest::Guest;
use crate::link;
use crate::ticker::Ticker;

/// What one component may have in the pool; a composed component has a memory and a few tables per part.
const MAX_MEMORIES: u32 = 8;
const MAX_CORE_INSTANCES: u32 = 64;
const MAX_TABLES: u32 = 64;

/// How the engines allocate.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Whether instances come from a pool of reserved address space. Each one reserves about 4 GiB of it:
    /// switch it off where `ulimit -v` or strict overcommit is set.
    pub pooling: bool,
    /// How many instances may live at once in the pool. A component with several memories counts as many.
    pub max_instances: u32,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions { pooling: true, max_instances: 1_000 }
    }
}

/// How many calls a guest's code is compiled to have in progress at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// One: WASI 0.2.
    Serial,
    /// Several tasks that wait for one another: WASI 0.3.
    Concurrent,
}

impl Flavour {
    /// The cheaper one first.
    pub(crate) const ALL: [Flavour; 2] = [Flavour::Serial, Flavour::Concurrent];
}

/// The engines, started at first use.
pub struct Engine {
    options: EngineOptions,
    serial: Pair,
    concurrent: Pair,
}

type Start = OnceLock<Result<Arc<Started>, String>>;

/// The engines of one flavour.
#[derive(Default)]
struct Pair {
    fingerprint: OnceLock<Result<String, String>>,
    usual: Start,
    on_demand: Start,
}

/// A running engine.
pub(crate) struct Started {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) ticker: Ticker,
    pub(crate) linker: Linker<Guest>,
    pub(crate) pooled: bool,
}

impl Engine {
    /// Engines that have not started yet.
    pub fn new(options: EngineOptions) -> Engine {
        Engine { options, serial: Pair::default(), concurrent: Pair::default() }
    }

    /// Whether something has needed an engine so far.
    pub fn is_started(&self) -> bool {
        Flavour::ALL.iter().any(|flavour| matches!(self.pair(*flavour).usual.get(), Some(Ok(_))))
    }

    /// Whether the instances of usual modules come from a reserved pool; false until an engine has started.
    pub fn is_pooled(&self) -> bool {
        Flavour::ALL
            .iter()
            .any(|flavour| matches!(self.pair(*flavour).usual.get(), Some(Ok(started)) if started.pooled))
    }

    /// The engine for usual components: with a pool where there can be one.
    pub(crate) fn start(&self, flavour: Flavour) -> Result<Arc<Started>, Error> {
        started(&self.pair(flavour).usual, || start(&self.options, flavour))
    }

    /// The engine for components that the pool refuses.
    pub(crate) fn start_on_demand(&self, flavour: Flavour) -> Result<Arc<Started>, Error> {
        started(&self.pair(flavour).on_demand, || {
            Started::new(wasmtime::Engine::new(&config(flavour))?, flavour, false)
        })
    }

    /// Names the code that the engines of `flavour` make and take: version, settings and CPU features.
    /// Starts nothing.
    pub(crate) fn fingerprint(&self, flavour: Flavour) -> Result<&str, Error> {
        let fingerprint = self.pair(flavour).fingerprint.get_or_init(|| {
            compiler(flavour).map(|engine| fingerprint(&engine)).map_err(|error| format!("{error:#}"))
        });
        match fingerprint {
            Ok(fingerprint) => Ok(fingerprint),
            Err(reason) => Err(Error::Engine { reason: reason.clone() }),
        }
    }

    fn pair(&self, flavour: Flavour) -> &Pair {
        match flavour {
            Flavour::Serial => &self.serial,
            Flavour::Concurrent => &self.concurrent,
        }
    }
}

fn started(cell: &Start, start: impl FnOnce() -> wasmtime::Result<Started>) -> Result<Arc<Started>, Error> {
    cell.get_or_init(|| start().map(Arc::new).map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|reason| Error::Engine { reason })
}

fn start(options: &EngineOptions, flavour: Flavour) -> wasmtime::Result<Started> {
    match options.pooling.then(|| pooled_engine(options.max_instances, flavour)) {
        Some(Ok(engine)) => return Started::new(engine, flavour, true),
        Some(Err(error)) => tracing::warn!(
            error = format!("{error:#}"),
            "no address space for a pool of module instances; allocating them on demand"
        ),
        None => {}
    }
    Started::new(wasmtime::Engine::new(&config(flavour))?, flavour, false)
}

impl Started {
    fn new(wasmtime: wasmtime::Engine, flavour: Flavour, pooled: bool) -> wasmtime::Result<Started> {
        let ticker = Ticker::start(wasmtime.weak())?;
        let linker = link::linker(&wasmtime, flavour)?;
        Ok(Started { wasmtime, ticker, linker, pooled })
    }
}

/// An engine that only compiles: the same code as the pooled one, without any reservation.
pub(crate) fn compiler(flavour: Flavour) -> wasmtime::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&config(flavour))
}

fn fingerprint(engine: &wasmtime::Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn config(flavour: Flavour) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.epoch_interruption(true);
    config.memory_init_cow(true);
    // Measured: with it, a call of a 0.2 guest takes a fifth more CPU time.
    config.concurrency_support(flavour == Flavour::Concurrent);
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    config
}

fn pooled_engine(max_instances: u32, flavour: Flavour) -> wasmtime::Result<wasmtime::Engine> {
    let mut pool = PoolingAllocationConfig::new();
    // Parts of a composed guest that call one another each wait on a stack of their own.
    let stacks = match flavour {
        Flavour::Serial => max_instances,
        Flavour::Concurrent => max_instances.saturating_mul(2),
    };
    pool.total_component_instances(max_instances)
        // A component is several core instances: its own code, adapters, shims.
        .total_core_instances(max_instances.saturating_mul(4))
        .total_memories(max_instances)
        .total_tables(max_instances.saturating_mul(4))
        .total_stacks(stacks)
        .max_memories_per_component(MAX_MEMORIES)
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_tables_per_component(MAX_TABLES)
        .table_elements(100_000)
        // An unloaded module may leave its image in a slot until the slot is used again.
        .max_unused_warm_slots(16);
    let mut config = config(flavour);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    wasmtime::Engine::new(&config)
}
