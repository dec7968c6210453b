//! Placement: which base gets a new instance.

use std::collections::BTreeSet;

use dodai_api::{Base, ByteSize, RevisionTemplate};
use dodai_core::id::{AppId, BaseId, InstanceId, RevisionId};

use super::{Planner, Step};
use crate::documents::Documents;
use crate::records::{InstanceRecord, Observed, Records};

/// The most instances on a base whose document does not say.
const MOST_INSTANCES: usize = 1000;

/// Which base has room for what. The same words decide and explain.
#[derive(Clone, Copy)]
pub(crate) struct Room<'a> {
    pub documents: &'a Documents,
    pub records: &'a Records,
    pub observed: &'a Observed,
}

impl<'a> Room<'a> {
    /// Why a base takes no instance of an app now, its ports aside; `None` if it would.
    fn closed(&self, base: &BaseId, app: &AppId, template: &RevisionTemplate) -> Option<String> {
        if self.observed.away_since(base).is_some() {
            return Some("is not connected".to_owned());
        }
        let document = self.base(base);
        if document.is_some_and(|base| !base.spec.schedulable) {
            return Some("is not schedulable".to_owned());
        }
        if let Some((key, value)) = self.lacking(base, app) {
            return Some(format!("has no label `{key}: {value}`"));
        }
        let most = document.and_then(|base| base.spec.capacity.instances);
        let most = most.map_or(MOST_INSTANCES, |most| usize::try_from(most).unwrap_or(MOST_INSTANCES));
        if self.records.on(base).count() >= most {
            return Some(format!("holds the most instances it may, {most}"));
        }
        self.short(base, template)
    }

    /// Why a base takes no instance of an app now; `None` if it would.
    pub fn refusal(&self, base: &BaseId, app: &AppId, template: &RevisionTemplate) -> Option<String> {
        self.closed(base, app, template).or_else(|| {
            let wanted = fixed_ports(template);
            let taken = self.holders(base).into_iter().find(|(_, ports)| !ports.is_disjoint(&wanted));
            taken.map(|(other, ports)| {
                let port = ports.intersection(&wanted).next().copied().unwrap_or_default();
                format!("has port {port} taken by {other}")
            })
        })
    }

    /// A label that the app's placement asks for and a base has not.
    fn lacking(&self, base: &BaseId, app: &AppId) -> Option<(&'a String, &'a String)> {
        let app = self.documents.app(app)?;
        let of = |key: &String| {
            let document = self.base(base)?;
            document.spec.labels.get(key).or_else(|| document.metadata.labels.get(key))
        };
        app.spec.placement.labels.iter().find(|(key, value)| of(key) != Some(*value))
    }

    /// What a base has too little of for one more of these, beside the limits of those that are there. What has
    /// no limit is not counted.
    fn short(&self, base: &BaseId, template: &RevisionTemplate) -> Option<String> {
        let offered = &self.base(base)?.spec.capacity;
        let there = || {
            let found =
                self.records.on(base).filter_map(|one| self.documents.revision(&one.app, &one.revision));
            found.map(|revision| &revision.spec.template)
        };
        let memory: u64 = there().map(memory_of).fold(0, u64::saturating_add);
        if let Some(most) = offered.memory
            && memory.saturating_add(memory_of(template)) > most.bytes()
        {
            let free = ByteSize::from_bytes(most.bytes().saturating_sub(memory));
            let wanted = ByteSize::from_bytes(memory_of(template));
            return Some(format!("has {free} of its memory left, not {wanted}"));
        }
        let cpu: u64 = there().map(cpu_of).fold(0, u64::saturating_add);
        if let Some(most) = offered.cpu
            && cpu.saturating_add(cpu_of(template)) > u64::from(most.millis())
        {
            let free = u64::from(most.millis()).saturating_sub(cpu);
            return Some(format!("has {free}m of its processor left, not {}m", cpu_of(template)));
        }
        None
    }

    fn base(&self, base: &BaseId) -> Option<&'a Base> {
        self.documents.base(base)
    }

    /// The ports that instances on a base insist on, draining ones too: they hold theirs until they are gone.
    fn holders(&self, base: &BaseId) -> Vec<(&'a AppId, BTreeSet<u16>)> {
        let of = |one: &'a InstanceRecord| {
            let template = &self.documents.revision(&one.app, &one.revision)?.spec.template;
            Some((&one.app, fixed_ports(template)))
        };
        self.records.on(base).filter_map(of).collect()
    }
}

impl Planner<'_> {
    /// Places one instance; `false` when no base can take it now.
    pub(super) fn place(&mut self, app: &AppId, revision: &RevisionId, template: &RevisionTemplate) -> bool {
        let ports = fixed_ports(template);
        let room = Room { documents: &self.documents, records: &self.records, observed: self.observed };
        let open = |base: &&BaseId| room.closed(base, app, template).is_none();
        let open: Vec<BaseId> = self.observed.names().filter(open).cloned().collect();
        let free =
            open.iter().filter(|base| room.holders(base).iter().all(|(_, taken)| taken.is_disjoint(&ports)));
        // What ends or has ended says nothing about where the next ones belong, and the revision before this one is
        // about to end.
        let spread = |base: &&BaseId| {
            let stays = |one: &&InstanceRecord| one.draining.is_none() && !one.succeeded;
            let own = |one: &&InstanceRecord| one.app == *app && one.revision == *revision;
            let all = || self.records.on(base).filter(stays);
            (all().filter(own).count(), all().count(), (*base).clone())
        };
        let chosen = free.min_by_key(spread).cloned();
        let Some(base) = chosen else {
            self.make_room(app, revision, &open, &ports);
            return false;
        };
        let number = self.records.next.max(1);
        let id = InstanceId::new(format!("{}-{}-{number}", app.name, short(revision)));
        let instance = InstanceRecord {
            id,
            app: app.clone(),
            revision: revision.clone(),
            base,
            created: self.now,
            draining: None,
            succeeded: false,
        };
        self.step(Step::Place { instance, next: number + 1 });
        true
    }

    /// Two revisions of one process cannot hold one fixed port on one base: then the old one goes first.
    fn make_room(&mut self, app: &AppId, revision: &RevisionId, open: &[BaseId], ports: &BTreeSet<u16>) {
        if ports.is_empty() {
            return;
        }
        let holds = |one: &&InstanceRecord| {
            one.draining.is_none()
                && one.revision != *revision
                && open.contains(&one.base)
                && self
                    .documents
                    .revision(&one.app, &one.revision)
                    .is_some_and(|document| !fixed_ports(&document.spec.template).is_disjoint(ports))
        };
        let current = self.records.app(app).is_some_and(|record| record.current == *revision);
        let old = self.records.of(app).find(holds).cloned().filter(|_| current);
        if let Some(old) = old {
            let why = format!("revision {revision} needs its port, and no other base is free");
            self.drain(old, why);
        }
    }
}

/// The memory that one instance may take. A module's limit is for one of its guests; how many live varies.
fn memory_of(template: &RevisionTemplate) -> u64 {
    template.limits.memory.map_or(0, dodai_api::ByteSize::bytes)
}

fn cpu_of(template: &RevisionTemplate) -> u64 {
    template.limits.cpu.map_or(0, |cpu| u64::from(cpu.millis()))
}

/// The ports that a process must have and no other may.
pub(super) fn fixed_ports(template: &RevisionTemplate) -> BTreeSet<u16> {
    if template.process.is_none() {
        return BTreeSet::new();
    }
    template.services.iter().filter_map(|service| service.port).map(dodai_api::Port::get).collect()
}

fn short(revision: &RevisionId) -> &str {
    revision.as_str().get(..6).unwrap_or(revision.as_str())
}
