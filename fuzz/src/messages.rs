//! Messages that came parsed (HTTP/2, modules) and go out as HTTP/1: what is written is read as the same message, with
//! the length that was meant. Trailers: what is read out of a section can be sent on.

use dodai_dataplane::h1::{
    Framing, HeaderList, parse_request, parse_response, parse_trailers, write_map_request, write_map_response,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};

const FRAMINGS: [Framing; 3] = [Framing::Empty, Framing::Length(5), Framing::Chunked];

/// The first byte chooses the framing; lines: method or status, target, then headers.
pub fn target(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let framing = FRAMINGS[usize::from(*choice) % FRAMINGS.len()];
    let mut lines = data.split(|byte| *byte == b'\n');
    let (Some(first), Some(target)) = (lines.next(), lines.next()) else { return };
    let headers: HeaderMap = lines.clone().take(60).filter_map(header).collect();
    request(first, target, &headers, framing);
    response(first, &headers, framing);
    let section = &data[(first.len() + target.len() + 2).min(data.len())..];
    if let Some(trailers) = parse_trailers(section) {
        assert!(trailers.values().all(|value| !value.as_bytes().contains(&b'\n')));
    }
}

fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
    Some((HeaderName::from_bytes(&line[..colon]).ok()?, value))
}

fn request(method: &[u8], target: &[u8], headers: &HeaderMap, framing: Framing) {
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method), Uri::try_from(target)) else { return };
    if method == Method::CONNECT {
        return;
    }
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri, parts.headers) = (method, uri, headers.clone());
    let mut out = Vec::new();
    write_map_request(&mut out, &parts, "shop", framing);
    let mut list = HeaderList::new();
    let (line, parsed) = match parse_request(&out, &mut list) {
        Ok(read) => read.expect("it is whole"),
        // Texts that are fine in HTTP/2 and mean nothing on a line are refused by the next hop; never misread.
        Err(_) => return,
    };
    assert_eq!((parsed.framing, parsed.len, line.authority), (framing, out.len(), "shop"));
    assert_eq!((line.method, parsed.upgrade), (parts.method.as_str(), false));
}

fn response(status: &[u8], headers: &HeaderMap, framing: Framing) {
    let Ok(status) = http::StatusCode::from_bytes(status) else { return };
    let bodiless = status.is_informational() || status == 204 || status == 304;
    let (mut parts, ()) = Response::new(()).into_parts();
    (parts.status, parts.headers) = (status, headers.clone());
    let framing = if bodiless || framing == Framing::Empty { Framing::Length(0) } else { framing };
    let mut out = Vec::new();
    write_map_response(&mut out, &parts, framing, false);
    let mut list = HeaderList::new();
    let Ok(read) = parse_response(&out, &mut list, false, false) else { return };
    let (head, parsed) = read.expect("it is whole");
    assert_eq!((head.status, parsed.len), (status.as_u16(), out.len()));
    assert_eq!(parsed.framing, if bodiless { Framing::Empty } else { framing });
}
