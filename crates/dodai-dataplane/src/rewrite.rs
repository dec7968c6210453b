//! New paths for calls that are sent on or redirected.
//!
//! What is replaced is looked for in the normal form of the path, which is what matched. The query stays as it came.

use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{RequestHead, Short};
use dodai_core::snapshot::{PathRewrite, SubstitutionPart};
use regex::bytes::Regex;

use crate::limits::MAX_REWRITTEN;
use crate::matcher;
use crate::path;
use crate::route::BadRule;

/// A compiled rewrite of a path.
#[derive(Debug)]
pub enum Rewrite {
    /// The whole path.
    Full(String),
    /// The prefix that the rule matched.
    Prefix(String),
    /// Everything that an expression finds.
    Regex(Regex, Vec<SubstitutionPart>),
}

impl Rewrite {
    /// Compiles `source` of `rule`.
    pub fn compile(rule: &str, source: &PathRewrite) -> Result<Rewrite, BadRule> {
        Ok(match source {
            PathRewrite::Full(path) => Rewrite::Full(path.clone()),
            PathRewrite::Prefix(new) => Rewrite::Prefix(new.clone()),
            PathRewrite::Regex { pattern, substitution } => {
                Rewrite::Regex(matcher::anywhere(rule, pattern)?, substitution.clone())
            }
        })
    }

    /// The new path and query of a call, whose rule `matched` that prefix.
    ///
    /// # Errors
    /// The path becomes longer than [`MAX_REWRITTEN`].
    pub fn target(&self, head: &RequestHead<'_>, matched: Option<&str>) -> Result<Short, Failure> {
        let mut target = Short::new();
        match self {
            Rewrite::Full(full) => target.extend_from_slice(full.as_bytes()),
            Rewrite::Prefix(new) => {
                let path = path::normal(head.path());
                let rest = path.strip_prefix(matched.unwrap_or("")).unwrap_or(&path);
                let new = new.trim_end_matches('/');
                target.extend_from_slice(new.as_bytes());
                if !rest.starts_with('/') && (!rest.is_empty() || new.is_empty()) {
                    target.push(b'/');
                }
                target.extend_from_slice(rest.as_bytes());
            }
            Rewrite::Regex(regex, parts) => {
                substitute(regex, parts, path::normal(head.path()).as_bytes(), &mut target)?;
            }
        }
        if let Some(query) = head.query() {
            target.push(b'?');
            target.extend_from_slice(query.as_bytes());
        }
        Ok(target)
    }
}

/// Puts `parts` in place of everything that `regex` finds in `path`.
fn substitute(
    regex: &Regex,
    parts: &[SubstitutionPart],
    path: &[u8],
    target: &mut Short,
) -> Result<(), Failure> {
    let mut done = 0;
    let mut add = |bytes: &[u8]| {
        // A path begins with a slash, whatever is left of it.
        if target.is_empty() && bytes.first().is_some_and(|first| *first != b'/') {
            target.push(b'/');
        }
        target.extend_from_slice(bytes);
        if target.len() <= MAX_REWRITTEN {
            return Ok(());
        }
        let text = format!("a rewrite makes the path longer than {MAX_REWRITTEN} bytes");
        Err(Failure::new(Kind::HeadTooLarge, text))
    };
    for found in regex.captures_iter(path) {
        let Some(whole) = found.get(0) else { continue };
        add(&path[done..whole.start()])?;
        done = whole.end();
        for part in parts {
            match part {
                SubstitutionPart::Text(text) => add(text.as_bytes())?,
                SubstitutionPart::Group(number) => {
                    add(found.get(*number).map_or(b"".as_slice(), |group| group.as_bytes()))?;
                }
            }
        }
    }
    add(&path[done..])?;
    if target.is_empty() {
        target.push(b'/');
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(uri: &str, matched: &str, rewrite: &PathRewrite) -> Result<String, Failure> {
        let (parts, ()) = http::Request::get(uri).body(()).expect("valid").into_parts();
        let rewrite = Rewrite::compile("r", rewrite).expect("compiles");
        let target = rewrite.target(&RequestHead::Map(&parts), Some(matched))?;
        Ok(String::from_utf8(target.to_vec()).expect("text"))
    }

    #[test]
    fn prefixes_are_rewritten_by_whole_segments() {
        let check = |uri: &str, matched: &str, new: &str, expect: &str| {
            let found = rewritten(uri, matched, &PathRewrite::Prefix(new.to_owned()));
            assert_eq!(found.as_deref().ok(), Some(expect));
        };
        check("/api/a?q", "/api", "/v1", "/v1/a?q");
        check("/api", "/api", "/", "/");
        check("/api/a", "/api", "/", "/a");
        check("/api", "/api", "/v1", "/v1");
    }

    #[test]
    fn all_that_an_expression_finds_is_replaced() {
        use SubstitutionPart::{Group, Text};
        let text = |text: &str| Text(text.to_owned());
        let check = |uri: &str, pattern: &str, substitution: &[SubstitutionPart], expect: &str| {
            let rewrite =
                PathRewrite::Regex { pattern: pattern.to_owned(), substitution: substitution.to_vec() };
            assert_eq!(rewritten(uri, "", &rewrite).as_deref().ok(), Some(expect), "{uri} {pattern}");
        };
        let turned = [text("/"), Group(2), text("/at/"), Group(1)];
        check(
            "/service/one/v1/x?q=/service/",
            "^/service/([^/]+)(/.*)$",
            &[Group(2), Group(1)],
            "/v1/xone?q=/service/",
        );
        check("/users/7/a/b", "^/users/([^/]+)/(.*)$", &turned, "/a/b/at/7");
        check("/%75sers/./7/a", "^/users/([^/]+)/(.*)$", &turned, "/a/at/7");
        check("/one/two/one", "one", &[text("1")], "/1/two/1");
        check("/a", "x", &[text("y")], "/a");
        check("/a(b)?", r"^/a(c)?", &[text("/d"), Group(1)], "/d(b)?");
        check("/a/b", "^/", &[], "/a/b");
        check("/a", ".*", &[], "/");
        check("/a", "^", &[text("x"), Group(0)], "/x/a");
    }

    #[test]
    fn what_a_rewrite_makes_is_bounded() {
        let rewrite = |times: usize| PathRewrite::Regex {
            pattern: "(a+)".to_owned(),
            substitution: vec![SubstitutionPart::Group(1); times],
        };
        let path = format!("/{}", "a".repeat(4000));
        assert!(rewritten(&path, "", &rewrite(2)).is_ok());
        let failure = rewritten(&path, "", &rewrite(9)).expect_err("too long");
        assert_eq!(failure.kind, Kind::HeadTooLarge);
    }
}
