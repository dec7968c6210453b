//! Station one: accepted connections, until it is known what they speak.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dodai_core::call::Caller;
use dodai_core::id::ServiceId;
use dodai_core::snapshot::{Listener, Protocol, Role};
use dodai_core::task;
use dodai_transport::identity::MeshName;
use dodai_transport::listen::{AfterFailure, after_accept_failure};
use dodai_transport::network;
use dodai_transport::stream::Stream;
use dodai_transport::tls::{Alpn, HandshakeError};

use crate::capture::{self, Arrival};
use crate::forwarded::Proxies;
use crate::h2::PREFACE;
use crate::identity::Certified;
use crate::pipe;
use crate::proxied::Proxied;
use crate::request::{Side, Wanted};
use crate::roll::{Entrant, Facts, Tenure};
use crate::spine::caller_label;
use crate::timer::Deadline;
use crate::tls::Tls;
use crate::wire::Wire;
use crate::worker::Worker;
use crate::{foreign, serve_h1, serve_h2, socks};

/// What a socket's connections are served as; a new table may change it between two connections.
pub struct Serving(RefCell<Terms>);

#[derive(Clone)]
struct Terms {
    listener: Arc<Listener>,
    tls: Option<Tls>,
    /// What a proxy in front says ahead of a connection.
    proxied: Option<Rc<Proxied>>,
    /// The proxies in front that may say whose calls they bring.
    proxies: Option<Rc<Proxies>>,
    tenure: Rc<Tenure>,
}

impl Terms {
    fn new(listener: Arc<Listener>, tls: Option<Tls>, worker: &Worker) -> Terms {
        let proxied = listener.proxy.as_ref().map(|proxy| Rc::new(Proxied::new(proxy)));
        let proxies = Proxies::new(&listener.trusted_proxies);
        let counts = worker.shared.arrivals.of(&listener.name);
        let tenure = Rc::new(Tenure::new(listener.clone(), counts));
        Terms { listener, tls, proxied, proxies, tenure }
    }
}

impl Serving {
    /// Serves `listener`, behind TLS if there is any.
    pub fn new(listener: Arc<Listener>, tls: Option<Tls>, worker: &Worker) -> Serving {
        Serving(RefCell::new(Terms::new(listener, tls, worker)))
    }

    /// From the next connection on, serves this; those that are open end when they can.
    pub fn replace(&self, listener: Arc<Listener>, tls: Option<Tls>, worker: &Worker) {
        self.0.replace(Terms::new(listener, tls, worker)).tenure.end();
    }

    /// The listener as it is now, and whether what begins under it has to end.
    pub fn listener(&self) -> (Arc<Listener>, Rc<Tenure>) {
        let now = self.0.borrow();
        (now.listener.clone(), now.tenure.clone())
    }

    fn now(&self) -> Terms {
        self.0.borrow().clone()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.borrow().tenure.end();
    }
}

/// Accepts connections until the task is aborted.
pub async fn accept(worker: Rc<Worker>, serving: Rc<Serving>, mut socket: network::Listener) {
    let mut failures = 0;
    loop {
        if worker.clients.get() >= worker.shared.limits.client_connections {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        let accepted = socket.accept().await;
        let terms = serving.now();
        match accepted {
            Ok((stream, peer)) => {
                failures = 0;
                terms.tenure.counts().accepted();
                let open = Open::new(&worker);
                let connection = connection(worker.clone(), terms, stream, peer, open);
                worker.tasks.spawn_local(task::Kind::Connection, connection);
            }
            Err(error) => match after_accept_failure(&error, failures) {
                AfterFailure::Next => {}
                AfterFailure::Pause(pause) => {
                    failures += 1;
                    let (listener, now) = (&*terms.listener.name, Instant::now());
                    if let Some(times) = worker.shared.not_accepted.count(listener, now) {
                        tracing::warn!(listener, times, %error, "cannot accept connections for a moment");
                    }
                    tokio::time::sleep(pause).await;
                }
                AfterFailure::Stop => {
                    tracing::error!(listener = terms.listener.name, %error, "the listener is broken; it stops");
                    return;
                }
            },
        }
    }
}

/// Counts a client connection while it is open.
struct Open(Rc<Worker>);

impl Open {
    fn new(worker: &Rc<Worker>) -> Open {
        worker.clients.set(worker.clients.get() + 1);
        Open(worker.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.clients.set(self.0.clients.get() - 1);
    }
}

/// A future that serves a connection to its end.
type Serve = Pin<Box<dyn Future<Output = ()>>>;

/// Serves a connection. An idle one costs what [`Serve`] does and no more: what is only needed until it is known what
/// the connection speaks lies in a box of its own, which is gone by then.
fn connection(
    worker: Rc<Worker>,
    terms: Terms,
    stream: Stream,
    peer: std::net::SocketAddr,
    open: Open,
) -> impl Future<Output = ()> {
    let begun = Box::pin(begin(worker, terms, stream, peer));
    async move {
        let _open = open;
        if let Some(serve) = begun.await {
            serve.await;
        }
    }
}

/// Finds out who is there and what they speak. `None` if nobody is served.
async fn begin(
    worker: Rc<Worker>,
    terms: Terms,
    stream: Stream,
    mut peer: std::net::SocketAddr,
) -> Option<Serve> {
    let Terms { listener, tls, proxied, proxies, tenure } = terms;
    if !worker.shared.users.admit(&listener.role, &stream) {
        return None;
    }
    let (mut stream, mut wanted) = (stream, None);
    if let Some(proxied) = proxied {
        let patience = worker.shared.limits.head_timeout;
        let heard = Box::pin(proxied.hear(stream, peer, &listener.name, patience)).await;
        let (rest, ends) = heard?;
        stream = rest;
        if let Some(ends) = ends {
            (peer, wanted) =
                (ends.source, Some(Box::new(Wanted { address: ends.destination, captured: None })));
        }
    }
    if let Role::Captured(_) = &listener.role {
        return Some(Box::pin(captured(worker, Arrival { listener, stream, peer, wanted, tenure })));
    }
    let is_mesh = matches!(listener.role, Role::Mesh);
    let either = is_mesh && worker.shared.table.load().takes_plain();
    let stream = match tls {
        None => stream,
        Some(tls) => match Box::pin(opened(&tls, stream, either)).await {
            Ok(stream) => stream,
            Err(error) => {
                tenure.counts().failed(error.why());
                tracing::debug!(listener = listener.name, %peer, %error, "a client did not get through the TLS handshake");
                return None;
            }
        },
    };
    let secure = stream.is_tls();
    let passes = stream.passes_tls();
    let caller = caller(&listener.role, &stream);
    let label = caller_label(&caller);
    let client = match listener.role {
        Role::Gateway { .. } => peer.ip().to_string().into(),
        Role::Outbound { .. }
        | Role::Dependency { .. }
        | Role::Mesh
        | Role::Api { .. }
        | Role::Captured(_) => Arc::default(),
    };
    let certified = matches!(listener.role, Role::Gateway { .. }).then(|| Certified::of(&stream)).flatten();
    let via = proxies.and_then(|proxies| proxies.via(peer, &client));
    let protocol = listener.protocol;
    let tcp = protocol == Protocol::Tcp;
    if is_mesh {
        worker.shared.gauges.let_in(secure);
    }
    let service = service(&listener.role, &stream).map(Box::new);
    let port = peer.port();
    let facts = Some(enter(&worker, tenure, peer, &label, &stream, certified.as_deref()));
    let side = Side { listener, caller, label, client, port, via, certified, wanted, secure, service, facts };
    let tcp = tcp || passes || side.service.as_deref().is_some_and(|id| speaks_tcp(&worker, id));
    if tcp {
        return Some(Box::pin(pipe::serve(worker, stream, side)));
    }
    // Bases do not negotiate: a service's protocol says what they speak, and the first bytes show it.
    if stream.alpn() == Some(Alpn::H2) && !is_mesh {
        return Some(Box::pin(serve_h2::serve(worker, stream, side, Vec::new())));
    }
    let deadline = worker.deadlines.register();
    let (stream, early) = sniff(&worker, stream, &deadline).await?;
    if early.first() == Some(&socks::VERSION) && matches!(side.listener.role, Role::Outbound { .. }) {
        Some(Box::pin(by_socks(worker, stream, side, early, deadline)))
    } else {
        Some(speak(worker, stream, side, early, deadline))
    }
}

/// A connection that TLS has ended on, or with `either` one that began without.
async fn opened(tls: &Tls, stream: Stream, either: bool) -> Result<Stream, HandshakeError> {
    if either { tls.open_either(stream).await } else { tls.open(stream).await }
}

/// Writes a connection down that is served from now on.
fn enter(
    worker: &Worker,
    tenure: Rc<Tenure>,
    peer: std::net::SocketAddr,
    caller: &Arc<str>,
    stream: &Stream,
    certified: Option<&Certified>,
) -> Rc<Facts> {
    let tls = stream.tls_version();
    if let Some(version) = tls {
        tenure.counts().secured(version);
    }
    let identity = stream.identity().zip(worker.shared.mesh.as_ref());
    let identity = identity.map(|(identity, mesh)| identity.spiffe(&mesh.domain).into());
    let identity = identity.or_else(|| certified.map(|certified| certified.certificate.name().into()));
    worker.roll.enter(Entrant { tenure, peer, caller, identity, tls })
}

/// Serves HTTP in the version that the first bytes show.
fn speak(worker: Rc<Worker>, stream: Stream, side: Side, early: Vec<u8>, deadline: Deadline) -> Serve {
    foreign::tell(&worker, &side, &early);
    if early.starts_with(PREFACE) {
        Box::pin(serve_h2::serve(worker, stream, side, early))
    } else {
        Box::pin(serve_h1::serve(worker, stream, side, early, deadline))
    }
}

/// Serves a client whose connection the kernel led here.
async fn captured(worker: Rc<Worker>, arrival: Arrival) {
    let Some((stream, side, early)) = Box::pin(capture::serve(worker.clone(), arrival)).await else { return };
    let deadline = worker.deadlines.register();
    deadline.set(worker.shared.limits.head_timeout);
    speak(worker, stream, side, early, deadline).await;
}

/// Serves a client that began with SOCKS, and what follows if that is HTTP.
async fn by_socks(worker: Rc<Worker>, stream: Stream, side: Side, early: Vec<u8>, deadline: Deadline) {
    let Some((stream, side)) = socks::serve(worker.clone(), stream, side, early, deadline).await else {
        return;
    };
    let deadline = worker.deadlines.register();
    let Some((stream, early)) = sniff(&worker, stream, &deadline).await else { return };
    speak(worker, stream, side, early, deadline).await;
}

/// Who is at the other end.
fn caller(role: &Role, stream: &Stream) -> Caller {
    match role {
        Role::Gateway { .. } => Caller::Outside,
        Role::Outbound { app } | Role::Dependency { app, .. } | Role::Api { app } => Caller::App(app.clone()),
        // Another base calling as itself carries its gateways' users: nobody we know.
        Role::Mesh => match stream.identity().map(dodai_transport::identity::PeerIdentity::caller) {
            Some(Caller::App(app)) => Caller::App(app),
            Some(Caller::Base | Caller::Outside) | None => Caller::Outside,
        },
        Role::Captured(_) => Caller::Outside,
    }
}

/// The service that another base names in its handshake.
fn service(role: &Role, stream: &Stream) -> Option<ServiceId> {
    match role {
        Role::Mesh => MeshName::parse(stream.server_name()?).ok().map(|name| name.service),
        Role::Gateway { .. }
        | Role::Outbound { .. }
        | Role::Dependency { .. }
        | Role::Api { .. }
        | Role::Captured(_) => None,
    }
}

fn speaks_tcp(worker: &Worker, id: &ServiceId) -> bool {
    worker.shared.table.load().service(id).is_some_and(|service| service.spec.protocol == Protocol::Tcp)
}

/// Reads until it is clear whether the client speaks HTTP/2. `None` if it left or said nothing in time.
async fn sniff(worker: &Rc<Worker>, stream: Stream, deadline: &Deadline) -> Option<(Stream, Vec<u8>)> {
    let wire = Wire::new(stream);
    deadline.set(worker.shared.limits.head_timeout);
    let mut early = Vec::new();
    loop {
        // A drain interrupts those who wait; one that began before must be seen here.
        if early.is_empty() && worker.is_closing() {
            return None;
        }
        deadline.set_interruptible(early.is_empty());
        match wire.read(worker, deadline).await {
            Ok(got) if got > 0 => early.extend_from_slice(&worker.scratch.borrow()[..got]),
            Ok(_) | Err(_) => return None,
        }
        let maybe_h2 = early.len() < PREFACE.len() && PREFACE.starts_with(&early);
        if !maybe_h2 {
            deadline.set_interruptible(false);
            return Some((wire.into_inner(), early));
        }
    }
}

/// How many client connections a thread has.
pub type Clients = Cell<usize>;

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// What an idle connection costs beside its socket: its task and the box with what it speaks.
    #[test]
    fn connections_stay_small() {
        type Parts = (Rc<Worker>, Terms, Stream, std::net::SocketAddr, Open);
        let task =
            size(|(worker, terms, stream, peer, open): Parts| connection(worker, terms, stream, peer, open));
        type Kept = (Rc<Worker>, Stream, Side, Vec<u8>, Deadline);
        let h1 = size(|(worker, stream, side, early, deadline): Kept| {
            serve_h1::serve(worker, stream, side, early, deadline)
        });
        println!("connection {task} B, HTTP/1 {h1} B");
        assert!(task <= 64, "the task of a connection takes {task} bytes");
        assert!(h1 <= 1960, "an HTTP/1 connection takes {h1} bytes");
    }
}
