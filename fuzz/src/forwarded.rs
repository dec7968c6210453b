//! `X-Forwarded-For` behind trusted proxies: whose call it is comes to what a slow reader finds, and is never what somebody
//! may have made up before the last one who is not trusted.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dodai_core::head::RequestHead;
use dodai_dataplane::forwarded::{Proxies, is_https};
use dodai_dataplane::limits::FORWARDED_ENTRIES;
use http::{HeaderValue, Request};

const TRUSTED: [&str; 3] = ["10.0.0.0/8", "fd00::/8", "192.0.2.7"];

/// Each line is one header.
pub fn target(data: &[u8]) {
    let (mut head, ()) = Request::new(()).into_parts();
    let mut all = Vec::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else { continue };
        head.headers.append("x-forwarded-for", value.clone());
        head.headers.insert("x-forwarded-proto", value);
        all.push(line);
    }
    let peer: SocketAddr = ([10, 0, 0, 1], 4000).into();
    let text: Arc<str> = "10.0.0.1".into();
    let proxies = Proxies::new(&TRUSTED.map(str::to_owned)).expect("some");
    let via = proxies.via(peer, &text).expect("the peer is one of them");
    let head = RequestHead::Map(&head);
    let _ = is_https(&head);
    let (address, port) = via.client(&head);
    let expect = naive(&all.join(&b','), peer);
    assert_eq!((address.parse::<IpAddr>(), port), (Ok(expect.ip()), expect.port()));
}

/// From the last entry on, as long as those before it are trusted and are addresses at all.
fn naive(line: &[u8], peer: SocketAddr) -> SocketAddr {
    let entries: Vec<&[u8]> = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
    let mut found = peer;
    let told = entries.iter().rev().filter(|entry| !entry.is_empty());
    for (before, entry) in told.enumerate() {
        let Some(address) = address(entry).filter(|_| before < FORWARDED_ENTRIES) else { break };
        found = address;
        if !trusted(address.ip()) {
            break;
        }
    }
    SocketAddr::new(found.ip().to_canonical(), found.port())
}

fn address(entry: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    if let Ok(ip) = text.parse() {
        return Some(SocketAddr::new(ip, 0));
    }
    if let Some(ip) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return ip.parse().ok().map(|ip| SocketAddr::new(ip, 0));
    }
    text.parse().ok()
}

fn trusted(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets()[0] == 10 || ip.octets() == [192, 0, 2, 7],
        IpAddr::V6(ip) => ip.octets()[0] == 0xfd,
    }
}
