//! The certificate authority of a mesh: one root key that signs short-lived leaves.
//!
//! Everything is a function of a wall clock that is passed in. Who may have which identity is decided
//! before: [`Authority::sign`] is told the identity that the asker has proven a right to, and refuses a
//! request that names anything else. A root is exchanged by a rotation ([`Authorities`]); what is void before
//! its time is named in a short list (see [`crate::revoked`]).

mod request;
mod rotation;
mod svid;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dodai_core::id::BaseId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use thiserror::Error;

use crate::identity::{PeerIdentity, TrustDomain};
use crate::pem::{self, BadPem};
use crate::tls::reason_of;
use crate::trust::{BadBundle, Bundle, Trust, Usage};

pub use request::{BadRequest, KeyRequest, MAX_REQUEST};
pub use rotation::{Authorities, Phase, ROTATION_FILE, SECOND, StepError};
pub(crate) use svid::validity;
pub use svid::{BadSvid, Svid};

/// How long a leaf certificate lives.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// How long a root lives: ten years.
pub const ROOT_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How far back a certificate's life begins, for peers whose clock is behind.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// The name of the root certificate's file in [`Authority::save`]'s folder.
pub const ROOT_FILE: &str = "ca.pem";

/// The name of the root key's file in [`Authority::save`]'s folder.
pub const KEY_FILE: &str = "ca-key.pem";

/// Why the authority could not do something.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The certificate text is bad.
    #[error("certificate of the authority: {0}")]
    Pem(#[from] BadPem),
    /// The certificate may not sign others.
    #[error("certificate of the authority: it may not sign certificates (basicConstraints CA is missing)")]
    NotCa,
    /// The key is not usable.
    #[error("key of the authority: {0}")]
    Key(String),
    /// What it signs would be trusted by nobody.
    #[error(
        "certificate of the authority: {0}; put the issuing certificate first in the file and its root last"
    )]
    Chain(String),
    /// Certificate and key do not belong together.
    #[error("key of the authority: it is not the key of its certificate; restore both from one backup")]
    Mismatch,
    /// It has expired.
    #[error(
        "certificate of the authority: it is not valid at the present time; rotate the root, or set the clock right"
    )]
    Expired,
    /// Its root cannot be trusted.
    #[error(transparent)]
    Bundle(#[from] BadBundle),
    /// A name cannot stand in a certificate.
    #[error("`{0}` cannot stand in a certificate as a name")]
    Name(String),
    /// The request of somebody else was refused.
    #[error(transparent)]
    Request(#[from] BadRequest),
    /// The cryptography failed.
    #[error("signing a certificate failed: {0}")]
    Sign(String),
    /// A file could not be read or written.
    #[error("cannot {verb} {path}: {source}")]
    File {
        /// `read`, `write` or `remove`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Further names in a leaf, for those who check host names instead of identities, and who it is issued to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The base that gets it: what is issued to a base is void when the base is revoked.
    pub holder: Option<BaseId>,
    /// Host names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

/// A certificate authority of one trust domain.
pub struct Authority {
    domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    /// The issuer's certificate first, its root last; one and the same where the root signs itself.
    chain: Vec<CertificateDer<'static>>,
    not_after: SystemTime,
}

impl Authority {
    /// Makes a new self-signed root with a P-256 key.
    pub fn create(domain: TrustDomain, now: SystemTime) -> Result<Authority, AuthorityError> {
        Authority::create_for(domain, now, ROOT_VALIDITY)
    }

    /// Makes a new root that lives for `validity`.
    pub fn create_for(
        domain: TrustDomain,
        now: SystemTime,
        validity: Duration,
    ) -> Result<Authority, AuthorityError> {
        let key = KeyPair::generate().map_err(|error| AuthorityError::Key(error.to_string()))?;
        let serial = random_serial()?;
        // Every root has a subject of its own, or peers in the middle of a rotation would try the wrong one.
        let label: String = serial.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let mut params = bare(now, now + validity, serial);
        params.distinguished_name.push(DnType::CommonName, format!("Dodai root {label}"));
        params.distinguished_name.push(DnType::OrganizationName, domain.as_str());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).map_err(signing)?;
        Authority::from_pem(domain, &root.pem(), &key.serialize_pem(), now)
    }

    /// From the PEM of the issuing certificate (followed by what leads up to its root, the root last, where
    /// it is not the root itself) and its key.
    pub fn from_pem(
        domain: TrustDomain,
        chain: &str,
        key: &str,
        now: SystemTime,
    ) -> Result<Authority, AuthorityError> {
        let chain = pem::certificates(chain.as_bytes())?;
        let der =
            pem::private_key(key.as_bytes()).map_err(|problem| AuthorityError::Key(problem.to_string()))?;
        let key = signing_key(&der)?;
        let facts = svid::ca_facts(&chain[0]).ok_or(BadPem::Certificate(1))?;
        if !facts.is_ca {
            return Err(AuthorityError::NotCa);
        }
        if facts.public_key != key.public_key_raw() {
            return Err(AuthorityError::Mismatch);
        }
        if now < facts.not_before || now > facts.not_after {
            return Err(AuthorityError::Expired);
        }
        let issuer = Issuer::from_ca_cert_der(&chain[0], key).map_err(signing)?;
        let authority = Authority { domain, issuer, chain, not_after: facts.not_after };
        authority.check(now)?;
        Ok(authority)
    }

    /// Signs a leaf and looks at it as a peer would, so that a wrong chain is found now and here.
    fn check(&self, now: SystemTime) -> Result<(), AuthorityError> {
        let trust = Trust::new(self.domain.clone(), self.bundle()?);
        let probe = self.issue(&PeerIdentity::Server, &Names::default(), LEAF_VALIDITY, now)?;
        let (leaf, rest) = probe.chain().split_first().ok_or(BadPem::NoCertificate)?;
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        match trust.verify(leaf, rest, Usage::Server, now) {
            Ok(_) => Ok(()),
            Err(error) => Err(AuthorityError::Chain(reason_of(&error))),
        }
    }

    /// The certificates as PEM, for [`Authority::from_pem`].
    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(&self.chain)
    }

    /// The key as PEM. It is the secret of the whole mesh.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Writes both files to `folder`, the key with mode 0600.
    pub fn save(&self, folder: &Path) -> Result<(), AuthorityError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| AuthorityError::File { verb: "write", path, source }
        };
        let (key, root) = (folder.join(KEY_FILE), folder.join(ROOT_FILE));
        pem::write_secret(&key, &self.key_pem()).map_err(failed(&key))?;
        pem::write_public(&root, &self.chain_pem()).map_err(failed(&root))
    }

    /// Reads what [`Authority::save`] wrote. `Ok(None)` when neither file is there.
    pub fn load(
        domain: TrustDomain,
        folder: &Path,
        now: SystemTime,
    ) -> Result<Option<Authority>, AuthorityError> {
        let (key, root) = (folder.join(KEY_FILE), folder.join(ROOT_FILE));
        if !key.exists() && !root.exists() {
            return Ok(None);
        }
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| AuthorityError::File {
                verb: "read",
                path: path.to_owned(),
                source,
            })
        };
        Authority::from_pem(domain, &read(&root)?, &read(&key)?, now).map(Some)
    }

    /// The trust domain it signs for.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// When its certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The root, for those who are to trust it.
    pub fn bundle(&self) -> Result<Bundle, BadBundle> {
        Bundle::new(self.chain.last().cloned())
    }

    /// Issues a leaf with a new key.
    pub fn issue(
        &self,
        identity: &PeerIdentity,
        names: &Names,
        validity: Duration,
        now: SystemTime,
    ) -> Result<Svid, AuthorityError> {
        let key = KeyPair::generate().map_err(|error| AuthorityError::Key(error.to_string()))?;
        let chain = self.leaf(identity, names, &key, validity, now)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Svid::new(chain, key, &self.domain).map_err(|error| AuthorityError::Sign(error.to_string()))
    }

    /// Signs a request by somebody who has proven a right to `identity` (and to `names`). The request may name
    /// less than that, but nothing else. Returns the chain as PEM.
    pub fn sign(
        &self,
        request: &str,
        identity: &PeerIdentity,
        names: &Names,
        validity: Duration,
        now: SystemTime,
    ) -> Result<String, AuthorityError> {
        let request = request::check(request, identity, names, &self.domain)?;
        let names = Names { holder: names.holder.clone(), ..request.names };
        let chain = self.leaf(identity, &names, &request.public_key, validity, now)?;
        Ok(pem::encode_certificates(&chain))
    }

    fn leaf(
        &self,
        identity: &PeerIdentity,
        names: &Names,
        key: &impl PublicKeyData,
        validity: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        if now > self.not_after {
            return Err(AuthorityError::Expired);
        }
        let wanted = now.checked_add(validity).unwrap_or(self.not_after);
        let mut params = bare(now, wanted.min(self.not_after), random_serial()?);
        params.subject_alt_names = alt_names(&identity.spiffe(&self.domain), names)?;
        if let Some(holder) = &names.holder {
            params.distinguished_name.push(DnType::CommonName, holder.as_str());
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(key, &self.issuer).map_err(signing)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend_from_slice(&self.chain[..self.chain.len() - 1]);
        Ok(chain)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("domain", &self.domain).finish_non_exhaustive()
    }
}

fn signing(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Sign(error.to_string())
}

fn signing_key(der: &PrivateKeyDer<'_>) -> Result<KeyPair, AuthorityError> {
    KeyPair::try_from(der).map_err(|error| AuthorityError::Key(error.to_string()))
}

/// Parameters without any name or use.
fn bare(now: SystemTime, not_after: SystemTime, serial: [u8; 16]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Seconds since 1970 by way of the only constructor that needs no further crate.
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    params.not_before = epoch + Duration::from_secs(since(now - BACKDATE));
    params.not_after = epoch + Duration::from_secs(since(not_after));
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

/// 128 random bits, positive in ASN.1 and of full length.
fn random_serial() -> Result<[u8; 16], AuthorityError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial)
        .map_err(|_| AuthorityError::Sign("the machine gives no random numbers".to_owned()))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn alt_names(spiffe: &str, names: &Names) -> Result<Vec<SanType>, AuthorityError> {
    let ia5 = |text: &str| {
        rcgen::string::Ia5String::try_from(text).map_err(|_| AuthorityError::Name(text.to_owned()))
    };
    let mut all = vec![SanType::URI(ia5(spiffe)?)];
    for name in &names.dns {
        let host = name.strip_prefix("*.").unwrap_or(name);
        rustls::pki_types::DnsName::try_from(host).map_err(|_| AuthorityError::Name(name.clone()))?;
        all.push(SanType::DnsName(ia5(name)?));
    }
    all.extend(names.ips.iter().copied().map(SanType::IpAddress));
    Ok(all)
}
