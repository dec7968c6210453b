//! TLS handshakes: what both sides share, whoever they are.
//!
//! One cryptography provider for the process; configurations are made by [`files`] (certificates an operator
//! gives us), [`mesh`] (SVIDs, both sides prove themselves, TLS 1.3 only), [`pinned`] (a server before one has
//! an SVID) and [`public`] (calling a host by its DNS name). Every handshake has a deadline. A failed one says why in words an operator can act on.

pub mod clients;
pub mod files;
mod given;
pub mod hello;
pub mod mesh;
pub mod pinned;
pub mod public;
mod reason;

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dodai_core::failure::{Failure, Kind};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::identity::{PeerIdentity, TrustDomain};
use crate::lives::Life;
use crate::revoked::Facts;
use crate::stream::{Stream, Tls};
use crate::trust::{Trust, identity_in};

pub(crate) use reason::of as reason_of;
pub(crate) use reason::why;
pub use reason::{REVOKED, STRANGER, UNTRUSTED, Why, reason};

/// How long a handshake may take unless configured otherwise.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client that is refused is heard on, so that it can read why.
const TOLD: Duration = Duration::from_secs(1);

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// The process's cryptography provider.
pub fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}

/// Makes [`provider`] the default of libraries that ask `rustls` for one. Call it first thing; again is fine.
pub fn install_provider() {
    if provider().as_ref().clone().install_default().is_err() {
        tracing::debug!("a cryptography provider is installed already");
    }
}

/// How long after a certificate has expired the side that was dialled lets its connection take calls: the side that
/// dialled stops before, so that none is cut off.
pub const EXPIRY_GRACE: Duration = Duration::from_secs(60);

/// The wall clock that certificates are checked against.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The clock of the machine.
    pub fn system() -> Clock {
        Clock(Arc::new(SystemTime::now))
    }

    /// A clock that is read by calling `now`.
    pub fn from_fn(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    /// What it shows.
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        self.now().duration_since(UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

/// A protocol that both sides can agree on during the handshake (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alpn {
    /// HTTP/2.
    H2,
    /// HTTP/1.1.
    Http1,
}

impl Alpn {
    /// HTTP/2 wanted, HTTP/1.1 accepted.
    pub const HTTP: &'static [Alpn] = &[Alpn::H2, Alpn::Http1];

    /// The name on the wire.
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Alpn::H2 => b"h2",
            Alpn::Http1 => b"http/1.1",
        }
    }

    fn read(name: &[u8]) -> Option<Alpn> {
        [Alpn::H2, Alpn::Http1].into_iter().find(|alpn| alpn.as_bytes() == name)
    }
}

fn wire_names(protocols: &[Alpn]) -> Vec<Vec<u8>> {
    protocols.iter().map(|alpn| alpn.as_bytes().to_vec()).collect()
}

/// Why an inbound handshake failed.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The peer did not finish in time.
    #[error("TLS handshake: not finished within {0:?}")]
    TimedOut(Duration),
    /// The peer went away.
    #[error("TLS handshake: the connection ended")]
    Io(#[source] io::Error),
    /// One side refused the other.
    #[error("TLS handshake: {0}")]
    Refused(String, Why),
}

impl HandshakeError {
    /// What kind of failure it is, for counters.
    pub fn why(&self) -> Why {
        match self {
            HandshakeError::TimedOut(_) => Why::TimedOut,
            HandshakeError::Io(_) => Why::Gone,
            HandshakeError::Refused(_, why) => *why,
        }
    }

    fn refused(error: &rustls::Error) -> HandshakeError {
        HandshakeError::Refused(reason_of(error), why(error))
    }
}

/// Runs the accepting side of handshakes.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    /// Whose identities peers prove, and by which clock; none where no client certificate is asked for.
    members: Option<(Trust, Clock)>,
    /// Whether peers without a certificate get in, as nobody.
    open: bool,
    timeout: Duration,
}

impl Acceptor {
    fn new(config: ServerConfig, members: Option<(Trust, Clock)>) -> Acceptor {
        Acceptor { config: Arc::new(config), members, open: false, timeout: HANDSHAKE_TIMEOUT }
    }

    /// The same with another deadline.
    pub fn with_timeout(mut self, timeout: Duration) -> Acceptor {
        self.timeout = timeout;
        self
    }

    /// The same with other protocols to offer.
    pub fn with_alpn(mut self, protocols: &[Alpn]) -> Acceptor {
        Arc::make_mut(&mut self.config).alpn_protocols = wire_names(protocols);
        self
    }

    /// Runs one handshake. Dropping the future closes the connection.
    pub async fn accept(&self, stream: Stream) -> Result<Stream, HandshakeError> {
        let handshake = TlsAcceptor::from(self.config.clone()).accept(stream).into_fallible();
        let (error, stream) = match within(self.timeout, handshake).await {
            None => return Err(HandshakeError::TimedOut(self.timeout)),
            Some(Ok(tls)) => return self.established(tls),
            Some(Err(failed)) => failed,
        };
        let failed = refused_or_gone(error);
        if matches!(failed, HandshakeError::Refused(..)) {
            Box::pin(told(stream)).await;
        }
        Err(failed)
    }

    /// Learns who is at the other side once the handshake is through.
    fn established(&self, tls: TlsStream<Stream>) -> Result<Stream, HandshakeError> {
        let (_, connection) = tls.get_ref();
        let refused = |error| HandshakeError::refused(&error);
        let (identity, life) = match &self.members {
            Some(_) if self.open && connection.peer_certificates().is_none() => (None, None),
            Some((trust, clock)) => {
                let late = |facts: &Facts| facts.expires + EXPIRY_GRACE;
                let identity = proven(connection, Some(trust.domain())).map_err(refused)?;
                let life = followed(connection, identity.as_ref(), (trust, clock), late);
                (identity, life)
            }
            None => (proven(connection, None).map_err(refused)?, None),
        };
        let alpn = connection.alpn_protocol().and_then(Alpn::read);
        let server_name = connection.server_name().map(Into::into);
        Ok(Stream::Tls(Box::new(Tls { stream: tls.into(), identity, life, alpn, server_name })))
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("mesh", &self.members.as_ref().map(|(trust, _)| trust))
            .finish_non_exhaustive()
    }
}

/// Lets a client read why it is refused. One that has sent more than was read would else find the connection reset, and
/// the alert gone with it.
async fn told(mut stream: Stream) {
    let listen = async {
        stream.shutdown().await?;
        let mut unread = [0; 256];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // How it goes does not matter: the client is gone in any case.
    let _ended = tokio::time::timeout(TOLD, listen).await;
}

fn refused_or_gone(error: io::Error) -> HandshakeError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(refusal) => HandshakeError::refused(refusal),
        None => HandshakeError::Io(error),
    }
}

/// Whom a dialling side calls.
enum Callee<'a> {
    /// A host outside the mesh.
    Host,
    /// Somebody of this trust domain.
    Unfollowed(&'a TrustDomain),
    /// A member of the mesh, with a certificate of ours that lives until then.
    Member(&'a Trust, &'a Clock, SystemTime),
}

/// Runs the dialling side of one handshake.
async fn dial(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    callee: Callee<'_>,
    stream: Stream,
    timeout: Duration,
) -> Result<Stream, Failure> {
    let at = stream.peer_addr().map(|addr| format!(" at {addr}")).unwrap_or_default();
    let shown = format!("{}{at}", name.to_str());
    let fail = |why: String| Failure::new(Kind::Tls, format!("TLS handshake with {shown}: {why}"));
    let server_name = name.to_str().into();
    let handshake = TlsConnector::from(config).connect(name.clone(), stream);
    let tls = match within(timeout, handshake).await {
        None => return Err(fail(format!("not finished within {timeout:?}"))),
        Some(Err(error)) => return Err(fail(reason(&error))),
        Some(Ok(tls)) => tls,
    };
    let (_, connection) = tls.get_ref();
    let refused = |error| fail(reason_of(&error));
    let (identity, life) = match callee {
        Callee::Host => (proven(connection, None).map_err(refused)?, None),
        Callee::Unfollowed(domain) => (proven(connection, Some(domain)).map_err(refused)?, None),
        Callee::Member(trust, clock, own) => {
            let identity = proven(connection, Some(trust.domain())).map_err(refused)?;
            let early = |facts: &Facts| facts.expires.min(own);
            let life = followed(connection, identity.as_ref(), (trust, clock), early);
            (identity, life)
        }
    };
    let alpn = connection.alpn_protocol().and_then(Alpn::read);
    let server_name = Some(server_name);
    Ok(Stream::Tls(Box::new(Tls { stream: tls.into(), identity, life, alpn, server_name })))
}

/// Follows a connection whose peer has proven who it is.
fn followed(
    connection: &rustls::CommonState,
    identity: Option<&PeerIdentity>,
    (trust, clock): (&Trust, &Clock),
    until: impl FnOnce(&Facts) -> SystemTime,
) -> Option<Arc<Life>> {
    trust.follow(connection.peer_certificates()?, identity?, until, clock.now())
}

async fn within<T>(timeout: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(timeout, future).await.ok()
}

/// The identity of a peer whose certificate the handshake has verified.
fn proven(
    connection: &rustls::CommonState,
    domain: Option<&TrustDomain>,
) -> Result<Option<PeerIdentity>, rustls::Error> {
    match (domain, connection.peer_certificates().and_then(|chain| chain.first())) {
        (None, _) => Ok(None),
        (Some(domain), Some(leaf)) => identity_in(leaf, domain).map(Some),
        (Some(_), None) => Err(rustls::Error::NoCertificatesPresented),
    }
}
