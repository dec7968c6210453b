//! Parsed calls over shared HTTP/2 connections to endpoints: one connection per endpoint and thread, more
//! when its streams are used up. Beyond the cap of connections calls wait in a bounded queue.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use dodai_core::call::{Call, Reply};
use dodai_core::failure::{Blame, Failure, Kind};
use dodai_core::snapshot::Breaker;
use dodai_core::task;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use http::Request;
use http::uri::Scheme;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::bodies::guarded;
use crate::cork::{Corked, cork};
use crate::endpoint::Key;
use crate::h2_body;
use crate::keep_alive::{KeepAlive, Next};
use crate::limits::H2_SEND_BUFFER;
use crate::reach::{Target, dial};
use crate::serve_h2::clean;
use crate::timer::Deadline;
use crate::worker::Worker;

/// The HTTP/2 connections of one thread.
#[derive(Default)]
pub struct Connections(RefCell<HashMap<Key, Rc<Pool>>>);

/// The connections to one endpoint.
#[derive(Default)]
struct Pool {
    live: RefCell<Vec<Shared>>,
    /// Whether somebody is opening one; whoever else needs it waits for that.
    opening: Cell<bool>,
    /// Calls that wait for a stream.
    pending: Cell<u32>,
    /// A stream ended somewhere, or a connection opened or closed. Streams end on any thread.
    freed: Arc<Notify>,
}

struct Shared {
    sender: SendRequest<Bytes>,
    used: Cell<Instant>,
    streams: Arc<AtomicUsize>,
    state: Rc<Cell<State>>,
}

/// How a connection is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
    /// It did not answer a PING.
    Dead,
}

/// A stream under way on a connection.
struct Stream {
    count: Arc<AtomicUsize>,
    freed: Arc<Notify>,
}

impl Stream {
    fn new(count: &Arc<AtomicUsize>, pool: &Pool) -> Stream {
        count.fetch_add(1, Relaxed);
        Stream { count: count.clone(), freed: pool.freed.clone() }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
        self.freed.notify_one();
    }
}

/// Leave to open a stream.
struct Leave {
    sender: SendRequest<Bytes>,
    stream: Stream,
    state: Rc<Cell<State>>,
    /// Whether the connection was made for it.
    fresh: bool,
}

impl Connections {
    /// Closes what was not used since `oldest`. Dropping the last sender lets a connection end once its
    /// streams have.
    pub fn sweep(&self, oldest: Instant) {
        self.0.borrow_mut().retain(|_, pool| {
            let mut live = pool.live.borrow_mut();
            live.retain(|one| {
                one.state.get() == State::Open && (one.streams.load(Relaxed) > 0 || one.used.get() > oldest)
            });
            !live.is_empty() || pool.opening.get() || pool.pending.get() > 0
        });
    }

    /// Lets every connection end once its streams have.
    pub fn close(&self) {
        self.0.borrow_mut().clear();
    }

    /// Open connections, all endpoints together.
    pub fn count(&self) -> usize {
        self.0.borrow().values().map(|pool| pool.live.borrow().len()).sum()
    }

    fn pool(&self, key: &Key) -> Rc<Pool> {
        if let Some(pool) = self.0.borrow().get(key) {
            return pool.clone();
        }
        self.0.borrow_mut().entry(key.clone()).or_default().clone()
    }
}

impl Pool {
    /// The connection with the fewest streams, if it has room for one more.
    fn take(&self) -> Option<Leave> {
        let mut live = self.live.borrow_mut();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        // A connection that was told to go away says so here.
        live.retain_mut(|one| {
            one.state.get() == State::Open && !matches!(one.sender.poll_ready(&mut cx), Poll::Ready(Err(_)))
        });
        let best = live.iter().min_by_key(|one| one.streams.load(Relaxed))?;
        if best.streams.load(Relaxed) >= best.sender.current_max_send_streams() {
            return None;
        }
        best.used.set(Instant::now());
        Some(self.leave(best, false))
    }

    fn leave(&self, on: &Shared, fresh: bool) -> Leave {
        let stream = Stream::new(&on.streams, self);
        Leave { sender: on.sender.clone(), stream, state: on.state.clone(), fresh }
    }

    /// Whether one more connection may be opened at this moment.
    fn may_open(&self, caps: &Breaker) -> bool {
        let most = usize::try_from(caps.max_connections.max(1)).unwrap_or(usize::MAX);
        !self.opening.get() && self.live.borrow().len() < most
    }
}

/// While it lives, one caller opens a connection and the others wait.
struct Opening(Rc<Pool>);

impl Opening {
    fn new(pool: &Rc<Pool>) -> Opening {
        pool.opening.set(true);
        Opening(pool.clone())
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.freed.notify_waiters();
    }
}

/// A call in the queue.
struct Waiting(Rc<Pool>);

impl Waiting {
    fn new(pool: &Rc<Pool>, caps: &Breaker, target: &Target) -> Result<Waiting, Failure> {
        if pool.pending.get() >= caps.max_pending {
            let (most, address) = (caps.max_pending, &target.key.address);
            let text = format!("{most} calls already wait for a connection to {address}");
            return Err(Failure::new(Kind::QueueFull, text));
        }
        pool.pending.set(pool.pending.get() + 1);
        Ok(Waiting(pool.clone()))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.pending.set(self.0.pending.get() - 1);
    }
}

/// Leave for one stream, over an open connection or a new one, waiting in the queue if need be. Cancel safe.
async fn leave(
    worker: &Rc<Worker>,
    pool: &Rc<Pool>,
    target: &Target,
    caps: &Breaker,
) -> Result<Leave, Failure> {
    let mut waiting = None;
    loop {
        // It listens before it looks, so that what comes free in between is not missed.
        let freed = pool.freed.notified();
        if let Some(leave) = pool.take() {
            return Ok(leave);
        }
        if pool.may_open(caps) {
            let _opening = Opening::new(pool);
            let shared = connect(worker, target, &pool.freed).await?;
            let leave = pool.leave(&shared, true);
            pool.live.borrow_mut().push(shared);
            return Ok(leave);
        }
        if waiting.is_none() {
            waiting = Some(Waiting::new(pool, caps, target)?);
        }
        freed.await;
    }
}

/// Sends a call and waits for the head of the reply. The caller bounds the wait.
pub async fn send(worker: &Rc<Worker>, target: Target, call: Call, caps: &Breaker) -> Result<Reply, Failure> {
    let pool = worker.h2.pool(&target.key);
    let leave = match pool.take() {
        Some(leave) => leave,
        // Waiting and connecting are rare; boxed, they cost a call nothing while it does neither.
        None => Box::pin(leave(worker, &pool, &target, caps)).await?,
    };
    let Leave { sender, stream: under_way, state, fresh } = leave;
    let unsent = |error: &h2::Error| {
        let kind = if fresh { Kind::Connect } else { Kind::Refused };
        Failure::new(kind, format!("{} takes no new stream: {error}", target.key.address))
    };
    let mut sender = sender.ready().await.map_err(|error| unsent(&error))?;
    let Call { mut head, body, .. } = call;
    clean(&mut head.headers);
    head.version = http::Version::HTTP_2;
    complete_uri(&mut head, target.key.tls.is_some());
    let ended = http_body::Body::is_end_stream(&body);
    let request = Request::from_parts(head, ());
    let (response, stream) = sender.send_request(request, ended).map_err(|error| unsent(&error))?;
    // The upload ends with the call: this sender is dropped with the wait for the head, or with the reply.
    let (wanted, unwanted) = oneshot::channel::<()>();
    let cut = Rc::new(RefCell::new(None));
    if !ended {
        let (cut, deadline, idle) =
            (cut.clone(), worker.deadlines.register(), worker.shared.limits.idle_timeout);
        worker.tasks.spawn_local(task::Kind::Call, async move {
            tokio::select! {
                // Dropping the upload resets the stream.
                sent = h2_body::send(stream, body, &deadline, idle) => *cut.borrow_mut() = sent.err(),
                _ = unwanted => {}
            }
        });
    }
    let response = response.await.map_err(|error| {
        // A request body that failed by itself (too large, client gone) is the real reason for the reset.
        let of_body =
            cut.borrow_mut().take().filter(|failure: &Failure| failure.kind.blame() == Blame::Client);
        of_body
            .filter(|failure| failure.kind != Kind::ClientGone)
            .unwrap_or_else(|| answer_failure(&error, &target, state.get()))
    })?;
    let (head, stream) = response.into_parts();
    let (length, most) = (h2_body::announced(&head.headers), worker.shared.limits.trailer_bytes);
    let reply = Reply { head, body: h2_body::received(stream, length, most, Kind::Protocol) };
    Ok(guarded(reply, Some((under_way, wanted))))
}

/// An HTTP/2 request carries scheme and authority; the `Host` header becomes the authority.
fn complete_uri(head: &mut http::request::Parts, secure: bool) {
    let host = head.headers.remove(http::header::HOST);
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    if uri.authority.is_none() {
        uri.authority = host.and_then(|host| host.as_bytes().try_into().ok());
    }
    if uri.authority.is_some() {
        let said = uri.scheme.take().unwrap_or(Scheme::HTTP);
        uri.scheme = Some(if secure { Scheme::HTTPS } else { said });
    }
    if uri.path_and_query.is_none() {
        uri.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    head.uri = http::Uri::from_parts(uri).unwrap_or_default();
}

fn answer_failure(error: &h2::Error, target: &Target, state: State) -> Failure {
    if state == State::Dead {
        let text = format!("{} answers nothing, also no PING: its connection is dead", target.key.address);
        return Failure::new(Kind::Reset, text);
    }
    let failure = h2_body::failure(error);
    // GOAWAY without having seen the stream also says that nothing was done.
    let kind = if error.is_go_away() && error.is_remote() { Kind::Refused } else { failure.kind };
    Failure::new(kind, format!("{}: {}", target.key.address, failure.detail))
}

/// Opens a connection and starts its driver, which tells `freed` when it ends.
async fn connect(worker: &Rc<Worker>, target: &Target, freed: &Arc<Notify>) -> Result<Shared, Failure> {
    let limits = &worker.shared.limits;
    let (io, cork) = cork(dial(worker, target).await?, Vec::new());
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(H2_SEND_BUFFER)
        .enable_push(false);
    let mut handshake = std::pin::pin!(builder.handshake::<Corked, Bytes>(io));
    let shaken = poll_fn(|cx| {
        let done = handshake.as_mut().poll(cx);
        let _pending = cork.poll_drain(cx);
        done
    });
    let failed = |error: h2::Error| {
        Failure::new(Kind::Connect, format!("{} does not speak HTTP/2: {error}", target.key.address))
    };
    let (sender, mut connection) = shaken.await.map_err(failed)?;
    let state = Rc::new(Cell::new(State::Open));
    let shared =
        Shared { sender, used: Cell::new(Instant::now()), streams: Arc::default(), state: state.clone() };
    let pings = connection.ping_pong();
    let alive = KeepAlive::new(limits.h2_ping_interval, limits.h2_ping_timeout, Instant::now());
    let (streams, freed) = (shared.streams.clone(), freed.clone());
    let mut watch = Watch { alive, pings, deadline: worker.deadlines.register() };
    worker.tasks.spawn_local(task::Kind::OutboundConnection, async move {
        let end = poll_fn(|cx| {
            let ended = std::pin::Pin::new(&mut connection).poll(cx).map(drop);
            if let Poll::Ready(Err(_)) = cork.poll_drain(cx) {
                return Poll::Ready(State::Closed);
            }
            if ended.is_ready() {
                return Poll::Ready(State::Closed);
            }
            watch.poll_dead(cork.read(), streams.load(Relaxed) > 0, cx).map(|()| State::Dead)
        })
        .await;
        state.set(end);
        freed.notify_waiters();
    });
    Ok(shared)
}

/// Asks a silent connection whether it lives.
struct Watch {
    alive: KeepAlive,
    pings: Option<PingPong>,
    deadline: Deadline,
}

impl Watch {
    /// Ready once the other side did not answer. `read` bytes have come; `busy` says whether calls are under way.
    fn poll_dead(&mut self, read: u64, busy: bool, cx: &mut Context<'_>) -> Poll<()> {
        let Some(pings) = &mut self.pings else { return Poll::Pending };
        let now = Instant::now();
        if let Poll::Ready(Ok(_)) = pings.poll_pong(cx) {
            self.alive.pong(now, read);
        }
        let until = loop {
            match self.alive.look(now, read, busy) {
                Next::Dead => return Poll::Ready(()),
                Next::Ping => {
                    // Sending it wakes the connection, which writes it out.
                    let _sent = pings.send_ping(Ping::opaque());
                }
                Next::Wait(until) => break until,
                Next::Rest => {
                    self.deadline.clear();
                    return Poll::Pending;
                }
            }
        };
        self.deadline.set_at(until);
        let _not_yet = self.deadline.poll_fired(cx);
        Poll::Pending
    }
}
