//! Points in time as jobs write them: a moment, or how long from another.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use crate::component::duration;

/// The moment that `text` means, reckoned from `from_ms` if it is a duration: RFC 3339 (`2030-01-31T12:00:00Z`), Go
/// (`1h30m`) or ISO 8601 (`P1DT12H`, by the calendar in UTC). Milliseconds since 1970.
pub(super) fn point(text: &str, from_ms: i64) -> Option<i64> {
    let text = text.trim();
    if text.starts_with(['P', 'p']) {
        let span: Span = text.parse().ok()?;
        let from = Timestamp::from_millisecond(from_ms).ok()?.to_zoned(TimeZone::UTC);
        let at = from.checked_add(span).ok()?.timestamp().as_millisecond();
        return (at >= from_ms).then_some(at);
    }
    // A number alone has no unit, but for nothing at all.
    let is_bare = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let wait = if text == "0" { Some(Duration::ZERO) } else { duration(text).filter(|_| !is_bare) };
    if let Some(wait) = wait {
        return from_ms.checked_add(i64::try_from(wait.as_millis()).ok()?);
    }
    let at: Timestamp = text.parse().ok()?;
    Some(at.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_durations() {
        let from: Timestamp = "2026-01-31T10:00:00Z".parse().expect("a time");
        let from = from.as_millisecond();
        let check = |text: &str, expect: Option<&str>| {
            let at = point(text, from).map(|at| Timestamp::from_millisecond(at).expect("a time").to_string());
            assert_eq!(at.as_deref(), expect, "{text}");
        };
        check("0s", Some("2026-01-31T10:00:00Z"));
        check("0", Some("2026-01-31T10:00:00Z"));
        check("1h30m", Some("2026-01-31T11:30:00Z"));
        check("1500ms", Some("2026-01-31T10:00:01.5Z"));
        check("PT2H", Some("2026-01-31T12:00:00Z"));
        check("P1M1DT1S", Some("2026-03-01T10:00:01Z"));
        check("2030-05-01T12:00:00+02:00", Some("2030-05-01T10:00:00Z"));
        check("2020-05-01T12:00:00Z", Some("2020-05-01T12:00:00Z"));
        for text in ["", "10", "soon", "R5/PT1S", "-PT1S", "-5s", "2030-05-01", "12:00", "P"] {
            check(text, None);
        }
    }
}
