//! Writing heads: raw ones are patched (runs of unchanged lines are copied whole), parsed ones are encoded.

use dodai_core::head::{Edit, Edits, RawHeader, write_header};
use http::{HeaderMap, HeaderName};

use super::{Framing, Parsed, RequestLine, ResponseHead};

/// Writes a request that arrived as `head` for the next hop: hop-by-hop headers dropped, `edits` applied.
/// With `upgrade`, the upgrade is passed on.
pub fn write_request(
    out: &mut Vec<u8>,
    head: &[u8],
    line: &RequestLine<'_>,
    headers: &[RawHeader<'_>],
    parsed: &Parsed,
    edits: &Edits,
    upgrade: bool,
) {
    let mut target = line.target.as_bytes();
    let mut authority = line.absolute.then_some(line.authority.as_bytes());
    if edits.change_start_line() {
        edits.iter().for_each(|edit| match edit {
            Edit::Target(new) => target = new,
            Edit::Authority(new) => authority = Some(new),
            Edit::Set(..) | Edit::Append(..) | Edit::Remove(_) => {}
        });
    }
    out.extend_from_slice(line.method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(authority) = authority {
        write_header(out, b"host", authority);
    }
    let drop_host = if authority.is_some() { parsed.host.map(usize::from) } else { None };
    copy_headers(out, head, headers, parsed, edits, drop_host);
    if upgrade {
        out.extend_from_slice(b"connection: upgrade\r\n");
        for header in headers.iter().filter(|header| header.name.eq_ignore_ascii_case("upgrade")) {
            write_header(out, b"upgrade", header.value);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a response that arrived as `head` for the client. `close` tells the client that we close.
pub fn write_response(
    out: &mut Vec<u8>,
    head: &[u8],
    response: &ResponseHead<'_>,
    headers: &[RawHeader<'_>],
    parsed: &Parsed,
    edits: &Edits,
    close: bool,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(response.status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(response.reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    copy_headers(out, head, headers, parsed, edits, None);
    if response.status == 101 {
        out.extend_from_slice(b"connection: upgrade\r\n");
        for header in headers.iter().filter(|header| header.name.eq_ignore_ascii_case("upgrade")) {
            write_header(out, b"upgrade", header.value);
        }
    } else if close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Copies the header lines that go on, run by run, then adds what the edits add.
fn copy_headers(
    out: &mut Vec<u8>,
    head: &[u8],
    headers: &[RawHeader<'_>],
    parsed: &Parsed,
    edits: &Edits,
    drop: Option<usize>,
) {
    let start_of = |index: usize| match headers.get(index) {
        Some(header) => header.name.as_ptr() as usize - head.as_ptr() as usize,
        None => parsed.len - 2,
    };
    let mut run = None;
    for (index, header) in headers.iter().enumerate() {
        let keep = !parsed.is_hop_by_hop(index) && drop != Some(index) && !edits.replaces(header.name);
        match (keep, run) {
            (true, None) => run = Some(start_of(index)),
            (false, Some(from)) => {
                out.extend_from_slice(&head[from..start_of(index)]);
                run = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
    if let Some(from) = run {
        out.extend_from_slice(&head[from..start_of(headers.len())]);
    }
    edits.write_added(out);
}

/// Whether a header of a parsed head stays on its hop or is written by the codec itself.
fn is_codecs_own(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "transfer-encoding"
            | "content-length"
            | "upgrade"
            | "te"
            | "host"
            | "cookie"
    )
}

fn push_map(out: &mut Vec<u8>, headers: &HeaderMap, framing: Framing) {
    for (name, value) in headers.iter().filter(|(name, _)| !is_codecs_own(name)) {
        write_header(out, name.as_str().as_bytes(), value.as_bytes());
    }
    match framing {
        Framing::Empty | Framing::UntilClose => {}
        Framing::Length(length) => {
            write_header(out, b"content-length", itoa::Buffer::new().format(length).as_bytes())
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
}

/// Writes a parsed request for an HTTP/1.1 endpoint.
pub fn write_map_request(out: &mut Vec<u8>, parts: &http::request::Parts, authority: &str, framing: Framing) {
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(parts.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_header(out, b"host", authority.as_bytes());
    push_map(out, &parts.headers, framing);
    push_cookies(out, &parts.headers);
    out.extend_from_slice(b"\r\n");
}

/// HTTP/2 may split cookies over several lines, HTTP/1 may not (RFC 9113 section 8.2.3).
fn push_cookies(out: &mut Vec<u8>, headers: &HeaderMap) {
    let mut cookies = headers.get_all(http::header::COOKIE).iter();
    let Some(first) = cookies.next() else { return };
    out.extend_from_slice(b"cookie: ");
    out.extend_from_slice(first.as_bytes());
    for cookie in cookies {
        out.extend_from_slice(b"; ");
        out.extend_from_slice(cookie.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a parsed response for an HTTP/1.1 client.
pub fn write_map_response(out: &mut Vec<u8>, parts: &http::response::Parts, framing: Framing, close: bool) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(parts.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(parts.status.canonical_reason().unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
    push_map(out, &parts.headers, framing);
    if close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a whole local answer: text, with extra headers.
pub fn write_local_response(
    out: &mut Vec<u8>,
    status: u16,
    headers: &[(&str, impl AsRef<str>)],
    body: &str,
    close: bool,
    to_head: bool,
) {
    let pairs = headers.iter().map(|(name, value)| (*name, value.as_ref().as_bytes()));
    write_local(out, status, pairs, body, close, to_head);
}

/// Like [`write_local_response`], of headers in a map; one for the body's type takes the place of ours.
pub fn write_local_map(
    out: &mut Vec<u8>,
    status: u16,
    headers: &HeaderMap,
    body: &str,
    close: bool,
    to_head: bool,
) {
    let pairs = headers.iter().filter(|(name, _)| !is_codecs_own(name));
    write_local(
        out,
        status,
        pairs.map(|(name, value)| (name.as_str(), value.as_bytes())),
        body,
        close,
        to_head,
    );
}

fn write_local<'a>(
    out: &mut Vec<u8>,
    status: u16,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    body: &str,
    close: bool,
    to_head: bool,
) {
    let status = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut typed = body.is_empty();
    for (name, value) in headers {
        typed |= name.eq_ignore_ascii_case("content-type");
        write_header(out, name.as_bytes(), value);
    }
    if !typed {
        write_header(out, b"content-type", b"text/plain; charset=utf-8");
    }
    // A message that cannot have a body has no length either (RFC 9110 section 8.6).
    if status != http::StatusCode::NO_CONTENT {
        write_header(out, b"content-length", itoa::Buffer::new().format(body.len()).as_bytes());
    }
    if close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !to_head {
        out.extend_from_slice(body.as_bytes());
    }
}
