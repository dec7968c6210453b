use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use dodai_transport::ca::{
    Authority, AuthorityError, BadRequest, KEY_FILE, KeyRequest, LEAF_VALIDITY, Names, ROOT_FILE,
    ROOT_VALIDITY, Svid,
};
use dodai_transport::identity::{PeerIdentity, TrustDomain};
use dodai_transport::pem;
use dodai_transport::trust::{BadBundle, Bundle, Trust, Usage};
use proptest::prelude::*;
use rustls::pki_types::UnixTime;

use crate::world::{World, app, domain, issue};

fn unix(time: std::time::SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(std::time::UNIX_EPOCH).expect("after 1970"))
}

fn verify(world: &World, svid: &Svid) -> Result<(), String> {
    let (leaf, rest) = svid.chain().split_first().expect("a leaf");
    for usage in [Usage::Client, Usage::Server] {
        let identity = world
            .trust
            .verify(leaf, rest, usage, unix(world.hands.now()))
            .map_err(|error| error.to_string())?;
        assert_eq!(&identity, svid.identity());
    }
    Ok(())
}

#[test]
fn it_is_saved_and_loaded_with_a_key_only_we_can_read() {
    let world = World::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let load = || Authority::load(TrustDomain::default(), dir.path(), world.hands.now());
    assert!(load().expect("empty folder").is_none());
    world.authority.save(dir.path()).expect("saved");
    let mode = fs::metadata(dir.path().join(KEY_FILE)).expect("key file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = load().expect("loaded").expect("there");
    assert_eq!(again.not_after(), world.hands.now() + ROOT_VALIDITY);
    let svid = issue(&again, &app("shop/cart"), world.hands.now());
    verify(&world, &svid).expect("signed by the same root");

    fs::remove_file(dir.path().join(ROOT_FILE)).expect("remove");
    assert!(matches!(load(), Err(AuthorityError::File { verb: "read", .. })));
    let other = Authority::create(TrustDomain::default(), world.hands.now()).expect("other");
    fs::write(dir.path().join(ROOT_FILE), other.chain_pem()).expect("write");
    assert!(matches!(load(), Err(AuthorityError::Mismatch)));
    fs::write(dir.path().join(ROOT_FILE), svid.chain_pem()).expect("write");
    assert!(matches!(load(), Err(AuthorityError::NotCa)));
}

#[test]
fn a_request_travels_and_comes_back_as_an_svid() {
    let world = World::new();
    let (cart, now) = (app("shop/cart"), world.hands.now());
    let request = KeyRequest::new(&cart, &Names::default(), &TrustDomain::default()).expect("request");
    let sign = |pem: &str, identity: &PeerIdentity| {
        world.authority.sign(pem, identity, &Names::default(), Duration::from_secs(3600), now)
    };
    let denied = sign(request.pem(), &app("shop/pay")).expect_err("not that app");
    assert!(matches!(denied, AuthorityError::Request(BadRequest::Identity(_))), "{denied}");
    let chain = sign(request.pem(), &cart).expect("signed");
    let svid = request.accept(&chain, &TrustDomain::default()).expect("an SVID");
    assert_eq!(svid.identity(), &cart);
    assert_eq!(svid.not_after(), now + Duration::from_secs(3600));
    verify(&world, &svid).expect("trusted");

    let other = KeyRequest::new(&cart, &Names::default(), &TrustDomain::default()).expect("request");
    assert!(other.accept(&chain, &TrustDomain::default()).is_err(), "a chain for another key");
}

#[test]
fn a_leaf_never_outlives_its_root_and_an_expired_root_signs_nothing() {
    let world = World::new();
    let now = world.hands.now();
    let short = Authority::create_for(TrustDomain::default(), now, Duration::from_secs(3600)).expect("short");
    assert_eq!(issue(&short, &app("a/b"), now).not_after(), now + Duration::from_secs(3600));
    let early = now - Duration::from_secs(3600);
    let load = Authority::from_pem(TrustDomain::default(), &short.chain_pem(), &short.key_pem(), early);
    assert!(matches!(load, Err(AuthorityError::Expired)), "not valid yet");
    let forever = short.issue(&app("a/b"), &Names::default(), Duration::MAX, now).expect("bounded");
    assert_eq!(forever.not_after(), short.not_after());
    let later = now + Duration::from_secs(3601);
    let error = short.issue(&app("a/b"), &Names::default(), LEAF_VALIDITY, later).expect_err("expired");
    assert!(matches!(error, AuthorityError::Expired));
    let load = Authority::from_pem(TrustDomain::default(), &short.chain_pem(), &short.key_pem(), later);
    assert!(matches!(load, Err(AuthorityError::Expired)));
}

#[test]
fn a_leaf_is_no_authority() {
    let world = World::new();
    let now = world.hands.now();
    let leaf = world.svid(&app("shop/cart"));
    // Somebody with a leaf's key signs a further leaf with it, without our checks in the way.
    let key = rcgen::KeyPair::from_pem(&leaf.key_pem()).expect("key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&leaf.chain_pem(), key).expect("issuer");
    let mut params = rcgen::CertificateParams::default();
    let uri = "spiffe://cluster.local/server".try_into().expect("uri");
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    let key = rcgen::KeyPair::generate().expect("key");
    let forged = params.signed_by(&key, &issuer).expect("signed");
    let chain = [leaf.chain()[0].clone()];
    assert!(world.trust.verify(forged.der(), &chain, Usage::Client, unix(now)).is_err());
}

#[test]
fn an_intermediate_of_a_company_root_hands_its_chain_on() {
    let world = World::new();
    let now = world.hands.now();
    let root_key = rcgen::KeyPair::generate().expect("key");
    let mut root = rcgen::CertificateParams::default();
    root.distinguished_name.push(rcgen::DnType::CommonName, "Company root");
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_cert = root.self_signed(&root_key).expect("root");
    let key = rcgen::KeyPair::generate().expect("key");
    let mut middle = rcgen::CertificateParams::default();
    middle.distinguished_name.push(rcgen::DnType::CommonName, "Mesh");
    middle.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let issuer = rcgen::Issuer::new(root, root_key);
    let middle_cert = middle.signed_by(&key, &issuer).expect("middle");
    let chain = middle_cert.pem() + &root_cert.pem();
    let authority =
        Authority::from_pem(TrustDomain::default(), &chain, &key.serialize_pem(), now).expect("authority");
    let svid = issue(&authority, &app("shop/cart"), now);
    assert_eq!(svid.chain().len(), 2);
    world.trust.replace(Bundle::from_pem(&root_cert.pem()).expect("bundle"));
    verify(&world, &svid).expect("by way of the intermediate");
    assert_eq!(authority.bundle().expect("bundle").roots(), [root_cert.der().clone()]);

    let wrong = middle_cert.pem() + &world.authority.chain_pem();
    let error = Authority::from_pem(TrustDomain::default(), &wrong, &key.serialize_pem(), now);
    let why = error.expect_err("another root").to_string();
    assert!(why.contains("put the issuing certificate first in the file and its root last"), "{why}");
}

#[test]
fn a_bundle_reads_back_and_refuses_what_helps_nobody() {
    let world = World::new();
    let one = world.authority.bundle().expect("bundle");
    let two = World::new().authority.bundle().expect("bundle");
    let both = one.with(&two).expect("both");
    assert_eq!(Bundle::from_pem(&both.to_pem()), Ok(both.clone()));
    assert_eq!(both.with(&one), Ok(both.clone()), "no duplicates");
    assert_eq!(Bundle::new([]), Err(BadBundle::Empty));
    let junk = pem::encode("CERTIFICATE", b"junk");
    assert!(Bundle::from_pem(&(one.to_pem() + &junk)).is_err());
    assert_eq!(Trust::new(domain("a.b"), one).domain().as_str(), "a.b");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn garbage_is_refused_in_peace(text in "\\PC{0,200}", at in any::<usize>(), with in any::<u8>()) {
        let world = World::new();
        let (domain, now) = (TrustDomain::default(), world.hands.now());
        prop_assert!(Authority::from_pem(domain.clone(), &text, &text, now).is_err());
        prop_assert!(Bundle::from_pem(&text).is_err());
        prop_assert!(Svid::from_pem(&text, &text, &domain).is_err());
        // A certificate with one byte wrong must never be believed.
        let svid = world.svid(&app("shop/cart"));
        let mut der = svid.chain()[0].to_vec();
        let at = at % der.len();
        prop_assume!(der[at] != with);
        der[at] = with;
        prop_assert!(world.trust.verify(&der.into(), &[], Usage::Client, unix(now)).is_err());
    }
}
