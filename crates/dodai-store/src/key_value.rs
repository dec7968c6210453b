//! Keys, values and revisions, and what reading them takes and gives.
//!
//! Keys are UTF-8 strings such as `/App/default/catalog`, ordered by their bytes; values are bytes that
//! the store does not look into.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// A point in the store's history. Every transaction that changes something takes the next one; a fresh
/// store is at 1. Zero stands for "before everything".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// Before everything; as a modification revision: the key does not exist.
    pub const ZERO: Revision = Revision(0);
    /// Where a fresh store starts.
    pub const FIRST: Revision = Revision(1);

    /// The revision after this one: where a watch starts that follows a read.
    #[must_use]
    pub fn next(self) -> Revision {
        Revision(self.0.saturating_add(1))
    }

    /// The revision before this one.
    #[must_use]
    pub fn previous(self) -> Revision {
        Revision(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a lease. Never used twice by one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease as granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// How long it lives without being kept alive. A back end may have rounded it up.
    pub ttl: Duration,
}

/// A key with its value and its history in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// When the key was last created.
    pub create_revision: Revision,
    /// When the key was last written.
    pub mod_revision: Revision,
    /// How often it was written since it was created, starting at 1.
    pub version: u64,
    /// The lease that it vanishes with.
    pub lease: Option<LeaseId>,
}

/// The answer to a read of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The key, if it exists.
    pub kv: Option<KeyValue>,
    /// The store's revision that this was true at.
    pub revision: Revision,
}

/// A read of all keys under a prefix, in key order, one page at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Keys start with this; empty for all.
    pub prefix: String,
    /// Read as of this revision instead of now.
    pub at: Option<Revision>,
    /// The most keys in one page.
    pub limit: usize,
    /// Go on after this key: [`Page::more`] of the page before.
    pub after: Option<String>,
}

impl Range {
    /// The page size unless told otherwise.
    pub const DEFAULT_LIMIT: usize = 500;

    /// The first page of everything under `prefix`, as of now.
    pub fn prefix(prefix: impl Into<String>) -> Range {
        Range { prefix: prefix.into(), at: None, limit: Range::DEFAULT_LIMIT, after: None }
    }

    /// The same range as of `revision`.
    #[must_use]
    pub fn at(mut self, revision: Revision) -> Range {
        self.at = Some(revision);
        self
    }

    /// The same range with at most `limit` keys in a page (at least one).
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Range {
        self.limit = limit.max(1);
        self
    }

    /// The page that follows `page`, at the same revision; `None` after the last.
    pub fn following(&self, page: &Page) -> Option<Range> {
        let after = page.more.clone()?;
        Some(Range { at: Some(page.revision), after: Some(after), ..self.clone() })
    }
}

/// One page of a [`Range`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The keys, in order.
    pub items: Vec<KeyValue>,
    /// The revision that the page was read at.
    pub revision: Revision,
    /// The last key of this page, when there are more.
    pub more: Option<String>,
}

/// What the store is and how far it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `memory`, `sqlite`, ...
    pub backend: &'static str,
    /// The last revision.
    pub revision: Revision,
    /// The oldest revision that can be read; zero when nothing was ever compacted.
    pub compacted: Revision,
    /// How many keys exist.
    pub keys: u64,
    /// The size on disk (or of all values in memory), in bytes.
    pub size_bytes: u64,
    /// The version of the storage format.
    pub schema_version: i64,
    /// How many writes wait for the writer.
    pub queued_writes: usize,
}
