//! Drivers that keep everything in memory: for tests, for trying things out, and for data that may be lost.
//!
//! Their memory is bounded by properties with defaults below; at a bound a request fails with a clear word. They
//! tell time by tokio's clock, so that tests may pause it.

mod configuration;
mod lock;
mod pubsub;
mod state;

use std::sync::Arc;
use std::time::Duration;

use dodai_core::features::{Blocks, Configuration as Configures};
use futures_core::future::BoxFuture;

pub use configuration::Memory as Configuration;
pub use lock::Memory as Lock;
pub use pubsub::{Limits as PubsubLimits, Memory as Pubsub};
pub use state::Memory as State;

use crate::component::{Capabilities, Context, Error, Opening, Registry, Spec};

/// How many bytes of keys and values a store holds: property `maxBytes`.
pub const DEFAULT_STATE_BYTES: u64 = 256 << 20;
/// How many keys a configuration or lock store holds: property `maxItems`.
pub const DEFAULT_ITEMS: u64 = 10_000;

/// Makes the in-memory drivers known: `state.in-memory`, `pubsub.in-memory`, `configuration.in-memory` and
/// `lock.in-memory`.
pub fn register(registry: &mut Registry) {
    let blocks = Blocks { state: Some(state::FEATURES), ..Blocks::default() };
    registry.register("state.in-memory", "v1", blocks, state_component);
    let blocks = Blocks { pubsub: Some(pubsub::FEATURES), ..Blocks::default() };
    registry.register("pubsub.in-memory", "v1", blocks, pubsub_component);
    let blocks = Blocks { configuration: Some(Configures { write: true }), ..Blocks::default() };
    registry.register("configuration.in-memory", "v1", blocks, configuration_component);
    let blocks = Blocks { lock: Some(lock::FEATURES), ..Blocks::default() };
    registry.register("lock.in-memory", "v1", blocks, lock_component);
}

fn state_component<'a>(spec: &'a Spec, _: &'a Context) -> BoxFuture<'a, Result<Opening, Error>> {
    Box::pin(async move {
        let mut read = spec.read();
        let store = State::new(read.bytes(&["maxBytes"], DEFAULT_STATE_BYTES)?);
        Ok((Capabilities { state: Some(Arc::new(store)), ..Capabilities::default() }, read.finish()))
    })
}

fn pubsub_component<'a>(spec: &'a Spec, _: &'a Context) -> BoxFuture<'a, Result<Opening, Error>> {
    Box::pin(async move {
        let mut read = spec.read();
        let default = PubsubLimits::default();
        let limits = PubsubLimits {
            messages: read.number(&["maxMessages"], default.messages)?,
            bytes: read.bytes(&["maxBytes"], default.bytes)?,
            idle_group: read.duration(&["groupIdleTimeout"], default.idle_group)?,
        };
        let broker = Arc::new(Pubsub::new(limits));
        let serves =
            Capabilities { pubsub: Some(broker.clone()), lifecycle: Some(broker), ..Capabilities::default() };
        Ok((serves, read.finish()))
    })
}

fn configuration_component<'a>(spec: &'a Spec, _: &'a Context) -> BoxFuture<'a, Result<Opening, Error>> {
    Box::pin(async move {
        let mut read = spec.read();
        let store = Arc::new(Configuration::new(read.number(&["maxItems"], DEFAULT_ITEMS)?));
        let serves = Capabilities {
            configuration: Some(store.clone()),
            configuration_writer: Some(store.clone()),
            lifecycle: Some(store),
            ..Capabilities::default()
        };
        Ok((serves, read.finish()))
    })
}

fn lock_component<'a>(spec: &'a Spec, _: &'a Context) -> BoxFuture<'a, Result<Opening, Error>> {
    Box::pin(async move {
        let mut read = spec.read();
        let store = Lock::new(read.number(&["maxItems"], DEFAULT_ITEMS)?);
        Ok((Capabilities { lock: Some(Arc::new(store)), ..Capabilities::default() }, read.finish()))
    })
}

impl Default for PubsubLimits {
    fn default() -> PubsubLimits {
        PubsubLimits { messages: 100_000, bytes: 64 << 20, idle_group: Duration::from_secs(600) }
    }
}
