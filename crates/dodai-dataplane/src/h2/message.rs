//! Heads and trailers of HTTP in field blocks: what must hold of them (RFC 9113 section 8), and how they are written.

use super::block::Block;
use super::encode::Encoder;
use crate::h1::well_formed_authority;

/// A message that breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The control data of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pseudo<'a> {
    /// The method.
    pub method: &'a str,
    /// The scheme; empty for CONNECT.
    pub scheme: &'a str,
    /// The authority, or the host if there is none; may be empty.
    pub authority: &'a str,
    /// Path and query; empty for CONNECT.
    pub path: &'a str,
    /// The protocol that an extended CONNECT asks for (RFC 8441).
    pub protocol: Option<&'a str>,
}

impl<'a> Pseudo<'a> {
    /// Reads the control data of a request that was checked, or of as much of it as there is.
    pub fn of(block: &'a Block) -> Pseudo<'a> {
        let mut found = Pseudo { method: "", scheme: "", authority: "", path: "", protocol: None };
        for (name, value, _) in block.iter() {
            let text = || std::str::from_utf8(value).unwrap_or("");
            match name {
                b":method" => found.method = text(),
                b":scheme" => found.scheme = text(),
                b":authority" => found.authority = text(),
                b":path" => found.path = text(),
                b":protocol" => found.protocol = Some(text()),
                b"host" if found.authority.is_empty() => found.authority = text(),
                _ => {}
            }
        }
        found
    }
}

/// The length that a message announces.
pub fn length(block: &Block) -> Option<u64> {
    std::str::from_utf8(block.get(b"content-length")?).ok()?.parse().ok()
}

/// Bytes that names of fields consist of.
const NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let c = byte as u8;
        table[byte] = c.is_ascii_lowercase()
            || c.is_ascii_digit()
            || matches!(
                c,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};

fn check_field(name: &[u8], value: &[u8]) -> Result<(), Malformed> {
    if name.is_empty() || !name.iter().all(|&byte| NAME[usize::from(byte)]) {
        return Err(Malformed("a field name is not one, or not in small letters"));
    }
    check_value(value)?;
    match name {
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            Err(Malformed("a field that is about an HTTP/1 connection"))
        }
        b"te" if !value.eq_ignore_ascii_case(b"trailers") => Err(Malformed("te asks for more than trailers")),
        _ => Ok(()),
    }
}

fn check_value(value: &[u8]) -> Result<(), Malformed> {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    if memchr::memchr3(0, b'\r', b'\n', value).is_some() || edge(value.first()) || edge(value.last()) {
        return Err(Malformed("a field value has a line end, a zero, or space around it"));
    }
    Ok(())
}

fn graphic(value: &[u8]) -> bool {
    value.iter().all(u8::is_ascii_graphic)
}

/// Whether `block` is the head of a request.
pub fn check_request(block: &Block) -> Result<(), Malformed> {
    let (mut method, mut scheme, mut authority, mut path, mut protocol) = (None, None, None, None, None);
    let (mut host, mut length, mut fields) = (None, None, false);
    for (name, value, _) in block.iter() {
        if name.first() != Some(&b':') {
            fields = true;
            check_field(name, value)?;
            match name {
                b"content-length" => check_length(&mut length, value)?,
                b"host" if host.replace(value).is_some() => return Err(Malformed("two hosts")),
                _ => {}
            }
            continue;
        }
        let slot = match name {
            b":method" => &mut method,
            b":scheme" => &mut scheme,
            b":authority" => &mut authority,
            b":path" => &mut path,
            b":protocol" => &mut protocol,
            _ => return Err(Malformed("a pseudo-field that requests do not have")),
        };
        if fields || slot.replace(value).is_some() || !graphic(value) {
            return Err(Malformed(
                "a pseudo-field twice, after the others, or with bytes that it cannot have",
            ));
        }
    }
    let authorities = [authority, host].into_iter().flatten();
    if !authorities.map(std::str::from_utf8).all(|text| text.is_ok_and(well_formed_authority)) {
        return Err(Malformed("no host can be called like that"));
    }
    let method = method.ok_or(Malformed("no :method"))?;
    if method.is_empty() || http::Method::from_bytes(method).is_err() {
        return Err(Malformed(":method is no token"));
    }
    if let (Some(host), Some(authority)) = (host, authority)
        && !host.eq_ignore_ascii_case(authority)
    {
        return Err(Malformed(":authority and host differ"));
    }
    if method == b"CONNECT" && protocol.is_none() {
        if scheme.is_some() || path.is_some() || authority.is_none_or(<[u8]>::is_empty) {
            return Err(Malformed("CONNECT has an authority and nothing else"));
        }
        return Ok(());
    }
    if protocol.is_some() && method != b"CONNECT" {
        return Err(Malformed(":protocol without CONNECT"));
    }
    let (Some(scheme), Some(path)) = (scheme, path) else { return Err(Malformed("no :scheme or no :path")) };
    // A fragment is no part of it (RFC 9113 section 8.3.1): what cuts it off would read another path than we.
    if memchr::memchr(b'#', path).is_some() {
        return Err(Malformed(":path has a fragment"));
    }
    if scheme.is_empty() || !(path.starts_with(b"/") || path == b"*" && method == b"OPTIONS") {
        return Err(Malformed("no :scheme, or no :path that begins with a slash"));
    }
    Ok(())
}

fn check_length<'a>(known: &mut Option<&'a [u8]>, value: &'a [u8]) -> Result<(), Malformed> {
    let number = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    if !number || known.replace(value).is_some_and(|before| before != value) {
        return Err(Malformed("content-length is no number, or two"));
    }
    Ok(())
}

/// The status, if `block` is the head of a response.
pub fn check_response(block: &Block) -> Result<u16, Malformed> {
    let (mut status, mut length) = (None, None);
    for (index, (name, value, _)) in block.iter().enumerate() {
        if name == b":status" && index == 0 {
            let [a, b, c] = value else { return Err(Malformed(":status is no status")) };
            let digits = [a, b, c].map(|digit| u16::from(digit.wrapping_sub(b'0')));
            let [a, b, c] = digits;
            if a == 0 || a > 9 || b > 9 || c > 9 {
                return Err(Malformed(":status is no status"));
            }
            status = Some(a * 100 + b * 10 + c);
            continue;
        }
        check_field(name, value)?;
        if name == b"content-length" {
            check_length(&mut length, value)?;
        }
    }
    status.ok_or(Malformed("no :status"))
}

/// Whether `block` can be trailers.
pub fn check_trailers(block: &Block) -> Result<(), Malformed> {
    block.iter().try_for_each(|(name, value, _)| check_field(name, value))
}

/// Writes the head of a request.
pub fn write_request<'a>(
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    head: &Pseudo<'_>,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8], bool)>,
) {
    encoder.field(b":method", head.method.as_bytes(), false, out);
    if let Some(protocol) = head.protocol {
        encoder.field(b":protocol", protocol.as_bytes(), false, out);
    }
    if !head.scheme.is_empty() {
        encoder.field(b":scheme", head.scheme.as_bytes(), false, out);
    }
    if !head.authority.is_empty() {
        encoder.field(b":authority", head.authority.as_bytes(), false, out);
    }
    if !head.path.is_empty() {
        encoder.field(b":path", head.path.as_bytes(), false, out);
    }
    write_fields(encoder, out, fields);
}

/// Writes the head of a response.
pub fn write_response<'a>(
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    status: u16,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8], bool)>,
) {
    let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + (digit % 10) as u8);
    encoder.field(b":status", &digits, false, out);
    write_fields(encoder, out, fields);
}

/// Writes fields: the rest of a head, or trailers.
pub fn write_fields<'a>(
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8], bool)>,
) {
    for (name, value, sensitive) in fields {
        encoder.field(name, value, sensitive, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(fields: &[(&str, &str)]) -> Block {
        let mut block = Block::new();
        for (name, value) in fields {
            block.push(name.as_bytes(), value.as_bytes(), false);
        }
        block
    }

    #[test]
    fn requests_are_checked() {
        let get = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
        let check = |fields: &[(&str, &str)], good: bool| {
            assert_eq!(check_request(&block(fields)).is_ok(), good, "{fields:?}");
        };
        let with = |more: &[(&'static str, &'static str)]| [&get[..], more].concat();
        check(&get, true);
        check(
            &with(&[(":authority", "a"), ("host", "A"), ("te", "trailers"), ("content-length", "1")]),
            true,
        );
        check(&with(&[(":authority", "a"), ("host", "b")]), false);
        check(&with(&[("host", "a"), ("host", "a")]), false);
        check(&with(&[(":authority", "a@b")]), false);
        check(&with(&[("host", "user:secret@b")]), false);
        check(&with(&[(":authority", "a/b")]), false);
        check(&with(&[(":authority", "[::1]:80")]), true);
        check(&with(&[("X-Upper", "1")]), false);
        check(&with(&[("x", "a\r\nb")]), false);
        check(&with(&[("x", " a")]), false);
        check(&with(&[("connection", "close")]), false);
        check(&with(&[("transfer-encoding", "chunked")]), false);
        check(&with(&[("te", "gzip")]), false);
        check(&with(&[("x", "1"), (":authority", "late")]), false);
        check(&with(&[(":method", "GET")]), false);
        check(&with(&[(":status", "200")]), false);
        check(&with(&[(":protocol", "websocket")]), false);
        check(&with(&[("content-length", "1"), ("content-length", "2")]), false);
        check(&with(&[("content-length", "+1")]), false);
        check(&get[..2], false);
        check(&[(":method", "GET"), (":scheme", "http"), (":path", "")], false);
        check(&[(":method", "GET"), (":scheme", "http"), (":path", "a")], false);
        check(&[(":method", "GET"), (":scheme", "http"), (":path", "/a b")], false);
        check(&[(":method", "G T"), (":scheme", "http"), (":path", "/")], false);
        check(&[(":method", "OPTIONS"), (":scheme", "http"), (":path", "*")], true);
        check(&[(":method", "GET"), (":scheme", "http"), (":path", "*")], false);
        check(&[(":method", "GET"), (":scheme", "http"), (":path", "/admin#")], false);
        check(&[(":method", "GET"), (":scheme", "http"), (":path", "/a?b#c")], false);
        check(&[(":method", "CONNECT"), (":authority", "a:1")], true);
        check(&[(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")], false);
        let websocket = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a"),
        ];
        check(&websocket, true);
    }

    #[test]
    fn responses_are_checked() {
        let check = |fields: &[(&str, &str)], status: Option<u16>| {
            assert_eq!(check_response(&block(fields)).ok(), status, "{fields:?}");
        };
        check(&[(":status", "200"), ("a", "b")], Some(200));
        check(&[(":status", "099")], None);
        check(&[(":status", "999")], Some(999));
        check(&[(":status", "2000")], None);
        check(&[("a", "b"), (":status", "200")], None);
        check(&[(":status", "200"), (":status", "200")], None);
        check(&[(":status", "200"), ("upgrade", "x")], None);
        check(&[], None);
    }
}
