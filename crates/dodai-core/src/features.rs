//! What a component serves, block by block, and what it can do in each: said of a type by its driver, and of an
//! open component by what it is. A field that is missing in what another version told is false.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The blocks that a component serves. One that is not served is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Blocks {
    /// Key-value state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pubsub: Option<Pubsub>,
    /// Secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Secrets>,
    /// Configuration that apps read and follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Configuration>,
    /// Locks with a time to live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// What apps ask of it, and what it tells them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bindings: Option<Bindings>,
}

/// What a state store can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "StateFeatures")]
pub struct State {
    /// Etags are kept and checked.
    pub etag: bool,
    /// `first-write` without an etag creates only.
    pub first_write: bool,
    /// A transaction is all or nothing.
    pub transaction: bool,
    /// Values may expire.
    pub ttl: bool,
    /// Keys are listed.
    pub list: bool,
    /// The content type comes back with the value.
    pub content_type: bool,
    /// What was written survives the process.
    pub durable: bool,
    /// The most operations one transaction may have, if there is such a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_operations: Option<usize>,
}

/// What a broker can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "PubsubFeatures")]
pub struct Pubsub {
    /// Messages expire in the broker; those of one that cannot do this are dropped when they are due for delivery.
    pub ttl: bool,
    /// Messages of a topic reach a group in the order published, as far as retries allow.
    pub ordered: bool,
    /// What was published survives the process.
    pub durable: bool,
    /// Many messages are published in one step, and not one by one.
    pub bulk_publish: bool,
}

/// What a secret store can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "SecretsFeatures")]
pub struct Secrets {
    /// A secret may hold several named values.
    pub multiple_values: bool,
}

/// What a configuration store can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "ConfigurationFeatures")]
pub struct Configuration {
    /// Operators write values through the management API.
    pub write: bool,
}

/// What a lock store can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "LockFeatures")]
pub struct Lock {
    /// Locks that are held are listed.
    pub list: bool,
}

/// Which ways a binding goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "BindingsFeatures")]
pub struct Bindings {
    /// It tells apps what happens.
    pub input: bool,
    /// What apps may ask of it; empty for one that only tells.
    pub operations: Vec<String>,
}

/// A type of component that a build has a driver for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "ComponentType")]
pub struct Type {
    /// Such as `state.sqlite`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its version.
    pub version: String,
    /// What components of it can serve.
    pub blocks: Blocks,
}
