//! What can be wrong with a spec, a base's surroundings, or a launch.

use std::io;
use std::path::PathBuf;

/// Why the supervisor could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of a [`Spec`](super::Spec) cannot be used.
    #[error("process {instance}: {field} {problem}")]
    Spec {
        /// The instance.
        instance: String,
        /// The field, as in the spec.
        field: &'static str,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// The supervisor was configured without a shim.
    #[error("the shim command is empty; set it to the binary's own path and `shim`")]
    NoShim,
    /// The shim did not start.
    #[error("start the shim {}", path.display())]
    Shim {
        /// The executable.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A socket or pipe to the shim could not be made.
    #[error("open {what} to the shim; too many open files?")]
    Channel {
        /// Which.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The start message cannot be sent.
    #[error("encode the start message: {0}")]
    Encode(String),
    /// The folder or file for logs cannot be used.
    #[error("open the log {}; make the folder writable for the base or set another one", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No port of the range is free.
    #[error("no free port from {first} to {last} on {address}; widen the range")]
    NoPort {
        /// The address that was tried.
        address: std::net::IpAddr,
        /// First of the range.
        first: u16,
        /// Last of the range.
        last: u16,
    },
}
