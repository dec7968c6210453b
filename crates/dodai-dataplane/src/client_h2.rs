//! Parsed calls over shared HTTP/2 connections to endpoints: one connection per endpoint and thread, more
//! when its streams are used up. Beyond the cap of connections calls wait in a bounded queue.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use dodai_core::call::{Call, Reply};
use dodai_core::failure::{Blame, Failure, Kind};
use dodai_core::snapshot::Breaker;
use dodai_core::task;
use http::uri::Scheme;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::age::Until;
use crate::bodies::guarded;
use crate::endpoint::Key;
use crate::h2::{self, Gone, Piece, Receiving, Sending};
use crate::h2_drive::Driver;
use crate::holdings::{Held, Holdings};
use crate::keep_alive::{KeepAlive, Next};
use crate::limits::Limits;
use crate::reach::{Target, dial};
use crate::serve_h2::clean;
use crate::timer::{Deadline, Patience};
use crate::worker::Worker;
use crate::{foreign, gauges, h2_body, h2_head};

/// The HTTP/2 connections of one thread, and what all threads hold.
#[derive(Default)]
pub struct Connections(RefCell<HashMap<Key, Rc<Pool>>>, Arc<Holdings>);

/// The connections to one endpoint.
struct Pool {
    /// What all threads hold of the endpoint.
    held: Arc<Held>,
    live: RefCell<Vec<Link>>,
    /// Whether somebody is opening one; whoever else needs it waits for that.
    opening: Cell<bool>,
    /// Calls that wait for a stream.
    pending: Cell<u32>,
    /// A stream ended, or a connection opened or closed.
    freed: Notify,
}

/// A connection.
#[derive(Clone)]
pub struct Link {
    at: h2::Shared,
    used: Rc<Cell<Instant>>,
    state: Rc<Cell<State>>,
    /// When it is too old for a further call.
    until: Until,
}

/// How a connection is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
    /// It takes no further call: a certificate that it was made with has expired.
    Retiring,
    /// It did not answer a PING.
    Dead,
}

impl Link {
    /// Opens a stream; see [`h2::Shared::open`].
    pub fn open(
        &self,
        end: bool,
        bodiless: bool,
        write: impl FnOnce(&mut h2::Encoder, &mut Vec<u8>),
    ) -> Option<(Receiving, Sending)> {
        self.at.open(end, bodiless, write)
    }
}

impl Connections {
    /// Connections of a thread whose base has these `holdings`.
    pub fn new(holdings: Arc<Holdings>) -> Connections {
        Connections(RefCell::default(), holdings)
    }

    /// Closes what was not used since `oldest`, and lets what is too old at `now` end with its streams.
    pub fn sweep(&self, now: Instant, oldest: Instant) {
        self.0.borrow_mut().retain(|_, pool| {
            pool.retire(now);
            let mut live = pool.live.borrow_mut();
            live.retain(|one| {
                let busy = || one.at.lock().live() > 0;
                let keep = one.state.get() == State::Open && (one.used.get() > oldest || busy());
                if !keep {
                    one.at.lock().retire();
                }
                keep
            });
            !live.is_empty() || pool.opening.get() || pool.pending.get() > 0
        });
    }

    /// Lets every connection end once its streams have.
    pub fn close(&self) {
        for pool in self.0.borrow_mut().drain().map(|(_, pool)| pool) {
            pool.live.borrow().iter().for_each(|one| one.at.lock().retire());
        }
    }

    /// Open connections, all endpoints together.
    pub fn count(&self) -> usize {
        self.0.borrow().values().map(|pool| pool.live.borrow().len()).sum()
    }

    /// What there is for each endpoint.
    pub fn tell(&self, pools: &mut Vec<(u64, gauges::Pool)>) {
        pools.extend(self.0.borrow().iter().map(|(key, pool)| {
            let live = pool.live.borrow();
            let streams = live.iter().map(|one| one.at.lock().live() as u64).sum();
            let (shared, waiting) = (live.len() as u64, u64::from(pool.pending.get()));
            (key.endpoint, gauges::Pool { shared, streams, waiting, ..gauges::Pool::default() })
        }));
    }

    fn pool(&self, key: &Key) -> Rc<Pool> {
        if let Some(pool) = self.0.borrow().get(key) {
            return pool.clone();
        }
        let pool = Rc::new(Pool {
            held: self.1.of(key),
            live: RefCell::default(),
            opening: Cell::default(),
            pending: Cell::default(),
            freed: Notify::default(),
        });
        self.0.borrow_mut().insert(key.clone(), pool.clone());
        pool
    }
}

impl Pool {
    /// Lets connections that are too old end with their streams.
    fn retire(&self, now: Instant) {
        let mut live = self.live.borrow_mut();
        let before = live.len();
        live.retain(|one| {
            let over = one.until.is_over(now);
            if over {
                one.at.lock().retire();
            }
            !over
        });
        if live.len() < before {
            self.freed.notify_waiters();
        }
    }

    /// The connection with the most room, if one takes another stream.
    fn take(&self) -> Option<Link> {
        let now = Instant::now();
        self.retire(now);
        let mut live = self.live.borrow_mut();
        // A connection that was told to go away is of no more use.
        live.retain(|one| one.state.get() == State::Open && !one.at.lock().is_leaving());
        let (best, room) = match live.as_slice() {
            [only] => (only, only.at.lock().room()),
            many => many.iter().map(|one| (one, one.at.lock().room())).max_by_key(|(_, room)| *room)?,
        };
        if room == 0 {
            return None;
        }
        best.used.set(now);
        Some(best.clone())
    }

    /// Leave to open one more connection, if that may be at this moment.
    fn may_open(&self, caps: &Breaker) -> Option<Counted> {
        let may = !self.opening.get() && self.held.open(caps, self.live.borrow().len());
        may.then(|| Counted(self.held.clone()))
    }
}

/// A connection that counts against the cap for as long as it is there.
struct Counted(Arc<Held>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.closed(1);
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
        pool.held.wait(caps, &target.key.address)?;
        pool.pending.set(pool.pending.get() + 1);
        Ok(Waiting(pool.clone()))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.pending.set(self.0.pending.get() - 1);
        self.0.held.waited();
    }
}

/// A connection with room for a stream, an open or a new one, waiting in the queue if need be; says whether it is new.
/// Cancel safe.
async fn link(
    worker: &Rc<Worker>,
    pool: &Rc<Pool>,
    target: &Target,
    caps: &Breaker,
) -> Result<(Link, bool), Failure> {
    let mut waiting = None;
    loop {
        // It listens before it looks, so that what comes free in between is not missed.
        let mut freed = std::pin::pin!(pool.freed.notified());
        freed.as_mut().enable();
        if let Some(link) = pool.take() {
            return Ok((link, false));
        }
        if let Some(counted) = pool.may_open(caps) {
            let _opening = Opening::new(pool);
            let link = connect(worker, target, pool, caps, counted).await?;
            pool.live.borrow_mut().push(link.clone());
            return Ok((link, true));
        }
        if waiting.is_none() {
            waiting = Some(Waiting::new(pool, caps, target)?);
        }
        freed.await;
    }
}

/// Opens a stream on a connection to `target`, by `with`, waiting for one if need be. Cancel safe.
pub async fn open(
    worker: &Rc<Worker>,
    target: &Target,
    caps: &Breaker,
    with: impl Fn(&Link) -> Option<(Receiving, Sending)>,
) -> Result<(Link, Receiving, Sending), Failure> {
    let pool = worker.h2.pool(&target.key);
    loop {
        let (link, fresh) = match pool.take() {
            Some(link) => (link, false),
            // Waiting and connecting are rare; boxed, they cost a call nothing while it does neither.
            None => Box::pin(link(worker, &pool, target, caps)).await?,
        };
        match with(&link) {
            Some((receiving, sending)) => return Ok((link, receiving, sending)),
            None if fresh => {
                let text = format!("{} takes no stream on a new connection", target.key.address);
                return Err(Failure::new(Kind::Connect, text));
            }
            None => {}
        }
    }
}

/// Like [`open`], of a stream that becomes a tunnel of another protocol (RFC 8441), if the endpoint says that it takes
/// such. Cancel safe.
pub async fn open_tunnel(
    worker: &Rc<Worker>,
    target: &Target,
    caps: &Breaker,
    with: impl Fn(&Link) -> Option<(Receiving, Sending)>,
) -> Result<(Link, Receiving, Sending), Failure> {
    let pool = worker.h2.pool(&target.key);
    let (first, _) = link(worker, &pool, target, caps).await?;
    let address = &target.key.address;
    match poll_fn(|cx| first.at.lock().poll_takes_connect(cx)).await {
        Some(true) => open(worker, target, caps, with).await,
        Some(false) => {
            let text = format!("{address} speaks HTTP/2 and takes no WebSockets over it (RFC 8441)");
            Err(Failure::new(Kind::NotImplemented, text))
        }
        None => Err(answer_failure(Gone::Lost, target, &first)),
    }
}

/// Sends a call and waits for the head of the reply. The caller bounds the wait.
pub async fn send(worker: &Rc<Worker>, target: Target, call: Call, caps: &Breaker) -> Result<Reply, Failure> {
    let Call { mut head, body, .. } = call;
    clean(&mut head.headers);
    complete_uri(&mut head, target.key.tls.is_some());
    let ended = http_body::Body::is_end_stream(&body);
    let bodiless = head.method == http::Method::HEAD;
    let (link, mut receiving, sending) = open(worker, &target, caps, |link| {
        link.open(ended, bodiless, |encoder, out| h2_head::write_request(encoder, out, &head))
    })
    .await?;
    // The upload ends with the call: its sender is dropped with the wait for the head, or with the reply.
    let (wanted, unwanted) = oneshot::channel::<()>();
    let cut = Rc::new(RefCell::new(None));
    if !ended {
        let patience = Patience { idle: worker.shared.limits.idle_timeout, end: None };
        let (cut, deadline) = (cut.clone(), worker.deadlines.register());
        worker.tasks.spawn_local(task::Kind::Call, upload(sending, body, unwanted, cut, deadline, patience));
    }
    let piece = loop {
        match poll_fn(|cx| receiving.poll_piece(cx)).await {
            // Whoever wants to be told of these is told by the relay.
            Some(Ok(Piece::Interim(_))) => {}
            other => break other,
        }
    };
    let head = match piece {
        Some(Ok(Piece::Head(head))) if head.is_oversized() => {
            let text = format!("{}: the response head is too large", target.key.address);
            return Err(Failure::new(Kind::Protocol, text));
        }
        Some(Ok(Piece::Head(head))) => h2_head::response(&head)?,
        Some(Ok(Piece::Interim(_) | Piece::Data(_) | Piece::Trailers(_))) | None => {
            let text = format!("{}: the answer has no head", target.key.address);
            return Err(Failure::new(Kind::Protocol, text));
        }
        Some(Err(gone)) => {
            // A request body that failed by itself (too large, client gone) is the real reason for the reset.
            let of_body =
                cut.borrow_mut().take().filter(|failure: &Failure| failure.kind.blame() == Blame::Client);
            return Err(of_body
                .filter(|failure| failure.kind != Kind::ClientGone)
                .unwrap_or_else(|| answer_failure(gone, &target, &link)));
        }
    };
    let (length, most) = (h2_body::announced(&head.headers), worker.shared.limits.trailer_bytes);
    let length = length.filter(|_| !bodiless);
    let reply = Reply { head, body: h2_body::received(receiving, length, most, Kind::Protocol) };
    Ok(guarded(reply, (!ended).then_some(wanted)))
}

/// Sends a request body, as long as the call is wanted.
async fn upload(
    mut sending: Sending,
    body: dodai_core::body::Body,
    unwanted: oneshot::Receiver<()>,
    cut: Rc<RefCell<Option<Failure>>>,
    deadline: Deadline,
    patience: Patience,
) {
    tokio::select! {
        // Dropping what is half sent resets the stream.
        sent = h2_body::send(&mut sending, body, &deadline, &patience, false) => *cut.borrow_mut() = sent.err(),
        _ = unwanted => {}
    }
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

/// What it means that a stream to an endpoint ended early.
pub fn answer_failure(gone: Gone, target: &Target, link: &Link) -> Failure {
    let address = &target.key.address;
    if link.state.get() == State::Dead {
        let text = format!("{address} answers nothing, also no PING: its connection is dead");
        return Failure::new(Kind::Reset, text);
    }
    if let Some(early) = link.at.lock().strange() {
        let text = format!("{address} does not speak HTTP/2; {}", foreign::evidence(early));
        return Failure::new(Kind::Protocol, text);
    }
    if gone == Gone::Lost && !link.at.lock().is_greeted() {
        return Failure::new(
            Kind::Connect,
            format!("{address} closed the connection before it said a word of HTTP/2"),
        );
    }
    let failure = h2_body::failure(gone);
    Failure::new(failure.kind, format!("{address}: {}", failure.detail))
}

fn settings(limits: &Limits) -> h2::Settings {
    h2::Settings {
        stream_window: limits.h2_stream_window,
        connection_window: limits.h2_connection_window,
        streams: 0,
        list_bytes: limits.head_bytes,
    }
}

/// Opens a connection and starts its driver, which tells those who wait for a stream when one ends.
async fn connect(
    worker: &Rc<Worker>,
    target: &Target,
    pool: &Rc<Pool>,
    caps: &Breaker,
    counted: Counted,
) -> Result<Link, Failure> {
    let limits = &worker.shared.limits;
    let stream = dial(worker, target).await?;
    let at = h2::Shared::new(h2::Role::Client, settings(limits));
    let now = Instant::now();
    let (used, state) = (Rc::new(Cell::new(now)), Rc::new(Cell::new(State::Open)));
    let link = Link { at: at.clone(), used, state, until: Until::of(caps.max_connection_age, now) };
    let alive = KeepAlive::new(limits.h2_ping_interval, limits.h2_ping_timeout, now);
    let mut watch = Watch { alive, pongs: 0, deadline: worker.deadlines.register() };
    let mut driver = Driver::new(stream, at.clone(), Vec::new());
    let (state, pool, of) = (link.state.clone(), pool.clone(), worker.clone());
    worker.tasks.spawn_local(task::Kind::OutboundConnection, async move {
        let end = poll_fn(|cx| {
            let over = driver.poll(&of, cx).is_ready();
            if pool.pending.get() > 0 {
                pool.freed.notify_waiters();
            }
            if over {
                return Poll::Ready(State::Closed);
            }
            if driver.is_retiring() && state.get() == State::Open {
                state.set(State::Retiring);
                at.lock().retire();
            }
            watch.poll_dead(&at, driver.read(), cx).map(|()| State::Dead)
        })
        .await;
        state.set(end);
        at.lock().lost();
        drop(counted);
        pool.freed.notify_waiters();
    });
    Ok(link)
}

/// Asks a silent connection whether it lives.
struct Watch {
    alive: KeepAlive,
    pongs: u64,
    deadline: Deadline,
}

impl Watch {
    /// Ready once the other side did not answer. `read` bytes have come.
    fn poll_dead(&mut self, at: &h2::Shared, read: u64, cx: &Context<'_>) -> Poll<()> {
        let (pongs, busy) = {
            let connection = at.lock();
            (connection.pongs(), connection.live() > 0)
        };
        let now = Instant::now();
        if pongs != self.pongs {
            self.pongs = pongs;
            self.alive.pong(now, read);
        }
        let until = loop {
            match self.alive.look(now, read, busy) {
                Next::Dead => return Poll::Ready(()),
                // Sending it wakes the driver, which writes it out.
                Next::Ping => at.lock().ping(),
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
