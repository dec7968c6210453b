//! YAML (and so JSON) text to located trees, one per document, with bounds on depth, nodes and alias expansion.
//!
//! After an error in one document the reading goes on at the next line that begins with `---`.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::problem::{Code, Problem};
use super::tree::{Content, Mark, Node, NodeId, Scalar, Step, Tree};

const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 200_000;
const MAX_KEY_BYTES: usize = 1024;
const MAX_DOCUMENTS: usize = 2_000;

/// One document of a file: its tree, or what is wrong with it.
pub(crate) struct Parsed {
    pub index: usize,
    pub tree: Result<Tree, Problem>,
}

/// Every document of a file. Empty ones are left out but counted.
pub(crate) fn parse(text: &str) -> Vec<Parsed> {
    let mut found = Vec::new();
    let mut rest = text;
    let mut first_line = 0_u32;
    let mut index = 0;
    let mut budget = MAX_NODES;
    loop {
        let (documents, broken) = parse_until_error(rest, first_line, &mut budget);
        for tree in documents {
            if let Some(tree) = tree {
                found.push(Parsed { index, tree: Ok(tree) });
            }
            index += 1;
        }
        let Some(problem) = broken else { return found };
        let line = problem.line;
        let hopeless = problem.code == Code::TooLarge && budget == 0;
        let told = found.last().is_some_and(|last: &Parsed| {
            last.tree.as_ref().is_err_and(|last| (last.line, last.column) == (problem.line, problem.column))
        });
        if !told {
            found.push(Parsed { index, tree: Err(problem) });
            index += 1;
        }
        let Some((offset, skipped)) = next_document(rest, line.saturating_sub(first_line)) else {
            return found;
        };
        if hopeless || index >= MAX_DOCUMENTS {
            return found;
        }
        rest = &rest[offset..];
        first_line += skipped;
    }
}

/// Where the next `---` line begins, from line `after` (from 1) but never the first: its byte offset and the number of
/// lines before it. Line `after` counts because an open bracket is noticed only at the `---` of the next document.
fn next_document(text: &str, after: u32) -> Option<(usize, u32)> {
    let mut offset = 0;
    for (number, line) in (1_u32..).zip(text.split_inclusive('\n')) {
        if number >= after.max(2) && line.starts_with("---") {
            return Some((offset, number - 1));
        }
        offset += line.len();
    }
    None
}

fn parse_until_error(
    text: &str,
    first_line: u32,
    budget: &mut usize,
) -> (Vec<Option<Tree>>, Option<Problem>) {
    let mut builder = Builder {
        first_line,
        budget,
        done: Vec::new(),
        tree: Tree::default(),
        open: Vec::new(),
        anchors: HashMap::new(),
    };
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text);
    let broken = loop {
        match parser.next_event() {
            None => break None,
            Some(Err(error)) => {
                let mark = builder.mark(*error.marker());
                let problem = if error.info().contains("recursion limit") {
                    too_deep()
                } else {
                    Problem::new(Code::Syntax, "", format!("not valid YAML: {}", error.info()))
                        .remedy("check indentation, quotes and brackets on this line and the one above")
                };
                break Some(at(problem, mark));
            }
            Some(Ok((Event::StreamEnd, _))) => break None,
            Some(Ok((event, span))) => {
                if let Err(problem) = builder.take(event, span) {
                    break Some(*problem);
                }
            }
        }
    };
    (builder.done, broken)
}

fn at(mut problem: Problem, mark: Mark) -> Problem {
    problem.line = mark.line;
    problem.column = mark.column;
    problem
}

/// A container that is still open.
struct Frame {
    id: NodeId,
    key: Option<(String, Mark)>,
    keys: HashSet<String>,
    is_mapping: bool,
    count: usize,
}

struct Builder<'a> {
    first_line: u32,
    budget: &'a mut usize,
    done: Vec<Option<Tree>>,
    tree: Tree,
    open: Vec<Frame>,
    anchors: HashMap<usize, NodeId>,
}

type Taken = Result<(), Box<Problem>>;

impl Builder<'_> {
    fn mark(&self, marker: saphyr_parser::Marker) -> Mark {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Mark {
            line: small(marker.line()).saturating_add(self.first_line),
            column: small(marker.col()).saturating_add(1),
        }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Taken {
        let mark = self.mark(span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.tree = Tree::default();
                self.open.clear();
                self.anchors.clear();
                Ok(())
            }
            Event::DocumentEnd => self.close_document(mark),
            Event::Alias(anchor) => self.alias(anchor, mark),
            Event::Scalar(text, style, anchor, tag) => {
                let value =
                    scalar(&text, style, tag.as_deref()).map_err(|problem| Box::new(at(problem, mark)))?;
                if self.expects_key() {
                    return self.take_key(text.into_owned(), mark);
                }
                self.add(Content::Scalar { text: text.into_owned(), value }, anchor, mark).map(|_| ())
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_deref(), "seq").map_err(|problem| Box::new(at(problem, mark)))?;
                self.open_container(Content::Sequence(Vec::new()), anchor, mark)
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_deref(), "map").map_err(|problem| Box::new(at(problem, mark)))?;
                self.open_container(Content::Mapping(Vec::new()), anchor, mark)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.close_container();
                Ok(())
            }
        }
    }

    fn close_document(&mut self, mark: Mark) -> Taken {
        if self.done.len() >= MAX_DOCUMENTS {
            *self.budget = 0;
            let problem =
                Problem::new(Code::TooLarge, "", format!("more than {MAX_DOCUMENTS} documents in one file"))
                    .remedy("split the file");
            return Err(Box::new(at(problem, mark)));
        }
        let tree = std::mem::take(&mut self.tree);
        let empty = tree.nodes.first().is_none_or(Node::is_null);
        self.done.push((!empty).then_some(tree));
        Ok(())
    }

    fn expects_key(&self) -> bool {
        self.open.last().is_some_and(|frame| frame.is_mapping && frame.key.is_none())
    }

    fn take_key(&mut self, key: String, mark: Mark) -> Taken {
        if key.len() > MAX_KEY_BYTES {
            let problem =
                Problem::new(Code::TooLarge, "", format!("a key of more than {MAX_KEY_BYTES} bytes"));
            return Err(Box::new(at(problem.remedy("put long text into a value"), mark)));
        }
        let Some(frame) = self.open.last_mut() else { return Ok(()) };
        let again = key != MERGE_KEY && !frame.keys.insert(key.clone());
        frame.key = Some((key.clone(), mark));
        if !again {
            return Ok(());
        }
        let mut path = self.tree.path(frame.id);
        super::tree::push_key(&mut path, &key);
        let problem =
            Problem::new(Code::DuplicateKey, path, "this key is given twice").remedy("keep one of the two");
        Err(Box::new(at(problem, mark)))
    }

    /// Adds a node where the document stands, and remembers its anchor.
    fn add(&mut self, content: Content, anchor: usize, mark: Mark) -> Result<NodeId, Box<Problem>> {
        self.spend(mark)?;
        let (parent, step) = self.position(mark)?;
        let id = self.tree.push(Node { parent, step, mark, content });
        self.attach(parent, id);
        if anchor > 0 {
            self.anchors.insert(anchor, id);
        }
        Ok(id)
    }

    fn spend(&mut self, mark: Mark) -> Taken {
        match self.budget.checked_sub(1) {
            Some(left) => {
                *self.budget = left;
                Ok(())
            }
            None => {
                let problem =
                    Problem::new(Code::TooLarge, "", format!("more than {MAX_NODES} values in one file"))
                        .remedy("split the file, or use fewer aliases");
                Err(Box::new(at(problem, mark)))
            }
        }
    }

    /// Parent and step of the next node; a container cannot be a key.
    fn position(&mut self, mark: Mark) -> Result<(Option<NodeId>, Step), Box<Problem>> {
        let Some(frame) = self.open.last_mut() else { return Ok((None, Step::Root)) };
        if !frame.is_mapping {
            frame.count += 1;
            return Ok((Some(frame.id), Step::Index(frame.count - 1)));
        }
        match frame.key.take() {
            Some((key, key_mark)) => Ok((Some(frame.id), Step::Key(key, key_mark))),
            None => {
                let problem = Problem::new(Code::Syntax, self.tree.path(frame.id), "a key must be text");
                Err(Box::new(at(
                    problem.remedy("write `key: value`; put text with brackets in quotes"),
                    mark,
                )))
            }
        }
    }

    fn attach(&mut self, parent: Option<NodeId>, id: NodeId) {
        let Some(parent) = parent else { return };
        match &mut self.tree.nodes[parent].content {
            Content::Sequence(children) | Content::Mapping(children) => children.push(id),
            Content::Scalar { .. } => {}
        }
    }

    fn open_container(&mut self, content: Content, anchor: usize, mark: Mark) -> Taken {
        if self.open.len() >= MAX_DEPTH {
            return Err(Box::new(at(too_deep(), mark)));
        }
        let is_mapping = matches!(content, Content::Mapping(_));
        let id = self.add(content, anchor, mark)?;
        self.open.push(Frame { id, key: None, keys: HashSet::new(), is_mapping, count: 0 });
        Ok(())
    }

    fn close_container(&mut self) {
        let Some(frame) = self.open.pop() else { return };
        if frame.is_mapping {
            self.merge(frame.id);
        }
    }

    fn alias(&mut self, anchor: usize, mark: Mark) -> Taken {
        let Some(&from) = self.anchors.get(&anchor) else {
            let problem = Problem::new(Code::Syntax, "", "this alias has no anchor before it");
            return Err(Box::new(at(problem.remedy("set the anchor with `&name` above"), mark)));
        };
        if self.open.iter().any(|frame| frame.id == from) {
            let problem = Problem::new(Code::Syntax, "", "this alias contains itself");
            return Err(Box::new(at(problem.remedy("write the value out"), mark)));
        }
        if self.expects_key() {
            let Content::Scalar { text, .. } = &self.tree.nodes[from].content else {
                return self.position(mark).map(|_| ());
            };
            return self.take_key(text.clone(), mark);
        }
        let (parent, step) = self.position(mark)?;
        let id = self.copy(from, parent, step, Some(mark), self.open.len())?;
        self.attach(parent, id);
        Ok(())
    }

    /// Copies a subtree; `mark` replaces the place of its root (the alias), below it the places stay those of the anchor.
    fn copy(
        &mut self,
        from: NodeId,
        parent: Option<NodeId>,
        step: Step,
        mark: Option<Mark>,
        depth: usize,
    ) -> Result<NodeId, Box<Problem>> {
        let node = self.tree.nodes[from].clone();
        let mark = mark.unwrap_or(node.mark);
        self.spend(mark)?;
        if depth > MAX_DEPTH {
            return Err(Box::new(at(too_deep(), mark)));
        }
        let (children, content) = match node.content {
            Content::Scalar { .. } => (Vec::new(), node.content),
            Content::Sequence(children) => (children, Content::Sequence(Vec::new())),
            Content::Mapping(children) => (children, Content::Mapping(Vec::new())),
        };
        let id = self.tree.push(Node { parent, step, mark, content });
        for child in children {
            let step = self.tree.nodes[child].step.clone();
            let copy = self.copy(child, Some(id), step, None, depth + 1)?;
            self.attach(Some(id), copy);
        }
        Ok(id)
    }

    /// Puts the keys of `<<: *anchor` into their mapping, where it does not have them itself.
    fn merge(&mut self, id: NodeId) {
        let Some(merge) = self.tree.get(id, MERGE_KEY) else { return };
        let mut sources = match &self.tree.nodes[merge].content {
            Content::Mapping(_) => vec![merge],
            Content::Sequence(items) => items.clone(),
            Content::Scalar { .. } => return,
        };
        sources.retain(|&source| matches!(self.tree.nodes[source].content, Content::Mapping(_)));
        let mut kept: Vec<NodeId> =
            self.tree.children(id).iter().copied().filter(|&child| child != merge).collect();
        let mut keys: HashSet<String> =
            kept.iter().filter_map(|&child| self.tree.nodes[child].key().map(str::to_owned)).collect();
        for source in sources {
            for child in self.tree.children(source).to_vec() {
                let Some(key) = self.tree.nodes[child].key().map(str::to_owned) else { continue };
                if keys.insert(key) {
                    // The subtree under `<<` is a copy of its own already: it can move.
                    self.tree.nodes[child].parent = Some(id);
                    kept.push(child);
                }
            }
        }
        self.tree.nodes[id].content = Content::Mapping(kept);
    }
}

const MERGE_KEY: &str = "<<";

fn too_deep() -> Problem {
    Problem::new(Code::TooLarge, "", format!("nested more than {MAX_DEPTH} levels deep"))
        .remedy("flatten the document")
}

fn check_tag(tag: Option<&Tag>, allowed: &str) -> Result<(), Problem> {
    match tag {
        Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == allowed) => Err(unknown_tag(tag)),
        Some(_) | None => Ok(()),
    }
}

fn unknown_tag(tag: &Tag) -> Problem {
    Problem::new(Code::Syntax, "", format!("the tag `{tag}` is not supported here"))
        .remedy("leave the tag out")
}

/// What a scalar stands for, by the core schema of YAML 1.2: quoted is text, plain may be more.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Scalar, Problem> {
    let plain = matches!(style, ScalarStyle::Plain);
    match tag {
        None if plain => Ok(resolve(text)),
        None => Ok(Scalar::Text),
        Some(tag) if tag.is_yaml_core_schema() => match tag.suffix.as_str() {
            "str" => Ok(Scalar::Text),
            "int" | "float" | "bool" | "null" => Ok(resolve(text)),
            _ => Err(unknown_tag(tag)),
        },
        Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => Ok(Scalar::Text),
        Some(tag) => Err(unknown_tag(tag)),
    }
}

fn resolve(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        _ => {}
    }
    let numeric = text.bytes().next().is_some_and(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.'));
    if !numeric {
        return Scalar::Text;
    }
    let radix = |prefix: &str, radix: u32| {
        text.strip_prefix(prefix)
            .filter(|t| !t.starts_with('+'))
            .and_then(|t| u64::from_str_radix(t, radix).ok())
    };
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Scalar::Unsigned(number);
    }
    if let Ok(number) = text.parse::<u64>() {
        return Scalar::Unsigned(number);
    }
    if let Ok(number) = text.parse::<i64>() {
        return Scalar::Signed(number);
    }
    let decimal = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'));
    match text.parse::<f64>() {
        // Infinity and NaN have no place in a document: they stay text and are refused where a number is wanted.
        Ok(number) if decimal && number.is_finite() => Scalar::Float(number),
        Ok(_) | Err(_) => Scalar::Text,
    }
}
