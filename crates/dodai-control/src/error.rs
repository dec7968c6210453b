//! What can go wrong in control, named by operation and object.

use dodai_api::{DocumentKey, Problem};

/// The result of an operation of control.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation of control.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Documents were refused; nothing was written.
    #[error("{}", listed(.0))]
    Refused(Vec<Problem>),
    /// There is no such document.
    #[error("there is no `{0}`; `dodai get {kind}` lists what there is", kind = .0.kind)]
    NotFound(DocumentKey),
    /// Somebody else changed the document in between.
    #[error("`{key}` changed while it was being written ({detail}); read it again and retry")]
    Conflict {
        /// The document, or what else was written.
        key: String,
        /// What was expected, what was found.
        detail: String,
    },
    /// A namespace still holds documents.
    #[error("the namespace `{namespace}` still holds {count} documents ({some}); delete them first")]
    NotEmpty {
        /// The namespace.
        namespace: String,
        /// How many.
        count: usize,
        /// Some of them.
        some: String,
    },
    /// An artefact has no digest.
    #[error("the artefact of `{app}` cannot be used: {reason}")]
    Artifact {
        /// The app.
        app: String,
        /// Why, with a remedy.
        reason: String,
    },
    /// A restart of an app would do nothing.
    #[error("{app} is not restarted: {reason}")]
    NotRestarted {
        /// The app.
        app: String,
        /// Why, with a remedy.
        reason: String,
    },
    /// An app cannot go back to a revision.
    #[error("{app} is not rolled back: {reason}")]
    NotRolledBack {
        /// The app.
        app: String,
        /// Why, with a remedy.
        reason: String,
    },
    /// What stands in the store is not a document.
    #[error("{key} in the store cannot be read: {detail}; restore a backup, or remove it")]
    Unreadable {
        /// The key in the store.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A join token was refused.
    #[error("{0}")]
    Token(String),
    /// The store failed.
    #[error("the store: {0}")]
    Store(#[from] dodai_store::Error),
}

fn listed(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
