//! TLS between bases, and between bases and the server: both sides prove a SPIFFE id, TLS 1.3 only.
//!
//! The accepting side picks the SVID by SNI from a [`Keyring`], because one base stands for many apps; the
//! dialling side presents the SVID of the app it calls for and says who it expects. Sessions are never
//! resumed: a resumed session would not look at a certificate again, and outlive a root that was dropped.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use dodai_core::failure::Failure;
use dodai_core::id::AppId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, version,
};

use super::{Acceptor, Alpn, Callee, Clock, HANDSHAKE_TIMEOUT, dial, provider, wire_names};
use crate::ca::{BadSvid, Svid};
use crate::identity::{MeshName, PeerIdentity};
use crate::stream::Stream;
use crate::trust::{Trust, Usage, WrongPeer};

/// An SVID that is replaced as it is renewed. Clones share it.
#[derive(Clone, Debug)]
pub struct LiveSvid(Arc<ArcSwap<Held>>);

#[derive(Debug)]
struct Held {
    svid: Arc<Svid>,
    key: Arc<CertifiedKey>,
}

impl Held {
    fn new(svid: Svid) -> Result<Held, BadSvid> {
        Ok(Held { key: svid.certified_key()?, svid: Arc::new(svid) })
    }
}

impl LiveSvid {
    /// Starts with `svid`.
    pub fn new(svid: Svid) -> Result<LiveSvid, BadSvid> {
        Ok(LiveSvid(Arc::new(ArcSwap::from_pointee(Held::new(svid)?))))
    }

    /// From the next handshake on, `svid` is presented.
    pub fn replace(&self, svid: Svid) -> Result<(), BadSvid> {
        self.0.store(Arc::new(Held::new(svid)?));
        Ok(())
    }

    /// The SVID of this moment.
    pub fn load(&self) -> Arc<Svid> {
        self.0.load().svid.clone()
    }

    fn key(&self) -> Arc<CertifiedKey> {
        self.0.load().key.clone()
    }
}

impl ResolvesClientCert for LiveSvid {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for LiveSvid {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }
}

/// The SVIDs that a base presents when it is dialled: one per service name it answers for, and its own for
/// those who ask for nothing in particular. Clones share it.
#[derive(Clone, Debug)]
pub struct Keyring(Arc<Keys>);

#[derive(Debug)]
struct Keys {
    own: LiveSvid,
    services: ArcSwap<HashMap<AppId, LiveSvid>>,
}

impl Keyring {
    /// A keyring of a base that stands for itself only.
    pub fn new(own: LiveSvid) -> Keyring {
        Keyring(Arc::new(Keys { own, services: ArcSwap::default() }))
    }

    /// Replaces the whole set of services: by the name they are called under, the SVID of the app behind.
    pub fn replace(&self, services: HashMap<AppId, LiveSvid>) {
        self.0.services.store(Arc::new(services));
    }

    /// The base's own SVID.
    pub fn own(&self) -> &LiveSvid {
        &self.0.own
    }

    /// Every name answered for, with the SVID behind it; the base's own without a name.
    pub fn all(&self) -> Vec<(Option<AppId>, LiveSvid)> {
        let services = self.0.services.load();
        let named = services.iter().map(|(name, svid)| (Some(name.clone()), svid.clone()));
        std::iter::once((None, self.0.own.clone())).chain(named).collect()
    }

    /// The SVID for a service.
    pub fn get(&self, service: &AppId) -> Option<LiveSvid> {
        self.0.services.load().get(service).cloned()
    }

    /// What to present to somebody who asks for `name`: nothing if it is a service not answered for here.
    /// Those who want the base itself name no host, or one that is not of the mesh.
    fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        match name.and_then(|name| MeshName::parse(name).ok()) {
            Some(name) => self.get(&name.service.owner).map(|svid| svid.key()),
            None => Some(self.0.own.key()),
        }
    }
}

impl ResolvesServerCert for Keyring {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}

/// The accepting side of a mesh port: presents from `keys`, requires a client certificate of the mesh.
pub fn acceptor(
    keys: Arc<dyn ResolvesServerCert>,
    trust: Trust,
    protocols: &[Alpn],
    clock: Clock,
) -> Acceptor {
    members(keys, AnyMember { trust, required: true }, protocols, clock)
}

/// As [`acceptor`], but peers without a certificate get in too, as nobody: those that come to join.
pub fn open_acceptor(
    keys: Arc<dyn ResolvesServerCert>,
    trust: Trust,
    protocols: &[Alpn],
    clock: Clock,
) -> Acceptor {
    let mut acceptor = members(keys, AnyMember { trust, required: false }, protocols, clock);
    acceptor.open = true;
    acceptor
}

fn members(
    keys: Arc<dyn ResolvesServerCert>,
    verifier: AnyMember,
    protocols: &[Alpn],
    clock: Clock,
) -> Acceptor {
    let members = (verifier.trust.clone(), clock.clone());
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(clock))
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider has suites for TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(keys);
    config.alpn_protocols = wire_names(protocols);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Acceptor::new(config, Some(members))
}

/// The dialling side: calls as one identity.
#[derive(Clone)]
pub struct Connector {
    config: ClientConfig,
    own: LiveSvid,
    trust: Trust,
    clock: Clock,
    timeout: Duration,
}

impl Connector {
    /// Presents `svid`, offers `protocols`.
    pub fn new(svid: LiveSvid, trust: Trust, protocols: &[Alpn], clock: Clock) -> Connector {
        let nobody = Expected { trust: trust.clone(), identities: Vec::new() };
        let mut config = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
            .with_protocol_versions(&[&version::TLS13])
            .expect("the provider has suites for TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(nobody))
            .with_client_cert_resolver(Arc::new(svid.clone()));
        config.alpn_protocols = wire_names(protocols);
        config.resumption = Resumption::disabled();
        Connector { config, own: svid, trust, clock, timeout: HANDSHAKE_TIMEOUT }
    }

    /// The same with another deadline.
    pub fn with_timeout(mut self, timeout: Duration) -> Connector {
        self.timeout = timeout;
        self
    }

    /// Runs one handshake with a peer that must prove to be one of `expected`; `name` goes out as SNI.
    pub async fn connect(
        &self,
        stream: Stream,
        name: ServerName<'static>,
        expected: &[PeerIdentity],
    ) -> Result<Stream, Failure> {
        let mut config = self.config.clone();
        let verifier = Expected { trust: self.trust.clone(), identities: expected.to_vec() };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        // A renewal in between makes the connection retire a little early.
        let callee = Callee::Member(&self.trust, &self.clock, self.own.load().not_after());
        dial(Arc::new(config), name, callee, stream, self.timeout).await
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("mesh::Connector").field("trust", &self.trust).finish_non_exhaustive()
    }
}

/// Accepts any member of the mesh; what it may do is for policy to say.
#[derive(Debug)]
struct AnyMember {
    trust: Trust,
    required: bool,
}

/// Accepts only certain members of the mesh.
#[derive(Debug)]
struct Expected {
    trust: Trust,
    identities: Vec<PeerIdentity>,
}

/// The two checks of signatures, which are the provider's for both sides.
macro_rules! provider_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, cert, signed, &provider().signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    };
}
pub(super) use provider_signatures;

impl ClientCertVerifier for AnyMember {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    /// None: the bundle may change while the configuration stands, and peers have one SVID anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.trust.verify(leaf, intermediates, Usage::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    provider_signatures!();
}

impl ServerCertVerifier for Expected {
    /// The name is only a hint for the other side's choice; the SPIFFE id is what counts.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let got = self.trust.verify(leaf, intermediates, Usage::Server, now)?;
        if self.identities.contains(&got) {
            return Ok(ServerCertVerified::assertion());
        }
        let expected: Vec<String> = self.identities.iter().map(ToString::to_string).collect();
        let expected = if expected.is_empty() { "nobody".to_owned() } else { expected.join(" or ") };
        Err(WrongPeer::Other { got, expected }.into())
    }

    provider_signatures!();
}
