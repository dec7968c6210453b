//! Certificates that clients of a gateway show: whose count, and what a change of the files does.

use std::fs;
use std::path::PathBuf;

use dodai_transport::ca::{Authority, LEAF_VALIDITY, Names};
use dodai_transport::pem;
use dodai_transport::tls::clients::Authorities;
use dodai_transport::tls::files::{Files, Pair, Versions};
use dodai_transport::tls::public::{Connector, Roots};
use dodai_transport::tls::{Acceptor, Alpn, Clock};
use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber};

use crate::world::{World, app, echo, pair};

/// A server's certificate, authorities for clients, and a folder for the files.
struct Site {
    world: World,
    partner: World,
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        let site = Site {
            world: World::new(),
            partner: World::of("partner.example"),
            folder: tempfile::tempdir().expect("a folder"),
        };
        let names = Names { dns: vec!["site.example".into()], ..Names::default() };
        let (authority, now) = (&site.world.authority, site.world.hands.now());
        let svid = authority.issue(&app("edge/gate"), &names, LEAF_VALIDITY, now).expect("issued");
        site.write("site.pem", svid.chain_pem());
        site.write("site.key", svid.key_pem());
        site.write("ca.crt", site.partner.authority.chain_pem());
        site
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(file), text).expect("written");
    }

    fn files(&self, revoked: Option<&str>, is_optional: bool) -> Files {
        let pair = Pair { chain: self.path("site.pem"), key: self.path("site.key") };
        let revoked = revoked.map(|file| self.path(file));
        let clients = Authorities { roots: vec![self.path("ca.crt")], revoked, is_optional };
        Files::validating(vec![pair], Some(clients)).expect("loaded")
    }

    fn acceptor(&self, files: &Files) -> Acceptor {
        files.acceptor(Alpn::HTTP, Versions::Usual, self.world.hands.clock())
    }

    /// A client with a certificate of `authority`, or without.
    fn client(&self, authority: Option<&Authority>) -> Connector {
        let roots = Roots::given(self.world.authority.chain_pem().as_bytes()).expect("roots");
        let clock = self.world.hands.clock();
        let Some(authority) = authority else { return Connector::new(&roots, Alpn::HTTP, clock) };
        let now = self.world.hands.now();
        let svid = authority.issue(&app("shop/cart"), &Names::default(), LEAF_VALIDITY, now).expect("issued");
        let chain = svid.chain().to_vec();
        let key = pem::private_key(svid.key_pem().as_bytes()).expect("a key");
        Connector::with_certificate(&roots, Alpn::HTTP, clock, chain, key).expect("usable")
    }
}

/// Whether the client has shown a certificate; else why it is refused.
async fn call(acceptor: &Acceptor, client: &Connector) -> Result<bool, String> {
    let (near, far) = pair().await;
    let (near, far) = tokio::join!(client.connect(near, "site.example"), acceptor.accept(far));
    let (mut near, mut far) = (near.expect("TLS 1.3 tells later"), far.map_err(|error| error.to_string())?);
    echo(&mut near, &mut far).await.expect("bytes pass");
    assert_eq!(far.identity(), None, "nobody of the mesh");
    Ok(far.peer_certificate().is_some())
}

#[tokio::test(start_paused = true)]
async fn only_certificates_of_the_authorities_count() {
    let site = Site::new();
    let stranger = World::of("stranger.example");
    for (optional, without) in [(false, None), (true, Some(false))] {
        let acceptor = site.acceptor(&site.files(None, optional));
        let none = call(&acceptor, &site.client(None)).await;
        match without {
            Some(shown) => assert_eq!(none, Ok(shown)),
            None => assert!(none.expect_err("none").contains("presented no certificate"), "{optional}"),
        }
        let own = site.client(Some(&site.partner.authority));
        assert_eq!(call(&acceptor, &own).await, Ok(true));
        let foreign = call(&acceptor, &site.client(Some(&stranger.authority))).await;
        assert!(foreign.expect_err("foreign").contains("not signed by a root"), "{optional}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_authorities_count_without_a_restart_and_bad_files_are_named() {
    let site = Site::new();
    let files = site.files(None, false);
    let acceptor = site.acceptor(&files);
    assert!(!files.reload().expect("the same"), "nothing changed");
    let next = World::of("next.example");
    let (old, new) = (site.client(Some(&site.partner.authority)), site.client(Some(&next.authority)));
    for (text, why) in
        [("", "ca.crt: no certificate in it"), ("-----BEGIN CERTIFICATE-----", "ca.crt: not valid PEM")]
    {
        site.write("ca.crt", text);
        let error = files.reload().expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(call(&acceptor, &old).await, Ok(true), "the last good one stays");
    assert!(call(&acceptor, &new).await.is_err());
    site.write("ca.crt", next.authority.chain_pem());
    assert!(files.reload().expect("good"));
    assert_eq!(call(&acceptor, &new).await, Ok(true));
    assert!(call(&acceptor, &old).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_refuses_clients_no_longer_than_it_is_wrong() {
    let site = Site::new();
    for optional in [false, true] {
        let acceptor = site.acceptor(&site.files(None, optional));
        let client = site.client(Some(&site.partner.authority));
        let jump = LEAF_VALIDITY * 3;
        // Only the listener's clock is wrong: the client has its own.
        let wrong = |ahead: bool| {
            let hands = site.world.hands.clone();
            let clock = Clock::from_fn(move || if ahead { hands.now() + jump } else { hands.now() - jump });
            site.files(None, optional).acceptor(Alpn::HTTP, Versions::Usual, clock)
        };
        assert_eq!(call(&acceptor, &client).await, Ok(true));
        for (ahead, word) in [(true, "expired"), (false, "valid only in")] {
            let why = call(&wrong(ahead), &client).await.expect_err("not by that clock");
            assert!(why.contains(word), "{why}");
        }
        // One listener whose clock goes there and back.
        site.world.hands.forward(jump);
        let late = site.client(Some(&site.partner.authority));
        site.world.hands.back(jump);
        assert!(call(&acceptor, &late).await.expect_err("from the future").contains("valid only in"));
        assert_eq!(call(&acceptor, &client).await, Ok(true), "no session was kept, and nothing else");
    }
}

/// A list of the authority that says this certificate is revoked.
fn list(authority: &Authority, serial: &[u8], site: &Site) -> String {
    let key = KeyPair::from_pem(&authority.key_pem()).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&authority.chain_pem(), key).expect("an authority");
    let now = site.world.hands.now();
    let params = CertificateRevocationListParams {
        this_update: now.into(),
        next_update: (now + LEAF_VALIDITY).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&issuer).expect("signed").pem().expect("PEM")
}

#[tokio::test(start_paused = true)]
async fn what_a_list_revokes_is_refused() {
    let site = Site::new();
    let authority = &site.partner.authority;
    site.write("lists.pem", list(authority, &[1], &site));
    let files = site.files(Some("lists.pem"), false);
    let acceptor = site.acceptor(&files);
    let client = site.client(Some(authority));
    assert_eq!(call(&acceptor, &client).await, Ok(true), "it is not on the list");
    let (near, far) = pair().await;
    let (near, far) = tokio::join!(client.connect(near, "site.example"), acceptor.accept(far));
    let (_near, far) = (near.expect("through"), far.expect("through"));
    let shown =
        dodai_transport::certificate::Facts::of(far.peer_certificate().expect("shown")).expect("read");
    let serial: Vec<u8> =
        shown.serial.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    site.write("lists.pem", list(authority, &serial, &site));
    assert!(files.reload().expect("good"));
    let why = call(&acceptor, &client).await.expect_err("revoked: no session is resumed");
    assert!(why.contains("is revoked"), "{why}");
    assert_eq!(call(&acceptor, &site.client(Some(authority))).await, Ok(true), "only that one");
    for (text, why) in [
        (authority.chain_pem(), "lists.pem: no revocation list in it"),
        (pem::encode("X509 CRL", b"junk"), "lists.pem: a revocation list in it is not a valid one"),
    ] {
        site.write("lists.pem", text);
        assert!(files.reload().expect_err(why).to_string().contains(why));
    }
    assert!(call(&acceptor, &client).await.is_err(), "the last good one stays");
}
