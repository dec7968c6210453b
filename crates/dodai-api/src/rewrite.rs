//! Changes of a path, for `urlRewrite` and `requestRedirect` of a Route: what is replaced, and by what.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::Invalid;

/// The longest substitution in bytes.
const MAX_SUBSTITUTION: usize = 1024;

/// A change of the path: the block of the same name as `type` is given. The query stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathModifier {
    /// What is replaced.
    #[serde(rename = "type")]
    pub kind: PathModifierKind,
    /// The new path, for `ReplaceFullPath`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_full_path: Option<String>,
    /// What takes the place of the matched prefix, for `ReplacePrefixMatch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_prefix_match: Option<String>,
    /// What takes the place of what an expression finds, for `ReplaceRegexMatch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_regex_match: Option<RegexRewrite>,
    /// The new path with variables of the rule's template, `/v2/accounts/{id}`, for `ReplaceTemplateMatch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_template_match: Option<String>,
}

/// What a change of the path replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathModifierKind {
    /// The whole path.
    ReplaceFullPath,
    /// The prefix that the rule matched.
    ReplacePrefixMatch,
    /// Everything that a regular expression finds.
    ReplaceRegexMatch,
    /// The whole path, by what the variables of the rule's template stand for.
    ReplaceTemplateMatch,
}

impl PathModifierKind {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            PathModifierKind::ReplaceFullPath => "ReplaceFullPath",
            PathModifierKind::ReplacePrefixMatch => "ReplacePrefixMatch",
            PathModifierKind::ReplaceRegexMatch => "ReplaceRegexMatch",
            PathModifierKind::ReplaceTemplateMatch => "ReplaceTemplateMatch",
        }
    }

    /// The key of the block that goes with it.
    pub const fn block(self) -> &'static str {
        match self {
            PathModifierKind::ReplaceFullPath => "replaceFullPath",
            PathModifierKind::ReplacePrefixMatch => "replacePrefixMatch",
            PathModifierKind::ReplaceRegexMatch => "replaceRegexMatch",
            PathModifierKind::ReplaceTemplateMatch => "replaceTemplateMatch",
        }
    }
}

/// What an expression finds and what takes its place, as Envoy's `regex_rewrite`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegexRewrite {
    /// A regular expression; everything it finds in the path is replaced.
    pub pattern: String,
    /// What takes its place: `\1` is the first group, `\0` all that was found.
    pub substitution: String,
}

/// A substitution that has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Substitution {
    /// Its parts, in order.
    pub parts: Vec<SubstitutionPart>,
}

/// What stands at one place of a substitution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubstitutionPart {
    /// This text.
    Text(String),
    /// What the group of this number found; 0 is everything. Nothing, if the group took no part.
    Group(usize),
}

impl Substitution {
    pub(crate) fn text(&mut self, text: &str) {
        match self.parts.last_mut() {
            Some(SubstitutionPart::Text(before)) => before.push_str(text),
            Some(SubstitutionPart::Group(_)) | None if text.is_empty() => {}
            Some(SubstitutionPart::Group(_)) | None => {
                self.parts.push(SubstitutionPart::Text(text.to_owned()));
            }
        }
    }

    /// The largest number of a group.
    pub fn last_group(&self) -> usize {
        let number = |part: &SubstitutionPart| match part {
            SubstitutionPart::Text(_) => 0,
            SubstitutionPart::Group(number) => *number,
        };
        self.parts.iter().map(number).max().unwrap_or(0)
    }
}

impl FromStr for Substitution {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Substitution, Invalid> {
        if text.len() > MAX_SUBSTITUTION {
            let message = format!("the substitution has more than {MAX_SUBSTITUTION} bytes");
            return Err(Invalid::new(message, "write less"));
        }
        let mut read = Substitution::default();
        let mut pieces = text.split('\\');
        let first = pieces.next().unwrap_or_default();
        plain(first)?;
        read.text(first);
        for piece in pieces {
            let digit = piece.chars().next().and_then(|letter| letter.to_digit(10));
            let (Some(digit), Some(rest)) = (digit, piece.get(1..)) else {
                let remedy = "write `\\0` to `\\9`, and the sign itself as `%5C`";
                return Err(Invalid::new("a `\\` names no group", remedy));
            };
            read.parts.push(SubstitutionPart::Group(digit as usize));
            plain(rest)?;
            read.text(rest);
        }
        Ok(read)
    }
}

/// Refuses what cannot stand in a path.
pub(crate) fn plain(text: &str) -> Result<(), Invalid> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;:@=".contains(c);
    match text.chars().find(|c| !fits(*c)) {
        None => Ok(()),
        Some('?') => {
            Err(Invalid::new("`?` begins the query, which stays as it was", "leave it and what follows out"))
        }
        Some(odd) => Err(Invalid::new(
            format!("`{odd}` cannot stand in a path as it is"),
            "write it as `%` and two hexadecimal digits",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_told_from_text() {
        let read: Substitution = r"/v2/\1-\0/x".parse().expect("it is one");
        let text = |text: &str| SubstitutionPart::Text(text.to_owned());
        use SubstitutionPart::Group;
        assert_eq!(read.parts, [text("/v2/"), Group(1), text("-"), Group(0), text("/x")]);
        assert_eq!(read.last_group(), 1);
        assert_eq!("".parse::<Substitution>(), Ok(Substitution::default()));
        for (text, expect) in [
            (r"/a\", "names no group"),
            (r"/a\x", "names no group"),
            (r"/a\\1", "as `%5C`"),
            ("/a?b", "begins the query"),
            ("/a b", "` ` cannot stand"),
            ("/ä", "`ä` cannot stand"),
            (&"x".repeat(MAX_SUBSTITUTION + 1), "more than 1024"),
        ] {
            let error = text.parse::<Substitution>().expect_err(text).to_string();
            assert!(error.contains(expect), "{text}: {error}");
        }
    }
}
