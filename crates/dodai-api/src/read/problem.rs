//! `Problem`: what is wrong with a document, where, and what to do about it.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

/// Whether a problem refuses the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document is taken; something in it will not do what it seems to.
    Warning,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal,)*) => {
        /// The kind of a problem: stable, for machines and for the page under `docs/errors/`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The code as text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $code,)* }
            }
        }
    };
}

codes! {
    /// The bytes are not YAML, or not text at all.
    Syntax = "syntax",
    /// The file is too large, too deep, or expands to too much.
    TooLarge = "too_large",
    /// A key is given twice in one mapping.
    DuplicateKey = "duplicate_key",
    /// A key that the kind does not have.
    UnknownKey = "unknown_key",
    /// A key that must be there is not.
    MissingKey = "missing_key",
    /// A `kind` or `apiVersion` that is not known.
    UnknownKind = "unknown_kind",
    /// A value of the wrong shape, such as text instead of a number.
    WrongType = "wrong_type",
    /// A value outside those that are allowed.
    InvalidValue = "invalid_value",
    /// Parts of a document that do not go together.
    Conflict = "conflict",
    /// Two documents with one key.
    DuplicateDocument = "duplicate_document",
    /// A reference to something that is not there.
    UnknownReference = "unknown_reference",
    /// Two listeners that want one port.
    PortClash = "port_clash",
    /// Apps that wait for each other.
    DependencyCycle = "dependency_cycle",
    /// A part that only control writes.
    ReadOnly = "read_only",
    /// Something that has no effect.
    NoEffect = "no_effect",
    /// Something that is understood and not done yet, and without which going on would be worse.
    NotOffered = "not_offered",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl JsonSchema for Code {
    fn schema_name() -> Cow<'static, str> {
        "ProblemCode".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        json_schema!({ "type": "string", "enum": codes, "description": "The kind of a problem: stable, for machines." })
    }
}

/// What is wrong with a document, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    /// The file; empty if the document came from none.
    pub file: String,
    /// Which document of the file, from 0.
    pub document: usize,
    /// The line, from 1; 0 if there is none.
    pub line: u32,
    /// The column in characters, from 1; 0 if there is none.
    pub column: u32,
    /// The place in the document: `spec.services[0].port`; empty for the whole of it.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
    /// The kind of problem.
    pub code: Code,
    /// Whether it refuses the document.
    pub severity: Severity,
}

/// The most characters of a line that are shown.
const SNIPPET: usize = 160;
/// What stands for those that are not.
const CUT: &str = "...";

impl Problem {
    /// An error at a path of a document that has no place in a file yet.
    pub fn new(code: Code, path: impl Into<String>, message: impl Into<String>) -> Self {
        Problem {
            file: String::new(),
            document: 0,
            line: 0,
            column: 0,
            path: path.into(),
            message: message.into(),
            remedy: None,
            code,
            severity: Severity::Error,
        }
    }

    /// With what to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// As what does not refuse the document.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// The problem with the line it is on and a mark under the column, for terminals.
    ///
    /// `text` is the content of the file; without a place in it there is no such mark. The severity is not told:
    /// whoever prints the problem puts the word before it.
    pub fn render(&self, text: &str) -> String {
        let told = Problem { severity: Severity::Error, ..self.clone() }.to_string();
        let line = (self.line as usize).checked_sub(1).and_then(|index| text.lines().nth(index));
        let Some(line) = line else { return told };
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        let (line, before) = around(line, (self.column as usize).saturating_sub(1));
        // Tabs are kept so that the mark stands under its column whatever their width.
        let pad: String = line.chars().take(before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        format!("{told}\n{gutter} |\n{number} | {line}\n{gutter} | {pad}^")
    }
}

/// A line as a terminal shows it: so much of it as is near `column`, and nothing that would steer the terminal.
/// Also how many characters now stand before the column.
fn around(line: &str, column: usize) -> (String, usize) {
    let start = column.saturating_sub(SNIPPET / 2);
    let start = if start <= CUT.len() { 0 } else { start };
    let shown = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    let mut rest = line.chars().skip(start).map(shown);
    let mut text = String::from(if start > 0 { CUT } else { "" });
    let before = text.len() + column - start;
    text.extend(rest.by_ref().take(SNIPPET));
    if rest.next().is_some() {
        text.push_str(CUT);
    }
    (text, before)
}

/// As `shop.yaml:14:7: spec.services[0].protocl: unknown key; did you mean `protocol`?`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
        }
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        if !self.file.is_empty() || self.line > 0 {
            f.write_str(" ")?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}
