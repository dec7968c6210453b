//! The trace that a call belongs to, and B3 (openzipkin/b3-propagation) for apps that trace with it: where a caller
//! sent it, the next hop gets it too.
//!
//! W3C's `traceparent` wins where both came, and goes out always.

use dodai_core::head::{Edits, RequestHead};
use dodai_core::trace::{Span, random};
use http::HeaderName;

use crate::worker::Worker;

const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");

/// What a caller told: its span, and whether to sample, each of which may be missing. Without a word on sampling it is
/// for the next hop to decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Its span.
    pub span: Option<Span>,
    /// Its decision.
    pub sampled: Option<bool>,
}

fn decision(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"d" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

/// What the caller told.
pub fn told(head: &RequestHead<'_>) -> Told {
    // One pass: most calls have none of them.
    let (mut single, mut trace, mut id, mut sampled, mut flags) = (None, None, None, None, None);
    head.for_each_header(|name, value| {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let place = match name.len() {
            2 if is("b3") => &mut single,
            12 if is("x-b3-traceid") => &mut trace,
            11 if is("x-b3-spanid") => &mut id,
            12 if is("x-b3-sampled") => &mut sampled,
            10 if is("x-b3-flags") => &mut flags,
            _ => return,
        };
        place.get_or_insert(value);
    });
    if let Some(single) = single {
        let span = Span::parse_b3(single);
        // `b3: 0` is a whole message; behind two ids the third part may be missing.
        let word = match span {
            Some(_) => single.split(|byte| *byte == b'-').nth(2),
            None => Some(single),
        };
        return Told { span, sampled: word.and_then(decision) };
    }
    let word = flags.filter(|flags| *flags == b"1").or(sampled);
    let span = trace.zip(id).and_then(|(trace, id)| Span::of_b3(trace, id, word));
    Told { span, sampled: word.and_then(decision) }
}

/// Takes back what [`tell`] told, and tells anew: the decision has changed.
#[cold]
pub fn tell_anew(edits: &mut Edits, head: &RequestHead<'_>, span: &Span) {
    for name in [SINGLE, TRACE, SPAN, PARENT, SAMPLED] {
        edits.unset(&name);
    }
    tell(edits, head, span);
}

/// Tells the next hop of `span` in the form in which the caller told of its own.
pub fn tell(edits: &mut Edits, head: &RequestHead<'_>, span: &Span) {
    let (mut single, mut several) = (false, false);
    head.for_each_header(|name, _| {
        single |= name.len() == 2 && name.eq_ignore_ascii_case("b3");
        several |= name.len() == 12 && name.eq_ignore_ascii_case("x-b3-traceid");
    });
    if !single && !several {
        return;
    }
    let (trace, id, parent) = span.b3();
    let sampled: &[u8] = if span.sampled { b"1" } else { b"0" };
    if single {
        let mut value = [&trace[..], &id, sampled].join(&b'-');
        if span.parent != 0 {
            value.push(b'-');
            value.extend_from_slice(&parent);
        }
        edits.set(SINGLE, &value);
    }
    if several {
        edits.set(TRACE, &trace);
        edits.set(SPAN, &id);
        edits.set(SAMPLED, sampled);
        if span.parent != 0 {
            edits.set(PARENT, &parent);
        }
    }
}

/// The span of a hop, a child of the caller's or a new trace, and whether it is ours to say if that is sampled.
pub fn span(head: &RequestHead<'_>, worker: &Worker) -> (Span, bool) {
    if let Some(parent) = head.header("traceparent").and_then(Span::parse) {
        return (parent.child(), false);
    }
    let told = told(head);
    let sampled = told.sampled.unwrap_or_else(|| draws(worker.shared.sample_per_ten_thousand));
    let span = told.span.map_or_else(|| Span::root(sampled), |parent| Span { sampled, ..parent.child() });
    (span, told.sampled.is_none())
}

/// Whether a call is one of so many of 10,000.
pub fn draws(per_ten_thousand: u16) -> bool {
    random() % 10_000 < u64::from(per_ten_thousand)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE_ID: &str = "80f198ee56343ba864fe8b2a57d3eff7";

    fn next(headers: &[(&str, &str)]) -> (Option<Span>, Vec<(String, String)>) {
        let mut request = http::Request::get("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).expect("valid").into_parts();
        let head = RequestHead::Map(&parts);
        let found = told(&head).span;
        let mut edits = Edits::new();
        let span = found.unwrap_or_else(|| Span::root(false)).child();
        tell(&mut edits, &head, &Span { id: 1, ..span });
        edits.apply_to(&mut parts.headers);
        let text = |value: &http::HeaderValue| value.to_str().expect("text").to_owned();
        (found, parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect())
    }

    #[test]
    fn the_single_header_goes_on_as_one() {
        let (found, sent) = next(&[("b3", &format!("{TRACE_ID}-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90"))]);
        let found = found.expect("a span");
        assert_eq!(
            (found.trace, found.id, found.sampled),
            (0x80f1_98ee_5634_3ba8_64fe_8b2a_57d3_eff7, 0xe457_b5a2_e4d8_6bd1, true)
        );
        assert_eq!(sent, [("b3".to_owned(), format!("{TRACE_ID}-0000000000000001-1-e457b5a2e4d86bd1"))]);
    }

    #[test]
    fn separate_headers_go_on_separately() {
        let (found, mut sent) = next(&[
            ("X-B3-TraceId", "64fe8b2a57d3eff7"),
            ("X-B3-SpanId", "e457b5a2e4d86bd1"),
            ("X-B3-Flags", "1"),
        ]);
        assert!(found.expect("a span").sampled, "debug implies it");
        sent.sort();
        let value =
            |name: &str| sent.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
        assert_eq!(value("x-b3-traceid"), Some("000000000000000064fe8b2a57d3eff7"));
        assert_eq!(value("x-b3-spanid"), Some("0000000000000001"));
        assert_eq!(value("x-b3-parentspanid"), Some("e457b5a2e4d86bd1"));
        assert_eq!(value("x-b3-sampled"), Some("1"));
    }

    #[test]
    fn a_decision_may_come_without_a_span_and_a_span_without_a_decision() {
        let check = |headers: &[(&str, &str)], has_span: bool, sampled: Option<bool>| {
            let mut request = http::Request::get("/");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).expect("valid").into_parts();
            let found = told(&RequestHead::Map(&parts));
            assert_eq!((found.span.is_some(), found.sampled), (has_span, sampled), "{headers:?}");
        };
        let ids = format!("{TRACE_ID}-e457b5a2e4d86bd1");
        check(&[("b3", "0")], false, Some(false));
        check(&[("b3", "1")], false, Some(true));
        check(&[("b3", "d")], false, Some(true));
        check(&[("b3", &ids)], true, None);
        check(&[("b3", &format!("{ids}-0"))], true, Some(false));
        check(&[("b3", &format!("{ids}-d"))], true, Some(true));
        check(&[("b3", "nonsense")], false, None);
        check(&[("x-b3-sampled", "0")], false, Some(false));
        check(&[("x-b3-sampled", "1")], false, Some(true));
        check(&[("x-b3-flags", "1")], false, Some(true));
        let trace = [("x-b3-traceid", TRACE_ID), ("x-b3-spanid", "e457b5a2e4d86bd1")];
        check(&trace, true, None);
        check(&[trace[0], trace[1], ("x-b3-sampled", "0")], true, Some(false));
        check(&[], false, None);
    }

    #[test]
    fn what_is_malformed_starts_a_trace() {
        for value in [
            "0",
            "",
            "xyz-e457b5a2e4d86bd1-1",
            "64fe8b2a57d3eff7-0000000000000000",
            "64fe8b2a57d3eff7-e457b5a2e4d86bd1-2",
        ] {
            assert_eq!(next(&[("b3", value)]).0, None, "{value}");
        }
        assert_eq!(next(&[]).1, []);
    }
}
