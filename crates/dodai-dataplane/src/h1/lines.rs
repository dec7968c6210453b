//! The lines of a head, read once and strictly: where its names and values lie, and that nobody can read them
//! differently (RFC 9112 sections 2.2, 3, 4 and 5).
//!
//! They are looked through many bytes at a time (`wide.rs`). What is missing at the end is waited for; what is wrong is refused
//! as soon as it is there.

use dodai_core::head::RawHeader;
use smallvec::SmallVec;

use super::head::{BadHead, HeaderList};
use super::wide;
use crate::limits::MAX_HEADERS;

/// A start line of a request: where its method and target lie.
pub(super) struct RequestStart {
    /// Of the method.
    pub method: Spot,
    /// Of the target.
    pub target: Spot,
    /// Whether the minor version is 0.
    pub http10: bool,
    /// Where the headers begin.
    pub end: usize,
}

/// A start line of a response.
pub(super) struct ResponseStart {
    /// The status, 100 to 999.
    pub status: u16,
    /// Where the reason lies.
    pub reason: Spot,
    /// Whether the minor version is 0.
    pub http10: bool,
    /// Where the headers begin.
    pub end: usize,
}

/// First and past the last byte.
type Spot = (usize, usize);

/// What may be in a method or a header's name (RFC 9110 section 5.6.2).
pub(super) const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

/// Reads the start line of a request. `Ok(None)`: more bytes are needed.
pub(super) fn request_start(bytes: &[u8]) -> Result<Option<RequestStart>, BadHead> {
    const BAD: BadHead = BadHead::Syntax("method or target");
    let Some(from) = skip_empty(bytes)? else { return Ok(None) };
    let method = (from, from + token(&bytes[from..]));
    match bytes.get(method.1) {
        None => return Ok(None),
        Some(b' ') if method.1 > from => {}
        Some(_) => return Err(BAD),
    }
    let from = method.1 + 1;
    let Some(length) = bytes[from..].iter().position(|byte| *byte <= b' ' || *byte == 0x7f) else {
        return Ok(None);
    };
    let target = (from, from + length);
    if length == 0 || bytes[target.1] != b' ' {
        return Err(BAD);
    }
    let Some(http10) = version(&bytes[target.1 + 1..])? else { return Ok(None) };
    let end = line_end(bytes, target.1 + 9, BadHead::Version)?;
    Ok(end.map(|end| RequestStart { method, target, http10, end }))
}

/// Reads the start line of a response. `Ok(None)`: more bytes are needed.
pub(super) fn response_start(bytes: &[u8]) -> Result<Option<ResponseStart>, BadHead> {
    const BAD: BadHead = BadHead::Syntax("status");
    let Some(from) = skip_empty(bytes)? else { return Ok(None) };
    let Some(http10) = version(&bytes[from..])? else { return Ok(None) };
    let status = match &bytes[from + 8..] {
        [b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', ..] => {
            [a, b, c].iter().fold(0, |all, digit| all * 10 + u16::from(**digit - b'0'))
        }
        [b' ', rest @ ..] if rest.len() < 3 && rest.iter().all(u8::is_ascii_digit) => return Ok(None),
        [] => return Ok(None),
        _ => return Err(BAD),
    };
    let from = from + 12;
    let reason = match bytes.get(from) {
        Some(b' ') => match text_end(bytes, from + 1) {
            Some(end) => (from + 1, end),
            None => return Ok(None),
        },
        Some(_) | None => (from, from),
    };
    let end = line_end(bytes, reason.1, BAD)?;
    Ok(end.map(|end| ResponseStart { status, reason, http10, end }))
}

/// Reads the headers that begin at `at`; says where the head ends and gives its texts. `Ok(None)`: more bytes are
/// needed.
pub(super) fn headers<'a>(
    bytes: &'a [u8],
    mut at: usize,
    headers: &mut HeaderList<'a>,
) -> Result<Option<(usize, Texts<'a>)>, BadHead> {
    let mut spots: SmallVec<[(Spot, Spot); 24]> = SmallVec::new();
    let end = loop {
        match &bytes[at..] {
            [b'\r', b'\n', ..] => break at + 2,
            [] | [b'\r'] => return Ok(None),
            [b'\n', ..] => return Err(BadHead::BareLineFeed),
            _ => {}
        }
        let name = (at, at + token(&bytes[at..]));
        match bytes.get(name.1) {
            None => return Ok(None),
            Some(b':') if name.1 > at => {}
            Some(_) => return Err(BadHead::Syntax("header name")),
        }
        let mut from = name.1 + 1;
        while matches!(bytes.get(from), Some(b' ' | b'\t')) {
            from += 1;
        }
        let Some(mut to) = text_end(bytes, from) else { return Ok(None) };
        let Some(next) = line_end(bytes, to, BadHead::Syntax("header value"))? else { return Ok(None) };
        while to > from && matches!(bytes[to - 1], b' ' | b'\t') {
            to -= 1;
        }
        if spots.len() == MAX_HEADERS {
            return Err(BadHead::TooLarge);
        }
        spots.push((name, (from, to)));
        at = next;
    };
    let texts = Texts::of(&bytes[..end]);
    headers.clear();
    for (name, value) in spots {
        let name = texts.get(name).ok_or(BadHead::Syntax("header name"))?;
        headers.push(RawHeader { name, value: &bytes[value.0..value.1] });
    }
    Ok(Some((end, texts)))
}

/// The texts in a head. All of it is looked at once, unless a value is not text.
pub(super) struct Texts<'a> {
    bytes: &'a [u8],
    text: Option<&'a str>,
}

impl<'a> Texts<'a> {
    /// The texts in `bytes`.
    fn of(bytes: &'a [u8]) -> Texts<'a> {
        Texts { bytes, text: std::str::from_utf8(bytes).ok() }
    }

    /// One of them, if it is one.
    pub fn get(&self, (from, to): Spot) -> Option<&'a str> {
        match self.text {
            Some(text) => text.get(from..to),
            None => std::str::from_utf8(&self.bytes[from..to]).ok(),
        }
    }
}

/// An empty line before a message is passed over (RFC 9112 section 2.2).
fn skip_empty(bytes: &[u8]) -> Result<Option<usize>, BadHead> {
    let mut at = 0;
    loop {
        match &bytes[at..] {
            [b'\r', b'\n', ..] => at += 2,
            [] | [b'\r'] => return Ok(None),
            [b'\n', ..] => return Err(BadHead::BareLineFeed),
            _ => return Ok(Some(at)),
        }
    }
}

/// Whether the version at the start is 1.0 and not 1.1.
fn version(bytes: &[u8]) -> Result<Option<bool>, BadHead> {
    match bytes.first_chunk::<8>() {
        Some(b"HTTP/1.1") => Ok(Some(false)),
        Some(b"HTTP/1.0") => Ok(Some(true)),
        None if b"HTTP/1.".starts_with(bytes) => Ok(None),
        Some(_) | None => Err(BadHead::Version),
    }
}

/// How many bytes from the start belong to a token.
fn token(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let Some(other) = wide::first_not_plain(block) else {
            at += wide::BYTES;
            continue;
        };
        at += other;
        if !TOKEN[usize::from(bytes[at])] {
            return at;
        }
        at += 1;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter().position(|byte| !TOKEN[usize::from(*byte)]).map_or(bytes.len(), |more| at + more)
}

/// Where the next line begins, behind the line end that must be at `at`.
fn line_end(bytes: &[u8], at: usize, bad: BadHead) -> Result<Option<usize>, BadHead> {
    match &bytes[at..] {
        [b'\r', b'\n', ..] => Ok(Some(at + 2)),
        [] | [b'\r'] => Ok(None),
        [b'\n', ..] => Err(BadHead::BareLineFeed),
        _ => Err(bad),
    }
}

/// Where the first byte from `at` on is that a value cannot have: a control character other than a tab.
fn text_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let Some(control) = wide::first_control(block) else {
            at += wide::BYTES;
            continue;
        };
        let first = at + control;
        if bytes[first] != b'\t' {
            return Some(first);
        }
        at = first + 1;
    }
    let rest = bytes.get(at..)?;
    let control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    rest.iter().position(control).map(|found| at + found)
}
