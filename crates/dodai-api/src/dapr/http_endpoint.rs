//! HTTPEndpoint: something outside the mesh that apps invoke by name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::component::{ComponentAuth, MetadataItem, SecretKeyRef};
use crate::metadata::{Metadata, Status};

/// A Dapr HTTP endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpEndpoint {
    /// Identity and labels. The name is what apps invoke it by.
    pub metadata: Metadata,
    /// Where it is and how to speak to it.
    pub spec: HttpEndpointSpec,
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

/// Where an endpoint is and how to speak to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpEndpointSpec {
    /// Its URL, `http://` or `https://`.
    pub base_url: String,
    /// Headers put on every call. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<MetadataItem>,
    /// TLS towards it. Default: the system's.
    #[serde(rename = "clientTLS", default, skip_serializing_if = "Option::is_none")]
    pub client_tls: Option<ClientTls>,
}

/// TLS towards an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientTls {
    /// Certificates to trust, PEM. Default: those that the machine trusts.
    #[serde(rename = "rootCA", default, skip_serializing_if = "Option::is_none")]
    pub root_ca: Option<TlsItem>,
    /// Our certificate, PEM. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<TlsItem>,
    /// Its key, PEM. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<TlsItem>,
    /// Read for compatibility; TLS 1.3 has no renegotiation and none is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renegotiation: Option<String>,
}

/// A value, or a secret that holds it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsItem {
    /// The value as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// The value from the secret store in `auth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}
