//! A connection of which it is not known what it speaks: both sides are listened to until that is clear, and then it
//! goes where it is led to.
//!
//! The first who speaks decides. A client that begins HTTP or TLS is heard until its head is there; whatever the server
//! says before that makes it bytes. What was heard too early is passed on first.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use dodai_core::failure::{Failure, Kind};
use dodai_core::snapshot::CaptureWay;
use dodai_core::trace::Span;
use dodai_transport::stream::Stream;
use tokio::time::Instant;

use crate::answer;
use crate::capture::{Spoken, denied};
use crate::captures::Fate;
use crate::guess::{Guess, guess};
use crate::pipe;
use crate::reach::{self, dial};
use crate::request::Side;
use crate::roll::Speaks;
use crate::service::Service;
use crate::spine::{self, Headers, Lap, Line, Outcome};
use crate::timer::Deadline;
use crate::wire::{Broken, Wire};
use crate::worker::Worker;

/// How long a client may take to go on whose first bytes could be the beginning of HTTP, or whose destination cannot be
/// reached: some servers and libraries give up within seconds, and nothing is won by waiting.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// What was heard.
#[derive(Debug)]
pub enum Heard {
    /// The client began so, or ended.
    Client(Guess),
    /// The server spoke first, or ended.
    Server,
    /// Nobody said enough.
    Silence,
}

/// One connection and, perhaps, the one that goes on to where it was meant to go.
pub struct Converse {
    worker: Rc<Worker>,
    client: Wire,
    /// What the client said.
    asked: Vec<u8>,
    destination: SocketAddr,
    server: Server,
    deadline: Deadline,
    lap: Lap,
}

enum Server {
    /// Nobody has dialled.
    Away,
    Dialling(Pin<Box<dyn Future<Output = Result<Stream, Failure>>>>),
    /// With what it said.
    There(Wire, Vec<u8>),
    Unreachable(Failure),
}

enum Event {
    Client(usize),
    Server,
    /// The server cannot be reached.
    Alone,
    TimedOut,
}

impl Converse {
    /// A connection that was meant for `destination`.
    pub fn new(worker: Rc<Worker>, stream: Stream, destination: SocketAddr) -> Converse {
        Converse {
            client: Wire::new(stream),
            asked: Vec::new(),
            destination,
            server: Server::Away,
            deadline: worker.deadlines.register(),
            lap: Lap::new(
                crate::stats::Direction::Outbound,
                Arc::default(),
                Span::root(false),
                Instant::now(),
            ),
            worker,
        }
    }

    /// Begins to connect to the destination.
    pub fn dial(&mut self) {
        let (worker, address) = (self.worker.clone(), self.destination);
        self.server =
            Server::Dialling(Box::pin(async move { dial(&worker, &reach::straight(address)).await }));
    }

    /// Listens until it is clear what is spoken. `to_client` says that only the client can begin.
    pub async fn hear(&mut self, to_client: bool) -> Heard {
        let mut waits_for = None;
        loop {
            let found = guess(&self.asked, self.worker.shared.limits.head_bytes);
            let decided = matches!(found, Guess::Http1(_) | Guess::Http2(_) | Guess::Tls(_) | Guess::Bytes);
            if decided {
                return Heard::Client(found);
            }
            let alone = matches!(self.server, Server::Unreachable(_));
            let stage = (std::mem::discriminant(&found), self.asked.is_empty(), alone);
            // A trickle does not renew the time that something may take.
            if waits_for != Some(stage) {
                waits_for = Some(stage);
                self.deadline.set(self.wait(&found, to_client));
            }
            if self.asked.is_empty() && self.worker.is_closing() {
                return Heard::Silence;
            }
            self.deadline.set_interruptible(self.asked.is_empty());
            let event = self.next().await;
            self.deadline.set_interruptible(false);
            match event {
                Event::Client(0) => return Heard::Client(Guess::Bytes),
                Event::Client(_) | Event::Alone => {}
                Event::Server => return Heard::Server,
                Event::TimedOut => return self.late(found),
            }
        }
    }

    /// How long the next bytes may take.
    fn wait(&self, found: &Guess, to_client: bool) -> Duration {
        let limits = &self.worker.shared.limits;
        match found {
            Guess::Http1Begun | Guess::TlsBegun => limits.head_timeout,
            Guess::Open if self.asked.is_empty() => match (&self.server, to_client) {
                (Server::Unreachable(_), _) => PATIENCE,
                (_, true) => limits.head_timeout,
                (_, false) => limits.pipe_idle_timeout,
            },
            // Clients of HTTP/2 may wait for the server's settings before they call.
            Guess::Http2Begun | Guess::Open => PATIENCE,
            Guess::Http1(_) | Guess::Http2(_) | Guess::Tls(_) | Guess::Bytes => Duration::ZERO,
        }
    }

    /// What it is that did not go on in time.
    fn late(&self, found: Guess) -> Heard {
        if self.asked.is_empty() {
            Heard::Silence
        } else if found == Guess::Http2Begun {
            Heard::Client(found)
        } else {
            Heard::Client(Guess::Bytes)
        }
    }

    /// What happens next. What the client says is kept, and so is what the server says.
    async fn next(&mut self) -> Event {
        let Converse { worker, client, asked, server, deadline, .. } = self;
        poll_fn(|cx| {
            match client.poll_read(worker, deadline, cx) {
                Poll::Ready(Ok(got)) => {
                    asked.extend_from_slice(&worker.scratch.borrow()[..got]);
                    return Poll::Ready(Event::Client(got));
                }
                Poll::Ready(Err(Broken::TimedOut)) => return Poll::Ready(Event::TimedOut),
                Poll::Ready(Err(Broken::Io(_))) => return Poll::Ready(Event::Client(0)),
                Poll::Pending => {}
            }
            server.poll(worker, deadline, cx)
        })
        .await
    }

    /// Gives the connection to those who serve HTTP.
    pub fn route(self, way: &CaptureWay, side: Side) -> Option<Spoken> {
        self.worker.shared.captures.count(way, Fate::Routed);
        Some((self.client.into_inner(), side, self.asked))
    }

    /// Carries the bytes to a service.
    pub async fn carry_to(mut self, way: &CaptureWay, side: Side, service: Arc<Service>) -> Option<Spoken> {
        self.server = Server::Away;
        if matches!(way, CaptureWay::Inbound)
            && let Err(failure) = service.admits(side.secure, true)
        {
            self.end(way, Fate::Refused, side, Some(&service), (0, failure));
            return None;
        }
        let mut service = Some(service);
        match Box::pin(pipe::open_named(&self.worker, &side, &mut service, "")).await {
            Ok(opened) => {
                let up = (Wire::new(opened.stream), Vec::new());
                self.join(way, Fate::Carried, side, service, up).await;
            }
            Err(failure) => self.end(way, Fate::Refused, side, service.as_deref(), (0, failure)),
        }
        None
    }

    /// Carries the bytes to where they were meant to go, if such are let through; `is_http` says that the client
    /// understands why not.
    pub async fn pass_on(mut self, way: &CaptureWay, side: Side, is_http: bool) -> Option<Spoken> {
        if !side.captured().is_some_and(|captured| captured.allow_unknown) {
            let failure = denied(self.destination);
            let status = if is_http { self.answer(&failure).await } else { 0 };
            self.end(way, Fate::Denied, side, None, (status, failure));
            return None;
        }
        if matches!(self.server, Server::Away) {
            self.dial();
        }
        self.deadline.clear();
        let reached = match std::mem::replace(&mut self.server, Server::Away) {
            Server::There(wire, said) => Ok((wire, said)),
            Server::Dialling(dialling) => dialling.await.map(|stream| (Wire::new(stream), Vec::new())),
            Server::Unreachable(failure) => Err(failure),
            Server::Away => Err(Failure::new(Kind::Internal, "nobody dialled")),
        };
        match reached {
            Ok(up) => self.join(way, Fate::Passed, side, None, up).await,
            Err(failure) => self.end(way, Fate::Refused, side, None, (0, failure)),
        }
        None
    }

    /// Ends a connection of which nothing was heard.
    pub async fn give_up(mut self, way: &CaptureWay, side: Side) -> Option<Spoken> {
        let failure = match std::mem::replace(&mut self.server, Server::Away) {
            Server::Unreachable(failure) => failure,
            Server::Away | Server::Dialling(_) | Server::There(..) => {
                Failure::new(Kind::ClientTimeout, "the client said nothing in time")
            }
        };
        self.end(way, Fate::Refused, side, None, (0, failure));
        None
    }

    /// Tells a client of HTTP why; the status that it was sent, 0 for one that does not understand any.
    async fn answer(&mut self, failure: &Failure) -> u16 {
        if !matches!(self.asked.first(), Some(b'A'..=b'Z')) || self.asked.starts_with(crate::h2::PREFACE) {
            return 0;
        }
        let (status, headers, body) = answer::failure_answer(failure);
        let mut out = Vec::new();
        crate::h1::write_local_response(&mut out, status, &headers, &body, true, false);
        self.deadline.set(self.worker.shared.limits.linger_timeout);
        if self.client.write_all(&out, &self.deadline).await.is_err() {
            return 0;
        }
        if self.client.shutdown(&self.deadline).await.is_ok() {
            self.client.discard(&self.worker, &self.deadline).await;
        }
        status
    }

    async fn join(
        mut self,
        way: &CaptureWay,
        fate: Fate,
        side: Side,
        service: Option<Arc<Service>>,
        (up, said): (Wire, Vec<u8>),
    ) {
        let early = [std::mem::take(&mut self.asked), said];
        let Converse { worker, client, deadline, .. } = &self;
        worker.shared.captures.count(way, fate);
        side.speaks(Speaks::Tcp);
        let ids = [service.as_deref().map(Service::id), None];
        let (bytes, failure) = pipe::carry(worker, &side, ids, (client, &up), early, deadline).await;
        let [received, sent] = bytes;
        let outcome = Outcome { status: 200, failure, received, sent, ..Outcome::default() };
        self.record(&side, service.as_deref(), &outcome);
    }

    /// Ends the connection as if nobody had listened.
    fn end(
        self,
        way: &CaptureWay,
        fate: Fate,
        side: Side,
        service: Option<&Service>,
        (status, failure): (u16, Failure),
    ) {
        self.worker.shared.captures.count(way, fate);
        let outcome = Outcome { status, failure: Some(failure), ..Outcome::default() };
        self.record(&side, service, &outcome);
        self.client.into_inner().abort();
    }

    fn record(&self, side: &Side, service: Option<&Service>, outcome: &Outcome) {
        let lap = Lap {
            direction: spine::direction(&side.listener.role),
            caller: side.label.clone(),
            ..self.lap.clone()
        };
        let authority = self.destination.to_string();
        let line = || Line {
            listener: &side.listener.name,
            from: side.from(),
            headers: Headers::None,
            method: "-",
            target: "-",
            authority: &authority,
            protocol: "TCP",
        };
        lap.finish(&self.worker, service, None, outcome, line);
    }
}

impl Server {
    /// Waits until it says something, ends, or cannot be reached.
    fn poll(&mut self, worker: &Worker, deadline: &Deadline, cx: &mut Context<'_>) -> Poll<Event> {
        if let Server::Dialling(dialling) = self {
            match dialling.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(stream)) => *self = Server::There(Wire::new(stream), Vec::new()),
                Poll::Ready(Err(failure)) => {
                    *self = Server::Unreachable(failure);
                    return Poll::Ready(Event::Alone);
                }
            }
        }
        match self {
            Server::There(wire, said) => match wire.poll_read(worker, deadline, cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(got)) => {
                    said.extend_from_slice(&worker.scratch.borrow()[..got]);
                    Poll::Ready(Event::Server)
                }
                // It ended; whoever carries the bytes sees that too.
                Poll::Ready(Err(_)) => Poll::Ready(Event::Server),
            },
            Server::Away | Server::Dialling(_) | Server::Unreachable(_) => Poll::Pending,
        }
    }
}
