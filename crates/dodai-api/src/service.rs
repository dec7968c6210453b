//! Service: a name others call. An app's own services make one; a document overrides it or selects across apps.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::Protocol;
use crate::balancing::LoadBalancing;
use crate::name::Name;
use crate::quantity::Port;

/// What is wanted of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    /// The apps whose instances serve it. Default: the app of the service's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<ServiceSelector>,
    /// The ports callers name. Default: the ports of the app's services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// How an instance is chosen. Default: as the policy says, or `least_latency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
}

/// Which instances serve a service: those that match everything given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSelector {
    /// Instances of this app. Default: of any app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<Name>,
    /// Instances with these labels. Default: any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// The port's name, unique in the service.
    pub name: Name,
    /// The number callers use.
    pub port: Port,
    /// What is spoken on it. Default: `http`.
    #[serde(default)]
    pub protocol: Protocol,
    /// The app's service behind it. Default: the one of the port's name, or the app's default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_service: Option<Name>,
}
