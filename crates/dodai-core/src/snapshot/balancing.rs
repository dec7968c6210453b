//! How one endpoint of a service is picked, and what keeps calls that belong together at one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How one endpoint is picked. Every way gives endpoints calls by their weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// The better of two random ones by peak-EWMA of latency times load.
    #[default]
    LeastLatency,
    /// The one of two random ones with fewer calls under way.
    LeastRequest,
    /// At random.
    Weighted,
    /// By a key, on a ring of hashes. Calls without the key go as with `LeastRequest`.
    RingHash(HashKey),
    /// By a key, in Maglev's table. Calls without the key go as with `LeastRequest`.
    Maglev(HashKey),
}

/// What calls are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The value of this request header.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The value of this query parameter.
    Query(String),
    /// The path.
    Path,
    /// The calling app; for users at a gateway their address.
    Source,
}

/// A cookie that keeps the calls of a client at one endpoint, as long as that is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sticky {
    /// Its name.
    pub name: String,
    /// How long clients keep it; `None` for as long as they run.
    pub ttl: Option<Duration>,
    /// The paths it is for.
    pub path: String,
    /// Which other sites' calls carry it.
    pub same_site: SameSite,
}

/// Which other sites' calls carry a cookie (RFC 6265bis, section 4.1.2.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// Links.
    #[default]
    Lax,
    /// None.
    Strict,
    /// All.
    None,
}
