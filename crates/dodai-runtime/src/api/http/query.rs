//! Query strings and escaped names.

use dodai_capability::Metadata;

const METADATA: &str = "metadata.";

/// Undoes the escaping of a query: `%xx` and `+`. `None` if it is not well-formed, or no UTF-8.
pub(super) fn unescape(text: &str) -> Option<String> {
    if !text.bytes().any(|byte| byte == b'%' || byte == b'+') {
        return Some(text.to_owned());
    }
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

/// The pairs of a query; malformed ones are left out.
pub(super) fn pairs(query: Option<&str>) -> impl Iterator<Item = (String, String)> + '_ {
    query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((unescape(name)?, unescape(value)?))
    })
}

/// The first value of a name.
pub(super) fn first(query: Option<&str>, name: &str) -> Option<String> {
    pairs(query).find(|(key, _)| key == name).map(|(_, value)| value)
}

/// All values of a name.
pub(super) fn all(query: Option<&str>, name: &str) -> Vec<String> {
    pairs(query).filter(|(key, _)| key == name).map(|(_, value)| value).collect()
}

/// The request metadata: parameters that begin with `metadata.`; the first of a name counts.
pub(super) fn metadata(query: Option<&str>) -> Metadata {
    let mut metadata = Metadata::new();
    for (name, value) in pairs(query) {
        if let Some(name) = name.strip_prefix(METADATA) {
            metadata.entry(name.to_owned()).or_insert(value);
        }
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_or_refused() {
        for (text, expect) in [
            ("plain", Some("plain")),
            ("a+b%20c", Some("a b c")),
            ("%E2%82%ac", Some("\u{20ac}")),
            ("%", None),
            ("%4", None),
            ("%zz", None),
            ("%ff", None),
        ] {
            assert_eq!(unescape(text).as_deref(), expect, "{text}");
        }
    }

    #[test]
    fn metadata_and_values() {
        let query = Some("key=a&key=b%2Fc&metadata.ttlInSeconds=5&metadata.ttlInSeconds=6&bad=%&flag");
        assert_eq!(metadata(query), Metadata::from([("ttlInSeconds".into(), "5".into())]));
        assert_eq!(all(query, "key"), ["a", "b/c"]);
        assert_eq!(first(query, "flag").as_deref(), Some(""));
        assert_eq!(first(query, "bad"), None);
    }
}
