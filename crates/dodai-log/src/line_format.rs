//! Format strings of access logs, as Envoy writes them: text with operators such as `%RESPONSE_CODE%` and `%REQ(X?Y):Z%`;
//! and values of headers, which are written alike.
//!
//! Reading one is pure: what an operator means is for whoever writes lines. What cannot be understood is refused with
//! its place and what was probably meant, because a log that is found wrong is found wrong too late.

use std::fmt;
use std::time::SystemTime;

use crate::is_header_name;

/// The longest format in bytes.
pub const MAX_FORMAT: usize = 4096;

/// The format that Envoy uses where nothing is said.
pub const ENVOY: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
     %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
     %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
     \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"";

/// Why a text is no format, or no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFormat {
    /// The character, from 1.
    pub at: usize,
    /// What is wrong, and how it is mended.
    pub what: String,
}

impl fmt::Display for BadFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}: {}", self.at, self.what)
    }
}

impl std::error::Error for BadFormat {}

/// What an operator asks of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// When the request's head was complete.
    StartTime,
    /// `HTTP/1.1`, `HTTP/2`, ...
    Protocol,
    /// The status.
    ResponseCode,
    /// The failure's code, if the base answered itself.
    ResponseCodeDetails,
    /// The failure in Envoy's letters.
    ResponseFlags,
    /// The failure in Envoy's words.
    ResponseFlagsLong,
    /// Body bytes from the caller.
    BytesReceived,
    /// Body bytes to the caller.
    BytesSent,
    /// From the head to the last byte of the response, in milliseconds.
    Duration,
    /// From the head to the response's head, in milliseconds.
    ResponseDuration,
    /// From the response's head to its last byte, in milliseconds.
    ResponseTxDuration,
    /// The endpoint of the last try.
    UpstreamHost,
    /// The service called.
    UpstreamCluster,
    /// How many tries were made.
    UpstreamRequestAttemptCount,
    /// Why the endpoint could not be reached.
    UpstreamTransportFailureReason,
    /// The rule that matched.
    RouteName,
    /// The client's address and port.
    DownstreamRemoteAddress,
    /// The client's address.
    DownstreamRemoteAddressWithoutPort,
    /// The name that the client has proven.
    DownstreamPeerUriSan,
    /// The subject of the certificate that the client has shown.
    DownstreamPeerSubject,
    /// The version of TLS towards the client.
    DownstreamTlsVersion,
    /// The gRPC status.
    GrpcStatus,
    /// The trace id.
    TraceId,
    /// The caller. Ours.
    DodaiCaller,
    /// The lap: `gateway`, `outbound`, `inbound`, `api`. Ours.
    DodaiDirection,
    /// The listener. Ours.
    DodaiListener,
    /// The endpoint's revision. Ours.
    DodaiRevision,
}

/// Operators without arguments by name.
const FIELDS: [(&str, Field); 27] = [
    ("START_TIME", Field::StartTime),
    ("PROTOCOL", Field::Protocol),
    ("RESPONSE_CODE", Field::ResponseCode),
    ("RESPONSE_CODE_DETAILS", Field::ResponseCodeDetails),
    ("RESPONSE_FLAGS", Field::ResponseFlags),
    ("RESPONSE_FLAGS_LONG", Field::ResponseFlagsLong),
    ("BYTES_RECEIVED", Field::BytesReceived),
    ("BYTES_SENT", Field::BytesSent),
    ("DURATION", Field::Duration),
    ("RESPONSE_DURATION", Field::ResponseDuration),
    ("RESPONSE_TX_DURATION", Field::ResponseTxDuration),
    ("UPSTREAM_HOST", Field::UpstreamHost),
    ("UPSTREAM_CLUSTER", Field::UpstreamCluster),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Field::UpstreamRequestAttemptCount),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Field::UpstreamTransportFailureReason),
    ("ROUTE_NAME", Field::RouteName),
    ("DOWNSTREAM_REMOTE_ADDRESS", Field::DownstreamRemoteAddress),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Field::DownstreamRemoteAddressWithoutPort),
    ("DOWNSTREAM_PEER_URI_SAN", Field::DownstreamPeerUriSan),
    ("DOWNSTREAM_PEER_SUBJECT", Field::DownstreamPeerSubject),
    ("DOWNSTREAM_TLS_VERSION", Field::DownstreamTlsVersion),
    ("GRPC_STATUS_NUMBER", Field::GrpcStatus),
    ("TRACE_ID", Field::TraceId),
    ("DODAI_CALLER", Field::DodaiCaller),
    ("DODAI_DIRECTION", Field::DodaiDirection),
    ("DODAI_LISTENER", Field::DodaiListener),
    ("DODAI_REVISION", Field::DodaiRevision),
];

/// What is known of a call when its headers are changed, before it goes anywhere.
const OF_REQUESTS: [Field; 11] = [
    Field::StartTime,
    Field::RouteName,
    Field::DownstreamRemoteAddress,
    Field::DownstreamRemoteAddressWithoutPort,
    Field::DownstreamPeerUriSan,
    Field::DownstreamPeerSubject,
    Field::DownstreamTlsVersion,
    Field::TraceId,
    Field::DodaiCaller,
    Field::DodaiDirection,
    Field::DodaiListener,
];

/// What a request header operator may ask for beside headers.
const PSEUDO: [&str; 4] = [":method", ":path", ":authority", ":scheme"];

/// One piece of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// As it is.
    Text(String),
    /// What is known of the call.
    Field(Field),
    /// The first of these request headers that there is, in small letters, cut at so many bytes. `:method`, `:path`
    /// and `:authority` are the request's own.
    Request(Vec<String>, Option<usize>),
    /// The same of the response.
    Response(Vec<String>, Option<usize>),
}

/// A format that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineFormat {
    pieces: Vec<Piece>,
}

impl LineFormat {
    /// Reads a format.
    ///
    /// # Errors
    /// It cannot be understood; says where.
    pub fn parse(text: &str) -> Result<LineFormat, BadFormat> {
        LineFormat::read(text, |_| Ok(()))
    }

    /// Reads the value of a header, which may say what is known of a request.
    ///
    /// # Errors
    /// It cannot be understood, or asks for what is not known yet; says where.
    pub fn parse_value(text: &str) -> Result<LineFormat, BadFormat> {
        LineFormat::read(text, |piece| {
            let name = match piece {
                Piece::Text(_) | Piece::Request(..) => return Ok(()),
                Piece::Field(field) if OF_REQUESTS.contains(field) => return Ok(()),
                Piece::Field(field) => name(*field),
                Piece::Response(..) => "RESP",
            };
            Err(format!("%{name}% is not known when headers are changed; it is for access logs"))
        })
    }

    fn read(text: &str, fits: impl Fn(&Piece) -> Result<(), String>) -> Result<LineFormat, BadFormat> {
        if text.len() > MAX_FORMAT {
            let what = format!("longer than {MAX_FORMAT} bytes; write less");
            return Err(BadFormat { at: MAX_FORMAT, what });
        }
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(start) = rest.find('%') {
            plain.push_str(&rest[..start]);
            let at = text.len() - rest.len() + start;
            let place = text[..at].chars().count() + 1;
            let inner = &rest[start + 1..];
            if let Some(after) = inner.strip_prefix('%') {
                plain.push('%');
                rest = after;
                continue;
            }
            let end = end_of(inner).ok_or_else(|| BadFormat {
                at: place,
                what: "this operator has no end; close it with `%`, or write `%%` for the sign itself"
                    .to_owned(),
            })?;
            let piece = operator(&inner[..end]).and_then(|piece| fits(&piece).map(|()| piece));
            let piece = piece.map_err(|what| BadFormat { at: place, what })?;
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(piece);
            rest = &inner[end + 1..];
        }
        plain.push_str(rest);
        if plain.contains(['\n', '\r'])
            || pieces.iter().any(|piece| matches!(piece, Piece::Text(text) if text.contains(['\n', '\r'])))
        {
            let at = text.chars().position(|c| c == '\n' || c == '\r').unwrap_or(0) + 1;
            return Err(BadFormat { at, what: "a line ends by itself; leave the line break out".to_owned() });
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(LineFormat { pieces })
    }

    /// Its pieces, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// What it is where nothing in it depends on a call.
    pub fn plain(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The request headers it names, in small letters.
    pub fn request_headers(&self) -> impl Iterator<Item = &str> {
        self.pieces
            .iter()
            .flat_map(|piece| match piece {
                Piece::Request(names, _) => names.as_slice(),
                Piece::Text(_) | Piece::Field(_) | Piece::Response(..) => &[],
            })
            .map(String::as_str)
            .filter(|name| !name.starts_with(':'))
    }

    /// The response headers it names, in small letters.
    pub fn response_headers(&self) -> impl Iterator<Item = &str> {
        self.pieces
            .iter()
            .flat_map(|piece| match piece {
                Piece::Response(names, _) => names.as_slice(),
                Piece::Text(_) | Piece::Field(_) | Piece::Request(..) => &[],
            })
            .map(String::as_str)
    }
}

impl fmt::Display for LineFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = |f: &mut fmt::Formatter<'_>, kind: &str, names: &[String], length: &Option<usize>| {
            write!(f, "%{kind}({})", names.join("?"))?;
            length.map_or(Ok(()), |length| write!(f, ":{length}"))?;
            f.write_str("%")
        };
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => f.write_str(&text.replace('%', "%%"))?,
                Piece::Field(field) => write!(f, "%{}%", name(*field))?,
                Piece::Request(names, length) => header(f, "REQ", names, length)?,
                Piece::Response(names, length) => header(f, "RESP", names, length)?,
            }
        }
        Ok(())
    }
}

/// The operator of a field.
fn name(field: Field) -> &'static str {
    FIELDS.iter().find(|(_, known)| *known == field).map_or("", |(name, _)| name)
}

/// Where an operator ends: at the next `%` that is not within brackets.
fn end_of(inner: &str) -> Option<usize> {
    let mut depth = 0_usize;
    inner.bytes().position(|byte| {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        byte == b'%' && depth == 0
    })
}

/// Reads what stands between the signs.
fn operator(text: &str) -> Result<Piece, String> {
    let (name, argument, length) = parts(text)?;
    match (name, argument) {
        ("REQ", Some(argument)) => Ok(Piece::Request(names(argument, true)?, length)),
        ("RESP", Some(argument)) => Ok(Piece::Response(names(argument, false)?, length)),
        ("REQ" | "RESP", None) => Err(format!("%{name}% needs the name of a header: %{name}(NAME)%")),
        (name, argument) => match FIELDS.iter().find(|(known, _)| *known == name) {
            Some((_, field)) if argument.is_none() && length.is_none() => Ok(Piece::Field(*field)),
            Some(_) if name == "START_TIME" => {
                Err("%START_TIME% takes no format here: it is RFC 3339 in UTC".to_owned())
            }
            Some(_) => Err(format!("%{name}% takes nothing in brackets and no length")),
            None => Err(unknown(name)),
        },
    }
}

/// Name, what is in its brackets, and the length behind the colon.
fn parts(text: &str) -> Result<(&str, Option<&str>, Option<usize>), String> {
    let Some((name, rest)) = text.split_once('(') else {
        return match text.split_once(':') {
            Some((name, length)) => Ok((name, None, Some(number(length)?))),
            None => Ok((text, None, None)),
        };
    };
    let (argument, rest) =
        rest.rsplit_once(')').ok_or_else(|| format!("the bracket of %{name}(...)% is not closed"))?;
    let length = match rest.strip_prefix(':') {
        Some(length) => Some(number(length)?),
        None if rest.is_empty() => None,
        None => return Err(format!("`{rest}` behind the bracket is not understood; a length is `:100`")),
    };
    Ok((name, Some(argument), length))
}

fn number(text: &str) -> Result<usize, String> {
    let found = text.parse().ok().filter(|length| (1..=8192).contains(length));
    found.ok_or_else(|| format!("`{text}` is no length; write a whole number from 1 to 8192"))
}

/// The header names of `X?Y`.
fn names(argument: &str, of_request: bool) -> Result<Vec<String>, String> {
    let all: Vec<String> = argument.split('?').map(|name| name.trim().to_ascii_lowercase()).collect();
    if all.len() > 2 {
        return Err(format!("`{argument}` names more than one other header; write X?Y"));
    }
    for name in &all {
        let is_pseudo = name.starts_with(':');
        if is_pseudo && !(of_request && PSEUDO.contains(&name.as_str())) {
            let known = if of_request { PSEUDO.join(", ") } else { "none of a response".to_owned() };
            return Err(format!("`{name}` is not known; there are {known}"));
        }
        if !is_pseudo && !is_header_name(name) {
            return Err(format!("`{name}` is not the name of a header"));
        }
    }
    Ok(all)
}

fn unknown(name: &str) -> String {
    let known = FIELDS.iter().map(|(name, _)| *name).chain(["REQ(NAME)", "RESP(NAME)"]);
    let nearest = known.map(|known| (distance(name, known), known)).min();
    match nearest {
        Some((distance, known)) if distance <= known.len() / 2 => {
            format!("there is no operator %{name}%; did you mean %{known}%?")
        }
        Some(_) | None => format!("there is no operator %{name}%; docs/telemetry.md lists those there are"),
    }
}

/// A time as `%START_TIME%` writes it: RFC 3339 in UTC with microseconds. A clock outside years -9999 to 9999 reads as
/// the epoch.
pub fn time(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{at:.6}")
}

/// How many letters must be changed, added or left out (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().take(64).collect(), other.chars().collect());
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_fields_and_headers_are_told_apart() {
        let format =
            LineFormat::parse("%% [%START_TIME%] %REQ(X-A?:PATH):12% \"%RESP(Server)%\"").expect("it is one");
        assert_eq!(
            format.pieces(),
            [
                Piece::Text("% [".to_owned()),
                Piece::Field(Field::StartTime),
                Piece::Text("] ".to_owned()),
                Piece::Request(vec!["x-a".to_owned(), ":path".to_owned()], Some(12)),
                Piece::Text(" \"".to_owned()),
                Piece::Response(vec!["server".to_owned()], None),
                Piece::Text("\"".to_owned()),
            ]
        );
        assert_eq!(format.request_headers().collect::<Vec<_>>(), ["x-a"]);
        assert_eq!(format.response_headers().collect::<Vec<_>>(), ["server"]);
    }

    #[test]
    fn the_usual_format_of_envoy_is_understood_and_can_be_written() {
        let format = LineFormat::parse(ENVOY).expect("it is one");
        assert_eq!(format.request_headers().count(), 4);
        assert_eq!(LineFormat::parse(&format.to_string()), Ok(format));
        for (name, _) in FIELDS {
            let text = format!("%%a %{name}% %REQ(x):5%");
            assert_eq!(LineFormat::parse(&text).expect("it is one").to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let check = |text: &str, at: usize, word: &str| {
            let bad = LineFormat::parse(text).expect_err(text);
            assert!(bad.at == at && bad.what.contains(word), "{text}: {bad}");
        };
        check("ä %RESPONSE_COD%", 3, "%RESPONSE_CODE%?");
        check("%REQUEST(x)%", 1, "no operator %REQUEST%");
        check("a %DURATION", 3, "no end");
        check("%REQ%", 1, "%REQ(NAME)%");
        check("%REQ(a b)%", 1, "`a b`");
        check("%REQ(:status)%", 1, ":method");
        check("%RESP(:path)%", 1, "none of a response");
        check("%REQ(a?b?c)%", 1, "X?Y");
        check("%REQ(a):no%", 1, "whole number");
        check("%REQ(a):0%", 1, "from 1");
        check("%REQ(a)x%", 1, "`x`");
        check("%START_TIME(%s)%", 1, "RFC 3339");
        check("%DURATION:5%", 1, "takes nothing");
        check("%PROTOCOL%\n", 11, "line break");
        check("%ZZZZZZZZZZZZZZZZZZ%", 1, "docs/telemetry.md");
        check(&"x".repeat(MAX_FORMAT + 1), MAX_FORMAT, "longer");
        assert!(LineFormat::parse(&"x".repeat(MAX_FORMAT)).is_ok());
    }

    #[test]
    fn values_say_what_is_known_of_a_request() {
        let read = |text: &str| LineFormat::parse_value(text).map_err(|bad| bad.to_string());
        let plain = |text: &str| read(text).expect("it is one").plain().map(str::to_owned);
        assert_eq!(plain("100%% a"), Some("100% a".to_owned()));
        assert_eq!(plain(""), Some(String::new()));
        assert_eq!(plain("%DODAI_CALLER%"), None);
        for field in OF_REQUESTS {
            assert_eq!(
                read(&format!("%{}%", name(field))).expect("it is one").pieces(),
                [Piece::Field(field)]
            );
        }
        for (text, expect) in [
            ("a %RESPONSE_CODE%", "at character 3: %RESPONSE_CODE% is not known when headers are changed"),
            ("%RESP(x)%", "at character 1: %RESP% is not known"),
            ("100%", "no end"),
            ("a%20b%20c", "no operator %20b%"),
        ] {
            let told = read(text).expect_err(text);
            assert!(told.contains(expect), "{text}: {told}");
        }
    }

    #[test]
    fn letters_are_counted() {
        for (one, other, expect) in [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3)] {
            assert_eq!(distance(one, other), expect);
        }
    }
}
