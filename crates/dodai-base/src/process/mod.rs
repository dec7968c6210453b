//! The supervisor of native processes on one base: it starts instances under the [shim](crate::shim),
//! probes them, captures their logs, restarts them with backoff, limits and measures them, and stops them
//! without a survivor. [`Supervisor::start`] takes a [`Spec`] and returns a [`Handle`]. Never here: ports,
//! identities and variables of an app, which the caller has put into the spec. What holds only as root
//! (PID namespaces, another user, control groups on most systems) is listed in `docs/processes.md`.

pub(crate) mod backoff;
mod cgroup;
mod error;
mod identity;
mod instance;
mod link;
mod logs;
mod ports;
pub(crate) mod probe;
mod run;
mod spec;
mod status;
mod supervisor;
mod usage;

pub use error::Error;
pub(crate) use logs::Capture;
pub use logs::{Follow, Followed, Line, Logs, Stream};
pub use ports::{Port, Ports};
pub use probe::{Check, Probe, Probes};
pub use spec::{EnvValue, Limits, LogPolicy, Restart, RestartPolicy, Secret, Signal, Spec, Stop};
pub use status::{Exit, Phase, Status};
pub use supervisor::{Config, Handle, Supervisor};
pub use usage::Usage;
