//! What is borne with: from documents to bounds on calls and connections.

use std::time::Duration;

use super::compiled::{app, document, policy, resiliency, service, snapshot};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn connections_have_an_age_on_both_sides() {
    let text = app("a", "{name: http}")
        + &policy("old", "{kind: App, name: a}", "connection: {maxAge: 1h}")
        + &policy("few", "{kind: Service, name: a}", "circuitBreaker: {maxConnections: 3}")
        + &document(
            "Gateway",
            "g",
            "{listeners: [
                {name: a, port: 8080, hostname: a.example, protocol: HTTP, maxConnectionAge: 10m},
                {name: b, port: 8080, hostname: b.example, protocol: HTTP, maxConnectionAge: 10m},
                {name: c, port: 8081, protocol: HTTP}]}",
        );
    let snapshot = snapshot(&text, &[]);
    let breaker = &service(&snapshot, "default/a/http").breaker;
    assert_eq!((breaker.max_connections, breaker.max_connection_age), (3, Some(3600 * SECOND)));
    let of = |port| {
        let found = snapshot.listeners().find(|one| one.address.port() == port);
        found.expect("it listens").max_connection_age
    };
    assert_eq!((of(8080), of(8081)), (Some(600 * SECOND), None));
}

#[test]
fn a_whole_call_is_bounded_by_the_nearest_that_says_so() {
    let route = document(
        "Route",
        "r",
        "{parentRefs: [{name: g}], rules: [
            {name: own, backendRefs: [{name: a}], timeouts: {total: 1m}},
            {name: never, matches: [{path: {value: /never}}], backendRefs: [{name: a}], timeouts: {total: 0s}},
            {name: plain, matches: [{path: {value: /plain}}], backendRefs: [{name: a}], timeouts: {request: 1s}}]}",
    );
    let text = app("a", "{name: http}")
        + &document("Gateway", "g", "{listeners: [{name: http, port: 8080, protocol: HTTP}]}")
        + &route
        + &policy("route", "{kind: Route, name: r}", "timeouts: {total: 30s}")
        + &policy("app", "{kind: App, name: a}", "timeouts: {request: 5s, total: 8s}");
    let snapshot = snapshot(&text, &[]);
    let rules = &snapshot.routes().next().expect("a table").hosts[0].rules;
    let told = |name: &str| {
        let name = format!("default/r/{name}");
        rules.iter().find(|rule| rule.name == name).expect("a rule").policy.total_timeout
    };
    let year = 365 * 24 * 3600;
    assert_eq!(["own", "never", "plain"].map(told), [60, year, 30].map(|seconds| Some(seconds * SECOND)));
    let policy = &service(&snapshot, "default/a/http").policy;
    assert_eq!((policy.timeout, policy.total_timeout), (Some(5 * SECOND), Some(8 * SECOND)));
}

#[test]
fn breakers_of_a_resiliency_document() {
    let check = |text: &str, failures: u32, open_for: u32| {
        let more = resiliency(&format!("circuitBreakers: {{c: {{{text}}}}}"), "circuitBreaker: c");
        let found =
            service(&snapshot(&(app("a", "{name: http}") + &more), &[]), "default/a/http").breaker.clone();
        assert_eq!((found.consecutive_failures, found.open_for), (failures, open_for * SECOND), "{text}");
    };
    check("", 6, 60);
    check("trip: consecutiveFailures > 2, timeout: 9s", 3, 9);
    check("trip: 'consecutiveFailures >= 2'", 2, 60);
    check("trip: 'requests > 7'", 8, 60);
}

#[test]
fn a_policy_without_a_breaker_leaves_it_to_the_resiliency_document() {
    let of = |circuit_breaker: &str| {
        let text = app("a", "{name: http}")
            + &policy("p", "{kind: App, name: a}", &format!("circuitBreaker: {circuit_breaker}"))
            + &resiliency(
                "circuitBreakers: {c: {trip: consecutiveFailures > 2, timeout: 9s}}",
                "circuitBreaker: c",
            );
        let found = service(&snapshot(&text, &[]), "default/a/http").breaker.clone();
        let opens = (found.consecutive_failures, found.open_for, found.refuses, found.counts_answers);
        (opens, found.max_connections, found.max_requests)
    };
    let of_document = (3, 9 * SECOND, true, true);
    assert_eq!(of("{consecutiveFailures: 0, maxConnections: 2}"), (of_document, 2, None));
    assert_eq!(of("{maxRequests: 7}"), (of_document, 1024, Some(7)));
    assert_eq!(of("{consecutiveFailures: 4}"), ((4, 5 * SECOND, true, false), 1024, None));
}
