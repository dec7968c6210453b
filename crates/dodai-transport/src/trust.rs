//! Which roots a mesh trusts, swappable live, and the check of a peer's certificate against them.
//!
//! A rotation keeps old and new root side by side in one [`Bundle`] until every leaf comes from the new one;
//! [`Trust::replace`] then drops the old. Checks see the bundle of the moment of their handshake; a connection
//! that the old one vouched for takes no further call from then on. Always holds: an identity is only ever read from a certificate that chains to
//! a root of the bundle.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, OtherError};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::ca::Svid;
use crate::identity::{BadIdentity, PeerIdentity, TrustDomain};
use crate::lives::{Life, Lives};
use crate::pem::{self, BadPem};
use crate::revoked::{Facts, Revoked};
use crate::tls::provider;

/// The most roots that one bundle may hold; a rotation needs two.
pub const MAX_ROOTS: usize = 16;

pub use crate::lives::Swept;

/// Why a set of roots cannot be trusted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadBundle {
    /// The text is not PEM with certificates.
    #[error("trust bundle: {0}")]
    Pem(#[from] BadPem),
    /// A certificate cannot be a root.
    #[error("trust bundle: certificate {0} cannot be a root of trust")]
    Root(usize),
    /// Too many roots.
    #[error("trust bundle: {0} roots, but at most {MAX_ROOTS} are allowed; remove those no longer in use")]
    TooMany(usize),
    /// No root at all: nobody would be trusted, and no connection would ever succeed.
    #[error("trust bundle: it is empty; give at least one root certificate")]
    Empty,
}

/// Why a certificate that is in order otherwise does not prove who we wanted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WrongPeer {
    /// It has no SPIFFE id, or several.
    #[error("the peer's certificate names {0} URIs, but an identity of a mesh has exactly one")]
    NotOne(usize),
    /// The id is not one of this mesh.
    #[error("the peer's certificate: {0}")]
    Bad(#[from] BadIdentity),
    /// It is somebody else.
    #[error("the peer is {got}, but {expected} was expected")]
    Other {
        /// Who it is.
        got: PeerIdentity,
        /// Who it should be.
        expected: String,
    },
}

impl From<WrongPeer> for rustls::Error {
    fn from(error: WrongPeer) -> rustls::Error {
        CertificateError::Other(OtherError(Arc::new(error))).into()
    }
}

/// A set of root certificates.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    /// What the roots call themselves: who they vouched for names them so.
    subjects: Vec<Box<[u8]>>,
}

impl Bundle {
    /// From certificates, in any order; duplicates are dropped.
    pub fn new(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Bundle, BadBundle> {
        let mut roots: Vec<CertificateDer<'static>> = certificates.into_iter().collect();
        if roots.is_empty() {
            return Err(BadBundle::Empty);
        }
        if roots.len() > MAX_ROOTS {
            return Err(BadBundle::TooMany(roots.len()));
        }
        if let Some(bad) = roots.iter().position(|der| webpki::anchor_from_trusted_cert(der).is_err()) {
            return Err(BadBundle::Root(bad + 1));
        }
        roots.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        roots.dedup();
        let anchor = |der| webpki::anchor_from_trusted_cert(der).ok().map(|anchor| anchor.to_owned());
        let anchors = roots.iter().filter_map(anchor).collect();
        let subjects = roots.iter().filter_map(|der| Some(names_in(der)?.0)).collect();
        Ok(Bundle { roots, anchors, subjects })
    }

    /// From PEM text with one or more certificates.
    pub fn from_pem(text: &str) -> Result<Bundle, BadBundle> {
        Bundle::new(pem::certificates(text.as_bytes())?)
    }

    /// As PEM text.
    pub fn to_pem(&self) -> String {
        pem::encode_certificates(&self.roots)
    }

    /// This bundle and `other` together: the state in the middle of a rotation.
    pub fn with(&self, other: &Bundle) -> Result<Bundle, BadBundle> {
        Bundle::new(self.roots.iter().chain(&other.roots).cloned())
    }

    fn has_subject(&self, subject: &[u8]) -> bool {
        self.subjects.iter().any(|known| **known == *subject)
    }

    /// The root certificates.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bundle({} roots)", self.roots.len())
    }
}

/// What a side wants to do with its certificate (RFC 5280, 4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// It dialled.
    Client,
    /// It accepted.
    Server,
}

/// A trust domain, its live bundle, what is revoked, and the connections that were let in. Clones share all of it.
#[derive(Clone)]
pub struct Trust {
    domain: TrustDomain,
    shared: Arc<Shared>,
}

struct Shared {
    bundle: ArcSwap<Bundle>,
    revoked: ArcSwap<Revoked>,
    lives: Lives,
}

impl Trust {
    /// Trusts `bundle` for identities of `domain`.
    pub fn new(domain: TrustDomain, bundle: Bundle) -> Trust {
        let shared = Shared {
            bundle: ArcSwap::from_pointee(bundle),
            revoked: ArcSwap::default(),
            lives: Lives::default(),
        };
        Trust { domain, shared: Arc::new(shared) }
    }

    /// The trust domain.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The bundle of this moment.
    pub fn bundle(&self) -> Arc<Bundle> {
        self.shared.bundle.load_full()
    }

    /// From the next handshake on, `bundle` is what counts. Connections of peers that none of its roots vouches for
    /// take no further call.
    pub fn replace(&self, bundle: Bundle) {
        let bundle = Arc::new(bundle);
        self.shared.bundle.store(bundle.clone());
        self.shared.lives.retire_unless(|root| bundle.has_subject(root));
    }

    /// What is revoked at this moment.
    pub fn revoked(&self) -> Arc<Revoked> {
        self.shared.revoked.load_full()
    }

    /// From now on these certificates are void: no handshake takes them, and connections of theirs are cut.
    pub fn revoke(&self, revoked: Revoked, now: SystemTime) -> Swept {
        self.shared.revoked.store(Arc::new(revoked));
        self.sweep(now)
    }

    /// Looks at every open connection: those made with a certificate that has expired take no further call, those
    /// of a revoked one are cut. To be called now and then.
    pub fn sweep(&self, now: SystemTime) -> Swept {
        self.shared.lives.sweep(&self.shared.revoked.load(), now)
    }

    /// Follows a connection whose peer proved to be `identity` with `chain`, its own certificate first. `until` is
    /// when it shall take no further call.
    pub(crate) fn follow(
        &self,
        chain: &[CertificateDer<'_>],
        identity: &PeerIdentity,
        until: impl FnOnce(&Facts) -> SystemTime,
        now: SystemTime,
    ) -> Option<Arc<Life>> {
        let facts = Facts::of(chain.first()?, identity.clone())?;
        let until = until(&facts);
        let life = self.shared.lives.begin(facts, root_named_by(chain)?, until);
        // What was revoked, or taken out, between the handshake's look and this. The others were looked at when that
        // came.
        let bundle = self.shared.bundle.load();
        life.retire_unless(|root| bundle.has_subject(root));
        life.review(&self.shared.revoked.load(), now);
        Some(life)
    }

    /// Checks that a certificate chains to a root, is valid at `now` for `usage`, and reads its identity.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<PeerIdentity, rustls::Error> {
        let bundle = self.shared.bundle.load();
        let cert = EndEntityCert::try_from(leaf).map_err(as_rustls)?;
        let usage = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        let algorithms = provider().signature_verification_algorithms.all;
        cert.verify_for_usage(algorithms, &bundle.anchors, intermediates, now, usage, None, None)
            .map_err(as_rustls)?;
        let identity = identity(&cert, &self.domain)?;
        let revoked = self.shared.revoked.load();
        if !revoked.is_empty() && Facts::of(leaf, identity.clone()).is_none_or(|facts| revoked.has(&facts)) {
            tracing::warn!(%identity, "a certificate was shown that is revoked; its owner is refused");
            return Err(CertificateError::Revoked.into());
        }
        Ok(identity)
    }

    /// Whether a certificate of ours is revoked.
    pub fn is_void(&self, svid: &Svid) -> bool {
        let revoked = self.shared.revoked.load();
        let facts = || Facts::of(svid.chain().first()?, svid.identity().clone());
        !revoked.is_empty() && facts().is_some_and(|facts| revoked.has(&facts))
    }

    /// The root of the bundle that a chain leads up to. None if it does not.
    pub fn signer_of(&self, chain: &[CertificateDer<'static>]) -> Option<CertificateDer<'static>> {
        let (leaf, rest) = chain.split_first()?;
        let (begins, _) = crate::ca::validity(leaf)?;
        let begins = begins.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let signed = |root: &&CertificateDer<'static>| {
            let Ok(only) = Bundle::new([(*root).clone()]) else { return false };
            let only = Trust::new(self.domain.clone(), only);
            only.verify(leaf, rest, Usage::Server, UnixTime::since_unix_epoch(begins)).is_ok()
        };
        self.bundle().roots().iter().find(signed).cloned()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({}, {:?})", self.domain, self.bundle())
    }
}

/// A distinguished name as it stands in a certificate.
type Distinguished = Box<[u8]>;

/// The names in a certificate, its own and its issuer's.
fn names_in(certificate: &CertificateDer<'_>) -> Option<(Distinguished, Distinguished)> {
    let (_, cert) = X509Certificate::from_der(certificate).ok()?;
    Some((cert.subject().as_raw().into(), cert.issuer().as_raw().into()))
}

/// The name of the root that a chain leads up to, by what its certificates say; whether that is so was checked before.
fn root_named_by(chain: &[CertificateDer<'_>]) -> Option<Distinguished> {
    let (leaf, rest) = chain.split_first()?;
    let (_, mut root) = names_in(leaf)?;
    // A chain has no circles, and an intermediate takes one step.
    for _ in rest {
        let above =
            rest.iter().filter_map(names_in).find(|(subject, issuer)| *subject == root && issuer != subject);
        let Some((_, issuer)) = above else { break };
        root = issuer;
    }
    Some(root)
}

/// Reads the identity in a certificate, without any check of who issued it.
pub fn identity_in(leaf: &CertificateDer<'_>, domain: &TrustDomain) -> Result<PeerIdentity, rustls::Error> {
    let cert = EndEntityCert::try_from(leaf).map_err(as_rustls)?;
    Ok(identity(&cert, domain)?)
}

fn identity(cert: &EndEntityCert<'_>, domain: &TrustDomain) -> Result<PeerIdentity, WrongPeer> {
    let mut uris = cert.valid_uri_names();
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(PeerIdentity::from_spiffe(uri, domain)?),
        (first, more) => Err(WrongPeer::NotOne(usize::from(first.is_some()) + more)),
    }
}

/// The errors that get an alert of their own on the wire; all others are "bad certificate".
fn as_rustls(error: webpki::Error) -> rustls::Error {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum of fifty, all others treated alike")]
    match error {
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }.into()
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }.into()
        }
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding.into(),
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature.into(),
        other => CertificateError::Other(OtherError(Arc::new(other))).into(),
    }
}
