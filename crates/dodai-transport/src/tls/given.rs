//! A server's certificate against roots that somebody gave for it. One that was itself given is trusted as it is.
//!
//! People who make a certificate for one server of theirs give that certificate, and curl, nginx and OpenSSL take it. By
//! the rules of RFC 5280 it has no path: it is an authority's (`openssl req -x509` makes it one), or nobody's. Its name and
//! its dates are checked as ever, and the handshake proves the key.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::mesh::provider_signatures;
use super::provider;

/// Verifies by roots, or by a certificate being one of those that were given.
#[derive(Debug)]
pub struct Given {
    usual: Arc<WebPkiServerVerifier>,
    own: Arc<[CertificateDer<'static>]>,
}

impl Given {
    /// Trusts `own` beside what `usual` trusts.
    pub fn new(usual: Arc<WebPkiServerVerifier>, own: Arc<[CertificateDer<'static>]>) -> Given {
        Given { usual, own }
    }
}

impl ServerCertVerifier for Given {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.own.contains(leaf) {
            return self.usual.verify_server_cert(leaf, intermediates, name, ocsp, now);
        }
        verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
        in_time(leaf, now)?;
        Ok(ServerCertVerified::assertion())
    }

    provider_signatures!();
}

/// Whether it is valid now.
fn in_time(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
    let at = |time: x509_parser::time::ASN1Time| {
        UnixTime::since_unix_epoch(Duration::from_secs(time.timestamp().try_into().unwrap_or(0)))
    };
    let (not_before, not_after) = (at(parsed.validity().not_before), at(parsed.validity().not_after));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before });
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;

    use super::*;
    use crate::tls::reason;

    const DAY: u64 = 86_400;

    /// What a handshake at this time with a server of this name would say.
    fn verify(name: &str, at: u64) -> Result<(), String> {
        let mut of = rcgen::CertificateParams::new(["shop.example".to_owned()]).expect("a name");
        of.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let day = |number: u64| (std::time::UNIX_EPOCH + Duration::from_secs(number * DAY)).into();
        (of.not_before, of.not_after) = (day(100), day(200));
        let key = rcgen::KeyPair::generate().expect("a key");
        let leaf = of.self_signed(&key).expect("signed").der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(leaf.clone()).expect("usable");
        let usual =
            WebPkiServerVerifier::builder_with_provider(roots.into(), provider()).build().expect("built");
        let now = UnixTime::since_unix_epoch(Duration::from_secs(at * DAY));
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let strict = usual.verify_server_cert(&leaf, &[], &name, &[], now);
        let strict = strict.expect_err("by the rules alone it is an authority's");
        if at == 150 {
            assert!(reason::of(&strict).contains("certificate of an authority"), "{strict}");
        }
        let given = Given::new(usual, [leaf.clone()].into());
        given.verify_server_cert(&leaf, &[], &name, &[], now).map(|_| ()).map_err(|error| reason::of(&error))
    }

    #[test]
    fn a_certificate_that_was_given_is_trusted_for_its_name_and_its_time() {
        assert_eq!(verify("shop.example", 150), Ok(()));
        assert!(
            verify("other.example", 150)
                .expect_err("another name")
                .contains("is not for other.example but for")
        );
        assert!(verify("shop.example", 99).expect_err("too early").contains("valid only in 86400s"));
        assert!(verify("shop.example", 201).expect_err("too late").contains("expired 86400s ago"));
    }
}
