//! What guards calls, from documents to filters: their order, and whose they are.

use dodai_control::documents::Documents;
use dodai_control::records::{Observed, Records, Sighting};
use dodai_control::snapshot::{BaseSettings, Input, build};
use dodai_core::id::{AppId, BaseId};
use dodai_core::snapshot::{
    Access, AccessExcept, AccessRule, Action, ClaimMatch, Cors, Filter, IdentityPattern, RateLimit, Rule,
    Snapshot, ValueMatch, ValuePattern,
};
use dodai_core::status::Status;

use super::compiled::{app, document, policy, service, snapshot};
use super::played::yaml;

/// The rules of the one host of the one gateway.
fn rules(snapshot: &Snapshot) -> Vec<Rule> {
    let routes: Vec<_> = snapshot.routes().collect();
    let [routes] = routes[..] else { panic!("one gateway: {routes:?}") };
    routes.hosts[0].rules.clone()
}

fn gateway(more: &str) -> String {
    let listeners = "{listeners: [{name: http, port: 8080, protocol: HTTP}]}";
    let route = format!("{{parentRefs: [{{name: g}}], rules: [{{backendRefs: [{{name: a}}]{more}}}]}}");
    app("a", "{name: http}") + &document("Gateway", "g", listeners) + &document("Route", "r", &route)
}

fn origins(filter: &Filter) -> &[String] {
    let Filter::Cors(Cors { allow_origins, .. }) = filter else { panic!("{filter:?} is no cors") };
    allow_origins
}

#[test]
fn pages_are_asked_about_first_and_the_route_wins() {
    let of_gateway = policy(
        "p",
        "{kind: Gateway, name: g}",
        "cors: {allowOrigins: ['https://a.example'], maxAge: 9}, access: {default: allow}",
    );
    let found = rules(&snapshot(&(gateway("") + &of_gateway), &["a"]));
    assert_eq!(origins(&found[0].filters[0]), ["https://a.example"]);
    assert!(matches!(found[0].filters[1], Filter::Access(_)));
    assert!(matches!(found[0].action, Action::Forward(_)));
    let of_route = ", filters: [{type: CORS, cors: {allowOrigins: ['*']}}]";
    let found = rules(&snapshot(&(gateway(of_route) + &of_gateway), &["a"]));
    assert_eq!(origins(&found[0].filters[0]), ["*"]);
    assert!(!found[0].filters[1..].iter().any(|filter| matches!(filter, Filter::Cors(_))));
}

#[test]
fn rules_say_what_a_call_may_not_be() {
    let rules = "{action: deny, from: {notApps: [b], notNamespaces: [n]}, notMethods: [GET], notPaths: [/b], notHosts: [B.example], notHeaders: [{name: h, type: Present}], notClaims: [{name: c, type: RegularExpression, values: [d]}], claims: [{name: e, type: Present}], when: 'claims.x'}";
    let claim = |name: &str, values| ClaimMatch { name: name.to_owned(), values };
    let except = AccessExcept {
        apps: vec![AppId::parse("default/b").expect("valid")],
        namespaces: vec!["n".to_owned()],
        methods: vec!["GET".to_owned()],
        paths: vec!["/b".to_owned()],
        hosts: vec!["b.example".to_owned()],
        headers: vec![ValueMatch { name: "h".to_owned(), value: ValuePattern::Present }],
        claims: vec![claim("c", vec![ValuePattern::Regex("d".to_owned())])],
        ..AccessExcept::default()
    };
    let (claims, cel) = (vec![claim("e", vec![])], Some("claims.x".to_owned()));
    let rule = AccessRule { except, claims, cel, ..AccessRule::default() };
    let expect = Access { default_allow: false, rules: vec![rule] };
    let text = app("a", "{name: http}")
        + &policy("p", "{kind: App, name: a}", &format!("access: {{rules: [{rules}]}}"));
    let found = snapshot(&text, &["a"]);
    assert_eq!(service(&found, "default/a/http").inbound, [Filter::Access(expect)]);
}

#[test]
fn tokens_and_authorizers_are_tried_too() {
    let jwt = "jwt: {issuers: [{issuer: a, jwksUri: 'https://a'}]}";
    let tried =
        format!("dryRun: true, {jwt}, access: {{default: deny}}, extAuthz: {{backendRef: {{name: a}}}}");
    let text = app("a", "{name: http}") + &policy("tried", "{kind: App, name: a}", &tried);
    let snapshot = snapshot(&text, &["a"]);
    let inbound = &service(&snapshot, "default/a/http").inbound;
    let tried = |filter: &Filter| {
        let Filter::Trial { filter, .. } = filter else { panic!("it holds: {filter:?}") };
        (**filter).clone()
    };
    let all: Vec<Filter> = inbound.iter().map(tried).collect();
    let [Filter::Jwt(_), Filter::Access(_), Filter::Authorizer(_)] = &all[..] else { panic!("{all:?}") };
}

#[test]
fn a_policy_on_trial_stands_beside_the_one_that_holds() {
    let text = app("a", "{name: http}")
        + &policy("holds", "{kind: App, name: a}", "access: {default: allow}, rateLimits: [{requests: 5}]")
        + &policy(
            "tried",
            "{kind: App, name: a}",
            "dryRun: true, access: {default: deny}, rateLimits: [{requests: 1}]",
        );
    let snapshot = snapshot(&text, &["a"]);
    let inbound = &service(&snapshot, "default/a/http").inbound;
    let [
        Filter::Access(holds),
        Filter::Trial { policy, filter },
        Filter::RateLimits(_),
        Filter::Trial { filter: limit, .. },
    ] = &inbound[..]
    else {
        panic!("{inbound:?}")
    };
    assert!(holds.default_allow && policy == "default/tried");
    assert_eq!(**filter, Filter::Access(Access::default()));
    assert!(matches!(**limit, Filter::RateLimits(_)));
}

#[test]
fn identities_of_another_mesh_are_nobodys() {
    let rules = "{action: allow, from: {identities: ['spiffe://cluster.local/ns/shop/c*', 'spiffe://other/ns/shop/cart']}}";
    let text = app("a", "{name: http}")
        + &policy("p", "{kind: App, name: a}", &format!("access: {{rules: [{rules}]}}"));
    let snapshot = snapshot(&text, &["a"]);
    let Filter::Access(access) = &service(&snapshot, "default/a/http").inbound[0] else { panic!("a guard") };
    let pattern =
        |namespace: &str, app: &str| IdentityPattern { namespace: namespace.into(), app: app.into() };
    assert_eq!(access.rules[0].identities, [pattern("shop", "c*"), pattern("", "")]);
}

#[test]
fn shares_follow_what_is_asked_of_each_base() {
    let check = |asked: &[(&str, Option<u64>, bool)], expect: &[Option<u16>]| {
        let text = app("a", "{name: http}")
            + &policy("p", "{kind: App, name: a}", "rateLimits: [{requests: 100, scope: global}]");
        let documents: Documents = yaml(&text).into_iter().map(|one| one.value).collect();
        let mut observed = Observed::default();
        for (base, demand, connected) in asked {
            let demand = demand.map(|asked| ("default/p[0]".to_owned(), asked)).into_iter().collect();
            let status = Status { demand, ..Status::default() };
            let sighting = Sighting { status: status.into(), connected: *connected, since: 0 };
            observed.bases_mut().insert(BaseId::new(*base), sighting);
        }
        let share = |base: &str| {
            let base = BaseId::new(base);
            let settings = BaseSettings::default();
            let records = Records::default();
            let input = Input {
                documents: &documents,
                records: &records,
                observed: &observed,
                base: &base,
                settings: &settings,
            };
            build(&input, 1).shares().next().map(|share| share.per_ten_thousand)
        };
        let found: Vec<_> = asked.iter().map(|(base, ..)| share(base)).collect();
        assert_eq!(found, expect, "{asked:?}");
    };
    check(&[("one", Some(0), true)], &[Some(10_000)]);
    check(&[("one", Some(0), true), ("two", Some(0), true)], &[Some(5_000), Some(5_000)]);
    check(&[("one", Some(300), true), ("two", Some(100), true)], &[Some(7_250), Some(2_750)]);
    check(&[("one", Some(300), true), ("two", Some(0), true)], &[Some(9_500), Some(500)]);
    check(&[("one", Some(300), true), ("two", None, true)], &[Some(10_000), None]);
    // One that is away keeps what it was told last; the others share everything.
    check(&[("one", Some(300), true), ("two", Some(300), false)], &[Some(10_000), Some(5_000)]);
}

#[test]
fn a_limit_of_all_bases_is_one_for_all_rules() {
    let global = policy("p", "{kind: Gateway, name: g}", "rateLimits: [{requests: 10, scope: global}]");
    let found = rules(&snapshot(&(gateway("") + &global), &["a"]));
    let Filter::RateLimits(limits) = &found[0].filters[0] else { panic!("{:?}", found[0].filters) };
    let named = |limit: &RateLimit| (limit.shared.as_ref().map(|shared| shared.name.clone()), limit.burst);
    assert_eq!(limits.iter().map(named).collect::<Vec<_>>(), [(Some("default/p[0]".to_owned()), 10)]);
}
