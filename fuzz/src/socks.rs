//! SOCKS 5: pieces come to what the whole comes to, and where a client wants to go has a host and a port.

use dodai_core::head::{host_of, port_of};
use dodai_dataplane::socks::{Parsed, greeting, login, request};

/// The first byte says where the rest is cut.
pub fn target(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let part = &bytes[..usize::from(*cut).min(bytes.len())];
    same(greeting, part, bytes);
    same(login, part, bytes);
    same(request, part, bytes);
    if let Ok(Some((authority, used))) = request(bytes) {
        assert!(used <= bytes.len());
        assert!(!host_of(&authority).is_empty() && port_of(&authority).is_some(), "{authority}");
    }
}

fn same<T: PartialEq + std::fmt::Debug>(parse: fn(&[u8]) -> Parsed<T>, part: &[u8], whole: &[u8]) {
    let (early, late) = (parse(part), parse(whole));
    assert!(early == Ok(None) || early == late, "{early:?} of {late:?}");
}
