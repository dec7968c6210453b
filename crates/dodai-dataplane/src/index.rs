//! Which rules of a long list a call may match, found without asking each.
//!
//! Paths, prefixes and the literal beginnings of expressions and templates are a tree of path segments; within one
//! place of it, rules that require an exact value of a header, query parameter or cookie are found by that value, and
//! many expressions are run as one. What is found is a superset, and every candidate is asked itself, so the answer is
//! that of the scan: the first rule in order that matches. Rejected: a compiled decision tree over all conditions,
//! which is faster still and grows with their product.

use std::sync::Arc;

use dodai_core::snapshot::TemplatePart;
use regex::bytes::{RegexSet, RegexSetBuilder};
use regex_syntax::hir::{Look, literal};
use smallvec::SmallVec;

use crate::matcher::{self, Match, Named, Path, Pattern, Seen};
use crate::route::Rule;

/// Lists up to this length are scanned: looking at each is as quick as looking up.
const SCANNED: usize = 8;
/// So many names are looked up in the call one by one; of more, the call's own are looked up instead.
const FEW: usize = 4;

/// Rules in order of precedence.
#[derive(Debug, Default)]
pub struct Rules {
    list: Vec<Arc<Rule>>,
    index: Option<Box<Index>>,
}

impl Rules {
    /// Rules in their order; long lists get an index.
    pub fn new(list: Vec<Arc<Rule>>) -> Rules {
        let index = (list.len() > SCANNED).then(|| Box::new(Index::of(&list)));
        Rules { list, index }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, in order.
    pub fn list(&self) -> &[Arc<Rule>] {
        &self.list
    }

    /// The first that matches.
    pub fn find(&self, seen: &Seen<'_>) -> Option<&Arc<Rule>> {
        match &self.index {
            None => self.list.iter().find(|rule| rule.matches(seen)),
            Some(index) => index.first(&self.list, seen),
        }
    }
}

/// A place in the tree of path segments: what comes between two slashes, or before the first.
#[derive(Debug, Default)]
struct Place {
    next: foldhash::HashMap<Box<str>, u32>,
    /// Rules for the path that ends here.
    ends: Option<Box<Bucket>>,
    /// Rules for every path that comes by.
    passes: Option<Box<Bucket>>,
}

#[derive(Debug)]
struct Index(Vec<Place>);

/// Names to values to rules.
type Keyed = foldhash::HashMap<Box<str>, foldhash::HashMap<Box<[u8]>, Vec<u32>>>;

/// The rules of one place, each list in order.
#[derive(Debug, Default)]
struct Bucket {
    plain: Vec<u32>,
    headers: Keyed,
    query: Keyed,
    cookies: Keyed,
    expressions: Expressions,
}

/// Rules by a regular expression.
#[derive(Debug, Default)]
struct Expressions {
    rules: Vec<u32>,
    patterns: Vec<String>,
    /// All of them as one, where there are many.
    set: Option<RegexSet>,
}

impl Index {
    fn of(rules: &[Arc<Rule>]) -> Index {
        let mut index = Index(vec![Place::default()]);
        for (at, rule) in (0_u32..).zip(rules) {
            if rule.matches.is_empty() {
                index.passes(0).add(at, None);
            }
            for wanted in &rule.matches {
                index.bucket(wanted).add(at, Some(wanted));
            }
        }
        for place in &mut index.0 {
            for bucket in place.ends.iter_mut().chain(&mut place.passes) {
                bucket.expressions.join();
            }
        }
        index
    }

    /// Where the rules of a match belong.
    fn bucket(&mut self, wanted: &Match) -> &mut Bucket {
        match &wanted.path {
            None => self.passes(0),
            Some(Path::Exact(path)) => {
                let at = self.place(path.split('/'));
                self.0[at].ends.get_or_insert_default()
            }
            Some(Path::Prefix(prefix)) => {
                let at = self.place(prefix.split('/'));
                self.passes(at)
            }
            Some(Path::Regex(expression)) => {
                let start = literal_start(expression.as_str());
                let at = whole_segments(&start).map_or(0, |whole| self.place(whole.split('/')));
                self.passes(at)
            }
            Some(Path::Template(parts)) => {
                let literal = parts.iter().map_while(|part| match part {
                    TemplatePart::Literal(text) => Some(text.as_str()),
                    TemplatePart::One(_) | TemplatePart::Rest(_) => None,
                });
                let at = self.place(std::iter::once("").chain(literal));
                self.passes(at)
            }
        }
    }

    fn passes(&mut self, at: usize) -> &mut Bucket {
        self.0[at].passes.get_or_insert_default()
    }

    /// The place of these segments, made if need be.
    fn place<'s>(&mut self, segments: impl Iterator<Item = &'s str>) -> usize {
        let mut at = 0;
        for segment in segments {
            if let Some(next) = self.0[at].next.get(segment) {
                at = *next as usize;
                continue;
            }
            let fresh = self.0.len();
            self.0[at].next.insert(segment.into(), u32::try_from(fresh).unwrap_or(u32::MAX));
            self.0.push(Place::default());
            at = fresh;
        }
        at
    }

    fn first<'r>(&self, rules: &'r [Arc<Rule>], seen: &Seen<'_>) -> Option<&'r Arc<Rule>> {
        let mut search = Search { rules, seen, best: u32::MAX };
        let mut at = &self.0[0];
        let mut passed: SmallVec<[&Bucket; 16]> = SmallVec::new();
        passed.extend(at.passes.as_deref());
        let mut segments = seen.path.split('/');
        let ends = loop {
            let Some(segment) = segments.next() else { break at.ends.as_deref() };
            let Some(next) = at.next.get(segment) else { break None };
            at = &self.0[*next as usize];
            passed.extend(at.passes.as_deref());
        };
        // What stands deepest is mostly first in order, which spares asking the others.
        for bucket in ends.into_iter().chain(passed.into_iter().rev()) {
            search.bucket(bucket);
        }
        rules.get(search.best as usize)
    }
}

impl Bucket {
    fn add(&mut self, rule: u32, wanted: Option<&Match>) {
        let Some(wanted) = wanted else { return push(&mut self.plain, rule) };
        if let Some((name, value)) = exact(&wanted.headers) {
            return push(keyed(&mut self.headers, &name.to_ascii_lowercase(), value), rule);
        }
        if let Some((name, value)) = exact(&wanted.query) {
            return push(keyed(&mut self.query, name, value), rule);
        }
        if let Some((name, value)) = exact(&wanted.cookies) {
            return push(keyed(&mut self.cookies, name, value), rule);
        }
        match &wanted.path {
            Some(Path::Regex(expression)) => self.expressions.add(rule, expression.as_str().to_owned()),
            Some(Path::Template(parts)) => self.expressions.add(rule, matcher::template_pattern(parts)),
            Some(Path::Exact(_) | Path::Prefix(_)) | None => push(&mut self.plain, rule),
        }
    }
}

/// Adds a rule to a list, once.
fn push(list: &mut Vec<u32>, rule: u32) {
    if list.last() != Some(&rule) {
        list.push(rule);
    }
}

fn keyed<'k>(all: &'k mut Keyed, name: &str, value: &[u8]) -> &'k mut Vec<u32> {
    all.entry(name.into()).or_default().entry(value.into()).or_default()
}

/// The first exact value that is required.
fn exact(list: &[Named]) -> Option<(&str, &[u8])> {
    list.iter().find_map(|named| match &named.pattern {
        Pattern::Exact(value) => Some((&*named.name, value.as_slice())),
        Pattern::Regex(_) | Pattern::Present => None,
    })
}

impl Expressions {
    fn add(&mut self, rule: u32, pattern: String) {
        self.rules.push(rule);
        self.patterns.push(pattern);
    }

    /// Makes one of many. What is too large together is run one by one.
    fn join(&mut self) {
        let patterns = std::mem::take(&mut self.patterns);
        if self.rules.len() > SCANNED {
            self.set = RegexSetBuilder::new(&patterns).build().ok();
        }
    }
}

/// What everything begins with that `pattern` matches; empty if that cannot be told.
fn literal_start(pattern: &str) -> String {
    let Ok(expression) = regex_syntax::parse(pattern) else { return String::new() };
    if !expression.properties().look_set_prefix().contains(Look::Start) {
        return String::new();
    }
    let all = literal::Extractor::new().extract(&expression);
    let start = all.longest_common_prefix().unwrap_or_default();
    std::str::from_utf8(start).unwrap_or_default().to_owned()
}

/// The segments of `start` that are whole: those before its last slash.
fn whole_segments(start: &str) -> Option<&str> {
    start.rfind('/').map(|slash| &start[..slash])
}

/// One call's way through the index.
struct Search<'a> {
    rules: &'a [Arc<Rule>],
    seen: &'a Seen<'a>,
    /// The first rule found so far.
    best: u32,
}

impl Search<'_> {
    fn bucket(&mut self, bucket: &Bucket) {
        self.list(&bucket.plain);
        if !bucket.headers.is_empty() {
            self.headers(&bucket.headers);
        }
        if !bucket.query.is_empty() {
            self.query(&bucket.query);
        }
        if !bucket.cookies.is_empty() {
            matcher::each_cookie(self.seen.head, |name, value| self.value(&bucket.cookies, name, value));
        }
        self.expressions(&bucket.expressions);
    }

    /// Asks rules in order until one matches, or a better one is known.
    fn list(&mut self, rules: &[u32]) {
        for rule in rules.iter().copied().take_while(|rule| *rule < self.best) {
            if self.rules[rule as usize].matches(self.seen) {
                self.best = rule;
                return;
            }
        }
    }

    fn value(&mut self, all: &Keyed, name: &str, value: &[u8]) {
        if let Some(rules) = all.get(name).and_then(|values| values.get(value)) {
            self.list(rules);
        }
    }

    fn headers(&mut self, all: &Keyed) {
        let head = self.seen.head;
        if all.len() <= FEW {
            for (name, values) in all {
                if let Some(rules) = head.header(name).and_then(|value| values.get(value)) {
                    self.list(rules);
                }
            }
            return;
        }
        head.for_each_header(|name, value| {
            let mut lower: SmallVec<[u8; 64]> = SmallVec::from_slice(name.as_bytes());
            lower.make_ascii_lowercase();
            if let Ok(name) = std::str::from_utf8(&lower) {
                self.value(all, name, value);
            }
        });
    }

    fn query(&mut self, all: &Keyed) {
        let query = self.seen.head.query();
        if all.len() <= FEW {
            for (name, values) in all {
                if let Some(rules) = matcher::query_value(query, name).and_then(|value| values.get(value)) {
                    self.list(rules);
                }
            }
            return;
        }
        for (name, value) in matcher::query_pairs(query) {
            self.value(all, name, value.as_bytes());
        }
    }

    fn expressions(&mut self, all: &Expressions) {
        if all.rules.first().is_none_or(|first| *first >= self.best) {
            return;
        }
        let Some(set) = &all.set else { return self.list(&all.rules) };
        let path = self.seen.path.as_bytes();
        // The list of those that match is allocated, so whether there is one is asked first.
        if !set.is_match(path) {
            return;
        }
        for at in set.matches(path) {
            let rule = all.rules[at];
            if rule >= self.best {
                return;
            }
            self.list(&[rule]);
        }
    }
}

#[cfg(test)]
mod tests;
