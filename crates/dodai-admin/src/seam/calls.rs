//! Calls as who listens to them asks for them and is told them.

use std::collections::BTreeMap;

use dodai_core::id::AppId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which calls a listener wants to see: those for which everything holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CallFilter {
    /// Only calls that this app makes or gets.
    pub app: Option<AppId>,
    /// Only calls whose status is at least this, and those whose caller left.
    pub least_status: Option<u16>,
    /// Only calls with a status from the first to the second.
    pub statuses: Option<(u16, u16)>,
    /// Only calls that the base answered itself.
    pub failures: bool,
    /// Only calls by this rule.
    pub route: Option<String>,
    /// Only calls with this method.
    pub method: Option<String>,
    /// Only calls whose path begins so.
    pub path: Option<String>,
    /// Only calls that took at least so long, in microseconds.
    pub slower_than_us: Option<u64>,
    /// Only calls with this request header (in small letters), with this value if any is given.
    pub header: Option<(String, Option<String>)>,
    /// Only calls of this caller: an app, `outside`, `base`, or a proven SPIFFE id.
    pub caller: Option<String>,
    /// Only calls that end in an error: a status of 400 or more, a failure, or a caller that left.
    pub errors: bool,
}

/// One message to who listens to calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Told {
    /// A call that ended, or a tunnel that began.
    Call(Box<Call>),
    /// The listener was too slow.
    Missed(Missed),
    /// A base tells no more calls.
    Silent(Silent),
}

/// So many calls were passed over because the listener was too slow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Missed {
    /// How many.
    pub missed: u64,
    /// The base they were on, where there may be several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

/// A base tells no more calls, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Silent {
    /// The base.
    pub base: String,
    /// Why.
    pub ended: String,
}

/// A call that ended, or a tunnel that began. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Call {
    /// Counts the calls of a base.
    pub sequence: u64,
    /// When the request's head was complete: RFC 3339, UTC, microseconds.
    pub time: String,
    /// `gateway`, `outbound`, `inbound` or `api`.
    pub direction: String,
    /// `open` where a tunnel begins; left out for calls that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The listener.
    pub listener: String,
    /// The client's address and port, at gateways.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub client: String,
    /// The SPIFFE id that the other side has proven.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
    /// The version of TLS between the client and the base.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tls: String,
    /// The caller: an app, `outside` or `base`.
    pub caller: String,
    /// The service called; empty when no route matched.
    pub service: String,
    /// The rule that matched.
    pub route: String,
    /// The endpoint of the last try.
    pub endpoint: String,
    /// Its revision.
    pub revision: String,
    /// The method.
    pub method: String,
    /// Path and query, masked.
    pub target: String,
    /// The authority, masked.
    pub authority: String,
    /// `HTTP/1.1`, `HTTP/2`, `gRPC`, `TCP`.
    pub protocol: String,
    /// The status sent; 0 when the caller went away first.
    pub status: u16,
    /// The gRPC status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// The failure's code, if the base answered itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The failure's detail.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Body bytes from the caller.
    pub received_bytes: u64,
    /// Body bytes to the caller.
    pub sent_bytes: u64,
    /// Tries after the first.
    pub retries: u32,
    /// From the head to the last byte of the response, in microseconds.
    pub took_us: u64,
    /// From the head to the response's head, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_us: Option<u64>,
    /// The trace id, 32 hexadecimal digits.
    pub trace_id: String,
    /// The span id, 16 hexadecimal digits.
    pub span_id: String,
    /// The caller's span id; left out at the root of a trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// Whether the trace is sampled.
    pub sampled: bool,
    /// When each station was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stations: Option<Stations>,
    /// The request headers that somebody asked for by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub request_headers: BTreeMap<String, String>,
    /// The response headers that somebody asked for by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub response_headers: BTreeMap<String, String>,
    /// The base it was on, where there may be several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

/// When each station was left, in microseconds from the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stations {
    /// The route was found.
    pub route_us: u64,
    /// The filters let it through.
    pub filter_us: u64,
    /// The last try began.
    pub attempt_us: u64,
    /// A connection or instance was ready.
    pub endpoint_us: u64,
    /// The response head arrived.
    pub response_us: u64,
}
