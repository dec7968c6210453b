//! How components are, as their documents and the events say it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dodai_api::DocumentKey;
use dodai_control::control::Control;
use dodai_control::documents::{Documents, FieldOwner};
use dodai_control::plan::Rules;
use dodai_control::records::{Observed, Records, Sighting};
use dodai_control::snapshot::BaseSettings;
use dodai_control::status::{Facts, statuses};
use dodai_core::id::BaseId;
use dodai_core::status::{Health, Status};
use dodai_core::task::Tasks;
use dodai_store::MemoryStore;

use super::played::{apply, settings, yaml};

const STORE: &str = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: db}\nspec: {type: state.sqlite, version: v1}\n---\n";
const KEPT: &str = "a change was refused, the settings before it stay: no such folder";

fn health(ready: bool, reason: &str) -> Health {
    Health { ready, reason: reason.to_owned() }
}

fn with(one: Health) -> Status {
    Status { components: BTreeMap::from([("default/db".to_owned(), one)]), ..Status::default() }
}

#[test]
fn the_condition_says_whether_it_serves_and_why_a_change_was_not_made() {
    let check = |bases: &[(&str, &Health)], expect: (&str, &str, &str)| {
        let documents: Documents = yaml(STORE).into_iter().map(|one| one.value).collect();
        let mut observed = Observed::default();
        for (base, one) in bases {
            let status = with((*one).clone()).into();
            observed.bases_mut().insert(BaseId::new(base), Sighting { status, connected: true, since: 0 });
        }
        let (records, rules) = (Records::default(), Rules::default());
        let facts =
            Facts { documents: &documents, records: &records, observed: &observed, rules: &rules, now: 1 };
        let key: DocumentKey = "Component/default/db".parse().expect("a key");
        let all = statuses(&facts, &BTreeMap::new());
        let condition = &all[&key]["conditions"][0];
        let text = |name: &str| condition[name].as_str().unwrap_or_default();
        assert_eq!((text("status"), text("reason"), text("message")), expect, "{bases:?}");
    };
    let (well, kept, down) = (&health(true, ""), &health(true, KEPT), &health(false, "no such folder"));
    check(&[], ("Unknown", "NotUsed", "no base uses it yet"));
    check(&[("one", well)], ("True", "Ready", "it is up on 1 base"));
    let refused = format!("on one: {KEPT}");
    check(&[("one", kept)], ("True", "ChangeRefused", &refused));
    check(&[("one", kept), ("two", well)], ("True", "ChangeRefused", &refused));
    check(&[("one", well), ("two", down)], ("False", "InitFailed", "on two: no such folder"));
    let both = format!("{refused}; on two: no such folder");
    check(&[("one", kept), ("two", down)], ("False", "InitFailed", &both));
}

#[tokio::test(start_paused = true)]
async fn events_of_a_component_name_its_kind() {
    let tasks = Tasks::new();
    let store = Arc::new(MemoryStore::new(&tasks));
    let control = Control::start(store, settings(), &tasks).await.expect("starts");
    let link = control.link(BaseId::new("here"), BaseSettings::default()).await.expect("links");
    control.apply(&apply(&yaml(STORE), FieldOwner::Cli, None)).await.expect("applies");
    for one in [health(false, "no such folder"), health(true, ""), health(true, KEPT), health(true, "")] {
        link.status.send_replace(with(one));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let events = control.events(0);
    let about = events.iter().filter(|one| one.message.contains("component default/db"));
    let told: Vec<(&str, &str)> = about.map(|one| (one.object.as_str(), one.reason)).collect();
    let words = ["ComponentNotUp", "ComponentUp", "ComponentChangeRefused", "ComponentUp"];
    assert_eq!(told, words.map(|word| ("Component/default/db", word)), "{events:?}");
    assert!(events.iter().any(|one| one.message.ends_with(KEPT)), "{events:?}");
}
