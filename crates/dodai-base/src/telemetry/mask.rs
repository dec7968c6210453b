//! Masks secrets in what callers put into URLs, before it is logged, shown or exported.
//!
//! The value of a query parameter is masked when its name says that it is a secret. Headers are logged
//! only where an operator names them; a tap, which anybody who looks may begin, masks those of secrets.

use std::borrow::Cow;

use dodai_core::secrecy::is_secret_name;

/// What stands in for a secret.
pub const MASK: &str = "***";

/// What says among query parameters, beside the words that always do, that a value is secret.
const OWN: [&str; 5] = ["sig", "sid", "code", "nonce", "assertion"];

/// Whether a parameter of this name holds a secret. Percent-encoding does not hide it.
pub fn is_secret(name: &str) -> bool {
    is_secret_name(&decode(name), &OWN)
}

/// What says among headers, beside the words that always do, that a value is secret.
const OWN_OF_HEADERS: [&str; 5] = ["cookie", "sid", "sig", "sas", "keys"];

/// Whether a header of this name holds a secret.
pub fn is_secret_header(name: &str) -> bool {
    is_secret_name(name, &OWN_OF_HEADERS)
}

/// Undoes percent-encoding, and `+` for a space; what is malformed stays as it is.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                // Two hexadecimal digits fit a byte.
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', _, _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _, _) => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// A query string (without `?`) with the values of secret parameters masked.
pub fn query(query: &str) -> Cow<'_, str> {
    let secret = |pair: &str| {
        pair.split_once('=')
            .is_some_and(|(name, value)| !value.is_empty() && value != MASK && is_secret(name))
    };
    let separators = ['&', ';'];
    if !query.split(separators).any(secret) {
        return Cow::Borrowed(query);
    }
    let mut out = String::with_capacity(query.len());
    for part in query.split_inclusive(separators) {
        let (pair, separator) = match part.strip_suffix(separators) {
            Some(pair) => (pair, &part[pair.len()..]),
            None => (part, ""),
        };
        match pair.split_once('=') {
            Some((name, _)) if secret(pair) => {
                out.push_str(name);
                out.push('=');
                out.push_str(MASK);
            }
            _ => out.push_str(pair),
        }
        out.push_str(separator);
    }
    Cow::Owned(out)
}

/// A request target (path and query, or a whole URL) with user information and secret parameters masked.
pub fn target(target: &str) -> Cow<'_, str> {
    let (before, after) = match target.split_once('?') {
        Some((before, after)) => (before, Some(after)),
        None => (target, None),
    };
    let shown = match before.split_once("://") {
        Some((scheme, rest)) if !before.starts_with('/') => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            match authority(host) {
                Cow::Borrowed(_) => Cow::Borrowed(before),
                Cow::Owned(host) => Cow::Owned(format!("{scheme}://{host}{path}")),
            }
        }
        _ => Cow::Borrowed(before),
    };
    let masked = after.map(query);
    match (shown, masked) {
        (Cow::Borrowed(_), None | Some(Cow::Borrowed(_))) => Cow::Borrowed(target),
        (shown, None) => shown,
        (shown, Some(masked)) => Cow::Owned(format!("{shown}?{masked}")),
    }
}

/// An authority with its user information masked.
pub fn authority(authority: &str) -> Cow<'_, str> {
    match authority.rsplit_once('@') {
        Some((_, host)) => Cow::Owned(format!("{MASK}@{host}")),
        None => Cow::Borrowed(authority),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_targets_are_masked_and_nothing_else() {
        for (given, expect) in [
            ("/", "/"),
            ("/a?b=c", "/a?b=c"),
            ("/a?token=t", "/a?token=***"),
            ("/a?x=1&access_token=abc&y=2", "/a?x=1&access_token=***&y=2"),
            ("/a?Password=p;user=u", "/a?Password=***;user=u"),
            ("/a?apiKey=1&api_key=2&X-Api-Key=3&key=4", "/a?apiKey=***&api_key=***&X-Api-Key=***&key=***"),
            ("/a?client_secret=s%26t&q=monkey", "/a?client_secret=***&q=monkey"),
            ("/a?monkey=1&keyboard=2&author=3", "/a?monkey=1&keyboard=2&author=3"),
            ("/a?%74oken=t", "/a?%74oken=***"),
            ("/a?to+ken=1", "/a?to+ken=***"),
            ("/a?X-Amz-Signature=s&X-Amz-Date=d", "/a?X-Amz-Signature=***&X-Amz-Date=d"),
            ("/cb?code=c&country=jp", "/cb?code=***&country=jp"),
            ("/a?token", "/a?token"),
            ("/a?token=", "/a?token="),
            ("/a?token=a=b?c", "/a?token=***"),
            ("/a?&&token=x&", "/a?&&token=***&"),
            ("/a?%zz%=1&%", "/a?%zz%=1&%"),
            ("http://u:p@host:80/a?b=c", "http://***@host:80/a?b=c"),
            ("http://u:p@host", "http://***@host"),
            ("http://host/a@b?pin=1", "http://host/a@b?pin=***"),
            ("/a?next=http://x/?token=1", "/a?next=http://x/?token=1"),
            ("/日本?鍵=1&secret=日本", "/日本?鍵=1&secret=***"),
        ] {
            assert_eq!(target(given), expect, "{given}");
            assert_eq!(target(&target(given)), expect, "masking {given} twice changes nothing more");
        }
    }

    #[test]
    fn user_information_is_masked() {
        assert_eq!(authority("user:word@example.org:80"), "***@example.org:80");
        assert_eq!(authority("example.org"), "example.org");
    }

    #[test]
    fn what_needs_no_mask_is_not_copied() {
        assert!(matches!(target("/a/b?c=d"), Cow::Borrowed(_)));
        assert!(matches!(target("http://host/a?c=d"), Cow::Borrowed(_)));
    }
}
