//! What a client of an undeclared port speaks: what is decided by a part is not decided otherwise by the whole.

use dodai_dataplane::guess::{Guess, guess};

/// As bases have it, in small.
const LIMIT: usize = 4096;

/// The first byte says where the rest is cut.
pub fn target(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let part = &bytes[..usize::from(*cut).min(bytes.len())];
    let (early, late) = (guess(part, LIMIT), guess(bytes, LIMIT));
    let waits = matches!(early, Guess::Open | Guess::Http1Begun | Guess::Http2Begun | Guess::TlsBegun);
    assert!(waits || early == late, "{early:?} of {late:?}");
}
