//! Resiliency: named timeouts, retries and circuit breakers, and what they apply to.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metadata::{Metadata, Status};
use crate::quantity::TimeSpan;

/// A Dapr resiliency document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resiliency {
    /// Identity and labels.
    pub metadata: Metadata,
    /// The policies and their targets.
    pub spec: ResiliencySpec,
    /// The apps it applies to. Default: all of the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// What was observed. Written by control, ignored when a user writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// The policies and their targets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResiliencySpec {
    /// Policies by name.
    #[serde(default)]
    pub policies: Policies,
    /// What they apply to.
    #[serde(default)]
    pub targets: Targets,
}

/// Policies by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Policies {
    /// Timeouts. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timeouts: BTreeMap<String, TimeSpan>,
    /// Retries. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub retries: BTreeMap<String, DaprRetry>,
    /// Circuit breakers. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub circuit_breakers: BTreeMap<String, DaprCircuitBreaker>,
}

/// When a failed operation is done again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DaprRetry {
    /// How the wait grows. Default: `constant`.
    #[serde(default)]
    pub policy: RetryKind,
    /// The wait, for `constant`. Default: `5s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<TimeSpan>,
    /// The longest wait, for `exponential`. Default: `60s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_interval: Option<TimeSpan>,
    /// Most retries; -1: without end. Default: -1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i64>,
    /// Which failures count. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matching: Option<RetryMatching>,
}

/// How the wait between tries grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RetryKind {
    /// It does not.
    #[default]
    Constant,
    /// It grows by half each time, with some chance.
    Exponential,
}

/// Which failures count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryMatching {
    /// HTTP status codes and ranges: `429,501-503`. Default: all.
    #[serde(rename = "httpStatusCodes", default, skip_serializing_if = "Option::is_none")]
    pub http_status_codes: Option<String>,
    /// gRPC status codes and ranges: `1,4-8`. Default: all.
    #[serde(rename = "gRPCStatusCodes", default, skip_serializing_if = "Option::is_none")]
    pub grpc_status_codes: Option<String>,
}

/// The codes of `429,501-503`. Nothing between two commas means nothing.
///
/// # Errors
/// The part that is no code from 100 to 599 and no range of them.
pub fn status_codes(text: &str) -> Result<Vec<u16>, &str> {
    let mut codes = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let code = |text: &str| text.trim().parse::<u16>().ok().filter(|code| (100..=599).contains(code));
        match (code(first), code(last)) {
            (Some(first), Some(last)) if first <= last => codes.extend(first..=last),
            _ => return Err(part),
        }
    }
    Ok(codes)
}

/// When operations are refused for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DaprCircuitBreaker {
    /// Operations let through when half open. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// How often counts are cleared while closed. Default: `0s`, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<TimeSpan>,
    /// How long it stays open. Default: `60s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// A CEL expression over the counts that opens it. Default: `consecutiveFailures > 5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trip: Option<String>,
}

/// What policies apply to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Targets {
    /// Calls to apps, by app id. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub apps: BTreeMap<String, AppTarget>,
    /// Calls to actors, by type. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub actors: BTreeMap<String, ActorTarget>,
    /// Operations of components, by name. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, ComponentTarget>,
}

/// Names of the policies for calls to an app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppTarget {
    /// A timeout. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// A retry. Default: Dapr's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// A circuit breaker. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<String>,
    /// Breakers kept at once. Default: 5000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker_cache_size: Option<u32>,
}

/// Names of the policies for calls to actors of a type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActorTarget {
    /// A timeout. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// A retry. Default: Dapr's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// A circuit breaker. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<String>,
    /// `type`, `id` or `both`. Default: `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker_scope: Option<String>,
    /// Breakers kept at once. Default: 5000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker_cache_size: Option<u32>,
}

/// Names of the policies for a component, by direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentTarget {
    /// For messages that the component delivers to the app: `timeout` bounds a delivery; `retry` says how often and
    /// when a message is delivered again before it goes to its dead letter topic. Default: up to 60s for each, again after
    /// 1s to 60s, 4 deliveries before a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<PolicyNames>,
    /// For what the app asks of the component: reading, writing and publishing one thing at a time, and
    /// transactions; not bulk operations, locks and subscriptions. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound: Option<PolicyNames>,
}

/// Names of policies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyNames {
    /// A timeout. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// A retry. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// A circuit breaker. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<String>,
}
