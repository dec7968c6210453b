//! The first message of TLS: what a part of it decides is not decided otherwise by the whole.

use dodai_transport::tls::hello::{Hello, read};

/// The first byte says where the rest is cut.
pub fn target(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let part = &bytes[..usize::from(*cut).min(bytes.len())];
    let (early, late) = (read(part), read(bytes));
    assert!(early == Hello::More || early == late, "{early:?} of {late:?}");
}
