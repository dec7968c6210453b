//! What is outside the mesh: how TLS, names and secrets of external apps and HTTPEndpoints reach a base.

use dodai_core::id::ServiceId;
use dodai_core::snapshot::{
    ClientTls, Filter, Pem, ProxyProtocol, ProxyVersion, Role, Setting, Snapshot, Target, Value,
};

use super::played::yaml;
use super::snapshots::settled;

fn targets(snapshot: &Snapshot, id: &str) -> Vec<Target> {
    let id = ServiceId::parse(id).expect("valid");
    let found = snapshot.endpoints().find(|one| one.service == id).expect("it has endpoints");
    found.list.iter().map(|one| one.target.clone()).collect()
}

fn secret(name: &str, key: &str) -> Value {
    Value::Secret { store: "vault".into(), name: name.into(), key: key.into() }
}

#[tokio::test(start_paused = true)]
async fn an_external_app_is_spoken_to_as_its_document_says() {
    let app = |name: &str, tls: &str| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{ name: {name} }}\nspec:\n  services: [{{ name: http, \
             port: 8443 }}]\n  external: {{ addresses: ['10.0.0.9:8443']{tls} }}\n"
        )
    };
    let all = [
        app("plain", ""),
        app("usual", ", tls: { }"),
        app(
            "own",
            ", tls: { serverName: bank.example, ca: certificates/bank.pem, certificateFile: us.crt, keyFile: us.key }",
        ),
        app("told", ", proxyProtocol: v2"),
    ];
    let (_control, snapshot, _tasks) = settled(&yaml(&all.join("---\n"))).await;
    let address = "10.0.0.9:8443".to_owned();
    assert_eq!(targets(&snapshot, "default/plain/http"), [Target::Address(address.clone())]);
    let tls = ClientTls { server_name: Some("usual".into()), roots: None, certificate: None };
    assert_eq!(targets(&snapshot, "default/usual/http"), [Target::Tls { address: address.clone(), tls }]);
    let tls = ClientTls {
        server_name: Some("bank.example".into()),
        roots: Some(Pem::File("certificates/bank.pem".into())),
        certificate: Some((Pem::File("us.crt".into()), Pem::File("us.key".into()))),
    };
    assert_eq!(targets(&snapshot, "default/own/http"), [Target::Tls { address: address.clone(), tls }]);
    let told = Target::Announced { address, tls: None, version: ProxyVersion::V2 };
    assert_eq!(targets(&snapshot, "default/told/http"), [told]);
}

#[tokio::test(start_paused = true)]
async fn each_address_of_a_name_is_an_endpoint_unless_the_document_says_otherwise() {
    let app = |name: &str, more: &str| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{ name: {name} }}\nspec:\n  services: [{{ name: http }}]\n  \
             external: {{ addresses: ['bank.example:443', '10.0.0.9:443'], tls: {{}}{more} }}\n"
        )
    };
    let all = [app("each", ""), app("once", ", resolve: one")];
    let (_control, snapshot, _tasks) = settled(&yaml(&all.join("---\n"))).await;
    for (name, expect) in [("each", [true, false]), ("once", [false, false])] {
        let id = ServiceId::parse(&format!("default/{name}/http")).expect("valid");
        let found = snapshot.endpoints().find(|one| one.service == id).expect("it has endpoints");
        assert_eq!(found.list.iter().map(|one| one.each_address).collect::<Vec<_>>(), expect, "{name}");
        let tls = |server_name: Option<&str>| ClientTls {
            server_name: server_name.map(Into::into),
            ..ClientTls::default()
        };
        let by_name = Target::Tls { address: "bank.example:443".into(), tls: tls(None) };
        let by_address = Target::Tls { address: "10.0.0.9:443".into(), tls: tls(Some(name)) };
        assert_eq!(targets(&snapshot, &id.to_string()), [by_name, by_address]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_hears_the_proxies_it_trusts() {
    let gateway = "apiVersion: dodai.dev/v1\nkind: Gateway\nmetadata: { name: front }\nspec:\n  listeners:\n    - { name: \
                   http, port: 8080, protocol: HTTP, proxyProtocol: { mode: accept, trusted: ['10.0.0.0/8'] } }\n    - { \
                   name: line, port: 8081, protocol: TCP, proxyProtocol: { trusted: ['::1'] } }\n    - { name: plain, \
                   port: 8082, protocol: TCP }\n";
    let (_control, snapshot, _tasks) = settled(&yaml(gateway)).await;
    let heard: Vec<_> = snapshot
        .listeners()
        .filter(|listener| matches!(listener.role, Role::Gateway { .. }))
        .map(|listener| listener.proxy.clone())
        .collect();
    let proxy = |required, trusted: &str| Some(ProxyProtocol { required, trusted: vec![trusted.into()] });
    assert_eq!(heard, [proxy(false, "10.0.0.0/8"), proxy(true, "::1"), None]);
}

#[tokio::test(start_paused = true)]
async fn an_https_endpoint_is_tls_and_its_secrets_stay_references() {
    let text = "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: { name: pay }\nspec:\n  baseUrl: \
                https://api.pay.example/v2/\n  headers: [{ name: x-plan, value: gold }, { name: authorization, \
                secretKeyRef: { name: pay, key: token } }]\n  clientTLS: { rootCA: { value: '-----BEGIN X' }, \
                certificate: { secretKeyRef: { name: cert } }, privateKey: { secretKeyRef: { name: cert, key: k } } \
                }\nauth: { secretStore: vault }\n";
    let (_control, snapshot, _tasks) = settled(&yaml(text)).await;
    let tls = ClientTls {
        server_name: None,
        roots: Some(Pem::Value(Value::Plain("-----BEGIN X".into()))),
        certificate: Some((Pem::Value(secret("cert", "cert")), Pem::Value(secret("cert", "k")))),
    };
    let address = "api.pay.example:443".to_owned();
    assert_eq!(targets(&snapshot, "default/pay/http"), [Target::Tls { address, tls }]);
    let id = ServiceId::parse("default/pay/http").expect("valid");
    let rule = &snapshot.service(&id).expect("it is there").rules[0];
    let [_, Filter::RequestHeaders(edits), Filter::Rewrite { host, .. }] = &rule.filters[..] else {
        panic!("{:?}", rule.filters)
    };
    assert_eq!(edits.set, [("x-plan".to_owned(), "gold".to_owned())]);
    assert_eq!(edits.secrets, [Setting { name: "authorization".into(), value: secret("pay", "token") }]);
    assert_eq!(host.as_deref(), Some("api.pay.example"));
}
