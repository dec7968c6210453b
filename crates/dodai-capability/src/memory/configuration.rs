//! `configuration.in-memory`: values that operators set through our API.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::answer::Answer;
use crate::component::Lifecycle;
use crate::configuration::{Change, Error, Feeds, Item, Store, Subscription, Writer};
use crate::fault::{Fault, Kind};
use crate::metadata::Metadata;

#[derive(Default)]
struct Values {
    map: BTreeMap<String, Item>,
    version: u64,
}

/// A configuration store in memory.
pub struct Memory {
    values: Mutex<Values>,
    feeds: Feeds,
    closed: AtomicBool,
    limit: u64,
}

impl Memory {
    /// A store of at most `limit` keys.
    pub fn new(limit: u64) -> Memory {
        Memory { values: Mutex::default(), feeds: Feeds::default(), closed: AtomicBool::new(false), limit }
    }

    fn open(&self) -> Result<(), Fault> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Fault::new(Kind::Closed, "the configuration store has been closed"));
        }
        Ok(())
    }
}

impl Store for Memory {
    fn get<'a>(
        &'a self,
        keys: &'a [String],
        _: &'a Metadata,
    ) -> Answer<'a, Result<BTreeMap<String, Item>, Error>> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        Answer::ready(Ok(if keys.is_empty() {
            values.map.clone()
        } else {
            keys.iter().filter_map(|key| Some((key.clone(), values.map.get(key)?.clone()))).collect()
        }))
    }

    fn subscribe<'a>(
        &'a self,
        keys: &'a [String],
        _: &'a Metadata,
    ) -> Answer<'a, Result<Subscription, Error>> {
        Answer::ready(self.open().map(|()| self.feeds.subscribe(keys)).map_err(Error::from))
    }
}

impl Writer for Memory {
    fn set<'a>(
        &'a self,
        key: &'a str,
        value: &'a str,
        metadata: Metadata,
    ) -> Answer<'a, Result<Item, Error>> {
        if let Err(fault) = self.open() {
            return Answer::ready(Err(fault.into()));
        }
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        if values.map.len() as u64 >= self.limit && !values.map.contains_key(key) {
            let what = format!(
                "`{key}` was not set: the store holds its {} keys; delete some or raise maxItems",
                self.limit
            );
            return Answer::ready(Err(Fault::new(Kind::Full, what).into()));
        }
        values.version += 1;
        let item = Item { value: value.to_owned(), version: values.version.to_string(), metadata };
        values.map.insert(key.to_owned(), item.clone());
        // Told under the lock, so that feeds see changes in the order in which they were made.
        self.feeds.tell(&Change { key: key.to_owned(), item: Some(item.clone()) });
        Answer::ready(Ok(item))
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, Result<bool, Error>> {
        if let Err(fault) = self.open() {
            return Answer::ready(Err(fault.into()));
        }
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let found = values.map.remove(key).is_some();
        if found {
            self.feeds.tell(&Change { key: key.to_owned(), item: None });
        }
        Answer::ready(Ok(found))
    }
}

impl Lifecycle for Memory {
    fn close(&self) -> Answer<'_, ()> {
        self.closed.store(true, Ordering::Release);
        self.feeds.end();
        Answer::ready(())
    }
}
