//! B3 (openzipkin/b3-propagation), for apps that trace with it: where a caller sent it, the next hop gets it too.
//!
//! W3C's `traceparent` wins where both came, and goes out always.

use dodai_core::head::{Edits, RequestHead};
use dodai_core::trace::Span;
use http::HeaderName;

const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");

/// The caller's span.
pub fn parent(head: &RequestHead<'_>) -> Option<Span> {
    if let Some(single) = head.header("b3") {
        return Span::parse_b3(single);
    }
    let trace = head.header("x-b3-traceid")?;
    let debug = head.header("x-b3-flags").filter(|flags| *flags == b"1");
    Span::of_b3(trace, head.header("x-b3-spanid")?, debug.or_else(|| head.header("x-b3-sampled")))
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
        let found = parent(&head);
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
