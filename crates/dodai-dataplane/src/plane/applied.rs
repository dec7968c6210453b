//! What applying a snapshot came to.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use dodai_transport::listen::BindError;
use dodai_transport::tls::files;
use thiserror::Error;

use crate::table::Refused;

/// A snapshot is in force, but for listeners that could not be opened.
#[derive(Debug)]
pub struct Applied {
    /// Where each listener listens.
    pub listeners: BTreeMap<String, SocketAddr>,
    /// Listeners that are not as the snapshot says. One that was open under the same name goes on as it was.
    pub not_open: BTreeMap<String, NotOpen>,
}

impl Applied {
    /// Where each listener listens; for callers that can do with nothing less than all of them.
    pub fn all_open(self) -> Result<BTreeMap<String, SocketAddr>, NotOpen> {
        self.not_open.into_values().next().map_or(Ok(self.listeners), Err)
    }
}

/// Why a listener is not open.
#[derive(Debug, Error)]
pub enum NotOpen {
    /// It cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Its certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] files::BadFiles),
}

/// Why a snapshot was not applied; everything is as it was.
#[derive(Debug, Error)]
pub enum NotApplied {
    /// It does not compile.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A listener for other bases on a base that has no identity.
    #[error("listener {listener} is for other bases, and this base is not part of a mesh")]
    NoMesh {
        /// The listener.
        listener: String,
    },
    /// The data plane has been shut down.
    #[error("the data plane has shut down")]
    Down,
}
