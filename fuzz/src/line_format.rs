//! Format strings of access logs.

use dodai_log::line_format::LineFormat;

/// What is read can be written and read again; what is refused has a place in the text.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match LineFormat::parse(text) {
        Ok(format) => {
            assert_eq!(LineFormat::parse(&format.to_string()), Ok(format.clone()), "{format}");
            for name in format.request_headers().chain(format.response_headers()) {
                assert!(!name.is_empty() && name == name.to_ascii_lowercase(), "{name}");
            }
        }
        Err(bad) => {
            assert!(bad.at >= 1 && bad.at <= text.chars().count().max(4096) && !bad.what.is_empty(), "{bad}")
        }
    }
}
