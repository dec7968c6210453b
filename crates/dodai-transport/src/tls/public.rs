//! Calling a host by its DNS name or IP address, its certificate checked against public or given roots.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dodai_core::failure::{Failure, Kind};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

use super::{Alpn, Clock, HANDSHAKE_TIMEOUT, dial, provider, wire_names};
use crate::stream::Stream;

/// Where Linux distributions keep the public roots (Debian, Fedora, openSUSE, Alpine), first match wins.
pub const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why roots could not be had.
#[derive(Debug, Error)]
pub enum RootsError {
    /// The machine has none in the known places.
    #[error(
        "no public root certificates found in {}; install the package `ca-certificates` or name a file",
        SYSTEM_ROOTS.join(", ")
    )]
    NoSystem,
    /// The file cannot be read.
    #[error("cannot read root certificates from {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It holds none.
    #[error("no usable root certificate in {0}")]
    Empty(String),
}

/// Root certificates for public names.
#[derive(Clone)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// The public roots this machine trusts.
    pub fn system() -> Result<Roots, RootsError> {
        let found = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists());
        Roots::from_file(found.ok_or(RootsError::NoSystem)?)
    }

    /// The roots in a PEM file. Certificates in it that cannot be roots are skipped.
    pub fn from_file(path: &Path) -> Result<Roots, RootsError> {
        let name = path.display().to_string();
        let text = std::fs::read(path).map_err(|source| RootsError::Read { path: name.clone(), source })?;
        Roots::from_pem(&text).ok_or(RootsError::Empty(name))
    }

    /// The roots in a PEM text; none if there is not one usable.
    pub fn from_pem(text: &[u8]) -> Option<Roots> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(CertificateDer::pem_slice_iter(text).filter_map(Result::ok));
        (!store.is_empty()).then(|| Roots(Arc::new(store)))
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.0.len())
    }
}

/// Runs the dialling side of handshakes with public names. TLS 1.2 and 1.3; sessions are resumed.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    timeout: Duration,
}

impl Connector {
    /// Trusts `roots`, offers `protocols`.
    pub fn new(roots: &Roots, protocols: &[Alpn], clock: Clock) -> Connector {
        let builder = ClientConfig::builder_with_details(provider(), Arc::new(clock))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("the provider has suites for TLS 1.2 and 1.3");
        let mut config = builder.with_root_certificates(roots.0.clone()).with_no_client_auth();
        config.alpn_protocols = wire_names(protocols);
        Connector { config: Arc::new(config), timeout: HANDSHAKE_TIMEOUT }
    }

    /// The same with another deadline.
    pub fn with_timeout(mut self, timeout: Duration) -> Connector {
        self.timeout = timeout;
        self
    }

    /// Runs one handshake with `host`, which must be what the certificate names.
    pub async fn connect(&self, stream: Stream, host: &str) -> Result<Stream, Failure> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Failure::new(Kind::Tls, format!("`{host}` is no host name for TLS")))?;
        dial(self.config.clone(), name, None, stream, self.timeout).await
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("public::Connector").finish_non_exhaustive()
    }
}
