//! `state.in-memory`: a hash map behind a lock, with etags, expiry and transactions.

use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::time::Instant;

use crate::answer::Answer;
use crate::fault::{Fault, Kind};
use crate::metadata::{Metadata, Ttl};
use crate::state::{Delete, Error, Etag, Features, Get, Item, List, Operation, Page, Set, Store, admit};

/// What it can do.
pub(super) const FEATURES: Features = Features {
    etag: true,
    first_write: true,
    transaction: true,
    ttl: true,
    list: true,
    content_type: true,
    durable: false,
    max_operations: None,
};

/// What an entry costs beside its key and value.
const OVERHEAD: u64 = 160;

#[derive(Clone)]
struct Entry {
    value: Bytes,
    etag: Etag,
    content_type: Option<Arc<str>>,
    expires: Option<Instant>,
}

#[derive(Default)]
struct Items {
    map: HashMap<Arc<str>, Entry>,
    expiry: BTreeSet<(Instant, Arc<str>)>,
    bytes: u64,
    writes: u64,
}

/// A state store in memory.
pub struct Memory {
    items: RwLock<Items>,
    limit: u64,
}

impl Memory {
    /// A store of at most `limit` bytes of keys and values, overhead included.
    pub fn new(limit: u64) -> Memory {
        Memory { items: RwLock::default(), limit }
    }

    fn write<T>(&self, work: impl FnOnce(&mut Items) -> T) -> T {
        let mut items = self.items.write().unwrap_or_else(PoisonError::into_inner);
        items.sweep(Instant::now());
        work(&mut items)
    }
}

fn cost(key: &str, value: &Bytes) -> u64 {
    key.len() as u64 + value.len() as u64 + OVERHEAD
}

impl Items {
    /// Forgets what has expired.
    fn sweep(&mut self, now: Instant) {
        while self.expiry.first().is_some_and(|(expires, _)| *expires <= now) {
            let Some((_, key)) = self.expiry.pop_first() else { return };
            if let Some(entry) = self.map.remove(&key) {
                self.bytes -= cost(&key, &entry.value);
            }
        }
    }

    /// Puts an entry, or removes it; returns what was there.
    fn put(&mut self, key: &Arc<str>, entry: Option<Entry>) -> Option<Entry> {
        let before = match entry {
            None => self.map.remove(key),
            Some(entry) => {
                self.bytes += cost(key, &entry.value);
                if let Some(expires) = entry.expires {
                    self.expiry.insert((expires, key.clone()));
                }
                self.map.insert(key.clone(), entry)
            }
        };
        if let Some(before) = &before {
            self.bytes -= cost(key, &before.value);
            let expires =
                before.expires.filter(|at| self.map.get(key).and_then(|now| now.expires) != Some(*at));
            if let Some(expires) = expires {
                self.expiry.remove(&(expires, key.clone()));
            }
        }
        before
    }

    /// Does one operation; returns how to undo it.
    fn apply(&mut self, operation: Operation, limit: u64) -> Result<(Arc<str>, Option<Entry>), Error> {
        match operation {
            Operation::Upsert(set) => {
                let now = self.map.get(&*set.key);
                admit(&set.key, &set.etag, set.concurrency, now.map(|entry| entry.etag.as_str()))?;
                let freed = now.map_or(0, |entry| cost(&set.key, &entry.value));
                if self.bytes - freed + cost(&set.key, &set.value) > limit {
                    let what = format!(
                        "key `{}` was not written: the store holds its {limit} bytes; delete keys, give them a ttl or raise maxBytes",
                        set.key
                    );
                    return Err(Fault::new(Kind::Full, what).into());
                }
                self.writes += 1;
                let entry = Entry {
                    value: set.value,
                    etag: self.writes.to_string().into(),
                    content_type: set.content_type,
                    expires: match set.ttl {
                        Ttl::Unset | Ttl::Never => None,
                        Ttl::After(limit) => Some(Instant::now() + limit),
                    },
                };
                let key = Arc::from(set.key);
                let before = self.put(&key, Some(entry));
                Ok((key, before))
            }
            Operation::Delete(delete) => {
                let now = self.map.get(&*delete.key).map(|entry| entry.etag.as_str());
                admit(&delete.key, &delete.etag, delete.concurrency, now)?;
                let key = Arc::from(delete.key);
                let before = self.put(&key, None);
                Ok((key, before))
            }
        }
    }

    fn apply_all(&mut self, operations: Vec<Operation>, limit: u64) -> Result<(), Error> {
        let mut undo = Vec::with_capacity(operations.len());
        for operation in operations {
            match self.apply(operation, limit) {
                Ok(step) => undo.push(step),
                Err(error) => {
                    for (key, before) in undo.into_iter().rev() {
                        self.put(&key, before);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn list(&self, request: &List, now: Instant) -> Page {
        // Keeps the smallest keys only: the greatest of them is on top and leaves first.
        let mut smallest = BinaryHeap::with_capacity(request.limit.min(1024) + 1);
        for (key, entry) in &self.map {
            let wanted = key.starts_with(&request.prefix)
                && request.after.as_ref().is_none_or(|after| **key > **after)
                && entry.expires.is_none_or(|at| at > now);
            if wanted {
                smallest.push(key);
                if smallest.len() > request.limit.saturating_add(1) {
                    smallest.pop();
                }
            }
        }
        let mut keys: Vec<String> =
            smallest.into_sorted_vec().into_iter().map(|key| key.to_string()).collect();
        let more = keys.len() > request.limit;
        keys.truncate(request.limit);
        Page { next: keys.last().filter(|_| more).cloned(), keys }
    }
}

impl Store for Memory {
    fn features(&self) -> Features {
        FEATURES
    }

    fn get<'a>(&'a self, request: &'a Get) -> Answer<'a, Result<Option<Item>, Error>> {
        let items = self.items.read().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = items.map.get(&*request.key) else { return Answer::ready(Ok(None)) };
        let expires = match entry.expires {
            None => None,
            Some(expires) => {
                let left = expires.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Answer::ready(Ok(None));
                }
                Some(SystemTime::now() + left)
            }
        };
        Answer::ready(Ok(Some(Item {
            value: entry.value.clone(),
            etag: Some(entry.etag.clone()),
            content_type: entry.content_type.clone(),
            expires,
        })))
    }

    fn set(&self, request: Set) -> Answer<'_, Result<(), Error>> {
        Answer::ready(self.write(|items| items.apply(Operation::Upsert(request), self.limit)).map(|_| ()))
    }

    fn delete(&self, request: Delete) -> Answer<'_, Result<(), Error>> {
        Answer::ready(self.write(|items| items.apply(Operation::Delete(request), self.limit)).map(|_| ()))
    }

    fn transact(&self, operations: Vec<Operation>, _metadata: Metadata) -> Answer<'_, Result<(), Error>> {
        Answer::ready(self.write(|items| items.apply_all(operations, self.limit)))
    }

    fn list<'a>(&'a self, request: &'a List) -> Answer<'a, Result<Page, Error>> {
        let items = self.items.read().unwrap_or_else(PoisonError::into_inner);
        Answer::ready(Ok(items.list(request, Instant::now())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_counted_exactly() {
        let store = Memory::new(2 * (OVERHEAD + 1 + 10));
        let value = || Bytes::from_static(&[7; 10]);
        store.set(Set::new("a", value())).await.unwrap();
        store.set(Set::new("b", value())).await.unwrap();
        store.set(Set::new("b", value())).await.expect("replacing needs no more room");
        let error = store.set(Set::new("c", value())).await.expect_err("full");
        assert_eq!(error.code(), "full");
        assert!(error.to_string().contains("maxBytes"), "{error}");
        let steps = vec![
            Operation::Delete(Delete::new("a")),
            Operation::Upsert(Set::new("c", value())),
            Operation::Upsert(Set::new("d", value())),
        ];
        store.transact(steps, Metadata::new()).await.expect_err("full half-way");
        assert!(store.get(&Get::new("a")).await.unwrap().is_some());
        store.delete(Delete::new("a")).await.unwrap();
        store.delete(Delete::new("b")).await.unwrap();
        assert_eq!(store.items.read().unwrap().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn expired_values_give_their_room_back() {
        let store = Memory::new(1 << 20);
        for key in 0..100 {
            let ttl = Ttl::After(std::time::Duration::from_secs(1));
            store.set(Set { ttl, ..Set::new(key.to_string(), "v") }).await.unwrap();
        }
        store.set(Set::new("0", "stays")).await.unwrap();
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        store.set(Set::new("1", "again")).await.unwrap();
        let items = store.items.read().unwrap();
        assert_eq!((items.map.len(), items.expiry.len()), (2, 0));
    }
}
