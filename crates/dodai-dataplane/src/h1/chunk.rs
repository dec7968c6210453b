//! The chunked coding (RFC 9112 section 7.1), followed without taking it apart.
//!
//! [`Chunks`] is fed the bytes as they pass and tells where the body ends; in between it can say which runs
//! are data, for those who need the content and not the coding. Anything two readers could see differently
//! (bare LF, spaces, signs, sizes over 16 hex digits) is an error.

use dodai_core::call::tells_identity;
use smallvec::SmallVec;

use super::lines::TOKEN;
use crate::trailers::is_forbidden;

/// Where we are in the coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size { digits: u8 },
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

/// The coding of a body may have so many bytes, and eight for each of its content: a chunk of one byte has five or six.
const USUAL_CODING: u64 = 16 << 10;

/// A decoder of one chunked body.
#[derive(Clone, Debug)]
pub struct Chunks {
    at: At,
    left: u64,
    /// Bytes so far that were content, and that were none.
    content: u64,
    coding: u64,
    line: usize,
    trailers: usize,
    max_line: usize,
    max_trailers: usize,
    /// The beginning of the trailer line under way, as far as a name of ours could reach.
    name: SmallVec<[u8; 24]>,
}

/// What one call of [`Chunks::feed`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// How many bytes belong to the body's coding.
    pub used: usize,
    /// Whether the body ended with them.
    pub end: bool,
}

/// The coding is broken; the text says how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChunk(pub &'static str);

impl Chunks {
    /// At the start of a body.
    pub fn new(max_line: usize, max_trailers: usize) -> Chunks {
        let (at, name) = (At::Size { digits: 0 }, SmallVec::new());
        Chunks { at, left: 0, content: 0, coding: 0, line: 0, trailers: 0, max_line, max_trailers, name }
    }

    /// Whether the body has ended.
    pub fn is_end(&self) -> bool {
        self.at == At::End
    }

    /// How many of the bytes so far were the coding's own: sizes, ends of lines, trailers. What goes beyond every use,
    /// as long extensions of chunks of a byte do, counts as content.
    pub fn coding(&self) -> u64 {
        self.coding.min(USUAL_CODING + 8 * self.content)
    }

    /// Follows `bytes`; `data` is called with each run of content, `trailer` with each byte of the trailer
    /// section.
    pub fn feed_with(
        &mut self,
        bytes: &[u8],
        mut data: impl FnMut(&[u8]),
        mut trailer: impl FnMut(u8),
    ) -> Result<Fed, BadChunk> {
        let mut used = 0;
        while used < bytes.len() && self.at != At::End {
            if self.at == At::Data {
                let run = (bytes.len() - used).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                data(&bytes[used..used + run]);
                self.left -= run as u64;
                self.content += run as u64;
                used += run;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            let byte = bytes[used];
            used += 1;
            self.coding += 1;
            if matches!(self.at, At::TrailerStart | At::TrailerName | At::Trailer | At::TrailerLf | At::EndLf)
            {
                trailer(byte);
            }
            self.at = self.step(byte)?;
        }
        Ok(Fed { used, end: self.at == At::End })
    }

    /// Follows `bytes` without looking at the content.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Fed, BadChunk> {
        self.feed_with(bytes, |_| {}, |_| {})
    }

    fn step(&mut self, byte: u8) -> Result<At, BadChunk> {
        match self.at {
            At::Size { digits } => self.size(byte, digits),
            At::Extension => {
                self.line += 1;
                match byte {
                    b'\r' => Ok(At::SizeLf),
                    b'\n' => Err(BadChunk("a chunk line ends with a bare line feed")),
                    _ if self.line > self.max_line => Err(BadChunk("a chunk extension is too long")),
                    byte if byte < 0x20 && byte != b'\t' => {
                        Err(BadChunk("a control character in a chunk extension"))
                    }
                    _ => Ok(At::Extension),
                }
            }
            At::SizeLf => {
                self.line = 0;
                match (byte, self.left) {
                    (b'\n', 0) => Ok(At::TrailerStart),
                    (b'\n', _) => Ok(At::Data),
                    _ => Err(BadChunk("a chunk line does not end with CR LF")),
                }
            }
            At::DataCr if byte == b'\r' => Ok(At::DataLf),
            At::DataLf if byte == b'\n' => Ok(At::Size { digits: 0 }),
            At::DataCr | At::DataLf => Err(BadChunk("a chunk is longer than its size says")),
            At::TrailerStart if byte == b'\r' => Ok(At::EndLf),
            At::TrailerStart => {
                self.name.clear();
                self.trailer_name(byte)
            }
            At::TrailerName => self.trailer_name(byte),
            At::Trailer => self.trailer(byte),
            At::TrailerLf if byte == b'\n' => Ok(At::TrailerStart),
            At::EndLf if byte == b'\n' => Ok(At::End),
            At::TrailerLf | At::EndLf => Err(BadChunk("a trailer line does not end with CR LF")),
            At::Data | At::End => Ok(self.at),
        }
    }

    fn size(&mut self, byte: u8, digits: u8) -> Result<At, BadChunk> {
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ if digits == 0 => return Err(BadChunk("a chunk does not start with its size")),
            b';' => return Ok(At::Extension),
            b'\r' => return Ok(At::SizeLf),
            _ => return Err(BadChunk("a chunk size is not hexadecimal")),
        };
        if digits == 16 {
            return Err(BadChunk("a chunk size is too large"));
        }
        self.left = if digits == 0 { 0 } else { self.left << 4 } | u64::from(value);
        if self.left > u64::MAX >> 1 {
            return Err(BadChunk("a chunk size is too large"));
        }
        Ok(At::Size { digits: digits + 1 })
    }

    fn trailer_name(&mut self, byte: u8) -> Result<At, BadChunk> {
        self.trailers += 1;
        match byte {
            b':' if tells_identity(&self.name) => Err(BadChunk("a trailer says who calls")),
            b':' if is_forbidden(&self.name) => Err(BadChunk("a trailer that only a head may have")),
            b':' if self.name.is_empty() => Err(BadChunk("a trailer has no name")),
            b':' => Ok(At::Trailer),
            _ if !TOKEN[usize::from(byte)] => Err(BadChunk("the name of a trailer is none")),
            _ if self.trailers > self.max_trailers => Err(BadChunk("the trailers are too long")),
            _ => {
                if self.name.len() < self.name.inline_size() {
                    self.name.push(byte);
                }
                Ok(At::TrailerName)
            }
        }
    }

    fn trailer(&mut self, byte: u8) -> Result<At, BadChunk> {
        self.trailers += 1;
        match byte {
            b'\r' => Ok(At::TrailerLf),
            b'\n' => Err(BadChunk("a trailer line ends with a bare line feed")),
            0 => Err(BadChunk("a trailer holds a null byte")),
            _ if self.trailers > self.max_trailers => Err(BadChunk("the trailers are too long")),
            _ => Ok(At::Trailer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<(Vec<u8>, Fed), BadChunk> {
        let mut data = Vec::new();
        let fed = Chunks::new(64, 64).feed_with(bytes, |run| data.extend_from_slice(run), |_| {})?;
        Ok((data, fed))
    }

    #[test]
    fn well_formed_bodies() {
        let check = |bytes: &str, data: &str, rest: usize| {
            let (got, fed) = decode(bytes.as_bytes()).expect(bytes);
            assert_eq!(
                (got.as_slice(), fed),
                (data.as_bytes(), Fed { used: bytes.len() - rest, end: true }),
                "{bytes:?}"
            );
        };
        check("0\r\n\r\n", "", 0);
        check("3\r\nabc\r\n0\r\n\r\n", "abc", 0);
        check("3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nGET", "abc0123456789", 3);
        check("1\r\na\r\n0\r\nx: y\r\nz: w\r\n\r\n", "a", 0);
        check("0\r\nx: host: a\r\nx-host:\r\n\r\n", "", 0);
        check("00\r\n\r\n", "", 0);
    }

    #[test]
    fn what_others_could_read_differently_is_refused() {
        for bad in [
            "\r\n",
            " 3\r\nabc\r\n",
            "3 \r\nabc\r\n",
            "+3\r\nabc\r\n",
            "0x3\r\nabc\r\n",
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "g\r\n",
            "fffffffffffffffff\r\n",
            "ffffffffffffffff\r\n",
            "0\r\nx: y\n\r\n",
            "0\r\nContent-Length: 4\r\n\r\n",
            "0\r\nx: y\r\nset-cookie:a=b\r\n\r\n",
            "0\r\nHost : a\r\n\r\n",
            "0\r\nx: y\r\n z: 1\r\n\r\n",
            "0\r\nx\r\n\r\n",
            "0\r\n: y\r\n\r\n",
            "0\r\n\rX",
            "3;\nabc\r\n",
            "-1\r\n",
        ] {
            assert!(decode(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_split_decodes_alike(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
                                   cut in 0usize..400) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let cut = cut.min(wire.len());
            let mut data = Vec::new();
            let mut decoder = Chunks::new(64, 64);
            let first = decoder.feed_with(&wire[..cut], |run| data.extend_from_slice(run), |_| {}).expect("valid");
            prop_assert_eq!(first.used, cut);
            decoder.feed_with(&wire[cut..], |run| data.extend_from_slice(run), |_| {}).expect("valid");
            prop_assert!(decoder.is_end());
            prop_assert_eq!(data, chunks.concat());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn coding_beyond_use_counts_as_content() {
        let counted = |chunk: &str| {
            let mut chunks = Chunks::new(256, 8192);
            let bytes = chunk.repeat(10_000);
            let fed = chunks.feed(bytes.as_bytes()).expect("chunks");
            fed.used as u64 - chunks.coding()
        };
        assert_eq!(counted("1\r\na\r\n"), 10_000);
        assert_eq!(counted("0010\r\n0123456789abcdef\r\n"), 160_000);
        assert!(counted(&format!("1;{}\r\na\r\n", "x".repeat(200))) > 1_900_000);
    }
}
