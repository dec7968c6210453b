//! Gateways: from the document to the listener of the data plane, and what the status says of it.

use std::collections::BTreeMap;

use dodai_api::DocumentKey;
use dodai_control::documents::Documents;
use dodai_control::plan::Rules;
use dodai_control::records::{Observed, Records, Sighting};
use dodai_control::status::{Facts, statuses};
use dodai_core::id::BaseId;
use dodai_core::snapshot::{
    Certificate, CertificateMatch, ClientAuthorities, Filter, Protocol, RequestId, Tls, TlsName,
};
use dodai_core::status::{Refusal, Status};

use super::played::yaml;
use super::snapshots::settled;

const GATEWAYS: &str = "apiVersion: dodai.dev/v1
kind: Gateway
metadata: {name: front}
spec:
  listeners:
    - name: a
      port: 8443
      protocol: TLS
      hostname: '*.raw.example'
      tls: {mode: Passthrough}
    - name: b
      port: 8443
      protocol: HTTPS
      hostname: web.example
      tls: {certificateFile: web.crt, keyFile: web.key, certificateRefs: [{name: old}]}
    - name: c
      port: 8443
      protocol: HTTPS
      hostname: shop.example
      tls: {certificateRefs: [{name: shop}, {name: old}], minVersion: '1.3'}
    - name: d
      port: 8444
      protocol: TLS
      tls: {certificateRefs: [{name: raw}]}
---
";

#[tokio::test(start_paused = true)]
async fn listeners_of_one_port_share_a_socket_and_their_names_tell_them_apart() {
    let (_control, snapshot, _tasks) = settled(&yaml(GATEWAYS)).await;
    let found: Vec<_> = snapshot.listeners().filter(|one| one.name.starts_with("gateway/")).collect();
    let [shared, bytes] = &found[..] else { panic!("two sockets: {found:?}") };
    let kept = |name: &str| Certificate {
        chain_file: format!("certificates/{name}/tls.crt"),
        key_file: format!("certificates/{name}/tls.key"),
    };
    let file = Certificate { chain_file: "web.crt".to_owned(), key_file: "web.key".to_owned() };
    let name = |host: &str, passes| TlsName { host: host.to_owned(), passes };
    assert_eq!((shared.name.as_str(), shared.protocol), ("gateway/default/front/a", Protocol::Http));
    assert_eq!(
        shared.tls,
        Some(Tls {
            certificates: vec![file, kept("old"), kept("shop")],
            names: vec![name("shop.example", false), name("web.example", false), name("*.raw.example", true)],
            only_newest: true,
            clients: None,
        })
    );
    assert_eq!(bytes.protocol, Protocol::Tcp);
    assert_eq!(
        bytes.tls,
        Some(Tls {
            certificates: vec![kept("raw")],
            names: vec![name("*", false)],
            only_newest: false,
            clients: None
        })
    );
}

const PLAIN: &str = "apiVersion: dodai.dev/v1
kind: Gateway
metadata: {name: front}
spec: {listeners: [{name: http, port: 8080, protocol: HTTP}]}
---
";
const ONLY_TWO: &str = "apiVersion: dodai.dev/v1
kind: Base
metadata: {name: two}
spec: {labels: {dodai.dev/gateway: ''}}
---
";

#[test]
fn the_status_names_the_base_whose_listener_does_not_listen() {
    let check = |text: &str, bases: &[(&str, bool)], expect: (&str, &str)| {
        let documents: Documents = yaml(text).into_iter().map(|one| one.value).collect();
        let mut observed = Observed::default();
        for (base, listens) in bases {
            let mut status = Status::default();
            let (name, at) = ("gateway/default/front/http".to_owned(), ([0, 0, 0, 0], 8080).into());
            if *listens {
                status.listeners.insert(name, at);
            } else if *base == "three" {
                // As it was before, it goes on.
                status.listeners.insert(name.clone(), at);
                status.not_open.insert(name, "cannot read tls.key".to_owned());
                status.not_open.insert("gateway/default/other/http".to_owned(), "no matter".to_owned());
            } else {
                status.refused = Some(Refusal { version: 1, reason: "port 8080 is taken".to_owned() });
            }
            observed
                .bases_mut()
                .insert(BaseId::new(base), Sighting { status: status.into(), connected: true, since: 0 });
        }
        let (records, rules) = (Records::default(), Rules::default());
        let facts =
            Facts { documents: &documents, records: &records, observed: &observed, rules: &rules, now: 1 };
        let key: DocumentKey = "Gateway/default/front".parse().expect("a key");
        let all = statuses(&facts, &BTreeMap::new());
        let condition = &all[&key]["conditions"][0];
        let found = (condition["reason"].as_str(), condition["message"].as_str());
        assert_eq!(found, (Some(expect.0), Some(expect.1)), "{bases:?}");
    };
    check(PLAIN, &[], ("Pending", "nobody listens for `http` (127.0.0.1:8080)"));
    check(PLAIN, &[("one", true), ("two", true)], ("Programmed", "every listener listens"));
    let partly = "base two does not listen for `http` (127.0.0.1:8080): port 8080 is taken, says base two";
    check(PLAIN, &[("one", true), ("two", false)], ("NotEverywhere", partly));
    let stays =
        "base three does not listen for `http` (127.0.0.1:8080): cannot read tls.key, says base three";
    check(PLAIN, &[("one", true), ("three", false)], ("NotEverywhere", stays));
    let nobody = "nobody listens for `http` (127.0.0.1:8080): port 8080 is taken, says base one";
    check(PLAIN, &[("one", false)], ("Pending", nobody));
    let both = [PLAIN, ONLY_TWO].concat();
    check(&both, &[("one", false), ("two", true)], ("Programmed", "every listener listens"));
}

#[tokio::test(start_paused = true)]
async fn the_proxies_that_a_port_trusts_reach_its_socket() {
    let certified = "protocol: HTTPS, tls: {certificateRefs: [{name: a}]}, trustedProxies: ['10.0.0.0/8', '::1'], \
                     requestId: Generate";
    let gateway = format!(
        "apiVersion: dodai.dev/v1\nkind: Gateway\nmetadata: {{name: front}}\nspec:\n  listeners:\n    - {{name: raw, \
         port: 8443, protocol: TLS, hostname: raw.test, tls: {{mode: Passthrough}}}}\n    - {{name: web, port: 8443, \
         hostname: web.test, {certified}}}\n    - {{name: plain, port: 8080, protocol: HTTP}}\n"
    );
    let (_control, snapshot, _tasks) = settled(&yaml(&gateway)).await;
    let said = |port: u16| {
        let mut at = snapshot.listeners().filter(|listener| listener.address.port() == port);
        let listener = at.next().expect("it is there");
        (listener.trusted_proxies.clone(), listener.request_id)
    };
    let trusted = vec!["10.0.0.0/8".to_owned(), "::1".to_owned()];
    assert_eq!(said(8443), (trusted, Some(RequestId::Generate)), "what passes through has no say");
    assert_eq!(said(8080), (vec![], None));
}

#[tokio::test(start_paused = true)]
async fn whose_certificates_count_reaches_the_socket() {
    let asks = "frontendValidation: {caCertificateRefs: [{name: partner}], caCertificateFile: /etc/ca.crt, crlFile: \
                /etc/ca.crl, mode: AllowInsecureFallback}";
    let gateway = format!(
        "apiVersion: dodai.dev/v1\nkind: Gateway\nmetadata: {{name: front}}\nspec:\n  listeners:\n    - {{name: raw, \
         port: 8443, protocol: TLS, hostname: raw.test, tls: {{mode: Passthrough}}}}\n    - {{name: web, port: 8443, \
         hostname: web.test, protocol: HTTPS, tls: {{certificateRefs: [{{name: a}}], {asks}}}}}\n"
    );
    let policy = "apiVersion: dodai.dev/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  targetRefs: [{kind: Gateway, name: \
                  front}]\n  access: {rules: [{action: allow, from: {certificates: ['DNS=*.Partner.example', 'Subject=CN=A']}}]}\n";
    let app = "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {name: shop}\nspec: {external: {addresses: \
               ['10.0.0.9:80']}, services: [{name: http, port: 80}]}\n";
    let route = "apiVersion: dodai.dev/v1\nkind: Route\nmetadata: {name: r}\nspec: {parentRefs: [{name: front, \
                 sectionName: web}], rules: [{backendRefs: [{name: shop, port: 80}]}]}\n";
    let all = [gateway.as_str(), policy, app, route].join("---\n");
    let (_control, snapshot, _tasks) = settled(&yaml(&all)).await;
    let mut at = snapshot.listeners().filter(|listener| listener.address.port() == 8443);
    let tls = at.next().and_then(|listener| listener.tls.clone()).expect("it has TLS");
    let expect = ClientAuthorities {
        files: vec!["/etc/ca.crt".into(), "certificates/partner/ca.crt".into()],
        revoked_file: Some("/etc/ca.crl".into()),
        is_optional: true,
    };
    assert_eq!(tls.clients, Some(expect));
    let rules = snapshot.routes().flat_map(|routes| &routes.hosts).flat_map(|host| &host.rules);
    let rules: Vec<_> = rules
        .flat_map(|rule| &rule.filters)
        .filter_map(|filter| if let Filter::Access(access) = filter { Some(&access.rules) } else { None })
        .collect();
    let wanted =
        [CertificateMatch::Dns("*.partner.example".into()), CertificateMatch::Subject("CN=A".into())];
    assert_eq!(rules[0][0].certificates, wanted);
}
