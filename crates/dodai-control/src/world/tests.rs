//! What is kept from one time to the next must come to what is made from nothing, whatever happens in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dodai_api::{Document, DocumentKey, Source};
use dodai_core::id::{AppId, BaseId};
use dodai_core::snapshot::Snapshot;
use dodai_core::status::{Health, InstanceStatus, Phase, Refusal, Status, Wants};
use proptest::prelude::*;

use super::World;
use crate::documents::Documents;
use crate::observed::Sighting;
use crate::plan::{Planning, Rules, apply};
use crate::records::{Millis, Observed};
use crate::snapshot::{BaseSettings, Input, Telling, build};
use crate::status::{Stand, Statuses};

const BASES: [&str; 2] = ["one", "two"];
const START: Millis = 1_000_000;

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    /// A document of one of many forms is written; `name` is among few, so that they meet.
    Put { form: usize, name: usize, other: usize, variant: usize },
    /// A document is removed.
    Remove { form: usize, name: usize },
    /// A base comes, or goes away.
    Connect { base: usize, connected: bool },
    /// A base says of its instances that they are so.
    Report { base: usize, phase: Phase },
    /// A base says something else.
    Say { base: usize, what: usize, name: usize },
    /// Time passes.
    Wait { seconds: u64 },
    /// Plans are made and carried out.
    Plan,
    /// Statuses are written.
    Write,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let forms = FORMS.len();
    let phase = proptest::sample::select(vec![
        Phase::Starting,
        Phase::Ready,
        Phase::Ready,
        Phase::Failed,
        Phase::Gone,
        Phase::Succeeded,
    ]);
    let one = prop_oneof![
        8 => (0..forms, 0usize..3, 0usize..3, 0usize..3)
            .prop_map(|(form, name, other, variant)| Event::Put { form, name, other, variant }),
        2 => (0..forms, 0usize..3).prop_map(|(form, name)| Event::Remove { form, name }),
        1 => (0usize..2, any::<bool>()).prop_map(|(base, connected)| Event::Connect { base, connected }),
        3 => (0usize..2, phase).prop_map(|(base, phase)| Event::Report { base, phase }),
        2 => (0usize..2, 0usize..6, 0usize..3).prop_map(|(base, what, name)| Event::Say { base, what, name }),
        1 => (1u64..100).prop_map(|seconds| Event::Wait { seconds }),
        4 => Just(Event::Plan),
        2 => Just(Event::Write),
    ];
    proptest::collection::vec(one, 1..50)
}

/// Documents: `@` is their name, `#` that of another, `%` a number.
const FORMS: &[&str] = &[
    "dodai.dev/v1 App {external: {addresses: ['127.0.0.1:8%']}, services: [{name: main, port: 8080}]}",
    "dodai.dev/v1 App {process: {command: [x, '%']}, services: [{name: main}], labels: {tier: '%'}, scale: {min: 2}}",
    "dodai.dev/v1 App {process: {command: [x]}, services: [{name: main, port: 80}], calls: [{app: #}], labels: {tier: '%'}}",
    "dodai.dev/v1 App {process: {command: [y, '%']}, run: once, dependsOn: [#], dapr: {configuration: #}}",
    "dodai.dev/v1 Service {selector: {labels: {tier: '%'}}, ports: [{name: main, port: 90}]}",
    "dodai.dev/v1 Service {selector: {app: #}, ports: [{name: web, port: 9%, targetService: main}]}",
    "dodai.dev/v1 Gateway {listeners: [{name: http, address: 127.0.0.1, port: 70%, protocol: HTTP}]}",
    "dodai.dev/v1 Route {parentRefs: [{name: #}], rules: [{backendRefs: [{name: a, weight: 1%, labels: {tier: '1'}}]}]}",
    "dodai.dev/v1 Route {parentRefs: [{kind: Service, name: #}], rules: [{backendRefs: [{kind: App, name: b}]}]}",
    "dodai.dev/v1 Policy {targetRefs: [{kind: App, name: #}], timeouts: {request: 1%s}}",
    "dodai.dev/v1 Policy {targetRefs: [{kind: Service, name: #}, {kind: Route, name: a}], rateLimits: [{requests: 1%, scope: global, key: [{source: app}]}, {requests: 2%, per: 1h}]}",
    "dodai.dev/v1 Base {labels: {dodai.dev/gateway: '%', dodai.dev/zone: z%}, schedulable: true}",
    "dodai.dev/v1 Namespace {}",
    "dapr.io/v1alpha1 Component {type: state.memory, version: v%, metadata: []}",
    "dapr.io/v1alpha1 Configuration {components: {deny: ['state.memory/v%']}}",
    "dapr.io/v1alpha1 Subscription {pubsubname: #, topic: t%, routes: {default: /t}}",
    "dapr.io/v1alpha1 Resiliency {policies: {timeouts: {t: 1%s}}, targets: {apps: {#: {timeout: t}}}}",
    "dapr.io/v1alpha1 HTTPEndpoint {baseUrl: 'http://10.0.0.%'}",
];
const NAMES: [&str; 3] = ["a", "b", "c"];

/// A document of a form. Bases are named as those that report are.
fn document(form: usize, name: usize, other: usize, variant: usize) -> Document {
    let mut parts = FORMS[form].splitn(3, ' ');
    let (version, kind, spec) = (parts.next(), parts.next().expect("a kind"), parts.next().expect("a spec"));
    let name = if kind == "Base" { BASES[name % 2] } else { NAMES[name] };
    let spec = spec.replace('#', NAMES[other]).replace('%', &variant.to_string());
    let spec = if kind == "Namespace" { String::new() } else { format!("spec: {spec}\n") };
    let text = format!(
        "apiVersion: {}\nkind: {kind}\nmetadata: {{name: {name}}}\n{spec}",
        version.expect("a version")
    );
    let read = dodai_api::read(&Source { name: "test", bytes: text.as_bytes() });
    assert_eq!(read.errors, [], "{text}");
    let mut document = read.documents.into_iter().next().expect("one").value;
    document.metadata_mut().generation = Some(variant as u64 + 1);
    document
}

/// The world, and everything that is kept of it.
struct Lived {
    world: World,
    now: Millis,
    rules: Rules,
    planning: Planning,
    statuses: Statuses,
    stand: Stand,
    bases: BTreeMap<BaseId, (BaseSettings, Telling, Snapshot)>,
}

impl Lived {
    fn new() -> Lived {
        let settings = |at: usize| match at {
            0 => BaseSettings { mesh: Some(([127, 0, 0, 1], 1).into()), ..BaseSettings::default() },
            _ => BaseSettings::default(),
        };
        let base = |(at, name): (usize, &&str)| {
            (BaseId::new(*name), (settings(at), Telling::default(), Snapshot::default()))
        };
        Lived {
            world: World { observed: Observed::new(START, BTreeMap::new()), ..World::default() },
            now: START,
            rules: Rules { revisions_kept: 2, ..Rules::default() },
            planning: Planning::default(),
            statuses: Statuses::default(),
            stand: Stand::default(),
            bases: BASES.iter().enumerate().map(base).collect(),
        }
    }

    fn live(&mut self, event: &Event) {
        match event {
            Event::Put { form, name, other, variant } => {
                let document = document(*form, *name, *other, *variant);
                self.world.documents.insert(Arc::new(document));
            }
            Event::Remove { form, name } => {
                let key: DocumentKey = document(*form, *name, 0, 0).key();
                self.world.documents.remove(&key);
            }
            Event::Connect { base, connected } => {
                let now = self.now;
                let one = self.sighting(*base);
                (one.connected, one.since) = (*connected, now);
            }
            Event::Report { base, phase } => self.report(*base, *phase),
            Event::Say { base, what, name } => self.say(*base, *what, NAMES[*name]),
            Event::Wait { seconds } => self.now += seconds * 1000,
            Event::Plan => self.settle(),
            Event::Write => {
                let changes = self.statuses.changes(&self.world, &self.stand, &self.rules, self.now);
                for (key, value) in changes {
                    match value {
                        Some(value) => self.stand.insert(key, Arc::new(value)),
                        None => self.stand.remove(&key),
                    };
                }
            }
        }
    }

    fn sighting(&mut self, base: usize) -> &mut Sighting {
        let (id, since) = (BaseId::new(BASES[base]), self.now);
        let fresh = || Sighting { status: Arc::default(), connected: true, since };
        self.world.observed.bases_mut().entry(id).or_insert_with(fresh)
    }

    fn report(&mut self, base: usize, phase: Phase) {
        let id = BaseId::new(BASES[base]);
        let said = |draining: bool| InstanceStatus {
            phase: if draining { Phase::Gone } else { phase },
            reason: "so it is".to_owned(),
            restarts: 0,
            pid: None,
            ports: BTreeMap::new(),
            in_flight: 0,
        };
        let own = self.world.records.on(&id).map(|one| (one.id.clone(), said(one.draining.is_some())));
        let own = own.collect();
        self.sighting(base).report().instances = own;
    }

    fn say(&mut self, base: usize, what: usize, name: &str) {
        let app = AppId::parse(&format!("default/{name}")).expect("valid");
        let status: &mut Status = self.sighting(base).report();
        match what {
            0 => status.wants = Wants::All,
            1 => status.wants = Wants::Only(BTreeSet::from([app])),
            2 => status.mesh = Some(([10, 0, 0, 1], 1).into()),
            3 => status.refused = Some(Refusal { version: 1, reason: name.to_owned() }),
            4 => {
                let health = Health { ready: false, reason: name.to_owned() };
                status.components = [(format!("default/{name}"), health)].into();
            }
            _ => {
                let limit = format!("default/{name}[0]");
                status.demand = [(limit.clone(), 7)].into();
                status.busiest = [(limit, [(1, 10 + base as u64)].into())].into();
            }
        }
    }

    /// Plans, and does it, until there is nothing to do; then nothing may be left to do.
    fn settle(&mut self) {
        for _ in 0..20 {
            let plan = self.planning.plan(&self.world, &self.rules, self.now);
            if plan.steps.is_empty() {
                let anew = Planning::default().plan(&self.world, &self.rules, self.now);
                assert_eq!(anew.steps, [], "something was missed");
                return;
            }
            for step in &plan.steps {
                apply(step, &mut self.world.documents, &mut self.world.records);
            }
        }
        panic!("it does not come to an end");
    }

    fn check(&mut self) {
        let kept = self.statuses.changes(&self.world, &self.stand, &self.rules, self.now);
        let anew = Statuses::default().changes(&self.world, &self.stand, &self.rules, self.now);
        assert_eq!(kept, anew);
        let World { documents, records, observed } = &self.world;
        for (base, (settings, telling, told)) in &mut self.bases {
            let input = Input { documents, records, observed, base, settings };
            if let Some(next) = telling.next(&input, told, told.version + 1) {
                *told = next;
            }
            assert_eq!(*told, build(&input, told.version));
        }
    }
}

#[test]
fn every_form_is_a_document() {
    for (form, variant) in (0..FORMS.len()).flat_map(|form| (0..3).map(move |variant| (form, variant))) {
        document(form, 0, 1, variant);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn what_is_kept_comes_to_what_is_made_from_nothing(events in events()) {
        let mut lived = Lived::new();
        for event in &events {
            lived.live(event);
            lived.check();
        }
        lived.settle();
        lived.check();
    }

    #[test]
    fn what_belongs_to_something_is_found_there(events in events()) {
        let mut documents = Documents::default();
        for event in &events {
            if let Event::Put { form, name, other, variant } = event {
                documents.insert(Arc::new(document(*form, *name, *other, *variant)));
            } else if let Event::Remove { form, name } = event {
                documents.remove(&document(*form, *name, 0, 0).key());
            }
        }
        for name in NAMES {
            let owner = AppId::parse(&format!("default/{name}")).expect("valid");
            let targets = |policy: &&dodai_api::Policy| {
                policy.spec.target_refs.iter().any(|target| target.name.as_str() == name)
            };
            prop_assert!(documents.policies_on(&owner).eq(documents.policies().filter(targets)));
            let hangs = |route: &&dodai_api::Route| {
                let mut parents = route.spec.parent_refs.iter();
                parents.any(|one| one.kind == dodai_api::ParentKind::Service && one.name.as_str() == name)
            };
            prop_assert!(documents.routes_on(&owner).eq(documents.routes().filter(hangs)));
        }
    }
}
