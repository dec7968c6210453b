//! Random operations on a back end and on a naive model: answers and watch streams have to agree.
//!
//! The model keeps the whole state of every revision and every event ever, and knows nothing of
//! versions lists, pages or SQL.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dodai_core::task::Tasks;
use dodai_store::{
    Cause, Check, Compare, Error, Event, Execution, KeyValue, LeaseId, MemoryStore, Op, OpOutcome, Options,
    Ordering, Range, Retention, Revision, SqliteStore, Store, Txn, TxnOutcome, Watch,
};
use proptest::collection::vec;
use proptest::prelude::*;

const KEYS: [&str; 6] = ["/a", "/a/1", "/a/2", "/ab", "/b/1", "/b/2"];
const PREFIXES: [&str; 5] = ["", "/a", "/a/", "/b", "/c"];
const RECENT: std::ops::Range<usize> = 0..20;
const LEASE_TTL: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
enum Step {
    Txn {
        compares: Vec<(usize, u8, u8)>,
        then: Vec<Do>,
        otherwise: Vec<Do>,
    },
    Grant,
    Revoke(usize),
    /// A share of the revisions so far.
    Compact(f64),
    Range {
        prefix: usize,
        at: Option<f64>,
        limit: usize,
    },
    Watch {
        prefix: usize,
        from: f64,
    },
    /// Lets one of the watches read what there is.
    Poll(usize),
    Reopen,
}

#[derive(Clone, Debug)]
enum Do {
    Put(usize, u8, Option<usize>),
    Delete(usize),
    DeletePrefix(usize),
    Get(usize),
}

fn operation() -> impl Strategy<Value = Do> {
    prop_oneof![
        5 => (0..KEYS.len(), 0..4u8, proptest::option::weighted(0.3, 0..3usize)).prop_map(|(k, v, l)| Do::Put(k, v, l)),
        2 => (0..KEYS.len()).prop_map(Do::Delete),
        1 => (1..PREFIXES.len()).prop_map(Do::DeletePrefix),
        1 => (0..KEYS.len()).prop_map(Do::Get),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let compare = (0..KEYS.len(), 0..6u8, 0..4u8);
    prop_oneof![
        12 => (vec(compare, 0..3), vec(operation(), 0..4), vec(operation(), 0..3))
            .prop_map(|(compares, then, otherwise)| Step::Txn { compares, then, otherwise }),
        1 => Just(Step::Grant),
        1 => (0..3usize).prop_map(Step::Revoke),
        1 => (0.0..1.05f64).prop_map(Step::Compact),
        4 => (0..PREFIXES.len(), proptest::option::of(0.0..1.05f64), 1..4usize)
            .prop_map(|(prefix, at, limit)| Step::Range { prefix, at, limit }),
        2 => (0..PREFIXES.len(), 0.0..1.1f64).prop_map(|(prefix, from)| Step::Watch { prefix, from }),
        4 => (0..8usize).prop_map(Step::Poll),
        1 => Just(Step::Reopen),
    ]
}

/// The naive model. `states[n]` is everything at revision `n`.
struct Model {
    states: Vec<BTreeMap<String, KeyValue>>,
    events: Vec<Event>,
    compacted: Revision,
    leases: Vec<LeaseId>,
}

impl Model {
    fn new() -> Model {
        let states = vec![BTreeMap::new(); 2];
        Model { states, events: Vec::new(), compacted: Revision::ZERO, leases: Vec::new() }
    }

    fn revision(&self) -> Revision {
        Revision(self.states.len() as u64 - 1)
    }

    fn now(&self) -> &BTreeMap<String, KeyValue> {
        self.states.last().unwrap()
    }

    fn share(&self, share: f64) -> Revision {
        Revision((self.revision().0 as f64 * share) as u64)
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnOutcome, Error> {
        let before = self.now().clone();
        let held = txn.compares.iter().all(|compare| holds(before.get(&compare.key), &compare.check));
        let mut after = before.clone();
        let mut results = Vec::new();
        for op in if held { &txn.then } else { &txn.otherwise } {
            results.push(match op {
                Op::Put { key, value, lease } => {
                    if let Some(lease) = lease.filter(|lease| !self.leases.contains(lease)) {
                        return Err(Error::LeaseNotFound { lease });
                    }
                    let mod_revision = self.revision().next();
                    let old = before.get(key);
                    let kv = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: old.map_or(mod_revision, |old| old.create_revision),
                        mod_revision,
                        version: old.map_or(1, |old| old.version + 1),
                        lease: *lease,
                    };
                    OpOutcome::Put { previous: after.insert(key.clone(), kv) }
                }
                Op::Delete { key } => removed(after.remove(key).into_iter().collect()),
                Op::DeletePrefix { prefix } => removed(
                    after.extract_if(.., |key, _| key.starts_with(prefix)).map(|(_, kv)| kv).collect(),
                ),
                Op::Get { key } => OpOutcome::Got(before.get(key).cloned()),
            });
        }
        self.advance(before, after);
        Ok(TxnOutcome { held, revision: self.revision(), results })
    }

    fn revoke(&mut self, lease: LeaseId) -> Result<Revision, Error> {
        let Some(at) = self.leases.iter().position(|known| *known == lease) else {
            return Err(Error::LeaseNotFound { lease });
        };
        self.leases.remove(at);
        let before = self.now().clone();
        let after = before.clone().into_iter().filter(|(_, kv)| kv.lease != Some(lease)).collect();
        self.advance(before, after);
        Ok(self.revision())
    }

    /// Events within one revision are compared as sets, so they are kept in key order.
    fn advance(&mut self, before: BTreeMap<String, KeyValue>, after: BTreeMap<String, KeyValue>) {
        let mod_revision = self.revision().next();
        let mut events = Vec::new();
        for kv in after.values().filter(|kv| kv.mod_revision == mod_revision) {
            events.push(Event::Put { kv: kv.clone(), prev: before.get(&kv.key).cloned() });
        }
        for (key, kv) in before.iter().filter(|(key, _)| !after.contains_key(*key)) {
            events.push(Event::Delete { key: key.clone(), prev: Some(kv.clone()), mod_revision });
        }
        if events.is_empty() {
            return;
        }
        events.sort_by(|a, b| a.key().cmp(b.key()));
        self.events.extend(events);
        self.states.push(after);
    }

    fn range(&self, range: &Range) -> Result<(Vec<KeyValue>, Revision), Error> {
        let (revision, current, compacted) =
            (range.at.unwrap_or(self.revision()), self.revision(), self.compacted);
        if revision > current {
            return Err(Error::FutureRevision { requested: revision, current });
        }
        if revision < compacted {
            return Err(Error::Compacted { requested: revision, compacted });
        }
        let state = &self.states[revision.0 as usize];
        Ok((state.values().filter(|kv| kv.key.starts_with(&range.prefix)).cloned().collect(), revision))
    }

    fn compact(&mut self, revision: Revision) -> Result<Revision, Error> {
        if revision > self.revision() {
            return Err(Error::FutureRevision { requested: revision, current: self.revision() });
        }
        self.compacted = self.compacted.max(revision);
        Ok(self.compacted)
    }

    fn events(&self, prefix: &str, from: Revision, through: Revision) -> Vec<Event> {
        let matching = |event: &&Event| {
            event.key().starts_with(prefix) && event.revision() >= from && event.revision() <= through
        };
        self.events.iter().filter(matching).cloned().collect()
    }
}

fn removed(previous: Vec<KeyValue>) -> OpOutcome {
    OpOutcome::Deleted { count: previous.len(), previous }
}

/// Written down anew, not shared with the store.
fn holds(found: Option<&KeyValue>, check: &Check) -> bool {
    let (modified, version) = found.map_or((0, 0), |kv| (kv.mod_revision.0, kv.version));
    match check {
        Check::Absent => found.is_none(),
        Check::Present => found.is_some(),
        Check::Value(Ordering::Equal, given) => found.is_some_and(|kv| kv.value == given),
        Check::Value(Ordering::Greater, given) => found.is_some_and(|kv| kv.value > given),
        Check::ModRevision(Ordering::Less, given) => modified < given.0,
        Check::Version(Ordering::NotEqual, given) => version != *given,
        other @ (Check::ModRevision(..)
        | Check::CreateRevision(..)
        | Check::Version(..)
        | Check::Value(..)) => {
            panic!("the generator makes no {other:?}")
        }
    }
}

struct Follower {
    watch: Watch,
    prefix: &'static str,
    /// The first revision that has not been seen.
    from: Revision,
}

struct Backend {
    /// Where the file is; `None` for the store in memory.
    path: Option<PathBuf>,
    /// How many events are at hand for watchers: with few or none, they have to read history.
    recent: usize,
}

impl Backend {
    /// Opens the store, or opens it again.
    async fn open(&self) -> Arc<dyn Store> {
        let tasks = Tasks::new();
        let retention = Retention { recent: self.recent, ..Retention::DISK };
        match &self.path {
            None => Arc::new(MemoryStore::with_retention(retention, &tasks)),
            Some(path) => {
                let options = Options { execution: Execution::Inline, retention, max_bytes: None };
                Arc::new(SqliteStore::open(path, options, &tasks).await.unwrap())
            }
        }
    }
}

struct Run {
    store: Arc<dyn Store>,
    model: Model,
    watches: Vec<Follower>,
    /// Every lease ever granted, also those that are gone.
    granted: Vec<LeaseId>,
}

impl Run {
    async fn step(&mut self, step: &Step, backend: &Backend) {
        match step {
            Step::Txn { compares, then, otherwise } => self.txn(compares, then, otherwise).await,
            Step::Grant => {
                let lease = self.store.grant(LEASE_TTL).await.unwrap().id;
                assert!(!self.granted.contains(&lease));
                self.granted.push(lease);
                self.model.leases.push(lease);
            }
            Step::Revoke(at) => {
                let Some(lease) = self.granted.get(*at).copied() else { return };
                let cause = Cause::new("test", "");
                assert_eq!(self.store.revoke(lease, cause).await, self.model.revoke(lease));
            }
            Step::Compact(share) => {
                let revision = self.model.share(*share);
                assert_eq!(self.store.compact(revision).await, self.model.compact(revision));
                // Where history now starts it has to be whole.
                let from = self.model.compacted.max(Revision::FIRST);
                let range = Range::prefix("").at(from);
                assert_eq!(self.read_pages(range.clone()).await, self.model.range(&range));
                self.watches.push(Follower { watch: self.store.watch("", from), prefix: "", from });
                self.poll(self.watches.len() - 1).await;
            }
            Step::Range { prefix, at, limit } => {
                let mut range = Range::prefix(PREFIXES[*prefix]).limit(*limit);
                range.at = at.map(|share| self.model.share(share));
                assert_eq!(self.read_pages(range.clone()).await, self.model.range(&range));
            }
            Step::Watch { prefix, from } => {
                let (prefix, from) = (PREFIXES[*prefix], self.model.share(*from));
                let mut watch = self.store.watch(prefix, from);
                if from < self.model.compacted {
                    let expect = Error::Compacted { requested: from, compacted: self.model.compacted };
                    assert_eq!(watch.next().await.unwrap_err(), expect);
                    return;
                }
                self.watches.push(Follower { watch, prefix, from });
            }
            Step::Poll(at) if *at < self.watches.len() => self.poll(*at).await,
            Step::Poll(_) => {}
            Step::Reopen if backend.path.is_some() => {
                self.store.close().await;
                self.store = backend.open().await;
                for follower in &mut self.watches {
                    follower.watch = self.store.watch(follower.prefix, follower.from);
                }
                let compacted = self.model.compacted;
                self.watches.retain(|follower| follower.from >= compacted);
            }
            Step::Reopen => {}
        }
    }

    async fn txn(&mut self, compares: &[(usize, u8, u8)], then: &[Do], otherwise: &[Do]) {
        let compares = compares.iter().map(|(key, kind, n)| self.compare(*key, *kind, *n)).collect();
        let (then, otherwise) = (self.operations(then), self.operations(otherwise));
        let txn = Txn { compares, then, otherwise, previous: true, cause: Cause::new("test", "") };
        if let Err(error) = txn.validate() {
            assert_eq!(self.store.txn(txn).await, Err(error));
            return;
        }
        assert_eq!(self.store.txn(txn.clone()).await, self.model.txn(&txn), "{txn:?}");
    }

    fn compare(&self, key: usize, kind: u8, n: u8) -> Compare {
        let check = match kind {
            0 => Check::Absent,
            1 => Check::Present,
            2 => Check::Value(Ordering::Equal, Bytes::from(vec![n])),
            3 => Check::Value(Ordering::Greater, Bytes::from(vec![n])),
            4 => Check::ModRevision(Ordering::Less, self.model.share(f64::from(n) / 4.0)),
            _ => Check::Version(Ordering::NotEqual, u64::from(n)),
        };
        Compare { key: KEYS[key].to_owned(), check }
    }

    fn operations(&self, operations: &[Do]) -> Vec<Op> {
        let operation = |operation: &Do| match operation {
            Do::Put(key, n, lease) => {
                let lease = lease.and_then(|at| self.granted.get(at).copied());
                Op::Put { key: KEYS[*key].to_owned(), value: Bytes::from(vec![*n]), lease }
            }
            Do::Delete(key) => Op::Delete { key: KEYS[*key].to_owned() },
            Do::DeletePrefix(prefix) => Op::DeletePrefix { prefix: PREFIXES[*prefix].to_owned() },
            Do::Get(key) => Op::Get { key: KEYS[*key].to_owned() },
        };
        operations.iter().map(operation).collect()
    }

    async fn read_pages(&self, mut range: Range) -> Result<(Vec<KeyValue>, Revision), Error> {
        let mut items = Vec::new();
        loop {
            let mut page = self.store.range(range.clone()).await?;
            assert!(page.items.len() <= range.limit);
            items.append(&mut page.items);
            match range.following(&page) {
                Some(following) => range = following,
                None => return Ok((items, page.revision)),
            }
        }
    }

    /// Reads until the watch waits, and compares with what the model says it has to have seen.
    async fn poll(&mut self, at: usize) {
        let follower = &mut self.watches[at];
        let mut seen = Vec::new();
        loop {
            match tokio::time::timeout(Duration::from_secs(10), follower.watch.next()).await {
                Err(_) => break,
                Ok(Ok(batch)) => seen.extend(batch.events),
                Ok(Err(error)) => {
                    // A running watch may be told so only if it really lies behind.
                    assert!(matches!(error, Error::Compacted { .. }), "{error}");
                    assert!(
                        follower.from < self.model.compacted,
                        "{error}, but it had seen {}",
                        follower.from
                    );
                    self.watches.remove(at);
                    return;
                }
            }
        }
        let expect = self.model.events(follower.prefix, follower.from, self.model.revision());
        seen.sort_by(|a, b| (a.revision(), a.key()).cmp(&(b.revision(), b.key())));
        // What was before an event may have been compacted.
        for (seen, expect) in seen.iter_mut().zip(&expect) {
            let (Event::Put { prev, .. } | Event::Delete { prev, .. }) = seen;
            if prev.is_none() && expect.revision() <= self.model.compacted {
                *prev = expect.prev().cloned();
            }
        }
        assert_eq!(seen, expect, "watching {:?} from {}", follower.prefix, follower.from);
        follower.from = follower.from.max(self.model.revision().next());
    }
}

fn check(steps: &[Step], backend: &Backend) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (store, model) = (backend.open().await, Model::new());
        let mut run = Run { store, model, watches: Vec::new(), granted: Vec::new() };
        for step in steps {
            run.step(step, backend).await;
        }
        while !run.watches.is_empty() {
            run.poll(0).await;
            if !run.watches.is_empty() {
                run.watches.remove(0);
            }
        }
        run.store.close().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn memory_agrees_with_the_model(steps in vec(step(), 1..80), recent in RECENT) {
        check(&steps, &Backend { path: None, recent });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_agrees_with_the_model(steps in vec(step(), 1..80), recent in RECENT) {
        let folder = tempfile::tempdir().unwrap();
        check(&steps, &Backend { path: Some(folder.path().join("store.db")), recent });
    }
}
