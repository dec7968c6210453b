//! Rules within a Policy.

use super::Findings;
use super::route::{attempts, check_modifier, check_total};
use crate::overload::Concurrency;
use crate::policy::{CircuitBreaker, Hedge, PolicyAccessLog, PolicyRetry, PolicySpec, PolicyTracing};
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
    if let Some(timeouts) = &spec.timeouts {
        check_total("spec.timeouts", timeouts.request, timeouts.total, found);
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
    if let Some(connection) = &spec.connection {
        super::bounds::connection_age("spec.connection.maxAge".to_owned(), connection.max_age, found);
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
    super::rate_limit::check(&spec.rate_limits, found);
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
    let tried = [spec.access.is_some(), spec.jwt.is_some(), spec.ext_authz.is_some()];
    if !tried.contains(&true) && spec.rate_limits.is_empty() {
        let remedy = "add `access`, `rateLimits`, `jwt` or `extAuthz`, or leave `dryRun` out";
        found.error(Code::MissingKey, "spec.dryRun", "there is nothing to try", remedy);
    }
    let others = [
        ("timeouts", spec.timeouts.is_some()),
        ("retry", spec.retry.is_some()),
        ("hedge", spec.hedge.is_some()),
        ("circuitBreaker", spec.circuit_breaker.is_some()),
        ("connection", spec.connection.is_some()),
        ("loadBalancing", spec.load_balancing.is_some()),
        ("headers", spec.headers.is_some()),
        ("cors", spec.cors.is_some()),
        ("fault", spec.fault.is_some()),
        ("concurrency", spec.concurrency.is_some()),
        ("priority", spec.priority.is_some()),
        ("tracing", spec.tracing.is_some()),
        ("accessLog", spec.access_log.is_some()),
        ("maxRequestBody", spec.max_request_body.is_some()),
    ];
    for (key, _) in others.iter().filter(|(_, given)| *given) {
        let message = "only `access`, `rateLimits`, `jwt` and `extAuthz` can be tried";
        found.error(Code::Conflict, format!("spec.{key}"), message, "put it into a Policy of its own");
    }
}
