//! Rules within documents of dapr.io: what daprd refuses is refused, what it passes over is a warning.

use super::Findings;
use crate::dapr::{
    Component, ConfigurationSpec, HttpEndpointSpec, MetadataItem, Pipeline, ResiliencySpec, SubscriptionSpec,
};
use crate::read::Code;

pub(super) fn check_component(component: &Component, found: &mut Findings) {
    let kind = &component.spec.kind;
    if kind.split('.').count() < 2 || kind.split('.').any(str::is_empty) {
        let message = format!("`{}` is not a component's type", crate::Invalid::shorten(kind));
        found.error(
            Code::InvalidValue,
            "spec.type",
            message,
            "write block and driver, for example `state.sqlite`",
        );
    }
    check_items("spec.metadata", &component.spec.metadata, found);
    let secret = component.spec.metadata.iter().position(|item| item.secret_key_ref.is_some());
    if let Some(i) = secret
        && component.auth.is_none()
    {
        let message = "no secret store is named to look this up in";
        found.warning(
            Code::NoEffect,
            format!("spec.metadata[{i}].secretKeyRef"),
            message,
            "add `auth.secretStore`",
        );
    }
}

fn check_items(path: &str, items: &[MetadataItem], found: &mut Findings) {
    for (i, item) in items.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let given = [item.value.is_some(), item.secret_key_ref.is_some(), item.env_ref.is_some()]
            .iter()
            .filter(|g| **g)
            .count();
        if given > 1 {
            let message = format!("`{}` has more than one source", item.name);
            found.warning(Code::Conflict, &path, message, "keep one of `value`, `secretKeyRef` and `envRef`");
        }
        if let Some(name) = &item.env_ref
            && (name == "APP_API_TOKEN" || name.starts_with("DAPR_") || name.contains(' '))
        {
            let message = format!("the variable `{name}` may not be read");
            found.error(
                Code::InvalidValue,
                format!("{path}.envRef"),
                message,
                "use a variable of another name",
            );
        }
        if items[..i].iter().any(|other| other.name == item.name) {
            let message = format!("the setting `{}` is given twice", item.name);
            found.warning(Code::Conflict, format!("{path}.name"), message, "keep one of the two");
        }
    }
}

pub(super) fn check_subscription(spec: &SubscriptionSpec, found: &mut Findings) {
    let routes = spec.routes.as_ref();
    if routes.is_none_or(|routes| routes.rules.is_empty() && routes.default.is_none()) {
        let message = "events would go nowhere";
        found.warning(
            Code::NoEffect,
            "spec",
            message,
            "add `routes.default` with the path to post events to",
        );
    }
    for (key, empty) in [("pubsubname", spec.pubsubname.is_empty()), ("topic", spec.topic.is_empty())] {
        if empty {
            found.error(
                Code::InvalidValue,
                format!("spec.{key}"),
                "must not be empty",
                format!("write `{key}: ...`"),
            );
        }
    }
}

pub(super) fn check_resiliency(spec: &ResiliencySpec, found: &mut Findings) {
    check_matching(spec, found);
    let policies = &spec.policies;
    let mut uses: Vec<(String, &str)> = Vec::new();
    let mut add =
        |path: String, timeout: &Option<String>, retry: &Option<String>, breaker: &Option<String>| {
            for (key, name) in [("timeout", timeout), ("retry", retry), ("circuitBreaker", breaker)] {
                let known = match (key, name) {
                    (_, None) => true,
                    ("timeout", Some(name)) => policies.timeouts.contains_key(name),
                    ("retry", Some(name)) => policies.retries.contains_key(name),
                    (_, Some(name)) => policies.circuit_breakers.contains_key(name),
                };
                if !known {
                    uses.push((format!("{path}.{key}"), key));
                }
            }
        };
    for (name, target) in &spec.targets.apps {
        let mut path = "spec.targets.apps".to_owned();
        crate::read::push_key(&mut path, name);
        add(path, &target.timeout, &target.retry, &target.circuit_breaker);
    }
    for (name, target) in &spec.targets.actors {
        let mut path = "spec.targets.actors".to_owned();
        crate::read::push_key(&mut path, name);
        add(path, &target.timeout, &target.retry, &target.circuit_breaker);
    }
    for (name, target) in &spec.targets.components {
        for (direction, names) in [("inbound", &target.inbound), ("outbound", &target.outbound)] {
            let Some(names) = names else { continue };
            let mut path = "spec.targets.components".to_owned();
            crate::read::push_key(&mut path, name);
            add(format!("{path}.{direction}"), &names.timeout, &names.retry, &names.circuit_breaker);
        }
    }
    for (path, key) in uses {
        let message = format!("no such {key} is in `spec.policies`");
        found.warning(Code::UnknownReference, path, message, "define it there, or leave this out");
    }
}

/// What is no status would be matched by nothing, and nothing would be tried again.
fn check_matching(spec: &ResiliencySpec, found: &mut Findings) {
    for (name, retry) in &spec.policies.retries {
        let Some(codes) = retry.matching.as_ref().and_then(|one| one.http_status_codes.as_deref()) else {
            continue;
        };
        if let Err(part) = crate::dapr::status_codes(codes) {
            let mut path = "spec.policies.retries".to_owned();
            crate::read::push_key(&mut path, name);
            let message = format!("`{}` is no status from 100 to 599", crate::Invalid::shorten(part));
            let remedy =
                match part.trim().get(..1).filter(|_| part.trim().to_ascii_lowercase().ends_with("xx")) {
                    Some(first) => format!("write `{first}00-{first}99`"),
                    None => "write codes and ranges, for example `429,501-503`".to_owned(),
                };
            found.error(Code::InvalidValue, format!("{path}.matching.httpStatusCodes"), message, remedy);
        }
    }
}

pub(super) fn check_configuration(spec: &ConfigurationSpec, found: &mut Findings) {
    let mut action = |path: String, value: Option<&str>| {
        if let Some(value) = value
            && !value.is_empty()
            && !value.eq_ignore_ascii_case("allow")
            && !value.eq_ignore_ascii_case("deny")
        {
            let message = format!("`{}` is not allowed here", crate::Invalid::shorten(value));
            found.error(Code::InvalidValue, path, message, "write `allow` or `deny`");
        }
    };
    if let Some(access) = &spec.access_control {
        action("spec.accessControl.defaultAction".to_owned(), access.default_action.as_deref());
        for (i, policy) in access.policies.iter().enumerate() {
            let path = format!("spec.accessControl.policies[{i}]");
            action(format!("{path}.defaultAction"), policy.default_action.as_deref());
            for (j, operation) in policy.operations.iter().enumerate() {
                action(format!("{path}.operations[{j}].action"), Some(&operation.action));
            }
        }
    }
    for (i, scope) in spec.secrets.iter().flat_map(|secrets| &secrets.scopes).enumerate() {
        action(format!("spec.secrets.scopes[{i}].defaultAccess"), scope.default_access.as_deref());
    }
    for (key, pipeline) in
        [("httpPipeline", &spec.http_pipeline), ("appHttpPipeline", &spec.app_http_pipeline)]
    {
        if let Some(pipeline) = pipeline {
            check_pipeline(&format!("spec.{key}"), pipeline, found);
        }
    }
    if let Some(rate) = spec.tracing.as_ref().and_then(|tracing| tracing.sampling_rate.as_ref())
        && !rate.parse::<f64>().is_ok_and(|rate| (0.0..=1.0).contains(&rate))
    {
        let message = format!("`{}` is not a share", crate::Invalid::shorten(rate));
        found.error(Code::InvalidValue, "spec.tracing.samplingRate", message, "write a number from 0 to 1");
    }
}

fn check_pipeline(path: &str, pipeline: &Pipeline, found: &mut Findings) {
    for (i, handler) in pipeline.handlers.iter().enumerate() {
        if !handler.kind.starts_with("middleware.http.") {
            let message = format!("`{}` is not a type of middleware", crate::Invalid::shorten(&handler.kind));
            let remedy = "write for example `middleware.http.ratelimit`";
            found.error(Code::InvalidValue, format!("{path}.handlers[{i}].type"), message, remedy);
        }
    }
}

pub(super) fn check_endpoint(spec: &HttpEndpointSpec, found: &mut Findings) {
    let rest = spec.base_url.strip_prefix("http://").or_else(|| spec.base_url.strip_prefix("https://"));
    if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
        let message = format!("`{}` is not a URL", crate::Invalid::shorten(&spec.base_url));
        found.error(
            Code::InvalidValue,
            "spec.baseUrl",
            message,
            "write for example `http://api.example.com:8080`",
        );
    }
    check_items("spec.headers", &spec.headers, found);
}
