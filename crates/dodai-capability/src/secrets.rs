//! Secrets: named values from a store that an app may read. Their values never print.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use dodai_core::features::Secrets as Features;

use crate::answer::Answer;
use crate::fault::Fault;
use crate::metadata::Metadata;

/// A value that must not be seen: it prints as `***` everywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The value itself. Every use of this is a place where it may leak.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret(text.into())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One secret: a value under its own name, or several named ones.
pub type Values = BTreeMap<String, Secret>;

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of that name.
    #[error("there is no secret `{name}`")]
    NotFound {
        /// Which one.
        name: String,
    },
    /// The store refuses to show it to anybody.
    #[error("secret `{name}` is never shown: it belongs to the runtime itself")]
    Refused {
        /// Which one.
        name: String,
    },
    /// The driver failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Error {
    /// A stable word for this error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::NotFound { .. } => "secret_not_found",
            Error::Refused { .. } => "secret_refused",
            Error::Fault(fault) => fault.kind().as_str(),
        }
    }
}

/// A secret store.
pub trait Store: Send + Sync {
    /// What it can do.
    fn features(&self) -> Features;

    /// Reads one secret.
    fn get<'a>(&'a self, name: &'a str, metadata: &'a Metadata) -> Answer<'a, Result<Values, Error>>;

    /// Reads all secrets the store may show.
    fn get_all<'a>(&'a self, metadata: &'a Metadata) -> Answer<'a, Result<BTreeMap<String, Values>, Error>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::from("hunter2");
        assert_eq!(
            format!("{secret} {secret:?} {:?}", Values::from([("k".into(), secret.clone())])),
            "*** *** {\"k\": ***}"
        );
        assert_eq!(secret.reveal(), "hunter2");
    }
}
