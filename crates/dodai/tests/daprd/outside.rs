//! Hosts outside: an HTTPEndpoint over TLS with a header from a secret store, and a URL that is invoked.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::SystemTime;

use dodai_core::id::AppId;
use dodai_transport::ca::{Authority, LEAF_VALIDITY, Names};
use dodai_transport::identity::{PeerIdentity, TrustDomain};
use dodai_transport::network::Network;
use dodai_transport::tls::files::{Files, Pair, Versions};
use dodai_transport::tls::{Alpn, Clock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::project::until;

use super::sidecar::{Sidecar, World};

/// A TLS server for `localhost`, whose root it writes to `roots.pem`; every head it gets, one per connection.
fn bank(folder: &Path) -> (SocketAddr, Receiver<String>) {
    let authority = Authority::create(TrustDomain::default(), SystemTime::now()).unwrap();
    let names = Names { dns: vec!["localhost".to_owned()], ..Names::default() };
    let identity = PeerIdentity::App(AppId::parse("default/bank").unwrap());
    let svid = authority.issue(&identity, &names, LEAF_VALIDITY, SystemTime::now()).unwrap();
    std::fs::write(folder.join("roots.pem"), authority.chain_pem()).unwrap();
    let pair = Pair { chain: folder.join("tls.crt"), key: folder.join("tls.key") };
    std::fs::write(&pair.chain, svid.chain_pem()).unwrap();
    std::fs::write(&pair.key, svid.key_pem()).unwrap();
    let acceptor = Files::load(vec![pair]).unwrap().acceptor(Alpn::HTTP, Versions::Usual, Clock::system());
    let (tell_at, at) = sync_channel(1);
    let (tell, heads) = sync_channel(64);
    let serve = async move {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut listener = Network::system().listen(any, &Default::default()).unwrap();
        tell_at.send(listener.local_addr().unwrap()).unwrap();
        loop {
            let Ok(mut stream) = acceptor.accept(listener.accept().await.unwrap().0).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\npaid";
            let _gone = stream.write_all(answer).await;
            let _gone = stream.shutdown().await;
            tell.send(String::from_utf8_lossy(&head).to_ascii_lowercase()).unwrap();
        }
    };
    std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve);
    });
    (at.recv().unwrap(), heads)
}

#[test]
fn hosts_outside_are_invoked_by_name_and_by_url_in_tls() {
    let world = World::new();
    world.write("secrets.json", r#"{ "token": "Bearer s3cret" }"#);
    let (at, heads) = bank(&world.path(""));
    world.write(
        "components/all.yaml",
        &format!(
            "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: vault}}
spec: {{type: secretstores.local.file, version: v1, metadata: [{{name: secretsFile, value: secrets.json}}]}}
---
apiVersion: dapr.io/v1alpha1
kind: HTTPEndpoint
metadata: {{name: bank}}
spec:
  baseUrl: https://localhost:{}/v2
  headers: [{{name: authorization, secretKeyRef: {{name: token, key: token}}}}]
auth: {{secretStore: vault}}
",
            at.port()
        ),
    );
    let roots = world.path("roots.pem").display().to_string();
    let trusting = [("SSL_CERT_FILE", roots.as_str())];
    let sidecar = Sidecar::start(&world, &["--app-id", "shop", "--resources-path", "components"], &trusting);
    let pay = || sidecar.call("GET", "/v1.0/invoke/bank/method/pay", &[], "");
    until("the secret is read and the endpoint known", || pay().status == 200);
    assert_eq!(pay().body, "paid");
    heads.recv().unwrap();
    let head = heads.recv().unwrap();
    assert!(head.starts_with("get /v2/pay http/1.1\r\n"), "{head}");
    assert!(head.contains("authorization: bearer s3cret\r\n"), "{head}");
    assert!(head.contains(&format!("host: localhost:{}\r\n", at.port())), "{head}");

    let url = format!("/v1.0/invoke/https://localhost:{}/method/balance?of=me", at.port());
    let told = sidecar.call("GET", &url, &[], "");
    assert_eq!((told.status, told.body.as_str()), (200, "paid"), "{told:?}");
    let head = heads.recv().unwrap();
    assert!(head.starts_with("get /balance?of=me http/1.1\r\n"), "{head}");
    assert!(!head.contains("s3cret"), "the endpoint's secret is for calls by its name: {head}");

    let told =
        sidecar.call("GET", &format!("/v1.0/invoke/https://127.0.0.1:{}/method/x", at.port()), &[], "");
    assert_eq!((told.status, told.error().as_str()), (500, "ERR_DIRECT_INVOKE"), "{told:?}");
    assert!(told.body.contains("not for 127.0.0.1"), "{told:?}");
}
