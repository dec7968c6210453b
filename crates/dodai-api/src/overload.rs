//! How many calls a service bears at once, and which are shed first.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many calls to what the policy targets may be under way from one base: `limit`, `adaptive`, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Concurrency {
    /// The most; calls beyond it get 503. Default: with `adaptive` 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<u32>,
    /// Whether the most is found by how quick answers come, up to `limit`. Default: `false`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adaptive: bool,
    /// A request header that says how much a call matters: `high`, `normal` or `low`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_header: Option<String>,
}

/// How much calls matter when too many come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Shed first: while 70 % of the limit is used.
    Low,
    /// Shed while 90 % of it is used.
    Normal,
    /// Shed when all of it is used.
    High,
}
