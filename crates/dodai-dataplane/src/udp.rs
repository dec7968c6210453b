//! Datagrams: what a client of a UDP listener sends goes to an endpoint of the service, and what that sends comes back.
//!
//! The datagrams of one client are a session: they go to one endpoint, picked with the first of them, until none went
//! either way for a while. Always holds: sessions are bounded, a datagram is passed on at once or dropped, and none is
//! allocated for, but those that open a session. What passes is counted; nobody waits for anybody.

mod counts;
mod waiting;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use dodai_core::call::Caller;
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::RequestHead;
use dodai_core::snapshot::{Backend, Protocol, Role};
use dodai_core::task;
use dodai_core::trace::Span;
use dodai_transport::datagram;
use dodai_transport::network::Network;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::affinity::Affinity;
use crate::connection::Serving;
use crate::local::{InFlight, Way};
use crate::opening;
use crate::reach::Address;
use crate::request::Side;
use crate::roll::{Entrant, Speaks};
use crate::service::{Attempt, Endpoint, Place, Service, Verdict, Wish, now_nanos};
use crate::spine::{self, Headers, Lap, Line, Outcome};
use crate::worker::Worker;

pub use counts::{Counts, Reading};
use waiting::{Room, Waiting};

/// The largest datagram.
const LARGEST: usize = 65_535;
/// Datagrams of one client that wait while its session is opened; more are dropped.
const WAITING: usize = 8;
/// Datagrams that one session passes on before others have their turn.
const BURST: usize = 64;
/// Endpoints that are looked at for one session.
const TRIES: usize = 16;

/// One listener on one thread.
struct Relay {
    worker: Rc<Worker>,
    serving: Rc<Serving>,
    socket: UdpSocket,
    sessions: RefCell<HashMap<SocketAddr, Rc<Session>, foldhash::fast::RandomState>>,
    /// For what waits in all sessions that are being opened.
    room: Room,
    /// The listener is gone, and its sessions end.
    gone: Cell<bool>,
    ended: Notify,
}

/// What goes between a client and an endpoint.
struct Session {
    client: SocketAddr,
    up: OnceCell<UdpSocket>,
    /// What came before there was a way to the endpoint.
    waiting: RefCell<Vec<Waiting>>,
    last: Cell<Instant>,
    /// Bytes from the client and to it.
    bytes: [Cell<u64>; 2],
    broken: Notify,
}

/// However the listener ends, its sessions hear of it.
struct Ending(Rc<Relay>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.gone.set(true);
        self.0.ended.notify_waiters();
    }
}

/// Serves one socket until the task is aborted.
pub async fn serve(worker: Rc<Worker>, serving: Rc<Serving>, socket: UdpSocket) {
    let sessions = RefCell::default();
    let (gone, ended) = (Cell::new(false), Notify::new());
    let relay = Rc::new(Relay { worker, serving, socket, sessions, room: Room::default(), gone, ended });
    let _ending = Ending(relay.clone());
    let mut buffer = vec![0; LARGEST].into_boxed_slice();
    loop {
        match relay.socket.recv_from(&mut buffer).await {
            Ok((got, client)) => relay.take(client, &buffer[..got]),
            // What the network says of a datagram that was sent before; the socket is as good as it was.
            Err(error) => {
                tracing::debug!(%error, "a UDP listener was told of an error");
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Relay {
    fn counts(&self) -> &Counts {
        &self.worker.shared.datagrams
    }

    /// Passes on what a client sent.
    fn take(self: &Rc<Relay>, client: SocketAddr, data: &[u8]) {
        let most = self.worker.shared.limits.udp_sessions;
        let session = {
            let mut sessions = self.sessions.borrow_mut();
            let full = sessions.len() >= most;
            match sessions.entry(client) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(_) if full => {
                    self.counts().refused();
                    return;
                }
                Entry::Vacant(free) => {
                    let session = Rc::new(Session::new(client));
                    free.insert(session.clone());
                    let run = run(self.clone(), session.clone());
                    // Boxed: it lives on, and the listener's task does not pay for it.
                    self.worker.tasks.spawn_local(task::Kind::Connection, Box::pin(run));
                    session
                }
            }
        };
        session.forward(self, data);
    }

    /// Sends to a client what its endpoint sent.
    fn give(&self, session: &Session, data: &[u8]) {
        session.last.set(Instant::now());
        match self.socket.try_send_to(data, session.client) {
            Ok(_) => {
                session.bytes[1].set(session.bytes[1].get() + data.len() as u64);
                self.counts().passed(1, data.len());
            }
            Err(_) => self.counts().dropped(),
        }
    }
}

impl Session {
    fn new(client: SocketAddr) -> Session {
        Session {
            client,
            up: OnceCell::new(),
            waiting: RefCell::default(),
            last: Cell::new(Instant::now()),
            bytes: Default::default(),
            broken: Notify::new(),
        }
    }

    /// Sends to the endpoint what the client sent.
    fn forward(&self, relay: &Relay, data: &[u8]) {
        self.last.set(Instant::now());
        let Some(up) = self.up.get() else {
            let mut waiting = self.waiting.borrow_mut();
            match relay.room.hold(data).filter(|_| waiting.len() < WAITING) {
                Some(held) => waiting.push(held),
                None => relay.counts().dropped(),
            }
            return;
        };
        match up.try_send(data) {
            Ok(_) => self.went_up(relay, data.len()),
            Err(error) => {
                relay.counts().dropped();
                if error.kind() != std::io::ErrorKind::WouldBlock {
                    self.broken.notify_one();
                }
            }
        }
    }

    fn went_up(&self, relay: &Relay, bytes: usize) {
        self.bytes[0].set(self.bytes[0].get() + bytes as u64);
        relay.counts().passed(0, bytes);
    }
}

/// One session from its first datagram on.
async fn run(relay: Rc<Relay>, session: Rc<Session>) {
    let worker = relay.worker.clone();
    let side = side(&worker, &relay.serving, session.client);
    let lap = Lap::new(
        spine::direction(&side.listener.role),
        side.label.clone(),
        Span::root(false),
        Instant::now(),
    );
    relay.counts().opened();
    let mut outcome = Outcome::default();
    let mut service = None;
    match open(&worker, &side).await {
        Ok((opened, up)) => {
            outcome.status = 200;
            outcome.endpoint = Some(opened.attempt.endpoint.clone());
            outcome.failure = exchange(&relay, &session, &side, &opened, up).await;
            service = Some(opened.service);
        }
        Err((found, failure)) => {
            session.waiting.borrow().iter().for_each(|_| relay.counts().dropped());
            (service, outcome.failure) = (found.or(service), Some(failure));
        }
    }
    relay.sessions.borrow_mut().remove(&session.client);
    relay.counts().closed();
    [outcome.received, outcome.sent] = [&session.bytes[0], &session.bytes[1]].map(Cell::get);
    let line = || Line {
        listener: &side.listener.name,
        from: side.from(),
        headers: Headers::None,
        method: "-",
        target: "-",
        authority: "",
        protocol: "UDP",
    };
    lap.finish(&worker, service.as_deref(), None, &outcome, line);
}

/// Where a session goes.
struct Opened {
    service: Arc<Service>,
    attempt: Attempt,
    _in_flight: Option<InFlight>,
}

/// Passes datagrams on until none went either way for a while; why it was cut, if it was.
async fn exchange(
    relay: &Relay,
    session: &Session,
    side: &Side,
    opened: &Opened,
    up: UdpSocket,
) -> Option<Failure> {
    let (worker, service) = (&relay.worker, &opened.service);
    let limits = &worker.shared.limits;
    let watch = worker.live.enter(side, opening::tunnel(), Some(service.id()), None);
    loop {
        let waiting = std::mem::take(&mut *session.waiting.borrow_mut());
        if waiting.is_empty() {
            break;
        }
        for data in waiting {
            match up.send(&data).await {
                Ok(_) => session.went_up(relay, data.len()),
                Err(error) => return Some(refused(opened, &error)),
            }
        }
    }
    // From here on the listener's task sends by itself.
    let up = session.up.get_or_init(|| up);
    let mut idle = service.spec.policy.idle_timeout.unwrap_or(limits.udp_idle_timeout);
    let (mut closing, mut answered) = (false, false);
    let mut timer = Box::pin(tokio::time::sleep_until(session.last.get() + idle));
    loop {
        if relay.gone.get() {
            return None;
        }
        let cut = poll_fn(|cx| watch.poll_cut(cx).map_or(Poll::Pending, Poll::Ready));
        tokio::select! {
            // All of these are cancel safe: they wait for something to be so, and take nothing.
            readable = up.readable() => {
                if let Err(error) = readable {
                    return Some(refused(opened, &error));
                }
                match receive(relay, session, up) {
                    Ok(true) if !answered => {
                        answered = true;
                        service.answered(&opened.attempt, Verdict::Status(200), now_nanos());
                    }
                    Ok(_) => {}
                    Err(error) => return Some(refused(opened, &error)),
                }
                tokio::task::yield_now().await;
            }
            () = &mut timer => {
                let due = session.last.get() + idle;
                if due <= Instant::now() {
                    return None;
                }
                timer.as_mut().reset(due);
            }
            failure = cut => return Some(failure),
            () = session.broken.notified() => {
                let error = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                return Some(refused(opened, &error));
            }
            () = relay.ended.notified() => return None,
            () = worker.tasks.closing(), if !closing => {
                // What was asked may still be answered, for a moment.
                (closing, idle) = (true, idle.min(limits.linger_timeout));
                timer.as_mut().reset(session.last.get() + idle);
            }
        }
    }
}

/// Passes on what the endpoint has sent; whether that was anything.
fn receive(relay: &Relay, session: &Session, up: &UdpSocket) -> std::io::Result<bool> {
    let mut scratch = relay.worker.scratch.borrow_mut();
    for round in 0..BURST {
        match up.try_recv(&mut scratch[..]) {
            Ok(got) => relay.give(session, &scratch[..got]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(round > 0),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The endpoint cannot be reached: the next datagram of the client opens a session to another.
fn refused(opened: &Opened, error: &std::io::Error) -> Failure {
    opened.service.failed(&opened.attempt, Verdict::Broken);
    let text = format!("{} refused a datagram: {error}", opened.attempt.endpoint.label);
    Failure::new(Kind::Reset, text)
}

/// Who is at the other end.
fn side(worker: &Worker, serving: &Serving, client: SocketAddr) -> Side {
    let (listener, tenure) = serving.listener();
    let caller = match &listener.role {
        Role::Outbound { app } | Role::Dependency { app, .. } | Role::Api { app } => Caller::App(app.clone()),
        Role::Gateway { .. } | Role::Mesh | Role::Captured(_) => Caller::Outside,
    };
    let label = spine::caller_label(&caller);
    let text: Arc<str> = match listener.role {
        Role::Gateway { .. } => client.ip().to_string().into(),
        Role::Outbound { .. }
        | Role::Dependency { .. }
        | Role::Mesh
        | Role::Api { .. }
        | Role::Captured(_) => Arc::default(),
    };
    let port = client.port();
    let arrival = Entrant { tenure, peer: client, caller: &label, identity: None, tls: None };
    let facts = Some(worker.roll.enter(arrival));
    let side = Side {
        listener,
        caller,
        label,
        client: text,
        port,
        via: None,
        certified: None,
        wanted: None,
        secure: false,
        service: None,
        facts,
    };
    side.speaks(Speaks::Udp);
    side
}

/// A way to an endpoint for a client of `side`; else the service, if there is one, and why not.
async fn open(worker: &Worker, side: &Side) -> Result<(Opened, UdpSocket), (Option<Arc<Service>>, Failure)> {
    let (service, backend) = opening::lead(&worker.shared.table.load(), side, None)?;
    match way(worker, side, &service, backend.as_ref()).await {
        Ok((attempt, up, _in_flight)) => Ok((Opened { service, attempt, _in_flight }, up)),
        Err(failure) => Err((Some(service), failure)),
    }
}

async fn way(
    worker: &Worker,
    side: &Side,
    service: &Service,
    backend: Option<&Backend>,
) -> Result<(Attempt, UdpSocket, Option<InFlight>), Failure> {
    if service.spec.protocol != Protocol::Udp {
        let text = format!("{} does not speak UDP", service.label);
        return Err(Failure::new(Kind::NotImplemented, text));
    }
    let head = opening::tunnel();
    spine::admit_inbound(service, &RequestHead::Map(&head), &side.caller, false)?;
    let endpoint = pick(service, side, backend)?;
    let attempt = endpoint.attempt(now_nanos());
    let (at, in_flight) = address(worker, service, &endpoint).await?;
    Ok((attempt, datagram::connect(at)?, in_flight))
}

/// One of the endpoints that datagrams can get to: those on this base, and those outside the mesh.
fn pick(service: &Service, side: &Side, backend: Option<&Backend>) -> Result<Arc<Endpoint>, Failure> {
    let mut tried = Vec::new();
    loop {
        let endpoint = service.pick(&Wish {
            revision: backend.and_then(|backend| backend.revision.as_ref()),
            labels: backend.and_then(|backend| backend.labels.as_deref()),
            affinity: Affinity::of_connection(service, side),
            tried: &tried,
            local_only: false,
            priority: None,
        })?;
        match endpoint.place {
            Place::Local(_) | Place::Address(..) => return Ok(endpoint),
            Place::Mesh { .. } if tried.contains(&endpoint.id) || tried.len() >= TRIES => {
                let text = format!(
                    "{}: its instances are on other bases, where datagrams do not go; place one on this base, or name \
                     its address in an external app",
                    service.label
                );
                return Err(Failure::new(Kind::NoEndpoint, text));
            }
            Place::Mesh { .. } => tried.push(endpoint.id),
        }
    }
}

async fn address(
    worker: &Worker,
    service: &Service,
    endpoint: &Endpoint,
) -> Result<(SocketAddr, Option<InFlight>), Failure> {
    let none = |why: &str| Failure::new(Kind::NoEndpoint, format!("{}: {why}", endpoint.label));
    match &endpoint.place {
        Place::Local(local) => {
            let in_flight = local.enter();
            match &**local.way() {
                Way::Ports(ports) => {
                    let port = service.spec.target.as_ref().unwrap_or(&service.spec.id.port);
                    let at = ports.get(port).copied().ok_or_else(|| none("it does not serve this port"))?;
                    Ok((at, Some(in_flight)))
                }
                Way::Closed(reason) => Err(none(reason)),
                Way::Serve(_) => Err(none("a module does not take datagrams")),
            }
        }
        Place::Address(_, Address::Socket(at), None, None) => Ok((*at, None)),
        Place::Address(_, Address::Host(host, port), None, None) => {
            let Network::System(resolver) = &worker.shared.network else {
                return Err(none("there are no datagrams in memory"));
            };
            let within = worker.shared.limits.connect_timeout;
            Ok((datagram::resolve(&resolver.resolver, host, *port, within).await?, None))
        }
        Place::Address(..) => Err(none("datagrams go in no TLS, and nothing is told ahead of them")),
        Place::Mesh { .. } => Err(none("it is on another base")),
    }
}
