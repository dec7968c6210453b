//! Good documents, and that what is read is what was written.

use std::time::Duration;

use dodai_api::{
    ByteSize, Destination, Document, DocumentKey, Isolation, Kind, MilliCpu, Name, Port, Protocol, Signal,
    SocketAddress, TimeSpan, Workload, diff, is_document_path, read_all, revision_id,
};
use serde_json::json;

use dodai_api::Source;

use crate::{accepted, good, read_text};

pub const APP: &str = r#"
apiVersion: dodai.dev/v1
kind: App
metadata:
  name: shop
  labels: { app.kubernetes.io/part-of: store }
spec:
  process:
    command: [./shop, --verbose]
    workingDirectory: services/shop
    build: { command: [cargo, build, --release], inputs: [src] }
    stop: { signal: SIGINT, grace: 1m30s }
    restart: { policy: on-failure, backoff: { initial: 100ms } }
    logs: { maxSize: 1Gi, keep: 0 }
    proxyEnv: false
  services:
    - name: web
    - { name: rpc, protocol: grpc, port: 9000 }
  env:
    - { name: MODE, value: "3" }
    - { name: PASSWORD, secretRef: { store: vault, key: db/password } }
    - { name: GREETING, configRef: { store: settings, key: greeting } }
  dependsOn: [migrate]
  calls:
    - { app: stock, listen: "127.0.0.1:5432", protocol: tcp }
    - { app: mail, namespace: infra, service: smtp, port: 25 }
  probes:
    readiness: { httpGet: { path: /health, service: web }, period: 5s }
    liveness: { tcpSocket: {} }
    startup: { exec: { command: [./shop, --check] }, initialDelay: 1s }
  limits: { memory: 512Mi, cpu: 1.5, pids: 100, openFiles: 1024 }
  scale: { min: 4 }
  placement: { labels: { disk: ssd } }
  traffic: [{ revision: latest, weight: 9 }, { revision: 0123456789 }]
  dapr: { service: web, protocol: http, configuration: tracing }
  labels: { tier: front }
"#;

pub const MODULE: &str = r#"
apiVersion: dodai.dev/v1
kind: App
metadata: { name: greet }
spec:
  module:
    artifact: target/greet.wasm
    isolation: reuse
    maxConcurrency: 64
    limits: { memory: 16Mi, wallTime: 2s }
    allowedHosts: ["api.example.com:443", "*.example.org"]
    keyvalue: { default: statestore }
    config: { greeting: hello }
  services: [{ name: http }]
"#;

pub const ROUTE: &str = r#"
apiVersion: dodai.dev/v1
kind: Route
metadata: { name: shop }
spec:
  parentRefs: [{ name: edge, sectionName: web }]
  hostnames: [shop.example.com, "*.example.org"]
  rules:
    - name: api
      matches:
        - path: { value: /api }
          method: GET
          headers: [{ name: X-Beta, type: Present }]
          queryParams: [{ name: v, type: RegularExpression, value: "[0-9]+" }]
      filters:
        - type: RequestHeaderModifier
          requestHeaderModifier: { set: [{ name: X-From, value: edge }], remove: [Cookie] }
        - type: URLRewrite
          urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: / } }
        - type: RequestMirror
          requestMirror: { backendRef: { name: shadow }, percent: 5 }
      backendRefs:
        - { name: shop, weight: 90 }
        - { name: shop, kind: App, revision: latest, weight: 10, port: 9000 }
      timeouts: { request: 10s, backendRequest: 2s, total: 1m }
      retry: { attempts: 2, codes: [503], backoff: 50ms }
    - matches: [{ path: { type: Exact, value: /old } }]
      filters: [{ type: RequestRedirect, requestRedirect: { scheme: https, statusCode: 301 } }]
    - filters: [{ type: DirectResponse, directResponse: { statusCode: 404, body: nothing here } }]
"#;

pub const OTHERS: [&str; 9] = [
    "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: { name: prod, labels: { a: b } }\n",
    "apiVersion: dodai.dev/v1\nkind: Base\nmetadata: { name: b }\nspec: { capacity: { memory: 2Gi, cpu: 2 } }\n",
    "apiVersion: dodai.dev/v1\nkind: Service\nmetadata: { name: shop }\nspec: { selector: { labels: { tier: front } }, \
     ports: [{ name: web, port: 80, targetService: web }], loadBalancing: { algorithm: round_robin } }\n",
    "apiVersion: dodai.dev/v1\nkind: Gateway\nmetadata: { name: edge }\nspec: { listeners: [{ name: web, port: 8080, \
     protocol: HTTP }, { name: tls, port: 8443, protocol: HTTPS, hostname: a.example.com, tls: { certificateFile: c.pem, \
     keyFile: k.pem } }, { name: pass, port: 8443, protocol: TLS, hostname: b.example.com, tls: { mode: Passthrough } }] }\n",
    "apiVersion: dodai.dev/v1\nkind: Policy\nmetadata: { name: p }\nspec: { targetRefs: [{ kind: App, name: shop }], \
     timeouts: { request: 0s, idle: 1h }, retry: { attempts: 2 }, circuitBreaker: { consecutiveFailures: 0 }, \
     loadBalancing: {}, access: { default: allow, rules: [{ action: deny, from: { apps: [a, n/b] }, paths: [/x/*] }] }, \
     rateLimits: [{ requests: 1, per: 2s, key: [{ source: app }] }], headers: { request: { remove: [A] } } }\n",
    "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: { name: s }\nspec: { pubsubname: bus, topic: t, routes: \
     { rules: [{ match: event.type == 'x', path: /x }], default: /d }, bulkSubscribe: { enabled: 'true', \
     maxMessagesCount: '10' }, deadLetterTopic: dead }\nscopes: [shop]\n",
    "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: { name: r }\nspec: { policies: { timeouts: { t: 5s }, \
     retries: { r: { policy: exponential, maxRetries: -1, matching: { gRPCStatusCodes: '1-4', httpStatusCodes: 500 } } }, \
     circuitBreakers: { c: { trip: consecutiveFailures > 3 } } }, targets: { apps: { shop: { timeout: t, retry: r, \
     circuitBreaker: c } }, components: { s: { outbound: { timeout: t } } } } }\n",
    "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: { name: c }\nspec: { tracing: { samplingRate: '1', \
     zipkin: { endpointAddress: 'http://z' } }, metrics: { http: { increasedCardinality: false } }, mtls: { \
     workloadCertTTL: 24h }, secrets: { scopes: [{ storeName: v, defaultAccess: deny, allowedSecrets: [a] }] } }\n",
    "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: { name: e }\nspec: { baseUrl: 'https://api.example.com', \
     headers: [{ name: A, value: b }], clientTLS: { rootCA: { secretKeyRef: { name: s, key: k } } } }\nauth: { secretStore: v }\n",
];

#[test]
fn an_app_is_read_as_written() {
    let Document::App(app) = good(APP) else { panic!("not an app") };
    let Some(Workload::Process(process)) = app.spec.workload() else { panic!("not a process") };
    assert_eq!(process.command, ["./shop", "--verbose"]);
    assert_eq!(process.stop.signal, Signal::Sigint);
    assert_eq!(process.stop.grace.get(), Duration::from_secs(90));
    assert_eq!(process.restart.backoff.max.get(), Duration::from_secs(30));
    assert_eq!(app.spec.services[0].protocol, Protocol::Http);
    assert_eq!(app.spec.services[1].port, Port::new(9000));
    assert_eq!(app.spec.limits.cpu.map(MilliCpu::millis), Some(1500));
    assert_eq!(app.spec.scale.most(), 4);
    assert_eq!(app.metadata.namespace, "default");
}

#[test]
fn a_module_has_safe_defaults() {
    let text = "apiVersion: dodai.dev/v1\nkind: App\nmetadata: { name: m }\nspec: { module: { artifact: m.wasm } }\n";
    let Document::App(app) = good(text) else { panic!("not an app") };
    let Some(Workload::Module(module)) = app.spec.workload() else { panic!("not a module") };
    assert_eq!(module.isolation, Isolation::PerRequest);
    assert_eq!(module.limits.memory.bytes(), 64 << 20);
    assert!(module.allowed_hosts.is_empty());
}

#[test]
fn every_document_comes_back_from_its_canonical_form() {
    for text in [APP, MODULE, ROUTE].into_iter().chain(OTHERS) {
        let document = accepted(text);
        let value = document.to_value();
        assert_eq!(Document::from_value(&value).as_ref(), Ok(&document), "{value:#}");
        let again = accepted(&value.to_string());
        assert_eq!(again, document, "JSON is YAML");
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), document);
    }
}

#[test]
fn the_canonical_form_writes_defaults_and_short_quantities() {
    let value = good(MODULE).to_value();
    assert_eq!(value["apiVersion"], "dodai.dev/v1");
    assert_eq!(value["kind"], "App");
    assert_eq!(
        value["spec"]["module"]["limits"],
        json!({ "memory": "16Mi", "wallTime": "2s", "cpuTime": "5s" })
    );
    assert_eq!(value["spec"]["scale"], json!({ "min": 1 }));
    assert_eq!(value["spec"].get("env"), None);
}

#[test]
fn keys_are_kind_namespace_name() {
    let key = good(APP).key();
    assert_eq!(key.to_string(), "App/default/shop");
    assert_eq!("App/default/shop".parse::<DocumentKey>(), Ok(key));
    assert!("App/shop".parse::<DocumentKey>().is_err());
    assert_eq!("httpendpoint".parse::<Kind>(), Ok(Kind::HttpEndpoint));
}

#[test]
fn an_old_subscription_is_read_as_a_new_one() {
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: { name: s }\n\
                spec: { topic: t, pubsubname: b, route: /orders }\n";
    let value = good(text).to_value();
    assert_eq!(value["apiVersion"], "dapr.io/v2alpha1");
    assert_eq!(value["spec"]["routes"], json!({ "default": "/orders" }));
    assert_eq!(value["spec"].get("route"), None);
}

#[test]
fn component_settings_of_any_shape_are_kept() {
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: { name: s }\nspec:\n  type: state.redis\n  \
                version: v1\n  metadata: [{ name: a, value: 3 }, { name: b, value: yes }, { name: c, value: { d: [true] } }, \
                { name: e, value: '' }, { name: f, value: '1.10' }]\n";
    let Document::Component(component) = good(text) else { panic!("not a component") };
    let texts: Vec<Option<String>> = component.spec.metadata.iter().map(|item| item.text()).collect();
    let wanted = ["3", "yes", r#"{"d":[true]}"#, "", "1.10"].map(|text| Some(text.to_owned()));
    assert_eq!(texts, wanted);
}

#[test]
fn anchors_and_merge_keys_work() {
    let text = "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata:\n  name: &n prod\n  annotations: &base { a: x, b: y }\n  \
                labels: { <<: *base, b: z, n: *n }\n";
    let document = good(text);
    let labels = &document.metadata().labels;
    let pairs: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(pairs, [("a", "x"), ("b", "z"), ("n", "prod")]);
}

#[test]
fn dapr_keys_match_whatever_their_case() {
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: { name: s }\n\
                spec: { Topic: t, pubsubName: b, route: /o }\n";
    let Document::Subscription(subscription) = good(text) else { panic!("not a subscription") };
    assert_eq!((subscription.spec.topic.as_str(), subscription.spec.pubsubname.as_str()), ("t", "b"));
}

#[test]
fn quantities() {
    fn check<T: std::str::FromStr<Err = dodai_api::Invalid> + std::fmt::Display>(
        text: &str,
        expect: Option<&str>,
    ) {
        let shown = text.parse::<T>().ok().map(|value| value.to_string());
        assert_eq!(shown.as_deref(), expect, "{text}");
    }
    for (text, expect) in [
        ("500ms", Some("500ms")),
        ("60s", Some("1m")),
        ("1h30m", Some("90m")),
        ("1.5s", Some("1500ms")),
        ("2d", Some("48h")),
        ("0", Some("0s")),
        ("1us", Some("1us")),
        ("10", None),
        ("", None),
        ("-1s", None),
        ("1 s", None),
        ("s", None),
        ("1.s", None),
        ("0.1ns", None),
        ("99999999999999h", None),
    ] {
        check::<TimeSpan>(text, expect);
    }
    for (text, expect) in [
        ("1024", Some("1Ki")),
        ("1500", Some("1500")),
        ("2k", Some("2k")),
        ("1.5Mi", None),
        ("64MB", None),
        ("", None),
    ] {
        check::<ByteSize>(text, expect);
    }
    for (text, expect) in
        [("500m", Some("500m")), ("2", Some("2")), ("0.25", Some("250m")), ("0", None), ("m", None)]
    {
        check::<MilliCpu>(text, expect);
    }
    for (text, expect) in [
        ("127.0.0.1:80", Some("127.0.0.1:80")),
        ("[::1]:80", Some("[::1]:80")),
        ("localhost:80", Some("127.0.0.1:80")),
        ("a:80", None),
        ("1.1.1.1:0", None),
    ] {
        check::<SocketAddress>(text, expect);
    }
    for (text, expect) in [
        ("127.0.0.1:80", Some("127.0.0.1:80")),
        ("localhost:80", Some("127.0.0.1:80")),
        ("[::1]:80", Some("[::1]:80")),
        ("bank.example:443", Some("bank.example:443")),
        ("a_b-c:1", Some("a_b-c:1")),
        ("bank.example", None),
        ("bank.example:0", None),
        ("https://bank.example:443", None),
        ("-a:1", None),
        ("a..b:1", None),
        ("10.0.0.300:80", None),
    ] {
        check::<Destination>(text, expect);
    }
    for (text, expect) in
        [("a", Some("a")), ("a-1", Some("a-1")), ("-a", None), ("a.", None), ("A", None), ("", None)]
    {
        check::<Name>(text, expect);
    }
    check::<Name>(&"a".repeat(64), None);
}

#[test]
fn a_revision_is_what_runs_and_nothing_else() {
    let Document::App(app) = good(APP) else { panic!("not an app") };
    let template = app.spec.template();
    let id = revision_id(&template, None);
    let mut other = app.spec.clone();
    other.scale.min = 9;
    other.traffic.clear();
    other.depends_on.clear();
    assert_eq!(
        revision_id(&other.template(), None),
        id,
        "how many run, and for whom, is no change of what runs"
    );
    other.env[0].value = Some("4".to_owned());
    assert_ne!(revision_id(&other.template(), None), id);

    let Document::App(module) = good(MODULE) else { panic!("not an app") };
    let (a, b) = (format!("sha256:{}", "a".repeat(64)), format!("sha256:{}", "b".repeat(64)));
    let mut moved = module.spec.template();
    if let Some(module) = &mut moved.module {
        module.artifact = "elsewhere.wasm".to_owned();
    }
    let template = module.spec.template();
    assert_eq!(revision_id(&template, Some(&a)), revision_id(&moved, Some(&a)));
    assert_ne!(revision_id(&template, Some(&a)), revision_id(&template, Some(&b)));
}

#[test]
fn the_id_of_a_revision_never_changes() {
    // Ids are stored and named in traffic: a change of this value breaks every running system.
    let Document::App(module) = good(MODULE) else { panic!("not an app") };
    let id = revision_id(&module.spec.template(), Some(&format!("sha256:{}", "a".repeat(64))));
    insta::assert_snapshot!("revision_id", id.to_string());
}

#[test]
fn differences_are_told_by_path() {
    let old =
        json!({ "a": 1, "b": { "c.d": [1, 2] }, "services": [{ "name": "x", "port": 1 }, { "name": "y" }] });
    let new = json!({ "a": 1, "b": { "c.d": [1, 3, 4] }, "services": [{ "name": "z" }, { "name": "x", "port": 2 }] });
    let told: Vec<String> = diff(&old, &new)
        .into_iter()
        .map(|change| {
            let shown =
                |value: Option<serde_json::Value>| value.map_or("-".to_owned(), |value| value.to_string());
            format!("{} {} {}", change.path, shown(change.old), shown(change.new))
        })
        .collect();
    let wanted = [
        r#"b["c.d"][1] 2 3"#,
        r#"b["c.d"][2] - 4"#,
        "services[name=x].port 1 2",
        r#"services[name=y] {"name":"y"} -"#,
        r#"services[name=z] - {"name":"z"}"#,
    ];
    assert_eq!(told, wanted);
    assert!(diff(&new, &new).is_empty());
}

#[test]
fn a_file_in_utf_16_is_refused_and_not_passed_over() {
    let text = "\u{feff}apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: { name: a }\n";
    for order in [u16::to_le_bytes, u16::to_be_bytes] {
        let bytes: Vec<u8> = text.encode_utf16().flat_map(order).collect();
        let project = read_all(&[Source { name: "a.yaml", bytes: &bytes }]);
        assert!(project.skipped.is_empty());
        let error = project.read.errors.first().expect("an error").to_string();
        assert!(error.contains("UTF-8"), "{error}");
    }
}

#[test]
fn a_folder_is_read_as_one() {
    let files = [
        Source { name: "package.json", bytes: b"{ // not for us\n" },
        Source { name: "apps/greet.yml", bytes: MODULE.as_bytes() },
        Source {
            name: "dodai.yaml",
            bytes: b"apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: { name: a }\n",
        },
    ];
    let project = read_all(&files);
    assert_eq!(project.read.documents.len(), 2);
    assert_eq!(project.skipped, ["package.json"]);
    assert_eq!(project.read.errors.len(), 1, "the state component is missing: {:?}", project.read.errors);
    assert_eq!(project.read.errors[0].path, "spec.module.keyvalue.default");
    for (path, expect) in [
        ("dodai.yaml", true),
        ("a/b.json", true),
        ("./a.yml", true),
        ("../a.yml", true),
        ("a/node_modules/b.yaml", false),
        (".git/a.yaml", false),
        ("a.yaml.bak", false),
        (".yaml", false),
    ] {
        assert_eq!(is_document_path(path), expect, "{path}");
    }
}

#[test]
fn documents_of_others_are_passed_over_and_misspelled_ones_of_ours_are_not() {
    let own = "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: { name: a }\n";
    let of =
        |version: &str| format!("apiVersion: {version}\nkind: App\nmetadata: {{ name: b }}\nspec: {{}}\n");
    for version in ["apps/v1", "v1", "gateway.networking.k8s.io/v1", "operator.dapr.io/v1alpha1", "2.1"] {
        let together = format!("{own}---\n{}", of(&format!("'{version}'")));
        for name in ["deploy.yaml", "dodai.yaml"] {
            let project = read_all(&[Source { name, bytes: together.as_bytes() }]);
            assert_eq!(project.read.documents.len(), 1, "{version}: {:?}", project.read.errors);
            let note = project.read.warnings.first().expect("a note").to_string();
            assert!(note.contains(version) && note.contains("passed over"), "{note}");
        }
    }
    for (version, expect) in [
        ("dodai/v1", "dodai.dev/v1"),
        ("dodai.dev/v2", "dodai.dev/v1"),
        ("dodia.dev/v1", "dodai.dev/v1"),
        ("'dodai.dev'", "dodai.dev/v1"),
        ("dapr.io/v2", "dapr.io/v2alpha1"),
        ("dapr.io/beta", "dapr.io/v1alpha1"),
        ("dapr/v1alpha1", "dapr.io/v1alpha1"),
        ("Dapr.io/v1alpha1", "dapr.io/v1alpha1"),
    ] {
        let json = format!(r#"{{"apiVersion": "{}", "kind": "App"}}"#, version.trim_matches('\''));
        for text in [of(version), json] {
            let project = read_all(&[Source { name: "apps/a.yaml", bytes: text.as_bytes() }]);
            let error = project.read.errors.first().expect(version).to_string();
            assert!(error.contains(&format!("did you mean `{expect}`?")), "{error}");
        }
    }
}

#[test]
fn a_remedy_can_be_taken_as_it_is() {
    let first = |text: &str| read_text(text).errors.first().expect("an error").to_string();
    let of = |kind: &str| format!("apiVersion: dodai.dev/v1\nkind: {kind}\nmetadata: {{ name: a }}\n");
    assert!(first(&of("Base")).ends_with("add `spec: {}`"), "{}", first(&of("Base")));
    assert!(first(&of("App")).ends_with("add `spec:`"), "{}", first(&of("App")));
    let root = first(&format!("{}x: 1\n", of("Namespace")));
    assert!(root.ends_with("known keys are `apiVersion`, `kind`, `metadata`, `status`"), "{root}");
    let name = "X/../1".parse::<dodai_api::Name>().expect_err("no name");
    assert!(name.remedy.ends_with("for example `x-1`"), "{name}");
}

#[test]
fn no_document_steers_the_terminal_that_its_problems_are_shown_on() {
    let text = "apiVersion: dodai.dev/v1\nkind: \"\\e]0;x\\a\\0\\nerror: y\" # \u{7}\n";
    let read = read_text(text);
    let error = read.errors.first().expect("an error");
    assert!(error.to_string().contains(r"`\u{1b}]0;x\u{7}\u{0}\nerror: y`"), "{error}");
    assert_eq!(error.render(text).lines().nth(2).expect("a line").find(char::is_control), None);
    let long = format!("{}\u{1b}[2Jvalue{}", "é".repeat(100_000), "x".repeat(100_000));
    let problem = dodai_api::Problem { line: 1, column: 100_005, ..error.clone() };
    let lines: Vec<String> = problem.render(&long).lines().map(str::to_owned).collect();
    assert!(lines[2].chars().count() < 180 && lines[2].ends_with("..."), "{}", lines[2]);
    let mark = lines[3].chars().count() - 1;
    assert_eq!(lines[2].chars().nth(mark), Some('v'), "{}\n{}", lines[2], lines[3]);
    assert_eq!(lines[2].chars().nth(mark - 4), Some('\u{fffd}'));
}

#[test]
fn empty_files_hold_nothing() {
    for text in ["", "---\n", "# nothing\n", "---\n---\n...\n", "\u{feff}"] {
        let read = read_text(text);
        assert!(read.documents.is_empty() && read.errors.is_empty() && read.warnings.is_empty(), "{text:?}");
    }
}

#[test]
fn places_lead_to_the_nearest_thing() {
    let read = read_text(APP);
    let located = &read.documents[0];
    assert_eq!(located.place("spec.services[1].port"), Some((18, 42)));
    assert_eq!(located.place("spec.services[1].nothing.here"), located.place("spec.services[1]"));
    assert_eq!(located.place("nowhere"), located.place(""));
}

#[test]
fn a_list_of_documents_is_those_documents() {
    let one = r#"{"apiVersion":"dodai.dev/v1","kind":"Namespace","metadata":{"name":"one"}}"#;
    let two = one.replace("one", "two");
    for (text, expect) in [
        (format!(r#"{{"items":[{one},{two}]}}"#), 2),
        (format!(r#"{{"apiVersion":"v1","kind":"List","items":[{one},{two}]}}"#), 2),
        (format!("[{one},{two}]"), 2),
        (format!("{{\"items\":[{one}]}}\n---\n{two}\n"), 2),
        (r#"{"items":[]}"#.to_owned(), 0),
    ] {
        let read = read_text(&text);
        assert!(read.errors.is_empty() && read.warnings.is_empty(), "{text}: {:?}", read.errors);
        assert_eq!(read.documents.len(), expect, "{text}");
    }
    let wrong = format!(
        "items:\n- {one}\n- apiVersion: dodai.dev/v1\n  kind: App\n  metadata: {{name: x}}\n  spec: {{modul: {{}}}}\n"
    );
    let read = read_text(&wrong);
    let problem = read.errors.first().expect("one");
    assert_eq!(
        (read.documents.len(), problem.path.as_str(), problem.line),
        (1, "spec.modul", 6),
        "{problem:?}"
    );
    assert_eq!(read_text("items: 3").errors[0].path, "apiVersion");
}
