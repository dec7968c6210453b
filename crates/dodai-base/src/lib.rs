//! One node: supervises modules and processes, wires the data plane, reports status.
//!
//! [`node::Base`] is joined to control by a [`dodai_core::status::Link`]. It compiles each snapshot into the
//! data plane, runs the workloads that the snapshot names, and reports what became of both.

pub mod brought;
mod certificates;
pub mod dump;
mod footprint;
pub mod membership;
pub mod node;
mod not_open;
pub mod process;
mod prune;
pub mod rates;
pub mod reveal;
pub mod shim;
pub mod telemetry;
mod workload;
