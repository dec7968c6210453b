//! One app: which revision is wanted, how many instances, when the traffic moves, what ends.

use std::collections::BTreeSet;

use dodai_api::{
    App, Metadata, Resource, Revision, RevisionChoice, RevisionSpec, Run, Workload, revision_id,
};
use dodai_core::id::{AppId, RevisionId};
use dodai_core::status::Phase;

use super::place::fixed_ports;
use super::{Planner, Step};
use crate::documents::merge::{ARTIFACT_DIGEST, RESTARTED};
use crate::documents::{Documents, revision_key, timestamp};
use crate::name;
use crate::records::{AppRecord, InstanceRecord};

/// How many instances of each active revision are wanted. An app that may sleep keeps one instance.
pub(crate) fn wanted(app: &App) -> usize {
    usize::try_from(app.spec.scale.min.max(1)).unwrap_or(1)
}

/// The digest of the artefact that an app's template names; `None` while nobody has told it.
pub(crate) fn digest(app: &App) -> Option<&str> {
    app.metadata.annotations.get(ARTIFACT_DIGEST).map(String::as_str)
}

/// What an app's revision is made of beside its template: its artefact, and when it was restarted.
fn seed(app: &App) -> Option<String> {
    let digest = digest(app);
    match app.metadata.annotations.get(RESTARTED) {
        Some(restarted) => Some(format!("{} restarted {restarted}", digest.unwrap_or_default())),
        None => digest.map(str::to_owned),
    }
}

/// The revision that an app's template makes, or `None` while its artefact has no digest.
pub(crate) fn template_revision(app: &App) -> Option<RevisionId> {
    if app.spec.module.is_some() && digest(app).is_none() {
        return None;
    }
    Some(name::revision(&revision_id(&app.spec.template(), seed(app).as_deref())))
}

/// The revisions that explicit shares of traffic name and that exist.
pub(crate) fn named_by_traffic(app: &App, id: &AppId, documents: &Documents) -> BTreeSet<RevisionId> {
    let shares = app.spec.traffic.iter().filter(|share| share.weight.0 > 0);
    let named = shares.filter_map(|share| match &share.revision {
        RevisionChoice::Latest => None,
        RevisionChoice::Id(id) => Some(name::revision(id)),
    });
    named.filter(|revision| documents.revision(id, revision).is_some()).collect()
}

impl Planner<'_> {
    /// The revisions of an app that should have instances.
    pub(super) fn active(&self, id: &AppId) -> BTreeSet<RevisionId> {
        let (Some(app), Some(record)) = (self.documents.app(id), self.records.app(id)) else {
            return BTreeSet::new();
        };
        let mut active = named_by_traffic(app, id, &self.documents);
        active.insert(record.current.clone());
        active.extend(record.serving.clone());
        active
    }

    pub(super) fn release(&mut self, id: &AppId) {
        let Some(app) = self.documents.app(id).cloned() else { return };
        if let Some(revision) = template_revision(&app) {
            self.target(id, &app, revision);
        }
        let Some(record) = self.records.app(id).cloned() else { return };
        for revision in self.active(id) {
            self.scale(id, &app, &revision, revision == record.current);
        }
        self.promote(id, &app, record);
        self.retire(id);
    }

    fn target(&mut self, id: &AppId, app: &App, revision: RevisionId) {
        let old = self.records.app(id);
        let known = self.documents.revision(id, &revision).is_some();
        if known && old.is_some_and(|old| old.current == revision) {
            return;
        }
        let since = old.filter(|old| old.current == revision).map_or(self.now, |old| old.since);
        let serving = old.and_then(|old| old.serving.clone());
        let before = old.and_then(|old| old.before.clone());
        let document = (!known).then(|| Box::new(self.revision_document(id, app, &revision)));
        let record = AppRecord { current: revision, since, serving, before };
        self.step(Step::Target { app: id.clone(), record, revision: document });
    }

    fn revision_document(&self, id: &AppId, app: &App, revision: &RevisionId) -> Revision {
        let namespace = app.metadata.namespace.clone();
        let mut metadata = Metadata::new(namespace, revision_key(id, revision).name);
        metadata.generation = Some(1);
        metadata.labels = app.spec.labels.clone();
        // Whoever goes back to it needs that as well: it is a part of its id.
        let restarted = app.metadata.annotations.get_key_value(RESTARTED);
        metadata.annotations.extend(restarted.map(|(key, time)| (key.clone(), time.clone())));
        metadata.creation_timestamp = Some(timestamp(self.now));
        metadata.owner_app = Some(name::document(&id.name));
        metadata.uid = app.metadata.uid.as_ref().map(|uid| format!("{uid}-{revision}"));
        metadata.field_owners.insert(String::new(), "control".to_owned());
        let spec = RevisionSpec {
            app: name::document(&id.name),
            id: revision_id(&app.spec.template(), seed(app).as_deref()),
            template: app.spec.template(),
            digest: digest(app).map(str::to_owned),
        };
        Resource { metadata, spec, status: None }
    }

    /// Brings one revision to the number of instances that is wanted.
    fn scale(&mut self, id: &AppId, app: &App, revision: &RevisionId, current: bool) {
        let Some(document) = self.documents.revision(id, revision).cloned() else { return };
        let template = &document.spec.template;
        if !matches!(template.workload(), Some(Workload::Module(_) | Workload::Process(_))) {
            return;
        }
        let once = template.run == Run::Once;
        let wanted = match (once, current) {
            (true, true) => 1,
            // What ran once ran; its old revisions are not run again because something names them.
            (true, false) => 0,
            (false, _) => wanted(app),
        };
        let mut live: Vec<InstanceRecord> = self
            .records
            .of(id)
            .filter(|one| one.revision == *revision && one.draining.is_none())
            .cloned()
            .collect();
        live.sort_by_key(|one| (self.rank(one), one.created, one.id.clone()));
        // What made room for its successor must not come back before that is placed.
        let yields = !current && !fixed_ports(template).is_empty();
        let wanted = if yields { wanted.min(live.len()) } else { wanted };
        for surplus in live.iter().skip(wanted) {
            self.drain(surplus.clone(), format!("{wanted} instances of revision {revision} are wanted"));
        }
        for _ in live.len()..wanted {
            if !self.place(id, revision, template) {
                break;
            }
        }
    }

    /// Those that serve best come first.
    fn rank(&self, instance: &InstanceRecord) -> u8 {
        match self.observed.phase(instance) {
            Some(Phase::Ready | Phase::Succeeded) => 0,
            Some(Phase::Failed | Phase::Gone) => 2,
            Some(
                Phase::Waiting
                | Phase::Starting
                | Phase::Running
                | Phase::Unready
                | Phase::BackingOff
                | Phase::Draining
                | Phase::Unknown,
            )
            | None => 1,
        }
    }

    /// Lets `latest` mean the current revision once it is ready.
    fn promote(&mut self, id: &AppId, app: &App, record: AppRecord) {
        if record.serving.as_ref() == Some(&record.current) {
            return;
        }
        let Some(document) = self.documents.revision(id, &record.current) else { return };
        let template = &document.spec.template;
        let needs_instances = matches!(template.workload(), Some(Workload::Module(_) | Workload::Process(_)));
        let of_it = || self.records.of(id).filter(|one| one.revision == record.current);
        let ready = of_it().filter(|one| self.observed.is_ready(one)).count();
        let good = match (needs_instances, template.run) {
            (false, _) => true,
            (true, Run::Once) => of_it().any(|one| one.succeeded),
            (true, Run::Service) => ready >= wanted(app),
        };
        if good {
            let before = record.serving.or(record.before);
            let record = AppRecord { serving: Some(record.current.clone()), before, ..record };
            self.step(Step::Serve { app: id.clone(), record });
        }
    }

    /// Ends the instances of revisions that get no traffic any longer.
    fn retire(&mut self, id: &AppId) {
        let active = self.active(id);
        let old: Vec<InstanceRecord> = self
            .records
            .of(id)
            .filter(|one| one.draining.is_none() && !active.contains(&one.revision))
            .cloned()
            .collect();
        for instance in old {
            let why = format!("revision {} gets no traffic any longer", instance.revision);
            self.drain(instance, why);
        }
    }
}
