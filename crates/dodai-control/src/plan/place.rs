//! Placement: which base gets a new instance.

use std::collections::BTreeSet;

use dodai_api::{Base, RevisionTemplate};
use dodai_core::id::{AppId, BaseId, InstanceId, RevisionId};

use super::{Planner, Step};
use crate::records::InstanceRecord;

/// The most instances on a base whose document does not say.
const MOST_INSTANCES: usize = 1000;

impl Planner<'_> {
    /// Places one instance; `false` when no base can take it now.
    pub(super) fn place(&mut self, app: &AppId, revision: &RevisionId, template: &RevisionTemplate) -> bool {
        let ports = fixed_ports(template);
        let open: Vec<BaseId> =
            self.observed.bases.keys().filter(|base| self.may_run(base, app)).cloned().collect();
        let open: Vec<BaseId> =
            open.into_iter().filter(|base| self.takes_more(base) && self.has_room(base, template)).collect();
        let free = open.iter().filter(|base| self.ports_on(base).is_disjoint(&ports));
        let spread = |base: &&BaseId| {
            let own = self.records.on(base).filter(|one| one.app == *app && one.draining.is_none()).count();
            (own, self.records.on(base).count(), (*base).clone())
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

    fn takes_more(&self, base: &BaseId) -> bool {
        let document = self.base(base);
        let most = document.and_then(|base| base.spec.capacity.instances);
        let most = most.map_or(MOST_INSTANCES, |most| usize::try_from(most).unwrap_or(MOST_INSTANCES));
        self.observed.away_since(base).is_none()
            && document.is_none_or(|base| base.spec.schedulable)
            && self.records.on(base).count() < most
    }

    /// Whether a base has the labels that the app's placement asks for.
    fn may_run(&self, base: &BaseId, app: &AppId) -> bool {
        let Some(app) = self.documents.app(app) else { return true };
        let of = |key: &String| {
            let document = self.base(base)?;
            document.spec.labels.get(key).or_else(|| document.metadata.labels.get(key))
        };
        app.spec.placement.labels.iter().all(|(key, value)| of(key) == Some(value))
    }

    /// Whether what a base offers of memory and processor holds one more of these beside the limits of those
    /// that are there. What has no limit is not counted.
    fn has_room(&self, base: &BaseId, template: &RevisionTemplate) -> bool {
        let Some(document) = self.base(base) else { return true };
        let templates = || {
            let found =
                self.records.on(base).filter_map(|one| self.documents.revision(&one.app, &one.revision));
            found.map(|revision| &revision.spec.template).chain([template])
        };
        let memory: u64 = templates().map(memory_of).fold(0, u64::saturating_add);
        let cpu: u64 = templates().map(cpu_of).fold(0, u64::saturating_add);
        let offered = &document.spec.capacity;
        offered.memory.is_none_or(|most| memory <= most.bytes())
            && offered.cpu.is_none_or(|most| cpu <= u64::from(most.millis()))
    }

    fn base(&self, base: &BaseId) -> Option<&Base> {
        self.documents.bases().find(|document| document.metadata.name.as_str() == base.as_str())
    }

    /// The ports that instances on a base insist on, draining ones too: they hold theirs until they are gone.
    fn ports_on(&self, base: &BaseId) -> BTreeSet<u16> {
        let templates = self
            .records
            .on(base)
            .filter_map(|one| Some(&self.documents.revision(&one.app, &one.revision)?.spec.template));
        templates.flat_map(fixed_ports).collect()
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
        let current = self.records.apps.get(app).is_some_and(|record| record.current == *revision);
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
