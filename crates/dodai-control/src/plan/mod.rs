//! `plan`: from what is wanted and what is seen to the next steps. Pure; reads no clock and no store.
//!
//! It works on copies of documents and records, and applies each step to them as it is decided, until a pass
//! decides nothing: so a second plan on the result of the first is empty by construction. A step is one
//! transaction; any prefix of a plan leaves a state from which the next plan goes on.

mod place;
mod release;

pub(crate) use place::Room;
pub(crate) use release::{named_by_traffic, template_revision, wanted};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dodai_api::{Document, DocumentKey, Revision};
use dodai_core::id::{AppId, BaseId, InstanceId};
use dodai_core::status::Phase;

use crate::documents::Documents;
use crate::name;
use crate::records::{AppRecord, InstanceRecord, Millis, Observed, Records};

/// Times and bounds of reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A new revision that is not ready after this is reported as failed; the old one goes on serving.
    pub progress_deadline: Duration,
    /// The instances of a base that is away for longer are placed elsewhere.
    pub lost_after: Duration,
    /// A draining instance that its connected base does not list is forgotten after this.
    pub forget_after: Duration,
    /// How many revisions of an app are kept.
    pub revisions_kept: usize,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            progress_deadline: Duration::from_secs(120),
            lost_after: Duration::from_secs(30),
            forget_after: Duration::from_secs(5),
            revisions_kept: 10,
        }
    }
}

/// How many passes a plan may take. Each pass settles what the one before decided; three are needed.
const PASSES: usize = 8;

/// One step: one transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The template of an app makes another revision from now on.
    Target {
        /// The app.
        app: AppId,
        /// Its record.
        record: AppRecord,
        /// The document of the revision, if there is none yet.
        revision: Option<Box<Revision>>,
    },
    /// `latest` means another revision from now on.
    Serve {
        /// The app.
        app: AppId,
        /// Its record.
        record: AppRecord,
    },
    /// A new instance.
    Place {
        /// Its record.
        instance: InstanceRecord,
        /// The number after its own.
        next: u64,
    },
    /// An instance ends, gently.
    Drain {
        /// Its record.
        instance: InstanceRecord,
        /// Why.
        why: String,
    },
    /// An instance that runs once ended well.
    Finish {
        /// Its record.
        instance: InstanceRecord,
    },
    /// An instance is gone.
    Remove {
        /// Its id.
        instance: InstanceId,
        /// Why.
        why: String,
    },
    /// An app is gone, and so is its last instance.
    ForgetApp {
        /// The app.
        app: AppId,
    },
    /// An old revision is not kept any longer.
    ForgetRevision {
        /// Its document.
        key: DocumentKey,
    },
}

/// What to do next, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

/// Decides what to do.
pub fn plan(desired: &Documents, observed: &Observed, records: &Records, rules: &Rules, now: Millis) -> Plan {
    let mut planner = Planner {
        documents: desired.clone(),
        records: records.clone(),
        observed,
        rules,
        now,
        steps: Vec::new(),
    };
    for _ in 0..PASSES {
        let before = planner.steps.len();
        planner.pass();
        if planner.steps.len() == before {
            break;
        }
    }
    Plan { steps: planner.steps }
}

/// What a step does to documents and records: what its transaction does to the store.
pub fn apply(step: &Step, documents: &mut Documents, records: &mut Records) {
    match step {
        Step::Target { app, record, revision } => {
            records.apps.insert(app.clone(), record.clone());
            if let Some(revision) = revision {
                documents.insert(Arc::new(Document::Revision(revision.clone())));
            }
        }
        Step::Serve { app, record } => {
            records.apps.insert(app.clone(), record.clone());
        }
        Step::Place { instance, next } => {
            records.next = *next;
            records.instances.insert(instance.id.clone(), instance.clone());
        }
        Step::Drain { instance, .. } | Step::Finish { instance } => {
            records.instances.insert(instance.id.clone(), instance.clone());
        }
        Step::Remove { instance, .. } => {
            records.instances.remove(instance);
        }
        Step::ForgetApp { app } => {
            records.apps.remove(app);
        }
        Step::ForgetRevision { key } => {
            documents.remove(key);
        }
    }
}

struct Planner<'a> {
    documents: Documents,
    records: Records,
    observed: &'a Observed,
    rules: &'a Rules,
    now: Millis,
    steps: Vec<Step>,
}

impl Planner<'_> {
    fn step(&mut self, step: Step) {
        apply(&step, &mut self.documents, &mut self.records);
        self.steps.push(step);
    }

    fn drain(&mut self, mut instance: InstanceRecord, why: impl Into<String>) {
        instance.draining = Some(self.now);
        self.step(Step::Drain { instance, why: why.into() });
    }

    fn pass(&mut self) {
        self.settle();
        let apps: Vec<AppId> = self.documents.apps().map(|app| name::app_id(&app.metadata)).collect();
        for app in &apps {
            self.release(app);
        }
        self.clean(&apps.into_iter().collect());
    }

    /// Takes note of what bases report: instances that are gone or done, bases that are lost.
    fn settle(&mut self) {
        let all: Vec<InstanceRecord> = self.records.instances.values().cloned().collect();
        for instance in all {
            if instance.succeeded {
                // Its base is told of it no more and forgets it, which is no reason to run it again.
                if instance.draining.is_some() {
                    self.step(Step::Remove { instance: instance.id, why: "it has ended".to_owned() });
                }
                continue;
            }
            let phase = self.observed.phase(&instance);
            if self.is_lost(&instance.base) {
                let why =
                    format!("base {} has not been heard of for {:?}", instance.base, self.rules.lost_after);
                self.step(Step::Remove { instance: instance.id, why });
            } else if phase == Some(Phase::Gone) {
                let why = format!("base {} says that it is gone", instance.base);
                self.step(Step::Remove { instance: instance.id, why });
            } else if phase.is_none() && self.is_forgotten(&instance) {
                let why = format!("base {} does not know it any longer", instance.base);
                self.step(Step::Remove { instance: instance.id, why });
            } else if phase == Some(Phase::Succeeded) {
                self.step(Step::Finish { instance: InstanceRecord { succeeded: true, ..instance } });
            }
        }
    }

    fn is_lost(&self, base: &BaseId) -> bool {
        let since = self.observed.away_since(base);
        since.is_some_and(|since| passed(since, self.now, self.rules.lost_after))
    }

    /// A base that is connected and does not list a draining instance got rid of it, or never started it.
    fn is_forgotten(&self, instance: &InstanceRecord) -> bool {
        self.observed.away_since(&instance.base).is_none()
            && instance.draining.is_some_and(|since| passed(since, self.now, self.rules.forget_after))
    }

    /// Ends what belongs to apps that are gone, and drops revisions beyond those that are kept.
    fn clean(&mut self, apps: &BTreeSet<AppId>) {
        let orphans: Vec<InstanceRecord> =
            self.records.instances.values().filter(|one| !apps.contains(&one.app)).cloned().collect();
        for instance in orphans.iter().filter(|one| one.draining.is_none()) {
            self.drain(instance.clone(), format!("app {} was removed", instance.app));
        }
        let held: BTreeSet<AppId> = orphans.into_iter().map(|instance| instance.app).collect();
        let gone: Vec<AppId> = self
            .records
            .apps
            .keys()
            .filter(|app| !apps.contains(*app) && !held.contains(*app))
            .cloned()
            .collect();
        for app in gone {
            self.step(Step::ForgetApp { app });
        }
        for key in self.surplus_revisions(apps) {
            self.step(Step::ForgetRevision { key });
        }
    }

    fn surplus_revisions(&self, apps: &BTreeSet<AppId>) -> Vec<DocumentKey> {
        let mut owners: BTreeMap<AppId, Vec<&Revision>> = BTreeMap::new();
        for revision in self.documents.revisions() {
            let owner = name::app_in(&revision.metadata.namespace, &revision.spec.app);
            owners.entry(owner).or_default().push(revision);
        }
        let mut surplus = Vec::new();
        for (owner, mut all) in owners {
            let kept = if apps.contains(&owner) { self.rules.revisions_kept } else { 0 };
            if all.len() <= kept {
                continue;
            }
            let owner = &owner;
            let used = self.active(owner);
            let run = |revision: &Revision| {
                let id = name::revision(&revision.spec.id);
                used.contains(&id) || self.records.of(owner).any(|instance| instance.revision == id)
            };
            all.sort_by_key(|one| std::cmp::Reverse((&one.metadata.creation_timestamp, &one.metadata.name)));
            let old = all.into_iter().skip(kept).filter(|revision| !run(revision));
            surplus.extend(old.map(|revision| Document::from(revision.clone()).key()));
        }
        surplus
    }
}

/// When time alone changes a plan or a status next, seen from `now`; `None` if only an event can.
pub(crate) fn next_deadline(
    observed: &Observed,
    records: &Records,
    rules: &Rules,
    now: Millis,
) -> Option<Millis> {
    let after = |since: Millis, span: Duration| {
        since.saturating_add(Millis::try_from(span.as_millis()).unwrap_or(Millis::MAX))
    };
    let lost = records.instances.values().filter_map(|instance| observed.away_since(&instance.base));
    let lost = lost.map(|since| after(since, rules.lost_after));
    let forgotten = records.instances.values().filter_map(|instance| instance.draining);
    let forgotten = forgotten.map(|since| after(since, rules.forget_after));
    let late = records.apps.values().map(|app| after(app.since, rules.progress_deadline));
    lost.chain(forgotten).chain(late).filter(|at| *at > now).min()
}

/// Whether at least `span` lies between two times.
pub(crate) fn passed(since: Millis, now: Millis, span: Duration) -> bool {
    u128::from(now.saturating_sub(since)) >= span.as_millis()
}
