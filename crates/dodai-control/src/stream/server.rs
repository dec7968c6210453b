//! The server's end: joins bases, signs certificates, tells snapshots, hands out artefacts.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dodai_core::id::{AppId, BaseId, Digest};
use dodai_core::seldom::Seldom;
use dodai_core::snapshot::{Endpoint, Snapshot, Target};
use dodai_core::status::{Link, Refusal, Status as Report};
use dodai_core::task::{Kind, Tasks};
use dodai_proto::control::control_server::{Control as Service, ControlServer};
use dodai_proto::control::{self as wire, base_message::Message};
use dodai_transport::ca::{Authorities, LEAF_VALIDITY, Names};
use dodai_transport::identity::PeerIdentity;
use dodai_transport::network::Listener;
use dodai_transport::stream::Stream;
use dodai_transport::tls::Acceptor;
use futures_core::future::BoxFuture;
use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, unfold};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::ask::{Asker, Open, Question};
use super::rivals::{Process, Rivals};
use super::{MAX_MESSAGE, encode, too_large};
use crate::control::Control;
use crate::error::Error;
use crate::snapshot::BaseSettings;

/// How many handshakes may wait for the server; more wait in the listener.
const HANDSHAKES: usize = 64;
/// The size of a chunk of an artefact, bytes.
const CHUNK: usize = 256 << 10;
/// How long a base may take to say what it is.
const FIRST_REPORT: Duration = Duration::from_secs(10);

/// Artefacts by digest.
pub trait Blobs: Send + Sync + 'static {
    /// At most `most` bytes from `offset` on, none at the end; `None` if there is no artefact of this digest.
    ///
    /// # Errors
    /// Why they could not be read.
    fn read(
        &self,
        digest: &Digest,
        offset: u64,
        most: usize,
    ) -> BoxFuture<'static, Result<Option<Bytes>, String>>;
}

/// A server without artefacts.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBlobs;

impl Blobs for NoBlobs {
    fn read(&self, _: &Digest, _: u64, _: usize) -> BoxFuture<'static, Result<Option<Bytes>, String>> {
        Box::pin(async { Ok(None) })
    }
}

/// The control stream's server. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    control: Control,
    authorities: Arc<Authorities>,
    blobs: Arc<dyn Blobs>,
    validity: Duration,
    /// The largest delta that is sent, bytes.
    largest: usize,
    asker: Asker,
    rivals: Arc<Rivals>,
    tasks: Tasks,
}

impl Server {
    /// Serves `control`; certificates come from `authorities`, artefacts from `blobs`.
    pub fn new(
        control: Control,
        authorities: Arc<Authorities>,
        blobs: Arc<dyn Blobs>,
        tasks: &Tasks,
    ) -> Server {
        Server {
            control,
            authorities,
            blobs,
            validity: LEAF_VALIDITY,
            largest: MAX_MESSAGE,
            asker: Asker::default(),
            rivals: Arc::default(),
            tasks: tasks.clone(),
        }
    }

    /// The same with another life for the certificates that it signs.
    #[must_use]
    pub fn with_validity(mut self, validity: Duration) -> Server {
        self.validity = validity;
        self
    }

    /// The same with another size of what is told at once, in bytes: at most what a base reads, 64 MiB.
    #[must_use]
    pub fn with_largest(mut self, bytes: usize) -> Server {
        self.largest = bytes.min(MAX_MESSAGE);
        self
    }

    /// Asks the bases that come to this server.
    pub fn asker(&self) -> Asker {
        self.asker.clone()
    }

    /// Serves one listener until the tasks close. Who comes without a certificate can do nothing but
    /// [`Join`](wire::JoinRequest).
    pub fn serve(&self, listener: Listener, acceptor: Acceptor) {
        let (send, receive) = mpsc::channel(HANDSHAKES);
        self.tasks.spawn(Kind::Listener, accept(listener, acceptor, send, self.tasks.clone()));
        let incoming = unfold(receive, |mut receive| async move {
            receive.recv().await.map(|one: Wire| (Ok::<_, io::Error>(one), receive))
        });
        let service = ControlServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let tasks = self.tasks.clone();
        self.tasks.spawn(Kind::Api, async move {
            let served = tonic::transport::Server::builder()
                .http2_keepalive_interval(Some(Duration::from_secs(10)))
                .add_service(service)
                .serve_with_incoming_shutdown(incoming, tasks.closing());
            if let Err(error) = served.await {
                tracing::error!(%error, "the control stream ended");
            }
        });
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("authorities", &self.authorities).finish_non_exhaustive()
    }
}

async fn accept(mut listener: Listener, acceptor: Acceptor, ready: mpsc::Sender<Wire>, tasks: Tasks) {
    let mut failures = 0;
    let warnings = Seldom::default();
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                failures += 1;
                if let Some(times) = warnings.count("", Instant::now()) {
                    tracing::warn!(times, %error, "accepting for the control stream failed");
                }
                // The listener may recover, as when files were short; it is not asked in a tight loop.
                tokio::time::sleep(Duration::from_millis(100 * u64::from(failures.min(50_u32)))).await;
                continue;
            }
        };
        failures = 0;
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tasks.spawn(Kind::Connection, async move {
            match acceptor.accept(stream).await {
                // A closed queue means that the server ends, and the connection with it.
                Ok(stream) => drop(ready.send(Wire(stream, address)).await),
                Err(error) => tracing::info!(%error, "a peer of the control stream was refused"),
            }
        });
    }
}

/// A connection whose peer is known.
struct Wire(Stream, SocketAddr);

/// Who is at the other end, and where.
#[derive(Clone)]
struct Peer(Option<PeerIdentity>, SocketAddr);

impl Connected for Wire {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        Peer(self.0.identity().cloned(), self.1)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The base that calls; others are refused.
fn base<T>(request: &Request<T>) -> Result<BaseId, Status> {
    match request.extensions().get::<Peer>() {
        Some(Peer(Some(PeerIdentity::Base(base)), _)) => Ok(base.clone()),
        Some(Peer(Some(other), _)) => Err(Status::permission_denied(format!("{other} is not a base"))),
        Some(Peer(None, _)) | None => {
            Err(Status::unauthenticated("this call needs a base's certificate; join first"))
        }
    }
}

fn refused(error: Error) -> Status {
    if let Error::Token(why) = error {
        return Status::unauthenticated(why);
    }
    Status::unavailable(error.to_string())
}

impl Server {
    fn sign(&self, request: &str, identity: &PeerIdentity, base: &BaseId) -> Result<String, Status> {
        // What is signed in the second in which the ones before were revoked must not be void as well.
        let void = self.authorities.trust().revoked().until(identity, base);
        let now = self.control.clock().now().max(void + Duration::from_secs(1));
        let names = Names { holder: Some(base.clone()), ..Names::default() };
        let signed = self.authorities.signer().sign(request, identity, &names, self.validity, now);
        signed.map_err(|error| Status::invalid_argument(error.to_string()))
    }

    /// Refuses a process that another took the place of, which is there.
    fn admit(&self, base: &BaseId, process: Process) -> Result<(), Status> {
        let is_connected = self.control.snapshot(base).is_some();
        self.rivals.admit(base, process, is_connected).map_err(|rival| {
            if rival.is_news {
                tracing::warn!(%base, "{}", rival.text);
                self.control.note(base.to_string(), "BaseRunsTwice", rival.text.clone());
            }
            Status::already_exists(rival.text)
        })
    }

    /// Whether a base runs an instance of an app, or one behind a service of that name.
    fn answers_for(&self, base: &BaseId, name: &AppId) -> bool {
        let here = |one: &Endpoint| matches!(&one.target, Target::Instance { base: on, .. } if on == base);
        let behind = |told: Arc<Snapshot>| {
            told.endpoints().any(|one| one.service.owner == *name && one.list.iter().any(here))
        };
        self.control.view().records.on(base).any(|one| one.app == *name)
            || self.control.snapshot(base).is_some_and(behind)
    }

    fn bundle(&self) -> String {
        self.authorities.trust().bundle().to_pem()
    }
}

#[tonic::async_trait]
impl Service for Server {
    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        let request = request.into_inner();
        if let Err(error) = request.base.parse::<dodai_api::Name>() {
            let text =
                format!("`{}` cannot be a base's name: {error}; choose one with `--name`", request.base);
            return Err(Status::invalid_argument(text));
        }
        let base = BaseId::new(&request.base);
        let identity =
            PeerIdentity::base(&base).map_err(|error| Status::invalid_argument(error.to_string()))?;
        // Signed before the token is used up: a bad request must not cost the token.
        let certificate_chain = self.sign(&request.certificate_request, &identity, &base)?;
        self.control.use_token(&request.token, &base).await.map_err(refused)?;
        let trust_domain = self.authorities.domain().as_str().to_owned();
        Ok(Response::new(wire::JoinResponse { certificate_chain, bundle: self.bundle(), trust_domain }))
    }

    async fn renew(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::RenewResponse>, Status> {
        let base = base(&request)?;
        let request = request.into_inner();
        let identity = if request.app.is_empty() {
            PeerIdentity::Base(base.clone())
        } else {
            let app = AppId::parse(&request.app).map_err(|bad| Status::invalid_argument(bad.to_string()))?;
            if !self.answers_for(&base, &app) {
                return Err(Status::permission_denied(format!("{app} is not placed on base {base}")));
            }
            PeerIdentity::App(app)
        };
        let certificate_chain = self.sign(&request.certificate_request, &identity, &base)?;
        Ok(Response::new(wire::RenewResponse { certificate_chain }))
    }

    type SyncStream = BoxStream<'static, Result<wire::ServerMessage, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<wire::BaseMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let base = base(&request)?;
        let address = request.extensions().get::<Peer>().map(|peer| peer.1);
        let mut inbound = request.into_inner();
        let Some(Message::Hello(hello)) = inbound.message().await?.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("the first message must be `hello`"));
        };
        let mesh: Option<SocketAddr> = match hello.mesh.as_str() {
            "" => None,
            text => {
                Some(text.parse().map_err(|_| Status::invalid_argument(format!("`{text}` is no address")))?)
            }
        };
        let api_token = Some(hello.api_token).filter(|token| !token.is_empty());
        let trust_domain = self.authorities.domain().clone();
        let settings = BaseSettings { mesh, api_token, trust_domain, ..BaseSettings::default() };
        self.admit(&base, Process { run: hello.run, address })?;
        let first = tokio::time::timeout(FIRST_REPORT, first_report(&mut inbound)).await;
        let first = first.map_err(|_| Status::deadline_exceeded("the status of the base did not come"))??;
        let link = self.control.link_again(base, settings, first).await.map_err(refused)?;
        // One delta at a time: what changes while it is on its way goes into the next.
        let (send, receive) = mpsc::channel(1);
        let questions = self.asker.enter(&link.base);
        self.tasks.spawn(Kind::Api, self.clone().converse(link, inbound, questions, send));
        let outbound =
            unfold(receive, |mut receive| async move { receive.recv().await.map(|one| (one, receive)) });
        Ok(Response::new(outbound.boxed()))
    }

    type ArtifactStream = BoxStream<'static, Result<wire::Chunk, Status>>;

    async fn artifact(
        &self,
        request: Request<wire::ArtifactRequest>,
    ) -> Result<Response<Self::ArtifactStream>, Status> {
        base(&request)?;
        let wire::ArtifactRequest { digest, offset } = request.into_inner();
        let digest = Digest::new(&digest);
        let found = self.blobs.read(&digest, offset, CHUNK).await.map_err(Status::unavailable)?;
        let first = found.ok_or_else(|| Status::not_found(format!("there is no artefact {digest}")))?;
        // A chunk is read when the one before was taken: no artefact is ever whole in memory.
        let start = (self.blobs.clone(), digest, offset, Some(first));
        let chunks = unfold(start, |(blobs, digest, offset, ready)| async move {
            let data = match ready {
                Some(data) => Ok(data),
                None => blobs.read(&digest, offset, CHUNK).await.map(Option::unwrap_or_default),
            };
            match data {
                Ok(data) if data.is_empty() => None,
                Ok(data) => {
                    let next = offset + data.len() as u64;
                    Some((Ok(wire::Chunk { data: data.into() }), (blobs, digest, next, None)))
                }
                Err(error) => {
                    let gone = (blobs, digest, u64::MAX, Some(Bytes::new()));
                    Some((Err(Status::unavailable(error)), gone))
                }
            }
        });
        Ok(Response::new(chunks.boxed()))
    }
}

impl Server {
    /// Carries one base's stream until either side ends. The link ends with it, which tells control.
    async fn converse(
        self,
        mut link: Link,
        mut inbound: Streaming<wire::BaseMessage>,
        mut questions: mpsc::Receiver<Question>,
        outbound: mpsc::Sender<Result<wire::ServerMessage, Status>>,
    ) {
        let mut told = Arc::new(Snapshot::default());
        let mut whole = true;
        // What could not be told, so that it is said once.
        let mut kept_back = 0;
        let mut open = Open::default();
        loop {
            let next = link.snapshots.borrow_and_update().clone();
            if next.version > told.version.max(kept_back) {
                let delta = encode(&told.diff(&next), whole);
                if let Some(why) = too_large(&delta, self.largest) {
                    // A message that the base cannot read would end its stream, again and again.
                    tracing::error!(base = %link.base, version = next.version, "{why}");
                    self.control.note(link.base.to_string(), "SnapshotTooLarge", why);
                    kept_back = next.version;
                } else {
                    if outbound.send(Ok(wire::ServerMessage { delta: Some(delta), ask: None })).await.is_err()
                    {
                        return;
                    }
                    (told, whole) = (next, false);
                }
            }
            let asks = tokio::select! {
                // Cancel safe: the snapshot is state, and what was not received whole stays where it is.
                () = self.tasks.closing() => return,
                changed = link.snapshots.changed() => {
                    if changed.is_err() {
                        let text = format!("another stream of base {} has taken its place", link.base);
                        let _gone = outbound.send(Err(Status::aborted(text))).await;
                        return;
                    }
                    Vec::new()
                }
                // A second stream of this base takes the questions over; this one goes on without.
                Some(question) = questions.recv() => open.ask(question),
                message = inbound.message() => match message {
                    Ok(Some(wire::BaseMessage { message: Some(Message::Answer(answer)) })) => {
                        open.take(answer).into_iter().collect()
                    }
                    Ok(Some(message)) => {
                        take(&link, message);
                        Vec::new()
                    }
                    Ok(None) | Err(_) => return,
                },
            };
            for ask in asks {
                if outbound.send(Ok(wire::ServerMessage { delta: None, ask: Some(ask) })).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What a base is when it comes: the first status that it sends.
async fn first_report(inbound: &mut Streaming<wire::BaseMessage>) -> Result<Report, Status> {
    while let Some(message) = inbound.message().await? {
        if let Some(Message::Status(json)) = message.message {
            return serde_json::from_slice(&json)
                .map_err(|error| Status::invalid_argument(format!("the status cannot be read: {error}")));
        }
    }
    Err(Status::invalid_argument("the stream ended before a status came"))
}

fn take(link: &Link, message: wire::BaseMessage) {
    match message.message {
        Some(Message::Status(json)) => match serde_json::from_slice(&json) {
            Ok(status) => {
                link.status.send_replace(status);
            }
            Err(error) => tracing::warn!(base = %link.base, %error, "a status that cannot be read"),
        },
        Some(Message::Nack(nack)) => link.status.send_modify(|status| {
            status.refused = Some(Refusal { version: nack.version, reason: nack.reason });
        }),
        Some(Message::Ack(ack)) => link.status.send_modify(|status| {
            status.applied = status.applied.max(ack.version);
        }),
        Some(Message::Hello(_) | Message::Answer(_)) | None => {}
    }
}
