//! Rules within a Policy.

use super::Findings;
use super::route::{attempts, check_modifier};
use crate::overload::Concurrency;
use crate::policy::{
    CircuitBreaker, Hedge, PolicyAccessLog, PolicyRetry, PolicySpec, PolicyTracing, RateLimit,
    RateLimitRedis, RateLimitScope,
};
use crate::read::Code;

pub(super) fn check(spec: &PolicySpec, found: &mut Findings) {
    found.not_empty("spec.targetRefs", "target", &spec.target_refs);
    let targets = spec.target_refs.iter().enumerate().map(|(i, target)| {
        let section = target.section_name.as_ref().map(|s| format!("/{s}")).unwrap_or_default();
        (format!("spec.targetRefs[{i}]"), format!("{:?} {}{section}", target.kind, target.name))
    });
    found.unique("the target", targets);
    if let Some(retry) = &spec.retry {
        check_retry(retry, found);
    }
    if let Some(hedge) = &spec.hedge {
        check_hedge(hedge, found);
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
        check_breaker(breaker, found);
    }
    if let Some(balancing) = &spec.load_balancing {
        super::balancing::check("spec.loadBalancing", balancing, found);
    }
    if let Some(health) = &spec.health {
        super::health::check(health, found);
    }
    if let Some(access) = &spec.access {
        super::access::check(access, found);
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
    if let Some(cors) = &spec.cors {
        super::cors::check("spec.cors", cors, found);
    }
    if let Some(jwt) = &spec.jwt {
        super::jwt::check(jwt, found);
    }
    if let Some(authorizer) = &spec.ext_authz {
        super::authorizer::check(authorizer, found);
    }
    if let Some(fault) = &spec.fault {
        super::fault::check(fault, found);
    }
    if let Some(concurrency) = &spec.concurrency {
        check_concurrency(concurrency, found);
    }
    if let Some(log) = &spec.access_log {
        check_access_log(log, found);
    }
    if let Some(tracing) = &spec.tracing {
        check_tracing(tracing, found);
    }
    if spec.dry_run {
        check_dry_run(spec, found);
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

fn check_retry(retry: &PolicyRetry, found: &mut Findings) {
    attempts("spec.retry.attempts", retry.attempts, found);
    found.status_codes("spec.retry.codes", &retry.codes);
    let on = retry.on.iter().enumerate().map(|(i, one)| (format!("spec.retry.on[{i}]"), *one));
    found.unique("the condition", on);
    if retry.per_try.is_some_and(|time| time.get().is_zero()) {
        found.error(
            Code::InvalidValue,
            "spec.retry.perTry",
            "must be more than 0",
            "write a time, or leave it out",
        );
    }
}

fn check_access_log(log: &PolicyAccessLog, found: &mut Findings) {
    let path = "spec.accessLog";
    if *log == PolicyAccessLog::default() {
        let remedy = "add `format`, `filters` or headers, or leave `accessLog` out";
        found.error(Code::MissingKey, path, "it says nothing", remedy);
    }
    if let Some(Err(bad)) = log.format.as_deref().map(str::parse::<dodai_log::Format>) {
        let remedy = "write json, text, envoy, or operators such as `%START_TIME% %RESPONSE_CODE%`; docs/telemetry.md lists them";
        found.error(Code::InvalidValue, format!("{path}.format"), bad.to_string(), remedy);
    }
    for (i, text) in log.filters.iter().enumerate() {
        if let Err(bad) = text.parse::<dodai_log::Filter>() {
            let remedy = "write for example `failures` or `status=4xx && duration>=250ms`; docs/telemetry.md lists conditions";
            found.error(Code::InvalidValue, format!("{path}.filters[{i}]"), bad.to_string(), remedy);
        }
    }
    for (key, names) in [("requestHeaders", &log.request_headers), ("responseHeaders", &log.response_headers)]
    {
        for (i, name) in names.iter().enumerate() {
            found.header_name(&format!("{path}.{key}[{i}]"), name);
        }
    }
}

fn check_breaker(breaker: &CircuitBreaker, found: &mut Findings) {
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

fn check_hedge(hedge: &Hedge, found: &mut Findings) {
    if hedge.delay.is_some_and(|delay| delay.get().is_zero()) {
        let message = "every call would be made twice at once";
        found.error(Code::InvalidValue, "spec.hedge.delay", message, "write a time, or leave it out");
    }
    if !(1..=4).contains(&hedge.attempts) {
        let message = format!("{} is out of range", hedge.attempts);
        found.error(Code::InvalidValue, "spec.hedge.attempts", message, "write a number from 1 to 4");
    }
}

fn check_tracing(tracing: &PolicyTracing, found: &mut Findings) {
    let percent = tracing.sample_percent;
    if !(0.0..=100.0).contains(&percent) {
        let remedy = "write a number from 0 to 100, such as 5 or 0.1";
        let message = format!("{percent} is out of range");
        found.error(Code::InvalidValue, "spec.tracing.samplePercent", message, remedy);
    }
}

fn check_concurrency(concurrency: &Concurrency, found: &mut Findings) {
    let path = "spec.concurrency";
    match (concurrency.limit, concurrency.adaptive) {
        (None, false) => {
            let remedy = "add `limit`, or `adaptive: true`";
            found.error(Code::MissingKey, path, "nothing is limited", remedy);
        }
        (Some(0), _) => {
            let message = "0 would refuse every call";
            found.error(Code::InvalidValue, format!("{path}.limit"), message, "write 1 or more");
        }
        (Some(_), _) | (None, true) => {}
    }
    if let Some(header) = &concurrency.priority_header {
        found.header_name(&format!("{path}.priorityHeader"), header);
    }
}

/// What only tries must not look as if it did more.
fn check_dry_run(spec: &PolicySpec, found: &mut Findings) {
    if spec.access.is_none() && spec.rate_limit.is_none() {
        let remedy = "add `access` or `rateLimit`, or leave `dryRun` out";
        found.error(Code::MissingKey, "spec.dryRun", "there is nothing to try", remedy);
    }
    let others = [
        ("timeouts", spec.timeouts.is_some()),
        ("retry", spec.retry.is_some()),
        ("hedge", spec.hedge.is_some()),
        ("circuitBreaker", spec.circuit_breaker.is_some()),
        ("loadBalancing", spec.load_balancing.is_some()),
        ("headers", spec.headers.is_some()),
        ("cors", spec.cors.is_some()),
        ("jwt", spec.jwt.is_some()),
        ("extAuthz", spec.ext_authz.is_some()),
        ("fault", spec.fault.is_some()),
        ("concurrency", spec.concurrency.is_some()),
        ("priority", spec.priority.is_some()),
        ("tracing", spec.tracing.is_some()),
        ("accessLog", spec.access_log.is_some()),
        ("maxRequestBody", spec.max_request_body.is_some()),
    ];
    for (key, _) in others.iter().filter(|(_, given)| *given) {
        let message = "only `access` and `rateLimit` can be tried";
        found.error(Code::Conflict, format!("spec.{key}"), message, "put it into a Policy of its own");
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
    if let Some(redis) = &limit.redis {
        check_redis(limit, redis, found);
    }
    if let Some(key) = &limit.key {
        if limit.scope == RateLimitScope::Global {
            found.warning(
                Code::NoEffect,
                "spec.rateLimit.key",
                "bases share the whole of the limit by where calls come in, and give each key that share: one whose calls \
                 all come in at one base gets less than its limit",
                "spread the calls of each caller over the bases, or leave `scope` or `key` out",
            );
        }
        found.exactly_one(
            "spec.rateLimit.key",
            &[("header", key.header.is_some()), ("source", key.source.is_some())],
        );
        if let Some(header) = &key.header {
            found.header_name("spec.rateLimit.key.header", header);
        }
    }
}

fn check_redis(limit: &RateLimit, redis: &RateLimitRedis, found: &mut Findings) {
    let path = "spec.rateLimit.redis";
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
