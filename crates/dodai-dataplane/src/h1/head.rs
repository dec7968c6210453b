//! Parsing of request and response heads, and the rules that make a message's length unambiguous.
//!
//! Lines are read in [`super::lines`]; everything that decides where a message ends is here (RFC 9112 section 6) and
//! errs on the side of refusing: both lengths, repeated lengths, transfer codings other than a lone `chunked`, a
//! missing or repeated `Host`.

use dodai_core::head::{RawHeader, RawRequest};
use smallvec::SmallVec;
use thiserror::Error;

use super::lines;
use crate::limits::MAX_AUTHORITY;

/// The headers of one head.
pub type HeaderList<'a> = SmallVec<[RawHeader<'a>; 24]>;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BadHead {
    /// Not HTTP/1 at all.
    #[error("the start line or a header is not HTTP/1.1: {0}")]
    Syntax(&'static str),
    /// More headers or bytes than allowed.
    #[error("the head has more headers or bytes than allowed")]
    TooLarge,
    /// A version other than 1.0 and 1.1.
    #[error("the HTTP version is not 1.0 or 1.1")]
    Version,
    /// A line that ends without CR.
    #[error("a line ends with a bare line feed")]
    BareLineFeed,
    /// `Content-Length` is no number, or there are several.
    #[error("Content-Length is not one decimal number")]
    ContentLength,
    /// Both ways to tell the length.
    #[error("both Content-Length and Transfer-Encoding are present")]
    BothLengths,
    /// A transfer coding we do not take.
    #[error("Transfer-Encoding is not just `chunked`")]
    TransferEncoding,
    /// `Host` is missing, repeated or malformed.
    #[error("a request needs exactly one well-formed Host")]
    Host,
    /// The target is not of a form that fits the method.
    #[error(
        "the request target is not a path, an absolute http URI, `*` for OPTIONS or an authority for CONNECT"
    )]
    Target,
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks, to the zero chunk.
    Chunked,
    /// Everything until the sender closes (responses only).
    UntilClose,
}

/// What a head says about its connection and body.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    /// The head's length in bytes, the empty line included.
    pub len: usize,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the sender lets the connection live on.
    pub keep_alive: bool,
    /// Whether the minor version is 0.
    pub http10: bool,
    /// Whether `Connection` names `upgrade` and there is an `Upgrade` header to something that is not HTTP again.
    pub upgrade: bool,
    /// Whether the client waits for `100 Continue`.
    pub expect_continue: bool,
    /// Headers by index that concern this connection only and are not forwarded.
    pub hop_by_hop: u128,
    /// Index of the `Host` header.
    pub host: Option<u8>,
}

impl Parsed {
    /// Whether the header with that index stays on this hop.
    pub fn is_hop_by_hop(&self, index: usize) -> bool {
        self.hop_by_hop & (1 << index) != 0
    }
}

/// A parsed request.
#[derive(Debug)]
pub struct RequestLine<'a> {
    /// The method token.
    pub method: &'a str,
    /// Path and query; the authority for CONNECT.
    pub target: &'a str,
    /// The authority, from an absolute target or `Host`.
    pub authority: &'a str,
    /// Whether the target was absolute: the client took us for a proxy.
    pub absolute: bool,
}

impl<'a> RequestLine<'a> {
    /// The view that stations read.
    pub fn view(&self, headers: &'a [RawHeader<'a>]) -> RawRequest<'a> {
        RawRequest { method: self.method, target: self.target, authority: self.authority, headers }
    }
}

/// A parsed response start line.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// The status.
    pub status: u16,
    /// The reason phrase.
    pub reason: &'a str,
}

/// Parses a request head from the start of `bytes`. `Ok(None)`: more bytes are needed.
pub fn parse_request<'a>(
    bytes: &'a [u8],
    headers: &mut HeaderList<'a>,
) -> Result<Option<(RequestLine<'a>, Parsed)>, BadHead> {
    let Some(start) = lines::request_start(bytes)? else { return Ok(None) };
    let Some((len, texts)) = lines::headers(bytes, start.end, headers)? else { return Ok(None) };
    let (Some(method), Some(target)) = (texts.get(start.method), texts.get(start.target)) else {
        return Err(BadHead::Syntax("method or target"));
    };
    let http10 = start.http10;
    let mut parsed = survey(headers, len, http10)?;
    if http10 && parsed.framing == Framing::Chunked {
        return Err(BadHead::TransferEncoding);
    }
    if parsed.framing == Framing::UntilClose {
        parsed.framing = Framing::Empty;
    }
    let line = request_line(method, target, headers, &parsed)?;
    if line.authority.is_empty() && !http10 {
        // An empty Host is only for targets without authority (RFC 9112 section 3.2); none of ours.
        return Err(BadHead::Host);
    }
    Ok(Some((line, parsed)))
}

/// Parses a response head from the start of `bytes`. `to_head` says that the request was a HEAD, `to_connect`
/// that it was a CONNECT: both change where the message ends.
pub fn parse_response<'a>(
    bytes: &'a [u8],
    headers: &mut HeaderList<'a>,
    to_head: bool,
    to_connect: bool,
) -> Result<Option<(ResponseHead<'a>, Parsed)>, BadHead> {
    let Some(start) = lines::response_start(bytes)? else { return Ok(None) };
    let Some((len, texts)) = lines::headers(bytes, start.end, headers)? else { return Ok(None) };
    let (status, reason) = (start.status, texts.get(start.reason).unwrap_or_default());
    let mut parsed = survey(headers, len, start.http10)?;
    let bodiless = (100..200).contains(&status) || status == 204;
    if bodiless {
        // Neither may stand there (RFC 9112 section 6.1, RFC 9110 section 8.6); a client might wait for the body.
        drop_lengths(headers, &mut parsed);
    }
    let no_body = to_head || bodiless || status == 304;
    if no_body || (to_connect && (200..300).contains(&status)) {
        parsed.framing = Framing::Empty;
    }
    if parsed.framing == Framing::UntilClose {
        parsed.keep_alive = false;
    }
    Ok(Some((ResponseHead { status, reason }, parsed)))
}

/// One pass over the headers for everything that concerns framing and this hop.
fn survey(headers: &[RawHeader<'_>], len: usize, http10: bool) -> Result<Parsed, BadHead> {
    let mut parsed = Parsed {
        len,
        framing: Framing::UntilClose,
        keep_alive: false,
        http10,
        upgrade: false,
        expect_continue: false,
        hop_by_hop: 0,
        host: None,
    };
    let (mut length, mut chunked, mut upgrade) = (None, false, None);
    let mut options = Options::default();
    for (index, header) in headers.iter().enumerate() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        match header.name.len() {
            2 if is("te") => parsed.hop_by_hop |= 1 << index,
            4 if is("host") => {
                if parsed.host.is_some() {
                    return Err(BadHead::Host);
                }
                parsed.host = Some(index as u8);
            }
            6 if is("expect") => parsed.expect_continue = header.value.eq_ignore_ascii_case(b"100-continue"),
            7 if is("upgrade") => {
                upgrade = Some(upgrade.unwrap_or(true) && leaves_http(header.value));
                parsed.hop_by_hop |= 1 << index;
            }
            10 if is("connection") => {
                parsed.hop_by_hop |= 1 << index;
                options.read(header.value);
            }
            10 if is("keep-alive") => parsed.hop_by_hop |= 1 << index,
            14 if is("http2-settings") => parsed.hop_by_hop |= 1 << index,
            14 if is("content-length") => {
                if length.is_some() {
                    return Err(BadHead::ContentLength);
                }
                length = Some(decimal(header.value).ok_or(BadHead::ContentLength)?);
            }
            16 if is("proxy-connection") => parsed.hop_by_hop |= 1 << index,
            17 if is("transfer-encoding") => {
                if chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadHead::TransferEncoding);
                }
                chunked = true;
            }
            19 if is("proxy-authorization") => parsed.hop_by_hop |= 1 << index,
            _ => {}
        }
    }
    parsed.upgrade = options.upgrade && upgrade == Some(true);
    parsed.keep_alive = !options.close && (!http10 || options.keep_alive);
    parsed.framing = match (length, chunked) {
        (Some(_), true) => return Err(BadHead::BothLengths),
        (Some(length), false) => Framing::Length(length),
        (None, true) => Framing::Chunked,
        (None, false) => Framing::UntilClose,
    };
    if options.nominated {
        drop_nominated(headers, &mut parsed);
    }
    Ok(parsed)
}

/// Whether an `Upgrade` header leads away from HTTP. One to HTTP/2 or to TLS is not passed on (RFC 9113 section 3.1
/// lets it be ignored): calls behind it would go past routes and policies.
fn leaves_http(protocols: &[u8]) -> bool {
    protocols.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).all(|protocol| {
        let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
        !["h2c", "h2", "http", "tls"].iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
    })
}

/// What all `Connection` headers of a message say together; `close` wins over `keep-alive`.
#[derive(Default)]
struct Options {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    nominated: bool,
}

impl Options {
    fn read(&mut self, value: &[u8]) {
        // What nearly all say, and nothing else.
        if value == b"keep-alive" {
            self.keep_alive = true;
            return;
        }
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if !option.is_empty() {
                self.nominated = true;
            }
        }
    }
}

/// Marks the headers that `Connection` names. Those that tell the length or the host are never dropped: a
/// client could otherwise make us forward a message whose end the endpoint sees elsewhere.
fn drop_nominated(headers: &[RawHeader<'_>], parsed: &mut Parsed) {
    for header in headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection")) {
        for option in header.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let kept = ["host", "content-length", "transfer-encoding", "traceparent"];
            if kept.iter().any(|name| option.eq_ignore_ascii_case(name.as_bytes())) {
                continue;
            }
            for (index, other) in headers.iter().enumerate() {
                if option.eq_ignore_ascii_case(other.name.as_bytes()) {
                    parsed.hop_by_hop |= 1 << index;
                }
            }
        }
    }
}

fn drop_lengths(headers: &[RawHeader<'_>], parsed: &mut Parsed) {
    for (index, header) in headers.iter().enumerate() {
        if ["content-length", "transfer-encoding"].iter().any(|name| header.name.eq_ignore_ascii_case(name)) {
            parsed.hop_by_hop |= 1 << index;
        }
    }
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0u64, |all, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { all.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

/// Splits the target (RFC 9112 section 3.2) and finds the authority.
fn request_line<'a>(
    method: &'a str,
    target: &'a str,
    headers: &[RawHeader<'a>],
    parsed: &Parsed,
) -> Result<RequestLine<'a>, BadHead> {
    let host = match parsed.host {
        Some(index) => std::str::from_utf8(headers[index as usize].value).map_err(|_| BadHead::Host)?,
        None if parsed.http10 => "",
        None => return Err(BadHead::Host),
    };
    if !well_formed_authority(host) {
        return Err(BadHead::Host);
    }
    if method == "CONNECT" {
        let valid = well_formed_authority(target) && target.find(':').is_some_and(|at| at > 0);
        return if valid {
            Ok(RequestLine { method, target, authority: target, absolute: false })
        } else {
            Err(BadHead::Target)
        };
    }
    // A fragment is never sent (RFC 9112 section 3.2); an endpoint that cuts it off would read another path than we.
    if memchr::memchr(b'#', target.as_bytes()).is_some() {
        return Err(BadHead::Target);
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(RequestLine { method, target, authority: host, absolute: false });
    }
    let rest = match target.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("http://") => &target[7..],
        _ => return Err(BadHead::Target),
    };
    let split = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(split);
    let path = if path.is_empty() { "/" } else { path };
    if authority.is_empty() || !well_formed_authority(authority) || !path.starts_with('/') {
        return Err(BadHead::Target);
    }
    Ok(RequestLine { method, target: path, authority, absolute: true })
}

/// Whether `text` can be a host with an optional port; user information is refused.
pub(crate) fn well_formed_authority(text: &str) -> bool {
    if text.len() > MAX_AUTHORITY {
        return false;
    }
    let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~' | b'%');
    let (is_host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((inside, port)) = rest.split_once(']') else { return false };
            (inside.contains(':') && inside.bytes().all(|b| named(b) || b == b':'), port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (host.bytes().all(named) && !host.contains(".."), port)
        }
    };
    let Some(port) = port.strip_prefix(':') else { return is_host && port.is_empty() };
    let is_port = port.is_empty() || port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit());
    is_host && is_port
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
