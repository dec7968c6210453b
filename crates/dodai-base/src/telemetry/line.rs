//! One call record as people and tools read it: the JSON object or text line of the access log, of
//! `dodai tap` and of the console. Times are in microseconds, secrets are masked.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::io;
use std::time::Duration;

use dodai_core::record::Record;
use serde::Serialize;

use super::mask;

/// A record in words. Serializes to one flat JSON object; what is not known is left out.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// When the request's head was complete: RFC 3339, UTC, microseconds.
    pub time: String,
    /// `gateway`, `outbound`, `inbound` or `api`.
    pub direction: &'static str,
    /// `open` where a tunnel begins; left out for calls that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<&'static str>,
    /// The listener.
    pub listener: &'a str,
    /// The client's address and port, at gateways.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub client: &'a str,
    /// The SPIFFE id that the other side has proven.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub identity: &'a str,
    /// The version of TLS between the client and this base.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub tls: &'static str,
    /// The caller: an app, `outside` or `base`.
    pub caller: &'a str,
    /// The service called; empty when no route matched.
    pub service: &'a str,
    /// The rule that matched.
    pub route: &'a str,
    /// The endpoint of the last try.
    pub endpoint: &'a str,
    /// Its revision.
    pub revision: &'a str,
    /// The method.
    pub method: &'a str,
    /// Path and query, masked.
    pub target: Cow<'a, str>,
    /// The authority, masked.
    pub authority: Cow<'a, str>,
    /// `HTTP/1.1`, `HTTP/2`, `gRPC`, `TCP`.
    pub protocol: &'static str,
    /// The status sent; 0 when the caller went away first.
    pub status: u16,
    /// The gRPC status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// The failure's code, if the base answered itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<&'static str>,
    /// The failure's detail.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub detail: &'a str,
    /// Body bytes from the caller.
    pub received_bytes: u64,
    /// Body bytes to the caller.
    pub sent_bytes: u64,
    /// Tries after the first.
    pub retries: u32,
    /// From the head to the last byte of the response.
    pub took_us: u64,
    /// From the head to the response's head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_us: Option<u64>,
    /// The trace id, 32 hexadecimal digits.
    pub trace_id: String,
    /// The span id, 16 hexadecimal digits.
    pub span_id: String,
    /// The caller's span id; left out at the root of a trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// Whether the trace is sampled.
    pub sampled: bool,
    /// When each station was left, counted from the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stations: Option<Stations>,
    /// Request headers that somebody asked for by name.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "named")]
    pub request_headers: Named<'a>,
    /// Response headers that somebody asked for by name.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "named")]
    pub response_headers: Named<'a>,
}

/// Headers by their names.
pub type Named<'a> = Vec<(&'a str, &'a str)>;

/// Headers as one object.
fn named<S: serde::Serializer>(all: &Named<'_>, out: S) -> Result<S::Ok, S::Error> {
    out.collect_map(all.iter().copied())
}

impl Line<'_> {
    /// Leaves out the headers that only others asked for.
    #[must_use]
    pub fn only(mut self, request: impl Fn(&str) -> bool, response: impl Fn(&str) -> bool) -> Self {
        self.request_headers.retain(|(name, _)| request(name));
        self.response_headers.retain(|(name, _)| response(name));
        self
    }

    /// Puts a mask in the place of headers whose names say that they are secret.
    #[must_use]
    pub fn masked(mut self) -> Self {
        for (name, value) in self.request_headers.iter_mut().chain(&mut self.response_headers) {
            if mask::is_secret_header(name) {
                *value = mask::MASK;
            }
        }
        self
    }
}

fn pairs(all: &[(Box<str>, String)]) -> Named<'_> {
    all.iter().map(|(name, value)| (&**name, value.as_str())).collect()
}

/// When each station was left, in microseconds from the start.
#[derive(Debug, Serialize)]
pub struct Stations {
    /// The route was found.
    pub route_us: u64,
    /// The filters let it through.
    pub filter_us: u64,
    /// The last try began.
    pub attempt_us: u64,
    /// A connection or instance was ready.
    pub endpoint_us: u64,
    /// The response head arrived.
    pub response_us: u64,
}

impl<'a> From<&'a Record> for Line<'a> {
    fn from(record: &'a Record) -> Line<'a> {
        let span = &record.span;
        Line {
            time: dodai_log::line_format::time(record.start),
            direction: record.direction,
            event: record.is_opening.then_some("open"),
            listener: &record.listener,
            client: &record.client,
            identity: &record.identity,
            tls: record.tls,
            request_headers: pairs(&record.request_headers),
            response_headers: pairs(&record.response_headers),
            caller: &record.caller,
            service: &record.service,
            route: &record.route,
            endpoint: &record.endpoint,
            revision: &record.revision,
            method: &record.method,
            target: mask::target(&record.target),
            authority: mask::authority(&record.authority),
            protocol: record.protocol,
            status: record.status,
            grpc_status: record.grpc_status,
            failure: record.failure.map(|kind| kind.code()),
            detail: &record.detail,
            received_bytes: record.received,
            sent_bytes: record.sent,
            retries: record.retries,
            took_us: micros(record.took),
            first_byte_us: record.first_byte.map(micros),
            trace_id: format!("{:032x}", span.trace),
            span_id: format!("{:016x}", span.id),
            parent_id: (span.parent != 0).then(|| format!("{:016x}", span.parent)),
            sampled: span.sampled,
            stations: record.stations.as_deref().map(|stations| Stations {
                route_us: micros(stations.route),
                filter_us: micros(stations.filter),
                attempt_us: micros(stations.attempt),
                endpoint_us: micros(stations.endpoint),
                response_us: micros(stations.response),
            }),
        }
    }
}

/// As one line of text: `[time] "method target protocol" status failure direction caller service route
/// endpoint authority received sent took_us trace-id`.
/// Words that are empty are `-`; quotes, backslashes, blanks in words and control characters are escaped.
impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] \"", self.time)?;
        escape(f, self.method, false)?;
        f.write_char(' ')?;
        escape(f, &self.target, false)?;
        write!(f, " {}\" {} {} {}", self.protocol, self.status, self.failure.unwrap_or("-"), self.direction)?;
        for word in [self.caller, self.service, self.route, self.endpoint, &self.authority] {
            f.write_char(' ')?;
            escape(f, if word.is_empty() { "-" } else { word }, true)?;
        }
        write!(f, " {} {} {} {}", self.received_bytes, self.sent_bytes, self.took_us, self.trace_id)
    }
}

/// Text that cannot end its field or its line.
pub(super) struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(f, self.0, false)
    }
}

/// Writes text so that it cannot end its field or its line.
fn escape(f: &mut fmt::Formatter<'_>, text: &str, word: bool) -> fmt::Result {
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if steers(c) || (word && c.is_whitespace()) => write!(f, "{}", c.escape_unicode())?,
            c => f.write_char(c)?,
        }
    }
    Ok(())
}

/// Whether a character does something to where it is shown: control characters, line and paragraph separators, and marks
/// that turn the writing direction around.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON in which such characters are escaped, too, which JSON itself asks of some only.
pub(super) struct Inert;

impl serde_json::ser::Formatter for Inert {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        let mut plain = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| steers(*c)) {
            out.write_all(&text.as_bytes()[plain..at])?;
            write!(out, "\\u{:04x}", u32::from(c))?;
            plain = at + c.len_utf8();
        }
        out.write_all(&text.as_bytes()[plain..])
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::SystemTime;

    use dodai_core::failure::Kind;
    use dodai_core::trace::Span;

    use super::*;

    /// A record of a plain call through a gateway.
    pub(in crate::telemetry) fn record() -> Record {
        Record {
            direction: "gateway",
            listener: "web".into(),
            is_opening: false,
            client: "192.0.2.7:4711".to_owned(),
            identity: "".into(),
            subject: "".into(),
            tls: "",
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            caller: "outside".into(),
            service: "shop/cart/http".into(),
            route: "carts".into(),
            endpoint: "cart-1".into(),
            revision: "cart-r1".into(),
            method: "GET".into(),
            target: "/carts/7?token=abc&page=2".into(),
            authority: "shop.example:8080".into(),
            protocol: "HTTP/1.1",
            status: 200,
            grpc_status: None,
            failure: None,
            detail: String::new(),
            received: 0,
            sent: 512,
            retries: 0,
            start: SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_042),
            took: Duration::from_micros(1_500),
            first_byte: Some(Duration::from_micros(1_200)),
            span: Span { trace: 0xabc, id: 0x12, parent: 0, sampled: true },
            stations: None,
            logging: None,
        }
    }

    #[test]
    fn json_holds_times_ids_and_no_secret() {
        let mut record = record();
        record.failure = Some(Kind::Timeout);
        record.span.parent = 0x34;
        record.stations = Some(Box::default());
        let json: serde_json::Value = serde_json::to_value(Line::from(&record)).unwrap();
        assert_eq!(json["time"], "2023-11-14T22:13:20.000042Z");
        assert_eq!(json["target"], "/carts/7?token=***&page=2");
        assert_eq!((&json["took_us"], &json["first_byte_us"]), (&1500.into(), &1200.into()));
        assert_eq!(json["failure"], "timeout");
        assert_eq!(json["trace_id"], "00000000000000000000000000000abc");
        assert_eq!(json["parent_id"], "0000000000000034");
        assert_eq!(json["stations"]["route_us"], 0);
        assert!(json.get("grpc_status").is_none() && json.get("detail").is_none());
    }

    #[test]
    fn json_has_no_character_that_steers() {
        let mut record = record();
        record.target = "/a\"\n\u{7f}\u{9b}31m\u{202e}x\u{e9}\\".into();
        let mut out = Vec::new();
        let mut json = serde_json::Serializer::with_formatter(&mut out, Inert);
        Line::from(&record).serialize(&mut json).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains(r#""target":"/a\"\n\u007f\u009b31m\u202ex"#) && !text.contains(steers),
            "{text}"
        );
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read, serde_json::to_value(Line::from(&record)).unwrap());
    }

    #[test]
    fn text_is_one_line_whatever_a_caller_sends() {
        let mut record = record();
        assert_eq!(
            Line::from(&record).to_string(),
            "[2023-11-14T22:13:20.000042Z] \"GET /carts/7?token=***&page=2 HTTP/1.1\" 200 - gateway outside \
             shop/cart/http carts cart-1 shop.example:8080 0 512 1500 00000000000000000000000000000abc"
        );
        record.target = "/a\"\n[2023] \u{202e}x\\".into();
        record.service = "".into();
        record.authority = "a b".into();
        let text = Line::from(&record).to_string();
        assert!(text.contains(r#""GET /a\"\u{a}[2023] \u{202e}x\\ HTTP/1.1""#), "{text}");
        assert!(text.contains(r" outside - carts cart-1 a\u{20}b 0 "), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
