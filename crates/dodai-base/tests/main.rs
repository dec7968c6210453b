//! Integration tests of one base.

mod process;
mod workload;
