//! What every document carries beside its spec: metadata and the status that control writes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::name::{Name, ObjectName};

/// Identity, labels and bookkeeping of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The document's name, unique among documents of its kind in its namespace. For dodai.dev kinds a DNS label.
    pub name: ObjectName,
    /// The namespace. Default: `default`.
    #[serde(default = "Name::default_namespace")]
    pub namespace: Name,
    /// Labels that other documents select by. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Notes for people and tools; nothing selects by them. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Set by the server: unique over time, so that a document made again under the same name is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Set by the server: counts changes of the spec, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Set by the server: the store's revision at which this document last changed. Writing a document back
    /// with it succeeds only if nobody changed the document in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Set by the server: when the document was first written, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// Set by the server: the app this document was made for and goes with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_app: Option<Name>,
    /// Set by the server: who owns which field, path to owner (`spec.module.artifact: deploy`). The path `` is the
    /// whole document. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub field_owners: BTreeMap<String, String>,
}

impl Metadata {
    /// Metadata of a document with this name in this namespace, and nothing else.
    pub fn new(namespace: Name, name: impl Into<ObjectName>) -> Self {
        Self {
            name: name.into(),
            namespace,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            uid: None,
            generation: None,
            revision: None,
            creation_timestamp: None,
            owner_app: None,
            field_owners: BTreeMap::new(),
        }
    }
}

/// What control observed about a document. Never written by users.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Status {
    /// The `metadata.generation` this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<u64>,
    /// Statements about the document, at most one of each type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Further facts, by name, for the console and the command line.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, Value>,
}

/// One statement about a document, such as "it is ready".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// What the statement is about: `Ready`, `Accepted`, `ResolvedRefs`, ...
    #[serde(rename = "type")]
    pub condition: String,
    /// Whether it holds.
    pub status: Truth,
    /// One word of why, for machines: `AllInstancesReady`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence for people, with a remedy where there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When `status` last changed, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody can tell: no data, or not looked at yet.
    Unknown,
}
