//! Random requests give the same answers from every store as from the one in memory.

use dodai_capability::Metadata;
use dodai_capability::component::{Context, Spec};
use dodai_capability::state::{Concurrency, Delete, Error, Etag, Get, List, Operation, Set, Store};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

use crate::registry;

/// Which etag a request carries; the stores make etags of their own, so the choice is by role.
#[derive(Clone, Copy, Debug)]
enum Tag {
    None,
    Empty,
    Current,
    Stale,
}

#[derive(Clone, Debug)]
struct Step {
    key: u8,
    tag: Tag,
    first: bool,
    /// `None` deletes.
    value: Option<Vec<u8>>,
}

fn step() -> impl Strategy<Value = Step> {
    let tag = prop_oneof![Just(Tag::None), Just(Tag::Empty), Just(Tag::Current), Just(Tag::Stale)];
    let value = proptest::option::weighted(0.7, proptest::collection::vec(any::<u8>(), 0..4));
    (0_u8..4, tag, any::<bool>(), value).prop_map(|(key, tag, first, value)| Step { key, tag, first, value })
}

async fn operation(store: &dyn Store, step: &Step) -> Operation {
    let key = format!("k{}", step.key);
    let etag = match step.tag {
        Tag::None => None,
        Tag::Empty => Some(Etag::from("")),
        Tag::Stale => Some(Etag::from("stale")),
        Tag::Current => store.get(&Get::new(&key)).await.expect("read").and_then(|item| item.etag),
    };
    let concurrency = if step.first { Concurrency::FirstWrite } else { Concurrency::LastWrite };
    match &step.value {
        Some(value) => Operation::Upsert(Set { etag, concurrency, ..Set::new(key, value.clone()) }),
        None => Operation::Delete(Delete { etag, concurrency, ..Delete::new(key) }),
    }
}

/// Does one group of steps: one alone, several as a transaction. Returns the outcome and all that is stored then.
async fn run(store: &dyn Store, steps: &[Step]) -> (Result<(), String>, Vec<(String, Vec<u8>)>) {
    let mut operations = Vec::new();
    for step in steps {
        operations.push(operation(store, step).await);
    }
    let outcome = match operations.len() {
        1 => match operations.remove(0) {
            Operation::Upsert(set) => store.set(set).await,
            Operation::Delete(delete) => store.delete(delete).await,
        },
        _ => store.transact(operations, Metadata::new()).await,
    };
    let page = store.list(&List { prefix: "k".into(), after: None, limit: 10 }).await.expect("a page");
    let mut all = Vec::new();
    for key in page.keys {
        let item = store.get(&Get::new(&key)).await.expect("read").expect("listed, so it is there");
        all.push((key, item.value.to_vec()));
    }
    // A store that can tell its own etags by their form says more of one that is none.
    let code = |error: Error| error.code().replace("malformed", "mismatch");
    (outcome.map_err(code), all)
}

/// Runs the groups on both stores, which know none of their keys yet.
async fn compare(one: &dyn Store, other: &dyn Store, groups: &[Vec<Step>]) -> Result<(), TestCaseError> {
    for group in groups {
        let expect = run(one, group).await;
        let seen = run(other, group).await;
        prop_assert_eq!(seen, expect, "{:?}", group);
    }
    Ok(())
}

/// Many random groups against memory and a store that a server keeps, which `clear` empties.
async fn compare_many(store: &dyn Store, mut clear: impl AsyncFnMut()) {
    let groups = proptest::collection::vec(proptest::collection::vec(step(), 1..4), 1..12);
    let mut runner = proptest::test_runner::TestRunner::default();
    for _ in 0..48 {
        let groups = groups.new_tree(&mut runner).expect("steps").current();
        clear().await;
        let memory = dodai_capability::memory::State::new(1 << 20);
        if let Err(error) = compare(&memory, store, &groups).await {
            panic!("{error}\n{groups:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_answers_as_memory_does() {
    let redis = crate::servers::Redis::start();
    let spec = Spec::new("s", "state.redis").with("redisHost", redis.host());
    let opened = registry(std::path::Path::new("."), &[]).open(spec, &Context::default()).await;
    let store = opened.expect("opens").serves.state.expect("state");
    compare_many(&*store, async || redis::cmd("FLUSHALL").exec(&mut redis.admin()).expect("emptied")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_answers_as_memory_does() {
    let postgres = crate::servers::Postgres::start();
    let admin = postgres.admin().await;
    for version in ["v1", "v2"] {
        let mut spec = Spec::new("s", "state.postgresql").with("connectionString", postgres.url());
        let table = format!("{version}_state");
        spec = if version == "v1" { spec.with("tableName", &table) } else { spec.with("tablePrefix", "v2_") };
        spec.version = version.to_owned();
        let opened = registry(std::path::Path::new("."), &[]).open(spec, &Context::default()).await;
        let store = opened.expect("opens").serves.state.expect("state");
        let clear = format!("DELETE FROM {table}");
        compare_many(&*store, async || admin.batch_execute(&clear).await.expect("emptied")).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn sqlite_answers_as_memory_does(groups in proptest::collection::vec(proptest::collection::vec(step(), 1..4), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut registry = registry(std::path::Path::new("."), &[]);
            dodai_capability::memory::register(&mut registry);
            let mut stores = Vec::new();
            for kind in ["state.in-memory", "state.sqlite"] {
                let spec = Spec::new("s", kind).with("connectionString", ":memory:");
                stores.push(registry.open(spec, &Context::default()).await.expect("opens").serves.state.expect("state"));
            }
            compare(&*stores[0], &*stores[1], &groups).await
        })?;
    }
}
