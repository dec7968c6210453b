//! Clients that show certificates at a gateway: who gets in, what apps and rules learn of them.

use std::time::SystemTime;

use bytes::Bytes;
use dodai_core::snapshot::*;
use dodai_transport::ca::{Authority, LEAF_VALIDITY, Names};
use dodai_transport::client_certificate::ClientCertificate;
use dodai_transport::identity::{PeerIdentity, TrustDomain};
use dodai_transport::network::Network;
use dodai_transport::pem;
use dodai_transport::stream::Stream;
use dodai_transport::tls::public::{Connector, Roots};
use dodai_transport::tls::{Alpn, Clock};
use http::Request;

use crate::support::*;
use crate::tls::Site;

const HOST: &str = "shop.example";
const CART: &str = "spiffe://partner.example/ns/shop/cart";

/// A gateway that asks for certificates, and an authority of its clients.
struct Border {
    site: Site,
    partner: Authority,
}

impl Border {
    fn new() -> Border {
        let (site, partner) = (Site::new(), authority("partner.example"));
        site.write("ca.crt", &partner.chain_pem());
        Border { site, partner }
    }

    /// An authority's file, and the listener that asks for what it has signed.
    fn listener(&self, protocol: Protocol, is_optional: bool) -> Resource {
        let files = vec![self.site.folder.path().join("ca.crt").display().to_string()];
        let clients = Some(ClientAuthorities { files, revoked_file: None, is_optional });
        let certificates = vec![self.site.issue("one", &[HOST])];
        let tls = Some(Tls { certificates, names: vec![], only_newest: false, clients });
        let role = Role::Gateway { routes: "all".into() };
        Resource::Listener(Listener { tls, ..Listener::new("secure", (GATEWAY, 443).into(), protocol, role) })
    }

    async fn world(&self, is_optional: bool, filters: Vec<Filter>) -> World {
        let mut all = usual(service("shop/catalog/http"), filtered(filters));
        all.push(self.listener(Protocol::Http, is_optional));
        World::of(all).await
    }

    /// A client with a certificate of `authority`, or without; and what the certificate says of it.
    async fn dial(
        &self,
        world: &World,
        authority: Option<&Authority>,
        offer: &[Alpn],
    ) -> (Stream, Option<ClientCertificate>) {
        let network = Network::Memory(world.net.host([10, 0, 0, 5]));
        let stream = network.connect_addr((GATEWAY, 443).into(), secs(1)).await.expect("connected");
        let roots = Roots::given(self.site.authority.chain_pem().as_bytes()).expect("roots");
        let Some(authority) = authority else {
            let connector = Connector::new(&roots, offer, Clock::system());
            return (connector.connect(stream, HOST).await.expect("TLS 1.3 tells later"), None);
        };
        let names = Names { dns: vec!["Cart.partner.example".into()], ..Names::default() };
        let identity = PeerIdentity::App(app("shop/cart"));
        let svid = authority.issue(&identity, &names, LEAF_VALIDITY, SystemTime::now()).expect("issued");
        let key = pem::private_key(svid.key_pem().as_bytes()).expect("a key");
        let chain = svid.chain().to_vec();
        let shown = ClientCertificate::of(&chain[0]);
        let connector = Connector::with_certificate(&roots, offer, Clock::system(), chain, key);
        (connector.expect("usable").connect(stream, HOST).await.expect("TLS 1.3 tells later"), shown)
    }

    async fn text(&self, world: &World, authority: Option<&Authority>) -> Peer {
        Peer::new(self.dial(world, authority, &[Alpn::Http1]).await.0)
    }
}

fn authority(domain: &str) -> Authority {
    Authority::create(TrustDomain::new(domain).expect("a name"), SystemTime::now()).expect("created")
}

/// A request that says of itself what only a certificate can.
fn spoofed(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-Client-Cert: Hash=00;URI={CART}\r\n\r\n")
}

#[tokio::test(start_paused = true)]
async fn apps_and_records_learn_who_has_proven_it() {
    local(async {
        let border = Border::new();
        let world = border.world(false, vec![]).await;
        let mut backends = world.backend(1);
        let (stream, shown) = border.dial(&world, Some(&border.partner), &[Alpn::Http1]).await;
        let shown = shown.expect("it has one");
        let expect = format!("Hash={};Subject=\"\";URI={CART};DNS=cart.partner.example", shown.hash);
        assert_eq!(shown.forwarded(), expect);
        let mut client = Peer::new(stream);
        let mut backend = None;
        for sent in [spoofed("/a"), format!("GET /b HTTP/1.1\r\nHost: {HOST}\r\n\r\n")] {
            client.send(sent).await;
            let peer = match &mut backend {
                Some(peer) => peer,
                None => backend.insert(backends.accept().await),
            };
            let request = peer.answer(OK).await;
            assert_eq!(request.header("x-forwarded-client-cert"), Some(&*expect));
            assert_eq!(client.message().await.status(), 200);
            assert_eq!(&*world.records.next().await.identity, CART);
        }
        let wanted = dodai_dataplane::roll::Wanted { limit: 10, ..Default::default() };
        let told = world.plane.connections(wanted, secs(1)).await;
        assert_eq!(told[0].identity.as_deref(), Some(CART));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_same_holds_for_streams() {
    local(async {
        for protocol in [Protocol::Http, Protocol::Http2] {
            let border = Border::new();
            let mut all = usual(Service { protocol, ..service("shop/catalog/http") }, filtered(vec![]));
            all.push(border.listener(Protocol::Http, false));
            let world = World::of(all).await;
            let mut backends = world.backend(1);
            let (stream, shown) = border.dial(&world, Some(&border.partner), Alpn::HTTP).await;
            let expect = shown.expect("it has one").forwarded();
            let (mut sender, connection) = h2::client::handshake(stream).await.expect("shaken");
            let driven = beside(connection);
            let backend = beside(async move {
                let mut peer = backends.accept().await;
                if protocol == Protocol::Http {
                    let request = peer.answer(OK).await;
                    return request.header("x-forwarded-client-cert").expect("it is there").to_owned();
                }
                let mut connection: h2::server::Connection<_, Bytes> =
                    h2::server::handshake(peer.stream).await.expect("shaken");
                let (request, mut respond) = connection.accept().await.expect("one").expect("no error");
                respond.send_response(http::Response::new(()), true).expect("sent");
                let said = request.headers()["x-forwarded-client-cert"].to_str().expect("text").to_owned();
                let _gone = connection.accept().await;
                said
            });
            let request = Request::get(format!("https://{HOST}/x"))
                .header("x-forwarded-client-cert", format!("Hash=00;URI={CART}"))
                .body(())
                .expect("valid");
            let (answer, _) = sender.send_request(request, true).expect("sent");
            assert_eq!(answer.await.expect("answered").status(), 200);
            assert_eq!(&*world.records.next().await.identity, CART);
            drop(world);
            assert_eq!(backend.await.expect("no panic"), expect);
            driven.abort();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_shows_none_or_a_wrong_one_is_refused_in_the_handshake() {
    local(async {
        let (border, stranger) = (Border::new(), authority("partner.example"));
        for is_optional in [false, true] {
            let world = border.world(is_optional, vec![]).await;
            let mut backends = world.backend(1);
            let mut foreign = border.text(&world, Some(&stranger)).await;
            foreign.try_send(spoofed("/")).await;
            assert_eq!(foreign.rest_bytes().await, b"");
            let mut without = border.text(&world, None).await;
            without.try_send(spoofed("/")).await;
            if is_optional {
                let request = backends.accept().await.answer(OK).await;
                assert_eq!(request.header("x-forwarded-client-cert"), None);
                assert_eq!(without.message().await.status(), 200);
                assert_eq!(&*world.records.next().await.identity, "");
            } else {
                assert_eq!(without.rest_bytes().await, b"");
            }
            assert!(backends.is_left_alone().await);
        }
    })
    .await;
}

fn only(certificates: Vec<CertificateMatch>) -> Filter {
    let rule = AccessRule { allow: true, certificates, ..AccessRule::default() };
    Filter::Access(Access { default_allow: false, rules: vec![rule] })
}

#[tokio::test(start_paused = true)]
async fn rules_of_access_go_by_the_certificate() {
    local(async {
        let border = Border::new();
        for (wanted, status) in [
            (CertificateMatch::Uri("spiffe://partner.example/*".into()), 200),
            (CertificateMatch::Dns("*.partner.example".into()), 200),
            (CertificateMatch::Uri("spiffe://cluster.local/*".into()), 403),
        ] {
            let world = border.world(true, vec![only(vec![wanted.clone()])]).await;
            let mut backends = world.backend(1);
            assert_eq!(border.text(&world, None).await.ask(&spoofed("/")).await.status(), 403);
            let mut client = border.text(&world, Some(&border.partner)).await;
            client.send(spoofed("/")).await;
            if status == 200 {
                backends.accept().await.answer(OK).await;
            }
            assert_eq!(client.message().await.status(), status, "{wanted:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_of_bytes_are_let_in_by_the_certificate() {
    local(async {
        let border = Border::new();
        let catalog = Service { protocol: Protocol::Tcp, ..service("shop/catalog/http") };
        let mut all = usual(catalog, filtered(vec![only(vec![CertificateMatch::Uri(CART.into())])]));
        all.push(border.listener(Protocol::Tcp, true));
        let world = World::of(all).await;
        let mut backends = world.backend(1);
        let mut without = Peer::new(border.dial(&world, None, &[]).await.0);
        assert_eq!(without.rest_bytes().await, b"");
        let mut client = Peer::new(border.dial(&world, Some(&border.partner), &[]).await.0);
        client.send("hello").await;
        assert_eq!(backends.accept().await.text(5).await, "hello");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn other_authorities_count_once_their_file_is_read_again() {
    local(async {
        let border = Border::new();
        let world = border.world(false, vec![]).await;
        let mut backends = world.backend(1);
        border.site.write("ca.crt", "nothing");
        let bad = world.plane.reload_certificates().await;
        assert!(
            matches!(&bad[..], [(name, error)] if name == "secure" && error.to_string().contains("ca.crt"))
        );
        let mut client = border.text(&world, Some(&border.partner)).await;
        client.send(spoofed("/")).await;
        let mut backend = backends.accept().await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.status(), 200, "the last good one stays");
        let next = authority("partner.example");
        border.site.write("ca.crt", &next.chain_pem());
        assert!(world.plane.reload_certificates().await.is_empty());
        let mut late = border.text(&world, Some(&border.partner)).await;
        late.try_send(spoofed("/")).await;
        assert_eq!(late.rest_bytes().await, b"");
        let mut fresh = border.text(&world, Some(&next)).await;
        fresh.send(spoofed("/")).await;
        backend.answer(OK).await;
        assert_eq!(fresh.message().await.status(), 200);
        client.send(spoofed("/")).await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.status(), 200, "who is in stays");
    })
    .await;
}
