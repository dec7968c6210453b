//! CEL expressions over an event or a request: what rules of subscriptions and of routes are written in.
//!
//! A program is read once and run for each message or call. The language is the common expression language without
//! its time types and byte strings: literals, names and their fields, operators, `has`, `all`, `exists`,
//! `exists_one`, `filter`, `map`, and the functions in `eval.rs`. Always holds: running ends, within a bounded
//! number of steps, and never panics. Rejected: the `cel` crate, which brings a parser generator's runtime and
//! a dozen crates into every base for the sake of `event.type == "x"`; see ADR 0010.

mod eval;
mod lex;
mod parse;
mod value;

use std::fmt;
use std::sync::Arc;

pub use eval::Trouble;
pub use value::Value;

/// The longest program in bytes.
const MAX_SOURCE: usize = 4096;

/// Why a text is no program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {what}")]
pub struct Malformed {
    /// The character, from 1.
    pub at: usize,
    /// What is wrong, and how it is mended.
    pub what: String,
}

impl Malformed {
    fn new(at: usize, what: impl Into<String>) -> Malformed {
        Malformed { at: at + 1, what: what.into() }
    }
}

/// A program that has been read.
#[derive(Clone)]
pub struct Program {
    source: Arc<str>,
    root: Arc<parse::Expression>,
}

impl Program {
    /// Reads a program over one `event`.
    ///
    /// # Errors
    /// It cannot be understood, or uses what is not there.
    pub fn parse(source: &str) -> Result<Program, Malformed> {
        Program::parse_over(source, &["event"])
    }

    /// Reads a program over these names.
    ///
    /// # Errors
    /// It cannot be understood, or uses what is not there.
    pub fn parse_over(source: &str, names: &[&str]) -> Result<Program, Malformed> {
        if source.len() > MAX_SOURCE {
            return Err(Malformed::new(MAX_SOURCE, format!("longer than {MAX_SOURCE} bytes; write less")));
        }
        let root = parse::parse(lex::tokens(source)?, names)?;
        Ok(Program { source: source.into(), root: Arc::new(root) })
    }

    /// Whether the program holds for `event`.
    ///
    /// # Errors
    /// A field is missing, types do not fit, or the answer is neither true nor false.
    pub fn holds(&self, event: &Value) -> Result<bool, Trouble> {
        // A value is cheap to clone: what is large in it is shared.
        self.holds_over(&[("event", event.clone())])
    }

    /// Whether the program holds for the values of its names.
    ///
    /// # Errors
    /// As [`Program::holds`].
    pub fn holds_over(&self, values: &[(&str, Value)]) -> Result<bool, Trouble> {
        let found = eval::run(&self.root, values)?;
        let Value::Bool(truth) = found else {
            return Err(Trouble::new(format!("the rule gives a {}, not true or false", found.kind())));
        };
        Ok(truth)
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Program({})", self.source)
    }
}

impl PartialEq for Program {
    fn eq(&self, other: &Program) -> bool {
        self.source == other.source
    }
}

impl Eq for Program {}

#[cfg(test)]
mod tests;
