//! Building blocks as traits: what an app may ask for, whatever serves it.
//!
//! A [`component::Component`] is opened from a [`component::Spec`] by a driver that the
//! [`component::Registry`] knows, and serves one or more capabilities as `Arc<dyn ...>`. Here are the
//! traits, the in-memory drivers, the pure rules around them (key prefixes, scopes, event envelopes) and,
//! behind the feature `conformance`, the suites that every driver passes. Never here: a vendor's client.
pub mod answer;
pub mod binding;
pub mod clock;
pub mod component;
pub mod configuration;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod event;
pub mod fault;
pub mod jobs;
pub mod keys;
pub mod lock;
pub mod memory;
pub mod metadata;
pub mod pubsub;
pub mod schedule;
pub mod scopes;
pub mod secrets;
pub mod state;

pub use answer::Answer;
pub use fault::Fault;
pub use metadata::Metadata;
