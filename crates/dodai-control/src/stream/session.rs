//! The base's end of the stream: kept again and again, whether or not there is a server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dodai_core::snapshot::{Resource, Snapshot, Trust};
use dodai_core::status::{Link, Status as Report, Wants};
use dodai_core::task::{Kind, Tasks};
use dodai_core::trace::random;
use dodai_proto::control::{self as wire, base_message::Message};
use futures_util::stream::unfold;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Code, Streaming};

use super::apply;
use super::ask::{Answers, Working};
use super::remote::{Remote, RemoteError};

const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_MOST: Duration = Duration::from_secs(15);
/// How many messages to the server may wait; status replaces itself, so few are enough.
const OUTBOUND: usize = 8;

/// What a base says of itself when it comes.
#[derive(Clone, Debug, Default)]
pub struct Introduction {
    /// Where it listens for other bases.
    pub mesh: Option<SocketAddr>,
    /// What its apps send to the runtime API.
    pub api_token: Option<String>,
}

/// How a base stands with its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not been connected yet.
    Connecting,
    /// It is connected.
    Connected,
    /// It is not, for this reason.
    Away(String),
    /// The server is there and does not let it in: another process runs under its name, or its certificate is worth
    /// nothing any more.
    Refused(String),
}

impl Remote {
    /// Keeps a stream to the server until the tasks close. The link begins with `last`, the last good snapshot;
    /// the second part tells whether there is a server. `answers` says what the server asks.
    pub fn connect(
        &self,
        last: Option<Snapshot>,
        introduction: Introduction,
        answers: Arc<dyn Answers>,
        tasks: &Tasks,
    ) -> (Link, watch::Receiver<Standing>) {
        let mut last = last.unwrap_or_default();
        // Roots are on disk of their own, and newer there; who signs is told anew.
        let known = last.trusts().next().cloned();
        if let Some(known) = known {
            last.insert(Resource::Trust(Trust { bundle: String::new(), signer: String::new(), ..known }));
        }
        // What was called before is wanted again, before somebody calls it.
        let called = last.services().map(|service| service.id.owner.clone());
        let wants = Wants::Only(called.chain(last.absents().map(|one| one.app.clone())).collect());
        let snapshots = watch::Sender::new(Arc::new(last));
        let status = watch::Sender::new(Report { wants, ..Report::default() });
        let (standing, stands) = watch::channel(Standing::Connecting);
        let link =
            Link { base: self.base().clone(), snapshots: snapshots.subscribe(), status: status.clone() };
        let session = Session {
            remote: self.clone(),
            introduction,
            answers,
            snapshots,
            status: status.subscribe(),
            run: format!("{:016x}", random()),
            standing,
            tasks: tasks.clone(),
        };
        tasks.spawn(Kind::Loop, session.keep(tasks.clone()));
        (link, stands)
    }
}

struct Session {
    remote: Remote,
    introduction: Introduction,
    answers: Arc<dyn Answers>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    status: watch::Receiver<Report>,
    /// What this process calls itself.
    run: String,
    standing: watch::Sender<Standing>,
    tasks: Tasks,
}

impl Session {
    async fn keep(mut self, tasks: Tasks) {
        let mut wait = BACKOFF_FIRST;
        loop {
            let start = Instant::now();
            tokio::select! {
                // Cancel safe: a session that is cut is begun anew.
                () = tasks.closing() => return,
                ended = self.once() => {
                    // One that is thrown out again and again comes ever more seldom.
                    let lasted = start.elapsed() >= BACKOFF_MOST;
                    if *self.standing.borrow() == Standing::Connected && lasted {
                        wait = BACKOFF_FIRST;
                    }
                    self.away(ended);
                }
            }
            tokio::select! {
                // Both only wait.
                () = tasks.closing() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(BACKOFF_MOST);
        }
    }

    /// Says once, not at every try, that there is no server, or that it does not let this base in.
    fn away(&self, ended: Result<(), RemoteError>) {
        let standing = match ended {
            Ok(()) => Standing::Away("it closed the stream".to_owned()),
            Err(RemoteError::Refused(status)) if status.code() == Code::AlreadyExists => {
                Standing::Refused(status.message().to_owned())
            }
            Err(error) if error.asks_to_join() => Standing::Refused(format!(
                "{error}; if it shall come back, make a token with `dodai token create --base {base}` on the server, and start this base once with --token and --pin",
                base = self.remote.base()
            )),
            Err(error) => Standing::Away(error.to_string()),
        };
        let known = std::mem::discriminant(&*self.standing.borrow()) == std::mem::discriminant(&standing);
        match &standing {
            Standing::Refused(why) if !known => {
                tracing::warn!(why, "the server does not let this base in; it goes on with what it was told");
            }
            Standing::Away(why) if !known => {
                tracing::warn!(why, "no server; this base goes on with what it was told");
            }
            Standing::Refused(why) | Standing::Away(why) => tracing::debug!(why, "there is still no server"),
            Standing::Connecting | Standing::Connected => {}
        }
        self.standing.send_replace(standing);
    }

    async fn once(&mut self) -> Result<(), RemoteError> {
        let mut client = self.remote.client().await?;
        let (send, receive) = mpsc::channel(OUTBOUND);
        let said = &self.introduction;
        let hello = wire::Hello {
            mesh: said.mesh.map(|mesh| mesh.to_string()).unwrap_or_default(),
            api_token: said.api_token.clone().unwrap_or_default(),
            run: self.run.clone(),
        };
        let outgoing = Outgoing { send, applied: 0, refused: 0 };
        outgoing.say(Message::Hello(hello)).await?;
        // The server answers when it has heard what this base is.
        let report = self.status.borrow_and_update().clone();
        outgoing.say(Message::Status(encoded(&report)?)).await?;
        let outbound =
            unfold(receive, |mut receive| async move { receive.recv().await.map(|one| (one, receive)) });
        let inbound = client.sync(outbound).await?.into_inner();
        if self.standing.send_replace(Standing::Connected) != Standing::Connected {
            tracing::info!(server = self.remote.server(), "connected to the server");
        }
        self.converse(inbound, outgoing).await
    }

    async fn converse(
        &mut self,
        mut inbound: Streaming<wire::ServerMessage>,
        mut outgoing: Outgoing,
    ) -> Result<(), RemoteError> {
        let mut received = Snapshot::default();
        let mut working = Working::default();
        self.status.mark_changed();
        loop {
            tokio::select! {
                // Cancel safe: a message that was not read whole stays in the stream; the status is state.
                message = inbound.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    if let Some(ask) = message.ask
                        && let Some(work) = working.take(ask, &self.answers, &outgoing.send)
                    {
                        self.tasks.spawn(Kind::Api, work);
                    }
                    let Some(delta) = message.delta else { continue };
                    match apply(&received, &delta) {
                        Ok(next) => {
                            received = next;
                            self.snapshots.send_replace(Arc::new(received.clone()));
                        }
                        Err(reason) => {
                            let nack = wire::Nack { version: delta.version, reason: reason.clone() };
                            outgoing.say(Message::Nack(nack)).await?;
                            // Deltas that follow build on this one: begin anew, perhaps with what can be read.
                            return Err(RemoteError::Answer(reason));
                        }
                    }
                }
                changed = self.status.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let report = self.status.borrow_and_update().clone();
                    outgoing.report(&report).await?;
                }
            }
        }
    }
}

/// What goes to the server in one session.
struct Outgoing {
    send: mpsc::Sender<wire::BaseMessage>,
    applied: u64,
    refused: u64,
}

impl Outgoing {
    async fn say(&self, message: Message) -> Result<(), RemoteError> {
        let sent = self.send.send(wire::BaseMessage { message: Some(message) }).await;
        sent.map_err(|_| RemoteError::Answer("it closed the stream".to_owned()))
    }

    /// The status, and what follows from it for those who watch the wire.
    async fn report(&mut self, report: &Report) -> Result<(), RemoteError> {
        self.say(Message::Status(encoded(report)?)).await?;
        if report.applied > self.applied {
            self.applied = report.applied;
            self.say(Message::Ack(wire::Ack { version: report.applied })).await?;
        }
        if let Some(bad) = report.refused.as_ref().filter(|bad| bad.version > self.refused) {
            self.refused = bad.version;
            let nack = wire::Nack { version: bad.version, reason: bad.reason.clone() };
            self.say(Message::Nack(nack)).await?;
        }
        Ok(())
    }
}

fn encoded(report: &Report) -> Result<Vec<u8>, RemoteError> {
    serde_json::to_vec(report).map_err(|error| RemoteError::Answer(error.to_string()))
}
