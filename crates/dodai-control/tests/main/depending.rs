//! Which apps an app waits for: those that run once, until the revision that is wanted now has succeeded.

use dodai_api::Document;
use dodai_control::documents::Documents;
use dodai_control::plan::{Rules, Step, apply as apply_step, plan};
use dodai_control::records::{Observed, Records, Sighting};
use dodai_control::snapshot::{BaseSettings, Input, build};
use dodai_control::status::{Facts, statuses};
use dodai_core::id::{AppId, BaseId};
use dodai_core::status::{Phase, Status};

use super::played::{instance, yaml};

const NOW: u64 = 1_800_000_000_000;

/// A migration of some version, and an app of the same one that depends on it.
fn text(version: u8) -> String {
    format!(
        "apiVersion: dodai.dev/v1
kind: App
metadata: {{name: web}}
spec: {{process: {{command: [web, v{version}]}}, dependsOn: [zap]}}
---
apiVersion: dodai.dev/v1
kind: App
metadata: {{name: zap}}
spec: {{process: {{command: [zap, v{version}]}}, run: once}}
"
    )
}

struct World {
    documents: Documents,
    records: Records,
    observed: Observed,
}

impl World {
    fn new() -> World {
        let here = Sighting { status: Status::default().into(), connected: true, since: NOW };
        let observed = Observed::new(NOW, [(BaseId::new("a"), here)].into());
        let mut world = World { documents: Documents::default(), records: Records::default(), observed };
        world.write(1);
        world
    }

    fn write(&mut self, version: u8) {
        let revisions: Vec<Document> = self.documents.revisions().cloned().map(Document::from).collect();
        self.documents = yaml(&text(version)).into_iter().map(|one| one.value).chain(revisions).collect();
    }

    fn steps(&self) -> Vec<Step> {
        plan(&self.documents, &self.observed, &self.records, &Rules::default(), NOW).steps
    }

    fn apply(&mut self, step: &Step) {
        apply_step(step, &mut self.documents, &mut self.records);
    }

    fn settle(&mut self) {
        for step in self.steps() {
            self.apply(&step);
        }
    }

    /// What the migration's instances are from now on.
    fn zap(&mut self, phase: Phase, reason: &str) {
        let app = AppId::parse("default/zap").expect("valid");
        let ids: Vec<_> = self.records.of(&app).map(|one| one.id.clone()).collect();
        let base = self.observed.bases_mut().get_mut(&BaseId::new("a")).expect("it is there");
        let mut told = instance(phase);
        told.reason = reason.to_owned();
        base.report().instances = ids.into_iter().map(|id| (id, told.clone())).collect();
    }

    /// Whether the newest instance of the dependent is told to wait; `None` if there is none.
    fn waits(&self) -> Vec<(String, bool)> {
        let settings = BaseSettings::default();
        let base = BaseId::new("a");
        let input = Input {
            documents: &self.documents,
            records: &self.records,
            observed: &self.observed,
            base: &base,
            settings: &settings,
        };
        let snapshot = build(&input, 1);
        let web = snapshot.workloads().filter(|one| one.app.name.as_str() == "web");
        web.map(|one| (one.revision.to_string(), !one.depends_on.is_empty())).collect()
    }

    fn condition(&self) -> String {
        let facts = Facts {
            documents: &self.documents,
            records: &self.records,
            observed: &self.observed,
            rules: &Rules::default(),
            now: NOW,
        };
        let key = "App/default/web".parse().expect("a key");
        let all = statuses(&facts, &Default::default());
        all[&key]["conditions"][0]["message"].as_str().expect("a text").to_owned()
    }
}

#[test]
fn an_app_waits_until_what_runs_once_has_succeeded() {
    let mut world = World::new();
    world.settle();
    for phase in [Phase::Starting, Phase::Ready, Phase::BackingOff] {
        world.zap(phase, "");
        world.settle();
        assert!(world.waits().iter().all(|(_, waits)| *waits), "{phase:?}");
    }
    world.zap(Phase::Succeeded, "");
    world.settle();
    assert!(world.waits().iter().all(|(_, waits)| !waits) && !world.waits().is_empty());
}

#[test]
fn after_a_change_of_both_the_run_of_the_old_revision_does_not_count() {
    let mut world = World::new();
    world.settle();
    world.zap(Phase::Succeeded, "");
    world.settle();
    let old = world.waits()[0].0.clone();
    world.write(2);
    let steps = world.steps();
    assert!(steps.len() > 2);
    // A base may be told between any two steps.
    for step in steps {
        world.apply(&step);
        assert!(world.waits().iter().all(|(revision, waits)| *revision == old || *waits), "after {step:?}");
    }
    assert!(world.waits().iter().any(|(revision, _)| *revision != old));
}

#[test]
fn an_app_says_that_what_it_depends_on_failed() {
    let mut world = World::new();
    world.settle();
    assert!(!world.condition().contains("failed"), "{}", world.condition());
    world.zap(Phase::Failed, "exit code 3");
    world.settle();
    let told = world.condition();
    assert!(told.contains("it depends on default/zap, which failed: exit code 3"), "{told}");
}
