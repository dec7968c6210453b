//! Policies and resiliency documents of one target, merged field by field into one set of limits.
//!
//! The more specific target wins (a section over the whole, a service over its app), then the older document,
//! then the smaller name; a Policy wins over a Resiliency. Who lost is told by [`contested`].

use std::collections::BTreeMap;
use std::time::Duration;

use dodai_api::{self as api, Metadata, Policy, PolicySpec, TargetKind, dapr};
use dodai_core::id::{AppId, ServiceId};
use dodai_core::snapshot::{
    Access, AccessRule, Balance, Breaker, CallPolicy, Filter, HeaderEdits, RateKey, RetryPolicy,
};

use super::Input;
use crate::documents::Documents;
use crate::name;

/// What `0s` means: no bound that anyone would live to see.
const UNBOUNDED: Duration = Duration::from_secs(365 * 24 * 3600);
/// The wait before a first retry unless something says otherwise.
pub(super) const BACKOFF: Duration = Duration::from_millis(25);
/// Dapr's `maxRetries: -1`, bounded: every wait on the outside is.
const ENDLESS: u32 = 100;

/// What holds for calls to one target.
#[derive(Clone, Debug, Default)]
pub(super) struct Effective {
    pub call: CallPolicy,
    pub balance: Option<Balance>,
    pub breaker: Option<Breaker>,
    pub filters: Vec<Filter>,
    /// Which kinds of filters stand already.
    seen: Seen,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    access: bool,
    rate: bool,
    headers: bool,
}

/// One part of a target.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    pub kind: TargetKind,
    pub app: &'a AppId,
    pub section: Option<&'a str>,
}

/// The policies of a target, the winner first.
pub(crate) fn policies_of<'a>(documents: &'a Documents, parts: &[Part<'_>]) -> Vec<&'a Policy> {
    let rank = |policy: &Policy| {
        let hits = |part: &Part<'_>, reference: &api::TargetRef| {
            reference.kind == part.kind
                && reference.name.as_str() == part.app.name.as_str()
                && policy.metadata.namespace.as_str() == part.app.namespace.as_str()
                && reference.section_name.as_ref().map(api::Name::as_str) == part.section
        };
        parts.iter().position(|part| policy.spec.target_refs.iter().any(|reference| hits(part, reference)))
    };
    let mut found: Vec<_> =
        documents.policies().filter_map(|one| Some((rank(one)?, age(&one.metadata), one))).collect();
    found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    found.into_iter().map(|(_, _, policy)| policy).collect()
}

/// Older first, then by name.
pub(super) fn age(metadata: &Metadata) -> (Option<String>, String) {
    (metadata.creation_timestamp.clone(), format!("{}/{}", metadata.namespace, metadata.name))
}

pub(super) fn for_service(input: &Input<'_>, id: &ServiceId) -> Effective {
    let section = Some(id.port.as_str());
    let part = |kind, section| Part { kind, app: &id.owner, section };
    let parts = [
        part(TargetKind::Service, section),
        part(TargetKind::App, section),
        part(TargetKind::Service, None),
        part(TargetKind::App, None),
    ];
    let mut effective = merged(input.documents, &parts);
    for document in input.documents.resiliencies().filter(|one| applies(input, one, &id.owner)) {
        if let Some(target) = document.spec.targets.apps.get(id.owner.name.as_str()) {
            effective.fold_dapr(&document.spec.policies, target);
        }
    }
    effective
}

/// What the policies of a route or a gateway say.
pub(super) fn merged(documents: &Documents, parts: &[Part<'_>]) -> Effective {
    let mut effective = Effective::default();
    for policy in policies_of(documents, parts) {
        effective.fold(&policy.spec, &policy.metadata);
    }
    effective
}

/// A resiliency document is about callers: it holds here if one of them runs here.
fn applies(input: &Input<'_>, document: &dapr::Resiliency, target: &AppId) -> bool {
    let namespace = document.metadata.namespace.as_str();
    let here = |scope: &String| {
        let instances = input.records.on(input.base).map(|one| &one.app);
        let mut local = instances.chain(&input.settings.attached);
        local.any(|app| app.namespace.as_str() == namespace && app.name.as_str() == scope)
    };
    target.namespace.as_str() == namespace && (document.scopes.is_empty() || document.scopes.iter().any(here))
}

/// The resiliency documents that a policy overrides, with the name of the policy.
pub(crate) fn contested(documents: &Documents) -> BTreeMap<String, String> {
    let mut losers = BTreeMap::new();
    for document in documents.resiliencies() {
        for target in document.spec.targets.apps.keys() {
            let Ok(own) = dodai_core::id::Name::new(target) else { continue };
            let app = AppId::new(name::name(&document.metadata.namespace), own);
            let part = |kind| Part { kind, app: &app, section: None };
            let winners = policies_of(documents, &[part(TargetKind::Service), part(TargetKind::App)]);
            if let Some(winner) = winners.first() {
                let key = format!("{}/{}", document.metadata.namespace, document.metadata.name);
                losers.insert(
                    key,
                    format!("Policy `{}` also targets `{target}` and wins", winner.metadata.name),
                );
            }
        }
    }
    losers
}

pub(super) fn balance(balancing: &api::LoadBalancing) -> Balance {
    match balancing.algorithm {
        api::Algorithm::RoundRobin => Balance::RoundRobin,
        api::Algorithm::LeastLatency => Balance::LeastLatency,
    }
}

pub(super) fn bound(span: api::TimeSpan) -> Duration {
    if span.get().is_zero() { UNBOUNDED } else { span.get() }
}

impl Effective {
    /// Adds what `spec` says and nothing before it did.
    fn fold(&mut self, spec: &PolicySpec, metadata: &Metadata) {
        if let Some(timeouts) = &spec.timeouts {
            self.call.timeout = self.call.timeout.or(timeouts.request.map(bound));
            self.call.idle_timeout = self.call.idle_timeout.or(timeouts.idle.map(bound));
            let connect = timeouts.connect.map(api::TimeSpan::get);
            self.call.connect_timeout = self.call.connect_timeout.or(connect);
        }
        if let Some(retry) = &spec.retry {
            self.call.try_timeout = self.call.try_timeout.or(retry.per_try.map(bound));
            self.call.retry.get_or_insert_with(|| RetryPolicy {
                attempts: retry.attempts,
                statuses: retry.codes.clone(),
                backoff: BACKOFF,
                budget_percent: retry.budget_percent,
                min_per_second: retry.min_retries_per_second,
            });
        }
        if let Some(breaker) = &spec.circuit_breaker {
            let default = Breaker::default();
            self.breaker.get_or_insert_with(|| Breaker {
                consecutive_failures: breaker.consecutive_failures.unwrap_or(default.consecutive_failures),
                open_for: breaker.open_for.map_or(default.open_for, api::TimeSpan::get),
                max_connections: breaker.max_connections.unwrap_or(default.max_connections),
                max_pending: breaker.max_pending.unwrap_or(default.max_pending),
                max_requests: breaker.max_requests,
            });
        }
        self.balance = self.balance.or(spec.load_balancing.as_ref().map(balance));
        if let Some(found) = spec.access.as_ref().filter(|_| !self.seen.access) {
            self.seen.access = true;
            self.filters.push(Filter::Access(access(found, metadata)));
        }
        if let Some(limit) = spec.rate_limit.as_ref().filter(|_| !self.seen.rate) {
            self.seen.rate = true;
            self.filters.push(rate_limit(limit));
        }
        if let Some(headers) = spec.headers.as_ref().filter(|_| !self.seen.headers) {
            self.seen.headers = true;
            self.filters.extend(headers.request.as_ref().map(|one| Filter::RequestHeaders(edits(one))));
            self.filters.extend(headers.response.as_ref().map(|one| Filter::ResponseHeaders(edits(one))));
        }
    }

    fn fold_dapr(&mut self, policies: &dapr::Policies, target: &dapr::AppTarget) {
        let timeout = target.timeout.as_ref().and_then(|name| policies.timeouts.get(name));
        self.call.timeout = self.call.timeout.or(timeout.copied().map(bound));
        let retry = target.retry.as_ref().and_then(|name| policies.retries.get(name));
        self.call.retry = self.call.retry.take().or(retry.map(dapr_retry));
        let breaker = target.circuit_breaker.as_ref().and_then(|name| policies.circuit_breakers.get(name));
        self.breaker = self.breaker.take().or(breaker.map(dapr_breaker));
    }
}

fn dapr_retry(retry: &dapr::DaprRetry) -> RetryPolicy {
    let codes = retry.matching.as_ref().and_then(|matching| matching.http_status_codes.as_deref());
    let backoff = match retry.policy {
        dapr::RetryKind::Constant => retry.duration.map_or(Duration::from_secs(5), api::TimeSpan::get),
        dapr::RetryKind::Exponential => Duration::from_millis(500),
    };
    let attempts = retry.max_retries.and_then(|most| u32::try_from(most).ok()).unwrap_or(ENDLESS);
    RetryPolicy {
        attempts: attempts.min(ENDLESS),
        statuses: codes.map_or_else(|| (500..=599).collect(), status_codes),
        backoff,
        budget_percent: 100,
        min_per_second: 100,
    }
}

/// `429,501-503` as a list. Parts that are no codes were warned about when the document was read.
fn status_codes(text: &str) -> Vec<u16> {
    let mut codes = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            codes.extend(first.max(100)..=last.min(599));
        }
    }
    codes
}

fn dapr_breaker(breaker: &dapr::DaprCircuitBreaker) -> Breaker {
    let trip = breaker.trip.as_deref().unwrap_or("consecutiveFailures > 5");
    let count = |sign: &str| trip.split_once(sign).and_then(|(_, number)| number.trim().parse::<u32>().ok());
    let failures = count(">=").or(count(">").map(|number| number.saturating_add(1)));
    let default = Breaker::default();
    Breaker {
        consecutive_failures: failures.unwrap_or(default.consecutive_failures),
        open_for: breaker.timeout.map_or(Duration::from_secs(60), api::TimeSpan::get),
        ..default
    }
}

fn access(access: &api::Access, metadata: &Metadata) -> Access {
    let own = &metadata.namespace;
    let rule = |rule: &api::AccessRule| {
        let from = rule.from.clone().unwrap_or_default();
        let app = |text: &String| match text.split_once('/') {
            Some(_) => AppId::parse(text).ok(),
            None => AppId::parse(&format!("{own}/{text}")).ok(),
        };
        AccessRule {
            allow: rule.action == api::AccessAction::Allow,
            apps: from.apps.iter().filter_map(app).collect(),
            namespaces: from.namespaces.iter().map(ToString::to_string).collect(),
            methods: rule.methods.clone(),
            paths: rule.paths.clone(),
        }
    };
    Access {
        default_allow: access.default == api::AccessAction::Allow,
        rules: access.rules.iter().map(rule).collect(),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
fn rate_limit(limit: &api::RateLimit) -> Filter {
    // Within the bounds that the document was checked against, so the interval is neither 0 nor endless.
    let rate = limit.requests_per_second.clamp(0.001, 1e9);
    let burst = limit.burst.unwrap_or(rate.min(f64::from(u32::MAX)) as u32).max(1);
    let key = match &limit.key {
        None => RateKey::All,
        Some(api::RateLimitKey { header: Some(header), .. }) => RateKey::Header(header.to_ascii_lowercase()),
        Some(api::RateLimitKey { source: Some(api::RateLimitSource::Address), .. }) => RateKey::Address,
        Some(api::RateLimitKey { .. }) => RateKey::App,
    };
    Filter::RateLimit { interval: Duration::from_secs_f64(1.0 / rate), burst, key }
}

pub(super) fn edits(modifier: &api::HeaderModifier) -> HeaderEdits {
    let pairs =
        |list: &[api::HeaderValue]| list.iter().map(|one| (one.name.clone(), one.value.clone())).collect();
    HeaderEdits {
        set: pairs(&modifier.set),
        add: pairs(&modifier.add),
        remove: modifier.remove.clone(),
        ..HeaderEdits::default()
    }
}
