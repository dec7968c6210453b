//! Rules within `access` of a Policy.

use std::net::IpAddr;

use super::Findings;
use super::route::check_value;
use crate::jwt::ClaimMatch;
use crate::name::Name;
use crate::policy::{ACCESS_NAMES, Access, AccessRule, AccessSource};
use crate::read::Code;
use crate::route::ValueMatchKind;

pub(super) fn check(access: &Access, found: &mut Findings) {
    for (i, rule) in access.rules.iter().enumerate() {
        let path = format!("spec.access.rules[{i}]");
        if let Some(from) = &rule.from {
            check_source(&format!("{path}.from"), from, found);
        }
        check_rule(&path, rule, found);
    }
}

fn check_rule(path: &str, rule: &AccessRule, found: &mut Findings) {
    for (key, methods) in [("methods", &rule.methods), ("notMethods", &rule.not_methods)] {
        for (j, method) in methods.iter().enumerate() {
            found.method(&format!("{path}.{key}[{j}]"), method);
        }
    }
    for (key, hosts) in [("hosts", &rule.hosts), ("notHosts", &rule.not_hosts)] {
        for (j, host) in hosts.iter().enumerate() {
            found.hostname(&format!("{path}.{key}[{j}]"), host);
        }
    }
    for (key, headers) in [("headers", &rule.headers), ("notHeaders", &rule.not_headers)] {
        for (j, header) in headers.iter().enumerate() {
            let path = format!("{path}.{key}[{j}]");
            found.header_name(&format!("{path}.name"), &header.name);
            check_value(&path, header, found);
        }
    }
    for (key, claims) in [("claims", &rule.claims), ("notClaims", &rule.not_claims)] {
        for (j, claim) in claims.iter().enumerate() {
            check_claim(&format!("{path}.{key}[{j}]"), claim, found);
        }
    }
    for (key, paths) in [("paths", &rule.paths), ("notPaths", &rule.not_paths)] {
        for (j, pattern) in paths.iter().enumerate() {
            check_path(&format!("{path}.{key}[{j}]"), pattern, found);
        }
    }
    if let Some(when) = &rule.when
        && let Err(malformed) = dodai_cel::Program::parse_over(when, &ACCESS_NAMES)
    {
        let remedy = "write, for example, `request.method == 'GET' || claims.role == 'admin'`";
        found.error(Code::InvalidValue, format!("{path}.when"), malformed.to_string(), remedy);
    }
}

fn check_claim(path: &str, claim: &ClaimMatch, found: &mut Findings) {
    if claim.name.is_empty() {
        let remedy = "name a claim, for example `groups`";
        found.error(Code::InvalidValue, format!("{path}.name"), "the claim is empty", remedy);
    }
    let path = format!("{path}.values");
    match claim.kind {
        ValueMatchKind::Present if claim.values.is_empty() => {}
        ValueMatchKind::Present => {
            let remedy = "leave `values` out, or use `Exact`";
            found.error(Code::Conflict, path, "`Present` looks at no value", remedy);
        }
        ValueMatchKind::Exact | ValueMatchKind::RegularExpression => {
            found.not_empty(&path, "value", &claim.values);
            for (i, value) in claim.values.iter().enumerate() {
                if claim.kind == ValueMatchKind::RegularExpression {
                    found.regex(&format!("{path}[{i}]"), value);
                }
            }
        }
    }
}

fn check_path(path: &str, pattern: &str, found: &mut Findings) {
    found.absolute_path(path, pattern);
    if pattern.strip_suffix("/*").unwrap_or(pattern).contains('*') {
        let message = "`*` stands only at the end, after `/`";
        let remedy = "write `/a` for one path or `/a/*` for all below it";
        found.error(Code::InvalidValue, path, message, remedy);
    }
}

fn check_source(path: &str, from: &AccessSource, found: &mut Findings) {
    if *from == AccessSource::default() {
        let remedy = "add `apps`, `namespaces`, `identities`, `addresses` or `certificates`, or leave it out";
        found.error(Code::MissingKey, path, "nobody is named", remedy);
    }
    for (key, list) in [("apps", &from.apps), ("notApps", &from.not_apps)] {
        for (j, app) in list.iter().enumerate() {
            if let Err(invalid) = parse_app(app) {
                let remedy = format!("{}, or `namespace/name`", invalid.remedy);
                found.error(Code::InvalidValue, format!("{path}.{key}[{j}]"), invalid.message, remedy);
            }
        }
    }
    for (key, list) in [("identities", &from.identities), ("notIdentities", &from.not_identities)] {
        for (j, identity) in list.iter().enumerate() {
            if crate::identity_parts(identity).is_none() {
                let message =
                    format!("`{}` is not the SPIFFE id of an app", crate::Invalid::shorten(identity));
                let remedy = "write `spiffe://cluster.local/ns/NAMESPACE/APP` with the trust domain of the mesh; one `*` may stand in each of the last two";
                found.error(Code::InvalidValue, format!("{path}.{key}[{j}]"), message, remedy);
            }
        }
    }
    for (key, list) in [("addresses", &from.addresses), ("notAddresses", &from.not_addresses)] {
        for (j, network) in list.iter().enumerate() {
            check_network(&format!("{path}.{key}[{j}]"), network, found);
        }
    }
    for (j, pattern) in from.certificates.iter().enumerate() {
        if crate::certificate_parts(pattern).is_none() {
            let message =
                format!("`{}` does not say what of a certificate", crate::Invalid::shorten(pattern));
            let remedy =
                "write `URI=`, `DNS=`, `Subject=` or `Hash=` and what that must be; one `*` may stand in it";
            found.error(Code::InvalidValue, format!("{path}.certificates[{j}]"), message, remedy);
        }
    }
}

/// An address, or the first of a network and how many of its bits count.
pub(super) fn check_network(path: &str, network: &str, found: &mut Findings) {
    let (address, bits) = match network.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (network, None),
    };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32u8,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => 0,
    };
    let fits = bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| bits <= most));
    if most == 0 || !fits {
        let message = format!("`{}` is not a network", crate::Invalid::shorten(network));
        found.error(Code::InvalidValue, path, message, "write `10.0.0.0/8`, `2001:db8::/32` or one address");
    }
}

/// `name` or `namespace/name`.
pub(super) fn parse_app(text: &str) -> Result<(Option<Name>, Name), crate::Invalid> {
    match text.split_once('/') {
        Some((namespace, name)) => Ok((Some(namespace.parse()?), name.parse()?)),
        None => Ok((None, text.parse()?)),
    }
}
