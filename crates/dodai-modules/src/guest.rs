//! The host's side of one instance: what its imports work on.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::ResourceTable;
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::egress::Egress;
use crate::limits::{Exceeded, MAX_HANDLES, MemoryLimit};
use crate::meter::Meter;
use crate::metrics::Gauge;
use crate::plan::Plan;
use crate::seam::Stream;
use crate::stdio::Lines;
use crate::ticker::TICK;

/// What a store holds beside the guest's memory.
pub(crate) struct Guest {
    pub(crate) plan: Arc<Plan>,
    pub(crate) table: ResourceTable,
    pub(crate) egress: Egress,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    memory: MemoryLimit,
    _live: Gauge,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.egress, table: &mut self.table, ctx: &mut self.http }
    }
}

/// A store for a new instance of `plan`'s module, with its limits armed.
pub(crate) fn store(engine: &wasmtime::Engine, plan: &Arc<Plan>, meter: &Arc<Meter>) -> Store<Guest> {
    let lines = |stream| Lines::new(stream, plan.seams.logs.clone(), plan.counters.clone());
    let (stdout, stderr) = (lines(Stream::Stdout), lines(Stream::Stderr));
    let wasi = WasiCtx::builder()
        .stdout(stdout.clone())
        .stderr(stderr.clone())
        .envs(&plan.seams.environment)
        // Not even name look-ups: everything goes through the base's front door.
        .allow_tcp(false)
        .allow_udp(false)
        .build();
    let mut table = ResourceTable::new();
    table.set_max_capacity(MAX_HANDLES);
    let guest = Guest {
        plan: plan.clone(),
        table,
        egress: Egress::new(plan.clone()),
        stdout,
        stderr,
        wasi,
        http: WasiHttpCtx::new(),
        memory: MemoryLimit::new(plan.spec.memory, plan.counters.clone()),
        _live: Gauge::raise(&plan.counters, |counters| &counters.instances),
    };
    let mut store = Store::new(engine, guest);
    // The streams, futures and tasks of a 0.3 guest.
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(MAX_HANDLES);
    }
    store.limiter(|guest| &mut guest.memory);
    store.set_epoch_deadline(1);
    let budget = plan.spec.cpu_time;
    let meter = meter.clone();
    store.epoch_deadline_callback(move |_| on_tick(&meter, budget));
    store
}

/// A tick passed while the guest ran: it has used up its time, has to let others run, or goes on.
fn on_tick(meter: &Meter, budget: Duration) -> wasmtime::Result<UpdateDeadline> {
    let slice = meter.slice();
    if meter.used() + slice > budget {
        return Err(Exceeded::Cpu(budget).into());
    }
    // A guest that has waited meets an old tick at once; that is no reason to yield.
    if slice < TICK / 2 {
        return Ok(UpdateDeadline::Continue(1));
    }
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
}
