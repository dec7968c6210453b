//! Transactions: compares, and what is done when they hold or do not. All or nothing, in one revision.

use bytes::Bytes;

use crate::change::Cause;
use crate::error::{Error, Result};
use crate::key_value::{KeyValue, LeaseId, Revision};

/// The most bytes in one request: keys, values and their framing.
pub const MAX_REQUEST_BYTES: usize = 1536 * 1024;
/// The most compares, and the most operations in one branch.
pub const MAX_OPERATIONS: usize = 128;
/// The longest key in bytes.
pub const MAX_KEY_BYTES: usize = 4096;
/// What each operation is charged beside its bytes, so that no request passes here and fails on etcd,
/// which counts the encoded message.
const OPERATION_OVERHEAD_BYTES: usize = 32;

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// They are the same.
    Equal,
    /// They differ.
    NotEqual,
    /// The store's is smaller.
    Less,
    /// The store's is greater.
    Greater,
}

impl Ordering {
    /// Whether `stored` stands in this order to `given`.
    pub fn holds<T: Ord + ?Sized>(self, stored: &T, given: &T) -> bool {
        match self {
            Ordering::Equal => stored == given,
            Ordering::NotEqual => stored != given,
            Ordering::Less => stored < given,
            Ordering::Greater => stored > given,
        }
    }
}

/// What is asked of a key. A key that does not exist has revisions and version 0, and no value: a
/// comparison of its value never holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// Of the modification revision.
    ModRevision(Ordering, Revision),
    /// Of the creation revision.
    CreateRevision(Ordering, Revision),
    /// Of the version.
    Version(Ordering, u64),
    /// Of the value, byte by byte.
    Value(Ordering, Bytes),
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
}

impl Check {
    /// Whether it holds for a key as found.
    pub fn holds(&self, found: Option<&KeyValue>) -> bool {
        match self {
            Check::ModRevision(order, given) => {
                order.holds(&found.map_or(Revision::ZERO, |kv| kv.mod_revision), given)
            }
            Check::CreateRevision(order, given) => {
                order.holds(&found.map_or(Revision::ZERO, |kv| kv.create_revision), given)
            }
            Check::Version(order, given) => order.holds(&found.map_or(0, |kv| kv.version), given),
            Check::Value(order, given) => found.is_some_and(|kv| order.holds(&kv.value, given)),
            Check::Absent => found.is_none(),
            Check::Present => found.is_some(),
        }
    }
}

/// One condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// What is asked of it.
    pub check: Check,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key. Without a lease the key loses the lease it had.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// The lease to vanish with.
        lease: Option<LeaseId>,
    },
    /// Removes a key, if it exists.
    Delete {
        /// The key.
        key: String,
    },
    /// Removes every key under a prefix.
    DeletePrefix {
        /// The prefix; never empty.
        prefix: String,
    },
    /// Reads a key as it was before this transaction.
    Get {
        /// The key.
        key: String,
    },
}

/// A transaction: `then` runs if all compares hold, `otherwise` if one does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// What is done when they all hold.
    pub then: Vec<Op>,
    /// What is done when one does not.
    pub otherwise: Vec<Op>,
    /// Whether to answer with what puts and deletes replaced.
    pub previous: bool,
    /// Who writes, and why.
    pub cause: Cause,
}

impl Txn {
    /// An empty transaction.
    pub fn new(cause: Cause) -> Txn {
        Txn { compares: Vec::new(), then: Vec::new(), otherwise: Vec::new(), previous: false, cause }
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, key: impl Into<String>, check: Check) -> Txn {
        self.compares.push(Compare { key: key.into(), check });
        self
    }

    /// Adds an operation for when the conditions hold.
    #[must_use]
    pub fn then(mut self, op: Op) -> Txn {
        self.then.push(op);
        self
    }

    /// Adds an operation for when they do not.
    #[must_use]
    pub fn otherwise(mut self, op: Op) -> Txn {
        self.otherwise.push(op);
        self
    }

    /// Adds a put for when the conditions hold.
    #[must_use]
    pub fn put(self, key: impl Into<String>, value: impl Into<Bytes>) -> Txn {
        self.then(Op::Put { key: key.into(), value: value.into(), lease: None })
    }

    /// Adds a delete for when the conditions hold.
    #[must_use]
    pub fn delete(self, key: impl Into<String>) -> Txn {
        self.then(Op::Delete { key: key.into() })
    }

    /// Asks for what puts and deletes replaced.
    #[must_use]
    pub fn with_previous(mut self) -> Txn {
        self.previous = true;
        self
    }

    /// Checks everything that can be checked without looking into the store. Every back end calls this
    /// before it queues a transaction.
    pub fn validate(&self) -> Result<()> {
        let count = self.compares.len().max(self.then.len()).max(self.otherwise.len());
        if count > MAX_OPERATIONS {
            return Err(Error::TooManyOperations { count, limit: MAX_OPERATIONS });
        }
        let size = self.size_bytes();
        if size > MAX_REQUEST_BYTES {
            return Err(Error::RequestTooLarge { size, limit: MAX_REQUEST_BYTES });
        }
        for compare in &self.compares {
            validate_key(&compare.key)?;
        }
        validate_branch(&self.then)?;
        validate_branch(&self.otherwise)
    }

    /// What the request counts against [`MAX_REQUEST_BYTES`].
    pub fn size_bytes(&self) -> usize {
        let compares = self.compares.iter().map(|compare| {
            let value = match &compare.check {
                Check::Value(_, value) => value.len(),
                Check::ModRevision(..)
                | Check::CreateRevision(..)
                | Check::Version(..)
                | Check::Absent
                | Check::Present => 0,
            };
            compare.key.len() + value + OPERATION_OVERHEAD_BYTES
        });
        let ops = self.then.iter().chain(&self.otherwise).map(|op| {
            OPERATION_OVERHEAD_BYTES
                + match op {
                    Op::Put { key, value, .. } => key.len() + value.len(),
                    Op::Delete { key } | Op::Get { key } => key.len(),
                    Op::DeletePrefix { prefix } => prefix.len(),
                }
        });
        self.cause.actor.len() + self.cause.reason.len() + compares.sum::<usize>() + ops.sum::<usize>()
    }
}

/// Whether a key can be stored.
pub fn validate_key(key: &str) -> Result<()> {
    let reason = if key.is_empty() {
        "it is empty"
    } else if key.len() > MAX_KEY_BYTES {
        "it is longer than 4096 bytes"
    } else if key.contains('\0') {
        "it contains a NUL character"
    } else {
        return Ok(());
    };
    Err(Error::InvalidKey { key: key.chars().take(80).collect(), reason })
}

/// A put key may not be touched by any other writing operation of its branch: etcd refuses that, and it
/// makes the order of operations within a branch immaterial.
fn validate_branch(ops: &[Op]) -> Result<()> {
    let mut puts = std::collections::BTreeSet::new();
    for op in ops {
        match op {
            Op::Put { key, .. } => {
                validate_key(key)?;
                if !puts.insert(key.as_str()) {
                    return Err(Error::DuplicateKey { key: key.clone() });
                }
            }
            Op::Delete { key } | Op::Get { key } => validate_key(key)?,
            Op::DeletePrefix { prefix } if prefix.is_empty() => {
                let reason = "an empty prefix would delete everything";
                return Err(Error::InvalidKey { key: String::new(), reason });
            }
            Op::DeletePrefix { prefix } => validate_key(prefix)?,
        }
    }
    for op in ops {
        let clash = match op {
            Op::Delete { key } => puts.get(key.as_str()),
            Op::DeletePrefix { prefix } => {
                puts.range(prefix.as_str()..).next().filter(|key| key.starts_with(prefix.as_str()))
            }
            Op::Put { .. } | Op::Get { .. } => None,
        };
        if let Some(key) = clash {
            return Err(Error::DuplicateKey { key: (*key).to_owned() });
        }
    }
    Ok(())
}

/// What one operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpOutcome {
    /// A key was written.
    Put {
        /// What it replaced, if that was asked for.
        previous: Option<KeyValue>,
    },
    /// Keys were removed, by either kind of delete.
    Deleted {
        /// How many.
        count: usize,
        /// What they were, if that was asked for.
        previous: Vec<KeyValue>,
    },
    /// A key was read.
    Got(Option<KeyValue>),
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether all compares held.
    pub held: bool,
    /// The store's revision afterwards: the transaction's own if it changed anything.
    pub revision: Revision,
    /// One for each operation of the branch that ran, in order.
    pub results: Vec<OpOutcome>,
}
