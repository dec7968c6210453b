//! Endpoints of services: where each one is, and what our own calls have taught of it.
//!
//! What one call learns about an endpoint holds for all threads, so this state is shared atomics; it is taken
//! over from table to table as long as the endpoint stays.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dodai_core::id::{BaseId, RevisionId};
use dodai_core::snapshot::{self, Breaker, ProxyVersion, Target};
use tokio::time::Instant;

use crate::affinity;
use crate::local::{Local, Locals};
use crate::reach::Address;
use crate::secure::Secure;
use crate::standing::Standing;
use crate::stats::{Stats, Tally};

/// Where an endpoint is, seen from this base.
#[derive(Clone)]
pub enum Place {
    /// On this base.
    Local(Arc<Local>),
    /// On another base, by its mesh port.
    Mesh {
        /// That base.
        base: BaseId,
        /// Its mesh address.
        address: SocketAddr,
    },
    /// An address outside the mesh, what connections to it are secured by, and how it is told for whom they are.
    Address(Arc<str>, Address, Option<Arc<Secure>>, Option<ProxyVersion>),
}

/// One endpoint.
pub struct Endpoint {
    /// Unique in this process; the key of its pools.
    pub id: u64,
    /// Where it is.
    pub place: Place,
    /// The revision it runs.
    pub revision: RevisionId,
    /// Its name in logs.
    pub label: Arc<str>,
    /// Its name in cookies and tables of keys; the same on every base.
    pub token: u64,
    /// Its share beside others.
    pub weight: u32,
    /// The smaller goes first; larger ones are for when those fail.
    pub tier: u8,
    /// What is thought of it.
    pub standing: Arc<Standing>,
    source: snapshot::Endpoint,
    /// Which of the addresses of its name it is, if each is one.
    of_name: Option<IpAddr>,
    load: Arc<Load>,
    /// What its revision answered; from its first call on.
    tally: OnceLock<Arc<Tally>>,
}

/// What we know of an endpoint from our own calls.
#[derive(Default)]
struct Load {
    in_flight: AtomicU32,
    /// Peak-EWMA of latency in nanoseconds.
    latency: AtomicU64,
    /// When `latency` was last touched, in nanoseconds since the epoch of the process.
    touched: AtomicU64,
    failures: AtomicU32,
    /// Until when it is left alone, same clock; 0 means it is not. Afterwards one call at a time tries it, until one
    /// is answered.
    open_until: AtomicU64,
}

/// How fast an old latency is forgotten.
const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint without a known latency counts as, so that new ones are tried.
const UNKNOWN_LATENCY: u64 = 1_000_000;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Nanoseconds on a clock that starts with the process.
pub fn now_nanos() -> u64 {
    nanos(Instant::now())
}

/// A time on the clock of [`now_nanos`].
pub fn nanos(at: Instant) -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(|| Instant::now() - Duration::from_secs(1));
    u64::try_from(at.saturating_duration_since(start).as_nanos()).unwrap_or(u64::MAX)
}

/// Where an address outside the mesh is.
fn outside(address: &str, tls: Option<&snapshot::ClientTls>, told: Option<ProxyVersion>) -> Place {
    let secure = tls.map(|tls| Arc::new(Secure::new(address, tls)));
    let port = if secure.is_some() { 443 } else { 80 };
    Place::Address(address.into(), Address::of(address, port), secure, told)
}

impl Endpoint {
    /// The live form of `source`, or of one address of the name that it has; none if it cannot be reached yet.
    pub fn new(
        source: &snapshot::Endpoint,
        of_name: Option<IpAddr>,
        base: &BaseId,
        locals: &Locals,
    ) -> Option<Endpoint> {
        let (mut place, mut label) = match &source.target {
            Target::Instance { instance, base: on, .. } if on == base => {
                (Place::Local(locals.get(instance)), instance.as_str().to_owned())
            }
            Target::Instance { instance, base: on, mesh } => {
                (Place::Mesh { base: on.clone(), address: (*mesh)? }, instance.as_str().to_owned())
            }
            Target::Address(address) => (outside(address, None, None), address.clone()),
            Target::Tls { address, tls } => (outside(address, Some(tls), None), address.clone()),
            Target::Announced { address, tls, version } => {
                (outside(address, tls.as_ref(), Some(*version)), address.clone())
            }
        };
        if let (Some(ip), Place::Address(_, address, ..)) = (of_name, &mut place) {
            let at = SocketAddr::new(ip, address.port());
            (*address, label) = (Address::Socket(at), at.to_string());
        }
        Some(Endpoint {
            id: NEXT_ID.fetch_add(1, Relaxed),
            place,
            revision: source.revision.clone(),
            token: affinity::stable(label.as_bytes()),
            label: label.into(),
            weight: source.weight.max(1),
            tier: source.tier,
            standing: Arc::new(Standing::new(now_nanos())),
            source: source.clone(),
            of_name,
            load: Arc::default(),
            tally: OnceLock::new(),
        })
    }

    /// Whether it was made from `source`, and from this address of its name.
    pub fn is_of(&self, source: &snapshot::Endpoint, of_name: Option<IpAddr>) -> bool {
        self.of_name == of_name && self.source == *source
    }

    /// The same endpoint with what `source` says of it now, if that is still the same place and revision. What is known
    /// of it, and its pools, go on.
    pub fn retold(&self, source: &snapshot::Endpoint, of_name: Option<IpAddr>) -> Option<Endpoint> {
        let same = self.source.target == source.target && self.of_name == of_name;
        (same && self.revision == source.revision).then(|| Endpoint {
            id: self.id,
            place: self.place.clone(),
            revision: self.revision.clone(),
            label: self.label.clone(),
            token: self.token,
            weight: source.weight.max(1),
            tier: source.tier,
            standing: self.standing.clone(),
            source: source.clone(),
            of_name,
            load: self.load.clone(),
            tally: self.tally.clone(),
        })
    }

    /// Where calls that its revision answered on its base are counted.
    pub(crate) fn tally(&self, stats: &Stats, service: &Arc<str>) -> &Tally {
        self.tally.get_or_init(|| {
            let base = match &self.source.target {
                Target::Instance { base, .. } => Some(base.clone()),
                Target::Address(_) | Target::Tls { .. } | Target::Announced { .. } => None,
            };
            stats.tally((service.clone(), self.revision.clone(), base))
        })
    }

    /// Whether it has these labels.
    pub fn has(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().all(|(key, value)| self.source.labels.get(key) == Some(value))
    }

    /// Calls under way.
    pub fn in_flight(&self) -> u32 {
        self.load.in_flight.load(Relaxed)
    }

    /// The latency that is expected of it in nanoseconds, failures in a row, and until when its breaker is open.
    pub(crate) fn learnt(&self) -> (u64, u32, u64) {
        let load = &self.load;
        (load.latency.load(Relaxed), load.failures.load(Relaxed), load.open_until.load(Relaxed))
    }

    /// Whether its breaker is open at `now`.
    pub fn is_left_alone(&self, now: u64) -> bool {
        self.load.open_until.load(Relaxed) > now
    }

    /// Whether it can be tried at `now`.
    pub fn is_available(&self, now: u64) -> bool {
        self.is_open() && self.load.open_until.load(Relaxed) <= now
    }

    /// Whether calls can get there at all.
    pub fn is_open(&self) -> bool {
        match &self.place {
            Place::Local(local) => local.is_open(),
            Place::Mesh { .. } | Place::Address(..) => true,
        }
    }

    /// Whether a call that was led here at `now` may go. After the endpoint was left alone, only one may, to see how
    /// it is; the others are led elsewhere as long again.
    pub fn lets_in(&self, now: u64, breaker: &Breaker) -> bool {
        let state = &self.load.open_until;
        let (before, again) = (state.load(Relaxed), now.saturating_add(open_for(breaker)));
        before == 0 || (before <= now && state.compare_exchange(before, again, Relaxed, Relaxed).is_ok())
    }

    /// The call that was let in at `now` is not made: if it was the one to see how the endpoint is, another may.
    pub fn give_back(&self, now: u64, breaker: &Breaker) {
        let again = now.saturating_add(open_for(breaker));
        let _other = self.load.open_until.compare_exchange(again, now.max(1), Relaxed, Relaxed);
    }

    /// Calls in flight for its weight.
    pub fn load(&self) -> f64 {
        f64::from(self.in_flight()) / f64::from(self.weight)
    }

    /// What picking it would cost: decayed latency times calls in flight.
    pub fn cost(&self, now: u64) -> f64 {
        let latency = match self.load.latency.load(Relaxed) {
            0 => UNKNOWN_LATENCY,
            known => known,
        };
        let age = now.saturating_sub(self.load.touched.load(Relaxed)) as f64 / DECAY.as_nanos() as f64;
        latency as f64 * (-age).exp() * (self.load() + 1.0)
    }

    /// Counts a call from `now` on the clock of [`now_nanos`] until the attempt is dropped.
    pub fn attempt(self: &Arc<Endpoint>, now: u64) -> Attempt {
        self.load.in_flight.fetch_add(1, Relaxed);
        Attempt { endpoint: self.clone(), start: now }
    }

    /// Peak-EWMA: a worse latency counts at once, a better one slowly.
    fn learn(&self, start: u64, now: u64) {
        let took = now.saturating_sub(start).max(1);
        let old = self.load.latency.load(Relaxed);
        let touched = self.load.touched.swap(now, Relaxed);
        let new = if old == 0 || took > old {
            took
        } else {
            let keep = (-(now.saturating_sub(touched) as f64) / DECAY.as_nanos() as f64).exp();
            (old as f64 * keep + took as f64 * (1.0 - keep)) as u64
        };
        self.load.latency.store(new.max(1), Relaxed);
    }
}

/// One try at an endpoint. Dropping it without a verdict counts as neither good nor bad.
pub struct Attempt {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    start: u64,
}

impl Attempt {
    /// How long it took until `at`, in nanoseconds.
    pub fn took(&self, at: u64) -> u64 {
        at.saturating_sub(self.start)
    }

    /// The endpoint answered; its head came at `at` on the clock of [`now_nanos`]. How long the body took says
    /// as much about the caller, so it is not counted.
    pub fn succeeded(&self, at: u64) {
        self.endpoint.learn(self.start, at);
        self.endpoint.load.failures.store(0, Relaxed);
        if self.endpoint.load.open_until.load(Relaxed) != 0 {
            self.endpoint.load.open_until.store(0, Relaxed);
        }
    }

    /// The endpoint failed; after enough in a row it is left alone for a while.
    pub fn failed(&self, breaker: &Breaker) {
        let failures = self.endpoint.load.failures.fetch_add(1, Relaxed) + 1;
        if breaker.consecutive_failures > 0 && failures >= breaker.consecutive_failures {
            let until = now_nanos().saturating_add(open_for(breaker)).max(1);
            self.endpoint.load.open_until.store(until, Relaxed);
            self.endpoint.load.failures.store(breaker.consecutive_failures - 1, Relaxed);
        }
    }
}

fn open_for(breaker: &Breaker) -> u64 {
    u64::try_from(breaker.open_for.as_nanos()).unwrap_or(u64::MAX / 2)
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.endpoint.load.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Hash for Endpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_is_not_taken_is_for_the_next() {
        let source = snapshot::Endpoint::new(RevisionId::new("r"), Target::Address("10.0.1.1:80".into()));
        let endpoint =
            Endpoint::new(&source, None, &BaseId::new("b"), &Locals::default()).expect("an address");
        let breaker = Breaker { consecutive_failures: 1, ..Breaker::default() };
        let endpoint = Arc::new(endpoint);
        endpoint.attempt(now_nanos()).failed(&breaker);
        let (_, _, until) = endpoint.learnt();
        assert!(!endpoint.lets_in(until - 1, &breaker), "it is left alone");
        assert!(endpoint.lets_in(until, &breaker) && !endpoint.lets_in(until + 1, &breaker), "one looks");
        endpoint.give_back(until, &breaker);
        assert!(endpoint.lets_in(until + 1, &breaker) && !endpoint.lets_in(until + 2, &breaker));
        // Who was let in otherwise has nothing to give back.
        endpoint.attempt(until).succeeded(until + 3);
        endpoint.give_back(until + 1, &breaker);
        assert!(endpoint.lets_in(until + 4, &breaker) && endpoint.lets_in(until + 4, &breaker));
    }
}
