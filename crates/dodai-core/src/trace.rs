//! W3C trace context (Trace Context level 1, `traceparent` and its sampled flag), and B3 (openzipkin/b3-propagation).
//!
//! A hop keeps the caller's trace id and gives itself a new span id; without a valid `traceparent` it
//! starts a trace. Parsing follows section 3.2 of the recommendation: version `ff` and all-zero ids are
//! invalid, unknown versions are read by the fields that version 00 defines.

use std::cell::Cell;
use std::fmt;

/// The length of a version 00 `traceparent` value in bytes.
pub const TRACEPARENT_LEN: usize = 55;

/// One span of one trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// The trace, never zero.
    pub trace: u128,
    /// This span, never zero.
    pub id: u64,
    /// The caller's span; zero when this is the root.
    pub parent: u64,
    /// Whether somebody decided to record this trace.
    pub sampled: bool,
}

impl Span {
    /// A new trace.
    pub fn root(sampled: bool) -> Span {
        let trace = (u128::from(random()) << 64) | u128::from(random());
        Span { trace: trace.max(1), id: random().max(1), parent: 0, sampled }
    }

    /// The next span of the same trace.
    pub fn child(&self) -> Span {
        Span { id: random().max(1), parent: self.id, ..*self }
    }

    /// The span a caller sent as `traceparent`; `None` if it is malformed.
    pub fn parse(value: &[u8]) -> Option<Span> {
        let known = value.len() == TRACEPARENT_LEN;
        let later = value.len() > TRACEPARENT_LEN && value[TRACEPARENT_LEN] == b'-' && &value[..2] != b"00";
        if !(known || later) || value[2] != b'-' || value[35] != b'-' || value[52] != b'-' {
            return None;
        }
        let version = hex(&value[..2])?;
        let trace = (u128::from(hex(&value[3..19])?) << 64) | u128::from(hex(&value[19..35])?);
        let id = hex(&value[36..52])?;
        let flags = hex(&value[53..55])?;
        if version == 0xff || trace == 0 || id == 0 {
            return None;
        }
        Some(Span { trace, id, parent: 0, sampled: flags & 1 == 1 })
    }

    /// The span a caller sent in B3's single header, `trace-span-sampled-parent` without the last two or one of them;
    /// `None` if it is malformed, or says no more than whether to sample.
    pub fn parse_b3(value: &[u8]) -> Option<Span> {
        let mut parts = value.split(|byte| *byte == b'-');
        let (trace, id) = (parts.next()?, parts.next()?);
        Span::of_b3(trace, id, parts.next())
    }

    /// The span a caller sent in B3's separate headers. A trace has 16 or 32 digits, a span 16.
    pub fn of_b3(trace: &[u8], id: &[u8], sampled: Option<&[u8]>) -> Option<Span> {
        let trace = match trace.len() {
            16 => u128::from(hex(trace)?),
            32 => (u128::from(hex(&trace[..16])?) << 64) | u128::from(hex(&trace[16..])?),
            _ => return None,
        };
        let id = if id.len() == 16 { hex(id)? } else { return None };
        let sampled = match sampled {
            Some(b"1" | b"d" | b"true") => true,
            Some(b"0" | b"false") | None => false,
            Some(_) => return None,
        };
        (trace != 0 && id != 0).then_some(Span { trace, id, parent: 0, sampled })
    }

    /// Trace, span and parent as B3 writes them.
    pub fn b3(&self) -> ([u8; 32], [u8; 16], [u8; 16]) {
        let (mut trace, mut id, mut parent) = ([0; 32], [0; 16], [0; 16]);
        write_hex(&mut trace[..16], (self.trace >> 64) as u64);
        write_hex(&mut trace[16..], self.trace as u64);
        write_hex(&mut id, self.id);
        write_hex(&mut parent, self.parent);
        (trace, id, parent)
    }

    /// The `traceparent` value, without allocating.
    pub fn traceparent(&self) -> [u8; TRACEPARENT_LEN] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut out[3..19], (self.trace >> 64) as u64);
        write_hex(&mut out[19..35], self.trace as u64);
        write_hex(&mut out[36..52], self.id);
        out[54] = if self.sampled { b'1' } else { b'0' };
        out
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.traceparent()).unwrap_or("?"))
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |all, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(all << 4 | u64::from(value))
    })
}

/// Writes the 16 digits of `value`.
fn write_hex(out: &mut [u8], value: u64) {
    let (high, low) = out.split_at_mut(8);
    high.copy_from_slice(&eight_digits((value >> 32) as u32));
    low.copy_from_slice(&eight_digits(value as u32));
}

/// All digits at once, in the bytes of one word: this is done for every call.
fn eight_digits(value: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut word = u64::from(value);
    word = (word | (word << 16)) & 0x0000_ffff_0000_ffff;
    word = (word | (word << 8)) & 0x00ff_00ff_00ff_00ff;
    word = (word | (word << 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    // 1 in each byte that is 10 or more, and a letter.
    let letters = ((word + ONES * 6) >> 4) & ONES;
    (word + ONES * u64::from(b'0') + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

thread_local! {
    static STATE: Cell<u64> = Cell::new(seed());
}

/// A seed from the randomness that the standard library's hash maps use.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// A cheap random number (SplitMix64, one state per thread): for ids, sampling and balancing, not secrets.
pub fn random() -> u64 {
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        state.set(next);
        let mut z = next;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_reads_back() {
        let text = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let span = Span::parse(text).expect("valid");
        assert_eq!(&span.traceparent(), text);
        let child = span.child();
        assert_eq!((child.trace, child.parent, child.sampled), (span.trace, span.id, true));
        assert_ne!(child.id, span.id);
    }

    #[test]
    fn every_digit_is_written() {
        for value in [0, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, u64::MAX, 0xa0b0_9000_0000_000f] {
            let mut out = [0; 16];
            write_hex(&mut out, value);
            assert_eq!(std::str::from_utf8(&out), Ok(format!("{value:016x}").as_str()));
        }
    }

    #[test]
    fn malformed_values_start_a_new_trace() {
        for bad in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        ] {
            assert_eq!(Span::parse(bad.as_bytes()), None, "{bad}");
        }
        assert!(Span::parse(b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later").is_some());
    }
}
