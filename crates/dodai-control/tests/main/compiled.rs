//! Tables: a few documents in, one part of a snapshot out. Nothing runs here.

use std::time::Duration;

use dodai_control::documents::Documents;
use dodai_control::records::{AppRecord, InstanceRecord, Observed, Records, Sighting};
use dodai_control::snapshot::{BaseSettings, Input, build};
use dodai_core::id::{AppId, BaseId, InstanceId, RevisionId, ServiceId};
use dodai_core::snapshot::{
    Access, AccessLog, AccessRule, Action, Backend, Balance, CallPolicy, Filter, Patience, RateKey,
    RateLimit, RetryOn, Rule, Service, Snapshot,
};
use dodai_core::status::{Status, Wants};

use super::played::yaml;

const SECOND: Duration = Duration::from_secs(1);

/// The snapshot of a base that knows everything and runs one instance of each app of `local`.
pub(super) fn snapshot(text: &str, local: &[&str]) -> Snapshot {
    let documents: Documents = yaml(text).into_iter().map(|one| one.value).collect();
    let base = BaseId::new("here");
    let mut records = Records::default();
    for app in local {
        let (id, revision) = (InstanceId::new(format!("{app}-1")), RevisionId::new("0123456789"));
        let app = AppId::parse(&format!("default/{app}")).expect("valid");
        let record =
            AppRecord { current: revision.clone(), since: 0, serving: Some(revision.clone()), before: None };
        records.put_app(app.clone(), record);
        let record = InstanceRecord {
            id: id.clone(),
            app,
            revision,
            base: base.clone(),
            created: 0,
            draining: None,
            succeeded: false,
        };
        records.put_instance(record);
    }
    let mut observed = Observed::default();
    let status = Status { wants: Wants::All, ..Status::default() };
    observed.bases_mut().insert(base.clone(), Sighting { status: status.into(), connected: true, since: 0 });
    let settings = BaseSettings::default();
    let input = Input {
        documents: &documents,
        records: &records,
        observed: &observed,
        base: &base,
        settings: &settings,
    };
    build(&input, 1)
}

pub(super) fn service<'a>(snapshot: &'a Snapshot, id: &str) -> &'a Service {
    let id = ServiceId::parse(id).expect("valid");
    let all = || snapshot.services().map(|one| one.id.to_string()).collect::<Vec<_>>();
    snapshot.service(&id).unwrap_or_else(|| panic!("{id} is not among {:?}", all()))
}

/// A document of dodai.dev on one line.
pub(super) fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: dodai.dev/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

fn dapr(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: dapr.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

/// An app with these services.
pub(super) fn app(name: &str, services: &str) -> String {
    document("App", name, &format!("{{process: {{command: [./run]}}, services: [{services}]}}"))
}

pub(super) fn policy(name: &str, target: &str, spec: &str) -> String {
    document("Policy", name, &format!("{{targetRefs: [{target}], {spec}}}"))
}

fn guards(filters: &[Filter]) -> Vec<&Access> {
    let all = filters.iter();
    all.filter_map(|filter| if let Filter::Access(access) = filter { Some(access) } else { None }).collect()
}

/// Whether every guard lets everybody through.
fn open(service: &Service) -> bool {
    guards(&service.inbound).iter().all(|access| access.default_allow)
}

#[test]
fn secrets_are_denied_whatever_the_case_of_the_word() {
    for (word, allow) in [("deny", false), ("Deny", false), ("DENY", false), ("allow", true), ("Allow", true)]
    {
        let text = document("App", "a", "{process: {command: [./run]}, dapr: {configuration: c}}")
            + &dapr(
                "Configuration",
                "c",
                &format!(
                    "{{secrets: {{scopes: [{{storeName: s, defaultAccess: {word}, allowedSecrets: [x]}}]}}}}"
                ),
            );
        let snapshot = snapshot(&text, &["a"]);
        let scopes = &snapshot.apps().next().expect("it is").scopes.secrets;
        let told: Vec<_> = scopes.iter().map(|one| (one.default_allow, one.allowed.clone())).collect();
        assert_eq!(told, [(allow, vec!["x".to_owned()])], "{word}");
    }
}

#[test]
fn who_may_call_an_app_holds_whichever_service_leads_to_it() {
    let apps = app("a", "{name: http}, {name: admin}") + &app("b", "{name: http}");
    let deny = |target: &str| policy("p", target, "access: {default: deny}");
    let front = document("Service", "front", "{selector: {app: a}}");
    let both = document("Service", "both", "{selector: {labels: {tier: x}}}");
    let labelled = |name: &str| {
        document("App", name, "{process: {command: [./run]}, services: [{name: http}], labels: {tier: x}}")
    };
    let check = |text: String, id: &str, expect: bool| {
        assert_eq!(open(service(&snapshot(&text, &[]), id)), expect, "{id} of\n{text}");
    };
    check(apps.clone() + &front + &deny("{kind: App, name: a}"), "default/a/http", false);
    check(apps.clone() + &front + &deny("{kind: App, name: a}"), "default/front/http", false);
    check(apps.clone() + &front + &deny("{kind: App, name: a}"), "default/b/http", true);
    // A section is a service of the app, whatever the port of the service document is called.
    let admin = document(
        "Service",
        "back",
        "{selector: {app: a}, ports: [{name: x, port: 81, targetService: admin}]}",
    );
    let section = apps.clone() + &front + &admin + &deny("{kind: App, name: a, sectionName: admin}");
    check(section.clone(), "default/back/admin", false);
    check(section.clone(), "default/front/admin", false);
    check(section, "default/front/http", true);
    // One of several apps behind a service is guarded like the others.
    let several = labelled("c") + &labelled("d") + &both + &deny("{kind: App, name: d}");
    check(several.clone(), "default/both/http", false);
    check(several, "default/c/http", true);
    // What a service allows does not open its app.
    let allowed = policy("q", "{kind: Service, name: a}", "access: {default: allow}");
    check(apps.clone() + &deny("{kind: App, name: a}") + &allowed, "default/a/http", false);
    // A guard of a service is of that service alone.
    check(apps.clone() + &front + &deny("{kind: Service, name: front}"), "default/front/http", false);
    check(apps + &front + &deny("{kind: Service, name: front}"), "default/a/http", true);
}

#[test]
fn limits_of_an_app_hold_for_a_service_that_leads_to_it_alone() {
    let text = app("a", "{name: http}")
        + &document("Service", "front", "{selector: {app: a}}")
        + &policy(
            "p",
            "{kind: App, name: a}",
            "timeouts: {request: 7s}, loadBalancing: {algorithm: round_robin}",
        );
    let snapshot = snapshot(&text, &[]);
    for id in ["default/a/http", "default/front/http"] {
        let found = service(&snapshot, id);
        assert_eq!(
            (found.policy.timeout, found.balance.clone()),
            (Some(7 * SECOND), Balance::RoundRobin),
            "{id}"
        );
    }
}

/// A resiliency document with these policies for calls to `a`.
pub(super) fn resiliency(policies: &str, target: &str) -> String {
    dapr("Resiliency", "r", &format!("{{policies: {{{policies}}}, targets: {{apps: {{a: {{{target}}}}}}}}}"))
}

fn calls(more: &str) -> CallPolicy {
    let text = app("a", "{name: http}") + more;
    service(&snapshot(&text, &[]), "default/a/http").policy.clone()
}

#[test]
fn the_timeout_of_a_resiliency_document_bounds_each_try() {
    let check = |policies: &str, target: &str, each: u64, total: u64| {
        let found = calls(&resiliency(policies, target));
        assert_eq!(
            (found.try_timeout, found.timeout),
            (Some(SECOND * each as u32), Some(SECOND * total as u32)),
            "{policies}"
        );
    };
    let time = "timeouts: {t: 5s}";
    check(time, "timeout: t", 5, 5);
    let constant = format!("{time}, retries: {{r: {{duration: 2s, maxRetries: 3}}}}");
    check(&constant, "timeout: t, retry: r", 5, 4 * 5 + 3 * 2);
    let doubling = format!("{time}, retries: {{r: {{policy: exponential, maxInterval: 1s, maxRetries: 4}}}}");
    let found = calls(&resiliency(&doubling, "timeout: t, retry: r"));
    assert_eq!(found.timeout, Some(25 * SECOND + Duration::from_millis(500 + 1000 + 1000 + 1000)));
    let bounded = policy("p", "{kind: App, name: a}", "timeouts: {request: 6s}");
    let found = calls(&(bounded + &resiliency(&constant, "timeout: t, retry: r")));
    assert_eq!((found.try_timeout, found.timeout), (Some(5 * SECOND), Some(6 * SECOND)), "a policy wins");
}

#[test]
fn retries_of_a_resiliency_document() {
    let retry = |text: &str| {
        let found = calls(&resiliency(&format!("retries: {{r: {{{text}}}}}"), "retry: r"));
        found.retry.expect("it is retried")
    };
    let constant = retry("duration: 3s, maxRetries: 2");
    assert_eq!((constant.attempts, constant.backoff, constant.constant), (2, 3 * SECOND, true));
    assert_eq!(constant.statuses.len(), 100, "every status of a failing server");
    let growing = retry("policy: exponential, maxInterval: 9s");
    assert_eq!((growing.attempts, growing.constant, growing.max_backoff), (100, false, Some(9 * SECOND)));
    let matching = retry("maxRetries: 1, matching: {httpStatusCodes: '429, 501-503'}");
    assert_eq!(matching.statuses, [429, 501, 502, 503]);
}

/// The only rule of the only route under the gateway.
fn rule(text: &str) -> Rule {
    let gateway = document("Gateway", "g", "{listeners: [{name: http, port: 8080, protocol: HTTP}]}");
    let snapshot = snapshot(&(gateway + &app("a", "{name: http}") + text), &[]);
    snapshot.routes().next().expect("a table").hosts[0].rules[0].clone()
}

#[test]
fn what_a_rule_does_not_say_of_retries_is_as_the_policy_of_its_route_says() {
    let route = |retry: &str| {
        document(
            "Route",
            "r",
            &format!(
                "{{parentRefs: [{{name: g}}], rules: [{{retry: {{{retry}}}, backendRefs: [{{name: a}}]}}]}}"
            ),
        )
    };
    let alone = rule(&route("attempts: 3")).policy.retry.expect("it is retried");
    assert_eq!((alone.attempts, alone.on, alone.budget_percent), (3, None, 20));
    let policy = policy(
        "p",
        "{kind: Route, name: r}",
        "retry: {on: [unavailable], budgetPercent: 50, backoff: 2s, perTry: 1s}, maxRequestBody: 2Ki",
    );
    let both = rule(&(route("attempts: 3, codes: [500]") + &policy)).policy;
    assert_eq!((both.try_timeout, both.max_body), (Some(SECOND), Some(2048)));
    let retry = both.retry.expect("it is retried");
    assert_eq!((retry.attempts, retry.budget_percent, retry.backoff), (3, 50, 2 * SECOND));
    assert_eq!((retry.statuses, retry.on), (vec![500], Some(vec![RetryOn::Grpc(14), RetryOn::Statuses])));
    let own = rule(&(route("attempts: 1, backoff: 1s") + &policy)).policy.retry.expect("it is retried");
    assert_eq!((own.backoff, own.on), (SECOND, Some(vec![RetryOn::Grpc(14)])));
}

/// Where the only rule of the only route under the gateway sends calls.
fn backends(text: &str) -> Vec<String> {
    let gateway = document("Gateway", "g", "{listeners: [{name: http, port: 8080, protocol: HTTP}]}");
    let snapshot = snapshot(&(gateway + text), &[]);
    let rule: &Rule = &snapshot.routes().next().expect("a table").hosts[0].rules[0];
    let Action::Forward(to) = &rule.action else { panic!("it forwards: {rule:?}") };
    let leads = |to: &Backend| {
        let service = snapshot.service(&to.service).expect("every backend is told");
        format!("{} {}", to.service, service.target.as_ref().unwrap_or(&service.id.port))
    };
    to.iter().map(leads).collect()
}

#[test]
fn a_backend_that_is_an_app_is_the_app_whatever_service_has_its_name() {
    let route = |to: &str| {
        document("Route", "r", &format!("{{parentRefs: [{{name: g}}], rules: [{{backendRefs: [{to}]}}]}}"))
    };
    let apps = app("a", "{name: http, port: 81}, {name: admin, port: 82}") + &app("b", "{name: http}");
    let elsewhere = document("Service", "a", "{selector: {app: b}}");
    let narrow = document("Service", "a", "{ports: [{name: web, port: 80, targetService: http}]}");
    let check = |service: &str, to: &str, expect: &str| {
        assert_eq!(backends(&(apps.clone() + service + &route(to))), [expect], "{to} with\n{service}");
    };
    check("", "{kind: App, name: a}", "default/a/http http");
    check("", "{kind: App, name: a, port: 82}", "default/a/admin admin");
    check(&elsewhere, "{name: a}", "default/a/http http");
    check(&elsewhere, "{kind: App, name: a}", "default/a--app/http http");
    check(&narrow, "{kind: App, name: a}", "default/a/http http");
    check(&narrow, "{kind: App, name: a, port: 82}", "default/a--app/admin admin");
    let text = apps
        + &elsewhere
        + &route("{kind: App, name: a}")
        + &policy("p", "{kind: App, name: a}", "access: {default: deny}");
    let snapshot = snapshot(&text, &[]);
    assert!(open(service(&snapshot, "default/a/http")), "this one leads to `b`");
    assert!(!open(service(&snapshot, "default/a--app/http")));
}

#[test]
fn two_ports_of_a_service_may_lead_to_one_port_of_an_app() {
    let text = app("a", "{name: http, port: 9000}")
        + &document(
            "Service",
            "a",
            "{ports: [{name: http, port: 80}, {name: alt, port: 8080, targetService: http}, {name: rpc, port: 81, protocol: grpc, targetService: http}]}",
        );
    let snapshot = snapshot(&text, &[]);
    let told: Vec<_> = snapshot
        .services()
        .map(|one| {
            (one.id.port.as_str(), one.port, one.target.as_ref().map(|name| name.as_str()), one.default)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("alt", Some(8080), Some("http"), false),
            ("http", Some(80), None, true),
            ("rpc", Some(81), Some("http"), false)
        ]
    );
    assert_eq!(snapshot.endpoints().count(), 3);
}

#[test]
fn a_section_of_a_service_is_its_port_by_the_port_s_own_name() {
    let service_document = document(
        "Service",
        "front",
        "{selector: {app: a}, ports: [{name: web, port: 80, targetService: http}, {name: ops, port: 81, targetService: admin}]}",
    );
    let text = app("a", "{name: http}, {name: admin}")
        + &service_document
        + &policy("p", "{kind: Service, name: front, sectionName: ops}", "access: {default: deny}");
    let snapshot = snapshot(&text, &[]);
    assert!(!open(service(&snapshot, "default/front/admin")));
    assert!(open(service(&snapshot, "default/front/http")));
}

#[test]
fn parts_of_a_policy_become_filters() {
    let filters = |spec: &str| {
        let text = app("a", "{name: http}") + &policy("p", "{kind: App, name: a}", spec);
        service(&snapshot(&text, &[]), "default/a/http").inbound.clone()
    };
    let key = |spec: &str| match &filters(&format!("rateLimits: [{{requests: 4{spec}}}]"))[..] {
        [Filter::RateLimits(limits)] => {
            let [RateLimit { interval, burst, key, shared: None }] = &limits[..] else {
                panic!("{limits:?}")
            };
            (*interval, *burst, key.clone())
        }
        other => panic!("one limit: {other:?}"),
    };
    let quarter = Duration::from_millis(250);
    assert_eq!(key(""), (quarter, 4, vec![]));
    assert_eq!(key(", per: 1h").0, Duration::from_secs(900));
    assert_eq!(
        key(", burst: 9, key: [{header: X-User}]"),
        (quarter, 9, vec![RateKey::Header("x-user".into())])
    );
    let parts = [RateKey::Cookie("s".into()), RateKey::Query("k".into()), RateKey::Claim("org.id".into())];
    let (_, _, found) = key(", key: [{cookie: s}, {queryParam: k}, {claim: org.id}, {source: app}]");
    assert_eq!(found, [&parts[..], &[RateKey::App]].concat());
    let rules = "{action: allow, from: {apps: [b, other/c], namespaces: [shop]}, methods: [GET], paths: [/a/*]}, {action: deny}";
    let found = filters(&format!("access: {{rules: [{rules}]}}"));
    let id = |text: &str| AppId::parse(text).expect("valid");
    let first = AccessRule {
        allow: true,
        apps: vec![id("default/b"), id("other/c")],
        namespaces: vec!["shop".to_owned()],
        methods: vec!["GET".to_owned()],
        paths: vec!["/a/*".to_owned()],
        ..AccessRule::default()
    };
    let expect = Access { default_allow: false, rules: vec![first, AccessRule::default()] };
    assert_eq!(found, [Filter::Access(expect)]);
    let headers = filters("headers: {request: {remove: [x-a]}, response: {set: [{name: x-b, value: c}]}}");
    assert!(matches!(&headers[..], [Filter::RequestHeaders(_), Filter::ResponseHeaders(_)]), "{headers:?}");
}

#[test]
fn the_more_specific_policy_wins_and_the_rest_fills_gaps() {
    let text = app("a", "{name: http}, {name: admin}")
        + &policy("whole", "{kind: App, name: a}", "timeouts: {request: 9s, idle: 8s}, retry: {attempts: 5}")
        + &policy("service", "{kind: Service, name: a}", "timeouts: {request: 7s}")
        + &policy(
            "part",
            "{kind: App, name: a, sectionName: http}",
            "timeouts: {request: 6s}, rateLimits: [{requests: 1}]",
        )
        + &policy("port", "{kind: Service, name: a, sectionName: http}", "timeouts: {connect: 1s}");
    let snapshot = snapshot(&text, &[]);
    let (http, admin) = (service(&snapshot, "default/a/http"), service(&snapshot, "default/a/admin"));
    let told = |one: &Service| (one.policy.timeout, one.policy.idle_timeout, one.policy.connect_timeout);
    assert_eq!(told(http), (Some(6 * SECOND), Some(8 * SECOND), Some(SECOND)));
    assert_eq!(told(admin), (Some(7 * SECOND), Some(8 * SECOND), None));
    assert_eq!(http.policy.retry.as_ref().map(|retry| retry.attempts), Some(5));
    assert_eq!((http.inbound.len(), admin.inbound.len()), (1, 0));
}

#[test]
fn components_that_a_configuration_denies_are_out_of_reach_of_its_apps() {
    let named = |name: &str, configuration: &str| {
        document(
            "App",
            name,
            &format!("{{process: {{command: [./run]}}, dapr: {{configuration: {configuration}}}}}"),
        )
    };
    let text = named("a", "strict")
        + &named("b", "loose")
        + &dapr("Configuration", "strict", "{components: {deny: [State.Sqlite/v1, pubsub.redis/v2]}}")
        + &dapr("Configuration", "loose", "{components: {deny: [bindings.http]}}");
    let component = |kind: &str, scopes: &str| {
        let text = text.clone()
            + &dapr("Component", "c", &format!("{{type: {kind}, version: v1}}")).replace("---", scopes)
            + "---\n";
        snapshot(&text, &["a", "b"]).components().next().map(|one| one.scopes.clone())
    };
    assert_eq!(component("state.redis", ""), Some(vec![]), "nobody denies it: all may");
    assert_eq!(component("pubsub.redis", ""), Some(vec![]), "only another version is denied");
    assert_eq!(component("state.sqlite", ""), Some(vec!["b".to_owned()]));
    assert_eq!(component("state.sqlite", "scopes: [a, b]\n"), Some(vec!["b".to_owned()]));
    assert_eq!(component("state.sqlite", "scopes: [a]\n"), None, "nobody is left");
}

#[test]
fn a_resiliency_document_says_how_patient_one_is_with_a_component() {
    let policies = "{timeouts: {t: 2s}, retries: {r: {duration: 1s, maxRetries: 3}, e: {policy: exponential, maxRetries: 1, matching: {httpStatusCodes: '503'}}}}";
    let targets =
        "{components: {db: {outbound: {timeout: t, retry: r}}, bus: {inbound: {timeout: t, retry: e}}}}";
    let text = app("a", "{name: http}")
        + &dapr("Component", "db", "{type: state.sqlite, version: v1}")
        + &dapr("Component", "bus", "{type: pubsub.in-memory, version: v1}")
        + &dapr("Resiliency", "r", &format!("{{policies: {policies}, targets: {targets}}}"));
    let snapshot = snapshot(&text, &["a"]);
    let of = |name: &str| snapshot.components().find(|one| one.name == name).expect("it is told");
    let (db, bus) = (of("db"), of("bus"));
    assert_eq!((&db.inbound, &bus.outbound), (&Patience::default(), &Patience::default()));
    let pauses = |patience: &Patience| {
        let retry = patience.retry.as_ref().expect("it is tried again");
        (patience.timeout, retry.attempts, retry.statuses.len(), [retry.pause(0), retry.pause(1)])
    };
    assert_eq!(pauses(&db.outbound), (Some(2 * SECOND), 3, 300, [SECOND, SECOND]));
    assert_eq!(pauses(&bus.inbound), (Some(2 * SECOND), 1, 1, [SECOND / 2, SECOND]));
}

#[test]
fn limits_of_a_policy_become_those_of_calls() {
    let of = |spec: &str| {
        let text = app("a", "{name: http}") + &policy("p", "{kind: App, name: a}", spec);
        let found = service(&snapshot(&text, &[]), "default/a/http").clone();
        (found.policy, found.breaker)
    };
    let (call, _) =
        of("retry: {attempts: 4, perTry: 2s, budgetPercent: 7, minRetriesPerSecond: 3, codes: [500]}");
    let retry = call.retry.expect("it is tried again");
    assert_eq!(
        (retry.attempts, retry.budget_percent, retry.min_per_second, retry.statuses),
        (4, 7, 3, vec![500])
    );
    assert_eq!((call.try_timeout, retry.constant, retry.max_backoff), (Some(2 * SECOND), false, None));
    let (call, _) = of("timeouts: {request: 0s, idle: 0s, connect: 3s}");
    let year = Some(365 * 24 * 3600 * SECOND);
    assert_eq!((call.timeout, call.idle_timeout, call.connect_timeout), (year, year, Some(3 * SECOND)));
    let (_, breaker) = of("circuitBreaker: {consecutiveFailures: 0, maxConnections: 2, maxRequests: 9}");
    assert_eq!((breaker.consecutive_failures, breaker.open_for, breaker.max_connections), (0, 5 * SECOND, 2));
    assert_eq!((breaker.max_pending, breaker.max_requests), (1024, Some(9)), "what is not said stays");
}

#[test]
fn a_scoped_resiliency_document_holds_where_one_of_its_apps_runs() {
    let scoped = resiliency("timeouts: {t: 5s}", "timeout: t").replace("---", "scopes: [b]\n---");
    let text = app("a", "{name: http}") + &app("b", "{name: http}") + &scoped;
    let timeout = |local: &[&str]| service(&snapshot(&text, local), "default/a/http").policy.timeout;
    assert_eq!(timeout(&["b"]), Some(5 * SECOND));
    assert_eq!(timeout(&["a"]), None);
}

#[test]
fn what_a_route_says_stands_before_its_policies_and_those_of_the_gateway() {
    let gateway = document("Gateway", "g", "{listeners: [{name: http, port: 8080, protocol: HTTP}]}");
    let route = document(
        "Route",
        "r",
        "{parentRefs: [{name: g}], rules: [
            {name: own, matches: [{path: {value: /own}}], backendRefs: [{name: a}], timeouts: {request: 1s}, retry: {attempts: 3, codes: [503]}},
            {name: plain, matches: [{path: {value: /}}], backendRefs: [{name: a}]}]}",
    );
    let text = app("a", "{name: http}")
        + &gateway
        + &route
        + &policy(
            "one",
            "{kind: Route, name: r, sectionName: plain}",
            "timeouts: {request: 2s}, tracing: {samplePercent: 0.5}, accessLog: {format: text, requestHeaders: [X-Lane]}",
        )
        + &policy(
            "all",
            "{kind: Route, name: r}",
            "timeouts: {request: 3s, idle: 4s}, rateLimits: [{requests: 5}]",
        )
        + &policy(
            "door",
            "{kind: Gateway, name: g}",
            "timeouts: {request: 9s, idle: 9s, connect: 9s}, access: {default: allow}, tracing: {samplePercent: 100}, accessLog: {filters: [none]}",
        );
    let snapshot = snapshot(&text, &[]);
    let rules = &snapshot.routes().next().expect("a table").hosts[0].rules;
    let told = |rule: &Rule| {
        let policy = &rule.policy;
        (rule.name.clone(), policy.timeout, policy.idle_timeout, policy.connect_timeout)
    };
    let expect = |name: &str, request| {
        (format!("default/r/{name}"), Some(request * SECOND), Some(4 * SECOND), Some(9 * SECOND))
    };
    assert_eq!(rules.iter().map(told).collect::<Vec<_>>(), [expect("own", 1), expect("plain", 2)]);
    let logged = rules.iter().map(|rule| rule.policy.access_log.clone().expect("it is said"));
    let of_one = AccessLog {
        format: Some("text".to_owned()),
        request_headers: vec!["x-lane".to_owned()],
        ..AccessLog::default()
    };
    let of_door = AccessLog { filters: vec!["none".to_owned()], ..AccessLog::default() };
    assert_eq!(logged.collect::<Vec<_>>(), [of_door, of_one], "the nearest one, whole");
    let sampled = |rule: &Rule| rule.policy.sample_per_ten_thousand;
    assert_eq!(rules.iter().map(sampled).collect::<Vec<_>>(), [Some(10_000), Some(50)]);
    let kinds = |rule: &Rule| matches!(&rule.filters[..], [Filter::Access(_), Filter::RateLimits(_)]);
    assert!(rules.iter().all(kinds), "the gateway's stand first: {rules:?}");
    let retry = rules[0].policy.retry.as_ref().expect("it is tried again");
    assert_eq!((retry.attempts, &retry.statuses[..], retry.budget_percent), (3, &[503][..], 20));
}

#[test]
fn a_route_under_a_service_holds_for_the_ports_it_names() {
    let parent = |more: &str| {
        let route = format!(
            "{{parentRefs: [{{kind: Service, name: a{more}}}], rules: [{{backendRefs: [{{name: b}}]}}]}}"
        );
        let text = app("a", "{name: http, port: 81}, {name: admin, port: 82}")
            + &app("b", "{name: http}")
            + &document("Route", "r", &route);
        let snapshot = snapshot(&text, &[]);
        let has = |port: &str| !service(&snapshot, &format!("default/a/{port}")).rules.is_empty();
        (has("http"), has("admin"))
    };
    assert_eq!(parent(""), (true, true));
    assert_eq!(parent(", sectionName: admin"), (false, true));
    assert_eq!(parent(", port: 81"), (true, false));
}

#[test]
fn backends_without_a_service_are_answered_and_the_rest_keep_their_shares() {
    let route = |to: &str| {
        document("Route", "r", &format!("{{parentRefs: [{{name: g}}], rules: [{{backendRefs: [{to}]}}]}}"))
    };
    let gateway = document("Gateway", "g", "{listeners: [{name: http, port: 8080, protocol: HTTP}]}");
    let action = |to: &str| {
        let text = app("a", "{name: http}, {name: admin, port: 82}") + &gateway + &route(to);
        snapshot(&text, &[]).routes().next().expect("a table").hosts[0].rules[0].action.clone()
    };
    let Action::Forward(to) =
        action("{name: a, weight: 3}, {name: gone, weight: 2}, {name: a, port: 82, weight: 0}")
    else {
        panic!("it forwards")
    };
    let told: Vec<_> = to.iter().map(|one| (one.service.to_string(), one.weight)).collect();
    assert_eq!(told, [("default/a/http".to_owned(), 3), ("default/a/admin".to_owned(), 0)]);
    assert!(matches!(action("{name: gone}"), Action::Respond { status: 500, .. }));
}

#[test]
fn apps_behind_one_selector_share_a_service_without_their_own_limits() {
    let labelled = |name: &str| {
        document("App", name, "{process: {command: [./run]}, services: [{name: http}], labels: {tier: x}}")
    };
    let text = labelled("a")
        + &labelled("b")
        + &document(
            "Service",
            "both",
            "{selector: {labels: {tier: x}}, loadBalancing: {algorithm: round_robin}}",
        )
        + &policy("p", "{kind: App, name: a}", "timeouts: {request: 7s}")
        + &policy(
            "q",
            "{kind: Service, name: both}",
            "timeouts: {request: 8s}, loadBalancing: {algorithm: least_latency}",
        );
    let snapshot = snapshot(&text, &[]);
    let both = service(&snapshot, "default/both/http");
    assert_eq!(
        (both.policy.timeout, both.balance.clone()),
        (Some(8 * SECOND), Balance::RoundRobin),
        "the document wins"
    );
    assert_eq!(both.traffic, [], "no app's shares are those of both");
    assert_eq!(service(&snapshot, "default/a/http").policy.timeout, Some(7 * SECOND));
}
