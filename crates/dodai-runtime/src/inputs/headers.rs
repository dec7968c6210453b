//! What an event says beside its data, as headers of the call that brings it.
//!
//! Names and exceptions are those of daprd (dapr/dapr 1.16, `pkg/messaging/v1/util.go`, `InternalMetadataToHTTPHeader`):
//! each entry is a header of its name, without a prefix. What frames the call is not for an event to say.

use dodai_capability::Metadata;
use dodai_core::trace::Span;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers of the call itself.
const OF_CALL: [HeaderName; 8] =
    [CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
/// The same without a constant, and what daprd keeps for itself. The trace goes by the span.
const LEFT_OUT: [&str; 4] = ["keep-alive", "proxy-connection", "traceparent", "destination-app-id"];
/// What gRPC has for itself is told under a name that begins so.
const PREFIX: &str = "dapr-";

/// The headers. What is no header is left out.
pub(super) fn of(metadata: &Metadata) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in metadata {
        let name = name.to_ascii_lowercase();
        let name = match name.strip_prefix(':') {
            Some(pseudo @ ("method" | "scheme" | "path" | "authority")) => format!("{PREFIX}{pseudo}"),
            None if name.starts_with("grpc-") => format!("{PREFIX}{name}"),
            Some(_) | None => name,
        };
        // Of a trace's two headers the second means nothing without the first.
        let is_stray = name == "tracestate" && parent(metadata).is_none();
        if is_stray || name.ends_with("-bin") || LEFT_OUT.contains(&name.as_str()) {
            continue;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value.as_str()))
            && !OF_CALL.contains(&name)
        {
            headers.insert(name, value);
        }
    }
    headers
}

/// The span that the event belongs to.
pub(super) fn parent(metadata: &Metadata) -> Option<Span> {
    let text = metadata.iter().find(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
    text.and_then(|(_, value)| Span::parse(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(metadata: &[(&str, &str)]) -> Vec<String> {
        let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let headers = of(&metadata.collect());
        let mut shown: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        shown.sort();
        shown
    }

    #[test]
    fn each_entry_is_a_header_of_its_name() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let told =
            [("readTimeUTC", "2026-01-01"), ("Topic", "a"), ("baggage", "k=v"), ("grpc-timeout", "1S")];
        let expect = ["baggage: k=v", "dapr-grpc-timeout: 1S", "readtimeutc: 2026-01-01", "topic: a"];
        assert_eq!(shown(&told), expect);
        assert_eq!(shown(&[(":path", "/a"), (":other", "b")]), ["dapr-path: /a"]);
        assert_eq!(shown(&[("traceparent", trace), ("tracestate", "a=b")]), ["tracestate: a=b"]);
        assert_eq!(shown(&[("tracestate", "a=b")]), [""; 0]);
        for (name, value) in [
            ("Content-Type", "text/plain"),
            ("content-length", "7"),
            ("Host", "elsewhere"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "close"),
            ("grpc-trace-bin", "AA"),
            ("destination-app-id", "other"),
            ("two words", "a"),
            ("line", "a\r\nb: c"),
            ("", "a"),
        ] {
            assert_eq!(shown(&[(name, value)]), [""; 0], "{name}");
        }
    }
}
