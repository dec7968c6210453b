//! Integration tests of one base.

mod process;
mod rates;
mod workload;
