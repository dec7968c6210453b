//! The store in memory: for bases without a server, and for tests. Same semantics as on disk, no threads,
//! so it runs under paused time. Everything is lost with the process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dodai_core::task::{Kind, Tasks};
use futures_core::future::BoxFuture;

use crate::change::{Cause, Change, Changes, Retention};
use crate::error::{Error, Result};
use crate::feed::{History, Hub, Stretch};
use crate::key_value::{Got, KeyValue, Lease, LeaseId, Page, Range, Revision, Status};
use crate::lease::{self, EndLease, Terms};
use crate::plan::{self, View, check_readable, cut_whole_revisions};
use crate::store::Store;
use crate::txn::{Txn, TxnOutcome};
use crate::watch::{Event, Watch};

const BACKEND: &str = "memory";

/// A store in memory. Cheap to clone; clones share one store.
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    hub: Arc<Hub>,
    terms: Arc<Terms>,
    retention: Retention,
}

/// One state of a key; without a value it is a tombstone.
struct Version {
    revision: Revision,
    /// Its place among the events of its revision.
    place: usize,
    create_revision: Revision,
    version: u64,
    value: Option<Bytes>,
    lease: Option<LeaseId>,
}

struct State {
    revision: Revision,
    compacted: Revision,
    /// Every key's kept states, oldest first.
    keys: BTreeMap<String, Vec<Version>>,
    leases: BTreeMap<LeaseId, BTreeSet<String>>,
    last_lease: u64,
    changes: VecDeque<Change>,
}

impl MemoryStore {
    /// An empty store with the usual retention. `tasks` carries the loop that ends leases.
    pub fn new(tasks: &Tasks) -> MemoryStore {
        MemoryStore::with_retention(Retention::MEMORY, tasks)
    }

    /// An empty store.
    pub fn with_retention(retention: Retention, tasks: &Tasks) -> MemoryStore {
        let state = State {
            revision: Revision::FIRST,
            compacted: Revision::ZERO,
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            last_lease: 0,
            changes: VecDeque::new(),
        };
        let inner = Arc::new(Inner {
            state: Mutex::new(state),
            hub: Arc::new(Hub::new(Revision::FIRST, Revision::ZERO, retention.recent)),
            terms: Arc::default(),
            retention,
        });
        let terms = inner.terms.clone();
        tasks.spawn(Kind::Loop, lease::run(terms, Arc::downgrade(&inner), tasks.clone()));
        MemoryStore(inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.terms.close();
        self.hub.close();
    }
}

impl Inner {
    fn state(&self) -> Result<MutexGuard<'_, State>> {
        if self.hub.is_closed() {
            return Err(Error::Closed);
        }
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn txn(&self, txn: &Txn) -> Result<TxnOutcome> {
        txn.validate()?;
        let mut state = self.state()?;
        let plan = plan::plan(&*state, txn, state.revision.next())?;
        self.commit(&mut state, plan.events, &txn.cause);
        Ok(TxnOutcome { held: plan.held, revision: state.revision, results: plan.results })
    }

    fn end_lease(&self, lease: LeaseId, cause: &Cause) -> Result<Revision> {
        let mut state = self.state()?;
        let events = plan::plan_end_of_lease(&*state, lease, state.revision.next())?;
        self.commit(&mut state, events, cause);
        state.leases.remove(&lease);
        self.terms.forget(lease);
        Ok(state.revision)
    }

    /// Records events, all of the next revision, and publishes them before anyone else can commit.
    fn commit(&self, state: &mut State, events: Vec<Event>, cause: &Cause) {
        if events.is_empty() {
            return;
        }
        state.revision = state.revision.next();
        let at = SystemTime::now();
        for (place, event) in events.iter().enumerate() {
            state.record(event, place);
            let (revision, key) = (event.revision(), event.key().to_owned());
            let action = plan::action(event);
            state.changes.push_back(Change { revision, key, action, cause: cause.clone(), at });
        }
        let surplus =
            state.changes.len().saturating_sub(usize::try_from(self.retention.changes).unwrap_or(usize::MAX));
        state.changes.drain(..surplus);
        if let Some(target) = self.retention.compact_to(state.revision, state.compacted) {
            state.compact(target);
            self.hub.compact(target);
        }
        self.hub.publish(events, state.revision);
    }
}

impl State {
    fn record(&mut self, event: &Event, place: usize) {
        if let Some(old) = event.prev().and_then(|kv| kv.lease)
            && let Some(keys) = self.leases.get_mut(&old)
        {
            keys.remove(event.key());
        }
        let version = match event {
            Event::Put { kv, .. } => {
                if let Some(keys) = kv.lease.and_then(|lease| self.leases.get_mut(&lease)) {
                    keys.insert(kv.key.clone());
                }
                Version {
                    revision: kv.mod_revision,
                    place,
                    create_revision: kv.create_revision,
                    version: kv.version,
                    value: Some(kv.value.clone()),
                    lease: kv.lease,
                }
            }
            Event::Delete { mod_revision, .. } => Version {
                revision: *mod_revision,
                place,
                create_revision: Revision::ZERO,
                version: 0,
                value: None,
                lease: None,
            },
        };
        self.keys.entry(event.key().to_owned()).or_default().push(version);
    }

    /// Keeps of each key what is needed to read at `revision` and to watch from it.
    fn compact(&mut self, revision: Revision) {
        self.compacted = revision;
        self.keys.retain(|_, versions| {
            let upto = versions.partition_point(|version| version.revision <= revision);
            let Some(last) = upto.checked_sub(1) else { return true };
            let dead = versions[last].value.is_none() && versions[last].revision < revision;
            versions.drain(..if dead { upto } else { last });
            !versions.is_empty()
        });
    }

    fn under_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Vec<Version>)> {
        self.keys
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    fn range(&self, range: &Range) -> Result<Page> {
        let revision = range.at.unwrap_or(self.revision);
        check_readable(revision, self.compacted, self.revision)?;
        let mut alive = self
            .under_prefix(&range.prefix)
            .filter(|(key, _)| range.after.as_ref().is_none_or(|after| *key > after))
            .filter_map(|(key, versions)| as_of(key, versions, revision));
        let items: Vec<KeyValue> = alive.by_ref().take(range.limit.max(1)).collect();
        let more = alive.next().and(items.last()).map(|kv| kv.key.clone());
        Ok(Page { items, revision, more })
    }

    fn stretch(&self, prefix: &str, from: Revision, limit: usize) -> Result<Stretch> {
        if from < self.compacted {
            return Err(Error::Compacted { requested: from, compacted: self.compacted });
        }
        let mut found = Vec::new();
        for (key, versions) in self.under_prefix(prefix) {
            let start = versions.partition_point(|version| version.revision < from);
            found.extend((start..versions.len()).map(|at| (key, versions, at)));
        }
        found.sort_by_key(|(_, versions, at)| (versions[*at].revision, versions[*at].place));
        let cut = cut_whole_revisions(&mut found, limit, |(_, versions, at)| versions[*at].revision);
        let events: Vec<Event> =
            found.into_iter().map(|(key, versions, at)| event(key, versions, at)).collect();
        let last = events.last().map(Event::revision);
        let through = if cut { last.unwrap_or(self.revision) } else { self.revision };
        Ok(Stretch { events, through })
    }

    fn status(&self) -> Status {
        let alive =
            self.keys.values().filter(|versions| versions.last().is_some_and(|last| last.value.is_some()));
        let size = self.keys.iter().map(|(key, versions)| {
            let values = versions.iter().filter_map(|version| version.value.as_ref()).map(Bytes::len);
            key.len() + values.sum::<usize>()
        });
        Status {
            backend: BACKEND,
            revision: self.revision,
            compacted: self.compacted,
            keys: alive.count() as u64,
            size_bytes: size.sum::<usize>() as u64,
            schema_version: 0,
            queued_writes: 0,
        }
    }

    fn changes(&self, changes: &Changes) -> Vec<Change> {
        let start = self.changes.partition_point(|change| change.revision <= changes.after);
        let matching = self.changes.range(start..).filter(|change| change.key.starts_with(&changes.prefix));
        let mut found: Vec<&Change> = matching.collect();
        cut_whole_revisions(&mut found, changes.limit, |change| change.revision);
        found.into_iter().cloned().collect()
    }

    fn changes_of(&self, key: &str, limit: usize) -> Vec<Change> {
        self.changes.iter().rev().filter(|change| change.key == key).take(limit).cloned().collect()
    }
}

impl View for State {
    fn current(&self, key: &str) -> Result<Option<KeyValue>> {
        let found = self.keys.get(key).and_then(|versions| versions.last());
        Ok(found.and_then(|version| alive(key, version)))
    }

    fn under(&self, prefix: &str) -> Result<Vec<KeyValue>> {
        let last = |(key, versions): (&String, &Vec<Version>)| alive(key, versions.last()?);
        Ok(self.under_prefix(prefix).filter_map(last).collect())
    }

    fn has_lease(&self, lease: LeaseId) -> Result<bool> {
        Ok(self.leases.contains_key(&lease))
    }

    fn attached(&self, lease: LeaseId) -> Result<Vec<KeyValue>> {
        let keys = self.leases.get(&lease).into_iter().flatten();
        keys.filter_map(|key| self.current(key).transpose()).collect()
    }
}

fn alive(key: &str, version: &Version) -> Option<KeyValue> {
    Some(KeyValue {
        key: key.to_owned(),
        value: version.value.clone()?,
        create_revision: version.create_revision,
        mod_revision: version.revision,
        version: version.version,
        lease: version.lease,
    })
}

fn as_of(key: &str, versions: &[Version], revision: Revision) -> Option<KeyValue> {
    let upto = versions.partition_point(|version| version.revision <= revision);
    alive(key, &versions[upto.checked_sub(1)?])
}

fn event(key: &str, versions: &[Version], at: usize) -> Event {
    let prev = at.checked_sub(1).and_then(|before| alive(key, &versions[before]));
    match alive(key, &versions[at]) {
        Some(kv) => Event::Put { kv, prev },
        None => Event::Delete { key: key.to_owned(), prev, mod_revision: versions[at].revision },
    }
}

/// The history as watchers hold it: a watch does not keep the store alive.
struct Past(Weak<Inner>);

impl History for Past {
    fn stretch<'a>(
        &'a self,
        prefix: &'a str,
        from: Revision,
        limit: usize,
    ) -> BoxFuture<'a, Result<Stretch>> {
        Box::pin(async move {
            let inner = self.0.upgrade().ok_or(Error::Closed)?;
            inner.state()?.stretch(prefix, from, limit)
        })
    }
}

impl EndLease for Inner {
    fn expire(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.end_lease(lease, &plan::expiry_cause(lease)).map(drop) })
    }
}

impl Store for MemoryStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Got>> {
        Box::pin(async move {
            let state = self.0.state()?;
            Ok(Got { kv: state.current(key)?, revision: state.revision })
        })
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page>> {
        Box::pin(async move { self.0.state()?.range(&range) })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome>> {
        Box::pin(async move { self.0.txn(&txn) })
    }

    fn watch(&self, prefix: &str, from: Revision) -> Watch {
        self.0.hub.watch(Arc::new(Past(Arc::downgrade(&self.0))), prefix, from)
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<Lease>> {
        Box::pin(async move {
            lease::check_ttl(ttl)?;
            let mut state = self.0.state()?;
            state.last_lease += 1;
            let id = LeaseId(state.last_lease);
            state.leases.insert(id, BTreeSet::new());
            self.0.terms.start(id, ttl);
            Ok(Lease { id, ttl })
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<Duration>> {
        Box::pin(async move { Ok(self.0.terms.renew(lease)?.ttl) })
    }

    fn revoke(&self, lease: LeaseId, cause: Cause) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move { self.0.end_lease(lease, &cause) })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move {
            let mut state = self.0.state()?;
            check_readable(revision, Revision::ZERO, state.revision)?;
            if revision > state.compacted {
                state.compact(revision);
                self.0.hub.compact(revision);
            }
            Ok(state.compacted)
        })
    }

    fn changes(&self, changes: Changes) -> BoxFuture<'_, Result<Vec<Change>>> {
        Box::pin(async move { Ok(self.0.state()?.changes(&changes)) })
    }

    fn changes_of<'a>(&'a self, key: &'a str, limit: usize) -> BoxFuture<'a, Result<Vec<Change>>> {
        Box::pin(async move { Ok(self.0.state()?.changes_of(key, limit)) })
    }

    fn status(&self) -> BoxFuture<'_, Result<Status>> {
        Box::pin(async move { Ok(self.0.state()?.status()) })
    }

    fn backup<'a>(&'a self, _path: &'a Path) -> BoxFuture<'a, Result<()>> {
        let unsupported = Error::Unsupported { operation: "be backed up", backend: BACKEND };
        Box::pin(async move { Err(unsupported) })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.0.terms.close();
            self.0.hub.close();
        })
    }
}
