//! A store that forgets its history, and one that holds what is no document.

use std::sync::Arc;
use std::time::Duration;

use dodai_api::{Document, DocumentKey, Kind};
use dodai_control::control::Control;
use dodai_control::documents::{FieldOwner, Verdict};
use dodai_control::error::Error;
use dodai_core::task::Tasks;
use dodai_store::{Cause, MemoryStore, Retention, Store, Txn};

use super::played::{apply, module, settings, yaml};

const BROKEN: &str = "/App/default/broken";

/// Control over a store with an app, and beside it an app that no version of the program wrote.
async fn broken(tasks: &Tasks) -> (Control, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::new(tasks));
    let control = Control::start(store.clone(), settings(), tasks).await.expect("starts");
    let fine = yaml(&module("fine", "v1.wasm", ""));
    control.apply(&apply(&fine, FieldOwner::File, Some("x"))).await.expect("applies");
    store
        .txn(Txn::new(Cause::new("test", "damage")).put(BROKEN, "{\"kind\":\"App\"}"))
        .await
        .expect("written");
    (control, store)
}

fn names(documents: &[Document]) -> Vec<String> {
    documents.iter().map(|document| document.metadata().name.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_document_that_cannot_be_read_is_passed_over() {
    let tasks = Tasks::new();
    let (control, _store) = broken(&tasks).await;
    assert_eq!(names(&control.list(Kind::App, None).await.expect("lists")), ["fine"]);
    let more = yaml(&module("more", "v1.wasm", ""));
    let done = control.apply(&apply(&more, FieldOwner::Cli, None)).await.expect("applies");
    let told: Vec<String> = done.warnings.iter().map(ToString::to_string).collect();
    assert!(
        matches!(&told[..], [one] if one.contains("App/default/broken") && one.contains("dodai delete")),
        "{told:?}"
    );
    let key: DocumentKey = "App/default/broken".parse().expect("a key");
    assert!(matches!(control.get(&key).await, Err(Error::Unreadable { .. })), "asked for by name it is told");
}

#[tokio::test(start_paused = true)]
async fn a_document_that_cannot_be_read_can_be_overwritten_and_removed() {
    let tasks = Tasks::new();
    let (control, _store) = broken(&tasks).await;
    let again = yaml(&module("broken", "v1.wasm", ""));
    let done = control.apply(&apply(&again, FieldOwner::Cli, None)).await.expect("applies");
    assert_eq!((done.written[0].verdict, done.warnings.len()), (Verdict::Created, 0));
    assert_eq!(names(&control.list(Kind::App, None).await.expect("lists")), ["broken", "fine"]);

    let (control, _store) = broken(&tasks).await;
    control.delete(&"App/default/broken".parse().expect("a key"), "test").await.expect("it is there");
    let done = control.apply(&apply(&again, FieldOwner::Cli, None)).await.expect("applies");
    assert_eq!((done.written[0].verdict, done.warnings.len()), (Verdict::Created, 0));
}

#[tokio::test(start_paused = true)]
async fn a_mirror_whose_history_is_compacted_reads_the_store_again() {
    let tasks = Tasks::new();
    let retention = Retention { history: 2, changes: 2, recent: 1 };
    let store = Arc::new(MemoryStore::with_retention(retention, &tasks));
    let control = Control::start(store.clone(), settings(), &tasks).await.expect("starts");
    let one = yaml(&module("a", "v1.wasm", ""));
    control.apply(&apply(&one, FieldOwner::Cli, None)).await.expect("applies");
    // None of these waits, so the mirror gets no turn before history has moved on; what it missed most is a
    // document that is gone: no event will tell.
    let mut documents = dodai_control::documents::DocumentStore::new(
        store.clone(),
        Arc::new(super::played::ByPath),
        super::played::clock(),
    );
    for at in 0..40 {
        let more = yaml(&module("b", &format!("v{at}.wasm"), ""));
        documents.apply(&apply(&more, FieldOwner::Cli, None)).await.expect("applies");
    }
    documents.delete(&"App/default/a".parse().expect("a key"), "test").await.expect("it is there");
    let behind = control.view().revision;
    let now = store.status().await.expect("status");
    assert!(now.compacted > behind, "the mirror must have missed something: {behind:?} {now:?}");
    let wanted = async {
        loop {
            let view = control.view();
            if view.documents.apps().map(|app| app.metadata.name.as_str()).eq(["b"]) {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let view = tokio::time::timeout(Duration::from_secs(60), wanted).await.expect("it catches up");
    assert!(view.revision >= now.revision);
    // And it goes on from there.
    documents = documents.for_remote_bases();
    documents.apply(&apply(&one, FieldOwner::Cli, None)).await.expect("applies");
    let both = async {
        while control.view().documents.apps().count() != 2 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), both).await.expect("it follows");
}
