//! Resiliency documents: what callers of an app or a component bear with, in the words of the data path.
//!
//! Dapr's `timeout` bounds each try, not the call: the call's own bound follows from the tries and the waits
//! between them. A Policy for the same target wins, field by field, but for one without a breaker of its own.

use std::time::Duration;

use dodai_api::{self as api, dapr};
use dodai_core::id::AppId;
use dodai_core::snapshot::{Breaker, CallPolicy, Patience, RetryPolicy};

use super::Input;
use super::policy::{Effective, UNBOUNDED, bound};

/// Dapr's `maxRetries: -1`, bounded: every wait on the outside is.
const ENDLESS: u32 = 100;
/// Dapr's longest wait of exponential retries.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Adds what the documents say of calls to `target`, as far as no policy has said it.
pub(super) fn fold(input: &Input<'_>, target: &AppId, effective: &mut Effective) {
    let mut each: Option<Duration> = None;
    for document in
        input.documents.resiliencies().filter(|one| is_of_callers(input, one, target.namespace.as_str()))
    {
        let Some(names) = document.spec.targets.apps.get(target.name.as_str()) else { continue };
        let policies = &document.spec.policies;
        let timeout = names.timeout.as_ref().and_then(|name| policies.timeouts.get(name));
        each = each.or(timeout.copied().map(bound));
        let found = names.retry.as_ref().and_then(|name| policies.retries.get(name));
        effective.call.retry = effective.call.retry.take().or(found.map(retry));
        let found = names.circuit_breaker.as_ref().and_then(|name| policies.circuit_breakers.get(name));
        if let Some(found) = found {
            effective.breaker = Some(breaker(found, effective.breaker.take()));
        }
    }
    if let Some(each) = each {
        bound_tries(&mut effective.call, each);
    }
}

/// A resiliency document is about callers: it holds here if one of them runs here.
fn is_of_callers(input: &Input<'_>, document: &dapr::Resiliency, namespace: &str) -> bool {
    let here = |scope: &String| {
        let instances = input.records.on(input.base).map(|one| &one.app);
        let mut local = instances.chain(&input.settings.attached);
        local.any(|app| app.namespace.as_str() == namespace && app.name.as_str() == scope)
    };
    document.metadata.namespace.as_str() == namespace
        && (document.scopes.is_empty() || document.scopes.iter().any(here))
}

/// Bounds every try by `each`, and the call by all of them and the waits between.
fn bound_tries(call: &mut CallPolicy, each: Duration) {
    let total = call.retry.as_ref().map_or(each, |retry| {
        let tries = each.saturating_mul(retry.attempts.saturating_add(1));
        tries.saturating_add(waits(retry)).min(UNBOUNDED)
    });
    call.try_timeout = call.try_timeout.or(Some(each));
    call.timeout = call.timeout.or(Some(total));
}

/// The longest that all waits of a retry take together.
fn waits(retry: &RetryPolicy) -> Duration {
    (0..retry.attempts.min(ENDLESS)).map(|at| retry.pause(at)).fold(Duration::ZERO, Duration::saturating_add)
}

/// What the documents say of operations of a component: what it delivers, and what is asked of it.
pub(super) fn of_component(input: &Input<'_>, component: &dapr::Component) -> (Patience, Patience) {
    let (mut inbound, mut outbound) = (Patience::default(), Patience::default());
    let namespace = component.metadata.namespace.as_str();
    for document in input.documents.resiliencies().filter(|one| is_of_callers(input, one, namespace)) {
        let Some(names) = document.spec.targets.components.get(component.metadata.name.as_str()) else {
            continue;
        };
        for (names, patience) in [(&names.inbound, &mut inbound), (&names.outbound, &mut outbound)] {
            let Some(names) = names else { continue };
            let policies = &document.spec.policies;
            let timeout = names.timeout.as_ref().and_then(|name| policies.timeouts.get(name));
            let timeout = timeout.map(|span| span.get()).filter(|span| !span.is_zero());
            patience.timeout = patience.timeout.or(timeout);
            let found = names.retry.as_ref().and_then(|name| policies.retries.get(name));
            patience.retry = patience.retry.take().or(found.map(retry_of_component));
        }
    }
    (inbound, outbound)
}

/// daprd brings an event again whatever the app answered that is no success, unless the document names codes.
fn retry_of_component(wanted: &dapr::DaprRetry) -> RetryPolicy {
    let named = |matching: &dapr::RetryMatching| matching.http_status_codes.is_some();
    let found = retry(wanted);
    if wanted.matching.as_ref().is_some_and(named) {
        return found;
    }
    RetryPolicy { statuses: (300..=599).collect(), ..found }
}

fn retry(retry: &dapr::DaprRetry) -> RetryPolicy {
    let codes = retry.matching.as_ref().and_then(|matching| matching.http_status_codes.as_deref());
    let constant = retry.policy == dapr::RetryKind::Constant;
    let backoff = match retry.policy {
        dapr::RetryKind::Constant => retry.duration.map_or(Duration::from_secs(5), api::TimeSpan::get),
        dapr::RetryKind::Exponential => Duration::from_millis(500),
    };
    let longest = retry.max_interval.map_or(LONGEST_WAIT, api::TimeSpan::get);
    let attempts = retry.max_retries.and_then(|most| u32::try_from(most).ok()).unwrap_or(ENDLESS);
    let codes = codes.and_then(|text| api::dapr::status_codes(text).ok()).filter(|codes| !codes.is_empty());
    RetryPolicy {
        attempts: attempts.min(ENDLESS),
        statuses: codes.unwrap_or_else(|| (500..=599).collect()),
        on: None,
        backoff,
        constant,
        max_backoff: Some(longest).filter(|_| !constant),
        budget_percent: 100,
        min_per_second: 100,
    }
}

/// The breaker of a document. One that a policy asks for stands before it; a policy that names only caps, or that says
/// that nothing is left alone, as the one that is made for an app of a `dapr.yaml` does, leaves it to the document.
fn breaker(wanted: &dapr::DaprCircuitBreaker, of_policy: Option<Breaker>) -> Breaker {
    let own = of_policy.unwrap_or_default();
    if own.refuses && own.consecutive_failures > 0 {
        return own;
    }
    let trip = wanted.trip.as_deref().unwrap_or("consecutiveFailures > 5");
    let count = |sign: &str| trip.split_once(sign).and_then(|(_, number)| number.trim().parse::<u32>().ok());
    let failures = count(">=").or(count(">").map(|number| number.saturating_add(1)));
    Breaker {
        consecutive_failures: failures.unwrap_or(Breaker::default().consecutive_failures),
        open_for: wanted.timeout.map_or(Duration::from_secs(60), api::TimeSpan::get),
        refuses: true,
        counts_answers: true,
        ..own
    }
}
