//! HTTP/1 request heads: no panic; an accepted head has one length; what is written for the next hop is read
//! there as the same request; a prefix of a head is never taken for a whole one.

use dodai_core::head::{Edit, Edits, Short};
use dodai_dataplane::h1::{Framing, HeaderList, parse_request, write_request};

/// Reads the bytes as a request head.
pub fn target(data: &[u8]) {
    let mut headers = HeaderList::new();
    let Ok(Some((line, parsed))) = parse_request(data, &mut headers) else { return };
    let head = &data[..parsed.len];
    let count = |name: &str| headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)).count();
    let lengths = count("content-length") + count("transfer-encoding");
    assert!(lengths <= 1, "two ways to tell the length");
    assert_eq!(lengths == 0, parsed.framing == Framing::Empty);
    let half = &head[..head.len() / 2];
    let mut fewer = HeaderList::new();
    assert!(matches!(parse_request(half, &mut fewer), Ok(None)), "half a head is not a head");
    if line.method == "CONNECT" || line.authority.is_empty() {
        return;
    }
    let mut out = Vec::new();
    write_request(&mut out, head, &line, &headers, &parsed, &Edits::new(), parsed.upgrade);
    let mut again = HeaderList::new();
    let (same, reparsed) =
        parse_request(&out, &mut again).expect("what we write we accept").expect("it is whole");
    assert_eq!((same.method, same.target, same.authority), (line.method, line.target, line.authority));
    assert_eq!(
        (reparsed.framing, reparsed.upgrade, reparsed.len),
        (parsed.framing, parsed.upgrade, out.len())
    );
    let mut edits = Edits::new();
    edits.set(http::HeaderName::from_static("x-forwarded-for"), b"10.0.0.1");
    edits.push(Edit::Remove(http::HeaderName::from_static("x-a")));
    edits.push(Edit::Target(Short::from_slice(b"/new")));
    edits.push(Edit::Authority(Short::from_slice(b"b")));
    let mut out = Vec::new();
    write_request(&mut out, head, &line, &headers, &parsed, &edits, parsed.upgrade);
    let mut edited = HeaderList::new();
    let (new, reparsed) =
        parse_request(&out, &mut edited).expect("an edited head is accepted").expect("it is whole");
    assert_eq!((new.method, new.target, new.authority), (line.method, "/new", "b"));
    assert_eq!((reparsed.framing, reparsed.len), (parsed.framing, out.len()));
    assert!(edited.iter().all(|header| !header.name.eq_ignore_ascii_case("x-a")));
}
