//! Integration tests of one base.

mod hot_swap;
mod process;
mod rates;
mod workload;
