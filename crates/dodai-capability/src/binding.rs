//! Bindings: one thing outside, spoken to by named operations (output) or heard of by events (input).
//!
//! An output binding does what its operation says with bytes and metadata. An input binding is read by whoever delivers
//! its events to apps; what nobody reads is not kept.

use std::fmt;

use bytes::Bytes;
pub use dodai_core::features::Bindings as Features;

use crate::answer::Answer;
use crate::fault::Fault;
use crate::metadata::Metadata;

/// What is asked of an output binding.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Which operation: `create`, `get` and so on.
    pub operation: String,
    /// What it is about.
    pub data: Bytes,
    /// What the driver may read.
    pub metadata: Metadata,
}

/// What an output binding answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The bytes; empty if there is nothing to say.
    pub data: Bytes,
    /// What else is to be known.
    pub metadata: Metadata,
}

/// Why a request to a binding failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no such operation.
    #[error("operation `{given}` is not supported; it has {known}")]
    UnknownOperation {
        /// What was asked for.
        given: String,
        /// Those it has.
        known: String,
    },
    /// The far side answered that it did not do it. The answer is there all the same.
    #[error("{message}")]
    Refused {
        /// What it said, in short.
        message: String,
        /// What it answered.
        response: Response,
    },
    /// The driver failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Error {
    /// A stable word for this error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::UnknownOperation { .. } => "binding_unknown_operation",
            Error::Refused { .. } => "binding_refused",
            Error::Fault(fault) => fault.kind().as_str(),
        }
    }

    /// That an operation is none of these.
    pub fn unknown(given: &str, known: &[&str]) -> Error {
        Error::UnknownOperation { given: given.to_owned(), known: known.join(", ") }
    }
}

/// What a binding does: whether it tells apps what happens, and the operations it has for them.
pub fn features(input: bool, operations: &[&str]) -> Features {
    Features { input, operations: operations.iter().map(|&word| word.to_owned()).collect() }
}

/// An output binding.
pub trait Output: Send + Sync {
    /// The operations it has.
    fn operations(&self) -> &'static [&'static str];

    /// Does one.
    fn invoke(&self, request: Request) -> Answer<'_, Result<Response, Error>>;
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The bytes, as apps get them.
    pub data: Bytes,
    /// What else is to be known.
    pub metadata: Metadata,
}

/// A driver's side of reading.
pub trait Source: Send {
    /// Waits for the next event; `None` when the component was closed. Must be cancel safe.
    fn next(&mut self) -> Answer<'_, Option<Event>>;
}

/// A stream of events. Dropping it ends the reading.
pub struct Events(Box<dyn Source>);

impl Events {
    /// Events fed by a driver.
    pub fn new(source: impl Source + 'static) -> Events {
        Events(Box::new(source))
    }

    /// Waits for the next event; `None` when the component was closed. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.next().await
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

/// An input binding.
pub trait Input: Send + Sync {
    /// Starts to read. Each reader hears of every event from then on.
    fn read(&self) -> Answer<'_, Result<Events, Error>>;
}
