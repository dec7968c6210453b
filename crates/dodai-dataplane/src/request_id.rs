//! The name of a request in `X-Request-Id`, where a gateway's document asks for one: for people and programs that look for
//! it. The trace has ids of its own.

use dodai_core::head::{Edits, RequestHead};
use dodai_core::snapshot::RequestId;
use dodai_core::trace::random;
use http::HeaderName;

use crate::entry::Entry;

const NAME: &str = "x-request-id";
const HEADER: HeaderName = HeaderName::from_static(NAME);

/// Gives a call its id, if `which` says so and nobody who may has done it.
pub fn settle(which: RequestId, entry: &Entry<'_>, head: &RequestHead<'_>, edits: &mut Edits) {
    let counts = which == RequestId::Keep || entry.via.is_some();
    if !(counts && head.header(NAME).is_some_and(|value| !value.is_empty())) {
        edits.set(HEADER, &uuid(random(), random()));
    }
}

/// A random UUID of version 4 (RFC 9562 section 5.4) from 128 random bits.
fn uuid(high: u64, low: u64) -> [u8; 36] {
    let (high, low) = (high & !0xf000 | 0x4000, low & !(0b11 << 62) | 0b10 << 62);
    let mut digits = (0..32).map(|at| {
        let half = if at < 16 { high } else { low };
        let digit = (half >> (60 - 4 * (at % 16))) & 0xf;
        b"0123456789abcdef"[usize::try_from(digit).unwrap_or_default()]
    });
    std::array::from_fn(|at| match at {
        8 | 13 | 18 | 23 => b'-',
        _ => digits.next().unwrap_or(b'0'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_like_a_uuid_of_version_4() {
        let check = |high: u64, low: u64, expect: &str| {
            assert_eq!(std::str::from_utf8(&uuid(high, low)), Ok(expect));
        };
        check(0, 0, "00000000-0000-4000-8000-000000000000");
        check(u64::MAX, u64::MAX, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        check(0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef, "01234567-89ab-4def-8123-456789abcdef");
    }
}
