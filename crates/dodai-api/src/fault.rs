//! Faults made on purpose, to see what callers make of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::TimeSpan;
use crate::route::ValueMatch;

/// Faults made on purpose. Each befalls its share of the calls, drawn for each call before its first try: no instance
/// hears of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Calls wait first. Default: none do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Calls are answered at once. Default: none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
    /// Calls whose connection or stream is cut, percent. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub reset_percent: Option<f64>,
    /// Answers come slowly. Default: none do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle: Option<FaultThrottle>,
    /// Only calls with all of these headers. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
}

/// Calls that wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelay {
    /// How long.
    pub time: TimeSpan,
    /// Their share, percent. Default: 100.
    #[serde(default = "hundred")]
    #[schemars(range(max = 100))]
    pub percent: f64,
}

/// Calls that are answered at once: exactly one of `status` and `grpcStatus`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultAbort {
    /// With this HTTP status, 200 to 599.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// With this gRPC status, 1 to 16. Callers that do not speak gRPC get 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// Their share, percent. Default: 100.
    #[serde(default = "hundred")]
    #[schemars(range(max = 100))]
    pub percent: f64,
}

/// Answers that come slowly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultThrottle {
    /// How fast their bodies come at most.
    pub bytes_per_second: u64,
    /// Their share, percent. Default: 100.
    #[serde(default = "hundred")]
    #[schemars(range(max = 100))]
    pub percent: f64,
}

fn hundred() -> f64 {
    100.0
}
