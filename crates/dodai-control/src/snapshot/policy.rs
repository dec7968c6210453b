//! Policies and resiliency documents of one target, merged field by field into one set of limits.
//!
//! The more specific target wins (a section over the whole, a service over its app), then the older document,
//! then the smaller name; a Policy wins over a Resiliency. Who lost is told by [`contested`]. Access is apart:
//! an app's holds whichever service leads to it, beside that of the service.

use std::collections::BTreeSet;
use std::time::Duration;

use dodai_api::{self as api, Metadata, Policy, TargetKind};
use dodai_core::id::{AppId, Name};
use dodai_core::snapshot::{
    AccessLog, Breaker, CallPolicy, Concurrency, Filter, HeaderEdits, Health, MadeHeader, RetryPolicy,
};

use super::balancing::{self, Balancing};
use super::service::Offered;
use super::{Input, guard, rate, resilience, resiliency};
use crate::documents::Documents;
use crate::name;

/// What `0s` means: no bound that anyone would live to see.
pub(super) const UNBOUNDED: Duration = Duration::from_secs(365 * 24 * 3600);
/// The wait before a first retry unless something says otherwise.
pub(super) const BACKOFF: Duration = Duration::from_millis(25);
/// What holds for calls to one target.
#[derive(Clone, Debug, Default)]
pub(super) struct Effective {
    pub call: CallPolicy,
    pub balancing: Option<Balancing>,
    pub health: Option<Health>,
    pub breaker: Option<Breaker>,
    pub max_connection_age: Option<Duration>,
    pub concurrency: Option<Concurrency>,
    pub filters: Vec<Filter>,
    /// Which kinds of filters stand already.
    seen: Seen,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    cors: bool,
    fault: bool,
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
    let targets: BTreeSet<&AppId> = parts.iter().map(|part| part.app).collect();
    let on = targets.into_iter().flat_map(|target| documents.policies_on(target));
    let mut found: Vec<_> = on.filter_map(|one| Some((rank(one)?, age(&one.metadata), one))).collect();
    // One policy may be on several of them.
    found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    found.dedup_by(|a, b| a.1 == b.1);
    found.into_iter().map(|(_, _, policy)| policy).collect()
}

/// Older first, then by name.
pub(super) fn age(metadata: &Metadata) -> (Option<String>, String) {
    (metadata.creation_timestamp.clone(), format!("{}/{}", metadata.namespace, metadata.name))
}

pub(super) fn for_service(input: &Input<'_>, one: &Offered) -> Effective {
    let service = [
        part(TargetKind::Service, one.service(), Some(&one.section)),
        part(TargetKind::Service, one.service(), None),
    ];
    let app =
        |app| [part(TargetKind::App, Some(app), Some(&one.target)), part(TargetKind::App, Some(app), None)];
    // What several apps bear is not the same; only who may call is asked of each of them.
    let alone = match one.apps.as_slice() {
        [alone] => app(alone),
        _ => [None, None],
    };
    let parts = [service[0], alone[0], service[1], alone[1]];
    let parts: Vec<Part<'_>> = parts.into_iter().flatten().collect();
    let mut effective = folded(input.documents, &parts);
    let mut guards = Vec::new();
    for parts in [service].into_iter().chain(one.apps.iter().map(app)) {
        let parts: Vec<Part<'_>> = parts.into_iter().flatten().collect();
        for one in guard(input, &parts) {
            if !guards.contains(&one) {
                guards.push(one);
            }
        }
    }
    effective.filters.splice(0..0, guards);
    resiliency::fold(input, &one.id.owner, &mut effective);
    effective
}

fn part<'a>(kind: TargetKind, app: Option<&'a AppId>, section: Option<&'a Name>) -> Option<Part<'a>> {
    app.map(|app| Part { kind, app, section: section.map(Name::as_str) })
}

/// What the policies of a route or a gateway say.
pub(super) fn merged(input: &Input<'_>, parts: &[Part<'_>]) -> Effective {
    let mut effective = folded(input.documents, parts);
    effective.filters.splice(0..0, guard(input, parts));
    effective
}

/// Everything but who may call.
fn folded(documents: &Documents, parts: &[Part<'_>]) -> Effective {
    let mut effective = Effective::default();
    let (trials, policies): (Vec<_>, Vec<_>) =
        policies_of(documents, parts).into_iter().partition(|policy| policy.spec.dry_run);
    for policy in policies {
        effective.fold(policy);
    }
    for policy in trials {
        effective.filters.extend(rate::limits(policy).map(|limits| guard::trial(policy, limits)));
    }
    effective
}

/// Who may call: the token, if one is asked for, then what the first policy says that says something of it, and
/// everything that is only tried.
fn guard(input: &Input<'_>, parts: &[Part<'_>]) -> Vec<Filter> {
    let says = |policy: &&Policy| {
        let access =
            guard::access(policy.spec.access.as_ref()?, &policy.metadata, &input.settings.trust_domain);
        Some(Filter::Access(access))
    };
    let (trials, policies): (Vec<_>, Vec<_>) =
        policies_of(input.documents, parts).into_iter().partition(|policy| policy.spec.dry_run);
    let token = policies.iter().find_map(|policy| policy.spec.jwt.as_ref()).map(guard::jwt);
    let tried = trials.into_iter().flat_map(|policy| {
        let token = policy.spec.jwt.as_ref().map(guard::jwt);
        let all = [token, says(&policy), guard::authorizer(input.documents, policy)];
        all.into_iter().flatten().map(|filter| guard::trial(policy, filter))
    });
    let asked = policies.iter().find_map(|policy| guard::authorizer(input.documents, policy));
    token.into_iter().chain(policies.iter().find_map(says)).chain(tried).chain(asked).collect()
}

/// Why a resiliency document does not count for one of its targets: a policy overrides it.
pub(crate) fn contested(documents: &Documents, document: &api::dapr::Resiliency) -> Option<String> {
    let mut targets: Vec<&String> = document.spec.targets.apps.keys().collect();
    targets.reverse();
    targets.into_iter().find_map(|target| {
        let own = dodai_core::id::Name::new(target).ok()?;
        let app = AppId::new(name::name(&document.metadata.namespace), own);
        let part = |kind| Part { kind, app: &app, section: None };
        let winners = policies_of(documents, &[part(TargetKind::Service), part(TargetKind::App)]);
        let winner = winners.first()?;
        Some(format!("Policy `{}` also targets `{target}` and wins", winner.metadata.name))
    })
}

pub(super) fn bound(span: api::TimeSpan) -> Duration {
    if span.get().is_zero() { UNBOUNDED } else { span.get() }
}

impl Effective {
    /// Adds what `policy` says and nothing before it did.
    fn fold(&mut self, policy: &Policy) {
        let spec = &policy.spec;
        if let Some(timeouts) = &spec.timeouts {
            self.call.timeout = self.call.timeout.or(timeouts.request.map(bound));
            self.call.total_timeout = self.call.total_timeout.or(timeouts.total.map(bound));
            self.call.idle_timeout = self.call.idle_timeout.or(timeouts.idle.map(bound));
            let connect = timeouts.connect.map(api::TimeSpan::get);
            self.call.connect_timeout = self.call.connect_timeout.or(connect);
        }
        if let Some(retry) = &spec.retry {
            self.call.try_timeout = self.call.try_timeout.or(retry.per_try.map(bound));
            self.call.retry.get_or_insert_with(|| RetryPolicy {
                attempts: retry.attempts,
                statuses: retry.codes.clone(),
                on: resilience::retry_on(&retry.on),
                backoff: retry.backoff.map_or(BACKOFF, api::TimeSpan::get),
                constant: false,
                max_backoff: None,
                budget_percent: retry.budget_percent,
                min_per_second: retry.min_retries_per_second,
            });
        }
        self.call.hedge = self.call.hedge.take().or_else(|| spec.hedge.as_ref().map(resilience::hedge));
        if let Some(breaker) = &spec.circuit_breaker {
            let default = Breaker::default();
            self.breaker.get_or_insert_with(|| Breaker {
                consecutive_failures: breaker.consecutive_failures.unwrap_or(default.consecutive_failures),
                open_for: breaker.open_for.map_or(default.open_for, api::TimeSpan::get),
                max_connections: breaker.max_connections.unwrap_or(default.max_connections),
                max_pending: breaker.max_pending.unwrap_or(default.max_pending),
                max_requests: breaker.max_requests,
                max_connection_age: None,
                refuses: breaker.consecutive_failures.is_some() || breaker.open_for.is_some(),
                counts_answers: false,
            });
        }
        let age = spec.connection.as_ref().map(|connection| connection.max_age.get());
        self.max_connection_age = self.max_connection_age.or(age);
        self.balancing = self.balancing.take().or_else(|| spec.load_balancing.as_ref().map(Balancing::of));
        self.health = self.health.take().or_else(|| spec.health.as_ref().map(balancing::health));
        if let Some(cors) = spec.cors.as_ref().filter(|_| !self.seen.cors) {
            self.seen.cors = true;
            self.filters.push(guard::cors(cors));
        }
        self.call.max_body = self.call.max_body.or(spec.max_request_body.map(api::ByteSize::bytes));
        self.call.priority = self.call.priority.or(spec.priority.map(resilience::priority));
        let share = spec.tracing.as_ref().map(|tracing| per_ten_thousand(tracing.sample_percent));
        self.call.sample_per_ten_thousand = self.call.sample_per_ten_thousand.or(share);
        let log = || spec.access_log.as_ref().map(access_log);
        self.call.access_log = self.call.access_log.take().or_else(log);
        if let Some(concurrency) = &spec.concurrency {
            self.concurrency.get_or_insert_with(|| resilience::concurrency(concurrency));
        }
        if let Some(fault) = spec.fault.as_ref().filter(|_| !self.seen.fault) {
            self.seen.fault = true;
            self.filters.push(resilience::fault(fault));
        }
        if let Some(limits) = rate::limits(policy).filter(|_| !self.seen.rate) {
            self.seen.rate = true;
            self.filters.push(limits);
        }
        if let Some(headers) = spec.headers.as_ref().filter(|_| !self.seen.headers) {
            self.seen.headers = true;
            self.filters.extend(headers.request.as_ref().map(|one| Filter::RequestHeaders(edits(one))));
            self.filters.extend(headers.response.as_ref().map(|one| Filter::ResponseHeaders(edits(one))));
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
fn per_ten_thousand(percent: f64) -> u16 {
    (percent.clamp(0.0, 100.0) * 100.0).round() as u16
}

fn access_log(said: &api::PolicyAccessLog) -> AccessLog {
    let small = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
    AccessLog {
        format: said.format.clone(),
        filters: said.filters.clone(),
        request_headers: small(&said.request_headers),
        response_headers: small(&said.response_headers),
    }
}

pub(super) fn edits(modifier: &api::HeaderModifier) -> HeaderEdits {
    let mut edits = HeaderEdits { remove: modifier.remove.clone(), ..HeaderEdits::default() };
    for (list, adds) in [(&modifier.set, false), (&modifier.add, true)] {
        for one in list {
            let name = one.name.clone();
            match one.plain() {
                Some(text) if adds => edits.add.push((name, text)),
                Some(text) => edits.set.push((name, text)),
                None => edits.made.push(MadeHeader { name, value: one.value.clone(), adds }),
            }
        }
    }
    edits
}
