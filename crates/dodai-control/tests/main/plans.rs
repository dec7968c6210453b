//! The laws of plans: the second is empty, any state converges, any crash between two steps is survived.

use std::collections::BTreeMap;
use std::sync::Arc;

use dodai_api::Document;
use dodai_control::documents::Documents;
use dodai_control::execute::execute;
use dodai_control::plan::{Rules, Step, apply as apply_step, plan};
use dodai_control::records::{AppRecord, InstanceRecord, Observed, Records, Sighting};
use dodai_control::shared_map::SharedMap;
use dodai_core::id::{AppId, BaseId, InstanceId, RevisionId};
use dodai_core::status::{Phase, Status};
use dodai_core::task::Tasks;
use dodai_store::MemoryStore;
use proptest::prelude::*;

use super::played::{digest, instance, module, yaml};

const START: u64 = 1_800_000_000_000;

/// Documents as the store holds them: with the digests that `apply` notes.
fn documents(text: &str) -> Documents {
    let noted = yaml(text).into_iter().map(|located| {
        let mut document = located.value;
        let app = if let Document::App(app) = &document { Some(app) } else { None };
        let artifact = app.and_then(|app| Some(app.spec.module.as_ref()?.artifact.clone()));
        if let Some(artifact) = artifact {
            let notes = &mut document.metadata_mut().annotations;
            notes.insert("dodai.dev/artifact-digest".to_owned(), digest(&artifact).to_string());
        }
        document
    });
    noted.collect()
}

fn base(connected: bool, since: u64, phases: &[(InstanceId, Phase)]) -> Sighting {
    let instances = phases.iter().map(|(id, phase)| (id.clone(), instance(*phase))).collect();
    Sighting { status: Status { instances, ..Status::default() }.into(), connected, since }
}

/// The state of a small world that is reconciled in memory.
struct World {
    documents: Documents,
    records: Records,
    observed: Observed,
    now: u64,
}

impl World {
    fn new(text: &str, bases: &[&str]) -> World {
        let bases = bases.iter().map(|name| (BaseId::new(name), base(true, START, &[]))).collect();
        World {
            documents: documents(text),
            records: Records::default(),
            observed: Observed::new(START, bases),
            now: START,
        }
    }

    fn replace(&mut self, text: &str) {
        let revisions: Vec<Document> = self.documents.revisions().cloned().map(Document::from).collect();
        self.documents = documents(text);
        for revision in revisions {
            self.documents.insert(Arc::new(revision));
        }
    }

    /// Plans, does it in memory, and checks that nothing is left to do.
    fn reconcile(&mut self) -> Vec<Step> {
        let rules = Rules::default();
        let done = plan(&self.documents, &self.observed, &self.records, &rules, self.now);
        for step in &done.steps {
            apply_step(step, &mut self.documents, &mut self.records);
        }
        let second = plan(&self.documents, &self.observed, &self.records, &rules, self.now);
        assert_eq!(second.steps, [], "the second plan is empty");
        done.steps
    }

    /// Bases do what they are told; `phase` says what becomes of an instance.
    fn obey(&mut self, phase: impl Fn(&InstanceRecord) -> Phase) {
        for (id, sighting) in self.observed.bases_mut().iter_mut().filter(|(_, one)| one.connected) {
            let told = self.records.on(id).filter(|one| !one.succeeded);
            let seen = |one: &InstanceRecord| if one.draining.is_some() { Phase::Gone } else { phase(one) };
            let report = told.map(|one| (one.id.clone(), instance(seen(one))));
            sighting.report().instances = report.collect();
        }
        self.now += 1000;
    }

    fn live(&self) -> Vec<&InstanceRecord> {
        self.records.instances().filter(|one| one.draining.is_none()).collect()
    }

    fn app(&self, name: &str) -> &AppRecord {
        self.records.app(&AppId::parse(&format!("default/{name}")).expect("valid")).expect("it is known")
    }

    fn settle(&mut self, phase: impl Fn(&InstanceRecord) -> Phase) {
        for _ in 0..60 {
            let steps = self.reconcile();
            let before = self.observed.clone();
            self.obey(&phase);
            if steps.is_empty() && before == self.observed {
                return;
            }
        }
        panic!("it does not converge: {:?}", self.records);
    }
}

#[test]
fn apps_go_where_labels_and_capacity_let_them() {
    let base = |name: &str, spec: &str| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: Base\nmetadata: {{ name: {name} }}\nspec: {{ {spec} }}\n---\n"
        )
    };
    let labelled = "placement: { labels: { disk: ssd } }, scale: { min: 3 }, limits: { memory: 100Mi }";
    let text = [
        base("a", "labels: { disk: hdd }"),
        base("b", "labels: { disk: ssd }, capacity: { memory: 250Mi }"),
        format!("apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{ name: p }}\nspec: {{ process: {{ command: [p] }}, {labelled} }}\n"),
    ]
    .concat();
    let mut world = World::new(&text, &["a", "b"]);
    world.reconcile();
    let on = |base: &str| world.records.on(&BaseId::new(base)).count();
    assert_eq!((on("a"), on("b")), (0, 2), "a has not the label, and b not the memory for a third");
}

#[test]
fn instances_spread_over_bases_and_the_surplus_ends() {
    let mut world = World::new(&module("shop", "v1.wasm", "  scale: {min: 4}\n"), &["a", "b"]);
    world.settle(|_| Phase::Ready);
    let on = |world: &World, base: &str| world.records.on(&BaseId::new(base)).count();
    assert_eq!((on(&world, "a"), on(&world, "b")), (2, 2));
    world.replace(&module("shop", "v1.wasm", "  scale: {min: 1}\n"));
    world.settle(|_| Phase::Ready);
    assert_eq!(world.records.instances().count(), 1);
}

#[test]
fn a_base_that_says_nothing_takes_a_thousand_instances() {
    let mut world = World::new(&module("shop", "v1.wasm", "  scale: {min: 1001}\n"), &["a"]);
    world.reconcile();
    assert_eq!(world.records.instances().count(), 1000);
}

#[test]
fn a_new_revision_takes_over_only_when_it_is_ready() {
    let mut world = World::new(&module("shop", "v1.wasm", "  scale: {min: 2}\n"), &["a"]);
    world.settle(|_| Phase::Ready);
    let old = world.app("shop").current.clone();
    world.replace(&module("shop", "v2.wasm", "  scale: {min: 2}\n"));
    world.settle(|one| if one.revision == old { Phase::Ready } else { Phase::Starting });
    assert_eq!(world.app("shop").serving, Some(old.clone()), "the old one serves while the new one starts");
    assert_eq!(world.live().len(), 4);
    world.settle(|_| Phase::Ready);
    assert_eq!(world.app("shop").serving, Some(world.app("shop").current.clone()));
    assert!(world.records.instances().all(|one| one.revision != old), "the old one is gone");

    world.replace(&module("shop", "v1.wasm", "  scale: {min: 2}\n"));
    world.settle(|_| Phase::Ready);
    assert_eq!(world.app("shop").serving, Some(old), "the same template is the same revision again");
}

#[test]
fn a_restart_replaces_the_instances_of_an_app_that_did_not_change() {
    let mut world = World::new(&module("shop", "v1.wasm", ""), &["a"]);
    world.settle(|_| Phase::Ready);
    let old = world.app("shop").current.clone();
    let id = AppId::parse("default/shop").expect("valid");
    let mut restarted = Document::from(world.documents.app(&id).expect("it is there").clone());
    let notes = &mut restarted.metadata_mut().annotations;
    notes.insert("dodai.dev/restarted-at".to_owned(), "2027-01-15T08:00:00Z".to_owned());
    world.documents.insert(Arc::new(restarted));
    world.settle(|one| if one.revision == old { Phase::Ready } else { Phase::Starting });
    assert_eq!(world.app("shop").serving, Some(old.clone()), "the old one serves while the new one starts");
    world.settle(|_| Phase::Ready);
    let new = world.app("shop").current.clone();
    assert_eq!(world.live().iter().map(|one| &one.revision).collect::<Vec<_>>(), [&new]);
    let revision = |id: &RevisionId| {
        let all = world.documents.revisions().find(|one| one.spec.id.as_str() == id.as_str());
        all.map(|one| (one.spec.template.clone(), one.spec.digest.clone()))
    };
    assert_ne!(new, old);
    assert_eq!(revision(&new), revision(&old), "it runs what ran before");
}

#[test]
fn a_fixed_port_is_given_over_instead_of_shared() {
    let process = |command: &str| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: App\nmetadata:\n  name: p\nspec:\n  process:\n    command: [{command}]\n  services:\n    - name: http\n      port: 9000\n"
        )
    };
    for (old, new) in [("one", "two"), ("two", "one")] {
        let mut world = World::new(&process(old), &["a"]);
        world.settle(|_| Phase::Ready);
        world.replace(&process(new));
        world.settle(|_| Phase::Ready);
        let current = world.app("p").current.clone();
        assert_eq!(world.live().iter().map(|one| &one.revision).collect::<Vec<_>>(), [&current]);
    }
}

#[test]
fn what_runs_once_runs_once_per_revision() {
    let once = |version: &str| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: App\nmetadata:\n  name: job\nspec:\n  process:\n    command: [job, {version}]\n  run: once\n"
        )
    };
    let mut world = World::new(&once("v1"), &["a"]);
    world.settle(|_| Phase::Succeeded);
    assert_eq!(world.records.next, 2, "one instance was ever made");
    assert!(world.records.instances().all(|one| one.succeeded));
    world.settle(|_| Phase::Succeeded);
    assert_eq!(world.records.next, 2, "it is not run again");
    // Its base, which is told of it no more, says that it is gone; or is gone itself.
    let ran = world.records.instances().next().expect("it is kept").id.clone();
    let base = world.observed.bases_mut().get_mut(&BaseId::new("a")).expect("it is there");
    base.report().instances.insert(ran.clone(), instance(Phase::Gone));
    assert_eq!(world.reconcile(), [], "it ran all the same");
    let base = world.observed.bases_mut().get_mut(&BaseId::new("a")).expect("it is there");
    base.connected = false;
    world.now += 3_600_000;
    assert_eq!(world.reconcile(), [], "it ran all the same");
    world.observed.bases_mut().get_mut(&BaseId::new("a")).expect("it is there").connected = true;
    world.replace(&once("v2"));
    world.settle(|_| Phase::Succeeded);
    assert_eq!(world.records.next, 3);
}

#[test]
fn what_runs_once_serves_only_when_it_has_succeeded() {
    let job = "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {name: job}\nspec: {process: {command: [job]}, run: once}\n";
    for (phase, serves) in
        [(Phase::Ready, false), (Phase::Starting, false), (Phase::Failed, false), (Phase::Succeeded, true)]
    {
        let mut world = World::new(job, &["a"]);
        world.settle(|_| phase);
        assert_eq!(world.app("job").serving.is_some(), serves, "{phase:?}");
    }
}

#[test]
fn a_rollout_spreads_its_instances_whatever_runs_of_the_one_before() {
    let shop = |version: &str| module("shop", version, "  scale: {min: 3}\n");
    let mut world = World::new(&shop("v0.wasm"), &["a", "b"]);
    world.observed.bases_mut().get_mut(&BaseId::new("b")).expect("it is there").connected = false;
    world.settle(|_| Phase::Ready);
    assert_eq!(world.records.on(&BaseId::new("a")).count(), 3, "all are on the one base that is there");
    world.observed.bases_mut().get_mut(&BaseId::new("b")).expect("it is there").connected = true;
    for version in ["v1.wasm", "v2.wasm", "v3.wasm"] {
        world.replace(&shop(version));
        world.settle(|_| Phase::Ready);
        let mut on = ["a", "b"].map(|base| world.records.on(&BaseId::new(base)).count());
        on.sort_unstable();
        assert_eq!(on, [1, 2], "{version}");
    }
}

#[test]
fn the_instances_of_a_lost_base_are_placed_elsewhere_after_a_while() {
    let mut world = World::new(&module("shop", "v1.wasm", "  scale: {min: 2}\n"), &["a", "b"]);
    world.settle(|_| Phase::Ready);
    let lost = world.observed.bases_mut().get_mut(&BaseId::new("b")).expect("it is there");
    (lost.connected, lost.since) = (false, world.now);
    assert_eq!(world.reconcile(), [], "a short absence changes nothing");
    world.now += 31_000;
    world.settle(|_| Phase::Ready);
    assert_eq!(world.records.on(&BaseId::new("a")).count(), 2);
}

#[test]
fn an_app_that_goes_takes_everything_with_it() {
    let mut world = World::new(&module("shop", "v1.wasm", ""), &["a"]);
    world.settle(|_| Phase::Ready);
    world.replace("");
    world.settle(|_| Phase::Ready);
    assert_eq!(world.records.instances().count() + world.records.apps().count(), 0);
    assert_eq!(world.documents.revisions().count(), 0);
}

#[test]
fn ten_revisions_are_kept() {
    let mut world = World::new("", &["a"]);
    for version in 0..14 {
        world.replace(&module("shop", &format!("v{version}.wasm"), ""));
        world.settle(|_| Phase::Ready);
    }
    assert_eq!(world.documents.revisions().count(), 10);
    let app = AppId::parse("default/shop").expect("valid");
    assert!(world.documents.revision(&app, &world.app("shop").current).is_some());
}

fn phase() -> impl Strategy<Value = Option<Phase>> {
    prop_oneof![
        Just(None),
        Just(Some(Phase::Waiting)),
        Just(Some(Phase::Ready)),
        Just(Some(Phase::Unready)),
        Just(Some(Phase::Failed)),
        Just(Some(Phase::Succeeded)),
        Just(Some(Phase::Gone)),
    ]
}

/// Records that no plan would have made, on bases in any state.
fn worlds() -> impl Strategy<Value = (World, BTreeMap<String, usize>)> {
    let app = (0usize..3, 1u32..4, 0u8..3);
    let record = (0usize..4, 0u8..3, 0usize..3, any::<bool>(), any::<bool>(), phase());
    let apps = proptest::collection::vec(app, 0..4);
    let records = proptest::collection::vec(record, 0..8);
    let target = proptest::collection::vec((0usize..4, 0u8..3, any::<bool>()), 0..3);
    (apps, records, target).prop_map(|(apps, records, targets)| {
        let mut wanted = BTreeMap::new();
        for (name, min, version) in apps {
            wanted.insert(format!("app-{name}"), (min, version));
        }
        let text: String = wanted
            .iter()
            .map(|(name, (min, version))| {
                module(name, &format!("v{version}.wasm"), &format!("  scale: {{min: {min}}}\n"))
            })
            .collect();
        let mut world = World::new(&text, &["a", "b"]);
        let revision = |number: u8| RevisionId::new(format!("000000000{number}"));
        let app = |name: usize| AppId::parse(&format!("default/app-{name}")).expect("valid");
        for (index, (name, version, base, draining, succeeded, phase)) in records.into_iter().enumerate() {
            let (id, base) = (InstanceId::new(format!("x-{index}")), BaseId::new(["a", "b", "gone"][base]));
            if let (Some(phase), Some(sighting)) = (phase, world.observed.bases_mut().get_mut(&base)) {
                sighting.report().instances.insert(id.clone(), instance(phase));
            }
            let record = InstanceRecord {
                id: id.clone(),
                app: app(name),
                revision: revision(version),
                base,
                created: START,
                draining: draining.then_some(START),
                succeeded,
            };
            world.records.put_instance(record);
        }
        for (name, version, serves) in targets {
            let current = revision(version);
            let serving = serves.then(|| current.clone());
            world.records.put_app(app(name), AppRecord { current, since: START, serving, before: None });
        }
        let wanted = wanted.into_iter().map(|(name, (min, _))| (name, min as usize)).collect();
        (world, wanted)
    })
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.records, self.observed)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_state_converges((mut world, wanted) in worlds()) {
        world.settle(|_| Phase::Ready);
        world.now += 40_000;
        world.settle(|_| Phase::Ready);
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for one in world.records.instances() {
            prop_assert!(one.draining.is_none() && one.base.as_str() != "gone", "{one:?}");
            prop_assert_eq!(&one.revision, &world.records.app(&one.app).expect("it is known").current);
            *found.entry(one.app.name.to_string()).or_default() += 1;
        }
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn any_crash_is_survived((world, _) in worlds(), cut in 0usize..12) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(crash(world, cut))?;
    }
}

/// Executes the first `cut` steps of a plan in a store, then a new plan from what stands there; the result is
/// that of the whole plan, but for the ids of instances.
async fn crash(mut world: World, cut: usize) -> Result<(), TestCaseError> {
    let tasks = Tasks::new();
    let store = MemoryStore::new(&tasks);
    let rules = Rules::default();
    // The records of the world are not in the store: begin with the plan that a fresh store makes.
    world.records = Records::default();
    let steps = plan(&world.documents, &world.observed, &world.records, &rules, world.now).steps;
    let mut known = SharedMap::default();
    let cut = cut.min(steps.len());
    let first = execute(&store, &steps[..cut], &mut known).await.expect("the store works");
    prop_assert_eq!((first.done, first.raced), (cut, false));
    let again =
        execute(&store, &steps[..cut.min(1)], &mut SharedMap::default()).await.expect("the store works");
    prop_assert_eq!(again.raced, cut > 0, "what was done is not done again");

    let (mut documents, mut records) = (world.documents.clone(), world.records.clone());
    for step in &steps[..cut] {
        apply_step(step, &mut documents, &mut records);
    }
    let rest = plan(&documents, &world.observed, &records, &rules, world.now).steps;
    let second = execute(&store, &rest, &mut known).await.expect("the store works");
    prop_assert_eq!((second.done, second.raced), (rest.len(), false));
    for step in &rest {
        apply_step(step, &mut documents, &mut records);
    }
    world.reconcile();
    let places = |records: &Records| {
        let mut all: Vec<_> = records.instances().map(|one| (one.app.clone(), one.base.clone())).collect();
        all.sort();
        all
    };
    prop_assert_eq!(places(&records), places(&world.records));
    prop_assert!(records.apps().eq(world.records.apps()));
    Ok(())
}
