//! The base's way to its server: joining with a token, connecting with a certificate, renewing it.

use std::error::Error as _;
use std::time::Duration;

use dodai_core::id::{AppId, BaseId};
use dodai_proto::control as wire;
use dodai_proto::control::control_client::ControlClient;
use dodai_transport::ca::{KeyRequest, Names, Svid};
use dodai_transport::identity::{PeerIdentity, TrustDomain};
use dodai_transport::network::Network;
use dodai_transport::stream::Stream;
use dodai_transport::tls::mesh::{Connector, LiveSvid};
use dodai_transport::tls::pinned::{self, Pin};
use dodai_transport::tls::{Alpn, Clock, REVOKED, STRANGER, UNTRUSTED, reason};
use dodai_transport::trust::{Bundle, Trust};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint};

use super::MAX_MESSAGE;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a call to the server failed.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The server cannot be reached.
    #[error("cannot reach the server at {server}: {detail}")]
    Unreachable {
        /// Where it should be.
        server: String,
        /// What failed.
        detail: String,
    },
    /// The server refused.
    #[error("the server refused: {}", told(.0))]
    Refused(Box<tonic::Status>),
    /// What came cannot be kept.
    #[error("cannot write {0}")]
    Unwritten(String),
    /// What came is not what was asked for.
    #[error("the server's answer: {0}")]
    Answer(String),
}

impl RemoteError {
    /// Whether the server does not take this base's certificate, or the base not the server's, so that it has to join
    /// again: it was revoked, or the root of the mesh was exchanged while it was away.
    pub fn asks_to_join(&self) -> bool {
        let text = self.to_string();
        [UNTRUSTED, STRANGER, REVOKED].iter().any(|known| text.contains(known))
    }
}

/// What a status says: the server's words, or what broke on the way.
fn told(status: &tonic::Status) -> String {
    match status.source() {
        Some(source) => format!("{}: {}", status.message(), deepest(source)),
        None => alerted(status.message().to_owned()),
    }
}

/// The last of a chain of errors; what TLS says, in words of ours.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut at = error;
    loop {
        if let Some(io) = at.downcast_ref::<std::io::Error>()
            && io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
        {
            return reason(io);
        }
        match at.source() {
            Some(next) => at = next,
            None => return alerted(at.to_string()),
        }
    }
}

/// HTTP/2 hands on what TLS said as text only.
fn alerted(text: String) -> String {
    let said = |alert: &str| text.contains(alert);
    if said("CertificateRevoked") {
        return REVOKED.to_owned();
    }
    if said("UnknownCA") { STRANGER.to_owned() } else { text }
}

/// The name that goes out as SNI: the server is known by its SPIFFE id, wherever it is.
fn server_name() -> ServerName<'static> {
    ServerName::try_from("server.dodai").expect("it is a DNS name")
}

/// Why a base could not join.
pub type JoinError = RemoteError;

impl From<tonic::Status> for RemoteError {
    fn from(status: tonic::Status) -> RemoteError {
        RemoteError::Refused(Box::new(status))
    }
}

/// What joining gives: who the base is, and whom it trusts.
#[derive(Debug)]
pub struct Joined {
    /// The base's certificate and key.
    pub svid: Svid,
    /// The roots of the mesh.
    pub bundle: Bundle,
    /// The trust domain.
    pub domain: TrustDomain,
}

/// Joins the server at `host:port`, whose root has this pin, with a one-use token.
///
/// # Errors
/// When the server cannot be reached, is another, or refuses the token.
pub async fn join(
    network: &Network,
    (host, port): (&str, u16),
    pin: Pin,
    domain: &TrustDomain,
    base: &BaseId,
    token: &str,
    clock: Clock,
) -> Result<Joined, JoinError> {
    let answer = |error: &dyn std::fmt::Display| RemoteError::Answer(error.to_string());
    let identity = PeerIdentity::base(base).map_err(|error| answer(&error))?;
    let request = KeyRequest::new(&identity, &Names::default(), domain).map_err(|error| answer(&error))?;
    let connector = pinned::Connector::new(pin, domain.clone(), &[Alpn::H2], clock);
    let (network, own) = (network.clone(), host.to_owned());
    let dial = move || {
        let (network, connector, host) = (network.clone(), connector.clone(), own.clone());
        async move {
            let plain = network.connect(&host, port, CONNECT_TIMEOUT).await?;
            connector.connect(plain, server_name()).await
        }
    };
    let mut client = client(&format!("{host}:{port}"), dial).await?;
    let asked = wire::JoinRequest {
        token: token.to_owned(),
        base: base.to_string(),
        certificate_request: request.pem().to_owned(),
    };
    let mut asked = tonic::Request::new(asked);
    asked.set_timeout(CALL_TIMEOUT);
    let joined = client.join(asked).await?.into_inner();
    if joined.trust_domain != domain.as_str() {
        let text = format!("its trust domain is `{}`, not `{domain}`", joined.trust_domain);
        return Err(RemoteError::Answer(text));
    }
    let svid = request.accept(&joined.certificate_chain, domain).map_err(|error| answer(&error))?;
    let bundle = Bundle::from_pem(&joined.bundle).map_err(|error| answer(&error))?;
    Ok(Joined { svid, bundle, domain: domain.clone() })
}

async fn client<F, D>(server: &str, dial: D) -> Result<ControlClient<Channel>, RemoteError>
where
    D: Fn() -> F + Send + 'static,
    F: Future<Output = Result<Stream, dodai_core::failure::Failure>> + Send + 'static,
{
    let connector = tower::service_fn(move |_| {
        let stream = dial();
        async move { stream.await.map(TokioIo::new).map_err(|failure| std::io::Error::other(failure.detail)) }
    });
    let endpoint = Endpoint::from_static("http://server.dodai")
        .connect_timeout(CONNECT_TIMEOUT * 2)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
        let detail = deepest(&error);
        RemoteError::Unreachable { server: server.to_owned(), detail }
    })?;
    let client = ControlClient::new(channel);
    Ok(client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
}

/// A base's way to its server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Remote {
    network: Network,
    host: String,
    port: u16,
    base: BaseId,
    svid: LiveSvid,
    trust: Trust,
    clock: Clock,
}

impl Remote {
    /// The server at `host:port`, for a base that has joined it.
    pub fn new(
        network: Network,
        (host, port): (&str, u16),
        base: BaseId,
        svid: LiveSvid,
        trust: Trust,
        clock: Clock,
    ) -> Remote {
        Remote { network, host: host.to_owned(), port, base, svid, trust, clock }
    }

    pub(super) async fn client(&self) -> Result<ControlClient<Channel>, RemoteError> {
        let connector =
            Connector::new(self.svid.clone(), self.trust.clone(), &[Alpn::H2], self.clock.clone());
        let own = self.clone();
        let dial = move || {
            let (own, connector) = (own.clone(), connector.clone());
            async move {
                let plain = own.network.connect(&own.host, own.port, CONNECT_TIMEOUT).await?;
                connector.connect(plain, server_name(), &[PeerIdentity::Server]).await
            }
        };
        client(&self.server(), dial).await
    }

    /// The base that it is for.
    pub fn base(&self) -> &BaseId {
        &self.base
    }

    /// Where the server is.
    pub fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whom the base trusts.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Asks for a new certificate: for an app that is placed here, or with `None` for the base itself. Whom to trust
    /// is not taken from the answer, which may be older than the snapshot that says so.
    ///
    /// # Errors
    /// When the server cannot be reached, or the app is not placed here.
    pub async fn renew(&self, app: Option<&AppId>) -> Result<Svid, RemoteError> {
        let answer = |error: &dyn std::fmt::Display| RemoteError::Answer(error.to_string());
        let identity =
            app.map_or_else(|| PeerIdentity::Base(self.base.clone()), |app| PeerIdentity::App(app.clone()));
        let domain = self.trust.domain();
        let request =
            KeyRequest::new(&identity, &Names::default(), domain).map_err(|error| answer(&error))?;
        let asked = wire::RenewRequest {
            app: app.map(ToString::to_string).unwrap_or_default(),
            certificate_request: request.pem().to_owned(),
        };
        let mut asked = tonic::Request::new(asked);
        asked.set_timeout(CALL_TIMEOUT);
        let renewed = self.client().await?.renew(asked).await?.into_inner();
        request.accept(&renewed.certificate_chain, domain).map_err(|error| answer(&error))
    }
}
