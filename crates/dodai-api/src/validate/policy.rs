//! Rules within a Policy.

use super::Findings;
use super::route::{attempts, check_modifier};
use crate::name::Name;
use crate::policy::{Access, PolicySpec, RateLimit};
use crate::read::Code;

pub(super) fn check(spec: &PolicySpec, found: &mut Findings) {
    found.not_empty("spec.targetRefs", "target", &spec.target_refs);
    let targets = spec.target_refs.iter().enumerate().map(|(i, target)| {
        let section = target.section_name.as_ref().map(|s| format!("/{s}")).unwrap_or_default();
        (format!("spec.targetRefs[{i}]"), format!("{:?} {}{section}", target.kind, target.name))
    });
    found.unique("the target", targets);
    if let Some(retry) = &spec.retry {
        attempts("spec.retry.attempts", retry.attempts, found);
        found.status_codes("spec.retry.codes", &retry.codes);
        if retry.per_try.is_some_and(|time| time.get().is_zero()) {
            found.error(
                Code::InvalidValue,
                "spec.retry.perTry",
                "must be more than 0",
                "write a time, or leave it out",
            );
        }
    }
    if let Some(timeouts) = &spec.timeouts
        && timeouts.connect.is_some_and(|time| time.get().is_zero())
    {
        found.error(
            Code::InvalidValue,
            "spec.timeouts.connect",
            "must be more than 0",
            "write a time such as `1s`",
        );
    }
    if let Some(breaker) = &spec.circuit_breaker {
        let zero = [("maxConnections", breaker.max_connections), ("maxRequests", breaker.max_requests)];
        for (key, _) in zero.iter().filter(|(_, limit)| *limit == Some(0)) {
            let path = format!("spec.circuitBreaker.{key}");
            found.error(
                Code::InvalidValue,
                path,
                "0 would refuse every call",
                "write 1 or more, or leave it out",
            );
        }
    }
    if let Some(access) = &spec.access {
        check_access(access, found);
    }
    if let Some(limit) = &spec.rate_limit {
        check_rate_limit(limit, found);
    }
    if let Some(headers) = &spec.headers {
        for (key, modifier) in [("request", &headers.request), ("response", &headers.response)] {
            if let Some(modifier) = modifier {
                check_modifier(&format!("spec.headers.{key}"), modifier, found);
            }
        }
    }
    let nothing = PolicySpec { target_refs: spec.target_refs.clone(), ..PolicySpec::default() };
    if *spec == nothing {
        found.warning(
            Code::NoEffect,
            "spec",
            "the policy says nothing about its targets",
            "add `timeouts`, `retry`, ...",
        );
    }
}

fn check_access(access: &Access, found: &mut Findings) {
    for (i, rule) in access.rules.iter().enumerate() {
        let path = format!("spec.access.rules[{i}]");
        if let Some(from) = &rule.from {
            if from.apps.is_empty() && from.namespaces.is_empty() {
                let message = "nobody is named";
                found.error(
                    Code::MissingKey,
                    format!("{path}.from"),
                    message,
                    "add `apps` or `namespaces`, or leave it out",
                );
            }
            for (j, app) in from.apps.iter().enumerate() {
                if let Err(invalid) = parse_app(app) {
                    let remedy = format!("{}, or `namespace/name`", invalid.remedy);
                    found.error(
                        Code::InvalidValue,
                        format!("{path}.from.apps[{j}]"),
                        invalid.message,
                        remedy,
                    );
                }
            }
        }
        for (j, method) in rule.methods.iter().enumerate() {
            found.method(&format!("{path}.methods[{j}]"), method);
        }
        for (j, pattern) in rule.paths.iter().enumerate() {
            let path = format!("{path}.paths[{j}]");
            found.absolute_path(&path, pattern);
            if pattern.strip_suffix("/*").unwrap_or(pattern).contains('*') {
                let message = "`*` stands only at the end, after `/`";
                found.error(
                    Code::InvalidValue,
                    path,
                    message,
                    "write `/a` for one path or `/a/*` for all below it",
                );
            }
        }
    }
}

/// `name` or `namespace/name`.
pub(super) fn parse_app(text: &str) -> Result<(Option<Name>, Name), crate::Invalid> {
    match text.split_once('/') {
        Some((namespace, name)) => Ok((Some(namespace.parse()?), name.parse()?)),
        None => Ok((None, text.parse()?)),
    }
}

fn check_rate_limit(limit: &RateLimit, found: &mut Findings) {
    let rate = limit.requests_per_second;
    if !(0.001..=1e9).contains(&rate) {
        let remedy = "write a number from 0.001 to 1000000000; to refuse every call use `access`";
        found.error(
            Code::InvalidValue,
            "spec.rateLimit.requestsPerSecond",
            format!("{rate} is out of range"),
            remedy,
        );
    }
    if limit.burst == Some(0) {
        found.error(
            Code::InvalidValue,
            "spec.rateLimit.burst",
            "0 would refuse every call",
            "write 1 or more",
        );
    }
    if let Some(key) = &limit.key {
        found.exactly_one(
            "spec.rateLimit.key",
            &[("header", key.header.is_some()), ("source", key.source.is_some())],
        );
        if let Some(header) = &key.header {
            found.header_name("spec.rateLimit.key.header", header);
        }
    }
}
