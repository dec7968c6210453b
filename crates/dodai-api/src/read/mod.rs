//! From bytes to documents: YAML to a located tree (`tree`), tree to types (`decode`), both with every error placed.
//!
//! A file is parsed once. Errors do not stop the reading: a broken document costs only itself, and of one document
//! all errors are reported that can be told apart.

mod decode;
mod document;
mod problem;
mod tree;
mod yaml;

pub use document::{Located, Read, Source, read};
pub use problem::{Code, Problem, Severity};

pub(crate) use decode::decode_passing_over;
pub(crate) use document::{from_value, is_meant_for_us, parse_one};
pub(crate) use tree::{Tree, push_key};

/// The largest file that is read, bytes.
pub const MAX_FILE_BYTES: usize = 4 << 20;

/// The largest document that is taken, bytes of its canonical JSON: the store takes no more in one write.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;

/// The known word nearest to a wrong one, as a remedy.
pub(crate) fn suggest(wrong: &str, known: &[&str]) -> Option<String> {
    if wrong.len() > 64 {
        return None;
    }
    let folded = wrong.to_lowercase();
    let nearest =
        known.iter().map(|&word| (strsim::osa_distance(&folded, &word.to_lowercase()), word)).min()?;
    let (distance, word) = nearest;
    let close = distance <= 1 + word.chars().count() / 4 && distance < word.chars().count();
    let extends = folded.len() >= 3 && word.to_lowercase().starts_with(&folded);
    (close || extends).then(|| format!("did you mean `{word}`?"))
}
