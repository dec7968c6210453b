//! The base's end: joins once, then keeps a stream to the server, again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest as hash};
use bytes::{Bytes, BytesMut};
use dodai_core::id::{AppId, BaseId, Digest};
use dodai_core::snapshot::Snapshot;
use dodai_core::status::{Link, Status as Report};
use dodai_core::task::{Kind, Tasks};
use dodai_proto::control::control_client::ControlClient;
use dodai_proto::control::{self as wire, base_message::Message};
use dodai_transport::ca::{KeyRequest, Names, Svid};
use dodai_transport::identity::{PeerIdentity, TrustDomain};
use dodai_transport::network::Network;
use dodai_transport::stream::Stream;
use dodai_transport::tls::mesh::{Connector, LiveSvid};
use dodai_transport::tls::{Alpn, Clock, public};
use dodai_transport::trust::{Bundle, Trust};
use futures_util::stream::unfold;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::sync::{mpsc, watch};
use tonic::transport::{Channel, Endpoint};

use super::{MAX_MESSAGE, apply};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_MOST: Duration = Duration::from_secs(15);
/// How many messages to the server may wait; status replaces itself, so few are enough.
const OUTBOUND: usize = 8;
/// The largest artefact that is fetched, bytes.
const MAX_ARTIFACT: usize = 1 << 30;

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
    #[error("the server refused: {}", .0.message())]
    Refused(Box<tonic::Status>),
    /// What came is not what was asked for.
    #[error("the server's answer: {0}")]
    Answer(String),
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

/// Joins the server at `host:port` with a one-use token. `roots` verify the server; `host` must be in its certificate.
///
/// # Errors
/// When the server cannot be reached, or refuses the token.
pub async fn join(
    network: &Network,
    (host, port): (&str, u16),
    roots: &public::Roots,
    domain: &TrustDomain,
    base: &BaseId,
    token: &str,
    clock: Clock,
) -> Result<Joined, JoinError> {
    let answer = |error: &dyn std::fmt::Display| RemoteError::Answer(error.to_string());
    let identity = PeerIdentity::base(base).map_err(|error| answer(&error))?;
    let request = KeyRequest::new(&identity, &Names::default(), domain).map_err(|error| answer(&error))?;
    let connector = public::Connector::new(roots, &[Alpn::H2], clock);
    let (network, own) = (network.clone(), host.to_owned());
    let dial = move || {
        let (network, connector, host) = (network.clone(), connector.clone(), own.clone());
        async move {
            let plain = network.connect(&host, port, CONNECT_TIMEOUT).await?;
            connector.connect(plain, &host).await
        }
    };
    let mut client = client(&format!("{host}:{port}"), dial).await?;
    let asked = wire::JoinRequest {
        token: token.to_owned(),
        base: base.to_string(),
        certificate_request: request.pem().to_owned(),
    };
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
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let detail = source.unwrap_or_else(|| error.to_string());
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

    async fn client(&self) -> Result<ControlClient<Channel>, RemoteError> {
        let connector =
            Connector::new(self.svid.clone(), self.trust.clone(), &[Alpn::H2], self.clock.clone());
        let own = self.clone();
        let dial = move || {
            let (own, connector) = (own.clone(), connector.clone());
            async move {
                let plain = own.network.connect(&own.host, own.port, CONNECT_TIMEOUT).await?;
                let name = ServerName::try_from("server.dodai").expect("it is a DNS name");
                connector.connect(plain, name, &[PeerIdentity::Server]).await
            }
        };
        client(&format!("{}:{}", self.host, self.port), dial).await
    }

    /// Asks for a new certificate: for an app that is placed here, or with `None` for the base itself.
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
        self.trust.replace(Bundle::from_pem(&renewed.bundle).map_err(|error| answer(&error))?);
        request.accept(&renewed.certificate_chain, domain).map_err(|error| answer(&error))
    }

    /// Fetches an artefact and checks that it is the one.
    ///
    /// # Errors
    /// When the server has none, or what comes has another digest.
    pub async fn artifact(&self, digest: &Digest) -> Result<Bytes, RemoteError> {
        let asked = wire::ArtifactRequest { digest: digest.to_string() };
        let mut chunks = self.client().await?.artifact(asked).await?.into_inner();
        let mut all = BytesMut::new();
        while let Some(chunk) = chunks.message().await? {
            if all.len() + chunk.data.len() > MAX_ARTIFACT {
                return Err(RemoteError::Answer(format!("{digest} is larger than {MAX_ARTIFACT} bytes")));
            }
            all.extend_from_slice(&chunk.data);
        }
        let found: String = hash(&SHA256, &all).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        if digest.as_str() != format!("sha256:{found}") {
            return Err(RemoteError::Answer(format!("sha256:{found} came instead of {digest}")));
        }
        Ok(all.freeze())
    }

    /// Keeps a stream to the server until the tasks close. The link begins with `last`, the last good snapshot.
    pub fn connect(&self, last: Option<Snapshot>, mesh: Option<SocketAddr>, tasks: &Tasks) -> Link {
        let snapshots = watch::Sender::new(Arc::new(last.unwrap_or_default()));
        let status = watch::Sender::new(Report::default());
        let link = Link { base: self.base.clone(), snapshots: snapshots.subscribe(), status: status.clone() };
        tasks.spawn(Kind::Loop, keep(self.clone(), snapshots, status.subscribe(), mesh, tasks.clone()));
        link
    }
}

async fn keep(
    remote: Remote,
    snapshots: watch::Sender<Arc<Snapshot>>,
    status: watch::Receiver<Report>,
    mesh: Option<SocketAddr>,
    tasks: Tasks,
) {
    let mut wait = BACKOFF_FIRST;
    loop {
        let before = snapshots.borrow().version;
        tokio::select! {
            // Cancel safe: a session that is cut is begun anew.
            () = tasks.closing() => return,
            ended = session(&remote, &snapshots, status.clone(), mesh) => {
                let error = ended.err().map(|error| error.to_string());
                tracing::warn!(error, "the stream to the server ended; this base goes on with what it was told");
            }
        }
        if snapshots.borrow().version != before {
            wait = BACKOFF_FIRST;
        }
        tokio::select! {
            () = tasks.closing() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(BACKOFF_MOST);
    }
}

async fn session(
    remote: &Remote,
    snapshots: &watch::Sender<Arc<Snapshot>>,
    mut status: watch::Receiver<Report>,
    mesh: Option<SocketAddr>,
) -> Result<(), RemoteError> {
    let mut client = remote.client().await?;
    let (send, receive) = mpsc::channel(OUTBOUND);
    let say = async |message| send.send(wire::BaseMessage { message: Some(message) }).await;
    let ended = |_| RemoteError::Answer("it closed the stream".to_owned());
    let hello = wire::Hello { mesh: mesh.map(|mesh| mesh.to_string()).unwrap_or_default() };
    say(Message::Hello(hello)).await.map_err(ended)?;
    let outbound =
        unfold(receive, |mut receive| async move { receive.recv().await.map(|one| (one, receive)) });
    let mut inbound = client.sync(outbound).await?.into_inner();
    let mut received = Snapshot::default();
    let (mut applied, mut refused) = (0, 0);
    status.mark_changed();
    loop {
        tokio::select! {
            // Cancel safe: a message that was not read whole stays in the stream; the status is state.
            message = inbound.message() => {
                let Some(delta) = message?.and_then(|message| message.delta) else { return Ok(()) };
                match apply(&received, &delta) {
                    Ok(next) => {
                        received = next;
                        snapshots.send_replace(Arc::new(received.clone()));
                    }
                    Err(reason) => {
                        let nack = wire::Nack { version: delta.version, reason: reason.clone() };
                        say(Message::Nack(nack)).await.map_err(ended)?;
                        // Deltas that follow build on this one: begin anew, perhaps with what can be read.
                        return Err(RemoteError::Answer(reason));
                    }
                }
            }
            changed = status.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let report = status.borrow_and_update().clone();
                let json = serde_json::to_vec(&report).map_err(|error| RemoteError::Answer(error.to_string()))?;
                say(Message::Status(json)).await.map_err(ended)?;
                if report.applied > applied {
                    applied = report.applied;
                    say(Message::Ack(wire::Ack { version: applied })).await.map_err(ended)?;
                }
                if let Some(bad) = report.refused.filter(|bad| bad.version > refused) {
                    refused = bad.version;
                    say(Message::Nack(wire::Nack { version: bad.version, reason: bad.reason })).await.map_err(ended)?;
                }
            }
        }
    }
}
