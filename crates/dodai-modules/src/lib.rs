//! The WASM host: engine, artefacts, pools, quotas, hot swap. The only crate that names wasmtime.
//!
//! [`Host`] installs modules; a [`Module`] serves calls on module threads, each within its limits, and
//! drains exactly. What a module reaches (other apps, configuration, state, logs) goes through [`Seams`].

pub use artifact::{Artifacts, digest_of};
pub use compile::{Child, Compiler, compile_main};
pub use engine::{Engine, EngineOptions};
pub use error::{BadModule, Error, Unlinkable};
pub use host::{Host, HostOptions};
pub use inspect::check_header;
pub use metrics::Metrics;
pub use module::{Drained, Module};
pub use seam::{
    Bucket, Config, Entry, KeyValue, KeyValueError, Known, LogSink, MeshNames, NoKeyValue, Page, Pending,
    Seams, Stream,
};
pub use state::StateBucket;
pub use threads::Placement;

mod artifact;
mod code;
mod compile;
mod config;
mod egress;
mod engine;
mod error;
mod guest;
mod host;
mod inspect;
mod instance;
mod keyvalue;
mod limits;
mod link;
mod meter;
mod metrics;
mod module;
mod outlet;
mod plan;
mod preview3;
mod private;
mod run;
mod seam;
mod state;
mod stdio;
mod threads;
mod ticker;
mod trap;
