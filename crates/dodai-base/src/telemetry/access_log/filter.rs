//! Which calls are logged: conditions that are joined by `&&`, read from text.
//!
//! What is known of every call is asked on the data path, before a record is built; headers and expressions are asked
//! by the writer, on its own thread. A drawn share is fixed by the call's span, so asking twice gives one answer.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use dodai_cel::{Program, Value};
use dodai_core::record::{Brief, Record};
use thiserror::Error;

use crate::telemetry::line::Line;

/// What a share is counted in.
const WHOLE: u64 = 10_000;
/// The name of the call in expressions.
const CALL: &str = "call";

/// Text that names no filter.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "`{part}` is no access log filter{why}; use all, failures, sampled, status>=400, status=404, status=4xx, \
     status=500-503, duration>=250ms, route=NAME, app=NAMESPACE/NAME, header:NAME, header:NAME=VALUE, share=5% or \
     cel:EXPRESSION, joined by &&"
)]
pub struct BadFilter {
    part: String,
    why: String,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Vec<Term>);

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    All,
    /// Those the base answered itself, those whose status is 500 or more, and those whose caller left.
    Failures,
    Sampled,
    /// From the first to the second; whether those count too whose caller left.
    Status(u16, u16, bool),
    SlowerThan(Duration),
    Route(String),
    /// Calls that this app makes or gets.
    App(String),
    /// A request header, with this value if any is given.
    Header(String, Option<String>),
    /// Of 10,000 calls, how many.
    Share(u64),
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

    /// Whether a call may be let through, as far as can be said before there is a record.
    pub(super) fn may_let(&self, call: &Brief<'_>) -> bool {
        self.0.iter().all(|term| term.may_hold(call))
    }

    /// Whether a call is let through.
    pub(super) fn lets(&self, record: &Record) -> bool {
        let call = Brief {
            span: &record.span,
            effective_status: record.effective_status(),
            failure: record.failure,
            took: record.took,
            caller: &record.caller,
            service: &record.service,
            route: &record.route,
        };
        self.may_let(&call) && self.0.iter().all(|term| term.holds(record))
    }

    /// The request headers it asks for, in small letters.
    pub(super) fn headers(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter_map(|term| if let Term::Header(name, _) = term { Some(name.as_str()) } else { None })
    }
}

impl Term {
    fn may_hold(&self, call: &Brief<'_>) -> bool {
        match self {
            Term::All | Term::Header(..) | Term::Cel(_) => true,
            Term::Failures => call.failure.is_some() || !(1..500).contains(&call.effective_status),
            Term::Sampled => call.span.sampled,
            Term::Status(least, most, gone) => {
                let status = call.effective_status;
                (*least..=*most).contains(&status) || (*gone && status == 0)
            }
            Term::SlowerThan(least) => call.took >= *least,
            Term::Route(name) => call.route == name,
            Term::App(app) => {
                call.caller == app
                    || call.service.strip_prefix(app.as_str()).is_some_and(|rest| rest.starts_with('/'))
            }
            // The id is random, so its remainder is a draw.
            Term::Share(share) => call.span.id % WHOLE < *share,
        }
    }

    fn holds(&self, record: &Record) -> bool {
        match self {
            Term::Header(name, wanted) => {
                let mut found = record.request_headers.iter().filter(|(known, _)| **known == **name);
                found.any(|(_, value)| wanted.as_ref().is_none_or(|wanted| wanted == value))
            }
            Term::Cel(program) => {
                let json = serde_json::to_value(Line::from(record)).unwrap_or_default();
                // An expression without an answer lets nothing through.
                program.holds_over(&[(CALL, Value::of(&json))]).unwrap_or(false)
            }
            Term::All
            | Term::Failures
            | Term::Sampled
            | Term::Status(..)
            | Term::SlowerThan(_)
            | Term::Route(_)
            | Term::App(_)
            | Term::Share(_) => true,
        }
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
        let app = dodai_core::id::AppId::parse(&app).map_err(|error| format!(" ({error})"))?;
        return Ok(Term::App(app.to_string()));
    }
    if let Some(header) = text.strip_prefix("header:") {
        let (name, value) = match header.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (header, None),
        };
        let name = http::HeaderName::from_bytes(name.as_bytes()).map_err(|error| format!(" ({error})"))?;
        return Ok(Term::Header(name.as_str().to_owned(), value));
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

impl Filters {
    pub(super) fn may_let(&self, call: &Brief<'_>) -> bool {
        self.0.iter().any(|filter| filter.may_let(call))
    }

    pub(super) fn lets(&self, record: &Record) -> bool {
        self.0.iter().any(|filter| filter.lets(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::line::tests::record;
    use dodai_core::failure::Kind;
    use dodai_core::trace::Span;

    #[test]
    fn conditions_hold_for_the_calls_they_mean() {
        let plain = || Record {
            caller: "shop/front".into(),
            request_headers: vec![("x-lane".into(), "blue".to_owned())],
            ..record()
        };
        let with = |status, failure, sampled| Record {
            status,
            failure,
            span: Span { sampled, ..record().span },
            ..plain()
        };
        for (text, record, expect) in [
            ("all", with(200, None, false), true),
            ("failures", with(404, None, true), false),
            ("failures", with(404, Some(Kind::NoRoute), false), true),
            ("failures", with(500, None, false), true),
            ("failures", with(0, None, false), true),
            ("status>=400", with(399, None, false), false),
            ("status>=400", with(400, None, false), true),
            ("status>=400", with(0, None, false), true),
            ("status=404", with(404, None, false), true),
            ("status=4xx", with(500, None, false), false),
            ("status=4xx", with(0, None, false), false),
            ("status=500-503", with(503, None, false), true),
            ("sampled", with(200, None, true), true),
            ("sampled", with(500, Some(Kind::Internal), false), false),
            ("duration>=1ms", plain(), true),
            ("duration>=1501us", plain(), false),
            ("route=carts", plain(), true),
            ("route=cart", plain(), false),
            ("app=shop/front", plain(), true),
            ("app=shop/cart", plain(), true),
            ("app=shop/car", plain(), false),
            ("header:X-Lane", plain(), true),
            ("header:x-lane=blue", plain(), true),
            ("header:x-lane=red", plain(), false),
            ("share=100%", plain(), true),
            ("share=0%", plain(), false),
            ("status=2xx && duration>=1ms", plain(), true),
            ("status=2xx && duration>=2s", plain(), false),
            ("all && cel:call.status == 200 && call.took_us > 1000", plain(), true),
            ("cel:call.request_headers[\"x-lane\"] == \"red\"", plain(), false),
            ("cel:call.nothing.like_that == 1", plain(), false),
        ] {
            let filter: Filter = text.parse().unwrap();
            assert_eq!(filter.lets(&record), expect, "{text} {record:?}");
        }
    }

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

    #[test]
    fn a_share_is_drawn_once_for_a_call() {
        let filter: Filter = "share=50%".parse().unwrap();
        let drawn = |id| filter.lets(&Record { span: Span { id, ..record().span }, ..record() });
        let count = (0..10_000).filter(|id| drawn(*id)).count();
        assert_eq!(count, 5_000);
        assert_eq!(drawn(1), drawn(1));
    }
}
