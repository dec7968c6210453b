//! Whose tokens count: JSON Web Tokens of users, and what is told of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::TimeSpan;
use crate::route::ValueMatchKind;

/// Whose tokens (JSON Web Tokens) count. A call whose token does not count is refused with 401.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Jwt {
    /// Who may have issued a token; at least one.
    pub issuers: Vec<JwtIssuer>,
    /// Whether calls without a token go on; one that does not count is refused all the same. Default: `false`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// An issuer of tokens, with exactly one of `jwksUri`, `jwksFile` and `jwks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtIssuer {
    /// What its tokens have as `iss`, to the letter.
    pub issuer: String,
    /// One of these must be in `aud`. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// Where its public keys (a JSON Web Key Set) are: `https://...`, or `http://` and an app of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    /// A file with its public keys on each base that checks its tokens; relative paths begin at the base's data folder. It is
    /// read again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<String>,
    /// Its public keys themselves, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
    /// How often the keys at `jwksUri` are fetched anew. Default: `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<TimeSpan>,
    /// Headers that a token is looked for in. Default: `authorization` behind `Bearer `, if no other place is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from_headers: Vec<JwtHeader>,
    /// Cookies that a token is looked for in. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from_cookies: Vec<String>,
    /// Query parameters that a token is looked for in. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from_params: Vec<String>,
    /// How far clocks may be apart. Default: `60s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_skew: Option<TimeSpan>,
    /// Whether the app gets the token. Default: `true`.
    #[serde(default = "yes")]
    pub forward: bool,
    /// Claims that the app is told, each in a header; what the caller sent there is taken away. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims_to_headers: Vec<ClaimToHeader>,
}

fn yes() -> bool {
    true
}

/// A header that a token is looked for in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtHeader {
    /// The header.
    pub name: String,
    /// What stands before the token, whatever its case. Default: nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

/// A claim that the app is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimToHeader {
    /// The claim; `a.b` is `b` within `a`. Of a list all, with `,` between.
    pub claim: String,
    /// The header.
    pub header: String,
}

/// What a claim of a call's token must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimMatch {
    /// How `values` are compared. Default: `Exact`.
    #[serde(rename = "type", default)]
    pub kind: ValueMatchKind,
    /// The claim; `a.b` is `b` within `a`.
    pub name: String,
    /// One of these; where the claim is a list (or `scope`, a list in one text), one of its items; at least one, but none
    /// with `Present`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}
