//! What is told of a base that is not connected, and of what it runs.

use std::collections::BTreeMap;

use dodai_api::DocumentKey;
use dodai_control::documents::Documents;
use dodai_control::plan::{Rules, apply as apply_step, plan};
use dodai_control::records::{Observed, Records, Sighting};
use dodai_control::status::{Facts, statuses};
use dodai_core::id::BaseId;
use dodai_core::status::{Phase, Status};
use serde_json::Value;

use super::played::{instance, yaml};

const NOW: u64 = 1_800_000_000_000;
const BASE: &str = "apiVersion: dodai.dev/v1\nkind: Base\nmetadata: {name: b1}\nspec: {}\n---\n";
const APP: &str =
    "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {name: shop}\nspec: {process: {command: [shop]}}\n";

struct World {
    documents: Documents,
    records: Records,
    observed: Observed,
    statuses: BTreeMap<DocumentKey, Value>,
}

impl World {
    /// An app whose one instance is ready on `b1`.
    fn new() -> World {
        let text = BASE.to_owned() + APP;
        let mut documents: Documents = yaml(&text).into_iter().map(|one| one.value).collect();
        let mut records = Records::default();
        let here = Sighting { status: Status::default().into(), connected: true, since: NOW };
        let mut observed = Observed::new(NOW, [(BaseId::new("b1"), here)].into());
        for step in plan(&documents, &observed, &records, &Rules::default(), NOW).steps {
            apply_step(&step, &mut documents, &mut records);
        }
        let sighting = observed.bases_mut().get_mut(&BaseId::new("b1")).expect("it is there");
        sighting.report().instances =
            records.instances().map(|one| (one.id.clone(), instance(Phase::Ready))).collect();
        for step in plan(&documents, &observed, &records, &Rules::default(), NOW).steps {
            apply_step(&step, &mut documents, &mut records);
        }
        World { documents, records, observed, statuses: BTreeMap::new() }
    }

    fn look(&mut self) {
        let facts = Facts {
            documents: &self.documents,
            records: &self.records,
            observed: &self.observed,
            rules: &Rules::default(),
            now: NOW,
        };
        self.statuses = statuses(&facts, &self.statuses);
    }

    fn status(&self, key: &str) -> &Value {
        &self.statuses[&key.parse::<DocumentKey>().expect("a key")]
    }

    fn condition(&self, key: &str) -> (String, String) {
        let one = &self.status(key)["conditions"][0];
        let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        (text("reason"), text("message"))
    }
}

#[test]
fn what_a_base_that_is_away_runs_is_not_counted_as_ready() {
    let mut world = World::new();
    world.look();
    assert_eq!(world.condition("App/default/shop").0, "InstancesReady");
    assert_eq!(world.status("App/default/shop")["revisions"][0]["ready"], 1);
    world.observed.bases_mut().get_mut(&BaseId::new("b1")).expect("it is there").connected = false;
    world.look();
    let (reason, message) = world.condition("App/default/shop");
    assert_eq!(reason, "InstancesMissing");
    assert!(message.contains("0 of 1") && message.contains("base b1 is away"), "{message}");
    assert_ne!(world.status("App/default/shop")["revisions"][0]["ready"], 1);
}

#[test]
fn a_base_that_was_seen_before_the_server_started_is_away() {
    let mut world = World::new();
    let seen = std::mem::take(world.observed.bases_mut());
    world.look();
    assert_eq!(world.condition("Base/default/b1").0, "NeverSeen", "nobody ever saw it");

    *world.observed.bases_mut() = seen.clone();
    world.look();
    assert_eq!(world.condition("Base/default/b1").0, "Connected");
    world.observed.bases_mut().clear();
    for _ in 0..2 {
        world.look();
        let (reason, message) = world.condition("Base/default/b1");
        assert_eq!(reason, "Away");
        assert!(message.contains("has not connected since the server started"), "{message}");
    }

    *world.observed.bases_mut() = seen;
    world.observed.bases_mut().get_mut(&BaseId::new("b1")).expect("it is there").connected = false;
    world.look();
    let last = world.status("Base/default/b1")["lastSeen"].clone();
    assert!(last.is_string());
    world.observed.bases_mut().clear();
    world.look();
    assert_eq!(
        (world.condition("Base/default/b1").0.as_str(), &world.status("Base/default/b1")["lastSeen"]),
        ("Away", &last)
    );
}
