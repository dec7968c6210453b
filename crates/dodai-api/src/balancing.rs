//! How an instance is chosen for a call, and what keeps calls that belong together at one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::TimeSpan;

/// How an instance is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancing {
    /// The rule. Default: `least_latency`.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// What calls are told apart by; for `ring_hash` and `maglev`, which need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<HashOn>,
    /// Keeps the calls of a client at one instance for as long as that is up, whatever the rule. Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// How long a new instance takes to get its whole share of the calls. Default: none of it is held back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<TimeSpan>,
    /// Prefers what is near: instances in the caller's zone, then its region, by the labels `dodai.dev/zone` and
    /// `dodai.dev/region` of bases. Default: all are alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
}

/// Prefers what is near.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Locality {
    /// When less than this share of the near instances is well, percent, some of their calls go further, the more the
    /// fewer are well. Default: 70.
    #[serde(default = "seventy")]
    #[schemars(range(min = 1, max = 100))]
    pub spill_below: u32,
    /// Regions in the order in which they take over from the caller's own; those that are not named come last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub failover: Vec<String>,
}

impl Locality {
    /// The most regions that [`Locality::failover`] names.
    pub const MAX_FAILOVER: u8 = 8;
}

fn seventy() -> u32 {
    70
}

/// The rule an instance is chosen by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// One after the other.
    RoundRobin,
    /// The better of two chosen at random, by recent peak latency and calls under way.
    #[default]
    LeastLatency,
    /// The one of two chosen at random with fewer calls under way.
    LeastRequest,
    /// At random, by weight.
    Weighted,
    /// Calls with the same `hashOn` go to the same instance; when one goes, only its calls move.
    RingHash,
    /// As `ring_hash`, with shares that are more even and a few more calls that move.
    Maglev,
}

/// What calls are told apart by: exactly one is given. Calls without it go as with `least_request`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HashOn {
    /// The value of this request header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The value of this cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// The value of this query parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_param: Option<String>,
    /// A property of every call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<HashedPart>,
}

/// What every call has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HashedPart {
    /// The path, without the query.
    Path,
    /// The calling app; at a gateway the client's IP address.
    Source,
}

/// A cookie that the base gives to clients and that names their instance, by a hash. It is `HttpOnly`, and `Secure` for
/// clients that come by TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sticky {
    /// The cookie's name. Default: `dodai-session`.
    #[serde(default = "session")]
    pub cookie: String,
    /// How long clients keep it. Default: as long as they run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<TimeSpan>,
    /// The paths it is for. Default: `/`.
    #[serde(default = "root")]
    pub path: String,
    /// Which calls from other sites carry it. Default: `Lax`.
    #[serde(default)]
    pub same_site: SameSite,
}

fn session() -> String {
    "dodai-session".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

/// Which calls from other sites carry a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SameSite {
    /// Links that are followed.
    #[default]
    Lax,
    /// None of them.
    Strict,
    /// All of them; browsers take it only over TLS.
    None,
}
