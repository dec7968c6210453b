//! TLS towards endpoints outside the mesh: whom they must prove to be, and what that is checked against.
//!
//! Roots are read when they are first needed, on a thread for blocking work and never on one that carries
//! calls. A name is always checked and there is no way around it: without usable roots a call fails. Files of
//! an endpoint's own are looked at again now and then; while what is in them is bad, the last good stays.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dodai_core::failure::{Failure, Kind};
use dodai_core::head::host_of;
use dodai_core::snapshot::{ClientTls, Pem, Protocol, Value};
use dodai_transport::pem;
use dodai_transport::stream::Stream;
use dodai_transport::tls::public::{Connector, Roots, RootsFrom};
use dodai_transport::tls::{Alpn, Clock};
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// How long files are taken to be what they were.
const FRESH: Duration = Duration::from_secs(10);
/// Connectors that are remembered; beyond that the map starts anew.
const MAX_KNOWN: usize = 256;

/// What a connection is secured by. Connections that differ in it are never used for each other's calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Secure {
    /// The name that the certificate must be for, sent as SNI.
    name: Box<str>,
    /// Roots, and a certificate of ours.
    tls: ClientTls,
}

impl Secure {
    /// As `tls` says, for the host of `authority`.
    pub fn new(authority: &str, tls: &ClientTls) -> Secure {
        let host = host_of(authority).trim_start_matches('[').trim_end_matches(']');
        let name = tls.server_name.as_deref().unwrap_or(host).into();
        Secure { name, tls: tls.clone() }
    }
}

/// What is offered during the handshake. A call is never carried in another protocol than its own.
fn offer(protocol: Protocol) -> &'static [Alpn] {
    match protocol {
        Protocol::Http => &[Alpn::Http1],
        Protocol::Http2 | Protocol::Grpc => &[Alpn::H2],
        Protocol::Tcp | Protocol::Udp => &[],
    }
}

/// Secures connections of one base.
pub struct Outward {
    from: RootsFrom,
    /// Where relative paths begin.
    folder: PathBuf,
    public: OnceCell<Roots>,
    known: Mutex<HashMap<(ClientTls, Protocol), Known>>,
}

struct Known {
    connector: Connector,
    read: Arc<Read>,
    until: Option<Instant>,
}

/// What was read for a connector, to tell whether anything changed.
#[derive(PartialEq, Eq)]
struct Read {
    roots: Option<Vec<u8>>,
    certificate: Option<(Vec<u8>, Vec<u8>)>,
}

impl Outward {
    /// Nothing is read yet. Relative paths begin at `folder`.
    pub fn new(from: RootsFrom, folder: PathBuf) -> Outward {
        Outward { from, folder, public: OnceCell::new(), known: Mutex::default() }
    }

    /// Runs the handshake on a fresh connection, for calls in `protocol`.
    pub async fn secure(
        &self,
        stream: Stream,
        secure: &Secure,
        protocol: Protocol,
    ) -> Result<Stream, Failure> {
        let unusable = |failure: Failure| {
            Failure::new(failure.kind, format!("TLS to {}: {}", secure.name, failure.detail))
        };
        let connector = self.connector(&secure.tls, protocol).await.map_err(unusable)?;
        let stream = connector.connect(stream, &secure.name).await?;
        if offer(protocol) == [Alpn::H2] && stream.alpn() != Some(Alpn::H2) {
            let text =
                format!("TLS with {}: it did not agree on HTTP/2, which these calls need", secure.name);
            return Err(Failure::new(Kind::Tls, text));
        }
        Ok(stream)
    }

    async fn connector(&self, tls: &ClientTls, protocol: Protocol) -> Result<Connector, Failure> {
        // The name belongs to one handshake, everything else to all of them.
        let key = (ClientTls { server_name: None, ..tls.clone() }, protocol);
        let old = match self.recall(&key) {
            Some((connector, None)) => return Ok(connector),
            Some((connector, Some(read))) => Some((connector, read)),
            None => None,
        };
        let fresh = self.read(tls, protocol, old.as_ref().map(|(_, read)| read.clone())).await;
        let (connector, read) = match (fresh, old) {
            (Ok(Some(fresh)), _) => fresh,
            (Ok(None), Some(same)) => same,
            (Ok(None), None) => return Err(Failure::new(Kind::Internal, "nothing was read")),
            (Err(failure), Some(last)) => {
                tracing::warn!(reason = %failure.detail, "certificates cannot be read again; the last good stay");
                last
            }
            (Err(failure), None) => return Err(failure),
        };
        let until = has_files(tls).then(|| Instant::now() + FRESH);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(key, Known { connector: connector.clone(), read, until });
        Ok(connector)
    }

    /// A connector that was made before; with what was read for it, if that may have changed since.
    fn recall(&self, key: &(ClientTls, Protocol)) -> Option<(Connector, Option<Arc<Read>>)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(key)?;
        let stale = found.until.is_some_and(|until| until <= Instant::now());
        Some((found.connector.clone(), stale.then(|| found.read.clone())))
    }

    /// Reads what `tls` names and makes a connector of it; none if it is all as it was in `old`.
    async fn read(
        &self,
        tls: &ClientTls,
        protocol: Protocol,
        old: Option<Arc<Read>>,
    ) -> Result<Option<(Connector, Arc<Read>)>, Failure> {
        let public = match tls.roots {
            Some(_) => None,
            None => Some(self.public().await?),
        };
        let (tls, folder) = (tls.clone(), self.folder.clone());
        blocking(move || {
            let read = Read {
                roots: tls.roots.as_ref().map(|pem| text(pem, &folder)).transpose()?,
                certificate: match &tls.certificate {
                    Some((chain, key)) => Some((text(chain, &folder)?, text(key, &folder)?)),
                    None => None,
                },
            };
            if old.is_some_and(|old| *old == read) {
                return Ok(None);
            }
            let connector = connector(&tls, &read, public, protocol)?;
            Ok(Some((connector, Arc::new(read))))
        })
        .await
    }

    /// The roots that the machine trusts. A failure is not remembered: it can be mended.
    async fn public(&self) -> Result<Roots, Failure> {
        let load = || async {
            let from = self.from.clone();
            let load = move || from.load().map_err(|error| Failure::new(Kind::Tls, error.to_string()));
            blocking(load).await
        };
        self.public.get_or_try_init(load).await.cloned()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let broken = |_| Failure::new(Kind::Internal, "reading certificates broke off");
    tokio::task::spawn_blocking(work).await.map_err(broken)?
}

fn has_files(tls: &ClientTls) -> bool {
    let certificate = tls.certificate.iter().flat_map(|(chain, key)| [chain, key]);
    tls.roots.iter().chain(certificate).any(|pem| matches!(pem, Pem::File(_)))
}

fn connector(
    tls: &ClientTls,
    read: &Read,
    public: Option<Roots>,
    protocol: Protocol,
) -> Result<Connector, Failure> {
    let bad = |pem: Option<&Pem>, why: String| {
        Failure::new(Kind::Tls, format!("{}: {why}", pem.map_or_else(String::new, shown)))
    };
    let roots = match (&read.roots, public) {
        (Some(text), _) => Roots::given(text)
            .ok_or_else(|| bad(tls.roots.as_ref(), "no usable root certificate in it".to_owned()))?,
        (None, Some(public)) => public,
        (None, None) => return Err(Failure::new(Kind::Internal, "no roots were read")),
    };
    let (offered, clock) = (offer(protocol), Clock::system());
    let Some((chain, key)) = &read.certificate else {
        return Ok(Connector::new(&roots, offered, clock));
    };
    let (of_chain, of_key) = tls.certificate.as_ref().map(|(chain, key)| (chain, key)).unzip();
    let chain = pem::certificates(chain).map_err(|error| bad(of_chain, error.to_string()))?;
    let key = pem::private_key(key).map_err(|error| bad(of_key, error.to_string()))?;
    Connector::with_certificate(&roots, offered, clock, chain, key)
}

fn text(pem: &Pem, folder: &Path) -> Result<Vec<u8>, Failure> {
    match pem {
        Pem::File(path) => dodai_core::file::read_text(&folder.join(path))
            .map_err(|error| Failure::new(Kind::Tls, format!("cannot read {path}: {error}"))),
        Pem::Value(Value::Plain(text)) => Ok(text.clone().into_bytes()),
        Pem::Value(value @ (Value::Secret { .. } | Value::Config { .. } | Value::Environment(_))) => {
            Err(Failure::new(Kind::Tls, format!("{value:?} was not read")))
        }
    }
}

/// What a person calls it.
fn shown(pem: &Pem) -> String {
    match pem {
        Pem::File(path) => path.clone(),
        Pem::Value(_) => "the document's certificate or key".to_owned(),
    }
}
