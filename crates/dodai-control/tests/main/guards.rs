//! What guards calls, from documents to filters: their order, and whose they are.

use dodai_core::snapshot::{Access, Action, Cors, Filter, IdentityPattern, Rule, Snapshot};

use super::compiled::{app, document, policy, service, snapshot};

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
fn a_policy_on_trial_stands_beside_the_one_that_holds() {
    let text = app("a", "{name: http}")
        + &policy(
            "holds",
            "{kind: App, name: a}",
            "access: {default: allow}, rateLimit: {requestsPerSecond: 5}",
        )
        + &policy(
            "tried",
            "{kind: App, name: a}",
            "dryRun: true, access: {default: deny}, rateLimit: {requestsPerSecond: 1}",
        );
    let snapshot = snapshot(&text, &["a"]);
    let inbound = &service(&snapshot, "default/a/http").inbound;
    let [
        Filter::Access(holds),
        Filter::Trial { policy, filter },
        Filter::RateLimit { .. },
        Filter::Trial { filter: limit, .. },
    ] = &inbound[..]
    else {
        panic!("{inbound:?}")
    };
    assert!(holds.default_allow && policy == "default/tried");
    assert_eq!(**filter, Filter::Access(Access::default()));
    assert!(matches!(**limit, Filter::RateLimit { .. }));
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
