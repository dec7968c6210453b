//! HTTP/1 response heads: no panic, one length, and the same response once written.

use dodai_core::head::Edits;
use dodai_dataplane::h1::{HeaderList, parse_response, write_response};

/// Reads the bytes as a response head.
pub fn target(data: &[u8]) {
    let mut headers = HeaderList::new();
    let Ok(Some((line, parsed))) = parse_response(data, &mut headers, false, false) else { return };
    assert!(line.status >= 100);
    let count = |name: &str| headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)).count();
    assert!(count("content-length") + count("transfer-encoding") <= 1, "two ways to tell the length");
    let mut out = Vec::new();
    write_response(&mut out, &data[..parsed.len], &line, &headers, &parsed, &Edits::new(), false);
    let mut again = HeaderList::new();
    let (same, reparsed) = parse_response(&out, &mut again, false, false)
        .expect("what we write we accept")
        .expect("it is whole");
    assert_eq!((same.status, same.reason), (line.status, line.reason));
    assert_eq!((reparsed.framing, reparsed.len), (parsed.framing, out.len()));
}
