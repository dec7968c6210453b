//! Documents, records and reports at one time, what became of them since, and which outputs that touches.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;

use dodai_api::Kind;
use dodai_core::id::AppId;

use crate::documents::{Belonging, Documents};
use crate::name;
use crate::reads::{Noted, Read, Reads};
use crate::records::{Millis, Observed, Records};

/// Everything that plans, statuses and snapshots are made of. Clones share what they have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub documents: Documents,
    pub records: Records,
    pub observed: Observed,
}

impl World {
    /// The same; looks at it are noted in `reads`.
    pub fn noting(&self, reads: &Reads) -> World {
        World {
            documents: self.documents.noting(reads),
            records: self.records.noting(reads),
            observed: self.observed.noting(reads),
        }
    }

    /// What is not the same in `to`.
    pub fn differences(&self, to: &World) -> HashSet<Read> {
        let mut changed = HashSet::new();
        self.documents.differences(&to.documents, |read| changed.extend([read]));
        self.records.differences(&to.records, |read| changed.extend([read]));
        self.observed.differences(&to.observed, |read| changed.extend([read]));
        changed
    }
}

/// The apps that these are of.
pub(crate) fn apps_of(changed: &HashSet<Read>) -> impl Iterator<Item = AppId> {
    changed.iter().filter_map(|read| match read {
        Read::Document(key) if key.kind == Kind::App => {
            Some(name::app_in(&key.namespace, &key.name.as_str().parse().ok()?))
        }
        Read::Belonging(Belonging::Revision, app) | Read::App(app) | Read::Instances(app) => {
            Some(app.clone())
        }
        Read::Document(_)
        | Read::Kind(_)
        | Read::Names(_)
        | Read::Belonging(..)
        | Read::On(_)
        | Read::Report(_)
        | Read::Presence(_)
        | Read::Mesh(_)
        | Read::Sighting(_)
        | Read::Bases => None,
    })
}

/// Which outputs were made of what.
#[derive(Debug)]
pub(crate) struct Memo<K> {
    made: HashMap<K, Noted>,
    readers: HashMap<Read, HashSet<K>>,
    /// The outputs that time alone changes, by when.
    ends: BTreeSet<(Millis, K)>,
}

impl<K> Default for Memo<K> {
    fn default() -> Self {
        Memo { made: HashMap::new(), readers: HashMap::new(), ends: BTreeSet::new() }
    }
}

impl<K: Clone + Ord + Hash> Memo<K> {
    /// Takes note of what an output was made of.
    pub fn keep(&mut self, key: K, noted: Noted) {
        self.forget(&key);
        for read in &noted.reads {
            self.readers.entry(read.clone()).or_default().insert(key.clone());
        }
        self.ends.extend(noted.until.map(|at| (at, key.clone())));
        self.made.insert(key, noted);
    }

    /// An output is not kept any longer.
    pub fn forget(&mut self, key: &K) {
        let Some(noted) = self.made.remove(key) else { return };
        for read in &noted.reads {
            if let Some(readers) = self.readers.get_mut(read) {
                readers.remove(key);
                if readers.is_empty() {
                    self.readers.remove(read);
                }
            }
        }
        if let Some(at) = noted.until {
            self.ends.remove(&(at, key.clone()));
        }
    }

    /// The outputs that are to be made anew.
    pub fn stale(&self, changed: &HashSet<Read>, now: Millis) -> BTreeSet<K> {
        let touched = changed.iter().filter_map(|read| self.readers.get(read)).flatten();
        let ended = self.ends.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| key);
        touched.chain(ended).cloned().collect()
    }

    /// When time alone changes an output next.
    pub fn deadline(&self) -> Option<Millis> {
        self.ends.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests;
