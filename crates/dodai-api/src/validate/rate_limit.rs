//! Rules within `rateLimits` of a Policy.

use std::time::Duration;

use super::Findings;
use crate::quantity::TimeSpan;
use crate::rate_limit::{RateLimit, RateLimitKey, RateLimitRedis, RateLimitScope, RateLimitSource};
use crate::read::Code;

/// What `requests` are for where nothing is said.
const SECOND: Duration = Duration::from_secs(1);
/// Parts that a key has at most.
const MAX_PARTS: usize = 4;

/// Limits that a policy has at most: each is looked at by every call.
const MAX_LIMITS: usize = 8;

pub(super) fn check(limits: &[RateLimit], found: &mut Findings) {
    if limits.len() > MAX_LIMITS {
        let message = format!("{} limits", limits.len());
        let remedy = format!("write at most {MAX_LIMITS}");
        found.error(Code::InvalidValue, "spec.rateLimits", message, remedy);
    }
    for (i, limit) in limits.iter().enumerate() {
        check_limit(&format!("spec.rateLimits[{i}]"), limit, found);
    }
}

fn check_limit(path: &str, limit: &RateLimit, found: &mut Findings) {
    if !(1..=1_000_000_000).contains(&limit.requests) {
        let remedy = "write a number from 1 to 1000000000; to refuse every call use `access`";
        let message = format!("{} is out of range", limit.requests);
        found.error(Code::InvalidValue, format!("{path}.requests"), message, remedy);
    }
    let per = limit.per.map_or(SECOND, TimeSpan::get);
    if limit.requests > 0 && (per / limit.requests).is_zero() {
        let message = "that is more than one call in a nanosecond";
        let remedy = "write a longer time, such as `1s` or `1h`";
        found.error(Code::InvalidValue, format!("{path}.per"), message, remedy);
    }
    if limit.burst == Some(0) {
        let message = "0 would refuse every call";
        found.error(Code::InvalidValue, format!("{path}.burst"), message, "write 1 or more");
    }
    if let Some(redis) = &limit.redis {
        check_redis(&format!("{path}.redis"), limit, redis, found);
    }
    let key = format!("{path}.key");
    if limit.key.len() > MAX_PARTS {
        let message = format!("a key of {} parts", limit.key.len());
        found.error(Code::InvalidValue, &key, message, format!("write at most {MAX_PARTS}"));
    }
    for (i, part) in limit.key.iter().enumerate() {
        check_part(&format!("{key}[{i}]"), part, found);
    }
    let parts = limit.key.iter().enumerate().map(|(i, part)| (format!("{key}[{i}]"), words(part)));
    found.unique("the part", parts);
}

fn check_part(path: &str, part: &RateLimitKey, found: &mut Findings) {
    let given = [
        ("header", part.header.is_some()),
        ("cookie", part.cookie.is_some()),
        ("queryParam", part.query_param.is_some()),
        ("claim", part.claim.is_some()),
        ("source", part.source.is_some()),
    ];
    found.exactly_one(path, &given);
    if let Some(header) = &part.header {
        found.header_name(&format!("{path}.header"), header);
    }
    if let Some(cookie) = &part.cookie {
        found.cookie_name(&format!("{path}.cookie"), cookie);
    }
    let named = [("queryParam", &part.query_param, "parameter"), ("claim", &part.claim, "claim")];
    for (key, _, what) in named.iter().filter(|(_, name, _)| name.as_deref() == Some("")) {
        let (message, remedy) = ("the name is empty", format!("name the {what}"));
        found.error(Code::InvalidValue, format!("{path}.{key}"), message, remedy);
    }
}

/// A part as it is told in messages; the case of a header does not count.
fn words(part: &RateLimitKey) -> String {
    let source = part.source.map(|source| match source {
        RateLimitSource::App => "app".to_owned(),
        RateLimitSource::Address => "address".to_owned(),
    });
    let all = [
        ("header", part.header.as_ref().map(|name| name.to_ascii_lowercase())),
        ("cookie", part.cookie.clone()),
        ("queryParam", part.query_param.clone()),
        ("claim", part.claim.clone()),
        ("source", source),
    ];
    let given = all.into_iter().filter_map(|(key, name)| Some(format!("{key}: {}", name?)));
    given.collect::<Vec<_>>().join(", ")
}

fn check_redis(path: &str, limit: &RateLimit, redis: &RateLimitRedis, found: &mut Findings) {
    if limit.scope != RateLimitScope::Global {
        let message = "each base keeps this limit by itself";
        found.error(Code::Conflict, path, message, "add `scope: global`, or leave `redis` out");
    }
    let host_and_port = redis.address.rsplit_once(':');
    let fits =
        |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
    if !host_and_port.is_some_and(fits) || redis.address.contains(['/', '@', ' ']) {
        let message = format!("`{}` is not HOST:PORT", crate::Invalid::shorten(&redis.address));
        let remedy = match redis.address.starts_with("rediss://") {
            true => "write HOST:PORT alone, and `tls: {}` beside it",
            false => {
                "write for example `redis.internal:6379`; user, password and database have keys of their own"
            }
        };
        found.error(Code::InvalidValue, format!("{path}.address"), message, remedy);
    }
    let tls = redis.tls.iter().flat_map(|tls| [("ca", &tls.ca), ("serverName", &tls.server_name)]);
    for (key, _) in tls.filter(|(_, text)| text.as_ref().is_some_and(|text| text.trim().is_empty())) {
        let remedy = "write it, or leave the key out";
        found.error(Code::InvalidValue, format!("{path}.tls.{key}"), "it is empty", remedy);
    }
    if redis.password_ref.as_ref().is_some_and(|reference| reference.key.is_empty()) {
        found.error(
            Code::InvalidValue,
            format!("{path}.passwordRef.key"),
            "the key is empty",
            "name the item",
        );
    }
    if redis.username.is_some() && redis.password_ref.is_none() {
        let remedy = "add `passwordRef`, or leave `username` out";
        found.error(
            Code::MissingKey,
            format!("{path}.passwordRef"),
            "a user proves itself by a password",
            remedy,
        );
    }
}
