//! The words users read when something is wrong. A change of a snapshot is a change of the product: read it as one.

use crate::{read_text, told};
use dodai_api::{Source, read};

fn check(name: &str, text: &str) {
    let read = read_text(text);
    assert!(!read.errors.is_empty() || !read.warnings.is_empty(), "nothing is wrong with {name}");
    insta::assert_snapshot!(name, told(&read));
}

#[test]
fn every_error_of_an_app_is_told_with_its_place() {
    check(
        "app_many_errors",
        r#"apiVersion: dodai.dev/v1
kind: App
metadata:
  name: Shop_1
  label: { tier: front }
spec:
  process:
    command: []
    stop: { signal: SIGTREM, grace: 10 }
  services:
    - name: web
      protocl: http
      port: 70000
    - name: web
      protocol: htpp
      port: "8080"
  env:
    - name: MODE
      value: 3
    - name: BOTH
      value: x
      secretRef: { store: vault, key: k }
  limits: { memory: 64MB, cpu: lots }
  scale: { min: 3, max: 2 }
  dependsOn: shop
"#,
    );
}

#[test]
fn rules_within_a_base() {
    check(
        "base_rules",
        r#"apiVersion: dodai.dev/v1
kind: Base
metadata: { name: local }
spec: { interception: {} }
---
apiVersion: dodai.dev/v1
kind: Base
metadata: { name: local }
spec:
  interception:
    outbound: { callers: [{ app: web, user: 33 }, { app: all }, { app: late, user: 33 }], unknown: refuse }
    inbound: { port: 0 }
---
apiVersion: dodai.dev/v1
kind: Base
metadata: { name: local }
spec:
  interception: { inbound: { port: 15001 },
    outbound: { callers: [{ app: web, user: 33 }, { app: all }, { app: late, user: 33 }] } }
"#,
    );
}

#[test]
fn rules_within_an_app() {
    check(
        "app_rules",
        r#"apiVersion: dodai.dev/v1
kind: App
metadata: { name: shop }
spec:
  module:
    artifact: sha256:123
    build: { command: [cargo, build] }
    allowedHosts: ["https://example.com", "*.example.com", "example.com:99999"]
    limits: { cpuTime: 0s }
  process: { command: ["./run me"] }
---
apiVersion: dodai.dev/v1
kind: App
metadata: { name: shop }
spec:
  module: { artifact: shop.wasm, maxConcurrency: 0 }
  services: [{ name: web, port: 80 }, { name: web, port: 80, protocol: tcp }]
  probes:
    readiness: { httpGet: { path: health, service: wbe }, timeout: 0s }
    liveness: { exec: { command: ["true"] }, tcpSocket: {} }
  limits: { pids: 4 }
  traffic: [{ revision: latest, weight: 0 }, { revision: latest, weight: 0 }]
---
apiVersion: dodai.dev/v1
kind: App
metadata: { name: shop }
spec:
  external: { addresses: [], resolve: one }
  env: [{ name: "A=B" }]
  run: once
  dapr: { service: web, subscribePath: subscribe }
---
apiVersion: dodai.dev/v1
kind: App
metadata: { name: shop }
spec: {}
"#,
    );
}

#[test]
fn rules_within_routes_and_gateways() {
    check(
        "route_rules",
        r#"apiVersion: dodai.dev/v1
kind: Route
metadata: { name: shop }
spec:
  parentRefs: [{ name: edge, kind: Gatway }]
  rules: []
---
apiVersion: dodai.dev/v1
kind: Route
metadata: { name: shop }
spec:
  parentRefs: []
  hostnames: ["http://shop"]
  rules:
    - matches:
        - path: { type: RegularExpression, value: "/a(b" }
          method: get
          headers: [{ name: "x y", value: a }, { name: X-A, type: Present, value: b }, { name: x-a }]
      filters:
        - type: URLRewrite
          requestRedirect: { statusCode: 200 }
        - type: RequestRedirect
          requestRedirect: { path: { type: ReplacePrefixMatch, replacePrefixMatch: / } }
      backendRefs: [{ name: shop, weight: 0 }]
      timeouts: { request: 1s, backendRequest: 2s, total: 500ms }
      retry: { attempts: 50, codes: [200] }
    - {}
---
apiVersion: dodai.dev/v1
kind: Gateway
metadata: { name: edge }
spec:
  listeners:
    - { name: web, port: 8080, protocol: HTTP, address: localhost }
    - { name: web, port: 8443, protocol: HTTPS }
    - { name: tls, port: 8443, protocol: TLS, tls: { mode: Terminate, certificateFile: a.pem } }
    - { name: more, address: 0.0.0.0, port: 8443, protocol: HTTP, tls: {} }
"#,
    );
}

#[test]
fn matches_within_routes() {
    check(
        "route_matches",
        r#"apiVersion: dodai.dev/v1
kind: Route
metadata: { name: r }
spec:
  parentRefs: [{ name: front }]
  rules:
    - backendRefs: [{ name: shop }]
      matches:
        - { path: { type: Template, value: "/a/**/b" }, cookies: [{ name: "a b" }] }
        - { grpc: { service: "/shop.Catalog", method: "Get Product" }, method: POST }
        - { grpc: {}, path: { value: "/" }, source: { app: "store/shop", namespace: other } }
        - { source: {} }
        - { source: { app: "Shop" }, cel: "request.path == " }
        - { cel: "event.type == 'x'" }
"#,
    );
}

#[test]
fn balancing_and_health_within_policies() {
    check(
        "balancing_and_health",
        r#"apiVersion: dodai.dev/v1
kind: Policy
metadata: { name: p }
spec:
  targetRefs: [{ kind: App, name: shop }]
  loadBalancing:
    algorithm: ring_hash
    slowStart: 5s
    sticky: { cookie: "a b", ttl: 0s, path: "x;y", sameSite: None }
    locality: { spillBelow: 0, failover: [north, "", north] }
  health:
    panicThreshold: 101
    outliers:
      { interval: 10ms, ejectionTime: 1m, maxEjectionTime: 10s, maxEjectionPercent: 200,
        successRate: { deviations: 0.01, minInstances: 1, minCalls: 0 }, failurePercentage: { threshold: 0, minInstances: 0, minCalls: 0 } }
    check: { http: { path: "a b", fromStatus: 300, toStatus: 200 }, tcp: {}, timeout: 0s, healthyThreshold: 0 }
---
apiVersion: dodai.dev/v1
kind: Policy
metadata: { name: q }
spec:
  targetRefs: [{ kind: Route, name: shop }]
  connection: { maxAge: 1m }
  loadBalancing: { algorithm: round_robin, hashOn: { header: "a b", call: path } }
  health: { panicThreshold: 10, outliers: { consecutive5xx: 0, consecutiveGatewayErrors: 0 } }
---
apiVersion: dodai.dev/v1
kind: Service
metadata: { name: s }
spec: { loadBalancing: { algorithm: maglev, hashOn: { header: "a b", call: path } } }
---
apiVersion: dodai.dev/v1
kind: App
metadata: { name: a }
spec:
  external:
    addresses: ["10.0.0.1:80"]
    weights: { "10.0.0.1:80": 0, "10.0.0.9:80": 1 }
    priorities: { "10.0.0.1:80": 99 }
  services: [{ name: http }]
"#,
    );
}

#[test]
fn rules_within_policies() {
    check(
        "policy_rules",
        r#"apiVersion: dodai.dev/v1
kind: Policy
metadata: { name: p }
spec:
  targetRefs: [{ kind: App, name: shop }, { kind: App, name: shop }, { kind: Pod, name: x }]
---
apiVersion: dodai.dev/v1
kind: Policy
metadata: { name: p }
spec:
  targetRefs: [{ kind: App, name: shop }]
---
apiVersion: dodai.dev/v1
kind: Policy
metadata: { name: p }
spec:
  targetRefs: [{ kind: App, name: shop }]
  retry: { attempts: 99, codes: [99], perTry: 0s }
  timeouts: { connect: 0s, request: 20s, total: 10s }
  circuitBreaker: { maxRequests: 0 }
  access: { rules: [{ action: allow, from: {}, methods: [get], paths: ["/a*b", "c"] }, { action: deny, from: { apps: ["A/b"] } }] }
  rateLimits: [{ requests: 0, burst: 0, key: [{ header: "a b", source: app }] }]
  headers: { request: {}, response: { set: [{ name: a, value: "b\nc" }] } }
"#,
    );
}

#[test]
fn kinds_and_versions() {
    check(
        "kinds",
        r#"apiVersion: dodai.dev/v2
kind: App
---
apiVersion: dodai.dev/v1
kind: Ap
---
apiVersion: dodai.dev/v1
kind: Component
---
apiVersion: dapr.io/v1alpha1
kind: MCPServer
---
kind: App
---
apiVersion: dodai.dev/v1
---
apiVersion: 1
kind: App
---
- a
---
just text
---
apiVersion: apps/v1
kind: Deployment
---
apiVersion: dodai.dev/v1
kind: Base
metadata: { name: b, namespace: other }
spec: {}
"#,
    );
}

#[test]
fn a_broken_document_costs_only_itself() {
    let text = "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: { name: a }\n---\nkey: [1\n---\n\
                apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: { name: b }\n---\na: 1\na: 2\n--- }\n---\n\
                apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: { nam: c }\n";
    let read = read_text(text);
    let names: Vec<&str> = read.documents.iter().map(|d| d.value.metadata().name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    insta::assert_snapshot!("broken_documents", told(&read));
}

#[test]
fn what_only_the_server_writes_is_ignored_aloud() {
    let read = read_text(
        "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: { name: a, uid: u, generation: 3, ownerApp: b }\n\
         status: { conditions: [] }\n",
    );
    assert_eq!(read.documents.len(), 1);
    insta::assert_snapshot!("read_only", told(&read));
}

#[test]
fn what_the_server_printed_comes_back_without_a_word() {
    let printed = "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: { name: a, uid: u, generation: 3, revision: 7, \
         creationTimestamp: '2026-01-01T00:00:00Z', ownerApp: b, fieldOwners: { '': cli } }\n\
         status: { conditions: [] }\n";
    let read = read_text(printed);
    assert_eq!((read.documents.len(), told(&read).as_str()), (1, ""));
    let metadata = read.documents[0].value.metadata();
    assert_eq!((&metadata.uid, metadata.generation, metadata.revision), (&None, None, Some(7)));
    assert!(metadata.field_owners.is_empty() && metadata.owner_app.is_none());
}

#[test]
fn the_word_for_a_warning_is_left_to_whoever_prints_it() {
    let text = "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: { name: a, uid: u }\n";
    let shown = read_text(text).warnings[0].render(text);
    assert!(shown.starts_with("shop.yaml:3:") && !shown.contains("warning"), "{shown}");
}

#[test]
fn dapr_documents_warn_and_are_taken() {
    let read = read_text(
        r#"apiVersion: dapr.io/v1alpha1
kind: Component
metadata: { name: "state.store_1", uid: x }
spec:
  type: state.redis
  version: v1
  initTimout: 3s
  metadata:
    - { name: redisHost, value: "localhost:6379", secretKeyRef: { name: a } }
    - { name: redisHost, valu: x }
  extra: { deep: [1] }
---
apiVersion: dapr.io/v1alpha1
kind: Subscription
metadata: { name: orders }
spec: { topic: orders, pubsubname: bus }
---
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: { name: r }
spec:
  policies: { retries: { again: { policy: Constant, maxRetries: "3" } } }
  targets: { apps: { shop: { retry: agian, timeout: t } } }
"#,
    );
    assert_eq!(read.documents.len(), 3);
    assert!(read.errors.is_empty());
    insta::assert_snapshot!("dapr_warnings", told(&read));
}

#[test]
fn dapr_documents_with_errors() {
    check(
        "dapr_errors",
        r#"apiVersion: dapr.io/v1alpha1
kind: Component
metadata: { name: bad }
spec: { type: redis, metadata: [{ name: a, envRef: DAPR_API_TOKEN }] }
---
apiVersion: dapr.io/v1alpha1
kind: HTTPEndpoint
metadata: { name: bad }
spec: { baseUrl: "api.example.com" }
---
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: { name: bad }
spec:
  tracing: { samplingRate: 2 }
  accessControl: { defaultAction: maybe }
  httpPipeline: { handlers: [{ name: a, type: bearer }] }
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: { name: a/b }
spec: { type: 3 }
"#,
    );
}

#[test]
fn the_file_itself() {
    let large = vec![b' '; dodai_api::MAX_FILE_BYTES + 1];
    let deep = "[".repeat(5000);
    let bomb = {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..8 {
            let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
        }
        text
    };
    let key = format!("? {}\n: 1\n", "k".repeat(2000));
    let inputs: [(&str, &[u8]); 9] = [
        ("long_key", key.as_bytes()),
        ("large", &large),
        ("not_text", b"kind: App\nname: \xff\xfe\n"),
        ("deep", deep.as_bytes()),
        ("bomb", bomb.as_bytes()),
        ("self", b"a: &a [*a]\n"),
        ("no_anchor", b"a: *b\n"),
        ("tag", b"a: !Ref b\n"),
        ("key", b"{[a]: b}\n"),
    ];
    let mut all = String::new();
    for (name, bytes) in inputs {
        all.push_str(&told(&read(&Source { name, bytes })));
    }
    insta::assert_snapshot!("files", all);
}

#[test]
fn a_problem_shows_its_line() {
    let text =
        "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata:\n\u{20}\u{20}name: é\n\u{20}\u{20}nam: x\n";
    let read = read_text(text);
    let shown: Vec<String> = read.errors.iter().map(|problem| problem.render(text)).collect();
    insta::assert_snapshot!("rendered", shown.join("\n\n"));
}

#[test]
fn a_value_that_may_be_secret_is_not_repeated() {
    let read = read_text(
        "apiVersion: dodai.dev/v1\nkind: App\nmetadata: { name: a }\nspec: { process: { command: [x] }, \
         env: [{ name: PASSWORD, value: 20317 }] }\n",
    );
    assert_eq!(read.errors.len(), 1);
    assert!(!told(&read).contains("20317"), "{}", told(&read));
}

#[test]
fn many_errors_are_bounded_and_quick() {
    let keys: String = (0..20_000).map(|i| format!("  k{i}: {i}\n")).collect();
    let read =
        read_text(&format!("apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{ name: a }}\nspec:\n{keys}"));
    assert_eq!(read.errors.len(), 50);
}

fn app(spec: &str) -> String {
    format!(
        "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{ name: a }}\nspec: {{ services: [{{ name: http }}], {spec} }}\n"
    )
}

#[test]
fn what_is_not_done_is_never_passed_over_in_silence() {
    let policy = |spec: &str| {
        format!("apiVersion: dodai.dev/v1\nkind: Policy\nmetadata: {{ name: a }}\nspec: {{ {spec} }}\n")
    };
    let dapr = |kind: &str, spec: &str| {
        format!("apiVersion: dapr.io/v1alpha1\nkind: {kind}\nmetadata: {{ name: a }}\nspec: {{ {spec} }}\n")
    };
    let process = "process: { command: [a] }";
    for (text, path, code) in [
        (app(&format!("{process}, scale: {{ min: 0 }}")), "spec.scale.min", "not_offered"),
        (app(&format!("{process}, scale: {{ min: 1, max: 9 }}")), "spec.scale.max", "no_effect"),
        (app(&format!("{process}, config: [{{ store: s }}]")), "spec.config", "no_effect"),
        (
            app(&format!("{process}, dapr: {{ service: b }}"))
                .replace("{ name: http }]", "{ name: http }, { name: b }]"),
            "spec.dapr.service",
            "not_offered",
        ),
        (app(&format!("{process}, dapr: {{ protocol: grpc }}")), "spec.dapr.protocol", "not_offered"),
        (app(&format!("{process}, dapr: {{ subscribePath: /x }}")), "spec.dapr.subscribePath", "not_offered"),
        (
            policy("targetRefs: [{ kind: Route, name: r }], circuitBreaker: { maxRequests: 3 }"),
            "spec.circuitBreaker",
            "not_offered",
        ),
        (
            policy(
                "targetRefs: [{ kind: App, name: a }], rateLimits: [{ requests: 1, key: [{ source: address }] }]",
            ),
            "spec.rateLimits[0].key[0].source",
            "not_offered",
        ),
        (
            dapr("Configuration", "accessControl: { defaultAction: deny }"),
            "spec.accessControl",
            "not_offered",
        ),
        (dapr("Configuration", "api: { denied: [{ name: state }] }"), "spec.api", "not_offered"),
        (dapr("Configuration", "features: [{ name: x, enabled: true }]"), "spec.features", "no_effect"),
        (
            dapr("Resiliency", "policies: { circuitBreakers: { c: { trip: 'requests > 5' } } }, targets: {}"),
            "spec.policies.circuitBreakers.c.trip",
            "no_effect",
        ),
        (
            app("external: { addresses: ['10.0.0.1:1'], tls: { serverName: '*.a.example' } }"),
            "spec.external.tls.serverName",
            "invalid_value",
        ),
        (
            app("external: { addresses: ['10.0.0.1:1'], tls: { serverName: 'a.example:443' } }"),
            "spec.external.tls.serverName",
            "invalid_value",
        ),
        (
            app("external: { addresses: ['10.0.0.1:1'], tls: { ca: '' } }"),
            "spec.external.tls.ca",
            "invalid_value",
        ),
        (dapr("HTTPEndpoint", "baseUrl: 'https://u:p@a.example'"), "spec.baseUrl", "invalid_value"),
        (dapr("HTTPEndpoint", "baseUrl: 'https://a.example/x?y=1'"), "spec.baseUrl", "no_effect"),
        (dapr("HTTPEndpoint", "baseUrl: 'http://a.example', clientTLS: { }"), "spec.clientTLS", "no_effect"),
        (
            dapr("HTTPEndpoint", "baseUrl: 'https://a.example', clientTLS: { rootCA: { value: ca.pem } }"),
            "spec.clientTLS.rootCA.value",
            "invalid_value",
        ),
        (
            dapr(
                "HTTPEndpoint",
                "baseUrl: 'https://a.example', clientTLS: { certificate: { secretKeyRef: { name: c } } }",
            ),
            "spec.clientTLS",
            "missing_key",
        ),
        (
            dapr("HTTPEndpoint", "baseUrl: 'https://a.example', headers: [{ name: 'x y', value: z }]"),
            "spec.headers[0].name",
            "invalid_value",
        ),
        (
            dapr(
                "HTTPEndpoint",
                "baseUrl: 'https://a.example', headers: [{ name: x, secretKeyRef: { name: s } }]",
            ),
            "spec.headers[0].secretKeyRef",
            "no_effect",
        ),
    ] {
        said(&text, path, code);
    }
}

/// Something is said of `path`, with this code and a remedy.
fn said(text: &str, path: &str, code: &str) {
    let read = read_text(text);
    let mut all = read.errors.iter().chain(&read.warnings);
    let found = all.find(|problem| problem.path == path);
    let found = found.unwrap_or_else(|| panic!("nothing is said of {path}: {}", told(&read)));
    assert_eq!(found.code.as_str(), code, "{found}");
    assert!(found.remedy.is_some() && found.line > 0, "{found}");
}

#[test]
fn a_weight_below_its_bound_is_told_the_bound() {
    let app = "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {name: x}\nspec:\n  process: {command: [x]}\n  traffic: [{revision: latest, weight: WEIGHT}]\n";
    for weight in ["-1", "5000000000", "1000001"] {
        let read = read_text(&app.replace("WEIGHT", weight));
        let problem = read.errors.iter().find(|one| one.path.ends_with("weight")).expect("one");
        let remedy = problem.remedy.as_deref().unwrap_or_default();
        assert!(remedy.contains("0 to 1000000") && !remedy.contains("4294967295"), "{weight}: {problem:?}");
    }
}

#[test]
fn what_a_proxy_may_say_is_checked() {
    let gateway = |listeners: &str| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: Gateway\nmetadata: {{name: x}}\nspec:\n  listeners:\n{listeners}"
        )
    };
    let one = |protocol: &str, proxy: &str| {
        gateway(&format!("    - {{name: a, port: 80, protocol: {protocol}, proxyProtocol: {{{proxy}}}}}\n"))
    };
    let path = "spec.listeners[0].proxyProtocol";
    said(&one("HTTP", "trusted: [nobody]"), &format!("{path}.trusted[0]"), "invalid_value");
    said(&one("HTTP", "trusted: [10.0.0.0/33]"), &format!("{path}.trusted[0]"), "invalid_value");
    said(&one("HTTP", "mode: accept"), &format!("{path}.trusted"), "missing_key");
    said(&one("HTTP", "trusted: []"), &format!("{path}.trusted"), "missing_key");
    said(&one("TCP", "mode: accept, trusted: [10.0.0.1]"), &format!("{path}.mode"), "conflict");
    let two = "    - {name: a, port: 80, protocol: HTTP, hostname: a.test, proxyProtocol: {trusted: [10.0.0.1]}}\n    - {name: b, port: 80, protocol: HTTP, hostname: b.test}\n";
    said(&gateway(two), "spec.listeners[1].proxyProtocol", "conflict");
}
