//! The API dialects an app speaks to its base: the Dapr API over HTTP and gRPC.
//!
//! A [`Runtime`] holds the live components of a base, serves each app's API as a [`dodai_core::call::Serve`] and
//! brings messages to apps. It knows no sockets: calls come in from the data plane and leave through the
//! [`dodai_core::call::Door`]. It depends on what drivers serve, never on a driver.

mod api;
mod callback;
mod components;
mod delivery;
mod error;
mod inputs;
mod jobs;
mod keyvalue;
mod runtime;
mod settings;
mod watched;

pub use api::{Api, Origins};
pub use components::{Absent, Block, Components, Live};
pub use error::Error;
pub use jobs::JobStatus;
pub use runtime::{KeyValue, Runtime};
pub use settings::{AppConnection, AppHealth, Backoff, DAPR_LEVEL, Settings, Shutdown};
