//! A cluster under a seeded schedule of faults: links are cut and delayed, bases and control die and come
//! back, instances crash, documents change meanwhile. Afterwards everything is as the documents say.
//!
//! `DODAI_SEED=N` runs one seed, `DODAI_SEEDS=N` so many.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use dodai_api::Document;
use dodai_core::id::AppId;
use dodai_core::status::Phase;
use dodai_core::task::{Kind, Tasks};
use dodai_testkit::cluster::{Called, Cluster, User};
use dodai_testkit::seed::{Again, Seed};
use tokio::task::LocalSet;

use super::played::yaml;

const BASES: u8 = 3;
const APPS: [&str; 4] = ["cart", "catalog", "orders", "users"];
const PORT: u16 = 8080;
/// How calls may fail while there are faults: cut, no instance, not in time; or the base itself is away.
const EXPECTED: [&str; 5] = ["404", "502", "503", "504", "lost"];
/// How long faults go on.
const STORM: Duration = Duration::from_secs(120);
/// Long enough for a base to be given up, and for a rollout after that.
const QUIET: Duration = Duration::from_secs(90);

#[expect(clippy::disallowed_methods, reason = "one seed, or more of them, are asked for by the environment")]
fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match (number("DODAI_SEED"), number("DODAI_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, Some(count)) => (1..=count).collect(),
        (None, None) => vec![1, 2],
    }
}

#[test]
fn a_storm_of_faults_leaves_what_the_documents_say() {
    for seed in seeds() {
        let command = format!("DODAI_SEED={seed} cargo test -p dodai-control --test main simulation");
        let _again = Again { seed, command };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        LocalSet::new().block_on(&runtime.expect("a runtime"), storm(seed));
    }
}

#[test]
fn an_hour_without_control_costs_no_call() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), hour());
}

async fn hour() {
    let mut seed = Seed::new(3);
    let ids = APPS.map(|app| AppId::parse(&format!("default/{app}")).expect("an id"));
    let mut cluster = Cluster::start(BASES, &ids, seed.fork()).await;
    let two = Wanted { version: 1, instances: 2 };
    let documents: String = APPS.into_iter().map(|app| two.text(app)).collect();
    assert!(cluster.apply(&yaml(&(documents + &front()))).await, "the documents are taken");
    tokio::time::sleep(QUIET).await;
    let user = cluster.user();
    let all_answer = async |cluster: &Cluster, when: &str| {
        for at in 0..cluster.len() {
            for app in APPS {
                let expect = Called::Answered(200, format!("default/{app}"));
                let called = user.call(at, PORT, &format!("{app}.test")).await;
                assert_eq!(called, expect, "{app} through base {at} {when}");
            }
        }
    };
    all_answer(&cluster, "before").await;
    cluster.kill_control().await;
    for minutes in (0..=60).step_by(5) {
        all_answer(&cluster, &format!("after {minutes} minutes without control")).await;
        tokio::time::sleep(Duration::from_secs(300)).await;
    }
    // It is back: what is wanted now is done, and nothing is started anew.
    let before = cluster.running();
    cluster.heal().await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(cluster.running(), before, "what ran stays");
    let three = Wanted { version: 1, instances: 3 };
    assert!(cluster.apply(&yaml(&three.text("cart"))).await, "control takes documents again");
    tokio::time::sleep(QUIET).await;
    assert_eq!(cluster.running().len(), before.len() + 1);
    all_answer(&cluster, "with control").await;
}

/// An app as it is wanted at the moment.
#[derive(Clone, Debug)]
struct Wanted {
    version: u64,
    instances: u64,
}

impl Wanted {
    fn text(&self, app: &str) -> String {
        let Wanted { version, instances } = self;
        format!(
            "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{name: {app}, labels: {{version: v{version}}}}}\nspec:\n  module: {{artifact: {app}-{version}.wasm}}\n  services: [{{name: http}}]\n  scale: {{min: {instances}}}\n---\n"
        )
    }
}

fn front() -> String {
    let mut text = format!(
        "apiVersion: dodai.dev/v1\nkind: Gateway\nmetadata: {{name: front}}\nspec:\n  listeners: [{{name: http, port: {PORT}, protocol: HTTP}}]\n---\n"
    );
    for app in APPS {
        text.push_str(&format!(
            "apiVersion: dodai.dev/v1\nkind: Route\nmetadata: {{name: {app}}}\nspec:\n  parentRefs: [{{name: front}}]\n  hostnames: [{app}.test]\n  rules: [{{backendRefs: [{{name: {app}}}]}}]\n---\n"
        ));
    }
    text
}

/// What calls found.
#[derive(Default)]
struct Tally {
    good: Cell<u64>,
    failed: RefCell<BTreeMap<String, u64>>,
    wrong: RefCell<Vec<String>>,
}

async fn storm(number: u64) {
    let mut seed = Seed::new(number);
    let ids: Vec<AppId> =
        APPS.iter().map(|app| AppId::parse(&format!("default/{app}")).expect("an id")).collect();
    let mut cluster = Cluster::start(BASES, &ids, seed.fork()).await;
    let mut wanted: BTreeMap<&str, Wanted> =
        APPS.into_iter().map(|app| (app, Wanted { version: 1, instances: 2 })).collect();
    let first: String = wanted.iter().map(|(app, wanted)| wanted.text(app)).collect();
    assert!(cluster.apply(&yaml(&(first + &front()))).await, "the first documents are taken");

    let (tasks, tally) = (Tasks::new(), Rc::new(Tally::default()));
    for at in 0..cluster.len() {
        let traffic = traffic(cluster.user(), at, seed.fork(), tally.clone(), tasks.clone());
        tasks.spawn_local(Kind::Loop, traffic);
    }
    let mut done = Vec::new();
    let end = tokio::time::Instant::now() + STORM;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(seed.millis(100..4000)).await;
        done.push(strike(&mut cluster, &mut seed, &mut wanted).await);
    }
    tasks.close();
    cluster.heal().await;
    tokio::time::sleep(QUIET).await;
    let _cut = tasks.drain(Duration::from_secs(100)).await;

    assert!(tally.wrong.borrow().is_empty(), "wrong answers: {:?}\nafter {done:#?}", tally.wrong.borrow());
    assert!(tally.good.get() > 50, "calls got through: {}", tally.good.get());
    let strange: Vec<String> =
        tally.failed.borrow().keys().filter(|kind| !EXPECTED.contains(&kind.as_str())).cloned().collect();
    assert!(strange.is_empty(), "calls failed in ways that no fault explains: {strange:?}\nafter {done:#?}");
    kept(&cluster, &wanted, &done);
    converged(&cluster, &wanted, &done).await;
    println!(
        "seed {number}: {} faults, {} answers, failures {:?}",
        done.len(),
        tally.good.get(),
        tally.failed.borrow()
    );
}

/// Does one thing that a day in production might bring; says what.
async fn strike(cluster: &mut Cluster, seed: &mut Seed, wanted: &mut BTreeMap<&str, Wanted>) -> String {
    let (at, other) = (seed.index(cluster.len()), seed.index(cluster.len()));
    match seed.number(0..18) {
        0 => {
            cluster.cut(at);
            format!("cut base {at} off control")
        }
        1 | 2 => {
            let delay = seed.millis(0..3000);
            cluster.join(at, delay).await;
            format!("joined base {at}, news takes {delay:?}")
        }
        3 => {
            cluster.partition(at, other);
            format!("partitioned bases {at} and {other}")
        }
        4 | 5 => match cluster.node(at) {
            Some(node) if node.crash(seed) => format!("crashed an instance on base {at}"),
            Some(_) | None => format!("base {at} has nothing to crash"),
        },
        6 => {
            cluster.kill_base(at).await;
            format!("killed base {at}")
        }
        7 | 12 | 13 => {
            for at in 0..cluster.len() {
                cluster.start_base(at);
                cluster.join(at, seed.millis(0..300)).await;
            }
            "started and joined what was away".to_owned()
        }
        8 => {
            cluster.kill_control().await;
            "killed control".to_owned()
        }
        14 => {
            for at in 0..cluster.len() {
                cluster.reunite(at, (at + 1) % cluster.len());
            }
            "healed all partitions".to_owned()
        }
        9 | 15 => {
            cluster.start_control().await;
            for at in 0..cluster.len() {
                cluster.join(at, seed.millis(0..500)).await;
            }
            "started control".to_owned()
        }
        _ => change(cluster, seed, wanted).await,
    }
}

/// Changes an app's document; only what is acknowledged counts, and it counts for ever.
async fn change(cluster: &Cluster, seed: &mut Seed, wanted: &mut BTreeMap<&str, Wanted>) -> String {
    let app = APPS[seed.index(APPS.len())];
    let next = Wanted { version: wanted[app].version + seed.number(0..2), instances: seed.number(1..4) };
    let acknowledged = cluster.apply(&yaml(&next.text(app))).await;
    let told =
        format!("{app} shall be {next:?}: {}", if acknowledged { "acknowledged" } else { "not taken" });
    if acknowledged {
        wanted.insert(app, next);
    }
    told
}

/// Calls every app through one base, again and again.
async fn traffic(user: User, at: usize, mut seed: Seed, tally: Rc<Tally>, tasks: Tasks) {
    while !tasks.is_closing() {
        let app = APPS[seed.index(APPS.len())];
        match user.call(at, PORT, &format!("{app}.test")).await {
            Called::Answered(200, body) if body == format!("default/{app}") => {
                tally.good.set(tally.good.get() + 1)
            }
            Called::Answered(200, body) => tally.wrong.borrow_mut().push(format!("{app} answered {body:?}")),
            Called::Answered(status, _) => {
                *tally.failed.borrow_mut().entry(status.to_string()).or_default() += 1
            }
            Called::Lost(_) => *tally.failed.borrow_mut().entry("lost".to_owned()).or_default() += 1,
        }
        tokio::time::sleep(seed.millis(50..800)).await;
    }
}

/// Every acknowledged document is there, as it was acknowledged.
fn kept(cluster: &Cluster, wanted: &BTreeMap<&str, Wanted>, done: &[String]) {
    let view = cluster.control().expect("it runs").view();
    for (app, wanted) in wanted {
        let key = yaml(&wanted.text(app))[0].value.key();
        let Some(Document::App(found)) = view.document(&key) else {
            panic!("{app} is lost\nafter {done:#?}")
        };
        let artifact = found.spec.module.as_ref().map(|module| module.artifact.clone());
        assert_eq!(artifact, Some(format!("{app}-{}.wasm", wanted.version)), "{app}\nafter {done:#?}");
        assert_eq!(u64::from(found.spec.scale.min), wanted.instances, "{app}\nafter {done:#?}");
    }
}

/// As many instances of each app as wanted, all ready, none beside them, and every base reaches every app.
async fn converged(cluster: &Cluster, wanted: &BTreeMap<&str, Wanted>, done: &[String]) {
    let control = cluster.control().expect("it runs");
    let (records, observed) = (control.view().records.clone(), control.observed());
    for (app, wanted) in wanted {
        let id = AppId::parse(&format!("default/{app}")).expect("an id");
        let of: Vec<_> = records.of(&id).collect();
        let phases: Vec<Option<Phase>> = of.iter().map(|one| observed.phase(one)).collect();
        let as_wanted = of.len() as u64 == wanted.instances && of.iter().all(|one| observed.is_ready(one));
        assert!(as_wanted, "{app} shall be {wanted:?} and has {of:#?} in {phases:?}\nafter {done:#?}");
        let revisions: BTreeSet<_> = of.iter().map(|one| &one.revision).collect();
        assert_eq!(revisions.len(), 1, "{app} runs one revision\nafter {done:#?}");
    }
    let recorded: BTreeSet<String> = records.instances().map(|one| one.id.to_string()).collect();
    let running: BTreeSet<String> = cluster.running().into_keys().collect();
    assert_eq!(running, recorded, "nothing runs that nobody knows\nafter {done:#?}");

    let versions = |cluster: &Cluster| -> Vec<u64> {
        (0..cluster.len()).map(|at| control.snapshot(&cluster.id(at)).expect("connected").version).collect()
    };
    let before = versions(cluster);
    let user = cluster.user();
    for at in 0..cluster.len() {
        for app in APPS {
            let called = user.call(at, PORT, &format!("{app}.test")).await;
            let expect = Called::Answered(200, format!("default/{app}"));
            assert_eq!(called, expect, "{app} through base {at}\nafter {done:#?}");
        }
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(versions(cluster), before, "it stands still\nafter {done:#?}");
}
