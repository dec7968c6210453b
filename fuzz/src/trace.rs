//! `traceparent` and B3's single header: any bytes are read without a panic, and a span survives being written and read.

use dodai_core::trace::Span;

/// Reads the bytes as a header value.
pub fn target(data: &[u8]) {
    if let Some(span) = Span::parse_b3(data) {
        let (trace, id, _) = span.b3();
        let sampled: &[u8] = if span.sampled { b"1" } else { b"0" };
        assert_eq!(Span::of_b3(&trace, &id, Some(sampled)), Some(span));
    }
    let Some(span) = Span::parse(data) else { return };
    assert!(span.trace != 0 && span.id != 0, "an all-zero id is invalid");
    let again = Span::parse(&span.traceparent()).expect("what we write we can read");
    assert_eq!(again, span);
    assert_eq!(span.child().trace, span.trace);
}
