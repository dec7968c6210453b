//! Parsed calls over shared HTTP/2 connections to endpoints: one connection per endpoint and thread, more
//! when its streams are used up. Beyond the cap of connections calls wait in a bounded queue. How long an endpoint lets a
//! connection be idle is learnt as for HTTP/1 (`idle_life`); until it is, a call that cannot be made again goes out on one
//! that has been idle only once a PING was answered.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use dodai_core::call::{Call, Reply};
use dodai_core::failure::{Blame, Failure, Kind};
use dodai_core::head::RequestHead;
use dodai_core::snapshot::Breaker;
use dodai_core::task;
use http::uri::Scheme;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::age::Until;
use crate::bodies::guarded;
use crate::endpoint::{Key, Need, REMEMBERED};
use crate::h2::{self, Gone, Piece, Receiving, Sending};
use crate::h2_drive::Driver;
use crate::h2_watch::Watch;
use crate::holdings::{Held, Holdings};
use crate::idle_life::{IdleLife, SHORTEST};
use crate::keep_alive::KeepAlive;
use crate::limits::Limits;
use crate::reach::{Target, dial};
use crate::serve_h2::clean;
use crate::timer::{Deadline, Patience};
use crate::worker::Worker;
use crate::{foreign, gauges, h2_body, h2_head};

/// How long an idle connection may take to answer a PING before a call that waits for it gets another.
const AT_ONCE: Duration = Duration::from_secs(1);

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
    life: IdleLife,
}

/// A connection.
#[derive(Clone)]
pub struct Link {
    at: h2::Shared,
    marks: Rc<Marks>,
    /// When it is too old for a further call.
    until: Until,
}

/// What is known of a connection, to its driver and to those who use it.
pub struct Marks {
    /// When it was last taken by a call, or idle from then on.
    pub used: Cell<Instant>,
    /// How it is.
    pub state: Cell<State>,
    /// How long it had been idle when a call took it, as long as nothing has come since.
    pub taken: Cell<Option<Duration>>,
}

/// How a connection is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It takes calls.
    Open,
    /// It ended.
    Closed,
    /// It ended when it had been idle, without a word to the calls that took it.
    Stale,
    /// We let it take no further call.
    Retiring,
    /// It did not answer a PING.
    Dead,
}

impl Link {
    /// Lets it end once its streams have.
    fn retire(&self) {
        if self.marks.state.get() == State::Open {
            self.marks.state.set(State::Retiring);
        }
        self.at.lock().retire();
    }

    /// Whether it has been idle for as long as its endpoint lets it be, or nearly.
    fn is_outlived(&self, life: &IdleLife, now: Instant) -> bool {
        let idle = now.saturating_duration_since(self.marks.used.get());
        // Most were used just now.
        idle >= SHORTEST && life.limit(now).is_some_and(|limit| idle >= limit) && self.at.lock().live() == 0
    }

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

    /// Closes what has been idle for `longest` at `now`, or for as long as its endpoint lets it be, and lets what is too old
    /// end with its streams. Forgets empty pools of which nothing was learnt, and some of the others if there are many.
    pub fn sweep(&self, now: Instant, longest: Duration) {
        let mut remembered = 0;
        self.0.borrow_mut().retain(|_, pool| {
            pool.retire(now);
            let mut live = pool.live.borrow_mut();
            live.retain(|one| {
                let busy = || one.at.lock().live() > 0;
                let idle = now.saturating_duration_since(one.marks.used.get());
                let keep = one.marks.state.get() == State::Open && (idle < longest || busy());
                if !keep {
                    one.retire();
                }
                keep
            });
            if !live.is_empty() || pool.opening.get() || pool.pending.get() > 0 {
                return true;
            }
            let is_known = !pool.life.is_blank(now);
            remembered += usize::from(is_known);
            is_known && remembered <= REMEMBERED
        });
    }

    /// Adds the endpoints that there are connections to; hosts outside the mesh are none.
    pub fn endpoints(&self, all: &mut HashSet<u64>) {
        all.extend(self.0.borrow().keys().map(|key| key.endpoint).filter(|endpoint| *endpoint != 0));
    }

    /// Lets the connections to endpoints that are `gone` end once their streams have.
    pub fn leave(&self, gone: &HashSet<u64>) {
        for (_, pool) in self.0.borrow().iter().filter(|(key, _)| gone.contains(&key.endpoint)) {
            pool.live.borrow().iter().for_each(Link::retire);
        }
    }

    /// Lets every connection end once its streams have.
    pub fn close(&self) {
        for pool in self.0.borrow_mut().drain().map(|(_, pool)| pool) {
            pool.live.borrow().iter().for_each(Link::retire);
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
            life: IdleLife::default(),
        });
        self.0.borrow_mut().insert(key.clone(), pool.clone());
        pool
    }
}

/// A connection with room for a stream.
enum Found {
    Open(Link),
    /// It has been idle for so long that it may be closed.
    Unsure(Link, Duration),
}

impl Pool {
    /// Lets connections that are too old, or have been idle for too long, end with their streams.
    fn retire(&self, now: Instant) {
        let mut live = self.live.borrow_mut();
        let before = live.len();
        live.retain(|one| {
            let over = one.until.is_over(now) || one.is_outlived(&self.life, now);
            if over {
                one.retire();
            }
            !over
        });
        if live.len() < before {
            self.freed.notify_waiters();
        }
    }

    /// The connection with the most room, if one takes another stream.
    fn take(&self, need: Need) -> Option<Found> {
        let now = Instant::now();
        self.retire(now);
        let mut live = self.live.borrow_mut();
        // A connection that was told to go away is of no more use.
        live.retain(|one| one.marks.state.get() == State::Open && !one.at.lock().is_leaving());
        let look = |one: &Link| {
            let connection = one.at.lock();
            (connection.room(), connection.live())
        };
        let (best, (room, streams)) = match live.as_slice() {
            [only] => (only, look(only)),
            many => many.iter().map(|one| (one, look(one))).max_by_key(|(_, (room, _))| *room)?,
        };
        if room == 0 {
            return None;
        }
        let marks = &best.marks;
        if streams == 0 {
            let idle = now.saturating_duration_since(marks.used.get());
            if need == Need::Open && !self.life.is_sure(idle) {
                return Some(Found::Unsure(best.clone(), idle));
            }
            marks.taken.set(marks.taken.get().or(Some(idle)));
        }
        marks.used.set(now);
        Some(Found::Open(best.clone()))
    }

    /// Asks the endpoint whether a connection that has been idle for so long is still open. One that does not answer at
    /// once takes no further call. The call that follows brings an answer, so servers of gRPC count no ping too many.
    async fn make_sure(&self, link: &Link, idle: Duration) {
        let pongs = link.at.lock().ask();
        let answer = poll_fn(|cx| link.at.lock().poll_pong(pongs, cx));
        if tokio::time::timeout(AT_ONCE, answer).await == Ok(true) {
            self.life.survived(idle);
            link.marks.used.set(Instant::now());
        } else {
            link.retire();
        }
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
    need: Need,
) -> Result<(Link, bool), Failure> {
    let mut waiting = None;
    loop {
        // It listens before it looks, so that what comes free in between is not missed.
        let mut freed = std::pin::pin!(pool.freed.notified());
        freed.as_mut().enable();
        match pool.take(need) {
            Some(Found::Open(link)) => return Ok((link, false)),
            Some(Found::Unsure(link, idle)) => {
                pool.make_sure(&link, idle).await;
                continue;
            }
            None => {}
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
    need: Need,
    with: impl Fn(&Link) -> Option<(Receiving, Sending)>,
) -> Result<(Link, Receiving, Sending), Failure> {
    let pool = worker.h2.pool(&target.key);
    loop {
        let (link, fresh) = match pool.take(need) {
            Some(Found::Open(link)) => (link, false),
            // Waiting and connecting are rare; boxed, they cost a call nothing while it does neither.
            Some(Found::Unsure(..)) | None => Box::pin(link(worker, &pool, target, caps, need)).await?,
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
    let (first, _) = link(worker, &pool, target, caps, Need::Open).await?;
    let address = &target.key.address;
    match poll_fn(|cx| first.at.lock().poll_takes_connect(cx)).await {
        Some(true) => open(worker, target, caps, Need::Open, with).await,
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
    let need = Need::of(RequestHead::Map(&head).is_idempotent());
    let (link, mut receiving, sending) = open(worker, &target, caps, need, |link| {
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
    if link.marks.state.get() == State::Dead {
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
    if gone == Gone::Lost && link.marks.state.get() == State::Stale {
        return Failure::new(Kind::Stale, format!("{address} closed a kept connection"));
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
    let marks = Marks { used: Cell::new(now), state: Cell::new(State::Open), taken: Cell::default() };
    let link = Link { at: at.clone(), marks: Rc::new(marks), until: Until::of(caps.max_connection_age, now) };
    let alive = KeepAlive::new(limits.h2_ping_interval, limits.h2_ping_timeout, now);
    let mut watch = Watch::new(alive, link.marks.clone(), worker.deadlines.register());
    let mut driver = Driver::new(stream, at.clone(), Vec::new());
    let (marks, pool, of) = (link.marks.clone(), pool.clone(), worker.clone());
    worker.tasks.spawn_local(task::Kind::OutboundConnection, async move {
        let end = poll_fn(|cx| {
            let over = driver.poll(&of, cx).is_ready();
            if pool.pending.get() > 0 {
                pool.freed.notify_waiters();
            }
            if over {
                return Poll::Ready(State::Closed);
            }
            if driver.is_retiring() && marks.state.get() == State::Open {
                marks.state.set(State::Retiring);
                at.lock().retire();
            }
            watch.poll_dead(&at, driver.read(), &pool.life, cx).map(|()| State::Dead)
        })
        .await;
        marks.state.set(watch.ended(end, &at, driver.read(), &pool.life));
        at.lock().lost();
        drop(counted);
        pool.freed.notify_waiters();
    });
    Ok(link)
}
