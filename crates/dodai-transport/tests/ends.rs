//! Trust that ends while a connection stands: revoked certificates, expired ones, and clocks that jump.

use std::time::Duration;

use dodai_core::id::BaseId;
use dodai_core::snapshot::{Revoked as Entry, Whose};
use dodai_transport::ca::{LEAF_VALIDITY, Names};
use dodai_transport::identity::PeerIdentity;
use dodai_transport::revoked::Revoked;
use dodai_transport::stream::Stream;
use dodai_transport::tls::mesh::{self, LiveSvid};
use dodai_transport::tls::{Alpn, EXPIRY_GRACE};
use dodai_transport::trust::Swept;
use tokio::io::AsyncReadExt as _;

use crate::world::{World, app, echo, name, pair};

const SNI: &str = "http.cart.shop.z1.cluster.local";

/// A connection from `web`, whose certificate was issued to base `one`, to `cart`.
async fn connected(world: &World) -> Result<(Stream, Stream), String> {
    let names = Names { holder: Some(BaseId::new("one")), ..Names::default() };
    let web = world.authority.issue(&app("shop/web"), &names, LEAF_VALIDITY, world.hands.now());
    let web = LiveSvid::new(web.expect("issued")).expect("usable");
    let connector = mesh::Connector::new(web, world.trust.clone(), &[Alpn::H2], world.hands.clock());
    shake(world, &connector).await
}

async fn shake(world: &World, connector: &mesh::Connector) -> Result<(Stream, Stream), String> {
    let (cart, (near, far)) = (app("shop/cart"), pair().await);
    let acceptor = world.acceptor(&cart);
    let expected = [cart];
    let ends = tokio::join!(connector.connect(near, name(SNI), &expected), acceptor.accept(far));
    let far = ends.1.map_err(|error| error.to_string())?;
    Ok((ends.0.map_err(|error| error.to_string())?, far))
}

fn revoke(world: &World, whose: Whose) -> Swept {
    let until = world.hands.now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    world.trust.revoke(Revoked::of(&[Entry { whose, until }]), world.hands.now())
}

#[tokio::test(start_paused = true)]
async fn a_revoked_base_is_cut_off_at_once_and_not_let_in_again() {
    let world = World::new();
    let (mut near, mut far) = connected(&world).await.expect("good so far");
    let (mut other, mut beside) =
        shake(&world, &world.connector(&app("shop/web"))).await.expect("of no base");
    echo(&mut near, &mut far).await.expect("bytes pass");
    let reading = async {
        let error = far.read(&mut [0; 8]).await.expect_err("cut while it waits");
        assert_eq!(error.to_string(), "the peer's certificate was revoked");
    };
    let revoking = async {
        tokio::task::yield_now().await;
        revoke(&world, Whose::Base(BaseId::new("one")))
    };
    let ((), swept) = tokio::join!(reading, revoking);
    // Both ends of both connections are of this process.
    assert_eq!(swept, Swept { open: 4, cut: 1 });
    echo(&mut other, &mut beside).await.expect("others are not touched");
    let error = connected(&world).await.expect_err("not again");
    assert_eq!(error, "TLS handshake: the peer's certificate is revoked");
    world.hands.forward(Duration::from_secs(1));
    connected(&world).await.expect("what is issued later is good");
    world.trust.revoke(Revoked::default(), world.hands.now());
    world.trust.sweep(world.hands.now());
}

#[tokio::test(start_paused = true)]
async fn a_revoked_callee_is_refused_by_the_dialling_side() {
    let world = World::new();
    let (mut near, mut far) = connected(&world).await.expect("good so far");
    assert_eq!(revoke(&world, Whose::App(dodai_core::id::AppId::parse("shop/cart").expect("id"))).cut, 1);
    assert!(near.read(&mut [0; 1]).await.is_err(), "the side that trusted it");
    drop(near);
    assert_eq!(far.read(&mut [0; 1]).await.map_err(|_| ()).unwrap_or(0), 0);
    let (cart, (near, far)) = (app("shop/cart"), pair().await);
    let (connector, acceptor) = (world.connector(&app("shop/web")), world.acceptor(&cart));
    let expected = [cart];
    let (near, far) = tokio::join!(connector.connect(near, name(SNI), &expected), acceptor.accept(far));
    assert!(near.expect_err("refused").to_string().ends_with("the peer's certificate is revoked"));
    assert!(far.expect_err("refused").to_string().ends_with("our certificate is revoked"));
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_takes_no_further_call_but_ends_none() {
    let world = World::new();
    let (mut near, mut far) = connected(&world).await.expect("good so far");
    let state = |near: &Stream, far: &Stream| (near.is_retiring(), far.is_retiring());
    world.trust.sweep(world.hands.now());
    assert_eq!(state(&near, &far), (false, false));
    world.hands.forward(LEAF_VALIDITY);
    world.trust.sweep(world.hands.now());
    assert_eq!(state(&near, &far), (true, false), "the side that dialled stops first");
    world.hands.forward(EXPIRY_GRACE);
    world.trust.sweep(world.hands.now());
    assert_eq!(state(&near, &far), (true, true));
    echo(&mut near, &mut far).await.expect("what is under way may end");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_looks_at_its_own_connection_only() {
    let world = World::new();
    let (near, _far) = connected(&world).await.expect("good so far");
    revoke(&world, Whose::Base(BaseId::new("another")));
    world.hands.forward(LEAF_VALIDITY);
    let (fresh, _other) = connected(&world).await.expect("with a certificate of today");
    assert!(!near.is_retiring(), "that is for the next sweep to see");
    world.trust.sweep(world.hands.now());
    assert!(near.is_retiring() && !fresh.is_retiring());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ahead_refuses_and_one_that_comes_back_takes_again() {
    let world = World::new();
    let connector = world.connector(&PeerIdentity::base(&BaseId::new("one")).expect("valid"));
    let (mut near, mut far) = shake(&world, &connector).await.expect("good so far");
    world.hands.forward(LEAF_VALIDITY * 3);
    let error = shake(&world, &connector).await.expect_err("expired");
    assert!(error.contains("certificate expired 172800s ago; renew it, or set the clocks right"), "{error}");
    echo(&mut near, &mut far).await.expect("what stands is not touched by a handshake");
    world.hands.back(LEAF_VALIDITY * 3);
    shake(&world, &connector).await.expect("the clock is right again");
    world.trust.sweep(world.hands.now());
    assert!(!near.is_retiring() && !far.is_retiring());
}
