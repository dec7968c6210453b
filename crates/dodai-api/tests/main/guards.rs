//! What would be taken and then do nothing, or fail where nobody looks: each is told, with its place.

use dodai_api::{Read, Severity, Source, read_all};

use crate::{read_text, told};

fn document(version: &str, kind: &str, metadata: &str, rest: &str) -> String {
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{ {metadata} }}\n{rest}\n---\n")
}

fn dodai(kind: &str, name: &str, spec: &str) -> String {
    document("dodai.dev/v1", kind, &format!("name: {name}"), &format!("spec: {{ {spec} }}"))
}

fn dapr(kind: &str, name: &str, rest: &str) -> String {
    document("dapr.io/v1alpha1", kind, &format!("name: {name}"), rest)
}

/// What is said of `path`, and how.
fn said(read: &Read, path: &str) -> (Severity, String, String) {
    let found = read.errors.iter().chain(&read.warnings).find(|problem| problem.path == path);
    let found = found.unwrap_or_else(|| panic!("nothing is said of {path}: {}", told(read)));
    assert!(found.line > 0, "{found}");
    (found.severity, found.message.clone(), found.remedy.clone().expect("a remedy"))
}

#[test]
fn bounds_of_a_base_are_those_of_a_document() {
    let app = |more: &str| dodai("App", "a", &format!("services: [{{ name: http }}], {more}"));
    let process = "process: { command: [a] }";
    for (text, path) in [
        (app(&format!("{process}, limits: {{ memory: 1000Ki }}")), "spec.limits.memory"),
        (app(&format!("{process}, limits: {{ cpu: 9m }}")), "spec.limits.cpu"),
        (app(&format!("{process}, limits: {{ openFiles: 7 }}")), "spec.limits.openFiles"),
        (app("process: { command: [a], stop: { grace: 25h } }"), "spec.process.stop.grace"),
        (app("process: { command: [a], logs: { maxSize: 1Ki } }"), "spec.process.logs.maxSize"),
        (
            app("process: { command: [a], restart: { backoff: { max: 25h } } }"),
            "spec.process.restart.backoff.max",
        ),
        (
            app(&format!("{process}, probes: {{ readiness: {{ tcpSocket: {{}}, period: 25h }} }}")),
            "spec.probes.readiness.period",
        ),
        (
            app(&format!("{process}, probes: {{ startup: {{ tcpSocket: {{}}, initialDelay: 25h }} }}")),
            "spec.probes.startup.initialDelay",
        ),
        (
            app(&format!("{process}, probes: {{ liveness: {{ tcpSocket: {{}}, successThreshold: 2 }} }}")),
            "spec.probes.liveness.successThreshold",
        ),
        (
            app(&format!("{process}, probes: {{ readiness: {{ httpGet: {{ path: '/a b' }} }} }}")),
            "spec.probes.readiness.httpGet.path",
        ),
    ] {
        assert_eq!(said(&read_text(&text), path).0, Severity::Error, "{text}");
    }
    let fine = "limits: { memory: 1Mi, cpu: 10m, openFiles: 8 }, probes: { readiness: { tcpSocket: {}, successThreshold: 2, period: 24h } }";
    let read = read_text(&app(&format!("{process}, {fine}")));
    assert!(read.errors.is_empty(), "{}", told(&read));
}

#[test]
fn a_module_is_asked_over_http_and_does_not_run_once() {
    let app = |more: &str| {
        let spec = format!("services: [{{ name: http }}], module: {{ artifact: a.wasm }}, {more}");
        read_text(&dodai("App", "a", &spec))
    };
    for (more, path, remedy) in [
        ("run: once", "spec.run", "process"),
        ("probes: { readiness: { tcpSocket: {} } }", "spec.probes.readiness.tcpSocket", "httpGet"),
        ("probes: { liveness: { exec: { command: [a] } } }", "spec.probes.liveness.exec", "httpGet"),
    ] {
        let (severity, _, told) = said(&app(more), path);
        assert!(severity == Severity::Error && told.contains(remedy), "{more}: {told}");
    }
    let fine = app("run: service, probes: { startup: { httpGet: { path: '/up?full=1' } } }");
    assert!(fine.errors.is_empty(), "{}", told(&fine));
}

fn resiliency(rest: &str) -> String {
    dapr("Resiliency", "r", rest)
}

#[test]
fn statuses_that_are_none_are_refused() {
    let text = |codes: &str| {
        let retry = format!("r: {{ maxRetries: 1, matching: {{ httpStatusCodes: '{codes}' }} }}");
        resiliency(&format!("spec: {{ policies: {{ retries: {{ {retry} }} }}, targets: {{}} }}"))
    };
    let path = "spec.policies.retries.r.matching.httpStatusCodes";
    for (codes, part, remedy) in [
        ("5xx", "`5xx`", "write `500-599`"),
        ("429,5XX", "`5XX`", "write `500-599`"),
        ("50O", "`50O`", "write codes and ranges, for example `429,501-503`"),
        ("503-500", "`503-500`", "write codes and ranges, for example `429,501-503`"),
        ("99", "`99`", "write codes and ranges, for example `429,501-503`"),
        ("600", "`600`", "write codes and ranges, for example `429,501-503`"),
    ] {
        let (severity, message, told) = said(&read_text(&text(codes)), path);
        assert_eq!((severity, told.as_str()), (Severity::Error, remedy), "{codes}");
        assert!(message.starts_with(part), "{message}");
    }
    for codes in ["429", "429, 501-503", "", "500,"] {
        let read = read_text(&text(codes));
        assert!(read.errors.is_empty(), "{codes}: {}", told(&read));
    }
}

#[test]
fn parts_of_a_resiliency_document_that_do_less_than_they_seem_to() {
    let retries = "retries: { r: { duration: 1s, maxInterval: 2s }, e: { policy: exponential, duration: 1s, maxRetries: 2 } }";
    let text = dodai("App", "a", "process: { command: [a] }, services: [{ name: http }]")
        + &resiliency(&format!(
            "scopes: [a]\nspec: {{ policies: {{ {retries} }}, targets: {{ apps: {{ a: {{ retry: r, circuitBreakerCacheSize: 9 }}, aa: {{ retry: r }} }}, components: {{ db: {{ outbound: {{ circuitBreaker: c }} }} }} }} }}"
        ));
    let read = read_all(&[Source { name: "dodai.yaml", bytes: text.as_bytes() }]).read;
    assert!(read.errors.is_empty(), "{}", told(&read));
    for path in [
        "scopes",
        "spec.policies.retries.r.maxRetries",
        "spec.policies.retries.r.maxInterval",
        "spec.policies.retries.e.duration",
        "spec.targets.apps.a.circuitBreakerCacheSize",
        "spec.targets.apps.a.retry",
        "spec.targets.apps.aa",
        "spec.targets.components.db",
        "spec.targets.components.db.outbound.circuitBreaker",
    ] {
        assert_eq!(said(&read, path).0, Severity::Warning, "{path}");
    }
    let silent = |path: &str| read.warnings.iter().all(|problem| problem.path != path);
    assert!(silent("spec.policies.retries.e.maxRetries") && silent("spec.targets.apps.a"));
}

#[test]
fn a_section_that_is_not_there_is_refused_with_the_nearest_name() {
    let world = dodai("App", "a", "process: { command: [a] }, services: [{ name: http }, { name: admin }]")
        + &dodai("App", "silent", "process: { command: [a] }")
        + &dodai(
            "Service",
            "front",
            "selector: { app: a }, ports: [{ name: web, port: 80, targetService: http }]",
        )
        + &dodai("Service", "plain", "selector: { app: a }")
        + &dodai("Gateway", "g", "listeners: [{ name: http, port: 8080, protocol: HTTP }]")
        + &dodai(
            "Route",
            "r",
            "parentRefs: [{ name: g }], rules: [{ name: all, backendRefs: [{ name: a }] }, { backendRefs: [{ name: a }] }]",
        );
    let read = |text: &str| {
        let text = world.clone() + text;
        read_all(&[Source { name: "dodai.yaml", bytes: text.as_bytes() }]).read
    };
    let policy = |target: &str| {
        dodai("Policy", "p", &format!("targetRefs: [{{ {target} }}], access: {{ default: deny }}"))
    };
    for (target, remedy) in [
        ("kind: App, name: a, sectionName: htp", "did you mean `http`?"),
        ("kind: App, name: silent, sectionName: http", "it has no service; leave `sectionName` out"),
        ("kind: Service, name: front, sectionName: http", "it has `web`"),
        ("kind: Service, name: plain, sectionName: adminn", "did you mean `admin`?"),
        ("kind: Service, name: a, sectionName: nothing", "it has `http`, `admin`"),
        ("kind: Gateway, name: g, sectionName: htpp", "did you mean `http`?"),
        ("kind: Route, name: r, sectionName: al", "did you mean `all`?"),
    ] {
        let (severity, _, told) = said(&read(&policy(target)), "spec.targetRefs[0].sectionName");
        assert_eq!((severity, told.as_str()), (Severity::Error, remedy), "{target}");
    }
    for target in [
        "kind: App, name: a, sectionName: admin",
        "kind: Service, name: front, sectionName: web",
        "kind: Service, name: plain, sectionName: admin",
        "kind: Gateway, name: g, sectionName: http",
        "kind: Route, name: r, sectionName: all",
    ] {
        let read = read(&policy(target));
        assert!(read.errors.is_empty(), "{target}: {}", told(&read));
    }
    let under = "parentRefs: [{ kind: Service, name: front, sectionName: wbe }], rules: [{ backendRefs: [{ name: a }] }]";
    let (_, _, told) = said(&read(&dodai("Route", "under", under)), "spec.parentRefs[0].sectionName");
    assert_eq!(told, "did you mean `web`?");
}

#[test]
fn the_label_that_asks_for_mutual_tls_has_two_values() {
    let namespace = |said: &str| {
        let metadata = format!("name: shop, labels: {{ dodai.dev/mtls: {said} }}");
        read_text(&document("dodai.dev/v1", "Namespace", &metadata, ""))
    };
    for good in ["strict", "permissive"] {
        assert!(namespace(good).errors.is_empty(), "{good}");
    }
    for bad in ["Permissive", "permisive", "'off'", "''"] {
        let (severity, message, remedy) = said(&namespace(bad), "metadata.labels[\"dodai.dev/mtls\"]");
        assert_eq!(severity, Severity::Error, "{bad}: {message}");
        assert!(remedy.contains("`strict`") && remedy.contains("`permissive`"), "{remedy}");
    }
}

#[test]
fn a_namespace_without_a_document_is_told() {
    let app =
        document("dodai.dev/v1", "App", "name: a, namespace: shpo", "spec: { process: { command: [a] } }");
    let namespace = document("dodai.dev/v1", "Namespace", "name: shop", "");
    let read = |text: &str| read_all(&[Source { name: "dodai.yaml", bytes: text.as_bytes() }]).read;
    let (severity, message, remedy) = said(&read(&(namespace.clone() + &app)), "metadata.namespace");
    assert_eq!((severity, remedy.as_str()), (Severity::Warning, "did you mean `shop`?"), "{message}");
    let fine = read(&(namespace + &app.replace("shpo", "shop")));
    assert!(fine.warnings.is_empty(), "{}", told(&fine));
    let component = "spec: { type: state.sqlite, version: v1 }";
    let foreign = document("dapr.io/v1alpha1", "Component", "name: s, namespace: shop", component);
    assert!(read(&foreign).warnings.is_empty(), "documents of Dapr know no Namespace");
}

#[test]
fn a_component_that_an_app_is_denied_is_told() {
    let text = dodai("App", "a", "process: { command: [a] }, dapr: { configuration: c }")
        + &dapr("Configuration", "c", "spec: { components: { deny: [state.sqlite] } }")
        + &dapr("Component", "s", "spec: { type: state.sqlite, version: v1 }");
    let read = read_all(&[Source { name: "dodai.yaml", bytes: text.as_bytes() }]).read;
    let (severity, message, _) = said(&read, "spec.type");
    assert_eq!(severity, Severity::Warning);
    assert!(message.contains("`a`") && message.contains("`c`"), "{message}");
}

#[test]
fn a_certificate_for_outside_has_its_key() {
    let app = |tls: &str| {
        let spec = format!(
            "services: [{{ name: http }}], external: {{ addresses: ['10.0.0.1:1'], tls: {{ {tls} }} }}"
        );
        read_text(&dodai("App", "a", &spec))
    };
    assert!(app("certificateFile: a.crt, keyFile: a.key").errors.is_empty());
    for tls in ["certificateFile: a.crt", "keyFile: a.key"] {
        let (severity, message, _) = said(&app(tls), "spec.external.tls");
        assert_eq!((severity, message.contains("go together")), (Severity::Error, true), "{message}");
    }
    assert_eq!(
        said(&app("certificateFile: ' ', keyFile: a"), "spec.external.tls.certificateFile").0,
        Severity::Error
    );
}

#[test]
fn a_build_says_what_it_makes() {
    let told_of = |command: &str, build: &str| {
        let build = format!("build: {{ command: [mvn, package]{build} }}");
        told(&read_text(&dodai("App", "shop", &format!("process: {{ command: [{command}], {build} }}"))))
    };
    let unnamed = told_of("java, -jar, target/shop.jar", "");
    assert!(unnamed.contains("`java` is found by its name") && unnamed.contains("in `product`"), "{unnamed}");
    assert!(told_of("java, -jar, a.jar", ", product: ''").contains("the product is empty"));
    assert_eq!(told_of("java, -jar, a.jar", ", product: a.jar"), "");
    assert_eq!(told_of("target/shop", ""), "");
}
