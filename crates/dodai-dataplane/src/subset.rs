//! The part of a service that a call is for, told to the base where it arrives.
//!
//! A base that sends a call picks an endpoint, but the one that gets it picks again among its own instances; what a rule
//! asks of them (a revision, labels) has to come along. It is a header that bases write for each other: what others
//! put into it is taken away.

use std::sync::Arc;

use dodai_core::head::{Edit, Edits, RequestHead, Short};
use dodai_core::id::RevisionId;
use dodai_core::snapshot::Labels;
use http::HeaderName;

/// The header's name.
const NAME: &str = "dodai-to";
const HEADER: HeaderName = HeaderName::from_static(NAME);
/// What stands beside the labels for the key of the client; no label has such a name.
const SOURCE: &str = "@source";
/// The most labels that are read.
const MOST: usize = 64;

/// Takes the header away, wherever it comes from.
pub fn strip(head: &RequestHead<'_>, edits: &mut Edits) {
    if head.header(NAME).is_some() {
        edits.push(Edit::Remove(HEADER));
    }
}

/// What a call is for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Only this revision.
    pub revision: Option<RevisionId>,
    /// Only endpoints with these labels.
    pub labels: Option<Arc<Labels>>,
    /// The key of its client, for a service that shares calls out by that.
    pub source: Option<u64>,
}

/// Says what a call is for, if it is not for any endpoint.
pub fn write(revision: Option<&RevisionId>, labels: Option<&Labels>, source: Option<u64>, edits: &mut Edits) {
    if revision.is_none() && labels.is_none() && source.is_none() {
        return;
    }
    let mut value = Short::new();
    if let Some(revision) = revision {
        escape(revision.as_str(), &mut value);
    }
    for (key, label) in labels.into_iter().flatten() {
        value.push(b'&');
        escape(key, &mut value);
        value.push(b'=');
        escape(label, &mut value);
    }
    if let Some(source) = source {
        value.extend_from_slice(format!("&{SOURCE}={source:x}").as_bytes());
    }
    edits.set(HEADER, &value);
}

/// What a call from another base is for. The header itself has done its work.
pub fn read(head: &RequestHead<'_>) -> Part {
    let Some(value) = head.header(NAME).and_then(|value| std::str::from_utf8(value).ok()) else {
        return Part::default();
    };
    let mut parts = value.split('&');
    let revision = parts.next().and_then(unescape).filter(|revision| !revision.is_empty());
    let label = |part: &str| {
        let (key, label) = part.split_once('=')?;
        Some((unescape(key)?, unescape(label)?))
    };
    let mut labels: Labels = parts.take(MOST).filter_map(label).collect();
    let source = labels.remove(SOURCE).and_then(|source| u64::from_str_radix(&source, 16).ok());
    let labels = (!labels.is_empty()).then(|| Arc::new(labels));
    Part { revision: revision.map(RevisionId::new), labels, source }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte)
}

fn escape(text: &str, out: &mut Short) {
    for byte in text.bytes() {
        if is_plain(byte) {
            out.push(byte);
        } else {
            let digit = |nibble: u8| b"0123456789ABCDEF"[usize::from(nibble & 0xf)];
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte)]);
        }
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        out.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let check = |revision: Option<&str>, labels: &[(&str, &str)], source: Option<u64>| {
            let revision = revision.map(RevisionId::new);
            let labels: Labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            let labels = (!labels.is_empty()).then_some(labels);
            let mut edits = Edits::new();
            write(revision.as_ref(), labels.as_ref(), source, &mut edits);
            let (mut parts, ()) = http::Request::get("/").body(()).expect("valid").into_parts();
            edits.apply_to_request(&mut parts);
            let found = read(&RequestHead::Map(&parts));
            let part = Part { revision, labels: labels.map(Arc::new), source };
            assert_eq!(found, part, "{:?}", parts.headers);
        };
        check(None, &[], None);
        check(None, &[], Some(0xab));
        check(Some("0123456789"), &[], None);
        check(None, &[("tier", "gold & more=%"), ("app.example/zone", "ü")], Some(u64::MAX));
        check(Some("0123456789"), &[("a", "")], None);
    }

    proptest! {
        #[test]
        fn whatever_names_hold_is_read_as_it_was(
            revision in proptest::option::of(".{1,20}"),
            labels in proptest::collection::btree_map(".{0,6}", ".{0,12}", 0..8),
            source in any::<Option<u64>>(),
        ) {
            let revision = revision.as_deref().map(RevisionId::new);
            let labels: Labels = labels.into_iter().collect();
            let labels = (!labels.is_empty()).then_some(labels);
            let mut edits = Edits::new();
            write(revision.as_ref(), labels.as_ref(), source, &mut edits);
            let (mut parts, ()) = http::Request::get("/").body(()).expect("valid").into_parts();
            edits.apply_to_request(&mut parts);
            let part = Part { revision, labels: labels.map(Arc::new), source };
            prop_assert_eq!(read(&RequestHead::Map(&parts)), part);
        }

        #[test]
        fn any_value_is_read_within_bounds(value in proptest::collection::vec(any::<u8>(), 0..200), many in 0_usize..100) {
            let (mut parts, ()) = http::Request::get("/").body(()).expect("valid").into_parts();
            for value in [value, (0..many).map(|at| format!("&k{at}=v")).collect::<String>().into_bytes()] {
                let Ok(value) = http::HeaderValue::from_bytes(&value) else { continue };
                parts.headers.insert(HEADER, value);
                let part = read(&RequestHead::Map(&parts));
                prop_assert!(part.labels.is_none_or(|labels| labels.len() <= MOST));
            }
        }
    }
}
