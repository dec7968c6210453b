//! What is borne with: from documents to bounds on calls and connections.

use std::time::Duration;

use super::compiled::{app, document, policy, service, snapshot};

const SECOND: Duration = Duration::from_secs(1);

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
