//! Going back to an earlier revision of an app.

use std::time::Duration;

use dodai_api::{Document, Located};
use dodai_control::control::Control;
use dodai_control::documents::{FieldOwner, Verdict};
use dodai_core::id::{AppId, BaseId, RevisionId};

use super::played::{apply, module, yaml};
use super::snapshots::settled;

/// The revision that has all calls.
async fn serving(control: &Control) -> RevisionId {
    tokio::time::sleep(Duration::from_secs(10)).await;
    let snapshot = control.snapshot(&BaseId::new("here")).expect("it is connected");
    let traffic = &snapshot.services().next().expect("one").traffic;
    assert_eq!(traffic.len(), 1, "{traffic:?}");
    traffic[0].0.clone()
}

#[tokio::test(start_paused = true)]
async fn a_rollback_goes_back_to_what_served_before_and_stays() {
    let file =
        |version: &str| yaml(&module("shop", version, &format!("  env: [{{name: V, value: {version}}}]\n")));
    let write = async |control: &Control, version: &str| {
        let applied = control.apply(&apply(&file(version), FieldOwner::File, Some("test"))).await;
        applied.expect("applies").written[0].verdict
    };
    let (control, _, _tasks) = settled(&file("v1.wasm")).await;
    let app = AppId::parse("default/shop").expect("valid");
    let back = async |to: Option<&RevisionId>| control.rollback(&app, to, "user:ada").await.map(|(_, id)| id);
    let none = back(None).await.expect_err("nothing served before").to_string();
    assert!(none.contains("no other revision") && none.contains("dodai get revisions"), "{none}");
    let one = serving(&control).await;
    write(&control, "v2.wasm").await;
    let two = serving(&control).await;
    assert_ne!(one, two);
    assert_eq!(back(None).await.expect("goes back"), one);
    assert_eq!(serving(&control).await, one, "it has the id that it had");
    let key = "App/default/shop".parse().expect("a key");
    let Ok(Document::App(now)) = control.get(&key).await else { panic!("it is there") };
    assert_eq!(now.spec.env[0].value.as_deref(), Some("v1.wasm"), "not only the artefact goes back");
    // What the file says is nothing new.
    assert_eq!(write(&control, "v2.wasm").await, Verdict::Unchanged);
    assert_eq!(serving(&control).await, one);
    assert_eq!(back(None).await.expect("and forth"), two);
    assert_eq!(serving(&control).await, two);
    // A restart is a revision, too, and can be gone back to.
    control.restart(&app, "user:ada").await.expect("restarts");
    let restarted = serving(&control).await;
    assert_eq!(back(None).await.expect("before the restart"), two);
    assert_eq!(serving(&control).await, two);
    assert_eq!(back(Some(&restarted)).await.expect("by its id"), restarted);
    assert_eq!(serving(&control).await, restarted);
    for (to, expect) in [(&restarted, "already"), (&RevisionId::new("deadbeef00"), "no revision deadbeef00")]
    {
        let error = back(Some(to)).await.expect_err("refused").to_string();
        assert!(error.contains(expect), "{error}");
    }
    assert_eq!(write(&control, "v3.wasm").await, Verdict::Configured, "the file says something new");
    let three = serving(&control).await;
    let Ok(Document::App(now)) = control.get(&key).await else { panic!("it is there") };
    assert_eq!(now.spec.env[0].value.as_deref(), Some("v3.wasm"));
    // One that never became ready is gone back from to the one that serves still.
    write(&control, "bad.wasm").await;
    assert_eq!(back(None).await.expect("goes back"), three);
    assert_eq!(serving(&control).await, three);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_stays_when_somebody_writes_another_part_of_the_document() {
    let file = |version: &str| yaml(&module("shop", version, ""));
    let write = async |control: &Control, version: &str| {
        let applied = control.apply(&apply(&file(version), FieldOwner::File, Some("test"))).await;
        applied.expect("applies").written[0].verdict
    };
    for owner in [FieldOwner::Console, FieldOwner::Cli] {
        let (control, _, _tasks) = settled(&file("v1.wasm")).await;
        let one = serving(&control).await;
        write(&control, "v2.wasm").await;
        let two = serving(&control).await;
        let app = AppId::parse("default/shop").expect("valid");
        control.rollback(&app, None, "user:ada").await.expect("goes back");
        assert_eq!(serving(&control).await, one);
        let key = "App/default/shop".parse().expect("a key");
        let labelled = |mut app: dodai_api::App| {
            app.metadata.labels.insert("team".to_owned(), "blue".to_owned());
            Located::nowhere(Document::from(app))
        };
        let Ok(Document::App(now)) = control.get(&key).await else { panic!("it is there") };
        let done = control.apply(&apply(&[labelled(*now.clone())], owner, None)).await.expect("applies");
        assert_eq!(done.written[0].verdict, Verdict::Configured);
        write(&control, "v2.wasm").await;
        assert_eq!(serving(&control).await, one, "the file says nothing new to {owner:?}");
        // Who writes another template has ended what the rollback held.
        let mut other = now;
        other.metadata.revision = None;
        other.spec.env = serde_json::from_str(r#"[{"name": "V", "value": "9"}]"#).expect("an env");
        control.apply(&apply(&[labelled(*other)], owner, None)).await.expect("applies");
        write(&control, "v2.wasm").await;
        assert_eq!(serving(&control).await, two, "the file's again");
    }
}
