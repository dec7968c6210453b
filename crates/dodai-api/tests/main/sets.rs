//! Documents together.

use std::collections::BTreeMap;

use dodai_api::{Code, Source, read, read_all, unknown_drivers, validate_set};

use crate::told;

#[test]
fn references_that_lead_nowhere() {
    let text = r#"apiVersion: dodai.dev/v1
kind: App
metadata: { name: shop }
spec:
  module: { artifact: a.wasm, keyvalue: { default: vault } }
  services: [{ name: web, port: 8080 }]
  dependsOn: [stok, shop]
  calls: [{ app: stock, service: webb }, { app: stock, namespace: other }, { app: quiet, port: 9 }]
  env:
    - { name: A, secretRef: { store: vault, key: a } }
    - { name: B, secretRef: { store: valt, key: a } }
    - { name: C, configRef: { store: vault, key: a } }
  traffic: [{ revision: 0123456789 }]
  dapr: { configuration: none }
---
apiVersion: dodai.dev/v1
kind: App
metadata: { name: stock }
spec: { external: { addresses: ["127.0.0.1:9"] }, services: [{ name: web, port: 80 }] }
---
apiVersion: dodai.dev/v1
kind: App
metadata: { name: quiet }
spec: { external: { addresses: ["127.0.0.1:10"] } }
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: { name: vault }
spec: { type: secretstores.local.file, version: v1 }
scopes: [shop, shp]
---
apiVersion: dodai.dev/v1
kind: Gateway
metadata: { name: edge }
spec: { listeners: [{ name: web, port: 8080, protocol: HTTP }, { name: raw, port: 9000, protocol: TCP }] }
---
apiVersion: dodai.dev/v1
kind: Gateway
metadata: { name: edge2 }
spec: { listeners: [{ name: web, address: 0.0.0.0, port: 8080, protocol: HTTP }] }
---
apiVersion: dodai.dev/v1
kind: Route
metadata: { name: r }
spec:
  parentRefs: [{ name: edg }, { name: edge, sectionName: wb }, { kind: Service, name: shop }, { name: edge, port: 9000 }]
  rules:
    - matches: [{ path: { value: / } }]
      backendRefs:
        - { name: stock, port: 81 }
        - { name: quiet }
        - { name: stok, kind: App }
        - { name: nobody }
        - { name: front, port: 1 }
---
apiVersion: dodai.dev/v1
kind: Service
metadata: { name: front }
spec: { selector: { app: stock }, ports: [{ name: web, port: 80, targetService: wbe }] }
---
apiVersion: dodai.dev/v1
kind: Service
metadata: { name: lost }
spec: { selector: { labels: { a: b } } }
---
apiVersion: dodai.dev/v1
kind: Policy
metadata: { name: p }
spec:
  targetRefs: [{ kind: App, name: x }, { kind: Route, name: r }, { kind: Gateway, name: edge }, { kind: Service, name: shop }]
  timeouts: { request: 1s }
---
apiVersion: dapr.io/v1alpha1
kind: Subscription
metadata: { name: s }
spec: { topic: t, pubsubname: vault, route: /t }
"#;
    let project = read_all(&[Source { name: "dodai.yaml", bytes: text.as_bytes() }]);
    insta::assert_snapshot!("set_references", told(&project.read));
}

fn apps(depends: &[(&str, &[&str])]) -> String {
    let app = |(name, on): &(&str, &[&str])| {
        format!(
            "---\napiVersion: dodai.dev/v1\nkind: App\nmetadata: {{ name: {name} }}\nspec:\n  process: {{ command: [x] }}\n  \
             dependsOn: [{}]\n",
            on.join(", ")
        )
    };
    depends.iter().map(app).collect()
}

#[test]
fn apps_that_wait_for_each_other() {
    let check = |depends: &[(&str, &[&str])], expect: &[&str]| {
        let text = apps(depends);
        let project = read_all(&[Source { name: "dodai.yaml", bytes: text.as_bytes() }]);
        let messages: Vec<&str> =
            project.read.errors.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(messages, expect);
    };
    check(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])], &[]);
    check(&[("a", &["a"])], &["these apps wait for each other: a -> a"]);
    check(
        &[("x", &["a"]), ("a", &["b"]), ("b", &["c"]), ("c", &["a"])],
        &["these apps wait for each other: a -> b -> c -> a"],
    );
    check(
        &[("a", &["b"]), ("b", &["a"]), ("c", &["d"]), ("d", &["c"])],
        &["these apps wait for each other: a -> b -> a", "these apps wait for each other: c -> d -> c"],
    );
}

#[test]
fn documents_with_one_key_and_ports_taken_twice() {
    let a = "apiVersion: dodai.dev/v1\nkind: App\nmetadata: { name: a }\n\
             spec: { process: { command: [x] }, services: [{ name: w, port: 80 }] }\n";
    let b = a.replace("name: a", "name: b").replace("services", "scale: { min: 2 }, services");
    let c = a.replace("port: 80", "port: 81").replace("services", "scale: { max: 2 }, services");
    let project = read_all(&[
        Source { name: "a.yaml", bytes: a.as_bytes() },
        Source { name: "b.yaml", bytes: b.as_bytes() },
        Source { name: "c.yaml", bytes: c.as_bytes() },
    ]);
    insta::assert_snapshot!("set_clashes", told(&project.read));
}

#[test]
fn what_the_store_has_counts_and_is_not_reported() {
    let app = "apiVersion: dodai.dev/v1\nkind: App\nmetadata: { name: a }\n\
               spec: { process: { command: [x] }, dependsOn: [b] }\n";
    let stored = app.replace("name: a", "name: b").replace("[b]", "[gone]");
    let mine = read(&Source { name: "a.yaml", bytes: app.as_bytes() }).documents;
    let theirs = read(&Source { name: "b.yaml", bytes: stored.as_bytes() }).documents;
    assert_eq!(validate_set(&mine, &BTreeMap::new()).len(), 1);
    let beside: BTreeMap<_, _> = theirs.into_iter().map(|one| (one.value.key(), one.value)).collect();
    assert_eq!(validate_set(&mine, &beside), []);
}

#[test]
fn a_cycle_through_what_the_store_has_is_told_at_what_is_added() {
    let app = |name: &str, on: &str| {
        let text = format!(
            "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{ name: {name} }}\n\
             spec: {{ process: {{ command: [x] }}, dependsOn: [{on}] }}\n"
        );
        read(&Source { name: &format!("{name}.yaml"), bytes: text.as_bytes() }).documents
    };
    let stored = [app("b", "a"), app("c", "d"), app("d", "c")].concat();
    let beside: BTreeMap<_, _> = stored.into_iter().map(|one| (one.value.key(), one.value)).collect();
    let found = validate_set(&[app("z", "b"), app("a", "b")].concat(), &beside);
    let told: Vec<_> = found.iter().map(|one| (one.file.as_str(), one.code)).collect();
    assert_eq!(told, [("a.yaml", Code::DependencyCycle)]);
    assert_eq!(validate_set(&app("e", "c"), &beside), [], "that cycle stood before");
}

const WORLD: &str = r#"apiVersion: dapr.io/v1alpha1
kind: Component
metadata: { name: kept }
spec: { type: state.sqlite, version: v1 }
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: { name: misspelt }
spec: { type: state.sqlit, version: v1 }
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: { name: elsewhere }
spec: { type: pubsub.redis, version: v1 }
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: { name: other }
spec: { type: bindings.http, version: v1 }
"#;

#[test]
fn types_that_no_driver_serves() {
    let read = read(&Source { name: "c.yaml", bytes: WORLD.as_bytes() });
    let known = ["pubsub.in-memory", "pubsub.sqlite", "state.sqlite"];
    let told: Vec<String> =
        unknown_drivers(&read.documents, &known).iter().map(ToString::to_string).collect();
    let text = |kind: &str| {
        format!("warning: spec.type: no driver of this build serves `{kind}`: the component will not come up")
    };
    assert_eq!(
        told,
        [
            format!("c.yaml:9:15: {}; did you mean `state.sqlite`?", text("state.sqlit")),
            format!(
                "c.yaml:14:15: {}; of `pubsub` there are `pubsub.in-memory`, `pubsub.sqlite`",
                text("pubsub.redis")
            ),
            format!(
                "c.yaml:19:15: {}; there are `pubsub.in-memory`, `pubsub.sqlite`, `state.sqlite`",
                text("bindings.http")
            ),
        ]
    );
}

#[test]
fn apps_that_rules_of_access_name_and_nobody_is() {
    let text = apps(&[("shop", &[]), ("web", &[])])
        + r#"---
apiVersion: dodai.dev/v1
kind: Policy
metadata: { name: p }
spec:
  targetRefs: [{ kind: App, name: shop }]
  access:
    rules:
      - { action: allow, from: { apps: [web, weeb] } }
      - { action: deny, from: { apps: [other/web, default/shop] } }
"#;
    let read = read_all(&[Source { name: "dodai.yaml", bytes: text.as_bytes() }]).read;
    assert!(read.errors.is_empty(), "{}", told(&read));
    let paths: Vec<(&str, Option<&str>)> =
        read.warnings.iter().map(|one| (one.path.as_str(), one.remedy.as_deref())).collect();
    assert_eq!(
        paths,
        [
            ("spec.access.rules[0].from.apps[1]", Some("did you mean `web`?")),
            ("spec.access.rules[1].from.apps[0]", Some("namespace `other` has no App; add one")),
        ]
    );
}
