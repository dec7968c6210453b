//! Gateway: listeners at the border, shaped like the Kubernetes Gateway API.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::{Name, ObjectName};
use crate::quantity::{Port, TimeSpan};

/// What is wanted of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewaySpec {
    /// Where it listens; at least one. Listeners may share a port when host names or names in TLS tell them apart.
    pub listeners: Vec<Listener>,
}

/// One listener of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// The listener's name, unique in the gateway. Routes name it in `parentRefs[].sectionName`.
    pub name: Name,
    /// The IP address to listen on; `0.0.0.0` or `::` for all. Default: `127.0.0.1`.
    #[serde(default = "loopback")]
    pub address: String,
    /// The port to listen on.
    pub port: Port,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
    /// The host name it answers for, `*.example.com` for all below a domain. Default: every host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// TLS; needed for `HTTPS` and `TLS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// What becomes of headers that say who calls (`dapr-caller-app-id`, `x-forwarded-client-cert`). Default: `Strip`.
    #[serde(default, skip_serializing_if = "IdentityHeaders::is_default")]
    pub identity_headers: IdentityHeaders,
    /// A proxy in front says in the PROXY protocol (version 1 or 2) whose each connection is; the client's address is
    /// then what it says. The same for all listeners of a port. Default: nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Proxies in front that speak HTTP and may say whose calls they bring: addresses, or networks like `10.0.0.0/8`. Of a
    /// call from one of them the client's address is the last of `X-Forwarded-For` that is none of them, and
    /// `X-Forwarded-Proto` stays. The same for all HTTP listeners of a port. Default: nobody is believed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<String>,
    /// Calls get an `X-Request-Id`, a random UUID. The same for all HTTP listeners of a port. Default: it goes on as it
    /// came, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// A client's connection that is about as old is told to end after the calls under way, so that clients spread over
    /// instances that came later: `Connection: close`, or GOAWAY. WebSockets stay. The same for all HTTP listeners of a
    /// port. From `10s` to `12h`. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connection_age: Option<TimeSpan>,
}

/// Which calls get an `X-Request-Id` of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RequestId {
    /// All but those that one of `trustedProxies` has given one.
    Generate,
    /// Those that have none.
    Keep,
}

/// What becomes of headers that say who calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IdentityHeaders {
    /// They are taken away: nobody who comes here has a name that apps may believe.
    #[default]
    Strip,
    /// They go on. Only for listeners that nobody can reach but those who may speak for others, such as a proxy of yours.
    Keep,
}

impl IdentityHeaders {
    fn is_default(&self) -> bool {
        *self == IdentityHeaders::Strip
    }
}

/// The PROXY protocol ahead of a listener's connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Whether connections without the header are refused. Default: `require`.
    #[serde(default)]
    pub mode: ProxyProtocolMode,
    /// The proxies that may say it: addresses, or networks like `10.0.0.0/8`; at least one. Headers from elsewhere are
    /// refused.
    pub trusted: Vec<String>,
}

/// Whether connections without the header of the PROXY protocol are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocolMode {
    /// Every connection begins with the header.
    #[default]
    Require,
    /// Connections may begin with the header; those without are their sender's own.
    Accept,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocolVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

fn loopback() -> String {
    "127.0.0.1".to_owned()
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ListenerProtocol {
    /// HTTP/1.1 and HTTP/2 without TLS.
    Http,
    /// HTTP/1.1 and HTTP/2 over TLS that ends here.
    Https,
    /// Bytes that are not parsed.
    Tcp,
    /// Datagrams that are not parsed; its routes lead to services of `udp`.
    Udp,
    /// TLS of which only the wanted name is read (`Passthrough`), or that ends here (`Terminate`) and carries bytes.
    /// A port on which TLS ends carries HTTP or bytes, not both.
    Tls,
}

/// TLS of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    /// Whether TLS ends here. Default: `Terminate`.
    #[serde(default)]
    pub mode: TlsMode,
    /// A file with the certificate and its chain, PEM; the path begins at the project folder. Read again when it
    /// changes. Goes with `keyFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<String>,
    /// A file with the private key, PEM; the path begins at the project folder. Goes with `certificateFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    /// Certificates by name, instead of or beside the files: `certificates/NAME/tls.crt` and
    /// `certificates/NAME/tls.key` in the data folder of the base. The client's wanted name chooses among them; the
    /// first one answers those who name none. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificate_refs: Vec<CertificateRef>,
    /// The oldest version of TLS that clients may speak, where TLS ends here; of listeners with one address the newest that
    /// one of them says. Default: `"1.2"`.
    #[serde(default, skip_serializing_if = "TlsVersion::is_default")]
    pub min_version: TlsVersion,
    /// Clients show a certificate, where TLS ends here. The same for all listeners of a port. Default: none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend_validation: Option<FrontendValidation>,
}

/// Whose certificates clients show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendValidation {
    /// A file with the certificates of authorities that may have signed a client's, PEM; the path begins at the project
    /// folder. Read again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_certificate_file: Option<String>,
    /// Authorities by name, instead of or beside the file: `certificates/NAME/ca.crt` in the data folder of the base.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca_certificate_refs: Vec<CertificateRef>,
    /// A file with revocation lists of those authorities, PEM; the path begins at the project folder. Read again when it
    /// changes. Default: none is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl_file: Option<String>,
    /// Whether clients without a certificate are refused. Default: `AllowValidOnly`.
    #[serde(default)]
    pub mode: FrontendValidationMode,
}

/// Whether clients without a certificate are refused. A wrong one always is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FrontendValidationMode {
    /// They are, in the handshake.
    #[default]
    AllowValidOnly,
    /// They get in, as nobody.
    AllowInsecureFallback,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V1_3,
}

impl TlsVersion {
    fn is_default(&self) -> bool {
        *self == TlsVersion::default()
    }
}

/// Whether TLS ends at the listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// TLS ends here; a certificate is needed.
    #[default]
    Terminate,
    /// TLS goes through to the app.
    Passthrough,
}

/// A certificate in the data folder of the base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRef {
    /// Its name.
    pub name: ObjectName,
}
