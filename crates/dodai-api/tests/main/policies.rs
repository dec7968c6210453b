//! What a Policy guards calls by: what is refused in it, and what is said.

use dodai_api::{Read, Severity};

use crate::{good, read_text, told};

fn policy(target: &str, spec: &str) -> String {
    format!(
        "apiVersion: dodai.dev/v1\nkind: Policy\nmetadata: {{name: p}}\nspec: {{targetRefs: [{{{target}}}], {spec}}}\n"
    )
}

const GATEWAY: &str = "kind: Gateway, name: g";
const APP: &str = "kind: App, name: a";

fn errors(read: &Read) -> Vec<&str> {
    assert!(
        read.errors.iter().all(|problem| problem.severity == Severity::Error && problem.remedy.is_some())
    );
    read.errors.iter().map(|problem| problem.path.as_str()).collect()
}

/// The one error of a policy is at `path`.
fn check(target: &str, spec: &str, path: &str) {
    let read = read_text(&policy(target, spec));
    assert_eq!(errors(&read), [path], "{spec}: {}", told(&read));
}

#[test]
fn what_is_said_of_pages() {
    good(&policy(
        GATEWAY,
        "cors: {allowOrigins: ['https://*.example.com', 'http://localhost:3000'], allowMethods: [PUT, '*'], allowCredentials: true}",
    ));
    good(&policy(GATEWAY, "cors: {allowOrigins: ['*'], allowHeaders: ['*', x-a], maxAge: 86400}"));
    check(GATEWAY, "cors: {allowOrigins: []}", "spec.cors.allowOrigins");
    check(GATEWAY, "cors: {allowOrigins: ['*'], allowCredentials: true}", "spec.cors.allowOrigins[0]");
    check(GATEWAY, "cors: {allowOrigins: ['https://a.example/']}", "spec.cors.allowOrigins[0]");
    check(GATEWAY, "cors: {allowOrigins: ['*'], allowMethods: [put]}", "spec.cors.allowMethods[0]");
    check(GATEWAY, "cors: {allowOrigins: ['*'], exposeHeaders: ['a b']}", "spec.cors.exposeHeaders[0]");
    check(GATEWAY, "cors: {allowOrigins: ['*'], maxAge: 0}", "spec.cors.maxAge");
    check(APP, "cors: {allowOrigins: ['*']}", "spec.cors");
}

#[test]
fn a_route_has_cors_as_a_filter() {
    let route = |filter: &str| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: Route\nmetadata: {{name: r}}\nspec: {{parentRefs: [{{name: g}}], \
             rules: [{{backendRefs: [{{name: a}}], filters: [{filter}]}}]}}\n"
        )
    };
    good(&route("{type: CORS, cors: {allowOrigins: ['https://a.example']}}"));
    let read = read_text(&route("{type: CORS, cors: {allowOrigins: [a]}}"));
    assert_eq!(errors(&read), ["spec.rules[0].filters[0].cors.allowOrigins[0]"]);
    let read = read_text(&route("{type: CORS}"));
    assert_eq!(errors(&read), ["spec.rules[0].filters[0].cors"]);
}

#[test]
fn what_an_access_rule_may_ask_for() {
    let rule = |text: &str| format!("access: {{rules: [{{action: allow, {text}}}]}}");
    good(&policy(
        GATEWAY,
        &rule(
            "from: {addresses: [10.0.0.0/8, '2001:db8::/32', 192.0.2.1]}, hosts: ['*.a.example'], headers: [{name: x-a, value: '1'}]",
        ),
    ));
    good(&policy(APP, &rule("from: {identities: ['spiffe://cluster.local/ns/*/cart']}")));
    for (text, path) in [
        ("from: {addresses: [10.0.0.0/33]}", "from.addresses[0]"),
        ("from: {addresses: [localhost]}", "from.addresses[0]"),
        ("from: {identities: ['spiffe://cluster.local/ns/shop']}", "from.identities[0]"),
        ("from: {}", "from"),
        ("hosts: ['a.example:80']", "hosts[0]"),
        ("headers: [{name: 'a b', value: x}]", "headers[0].name"),
        ("headers: [{name: a, type: Present, value: x}]", "headers[0].value"),
        ("headers: [{name: a, type: RegularExpression, value: '('}]", "headers[0].value"),
    ] {
        check(GATEWAY, &rule(text), &format!("spec.access.rules[0].{path}"));
    }
    check(APP, &rule("from: {addresses: [10.0.0.0/8]}"), "spec.access.rules[0].from.addresses");
}

#[test]
fn what_is_said_of_tokens() {
    let jwt = |text: &str| format!("jwt: {{issuers: [{{issuer: 'https://a', {text}}}]}}");
    good(&policy(
        APP,
        &jwt(
            "jwksUri: 'https://a/keys', audiences: [x], fromHeaders: [{name: x-token}], claimsToHeaders: [{claim: sub, header: x-user}]",
        ),
    ));
    good(&policy(GATEWAY, &jwt("jwksFile: /etc/keys.json")));
    good(&policy(GATEWAY, &jwt("jwks: '{\"keys\": []}', forward: false, fromCookies: [session]")));
    check(APP, "jwt: {issuers: []}", "spec.jwt.issuers");
    for (text, path) in [
        ("audiences: [x]", ""),
        ("jwksUri: 'https://a', jwks: '{\"keys\": []}'", ""),
        ("jwksUri: 'https://a', jwksFile: keys.json", ""),
        ("jwksFile: ''", ".jwksFile"),
        ("jwksUri: 'ftp://a'", ".jwksUri"),
        ("jwksUri: 'https:///x'", ".jwksUri"),
        ("jwks: 'https://a'", ".jwks"),
        ("jwksUri: 'https://a', refresh: 1ms", ".refresh"),
        (
            "jwksUri: 'https://a', claimsToHeaders: [{claim: sub, header: 'x y'}]",
            ".claimsToHeaders[0].header",
        ),
        ("jwksUri: 'https://a', claimsToHeaders: [{claim: '', header: x}]", ".claimsToHeaders[0].claim"),
    ] {
        check(APP, &jwt(text), &format!("spec.jwt.issuers[0]{path}"));
    }
    check(
        APP,
        "access: {rules: [{action: allow, claims: [{name: a, values: []}]}]}",
        "spec.access.rules[0].claims[0].values",
    );
}

#[test]
fn what_a_call_may_not_be_is_read_as_what_it_may() {
    let rule = |text: &str| format!("access: {{rules: [{{action: deny, {text}}}]}}");
    good(&policy(
        APP,
        &rule("from: {notApps: [b, c/d], notNamespaces: [n]}, notMethods: [GET], notPaths: [/a/*]"),
    ));
    good(&policy(
        APP,
        &rule(
            "notHosts: ['*.b'], notHeaders: [{name: x, type: Present}], claims: [{name: a, type: Present}]",
        ),
    ));
    good(&policy(APP, &rule("when: \"claims.role == 'a' || source.app == 'b'\"")));
    for (text, path) in [
        ("from: {notApps: ['B b']}", "from.notApps[0]"),
        ("from: {notIdentities: [x]}", "from.notIdentities[0]"),
        ("from: {notAddresses: [10.0.0.0/8]}", "from.notAddresses"),
        ("from: {}", "from"),
        ("notMethods: [get]", "notMethods[0]"),
        ("notPaths: [/a*]", "notPaths[0]"),
        ("notHosts: ['http://a']", "notHosts[0]"),
        ("notHeaders: [{name: 'x y', value: a}]", "notHeaders[0].name"),
        ("notClaims: [{name: a, type: Present, values: [b]}]", "notClaims[0].values"),
        ("claims: [{name: a, type: RegularExpression, values: ['(']}]", "claims[0].values[0]"),
        ("when: 'event.type'", "when"),
    ] {
        check(APP, &rule(text), &format!("spec.access.rules[0].{path}"));
    }
}

#[test]
fn what_is_said_of_authorizers() {
    good(&policy(APP, "extAuthz: {backendRef: {name: authz}, pathPrefix: /check, callHeaders: [x-user]}"));
    good(&policy(
        APP,
        "extAuthz: {backendRef: {name: authz, namespace: sec, port: 9000}, protocol: grpc, failOpen: true}",
    ));
    check(APP, "extAuthz: {backendRef: {name: authz}, timeout: 0s}", "spec.extAuthz.timeout");
    check(APP, "extAuthz: {backendRef: {name: authz}, pathPrefix: check}", "spec.extAuthz.pathPrefix");
    check(
        APP,
        "extAuthz: {backendRef: {name: authz}, protocol: grpc, callHeaders: [x]}",
        "spec.extAuthz.callHeaders",
    );
    check(
        APP,
        "extAuthz: {backendRef: {name: authz}, clientHeaders: ['a b']}",
        "spec.extAuthz.clientHeaders[0]",
    );
}

#[test]
fn what_is_said_of_faults_and_retries() {
    good(&policy(
        APP,
        "fault: {delay: {time: 1s, percent: 0.5}, abort: {grpcStatus: 14}, resetPercent: 1, throttle: {bytesPerSecond: 100}}",
    ));
    good(&policy(APP, "retry: {on: [connect-failure, 5xx, deadline-exceeded], attempts: 2}"));
    check(APP, "fault: {}", "spec.fault");
    check(APP, "fault: {abort: {percent: 5}}", "spec.fault.abort");
    check(APP, "fault: {abort: {status: 99}}", "spec.fault.abort.status");
    check(APP, "fault: {abort: {grpcStatus: 17}}", "spec.fault.abort.grpcStatus");
    check(APP, "fault: {resetPercent: 101}", "spec.fault.resetPercent");
    check(APP, "fault: {throttle: {bytesPerSecond: 0}}", "spec.fault.throttle.bytesPerSecond");
    check(APP, "retry: {on: [reset, reset]}", "spec.retry.on[1]");
}

#[test]
fn what_is_said_of_load() {
    good(&policy(APP, "concurrency: {limit: 100, adaptive: true, priorityHeader: x-priority}"));
    good(&policy(GATEWAY, "priority: low"));
    good(&policy(GATEWAY, "tracing: {samplePercent: 0.5}"));
    good(&policy(APP, "rateLimits: [{requests: 5, scope: global}]"));
    let shared = "redis: {address: 'redis:6379', database: 2, username: u, passwordRef: {store: vault, key: p}, tls: {ca: /etc/ssl/redis.pem, serverName: redis}}";
    good(&policy(APP, &format!("rateLimits: [{{requests: 5, scope: global, {shared}}}]")));
    for (redis, path) in [
        ("scope: local, redis: {address: 'redis:6379'}", "spec.rateLimits[0].redis"),
        ("scope: global, redis: {address: redis}", "spec.rateLimits[0].redis.address"),
        ("scope: global, redis: {address: 'redis://u@redis:6379'}", "spec.rateLimits[0].redis.address"),
        ("scope: global, redis: {address: 'rediss://redis:6379'}", "spec.rateLimits[0].redis.address"),
        ("scope: global, redis: {address: 'redis:6379', tls: {ca: ''}}", "spec.rateLimits[0].redis.tls.ca"),
        (
            "scope: global, redis: {address: 'redis:6379', username: u}",
            "spec.rateLimits[0].redis.passwordRef",
        ),
    ] {
        check(APP, &format!("rateLimits: [{{requests: 5, {redis}}}]"), path);
    }
    good(&policy(APP, "rateLimits: [{requests: 5, scope: global, key: [{source: app}]}]"));
    good(&policy(APP, "hedge: {delay: 20ms, attempts: 2, anyMethod: true}"));
    good(&policy(GATEWAY, "hedge: {}"));
    check(APP, "hedge: {attempts: 5}", "spec.hedge.attempts");
    check(APP, "hedge: {delay: 0s}", "spec.hedge.delay");
    check(APP, "concurrency: {}", "spec.concurrency");
    check(APP, "concurrency: {limit: 0}", "spec.concurrency.limit");
    check(APP, "concurrency: {adaptive: true, priorityHeader: 'a b'}", "spec.concurrency.priorityHeader");
    check(GATEWAY, "concurrency: {limit: 1}", "spec.concurrency");
    check(APP, "priority: high", "spec.priority");
    check(APP, "tracing: {samplePercent: 5}", "spec.tracing");
    check(GATEWAY, "tracing: {samplePercent: 101}", "spec.tracing.samplePercent");
}

#[test]
fn what_is_said_of_rate_limits_and_their_keys() {
    good(&policy(
        APP,
        "rateLimits: [{requests: 10}, {requests: 1000, per: 1h, burst: 5, key: [{source: app}]}]",
    ));
    check(APP, "rateLimits: [{requests: 1}, {requests: 0}]", "spec.rateLimits[1].requests");
    check(APP, "rateLimits: [{requests: 1, per: 0s}]", "spec.rateLimits[0].per");
    check(APP, "rateLimits: [{requests: 1000000000, per: 1ms}]", "spec.rateLimits[0].per");
    check(APP, &format!("rateLimits: [{}]", ["{requests: 1}"; 9].join(", ")), "spec.rateLimits");
    check(APP, "rateLimit: {requestsPerSecond: 5}", "spec.rateLimit");
    let key = |parts: &str| format!("rateLimits: [{{requests: 5, key: [{parts}]}}]");
    good(&policy(APP, &key("{header: x-user}, {cookie: session}, {queryParam: k}, {claim: org.id}")));
    good(&policy(GATEWAY, &key("{source: app}, {source: address}")));
    for (parts, path) in [
        ("{}", "spec.rateLimits[0].key[0]"),
        ("{source: app}, {header: a, cookie: b}", "spec.rateLimits[0].key[1]"),
        ("{header: 'a b'}", "spec.rateLimits[0].key[0].header"),
        ("{cookie: 'a b'}", "spec.rateLimits[0].key[0].cookie"),
        ("{queryParam: ''}", "spec.rateLimits[0].key[0].queryParam"),
        ("{claim: ''}", "spec.rateLimits[0].key[0].claim"),
        ("{header: a}, {header: A}", "spec.rateLimits[0].key[1]"),
        ("{header: a}, {header: b}, {header: c}, {header: d}, {header: e}", "spec.rateLimits[0].key"),
    ] {
        check(APP, &key(parts), path);
    }
    check(APP, "rateLimits: [{requests: 5, key: {header: a}}]", "spec.rateLimits[0].key");
}

#[test]
fn what_is_said_of_the_access_log() {
    let envoy = "accessLog: {format: '%START_TIME% %REQ(X-Request-Id)% %RESPONSE_CODE%', filters: ['status=4xx && duration>=250ms', failures]}";
    for target in [APP, GATEWAY] {
        good(&policy(target, envoy));
        good(&policy(target, "accessLog: {filters: [none]}"));
        good(&policy(
            target,
            "accessLog: {format: json, requestHeaders: [X-Lane], responseHeaders: [Server]}",
        ));
    }
    check(APP, "accessLog: {}", "spec.accessLog");
    check(APP, "accessLog: {format: xml}", "spec.accessLog.format");
    check(APP, "accessLog: {format: '%RESPONSE_COD%'}", "spec.accessLog.format");
    check(APP, "accessLog: {filters: [all, 'status>400']}", "spec.accessLog.filters[1]");
    check(APP, "accessLog: {filters: ['cel:call.status ==']}", "spec.accessLog.filters[0]");
    check(APP, "accessLog: {requestHeaders: ['a b']}", "spec.accessLog.requestHeaders[0]");
    check(APP, "accessLog: {responseHeaders: [a, '']}", "spec.accessLog.responseHeaders[1]");
}

#[test]
fn a_header_is_changed_in_one_way() {
    good(&policy(
        APP,
        "headers: {request: {set: [{name: x, value: a}], add: [{name: y, value: b}], remove: [z]}}",
    ));
    let set = "set: [{name: x, value: a}]";
    for other in ["add: [{name: X, value: b}]", "remove: [X]"] {
        check(APP, &format!("headers: {{request: {{{set}, {other}}}}}"), "spec.headers.request");
    }
    good(&policy(APP, "maxRequestBody: 8Mi"));
    check(APP, "maxRequestBody: much", "spec.maxRequestBody");
}

#[test]
fn only_guards_can_be_tried() {
    good(&policy(APP, "dryRun: true, access: {default: deny}"));
    good(&policy(APP, "dryRun: true, extAuthz: {backendRef: {name: a}}"));
    good(&policy(APP, "dryRun: true, jwt: {issuers: [{issuer: a, jwksUri: 'https://a'}]}"));
    check(APP, "dryRun: true", "spec.dryRun");
    check(APP, "dryRun: true, rateLimits: [{requests: 1}], timeouts: {request: 1s}", "spec.timeouts");
}

#[test]
fn versions_of_tls_are_said_where_it_ends() {
    let gateway = |tls: &str| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec: {{listeners: [{{name: a, port: 443, protocol: TLS, tls: {{{tls}}}}}]}}\n"
        )
    };
    good(&gateway("certificateRefs: [{name: a}], minVersion: '1.3'"));
    for (tls, path) in [
        ("certificateRefs: [{name: a}], minVersion: '1.1'", "spec.listeners[0].tls.minVersion"),
        ("mode: Passthrough, minVersion: '1.3'", "spec.listeners[0].tls.minVersion"),
    ] {
        let read = read_text(&gateway(tls));
        assert_eq!(errors(&read), [path], "{tls}: {}", told(&read));
    }
}

#[test]
fn proxies_are_trusted_by_network_and_for_a_whole_port() {
    let gateway = |name: &str, listeners: &str| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  listeners:\n{listeners}"
        )
    };
    let one = |protocol: &str, trusted: &str| {
        gateway(
            "g",
            &format!("    - {{name: a, port: 80, protocol: {protocol}, trustedProxies: [{trusted}]}}\n"),
        )
    };
    good(&one("HTTP", "10.0.0.0/8, 10.1.0.0/16, 'fd00::/8', 192.0.2.7, 0.0.0.0/0"));
    for (text, path) in [
        (one("HTTP", "10.0.0.0/8, 10.0.0.0/33"), "spec.listeners[0].trustedProxies[1]"),
        (one("HTTP", "load-balancer"), "spec.listeners[0].trustedProxies[0]"),
        (one("TCP", "10.0.0.0/8"), "spec.listeners[0].trustedProxies"),
        (one("UDP", "10.0.0.0/8"), "spec.listeners[0].trustedProxies"),
        (
            gateway("g", "    - {name: a, port: 80, protocol: TCP, requestId: Keep}\n"),
            "spec.listeners[0].requestId",
        ),
        (
            gateway("g", "    - {name: a, port: 80, protocol: TCP, maxConnectionAge: 10m}\n"),
            "spec.listeners[0].maxConnectionAge",
        ),
        (
            gateway("g", "    - {name: a, port: 80, protocol: HTTP, maxConnectionAge: 1s}\n"),
            "spec.listeners[0].maxConnectionAge",
        ),
        (
            gateway("g", "    - {name: a, port: 80, protocol: HTTP, requestId: Always}\n"),
            "spec.listeners[0].requestId",
        ),
    ] {
        let read = read_text(&text);
        assert_eq!(errors(&read), [path], "{text}: {}", told(&read));
    }
    let listener = |name: &str, more: &str| {
        format!("    - {{name: {name}, port: 80, protocol: HTTP, hostname: {name}.test{more}}}\n")
    };
    let (trusting, other) = (listener("a", ", trustedProxies: [10.0.0.0/8]"), listener("b", ""));
    let read = read_text(&gateway("g", &(trusting.clone() + &other)));
    assert_eq!(errors(&read), ["spec.listeners[1].trustedProxies"], "{}", told(&read));
    let apart = [gateway("g", &trusting), gateway("h", &other)].join("---\n");
    let read = dodai_api::read_all(&[dodai_api::Source { name: "all.yaml", bytes: apart.as_bytes() }]).read;
    assert_eq!(errors(&read), ["spec.listeners[0].trustedProxies"], "{}", told(&read));
}

#[test]
fn certificates_of_clients_are_asked_for_where_tls_ends() {
    let gateway = |listeners: &[String]| {
        let all: String = listeners.iter().map(|one| format!("    - {one}\n")).collect();
        format!("apiVersion: dodai.dev/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec:\n  listeners:\n{all}")
    };
    let listener = |name: &str, tls: &str| {
        format!("{{name: {name}, port: 443, protocol: TLS, hostname: {name}.test, tls: {{{tls}}}}}")
    };
    let own = |more: &str| format!("certificateRefs: [{{name: a}}]{more}");
    let asks = |clients: &str| own(&format!(", frontendValidation: {{{clients}}}"));
    let path = "spec.listeners[0].tls.frontendValidation";
    good(&gateway(&[
        listener("a", &asks("caCertificateRefs: [{name: partner}], mode: AllowInsecureFallback")),
        listener("b", "mode: Passthrough"),
    ]));
    good(&gateway(&[listener("a", &asks("caCertificateFile: ca.crt, crlFile: ca.crl"))]));
    for (listeners, path) in [
        (vec![listener("a", &asks("mode: AllowValidOnly"))], path),
        (vec![listener("a", "mode: Passthrough, frontendValidation: {caCertificateFile: ca.crt}")], path),
        (
            vec![listener("a", &asks("caCertificateFile: ca.crt")), listener("b", &own(""))],
            "spec.listeners[1].tls.frontendValidation",
        ),
    ] {
        let read = read_text(&gateway(&listeners));
        assert_eq!(errors(&read), [path], "{listeners:?}: {}", told(&read));
    }
}

#[test]
fn rules_name_certificates_by_what_they_say() {
    let policy = |kind: &str, certificate: &str| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: Policy\nmetadata: {{name: p}}\nspec:\n  targetRefs: [{{kind: {kind}, \
             name: a}}]\n  access: {{rules: [{{action: allow, from: {{certificates: ['{certificate}']}}}}]}}\n"
        )
    };
    for fine in ["URI=spiffe://a/*", "DNS=*.a.example", "Subject=CN=a,O=b", "Hash=00ff"] {
        good(&policy("Gateway", fine));
    }
    for bad in ["spiffe://a/b", "Uri=a", "DNS=", "URI=*a*", "Issuer=CN=a"] {
        let read = read_text(&policy("Gateway", bad));
        assert_eq!(errors(&read), ["spec.access.rules[0].from.certificates[0]"], "{bad}: {}", told(&read));
    }
    let read = read_text(&policy("App", "URI=spiffe://a/b"));
    assert_eq!(errors(&read), ["spec.access.rules[0].from.certificates"], "{}", told(&read));
}
