//! Station three: which rule a call matches. A pure function of the table and the head.
//!
//! Rules arrive in order of precedence (control sorts them as the Gateway API says); the first that matches
//! wins. Hosts match exactly, then by the longest `*.suffix`, then by `*`.

use std::sync::Arc;

use dodai_core::call::Caller;
use dodai_core::head::RequestHead;
use dodai_core::snapshot;
use dodai_log::Logging;
use thiserror::Error;

use crate::filter::{self, Filter};
use crate::index::Rules;
use crate::logging;
use crate::matcher::{Match, Path, Seen};
use crate::rewrite::Rewrite;

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
    /// An expression cannot be read.
    #[error("rule {rule}: the expression is not usable: {reason}")]
    Expression {
        /// The rule's name.
        rule: String,
        /// What its reader says, and where.
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
    /// What is said of the access log cannot be understood.
    #[error("rule {rule}: its access log is not usable: {reason}")]
    Log {
        /// The rule's name.
        rule: String,
        /// Why, and how it is mended.
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
    pub(crate) matches: Vec<Match>,
    /// What happens to head and flow, in order.
    pub filters: Vec<Filter>,
    /// What is done at last.
    pub action: snapshot::Action,
    /// The sum of the backends' weights.
    pub total_weight: u32,
    /// Whether it makes headers for each call.
    pub makes_headers: bool,
    /// Whether a call by it keeps the head that it came with, to be asked again when a policy changes.
    pub keeps_head: bool,
    /// The path that it redirects to, if it changes that.
    pub redirected: Option<Rewrite>,
    /// Limits and retries of this rule.
    pub policy: snapshot::CallPolicy,
    /// How its calls are logged.
    pub logging: Option<Arc<Logging>>,
    source: snapshot::Rule,
}

impl Rule {
    /// Compiles `source`; what counts in the filters of the rule `before` it goes on.
    pub fn compile(source: &snapshot::Rule, before: Option<&Rule>) -> Result<Rule, BadRule> {
        let before = before.map_or(&[] as &[Filter], |rule| &rule.filters);
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
        let redirected = match &source.action {
            snapshot::Action::Redirect { path: Some(path), .. } => {
                Some(Rewrite::compile(&source.name, path)?)
            }
            snapshot::Action::Redirect { .. }
            | snapshot::Action::Forward(_)
            | snapshot::Action::Respond { .. } => None,
        };
        let filters = filter::compile(&source.name, &source.filters, before)?;
        Ok(Rule {
            name: source.name.as_str().into(),
            makes_headers: filters.iter().any(Filter::makes_headers),
            keeps_head: filters.iter().any(Filter::keeps_head),
            redirected,
            matches,
            filters,
            action: source.action.clone(),
            total_weight,
            policy: source.policy.clone(),
            logging: logging::compile(&source.name, &source.policy)?,
            source: source.clone(),
        })
    }

    /// Compiles `sources`, taking over from `old` what is the same, with its filters' state.
    pub fn compile_all<'o>(
        sources: &[snapshot::Rule],
        old: impl IntoIterator<Item = &'o Arc<Rule>>,
    ) -> Result<Rules, BadRule> {
        let mut known: foldhash::HashMap<&str, Vec<&Arc<Rule>>> = Default::default();
        for rule in old {
            known.entry(&rule.name).or_default().push(rule);
        }
        let compile = |source: &snapshot::Rule| {
            let known = known.get(&*source.name).map(Vec::as_slice).unwrap_or_default();
            match known.iter().find(|rule| rule.source == *source) {
                Some(rule) => Ok(Arc::clone(rule)),
                None => Rule::compile(source, known.first().map(|rule| &***rule)).map(Arc::new),
            }
        };
        sources.iter().map(compile).collect::<Result<_, _>>().map(Rules::new)
    }

    /// The path prefix by which a call matched, for prefix rewrites.
    pub fn matched_prefix(&self, head: &RequestHead<'_>, caller: &Caller) -> Option<&str> {
        let seen = Seen::new(head, caller);
        self.matches.iter().find(|m| m.matches(&seen)).and_then(|m| match &m.path {
            Some(Path::Prefix(prefix)) => Some(prefix.as_str()),
            Some(Path::Exact(_) | Path::Regex(_) | Path::Template(_)) | None => None,
        })
    }

    /// What it was made from.
    pub fn source(&self) -> &snapshot::Rule {
        &self.source
    }

    /// Whether a call matches.
    pub fn matches(&self, seen: &Seen<'_>) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|m| m.matches(seen))
    }
}

/// The virtual hosts of one gateway.
#[derive(Debug, Default)]
pub struct Router {
    exact: foldhash::HashMap<String, usize>,
    /// Suffixes with their leading dot.
    suffixes: foldhash::HashMap<String, usize>,
    any: Option<usize>,
    hosts: Vec<Rules>,
    trusted: bool,
    source: Option<Arc<snapshot::Resource>>,
}

impl Router {
    /// Whether callers may say who makes a call.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Compiles `routes`; `old` is the router that had this name before.
    pub fn compile(
        routes: &snapshot::Routes,
        resource: &Arc<snapshot::Resource>,
        old: Option<&Arc<Router>>,
    ) -> Result<Arc<Router>, BadRule> {
        if let Some(old) = old.filter(|old| old.source.as_ref().is_some_and(|source| source == resource)) {
            return Ok(old.clone());
        }
        let mut router =
            Router { source: Some(resource.clone()), trusted: routes.trusted, ..Router::default() };
        for (index, host) in routes.hosts.iter().enumerate() {
            let known = old.iter().flat_map(|old| &old.hosts).flat_map(Rules::list);
            router.hosts.push(Rule::compile_all(&host.rules, known)?);
            for name in &host.names {
                let name = name.to_ascii_lowercase();
                if name == "*" {
                    router.any.get_or_insert(index);
                } else if let Some(suffix) = name.strip_prefix('*') {
                    router.suffixes.entry(suffix.to_owned()).or_insert(index);
                } else {
                    router.exact.entry(name).or_insert(index);
                }
            }
        }
        Ok(Arc::new(router))
    }

    /// The hosts that calls are told apart by, each with its names and its rules in order of precedence.
    pub fn hosts(&self) -> impl Iterator<Item = (&[String], &Rules)> {
        let named = match self.source.as_deref() {
            Some(snapshot::Resource::Routes(routes)) => routes.hosts.as_slice(),
            Some(_) | None => &[],
        };
        named.iter().map(|host| host.names.as_slice()).zip(&self.hosts)
    }

    /// All rules; one may come several times.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.hosts.iter().flat_map(Rules::list)
    }

    /// The rule for a call.
    pub fn route(&self, head: &RequestHead<'_>, caller: &Caller) -> Option<&Arc<Rule>> {
        // A name with a dot at its end is the same, only written out.
        let (host, seen) = (head.host(), Seen::new(head, caller));
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.route_host(&host.to_ascii_lowercase(), &seen);
        }
        self.route_host(host, &seen)
    }

    /// A more specific host wins, but one without a matching rule leaves the call to the next.
    fn route_host(&self, host: &str, seen: &Seen<'_>) -> Option<&Arc<Rule>> {
        let find = |index: &usize| self.hosts[*index].find(seen);
        let exact = self.exact.get(host).and_then(find);
        exact.or_else(|| self.by_suffix(host, seen)).or_else(|| self.any.as_ref().and_then(find))
    }

    fn by_suffix(&self, host: &str, seen: &Seen<'_>) -> Option<&Arc<Rule>> {
        if self.suffixes.is_empty() {
            return None;
        }
        // The longest suffix begins at the first dot.
        let dots = memchr::memchr_iter(b'.', host.as_bytes()).filter(|dot| *dot > 0);
        let mut hosts = dots.filter_map(|dot| self.suffixes.get(&host[dot..]));
        hosts.find_map(|index| self.hosts[*index].find(seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dodai_core::snapshot::{Action, CallPolicy, Match as Spec, PathMatch, VirtualHost};

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
        let routes = snapshot::Routes { name: "r".to_owned(), hosts, trusted: false };
        let resource = Arc::new(snapshot::Resource::Routes(routes.clone()));
        Router::compile(&routes, &resource, None).expect("compiles")
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
            let found =
                router.route(&RequestHead::Map(&parts), &Caller::Outside).map(|rule| rule.name.to_string());
            assert_eq!(found.as_deref(), Some(expect), "{authority}{uri}");
        };
        check("shop.example.com:80", "/", "exact");
        check("SHOP.example.com", "/", "exact");
        check("shop.example.com.", "/", "exact");
        check("shop.example.com.:80", "/", "exact");
        check("x.a.example.com", "/only", "narrow");
        check("x.a.example.com", "/", "wide");
        check("example.com", "/", "any");
        check("", "/", "any");
    }

    #[test]
    fn a_bad_expression_names_rule_and_pattern() {
        let error = Rule::compile(&rule("default/shop/0", vec![path(PathMatch::Regex("(".into()))]), None)
            .expect_err("bad");
        assert!(error.to_string().starts_with("rule default/shop/0: the regular expression `(`"), "{error}");
    }
}
