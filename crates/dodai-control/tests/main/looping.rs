//! The whole loop: documents in, a base that obeys, statuses and events out.

use std::sync::Arc;
use std::time::Duration;

use dodai_api::{Document, Truth};
use dodai_control::control::{Changed, Control};
use dodai_control::documents::FieldOwner;
use dodai_control::snapshot::BaseSettings;
use dodai_core::id::{AppId, BaseId};
use dodai_core::task::{Kind, Tasks};
use dodai_store::{MemoryStore, Store};

use super::played::{apply, digest, module, play, settings, yaml};
use super::snapshots::settled;

async fn condition(control: &Control, name: &str) -> dodai_api::Condition {
    let key = format!("App/default/{name}").parse().expect("a key");
    let Ok(Document::App(app)) = control.get(&key).await else { panic!("{name} is there") };
    app.status.expect("it has a status").conditions[0].clone()
}

#[tokio::test(start_paused = true)]
async fn a_deploy_moves_the_traffic_and_says_so() {
    let (control, before, _tasks) = settled(&yaml(&module("shop", "v1.wasm", ""))).await;
    let mut watch = control.watch();
    let app = AppId::parse("default/shop").expect("valid");
    control.deploy(&app, &digest("v2.wasm"), "user:ada").await.expect("deploys");
    let changed = watch.next().await.expect("control runs");
    assert!(matches!(&changed[0], Changed::Put(Document::App(_))), "{changed:?}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let after = control.snapshot(&BaseId::new("here")).expect("it is connected");
    let (old, new) = (before.workloads().next().expect("one"), after.workloads().next().expect("one"));
    assert_ne!(old.revision, new.revision);
    assert_eq!(after.workloads().count(), 1, "the old instance is gone");
    assert_eq!(after.services().next().expect("one").traffic, [(new.revision.clone(), 1)]);
    let reasons: Vec<&str> = control.events(0).iter().map(|event| event.reason).collect();
    for reason in ["BaseConnected", "NewRevision", "InstancePlaced", "RevisionServes", "InstanceDrains"] {
        assert!(reasons.contains(&reason), "{reason} in {reasons:?}");
    }
    let last = control.events(0).last().expect("some").sequence;
    assert_eq!(control.events(last), []);
}

#[tokio::test(start_paused = true)]
async fn traffic_for_a_revision_that_is_not_there_is_refused_and_said() {
    let share = |weight: u32| format!("{{revision: latest, weight: {weight}}}");
    for (rest, expect) in [("".to_owned(), 0), (share(3), 3)] {
        let traffic =
            format!("  traffic: [{{revision: deadbeef00, weight: 2}}, {rest}]\n").replace(", ]", "]");
        let (control, snapshot, _tasks) = settled(&yaml(&module("shop", "v1.wasm", &traffic))).await;
        let service = snapshot.services().next().expect("one");
        let absent: Vec<(&str, u32)> =
            service.absent.iter().map(|(id, weight)| (id.as_str(), *weight)).collect();
        assert_eq!(absent, [("deadbeef00", 2)]);
        assert_eq!(service.traffic.iter().map(|(_, weight)| weight).sum::<u32>(), expect, "{service:?}");
        let key = "App/default/shop".parse().expect("a key");
        let Ok(Document::App(app)) = control.get(&key).await else { panic!("it is there") };
        let conditions = app.status.expect("it has a status").conditions;
        let found = conditions.iter().find(|one| one.condition == "ResolvedRefs").expect("a condition");
        assert_eq!((found.status, found.reason.as_str()), (Truth::False, "RevisionNotFound"));
        assert!(found.message.contains("deadbeef00"), "{found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_does_not_come_up_leaves_the_old_one_serving() {
    let tasks = Tasks::new();
    let store = Arc::new(MemoryStore::new(&tasks));
    let control = Control::start(store, settings(), &tasks).await.expect("starts");
    let base = BaseId::new("here");
    let link = control.link(base.clone(), BaseSettings::default()).await.expect("links");
    tasks.spawn(Kind::Loop, play(link, Some(digest("bad.wasm"))));
    control
        .apply(&apply(&yaml(&module("shop", "v1.wasm", "")), FieldOwner::Cli, None))
        .await
        .expect("applies");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let good = control.snapshot(&base).expect("told").services().next().expect("one").traffic.clone();
    control
        .apply(&apply(&yaml(&module("shop", "bad.wasm", "")), FieldOwner::Cli, None))
        .await
        .expect("applies");
    tokio::time::sleep(Duration::from_secs(30)).await;
    let found = condition(&control, "shop").await;
    assert_eq!((found.status, found.reason.as_str()), (Truth::False, "Progressing"), "{found:?}");
    tokio::time::sleep(Duration::from_secs(100)).await;
    let found = condition(&control, "shop").await;
    assert_eq!(found.reason, "ProgressDeadlineExceeded");
    assert!(
        found.message.contains("it traps at start") && found.message.contains("goes on serving"),
        "{found:?}"
    );
    let now = control.snapshot(&base).expect("told").services().next().expect("one").traffic.clone();
    assert_eq!(now, good);
    control
        .apply(&apply(&yaml(&module("shop", "v3.wasm", "")), FieldOwner::Cli, None))
        .await
        .expect("applies");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(condition(&control, "shop").await.status, Truth::True);
}

#[tokio::test(start_paused = true)]
async fn control_that_starts_again_goes_on_where_it_was() {
    let tasks = Tasks::new();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(&tasks));
    let first = tasks.child();
    let control = Control::start(store.clone(), settings(), &first).await.expect("starts");
    let base = BaseId::new("here");
    let link = control.link(base.clone(), BaseSettings::default()).await.expect("links");
    first.spawn(Kind::Connection, play(link, None));
    control
        .apply(&apply(&yaml(&module("shop", "v1.wasm", "")), FieldOwner::Cli, None))
        .await
        .expect("applies");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = control.view().records.clone();
    let _ = first.drain(Duration::ZERO).await;
    drop(control);

    let control = Control::start(store, settings(), &tasks).await.expect("starts");
    let link = control.link(base.clone(), BaseSettings::default()).await.expect("links");
    tasks.spawn(Kind::Loop, play(link, None));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(control.view().records, before);
    assert_eq!(control.snapshot(&base).expect("told").workloads().count(), 1);
    assert_eq!(condition(&control, "shop").await.status, Truth::True);
}

#[tokio::test(start_paused = true)]
async fn a_base_that_goes_away_is_reported_and_replaced() {
    let tasks = Tasks::new();
    let store = Arc::new(MemoryStore::new(&tasks));
    let control = Control::start(store, settings(), &tasks).await.expect("starts");
    let mut aborts = Vec::new();
    for name in ["one", "two"] {
        let link = control.link(BaseId::new(name), BaseSettings::default()).await.expect("links");
        aborts.push(tasks.spawn(Kind::Loop, play(link, None)));
    }
    let documents = yaml(&module("shop", "v1.wasm", "  scale: {min: 2}\n"));
    control.apply(&apply(&documents, FieldOwner::Cli, None)).await.expect("applies");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(control.view().records.on(&BaseId::new("one")).count(), 1);
    aborts[0].abort();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let key = "Base/default/one".parse().expect("a key");
    let Ok(Document::Base(base)) = control.get(&key).await else { panic!("a base") };
    assert_eq!(base.status.expect("it has one").conditions[0].reason, "Away");
    assert_eq!(control.view().records.on(&BaseId::new("one")).count(), 1, "a short absence changes nothing");
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(control.view().records.on(&BaseId::new("two")).count(), 2);
    assert_eq!(condition(&control, "shop").await.status, Truth::True);
}
