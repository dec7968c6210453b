//! Exit codes, as `dodai --help` documents them.

use std::fmt;
use std::process::ExitCode;

/// What `diff --exit-code` ends with if something would change.
pub const DIFFERS: u8 = 6;

/// A failure with an exit code of its own. Wrap it around the error that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The arguments do not go together.
    Arguments,
    /// A document is not valid; the problems have been printed.
    Invalid,
    /// What was asked for does not exist.
    NotFound,
    /// The server cannot be reached.
    Unreachable,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failed::Arguments => "wrong arguments",
            Failed::Invalid => "some documents are not valid",
            Failed::NotFound => "not found",
            Failed::Unreachable => "the server cannot be reached",
        })
    }
}

impl std::error::Error for Failed {}

/// The exit code of an error.
pub fn code_of(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(match error.downcast_ref::<Failed>() {
        Some(Failed::Arguments) => 2,
        Some(Failed::Invalid) => 3,
        Some(Failed::NotFound) => 4,
        Some(Failed::Unreachable) => 5,
        None => 1,
    })
}
