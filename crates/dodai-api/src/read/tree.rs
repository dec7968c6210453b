//! The located tree: nodes in one vector, each with its place in the file and the step that leads to it.
//!
//! Made from YAML events or from a JSON value; everything after it reads nodes and never text.

use serde_json::Value;

/// A line and a column, from 1; zeros for "nowhere".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

pub(crate) type NodeId = usize;

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Root,
    Key(String, Mark),
    Index(usize),
}

#[derive(Clone, Debug)]
pub(crate) enum Scalar {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Scalar { text: String, value: Scalar },
    Sequence(Vec<NodeId>),
    Mapping(Vec<NodeId>),
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub parent: Option<NodeId>,
    pub step: Step,
    pub mark: Mark,
    pub content: Content,
}

/// The nodes of one document; 0 is the root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub nodes: Vec<Node>,
}

impl Node {
    pub(crate) fn key(&self) -> Option<&str> {
        match &self.step {
            Step::Key(key, _) => Some(key),
            Step::Root | Step::Index(_) => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { value: Scalar::Null, .. })
    }

    /// What the node is, for messages; `repeat` its text or only say what it is.
    pub(crate) fn describe(&self, repeat: bool) -> String {
        let (kind, text) = match &self.content {
            Content::Scalar { value: Scalar::Null, .. } => return "nothing".to_owned(),
            Content::Sequence(_) => return "a list".to_owned(),
            Content::Mapping(_) => return "a mapping".to_owned(),
            Content::Scalar { text, value: Scalar::Bool(_) } => ("truth value", text),
            Content::Scalar { text, value: Scalar::Text } => ("text", text),
            Content::Scalar { text, value: Scalar::Unsigned(_) | Scalar::Signed(_) | Scalar::Float(_) } => {
                ("number", text)
            }
        };
        match (repeat, kind) {
            (true, _) => format!("the {kind} `{}`", crate::text::Invalid::shorten(text)),
            (false, "text") => "text".to_owned(),
            (false, _) => format!("a {kind}"),
        }
    }
}

impl Tree {
    pub(crate) fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    pub(crate) fn children(&self, id: NodeId) -> &[NodeId] {
        match &self.nodes[id].content {
            Content::Sequence(children) | Content::Mapping(children) => children,
            Content::Scalar { .. } => &[],
        }
    }

    pub(crate) fn get(&self, id: NodeId, key: &str) -> Option<NodeId> {
        match &self.nodes[id].content {
            Content::Mapping(children) => {
                children.iter().copied().find(|&child| self.nodes[child].key() == Some(key))
            }
            Content::Sequence(_) | Content::Scalar { .. } => None,
        }
    }

    pub(crate) fn text(&self, id: NodeId) -> Option<&str> {
        match &self.nodes[id].content {
            Content::Scalar { text, value: Scalar::Text } => Some(text),
            Content::Scalar { .. } | Content::Sequence(_) | Content::Mapping(_) => None,
        }
    }

    /// The path to a node: `spec.services[0].port`.
    pub(crate) fn path(&self, id: NodeId) -> String {
        let mut steps = Vec::new();
        let mut at = Some(id);
        while let Some(node) = at.map(|id| &self.nodes[id]) {
            steps.push(&node.step);
            at = node.parent;
        }
        let mut path = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => {}
                Step::Key(key, _) => push_key(&mut path, key),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }

    /// Where to point at for a key: at the key itself, or at the value in a list.
    pub(crate) fn key_mark(&self, id: NodeId) -> Mark {
        match &self.nodes[id].step {
            Step::Key(_, mark) => *mark,
            Step::Root | Step::Index(_) => self.nodes[id].mark,
        }
    }

    /// The place of what a path leads to, or of the last thing on the way that is there.
    ///
    /// Walks instead of keeping a map of paths: long keys above many values would make one of gigabytes.
    pub(crate) fn place(&self, path: &str) -> Option<Mark> {
        self.nodes.first()?;
        let mut id = 0;
        let mut rest = path;
        while !rest.is_empty() {
            let mut children = self.children(id).iter();
            let next = children.find_map(|&child| {
                let mut piece = String::new();
                match &self.nodes[child].step {
                    Step::Root => return None,
                    Step::Key(key, _) => push_key(&mut piece, key),
                    Step::Index(index) => piece = format!("[{index}]"),
                }
                let after = rest.strip_prefix(piece.as_str())?;
                let whole = after.is_empty() || after.starts_with(['.', '[']);
                whole.then(|| (child, after.strip_prefix('.').unwrap_or(after)))
            });
            let Some((child, after)) = next else { break };
            id = child;
            rest = after;
        }
        self.nodes.get(id).map(|node| node.mark).filter(|mark| mark.line > 0)
    }

    /// The documents of a list, as `get` prints one: a sequence, or a mapping that has nothing but `items` to say.
    /// `None` for what is no list.
    pub(crate) fn items(&self) -> Option<&[NodeId]> {
        let items = match &self.nodes.first()?.content {
            Content::Sequence(_) => 0,
            Content::Mapping(_) => {
                let kind = self.get(0, "kind").and_then(|id| self.text(id));
                let is_list = kind.map_or(self.get(0, "apiVersion").is_none(), |kind| kind.ends_with("List"));
                self.get(0, "items").filter(|_| is_list)?
            }
            Content::Scalar { .. } => return None,
        };
        let whole = |id: &NodeId| matches!(self.nodes[*id].content, Content::Mapping(_));
        let is_list = matches!(self.nodes[items].content, Content::Sequence(_));
        Some(self.children(items)).filter(|list| is_list && list.iter().all(whole))
    }

    /// What stands below a node, as a tree of its own. Nothing in it forgets its place in the file.
    pub(crate) fn part(&self, id: NodeId) -> Tree {
        let mut part = Tree::default();
        let mut open = vec![(id, None)];
        while let Some((from, parent)) = open.pop() {
            let node = &self.nodes[from];
            let step = if parent.is_none() { Step::Root } else { node.step.clone() };
            let content = match &node.content {
                Content::Scalar { .. } => node.content.clone(),
                Content::Sequence(_) => Content::Sequence(Vec::new()),
                Content::Mapping(_) => Content::Mapping(Vec::new()),
            };
            let to = part.push(Node { parent, step, mark: node.mark, content });
            if let Some(parent) = parent
                && let Content::Sequence(slots) | Content::Mapping(slots) = &mut part.nodes[parent].content
            {
                slots.push(to);
            }
            open.extend(self.children(from).iter().rev().map(|child| (*child, Some(to))));
        }
        part
    }

    /// A tree of a JSON value, with no places.
    pub(crate) fn of_value(value: &Value) -> Tree {
        let mut tree = Tree::default();
        tree.graft(value, None, Step::Root);
        tree
    }

    fn graft(&mut self, value: &Value, parent: Option<NodeId>, step: Step) -> NodeId {
        let content = match value {
            Value::Null => Content::Scalar { text: "null".to_owned(), value: Scalar::Null },
            Value::Bool(b) => Content::Scalar { text: b.to_string(), value: Scalar::Bool(*b) },
            Value::Number(n) => {
                let value = match (n.as_u64(), n.as_i64(), n.as_f64()) {
                    (Some(n), ..) => Scalar::Unsigned(n),
                    (None, Some(n), _) => Scalar::Signed(n),
                    (None, None, Some(n)) => Scalar::Float(n),
                    (None, None, None) => Scalar::Text,
                };
                Content::Scalar { text: n.to_string(), value }
            }
            Value::String(text) => Content::Scalar { text: text.clone(), value: Scalar::Text },
            Value::Array(_) => Content::Sequence(Vec::new()),
            Value::Object(_) => Content::Mapping(Vec::new()),
        };
        let id = self.push(Node { parent, step, mark: Mark::default(), content });
        let children: Vec<NodeId> = match value {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| self.graft(item, Some(id), Step::Index(index)))
                .collect(),
            Value::Object(map) => map
                .iter()
                .map(|(key, item)| self.graft(item, Some(id), Step::Key(key.clone(), Mark::default())))
                .collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return id,
        };
        match &mut self.nodes[id].content {
            Content::Sequence(slots) | Content::Mapping(slots) => *slots = children,
            Content::Scalar { .. } => {}
        }
        id
    }
}

/// Adds a key to a path, in brackets and quotes if it is not a plain word.
pub(crate) fn push_key(path: &mut String, key: &str) {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if plain {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
    } else {
        path.push_str(&format!("[{key:?}]"));
    }
}
