//! Station four: what is checked and changed before a call is sent on.
//!
//! Filters are compiled per rule into a list and run synchronously on the borrowed head; changes go into the
//! edit lists, a refusal is a [`Failure`]. The set is closed: extension happens in modules and drivers.

use std::sync::Arc;

use dodai_core::call::Caller;
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edit, Edits, RequestHead, Short};
use dodai_core::snapshot::{self, Access, Backend, HeaderEdits, PathRewrite, RateKey};
use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::path::{self, Readings};
use crate::rate::RateLimit;
use crate::route::BadRule;

/// A compiled filter.
#[derive(Debug)]
pub enum Filter {
    /// Changes the request head.
    Request(Arc<[Edit]>),
    /// Changes the response head.
    Response(Arc<[Edit]>),
    /// Changes host and path.
    Rewrite {
        /// The new authority.
        host: Option<Short>,
        /// The new path.
        path: Option<PathRewrite>,
    },
    /// Copies the request elsewhere.
    Mirror {
        /// Where to.
        to: Backend,
        /// Of 10,000 requests, how many.
        per_ten_thousand: u16,
    },
    /// Refuses calls over a rate.
    RateLimit(RateLimit),
    /// Refuses callers.
    Access(Access),
}

/// The mirrors that were drawn for a call: indexes into the rule's filters.
pub type Mirrors = SmallVec<[usize; 2]>;

/// Compiles the filters of `rule`.
pub fn compile(rule: &str, sources: &[snapshot::Filter]) -> Result<Vec<Filter>, BadRule> {
    sources.iter().map(|source| compile_one(rule, source)).collect()
}

fn compile_one(rule: &str, source: &snapshot::Filter) -> Result<Filter, BadRule> {
    Ok(match source {
        snapshot::Filter::RequestHeaders(edits) => Filter::Request(header_edits(rule, edits)?),
        snapshot::Filter::ResponseHeaders(edits) => Filter::Response(header_edits(rule, edits)?),
        snapshot::Filter::Rewrite { host, path } => Filter::Rewrite {
            host: host.as_ref().map(|host| Short::from_slice(host.as_bytes())),
            path: path.clone(),
        },
        snapshot::Filter::Mirror { to, per_ten_thousand } => {
            Filter::Mirror { to: to.clone(), per_ten_thousand: *per_ten_thousand }
        }
        snapshot::Filter::RateLimit { interval, burst, key } => {
            if let RateKey::Header(header) = key {
                let bad = |_| BadRule::Header { rule: rule.to_owned(), header: header.clone() };
                HeaderName::from_bytes(header.as_bytes()).map_err(bad)?;
            }
            Filter::RateLimit(RateLimit::new(*interval, *burst, key))
        }
        snapshot::Filter::Access(access) => Filter::Access(access.clone()),
    })
}

/// Headers that tell where a message ends or who it is for. An edit could make the next hop see another
/// message than we do.
const OURS: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn header_edits(rule: &str, edits: &HeaderEdits) -> Result<Arc<[Edit]>, BadRule> {
    let bad = |header: &str| BadRule::Header { rule: rule.to_owned(), header: header.to_owned() };
    let name = |text: &str| HeaderName::from_bytes(text.as_bytes()).map_err(|_| bad(text));
    let value = |header: &str, text: &str| {
        HeaderValue::from_str(text).map(|_| Short::from_slice(text.as_bytes())).map_err(|_| bad(header))
    };
    let all = edits.remove.iter().chain(edits.set.iter().chain(&edits.add).map(|(header, _)| header));
    if let Some(header) =
        all.into_iter().find(|header| OURS.iter().any(|ours| header.eq_ignore_ascii_case(ours)))
    {
        return Err(BadRule::Ours { rule: rule.to_owned(), header: header.clone() });
    }
    let mut list = Vec::new();
    for header in &edits.remove {
        list.push(Edit::Remove(name(header)?));
    }
    for (header, text) in &edits.set {
        list.push(Edit::Set(name(header)?, value(header, text)?));
    }
    for (header, text) in &edits.add {
        list.push(Edit::Append(name(header)?, value(header, text)?));
    }
    Ok(list.into())
}

/// Runs `filters` on a request that arrived at `now`; changes go to `edits`. `client` is the address of a gateway's
/// client; `prefix` is what the rule matched, for prefix rewrites.
pub fn run(
    filters: &[Filter],
    head: &RequestHead<'_>,
    (caller, client): (&Caller, Option<&str>),
    prefix: impl FnOnce() -> Option<String>,
    now: Instant,
    edits: &mut Edits,
) -> Result<Mirrors, Failure> {
    let mut mirrors = Mirrors::new();
    let mut prefix = Some(prefix);
    for (index, filter) in filters.iter().enumerate() {
        match filter {
            Filter::Request(changes) => edits.push_all(changes),
            // These wait for the response: see [`response_edits`].
            Filter::Response(_) => {}
            Filter::Rewrite { host, path } => {
                if let Some(host) = host {
                    edits.push(Edit::Authority(host.clone()));
                }
                if let Some(path) = path {
                    let matched = prefix.take().and_then(|prefix| prefix());
                    edits.push(Edit::Target(rewrite(path, head, matched.as_deref())));
                }
            }
            Filter::Mirror { per_ten_thousand, .. } => {
                if dodai_core::trace::random() % 10_000 < u64::from(*per_ten_thousand) {
                    mirrors.push(index);
                }
            }
            Filter::RateLimit(limit) => {
                if !limit.take(head, caller, client, now) {
                    return Err(Failure::new(
                        Kind::RateLimited,
                        "the rate limit is used up; wait, or raise `rateLimit` of the policy",
                    ));
                }
            }
            Filter::Access(access) => allowed(access, head, caller)?,
        }
    }
    Ok(mirrors)
}

/// The changes that `filters` make to a response head.
pub fn response_edits<'a>(filters: impl Iterator<Item = &'a Filter>) -> Edits {
    let mut edits = Edits::new();
    for filter in filters {
        if let Filter::Response(changes) = filter {
            edits.push_all(changes);
        }
    }
    edits
}

/// The new target of a path rewrite; the query stays.
pub fn rewrite(path: &PathRewrite, head: &RequestHead<'_>, matched: Option<&str>) -> Short {
    let mut target = Short::new();
    match path {
        PathRewrite::Full(full) => target.extend_from_slice(full.as_bytes()),
        PathRewrite::Prefix(new) => {
            // What matched was the normal form.
            let path = path::normal(head.path());
            let rest = path.strip_prefix(matched.unwrap_or("")).unwrap_or(&path);
            let new = new.trim_end_matches('/');
            target.extend_from_slice(new.as_bytes());
            if !rest.starts_with('/') && (!rest.is_empty() || new.is_empty()) {
                target.push(b'/');
            }
            target.extend_from_slice(rest.as_bytes());
        }
    }
    if let Some(query) = head.query() {
        target.push(b'?');
        target.extend_from_slice(query.as_bytes());
    }
    target
}

/// Deny rules win, then allow rules, then the default. An endpoint may read a path in another way than we: a rule
/// denies what may be meant, and allows what must be.
fn allowed(access: &Access, head: &RequestHead<'_>, caller: &Caller) -> Result<(), Failure> {
    let readings = std::cell::LazyCell::new(|| Readings::of(head.path()));
    let covers = |rule: &snapshot::AccessRule, path: &str| {
        if rule.allow { readings.must_be(path) } else { readings.may_be(path) }
    };
    let matches = |rule: &&snapshot::AccessRule| {
        let named = rule.apps.is_empty() && rule.namespaces.is_empty();
        let who = match caller.app() {
            Some(app) => {
                rule.apps.contains(app) || rule.namespaces.iter().any(|ns| ns == app.namespace.as_str())
            }
            None => false,
        };
        (named || who)
            && (rule.methods.is_empty() || rule.methods.iter().any(|method| method == head.method()))
            && (rule.paths.is_empty() || rule.paths.iter().any(|path| covers(rule, path)))
    };
    let denied = access.rules.iter().filter(|rule| !rule.allow).any(|rule| matches(&rule));
    let granted = access.rules.iter().filter(|rule| rule.allow).any(|rule| matches(&rule));
    if *caller != Caller::Base && (denied || !(granted || access.default_allow)) {
        return Err(Failure::new(
            Kind::Denied,
            format!("{caller} may not {} {}", head.method(), head.path()),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dodai_core::id::AppId;
    use dodai_core::snapshot::AccessRule;

    #[test]
    fn access_is_decided_by_deny_then_allow_then_default() {
        let shop = || Caller::App(AppId::parse("default/shop").expect("valid"));
        let rule = |allow, paths: &[&str]| AccessRule {
            allow,
            apps: vec![AppId::parse("default/shop").expect("valid")],
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            ..AccessRule::default()
        };
        let access = Access {
            default_allow: false,
            rules: vec![rule(true, &[]), rule(false, &["/admin/*", "/exact"])],
        };
        let check = |caller: Caller, uri: &str, expect: bool| {
            let (parts, ()) = http::Request::get(uri).body(()).expect("valid").into_parts();
            assert_eq!(
                allowed(&access, &RequestHead::Map(&parts), &caller).is_ok(),
                expect,
                "{caller} {uri}"
            );
        };
        check(shop(), "/", true);
        check(shop(), "/admin/x", false);
        check(shop(), "/administrator", true);
        check(shop(), "//admin/x", false);
        check(shop(), "/a/..;/admin/x", false);
        check(shop(), "/exact", false);
        check(shop(), "/exact/below", true);
        check(Caller::Outside, "/", false);
        check(Caller::Base, "/admin", true);
    }

    #[test]
    fn prefixes_are_rewritten_by_whole_segments() {
        let check = |uri: &str, matched: &str, new: &str, expect: &str| {
            let (parts, ()) = http::Request::get(uri).body(()).expect("valid").into_parts();
            let got = rewrite(&PathRewrite::Prefix(new.to_owned()), &RequestHead::Map(&parts), Some(matched));
            assert_eq!(std::str::from_utf8(&got), Ok(expect));
        };
        check("/api/a?q", "/api", "/v1", "/v1/a?q");
        check("/api", "/api", "/", "/");
        check("/api/a", "/api", "/", "/a");
        check("/api", "/api", "/v1", "/v1");
    }
}
