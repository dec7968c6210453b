//! Rules within `access` of a Policy.

use std::net::IpAddr;

use super::Findings;
use super::route::check_value;
use crate::name::Name;
use crate::policy::{Access, AccessRule, AccessSource};
use crate::read::Code;

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
    for (j, method) in rule.methods.iter().enumerate() {
        found.method(&format!("{path}.methods[{j}]"), method);
    }
    for (j, host) in rule.hosts.iter().enumerate() {
        found.hostname(&format!("{path}.hosts[{j}]"), host);
    }
    for (j, header) in rule.headers.iter().enumerate() {
        let path = format!("{path}.headers[{j}]");
        found.header_name(&format!("{path}.name"), &header.name);
        check_value(&path, header, found);
    }
    for (j, claim) in rule.claims.iter().enumerate() {
        let path = format!("{path}.claims[{j}]");
        found.not_empty(&format!("{path}.values"), "value", &claim.values);
        if claim.name.is_empty() {
            let remedy = "name a claim, for example `groups`";
            found.error(Code::InvalidValue, format!("{path}.name"), "the claim is empty", remedy);
        }
    }
    for (j, pattern) in rule.paths.iter().enumerate() {
        let path = format!("{path}.paths[{j}]");
        found.absolute_path(&path, pattern);
        if pattern.strip_suffix("/*").unwrap_or(pattern).contains('*') {
            let message = "`*` stands only at the end, after `/`";
            let remedy = "write `/a` for one path or `/a/*` for all below it";
            found.error(Code::InvalidValue, path, message, remedy);
        }
    }
}

fn check_source(path: &str, from: &AccessSource, found: &mut Findings) {
    let who = from.apps.is_empty() && from.namespaces.is_empty() && from.identities.is_empty();
    if who && from.addresses.is_empty() && from.certificates.is_empty() {
        let remedy = "add `apps`, `namespaces`, `identities`, `addresses` or `certificates`, or leave it out";
        found.error(Code::MissingKey, path, "nobody is named", remedy);
    }
    for (j, app) in from.apps.iter().enumerate() {
        if let Err(invalid) = parse_app(app) {
            let remedy = format!("{}, or `namespace/name`", invalid.remedy);
            found.error(Code::InvalidValue, format!("{path}.apps[{j}]"), invalid.message, remedy);
        }
    }
    for (j, identity) in from.identities.iter().enumerate() {
        if crate::identity_parts(identity).is_none() {
            let message = format!("`{}` is not the SPIFFE id of an app", crate::Invalid::shorten(identity));
            let remedy = "write `spiffe://cluster.local/ns/NAMESPACE/APP` with the trust domain of the mesh; one `*` may stand in each of the last two";
            found.error(Code::InvalidValue, format!("{path}.identities[{j}]"), message, remedy);
        }
    }
    for (j, network) in from.addresses.iter().enumerate() {
        check_network(&format!("{path}.addresses[{j}]"), network, found);
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
