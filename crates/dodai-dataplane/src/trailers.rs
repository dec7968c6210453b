//! Which fields may stand in trailers (RFC 9110 section 6.5.1): those that nobody has to know before the content.
//!
//! HTTP/1 is relayed as bytes, so a message with another one is refused. In HTTP/2 and in messages that are
//! written anew it is left out: servers of gRPC send such fields by mistake, and nobody needs them.

/// Fields about framing, routing, authentication, how to answer, and how to read the content.
const FORBIDDEN: [&str; 38] = [
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "www-authenticate",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// The longest name of the above.
pub const LONGEST: usize = 19;

/// Whether a field may not stand in trailers, whatever the case of its name.
pub fn is_forbidden(name: &[u8]) -> bool {
    name.len() <= LONGEST && FORBIDDEN.iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes()))
}

/// The fields that may.
pub fn allowed<'a>(
    fields: impl Iterator<Item = (&'a [u8], &'a [u8], bool)>,
) -> impl Iterator<Item = (&'a [u8], &'a [u8], bool)> {
    fields.filter(|(name, ..)| !is_forbidden(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_be_known_before_the_content_cannot_come_after_it() {
        assert_eq!(FORBIDDEN.iter().map(|name| name.len()).max(), Some(LONGEST));
        assert!(FORBIDDEN.is_sorted());
        for (name, expect) in [
            ("Transfer-Encoding", true),
            ("set-cookie", true),
            ("HOST", true),
            ("if-unmodified-since", true),
            ("grpc-status", false),
            ("x-checksum", false),
            ("etag", false),
            ("server-timing", false),
            ("", false),
        ] {
            assert_eq!(is_forbidden(name.as_bytes()), expect, "{name}");
        }
    }
}
