//! Routing and balancing: from documents to what a base is told of matches, endpoints and health.

use std::time::Duration;

use dodai_control::documents::Documents;
use dodai_control::records::{AppRecord, InstanceRecord, Observed, Records, Sighting};
use dodai_control::snapshot::{BaseSettings, Input, build};
use dodai_core::id::{AppId, BaseId, InstanceId, RevisionId, ServiceId};
use dodai_core::snapshot::{
    Action, Balance, Endpoint, Filter, HashKey, HeaderEdits, MadeHeader, Match, PathMatch, PathRewrite,
    Question, SameSite, Service, Snapshot, SourceMatch, SubstitutionPart, TemplatePart, ValuePattern,
};
use dodai_core::status::{InstanceStatus, Phase, Status, Wants};

use super::played::yaml;
use super::snapshots::settled;

const SECOND: Duration = Duration::from_secs(1);

/// What base `one` is told, when each of the apps has an instance on each of the bases.
fn snapshot(text: &str, apps: &[&str], bases: &[&str]) -> Snapshot {
    let documents: Documents = yaml(text).into_iter().map(|one| one.value).collect();
    let (mut records, mut observed) = (Records::default(), Observed::default());
    let revision = RevisionId::new("0123456789");
    for base in bases {
        let status = Status { wants: Wants::All, ..Status::default() };
        observed
            .bases_mut()
            .insert(BaseId::new(*base), Sighting { status: status.into(), connected: true, since: 0 });
    }
    for app in apps {
        let id = AppId::parse(&format!("default/{app}")).expect("valid");
        let record =
            AppRecord { current: revision.clone(), since: 0, serving: Some(revision.clone()), before: None };
        records.put_app(id.clone(), record);
        for base in bases {
            let (instance, base) = (InstanceId::new(format!("{app}-{base}")), BaseId::new(*base));
            let status = observed.bases_mut().get_mut(&base).expect("known").report();
            let ready = InstanceStatus {
                phase: Phase::Ready,
                reason: String::new(),
                restarts: 0,
                pid: None,
                ports: Default::default(),
                in_flight: 0,
            };
            status.instances.insert(instance.clone(), ready);
            let record = InstanceRecord {
                id: instance.clone(),
                app: id.clone(),
                revision: revision.clone(),
                base,
                created: 0,
                draining: None,
                succeeded: false,
            };
            records.put_instance(record);
        }
    }
    let (base, settings) = (BaseId::new("one"), BaseSettings::default());
    let input = Input {
        documents: &documents,
        records: &records,
        observed: &observed,
        base: &base,
        settings: &settings,
    };
    build(&input, 1)
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: dodai.dev/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

fn app(name: &str, labels: &str) -> String {
    let spec = format!("{{process: {{command: [./run]}}, services: [{{name: http}}], labels: {{{labels}}}}}");
    document("App", name, &spec)
}

fn service<'a>(snapshot: &'a Snapshot, id: &str) -> &'a Service {
    snapshot.service(&ServiceId::parse(id).expect("valid")).expect("it is there")
}

fn endpoints<'a>(snapshot: &'a Snapshot, id: &str) -> &'a [Endpoint] {
    let id = ServiceId::parse(id).expect("valid");
    &snapshot.endpoints().find(|one| one.service == id).expect("it is there").list
}

/// A route to `shop` under the service of the same name.
fn route(name: &str, rules: &str) -> String {
    document("Route", name, &format!("{{parentRefs: [{{kind: Service, name: shop}}], rules: [{rules}]}}"))
}

fn matched(wanted: &str) -> Match {
    let text = app("shop", "")
        + &app("web", "tier: front")
        + &app("job", "")
        + &route("r", &format!("{{matches: [{wanted}], backendRefs: [{{name: shop}}]}}"));
    let snapshot = snapshot(&text, &["shop", "web", "job"], &["one"]);
    service(&snapshot, "default/shop/http").rules[0].matches[0].clone()
}

#[test]
fn matches_come_in_the_words_of_the_data_path() {
    let path = |path| Match { path: Some(path), ..Match::default() };
    let literal = |text: &str| TemplatePart::Literal(text.to_owned());
    let any = || TemplatePart::One(String::new());
    assert_eq!(
        matched("{path: {type: Template, value: '/users/{id}/orders/**'}}"),
        path(PathMatch::Template(vec![
            literal("users"),
            any(),
            literal("orders"),
            TemplatePart::Rest(String::new())
        ]))
    );
    let post = |path| Match { path, method: Some("POST".to_owned()), ..Match::default() };
    for (grpc, expect) in [
        ("{service: a.B, method: C}", Some(PathMatch::Exact("/a.B/C".to_owned()))),
        ("{service: a.B}", Some(PathMatch::Prefix("/a.B".to_owned()))),
        ("{method: C}", Some(PathMatch::Template(vec![any(), literal("C")]))),
        ("{}", None),
    ] {
        assert_eq!(matched(&format!("{{grpc: {grpc}}}")), post(expect), "{grpc}");
    }
    let found = matched("{cookies: [{name: a, value: b}], cel: 'source.app == \"web\"'}");
    assert_eq!(found.cookies[0].value, ValuePattern::Exact("b".to_owned()));
    assert_eq!(found.cel.as_deref(), Some("source.app == \"web\""));
}

#[test]
fn variables_of_a_template_are_groups_of_each_match() {
    let matches = "[{path: {type: Template, value: '/users/{id}/{rest=**}'}}, {path: {type: Template, value: '/of/*/{rest}/{id}'}}]";
    let path = "{type: ReplaceTemplateMatch, replaceTemplateMatch: '/v2/{rest}/{id}'}";
    let rewrite = format!("[{{type: URLRewrite, urlRewrite: {{path: {path}}}}}]");
    let rules = format!(
        "{{matches: {matches}, filters: {rewrite}, backendRefs: [{{name: shop}}]}}, {{filters: [{{type: RequestRedirect, requestRedirect: {{path: {{type: ReplaceRegexMatch, replaceRegexMatch: {{pattern: 'a(b)', substitution: '\\1'}}}}}}}}]}}"
    );
    let snapshot = snapshot(&(app("shop", "") + &route("r", &rules)), &["shop"], &["one"]);
    let regex = |pattern: &str, substitution: &[SubstitutionPart]| PathRewrite::Regex {
        pattern: pattern.to_owned(),
        substitution: substitution.to_vec(),
    };
    use SubstitutionPart::{Group, Text};
    let text = |text: &str| Text(text.to_owned());
    let made = |rest, id| [text("/v2/"), Group(rest), text("/"), Group(id)];
    let rules = &service(&snapshot, "default/shop/http").rules;
    let found: Vec<_> = rules.iter().map(|rule| (rule.filters.as_slice(), &rule.action)).collect();
    let filter = |path| [Filter::Rewrite { host: None, path: Some(path) }];
    assert_eq!(found[0].0, filter(regex("^/of/[^/]+/([^/]+)/([^/]+)$", &made(1, 2))));
    assert_eq!(found[1].0, filter(regex("^/users/([^/]+)/(.*)$", &made(2, 1))));
    let Action::Redirect { path, .. } = found[2].1 else { panic!("it redirects") };
    assert_eq!(*path, Some(regex("a(b)", &[Group(1)])));
}

#[test]
fn values_of_headers_are_told_from_what_is_made_of_a_call() {
    let modifier = "{set: [{name: a, value: '100%% b'}, {name: b, value: '%DODAI_CALLER%'}], add: [{name: c, value: d}, {name: e, value: 'f%REQ(g)%'}]}";
    let filter = format!("{{type: RequestHeaderModifier, requestHeaderModifier: {modifier}}}");
    let text =
        app("shop", "") + &route("r", &format!("{{filters: [{filter}], backendRefs: [{{name: shop}}]}}"));
    let snapshot = snapshot(&text, &["shop"], &["one"]);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let made = |name: &str, value: &str, adds| MadeHeader { name: name.into(), value: value.into(), adds };
    let expect = HeaderEdits {
        set: vec![pair("a", "100% b")],
        add: vec![pair("c", "d")],
        made: vec![made("b", "%DODAI_CALLER%", false), made("e", "f%REQ(g)%", true)],
        ..HeaderEdits::default()
    };
    let found = &service(&snapshot, "default/shop/http").rules[0].filters;
    assert_eq!(found, &[Filter::RequestHeaders(expect)]);
}

#[test]
fn sources_are_named_or_found_by_their_labels() {
    let app = |name: &str| AppId::parse(name).expect("valid");
    for (source, expect) in [
        ("{app: web}", SourceMatch::Apps(vec![app("default/web")])),
        ("{app: other/web}", SourceMatch::Apps(vec![app("other/web")])),
        ("{app: web, namespace: other}", SourceMatch::Apps(vec![app("other/web")])),
        ("{namespace: other}", SourceMatch::Namespace("other".to_owned())),
        ("{labels: {tier: front}}", SourceMatch::Apps(vec![app("default/web")])),
        ("{labels: {tier: front}, namespace: other}", SourceMatch::Apps(vec![])),
        ("{labels: {tier: back}}", SourceMatch::Apps(vec![])),
    ] {
        assert_eq!(matched(&format!("{{source: {source}}}")).source, Some(expect), "{source}");
    }
}

#[test]
fn rules_stand_in_the_order_of_precedence() {
    let rule = |wanted: &str| format!("{{matches: [{wanted}], backendRefs: [{{name: shop}}]}}");
    let rules = [
        "{path: {value: /a}}",
        "{path: {value: /a}, source: {app: web}}",
        "{path: {type: RegularExpression, value: '/a.*'}}",
        "{path: {type: Template, value: '/a/*'}}",
        "{grpc: {service: a, method: b}}",
        "{path: {value: /a}, cookies: [{name: c, value: d}]}",
        "{path: {value: /a}, cel: 'true'}",
    ];
    let text = app("shop", "") + &route("r", &rules.map(rule).join(", "));
    let snapshot = snapshot(&text, &["shop"], &["one"]);
    let names: Vec<&str> =
        service(&snapshot, "default/shop/http").rules.iter().map(|rule| rule.name.as_str()).collect();
    let expect = [4, 3, 2, 5, 1, 6, 0].map(|index| format!("default/r/{index}"));
    assert_eq!(names, expect);
}

#[test]
fn labels_are_told_where_a_rule_asks_about_them() {
    let bases = document("Base", "one", "{labels: {disk: ssd, rack: r1}}") + &document("Base", "two", "{}");
    let text = app("shop", "tier: gold, team: x") + &bases;
    let labelled = route("r", "{backendRefs: [{name: shop, labels: {tier: gold, disk: ssd}}]}");
    let found = snapshot(&(text.clone() + &labelled), &["shop"], &["one", "two"]);
    let told: Vec<Vec<String>> = endpoints(&found, "default/shop/http")
        .iter()
        .map(|one| one.labels.iter().map(|(key, value)| format!("{key}={value}")).collect())
        .collect();
    assert_eq!(told, [vec!["disk=ssd", "tier=gold"], vec!["tier=gold"]]);
    let Action::Forward(backends) = &service(&found, "default/shop/http").rules[0].action else {
        panic!("it forwards")
    };
    assert_eq!(backends[0].labels.as_ref().map(|labels| labels.len()), Some(2));
    let found = snapshot(&text, &["shop"], &["one", "two"]);
    assert!(endpoints(&found, "default/shop/http").iter().all(|one| one.labels.is_empty()));
}

#[test]
fn what_is_near_is_told_by_zone_and_region() {
    let base = |name: &str, labels: &str| document("Base", name, &format!("{{labels: {{{labels}}}}}"));
    let bases = base("one", "dodai.dev/zone: a, dodai.dev/region: north")
        + &base("two", "dodai.dev/zone: a, dodai.dev/region: north")
        + &base("three", "dodai.dev/zone: b, dodai.dev/region: north")
        + &base("four", "dodai.dev/zone: c, dodai.dev/region: south");
    let all = ["one", "two", "three", "four"];
    let policy =
        |spec: &str| document("Policy", "p", &format!("{{targetRefs: [{{kind: App, name: shop}}], {spec}}}"));
    let tiers = |text: &str| -> Vec<(String, u8)> {
        let found = snapshot(text, &["shop"], &all);
        let mut tiers: Vec<(String, u8)> = endpoints(&found, "default/shop/http")
            .iter()
            .map(|one| match &one.target {
                dodai_core::snapshot::Target::Instance { base, .. } => (base.to_string(), one.tier),
                other @ (dodai_core::snapshot::Target::Address(_)
                | dodai_core::snapshot::Target::Tls { .. }
                | dodai_core::snapshot::Target::Announced { .. }) => {
                    panic!("{other:?}")
                }
            })
            .collect();
        tiers.sort();
        tiers
    };
    let expect = |tiers: [u8; 4]| -> Vec<(String, u8)> {
        ["four", "one", "three", "two"].iter().map(|name| (*name).to_owned()).zip(tiers).collect()
    };
    let near = app("shop", "") + &bases + &policy("loadBalancing: {locality: {spillBelow: 40}}");
    assert_eq!(tiers(&near), expect([2, 0, 1, 0]));
    let found = snapshot(&near, &["shop"], &all);
    assert_eq!(service(&found, "default/shop/http").health.spill_below_percent, 40);
    let other = document("Base", "four", "{labels: {dodai.dev/zone: c, dodai.dev/region: east}}");
    let ordered = |failover: &str| {
        let bases = base("one", "dodai.dev/region: north")
            + &base("two", "dodai.dev/region: west")
            + &base("three", "dodai.dev/region: south")
            + &other;
        app("shop", "")
            + &bases
            + &policy(&format!("loadBalancing: {{locality: {{failover: [{failover}]}}}}"))
    };
    assert_eq!(tiers(&ordered("")), expect([2, 0, 2, 2]));
    assert_eq!(tiers(&ordered("south, west")), expect([4, 0, 2, 3]), "what is not named comes last");
    assert_eq!(tiers(&(app("shop", "") + &bases)), expect([0; 4]), "only where it is asked for");
    assert_eq!(tiers(&(app("shop", "") + &policy("loadBalancing: {locality: {}}"))), expect([0; 4]));
}

#[tokio::test(start_paused = true)]
async fn addresses_outside_have_weights_and_priorities() {
    let external = document(
        "App",
        "bank",
        "{external: {addresses: ['10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80'], \
         weights: {'10.0.0.1:80': 3}, priorities: {'10.0.0.3:80': 1}}, services: [{name: http}]}",
    );
    let (_control, found, _tasks) = settled(&yaml(&external)).await;
    let told: Vec<(u32, u8)> =
        endpoints(&found, "default/bank/http").iter().map(|one| (one.weight, one.tier)).collect();
    assert_eq!(told, [(3, 0), (1, 0), (1, 11)]);
}

#[test]
fn balancing_and_health_are_told() {
    let policy = "{targetRefs: [{kind: App, name: shop}], \
        loadBalancing: {algorithm: maglev, hashOn: {header: X-User}, slowStart: 30s, sticky: {ttl: 1h, sameSite: Strict}}, \
        health: {outliers: {consecutive5xx: 3, successRate: {deviations: 1.5}, failurePercentage: {threshold: 60}, ejectionTime: 10s}, \
        check: {http: {path: /healthz}, interval: 2s}}}";
    let text = app("shop", "") + &document("Policy", "p", policy);
    let found = snapshot(&text, &["shop"], &["one"]);
    let shop = service(&found, "default/shop/http");
    assert_eq!(shop.balance, Balance::Maglev(HashKey::Header("x-user".to_owned())));
    let sticky = shop.sticky.as_ref().expect("sticky");
    assert_eq!((sticky.name.as_str(), sticky.ttl), ("dodai-session", Some(3600 * SECOND)));
    assert_eq!((sticky.path.as_str(), sticky.same_site), ("/", SameSite::Strict));
    let health = &shop.health;
    assert_eq!((health.slow_start, health.panic_percent), (Some(30 * SECOND), 50));
    let outliers = health.outliers.as_ref().expect("outliers");
    assert_eq!((outliers.consecutive_5xx, outliers.consecutive_gateway), (3, 5));
    assert_eq!((outliers.ejection, outliers.max_ejection), (10 * SECOND, 300 * SECOND));
    let rate = outliers.success_rate.as_ref().expect("a rate");
    assert_eq!((rate.deviations_hundredths, rate.min_endpoints, rate.min_calls), (150, 5, 100));
    let failures = outliers.failure_percentage.as_ref().expect("a share");
    assert_eq!((failures.threshold, failures.min_endpoints, failures.min_calls), (60, 5, 50));
    assert_eq!(outliers.max_ejected_percent, 10);
    let check = health.check.as_ref().expect("a check");
    assert_eq!(check.asks, Question::Http { path: "/healthz".to_owned(), host: None, statuses: (200, 399) });
    assert_eq!((check.interval, check.timeout, check.idle_after), (2 * SECOND, SECOND, 300 * SECOND));
    let plain = snapshot(&app("shop", ""), &["shop"], &["one"]);
    assert!(service(&plain, "default/shop/http").health.is_default());
}

#[test]
fn each_algorithm_is_known_by_its_name() {
    for (algorithm, expect) in [
        ("round_robin", Balance::RoundRobin),
        ("least_latency", Balance::LeastLatency),
        ("least_request", Balance::LeastRequest),
        ("weighted", Balance::Weighted),
        ("ring_hash, hashOn: {cookie: c}", Balance::RingHash(HashKey::Cookie("c".to_owned()))),
        ("ring_hash, hashOn: {queryParam: q}", Balance::RingHash(HashKey::Query("q".to_owned()))),
        ("maglev, hashOn: {call: path}", Balance::Maglev(HashKey::Path)),
        ("maglev, hashOn: {call: source}", Balance::Maglev(HashKey::Source)),
    ] {
        let service_of =
            document("Service", "shop", &format!("{{loadBalancing: {{algorithm: {algorithm}}}}}"));
        let found = snapshot(&(app("shop", "") + &service_of), &["shop"], &["one"]);
        assert_eq!(service(&found, "default/shop/http").balance, expect);
    }
}
