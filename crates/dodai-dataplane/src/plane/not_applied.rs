//! Why a data plane stays as it was.

use dodai_transport::listen::BindError;
use dodai_transport::tls::files;
use thiserror::Error;

use crate::table::Refused;

/// Why a snapshot was not applied.
#[derive(Debug, Error)]
pub enum NotApplied {
    /// It does not compile.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A listener cannot be bound.
    #[error("listener {listener}: {source}")]
    Bind {
        /// The listener.
        listener: String,
        /// Why.
        source: BindError,
    },
    /// A listener's certificate cannot be used.
    #[error("listener {listener}: {source}")]
    Certificate {
        /// The listener.
        listener: String,
        /// Why.
        source: files::BadFiles,
    },
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
