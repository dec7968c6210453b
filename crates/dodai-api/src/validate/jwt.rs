//! Rules within `jwt` of a Policy.

use super::Findings;
use crate::jwt::{Jwt, JwtIssuer};
use crate::read::Code;

pub(super) fn check(jwt: &Jwt, found: &mut Findings) {
    found.not_empty("spec.jwt.issuers", "issuer", &jwt.issuers);
    for (i, issuer) in jwt.issuers.iter().enumerate() {
        check_issuer(&format!("spec.jwt.issuers[{i}]"), issuer, found);
    }
    let names = jwt.issuers.iter().enumerate();
    found.unique("the issuer", names.map(|(i, one)| (format!("spec.jwt.issuers[{i}].issuer"), &one.issuer)));
}

fn check_issuer(path: &str, issuer: &JwtIssuer, found: &mut Findings) {
    if issuer.issuer.is_empty() {
        let remedy = "write what its tokens have as `iss`, for example `https://login.example.com/`";
        found.error(Code::InvalidValue, format!("{path}.issuer"), "the issuer is empty", remedy);
    }
    let from = [
        ("jwksUri", issuer.jwks_uri.is_some()),
        ("jwksFile", issuer.jwks_file.is_some()),
        ("jwks", issuer.jwks.is_some()),
    ];
    found.exactly_one(path, &from);
    if issuer.jwks_file.as_ref().is_some_and(String::is_empty) {
        let remedy = "write a path, for example `/etc/dodai/login.jwks.json`";
        found.error(Code::InvalidValue, format!("{path}.jwksFile"), "the path is empty", remedy);
    }
    if issuer.refresh.is_some() && issuer.jwks_uri.is_none() {
        let remedy = "leave it out: a file is read again when it changes, and what is written here stays";
        found.warning(
            Code::NoEffect,
            format!("{path}.refresh"),
            "only keys at `jwksUri` are fetched anew",
            remedy,
        );
    }
    if let Some(uri) = &issuer.jwks_uri {
        check_uri(&format!("{path}.jwksUri"), uri, found);
    }
    if let Some(keys) = &issuer.jwks {
        let is_set = |value: serde_json::Value| value.get("keys").is_some_and(|keys| keys.is_array());
        if !serde_json::from_str(keys).is_ok_and(is_set) {
            let remedy = "write the JSON as the issuer serves it, in single quotes: `'{\"keys\": [...]}'`";
            found.error(Code::InvalidValue, format!("{path}.jwks"), "this is no JSON Web Key Set", remedy);
        }
    }
    if issuer.refresh.is_some_and(|time| time.get().as_secs() < 1) {
        let message = "the issuer would be asked all the time";
        found.error(Code::InvalidValue, format!("{path}.refresh"), message, "write `1s` or more");
    }
    for (i, header) in issuer.from_headers.iter().enumerate() {
        found.header_name(&format!("{path}.fromHeaders[{i}].name"), &header.name);
    }
    for (key, names) in [("fromCookies", &issuer.from_cookies), ("fromParams", &issuer.from_params)] {
        for (i, name) in names.iter().enumerate() {
            found.header_name(&format!("{path}.{key}[{i}]"), name);
        }
    }
    for (i, one) in issuer.claims_to_headers.iter().enumerate() {
        let path = format!("{path}.claimsToHeaders[{i}]");
        found.header_name(&format!("{path}.header"), &one.header);
        if one.claim.is_empty() {
            let remedy = "name a claim, for example `sub`";
            found.error(Code::InvalidValue, format!("{path}.claim"), "the claim is empty", remedy);
        }
    }
}

/// A URL that the base can fetch from.
pub(super) fn check_uri(path: &str, uri: &str, found: &mut Findings) {
    let rest = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://"));
    let host = rest.map(|rest| rest.split(['/', '?']).next().unwrap_or_default());
    let fine = host.is_some_and(|host| !host.is_empty() && !host.contains('@')) && !uri.contains([' ', '#']);
    if !fine {
        let message = format!("`{}` is not an address that can be fetched", crate::Invalid::shorten(uri));
        found.error(Code::InvalidValue, path, message, "write `https://HOST/PATH`, or `http://APP/PATH`");
    }
}
