//! Who is connected: one entry per client connection of a thread, for whoever asks.
//!
//! An entry lives as long as its connection; calls only add to plain cells of their own thread. No other thread ever
//! looks: it asks, and this one answers between two calls, with at most as many as were asked for.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use dodai_core::snapshot::Listener;
use tokio::time::Instant;

use crate::age;
use crate::arrivals::Counts;
use crate::place::nanos;

/// Connections are numbered through in the process.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What the connections have in common that came in by one listener while it was what it is.
pub struct Tenure {
    listener: Arc<Listener>,
    over: Cell<bool>,
    counts: Arc<Counts>,
}

impl Tenure {
    /// It begins; connections are counted there.
    pub fn new(listener: Arc<Listener>, counts: Arc<Counts>) -> Tenure {
        Tenure { listener, over: Cell::new(false), counts }
    }

    /// The listener is gone, or serves something else from now on: connections end after the call under way.
    pub fn end(&self) {
        self.over.set(true);
    }

    /// The listener's counters.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

/// What is known of one connection. Every idle connection has one, so it is kept small.
pub struct Facts {
    id: u64,
    tenure: Rc<Tenure>,
    peer: SocketAddr,
    caller: Arc<str>,
    secure: Option<Box<Secure>>,
    /// On the clock of [`nanos`].
    since: u64,
    /// Bytes from the client: of HTTP/1 the bodies of calls that ended, of HTTP/2 and tunnels all.
    pub received: Cell<u64>,
    /// Bytes to the client, in the same way.
    pub sent: Cell<u64>,
    /// When something last passed, in milliseconds after `since`.
    passed: Cell<u32>,
    calls: Cell<u32>,
    streams: Cell<u32>,
    speaks: Cell<Speaks>,
}

/// What TLS brought to light.
struct Secure {
    version: &'static str,
    identity: Option<Arc<str>>,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// Nothing yet.
    Nothing,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes of a TCP service.
    Tcp,
    /// A tunnel that was asked for by SOCKS.
    Socks,
    /// Datagrams of one client.
    Udp,
}

impl Speaks {
    fn as_str(self) -> &'static str {
        match self {
            Speaks::Nothing => "-",
            Speaks::Http1 => "HTTP/1.1",
            Speaks::Http2 => "HTTP/2",
            Speaks::Tcp => "TCP",
            Speaks::Socks => "SOCKS5",
            Speaks::Udp => "UDP",
        }
    }
}

impl Facts {
    /// Whether its listener is gone.
    pub fn is_retired(&self) -> bool {
        self.tenure.over.get()
    }

    /// How long it may still take calls at `now`, if its listener bounds that.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let most = self.tenure.listener.max_connection_age?;
        // Ids follow one another; their multiples lie all over.
        let life = age::life(most, self.id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let lived = Duration::from_nanos(nanos(now).saturating_sub(self.since));
        Some(life.saturating_sub(lived))
    }

    /// Notes what is spoken on it.
    pub fn speaks(&self, speaks: Speaks) {
        self.speaks.set(speaks);
    }

    fn passes(&self, at: Instant) {
        let millis = nanos(at).saturating_sub(self.since) / 1_000_000;
        self.passed.set(u32::try_from(millis).unwrap_or(u32::MAX));
    }

    /// A call of it ended, with so many bytes of body in and out. For HTTP/1, where one follows the other.
    pub fn called(&self, [received, sent]: [u64; 2], at: Instant) {
        self.began();
        self.received.set(self.received.get() + received);
        self.sent.set(self.sent.get() + sent);
        self.passes(at);
    }

    /// How an HTTP/2 connection is: bytes in and out so far, and streams under way.
    pub fn carried(&self, received: u64, sent: u64, streams: usize, at: Instant) {
        if received != self.received.get() || sent != self.sent.get() {
            self.passes(at);
        }
        self.received.set(received);
        self.sent.set(sent);
        self.streams.set(u32::try_from(streams).unwrap_or(u32::MAX));
    }

    /// A stream of it began.
    pub fn began(&self) {
        self.calls.set(self.calls.get().saturating_add(1));
    }

    /// The name that the peer has proven.
    pub fn identity(&self) -> Option<&Arc<str>> {
        self.secure.as_ref().and_then(|secure| secure.identity.as_ref())
    }

    /// The version of TLS, if it ends here.
    pub fn tls(&self) -> Option<&'static str> {
        self.secure.as_ref().map(|secure| secure.version)
    }

    fn read(&self, now: Instant) -> Connection {
        let age = Duration::from_nanos(nanos(now).saturating_sub(self.since));
        Connection {
            id: self.id,
            listener: self.tenure.listener.name.clone(),
            peer: self.peer,
            caller: self.caller.clone(),
            identity: self.identity().cloned(),
            tls: self.tls(),
            protocol: self.speaks.get().as_str(),
            age,
            quiet: age.saturating_sub(Duration::from_millis(self.passed.get().into())),
            calls: self.calls.get(),
            streams: self.streams.get(),
            received: self.received.get(),
            sent: self.sent.get(),
        }
    }
}

impl Drop for Facts {
    fn drop(&mut self) {
        self.tenure.counts.closed();
    }
}

/// A copy of what is known of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its number; later ones have larger numbers.
    pub id: u64,
    /// The listener it came in by.
    pub listener: String,
    /// The client's address.
    pub peer: SocketAddr,
    /// Who calls: an app, or `outside`.
    pub caller: Arc<str>,
    /// The name that the peer has proven, if it did.
    pub identity: Option<Arc<str>>,
    /// The version of TLS, if it ends here.
    pub tls: Option<&'static str>,
    /// `HTTP/1.1`, `HTTP/2`, `TCP`; `-` before the first bytes.
    pub protocol: &'static str,
    /// How long it has been there.
    pub age: Duration,
    /// How long ago something last passed, as far as it is noted.
    pub quiet: Duration,
    /// Calls so far.
    pub calls: u32,
    /// Streams under way, of HTTP/2.
    pub streams: u32,
    /// Bytes from the client; see [`Facts::received`].
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
}

/// What a connection begins with.
pub struct Entrant<'a> {
    /// What it shares with the others of it.
    pub tenure: Rc<Tenure>,
    /// The client.
    pub peer: SocketAddr,
    /// Who calls.
    pub caller: &'a Arc<str>,
    /// The proven name.
    pub identity: Option<Arc<str>>,
    /// The version of TLS.
    pub tls: Option<&'static str>,
}

/// Which connections somebody wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only those with a larger number.
    pub after: u64,
    /// At most so many, those with the smallest numbers.
    pub limit: usize,
    /// Only of this listener.
    pub listener: Option<String>,
    /// Only of this caller.
    pub caller: Option<String>,
}

/// The connections of one thread, in the order of their numbers.
#[derive(Default)]
pub struct Roll(RefCell<Vec<Weak<Facts>>>);

impl Roll {
    /// A connection that is served from now on.
    pub fn enter(&self, arrival: Entrant<'_>) -> Rc<Facts> {
        let Entrant { tenure, peer, caller, identity, tls } = arrival;
        tenure.counts.opened();
        if let Some(identity) = &identity {
            tenure.counts.met(identity);
        }
        let facts = Rc::new(Facts {
            id: NEXT.fetch_add(1, Relaxed),
            tenure,
            peer,
            caller: caller.clone(),
            secure: tls.map(|version| Box::new(Secure { version, identity })),
            since: nanos(Instant::now()),
            received: Cell::default(),
            sent: Cell::default(),
            passed: Cell::default(),
            calls: Cell::default(),
            streams: Cell::default(),
            speaks: Cell::new(Speaks::Nothing),
        });
        let mut all = self.0.borrow_mut();
        if all.len() == all.capacity() {
            all.retain(|weak| weak.strong_count() > 0);
        }
        all.push(Rc::downgrade(&facts));
        facts
    }

    /// Forgets those that are over, and the memory of a burst.
    pub fn prune(&self) {
        let mut all = self.0.borrow_mut();
        all.retain(|weak| weak.strong_count() > 0);
        if all.capacity() > 64 && all.capacity() / 4 > all.len() {
            let most = all.len() * 2;
            all.shrink_to(most);
        }
    }

    /// Copies of those that are wanted.
    pub fn read(&self, wanted: &Wanted, now: Instant) -> Vec<Connection> {
        let all = self.0.borrow();
        let is = |facts: &Rc<Facts>| {
            facts.id > wanted.after
                && wanted.listener.as_ref().is_none_or(|name| *name == facts.tenure.listener.name)
                && wanted.caller.as_ref().is_none_or(|name| **name == *facts.caller)
        };
        let found = all.iter().filter_map(Weak::upgrade).filter(is);
        found.take(wanted.limit).map(|facts| facts.read(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrivals::Arrivals;
    use dodai_core::snapshot::{Protocol, Role};

    fn listener() -> Arc<Listener> {
        Arc::new(Listener::new("web", ([127, 0, 0, 1], 80).into(), Protocol::Http, Role::Mesh))
    }

    #[test]
    fn a_connection_is_there_as_long_as_it_is() {
        let (arrivals, roll) = (Arrivals::default(), Roll::default());
        let tenure = Rc::new(Tenure::new(listener(), arrivals.of("web")));
        let enter = |caller: &str| {
            let caller: Arc<str> = caller.into();
            let (identity, tls) = (Some(caller.clone()), Some("1.3"));
            let peer = ([10, 0, 0, 1], 4000).into();
            let tenure = tenure.clone();
            roll.enter(Entrant { tenure, peer, caller: &caller, identity, tls })
        };
        let (first, second) = (enter("shop/a"), enter("shop/b"));
        first.speaks(Speaks::Http1);
        first.called([3, 4], Instant::now());
        first.called([10, 20], Instant::now());
        assert!(size_of::<Facts>() <= 128, "{}", size_of::<Facts>());
        let now = Instant::now();
        let all = Wanted { limit: 10, ..Wanted::default() };
        let seen = roll.read(&all, now);
        assert_eq!(seen.len(), 2);
        assert_eq!(
            (seen[0].calls, seen[0].received, seen[0].sent, seen[0].protocol),
            (2, 13, 24, "HTTP/1.1")
        );
        assert!(seen[0].id < seen[1].id);
        let after = Wanted { after: seen[0].id, ..all.clone() };
        assert_eq!(roll.read(&after, now).len(), 1);
        let only = Wanted { caller: Some("shop/a".to_owned()), ..all.clone() };
        assert_eq!(roll.read(&only, now).len(), 1);
        assert!(roll.read(&Wanted { listener: Some("x".to_owned()), ..all.clone() }, now).is_empty());
        assert_eq!(arrivals.read()[0].open, 2);
        assert!(!first.is_retired());
        tenure.end();
        assert!(first.is_retired());
        drop((first, second));
        roll.prune();
        assert!(roll.read(&all, now).is_empty());
        let reading = &arrivals.read()[0];
        assert_eq!((reading.open, reading.peers.len()), (0, 2));
    }
}
