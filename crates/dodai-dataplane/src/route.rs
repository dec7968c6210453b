//! Station three: which rule a call matches. A pure function of the table and the head.
//!
//! Rules arrive in order of precedence (control sorts them as the Gateway API says); the first that matches
//! wins. Hosts match exactly, then by the longest `*.suffix`, then by `*`.

use std::sync::Arc;

use dodai_core::head::RequestHead;
use dodai_core::snapshot::{self, PathMatch, ValuePattern};
use regex::bytes::{Regex, RegexBuilder};
use thiserror::Error;

use crate::filter::{self, Filter};
use crate::path;

/// The largest compiled size of one regular expression, in bytes.
const REGEX_BYTES: usize = 1 << 20;

/// Why a rule cannot be compiled.
#[derive(Debug, Error)]
pub enum BadRule {
    /// A regular expression is malformed or too large.
    #[error("rule {rule}: the regular expression `{pattern}` is not usable: {reason}")]
    Regex {
        /// The rule's name.
        rule: String,
        /// The pattern.
        pattern: String,
        /// What the parser says.
        reason: String,
    },
    /// A header name or value cannot be sent.
    #[error("rule {rule}: `{header}` is not a header name, or its value cannot be sent")]
    Header {
        /// The rule's name.
        rule: String,
        /// The header.
        header: String,
    },
    /// A header that the proxy writes itself.
    #[error(
        "rule {rule}: `{header}` is written by the proxy and cannot be edited; to change the host, use a rewrite"
    )]
    Ours {
        /// The rule's name.
        rule: String,
        /// The header.
        header: String,
    },
    /// An access rule names a network that is none.
    #[error(
        "rule {rule}: `{network}` is not a network; write an address, or the first and its bits: `10.0.0.0/8`"
    )]
    Network {
        /// The rule's name.
        rule: String,
        /// What is written there.
        network: String,
    },
    /// The keys of an issuer of tokens cannot be used.
    #[error("rule {rule}: the keys of issuer {issuer} cannot be used: {reason}")]
    Keys {
        /// The rule's name.
        rule: String,
        /// The issuer.
        issuer: String,
        /// Why.
        reason: String,
    },
    /// A local answer has a status that is none.
    #[error("rule {rule}: {status} is not a status from 200 to 599")]
    Status {
        /// The rule's name.
        rule: String,
        /// The status.
        status: u16,
    },
}

/// A compiled rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name in metrics and logs.
    pub name: Arc<str>,
    matches: Vec<Match>,
    /// What happens to head and flow, in order.
    pub filters: Vec<Filter>,
    /// What is done at last.
    pub action: snapshot::Action,
    /// The sum of the backends' weights.
    pub total_weight: u32,
    /// Limits and retries of this rule.
    pub policy: snapshot::CallPolicy,
    source: snapshot::Rule,
}

#[derive(Debug)]
struct Match {
    path: Option<Path>,
    method: Option<String>,
    headers: Vec<Named>,
    query: Vec<Named>,
}

#[derive(Debug)]
enum Path {
    Exact(String),
    Prefix(String),
    Regex(Regex),
}

/// A named value and what it must be.
#[derive(Debug)]
pub(crate) struct Named {
    name: String,
    pattern: Pattern,
}

#[derive(Debug)]
enum Pattern {
    Exact(Vec<u8>),
    Regex(Regex),
    Present,
}

fn regex(rule: &str, pattern: &str) -> Result<Regex, BadRule> {
    let whole = format!("^(?:{pattern})$");
    RegexBuilder::new(&whole).size_limit(REGEX_BYTES).build().map_err(|error| BadRule::Regex {
        rule: rule.to_owned(),
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    })
}

impl Rule {
    /// Compiles `source`.
    pub fn compile(source: &snapshot::Rule) -> Result<Rule, BadRule> {
        let matches =
            source.matches.iter().map(|m| Match::compile(&source.name, m)).collect::<Result<_, _>>()?;
        let total_weight = match &source.action {
            snapshot::Action::Forward(backends) => {
                backends.iter().map(|backend| backend.weight).fold(0, u32::saturating_add)
            }
            snapshot::Action::Redirect { status, .. } | snapshot::Action::Respond { status, .. } => {
                if !(200..600).contains(status) {
                    return Err(BadRule::Status { rule: source.name.clone(), status: *status });
                }
                0
            }
        };
        Ok(Rule {
            name: source.name.as_str().into(),
            matches,
            filters: filter::compile(&source.name, &source.filters)?,
            action: source.action.clone(),
            total_weight,
            policy: source.policy.clone(),
            source: source.clone(),
        })
    }

    /// Compiles `sources`, taking over from `old` what is the same, with its filters' state.
    pub fn compile_all(sources: &[snapshot::Rule], old: &[Arc<Rule>]) -> Result<Vec<Arc<Rule>>, BadRule> {
        let same = |source: &snapshot::Rule| old.iter().find(|rule| rule.source == *source).cloned();
        sources
            .iter()
            .map(|source| same(source).map_or_else(|| Rule::compile(source).map(Arc::new), Ok))
            .collect()
    }

    /// The path prefix by which `head` matched, for prefix rewrites.
    pub fn matched_prefix(&self, head: &RequestHead<'_>) -> Option<&str> {
        let path = path::normal(head.path());
        self.matches.iter().find(|m| m.matches(head, &path)).and_then(|m| match &m.path {
            Some(Path::Prefix(prefix)) => Some(prefix.as_str()),
            Some(Path::Exact(_) | Path::Regex(_)) | None => None,
        })
    }

    /// Whether `head` matches, whose path is `path` in its normal form.
    fn matches(&self, head: &RequestHead<'_>, path: &str) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|m| m.matches(head, path))
    }
}

/// The first rule that matches.
pub fn route<'t>(rules: &'t [Arc<Rule>], head: &RequestHead<'_>) -> Option<&'t Arc<Rule>> {
    route_by(rules, head, &path::normal(head.path()))
}

fn route_by<'t>(rules: &'t [Arc<Rule>], head: &RequestHead<'_>, path: &str) -> Option<&'t Arc<Rule>> {
    rules.iter().find(|rule| rule.matches(head, path))
}

impl Match {
    fn compile(rule: &str, source: &snapshot::Match) -> Result<Match, BadRule> {
        let path = match &source.path {
            None => None,
            Some(PathMatch::Exact(path)) => Some(Path::Exact(path.clone())),
            Some(PathMatch::Prefix(path)) if path == "/" || path.is_empty() => None,
            Some(PathMatch::Prefix(path)) => Some(Path::Prefix(path.trim_end_matches('/').to_owned())),
            Some(PathMatch::Regex(pattern)) => Some(Path::Regex(regex(rule, pattern)?)),
        };
        let named = |list: &[snapshot::ValueMatch]| {
            list.iter().map(|one| Named::compile(rule, one)).collect::<Result<_, _>>()
        };
        Ok(Match {
            path,
            method: source.method.clone(),
            headers: named(&source.headers)?,
            query: named(&source.query)?,
        })
    }

    fn matches(&self, head: &RequestHead<'_>, path: &str) -> bool {
        self.method.as_ref().is_none_or(|method| method == head.method())
            && self.path.as_ref().is_none_or(|wanted| wanted.matches(path))
            && self.headers.iter().all(|named| named.pattern.matches(head.header(&named.name)))
            && self.query.iter().all(|named| named.pattern.matches(query_value(head.query(), &named.name)))
    }
}

impl Path {
    fn matches(&self, path: &str) -> bool {
        match self {
            Path::Exact(exact) => path == exact,
            Path::Prefix(prefix) => path::has_prefix(path, prefix),
            Path::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }
}

impl Named {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a value fits; nothing fits none.
    pub fn matches(&self, value: Option<&[u8]>) -> bool {
        self.pattern.matches(value)
    }

    /// Compiles `source` of `rule`.
    pub fn compile(rule: &str, source: &snapshot::ValueMatch) -> Result<Named, BadRule> {
        let pattern = match &source.value {
            ValuePattern::Exact(value) => Pattern::Exact(value.clone().into_bytes()),
            ValuePattern::Regex(pattern) => Pattern::Regex(regex(rule, pattern)?),
            ValuePattern::Present => Pattern::Present,
        };
        Ok(Named { name: source.name.clone(), pattern })
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

/// The first value of a query parameter, not percent-decoded.
fn query_value<'a>(query: Option<&'a str>, name: &str) -> Option<&'a [u8]> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value.as_bytes())
    })
}

/// The virtual hosts of one gateway.
#[derive(Debug, Default)]
pub struct Router {
    exact: foldhash::HashMap<String, usize>,
    /// Suffixes with their leading dot, longest first.
    suffixes: Vec<(String, usize)>,
    any: Option<usize>,
    hosts: Vec<Vec<Arc<Rule>>>,
    source: Option<Arc<snapshot::Resource>>,
}

impl Router {
    /// Compiles `routes`; `old` is the router that had this name before.
    pub fn compile(
        routes: &snapshot::Routes,
        resource: &Arc<snapshot::Resource>,
        old: Option<&Arc<Router>>,
    ) -> Result<Arc<Router>, BadRule> {
        if let Some(old) = old.filter(|old| old.source.as_ref().is_some_and(|source| source == resource)) {
            return Ok(old.clone());
        }
        let known: Vec<Arc<Rule>> = old.map(|old| old.hosts.concat()).unwrap_or_default();
        let mut router = Router { source: Some(resource.clone()), ..Router::default() };
        for (index, host) in routes.hosts.iter().enumerate() {
            router.hosts.push(Rule::compile_all(&host.rules, &known)?);
            for name in &host.names {
                let name = name.to_ascii_lowercase();
                if name == "*" {
                    router.any.get_or_insert(index);
                } else if let Some(suffix) = name.strip_prefix('*') {
                    router.suffixes.push((suffix.to_owned(), index));
                } else {
                    router.exact.entry(name).or_insert(index);
                }
            }
        }
        router.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        Ok(Arc::new(router))
    }

    /// All rules; one may come several times.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.hosts.iter().flatten()
    }

    /// The rule for `head`.
    pub fn route(&self, head: &RequestHead<'_>) -> Option<&Arc<Rule>> {
        let (host, path) = (head.host(), path::normal(head.path()));
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.route_host(&host.to_ascii_lowercase(), head, &path);
        }
        self.route_host(host, head, &path)
    }

    /// A more specific host wins, but one without a matching rule leaves the call to the next.
    fn route_host(&self, host: &str, head: &RequestHead<'_>, path: &str) -> Option<&Arc<Rule>> {
        let exact = self.exact.get(host).copied();
        let suffixes = self
            .suffixes
            .iter()
            .filter(|(suffix, _)| host.len() > suffix.len() && host.ends_with(suffix.as_str()));
        exact
            .into_iter()
            .chain(suffixes.map(|(_, index)| *index))
            .chain(self.any)
            .find_map(|index| route_by(&self.hosts[index], head, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dodai_core::snapshot::{Action, CallPolicy, Match as Spec, ValueMatch, VirtualHost};

    fn rule(name: &str, matches: Vec<Spec>) -> snapshot::Rule {
        let action = Action::Respond { status: 200, body: name.to_owned() };
        snapshot::Rule {
            name: name.to_owned(),
            matches,
            filters: vec![],
            action,
            policy: CallPolicy::default(),
        }
    }

    fn path(path: PathMatch) -> Spec {
        Spec { path: Some(path), ..Spec::default() }
    }

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> http::request::Parts {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("valid").into_parts().0
    }

    fn router(hosts: Vec<VirtualHost>) -> Arc<Router> {
        let routes = snapshot::Routes { name: "r".to_owned(), hosts };
        let resource = Arc::new(snapshot::Resource::Routes(routes.clone()));
        Router::compile(&routes, &resource, None).expect("compiles")
    }

    #[test]
    fn matches_read_path_method_headers_and_query() {
        let check = |spec: Spec, method: &str, uri: &str, headers: &[(&str, &str)], expect: bool| {
            let rule = Rule::compile(&rule("r", vec![spec.clone()])).expect("compiles");
            let parts = parts(method, uri, headers);
            let head = RequestHead::Map(&parts);
            assert_eq!(rule.matches(&head, &path::normal(head.path())), expect, "{spec:?} {uri}");
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
    fn hosts_match_exactly_then_by_longest_suffix_then_any() {
        let host = |names: &[&str], rule_name: &str, only: &str| VirtualHost {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            rules: vec![rule(rule_name, vec![path(PathMatch::Prefix(only.into()))])],
        };
        let router = router(vec![
            host(&["*"], "any", "/"),
            host(&["*.example.com"], "wide", "/"),
            host(&["*.a.example.com"], "narrow", "/only"),
            host(&["Shop.Example.Com"], "exact", "/"),
        ]);
        let check = |authority: &str, uri: &str, expect: &str| {
            let parts = parts("GET", uri, &[("host", authority)]);
            let found = router.route(&RequestHead::Map(&parts)).map(|rule| rule.name.to_string());
            assert_eq!(found.as_deref(), Some(expect), "{authority}{uri}");
        };
        check("shop.example.com:80", "/", "exact");
        check("SHOP.example.com", "/", "exact");
        check("x.a.example.com", "/only", "narrow");
        check("x.a.example.com", "/", "wide");
        check("example.com", "/", "any");
        check("", "/", "any");
    }

    #[test]
    fn a_bad_expression_names_rule_and_pattern() {
        let error = Rule::compile(&rule("default/shop/0", vec![path(PathMatch::Regex("(".into()))]))
            .expect_err("bad");
        assert!(error.to_string().starts_with("rule default/shop/0: the regular expression `(`"), "{error}");
    }
}
