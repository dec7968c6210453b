//! What a client speaks on whose port nothing is declared, told by its first bytes.
//!
//! Pure. Wrong guesses are harmless by design: what is not clearly HTTP or TLS goes on as the bytes it is.

use dodai_transport::tls::hello::{self, Hello};

use crate::h1::{self, HeaderList};
use crate::h2::{self, First, PREFACE};

/// Methods that begin a call here. Others are HTTP too, but seldom enough to be carried as bytes; `CONNECT` is for the
/// proxy that the client thinks it speaks to.
const METHODS: [&str; 18] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "QUERY",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
];

/// What the first bytes show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guess {
    /// Too few to tell.
    Open,
    /// HTTP/1 whose head has not come whole.
    Http1Begun,
    /// HTTP/1, with host and port of the first call.
    Http1(String),
    /// HTTP/2 whose first call has not come.
    Http2Begun,
    /// HTTP/2, with host and port of the first call.
    Http2(String),
    /// TLS whose first message has not come whole.
    TlsBegun,
    /// TLS, with the host that is wanted.
    Tls(Option<String>),
    /// Something else.
    Bytes,
}

/// What `early`, the first bytes of a client, are; heads are not waited for beyond `limit` bytes.
pub fn guess(early: &[u8], limit: usize) -> Guess {
    let guess = recognise(early, limit);
    let waits = matches!(guess, Guess::Http1Begun | Guess::Http2Begun | Guess::TlsBegun);
    if waits && early.len() > limit { Guess::Bytes } else { guess }
}

fn recognise(early: &[u8], limit: usize) -> Guess {
    match early {
        [] | [0x16] => Guess::Open,
        [0x16, 3, ..] => match hello::read(early) {
            Hello::More => Guess::TlsBegun,
            Hello::Wants(name) => Guess::Tls(name),
            Hello::None => Guess::Bytes,
        },
        _ if early.starts_with(PREFACE) => match h2::first(&early[PREFACE.len()..], limit) {
            First::Begun => Guess::Http2Begun,
            First::Authority(authority) => Guess::Http2(authority),
            First::Broken => Guess::Bytes,
        },
        _ if PREFACE.starts_with(early) => Guess::Open,
        _ => http1(early),
    }
}

fn http1(early: &[u8]) -> Guess {
    let is_method = |method: &&str| {
        let method = method.as_bytes();
        early.starts_with(method) && early.get(method.len()).is_none_or(|next| *next == b' ')
    };
    if !METHODS.iter().any(is_method) {
        let begins = METHODS.iter().any(|method| method.as_bytes().starts_with(early));
        return if begins { Guess::Open } else { Guess::Bytes };
    }
    let mut headers = HeaderList::new();
    match h1::parse_request(early, &mut headers) {
        Ok(Some((line, _))) => Guess::Http1(line.authority.to_owned()),
        Ok(None) if early.contains(&b' ') => Guess::Http1Begun,
        Ok(None) => Guess::Open,
        Err(_) => Guess::Bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(early: &[u8], expect: Guess) {
        assert_eq!(guess(early, 1000), expect, "{:?}", String::from_utf8_lossy(early));
    }

    #[test]
    fn http_is_told_from_what_looks_like_it() {
        check(b"GET / HTTP/1.1\r\nHost: a:8080\r\n\r\n", Guess::Http1("a:8080".to_owned()));
        check(b"GET http://b/x HTTP/1.1\r\nHost: b\r\n\r\n", Guess::Http1("b".to_owned()));
        check(b"GET / HTTP/1.1\r\nHost: a\r\n", Guess::Http1Begun);
        check(b"GET ", Guess::Http1Begun);
        check(b"G", Guess::Open);
        check(b"GET", Guess::Open);
        check(b"PRI * HTTP/2.0\r\n", Guess::Open);
        check(PREFACE, Guess::Http2Begun);
        check(b"GET key\r\n", Guess::Bytes);
        check(b"GETX / HTTP/1.1\r\n", Guess::Bytes);
        check(b"EHLO mail.example\r\n", Guess::Bytes);
        check(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Guess::Bytes);
        check(b"*1\r\n$4\r\nPING\r\n", Guess::Bytes);
        check(b"\0\0\0\x08\x04\xd2\x16\x2f", Guess::Bytes);
        check(b"SSH-2.0-OpenSSH_9.2\r\n", Guess::Bytes);
        check(b"\x16\x03\x01", Guess::TlsBegun);
        check(b"\x16\x03\x01\0\x04\x09\0\0\0", Guess::Bytes);
        check(&[b"GET / HTTP/1.1\r\nHost: ", &[b'a'; 1000][..]].concat(), Guess::Bytes);
    }

    proptest! {
        /// What is decided stays decided, however the bytes come; and nothing makes it panic.
        #[test]
        fn pieces_come_to_the_same(start in 0usize..5, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let starts: [&[u8]; 5] = [b"", PREFACE, b"\x16\x03\x01", b"GET / HTTP/1.1\r\nHost: a\r\n", b"P"];
            let bytes = [starts[start], &bytes].concat();
            let whole = guess(&bytes, 1000);
            for end in 0..bytes.len() {
                let part = guess(&bytes[..end], 1000);
                let waits = matches!(
                    part,
                    Guess::Open | Guess::Http1Begun | Guess::Http2Begun | Guess::TlsBegun
                );
                prop_assert!(waits || part == whole, "{:?} of {:?}", part, whole);
            }
        }
    }
}
