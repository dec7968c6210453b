//! Station one: accepted connections, until it is known what they speak.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dodai_core::call::Caller;
use dodai_core::snapshot::{Listener, Protocol, Role};
use dodai_core::task;
use dodai_transport::listen::{AfterFailure, after_accept_failure};
use dodai_transport::network;
use dodai_transport::stream::Stream;
use dodai_transport::tls::{Acceptor, Alpn};

use crate::pipe;
use crate::request::Side;
use crate::serve_h2::PREFACE;
use crate::spine::caller_label;
use crate::wire::Wire;
use crate::worker::Worker;
use crate::{serve_h1, serve_h2};

/// Accepts connections until the task is aborted.
pub async fn accept(
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    mut socket: network::Listener,
    tls: Option<Acceptor>,
) {
    let mut failures = 0;
    loop {
        if worker.clients.get() >= worker.shared.limits.client_connections {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        match socket.accept().await {
            Ok((stream, peer)) => {
                failures = 0;
                let open = Open::new(&worker);
                let connection = connection(worker.clone(), listener.clone(), stream, peer, tls.clone(), open);
                worker.tasks.spawn_local(task::Kind::Connection, connection);
            }
            Err(error) => match after_accept_failure(&error, failures) {
                AfterFailure::Next => {}
                AfterFailure::Pause(pause) => {
                    failures += 1;
                    tracing::warn!(listener = listener.name, %error, "cannot accept connections for a moment");
                    tokio::time::sleep(pause).await;
                }
                AfterFailure::Stop => {
                    tracing::error!(listener = listener.name, %error, "the listener is broken; it stops");
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

async fn connection(
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    stream: Stream,
    peer: std::net::SocketAddr,
    tls: Option<Acceptor>,
    _open: Open,
) {
    let secure = tls.is_some();
    let stream = match tls {
        None => stream,
        Some(tls) => match Box::pin(tls.accept(stream)).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(listener = listener.name, %peer, %error, "a client did not get through the TLS handshake");
                return;
            }
        },
    };
    let caller = caller(&listener.role, &stream);
    let label = caller_label(&caller);
    let client = match listener.role {
        Role::Gateway { .. } => peer.ip().to_string(),
        Role::Outbound { .. } | Role::OutboundTcp { .. } | Role::Mesh | Role::Api { .. } => String::new(),
    };
    let protocol = listener.protocol;
    let tcp = protocol == Protocol::Tcp || matches!(listener.role, Role::OutboundTcp { .. });
    let side = Side { listener, caller, label, client, secure };
    if tcp {
        return Box::pin(pipe::serve(worker, stream, side)).await;
    }
    if stream.alpn() == Some(Alpn::H2) {
        return Box::pin(serve_h2::serve(worker, stream, side, Vec::new())).await;
    }
    let Some((stream, early)) = sniff(&worker, stream).await else { return };
    if early.starts_with(PREFACE) {
        Box::pin(serve_h2::serve(worker, stream, side, early)).await;
    } else {
        Box::pin(serve_h1::serve(worker, stream, side, early)).await;
    }
}

/// Who is at the other end.
fn caller(role: &Role, stream: &Stream) -> Caller {
    match role {
        Role::Gateway { .. } => Caller::Outside,
        Role::Outbound { app } | Role::OutboundTcp { app, .. } | Role::Api { app } => Caller::App(app.clone()),
        Role::Mesh => stream.identity().map_or(Caller::Outside, dodai_transport::identity::PeerIdentity::caller),
    }
}

/// Reads until it is clear whether the client speaks HTTP/2. `None` if it left or said nothing in time.
async fn sniff(worker: &Rc<Worker>, stream: Stream) -> Option<(Stream, Vec<u8>)> {
    let wire = Wire::new(stream);
    let deadline = worker.deadlines.register();
    deadline.set(worker.shared.limits.head_timeout);
    deadline.set_interruptible(true);
    let mut early = Vec::new();
    loop {
        match wire.read(worker, &deadline).await {
            Ok(got) if got > 0 => early.extend_from_slice(&worker.scratch.borrow()[..got]),
            Ok(_) | Err(_) => return None,
        }
        let maybe_h2 = early.len() < PREFACE.len() && PREFACE.starts_with(&early);
        if !maybe_h2 {
            return Some((wire.into_inner(), early));
        }
    }
}

/// How many client connections a thread has.
pub type Clients = Cell<usize>;
