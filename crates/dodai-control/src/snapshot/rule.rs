//! One rule of a route: matches, filters, backends, limits, in the words of the data path.

use std::sync::Arc;

use dodai_api::{
    self as api, BackendKind, BackendRef, FilterKind, PathModifierKind, RevisionChoice, Route, TargetKind,
};
use dodai_core::id::AppId;
use dodai_core::snapshot::{
    Action, Backend, CallPolicy, Filter, Match, PathMatch, PathRewrite, RetryOn, RetryPolicy, Rule,
    SourceMatch, SubstitutionPart, TemplatePart, ValueMatch, ValuePattern,
};

use super::Input;
use super::policy::{BACKOFF, Part, bound, edits, merged};
use super::service::{Offered, label, resolve, straight};
use crate::documents::Documents;
use crate::name;

/// Calls of a rule whose backends lead nowhere are answered with this, as the Gateway API says.
const NO_BACKEND: u16 = 500;

/// Compiles a rule, by its place in the route, for one of its matches; `None` matches everything.
pub(super) fn compile(
    input: &Input<'_>,
    route: &Route,
    (index, rule): (usize, &api::Rule),
    wanted: Option<&api::Match>,
) -> Rule {
    let id = name::app_id(&route.metadata);
    let label = rule.name.as_ref().map_or_else(|| index.to_string(), ToString::to_string);
    let section = rule.name.as_ref().map(api::Name::as_str);
    let part = |section| Part { kind: TargetKind::Route, app: &id, section };
    let parts: Vec<Part<'_>> = section.map(|_| part(section)).into_iter().chain([part(None)]).collect();
    let policies = merged(input, &parts);
    let mut own = limits(rule, &policies.call);
    fall_back(&mut own, &policies.call);
    let mut filters = policies.filters;
    let action = act(input, route, rule, wanted, &mut filters);
    super::guard::pages_first(&mut filters);
    let matches = wanted.map(|wanted| matching(input, route, wanted)).into_iter().collect();
    Rule { name: format!("{id}/{label}"), matches, filters, action, policy: own }
}

fn act(
    input: &Input<'_>,
    route: &Route,
    rule: &api::Rule,
    wanted: Option<&api::Match>,
    filters: &mut Vec<Filter>,
) -> Action {
    let mut answer = None;
    for filter in &rule.filters {
        match filter.kind {
            FilterKind::RequestHeaderModifier => {
                filters.extend(
                    filter.request_header_modifier.as_ref().map(|one| Filter::RequestHeaders(edits(one))),
                );
            }
            FilterKind::ResponseHeaderModifier => {
                filters.extend(
                    filter.response_header_modifier.as_ref().map(|one| Filter::ResponseHeaders(edits(one))),
                );
            }
            FilterKind::UrlRewrite => filters.extend(filter.url_rewrite.as_ref().map(|one| {
                let path = one.path.as_ref().and_then(|path| rewrite(path, wanted));
                Filter::Rewrite { host: one.hostname.clone(), path }
            })),
            FilterKind::RequestMirror => {
                let Some(mirror) = &filter.request_mirror else { continue };
                let share = u16::try_from(mirror.percent.min(100) * 100).unwrap_or(10_000);
                let to = to(input, route, &mirror.backend_ref);
                filters.extend(to.map(|to| Filter::Mirror { to, per_ten_thousand: share }));
            }
            FilterKind::RequestRedirect => {
                answer = filter.request_redirect.as_ref().map(|one| redirect(one, wanted));
            }
            FilterKind::Cors => filters.extend(filter.cors.as_ref().map(super::guard::cors)),
            FilterKind::DirectResponse => {
                let Some(one) = &filter.direct_response else { continue };
                let kind = one.content_type.clone().unwrap_or_else(|| "text/plain; charset=utf-8".to_owned());
                let set = vec![("content-type".to_owned(), kind)];
                filters.push(Filter::ResponseHeaders(dodai_core::snapshot::HeaderEdits {
                    set,
                    ..Default::default()
                }));
                answer = Some(Action::Respond { status: one.status_code, body: one.body.clone() });
            }
        }
    }
    answer.unwrap_or_else(|| forward(input, route, rule))
}

fn forward(input: &Input<'_>, route: &Route, rule: &api::Rule) -> Action {
    let backends: Vec<Backend> = rule.backend_refs.iter().filter_map(|one| to(input, route, one)).collect();
    if backends.is_empty() {
        let body = format!("route {} has no backend that exists\n", name::app_id(&route.metadata));
        return Action::Respond { status: NO_BACKEND, body };
    }
    Action::Forward(backends)
}

fn redirect(redirect: &api::RequestRedirect, wanted: Option<&api::Match>) -> Action {
    let scheme = redirect.scheme.map(|scheme| match scheme {
        api::Scheme::Http => "http".to_owned(),
        api::Scheme::Https => "https".to_owned(),
    });
    Action::Redirect {
        scheme,
        host: redirect.hostname.clone(),
        port: redirect.port.map(api::Port::get),
        path: redirect.path.as_ref().and_then(|path| rewrite(path, wanted)),
        status: redirect.status_code,
    }
}

/// A change of the path of calls that match `wanted`. Variables of its template are groups of an expression.
fn rewrite(modifier: &api::PathModifier, wanted: Option<&api::Match>) -> Option<PathRewrite> {
    match modifier.kind {
        PathModifierKind::ReplaceFullPath => modifier.replace_full_path.clone().map(PathRewrite::Full),
        PathModifierKind::ReplacePrefixMatch => {
            modifier.replace_prefix_match.clone().map(PathRewrite::Prefix)
        }
        PathModifierKind::ReplaceRegexMatch => {
            let regex = modifier.replace_regex_match.as_ref()?;
            Some(substituted(&regex.pattern, regex.substitution.parse().ok()?))
        }
        PathModifierKind::ReplaceTemplateMatch => {
            let template: api::Template = wanted?.path.as_ref()?.value.parse().ok()?;
            let (pattern, substitution) =
                template.rewriting(modifier.replace_template_match.as_ref()?).ok()?;
            Some(substituted(pattern, substitution))
        }
    }
}

fn substituted(pattern: &str, substitution: api::Substitution) -> PathRewrite {
    let part = |part| match part {
        api::SubstitutionPart::Text(text) => SubstitutionPart::Text(text),
        api::SubstitutionPart::Group(number) => SubstitutionPart::Group(number),
    };
    let substitution = substitution.parts.into_iter().map(part).collect();
    PathRewrite::Regex { pattern: pattern.to_owned(), substitution }
}

/// The app or service that a backend names.
pub(super) fn backend_owner(route: &Route, backend: &BackendRef) -> AppId {
    name::app_in(backend.namespace.as_ref().unwrap_or(&route.metadata.namespace), &backend.name)
}

/// The port that a backend means.
pub(super) fn backend(documents: &Documents, route: &Route, backend: &BackendRef) -> Option<Offered> {
    let (owner, port) = (backend_owner(route, backend), backend.port.map(api::Port::get));
    match backend.kind {
        BackendKind::Service => resolve(documents, &owner, None, port),
        BackendKind::App => straight(documents, &owner).into_iter().find(|one| match port {
            Some(_) => one.port == port,
            None => one.first,
        }),
    }
}

fn to(input: &Input<'_>, route: &Route, reference: &BackendRef) -> Option<Backend> {
    let found = backend(input.documents, route, reference)?;
    let revision = match &reference.revision {
        Some(RevisionChoice::Id(id)) => Some(name::revision(id)),
        Some(RevisionChoice::Latest) => {
            let app = found.apps.first()?;
            input.records.app(app).and_then(|record| record.serving.clone())
        }
        None => None,
    };
    let labels = (!reference.labels.is_empty()).then(|| Arc::new(reference.labels.clone()));
    Some(Backend { service: found.id, revision, weight: reference.weight.0, labels })
}

fn matching(input: &Input<'_>, route: &Route, wanted: &api::Match) -> Match {
    let path = wanted.path.as_ref().and_then(|path| match path.kind {
        api::PathMatchKind::Exact => Some(PathMatch::Exact(path.value.clone())),
        api::PathMatchKind::PathPrefix => Some(PathMatch::Prefix(path.value.clone())),
        api::PathMatchKind::RegularExpression => Some(PathMatch::Regex(path.value.clone())),
        api::PathMatchKind::Template => path.value.parse().ok().map(|read: api::Template| template(&read)),
    });
    let values = |list: &[api::ValueMatch]| list.iter().map(value).collect();
    let post = wanted.grpc.as_ref().map(|_| "POST".to_owned());
    Match {
        path: path.or_else(|| wanted.grpc.as_ref().and_then(grpc)),
        method: wanted.method.clone().or(post),
        headers: values(&wanted.headers),
        query: values(&wanted.query_params),
        cookies: values(&wanted.cookies),
        source: wanted.source.as_ref().map(|source| from(input, route, source)),
        cel: wanted.cel.clone(),
    }
}

fn template(template: &api::Template) -> PathMatch {
    let part = |segment: &api::Segment| match segment {
        api::Segment::Literal(text) => TemplatePart::Literal(text.clone()),
        api::Segment::One(end) => TemplatePart::One(end.clone()),
        api::Segment::Rest(end) => TemplatePart::Rest(end.clone()),
    };
    PathMatch::Template(template.segments.iter().map(part).collect())
}

/// A gRPC method is called by a path of its service and its name.
fn grpc(wanted: &api::GrpcMatch) -> Option<PathMatch> {
    match (&wanted.service, &wanted.method) {
        (Some(service), Some(method)) => Some(PathMatch::Exact(format!("/{service}/{method}"))),
        (Some(service), None) => Some(PathMatch::Prefix(format!("/{service}"))),
        (None, Some(method)) => {
            let parts = [TemplatePart::One(String::new()), TemplatePart::Literal(method.clone())];
            Some(PathMatch::Template(parts.into()))
        }
        (None, None) => None,
    }
}

/// Labels are looked up here, so that a base need not know those of every app: only apps on it call through it.
fn from(input: &Input<'_>, route: &Route, wanted: &api::SourceMatch) -> SourceMatch {
    let own = route.metadata.namespace.as_str();
    let app = wanted.app.as_ref().and_then(|text| match text.split_once('/') {
        Some(_) => AppId::parse(text).ok(),
        None => {
            let namespace = wanted.namespace.as_ref().map_or(own, api::Name::as_str);
            AppId::parse(&format!("{namespace}/{text}")).ok()
        }
    });
    match (app, &wanted.namespace) {
        (Some(app), _) if wanted.labels.is_empty() => SourceMatch::Apps(vec![app]),
        (None, Some(namespace)) if wanted.labels.is_empty() => SourceMatch::Namespace(namespace.to_string()),
        (app, namespace) => {
            let fits = |id: &AppId| {
                let named = app.as_ref().is_none_or(|app| app == id);
                let there = namespace.as_ref().is_none_or(|one| one.as_str() == id.namespace.as_str());
                let has = |(key, value): (&String, &String)| {
                    label(input.documents, id, key).is_some_and(|found| found == value)
                };
                named && there && wanted.labels.iter().all(has)
            };
            SourceMatch::Apps(input.local().into_iter().filter(fits).collect())
        }
    }
}

pub(super) fn value(wanted: &api::ValueMatch) -> ValueMatch {
    let text = wanted.value.clone().unwrap_or_default();
    let value = match wanted.kind {
        api::ValueMatchKind::Exact => ValuePattern::Exact(text),
        api::ValueMatchKind::RegularExpression => ValuePattern::Regex(text),
        api::ValueMatchKind::Present => ValuePattern::Present,
    };
    ValueMatch { name: wanted.name.clone(), value }
}

fn limits(rule: &api::Rule, policy: &CallPolicy) -> CallPolicy {
    let timeouts = rule.timeouts.clone().unwrap_or_default();
    CallPolicy {
        timeout: timeouts.request.map(bound),
        total_timeout: timeouts.total.map(bound),
        try_timeout: timeouts.backend_request.map(bound),
        retry: rule.retry.as_ref().map(|own| retry(own, policy.retry.clone())),
        ..CallPolicy::default()
    }
}

/// What a rule says of retries, and for the rest what the route's policy does.
fn retry(own: &api::RuleRetry, policy: Option<RetryPolicy>) -> RetryPolicy {
    let mut retry = policy.unwrap_or_else(|| RetryPolicy {
        attempts: 0,
        statuses: vec![502, 503, 504],
        on: None,
        backoff: BACKOFF,
        constant: false,
        max_backoff: None,
        budget_percent: 20,
        min_per_second: 10,
    });
    retry.attempts = own.attempts;
    retry.backoff = own.backoff.map_or(retry.backoff, api::TimeSpan::get);
    if !own.codes.is_empty() {
        retry.statuses.clone_from(&own.codes);
        if let Some(on) = retry.on.as_mut().filter(|on| !on.contains(&RetryOn::Statuses)) {
            on.push(RetryOn::Statuses);
        }
    }
    retry
}

/// Takes from `wider` what is not set.
pub(super) fn fall_back(own: &mut CallPolicy, wider: &CallPolicy) {
    own.timeout = own.timeout.or(wider.timeout);
    own.try_timeout = own.try_timeout.or(wider.try_timeout);
    own.total_timeout = own.total_timeout.or(wider.total_timeout);
    own.idle_timeout = own.idle_timeout.or(wider.idle_timeout);
    own.connect_timeout = own.connect_timeout.or(wider.connect_timeout);
    own.retry = own.retry.take().or_else(|| wider.retry.clone());
    own.hedge = own.hedge.take().or_else(|| wider.hedge.clone());
    own.max_body = own.max_body.or(wider.max_body);
    own.priority = own.priority.or(wider.priority);
    own.sample_per_ten_thousand = own.sample_per_ten_thousand.or(wider.sample_per_ten_thousand);
    own.access_log = own.access_log.take().or_else(|| wider.access_log.clone());
}
