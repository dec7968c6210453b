//! Services in live form: endpoints with their load, latency and breaker, and how one is picked.
//!
//! What one call learns about an endpoint holds for all threads, so this state is shared atomics; it is taken
//! over from table to table as long as the endpoint stays.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use dodai_core::failure::{Failure, Kind};
use dodai_core::id::{BaseId, RevisionId, ServiceId};
use dodai_core::snapshot::{self, Balance, Breaker, Target};
use dodai_core::trace::random;
use tokio::time::Instant;

use crate::attempt::Budget;
use crate::filter::{self, Filter};
use crate::local::{Local, Locals};
use crate::reach::Address;
use crate::route::{BadRule, Rule};
use crate::secure::Secure;

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
        address: std::net::SocketAddr,
    },
    /// An address outside the mesh, and what connections to it are secured by.
    Address(Arc<str>, Address, Option<Arc<Secure>>),
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
    weight: u32,
    source: snapshot::Endpoint,
    load: Load,
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

impl Endpoint {
    fn new(source: &snapshot::Endpoint, base: &BaseId, locals: &Locals) -> Option<Endpoint> {
        let (place, label) = match &source.target {
            Target::Instance { instance, base: on, .. } if on == base => {
                (Place::Local(locals.get(instance)), instance.as_str().to_owned())
            }
            Target::Instance { instance, base: on, mesh } => {
                (Place::Mesh { base: on.clone(), address: (*mesh)? }, instance.as_str().to_owned())
            }
            Target::Address(address) => {
                (Place::Address(address.as_str().into(), Address::of(address, 80), None), address.clone())
            }
            Target::Tls { address, tls } => {
                let secure = Some(Arc::new(Secure::new(address, tls)));
                let place = Place::Address(address.as_str().into(), Address::of(address, 443), secure);
                (place, address.clone())
            }
        };
        Some(Endpoint {
            id: NEXT_ID.fetch_add(1, Relaxed),
            place,
            revision: source.revision.clone(),
            label: label.into(),
            weight: source.weight.max(1),
            source: source.clone(),
            load: Load::default(),
        })
    }

    /// Whether it can be tried at `now`.
    fn is_available(&self, now: u64) -> bool {
        self.is_open() && self.load.open_until.load(Relaxed) <= now
    }

    /// Whether calls can get there at all.
    fn is_open(&self) -> bool {
        match &self.place {
            Place::Local(local) => local.is_open(),
            Place::Mesh { .. } | Place::Address(..) => true,
        }
    }

    /// Whether a call that was led here at `now` may go. After the endpoint was left alone, only one may, to see how
    /// it is; the others are led elsewhere as long again.
    fn lets_in(&self, now: u64, breaker: &Breaker) -> bool {
        let state = &self.load.open_until;
        let (before, again) = (state.load(Relaxed), now.saturating_add(open_for(breaker)));
        before == 0 || (before <= now && state.compare_exchange(before, again, Relaxed, Relaxed).is_ok())
    }

    /// What picking it would cost: decayed latency times calls in flight.
    fn cost(&self, now: u64) -> f64 {
        let latency = match self.load.latency.load(Relaxed) {
            0 => UNKNOWN_LATENCY,
            known => known,
        };
        let age = now.saturating_sub(self.load.touched.load(Relaxed)) as f64 / DECAY.as_nanos() as f64;
        let load = f64::from(self.load.in_flight.load(Relaxed)) + 1.0;
        latency as f64 * (-age).exp() * load / f64::from(self.weight)
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

/// A service in live form.
pub struct Service {
    /// What it is.
    pub spec: snapshot::Service,
    /// Its id as a metric label.
    pub label: Arc<str>,
    /// Rules for calls from inside the mesh.
    pub rules: Vec<Arc<Rule>>,
    /// What is checked on arrival.
    pub inbound: Vec<Filter>,
    /// What retries may cost.
    pub budget: Arc<Budget>,
    endpoints: Vec<Arc<Endpoint>>,
    turn: AtomicUsize,
    endpoints_source: Option<Arc<snapshot::Resource>>,
    service_source: Arc<snapshot::Resource>,
}

impl Service {
    /// Compiles a service with its endpoints, taking over from `old` what stayed.
    pub fn compile(
        spec: &snapshot::Service,
        service_source: &Arc<snapshot::Resource>,
        endpoints: Option<(&snapshot::Endpoints, &Arc<snapshot::Resource>)>,
        old: Option<&Arc<Service>>,
        base: &BaseId,
        locals: &Locals,
    ) -> Result<Arc<Service>, BadRule> {
        let endpoints_source = endpoints.map(|(_, source)| source.clone());
        let same_spec = old.filter(|old| old.service_source == *service_source);
        if let Some(old) = same_spec.filter(|old| old.endpoints_source == endpoints_source) {
            return Ok(old.clone());
        }
        let known: &[Arc<Endpoint>] = old.map_or(&[], |old| &old.endpoints);
        let reuse =
            |source: &snapshot::Endpoint| known.iter().find(|endpoint| endpoint.source == *source).cloned();
        let list = endpoints.map_or(&[] as &[_], |(endpoints, _)| &endpoints.list);
        let endpoints = list
            .iter()
            .filter_map(|one| reuse(one).or_else(|| Endpoint::new(one, base, locals).map(Arc::new)));
        let rules: &[Arc<Rule>] = old.map_or(&[], |old| &old.rules);
        Ok(Arc::new(Service {
            label: old.map_or_else(|| spec.id.to_string().into(), |old| old.label.clone()),
            rules: Rule::compile_all(&spec.rules, rules)?,
            inbound: filter::compile(&spec.id.to_string(), &spec.inbound)?,
            budget: old.map(|old| old.budget.clone()).unwrap_or_default(),
            endpoints: endpoints.collect(),
            turn: AtomicUsize::new(random() as usize),
            endpoints_source,
            service_source: service_source.clone(),
            spec: spec.clone(),
        }))
    }

    /// Its id.
    pub fn id(&self) -> &ServiceId {
        &self.spec.id
    }

    /// Whether one of its instances runs on this base.
    pub fn is_local(&self) -> bool {
        self.endpoints.iter().any(|endpoint| matches!(endpoint.place, Place::Local(_)))
    }

    /// Whether one of its instances runs on another base.
    pub fn is_remote(&self) -> bool {
        self.endpoints.iter().any(|endpoint| matches!(endpoint.place, Place::Mesh { .. }))
    }

    /// Like [`Service::pick_at`], now.
    pub fn pick(
        &self,
        revision: Option<&RevisionId>,
        tried: &[u64],
        local_only: bool,
    ) -> Result<Arc<Endpoint>, Failure> {
        self.pick_at(now_nanos(), revision, tried, local_only)
    }

    /// Picks an endpoint at `now` on the clock of [`now_nanos`]: of `revision` if named, else by the service's
    /// traffic shares; not one of `tried` unless nothing else is left. `local_only` is for calls that arrive
    /// from other bases.
    pub fn pick_at(
        &self,
        now: u64,
        revision: Option<&RevisionId>,
        tried: &[u64],
        local_only: bool,
    ) -> Result<Arc<Endpoint>, Failure> {
        self.has_room()?;
        let here = |endpoint: &&Arc<Endpoint>| !local_only || matches!(endpoint.place, Place::Local(_));
        let ready = |endpoint: &&Arc<Endpoint>| here(endpoint) && endpoint.is_available(now);
        let chosen = revision.or_else(|| self.draw_revision(&ready));
        let fits = |endpoint: &&Arc<Endpoint>| chosen.is_none_or(|revision| endpoint.revision == *revision);
        let fresh =
            |endpoint: &&Arc<Endpoint>| ready(endpoint) && fits(endpoint) && !tried.contains(&endpoint.id);
        // One that does not let the call in is not ready any more, so this ends.
        loop {
            let found = self
                .balance(now, &fresh)
                .or_else(|| self.balance(now, &|endpoint| ready(endpoint) && fits(endpoint)));
            match found {
                Some(endpoint) if endpoint.lets_in(now, &self.spec.breaker) => return Ok(endpoint.clone()),
                Some(_) => {}
                None => break,
            }
        }
        // All are left alone: unless that was asked for, trying is better than refusing.
        let is_open = |endpoint: &&Arc<Endpoint>| here(endpoint) && endpoint.is_open() && fits(endpoint);
        let found = if self.spec.breaker.refuses { None } else { self.balance(now, &is_open) };
        found.cloned().ok_or_else(|| self.unavailable(now, local_only))
    }

    /// Refuses a call beyond the most that may be under way. Threads that ask at the same moment may each let
    /// one through.
    fn has_room(&self) -> Result<(), Failure> {
        let Some(most) = self.spec.breaker.max_requests else { return Ok(()) };
        let under_way: u32 = self.endpoints.iter().map(|one| one.load.in_flight.load(Relaxed)).sum();
        if under_way < most {
            return Ok(());
        }
        let name = &self.spec.id.owner.name;
        Err(Failure::new(
            Kind::QueueFull,
            format!("{most} calls to {name} are under way, the most its policy allows"),
        ))
    }

    /// Draws a revision by the traffic shares, among those that have an endpoint.
    fn draw_revision(&self, ready: &impl Fn(&&Arc<Endpoint>) -> bool) -> Option<&RevisionId> {
        if self.spec.traffic.len() < 2 {
            return self
                .spec
                .traffic
                .first()
                .map(|(revision, _)| revision)
                .filter(|revision| self.has(revision, ready));
        }
        let live = || self.spec.traffic.iter().filter(|(revision, _)| self.has(revision, ready));
        let total: u64 = live().map(|(_, weight)| u64::from(*weight)).sum();
        let mut point = if total == 0 { return None } else { random() % total };
        for (revision, weight) in live() {
            if point < u64::from(*weight) {
                return Some(revision);
            }
            point -= u64::from(*weight);
        }
        None
    }

    fn has(&self, revision: &RevisionId, ready: &impl Fn(&&Arc<Endpoint>) -> bool) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.revision == *revision && ready(&endpoint))
    }

    fn balance(&self, now: u64, fits: &impl Fn(&&Arc<Endpoint>) -> bool) -> Option<&Arc<Endpoint>> {
        if let [only] = self.endpoints.as_slice() {
            return Some(only).filter(fits);
        }
        let count = self.endpoints.iter().filter(fits).count();
        let nth = |n: usize| self.endpoints.iter().filter(fits).nth(n);
        match (count, self.spec.balance) {
            (0, _) => None,
            (1, _) => nth(0),
            (_, Balance::RoundRobin) => nth(self.turn.fetch_add(1, Relaxed) % count),
            (_, Balance::LeastLatency) => {
                let draw = random();
                let first = (draw as u32 as usize) % count;
                let second = (first + 1 + ((draw >> 32) as usize) % (count - 1)) % count;
                let (a, b) = (nth(first)?, nth(second)?);
                Some(if a.cost(now) <= b.cost(now) { a } else { b })
            }
        }
    }

    /// Why nothing could be picked, for the caller.
    fn unavailable(&self, now: u64, local_only: bool) -> Failure {
        let name = &self.spec.id.owner.name;
        let broken =
            self.endpoints.iter().filter(|endpoint| endpoint.load.open_until.load(Relaxed) > now).count();
        let reason = self.endpoints.iter().find_map(|endpoint| match &endpoint.place {
            Place::Local(local) => match &**local.way() {
                crate::local::Way::Closed(reason) => Some(reason.clone()),
                crate::local::Way::Ports(_) | crate::local::Way::Serve(_) => None,
            },
            Place::Mesh { .. } | Place::Address(..) => None,
        });
        match (self.endpoints.len(), broken, reason) {
            (0, _, _) => Failure::new(Kind::NoEndpoint, format!("{name} has no ready instance")),
            (all, broken, _) if broken == all => Failure::new(
                Kind::BreakerOpen,
                format!("{name} failed too often; it is left alone for a moment"),
            ),
            (_, _, Some(reason)) => {
                Failure::new(Kind::NoEndpoint, format!("{name} has no ready instance: {reason}"))
            }
            (_, _, None) if local_only => {
                Failure::new(Kind::NoEndpoint, format!("{name} has no ready instance on this base"))
            }
            (_, _, None) => Failure::new(Kind::NoEndpoint, format!("{name} has no ready instance")),
        }
    }
}

impl Hash for Endpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}
