//! The change log: who changed what, when and why. It outlives compaction.

use std::time::SystemTime;

use crate::key_value::Revision;

/// Who writes, and why. Recorded with every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// A user, a base, a reconciler: `user:ada`, `reconciler:release`.
    pub actor: String,
    /// Why, in words for people. May be empty.
    pub reason: String,
}

impl Cause {
    /// A cause.
    pub fn new(actor: impl Into<String>, reason: impl Into<String>) -> Cause {
        Cause { actor: actor.into(), reason: reason.into() }
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was written and had not existed.
    Create,
    /// It was written and had existed.
    Update,
    /// It was removed.
    Delete,
}

impl Action {
    /// The word for this action.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Update => "update",
            Action::Delete => "delete",
        }
    }
}

/// One line of the change log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision that it made.
    pub revision: Revision,
    /// The key.
    pub key: String,
    /// What happened to it.
    pub action: Action,
    /// Who, and why.
    pub cause: Cause,
    /// When, by the wall clock of the store.
    pub at: SystemTime,
}

/// Which part of the change log to read, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Keys start with this; empty for all.
    pub prefix: String,
    /// Only changes after this revision.
    pub after: Revision,
    /// About how many; a page never splits the changes of one revision.
    pub limit: usize,
}

/// How much a back end keeps before it forgets the oldest by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Revisions of history. Beyond twice this many the store compacts itself down to this many.
    pub history: u64,
    /// Lines of the change log.
    pub changes: u64,
    /// Events kept in memory for watchers that are nearly up to date; others read history.
    pub recent: usize,
}

impl Retention {
    /// For a store on disk.
    pub const DISK: Retention = Retention { history: 100_000, changes: 1_000_000, recent: 4096 };
    /// For a store in memory.
    pub const MEMORY: Retention = Retention { history: 5_000, changes: 10_000, recent: 1024 };

    /// Where history should start now, when it has grown to twice what is kept.
    pub(crate) fn compact_to(&self, revision: Revision, compacted: Revision) -> Option<Revision> {
        let grown = revision.0 - compacted.0 > self.history.saturating_mul(2);
        grown.then(|| Revision(revision.0 - self.history))
    }
}
