//! Telling one base, one time after the other: each part of its snapshot is kept with what it was made of.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use dodai_api::{Document, DocumentKey, Kind};
use dodai_core::id::{AppId, InstanceId};
use dodai_core::snapshot::{Absent, Delta, Key, Resource, Snapshot};

use super::endpoints::{Traits, endpoints};
use super::{BaseSettings, Frame, Input, component, listener, outside, rate, route, service, workload};
use crate::name;
use crate::reads::{Read, Reads};
use crate::world::{Memo, World};

/// A part of a snapshot that is made as a whole, in the order in which they win over one another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    /// Which of the others there are.
    Frame,
    App(AppId),
    Component(DocumentKey),
    Subscriptions,
    Workload(InstanceId),
    /// The services that go by a name, and where they are.
    Owner(AppId),
    Endpoint(DocumentKey),
    Shares,
    Trust,
    Gateways,
    Listeners,
}

/// What a base is told.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    /// What the last snapshot was made of.
    seen: World,
    settings: BaseSettings,
    frame: Frame,
    /// The parts there are.
    parts: BTreeSet<Part>,
    made: Memo<Part>,
    /// The keys that each part makes.
    keys: BTreeMap<Part, Vec<Key>>,
    /// What is told under each key by which part; the first one counts.
    told: BTreeMap<Key, BTreeMap<Part, Arc<Resource>>>,
}

impl Telling {
    /// The snapshot that follows `previous`, which this made as well, or `None` if nothing changed.
    pub fn next(&mut self, input: &Input<'_>, previous: &Snapshot, version: u64) -> Option<Snapshot> {
        let world = World {
            documents: input.documents.clone(),
            records: input.records.clone(),
            observed: input.observed.clone(),
        };
        let changed = self.seen.differences(&world);
        let reads = Reads::noting();
        let World { documents, records, observed } = &world.noting(&reads);
        let input = Input { documents, records, observed, ..*input };
        let mut stale = self.stale(&input, &changed, &reads);
        let mut touched = BTreeSet::new();
        let gone: Vec<Part> = self.keys.keys().filter(|part| !self.parts.contains(*part)).cloned().collect();
        for part in gone {
            self.made.forget(&part);
            self.put(part, Vec::new(), &mut touched);
        }
        stale.retain(|part| self.parts.contains(part));
        for part in stale {
            let resources = make(&input, &self.frame, &part);
            self.made.keep(part.clone(), reads.take());
            self.put(part, resources, &mut touched);
        }
        self.seen = world;
        let delta = self.delta(previous, touched, version.max(previous.version + 1));
        (!delta.is_empty()).then(|| previous.apply(&delta))
    }

    /// The parts that are to be made anew.
    fn stale(&mut self, input: &Input<'_>, changed: &HashSet<Read>, reads: &Reads) -> BTreeSet<Part> {
        let mut stale = self.made.stale(changed, 0);
        let fresh = self.parts.is_empty() || self.settings != *input.settings;
        if !fresh && !stale.remove(&Part::Frame) {
            return stale;
        }
        let frame = Frame::of(input);
        let parts = parts(input, &frame);
        self.made.keep(Part::Frame, reads.take());
        let old = std::mem::replace(&mut self.frame, frame);
        let now = &self.frame;
        let same = |old: &Frame| {
            (old.all, &old.local, &old.apart, &old.asked) == (now.all, &now.local, &now.apart, &now.asked)
        };
        if fresh || !same(&old) {
            stale.extend(parts.iter().cloned());
        } else {
            stale.extend(parts.difference(&self.parts).cloned());
            let scope = old.apps.symmetric_difference(&now.apps);
            let wanted = old.wanted.symmetric_difference(&now.wanted);
            stale.extend(scope.chain(wanted).cloned().map(Part::Owner));
            stale.extend(parts.iter().filter(|part| matches!(part, Part::Endpoint(_))).cloned());
        }
        self.settings = input.settings.clone();
        self.parts = parts;
        stale
    }

    /// Takes in what a part has become; notes the keys under which something else may be told now.
    fn put(&mut self, part: Part, resources: Vec<Resource>, touched: &mut BTreeSet<Key>) {
        for key in self.keys.remove(&part).unwrap_or_default() {
            if let Some(told) = self.told.get_mut(&key) {
                told.remove(&part);
                if told.is_empty() {
                    self.told.remove(&key);
                }
            }
            touched.insert(key);
        }
        let mut keys = Vec::with_capacity(resources.len());
        for resource in resources {
            let key = resource.key();
            self.told.entry(key.clone()).or_default().insert(part.clone(), Arc::new(resource));
            touched.insert(key.clone());
            keys.push(key);
        }
        if !keys.is_empty() {
            self.keys.insert(part, keys);
        }
    }

    /// What leads from `previous` to what is to be told now.
    fn delta(&self, previous: &Snapshot, touched: BTreeSet<Key>, version: u64) -> Delta {
        let mut delta = Delta { version, ..Delta::default() };
        for key in touched {
            let now = self.told.get(&key).and_then(|told| told.values().next());
            match (previous.get(key.kind, &key.name), now) {
                (Some(old), Some(now)) if old == now => {}
                (_, Some(now)) => delta.upserts.push(now.clone()),
                (Some(_), None) => delta.removals.push(key),
                (None, None) => {}
            }
        }
        delta
    }
}

/// The parts of a snapshot.
fn parts(input: &Input<'_>, frame: &Frame) -> BTreeSet<Part> {
    let documents = input.documents;
    let keys = |kind| documents.keys(kind).cloned();
    let id = |key: &DocumentKey| Some(name::app_in(&key.namespace, &key.name.as_str().parse().ok()?));
    let named = |kind| documents.keys(kind).filter_map(id);
    let mut parts = BTreeSet::from([Part::Subscriptions, Part::Shares, Part::Trust, Part::Listeners]);
    parts.extend(input.has_gateways().then_some(Part::Gateways));
    let apps: BTreeSet<AppId> = if frame.all { named(Kind::App).collect() } else { frame.apps.clone() };
    parts.extend(apps.iter().cloned().map(Part::App));
    parts.extend(apps.into_iter().chain(named(Kind::Service)).map(Part::Owner));
    parts.extend(frame.apart.iter().cloned().map(Part::Owner));
    parts.extend(keys(Kind::Component).map(Part::Component));
    parts.extend(keys(Kind::HttpEndpoint).map(Part::Endpoint));
    parts.extend(input.records.on(input.base).map(|one| Part::Workload(one.id.clone())));
    parts
}

fn make(input: &Input<'_>, frame: &Frame, part: &Part) -> Vec<Resource> {
    let document = |key| input.documents.get(key).map(Arc::as_ref);
    match part {
        Part::Frame => Vec::new(),
        Part::App(id) => component::app(input, id).map(Resource::App).into_iter().collect(),
        Part::Component(key) => {
            let Some(Document::Component(found)) = document(key) else { return Vec::new() };
            component::open(input, frame, found).map(Resource::Component).into_iter().collect()
        }
        Part::Subscriptions => {
            let all = component::subscriptions(input, &frame.local);
            all.into_iter().map(Resource::Subscription).collect()
        }
        Part::Workload(id) => workload::workload(input, id).map(Resource::Workload).into_iter().collect(),
        Part::Owner(owner) => {
            let services = service::services(input, frame, owner);
            let traits = Traits { documents: input.documents, asked: &frame.asked };
            let absent = service::is_absent(input, frame, owner, &services);
            let mut all: Vec<Resource> =
                absent.then(|| Resource::Absent(Absent { app: owner.clone() })).into_iter().collect();
            all.extend(services.iter().map(|one| Resource::Endpoints(endpoints(input, one, &traits))));
            all.extend(services.into_iter().map(|one| Resource::Service(one.service)));
            all
        }
        Part::Endpoint(key) => {
            let Some(Document::HttpEndpoint(found)) = document(key) else { return Vec::new() };
            outside::endpoint(input, frame, found).into_iter().flatten().collect()
        }
        Part::Shares => rate::shares(input),
        Part::Trust => {
            let trust = input.settings.trust.clone().filter(|_| input.heeds_trust());
            trust.map(Resource::Trust).into_iter().collect()
        }
        Part::Gateways => {
            let (listeners, routes) = route::gateways(input);
            let listeners = listeners.into_iter().map(Resource::Listener);
            listeners.chain(routes.into_iter().map(Resource::Routes)).collect()
        }
        Part::Listeners => {
            listener::listeners(input, &frame.local).into_iter().map(Resource::Listener).collect()
        }
    }
}
