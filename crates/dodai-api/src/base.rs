//! Base: one node, what it offers and what was seen of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::interception::Interception;
use crate::metadata::Condition;
use crate::quantity::{ByteSize, MilliCpu};

/// What a base offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BaseSpec {
    /// Labels that placement chooses by (zone, cell, hardware). Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What workloads may use of it. Default: what the machine has.
    #[serde(default)]
    pub capacity: Capacity,
    /// Whether new instances may be placed on it. Default: true.
    #[serde(default = "yes")]
    pub schedulable: bool,
    /// Connections of programs that know nothing of Dodai. Default: none are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interception: Option<Interception>,
}

impl Default for BaseSpec {
    /// What an empty document says: a base that takes instances.
    fn default() -> BaseSpec {
        BaseSpec {
            labels: BTreeMap::new(),
            capacity: Capacity::default(),
            schedulable: true,
            interception: None,
        }
    }
}

fn yes() -> bool {
    true
}

/// What workloads may use of a base.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capacity {
    /// Memory: the limits of its apps together. Default: not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Processor share: the limits of its apps together. Default: not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<MilliCpu>,
    /// Instances. Default: 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<u32>,
}

/// What was observed of a base.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BaseStatus {
    /// Statements about the base, at most one of each type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Where other bases reach it, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When it was last heard of, RFC 3339 in UTC; not while it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// Why it refused the newest snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Ready instances by app of the form `namespace/name`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub instances: BTreeMap<String, u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_what_an_empty_document_says() {
        let empty: BaseSpec = serde_json::from_str("{}").expect("every field has a default");
        assert_eq!(empty, BaseSpec::default());
    }
}
