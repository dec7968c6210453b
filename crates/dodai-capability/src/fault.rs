//! Why a driver could not do its work, whatever it was asked: the part of errors that all capabilities share.

use std::error::Error as StdError;

/// What sort of failure a [`Fault`] is; callers map it to their protocol's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request itself is wrong; sending it again cannot help.
    Invalid,
    /// The component cannot do this at all.
    Unsupported,
    /// A limit is reached (memory, disk, queue); it may pass once something is removed.
    Full,
    /// The backing store is locked or overloaded; trying again later may help.
    Busy,
    /// The backing store cannot be reached.
    Unavailable,
    /// The backing store did not answer in time; whether the work was done is unknown.
    Timeout,
    /// Stored data cannot be understood.
    Corrupt,
    /// The component has been closed.
    Closed,
}

impl Kind {
    /// The word for this kind in codes, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Invalid => "invalid",
            Kind::Unsupported => "unsupported",
            Kind::Full => "full",
            Kind::Busy => "busy",
            Kind::Unavailable => "unavailable",
            Kind::Timeout => "timeout",
            Kind::Corrupt => "corrupt",
            Kind::Closed => "closed",
        }
    }
}

/// A failure of a driver. The message names the operation, the object and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    kind: Kind,
    message: String,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Fault {
    /// A fault of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Fault {
        Fault { kind, message: message.into(), source: None }
    }

    /// The same fault with what caused it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Fault {
        self.source = Some(source.into());
        self
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the same request may succeed later without anybody changing it.
    pub fn is_transient(&self) -> bool {
        match self.kind {
            Kind::Full | Kind::Busy | Kind::Unavailable | Kind::Timeout => true,
            Kind::Invalid | Kind::Unsupported | Kind::Corrupt | Kind::Closed => false,
        }
    }
}
