//! serde over a located tree, with all errors of a document.
//!
//! serde stops at the first error. So after each one the value it is about is hidden and the document is decoded
//! again; what is missing only because it was hidden is not reported. Unknown keys never reach serde: they are noted
//! and skipped, as errors or as warnings.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};

use super::problem::{Code, Problem};
use super::suggest;
use super::tree::{Content, Mark, Node, NodeId, Scalar, Step, Tree};
use crate::document::{Document, Kind};
use crate::text::{RAW_TEXT, REMEDY_MARK};

const MAX_ERRORS: usize = 50;

/// A document of a kind from its tree, with warnings; or every error that can be told apart.
pub(crate) fn decode(tree: &Tree, kind: Kind) -> (Option<Document>, Vec<Problem>) {
    let strict = kind.is_strict();
    let pass =
        Pass { tree, kind: Some(kind), strict, hidden: RefCell::default(), unknown: RefCell::default() };
    pass.run(|decoder| Document::parse(kind, decoder))
}

/// The same for what is no document and has neither `apiVersion` nor `kind`; unknown keys are warnings.
pub(crate) fn decode_passing_over<T: de::DeserializeOwned>(tree: &Tree) -> (Option<T>, Vec<Problem>) {
    let pass =
        Pass { tree, kind: None, strict: true, hidden: RefCell::default(), unknown: RefCell::default() };
    pass.run(|decoder| T::deserialize(decoder))
}

/// One document being decoded.
struct Pass<'t> {
    tree: &'t Tree,
    /// `None` for what is no document.
    kind: Option<Kind>,
    strict: bool,
    hidden: RefCell<BTreeSet<NodeId>>,
    unknown: RefCell<BTreeMap<NodeId, Problem>>,
}

impl Pass<'_> {
    fn run<T>(self, parse: impl Fn(Decoder<'_>) -> Result<T, Fault>) -> (Option<T>, Vec<Problem>) {
        let mut problems = Vec::new();
        let value = loop {
            match parse(Decoder { pass: &self, id: 0 }) {
                Ok(value) => break Some(value),
                Err(fault) => {
                    let id = fault.at.unwrap_or(0);
                    if let Some(problem) = self.report(fault, id) {
                        problems.push(problem);
                    }
                    if id == 0 || problems.len() >= MAX_ERRORS || !self.hidden.borrow_mut().insert(id) {
                        break None;
                    }
                }
            }
        };
        let refuses_unknown = self.strict && self.kind.is_some();
        let unknown = self.unknown.into_inner().into_values().take(MAX_ERRORS);
        problems.extend(unknown.map(|problem| if refuses_unknown { problem } else { problem.warning() }));
        problems.sort_by_key(|problem| (problem.line, problem.column));
        let refused = problems.iter().any(|problem| problem.severity == super::Severity::Error);
        (value.filter(|_| !refused), problems)
    }

    fn is_hidden(&self, id: NodeId) -> bool {
        self.hidden.borrow().contains(&id)
    }

    /// The problem that a fault is, unless it only follows from one reported already.
    fn report(&self, fault: Fault, id: NodeId) -> Option<Problem> {
        let path = self.tree.path(id);
        let mark = self.tree.nodes[id].mark;
        let (code, mark, path, message, remedy) = match fault.what {
            What::Missing(key) => {
                let gone = self.tree.children(id).iter().any(|&child| {
                    self.is_hidden(child)
                        && self.tree.nodes[child].key().is_some_and(|k| k.eq_ignore_ascii_case(key))
                });
                if gone {
                    return None;
                }
                let mut path = path;
                super::tree::push_key(&mut path, key);
                (
                    Code::MissingKey,
                    self.tree.key_mark(id),
                    path,
                    "this key is missing".to_owned(),
                    Some(match id == 0 && self.needs_only(key) {
                        true => format!("add `{key}: {{}}`"),
                        false => format!("add `{key}:`"),
                    }),
                )
            }
            What::Variant { found, allowed } => {
                let list = allowed.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
                let remedy = match suggest(&found, allowed) {
                    Some(nearest) => format!("{nearest} allowed are {list}"),
                    None => format!("allowed are {list}"),
                };
                (Code::InvalidValue, mark, path, format!("`{found}` is not allowed here"), Some(remedy))
            }
            What::Type { expected } => {
                // What should have been text may be a password: it is not repeated.
                let found = self.tree.nodes[id].describe(expected != TEXT);
                let message = format!("expected {expected}, found {found}");
                (Code::WrongType, mark, path, message, self.type_remedy(id, &expected))
            }
            What::Value(text) => {
                let (message, remedy) = match text.split_once(REMEDY_MARK) {
                    Some((message, remedy)) => (message.to_owned(), Some(remedy.to_owned())),
                    None => (text, None),
                };
                (Code::InvalidValue, mark, path, message, remedy)
            }
        };
        let mut problem = Problem::new(code, path, message);
        problem.remedy = remedy;
        Some(place(problem, mark))
    }

    /// Whether the document would be one with an empty mapping under this key.
    fn needs_only(&self, key: &'static str) -> bool {
        let Some(kind) = self.kind else { return false };
        let mut tree = self.tree.clone();
        let step = Step::Key(key.to_owned(), Mark::default());
        let empty = tree.push(Node {
            parent: Some(0),
            step,
            mark: Mark::default(),
            content: Content::Mapping(vec![]),
        });
        if let Content::Mapping(children) = &mut tree.nodes[0].content {
            children.push(empty);
        }
        let is_error = |problem: &Problem| problem.severity == super::Severity::Error;
        decode(&tree, kind).0.is_some_and(|document| !crate::validate(&document).iter().any(is_error))
    }

    fn type_remedy(&self, id: NodeId, expected: &str) -> Option<String> {
        match &self.tree.nodes[id].content {
            Content::Scalar { value, .. } if expected == TEXT && !matches!(value, Scalar::Null) => {
                Some("put it in quotes".to_owned())
            }
            Content::Scalar { value: Scalar::Null, .. } => {
                Some("write a value, or leave the key out".to_owned())
            }
            Content::Scalar { value: Scalar::Text, text } if text.parse::<f64>().is_ok() => {
                Some("leave the quotes out".to_owned())
            }
            Content::Scalar { .. } if expected == LIST => Some("begin each item with `- `".to_owned()),
            Content::Mapping(_) if expected == LIST => Some("begin each item with `- `".to_owned()),
            Content::Scalar { .. } | Content::Sequence(_) | Content::Mapping(_) => None,
        }
    }

    fn note_unknown(&self, id: NodeId, fields: &'static [&'static str]) {
        let mut unknown = self.unknown.borrow_mut();
        if unknown.len() >= MAX_ERRORS || unknown.contains_key(&id) {
            return;
        }
        let key = self.tree.nodes[id].key().unwrap_or_default();
        let is_root = self.kind.is_some() && self.tree.nodes[id].parent == Some(0);
        let words = if is_root { &ROOT_WORDS[..] } else { &[] };
        let fields = [words, fields].concat();
        let remedy = suggest(key, &fields).or_else(|| {
            (!fields.is_empty() && fields.len() <= 16)
                .then(|| format!("known keys are `{}`", fields.join("`, `")))
        });
        let mut problem = Problem::new(Code::UnknownKey, self.tree.path(id), "unknown key");
        problem.remedy = remedy;
        unknown.insert(id, place(problem, self.tree.key_mark(id)));
    }
}

fn place(mut problem: Problem, mark: Mark) -> Problem {
    problem.line = mark.line;
    problem.column = mark.column;
    problem
}

const TEXT: &str = "text";
const LIST: &str = "a list";

/// Why serde stopped, and at which node.
#[derive(Debug)]
struct Fault {
    what: What,
    at: Option<NodeId>,
}

#[derive(Debug)]
enum What {
    Missing(&'static str),
    Variant { found: String, allowed: &'static [&'static str] },
    Type { expected: String },
    Value(String),
}

impl Fault {
    fn located(mut self, id: NodeId) -> Self {
        self.at.get_or_insert(id);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault { what: What::Value(message.to_string()), at: None }
    }

    fn missing_field(field: &'static str) -> Self {
        Fault { what: What::Missing(field), at: None }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Fault {
            what: What::Variant { found: crate::text::Invalid::shorten(variant), allowed: expected },
            at: None,
        }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Fault { what: What::Type { expected: plainly(&expected.to_string()) }, at: None }
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let number = if let Unexpected::Unsigned(n) = unexpected {
            n.to_string()
        } else if let Unexpected::Signed(n) = unexpected {
            n.to_string()
        } else {
            unexpected.to_string()
        };
        let expected = plainly(&expected.to_string());
        Fault {
            what: What::Value(format!("{number} is out of range{REMEDY_MARK}write {expected}")),
            at: None,
        }
    }
}

/// serde's words for what it wants, in the words of documents.
fn plainly(expected: &str) -> String {
    match expected {
        "a string" => TEXT.to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "u64" | "i64" | "u128" | "i128" | "usize" => "a whole number".to_owned(),
        "f64" => "a number".to_owned(),
        "a sequence" => LIST.to_owned(),
        "a map" => "a mapping".to_owned(),
        other if other.starts_with("struct ") => "a mapping".to_owned(),
        other => other.to_owned(),
    }
}

/// serde's view of one node.
#[derive(Clone, Copy)]
struct Decoder<'p> {
    pass: &'p Pass<'p>,
    id: NodeId,
}

impl<'p> Decoder<'p> {
    fn content(&self) -> &'p Content {
        &self.pass.tree.nodes[self.id].content
    }

    fn wrong(&self, expected: &str) -> Fault {
        Fault { what: What::Type { expected: expected.to_owned() }, at: Some(self.id) }
    }

    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match self.content() {
            Content::Scalar { text, value } => match value {
                Scalar::Null => visitor.visit_unit(),
                Scalar::Bool(b) => visitor.visit_bool(*b),
                Scalar::Unsigned(n) => visitor.visit_u64(*n),
                Scalar::Signed(n) => visitor.visit_i64(*n),
                Scalar::Float(n) => visitor.visit_f64(*n),
                Scalar::Text => visitor.visit_str(text),
            },
            Content::Sequence(items) => visitor.visit_seq(Items { pass: self.pass, items: items.iter() }),
            Content::Mapping(_) => visitor.visit_map(Entries::all(self)),
        };
        result.map_err(|fault| fault.located(self.id))
    }

    /// Numbers and truth values may be quoted in documents of dapr.io.
    fn visit_lenient<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.pass.strict {
            return self.visit(visitor);
        }
        let result: Result<V::Value, Fault> = match self.content() {
            Content::Scalar { text, value: Scalar::Text } => match text.trim() {
                "true" | "True" | "TRUE" => visitor.visit_bool(true),
                "false" | "False" | "FALSE" => visitor.visit_bool(false),
                other => match (other.parse::<u64>(), other.parse::<i64>(), other.parse::<f64>()) {
                    (Ok(n), ..) => visitor.visit_u64(n),
                    (_, Ok(n), _) => visitor.visit_i64(n),
                    (_, _, Ok(n)) => visitor.visit_f64(n),
                    _ => visitor.visit_str(text),
                },
            },
            Content::Scalar { .. } | Content::Sequence(_) | Content::Mapping(_) => {
                return self.visit(visitor);
            }
        };
        result.map_err(|fault| fault.located(self.id))
    }
}

macro_rules! lenient {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.visit_lenient(visitor)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Decoder<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit(visitor)
    }

    lenient! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16
        deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.content() {
            // Text of dapr.io documents may be written without quotes: `value: 1.10` is the text `1.10`.
            Content::Scalar { text, value } if !self.pass.strict && !matches!(value, Scalar::Null) => {
                visitor.visit_str::<Fault>(text).map_err(|fault| fault.located(self.id))
            }
            Content::Scalar { .. } | Content::Sequence(_) | Content::Mapping(_) => self.visit(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.pass.tree.nodes[self.id].is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let result = match self.content() {
            Content::Scalar { text, value } if name == RAW_TEXT && !matches!(value, Scalar::Null) => {
                visitor.visit_str(text)
            }
            Content::Scalar { .. } | Content::Sequence(_) | Content::Mapping(_) => {
                visitor.visit_newtype_struct(self)
            }
        };
        result.map_err(|fault: Fault| fault.located(self.id))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.content() {
            Content::Sequence(_) => self.visit(visitor),
            Content::Scalar { .. } | Content::Mapping(_) => Err(self.wrong(LIST)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.content() {
            Content::Mapping(_) => self.visit(visitor),
            Content::Scalar { .. } | Content::Sequence(_) => Err(self.wrong("a mapping")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.content() {
            Content::Mapping(_) => {
                visitor.visit_map(Entries::known(self, fields)).map_err(|fault| fault.located(self.id))
            }
            Content::Scalar { .. } | Content::Sequence(_) => Err(self.wrong("a mapping")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.content() {
            Content::Scalar { text, value } if !matches!(value, Scalar::Null) => {
                let folded =
                    variants.iter().find(|variant| !self.pass.strict && variant.eq_ignore_ascii_case(text));
                let word: StrDeserializer<'_, Fault> = folded.copied().unwrap_or(text).into_deserializer();
                visitor.visit_enum(word).map_err(|fault| fault.located(self.id))
            }
            Content::Scalar { .. } | Content::Sequence(_) | Content::Mapping(_) => {
                Err(self.wrong(&format!("one of `{}`", variants.join("`, `"))))
            }
        }
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Items<'p> {
    pass: &'p Pass<'p>,
    items: std::slice::Iter<'p, NodeId>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let next = self.items.by_ref().copied().find(|&id| !self.pass.is_hidden(id));
        let Some(id) = next else { return Ok(None) };
        seed.deserialize(Decoder { pass: self.pass, id }).map(Some).map_err(|fault| fault.located(id))
    }
}

/// The entries of a mapping as serde sees them: key and node.
struct Entries<'p> {
    pass: &'p Pass<'p>,
    entries: std::vec::IntoIter<(&'p str, NodeId)>,
    value: Option<NodeId>,
}

impl<'p> Entries<'p> {
    fn all(of: Decoder<'p>) -> Self {
        let tree = of.pass.tree;
        let visible = tree.children(of.id).iter().copied().filter(|&id| !of.pass.is_hidden(id));
        let entries: Vec<_> = visible.filter_map(|id| tree.nodes[id].key().map(|key| (key, id))).collect();
        Entries { pass: of.pass, entries: entries.into_iter(), value: None }
    }

    /// Only known keys; others are noted. A key without a value counts as absent, as in Kubernetes.
    fn known(of: Decoder<'p>, fields: &'static [&'static str]) -> Self {
        let mut entries = Vec::new();
        let mut seen = BTreeSet::new();
        for (key, id) in Entries::all(of).entries {
            let lenient = !of.pass.strict;
            let exact = fields.contains(&key);
            let field =
                fields.iter().find(|field| **field == key || (lenient && field.eq_ignore_ascii_case(key)));
            match field {
                // Go matches keys whatever their case; the exact spelling wins.
                Some(_) if !exact && of.pass.tree.get(of.id, field.unwrap_or(&"")).is_some() => {}
                Some(field) if of.pass.tree.nodes[id].is_null() || !seen.insert(*field) => {}
                Some(field) => entries.push((*field, id)),
                None if is_root_word(of, key) => {}
                None => of.pass.note_unknown(id, fields),
            }
        }
        Entries { pass: of.pass, entries: entries.into_iter(), value: None }
    }
}

/// These chose the type; the type itself does not have them.
const ROOT_WORDS: [&str; 2] = ["apiVersion", "kind"];

fn is_root_word(of: Decoder<'_>, key: &str) -> bool {
    of.id == 0 && of.pass.kind.is_some() && ROOT_WORDS.contains(&key)
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, id)) = self.entries.next() else { return Ok(None) };
        self.value = Some(id);
        let key: StrDeserializer<'_, Fault> = key.into_deserializer();
        seed.deserialize(key).map(Some).map_err(|fault| fault.located(id))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some(id) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Decoder { pass: self.pass, id }).map_err(|fault| fault.located(id))
    }
}
