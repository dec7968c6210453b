//! Heads and trailers of HTTP/2 as the parsed parts that modules, APIs and HTTP/1 endpoints are given, and back.

use dodai_core::failure::{Failure, Kind};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, request, response};

use crate::h2::{self, Block, Pseudo};

/// The parts of a request.
pub fn request(block: &Block) -> Result<request::Parts, Failure> {
    let bad =
        |what: &str| Failure::new(Kind::BadRequest, format!("the {what} of the request cannot be read"));
    let head = Pseudo::of(block);
    let mut uri = http::uri::Parts::default();
    if !head.authority.is_empty() {
        uri.authority = Some(Authority::try_from(head.authority).map_err(|_| bad("authority"))?);
    }
    if !head.path.is_empty() {
        uri.path_and_query = Some(PathAndQuery::try_from(head.path).map_err(|_| bad("path"))?);
        if uri.authority.is_some() {
            uri.scheme = Some(Scheme::try_from(head.scheme).map_err(|_| bad("scheme"))?);
        }
    }
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = Method::from_bytes(head.method.as_bytes()).map_err(|_| bad("method"))?;
    parts.uri = Uri::from_parts(uri).map_err(|_| bad("target"))?;
    parts.version = http::Version::HTTP_2;
    parts.headers = fields(block);
    Ok(parts)
}

/// The parts of a response.
pub fn response(block: &Block) -> Result<response::Parts, Failure> {
    let bad = || Failure::new(Kind::Protocol, "the response has no status");
    let status =
        block.get(b":status").and_then(|status| StatusCode::from_bytes(status).ok()).ok_or_else(bad)?;
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.version = http::Version::HTTP_2;
    parts.headers = fields(block);
    Ok(parts)
}

/// The fields that are no control data. Cookies, which may come one by one, are put together again (RFC 9113 section
/// 8.2.3).
pub fn fields(block: &Block) -> HeaderMap {
    let mut map: HeaderMap = HeaderMap::with_capacity(block.len());
    for (name, value, sensitive) in block.iter().filter(|(name, ..)| !name.starts_with(b":")) {
        let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            continue;
        };
        value.set_sensitive(sensitive);
        if name == http::header::COOKIE
            && let Some(before) = map.get(&name)
        {
            let whole = [before.as_bytes(), b"; ", value.as_bytes()].concat();
            if let Ok(mut whole) = HeaderValue::from_bytes(&whole) {
                whole.set_sensitive(sensitive);
                map.insert(name, whole);
            }
            continue;
        }
        map.append(name, value);
    }
    map
}

/// The fields of a map.
pub fn of_map(map: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8], bool)> {
    map.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes(), value.is_sensitive()))
}

/// Writes the head of a request. Its `Host` must not be among the fields any more.
pub fn write_request(encoder: &mut h2::Encoder, out: &mut Vec<u8>, parts: &request::Parts) {
    let connect = parts.method == Method::CONNECT;
    let head = Pseudo {
        method: parts.method.as_str(),
        scheme: if connect { "" } else { parts.uri.scheme_str().unwrap_or("http") },
        authority: parts.uri.authority().map_or("", Authority::as_str),
        path: if connect { "" } else { parts.uri.path_and_query().map_or("/", PathAndQuery::as_str) },
        protocol: None,
    };
    h2::write_request(encoder, out, &head, of_map(&parts.headers));
}

/// Writes the head of a response.
pub fn write_response(encoder: &mut h2::Encoder, out: &mut Vec<u8>, parts: &response::Parts) {
    h2::write_response(encoder, out, parts.status.as_u16(), of_map(&parts.headers));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_put_together() {
        let mut block = Block::new();
        for (name, value) in [("cookie", "a=1"), ("x", "1"), ("cookie", "b=2"), ("x", "2")] {
            block.push(name.as_bytes(), value.as_bytes(), false);
        }
        let map = fields(&block);
        assert_eq!(map.get("cookie").map(HeaderValue::as_bytes), Some(b"a=1; b=2".as_slice()));
        assert_eq!(map.get_all("x").iter().count(), 2);
    }
}
