//! A file's bytes to its documents: which kind each tree is, what users may not write, and where everything stands.

use std::sync::Arc;

use serde_json::Value;

use super::problem::{Code, Problem, Severity};
use super::tree::{Content, Tree};
use super::{MAX_FILE_BYTES, decode, suggest, yaml};
use crate::document::{Document, Kind};
use crate::name::Name;

/// A file to read: its name, for messages, and its content.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The file's name as messages show it.
    pub name: &'a str,
    /// The file's content.
    pub bytes: &'a [u8],
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// The documents without errors.
    pub documents: Vec<Located<Document>>,
    /// Why documents are missing from `documents`.
    pub errors: Vec<Problem>,
    /// What will not do what it seems to.
    pub warnings: Vec<Problem>,
}

/// Something read, with its place in a file.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// What was read.
    pub value: T,
    /// The file it was read from.
    pub file: Arc<str>,
    /// Which document of the file it is, from 0.
    pub index: usize,
    tree: Arc<Tree>,
}

impl<T> Located<T> {
    /// A value that was read from no file.
    pub fn nowhere(value: T) -> Self {
        Located { value, file: Arc::from(""), index: 0, tree: Arc::default() }
    }

    /// Line and column, from 1, of a path such as `spec.services[0].port`, or of the nearest thing around it.
    pub fn place(&self, path: &str) -> Option<(u32, u32)> {
        self.tree.place(path).map(|mark| (mark.line, mark.column))
    }

    /// Gives a problem of this document its place in the file.
    pub fn locate(&self, mut problem: Problem) -> Problem {
        problem.file = self.file.to_string();
        problem.document = self.index;
        if let Some((line, column)) = self.place(&problem.path) {
            problem.line = line;
            problem.column = column;
        }
        problem
    }
}

impl Read {
    /// Whether every document of the file was read.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// Takes a document from its tree, or why it is none.
    fn take(&mut self, tree: Tree, file: &Arc<str>, index: usize) {
        let (document, problems) = from_tree(&tree);
        for problem in problems {
            self.add(in_file(problem, file, index));
        }
        let Some(value) = document else { return };
        let mut located = Located { value, file: file.clone(), index, tree: Arc::new(tree) };
        for problem in take_read_only(&mut located.value) {
            self.add(located.locate(problem));
        }
        let mut refused = false;
        for problem in crate::validate(&located.value) {
            refused |= problem.severity == Severity::Error;
            self.add(located.locate(problem));
        }
        if !refused {
            self.documents.push(located);
        }
    }

    pub(crate) fn add(&mut self, problem: Problem) {
        match problem.severity {
            Severity::Error => self.errors.push(problem),
            Severity::Warning => self.warnings.push(problem),
        }
    }
}

fn in_file(mut problem: Problem, file: &Arc<str>, index: usize) -> Problem {
    problem.file = file.to_string();
    problem.document = index;
    problem
}

/// Reads every document of a file, YAML or JSON, as a user wrote it. A list of documents, as `get -o json` prints it,
/// is those documents.
///
/// Never panics, whatever the bytes. Parts that only control writes are dropped with a warning. Documents are checked
/// one by one; what they refer to is checked by [`crate::validate_set`].
pub fn read(source: &Source<'_>) -> Read {
    let mut read = Read::default();
    let file: Arc<str> = Arc::from(source.name);
    let in_file = |problem, index| in_file(problem, &file, index);
    let text = match text_of(source.bytes) {
        Ok(text) => text,
        Err(problem) => {
            read.add(in_file(*problem, 0));
            return read;
        }
    };
    for parsed in yaml::parse(text) {
        let tree = match parsed.tree {
            Ok(tree) => tree,
            Err(problem) => {
                read.add(in_file(problem, parsed.index));
                continue;
            }
        };
        match tree.items() {
            Some(items) => items.iter().for_each(|id| read.take(tree.part(*id), &file, parsed.index)),
            None => read.take(tree, &file, parsed.index),
        }
    }
    read.errors.sort_by_key(|problem| (problem.line, problem.column));
    read.warnings.sort_by_key(|problem| (problem.line, problem.column));
    read
}

/// The tree of a file that holds one thing.
///
/// # Errors
/// It is no text, no YAML, empty, or holds several.
pub(crate) fn parse_one(bytes: &[u8]) -> Result<Tree, Box<Problem>> {
    let mut all = yaml::parse(text_of(bytes)?).into_iter().map(|parsed| parsed.tree.map_err(Box::new));
    let first = all.next().unwrap_or_else(|| {
        Err(Box::new(Problem::new(Code::Syntax, "", "the file is empty").remedy("begin with `version: 1`")))
    })?;
    match all.next() {
        Some(Ok(_)) => {
            let problem = Problem::new(Code::Syntax, "", "the file holds more than one document");
            Err(Box::new(problem.remedy("leave out what follows the line `---`")))
        }
        Some(Err(problem)) => Err(problem),
        None => Ok(first),
    }
}

fn text_of(bytes: &[u8]) -> Result<&str, Box<Problem>> {
    if bytes.len() > MAX_FILE_BYTES {
        let problem =
            Problem::new(Code::TooLarge, "", format!("the file has more than {MAX_FILE_BYTES} bytes"));
        return Err(Box::new(problem.remedy("split the file")));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
        let mut problem =
            Problem::new(Code::Syntax, "", "the file is not UTF-8 text").remedy("save it as UTF-8");
        problem.line = u32::try_from(line).unwrap_or(u32::MAX);
        problem.column = 1;
        Box::new(problem)
    })
}

/// A document from its canonical form, as the store and the API hold it.
///
/// # Errors
/// Every problem of the value, if it is not a document.
pub(crate) fn from_value(value: &Value) -> Result<Document, Vec<Problem>> {
    match from_tree(&Tree::of_value(value)) {
        (Some(document), _) => Ok(document),
        (None, problems) => Err(problems),
    }
}

fn from_tree(tree: &Tree) -> (Option<Document>, Vec<Problem>) {
    let kind = match kind_of(tree) {
        Ok(kind) => kind,
        Err(problem) => return (None, vec![*problem]),
    };
    let (mut document, mut problems) = decode::decode(tree, kind);
    if let Some(Document::Subscription(subscription)) = &mut document {
        subscription.spec.upgrade();
    }
    if kind.is_strict()
        && let Some(found) = &document
        && let Err(invalid) = found.metadata().name.as_str().parse::<Name>()
    {
        let mut problem =
            Problem::new(Code::InvalidValue, "metadata.name", invalid.message).remedy(invalid.remedy);
        let place = tree.get(0, "metadata").and_then(|id| tree.get(id, "name"));
        if let Some(id) = place {
            problem.line = tree.nodes[id].mark.line;
            problem.column = tree.nodes[id].mark.column;
        }
        problems.push(problem);
        document = None;
    }
    (document, problems)
}

/// Which kind a tree is, by `apiVersion` and `kind`.
fn kind_of(tree: &Tree) -> Result<Kind, Box<Problem>> {
    let at = |mut problem: Problem, id: usize| {
        problem.line = tree.nodes[id].mark.line;
        problem.column = tree.nodes[id].mark.column;
        Box::new(problem)
    };
    if !matches!(tree.nodes[0].content, Content::Mapping(_)) {
        let message = format!("expected a document, found {}", tree.nodes[0].describe(true));
        let remedy = "a document is a mapping that begins with `apiVersion: dodai.dev/v1` and `kind:`";
        return Err(at(Problem::new(Code::WrongType, "", message).remedy(remedy), 0));
    }
    let word = |key: &str, example: &str| -> Result<(usize, &str), Box<Problem>> {
        let Some(id) = tree.get(0, key).filter(|&id| !tree.nodes[id].is_null()) else {
            let problem = Problem::new(Code::MissingKey, key, "this key is missing");
            return Err(at(problem.remedy(format!("add `{key}: {example}`")), 0));
        };
        tree.text(id).map(|text| (id, text)).ok_or_else(|| {
            let message = format!("expected text, found {}", tree.nodes[id].describe(true));
            at(Problem::new(Code::WrongType, key, message).remedy(format!("write `{key}: {example}`")), id)
        })
    };
    let (version_id, version) = word("apiVersion", crate::document::API_VERSION)?;
    let (kind_id, kind) = word("kind", "App")?;
    let versions: Vec<&str> = {
        let mut all: Vec<&str> = Kind::ALL.iter().flat_map(|kind| kind.api_versions()).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    if !versions.contains(&version) {
        return Err(at(unknown_version(version, kind, &versions), version_id));
    }
    let family: Vec<Kind> =
        Kind::ALL.iter().copied().filter(|k| k.api_versions().contains(&version)).collect();
    if let Some(found) = family.iter().copied().find(|k| k.as_str() == kind) {
        return Ok(found);
    }
    let words: Vec<&str> = family.iter().map(|k| k.as_str()).collect();
    let message = format!("`{version}` has no kind `{}`", crate::Invalid::shorten(kind));
    let problem = Problem::new(Code::UnknownKind, "kind", message);
    let elsewhere = Kind::ALL.iter().find(|k| k.as_str() == kind);
    let remedy = match (elsewhere, suggest(kind, &words)) {
        (Some(other), _) => format!("`{kind}` is of apiVersion `{}`", other.api_versions()[0]),
        (None, Some(nearest)) => nearest,
        (None, None) => format!("its kinds are `{}`", words.join("`, `")),
    };
    let problem = problem.remedy(remedy);
    // daprd passes over kinds it does not serve; so do we, aloud.
    Err(at(if version.starts_with("dapr.io/") { problem.warning() } else { problem }, kind_id))
}

/// Documents of others, such as those of Kubernetes, are passed over with a note. What was meant for us is not.
fn unknown_version(version: &str, kind: &str, versions: &[&str]) -> Problem {
    let shown = crate::Invalid::shorten(version);
    let unknown = |message| Problem::new(Code::UnknownKind, "apiVersion", message);
    if !is_meant_for_us(version) {
        let kind = crate::Invalid::shorten(kind);
        return unknown(format!("this is a `{kind}` of `{shown}`, not one of ours; it is passed over"))
            .warning();
    }
    let family = if version.starts_with("dapr") { Kind::Component } else { Kind::App };
    let remedy =
        suggest(version, versions).unwrap_or_else(|| format!("did you mean `{}`?", family.api_versions()[0]));
    unknown(format!("`{shown}` is not an apiVersion known here")).remedy(remedy)
}

/// Whether an `apiVersion` is one of ours, or one of ours that was misspelled.
pub(crate) fn is_meant_for_us(version: &str) -> bool {
    let group = version.split('/').next().unwrap_or_default().to_lowercase();
    let near = |own: &str| group.len() < 64 && strsim::osa_distance(&group, own) <= own.len() / 4;
    group.starts_with("dodai")
        || group.starts_with("dapr")
        || near("dodai.dev")
        || near("dodai")
        || near("dapr.io")
}

/// Drops what only control writes, with a warning for each part. What the server printed comes back whole, with
/// an identity and a time that nobody writes by hand: of that nothing is said.
fn take_read_only(document: &mut Document) -> Vec<Problem> {
    let mut found = Vec::new();
    let metadata = document.metadata();
    let printed = metadata.uid.is_some() && metadata.creation_timestamp.is_some();
    let mut note = |path: &str| {
        if printed {
            return;
        }
        let problem = Problem::new(Code::ReadOnly, path, "only the server writes this, so it is ignored");
        found.push(problem.remedy("leave it out").warning());
    };
    if document.clear_status() {
        note("status");
    }
    let metadata = document.metadata_mut();
    if metadata.uid.take().is_some() {
        note("metadata.uid");
    }
    if metadata.generation.take().is_some() {
        note("metadata.generation");
    }
    if metadata.creation_timestamp.take().is_some() {
        note("metadata.creationTimestamp");
    }
    if metadata.owner_app.take().is_some() {
        note("metadata.ownerApp");
    }
    if !std::mem::take(&mut metadata.field_owners).is_empty() {
        note("metadata.fieldOwners");
    }
    found
}
