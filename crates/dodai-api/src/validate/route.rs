//! Rules within a Route, and the parts it shares with others: header changes and weights.

use dodai_log::line_format::LineFormat;

use super::Findings;
use super::access::parse_app;
use super::rewrite;
use crate::quantity::{TimeSpan, Weight};
use crate::read::Code;
use crate::route::{
    EXPRESSION_NAMES, Filter, FilterKind, GrpcMatch, HeaderModifier, Match, ParentKind, PathMatchKind,
    RouteSpec, Rule, SourceMatch, ValueMatch, ValueMatchKind,
};
use crate::template::Template;

const MAX_DIRECT_BODY: usize = 64 << 10;

pub(super) fn check(spec: &RouteSpec, found: &mut Findings) {
    found.not_empty("spec.parentRefs", "parent", &spec.parent_refs);
    found.not_empty("spec.rules", "rule", &spec.rules);
    for (i, host) in spec.hostnames.iter().enumerate() {
        found.hostname(&format!("spec.hostnames[{i}]"), host);
    }
    let names = spec.rules.iter().enumerate().filter_map(|(i, rule)| Some((i, rule.name.clone()?)));
    found.unique("the rule", names.map(|(i, name)| (format!("spec.rules[{i}].name"), name)));
    for (i, rule) in spec.rules.iter().enumerate() {
        check_rule(&format!("spec.rules[{i}]"), rule, found);
    }
    if !spec.parent_refs.is_empty()
        && spec.parent_refs.iter().all(|parent| parent.kind == ParentKind::Gateway)
    {
        warn_of_sources(spec, found);
    }
}

/// What enters at a gateway comes from no app.
fn warn_of_sources(spec: &RouteSpec, found: &mut Findings) {
    let matches = |(i, rule): (usize, &Rule)| -> Vec<String> {
        let of_source = rule.matches.iter().enumerate().filter(|(_, one)| one.source.is_some());
        of_source.map(|(j, _)| format!("spec.rules[{i}].matches[{j}].source")).collect()
    };
    for path in spec.rules.iter().enumerate().flat_map(matches) {
        let message = "calls that enter at a gateway come from no app, so this never matches";
        let remedy = "hang the route on a Service (`parentRefs: [{kind: Service, name: ...}]`), or remove it";
        found.warning(Code::NoEffect, path, message, remedy);
    }
}

/// The head of an answer cannot be waited for longer than for all of it.
pub(super) fn check_total(
    path: &str,
    request: Option<TimeSpan>,
    total: Option<TimeSpan>,
    found: &mut Findings,
) {
    if let (Some(request), Some(total)) = (request, total)
        && !total.get().is_zero()
        && request > total
    {
        let message = format!("the head of an answer may take {request}, but the whole call only {total}");
        found.error(Code::Conflict, format!("{path}.request"), message, "make it at most `total`");
    }
}

fn check_rule(path: &str, rule: &Rule, found: &mut Findings) {
    for (i, one) in rule.matches.iter().enumerate() {
        check_match(&format!("{path}.matches[{i}]"), one, found);
    }
    for (i, filter) in rule.filters.iter().enumerate() {
        check_filter(&format!("{path}.filters[{i}]"), filter, rule, found);
    }
    check_destination(path, rule, found);
    for (i, backend) in rule.backend_refs.iter().enumerate() {
        weight(&format!("{path}.backendRefs[{i}].weight"), backend.weight, found);
    }
    if let Some(timeouts) = &rule.timeouts {
        check_total(&format!("{path}.timeouts"), timeouts.request, timeouts.total, found);
    }
    if let Some(timeouts) = &rule.timeouts
        && let (Some(request), Some(each)) = (timeouts.request, timeouts.backend_request)
        && !request.get().is_zero()
        && each > request
    {
        let message = format!("one try may take {each}, but all together only {request}");
        found.error(
            Code::Conflict,
            format!("{path}.timeouts.backendRequest"),
            message,
            "make it at most `request`",
        );
    }
    if let Some(retry) = &rule.retry {
        attempts(&format!("{path}.retry.attempts"), retry.attempts, found);
        found.status_codes(&format!("{path}.retry.codes"), &retry.codes);
    }
}

pub(super) fn attempts(path: &str, attempts: u32, found: &mut Findings) {
    if attempts > 10 {
        found.error(Code::InvalidValue, path, format!("{attempts} retries are too many"), "write 0 to 10");
    }
}

pub(super) fn weight(path: &str, weight: Weight, found: &mut Findings) {
    if weight.0 > 1_000_000 {
        found.error(Code::InvalidValue, path, format!("{} is out of range", weight.0), "write 0 to 1000000");
    }
}

/// Either calls go somewhere or a filter answers them, and not both.
fn check_destination(path: &str, rule: &Rule, found: &mut Findings) {
    let answers = |kind| matches!(kind, FilterKind::RequestRedirect | FilterKind::DirectResponse);
    let mut answering = rule.filters.iter().enumerate().filter(|(_, filter)| answers(filter.kind));
    match (answering.next(), rule.backend_refs.is_empty()) {
        (None, true) => {
            let remedy = "add `backendRefs`, a `RequestRedirect` or a `DirectResponse`";
            found.error(Code::MissingKey, path, "the rule leads nowhere", remedy);
        }
        (Some((i, _)), false) => {
            let message = "a filter that answers leaves nothing for `backendRefs`";
            found.error(Code::Conflict, format!("{path}.filters[{i}]"), message, "keep one of the two");
        }
        (None, false) if rule.backend_refs.iter().all(|backend| backend.weight.0 == 0) => {
            let message = "every weight is 0: no call would be answered";
            found.error(Code::Conflict, format!("{path}.backendRefs"), message, "give at least one a weight");
        }
        (None, false) | (Some(_), true) => {}
    }
    if let Some((i, _)) = answering.next() {
        let message = "two filters want to answer the call";
        found.error(Code::Conflict, format!("{path}.filters[{i}]"), message, "keep one of the two");
    }
}

fn check_match(path: &str, one: &Match, found: &mut Findings) {
    if let Some(matched) = &one.path {
        let path = format!("{path}.path.value");
        match matched.kind {
            PathMatchKind::Exact | PathMatchKind::PathPrefix => found.absolute_path(&path, &matched.value),
            PathMatchKind::RegularExpression => found.regex(&path, &matched.value),
            PathMatchKind::Template => {
                if let Err(invalid) = matched.value.parse::<Template>() {
                    found.error(Code::InvalidValue, path, invalid.message, invalid.remedy);
                }
            }
        }
    }
    if let Some(method) = &one.method {
        found.method(&format!("{path}.method"), method);
    }
    for (i, header) in one.headers.iter().enumerate() {
        let path = format!("{path}.headers[{i}]");
        found.header_name(&format!("{path}.name"), &header.name);
        check_value(&path, header, found);
    }
    let headers = one.headers.iter().enumerate();
    let lower = headers.map(|(i, h)| (format!("{path}.headers[{i}].name"), h.name.to_ascii_lowercase()));
    found.unique("the header", lower);
    for (i, param) in one.query_params.iter().enumerate() {
        let path = format!("{path}.queryParams[{i}]");
        if param.name.is_empty() {
            found.error(
                Code::InvalidValue,
                format!("{path}.name"),
                "the name is empty",
                "name the parameter",
            );
        }
        check_value(&path, param, found);
    }
    for (i, cookie) in one.cookies.iter().enumerate() {
        let path = format!("{path}.cookies[{i}]");
        found.cookie_name(&format!("{path}.name"), &cookie.name);
        check_value(&path, cookie, found);
    }
    if let Some(grpc) = &one.grpc {
        check_grpc(path, grpc, one, found);
    }
    if let Some(source) = &one.source {
        check_source(&format!("{path}.source"), source, found);
    }
    if let Some(cel) = &one.cel
        && let Err(malformed) = dodai_cel::Program::parse_over(cel, &EXPRESSION_NAMES)
    {
        let remedy =
            "write, for example, `request.headers['x-tier'] == 'gold' && source.namespace != 'test'`";
        found.error(Code::InvalidValue, format!("{path}.cel"), malformed.to_string(), remedy);
    }
}

fn check_grpc(path: &str, grpc: &GrpcMatch, one: &Match, found: &mut Findings) {
    for (key, given) in [("path", one.path.is_some()), ("method", one.method.is_some())] {
        if given {
            let message = format!("`grpc` says path and method already, so `{key}` does not go with it");
            found.error(Code::Conflict, format!("{path}.{key}"), message, "keep one of the two");
        }
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_service = |text: &str| text.split('.').all(|part| !part.is_empty() && part.chars().all(word));
    if let Some(service) = grpc.service.as_ref().filter(|service| !is_service(service)) {
        let message = format!("`{}` is not a gRPC service", crate::Invalid::shorten(service));
        let remedy = "write it with its package and without slashes: `shop.v1.Catalog`";
        found.error(Code::InvalidValue, format!("{path}.grpc.service"), message, remedy);
    }
    if let Some(method) = grpc.method.as_ref().filter(|text| text.is_empty() || !text.chars().all(word)) {
        let message = format!("`{}` is not a gRPC method", crate::Invalid::shorten(method));
        let remedy = "write its name alone: `GetProduct`";
        found.error(Code::InvalidValue, format!("{path}.grpc.method"), message, remedy);
    }
}

fn check_source(path: &str, source: &SourceMatch, found: &mut Findings) {
    if source.app.is_none() && source.namespace.is_none() && source.labels.is_empty() {
        let remedy = "add `app`, `namespace` or `labels`, or leave it out";
        found.error(Code::MissingKey, path, "nobody is named", remedy);
    }
    if let Some(app) = &source.app {
        match parse_app(app) {
            Err(invalid) => {
                let remedy = format!("{}, or `namespace/name`", invalid.remedy);
                found.error(Code::InvalidValue, format!("{path}.app"), invalid.message, remedy);
            }
            Ok((Some(own), _)) if source.namespace.as_ref().is_some_and(|namespace| *namespace != own) => {
                let message = format!("`{app}` is not in the namespace given beside it");
                found.error(Code::Conflict, format!("{path}.namespace"), message, "keep one of the two");
            }
            Ok(_) => {}
        }
    }
}

pub(super) fn check_value(path: &str, matched: &ValueMatch, found: &mut Findings) {
    match (matched.kind, &matched.value) {
        (ValueMatchKind::Present, None) | (ValueMatchKind::Exact, Some(_)) => {}
        (ValueMatchKind::RegularExpression, Some(value)) => found.regex(&format!("{path}.value"), value),
        (ValueMatchKind::Present, Some(_)) => {
            let message = "`Present` looks at no value";
            found.error(
                Code::Conflict,
                format!("{path}.value"),
                message,
                "leave `value` out, or use `Exact`",
            );
        }
        (ValueMatchKind::Exact | ValueMatchKind::RegularExpression, None) => {
            let remedy = "add `value:`, or use `type: Present`";
            found.error(Code::MissingKey, format!("{path}.value"), "this key is missing", remedy);
        }
    }
}

fn check_filter(path: &str, filter: &Filter, rule: &Rule, found: &mut Findings) {
    let wanted = filter.kind.block();
    let blocks = [
        ("requestHeaderModifier", filter.request_header_modifier.is_some()),
        ("responseHeaderModifier", filter.response_header_modifier.is_some()),
        ("requestRedirect", filter.request_redirect.is_some()),
        ("urlRewrite", filter.url_rewrite.is_some()),
        ("requestMirror", filter.request_mirror.is_some()),
        ("directResponse", filter.direct_response.is_some()),
        ("cors", filter.cors.is_some()),
    ];
    for (block, given) in blocks {
        if given && block != wanted {
            let message = "this block is of another type of filter";
            let remedy = format!("move it to a filter of its own; this one has `{wanted}`");
            found.error(Code::Conflict, format!("{path}.{block}"), message, remedy);
        } else if !given && block == wanted {
            let remedy = format!("add `{wanted}:`");
            found.error(Code::MissingKey, format!("{path}.{block}"), "this key is missing", remedy);
        }
    }
    for (key, modifier) in [
        ("requestHeaderModifier", &filter.request_header_modifier),
        ("responseHeaderModifier", &filter.response_header_modifier),
    ] {
        if let Some(modifier) = modifier {
            check_modifier(&format!("{path}.{key}"), modifier, found);
        }
    }
    if let Some(redirect) = &filter.request_redirect {
        let path = format!("{path}.requestRedirect");
        if !matches!(redirect.status_code, 301 | 302 | 303 | 307 | 308) {
            let message = format!("{} is not a redirect", redirect.status_code);
            found.error(
                Code::InvalidValue,
                format!("{path}.statusCode"),
                message,
                "write 301, 302, 303, 307 or 308",
            );
        }
        rewrite::check(&path, redirect.hostname.as_deref(), redirect.path.as_ref(), rule, found);
    }
    if let Some(rewrite) = &filter.url_rewrite {
        let path = format!("{path}.urlRewrite");
        rewrite::check(&path, rewrite.hostname.as_deref(), rewrite.path.as_ref(), rule, found);
    }
    if let Some(mirror) = &filter.request_mirror
        && mirror.percent > 100
    {
        let message = format!("{} is not a share", mirror.percent);
        found.error(Code::InvalidValue, format!("{path}.requestMirror.percent"), message, "write 0 to 100");
    }
    if let Some(cors) = &filter.cors {
        super::cors::check(&format!("{path}.cors"), cors, found);
    }
    if let Some(answer) = &filter.direct_response {
        let path = format!("{path}.directResponse");
        if !(200..=599).contains(&answer.status_code) {
            let message = format!("{} cannot be answered", answer.status_code);
            found.error(
                Code::InvalidValue,
                format!("{path}.statusCode"),
                message,
                "write a code from 200 to 599",
            );
        }
        if answer.body.len() > MAX_DIRECT_BODY {
            let message = format!("the body has more than {MAX_DIRECT_BODY} bytes");
            found.error(Code::TooLarge, format!("{path}.body"), message, "serve it from an app");
        }
        if let Some(content_type) = &answer.content_type {
            found.header_value(&format!("{path}.contentType"), content_type);
        }
    }
}

pub(super) fn check_modifier(path: &str, modifier: &HeaderModifier, found: &mut Findings) {
    for (key, headers) in [("set", &modifier.set), ("add", &modifier.add)] {
        for (i, header) in headers.iter().enumerate() {
            found.header_name(&format!("{path}.{key}[{i}].name"), &header.name);
            let path = format!("{path}.{key}[{i}].value");
            found.header_value(&path, &header.value);
            if let Err(bad) = LineFormat::parse_value(&header.value) {
                let remedy = "write `%%` for the sign itself; docs/documents.md lists the operators";
                found.error(Code::InvalidValue, path, bad.to_string(), remedy);
            }
        }
    }
    for (i, name) in modifier.remove.iter().enumerate() {
        found.header_name(&format!("{path}.remove[{i}]"), name);
    }
    let named = [("set", &modifier.set), ("add", &modifier.add)];
    let changed =
        named.iter().flat_map(|(key, list)| list.iter().map(move |header| (*key, header.name.as_str())));
    let removed = modifier.remove.iter().map(|name| ("remove", name.as_str()));
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (key, name) in changed.chain(removed) {
        match seen.iter().find(|(other, known)| *other != key && known.eq_ignore_ascii_case(name)) {
            Some((other, _)) => {
                let message = format!("`{name}` stands in `{other}` and in `{key}`");
                found.error(
                    Code::Conflict,
                    path,
                    message,
                    "keep it in one of them; `set` replaces what was there",
                );
            }
            None => seen.push((key, name)),
        }
    }
    if modifier.set.is_empty() && modifier.add.is_empty() && modifier.remove.is_empty() {
        found.warning(Code::NoEffect, path, "no header is changed", "add `set`, `add` or `remove`");
    }
}
