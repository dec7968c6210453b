//! Documents in the store: bookkeeping, validation, pruning, ownership of the artefact.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dodai_api::{Document, Kind};
use dodai_control::documents::{Applied, Apply, DocumentStore, FieldOwner, Verdict};
use dodai_control::error::Error;
use dodai_core::id::AppId;
use dodai_core::task::Tasks;
use dodai_store::{
    self as store, Cause, Change, Changes, Got, Lease, LeaseId, MemoryStore, Page, Range, Revision, Status,
    Store, Txn, TxnOutcome, Watch,
};
use futures_core::future::BoxFuture;

use super::played::{ABSENT, ByPath, apply, clock, digest, module, yaml};

fn store(tasks: &Tasks) -> DocumentStore {
    DocumentStore::new(Arc::new(MemoryStore::new(tasks)), Arc::new(ByPath), clock())
}

fn verdicts(applied: &Applied) -> Vec<Verdict> {
    applied.written.iter().map(|one| one.verdict).collect()
}

async fn app(store: &DocumentStore, name: &str) -> dodai_api::App {
    let key = format!("App/default/{name}").parse().expect("a key");
    let Document::App(app) = store.get(&key).await.expect("it is there") else { panic!("{key} is no app") };
    *app
}

#[tokio::test(start_paused = true)]
async fn what_does_not_change_is_not_written() {
    let tasks = Tasks::new();
    let store = store(&tasks);
    let documents = yaml(&module("shop", "v1.wasm", ""));
    let done = store.apply(&apply(&documents, FieldOwner::Cli, None)).await.expect("applies");
    assert_eq!(verdicts(&done), [Verdict::Created]);
    let first = app(&store, "shop").await;
    assert_eq!(first.metadata.generation, Some(1));
    assert!(first.metadata.uid.is_some() && first.metadata.creation_timestamp.is_some());

    let before = store.store().status().await.expect("status").revision;
    let again = store.apply(&apply(&documents, FieldOwner::Cli, None)).await.expect("applies");
    assert_eq!(verdicts(&again), [Verdict::Unchanged]);
    assert_eq!(store.store().status().await.expect("status").revision, before);

    let labelled = module("shop", "v1.wasm", "").replace("name: shop", "name: shop\n  labels: {team: a}");
    store.apply(&apply(&yaml(&labelled), FieldOwner::Cli, None)).await.expect("applies");
    assert_eq!(app(&store, "shop").await.metadata.generation, Some(1), "a label is not the spec");
    let scaled = yaml(&module("shop", "v1.wasm", "  scale: {min: 2}\n"));
    store.apply(&apply(&scaled, FieldOwner::Cli, None)).await.expect("applies");
    let second = app(&store, "shop").await;
    assert_eq!((second.metadata.generation, second.metadata.uid), (Some(2), first.metadata.uid));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_refused_whole() {
    let tasks = Tasks::new();
    let store = store(&tasks);
    let check = async |text: String, expect: &str| {
        let error = store.apply(&apply(&yaml(&text), FieldOwner::Cli, None)).await.expect_err(expect);
        assert!(matches!(error, Error::Refused(_)) && error.to_string().contains(expect), "{error}");
        assert!(store.list(Kind::App, None).await.expect("lists").is_empty(), "nothing was written");
    };
    let good = module("good", "v1.wasm", "");
    check(format!("{good}{}", module("bad", "v1.wasm", "  dependsOn: [nobody]\n")), "nobody").await;
    check(format!("{good}{}", module("bad", "missing.wasm", "")), "build it first").await;
}

#[tokio::test(start_paused = true)]
async fn references_to_what_is_stored_are_good_and_a_stale_revision_is_not() {
    let tasks = Tasks::new();
    let store = store(&tasks);
    let first = yaml(&module("one", "v1.wasm", ""));
    store.apply(&apply(&first, FieldOwner::Cli, None)).await.expect("applies");
    let second = yaml(&module("two", "v1.wasm", "  dependsOn: [one]\n"));
    store.apply(&apply(&second, FieldOwner::Cli, None)).await.expect("`one` is in the store");

    let mut stale = yaml(&module("one", "v2.wasm", ""));
    stale[0].value.metadata_mut().revision = Some(1);
    let error = store.apply(&apply(&stale, FieldOwner::Cli, None)).await.expect_err("it is newer");
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    stale[0].value.metadata_mut().revision = app(&store, "one").await.metadata.revision;
    store.apply(&apply(&stale, FieldOwner::Cli, None)).await.expect("it is the one that was read");
}

/// A store that lets others have their turn between what is read and what is written.
struct Yielding(MemoryStore);

impl Store for Yielding {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, store::Result<Got>> {
        self.0.get(key)
    }

    fn range(&self, range: Range) -> BoxFuture<'_, store::Result<Page>> {
        self.0.range(range)
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, store::Result<TxnOutcome>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.0.txn(txn).await
        })
    }

    fn watch(&self, prefix: &str, from: Revision) -> Watch {
        self.0.watch(prefix, from)
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, store::Result<Lease>> {
        self.0.grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, store::Result<Duration>> {
        self.0.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId, cause: Cause) -> BoxFuture<'_, store::Result<Revision>> {
        self.0.revoke(lease, cause)
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, store::Result<Revision>> {
        self.0.compact(revision)
    }

    fn changes(&self, changes: Changes) -> BoxFuture<'_, store::Result<Vec<Change>>> {
        self.0.changes(changes)
    }

    fn changes_of<'a>(&'a self, key: &'a str, limit: usize) -> BoxFuture<'a, store::Result<Vec<Change>>> {
        self.0.changes_of(key, limit)
    }

    fn status(&self) -> BoxFuture<'_, store::Result<Status>> {
        self.0.status()
    }

    fn backup<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, store::Result<()>> {
        self.0.backup(path)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.0.close()
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_at_once_those_that_lose_are_told_which_document_it_is() {
    let tasks = Tasks::new();
    let store = Arc::new(Yielding(MemoryStore::new(&tasks)));
    let store = DocumentStore::new(store, Arc::new(ByPath), clock());
    let quiet = module("quiet", "v1.wasm", "");
    store.apply(&apply(&yaml(&quiet), FieldOwner::Cli, None)).await.expect("applies");
    let wanted: Vec<_> = (0..40)
        .map(|at| yaml(&(module("shop", "v1.wasm", &format!("  scale: {{min: {}}}\n", at + 1)) + &quiet)))
        .collect();
    let done = futures_util::future::join_all(
        wanted.iter().map(async |documents| store.apply(&apply(documents, FieldOwner::Cli, None)).await),
    );
    let refused: Vec<Error> = done.await.into_iter().filter_map(Result::err).collect();
    assert!(!refused.is_empty(), "each round one wins");
    for error in refused {
        assert!(error.to_string().starts_with("`App/default/shop` changed while"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_folder_prunes_only_what_it_wrote() {
    let tasks = Tasks::new();
    let store = store(&tasks);
    let mine = yaml(&(module("a", "v1.wasm", "") + &module("b", "v1.wasm", "")));
    store.apply(&apply(&mine, FieldOwner::File, Some("shop"))).await.expect("applies");
    let others = yaml(&module("c", "v1.wasm", ""));
    store.apply(&apply(&others, FieldOwner::Cli, None)).await.expect("applies");
    let elsewhere = yaml(&module("d", "v1.wasm", ""));
    store.apply(&apply(&elsewhere, FieldOwner::File, Some("bank"))).await.expect("applies");

    let less = yaml(&module("a", "v1.wasm", ""));
    let mut dry = apply(&less, FieldOwner::File, Some("shop"));
    dry.dry_run = true;
    let done = store.apply(&dry).await.expect("says");
    assert_eq!(verdicts(&done), [Verdict::Unchanged, Verdict::Pruned]);
    assert_eq!(store.list(Kind::App, None).await.expect("lists").len(), 4, "a dry run writes nothing");
    store.apply(&apply(&less, FieldOwner::File, Some("shop"))).await.expect("applies");
    let left = store.list(Kind::App, None).await.expect("lists");
    let names: Vec<_> = left.iter().map(|document| document.metadata().name.to_string()).collect();
    assert_eq!(names, ["a", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn deploy_owns_the_artefact_until_the_file_changes() {
    let tasks = Tasks::new();
    let store = store(&tasks);
    let shop = AppId::parse("default/shop").expect("valid");
    let artifact = async || app(&store, "shop").await.spec.module.expect("a module").artifact;
    let from_file = async |text: String| {
        let done = store.apply(&apply(&yaml(&text), FieldOwner::File, Some("shop"))).await.expect("applies");
        verdicts(&done)
    };
    from_file(module("shop", "v1.wasm", "")).await;
    let two = digest("v2.wasm");
    store.deploy(&shop, &two, "user:ada").await.expect("deploys");
    assert_eq!(artifact().await, two.as_str());
    assert_eq!(
        from_file(module("shop", "v1.wasm", "")).await,
        [Verdict::Unchanged],
        "the file says nothing new"
    );
    assert_eq!(artifact().await, two.as_str());

    let scaled = yaml(&module("shop", "v1.wasm", "  env: [{name: MODE, value: other}]\n"));
    let dry = Apply { dry_run: true, ..apply(&scaled, FieldOwner::File, Some("shop")) };
    let told = store.apply(&dry).await.expect("applies").warnings;
    let [warning] = told.as_slice() else { panic!("{told:?}") };
    let deployed = app(&store, "shop").await.metadata.annotations["dodai.dev/deployed-at"].clone();
    for words in [&format!("v1.wasm, {}", digest("v1.wasm")), &format!("deployed at {deployed}")] {
        assert!(warning.message.contains(words), "{words}: {warning}");
    }
    assert_eq!(warning.path, "spec.module.artifact");

    assert_eq!(from_file(module("shop", "v3.wasm", "")).await, [Verdict::Configured]);
    assert_eq!(artifact().await, "v3.wasm", "the file's template changed");
    let done = store.apply(&apply(&scaled, FieldOwner::File, Some("shop"))).await.expect("applies");
    assert_eq!(done.warnings, [], "nothing is deployed any more");
    let owners = app(&store, "shop").await.metadata.field_owners;
    assert_eq!(owners.into_iter().collect::<Vec<_>>(), [(String::new(), "file".to_owned())]);

    let missing = AppId::parse("default/nobody").expect("valid");
    let error = store.deploy(&missing, &two, "user:ada").await.expect_err("there is none");
    assert!(matches!(error, Error::NotFound(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_applied_alone_stays_in_its_folder() {
    let tasks = Tasks::new();
    let store = store(&tasks);
    let folder = yaml(&[module("shop", "v1.wasm", ""), module("mail", "v1.wasm", "")].join("---\n"));
    store.apply(&apply(&folder, FieldOwner::File, Some("/folder"))).await.expect("applies");
    let alone = yaml(&module("shop", "v1.wasm", ""));
    let done = store.apply(&apply(&alone, FieldOwner::File, None)).await.expect("applies");
    assert_eq!(verdicts(&done), [Verdict::Unchanged]);
    let changed = yaml(&module("shop", "v2.wasm", ""));
    store.apply(&apply(&changed, FieldOwner::File, None)).await.expect("applies");
    let rest = yaml(&module("mail", "v1.wasm", ""));
    let done = store.apply(&apply(&rest, FieldOwner::File, Some("/folder"))).await.expect("applies");
    assert_eq!(verdicts(&done), [Verdict::Unchanged, Verdict::Pruned], "it is still the folder's to prune");
}

#[tokio::test(start_paused = true)]
async fn up_to_128_documents_are_one_transaction_and_more_are_told() {
    let tasks = Tasks::new();
    let store = store(&tasks);
    let many = |count: usize| {
        let all: Vec<String> = (0..count).map(|at| module(&format!("a{at}"), "v1.wasm", "")).collect();
        yaml(&all.join("---\n"))
    };
    let before = store.store().status().await.expect("status").revision.0;
    let done = store.apply(&apply(&many(128), FieldOwner::Cli, None)).await.expect("applies");
    assert!(done.warnings.is_empty(), "{:?}", done.warnings);
    let after = store.store().status().await.expect("status").revision.0;
    assert_eq!(after, before + 1, "one transaction is one revision");
    let more = many(300);
    let done = store.apply(&apply(&more, FieldOwner::Cli, None)).await.expect("applies");
    assert!(done.warnings.iter().any(|one| one.message.contains("2 transactions")), "{:?}", done.warnings);
    assert_eq!(store.list(Kind::App, None).await.expect("lists").len(), 300);
}

const NAMESPACE: &str = "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: {name: shop}\n---\n";

#[tokio::test(start_paused = true)]
async fn a_namespace_stays_while_anything_is_in_it() {
    let tasks = Tasks::new();
    let store = store(&tasks);
    let namespace = "Namespace/default/shop".parse().expect("a key");
    let inside = module("a", "v1.wasm", "").replace("name: a", "name: a\n  namespace: shop");
    let documents = yaml(&(NAMESPACE.to_owned() + &inside));
    store.apply(&apply(&documents, FieldOwner::File, Some("x"))).await.expect("applies");
    let error = store.delete(&namespace, "test").await.expect_err("it holds an app");
    assert!(matches!(error, Error::NotEmpty { count: 1, .. }), "{error}");
    assert!(error.to_string().contains("App/shop/a"), "{error}");

    let other = yaml(&inside.replace("name: a\n", "name: b\n"));
    store.apply(&apply(&other, FieldOwner::Cli, None)).await.expect("applies");
    let done = store.apply(&apply(&[], FieldOwner::File, Some("x"))).await.expect("applies");
    let gone: Vec<String> = done.written.iter().map(|one| one.key.to_string()).collect();
    assert_eq!(gone, ["App/shop/a"], "somebody else is in the namespace");
    store.delete(&"App/shop/b".parse().expect("a key"), "test").await.expect("it is there");
    store.delete(&namespace, "test").await.expect("it is empty");
}

#[tokio::test(start_paused = true)]
async fn what_remote_bases_do_not_read_is_told_to_whoever_writes_it() {
    let tasks = Tasks::new();
    let tracing = yaml(
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec: {tracing: {samplingRate: '1'}}\n",
    );
    let told = async |store: DocumentStore| {
        let done = store.apply(&apply(&tracing, FieldOwner::Cli, None)).await.expect("applies");
        done.warnings.into_iter().map(|one| one.path).collect::<Vec<_>>()
    };
    assert!(told(store(&tasks)).await.is_empty(), "`up` reads it at its start");
    assert_eq!(told(store(&tasks).for_remote_bases()).await, ["spec.tracing"]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_a_revision_of_its_own_and_outlives_the_next_apply() {
    let tasks = Tasks::new();
    let store = store(&tasks);
    let documents = yaml(&module("shop", "v1.wasm", ""));
    store.apply(&apply(&documents, FieldOwner::File, Some("here"))).await.expect("applies");
    let id = AppId::parse("default/shop").expect("valid");
    let restarted = store.restart(&id, "test").await.expect("restarts");
    assert_eq!(restarted.metadata().generation, Some(2));
    let mark =
        |document: &dodai_api::App| document.metadata.annotations.get("dodai.dev/restarted-at").cloned();
    let first = app(&store, "shop").await;
    assert!(mark(&first).is_some());
    let again = store.apply(&apply(&documents, FieldOwner::File, Some("here"))).await.expect("applies");
    assert_eq!(verdicts(&again), [Verdict::Unchanged]);
    let changed = yaml(&module("shop", "v2.wasm", ""));
    store.apply(&apply(&changed, FieldOwner::File, Some("here"))).await.expect("applies");
    assert_eq!(mark(&app(&store, "shop").await), mark(&first));
    let nobody = AppId::parse("default/nobody").expect("valid");
    assert!(matches!(store.restart(&nobody, "test").await, Err(Error::NotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn an_artefact_that_is_uploaded_later_is_compared_by_its_digest() {
    let tasks = Tasks::new();
    let store = store(&tasks);
    let named = yaml(&module("shop", ABSENT, ""));
    let dry = Apply { dry_run: true, ..apply(&named, FieldOwner::File, None) };
    let done = store.apply(&dry).await.expect("a dry run needs no artefact");
    assert_eq!(verdicts(&done), [Verdict::Created]);
    assert!(matches!(done.warnings.as_slice(), [one] if one.message.contains("not stored")), "{done:?}");
    let error = store.apply(&apply(&named, FieldOwner::File, None)).await.expect_err("it is not there");
    assert!(error.to_string().contains("not stored"), "{error}");
}
