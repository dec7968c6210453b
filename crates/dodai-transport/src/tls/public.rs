//! Calling a host by its DNS name or IP address, its certificate checked against public or given roots.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dodai_core::failure::{Failure, Kind};
use dodai_core::file;
use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

use super::given::Given;
use super::{Alpn, Callee, Clock, HANDSHAKE_TIMEOUT, dial, provider, wire_names};
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
    #[error("cannot read root certificates from {path}: {source}")]
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

/// Where the public roots come from: what `SSL_CERT_FILE` and `SSL_CERT_DIR` say, as with OpenSSL, and without
/// either the file that the machine's distribution keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootsFrom {
    file: Option<PathBuf>,
    folders: Vec<PathBuf>,
}

impl RootsFrom {
    /// What the variables of an environment say; `get` reads one. An empty one counts as not set.
    pub fn environment(get: impl Fn(&str) -> Option<String>) -> RootsFrom {
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        let folders = set("SSL_CERT_DIR").unwrap_or_default();
        RootsFrom {
            file: set("SSL_CERT_FILE").map(PathBuf::from),
            folders: folders.split(':').filter(|folder| !folder.is_empty()).map(PathBuf::from).collect(),
        }
    }

    /// Only the roots in this PEM file.
    pub fn file(path: impl Into<PathBuf>) -> RootsFrom {
        RootsFrom { file: Some(path.into()), folders: Vec::new() }
    }

    /// Reads them. Takes some milliseconds, so not on a thread that carries calls.
    pub fn load(&self) -> Result<Roots, RootsError> {
        let mut text = Vec::new();
        let mut names = Vec::new();
        if let Some(path) = &self.file {
            text.extend(read(path)?);
            names.push(path.display().to_string());
        }
        for folder in &self.folders {
            let name = folder.display().to_string();
            let failed = |source| RootsError::Read { path: name.clone(), source };
            for entry in std::fs::read_dir(folder).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                // The folder also holds links by hash to the same files, and notes of people.
                if path.is_file()
                    && let Ok(more) = file::read_text(&path)
                {
                    text.push(b'\n');
                    text.extend(more);
                }
            }
            names.push(name);
        }
        if names.is_empty() {
            return Roots::system();
        }
        Roots::public(&text).ok_or_else(|| RootsError::Empty(names.join(" and ")))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, RootsError> {
    file::read_text(path).map_err(|source| RootsError::Read { path: path.display().to_string(), source })
}

/// Root certificates for public names.
#[derive(Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    /// Those that somebody gave for the very server.
    own: Arc<[CertificateDer<'static>]>,
}

impl Roots {
    /// The public roots this machine trusts.
    pub fn system() -> Result<Roots, RootsError> {
        let found = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists());
        Roots::from_file(found.ok_or(RootsError::NoSystem)?)
    }

    /// The roots in a PEM file. Certificates in it that cannot be roots are skipped.
    fn from_file(path: &Path) -> Result<Roots, RootsError> {
        Roots::public(&read(path)?).ok_or_else(|| RootsError::Empty(path.display().to_string()))
    }

    /// The roots in a PEM text that somebody gave for one server, or that server's own certificate; none if there is not
    /// one usable.
    pub fn given(text: &[u8]) -> Option<Roots> {
        let own = CertificateDer::pem_slice_iter(text).filter_map(Result::ok).collect();
        Some(Roots { own, ..Roots::public(text)? })
    }

    /// The roots in a PEM text; none if there is not one usable.
    fn public(text: &[u8]) -> Option<Roots> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(CertificateDer::pem_slice_iter(text).filter_map(Result::ok));
        (!store.is_empty()).then(|| Roots { store: Arc::new(store), own: [].into() })
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.store.len())
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
        let config = trusting(roots, clock).with_no_client_auth();
        Connector::of(config, protocols)
    }

    /// The same, with a certificate of our own for servers that ask for one.
    pub fn with_certificate(
        roots: &Roots,
        protocols: &[Alpn],
        clock: Clock,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Connector, Failure> {
        let unusable = |error: rustls::Error| {
            Failure::new(Kind::Tls, format!("the client certificate and its key cannot be used: {error}"))
        };
        let config = trusting(roots, clock).with_client_auth_cert(chain, key).map_err(unusable)?;
        Ok(Connector::of(config, protocols))
    }

    fn of(mut config: ClientConfig, protocols: &[Alpn]) -> Connector {
        config.alpn_protocols = wire_names(protocols);
        Connector { config: Arc::new(config), timeout: HANDSHAKE_TIMEOUT }
    }

    /// The same with another deadline.
    pub fn with_timeout(mut self, timeout: Duration) -> Connector {
        self.timeout = timeout;
        self
    }

    /// Runs one handshake with `host`, a name or an address without brackets, which must be what the certificate
    /// is for.
    pub async fn connect(&self, stream: Stream, host: &str) -> Result<Stream, Failure> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Failure::new(Kind::Tls, format!("`{host}` is no host name for TLS")))?;
        dial(self.config.clone(), name, Callee::Host, stream, self.timeout).await
    }
}

fn trusting(roots: &Roots, clock: Clock) -> rustls::ConfigBuilder<ClientConfig, WantsClientCert> {
    let usual = WebPkiServerVerifier::builder_with_provider(roots.store.clone(), provider());
    let usual = usual.build().expect("there are roots, and no lists of revoked certificates");
    ClientConfig::builder_with_details(provider(), Arc::new(clock))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider has suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Given::new(usual, roots.own.clone())))
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("public::Connector").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::Authority;
    use crate::identity::TrustDomain;
    use std::time::SystemTime;

    fn pem() -> String {
        Authority::create(TrustDomain::default(), SystemTime::now()).expect("a root").chain_pem()
    }

    #[test]
    fn the_usual_variables_say_where_roots_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("one.pem"), pem()).expect("written");
        std::fs::create_dir(path("more")).expect("created");
        std::fs::write(path("more/a.pem"), pem()).expect("written");
        std::fs::write(path("more/b.crt"), pem()).expect("written");
        std::fs::write(path("more/README"), "not a certificate").expect("written");
        std::fs::write(path("empty.pem"), "").expect("written");
        let check = |file: &str, folder: &str, expect: Result<usize, &str>| {
            let from = RootsFrom::environment(|name| match name {
                "SSL_CERT_FILE" => Some(file.to_owned()),
                "SSL_CERT_DIR" => Some(folder.to_owned()),
                _ => None,
            });
            match (from.load(), expect) {
                (Ok(roots), Ok(count)) => assert_eq!(roots.store.len(), count, "{file} {folder}"),
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
                (found, _) => panic!("{file} {folder}: {found:?}"),
            }
        };
        check(&path("one.pem"), "", Ok(1));
        check("", &path("more"), Ok(2));
        check(&path("one.pem"), &format!("{}:", path("more")), Ok(3));
        check(&path("empty.pem"), "", Err("no usable root certificate in"));
        check(&path("gone.pem"), "", Err("cannot read root certificates from"));
        assert_eq!(RootsFrom::environment(|_| None), RootsFrom::default());
    }
}
