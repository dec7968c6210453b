use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dodai_core::failure::{Failure, Kind};
use dodai_core::id::{AppId, BaseId};
use dodai_transport::ca::{Authority, LEAF_VALIDITY, Names};
use dodai_transport::identity::PeerIdentity;
use dodai_transport::stream::Stream;
use dodai_transport::tls::mesh::{self, Keyring, LiveSvid};
use dodai_transport::tls::public::{self, Roots};
use dodai_transport::tls::{Acceptor, Alpn, HANDSHAKE_TIMEOUT, HandshakeError};
use dodai_transport::trust::Trust;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::world::{World, app, domain, echo, issue, name, pair};

type Ends = (Result<Stream, Failure>, Result<Stream, HandshakeError>);

const SNI: &str = "http.cart.shop.z1.cluster.local";

async fn shake(
    connector: &mesh::Connector,
    acceptor: &Acceptor,
    sni: &str,
    expected: &[PeerIdentity],
) -> Ends {
    let (near, far) = pair().await;
    tokio::join!(connector.connect(near, name(sni), expected), acceptor.accept(far))
}

fn failed<T: std::fmt::Debug>(result: Result<T, impl std::fmt::Display>) -> String {
    result.map_err(|error| error.to_string()).expect_err("the handshake must fail")
}

#[tokio::test(start_paused = true)]
async fn both_sides_learn_who_the_other_is() {
    let world = World::new();
    let (web, cart) = (app("shop/web"), app("shop/cart"));
    let (near, far) =
        shake(&world.connector(&web), &world.acceptor(&cart), SNI, std::slice::from_ref(&cart)).await;
    let (mut near, mut far) = (near.expect("near"), far.expect("far"));
    assert_eq!((near.identity(), far.identity()), (Some(&cart), Some(&web)));
    assert_eq!((near.alpn(), far.alpn()), (Some(Alpn::H2), Some(Alpn::H2)));
    assert_eq!(far.server_name(), Some(SNI));
    assert_eq!(near.peer_addr().expect("addr").to_string(), "10.0.0.2:443");
    assert!(near.is_tls() && near.as_tcp().is_none());
    echo(&mut near, &mut far).await.expect("bytes pass");
    near.shutdown().await.expect("close");
    assert_eq!(far.read(&mut [0; 8]).await.expect("a clean end"), 0);
}

#[tokio::test(start_paused = true)]
async fn bases_and_the_server_have_identities_too() {
    let world = World::new();
    let base = PeerIdentity::base(&BaseId::new("node-1")).expect("id");
    let expected = [app("shop/cart"), PeerIdentity::Server];
    let (near, far) =
        shake(&world.connector(&base), &world.acceptor(&PeerIdentity::Server), "server", &expected).await;
    assert_eq!(near.expect("near").identity(), Some(&PeerIdentity::Server));
    assert_eq!(far.expect("far").identity(), Some(&base));
}

#[tokio::test(start_paused = true)]
async fn somebody_else_of_the_mesh_is_refused_by_name() {
    let world = World::new();
    let connector = world.connector(&app("shop/web"));
    let (near, far) =
        shake(&connector, &world.acceptor(&app("shop/mallory")), SNI, &[app("shop/cart")]).await;
    assert_eq!(near.as_ref().expect_err("refused").kind, Kind::Tls);
    let why = failed(near);
    assert!(why.ends_with("the peer is app shop/mallory, but app shop/cart was expected"), "{why}");
    assert_eq!(failed(far), "TLS handshake: the peer refused our certificate");
    let (near, _) = shake(&connector, &world.acceptor(&app("shop/cart")), SNI, &[]).await;
    assert!(failed(near).ends_with("but nobody was expected"));
}

#[tokio::test(start_paused = true)]
async fn another_mesh_is_refused_by_both_sides() {
    let (world, other) = (World::new(), World::of("other.example"));
    let (web, cart) = (app("shop/web"), app("shop/cart"));
    let expected = std::slice::from_ref(&cart);
    let (near, far) = shake(&world.connector(&web), &other.acceptor(&cart), SNI, expected).await;
    assert!(failed(near).ends_with("not signed by a root that is trusted here"));
    assert!(failed(far).ends_with("the peer does not trust the root that signed our certificate"));
    // Towards a server that is fooled into our trust but has its own: only the server can refuse.
    let mut fooled = World::of("other.example");
    fooled.trust = Trust::new(domain("other.example"), world.authority.bundle().expect("bundle"));
    let connector =
        mesh::Connector::new(other.live(&web), other.trust.clone(), &[Alpn::H2], other.hands.clock());
    fooled.authority = other.authority;
    let (_, far) = shake(&connector, &fooled.acceptor(&cart), SNI, expected).await;
    assert!(failed(far).ends_with("not signed by a root that is trusted here"));
}

#[tokio::test(start_paused = true)]
async fn a_root_that_signs_for_another_trust_domain_gains_nothing() {
    let world = World::new();
    let (chain, key) = (world.authority.chain_pem(), world.authority.key_pem());
    let now = world.hands.now();
    let foreign = Authority::from_pem(domain("evil.example"), &chain, &key, now).expect("same root");
    let svid = LiveSvid::new(issue(&foreign, &app("shop/cart"), now)).expect("svid");
    let acceptor = mesh::acceptor(Arc::new(svid), world.trust.clone(), Alpn::HTTP, world.hands.clock());
    let (near, _) = shake(&world.connector(&app("shop/web")), &acceptor, SNI, &[app("shop/cart")]).await;
    let why = failed(near);
    assert!(
        why.ends_with("`spiffe://evil.example/ns/shop/cart` is not of trust domain `cluster.local`"),
        "{why}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_refused_by_the_clock_that_was_passed() {
    let world = World::new();
    let (web, cart) = (app("shop/web"), app("shop/cart"));
    let expected = std::slice::from_ref(&cart);
    let (stale_web, stale_cart) = (world.connector(&web), world.acceptor(&cart));
    world.hands.forward(LEAF_VALIDITY + Duration::from_secs(60));
    let (near, far) = shake(&world.connector(&web), &stale_cart, SNI, expected).await;
    let why = failed(near);
    assert!(why.ends_with("certificate expired 60s ago; renew it, or set the clocks right"), "{why}");
    assert!(failed(far).ends_with("our certificate has expired; compare the clocks"));
    let (near, far) = shake(&stale_web, &world.acceptor(&cart), SNI, expected).await;
    assert!(failed(far).contains("certificate expired 60s ago"));
    // In TLS 1.3 the dialling side is done before the other looks at its certificate: reading tells.
    let error = near.expect("done").read(&mut [0; 1]).await.expect_err("alert");
    let why = dodai_transport::tls::reason(&error);
    assert_eq!(why, "the peer says that our certificate has expired; compare the clocks");
}

#[tokio::test(start_paused = true)]
async fn a_root_is_rotated_without_dropping_a_connection_and_then_worth_nothing() {
    let world = World::new();
    let (web, cart) = (app("shop/web"), app("shop/cart"));
    let expected = std::slice::from_ref(&cart);
    let (connector, acceptor) = (world.connector(&web), world.acceptor(&cart));
    let (near, far) = shake(&connector, &acceptor, SNI, expected).await;
    let (mut near, mut far) = (near.expect("old root"), far.expect("old root"));

    let now = world.hands.now();
    let old = world.trust.bundle();
    let next = Authority::create(domain("cluster.local"), now).expect("next root");
    world.trust.replace(old.with(&next.bundle().expect("bundle")).expect("both"));
    let renewed = LiveSvid::new(issue(&next, &cart, now)).expect("svid");
    let fresh = mesh::acceptor(Arc::new(renewed), world.trust.clone(), Alpn::HTTP, world.hands.clock());
    for acceptor in [&acceptor, &fresh] {
        let (near, far) = shake(&connector, acceptor, SNI, expected).await;
        echo(&mut near.expect("overlap"), &mut far.expect("overlap")).await.expect("bytes pass");
    }

    assert!(!near.is_retiring() && !far.is_retiring(), "both roots are trusted");
    world.trust.replace(next.bundle().expect("new only"));
    echo(&mut near, &mut far).await.expect("what is under way on a standing connection may end");
    assert!(near.is_retiring() && far.is_retiring(), "but it takes no further call");
    let (near, _) = shake(&connector, &acceptor, SNI, expected).await;
    assert!(failed(near).ends_with("not signed by a root that is trusted here"));
    let (_, far) = shake(&connector, &fresh, SNI, expected).await;
    assert!(failed(far).ends_with("not signed by a root that is trusted here"));
}

#[tokio::test(start_paused = true)]
async fn a_renewed_svid_is_presented_from_the_next_handshake_on() {
    let world = World::new();
    let (web, cart) = (app("shop/web"), app("shop/cart"));
    let live = world.live(&cart);
    let (clock, trust) = (world.hands.clock(), world.trust.clone());
    let acceptor = mesh::acceptor(Arc::new(live.clone()), trust, Alpn::HTTP, clock);
    world.hands.forward(LEAF_VALIDITY);
    assert!(live.load().needs_renewal(world.hands.now()));
    live.replace(world.svid(&cart)).expect("renewed");
    assert!(!live.load().needs_renewal(world.hands.now()));
    world.hands.forward(LEAF_VALIDITY / 4);
    let (near, far) = shake(&world.connector(&web), &acceptor, SNI, &[cart]).await;
    assert!(near.is_ok() && far.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_keyring_answers_by_service_and_refuses_services_of_others() {
    let world = World::new();
    let own = PeerIdentity::base(&BaseId::new("node-1")).expect("id");
    let ring = Keyring::new(world.live(&own));
    let service = AppId::parse("shop/cart").expect("id");
    ring.replace(HashMap::from([(service.clone(), world.live(&app("shop/cart-v2")))]));
    let acceptor =
        mesh::acceptor(Arc::new(ring.clone()), world.trust.clone(), Alpn::HTTP, world.hands.clock());
    let connector = world.connector(&app("shop/web"));
    let anybody = [app("shop/cart-v2"), own.clone()];
    for (sni, expect) in [(SNI, app("shop/cart-v2")), ("node-1", own)] {
        let (near, _) = shake(&connector, &acceptor, sni, &anybody).await;
        assert_eq!(near.expect(sni).identity(), Some(&expect));
    }
    let (near, _) = shake(&connector, &acceptor, "http.pay.shop.z1.cluster.local", &anybody).await;
    assert_eq!(near.expect_err("not ours").kind, Kind::Tls);
    assert!(ring.get(&service).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_certificate_is_refused() {
    let world = World::new();
    let names = Names { dns: vec!["cart.example".into()], ..Names::default() };
    let svid = world.authority.issue(&app("shop/cart"), &names, LEAF_VALIDITY, world.hands.now());
    let keys = Arc::new(LiveSvid::new(svid.expect("issued")).expect("svid"));
    let acceptor = mesh::acceptor(keys, world.trust.clone(), Alpn::HTTP, world.hands.clock());
    let roots = Roots::given(world.authority.chain_pem().as_bytes()).expect("root");
    let connector = public::Connector::new(&roots, Alpn::HTTP, world.hands.clock());
    let (near, far) = pair().await;
    let (near, far) = tokio::join!(connector.connect(near, "cart.example"), acceptor.accept(far));
    assert_eq!(failed(far), "TLS handshake: the peer presented no certificate, which this port requires");
    let error = near.expect("done").read(&mut [0; 1]).await.expect_err("alert");
    assert_eq!(dodai_transport::tls::reason(&error), "the peer requires a certificate of us");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_and_one_that_speaks_something_else_are_told_apart() {
    let world = World::new();
    let acceptor = world.acceptor(&app("shop/cart"));
    let (_near, far) = pair().await;
    let start = Instant::now();
    assert!(matches!(acceptor.accept(far).await, Err(HandshakeError::TimedOut(_))));
    assert_eq!(start.elapsed(), HANDSHAKE_TIMEOUT);

    let (mut near, far) = pair().await;
    near.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
    assert_eq!(
        failed(acceptor.accept(far).await),
        "TLS handshake: the peer does not speak TLS; is it a plain-text port?"
    );
    let (near, far) = pair().await;
    drop(near);
    assert!(matches!(acceptor.accept(far).await, Err(HandshakeError::Io(_))));

    let connector = world.connector(&app("shop/web")).with_timeout(Duration::from_secs(2));
    let (near, _far) = pair().await;
    let why = failed(connector.connect(near, name(SNI), &[]).await);
    assert_eq!(why, format!("tls: TLS handshake with {SNI} at 10.0.0.2:443: not finished within 2s"));
    let (near, mut far) = pair().await;
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("written");
    let why = failed(connector.connect(near, name(SNI), &[]).await);
    assert!(why.ends_with("does not speak TLS; is it a plain-text port?"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn peers_without_a_protocol_in_common_say_so() {
    let world = World::new();
    let cart = app("shop/cart");
    let acceptor = world.acceptor(&cart).with_alpn(&[Alpn::Http1]);
    let (near, far) = shake(&world.connector(&app("shop/web")), &acceptor, SNI, &[cart]).await;
    let why = failed(near);
    assert!(why.ends_with("no application protocol in common (ALPN)"), "{why}");
    assert!(failed(far).ends_with("no application protocol in common (ALPN)"));
}

#[tokio::test]
async fn handshakes_in_flight_stay_small() {
    let world = World::new();
    let (acceptor, connector) = (world.acceptor(&app("shop/cart")), world.connector(&app("shop/web")));
    let (near, far) = pair().await;
    let accept = size_of_val(&acceptor.accept(far));
    let connect = size_of_val(&connector.connect(near, name(SNI), &[]));
    assert!(accept <= 3 * 1024, "{accept}");
    assert!(connect <= 5 * 1024, "{connect}");
}
