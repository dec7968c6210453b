//! A certificate that proves an identity of the mesh, together with its key.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::identity::{PeerIdentity, TrustDomain};
use crate::pem::{self, BadPem};
use crate::tls::provider;
use crate::trust::identity_in;

/// Why a chain and a key are no SVID.
#[derive(Debug, Error)]
pub enum BadSvid {
    /// The text is bad.
    #[error("SVID: {0}")]
    Pem(#[from] BadPem),
    /// The leaf proves no identity of this mesh.
    #[error("SVID: {0}")]
    Identity(String),
    /// The key is unusable, or is not the leaf's.
    #[error("SVID: the key does not fit the certificate: {0}")]
    Key(String),
}

/// A leaf certificate with its chain and key (SPIFFE X509-SVID).
pub struct Svid {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    identity: PeerIdentity,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Svid {
    /// Checks that the chain's leaf has an identity of `domain` and that the key is its. Who signed it, and
    /// whether it is valid now, is for the far side to check.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        domain: &TrustDomain,
    ) -> Result<Svid, BadSvid> {
        let leaf = chain.first().ok_or(BadPem::NoCertificate)?;
        let identity =
            identity_in(leaf, domain).map_err(|error| BadSvid::Identity(crate::tls::reason_of(&error)))?;
        let (not_before, not_after) = validity(leaf).ok_or(BadPem::Certificate(1))?;
        let svid = Svid { chain, key, identity, not_before, not_after };
        svid.certified_key()?;
        Ok(svid)
    }

    /// From PEM texts.
    pub fn from_pem(chain: &str, key: &str, domain: &TrustDomain) -> Result<Svid, BadSvid> {
        Svid::new(pem::certificates(chain.as_bytes())?, pem::private_key(key.as_bytes())?, domain)
    }

    /// Whom it proves.
    pub fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    /// When its life begins.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When its life ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The leaf first, then what leads up to the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The chain as PEM.
    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(&self.chain)
    }

    /// The key as PEM. A secret.
    pub fn key_pem(&self) -> String {
        let label = if matches!(self.key, PrivateKeyDer::Pkcs1(_)) {
            "RSA PRIVATE KEY"
        } else if matches!(self.key, PrivateKeyDer::Sec1(_)) {
            "EC PRIVATE KEY"
        } else {
            "PRIVATE KEY"
        };
        pem::encode(label, self.key.secret_der())
    }

    /// When to have it renewed: between one half and two thirds of its life. Each certificate has a moment
    /// of its own, fixed by its content, so that a fleet that started together does not renew together.
    pub fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        let hash = digest(&SHA256, self.chain[0].as_ref());
        let share = f64::from(hash.as_ref()[0]) / 255.0;
        self.not_before + life.mul_f64(0.5 + share / 6.0)
    }

    /// Whether it is time to have it renewed.
    pub fn needs_renewal(&self, now: SystemTime) -> bool {
        now >= self.renew_at()
    }

    /// As `rustls` wants it; fails when the key does not fit.
    pub(crate) fn certified_key(&self) -> Result<Arc<CertifiedKey>, BadSvid> {
        CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider())
            .map(Arc::new)
            .map_err(|error| BadSvid::Key(error.to_string()))
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("identity", &self.identity)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// When a certificate's life begins and ends. None if it cannot be read.
pub(crate) fn validity(der: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let validity = cert.validity();
    Some((time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?))
}

fn time(seconds: i64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// What an authority must know about its own certificate.
pub(super) struct CaFacts {
    pub(super) is_ca: bool,
    pub(super) public_key: Vec<u8>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

pub(super) fn ca_facts(der: &CertificateDer<'_>) -> Option<CaFacts> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    Some(CaFacts {
        is_ca: cert.is_ca(),
        public_key: cert.public_key().subject_public_key.data.to_vec(),
        not_before: time(cert.validity().not_before.timestamp())?,
        not_after: time(cert.validity().not_after.timestamp())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::{Authority, BACKDATE, LEAF_VALIDITY, Names};
    use std::collections::BTreeSet;

    fn epoch(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn renewal_falls_between_a_half_and_two_thirds_of_life_and_is_spread() {
        let now = epoch(1_800_000_000);
        let authority = Authority::create(TrustDomain::default(), now).expect("authority");
        let issue = || authority.issue(&PeerIdentity::Server, &Names::default(), LEAF_VALIDITY, now);
        let mut moments = BTreeSet::new();
        for _ in 0..20 {
            let svid = issue().expect("issued");
            let life = LEAF_VALIDITY + BACKDATE;
            let since = svid.renew_at().duration_since(svid.not_before()).expect("after");
            assert!(since >= life / 2 && since <= life * 2 / 3 + Duration::from_secs(1), "{since:?}");
            assert!(!svid.needs_renewal(now));
            assert!(svid.needs_renewal(svid.renew_at()));
            moments.insert(since);
        }
        assert!(moments.len() > 5, "{moments:?}");
    }

    #[test]
    fn an_svid_reads_back_and_does_not_show_its_key() {
        let now = epoch(1_800_000_000);
        let domain = TrustDomain::default();
        let authority = Authority::create(domain.clone(), now).expect("authority");
        let svid =
            authority.issue(&PeerIdentity::Server, &Names::default(), LEAF_VALIDITY, now).expect("issued");
        assert_eq!(svid.not_before(), now - BACKDATE);
        assert_eq!(svid.not_after(), now + LEAF_VALIDITY);
        let again = Svid::from_pem(&svid.chain_pem(), &svid.key_pem(), &domain).expect("read back");
        assert_eq!(again.identity(), &PeerIdentity::Server);
        assert_eq!(again.not_after(), svid.not_after());
        let other =
            authority.issue(&PeerIdentity::Server, &Names::default(), LEAF_VALIDITY, now).expect("issued");
        let mixed = Svid::from_pem(&svid.chain_pem(), &other.key_pem(), &domain).expect_err("mixed");
        assert!(matches!(mixed, BadSvid::Key(_)), "{mixed}");
        let foreign = TrustDomain::new("other").expect("name");
        let foreign = Svid::from_pem(&svid.chain_pem(), &svid.key_pem(), &foreign).expect_err("foreign");
        assert!(foreign.to_string().contains("not of trust domain `other`"), "{foreign}");
        assert!(!format!("{svid:?}").contains("key"));
    }
}
