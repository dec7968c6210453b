//! The PROXY protocol, versions 1 and 2: what a proxy says ahead of a connection about who it is for.
//!
//! Pure: bytes in, a header out, or what is wrong. Facts: `doc/proxy-protocol.txt` of HAProxy. Reading in pieces
//! comes to the same as reading at once, and never needs more than [`MOST`] bytes.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dodai_core::snapshot::ProxyVersion;
use thiserror::Error;

/// The longest header of version 1, with its line end.
const MOST_V1: usize = 107;
/// The longest content of version 2: addresses and the extras behind them. The protocol could say more; nobody does.
const MOST_CONTENT: usize = 4096;
/// What comes before the content of version 2.
const FIXED: usize = 16;
/// The most bytes a header can have.
pub const MOST: usize = FIXED + MOST_CONTENT;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The two ends of a connection that a proxy took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// Where the client connected to.
    pub destination: SocketAddr,
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The connection is the proxy's own (a health check), or it does not know whose: it stands for itself.
    Own,
    /// The connection is for somebody else.
    For(Ends),
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Too few to tell.
    More,
    /// They begin no header.
    Absent,
    /// A header, and how many bytes it has.
    Header(Header, usize),
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Version 1 without a line end where one must be.
    #[error("a PROXY header of version 1 has no line end within {MOST_V1} bytes")]
    NoEnd,
    /// Version 1 with other words than there are.
    #[error(
        "a PROXY header of version 1 is not `PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT` or `PROXY UNKNOWN`"
    )]
    Line,
    /// Neither version 1 nor 2.
    #[error("a PROXY header is of version {0}; 1 and 2 are known")]
    Version(u8),
    /// A command of version 2 that there is not.
    #[error("a PROXY header of version 2 has the unknown command {0}")]
    Command(u8),
    /// A family or transport of version 2 that no connection has.
    #[error(
        "a PROXY header of version 2 is of the address family and transport {0:#04x}, which no connection of a client has"
    )]
    Family(u8),
    /// Addresses or extras that do not fit into the length.
    #[error("a PROXY header of version 2 says a length of {0} bytes, which what it holds does not fit")]
    Length(usize),
    /// More than we read.
    #[error("a PROXY header of version 2 says a length of {0} bytes; {MOST_CONTENT} are the most")]
    TooLong(usize),
}

/// Reads a header from the first bytes of a connection.
pub fn read(bytes: &[u8]) -> Result<Read, Malformed> {
    let begins = |signature: &[u8]| {
        let both = bytes.len().min(signature.len());
        bytes[..both] == signature[..both]
    };
    match (begins(V1), begins(V2)) {
        (true, _) if bytes.len() >= V1.len() => read_v1(bytes),
        (_, true) if bytes.len() >= V2.len() => read_v2(bytes),
        (false, false) => Ok(Read::Absent),
        _ => Ok(Read::More),
    }
}

fn read_v1(bytes: &[u8]) -> Result<Read, Malformed> {
    let within = &bytes[..bytes.len().min(MOST_V1)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        return if within.len() == MOST_V1 { Err(Malformed::NoEnd) } else { Ok(Read::More) };
    };
    let line = within[..end].strip_suffix(b"\r").ok_or(Malformed::Line)?;
    let words = std::str::from_utf8(&line[V1.len()..]).map_err(|_| Malformed::Line)?;
    Ok(Read::Header(words_of(words).ok_or(Malformed::Line)?, end + 1))
}

/// What follows `PROXY `.
fn words_of(words: &str) -> Option<Header> {
    let mut words = words.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // What follows it counts for nothing, the protocol says.
        return Some(Header::Own);
    }
    let mut ip = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => Some(word.parse::<Ipv4Addr>().ok()?.into()),
            "TCP6" => Some(word.parse::<Ipv6Addr>().ok()?.into()),
            _ => None,
        }
    };
    let (source, destination) = (ip()?, ip()?);
    let (source_port, destination_port) = (port(words.next()?)?, port(words.next()?)?);
    let ends = ends((source, source_port), (destination, destination_port));
    words.next().is_none().then_some(Header::For(ends))
}

/// A port as it is written, without zeros ahead.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    plain.then(|| word.parse().ok()).flatten()
}

fn ends(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Ends {
    let address = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
    Ends { source: address(source), destination: address(destination) }
}

fn read_v2(bytes: &[u8]) -> Result<Read, Malformed> {
    let Some(version) = bytes.get(12) else { return Ok(Read::More) };
    if version >> 4 != 2 {
        return Err(Malformed::Version(version >> 4));
    }
    let own = match version & 0xf {
        0 => true,
        1 => false,
        command => return Err(Malformed::Command(command)),
    };
    let Some(family) = bytes.get(13) else { return Ok(Read::More) };
    let addresses = match family {
        // Nothing is known, or a socket of that machine: it stands for itself.
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        // A health check says what it likes.
        _ if own => 0,
        other => return Err(Malformed::Family(*other)),
    };
    let Some(length) = bytes.get(14..16) else { return Ok(Read::More) };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length > MOST_CONTENT {
        return Err(Malformed::TooLong(length));
    }
    if !own && length < addresses {
        return Err(Malformed::Length(length));
    }
    let Some(content) = bytes.get(FIXED..FIXED + length) else { return Ok(Read::More) };
    if own {
        return Ok(Read::Header(Header::Own, FIXED + length));
    }
    // What an unknown family carries is nobody's to read.
    if *family != 0 && !are_extras(&content[addresses..]) {
        return Err(Malformed::Length(length));
    }
    let header = match *family {
        0x11 => Header::For(ends_v2::<4>(content)),
        0x21 => Header::For(ends_v2::<16>(content)),
        _ => Header::Own,
    };
    Ok(Read::Header(header, FIXED + length))
}

/// The addresses of version 2, of `N` bytes each; that so many are there has been seen.
fn ends_v2<const N: usize>(content: &[u8]) -> Ends
where
    IpAddr: From<[u8; N]>,
{
    let ip = |at: usize| {
        let mut octets = [0; N];
        octets.copy_from_slice(&content[at..at + N]);
        IpAddr::from(octets)
    };
    let port = |at: usize| u16::from_be_bytes([content[at], content[at + 1]]);
    ends((ip(0), port(2 * N)), (ip(N), port(2 * N + 2)))
}

/// Whether these are whole extras (type, length, value) with nothing left over. What they say is passed over.
fn are_extras(mut bytes: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(after) = rest.get(length..) else { return false };
        bytes = after;
    }
    bytes.is_empty()
}

/// The header that says so; `None` where it is not known who the connection is for.
pub fn write(version: ProxyVersion, ends: Option<&Ends>) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => write_v1(ends),
        ProxyVersion::V2 => write_v2(ends),
    }
}

fn write_v1(ends: Option<&Ends>) -> Vec<u8> {
    let mut line = String::with_capacity(MOST_V1);
    line.push_str("PROXY ");
    let written = match ends {
        None => line.write_str("UNKNOWN"),
        Some(ends) => {
            let (source, destination) = (ends.source.port(), ends.destination.port());
            match of_one_family(ends) {
                Family::V4(from, to) => write!(line, "TCP4 {from} {to} {source} {destination}"),
                Family::V6(from, to) => write!(line, "TCP6 {from} {to} {source} {destination}"),
            }
        }
    };
    debug_assert!(written.is_ok(), "writing to memory");
    line.push_str("\r\n");
    line.into_bytes()
}

fn write_v2(ends: Option<&Ends>) -> Vec<u8> {
    let mut out = Vec::with_capacity(FIXED + 36);
    out.extend_from_slice(V2);
    let Some(ends) = ends else {
        out.extend_from_slice(&[0x20, 0, 0, 0]);
        return out;
    };
    match of_one_family(ends) {
        Family::V4(from, to) => {
            out.extend_from_slice(&[0x21, 0x11, 0, 12]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        Family::V6(from, to) => {
            out.extend_from_slice(&[0x21, 0x21, 0, 36]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
    }
    out.extend_from_slice(&ends.source.port().to_be_bytes());
    out.extend_from_slice(&ends.destination.port().to_be_bytes());
    out
}

enum Family {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// Both addresses in IPv4 if they are, else both in IPv6.
fn of_one_family(ends: &Ends) -> Family {
    let v6 = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    match (ends.source.ip().to_canonical(), ends.destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Family::V4(from, to),
        (from, to) => Family::V6(v6(from), v6(to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(source: &str, destination: &str) -> Header {
        let at = |text: &str| text.parse().expect("an address");
        Header::For(Ends { source: at(source), destination: at(destination) })
    }

    #[test]
    fn lines_of_version_1() {
        let check = |line: &str, expect: Result<Header, Malformed>| {
            let expect = expect.map(|header| Read::Header(header, line.len()));
            assert_eq!(read(format!("{line}GET /").as_bytes()), expect, "{line:?}");
        };
        check("PROXY TCP4 1.2.3.4 10.0.0.1 5678 80\r\n", Ok(of("1.2.3.4:5678", "10.0.0.1:80")));
        check("PROXY TCP6 2001:db8::1 ::1 5678 80\r\n", Ok(of("[2001:db8::1]:5678", "[::1]:80")));
        check("PROXY TCP6 ::ffff:1.2.3.4 ::1 5678 80\r\n", Ok(of("1.2.3.4:5678", "[::1]:80")));
        check("PROXY UNKNOWN\r\n", Ok(Header::Own));
        check("PROXY UNKNOWN ffff:: whatever\r\n", Ok(Header::Own));
        for bad in [
            "PROXY TCP4 1.2.3.4 10.0.0.1 5678 80\n",
            "PROXY TCP4 1.2.3.4 10.0.0.1 5678\r\n",
            "PROXY TCP4 1.2.3.4 10.0.0.1 5678 80 \r\n",
            "PROXY TCP4  1.2.3.4 10.0.0.1 5678 80\r\n",
            "PROXY TCP4 1.2.3.4 10.0.0.1 05678 80\r\n",
            "PROXY TCP4 1.2.3.4 10.0.0.1 +80 80\r\n",
            "PROXY TCP4 1.2.3.4 10.0.0.1 5678 65536\r\n",
            "PROXY TCP4 1.2.3 10.0.0.1 5678 80\r\n",
            "PROXY TCP4 01.2.3.4 10.0.0.1 5678 80\r\n",
            "PROXY TCP4 ::1 ::1 5678 80\r\n",
            "PROXY TCP6 1.2.3.4 ::1 5678 80\r\n",
            "PROXY UDP4 1.2.3.4 10.0.0.1 5678 80\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
        ] {
            check(bad, Err(Malformed::Line));
        }
    }

    #[test]
    fn a_line_has_an_end_within_107_bytes() {
        let line = |length: usize| format!("PROXY UNKNOWN {:x<1$}\r\n", "", length - 16);
        let read = |length: usize| super::read(line(length).as_bytes());
        assert_eq!(read(107), Ok(Read::Header(Header::Own, 107)));
        assert_eq!(read(108), Err(Malformed::NoEnd));
        let longest = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert!(
            matches!(super::read(longest.as_bytes()), Ok(Read::Header(Header::For(_), length)) if length == longest.len())
        );
    }

    fn v2(version: u8, family: u8, length: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = V2.to_vec();
        bytes.extend_from_slice(&[version, family]);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(content);
        bytes
    }

    #[test]
    fn headers_of_version_2() {
        let check =
            |bytes: &[u8], expect: Result<Read, Malformed>| assert_eq!(read(bytes), expect, "{bytes:?}");
        let v4 = [1, 2, 3, 4, 10, 0, 0, 1, 0x16, 0x2e, 0, 80];
        let extras = [&v4[..], &[0x04, 0, 2, 9, 9], &[0x20, 0, 0]].concat();
        check(&v2(0x21, 0x11, 12, &v4), Ok(Read::Header(of("1.2.3.4:5678", "10.0.0.1:80"), 28)));
        check(&v2(0x21, 0x11, 20, &extras), Ok(Read::Header(of("1.2.3.4:5678", "10.0.0.1:80"), 36)));
        check(&v2(0x21, 0x11, 19, &extras), Err(Malformed::Length(19)));
        check(&v2(0x21, 0x11, 11, &v4), Err(Malformed::Length(11)));
        check(&v2(0x21, 0x21, 12, &v4), Err(Malformed::Length(12)));
        check(&v2(0x21, 0x11, 13, &v4), Ok(Read::More));
        check(&v2(0x20, 0x11, 3, b"abc"), Ok(Read::Header(Header::Own, 19)));
        check(&v2(0x20, 0xff, 0, b""), Ok(Read::Header(Header::Own, 16)));
        check(&v2(0x21, 0x00, 3, b"abc"), Ok(Read::Header(Header::Own, 19)));
        check(&v2(0x21, 0x31, 216, &[0; 216]), Ok(Read::Header(Header::Own, 232)));
        check(&v2(0x21, 0x12, 12, &v4), Err(Malformed::Family(0x12)));
        check(&v2(0x22, 0x11, 12, &v4), Err(Malformed::Command(2)));
        check(&v2(0x11, 0x11, 12, &v4), Err(Malformed::Version(1)));
        check(&v2(0x21, 0x11, 4097, b""), Err(Malformed::TooLong(4097)));
        check(b"GET / HTTP/1.1\r\n", Ok(Read::Absent));
        check(b"\r\n\r\nGET /", Ok(Read::Absent));
        check(b"PRO", Ok(Read::More));
        check(b"PROPFIND", Ok(Read::Absent));
        check(b"", Ok(Read::More));
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        let v4 = any::<([u8; 4], u16)>().prop_map(SocketAddr::from);
        let v6 = any::<([u8; 16], u16)>().prop_map(SocketAddr::from);
        prop_oneof![v4, v6].prop_map(|at| SocketAddr::new(at.ip().to_canonical(), at.port()))
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(source in address(), destination in address(), more: Vec<u8>) {
            let ends = Ends { source, destination };
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                for (ends, header) in [(None, Header::Own), (Some(&ends), Header::For(ends))] {
                    let mut bytes = write(version, ends);
                    let length = bytes.len();
                    prop_assert!(version == ProxyVersion::V2 || length <= MOST_V1);
                    bytes.extend_from_slice(&more);
                    prop_assert_eq!(read(&bytes), Ok(Read::Header(header, length)));
                }
            }
        }

        #[test]
        fn pieces_come_to_the_same(kind in 0u8..3, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let before: &[u8] = match kind { 0 => b"", 1 => V1, _ => V2 };
            let bytes = [before, &bytes].concat();
            let whole = read(&bytes);
            for end in 0..bytes.len() {
                let part = read(&bytes[..end]);
                prop_assert!(part == Ok(Read::More) || part == whole, "{:?} of {:?}", part, whole);
            }
        }
    }
}
