//! What a call must look like for a rule: the matches of a rule in compiled form.
//!
//! Everything here is a pure function of head and caller. What a call without a matcher does not need (cookies, the
//! words of expressions) is not looked at for it.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use dodai_cel::{Program, Value};
use dodai_core::call::Caller;
use dodai_core::head::RequestHead;
use dodai_core::snapshot::{self, PathMatch, SourceMatch, TemplatePart, ValuePattern};
use regex::bytes::{Regex, RegexBuilder};

use crate::path;
use crate::route::BadRule;

/// The largest compiled size of one regular expression, in bytes.
const REGEX_BYTES: usize = 1 << 20;

/// The roots that an expression may name.
const ROOTS: [&str; 2] = ["request", "source"];

/// A call as matchers see it.
pub struct Seen<'a> {
    /// Its head.
    pub head: &'a RequestHead<'a>,
    /// Its path in the normal form.
    pub path: Cow<'a, str>,
    /// Who calls.
    pub caller: &'a Caller,
    /// What expressions see, once one has asked.
    words: OnceCell<Box<[(&'static str, Value); 2]>>,
}

impl<'a> Seen<'a> {
    /// The call with that head, from that caller.
    pub fn new(head: &'a RequestHead<'a>, caller: &'a Caller) -> Seen<'a> {
        Seen { head, path: path::normal(head.path()), caller, words: OnceCell::new() }
    }

    /// What expressions see. Names of headers are in small letters; of repeated headers the values are joined.
    pub fn words(&self) -> &[(&'static str, Value); 2] {
        self.words.get_or_init(|| {
            let text = |text: &str| Value::Text(text.into());
            let mut headers: BTreeMap<String, Value> = BTreeMap::new();
            self.head.for_each_header(|name, value| {
                let value = String::from_utf8_lossy(value);
                let all = headers.entry(name.to_ascii_lowercase()).or_insert(Value::Null);
                *all = if let Value::Text(before) = all {
                    Value::Text(format!("{before}, {value}").into())
                } else {
                    text(&value)
                };
            });
            let mut query: BTreeMap<String, Value> = BTreeMap::new();
            for (name, value) in query_pairs(self.head.query()) {
                query.entry(name.to_owned()).or_insert_with(|| text(value));
            }
            let (app, namespace) = match self.caller.app() {
                Some(app) => (app.name.as_str(), app.namespace.as_str()),
                None => ("", ""),
            };
            let request = words([
                ("method", text(self.head.method())),
                ("path", text(&self.path)),
                ("host", text(&self.head.host().to_ascii_lowercase())),
                ("headers", Value::Map(Arc::new(headers))),
                ("query", Value::Map(Arc::new(query))),
            ]);
            let source = words([("app", text(app)), ("namespace", text(namespace))]);
            Box::new([("request", request), ("source", source)])
        })
    }
}

fn words<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::Map(Arc::new(pairs.map(|(name, value)| (name.to_owned(), value)).into()))
}

/// Visits every cookie in order.
pub(crate) fn each_cookie(head: &RequestHead<'_>, mut visit: impl FnMut(&str, &[u8])) {
    head.for_each_header(|name, line| {
        if !name.eq_ignore_ascii_case("cookie") {
            return;
        }
        for pair in line.split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
            if let Ok(name) = std::str::from_utf8(&pair[..at]) {
                visit(name, pair.get(at + 1..).unwrap_or_default());
            }
        }
    });
}

/// One match of a rule: all that is set must hold.
#[derive(Debug)]
pub(crate) struct Match {
    pub path: Option<Path>,
    method: Option<String>,
    pub headers: Vec<Named>,
    pub query: Vec<Named>,
    pub cookies: Vec<Named>,
    source: Option<SourceMatch>,
    expression: Option<Program>,
}

#[derive(Debug)]
pub(crate) enum Path {
    Exact(String),
    Prefix(String),
    Regex(Regex),
    Template(Vec<TemplatePart>),
}

/// A value that is found by its name.
#[derive(Debug)]
pub(crate) struct Named {
    pub name: String,
    pub pattern: Pattern,
}

#[derive(Debug)]
pub(crate) enum Pattern {
    Exact(Vec<u8>),
    Regex(Regex),
    Present,
}

/// An expression of `rule` for a whole value.
fn whole(rule: &str, pattern: &str) -> Result<Regex, BadRule> {
    build(rule, pattern, &format!("^(?:{pattern})$"))
}

/// An expression of `rule` for what is found anywhere.
pub(crate) fn anywhere(rule: &str, pattern: &str) -> Result<Regex, BadRule> {
    build(rule, pattern, pattern)
}

fn build(rule: &str, pattern: &str, text: &str) -> Result<Regex, BadRule> {
    RegexBuilder::new(text).size_limit(REGEX_BYTES).build().map_err(|error| BadRule::Regex {
        rule: rule.to_owned(),
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    })
}

impl Match {
    pub fn compile(rule: &str, source: &snapshot::Match) -> Result<Match, BadRule> {
        let path = match &source.path {
            None => None,
            Some(PathMatch::Exact(path)) => Some(Path::Exact(path.clone())),
            Some(PathMatch::Prefix(path)) if path == "/" || path.is_empty() => None,
            Some(PathMatch::Prefix(path)) => Some(Path::Prefix(path.trim_end_matches('/').to_owned())),
            Some(PathMatch::Regex(pattern)) => Some(Path::Regex(whole(rule, pattern)?)),
            Some(PathMatch::Template(parts)) => Some(Path::Template(parts.clone())),
        };
        let named = |list: &[snapshot::ValueMatch]| {
            list.iter().map(|one| Named::compile(rule, one)).collect::<Result<_, _>>()
        };
        let program = |text: &String| {
            Program::parse_over(text, &ROOTS)
                .map_err(|error| BadRule::Expression { rule: rule.to_owned(), reason: error.to_string() })
        };
        Ok(Match {
            path,
            method: source.method.clone(),
            headers: named(&source.headers)?,
            query: named(&source.query)?,
            cookies: named(&source.cookies)?,
            source: source.source.clone(),
            expression: source.cel.as_ref().map(program).transpose()?,
        })
    }

    /// Whether everything holds; what costs most is asked last.
    pub fn matches(&self, seen: &Seen<'_>) -> bool {
        let head = seen.head;
        self.method.as_ref().is_none_or(|method| method == head.method())
            && self.path.as_ref().is_none_or(|wanted| wanted.matches(&seen.path))
            && self.source.as_ref().is_none_or(|source| is_from(source, seen.caller))
            && self.headers.iter().all(|named| named.pattern.matches(head.header(&named.name)))
            && self.query.iter().all(|named| named.pattern.matches(query_value(head.query(), &named.name)))
            && self.cookies.iter().all(|named| named.is_cookie_of(seen))
            && self.expression.as_ref().is_none_or(|program| program.holds_over(seen.words()) == Ok(true))
    }
}

/// Whether a call comes from where it should.
fn is_from(source: &SourceMatch, caller: &Caller) -> bool {
    caller.app().is_some_and(|app| match source {
        SourceMatch::Apps(apps) => apps.contains(app),
        SourceMatch::Namespace(namespace) => app.namespace.as_str() == namespace,
    })
}

impl Path {
    fn matches(&self, path: &str) -> bool {
        match self {
            Path::Exact(exact) => path == exact,
            Path::Prefix(prefix) => path::has_prefix(path, prefix),
            Path::Regex(regex) => regex.is_match(path.as_bytes()),
            Path::Template(parts) => fits(parts, path),
        }
    }
}

/// Whether a path has the segments that a template asks for.
fn fits(parts: &[TemplatePart], path: &str) -> bool {
    let mut rest = path.strip_prefix('/');
    for part in parts {
        let Some(left) = rest else { return false };
        if let TemplatePart::Rest(end) = part {
            return left.ends_with(end.as_str());
        }
        let (segment, behind) = match left.split_once('/') {
            Some((segment, behind)) => (segment, Some(behind)),
            None => (left, None),
        };
        let is_right = match part {
            TemplatePart::Literal(text) => segment == text,
            TemplatePart::One(end) | TemplatePart::Rest(end) => {
                segment.len() > end.len() && segment.ends_with(end.as_str())
            }
        };
        if !is_right {
            return false;
        }
        rest = behind;
    }
    rest.is_none()
}

/// A template as a regular expression, to be run with others.
pub(crate) fn template_pattern(parts: &[TemplatePart]) -> String {
    let mut pattern = String::from("^");
    for part in parts {
        pattern.push('/');
        match part {
            TemplatePart::Literal(text) => pattern.push_str(&regex::escape(text)),
            TemplatePart::One(end) => pattern.push_str(&format!("[^/]+{}", regex::escape(end))),
            TemplatePart::Rest(end) => pattern.push_str(&format!("(?s:.*){}", regex::escape(end))),
        }
    }
    pattern.push('$');
    pattern
}

impl Named {
    /// Whether a value fits; nothing fits none.
    pub fn matches(&self, value: Option<&[u8]>) -> bool {
        self.pattern.matches(value)
    }

    /// Compiles `source` of `rule`.
    pub fn compile(rule: &str, source: &snapshot::ValueMatch) -> Result<Named, BadRule> {
        let pattern = match &source.value {
            ValuePattern::Exact(value) => Pattern::Exact(value.clone().into_bytes()),
            ValuePattern::Regex(pattern) => Pattern::Regex(whole(rule, pattern)?),
            ValuePattern::Present => Pattern::Present,
        };
        Ok(Named { name: source.name.clone(), pattern })
    }

    /// Whether the first cookie of this name is as it should be.
    fn is_cookie_of(&self, seen: &Seen<'_>) -> bool {
        let mut found = None;
        each_cookie(seen.head, |name, value| {
            if found.is_none() && name == self.name {
                found = Some(self.pattern.matches(Some(value)));
            }
        });
        found == Some(true)
    }
}

impl Pattern {
    fn matches(&self, value: Option<&[u8]>) -> bool {
        match (self, value) {
            (_, None) => false,
            (Pattern::Exact(exact), Some(value)) => exact == value,
            (Pattern::Regex(regex), Some(value)) => regex.is_match(value),
            (Pattern::Present, Some(_)) => true,
        }
    }
}

/// The parameters of a query, not percent-decoded.
pub(crate) fn query_pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// The first value of a query parameter, not percent-decoded.
pub(crate) fn query_value<'a>(query: Option<&'a str>, name: &str) -> Option<&'a [u8]> {
    query_pairs(query).find_map(|(key, value)| (key == name).then_some(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dodai_core::id::AppId;
    use dodai_core::snapshot::{Match as Spec, ValueMatch};

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> http::request::Parts {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("valid").into_parts().0
    }

    fn shop() -> Caller {
        Caller::App(AppId::parse("store/shop").expect("valid"))
    }

    fn check(spec: &Spec, caller: &Caller, request: (&str, &str, &[(&str, &str)]), expect: bool) {
        let compiled = Match::compile("r", spec).expect("compiles");
        let parts = parts(request.0, request.1, request.2);
        let head = RequestHead::Map(&parts);
        assert_eq!(compiled.matches(&Seen::new(&head, caller)), expect, "{spec:?} {request:?} {caller}");
    }

    fn path(path: PathMatch) -> Spec {
        Spec { path: Some(path), ..Spec::default() }
    }

    #[test]
    fn matches_read_path_method_headers_and_query() {
        let check = |spec: Spec, method: &str, uri: &str, headers: &[(&str, &str)], expect: bool| {
            check(&spec, &Caller::Outside, (method, uri, headers), expect);
        };
        check(path(PathMatch::Exact("/a".into())), "GET", "/a?x", &[], true);
        check(path(PathMatch::Exact("/a".into())), "GET", "/a/", &[], false);
        check(path(PathMatch::Prefix("/a/".into())), "GET", "/a", &[], true);
        check(path(PathMatch::Prefix("/a".into())), "GET", "/ab", &[], false);
        check(path(PathMatch::Prefix("/".into())), "GET", "/ab", &[], true);
        check(path(PathMatch::Regex("/[0-9]+".into())), "GET", "/12", &[], true);
        check(path(PathMatch::Regex("/[0-9]+".into())), "GET", "/12x", &[], false);
        let header =
            |value| Spec { headers: vec![ValueMatch { name: "X-A".into(), value }], ..Spec::default() };
        check(header(ValuePattern::Exact("1".into())), "GET", "/", &[("x-a", "1")], true);
        check(header(ValuePattern::Exact("1".into())), "GET", "/", &[("x-a", "11")], false);
        check(header(ValuePattern::Present), "GET", "/", &[("x-a", "")], true);
        check(header(ValuePattern::Present), "GET", "/", &[], false);
        let query = Spec {
            query: vec![ValueMatch { name: "q".into(), value: ValuePattern::Regex("a+".into()) }],
            ..Spec::default()
        };
        check(query.clone(), "GET", "/?p=1&q=aa", &[], true);
        check(query, "GET", "/?q=ab", &[], false);
        let method = Spec { method: Some("POST".into()), ..Spec::default() };
        check(method, "GET", "/", &[], false);
    }

    #[test]
    fn templates_take_whole_segments() {
        use TemplatePart::{Literal, One, Rest};
        let of = |parts: Vec<TemplatePart>| path(PathMatch::Template(parts));
        let literal = |text: &str| Literal(text.to_owned());
        let orders = of(vec![literal("users"), One(String::new()), literal("orders"), Rest(String::new())]);
        let file = of(vec![literal("video"), One(".m4s".to_owned())]);
        let list = of(vec![Rest(".mpd".to_owned())]);
        for (spec, uri, expect) in [
            (&orders, "/users/7/orders/", true),
            (&orders, "/users/7/orders/1/items", true),
            (&orders, "/users/7/orders", false),
            (&orders, "/users/7/8/orders/1", false),
            (&orders, "/users//orders/1", false),
            (&orders, "/users/%37/orders/1", true),
            (&file, "/video/a.m4s", true),
            (&file, "/video/.m4s", false),
            (&file, "/video/a.m4s/b", false),
            (&file, "/video/a.mp4", false),
            (&list, "/a/b/c.mpd", true),
            (&list, "/a/b/c.mp", false),
        ] {
            check(spec, &Caller::Outside, ("GET", uri, &[]), expect);
            let Some(PathMatch::Template(parts)) = &spec.path else { panic!("a template") };
            let together = Regex::new(&template_pattern(parts)).expect("an expression");
            let normal = path::normal(uri);
            assert_eq!(together.is_match(normal.as_bytes()), expect, "{uri} by {together}");
        }
    }

    #[test]
    fn cookies_are_found_by_name() {
        let cookie =
            |value| Spec { cookies: vec![ValueMatch { name: "user".into(), value }], ..Spec::default() };
        let exact = cookie(ValuePattern::Exact("ada".into()));
        let check = |spec: &Spec, headers: &[(&str, &str)], expect| {
            check(spec, &Caller::Outside, ("GET", "/", headers), expect);
        };
        check(&exact, &[("cookie", "a=1; user=ada;b")], true);
        check(&exact, &[("cookie", "a=1"), ("Cookie", "user=ada")], true);
        check(&exact, &[("cookie", "user=bob; user=ada")], false);
        check(&exact, &[("cookie", "xuser=ada")], false);
        check(&cookie(ValuePattern::Present), &[("cookie", "user")], true);
        check(&cookie(ValuePattern::Present), &[], false);
    }

    #[test]
    fn sources_are_apps_or_namespaces() {
        let from = |source| Spec { source: Some(source), ..Spec::default() };
        let app = |text: &str| AppId::parse(text).expect("valid");
        for (source, caller, expect) in [
            (SourceMatch::Apps(vec![app("store/shop")]), shop(), true),
            (SourceMatch::Apps(vec![app("other/shop")]), shop(), false),
            (SourceMatch::Apps(vec![]), shop(), false),
            (SourceMatch::Namespace("store".into()), shop(), true),
            (SourceMatch::Namespace("store".into()), Caller::Outside, false),
        ] {
            check(&from(source), &caller, ("GET", "/", &[]), expect);
        }
    }

    #[test]
    fn expressions_see_request_and_source() {
        let headers: &[(&str, &str)] = &[("host", "Shop.Example:80"), ("X-A", "1"), ("x-a", "2")];
        for (cel, expect) in [
            ("request.method == 'GET' && request.path == '/a/b' && request.host == 'shop.example'", true),
            ("request.headers['x-a'] == '1, 2' && 'q' in request.query && request.query.q == '1'", true),
            ("source.app == 'shop' && source.namespace == 'store'", true),
            ("request.headers['missing'] == ''", false),
            ("request.path + 1 == 2", false),
        ] {
            let spec = Spec { cel: Some(cel.to_owned()), ..Spec::default() };
            check(&spec, &shop(), ("GET", "//a/./b?q=1&q=2", headers), expect);
        }
    }
}
