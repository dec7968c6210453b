//! Gateways with TLS: from the document to the listener of the data plane.

use dodai_core::snapshot::{Certificate, Protocol, Tls, TlsName};

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
      tls: {certificateRefs: [{name: shop}, {name: old}]}
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
        })
    );
    assert_eq!(bytes.protocol, Protocol::Tcp);
    assert_eq!(bytes.tls, Some(Tls { certificates: vec![kept("raw")], names: vec![name("*", false)] }));
}
