//! The words of the data path: calls, bodies, snapshots, failures, and the seams between crates.
//!
//! This crate knows no sockets, and of ours only how access logs are written down. What a call *is* lives here; what is done with one
//! lives in `dodai-dataplane`, and whoever answers one implements [`call::Serve`].

pub mod body;
pub mod call;
pub mod failure;
pub mod features;
pub mod file;
pub mod head;
pub mod id;
pub mod record;
pub mod secrecy;
pub mod seldom;
pub mod snapshot;
pub mod status;
pub mod task;
pub mod trace;
