//! Changes of host and path within a Route.

use super::Findings;
use crate::read::Code;
use crate::rewrite::{PathModifier, PathModifierKind, RegexRewrite, Substitution};
use crate::route::{Match, PathMatchKind, Rule};
use crate::template::Template;

pub(super) fn check(
    path: &str,
    host: Option<&str>,
    modifier: Option<&PathModifier>,
    rule: &Rule,
    found: &mut Findings,
) {
    if let Some(host) = host {
        found.hostname(&format!("{path}.hostname"), host);
    }
    let Some(modifier) = modifier else { return };
    let path = format!("{path}.path");
    let given = [
        ("replaceFullPath", modifier.replace_full_path.is_some()),
        ("replacePrefixMatch", modifier.replace_prefix_match.is_some()),
        ("replaceRegexMatch", modifier.replace_regex_match.is_some()),
        ("replaceTemplateMatch", modifier.replace_template_match.is_some()),
    ];
    found.exactly_one(&path, &given);
    let (kind, wanted) = (modifier.kind.name(), modifier.kind.block());
    if given.iter().any(|(_, is)| *is) && !given.contains(&(wanted, true)) {
        let message = format!("the type is `{kind}`");
        found.error(Code::Conflict, path, message, format!("write `{wanted}`, or change the type"));
        return;
    }
    match modifier.kind {
        PathModifierKind::ReplaceFullPath => {}
        PathModifierKind::ReplacePrefixMatch => check_prefix(&path, rule, found),
        PathModifierKind::ReplaceRegexMatch => {
            if let Some(regex) = &modifier.replace_regex_match {
                check_regex(&format!("{path}.replaceRegexMatch"), regex, found);
            }
        }
        PathModifierKind::ReplaceTemplateMatch => {
            if let Some(to) = &modifier.replace_template_match {
                check_template(&format!("{path}.replaceTemplateMatch"), to, rule, found);
            }
        }
    }
}

fn check_prefix(path: &str, rule: &Rule, found: &mut Findings) {
    let prefixed = |one: &Match| {
        one.path.as_ref().is_none_or(|path| path.kind == PathMatchKind::PathPrefix) && one.grpc.is_none()
    };
    if !rule.matches.iter().all(prefixed) {
        let message = "a prefix can be replaced only where every match of the rule is by `PathPrefix`";
        found.error(Code::Conflict, path, message, "use `ReplaceFullPath`, or match by prefix");
    }
}

fn check_regex(path: &str, regex: &RegexRewrite, found: &mut Findings) {
    let pattern = format!("{path}.pattern");
    if regex.pattern.is_empty() {
        let message = "an empty expression is found everywhere";
        found.error(Code::InvalidValue, pattern, message, "write what is replaced, or `^` for the start");
        return;
    }
    found.regex(&pattern, &regex.pattern);
    let path = format!("{path}.substitution");
    let substitution = match regex.substitution.parse::<Substitution>() {
        Ok(substitution) => substitution,
        Err(invalid) => return found.error(Code::InvalidValue, path, invalid.message, invalid.remedy),
    };
    // What is no expression has been told.
    let Ok(pattern) = regex::Regex::new(&regex.pattern) else { return };
    let (named, groups) = (substitution.last_group(), pattern.captures_len() - 1);
    if named > groups {
        let message = format!("`\\{named}` is not there: the expression has {groups} groups");
        found.error(Code::InvalidValue, path, message, "put brackets around what it stands for");
    }
}

fn check_template(path: &str, to: &str, rule: &Rule, found: &mut Findings) {
    let template = |one: &Match| {
        one.path.as_ref().filter(|path| path.kind == PathMatchKind::Template).map(|path| path.value.clone())
    };
    let templates: Vec<String> = rule.matches.iter().filter_map(template).collect();
    if templates.is_empty() || templates.len() < rule.matches.len() {
        let message = "variables are there only where every match of the rule is by `Template`";
        return found.error(Code::Conflict, path, message, "use another type, or match by template");
    }
    // A template that cannot be read is told where it is written.
    let read = templates.iter().filter_map(|text| text.parse::<Template>().ok());
    if let Some(invalid) = read.filter_map(|template| template.rewriting(to).err()).next() {
        found.error(Code::InvalidValue, path, invalid.message, invalid.remedy);
    }
}
