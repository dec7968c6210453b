//! Every driver against the shared suites.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use dodai_capability::clock::Clock;
use dodai_capability::component::{Context, Spec};
use dodai_capability::conformance::{self, Bench};

use crate::{does_as_its_type_says, registry, sqlite};

async fn bench(dir: PathBuf, kind: &'static str) -> Bench {
    let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let context = Context { clock: clock.clone(), ..Context::default() };
    Bench {
        component: sqlite(&dir, kind, &context).await,
        reopen: Box::new(move || {
            let (dir, context) = (dir.clone(), context.clone());
            Box::pin(async move { sqlite(&dir, kind, &context).await })
        }),
        advance: Box::new(move |by| {
            clock.advance(by);
            Box::pin(std::future::ready(()))
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state() {
    let dir = tempfile::tempdir().expect("a folder");
    conformance::state::run(&mut bench(dir.path().to_owned(), "state.sqlite").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pubsub() {
    let dir = tempfile::tempdir().expect("a folder");
    conformance::pubsub::run(&mut bench(dir.path().to_owned(), "pubsub.sqlite").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration() {
    let dir = tempfile::tempdir().expect("a folder");
    conformance::configuration::run(&mut bench(dir.path().to_owned(), "configuration.sqlite").await, true)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lock() {
    let dir = tempfile::tempdir().expect("a folder");
    conformance::lock::run(&bench(dir.path().to_owned(), "lock.sqlite").await).await;
}

#[tokio::test]
async fn components_do_what_their_types_say() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("secrets.json"), "{}").expect("written");
    let mut registry = registry(dir.path(), &[]);
    dodai_capability::memory::register(&mut registry);
    for one in registry.types() {
        let spec = Spec { version: one.version, ..Spec::new("under-test", &*one.kind) };
        let spec = match one.kind.rsplit('.').next().expect("a driver") {
            // The tests with such a server do the same.
            "redis" | "postgresql" | "postgres" => continue,
            "sqlite" => spec.with("connectionString", "one.db"),
            "http" => spec.with("url", "http://127.0.0.1:9"),
            "cron" => spec.with("schedule", "@daily"),
            "localstorage" => spec.with("rootPath", "files"),
            "file" => spec.with("secretsFile", "secrets.json").with("multiValued", "true"),
            _ => spec,
        };
        let opened = registry.open(spec, &Context::default()).await;
        does_as_its_type_says(&registry, &opened.unwrap_or_else(|error| panic!("{}: {error}", one.kind)));
    }
}

#[tokio::test]
async fn one_file_serves_all_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let registry = registry(dir.path(), &[]);
    let mut all = Vec::new();
    for kind in ["state.sqlite", "pubsub.sqlite", "configuration.sqlite", "lock.sqlite"] {
        let spec = Spec::new(kind, kind).with("url", "file:one.db?cache=shared");
        all.push(registry.open(spec, &Context::default()).await.unwrap_or_else(|error| panic!("{error}")));
    }
    for component in &all {
        component.ping().await.expect("it answers");
        component.close().await;
    }
}

#[tokio::test]
async fn a_database_in_memory_works_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let spec = Spec::new("s", "state.sqlite").with("connectionString", ":memory:").with("tabelName", "x");
    let component = registry(dir.path(), &[]).open(spec, &Context::default()).await.expect("opens");
    assert!(component.warnings[0].contains("did you mean `tableName`"), "{:?}", component.warnings);
    let store = component.serves.state.clone().expect("state");
    store.set(dodai_capability::state::Set::new("k", "v")).await.expect("written");
    let found = store.get(&dodai_capability::state::Get::new("k")).await.expect("read");
    assert_eq!(found.map(|item| item.value), Some("v".into()));
    assert!(std::fs::read_dir(dir.path()).expect("the folder").next().is_none(), "no file was made");
}

#[tokio::test]
async fn bad_properties_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let registry = registry(dir.path(), &[]);
    let context = Context::default();
    let error = registry.open(Spec::new("s", "state.sqlite"), &context).await.expect_err("refused");
    assert_eq!(error.to_string(), "component `s`: property `connectionString` is missing");
    let spec =
        Spec::new("s", "state.sqlite").with("connectionString", "a.db").with("tableName", "x; DROP TABLE y");
    let error = registry.open(spec, &context).await.expect_err("refused").to_string();
    assert!(error.contains("`tableName` is `x; DROP TABLE y`; give a table name"), "{error}");
    let spec = Spec::new("s", "state.sqlite").with("connectionString", "/proc/nowhere/a.db");
    let error = registry.open(spec, &context).await.expect_err("refused").to_string();
    assert!(error.contains("/proc/nowhere"), "{error}");
}

fn nested(pairs: &[(&str, &[(&str, &str)])]) -> BTreeMap<String, BTreeMap<String, String>> {
    let values = |values: &[(&str, &str)]| {
        values.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    };
    pairs.iter().map(|(name, pairs)| ((*name).to_owned(), values(pairs))).collect()
}

#[tokio::test]
async fn secrets() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(
        dir.path().join("secrets.json"),
        r#"{"db":{"user":"shop","pass":"s3cr3t"},"key":"s3cr3t2"}"#,
    )
    .expect("written");
    let registry = registry(dir.path(), &[("DB_PASS", "s3cr3t"), ("DAPR_API_TOKEN", "hidden")]);
    let open = async |spec: Spec| Bench {
        component: registry.open(spec, &Context::default()).await.unwrap_or_else(|error| panic!("{error}")),
        reopen: Box::new(|| Box::pin(async { unreachable!("secret stores keep nothing") })),
        advance: Box::new(|_| Box::pin(std::future::ready(()))),
    };
    let file = |many: &str| {
        Spec::new("f", "secretstores.local.file")
            .with("secretsFile", "secrets.json")
            .with("multiValued", many)
    };
    let flat = nested(&[
        ("db:user", &[("db:user", "shop")]),
        ("db:pass", &[("db:pass", "s3cr3t")]),
        ("key", &[("key", "s3cr3t2")]),
    ]);
    conformance::secrets::run(&open(file("false")).await, &flat).await;
    let many = nested(&[("db", &[("user", "shop"), ("pass", "s3cr3t")]), ("key", &[("key", "s3cr3t2")])]);
    conformance::secrets::run(&open(file("true")).await, &many).await;
    let variables = nested(&[("DB_PASS", &[("DB_PASS", "s3cr3t")])]);
    conformance::secrets::run(&open(Spec::new("e", "secretstores.local.env")).await, &variables).await;
}
