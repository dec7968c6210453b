//! Which calls are logged: conditions that are joined by `&&`, read from text.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use dodai_cel::Program;
use thiserror::Error;

use crate::is_header_name;

/// The name of the call in expressions.
pub const CALL: &str = "call";

/// Text that names no filter.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "`{part}` is no access log filter{why}; use all, none, failures, sampled, status>=400, status=404, status=4xx, \
     status=500-503, duration>=250ms, route=NAME, app=NAMESPACE/NAME, header:NAME, header:NAME=VALUE, share=5% or \
     cel:EXPRESSION, joined by &&"
)]
pub struct BadFilter {
    part: String,
    why: String,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(pub Vec<Term>);

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// Every call.
    All,
    /// Those the base answered itself, those whose status is 500 or more, and those whose caller left.
    Failures,
    /// Those of sampled traces.
    Sampled,
    /// From the first to the second; whether those count too whose caller left.
    Status(u16, u16, bool),
    /// Those that took at least so long.
    SlowerThan(Duration),
    /// Those that this rule matched.
    Route(String),
    /// Calls that this app makes or gets.
    App(String),
    /// A request header, with this value if any is given.
    Header(String, Option<String>),
    /// Of 10,000 calls, how many.
    Share(u64),
    /// Those for which the expression holds.
    Cel(Program),
}

impl Filter {
    /// Every call.
    pub fn all() -> Filter {
        Filter(vec![Term::All])
    }

    /// Calls that failed.
    pub fn failures() -> Filter {
        Filter(vec![Term::Failures])
    }

    /// The request headers it asks for, in small letters.
    pub(super) fn headers(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter_map(|term| if let Term::Header(name, _) = term { Some(name.as_str()) } else { None })
    }
}

impl FromStr for Filter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Filter, BadFilter> {
        let mut terms = Vec::new();
        let mut rest = text.trim();
        loop {
            // An expression has `&&` of its own, so it comes last.
            let (part, more) = match rest.split_once("&&") {
                Some((part, more)) if !rest.starts_with("cel:") => (part.trim(), Some(more.trim())),
                Some(_) | None => (rest, None),
            };
            let bad = |why: String| BadFilter { part: part.to_owned(), why };
            terms.push(term(part).map_err(bad)?);
            match more {
                Some(more) => rest = more,
                None => return Ok(Filter(terms)),
            }
        }
    }
}

fn term(text: &str) -> Result<Term, String> {
    match text {
        "all" => return Ok(Term::All),
        "none" => return Ok(Term::Share(0)),
        "failures" => return Ok(Term::Failures),
        "sampled" => return Ok(Term::Sampled),
        _ => {}
    }
    if let Some(least) = text.strip_prefix("status>=") {
        return Ok(Term::Status(status(least)?, 599, true));
    }
    if let Some(wanted) = text.strip_prefix("status=") {
        let (least, most) = statuses(wanted)?;
        return Ok(Term::Status(least, most, false));
    }
    if let Some(least) = text.strip_prefix("duration>=") {
        return Ok(Term::SlowerThan(duration(least)?));
    }
    if let Some(name) = text.strip_prefix("route=").filter(|name| !name.is_empty()) {
        return Ok(Term::Route(name.to_owned()));
    }
    if let Some(app) = text.strip_prefix("app=") {
        let app = if app.contains('/') { app.to_owned() } else { format!("default/{app}") };
        let is_name = |name: &str| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            (1..=63).contains(&name.len()) && name.bytes().all(plain)
        };
        if !app.split_once('/').is_some_and(|(namespace, name)| is_name(namespace) && is_name(name)) {
            return Err(
                " (an app is NAME or NAMESPACE/NAME, in small letters, digits and hyphens)".to_owned()
            );
        }
        return Ok(Term::App(app));
    }
    if let Some(header) = text.strip_prefix("header:") {
        let (name, value) = match header.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (header, None),
        };
        if !is_header_name(name) {
            return Err(" (that is not the name of a header)".to_owned());
        }
        return Ok(Term::Header(name.to_ascii_lowercase(), value));
    }
    if let Some(share) = text.strip_prefix("share=").and_then(|share| share.strip_suffix('%')) {
        let percent = share.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
        let percent = percent.ok_or_else(|| " (a share is from 0% to 100%)".to_owned())?;
        // At most 10,000.
        return Ok(Term::Share((percent * 100.0).round() as u64));
    }
    if let Some(source) = text.strip_prefix("cel:") {
        let program = Program::parse_over(source.trim(), &[CALL]).map_err(|bad| format!(" ({bad})"))?;
        return Ok(Term::Cel(program));
    }
    Err(String::new())
}

fn status(text: &str) -> Result<u16, String> {
    let found = text.parse().ok().filter(|status| (100..600).contains(status));
    found.ok_or_else(|| " (a status is from 100 to 599)".to_owned())
}

/// `404`, `4xx` or `500-503`.
fn statuses(text: &str) -> Result<(u16, u16), String> {
    if let Some(class) = text.strip_suffix("xx") {
        let class = class.parse::<u16>().ok().filter(|class| (1..=5).contains(class));
        let class = class.ok_or_else(|| " (a class is 1xx to 5xx)".to_owned())?;
        return Ok((class * 100, class * 100 + 99));
    }
    match text.split_once('-') {
        Some((least, most)) => {
            let (least, most) = (status(least)?, status(most)?);
            if least > most { Err(" (the range is upside down)".to_owned()) } else { Ok((least, most)) }
        }
        None => status(text).map(|only| (only, only)),
    }
}

/// `250ms`, `2s` or `800us`.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("us", 1), ("ms", 1_000), ("s", 1_000_000)];
    let found = units.into_iter().find_map(|(unit, micros)| {
        let count = text.strip_suffix(unit)?.parse::<u64>().ok()?;
        count.checked_mul(micros).map(Duration::from_micros)
    });
    found.ok_or_else(|| " (a duration is a whole number with us, ms or s)".to_owned())
}

/// Filters of which one lets a call through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filters(pub Arc<[Filter]>);

impl From<Filter> for Filters {
    fn from(only: Filter) -> Filters {
        Filters([only].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_filter_is_named() {
        for (bad, word) in [
            ("", "status>=400"),
            ("ALL", "status>=400"),
            ("status>=", "100 to 599"),
            ("status>=600", "100 to 599"),
            ("status>400", "status>=400"),
            ("status=6xx", "5xx"),
            ("status=503-500", "upside down"),
            ("duration>=5", "us, ms or s"),
            ("share=101%", "100%"),
            ("header:a b", "header"),
            ("all && colour=red", "`colour=red`"),
            ("cel:call.status ==", "at character"),
            ("app=a/b/c", "app=a/b/c"),
        ] {
            let error = bad.parse::<Filter>().unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}
