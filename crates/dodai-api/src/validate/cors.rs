//! Rules within a CORS block, of a Policy or of a Route's filter.

use super::Findings;
use crate::cors::Cors;
use crate::read::Code;

pub(super) fn check(path: &str, cors: &Cors, found: &mut Findings) {
    found.not_empty(&format!("{path}.allowOrigins"), "origin", &cors.allow_origins);
    for (i, origin) in cors.allow_origins.iter().enumerate() {
        let path = format!("{path}.allowOrigins[{i}]");
        if origin == "*" {
            if cors.allow_credentials {
                let message = "with credentials any page on the Internet could act as the user";
                let remedy = "name the origins, or leave `allowCredentials` out";
                found.error(Code::Conflict, path, message, remedy);
            }
        } else if !is_origin(origin) {
            let message = format!("`{}` is not an origin", crate::Invalid::shorten(origin));
            let remedy = "write scheme, host and port only: `https://shop.example.com`, `https://*.example.com`, or `*`";
            found.error(Code::InvalidValue, path, message, remedy);
        }
    }
    for (i, method) in cors.allow_methods.iter().enumerate().filter(|(_, method)| *method != "*") {
        found.method(&format!("{path}.allowMethods[{i}]"), method);
    }
    for (key, headers) in [("allowHeaders", &cors.allow_headers), ("exposeHeaders", &cors.expose_headers)] {
        for (i, header) in headers.iter().enumerate().filter(|(_, header)| *header != "*") {
            found.header_name(&format!("{path}.{key}[{i}]"), header);
        }
    }
    if !(1..=86_400).contains(&cors.max_age) {
        let message = format!("{} is out of range", cors.max_age);
        found.error(Code::InvalidValue, format!("{path}.maxAge"), message, "write 1 to 86400 seconds");
    }
}

/// `scheme://host` or `scheme://host:port`, where the host may begin with `*.`.
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (authority, None),
    };
    let literal = host.starts_with('[') && host.ends_with(']');
    let label = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let name = host.strip_prefix("*.").unwrap_or(host);
    let named = !name.is_empty() && name.bytes().all(label);
    !scheme.is_empty()
        && scheme
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'))
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
        && (named || literal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_no_path() {
        for (text, expect) in [
            ("https://shop.example.com", true),
            ("https://*.example.com", true),
            ("http://localhost:3000", true),
            ("http://[::1]:3000", true),
            ("https://shop.example.com/", false),
            ("shop.example.com", false),
            ("https://", false),
            ("https://*", false),
            ("https://a.*.example.com", false),
            ("https://a@b", false),
            ("https://a:x", false),
        ] {
            assert_eq!(is_origin(text), expect, "{text}");
        }
    }
}
