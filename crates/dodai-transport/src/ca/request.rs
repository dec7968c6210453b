//! Certificate signing requests: made by who wants an SVID, checked by the authority.

use std::net::IpAddr;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKey, SanType,
};
use rustls::pki_types::PrivateKeyDer;
use thiserror::Error;

use super::{AuthorityError, BadSvid, Names, Svid, alt_names, signing};
use crate::identity::{PeerIdentity, TrustDomain};
use crate::pem;

/// The largest request that is looked at, in bytes of PEM.
pub const MAX_REQUEST: usize = 16 * 1024;

/// Why a request was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadRequest {
    /// It is too long.
    #[error("certificate request: {0} bytes, but at most {MAX_REQUEST} are allowed")]
    TooLong(usize),
    /// It is not a request, or not signed by its own key.
    #[error("certificate request: {0}")]
    Malformed(String),
    /// The key is of a kind not allowed.
    #[error("certificate request: the key must be ECDSA P-256, ECDSA P-384 or Ed25519")]
    Key,
    /// It wants to sign others.
    #[error("certificate request: it asks for a certificate that may sign others")]
    Ca,
    /// It does not name the identity it may have.
    #[error("certificate request: it must name {0} as its only URI")]
    Identity(String),
    /// It names something that it may not have.
    #[error("certificate request: it names `{0}`, which this identity may not have")]
    Name(String),
}

/// A fresh key, and the request to certify it. The key never leaves the process that made it.
pub struct KeyRequest {
    key: KeyPair,
    pem: String,
}

impl KeyRequest {
    /// Makes a P-256 key and asks for `identity` in `domain`, and `names`.
    pub fn new(
        identity: &PeerIdentity,
        names: &Names,
        domain: &TrustDomain,
    ) -> Result<KeyRequest, AuthorityError> {
        let key = KeyPair::generate().map_err(|error| AuthorityError::Key(error.to_string()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = alt_names(&identity.spiffe(domain), names)?;
        let pem = params.serialize_request(&key).and_then(|request| request.pem()).map_err(signing)?;
        Ok(KeyRequest { key, pem })
    }

    /// The request, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The SVID, once the chain has come back; checks that it is for this key.
    pub fn accept(self, chain: &str, domain: &TrustDomain) -> Result<Svid, BadSvid> {
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        Svid::new(pem::certificates(chain.as_bytes())?, key, domain)
    }
}

impl std::fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRequest")
    }
}

/// A request that was found in order.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) public_key: PublicKey,
    pub(super) names: Names,
}

/// Checks signature, key and names. Of what a request asks, only its key and its names are ever used.
pub(super) fn check(
    request: &str,
    identity: &PeerIdentity,
    allowed: &Names,
    domain: &TrustDomain,
) -> Result<Checked, BadRequest> {
    if request.len() > MAX_REQUEST {
        return Err(BadRequest::TooLong(request.len()));
    }
    let parsed = CertificateSigningRequestParams::from_pem(request)
        .map_err(|error| BadRequest::Malformed(error.to_string()))?;
    let algorithm = parsed.public_key.algorithm();
    if ![&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519].contains(&algorithm) {
        return Err(BadRequest::Key);
    }
    if matches!(parsed.params.is_ca, IsCa::Ca(_)) {
        return Err(BadRequest::Ca);
    }
    let spiffe = identity.spiffe(domain);
    let (mut names, mut uris) = (Names::default(), 0);
    for name in &parsed.params.subject_alt_names {
        match name {
            SanType::URI(uri) if uri.as_str() == spiffe => uris += 1,
            SanType::URI(_) => return Err(BadRequest::Identity(spiffe)),
            SanType::DnsName(dns) => names.dns.push(may_have(dns.as_str(), &allowed.dns)?),
            SanType::IpAddress(ip) => names.ips.push(may_have_ip(*ip, &allowed.ips)?),
            SanType::Rfc822Name(mail) => return Err(BadRequest::Name(mail.as_str().to_owned())),
            other @ (SanType::OtherName(_) | _) => return Err(BadRequest::Name(format!("{other:?}"))),
        }
    }
    if uris == 1 {
        Ok(Checked { public_key: parsed.public_key, names })
    } else {
        Err(BadRequest::Identity(spiffe))
    }
}

fn may_have(name: &str, allowed: &[String]) -> Result<String, BadRequest> {
    let found = allowed.iter().find(|candidate| candidate.eq_ignore_ascii_case(name));
    found.cloned().ok_or_else(|| BadRequest::Name(name.to_owned()))
}

fn may_have_ip(ip: IpAddr, allowed: &[IpAddr]) -> Result<IpAddr, BadRequest> {
    if allowed.contains(&ip) { Ok(ip) } else { Err(BadRequest::Name(ip.to_string())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn server() -> (PeerIdentity, TrustDomain) {
        (PeerIdentity::Server, TrustDomain::default())
    }

    #[test]
    fn only_the_proven_names_are_signed() {
        let (identity, domain) = server();
        let names = Names {
            dns: vec!["a.example".into()],
            ips: vec![IpAddr::from([10, 0, 0, 1])],
            ..Names::default()
        };
        let request = KeyRequest::new(&identity, &names, &domain).expect("request");
        let checked = check(request.pem(), &identity, &names, &domain).expect("allowed");
        assert_eq!(checked.names, names);
        let none = check(request.pem(), &identity, &Names::default(), &domain).expect_err("no names");
        assert_eq!(none, BadRequest::Name("a.example".into()));
        let base = PeerIdentity::base(&dodai_core::id::BaseId::new("b1")).expect("id");
        let other = check(request.pem(), &base, &names, &domain).expect_err("other identity");
        assert_eq!(other, BadRequest::Identity("spiffe://cluster.local/base/b1".into()));
    }

    fn crafted(edit: impl FnOnce(&mut CertificateParams), key: &KeyPair) -> String {
        let (identity, domain) = server();
        let mut params = CertificateParams::default();
        params.subject_alt_names = alt_names(&identity.spiffe(&domain), &Names::default()).expect("names");
        edit(&mut params);
        params.serialize_request(key).and_then(|request| request.pem()).expect("request")
    }

    #[test]
    fn a_request_cannot_make_an_authority_or_several_identities() {
        let (identity, domain) = server();
        let key = KeyPair::generate().expect("key");
        let refuse = |request: &str| {
            check(request, &identity, &Names::default(), &domain).expect_err("must be refused")
        };
        let ca = crafted(|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained), &key);
        assert!(matches!(refuse(&ca), BadRequest::Ca | BadRequest::Malformed(_)));
        let twice =
            crafted(|params| params.subject_alt_names.push(params.subject_alt_names[0].clone()), &key);
        assert!(matches!(refuse(&twice), BadRequest::Identity(_)));
        let none = crafted(|params| params.subject_alt_names.clear(), &key);
        assert!(matches!(refuse(&none), BadRequest::Identity(_)));
        let long = format!("{none}{}", " ".repeat(MAX_REQUEST));
        assert!(matches!(refuse(&long), BadRequest::TooLong(_)));
    }

    #[test]
    fn a_request_not_signed_by_its_own_key_is_refused() {
        let (identity, domain) = server();
        let request = KeyRequest::new(&identity, &Names::default(), &domain).expect("request");
        let der = pem_body(request.pem());
        // The signature is the last field: spoil its last byte.
        let mut spoilt = der.clone();
        *spoilt.last_mut().expect("not empty") ^= 1;
        let text = pem::encode("CERTIFICATE REQUEST", &spoilt);
        let error = check(&text, &identity, &Names::default(), &domain).expect_err("spoilt");
        assert!(matches!(error, BadRequest::Malformed(_)), "{error}");
        let whole = pem::encode("CERTIFICATE REQUEST", &der);
        assert!(check(&whole, &identity, &Names::default(), &domain).is_ok());
    }

    fn pem_body(text: &str) -> Vec<u8> {
        use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
        CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).expect("pem").to_vec()
    }

    /// Where the signed part is: the first element within the outer sequence (RFC 2986, section 4.2; both are of 128 to
    /// 255 bytes here, so their headers have three).
    fn signed_part(der: &[u8]) -> std::ops::Range<usize> {
        assert!(
            der[..2] == [0x30, 0x81] && der[3..5] == [0x30, 0x81],
            "a request of another size: {der:02x?}"
        );
        3..6 + usize::from(der[5])
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            at in 0usize..1000,
            with in any::<u8>(),
        ) {
            let (identity, domain) = server();
            let names = Names::default();
            let text = pem::encode("CERTIFICATE REQUEST", &bytes);
            prop_assert!(check(&text, &identity, &names, &domain).is_err());
            prop_assert!(check(&String::from_utf8_lossy(&bytes), &identity, &names, &domain).is_err());
            // One byte wrong in the signed part of a good request must break its signature, or its form. Around it
            // (the algorithm's name, the signature's own encoding) a parser may be lenient: nothing there is used.
            let request = KeyRequest::new(&identity, &names, &domain).expect("request");
            let mut der = pem_body(request.pem());
            let signed = signed_part(&der);
            let at = signed.start + at % signed.len();
            prop_assume!(der[at] != with);
            der[at] = with;
            let spoilt = pem::encode("CERTIFICATE REQUEST", &der);
            prop_assert!(check(&spoilt, &identity, &names, &domain).is_err());
        }
    }
}
