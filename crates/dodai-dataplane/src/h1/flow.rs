//! Where a body in flight stands: how many of the bytes that arrive still belong to it.

use super::chunk::{BadChunk, Chunks};
use super::head::Framing;
use crate::limits::Limits;

/// The rest of one body.
#[derive(Clone, Debug)]
pub enum Flow {
    /// Nothing is left.
    Done,
    /// So many bytes.
    Length(u64),
    /// Chunks, to the zero chunk.
    Chunked(Box<Chunks>),
    /// Everything until the sender closes.
    UntilClose,
}

impl Flow {
    /// At the start of a body of this framing.
    pub fn new(framing: Framing, limits: &Limits) -> Flow {
        match framing {
            Framing::Empty | Framing::Length(0) => Flow::Done,
            Framing::Length(length) => Flow::Length(length),
            Framing::Chunked => {
                Flow::Chunked(Box::new(Chunks::new(limits.chunk_line_bytes, limits.trailer_bytes)))
            }
            Framing::UntilClose => Flow::UntilClose,
        }
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        match self {
            Flow::Done => true,
            Flow::Chunked(chunks) => chunks.is_end(),
            Flow::Length(_) | Flow::UntilClose => false,
        }
    }

    /// How many of the bytes so far were no content but its coding.
    pub fn coding(&self) -> u64 {
        if let Flow::Chunked(chunks) = self { chunks.coding() } else { 0 }
    }

    /// How many of `bytes` belong to the body, which moves on by them.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        match self {
            Flow::Done => Ok(0),
            Flow::Length(left) => {
                let used = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= used as u64;
                if *left == 0 {
                    *self = Flow::Done;
                }
                Ok(used)
            }
            Flow::Chunked(chunks) => Ok(chunks.feed(bytes)?.used),
            Flow::UntilClose => Ok(bytes.len()),
        }
    }

    /// Like [`Flow::feed`], calling `data` with the content without its coding.
    pub fn decode(&mut self, bytes: &[u8], data: impl FnMut(&[u8])) -> Result<usize, BadChunk> {
        self.decode_with(bytes, data, |_| {})
    }

    /// Like [`Flow::decode`], calling `trailer` with each byte of the trailer section.
    pub fn decode_with(
        &mut self,
        bytes: &[u8],
        mut data: impl FnMut(&[u8]),
        trailer: impl FnMut(u8),
    ) -> Result<usize, BadChunk> {
        if let Flow::Chunked(chunks) = self {
            return Ok(chunks.feed_with(bytes, data, trailer)?.used);
        }
        let used = self.feed(bytes)?;
        if used > 0 {
            data(&bytes[..used]);
        }
        Ok(used)
    }
}

/// Reads a trailer section (as [`Flow::decode_with`] collects it). Malformed lines are left out.
pub fn parse_trailers(section: &[u8]) -> Option<http::HeaderMap> {
    let mut trailers = http::HeaderMap::new();
    for line in section.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let name = http::HeaderName::from_bytes(&line[..colon]);
        let value = http::HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            trailers.append(name, value);
        }
    }
    (!trailers.is_empty()).then_some(trailers)
}
