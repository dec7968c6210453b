//! Proxies in front of a gateway that speak HTTP: whose calls they bring.
//!
//! Only those are believed that the listener names. Each of them has added the address that it was called from, so
//! `X-Forwarded-For` is read from its end, and no further than to the first that anybody may have made up.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use dodai_core::head::RequestHead;
use smallvec::SmallVec;

use crate::access::Network;
use crate::limits::FORWARDED_ENTRIES;
use crate::proxied::networks;

/// The proxies of a listener whose word counts.
pub struct Proxies(Vec<Network>);

/// A client: its address in text, and its port or 0 where nobody told.
pub type Client = (Arc<str>, u16);

/// A peer that is one of them.
pub struct Via {
    proxies: Rc<Proxies>,
    /// The peer itself.
    pub peer: Client,
}

impl Proxies {
    /// Those of `trusted`, if there are any.
    pub fn new(trusted: &[String]) -> Option<Rc<Proxies>> {
        (!trusted.is_empty()).then(|| Rc::new(Proxies(networks(trusted))))
    }

    /// What `peer`, in text `address`, says counts, if it is one of them.
    pub fn via(self: Rc<Proxies>, peer: SocketAddr, address: &Arc<str>) -> Option<Rc<Via>> {
        self.has(peer.ip()).then(|| Rc::new(Via { proxies: self, peer: (address.clone(), peer.port()) }))
    }

    fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.has(address))
    }
}

impl Via {
    /// Whose call it is: the last of `X-Forwarded-For` that is no trusted proxy, the first if all are, the peer if
    /// there is none. What stands before something that is no address may be made up.
    pub fn client(&self, head: &RequestHead<'_>) -> Client {
        let mut lines = SmallVec::<[&[u8]; 4]>::new();
        head.for_each_header(|name, value| {
            if name.eq_ignore_ascii_case("x-forwarded-for") {
                lines.push(value);
            }
        });
        let entries = lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
        let entries = entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty());
        let mut found = None;
        for entry in entries.take(FORWARDED_ENTRIES) {
            let Some(address) = read(entry) else { break };
            found = Some(address);
            if !self.proxies.has(address.ip()) {
                break;
            }
        }
        match found {
            Some(address) => (address.ip().to_canonical().to_string().into(), address.port()),
            None => self.peer.clone(),
        }
    }
}

/// An address, with its port or without.
fn read(entry: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().map(|address: IpAddr| SocketAddr::new(address, 0));
    address.or_else(|_| text.parse()).ok()
}

/// Whether the client spoke TLS, as `X-Forwarded-Proto` says; WebSockets have names of their own there.
pub fn is_https(head: &RequestHead<'_>) -> Option<bool> {
    let said = head.header("x-forwarded-proto")?;
    let one_of = |names: [&[u8]; 2]| names.iter().any(|name| said.eq_ignore_ascii_case(name));
    if one_of([b"https", b"wss"]) { Some(true) } else { one_of([b"http", b"ws"]).then_some(false) }
}
