//! Component: a configured implementation of building blocks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::metadata::{Metadata, Status};
use crate::quantity::TimeSpan;

/// A Dapr component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Identity and labels. The name is what apps call the component by.
    pub metadata: Metadata,
    /// What it is and how it is configured.
    pub spec: ComponentSpec,
    /// Where its secrets come from. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<ComponentAuth>,
    /// The apps that may use it. Default: all of the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// What was observed. Written by control, ignored when a user writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// What a component is and how it is configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentSpec {
    /// The driver: `state.sqlite`, `pubsub.in-memory`, ...; `docs/components.md` lists them.
    #[serde(rename = "type")]
    pub kind: String,
    /// The driver's version. Default: `v1`.
    #[serde(default = "v1")]
    pub version: String,
    /// Whether the base counts as healthy (`/v1.0/healthz`) while this component is not up. Apps start either way, and the
    /// component is tried again. Default: false.
    #[serde(default)]
    pub ignore_errors: bool,
    /// Time to come up. Default: `5s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_timeout: Option<TimeSpan>,
    /// The driver's settings. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metadata: Vec<MetadataItem>,
}

fn v1() -> String {
    "v1".to_owned()
}

/// One setting: a value, a secret, or an environment variable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetadataItem {
    /// The setting's name.
    pub name: String,
    /// Its value, of any shape; drivers read it as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Its value from the secret store in `auth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
    /// Its value from an environment variable. `APP_API_TOKEN` and names that begin with `DAPR_` are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_ref: Option<String>,
}

/// A secret, or one key of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The secret's name.
    pub name: String,
    /// The key in it. Default: the secret's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Where secrets come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentAuth {
    /// The secret store component.
    pub secret_store: String,
}

impl MetadataItem {
    /// The value as drivers read it: text as it is, anything else as JSON. `None` without a value.
    pub fn text(&self) -> Option<String> {
        match self.value.as_ref()? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                Some(other.to_string())
            }
        }
    }
}
