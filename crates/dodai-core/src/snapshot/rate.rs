//! How many calls are taken over time, and what a base may take of what all bases keep together.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::service::ClientTls;
use super::workload::Value;
use crate::id::Name;

/// Keys of one shared limit that bases tell of, and are told shares for; all others are shared evenly.
pub const BUSIEST_KEYS: usize = 256;

/// A rate limit (GCRA): a bucket for each rule and key on each base, or one for each key of all bases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Sustained, one call per so long.
    pub interval: Duration,
    /// How many may come at once.
    pub burst: u32,
    /// What has a bucket of its own, each tuple of these; all together without.
    pub key: Vec<RateKey>,
    /// As what all bases keep it together; `None` if each does so by itself.
    pub shared: Option<SharedRate>,
}

/// A limit that all bases keep together; see [`Share`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedRate {
    /// The limit's name; those of one name are one limit.
    pub name: String,
    /// By what the bases share it; `None` for control.
    pub store: Option<RateStore>,
}

/// A part of what calls are counted by. Not to have it is a value like others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateKey {
    /// The value of this request header.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The value of this query parameter.
    Query(String),
    /// This claim of the call's token, `a.b` for `b` within `a`.
    Claim(String),
    /// The calling app.
    App,
    /// The client's address, at a gateway.
    Address,
}

/// What a base may take of a limit that all bases keep together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The limit's name, as its filters have it.
    pub limit: String,
    /// Of 10,000 calls, how many; of a limit with a key, of each key that `keys` does not name.
    pub per_ten_thousand: u16,
    /// The same for keys that many calls come by, by their marks; at most [`BUSIEST_KEYS`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<u64, u16>,
}

impl Share {
    /// Everything, in ten thousandths.
    const WHOLE: u64 = 10_000;
    /// What is given out whatever is asked, all bases together.
    const EVEN: u64 = 1_000;

    /// The share of one of `count` bases of which `own` is asked, of `total` that is asked of all of them. Together
    /// shares are never more than the whole. Each base keeps a small part whatever is asked of it, so that the first
    /// calls there do not find nothing.
    pub fn of(own: u64, total: u64, count: u64) -> u16 {
        let count = count.max(1);
        let by_demand = ((Self::WHOLE - Self::EVEN) * own).checked_div(total);
        let share = by_demand.map_or(Self::WHOLE / count, |part| Self::EVEN / count + part);
        u16::try_from(share.clamp(1, Self::WHOLE)).unwrap_or(1)
    }
}

/// A Redis by which bases tell each other what is asked of them, in place of control.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RateStore {
    /// `host:port`.
    pub address: String,
    /// The number of the database.
    pub database: u16,
    /// The user; `None` for its default user.
    pub username: Option<String>,
    /// The password, if it wants one.
    pub password: Option<Value>,
    /// Where the password's store is.
    pub namespace: Name,
    /// Whom it must prove to be, if it is spoken to in TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Box<ClientTls>>,
}
