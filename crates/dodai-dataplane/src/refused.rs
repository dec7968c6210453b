//! An answer that may be tried again: its status, and how long the endpoint asks to be left alone first (RFC 9110, 10.2.3).

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue};

/// What the head of an answer says of another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The status.
    pub status: u16,
    /// What its `Retry-After` asks for; zero where it has none, or is none of 429 and 503.
    pub after: Duration,
}

impl Refused {
    /// Reads `Retry-After`, if `status` is one that it counts with.
    pub fn of<'a>(status: u16, header: impl FnOnce() -> Option<&'a [u8]>) -> Refused {
        let asked = if matches!(status, 429 | 503) { header() } else { None };
        Refused { status, after: asked.map_or(Duration::ZERO, |asked| after(asked, SystemTime::now())) }
    }
}

/// The header, where heads are maps.
pub fn retry_after(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(RETRY_AFTER).map(HeaderValue::as_bytes)
}

/// Seconds, or the time until a date; nothing if it is neither.
#[cold]
fn after(asked: &[u8], now: SystemTime) -> Duration {
    let Ok(text) = std::str::from_utf8(asked) else { return Duration::ZERO };
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than fits is for ever.
        return Duration::from_secs(text.parse().unwrap_or(u64::from(u32::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok();
    date.and_then(|date| date.duration_since(now).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        for (asked, expect) in [
            ("3", 3),
            (" 0 ", 0),
            ("99999999999999999999", u64::from(u32::MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 7),
            ("Sun, 06 Nov 1994 08:49:00 GMT", 0),
            ("-1", 0),
            ("1.5", 0),
            ("soon", 0),
            ("", 0),
        ] {
            assert_eq!(after(asked.as_bytes(), now), Duration::from_secs(expect), "{asked}");
        }
        assert_eq!(Refused::of(502, || Some(b"3")).after, Duration::ZERO);
    }
}
