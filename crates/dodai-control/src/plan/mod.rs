//! `plan`: from what is wanted and what is seen to the next steps. Pure; reads no clock and no store.
//!
//! It works on copies of documents and records, and applies each step to them as it is decided, until a pass
//! decides nothing: so a second plan on the result of the first is empty by construction. A step is one
//! transaction; any prefix of a plan leaves a state from which the next plan goes on. `Planning` remembers which
//! apps are at rest and what that was seen by, so that a plan costs what changed and not what there is.

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
use crate::reads::{Noted, Reads};
use crate::records::{AppRecord, InstanceRecord, Millis, Observed, Records};
use crate::world::{Memo, World, apps_of};

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
    let world = World { documents: desired.clone(), records: records.clone(), observed: observed.clone() };
    Planning::default().plan(&world, rules, now)
}

/// Plans, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Planning {
    /// What the last plan was made of.
    seen: World,
    /// The apps that nothing is to be done for, until what that was seen by changes.
    at_rest: Memo<AppId>,
    /// The others.
    open: BTreeSet<AppId>,
}

impl Planning {
    /// Decides what to do in a world that came of the one before.
    pub fn plan(&mut self, world: &World, rules: &Rules, now: Millis) -> Plan {
        let changed = self.seen.differences(world);
        let mut apps = std::mem::take(&mut self.open);
        apps.extend(apps_of(&changed));
        apps.extend(self.at_rest.stale(&changed, now));
        self.seen = world.clone();
        let reads = Reads::noting();
        let World { documents, records, observed } = world.noting(&reads);
        let mut planner =
            Planner { documents, records, observed: &observed, rules, now, reads, steps: Vec::new() };
        let mut seen = BTreeMap::new();
        for _ in 0..PASSES {
            let before = planner.steps.len();
            seen = planner.pass(&apps);
            if planner.steps.len() == before {
                break;
            }
        }
        if planner.steps.is_empty() {
            for (app, noted) in seen {
                self.at_rest.keep(app, noted);
            }
        } else {
            self.open = apps;
        }
        Plan { steps: planner.steps }
    }

    /// When time alone asks for another plan.
    pub fn deadline(&self) -> Option<Millis> {
        self.at_rest.deadline()
    }
}

/// What a step does to documents and records: what its transaction does to the store.
pub fn apply(step: &Step, documents: &mut Documents, records: &mut Records) {
    match step {
        Step::Target { app, record, revision } => {
            records.put_app(app.clone(), record.clone());
            if let Some(revision) = revision {
                documents.insert(Arc::new(Document::Revision(revision.clone())));
            }
        }
        Step::Serve { app, record } => {
            records.put_app(app.clone(), record.clone());
        }
        Step::Place { instance, next } => {
            records.next = *next;
            records.put_instance(instance.clone());
        }
        Step::Drain { instance, .. } | Step::Finish { instance } => {
            records.put_instance(instance.clone());
        }
        Step::Remove { instance, .. } => {
            records.remove_instance(instance);
        }
        Step::ForgetApp { app } => {
            records.remove_app(app);
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
    reads: Reads,
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

    /// Decides for these apps; what was looked at for each.
    fn pass(&mut self, apps: &BTreeSet<AppId>) -> BTreeMap<AppId, Noted> {
        let mut seen: BTreeMap<AppId, Noted> = BTreeMap::new();
        for part in [Planner::settle, Planner::release, Planner::clean] {
            for app in apps {
                part(self, app);
                let Noted { reads, until } = self.reads.take();
                let noted = seen.entry(app.clone()).or_default();
                noted.reads.extend(reads);
                noted.until = noted.until.into_iter().chain(until).min();
            }
        }
        seen
    }

    fn passed(&self, since: Millis, span: Duration) -> bool {
        self.reads.passed(since, self.now, span)
    }

    /// Takes note of what bases report: instances that are gone or done, bases that are lost.
    fn settle(&mut self, app: &AppId) {
        let own: Vec<InstanceRecord> = self.records.of(app).cloned().collect();
        for instance in own {
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
        since.is_some_and(|since| self.passed(since, self.rules.lost_after))
    }

    /// A base that is connected and does not list a draining instance got rid of it, or never started it.
    fn is_forgotten(&self, instance: &InstanceRecord) -> bool {
        self.observed.away_since(&instance.base).is_none()
            && instance.draining.is_some_and(|since| self.passed(since, self.rules.forget_after))
    }

    /// Ends what belongs to an app that is gone, and drops revisions beyond those that are kept.
    fn clean(&mut self, app: &AppId) {
        let is_there = self.documents.app(app).is_some();
        if !is_there {
            let orphans: Vec<InstanceRecord> = self.records.of(app).cloned().collect();
            for instance in orphans.iter().filter(|one| one.draining.is_none()) {
                self.drain(instance.clone(), format!("app {app} was removed"));
            }
            if orphans.is_empty() && self.records.app(app).is_some() {
                self.step(Step::ForgetApp { app: app.clone() });
            }
        }
        for key in self.surplus_revisions(app, if is_there { self.rules.revisions_kept } else { 0 }) {
            self.step(Step::ForgetRevision { key });
        }
    }

    fn surplus_revisions(&self, app: &AppId, kept: usize) -> Vec<DocumentKey> {
        let mut all: Vec<&Revision> = self.documents.revisions_of(app).collect();
        if all.len() <= kept {
            return Vec::new();
        }
        let mut used = self.active(app);
        used.extend(self.records.app(app).and_then(|record| record.before.clone()));
        let run = |revision: &Revision| {
            let id = name::revision(&revision.spec.id);
            used.contains(&id) || self.records.of(app).any(|instance| instance.revision == id)
        };
        all.sort_by_key(|one| std::cmp::Reverse((&one.metadata.creation_timestamp, &one.metadata.name)));
        let old = all.into_iter().skip(kept).filter(|revision| !run(revision));
        old.map(|revision| Document::from(revision.clone()).key()).collect()
    }
}
