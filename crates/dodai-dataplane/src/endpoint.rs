//! Station six: connections to endpoints, kept in pools with caps.
//!
//! Pools belong to one thread and are keyed by endpoint (and by source app across the mesh); caps hold for all threads
//! together (`holdings`). A kept
//! connection is checked when it is taken: the endpoint may have closed it since. Whoever finds no
//! connection below the cap waits in a bounded queue. How long an endpoint lets connections be idle is learnt from those
//! it closes (`idle_life`), so that no call goes out on one that is about to end.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use dodai_core::failure::Failure;
use dodai_core::id::AppId;
use dodai_core::snapshot::Breaker;
use dodai_transport::stream::Stream;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::age::Until;
use crate::gauges;
use crate::holdings::{Held, Holdings};
use crate::idle_life::IdleLife;
use crate::proxied::Announce;
use crate::secure::Secure;

/// So many pools without a connection are kept for what was learnt in them. Where endpoints come and go a hundred times a
/// second, those of ten minutes would be some ten thousand.
pub const REMEMBERED: usize = 256;

/// What a pool is kept for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// The endpoint.
    pub endpoint: u64,
    /// The service, since an endpoint serves several; the authority for hosts outside the mesh.
    pub address: std::sync::Arc<str>,
    /// Where that was when the connection was made: an instance that comes back elsewhere gets fresh ones.
    pub at: Option<std::net::SocketAddr>,
    /// The app whose identity the connection carries.
    pub source: Option<AppId>,
    /// What it is secured by, outside the mesh.
    pub tls: Option<std::sync::Arc<Secure>>,
    /// For whom it is told to be ahead: a connection carries the calls of one client only then.
    pub announce: Option<std::sync::Arc<Announce>>,
}

/// The pools of one thread.
#[derive(Default)]
pub struct Pools {
    h1: RefCell<foldhash::HashMap<Key, Rc<Pool>>>,
    holdings: Arc<Holdings>,
}

/// The kept connections to one endpoint.
pub struct Pool {
    /// What all threads hold of the endpoint; what this pool has counts there.
    held: Arc<Held>,
    idle: RefCell<Vec<Idle>>,
    open: Cell<u32>,
    pending: Cell<u32>,
    freed: Notify,
    life: IdleLife,
}

struct Idle {
    stream: Stream,
    since: Instant,
    until: Until,
}

/// Leave to have one connection. While it lives, the connection counts against the cap.
pub struct Slot {
    pool: Rc<Pool>,
    counted: bool,
    /// How long the connection had been idle when it was taken, in milliseconds; 0 for a new one. Small, as every
    /// HTTP/1 connection of a client has room for it.
    idle_ms: u32,
    /// When the connection is too old for a further call.
    until: Until,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.counted {
            self.pool.closed(1);
        }
        self.pool.freed.notify_one();
    }
}

/// A connection in use.
pub struct Lease {
    /// The connection.
    pub stream: Stream,
    /// Whether it served a call before.
    pub reused: bool,
    slot: Slot,
}

/// What a call needs of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Any: if it turns out to be closed, the call can be made again.
    Any,
    /// One that is surely open, because the call cannot be made again.
    Open,
}

impl Need {
    /// Of a call that can be made again, or that cannot.
    pub fn of(idempotent: bool) -> Need {
        if idempotent { Need::Any } else { Need::Open }
    }
}

/// What [`Pools::take`] found.
pub enum Taken {
    /// A connection that was used before.
    Kept(Lease),
    /// Leave to make a new one.
    New(Slot),
}

impl Pools {
    /// Pools of a thread whose base has these `holdings`.
    pub fn new(holdings: Arc<Holdings>) -> Pools {
        Pools { holdings, ..Pools::default() }
    }

    fn pool(&self, key: &Key) -> Rc<Pool> {
        if let Some(pool) = self.h1.borrow().get(key) {
            return pool.clone();
        }
        let pool = Rc::new(Pool::new(self.holdings.of(key)));
        self.h1.borrow_mut().insert(key.clone(), pool.clone());
        pool
    }

    /// A kept connection or leave to make one, if there is either now.
    pub fn try_take(&self, key: &Key, caps: &Breaker, need: Need, now: Instant) -> Option<Taken> {
        self.pool(key).try_take(caps, need, now)
    }

    /// A kept connection or leave to make one, waiting in the queue if need be. Cancel safe.
    pub async fn take(&self, key: &Key, caps: &Breaker, need: Need) -> Result<Taken, Failure> {
        let pool = self.pool(key);
        if let Some(taken) = pool.try_take(caps, need, Instant::now()) {
            return Ok(taken);
        }
        pool.held.wait(caps, &key.address)?;
        pool.pending.set(pool.pending.get() + 1);
        let _waiting = Waiting(pool.clone());
        loop {
            pool.freed.notified().await;
            if let Some(taken) = pool.try_take(caps, need, Instant::now()) {
                return Ok(taken);
            }
        }
    }

    /// Closes what has been idle for longer than `longest` at `now`, or than its endpoint lets it be, or was closed by
    /// the other side; forgets empty pools of which nothing was learnt, and some of the others if there are many.
    pub fn sweep(&self, now: Instant, longest: Duration) {
        let (mut pools, mut remembered) = (self.h1.borrow_mut(), 0);
        pools.retain(|_, pool| {
            let mut idle = std::mem::take(&mut *pool.idle.borrow_mut());
            let before = idle.len();
            let longest = pool.life.limit(now).map_or(longest, |limit| longest.min(limit));
            idle.retain_mut(|kept| {
                let age = now.saturating_duration_since(kept.since);
                let is_open = is_quiet(&mut kept.stream);
                if !is_open {
                    pool.life.closed_by(age, now);
                }
                is_open && age < longest && !kept.stream.is_retiring() && !kept.until.is_over(now)
            });
            pool.closed((before - idle.len()) as u32);
            idle.shrink_to_fit();
            *pool.idle.borrow_mut() = idle;
            if pool.open.get() > 0 || pool.pending.get() > 0 {
                return true;
            }
            let is_known = !pool.life.is_blank(now);
            remembered += usize::from(is_known);
            is_known && remembered <= REMEMBERED
        });
        if pools.capacity() > 4 * REMEMBERED && pools.len() < pools.capacity() / 4 {
            pools.shrink_to_fit();
        }
    }

    /// Adds the endpoints that there are pools for; hosts outside the mesh are none.
    pub fn endpoints(&self, all: &mut HashSet<u64>) {
        all.extend(self.h1.borrow().keys().map(|key| key.endpoint).filter(|endpoint| *endpoint != 0));
    }

    /// Closes what is idle of endpoints that are `gone`.
    pub fn leave(&self, gone: &HashSet<u64>) {
        for (_, pool) in self.h1.borrow().iter().filter(|(key, _)| gone.contains(&key.endpoint)) {
            let idle = std::mem::take(&mut *pool.idle.borrow_mut());
            pool.closed(idle.len() as u32);
        }
    }

    /// Open connections, those of them that are idle, and calls that wait for one, all pools together.
    pub fn counts(&self) -> (u32, u32, u32) {
        let pools = self.h1.borrow();
        let open = pools.values().map(|pool| pool.open.get()).sum();
        let idle = pools.values().map(|pool| pool.idle.borrow().len() as u32).sum();
        let waiting = pools.values().map(|pool| pool.pending.get()).sum();
        (open, idle, waiting)
    }

    /// What there is for each endpoint.
    pub fn tell(&self, pools: &mut Vec<(u64, gauges::Pool)>) {
        pools.extend(self.h1.borrow().iter().map(|(key, pool)| {
            let (open, idle) = (u64::from(pool.open.get()), pool.idle.borrow().len() as u64);
            let waiting = u64::from(pool.pending.get());
            let busy = open.saturating_sub(idle);
            (key.endpoint, gauges::Pool { busy, idle, waiting, ..gauges::Pool::default() })
        }));
    }

    /// Closes every kept connection.
    pub fn close(&self) {
        for pool in self.h1.borrow().values() {
            let idle = std::mem::take(&mut *pool.idle.borrow_mut());
            pool.closed(idle.len() as u32);
        }
    }
}

struct Waiting(Rc<Pool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.pending.set(self.0.pending.get() - 1);
        self.0.held.waited();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.closed(self.open.get());
    }
}

impl Pool {
    fn new(held: Arc<Held>) -> Pool {
        Pool {
            held,
            idle: RefCell::default(),
            open: Cell::default(),
            pending: Cell::default(),
            freed: Notify::default(),
            life: IdleLife::default(),
        }
    }

    /// So many of its connections are closed.
    fn closed(&self, count: u32) {
        if count > 0 {
            self.open.set(self.open.get() - count);
            self.held.closed(count);
        }
    }

    fn try_take(self: &Rc<Pool>, caps: &Breaker, need: Need, now: Instant) -> Option<Taken> {
        loop {
            // Bound to a name, so that the list is not borrowed while the stream is looked at or dropped.
            let kept = self.idle.borrow_mut().pop();
            let Some(mut kept) = kept else { break };
            if kept.stream.is_retiring() || kept.until.is_over(now) {
                // A certificate that it was made with has expired, or it is too old: the next one is as wanted.
                self.closed(1);
                continue;
            }
            let idle_for = now.saturating_duration_since(kept.since);
            let lives = self.life.limit(now).is_none_or(|limit| idle_for < limit);
            if lives && need == Need::Open && !self.life.is_sure(idle_for) && is_quiet(&mut kept.stream) {
                // It may do for another call; the ones below it are older still.
                if self.held.has_room(caps, self.open.get() as usize) {
                    self.idle.borrow_mut().push(kept);
                    break;
                }
            }
            let idle_ms = u32::try_from(idle_for.as_millis()).unwrap_or(u32::MAX);
            let slot = Slot { pool: self.clone(), counted: true, idle_ms, until: kept.until };
            let is_open = is_quiet(&mut kept.stream);
            if !is_open {
                self.life.closed_by(idle_for, now);
            } else if lives && (need == Need::Any || self.life.is_sure(idle_for)) {
                return Some(Taken::Kept(Lease { stream: kept.stream, reused: true, slot }));
            }
        }
        if self.held.open(caps, self.open.get() as usize) {
            self.open.set(self.open.get() + 1);
            let until = Until::of(caps.max_connection_age, now);
            return Some(Taken::New(Slot { pool: self.clone(), counted: true, idle_ms: 0, until }));
        }
        None
    }
}

impl Slot {
    fn idle_for(&self) -> Duration {
        Duration::from_millis(self.idle_ms.into())
    }

    /// Puts a new connection to use.
    pub fn fill(self, stream: Stream) -> Lease {
        Lease { stream, reused: false, slot: self }
    }
}

impl Lease {
    /// The connection, and the leave to keep it afterwards.
    pub fn split(self) -> (Stream, Keep) {
        (self.stream, Keep(self.slot))
    }
}

/// Leave to keep a connection after its call; dropping it means that the connection was closed.
pub struct Keep(Slot);

impl Keep {
    /// Keeps the connection, idle since `since`, for the next call; it stays counted as open. One that is retiring or too
    /// old is closed.
    pub fn keep(mut self, stream: Stream, since: Instant) {
        let until = self.0.until;
        if stream.is_retiring() || until.is_over(since) {
            return;
        }
        self.0.counted = false;
        self.0.pool.life.survived(self.0.idle_for());
        self.0.pool.idle.borrow_mut().push(Idle { stream, since, until });
    }
}

impl Keep {
    /// The connection had been closed by the endpoint before it took the call. Those that have been idle for longer are
    /// no better.
    pub fn died(self) {
        let pool = &self.0.pool;
        pool.life.died(self.0.idle_for(), Instant::now());
        let idle = std::mem::take(&mut *pool.idle.borrow_mut());
        pool.closed(idle.len() as u32);
    }
}

/// Whether nothing has come in on a connection that should be silent: no byte, no end, no error.
fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0u8; 1];
    if let Some(socket) = stream.as_tcp() {
        // Without a waker, which costs half as much.
        return socket.try_read(&mut byte).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    }
    let mut cx = Context::from_waker(Waker::noop());
    matches!(Pin::new(stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)), Poll::Pending)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(endpoint: u64) -> Key {
        Key { endpoint, address: "a".into(), at: None, source: None, tls: None, announce: None }
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_that_come_and_go_leave_little_behind() {
        let (pools, caps, now) = (Pools::default(), Breaker::default(), Instant::now());
        let slot = |endpoint| {
            let Some(Taken::New(slot)) = pools.try_take(&key(endpoint), &caps, Need::Any, now) else {
                panic!("there is leave to make a connection");
            };
            slot
        };
        let busy = slot(0);
        for endpoint in 1..5_000 {
            // Its connection died: something is suspected of it.
            Keep(slot(endpoint)).died();
        }
        pools.sweep(now, Duration::from_secs(60));
        let kept = pools.h1.borrow();
        assert_eq!(kept.len(), REMEMBERED + 1);
        assert!(kept.contains_key(&key(0)), "one that has a connection stays");
        assert!(kept.capacity() < 4 * (REMEMBERED + 1));
        drop(busy);
    }
    /// Whether it has to wait.
    async fn waits(future: &mut Pin<Box<impl Future>>) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }

    #[test]
    fn caps_hold_for_all_threads_together() {
        let holdings = Arc::new(Holdings::default());
        let caps = Breaker { max_connections: 3, max_pending: 1, ..Breaker::default() };
        let (now, other) = (Instant::now(), holdings.clone());
        let new = move |pools: &Pools, caps: &Breaker| match pools.try_take(&key(1), caps, Need::Any, now) {
            Some(Taken::New(slot)) => Some(slot),
            Some(Taken::Kept(_)) | None => None,
        };
        let here = Pools::new(holdings);
        let mine = [new(&here, &caps), new(&here, &caps)];
        assert!(mine.iter().all(Option::is_some));
        let (told, tells) = std::sync::mpsc::sync_channel(1);
        let (go, goes) = std::sync::mpsc::sync_channel(1);
        let caps_there = caps.clone();
        let thread = std::thread::spawn(move || {
            let there = Pools::new(other);
            let theirs = [new(&there, &caps_there), new(&there, &caps_there)];
            told.send(theirs.each_ref().map(Option::is_some)).expect("somebody listens");
            goes.recv().expect("somebody says so");
            let more = new(&there, &caps_there);
            told.send([more.is_some(), new(&there, &caps_there).is_some()]).expect("somebody listens");
        });
        assert_eq!(tells.recv(), Ok([true, false]), "three in all");
        assert!(new(&here, &caps).is_none(), "nor here");
        drop(mine);
        go.send(()).expect("it waits");
        assert_eq!(tells.recv(), Ok([true, true]), "what is closed here is free there");
        thread.join().expect("it ends");
        // What a thread had is given back when it ends, and a pool without a connection always gets one.
        let most = Breaker { max_connections: 1, ..caps };
        let first = new(&here, &most);
        assert!(first.is_some() && new(&here, &most).is_none());
        let third = Pools::new(here.holdings.clone());
        assert!(new(&third, &most).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_wait_are_counted_for_all_threads_together() {
        let caps = Breaker { max_connections: 1, max_pending: 1, ..Breaker::default() };
        let holdings = Arc::new(Holdings::default());
        let (one, two) = (Pools::new(holdings.clone()), Pools::new(holdings));
        let key = key(1);
        let held = (one.take(&key, &caps, Need::Any).await, two.take(&key, &caps, Need::Any).await);
        assert!(held.0.is_ok() && held.1.is_ok());
        let mut waiting = Box::pin(one.take(&key, &caps, Need::Any));
        assert!(waits(&mut waiting).await);
        let refused = two.take(&key, &caps, Need::Any).await.err().expect("no room to wait");
        assert_eq!(refused.kind, dodai_core::failure::Kind::QueueFull);
        drop(waiting);
        let mut waiting = Box::pin(two.take(&key, &caps, Need::Any));
        assert!(waits(&mut waiting).await);
    }
}
