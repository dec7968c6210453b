use super::*;
use crate::h1::{write_request, write_response};
use crate::limits::MAX_HEADERS;
use dodai_core::head::{Edit, Edits, Short};
use proptest::prelude::*;

fn request(head: &str) -> Result<Option<(String, Parsed)>, BadHead> {
    let mut headers = HeaderList::new();
    let found = parse_request(head.as_bytes(), &mut headers)?;
    Ok(found.map(|(line, parsed)| (format!("{} {} {}", line.method, line.authority, line.target), parsed)))
}

#[test]
fn requests_are_read_by_form() {
    let check = |head: &str, expect: &str, framing: Framing, keep_alive: bool| {
        let (line, parsed) = request(head).expect(head).expect(head);
        assert_eq!(
            (line.as_str(), parsed.framing, parsed.keep_alive),
            (expect, framing, keep_alive),
            "{head:?}"
        );
        assert_eq!(parsed.len, head.len());
    };
    check("GET /a?b HTTP/1.1\r\nHost: h:1\r\n\r\n", "GET h:1 /a?b", Framing::Empty, true);
    check("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET h /", Framing::Empty, true);
    check("GET http://x:2 HTTP/1.1\r\nHost: h\r\n\r\n", "GET x:2 /", Framing::Empty, true);
    check(
        "GET HTTP://x/p HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET x /p",
        Framing::Empty,
        false,
    );
    check("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS h *", Framing::Empty, true);
    check("CONNECT x:443 HTTP/1.1\r\nHost: h\r\n\r\n", "CONNECT x:443 x:443", Framing::Empty, true);
    check("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 007\r\n\r\n", "POST h /", Framing::Length(7), true);
    check(
        "POST / HTTP/1.1\r\nHost: h\r\ntransfer-encoding: Chunked\r\n\r\n",
        "POST h /",
        Framing::Chunked,
        true,
    );
    check("GET / HTTP/1.0\r\n\r\n", "GET  /", Framing::Empty, false);
    check("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET  /", Framing::Empty, true);
    let both = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, keep-alive\r\nConnection: keep-alive\r\n\r\n";
    check(both, "GET h /", Framing::Empty, false);
    assert!(request("GET / HTTP/1.1\r\nHost: h\r\n").expect("no error").is_none());
}

#[test]
fn what_is_refused_says_why() {
    let check = |head: &str, expect: BadHead| assert_eq!(request(head).err(), Some(expect), "{head:?}");
    check("GET / HTTP/1.1\r\n\r\n", BadHead::Host);
    check("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", BadHead::Host);
    check("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", BadHead::Host);
    for host in
        ["a:80:90", "a:99999", "a:+80", "]][[", "[a]", "[::1", "[::1]80", "::1", "a..", "a..b", "[::1]:x"]
    {
        check(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), BadHead::Host);
        check(&format!("GET http://{host}/ HTTP/1.1\r\nHost: a\r\n\r\n"), BadHead::Target);
    }
    for target in ["a", ":80", "a:70000"] {
        check(&format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n"), BadHead::Target);
    }
    for host in ["a.", "a:", "a.b-c_d~e%20:65535", "[::1]", "[fe80::1%25eth0]:80", "[::ffff:1.2.3.4]"] {
        assert!(request(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).is_ok(), "{host}");
    }
    check("GET / HTTP/1.1\nHost: a\n\n", BadHead::BareLineFeed);
    check("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::BareLineFeed);
    check("GET / HTTP/1.1\r\nHost: a\n\r\n", BadHead::BareLineFeed);
    check("GET / HTTP/1.1\r\nHost: a\r\n\n", BadHead::BareLineFeed);
    check("GET / HTTP/1.1\r\nHost : a\r\n\r\n", BadHead::Syntax("header name"));
    check("GET / HTTP/1.1\r\n: a\r\n\r\n", BadHead::Syntax("header name"));
    check("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", BadHead::Syntax("header name"));
    check("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", BadHead::Syntax("header value"));
    check("GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", BadHead::Syntax("header value"));
    check("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::Syntax("method or target"));
    check("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::Syntax("method or target"));
    check("GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::Syntax("method or target"));
    check("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", BadHead::Version);
    check("GET / RTSP", BadHead::Version);
    check(&format!("GET / HTTP/1.1\r\n{}", "x: y\r\n".repeat(MAX_HEADERS + 1)), BadHead::TooLarge);
    check("GET * HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::Target);
    check("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::Target);
    check("GET http:// HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::Target);
    check("GET / HTTP/1.2\r\nHost: a\r\n\r\n", BadHead::Version);
    check("P / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\n", BadHead::ContentLength);
    check("P / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \r\n\r\n", BadHead::TransferEncoding);
}

#[test]
fn responses_end_where_their_request_says() {
    let check = |head: &str, to_head: bool, expect: Framing, keep_alive: bool| {
        let mut headers = HeaderList::new();
        let (_, parsed) =
            parse_response(head.as_bytes(), &mut headers, to_head, false).expect(head).expect(head);
        assert_eq!((parsed.framing, parsed.keep_alive), (expect, keep_alive), "{head:?}");
    };
    check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", false, Framing::Length(3), true);
    check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true, Framing::Empty, true);
    check("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", false, Framing::Empty, true);
    check("HTTP/1.1 204 \r\n\r\n", false, Framing::Empty, true);
    check("HTTP/1.1 100 Continue\r\n\r\n", false, Framing::Empty, true);
    check("HTTP/1.1 200 OK\r\n\r\n", false, Framing::UntilClose, false);
    check("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", false, Framing::Length(1), false);
    check("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", false, Framing::Chunked, true);
}

fn rewritten(head: &str, edits: &Edits) -> String {
    let mut headers = HeaderList::new();
    let (line, parsed) = parse_request(head.as_bytes(), &mut headers).expect("valid").expect("whole");
    let mut out = Vec::new();
    write_request(&mut out, head.as_bytes(), &line, &headers, &parsed, edits, parsed.upgrade);
    String::from_utf8(out).expect("text")
}

#[test]
fn heads_are_patched_not_rebuilt() {
    let mut edits = Edits::new();
    let check = |head: &str, edits: &Edits, expect: &str| assert_eq!(rewritten(head, edits), expect);
    let head =
        "GET /a HTTP/1.1\r\nHost:  h \r\nconnection: X-A, upgrade\r\nx-a: 1\r\nUpgrade: ws\r\nX-b:2\r\n\r\n";
    let plain = "GET /a HTTP/1.1\r\nHost:  h \r\nX-b:2\r\nconnection: upgrade\r\nupgrade: ws\r\n\r\n";
    check(head, &edits, plain);
    for protocol in ["h2c", "websocket, H2C", "HTTP/2.0", "TLS/1.3"] {
        let head = format!(
            "GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AA\r\n\r\n"
        );
        check(&head, &edits, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    check(
        "GET http://y/p HTTP/1.0\r\nHost: h\r\nA: 1\r\n\r\n",
        &edits,
        "GET /p HTTP/1.1\r\nhost: y\r\nA: 1\r\n\r\n",
    );
    edits.set(http::HeaderName::from_static("x-b"), b"3");
    edits.push(Edit::Append(http::HeaderName::from_static("c"), Short::from_slice(b"4")));
    edits.push(Edit::Remove(http::HeaderName::from_static("d")));
    edits.push(Edit::Target(Short::from_slice(b"/new")));
    edits.push(Edit::Authority(Short::from_slice(b"z")));
    let head = "GET /a HTTP/1.1\r\nD: 1\r\nHost: h\r\nX-B: 2\r\nd: 2\r\nE: 5\r\n\r\n";
    check(head, &edits, "GET /new HTTP/1.1\r\nhost: z\r\nE: 5\r\nx-b: 3\r\nc: 4\r\n\r\n");
}

#[test]
fn responses_say_when_we_close() {
    let head = b"HTTP/1.0 200 Fine\r\nConnection: keep-alive\r\nA: 1\r\n\r\n";
    let mut headers = HeaderList::new();
    let (line, parsed) = parse_response(head, &mut headers, false, false).expect("valid").expect("whole");
    let mut out = Vec::new();
    write_response(&mut out, head, &line, &headers, &parsed, &Edits::new(), true);
    assert_eq!(
        String::from_utf8(out).expect("text"),
        "HTTP/1.1 200 Fine\r\nA: 1\r\nconnection: close\r\n\r\n"
    );
}

#[test]
fn a_response_without_a_body_tells_no_length() {
    let head = b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\nA: 1\r\n\r\n";
    let mut headers = HeaderList::new();
    let (line, parsed) = parse_response(head, &mut headers, false, false).expect("valid").expect("whole");
    let mut out = Vec::new();
    write_response(&mut out, head, &line, &headers, &parsed, &Edits::new(), false);
    assert_eq!(String::from_utf8(out).expect("text"), "HTTP/1.1 204 No Content\r\nA: 1\r\n\r\n");
}

/// Heads that are nearly right: what makes smuggling is in the details.
fn heads() -> impl Strategy<Value = String> {
    let names =
        ["Host", "Content-Length", "Transfer-Encoding", "Connection", "X-A", "host ", " X", "TE", "Upgrade"];
    let values =
        ["a", "5", "chunked", "close, x-a", "upgrade", "", "5, 5", "gzip, chunked", "host", "\t7", "x\ny"];
    let ends = ["\r\n", "\r\n", "\r\n", "\n", "\r\n ", "\r"];
    let line = (0..names.len(), 0..values.len(), 0..ends.len());
    let starts = [
        "GET / HTTP/1.1",
        "POST http://b/ HTTP/1.1",
        "GET /x HTTP/1.0",
        "CONNECT a:1 HTTP/1.1",
        "GET  / HTTP/1.1",
    ];
    (0..starts.len(), proptest::collection::vec(line, 0..6)).prop_map(move |(start, lines)| {
        let mut head = format!("{}\r\nHost: a\r\n", starts[start]);
        for (name, value, end) in lines {
            head.push_str(&format!("{}: {}{}", names[name], values[value], ends[end]));
        }
        head.push_str("\r\n");
        head
    })
}

/// What a head says: start line, headers, length.
type Said = (String, Vec<(String, Vec<u8>)>, usize);

fn said(bytes: &[u8]) -> Result<Option<Said>, BadHead> {
    let Some(start) = lines::request_start(bytes)? else { return Ok(None) };
    let mut headers = HeaderList::new();
    let Some((len, texts)) = lines::headers(bytes, start.end, &mut headers)? else { return Ok(None) };
    let start = format!("{:?} {:?} {}", texts.get(start.method), texts.get(start.target), start.http10);
    let headers = headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec())).collect();
    Ok(Some((start, headers, len)))
}

/// The same by another reader, which takes a bare line feed for a line end.
fn said_by_httparse(bytes: &[u8]) -> Option<Said> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(len)) = request.parse(bytes) else { return None };
    let head = &bytes[..len];
    if (0..len).any(|at| head[at] == b'\n' && (at == 0 || head[at - 1] != b'\r')) {
        return None;
    }
    let start = format!("{:?} {:?} {}", request.method, request.path, request.version == Some(0));
    let headers =
        request.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec())).collect();
    Some((start, headers, len))
}

/// Bytes that are told apart somewhere, and a few that are not.
fn telling_bytes() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        6 => proptest::sample::select(&b"aZ0-_~! \t:,;/"[..]),
        1 => proptest::sample::select(&b"\x00\x08\x1f\x7f\x80\xff\xc3\xa9\r\n\x0b\"()@"[..]),
    ];
    let line = proptest::collection::vec(value, 0..40);
    let lines = (proptest::collection::vec(line, 0..5), any::<bool>());
    lines.prop_map(|(lines, host)| {
        let start = if host { "GET /x HTTP/1.1\r\nHost: a\r\n" } else { "" };
        let mut bytes = start.as_bytes().to_vec();
        for (at, line) in lines.iter().enumerate() {
            bytes.extend_from_slice(if at % 2 == 0 { b"x-a:" } else { b"" });
            bytes.extend_from_slice(line);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    })
}

proptest! {
    #[test]
    fn heads_are_read_as_another_reader_does(bytes in prop_oneof![
        telling_bytes(),
        heads().prop_map(String::into_bytes),
    ]) {
        prop_assert_eq!(said(&bytes).unwrap_or_default(), said_by_httparse(&bytes), "{}", bytes.escape_ascii());
    }

    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (mut one, mut two) = (HeaderList::new(), HeaderList::new());
        let _ = parse_request(&bytes, &mut one);
        let _ = parse_response(&bytes, &mut two, false, false);
    }

    #[test]
    fn an_accepted_head_has_one_length_and_keeps_it(head in heads()) {
        if let Ok(Some((line, parsed))) = request(&head) {
            let text = &head[..parsed.len];
            let lower = text.to_ascii_lowercase();
            let lengths = lower.matches("\ncontent-length").count() + lower.matches("\ntransfer-encoding").count();
            prop_assert!(lengths <= 1, "{text:?}");
            prop_assert_eq!(lengths == 0, parsed.framing == Framing::Empty);
            prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{:?}", text);
            if !line.starts_with("CONNECT") && !line.contains("  ") {
                let written = rewritten(text, &Edits::new());
                let (again, reparsed) = request(&written).expect("what we write we accept").expect("whole");
                prop_assert_eq!((again, reparsed.framing, reparsed.len), (line, parsed.framing, written.len()));
                prop_assert_eq!(reparsed.upgrade, parsed.upgrade);
            }
        }
    }

    #[test]
    fn any_prefix_of_a_head_waits_for_more(head in heads(), cut in 0usize..100) {
        if let Ok(Some((_, parsed))) = request(&head)
            && cut < parsed.len
        {
            prop_assert!(request(&head[..cut]).is_ok_and(|found| found.is_none()));
        }
    }
}
