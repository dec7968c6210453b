//! What bases reported last.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use dodai_core::id::BaseId;
use dodai_core::snapshot::BUSIEST_KEYS;
use dodai_core::status::{InstanceStatus, Phase, Status};

use crate::reads::{Read, Reads};
use crate::records::{InstanceRecord, Millis};

/// What is known of one base.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// What it reported last.
    pub status: Arc<Status>,
    /// Whether it is connected.
    pub connected: bool,
    /// Since when it is, or is not.
    pub since: Millis,
}

impl Sighting {
    /// What it reported, to be changed.
    pub fn report(&mut self) -> &mut Status {
        Arc::make_mut(&mut self.status)
    }
}

/// What is known of all bases.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    started: Millis,
    bases: BTreeMap<BaseId, Sighting>,
    /// Found when it is first asked for; copies share it.
    busiest: Arc<OnceLock<Busiest>>,
    reads: Reads,
}

/// Keys of limits that most calls come by, and how many a second on all bases: by limit and mark.
type Busiest = BTreeMap<String, BTreeMap<u64, u64>>;

impl PartialEq for Observed {
    fn eq(&self, other: &Observed) -> bool {
        self.started == other.started && self.bases == other.bases
    }
}

impl Observed {
    /// What is known of these bases; nothing was known before `started`.
    pub fn new(started: Millis, bases: BTreeMap<BaseId, Sighting>) -> Observed {
        Observed { started, bases, busiest: Arc::default(), reads: Reads::default() }
    }

    /// The same; looks at it are noted in `reads`.
    pub(crate) fn noting(&self, reads: &Reads) -> Observed {
        Observed { reads: reads.clone(), ..self.clone() }
    }

    /// Since when anything could be known.
    pub fn started(&self) -> Millis {
        self.started
    }

    /// The bases that were seen since then.
    pub fn bases(&self) -> impl Iterator<Item = (&BaseId, &Sighting)> {
        self.reads.note(|| Read::Bases);
        let note = |base: &BaseId| self.reads.note(|| Read::Sighting(base.clone()));
        self.bases.iter().inspect(move |(base, _)| note(base))
    }

    /// The keys of a limit that most calls come by on all bases that are connected: calls per second by mark.
    pub fn busiest(&self, limit: &str) -> Option<&BTreeMap<u64, u64>> {
        let sum = || busiest(self.bases().map(|(_, one)| one).filter(|one| one.connected));
        self.bases().for_each(drop);
        self.busiest.get_or_init(sum).get(limit)
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &BaseId> {
        self.reads.note(|| Read::Bases);
        self.bases.keys()
    }

    /// One base, but for its instances.
    pub fn base(&self, base: &BaseId) -> Option<&Sighting> {
        self.reads.note(|| Read::Sighting(base.clone()));
        self.bases.get(base)
    }

    /// Where other bases reach one.
    pub fn mesh(&self, base: &BaseId) -> Option<SocketAddr> {
        self.reads.note(|| Read::Mesh(base.clone()));
        self.bases.get(base)?.status.mesh
    }

    /// All bases, to be changed.
    pub fn bases_mut(&mut self) -> &mut BTreeMap<BaseId, Sighting> {
        self.busiest = Arc::default();
        &mut self.bases
    }

    /// What a base says of an instance placed on it.
    pub fn instance(&self, record: &InstanceRecord) -> Option<&InstanceStatus> {
        self.reads.note(|| Read::Report(record.id.clone()));
        self.bases.get(&record.base)?.status.instances.get(&record.id)
    }

    /// Where an instance stands, if its base says so.
    pub fn phase(&self, record: &InstanceRecord) -> Option<Phase> {
        self.instance(record).map(|status| status.phase)
    }

    /// Whether an instance takes calls.
    pub fn is_ready(&self, record: &InstanceRecord) -> bool {
        record.draining.is_none() && self.phase(record) == Some(Phase::Ready)
    }

    /// Whether an instance takes calls as far as anybody knows: its base is connected and says so. Calls go on to
    /// those of a base that only control cannot hear; nobody is told that they are well.
    pub fn is_seen_ready(&self, record: &InstanceRecord) -> bool {
        self.is_ready(record) && self.away_since(&record.base).is_none()
    }

    /// Since when a base is away; `None` while it is connected.
    pub fn away_since(&self, base: &BaseId) -> Option<Millis> {
        self.reads.note(|| Read::Presence(base.clone()));
        match self.bases.get(base) {
            Some(sighting) if sighting.connected => None,
            Some(sighting) => Some(sighting.since),
            None => Some(self.started),
        }
    }

    /// Tells what is not the same in `to`.
    pub(crate) fn differences(&self, to: &Observed, mut tell: impl FnMut(Read)) {
        let both = self.bases.keys().chain(to.bases.keys().filter(|base| !self.bases.contains_key(*base)));
        for base in both {
            let (old, new) = (self.bases.get(base), to.bases.get(base));
            if old.is_some() != new.is_some() {
                tell(Read::Bases);
            }
            let presence = |one: Option<&Sighting>| one.map(|one| (one.connected, one.since));
            if presence(old) != presence(new) {
                tell(Read::Presence(base.clone()));
                tell(Read::Sighting(base.clone()));
            }
            let (old, new) = (old.map(|one| &one.status), new.map(|one| &one.status));
            if let (Some(old), Some(new)) = (old, new)
                && Arc::ptr_eq(old, new)
            {
                continue;
            }
            let nothing = Arc::default();
            reported(base, old.unwrap_or(&nothing), new.unwrap_or(&nothing), &mut tell);
        }
    }
}

fn busiest<'a>(sightings: impl Iterator<Item = &'a Sighting>) -> Busiest {
    let mut all = Busiest::new();
    for (limit, keys) in sightings.flat_map(|one| &one.status.busiest) {
        let found = all.entry(limit.clone()).or_default();
        for (mark, rate) in keys {
            *found.entry(*mark).or_default() += rate;
        }
    }
    for keys in all.values_mut() {
        let mut order: Vec<_> = keys.iter().map(|(mark, rate)| (Reverse(*rate), *mark)).collect();
        order.sort_unstable();
        *keys = order.into_iter().take(BUSIEST_KEYS).map(|(Reverse(rate), mark)| (mark, rate)).collect();
    }
    all
}

/// Tells what of a report is not the same in the next.
fn reported(base: &BaseId, old: &Status, new: &Status, tell: &mut impl FnMut(Read)) {
    // What is in force is of no interest to anything that is kept.
    let Status {
        applied: _,
        refused,
        instances,
        listeners,
        not_open,
        components,
        blocks: _,
        mesh,
        wants,
        demand,
        busiest,
        trust,
    } = old;
    if *mesh != new.mesh {
        tell(Read::Mesh(base.clone()));
    }
    let rest = (refused, (listeners, not_open), components, mesh, wants, (demand, busiest), trust);
    let now = (
        &new.refused,
        (&new.listeners, &new.not_open),
        &new.components,
        &new.mesh,
        &new.wants,
        (&new.demand, &new.busiest),
        &new.trust,
    );
    if rest != now {
        tell(Read::Sighting(base.clone()));
    }
    for (id, status) in instances {
        if new.instances.get(id) != Some(status) {
            tell(Read::Report(id.clone()));
        }
    }
    for id in new.instances.keys().filter(|id| !instances.contains_key(*id)) {
        tell(Read::Report(id.clone()));
    }
}
