//! What guards calls before they are sent on: who may make them, and which pages may.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::routing::{ValueMatch, ValuePattern};
use crate::id::{AppId, ServiceId};

/// Who may call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// What happens to calls that no rule names.
    pub default_allow: bool,
    /// Deny rules win over allow rules.
    pub rules: Vec<AccessRule>,
}

/// One rule of [`Access`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRule {
    /// Allow or deny.
    pub allow: bool,
    /// Apps this is about (`namespace/name`); empty with empty namespaces means everybody.
    pub apps: Vec<AppId>,
    /// Namespaces this is about.
    pub namespaces: Vec<String>,
    /// Methods; empty means all.
    pub methods: Vec<String>,
    /// Paths: exact, or everything below with `/*` at the end; empty means all.
    pub paths: Vec<String>,
    /// Callers by the parts of their SPIFFE ids, beside `apps` and `namespaces`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<IdentityPattern>,
    /// Networks that a gateway's client must be in, `10.0.0.0/8`; empty means anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// What a certificate that a gateway's client has shown must say, of which one is enough; empty means any, or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateMatch>,
    /// Hosts that are called: exact, or `*.suffix`; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Request headers, all of which must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
    /// Claims of the call's token, all of which must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimMatch>,
    /// What a call must not be.
    #[serde(default, skip_serializing_if = "AccessExcept::is_empty")]
    pub except: AccessExcept,
    /// An expression over `request`, `source` and `claims`; where it has no answer, only a deny rule matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cel: Option<String>,
}

/// What a call must not be for a rule of [`Access`]: nothing of this, in the words of the rule itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccessExcept {
    /// Apps.
    pub apps: Vec<AppId>,
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// Callers by the parts of their SPIFFE ids.
    pub identities: Vec<IdentityPattern>,
    /// Networks.
    pub addresses: Vec<String>,
    /// Methods.
    pub methods: Vec<String>,
    /// Paths.
    pub paths: Vec<String>,
    /// Hosts.
    pub hosts: Vec<String>,
    /// Request headers.
    pub headers: Vec<ValueMatch>,
    /// Claims.
    pub claims: Vec<ClaimMatch>,
}

impl AccessExcept {
    /// Whether it names nothing.
    pub fn is_empty(&self) -> bool {
        *self == AccessExcept::default()
    }
}

/// Apps by namespace and name; one `*` in each stands for anything. Empty parts match nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityPattern {
    /// The namespace.
    pub namespace: String,
    /// The app.
    pub app: String,
}

/// What a certificate must say; one `*` stands for anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateMatch {
    /// A URI among its alternative names.
    Uri(String),
    /// A DNS name among them, in small letters.
    Dns(String),
    /// Its subject, as RFC 2253 writes it.
    Subject(String),
    /// Its SHA-256, in small hexadecimal digits.
    Hash(String),
}

/// What a claim must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimMatch {
    /// The claim; `a.b` is `b` within `a`.
    pub name: String,
    /// One of these, or, where the claim is a list, one that has one of these; empty means that it is there.
    pub values: Vec<ValuePattern>,
}

/// A service that decides who may call, asked for each call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorizer {
    /// The service.
    pub service: ServiceId,
    /// How it is asked.
    pub protocol: AuthorizerProtocol,
    /// How long it may take.
    pub timeout: Duration,
    /// Whether calls go on when it gives no answer.
    pub fail_open: bool,
    /// Over HTTP: headers of the call that it gets, beside `authorization` and `cookie`.
    pub request_headers: Vec<String>,
    /// Over HTTP: headers of its answer that the call gets.
    pub call_headers: Vec<String>,
    /// Over HTTP: headers of its refusal that the client gets, beside those every refusal may need.
    pub client_headers: Vec<String>,
}

/// How an authorizer is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorizerProtocol {
    /// By the head of the call; 2xx lets it through.
    Http {
        /// What stands before the path.
        path_prefix: String,
    },
    /// By `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
}

/// Whose tokens count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwt {
    /// The issuers.
    pub issuers: Vec<JwtIssuer>,
    /// Whether calls without a token go on; a bad one is refused all the same.
    pub optional: bool,
}

/// An issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JwtIssuer {
    /// What its tokens have as `iss`.
    pub issuer: String,
    /// One of these must be in `aud`; empty means any.
    pub audiences: Vec<String>,
    /// Its public keys.
    pub keys: JwtKeys,
    /// Headers that a token is looked for in, with what stands before it.
    pub headers: Vec<(String, String)>,
    /// Cookies that a token is looked for in.
    pub cookies: Vec<String>,
    /// Query parameters that a token is looked for in.
    pub params: Vec<String>,
    /// How far clocks may be apart.
    pub clock_skew: Duration,
    /// Whether the app gets the token.
    pub forward: bool,
    /// Claims that the app is told, and in which headers.
    pub claims_to_headers: Vec<(String, String)>,
}

/// Where the public keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JwtKeys {
    /// Here, as a JSON Web Key Set.
    Inline(String),
    /// In a file on each base; relative paths begin at the base's data folder.
    File(String),
    /// At an address.
    Uri {
        /// The address.
        uri: String,
        /// How often they are fetched anew.
        refresh: Duration,
    },
}

/// Which pages of other origins may call, as browsers ask it (Fetch standard, section 3.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// Origins: exact, `https://*.example.com` for all below a domain, or `*` for all.
    pub allow_origins: Vec<String>,
    /// Methods; `*` for all.
    pub allow_methods: Vec<String>,
    /// Request headers; `*` for all.
    pub allow_headers: Vec<String>,
    /// Response headers that a page may read; `*` for all.
    pub expose_headers: Vec<String>,
    /// Whether calls may carry cookies and the like.
    pub allow_credentials: bool,
    /// How long a browser may remember the answer.
    pub max_age: Duration,
}
