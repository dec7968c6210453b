//! Connections and endpoints that were to speak HTTP and do not: told with what they look like, the bytes they began
//! with, and what to do about it. They are answered as ever; a person who reads the log need not guess.

use std::fmt::Write as _;
use std::time::Instant;

use dodai_transport::proxy_protocol;

use crate::h1::BadHead;
use crate::request::Side;
use crate::worker::Worker;

/// How many bytes are shown.
const SHOWN: usize = 16;

/// Another protocol, and what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Foreign {
    looks_like: &'static str,
    remedy: &'static str,
}

/// Warns, now and then, if `early` begins no HTTP.
pub fn tell(worker: &Worker, side: &Side, early: &[u8]) {
    let Some(Foreign { looks_like, remedy }) = recognise(early) else { return };
    let listener = &*side.listener.name;
    if let Some(times) = worker.shared.not_http.count(listener, Instant::now()) {
        let (client, caller, first_bytes) = (&*side.client, &*side.label, hex(early));
        tracing::warn!(listener, client, caller, looks_like, first_bytes, times, remedy, "this is no HTTP");
    }
}

/// What these first bytes are, unless they may well begin a request.
fn recognise(early: &[u8]) -> Option<Foreign> {
    let foreign = |looks_like, remedy| Some(Foreign { looks_like, remedy });
    let as_bytes = "carry it as bytes: protocol `TCP` of a gateway's listener, `tcp` of a service or a call";
    match early {
        [0x16, 3, ..] => foreign(
            "TLS",
            "speak plain HTTP here, or let TLS end here or pass through: protocol `HTTPS` or `TLS` of a gateway's listener",
        ),
        [4, 1 | 2, ..] => foreign("SOCKS 4", "use SOCKS 5, at the outbound address of an app"),
        [5, ..] => foreign("SOCKS 5", "it is served at the outbound address of an app only"),
        [b'S', b'S', b'H', b'-', ..] => foreign("SSH", as_bytes),
        _ if matches!(proxy_protocol::read(early), Ok(proxy_protocol::Read::Header(..))) => foreign(
            "the PROXY protocol",
            "say `proxyProtocol` on the gateway's listener, or nothing in the proxy in front",
        ),
        [first, ..] if !is_http(*first) => foreign("no protocol known here", as_bytes),
        _ => None,
    }
}

/// What an endpoint that does not speak the declared protocol began with, and what helps.
pub fn evidence(early: &[u8]) -> String {
    let shown = hex(early);
    match answerer(early) {
        _ if early.is_empty() => "it sent nothing".to_owned(),
        Some(Foreign { looks_like, remedy }) => {
            format!("its first bytes, {shown}, look like {looks_like}: {remedy}")
        }
        None => format!("its first bytes are {shown}: check the declared protocol"),
    }
}

/// What is wrong with an answer that should be HTTP/1.1, with the evidence if it is another protocol altogether.
pub fn bad_answer(bad: &BadHead, early: &[u8]) -> String {
    if early.starts_with(b"HTTP/") { bad.to_string() } else { format!("{bad}; {}", evidence(early)) }
}

/// What the first bytes of an answer are, if they are known.
fn answerer(early: &[u8]) -> Option<Foreign> {
    let foreign = |looks_like, remedy| Some(Foreign { looks_like, remedy });
    let tls = "speak TLS to it: `external.tls`, or `clientTLS` of an HTTPEndpoint";
    match early {
        [b'H', b'T', b'T', b'P', b'/', ..] => foreign("HTTP/1.1", "declare the protocol `http`"),
        // A SETTINGS frame on stream 0 comes first (RFC 9113, 3.4).
        [0, _, _, 4, _, 0, 0, 0, 0, ..] => foreign("HTTP/2", "declare the protocol `http2` or `grpc`"),
        // Content types of TLS records (RFC 8446, 5.1): an alert, a handshake.
        [0x15 | 0x16, 3, ..] => foreign("TLS", tls),
        [b'S', b'S', b'H', b'-', ..] => foreign("SSH", "declare the protocol `tcp`"),
        _ => None,
    }
}

/// Whether a request may begin with this: a method (RFC 9110, 5.6.2), or the empty line that some send before it.
fn is_http(first: u8) -> bool {
    first.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~\r\n".contains(&first)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(3 * SHOWN);
    for byte in bytes.iter().take(SHOWN) {
        let gap = if text.is_empty() { "" } else { " " };
        let written = write!(text, "{gap}{byte:02x}");
        debug_assert!(written.is_ok(), "writing to memory");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_http_is_recognised() {
        let check = |early: &[u8], expect: Option<&str>| {
            assert_eq!(recognise(early).map(|foreign| foreign.looks_like), expect, "{early:?}");
        };
        for method in
            ["GET / HTTP/1.1", "PRI * HTTP/2.0\r\n", "propfind /", "\r\nGET /", "P", "PROXY", "SSH", "~x /"]
        {
            check(method.as_bytes(), None);
        }
        check(b"\x16\x03\x01\x02\x00\x01", Some("TLS"));
        check(b"\x04\x01\x00\x50", Some("SOCKS 4"));
        check(b"\x05\x01\x00", Some("SOCKS 5"));
        check(b"SSH-2.0-OpenSSH_9.2\r\n", Some("SSH"));
        check(b"PROXY TCP4 192.0.2.7 10.0.0.1 5678 80\r\nGET / HTTP/1.1", Some("the PROXY protocol"));
        check(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", Some("the PROXY protocol"));
        check(b"\0\0\0\x08\x04\xd2\x16\x2f", Some("no protocol known here"));
        check(b"", None);
    }

    #[test]
    fn an_answer_of_another_protocol_is_evidence() {
        let check = |early: &[u8], expect: &str| {
            let told = evidence(early);
            assert!(told.contains(expect), "{told}");
        };
        check(
            b"HTTP/1.1 400 Bad Request",
            "48 54 54 50 2f 31 2e 31 20 34 30 30 20 42 61 64, look like HTTP/1.1:",
        );
        check(b"\0\0\x06\x04\0\0\0\0\0\0\x03", "00 00 06 04 00 00 00 00 00 00 03, look like HTTP/2:");
        check(b"\x15\x03\x01\0\x02\x02\x46", "look like TLS");
        check(b"SSH-2.0-OpenSSH_9.2\r\n", "look like SSH");
        check(b"\x4a\0\0\0\x0a", "its first bytes are 4a 00 00 00 0a: check");
        check(b"", "it sent nothing");
    }

    #[test]
    fn bytes_are_shown_so_far() {
        assert_eq!(hex(b"\x16\x03\x01"), "16 03 01");
        assert_eq!(hex(&[0xab; 99]).len(), 3 * SHOWN - 1);
    }
}
