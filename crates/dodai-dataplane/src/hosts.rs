//! Hosts outside the mesh of which every address is an endpoint: looked up again and again, and put into the table.
//!
//! The sweep of every thread looks for names that are due; a lock lets one of them ask for each. What cannot be looked up
//! stays as it was. Until a name was looked up for the first time it is one endpoint itself, looked up by connections.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dodai_core::snapshot;
use dodai_core::task;
use dodai_core::trace::random;
use tokio::time::Instant;

use crate::limits::{LOOK_UP_EVERY, MAX_ADDRESSES};
use crate::place::Endpoint;
use crate::reach::Address;
use crate::worker::{Shared, Worker};

/// What is known of names, all threads together.
#[derive(Default)]
pub struct Hosts(Mutex<BTreeMap<Arc<str>, Known>>);

struct Known {
    addresses: Arc<[IpAddr]>,
    /// When it is looked up again.
    due: Instant,
    /// Whether the last look-up failed.
    failed: bool,
}

impl Hosts {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoints that `list` is as far as names are known: each with the address that it has of its own.
    pub fn spread<'a>(
        &self,
        list: &'a [snapshot::Endpoint],
    ) -> Vec<(&'a snapshot::Endpoint, Option<IpAddr>)> {
        let mut spread = Vec::with_capacity(list.len());
        for one in list {
            let known = host(one).and_then(|host| Some(self.all().get(&host)?.addresses.clone()));
            match known.filter(|known| !known.is_empty()) {
                Some(known) => spread.extend(known.iter().map(|address| (one, Some(*address)))),
                None => spread.push((one, None)),
            }
        }
        spread
    }

    /// Forgets names that nobody has any more.
    fn keep(&self, used: &BTreeSet<Arc<str>>) {
        self.all().retain(|host, _| used.contains(host));
    }

    /// Whether `host` is to be looked up at `now`; only one who asks is told so.
    fn is_due(&self, host: &Arc<str>, now: Instant) -> bool {
        let mut all = self.all();
        let unknown = || Known { addresses: [].into(), due: now, failed: false };
        let known = all.entry(host.clone()).or_insert_with(unknown);
        let due = known.due <= now;
        if due {
            // Half as long again at most, so that bases do not ask all at once.
            let share = (random() >> 11) as f64 / (1u64 << 53) as f64;
            known.due = now + LOOK_UP_EVERY.mul_f64(1.0 + share / 2.0);
        }
        due
    }

    /// Takes an answer.
    fn learn(&self, host: &Arc<str>, answer: io::Result<Vec<IpAddr>>) {
        let mut all = self.all();
        // Nobody may have it by now.
        let Some(known) = all.get_mut(host) else { return };
        let some = |found: Vec<IpAddr>| match found.is_empty() {
            true => Err(io::Error::other("it has no address")),
            false => Ok(found),
        };
        match answer.and_then(some) {
            Ok(addresses) => (known.addresses, known.failed) = (of_one_family(addresses).into(), false),
            Err(error) => {
                if !std::mem::replace(&mut known.failed, true) {
                    let host = &**host;
                    tracing::warn!(host, %error, "a name could not be looked up; its addresses stay as they were");
                }
            }
        }
    }
}

/// Addresses of the family that the system has put first, in an order of their own: who answers may turn them about.
fn of_one_family(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    addresses.retain(|address| address.is_ipv4() == is_v4);
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

/// The name of which every address is an endpoint, if `source` asks for that and is a name.
pub fn host(source: &snapshot::Endpoint) -> Option<Arc<str>> {
    if !source.each_address {
        return None;
    }
    match Address::of(source.target.address()?, 0) {
        Address::Host(host, _) => Some(host),
        Address::Socket(_) => None,
    }
}

/// Starts what is due at `now`.
pub fn sweep(worker: &Rc<Worker>, now: Instant) {
    let shared = &worker.shared;
    let table = shared.table.load();
    let named = || table.services().filter(|service| service.is_named());
    let used: BTreeSet<Arc<str>> = named().flat_map(|service| service.hosts()).collect();
    shared.hosts.keep(&used);
    for host in used {
        if shared.hosts.is_due(&host, now) {
            look_up(worker, host);
        }
    }
    // A snapshot may have come while a name was looked up.
    if named().any(|service| service.is_elsewhere(&shared.hosts)) {
        put(shared);
    }
}

fn look_up(worker: &Rc<Worker>, host: Arc<str>) {
    let worker_too = worker.clone();
    worker.tasks.spawn_local(task::Kind::Call, async move {
        let shared = &worker_too.shared;
        let within = shared.limits.connect_timeout;
        let answer = tokio::select! {
            // An answer is worth nothing to a drain.
            () = worker_too.tasks.closing() => return,
            answer = tokio::time::timeout(within, shared.network.resolve(&host)) => answer,
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {within:?}"));
        shared.hosts.learn(&host, answer.map_err(late).flatten());
        put(shared);
    });
}

/// Makes the table know where names are.
fn put(shared: &Shared) {
    shared.table.rcu(|table| match table.spread(&shared.base, &shared.locals, &shared.hosts) {
        Some(newer) => Arc::new(newer),
        None => table.clone(),
    });
}

/// Whether `endpoints` are what their sources are as far as names are known.
pub fn are_there(endpoints: &[Arc<Endpoint>], list: &[snapshot::Endpoint], hosts: &Hosts) -> bool {
    let spread = hosts.spread(list);
    let same = |(endpoint, (source, address)): (&Arc<Endpoint>, &(&snapshot::Endpoint, Option<IpAddr>))| {
        endpoint.is_of(source, *address)
    };
    spread.len() == endpoints.len() && endpoints.iter().zip(&spread).all(same)
}
