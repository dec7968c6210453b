//! One node: supervises modules and processes, wires the data plane, reports status.

pub mod process;
pub mod shim;
