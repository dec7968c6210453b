//! The pass that finds the lines of a head (RFC 9112 sections 2 to 5), values and targets eight bytes at a time.
//!
//! It tells places, not meanings, and takes nothing that two readers could see differently: lines end with CR LF,
//! names are tokens right before their colon, lines are not folded, control characters stand nowhere.

use std::ops::Range;

use smallvec::SmallVec;

use super::head::BadHead;
use crate::limits::MAX_HEADERS;

/// Where one header lies in its head: its name, and its value without surrounding white space.
#[derive(Clone, Copy)]
pub(super) struct Field {
    name: (u32, u32),
    value: (u32, u32),
}

impl Field {
    /// The name's place.
    pub(super) fn name(&self) -> Range<usize> {
        self.name.0 as usize..self.name.1 as usize
    }

    /// The value's place.
    pub(super) fn value(&self) -> Range<usize> {
        self.value.0 as usize..self.value.1 as usize
    }
}

/// The headers of one head.
pub(super) type Fields = SmallVec<[Field; 24]>;

/// Why a scan ends before the head does.
#[derive(Debug)]
pub(super) enum Stop {
    /// More bytes are needed.
    More,
    /// It is no head.
    Bad(BadHead),
}

/// A place in a head that moves on.
pub(super) struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Bytes of a token (RFC 9110 section 5.6.2).
const TOKEN: [bool; 256] = {
    let mut token = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        token[byte] = matches!(
            byte as u8,
            b'0'..=b'9'
                | b'a'..=b'z'
                | b'A'..=b'Z'
                | b'!'
                | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        );
        byte += 1;
    }
    token
};

/// The same byte eight times.
const fn eight(byte: u8) -> u64 {
    byte as u64 * 0x0101_0101_0101_0101
}

/// Marks the first byte of `word` that is below `limit` (at most 0x80) or DEL, by its high bit; higher ones may be
/// marked too.
fn marked(word: u64, limit: u8) -> u64 {
    let low = word.wrapping_sub(eight(limit)) & !word;
    let delete = word ^ eight(0x7f);
    let delete = delete.wrapping_sub(eight(1)) & !delete;
    (low | delete) & eight(0x80)
}

impl<'a> Scan<'a> {
    /// At the start line; empty lines before it do not count (RFC 9112 section 2.2).
    pub(super) fn new(bytes: &'a [u8]) -> Scan<'a> {
        let mut at = 0;
        while bytes[at..].starts_with(b"\r\n") {
            at += 2;
        }
        Scan { bytes, at }
    }

    /// How much has been read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    fn peek(&self) -> Result<u8, Stop> {
        self.bytes.get(self.at).copied().ok_or(Stop::More)
    }

    /// The bytes of a token; stays on what follows it.
    fn token(&mut self) -> Result<(Range<usize>, u8), Stop> {
        let start = self.at;
        while let Some(byte) = self.bytes.get(self.at) {
            if !TOKEN[usize::from(*byte)] {
                return Ok((start..self.at, *byte));
            }
            self.at += 1;
        }
        Err(Stop::More)
    }

    /// Moves to the first byte that is below `limit` or DEL.
    fn stop_below(&mut self, limit: u8) -> Result<u8, Stop> {
        while let Some(chunk) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<8>) {
            let marks = marked(u64::from_le_bytes(*chunk), limit);
            if marks != 0 {
                self.at += marks.trailing_zeros() as usize / 8;
                return self.peek();
            }
            self.at += 8;
        }
        while let Some(byte) = self.bytes.get(self.at) {
            if *byte < limit || *byte == 0x7f {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(Stop::More)
    }

    /// The end of a line, which starts here.
    fn line_end(&mut self) -> Result<(), Stop> {
        match (self.peek()?, self.bytes.get(self.at + 1)) {
            (b'\r', Some(b'\n')) => {
                self.at += 2;
                Ok(())
            }
            (b'\r', None) => Err(Stop::More),
            (b'\n', _) => Err(Stop::Bad(BadHead::BareLineFeed)),
            _ => Err(Stop::Bad(BadHead::Syntax("line end"))),
        }
    }

    /// `HTTP/1.0` or `HTTP/1.1`: whether it is the former.
    fn version(&mut self) -> Result<bool, Stop> {
        for expected in b"HTTP/1." {
            if self.peek()? != *expected {
                return Err(Stop::Bad(BadHead::Version));
            }
            self.at += 1;
        }
        let http10 = match self.peek()? {
            b'0' => true,
            b'1' => false,
            _ => return Err(Stop::Bad(BadHead::Version)),
        };
        self.at += 1;
        Ok(http10)
    }

    /// Empty lines before the start line were passed over: half of one may be left, or one that ends otherwise.
    fn start(&mut self) -> Result<(), Stop> {
        if matches!(self.peek()?, b'\r' | b'\n') { self.line_end() } else { Ok(()) }
    }

    /// A request's start line: method, target, and whether the version is 1.0.
    pub(super) fn request_line(&mut self) -> Result<(Range<usize>, Range<usize>, bool), Stop> {
        const BAD: Stop = Stop::Bad(BadHead::Syntax("method or target"));
        self.start()?;
        let (method, next) = self.token()?;
        if method.is_empty() || next != b' ' {
            return Err(BAD);
        }
        self.at += 1;
        let start = self.at;
        // A space is below `!`, and so is all that may not stand in a target.
        let next = self.stop_below(b'!')?;
        if self.at == start || next != b' ' {
            return Err(BAD);
        }
        let target = start..self.at;
        self.at += 1;
        let http10 = self.version()?;
        self.line_end()?;
        Ok((method, target, http10))
    }

    /// A response's start line: the status, the place of the reason, and whether the version is 1.0.
    pub(super) fn status_line(&mut self) -> Result<(u16, Range<usize>, bool), Stop> {
        const BAD: Stop = Stop::Bad(BadHead::Syntax("status"));
        self.start()?;
        let http10 = self.version()?;
        if self.peek()? != b' ' {
            return Err(BAD);
        }
        self.at += 1;
        let mut status = 0;
        for _ in 0..3 {
            let digit = self.peek()?.wrapping_sub(b'0');
            if digit > 9 {
                return Err(BAD);
            }
            status = status * 10 + u16::from(digit);
            self.at += 1;
        }
        match self.peek()? {
            b' ' => self.at += 1,
            b'\r' | b'\n' => {}
            _ => return Err(BAD),
        }
        let start = self.at;
        while self.stop_below(b' ')? == b'\t' {
            self.at += 1;
        }
        let reason = start..self.at;
        self.line_end()?;
        Ok((status, reason, http10))
    }

    /// The headers, and the empty line behind them.
    pub(super) fn fields(&mut self) -> Result<Fields, Stop> {
        let mut fields = Fields::new();
        loop {
            let (name, next) = self.token()?;
            if next != b':' || name.is_empty() {
                if name.is_empty() && matches!(next, b'\r' | b'\n') {
                    return self.line_end().map(|()| fields);
                }
                return Err(Stop::Bad(BadHead::Syntax("header name")));
            }
            if fields.len() == MAX_HEADERS {
                return Err(Stop::Bad(BadHead::TooLarge));
            }
            self.at += 1;
            let value = self.value()?;
            self.line_end()?;
            let place = |range: Range<usize>| (range.start as u32, range.end as u32);
            fields.push(Field { name: place(name), value: place(value) });
        }
    }

    /// A value without the white space around it; stays on the end of its line.
    fn value(&mut self) -> Result<Range<usize>, Stop> {
        while matches!(self.peek()?, b' ' | b'\t') {
            self.at += 1;
        }
        let start = self.at;
        loop {
            match self.stop_below(b' ')? {
                b'\t' => self.at += 1,
                b'\r' | b'\n' => break,
                _ => return Err(Stop::Bad(BadHead::Syntax("header value"))),
            }
        }
        let mut end = self.at;
        while end > start && matches!(self.bytes[end - 1], b' ' | b'\t') {
            end -= 1;
        }
        Ok(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same by one byte at a time.
    fn plainly(bytes: &[u8], limit: u8) -> Option<usize> {
        bytes.iter().position(|byte| *byte < limit || *byte == 0x7f)
    }

    #[test]
    fn every_byte_is_told_apart_at_every_place() {
        for limit in [b' ', b'!'] {
            for byte in 0..=255u8 {
                for place in 0..19 {
                    let mut bytes = [0xffu8; 19];
                    bytes[place] = byte;
                    let mut scan = Scan { bytes: &bytes, at: 0 };
                    let found = scan.stop_below(limit).ok().map(|_| scan.at);
                    assert_eq!(found, plainly(&bytes, limit), "{byte} at {place}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn eight_at_a_time_finds_what_one_at_a_time_finds(
            bytes in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b' '), Just(0x7f), Just(0x80), any::<u8>()], 0..64),
        ) {
            let mut scan = Scan { bytes: &bytes, at: 0 };
            let found = scan.stop_below(b' ').ok().map(|_| scan.at);
            prop_assert_eq!(found, plainly(&bytes, b' '));
        }
    }
}
