//! What documents can say and this version does not do. What would guard or limit something is refused, since
//! going on without it would be worse; the rest is a warning. Nothing is passed over in silence.

use super::Findings;
use crate::app::{AppSpec, DaprProtocol, Protocol};
use crate::dapr::{ConfigurationSpec, Pipeline, Resiliency, RetryKind};
use crate::policy::{PolicySpec, TargetKind};
use crate::rate_limit::RateLimitSource;
use crate::read::Code;

fn refuse(found: &mut Findings, path: impl Into<String>, message: &str, remedy: &str) {
    found.error(Code::NotOffered, path, message, remedy);
}

fn warn(found: &mut Findings, path: impl Into<String>, message: &str, remedy: &str) {
    found.warning(Code::NoEffect, path, message, remedy);
}

pub(super) fn check_app(spec: &AppSpec, found: &mut Findings) {
    if spec.scale.min == 0 && spec.external.is_none() {
        let message = "apps do not sleep until they are called yet";
        refuse(found, "spec.scale.min", message, "write 1 or more, or leave it out");
    } else if spec.scale.max.is_some_and(|max| max > spec.scale.min) {
        let message = format!("nothing scales by load yet; what runs is `min`, {}", spec.scale.min);
        warn(found, "spec.scale.max", &message, "set `min` to the number of instances you need");
    }
    if spec.process.is_some() && !spec.config.is_empty() {
        let message = "only modules are handed configuration";
        let remedy = "use `env` with `configRef`, or let the process read the store through the API";
        warn(found, "spec.config", message, remedy);
    }
    let Some(dapr) = &spec.dapr else { return };
    if dapr.subscribe_path.starts_with('/') && dapr.subscribe_path != "/dapr/subscribe" {
        let message = "apps are asked for their subscriptions at `/dapr/subscribe` only";
        refuse(
            found,
            "spec.dapr.subscribePath",
            message,
            "serve them there, or write a Subscription document",
        );
    }
    if spec.services.iter().skip(1).any(|service| Some(&service.name) == dapr.service.as_ref()) {
        let message = "callbacks go to the first service of an app only";
        refuse(found, "spec.dapr.service", message, "put that service first in `services`");
    }
    let speaks = spec.services.first().map(|service| service.protocol).unwrap_or_default();
    let can = matches!(speaks, Protocol::Grpc | Protocol::Http2);
    if dapr.protocol == Some(DaprProtocol::Grpc) && !can {
        let message = "callbacks over gRPC need a service that speaks it";
        refuse(found, "spec.dapr.protocol", message, "write `protocol: grpc` in the first of `services`");
    }
}

pub(super) fn check_policy(spec: &PolicySpec, found: &mut Findings) {
    let has = |kinds: &[TargetKind]| spec.target_refs.iter().any(|target| kinds.contains(&target.kind));
    let called = [TargetKind::App, TargetKind::Service];
    let way = [TargetKind::Route, TargetKind::Gateway];
    let of_called = [
        ("circuitBreaker", spec.circuit_breaker.is_some()),
        ("concurrency", spec.concurrency.is_some()),
        ("connection", spec.connection.is_some()),
        ("loadBalancing", spec.load_balancing.is_some()),
        ("health", spec.health.is_some()),
    ];
    for (key, _) in of_called.iter().filter(|(_, given)| *given && has(&way)) {
        let message = "this belongs to what is called, not to the way there";
        refuse(found, format!("spec.{key}"), message, "target the App or the Service in a Policy of its own");
    }
    if spec.priority.is_some() && has(&called) {
        let message = "how much a call matters is a property of the way it comes";
        refuse(found, "spec.priority", message, "target the Gateway or a Route in a Policy of its own");
    }
    if spec.tracing.is_some() && has(&called) {
        let message = "whether a trace begins is decided on the way that a call comes in";
        refuse(found, "spec.tracing", message, "target the Gateway or a Route in a Policy of its own");
    }
    if spec.cors.is_some() && has(&called) {
        let message = "pages are told of by the way they come in";
        refuse(found, "spec.cors", message, "target the Gateway or a Route in a Policy of its own");
    }
    for (i, rule) in spec.access.iter().flat_map(|access| &access.rules).enumerate() {
        let Some(from) = rule.from.as_ref().filter(|_| has(&called)) else { continue };
        let remedy = "target the Gateway or a Route of it in a Policy of its own";
        for (key, given, message) in [
            ("addresses", !from.addresses.is_empty(), "the client's address is known at gateways only"),
            (
                "notAddresses",
                !from.not_addresses.is_empty(),
                "the client's address is known at gateways only",
            ),
            ("certificates", !from.certificates.is_empty(), "clients show certificates at gateways only"),
        ] {
            if given {
                refuse(found, format!("spec.access.rules[{i}].from.{key}"), message, remedy);
            }
        }
    }
    let parts = spec.rate_limits.iter().enumerate().flat_map(|(i, limit)| {
        limit.key.iter().enumerate().map(move |(j, part)| (format!("spec.rateLimits[{i}].key[{j}]"), part))
    });
    for (path, part) in parts {
        if part.source == Some(RateLimitSource::Address) && has(&called) {
            let message = "the client's address is known at gateways only";
            let remedy = "target the Gateway or a Route of it, or count by `source: app`";
            refuse(found, format!("{path}.source"), message, remedy);
        }
    }
}

pub(super) fn check_configuration(spec: &ConfigurationSpec, found: &mut Findings) {
    let denies = |action: Option<&str>| action.is_some_and(|action| action.eq_ignore_ascii_case("deny"));
    if let Some(access) = &spec.access_control {
        let policies = &access.policies;
        let any = denies(access.default_action.as_deref())
            || (access.default_action.is_none() && !policies.is_empty())
            || policies.iter().any(|policy| {
                denies(policy.default_action.as_deref())
                    || policy.operations.iter().any(|operation| denies(Some(&operation.action)))
            });
        if any {
            let message = "these rules would not be kept";
            refuse(found, "spec.accessControl", message, "write a Policy (dodai.dev/v1) with `access`");
        }
    }
    let has = |pipeline: &Option<Pipeline>| pipeline.as_ref().is_some_and(|one| !one.handlers.is_empty());
    for (key, given) in
        [("httpPipeline", has(&spec.http_pipeline)), ("appHttpPipeline", has(&spec.app_http_pipeline))]
    {
        if given {
            let remedy = "take it out; a Policy limits rates, guards access and edits headers";
            refuse(found, format!("spec.{key}"), "middleware is not run", remedy);
        }
    }
    if spec.api.as_ref().is_some_and(|api| !api.allowed.is_empty() || !api.denied.is_empty()) {
        let remedy = "take it out; use `scopes` of the components to say who may use them";
        refuse(found, "spec.api", "APIs cannot be switched off one by one yet", remedy);
    }
    for (key, given) in [
        ("metric", spec.metric.is_some()),
        ("metrics", spec.metrics.is_some()),
        ("mtls", spec.mtls.is_some()),
        ("nameResolution", spec.name_resolution.is_some()),
        ("features", !spec.features.is_empty()),
        ("logging", spec.logging.is_some()),
        ("wasm", spec.wasm.is_some()),
        ("workflow", spec.workflow.is_some()),
    ] {
        if given {
            warn(found, format!("spec.{key}"), "Dodai has its own way for this", "leave it out");
        }
    }
}

pub(super) fn check_resiliency(document: &Resiliency, found: &mut Findings) {
    let spec = &document.spec;
    if !document.scopes.is_empty() && !spec.targets.apps.is_empty() {
        let message = "where one of these apps runs, this holds for calls of every app of that base";
        warn(found, "scopes", message, "leave it out, or place the apps on bases of their own");
    }
    let within = |base: &str, key: &str| {
        let mut path = base.to_owned();
        crate::read::push_key(&mut path, key);
        path
    };
    if !spec.targets.actors.is_empty() {
        warn(found, "spec.targets.actors", "there are no actors yet", "leave it out");
    }
    for (name, target) in &spec.targets.apps {
        let path = within("spec.targets.apps", name);
        if target.circuit_breaker_cache_size.is_some() {
            let message = "every endpoint has a breaker of its own; nothing is cached";
            warn(found, format!("{path}.circuitBreakerCacheSize"), message, "leave it out");
        }
        if target.retry.as_ref().is_some_and(|name| spec.policies.retries.contains_key(name)) {
            let message =
                "a call that reached the app is tried again only if its method is idempotent; a POST is not";
            let remedy = "let the caller retry what may be done twice, or use PUT or DELETE for it";
            warn(found, format!("{path}.retry"), message, remedy);
        }
    }
    for (name, target) in &spec.targets.components {
        for (direction, names) in [("inbound", &target.inbound), ("outbound", &target.outbound)] {
            if names.as_ref().is_some_and(|names| names.circuit_breaker.is_some()) {
                let path = format!("{}.{direction}.circuitBreaker", within("spec.targets.components", name));
                let message = "operations of components have no circuit breaker";
                warn(found, path, message, "leave it out; `timeout` and `retry` are kept");
            }
        }
    }
    for (name, retry) in &spec.policies.retries {
        let path = within("spec.policies.retries", name);
        if retry.max_interval.is_some() && retry.policy == RetryKind::Constant {
            let message = "waits that do not grow have no longest";
            warn(
                found,
                format!("{path}.maxInterval"),
                message,
                "leave it out, or write `policy: exponential`",
            );
        }
        if retry.duration.is_some() && retry.policy == RetryKind::Exponential {
            let message = "waits begin with 500ms and double";
            warn(found, format!("{path}.duration"), message, "leave it out, or write `policy: constant`");
        }
        if retry.max_retries.is_none_or(|most| most < 0) {
            let message = "nothing is tried without end; it ends after 100 retries";
            warn(found, format!("{path}.maxRetries"), message, "write how many you need");
        }
        if retry.matching.as_ref().is_some_and(|matching| matching.grpc_status_codes.is_some()) {
            let message = "gRPC statuses are not tried again by their code";
            warn(found, format!("{path}.matching.gRPCStatusCodes"), message, "leave it out");
        }
    }
    for (name, breaker) in &spec.policies.circuit_breakers {
        let path = within("spec.policies.circuitBreakers", name);
        if breaker.max_requests.is_some_and(|most| most != 1) {
            let message = "one call is let through when half open";
            warn(found, format!("{path}.maxRequests"), message, "leave it out");
        }
        if breaker.interval.is_some_and(|interval| !interval.get().is_zero()) {
            let message = "failures in a row are counted, however far apart";
            warn(found, format!("{path}.interval"), message, "leave it out");
        }
        if breaker.trip.as_deref().is_some_and(|trip| !is_row(trip)) {
            let message = "only failures in a row open the breaker; it opens after 5 of them";
            warn(found, format!("{path}.trip"), message, "write `consecutiveFailures > N`");
        }
    }
}

/// `consecutiveFailures > 5` and the like.
fn is_row(trip: &str) -> bool {
    let rest = trip.trim().strip_prefix("consecutiveFailures").map(str::trim_start);
    let number = rest.and_then(|rest| rest.strip_prefix(">=").or_else(|| rest.strip_prefix('>')));
    number.is_some_and(|number| number.trim().parse::<u32>().is_ok())
}
