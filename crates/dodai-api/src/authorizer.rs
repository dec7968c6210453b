//! A service of the mesh that decides who may call: Envoy's ext_authz, over HTTP or gRPC.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::quantity::{Port, TimeSpan};

/// A service that decides who may call, asked for each call before it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authorizer {
    /// The service that is asked.
    pub backend_ref: AuthorizerBackend,
    /// How it is asked. Default: `http`.
    #[serde(default)]
    pub protocol: AuthorizerProtocol,
    /// Over HTTP: what stands before the path of the call. Default: nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path_prefix: String,
    /// How long it may take. Default: `1s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// Whether calls go on when it gives no answer; else they get 503. Default: `false`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fail_open: bool,
    /// Over HTTP: headers of the call that it gets, beside `authorization` and `cookie`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub request_headers: Vec<String>,
    /// Over HTTP: headers of its answer that the call gets in place of its own. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub call_headers: Vec<String>,
    /// Over HTTP: headers of its refusal that the client gets, beside `www-authenticate`, `location`, `set-cookie` and
    /// `content-type`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client_headers: Vec<String>,
}

/// The service that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizerBackend {
    /// The name of an app or service.
    pub name: Name,
    /// Its namespace. Default: the policy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    /// Its port. Default: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
}

/// How an authorizer is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuthorizerProtocol {
    /// By the head of the call: 2xx lets it through, anything else but 5xx is what the client gets.
    #[default]
    Http,
    /// By `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
}
