//! How many calls are taken: limits over time, what they count by, and who keeps them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::StoreRef;
use crate::quantity::TimeSpan;

/// How many calls are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// Calls over time, in each `per`, for each key on each base.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests: u32,
    /// The time that `requests` are for; they come evenly within it, after a burst. Default: `1s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<TimeSpan>,
    /// Calls at once after a pause. Default: `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub burst: Option<u32>,
    /// What calls are counted by: each distinct tuple of these parts has the limit for itself. A part that a call does not
    /// have is a value like others. Default: all together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub key: Vec<RateLimitKey>,
    /// Whether each base keeps the limit by itself and for each rule, or all bases and rules together. Default: `local`.
    #[serde(default, skip_serializing_if = "RateLimitScope::is_local")]
    pub scope: RateLimitScope,
    /// With scope `global`: a Redis by which bases tell each other what is asked of them, in place of their server. So also
    /// bases without a server, or of several, keep one limit. While it is away each base keeps the whole limit by itself.
    /// Default: the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RateLimitRedis>,
}

/// A Redis by which bases share a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitRedis {
    /// Where it is: `HOST:PORT`.
    pub address: String,
    /// The number of the database. Default: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub database: u16,
    /// The user, for a Redis with several. Default: its default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password, in a secret store that every base which keeps the limit has. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_ref: Option<StoreRef>,
    /// That it is spoken to in TLS, and whom it must prove to be; `{}` for a certificate that the machine trusts. Default:
    /// no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RedisTls>,
}

/// TLS towards a Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisTls {
    /// A file with the certificates to trust, PEM, on each base that keeps the limit; relative paths begin at the base's
    /// data folder. Read again when it changes. Default: those that the machine trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The name or address its certificate must be for, sent as SNI. Default: the host of `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// Who keeps a rate limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RateLimitScope {
    /// Each base by itself, and for each rule.
    #[default]
    Local,
    /// All bases together: each has a share, which follows what is asked of it.
    Global,
}

impl RateLimitScope {
    fn is_local(&self) -> bool {
        *self == RateLimitScope::Local
    }
}

/// A part of what calls are counted by: exactly one is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitKey {
    /// The value of this request header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The value of this cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// The value of this query parameter, as it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_param: Option<String>,
    /// A claim of the call's token, `a.b` for `b` within `a`; needs `jwt` for the same target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// The calling app, or, for gateways and their routes, the client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<RateLimitSource>,
}

/// Which property of the caller calls are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RateLimitSource {
    /// The calling app.
    App,
    /// The client's IP address.
    Address,
}
