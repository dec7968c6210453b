//! PEM in and out, and files that hold secrets.
//!
//! Reading is `rustls`' own reader; writing is here because nothing else needs a PEM crate. A file with a
//! key in it is only ever written with mode 0600, to a new name first, so that a crash leaves the old one.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use thiserror::Error;

/// Why a PEM text could not be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadPem {
    /// It is not PEM, or a section is damaged.
    #[error("not valid PEM: {0}")]
    Damaged(String),
    /// It has no certificate.
    #[error("no certificate in it: expected a section `-----BEGIN CERTIFICATE-----`")]
    NoCertificate,
    /// It has no private key.
    #[error("no private key in it: expected a section `-----BEGIN PRIVATE KEY-----`, not encrypted")]
    NoKey,
    /// It has no revocation list.
    #[error("no revocation list in it: expected a section `-----BEGIN X509 CRL-----`")]
    NoList,
    /// A revocation list is damaged inside.
    #[error("a revocation list in it is not a valid one")]
    List,
    /// A certificate is damaged inside.
    #[error("certificate {0} in it is not a valid X.509 certificate")]
    Certificate(usize),
}

/// All certificates in `text`, at least one, each at least well-formed.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadPem> {
    let mut found = Vec::new();
    for item in CertificateDer::pem_slice_iter(text) {
        let der = item.map_err(|error| BadPem::Damaged(error.to_string()))?;
        if webpki::EndEntityCert::try_from(&der).is_err() {
            return Err(BadPem::Certificate(found.len() + 1));
        }
        found.push(der);
    }
    if found.is_empty() { Err(BadPem::NoCertificate) } else { Ok(found) }
}

/// All revocation lists in `text`, at least one; what is inside of them is not looked at.
pub fn revocation_lists(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, BadPem> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| BadPem::Damaged(error.to_string()))?;
    if found.is_empty() { Err(BadPem::NoList) } else { Ok(found) }
}

/// The first private key in `text`.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, BadPem> {
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => Err(BadPem::NoKey),
        Err(error) => Err(BadPem::Damaged(error.to_string())),
    }
}

/// One PEM section (RFC 7468).
pub fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for start in (0..body.len()).step_by(64) {
        text.push_str(&body[start..body.len().min(start + 64)]);
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// Certificates as PEM, in order.
pub fn encode_certificates<'a>(chain: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    chain.into_iter().map(|der| encode("CERTIFICATE", der)).collect()
}

/// Writes `text` to `path` with mode 0600, durably, replacing what was there in one step.
pub fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    replace(path, text, 0o600)
}

/// Writes `text` to `path` with mode 0644, durably, replacing what was there in one step.
pub fn write_public(path: &Path, text: &str) -> io::Result<()> {
    replace(path, text, 0o644)
}

fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    // A leftover of a crash may have another mode, which opening it again would keep.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::File::open(parent)?.sync_all(),
        Some(_) | None => fs::File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_secret_is_never_readable_by_others() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("key.pem");
        fs::write(dir.path().join("key.pem.new"), "leftover").expect("write");
        write_secret(&path, "one").expect("first");
        write_secret(&path, "two").expect("second");
        assert_eq!(fs::read_to_string(&path).expect("read"), "two");
        assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(certificates(b"hello"), Err(BadPem::NoCertificate));
        assert_eq!(private_key(b"hello").map(|_| ()), Err(BadPem::NoKey));
        assert_eq!(certificates(encode("CERTIFICATE", b"junk").as_bytes()), Err(BadPem::Certificate(1)));
        let torn = "-----BEGIN CERTIFICATE-----\nAAAA\n";
        assert!(matches!(certificates(torn.as_bytes()), Err(BadPem::Damaged(_))));
    }

    proptest! {
        #[test]
        fn reading_garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = certificates(&bytes);
            let _ = private_key(&bytes);
            let _ = revocation_lists(&bytes);
            for label in ["CERTIFICATE", "PRIVATE KEY", "EC PRIVATE KEY"] {
                let text = encode(label, &bytes);
                prop_assert!(certificates(text.as_bytes()).is_err());
                let _ = private_key(text.as_bytes());
            }
        }
    }
}
