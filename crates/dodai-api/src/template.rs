//! Path templates: what one segment of a path may be, in the shape that Envoy's URI templates have.
//!
//! `*` and `{name}` stand for one segment, `**` and `{name=**}` for all that are left and so only at the end; either
//! may have text behind it within its segment: `/video/{file}.m4s`, `/**.mpd`. What a variable stands for can be put into
//! another path.

use std::str::FromStr;

use crate::rewrite::{Substitution, SubstitutionPart, plain};
use crate::text::Invalid;

/// The most variables of one template, as with Envoy.
const MAX_VARIABLES: usize = 5;
/// The longest name of a variable, as with Envoy.
const MAX_NAME: usize = 16;

/// A template that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// What the segments of a path must be; at least one.
    pub segments: Vec<Segment>,
    /// The names of its variables, in order.
    pub variables: Vec<String>,
    /// As it was written.
    text: String,
    /// A regular expression that finds the same paths, with a group for each variable.
    pattern: String,
}

/// What one segment must be, or all that are left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// This text.
    Literal(String),
    /// Anything that ends so and is more than that.
    One(String),
    /// All that is left, if it ends so; the last segment.
    Rest(String),
}

impl Template {
    /// How many segments are texts, and whether none stands for all that are left: what makes one template more
    /// specific than another.
    pub fn rank(&self) -> (usize, bool) {
        let literal = |segment: &&Segment| matches!(segment, Segment::Literal(_));
        let rest = |segment: &Segment| matches!(segment, Segment::Rest(_));
        (self.segments.iter().filter(literal).count(), !self.segments.iter().any(rest))
    }

    /// How a path of this template becomes `to`, in which variables stand for what they are there: a regular expression
    /// and what takes the place of all it finds.
    ///
    /// # Errors
    /// `to` is no path, or names a variable that this template does not have.
    pub fn rewriting(&self, to: &str) -> Result<(&str, Substitution), Invalid> {
        if !to.starts_with('/') {
            let message = format!("`{}` is not a path", Invalid::shorten(to));
            return Err(Invalid::new(message, "begin it with `/`"));
        }
        let mut found = Substitution::default();
        let mut rest = to;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, behind)) = after.split_once('}') else {
                return Err(Invalid::new("a `{` has no `}`", "close it: `{name}`"));
            };
            let Some(at) = self.variables.iter().position(|known| known == name) else {
                let message = format!("`{}` has no variable `{}`", self.text, Invalid::shorten(name));
                return Err(Invalid::new(message, self.names()));
            };
            plain(before)?;
            found.text(before);
            found.parts.push(SubstitutionPart::Group(at + 1));
            rest = behind;
        }
        plain(rest)?;
        found.text(rest);
        Ok((&self.pattern, found))
    }

    /// Which variables there are, as a remedy.
    fn names(&self) -> String {
        if self.variables.is_empty() {
            return "name a segment of it, `{name}`, or what is left, `{rest=**}`".to_owned();
        }
        let names: Vec<String> = self.variables.iter().map(|name| format!("`{{{name}}}`")).collect();
        format!("write {}", names.join(", "))
    }
}

impl FromStr for Template {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Template, Invalid> {
        let (flat, variables, pattern) = flat(text)?;
        let Some(path) = flat.strip_prefix('/') else {
            return Err(Invalid::new(
                format!("`{}` is not a path", Invalid::shorten(text)),
                "begin it with `/`",
            ));
        };
        let mut segments = Vec::new();
        for part in path.split('/') {
            if matches!(segments.last(), Some(Segment::Rest(_))) {
                return Err(Invalid::new(
                    "`**` stands for all that is left, so nothing can follow it",
                    "write `*` or `{name}` for one segment, or put `**` at the end",
                ));
            }
            segments.push(segment(part)?);
        }
        Ok(Template { segments, variables, text: text.to_owned(), pattern })
    }
}

fn segment(part: &str) -> Result<Segment, Invalid> {
    let (segment, end) = match (part.strip_prefix("**"), part.strip_prefix('*')) {
        (Some(end), _) => (Segment::Rest(end.to_owned()), end),
        (None, Some(end)) => (Segment::One(end.to_owned()), end),
        (None, None) => (Segment::Literal(part.to_owned()), part),
    };
    if end.contains('*') {
        let message = format!("`{}` has a `*` behind other text", Invalid::shorten(part));
        return Err(Invalid::new(message, "begin the segment with it, or use `RegularExpression`"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~%!$&'()+,;:@=".contains(c);
    if let Some(odd) = end.chars().find(|c| !plain(*c)) {
        let message = format!("`{odd}` cannot stand in a path as it is");
        return Err(Invalid::new(message, "write it as `%` and two hexadecimal digits"));
    }
    Ok(segment)
}

/// The regular expression for a piece of a template without variables.
fn expression(text: &str) -> String {
    regex::escape(text).replace(r"\*\*", ".*").replace(r"\*", "[^/]+")
}

/// The template with its variables replaced by what they stand for; their names; and all of it as a regular expression.
fn flat(text: &str) -> Result<(String, Vec<String>, String), Invalid> {
    let mut out = String::new();
    let mut pattern = String::from("^");
    let mut names: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((variable, behind)) = after.split_once('}') else {
            return Err(Invalid::new("a `{` has no `}`", "close it: `{name}`"));
        };
        let (name, stands_for) = variable.split_once('=').unwrap_or((variable, "*"));
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.len() <= MAX_NAME
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_name {
            let message = format!("`{}` is not a variable's name", Invalid::shorten(name));
            return Err(Invalid::new(message, "write a letter, then letters, digits and `_`, 16 at most"));
        }
        if names.iter().any(|known| known == name) {
            return Err(Invalid::new(
                format!("the variable `{name}` is there twice"),
                "rename one of the two",
            ));
        }
        if names.len() == MAX_VARIABLES {
            let message = format!("more than {MAX_VARIABLES} variables");
            return Err(Invalid::new(message, "write `*` where the name does not matter"));
        }
        if stands_for.is_empty() || stands_for.contains('{') {
            let message = format!("`{name}` stands for nothing that can be read");
            return Err(Invalid::new(message, "write `{name}`, `{name=**}` or `{name=a/*}`"));
        }
        names.push(name.to_owned());
        out.push_str(before);
        out.push_str(stands_for);
        pattern.push_str(&format!("{}({})", expression(before), expression(stands_for)));
        rest = behind;
    }
    out.push_str(rest);
    pattern.push_str(&expression(rest));
    pattern.push('$');
    if out.contains('}') {
        return Err(Invalid::new("a `}` has no `{`", "open it: `{name}`"));
    }
    Ok((out, names, pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> Segment {
        Segment::Literal(text.to_owned())
    }

    #[test]
    fn segments_are_texts_or_stand_for_any() {
        let check = |text: &str, expect: &[Segment]| {
            let template: Template = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(template.segments, expect, "{text}");
        };
        let one = |end: &str| Segment::One(end.to_owned());
        let rest = |end: &str| Segment::Rest(end.to_owned());
        check("/users/{id}/orders/**", &[literal("users"), one(""), literal("orders"), rest("")]);
        check("/users/*/orders/{all=**}", &[literal("users"), one(""), literal("orders"), rest("")]);
        check("/video/{file}.m4s", &[literal("video"), one(".m4s")]);
        check("/**.mpd", &[rest(".mpd")]);
        check("/{where=a/*}/b", &[literal("a"), one(""), literal("b")]);
        check("/", &[literal("")]);
        check("/a/", &[literal("a"), literal("")]);
    }

    #[test]
    fn variables_are_put_into_another_path() {
        use SubstitutionPart::{Group, Text};
        let template: Template = "/users/{id}/{file}.m4s/{where=a/*}/{rest=**}".parse().expect("it is one");
        let (pattern, found) = template.rewriting("/v2/{rest}/{id}").expect("it is one");
        assert_eq!(found.parts, [Text("/v2/".into()), Group(4), Text("/".into()), Group(1)]);
        let pattern = regex::Regex::new(pattern).expect("an expression");
        let groups = pattern.captures("/users/7/x.y.m4s/a/b/c/d").expect("it fits");
        let groups: Vec<&str> = groups.iter().flatten().map(|group| group.as_str()).collect();
        assert_eq!(groups[1..], ["7", "x.y", "a/b", "c/d"]);
        assert!(!pattern.is_match("/users/7/xxm4s/a/b/"), "a dot is a dot");
        for (to, expect) in [
            ("v2/{id}", "is not a path"),
            ("/{ID}", "has no variable `ID`; write `{id}`"),
            ("/{id", "has no `}`"),
            ("/id}", "`}` cannot stand"),
            ("/{id}?a", "begins the query"),
        ] {
            let error = template.rewriting(to).expect_err(to).to_string();
            assert!(error.contains(expect), "{to}: {error}");
        }
        let nameless: Template = "/a/*".parse().expect("it is one");
        let error = nameless.rewriting("/{x}").expect_err("no variables").to_string();
        assert!(error.contains("name a segment"), "{error}");
    }

    #[test]
    fn what_is_no_template_is_told() {
        let check = |text: &str, expect: &str| {
            let error = text.parse::<Template>().expect_err(text);
            assert!(error.to_string().contains(expect), "{text}: {error}");
        };
        check("users/*", "is not a path");
        check("/a/**/b", "nothing can follow");
        check("/a{b", "has no `}`");
        check("/a}b", "has no `{`");
        check("/a*b*", "`*` behind other text");
        check("/x*", "`*` behind other text");
        check("/{9}", "variable's name");
        check("/{a}/{a}", "twice");
        check("/{a}/{b}/{c}/{d}/{e}/{f}", "more than 5");
        check("/{a=}", "stands for nothing");
        check("/a?b", "`?` cannot stand");
    }
}
