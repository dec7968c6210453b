//! Interception: what a base does with connections that rules of the kernel lead to it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::policy::AccessAction;
use crate::quantity::Port;

/// Where connections that leave the machine are led to, unless something else is said.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where connections that come to the machine are led to, unless something else is said.
pub const INBOUND_PORT: u16 = 15006;

/// Connections of programs that know nothing of Dodai. `dodai intercept install` makes the rules that lead them here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Interception {
    /// Those that leave the machine. Default: not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound: Option<InterceptedOutbound>,
    /// Those that come to the machine. Default: not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<InterceptedInbound>,
}

/// Intercepted connections that leave the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InterceptedOutbound {
    /// Where they are led to, on 127.0.0.1 and ::1. Default: 15001.
    #[serde(default = "outbound_port")]
    pub port: Port,
    /// Whose they are: the first that the user fits. Default: nobody's that has a name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub callers: Vec<InterceptedCaller>,
    /// Whether those go on, as bytes, that are for addresses of which nothing is known. Default: `allow`.
    #[serde(default = "allow")]
    pub unknown: AccessAction,
}

/// An app whose connections are intercepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InterceptedCaller {
    /// The app. It need not have a document.
    pub app: Name,
    /// Its namespace. Default: `default`.
    #[serde(default = "Name::default_namespace")]
    pub namespace: Name,
    /// The number of the user that it runs as. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
}

/// Intercepted connections that come to the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InterceptedInbound {
    /// Where they are led to, on every address. Default: 15006.
    #[serde(default = "inbound_port")]
    pub port: Port,
    /// Whether those go on, as bytes, that are for ports of which nothing is known. Default: `allow`.
    #[serde(default = "allow")]
    pub unknown: AccessAction,
}

fn outbound_port() -> Port {
    Port::new(OUTBOUND_PORT).expect("not 0")
}

fn inbound_port() -> Port {
    Port::new(INBOUND_PORT).expect("not 0")
}

fn allow() -> AccessAction {
    AccessAction::Allow
}
