//! Names, checked when they are read: a `Name` is a DNS label, an `ObjectName` is what dapr.io documents allow.

use std::fmt;
use std::str::FromStr;

use crate::text::{Invalid, text_newtype};

/// A DNS label: 1 to 63 characters of `a-z`, `0-9` and `-`, beginning and ending with a letter or a digit.
///
/// Names of apps, services, namespaces and of every dodai.dev document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// The name of any document: letters, digits, `-`, `_` and `.`, at most 253 characters.
///
/// Wider than [`Name`] because component names of dapr.io documents are. A reference to a component is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

/// The identity of a revision: `latest` never is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevisionId(String);

text_newtype!(
    Name,
    "a name of lower-case letters, digits and `-`",
    r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    "A DNS label: 1 to 63 lower-case letters, digits and `-`, beginning and ending with a letter or a digit."
);
text_newtype!(
    ObjectName,
    "a document's name",
    r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$",
    "The name of a document: letters, digits, `-`, `_` and `.`, at most 253 characters."
);
text_newtype!(
    RevisionId,
    "a revision's id",
    r"^[0-9a-f]{10}$",
    "The id of a revision: ten hexadecimal digits, the beginning of the hash of its template."
);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace of documents that name none: `default`.
    pub fn default_namespace() -> Name {
        Name("default".to_owned())
    }
}

impl ObjectName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RevisionId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Name> for ObjectName {
    fn from(name: Name) -> Self {
        ObjectName(name.0)
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl FromStr for Name {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let shaped = (1..=63).contains(&bytes.len())
            && bytes.iter().all(|&b| edge(b) || b == b'-')
            && bytes.first().copied().is_some_and(edge)
            && bytes.last().copied().is_some_and(edge);
        if shaped {
            return Ok(Name(text.to_owned()));
        }
        let message = format!("`{}` is not a name", Invalid::shorten(text));
        Err(Invalid::new(message, Name::remedy(text)))
    }
}

impl Name {
    fn remedy(text: &str) -> String {
        let folded = text.to_lowercase();
        let words = folded.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let mended: String = words.collect::<Vec<_>>().join("-").chars().take(63).collect();
        let mended = mended.trim_end_matches('-');
        let rule =
            "use 1 to 63 lower-case letters, digits and `-`, beginning and ending with a letter or a digit";
        if mended.is_empty() { rule.to_owned() } else { format!("{rule}, for example `{mended}`") }
    }
}

impl FromStr for ObjectName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let edge = |b: u8| b.is_ascii_alphanumeric();
        let bytes = text.as_bytes();
        let shaped = (1..=253).contains(&bytes.len())
            && bytes.iter().all(|&b| edge(b) || matches!(b, b'-' | b'_' | b'.'))
            && bytes.first().copied().is_some_and(edge)
            && bytes.last().copied().is_some_and(edge);
        if shaped {
            return Ok(ObjectName(text.to_owned()));
        }
        Err(Invalid::new(
            format!("`{}` is not a document's name", Invalid::shorten(text)),
            "use letters, digits, `-`, `_` and `.`, beginning and ending with a letter or a digit",
        ))
    }
}

impl FromStr for RevisionId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 10 && text.bytes().all(hex) {
            return Ok(RevisionId(text.to_owned()));
        }
        Err(Invalid::new(
            format!("`{}` is not a revision's id", Invalid::shorten(text)),
            "take one of ten hexadecimal digits from `dodai get revisions`",
        ))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
