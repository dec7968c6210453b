//! Key-value state: the trait that every state store serves, its requests and its errors.
//!
//! Values are bytes; whichever API wrote them, the same bytes come back. An etag is opaque to callers and
//! changes with every write. Deleting a key that is not there succeeds, unless an etag was given with it.

mod sealed;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
pub use dodai_core::features::State as Features;
use futures_util::StreamExt;

use crate::answer::Answer;
use crate::fault::{Fault, Kind};
use crate::metadata::{Metadata, Ttl};

pub(crate) use sealed::Keys;

/// How many single gets a bulk get runs at once when the caller does not say.
pub const DEFAULT_PARALLELISM: usize = 10;

/// A store's mark of one version of a value.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Etag(Arc<str>);

impl Etag {
    /// The mark as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Etag {
    fn from(text: &str) -> Etag {
        Etag(text.into())
    }
}

impl From<String> for Etag {
    fn from(text: String) -> Etag {
        Etag(text.into())
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Who wins when two write the same key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// The last one; an etag, if given, must still match.
    #[default]
    LastWrite,
    /// The first one: without an etag the key must not exist yet.
    FirstWrite,
}

impl Concurrency {
    /// Reads `first-write`, `last-write` or nothing.
    pub fn parse(text: &str) -> Option<Concurrency> {
        match text {
            "" | "last-write" => Some(Concurrency::LastWrite),
            "first-write" => Some(Concurrency::FirstWrite),
            _ => None,
        }
    }
}

/// How much of a store must agree before it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// The store's default.
    #[default]
    Unset,
    /// One replica is enough.
    Eventual,
    /// All of them, or a quorum.
    Strong,
}

impl Consistency {
    /// Reads `eventual`, `strong` or nothing.
    pub fn parse(text: &str) -> Option<Consistency> {
        match text {
            "" => Some(Consistency::Unset),
            "eventual" => Some(Consistency::Eventual),
            "strong" => Some(Consistency::Strong),
            _ => None,
        }
    }
}

/// Asks for one value.
#[derive(Clone, Debug, Default)]
pub struct Get {
    /// The full key, prefix included.
    pub key: String,
    /// How fresh it must be.
    pub consistency: Consistency,
    /// What the store's driver may read.
    pub metadata: Metadata,
}

impl Get {
    /// A plain read of `key`.
    pub fn new(key: impl Into<String>) -> Get {
        Get { key: key.into(), ..Get::default() }
    }
}

/// One value as it is stored.
#[derive(Clone, Debug)]
pub struct Item {
    /// The bytes.
    pub value: Bytes,
    /// The mark of this version; `None` if the store keeps none.
    pub etag: Option<Etag>,
    /// The media type, where the store keeps it.
    pub content_type: Option<Arc<str>>,
    /// When it expires, if it does.
    pub expires: Option<SystemTime>,
}

/// Writes one value.
#[derive(Clone, Debug, Default)]
pub struct Set {
    /// The full key, prefix included.
    pub key: String,
    /// The bytes.
    pub value: Bytes,
    /// The version that must still be there; an empty one counts as none.
    pub etag: Option<Etag>,
    /// Who wins.
    pub concurrency: Concurrency,
    /// How many replicas must have it.
    pub consistency: Consistency,
    /// How long it lives.
    pub ttl: Ttl,
    /// The media type, if known.
    pub content_type: Option<Arc<str>>,
    /// What the store's driver may read.
    pub metadata: Metadata,
}

impl Set {
    /// A plain write.
    pub fn new(key: impl Into<String>, value: impl Into<Bytes>) -> Set {
        Set { key: key.into(), value: value.into(), ..Set::default() }
    }
}

/// Removes one value.
#[derive(Clone, Debug, Default)]
pub struct Delete {
    /// The full key, prefix included.
    pub key: String,
    /// The version that must still be there; an empty one counts as none.
    pub etag: Option<Etag>,
    /// Who wins. `FirstWrite` without an etag removes nothing that exists.
    pub concurrency: Concurrency,
    /// How many replicas must know.
    pub consistency: Consistency,
    /// What the store's driver may read.
    pub metadata: Metadata,
}

impl Delete {
    /// A plain removal.
    pub fn new(key: impl Into<String>) -> Delete {
        Delete { key: key.into(), ..Delete::default() }
    }
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Writes a value.
    Upsert(Set),
    /// Removes a value.
    Delete(Delete),
}

/// Asks for keys in their byte order.
#[derive(Clone, Debug)]
pub struct List {
    /// Only keys that begin so.
    pub prefix: String,
    /// Only keys behind this one: the `next` of the page before.
    pub after: Option<String>,
    /// At most this many.
    pub limit: usize,
}

/// Some keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys, ascending.
    pub keys: Vec<String>,
    /// What to ask for next; `None` at the end.
    pub next: Option<String>,
}

/// Why a state request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else changed the value, or it is gone, or it exists although it should not.
    #[error("key `{key}`: the etag does not match; read it again and repeat the change")]
    EtagMismatch {
        /// Which key.
        key: String,
    },
    /// The etag cannot be one of this store's.
    #[error("key `{key}`: `{etag}` is no etag of this store; pass back the one that a read returned")]
    EtagMalformed {
        /// Which key.
        key: String,
        /// What was given.
        etag: String,
    },
    /// A transaction is longer than the store allows.
    #[error("the transaction has {given} operations, the store takes {limit}; split it")]
    TooManyOperations {
        /// How many there were.
        given: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The driver failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Error {
    /// A stable word for this error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::EtagMismatch { .. } => "state_etag_mismatch",
            Error::EtagMalformed { .. } => "state_etag_malformed",
            Error::TooManyOperations { .. } => "state_too_many_operations",
            Error::Fault(fault) => fault.kind().as_str(),
        }
    }
}

/// The etag a request insists on: an empty one counts as none.
pub fn wanted(etag: &Option<Etag>) -> Option<&Etag> {
    etag.as_ref().filter(|etag| !etag.as_str().is_empty())
}

/// Whether a write may go ahead given the etag that is stored now (`None`: no such key): the rule that
/// drivers share.
///
/// # Errors
/// [`Error::EtagMismatch`] if it may not.
pub fn admit(
    key: &str,
    etag: &Option<Etag>,
    concurrency: Concurrency,
    now: Option<&str>,
) -> Result<(), Error> {
    let allowed = match (wanted(etag), now) {
        (Some(wanted), Some(now)) => wanted.as_str() == now,
        (Some(_), None) => false,
        (None, Some(_)) => concurrency == Concurrency::LastWrite,
        (None, None) => true,
    };
    if allowed { Ok(()) } else { Err(Error::EtagMismatch { key: key.to_owned() }) }
}

/// A state store.
pub trait Store: Send + Sync {
    /// What it can do.
    fn features(&self) -> Features;

    /// Reads one value; `None` if there is none or it has expired.
    fn get<'a>(&'a self, request: &'a Get) -> Answer<'a, Result<Option<Item>, Error>>;

    /// Writes one value. When this returns `Ok`, a durable store has it on disk.
    fn set(&self, request: Set) -> Answer<'_, Result<(), Error>>;

    /// Removes one value.
    fn delete(&self, request: Delete) -> Answer<'_, Result<(), Error>>;

    /// Does the operations in order, all or none.
    fn transact(&self, operations: Vec<Operation>, _metadata: Metadata) -> Answer<'_, Result<(), Error>> {
        let what =
            format!("a transaction of {} operations was refused: the store has none", operations.len());
        Answer::ready(Err(Fault::new(Kind::Unsupported, what).into()))
    }

    /// Reads many values, at most `parallelism` at once (0: the default); answers in the order asked.
    fn get_many<'a>(
        &'a self,
        requests: &'a [Get],
        parallelism: usize,
    ) -> Answer<'a, Vec<Result<Option<Item>, Error>>> {
        let parallelism = if parallelism == 0 { DEFAULT_PARALLELISM } else { parallelism };
        let answers: Vec<_> = requests.iter().map(|request| self.get(request)).collect();
        Answer::later(futures_util::stream::iter(answers).buffered(parallelism).collect())
    }

    /// Writes many values, each on its own: one may fail while others are written. Answers in order.
    fn set_many(&self, requests: Vec<Set>) -> Answer<'_, Vec<Result<(), Error>>> {
        let answers: Vec<_> = requests.into_iter().map(|request| self.set(request)).collect();
        Answer::later(futures_util::stream::iter(answers).buffered(DEFAULT_PARALLELISM).collect())
    }

    /// Removes many values, each on its own. Answers in order.
    fn delete_many(&self, requests: Vec<Delete>) -> Answer<'_, Vec<Result<(), Error>>> {
        let answers: Vec<_> = requests.into_iter().map(|request| self.delete(request)).collect();
        Answer::later(futures_util::stream::iter(answers).buffered(DEFAULT_PARALLELISM).collect())
    }

    /// Lists keys, for the console and for key-value interfaces.
    fn list<'a>(&'a self, _request: &'a List) -> Answer<'a, Result<Page, Error>> {
        Answer::ready(Err(Fault::new(Kind::Unsupported, "the store cannot list its keys").into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_admitted_by_etag_and_concurrency() {
        use Concurrency::{FirstWrite, LastWrite};
        let table: [(Option<&str>, Concurrency, Option<&str>, bool); 9] = [
            (None, LastWrite, None, true),
            (None, LastWrite, Some("1"), true),
            (None, FirstWrite, None, true),
            (None, FirstWrite, Some("1"), false),
            (Some(""), FirstWrite, Some("1"), false),
            (Some(""), LastWrite, Some("1"), true),
            (Some("1"), LastWrite, Some("1"), true),
            (Some("2"), LastWrite, Some("1"), false),
            (Some("1"), FirstWrite, None, false),
        ];
        for (etag, concurrency, now, allowed) in table {
            let outcome = admit("k", &etag.map(Etag::from), concurrency, now);
            assert_eq!(outcome.is_ok(), allowed, "{etag:?} {concurrency:?} {now:?}");
        }
    }

    #[test]
    fn words_are_read_strictly() {
        assert_eq!(Concurrency::parse("first-write"), Some(Concurrency::FirstWrite));
        assert_eq!(Concurrency::parse("first"), None);
        assert_eq!(Consistency::parse("strong"), Some(Consistency::Strong));
        assert_eq!(Consistency::parse("Strong"), None);
    }
}
