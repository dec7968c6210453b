//! Whose certificates clients of a gateway show: authorities an operator gives us as PEM files, and lists of those
//! that they have revoked.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::files::{BadFiles, read};
use super::provider;
use crate::pem::{self, BadPem};

/// What is asked of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorities {
    /// Files with the certificates of authorities, PEM; at least one.
    pub roots: Vec<PathBuf>,
    /// A file with revocation lists, PEM. Certificates of whose authority none is there count.
    pub revoked: Option<PathBuf>,
    /// Whether clients without a certificate get in, as nobody. One that does not count is refused in any case.
    pub is_optional: bool,
}

/// The same with what the files say.
pub(super) struct Loaded {
    pub source: Authorities,
    /// The bytes that were read, to tell whether anything changed.
    pub read: Vec<Vec<u8>>,
    pub verifier: Arc<dyn ClientCertVerifier>,
}

pub(super) fn load(source: Authorities) -> Result<Loaded, BadFiles> {
    let (mut roots, mut all) = (RootCertStore::empty(), Vec::new());
    for path in &source.roots {
        let text = read(path)?;
        let bad = |problem| BadFiles::pem(path, problem);
        for (at, der) in pem::certificates(&text).map_err(bad)?.into_iter().enumerate() {
            roots.add(der).map_err(|_| bad(BadPem::Certificate(at + 1)))?;
        }
        all.push(text);
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    if let Some(path) = &source.revoked {
        let text = read(path)?;
        let lists = pem::revocation_lists(&text).map_err(|problem| BadFiles::pem(path, problem))?;
        builder = builder.with_crls(lists).allow_unknown_revocation_status();
        all.push(text);
    }
    if source.is_optional {
        builder = builder.allow_unauthenticated();
    }
    // Authorities are there, so what cannot be used is a list.
    let blamed = source.revoked.as_ref().or(source.roots.first()).cloned().unwrap_or_default();
    let verifier = builder.build().map_err(|_| BadFiles::pem(&blamed, BadPem::List))?;
    Ok(Loaded { source, read: all, verifier })
}
