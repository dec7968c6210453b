//! Frames: their headers, and the contents of those that are read whole.

use super::Reason;

/// The bytes of a frame header.
pub const HEADER: usize = 9;
/// The largest frame that we take, and that everybody takes.
pub const LARGEST: usize = 16_384;
/// The largest window.
pub const MAX_WINDOW: i64 = (1 << 31) - 1;
/// The window that streams and connections start with.
pub const FIRST_WINDOW: u32 = 65_535;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 32;

pub const HEADER_TABLE_SIZE: u16 = 1;
pub const ENABLE_PUSH: u16 = 2;
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;
pub const MAX_FRAME_SIZE: u16 = 5;
pub const MAX_HEADER_LIST_SIZE: u16 = 6;
pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Header {
    /// Reads a header from the start of `bytes`, if it is there whole.
    pub fn read(bytes: &[u8]) -> Option<Header> {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes.first_chunk::<HEADER>()?;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        Some(Header { length, kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff })
    }

    /// The header's bytes.
    pub fn bytes(self) -> [u8; HEADER] {
        let [_, l0, l1, l2] = (self.length as u32).to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }

    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The first four bytes as a number without its first bit, and the rest.
pub fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (four, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*four) & 0x7fff_ffff, rest))
}

/// The contents of a padded frame without its padding.
pub fn unpadded(header: Header, payload: &[u8]) -> Result<&[u8], Reason> {
    if !header.has(PADDED) {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or(Reason::FRAME_SIZE_ERROR)?;
    rest.len().checked_sub(usize::from(padding)).map(|end| &rest[..end]).ok_or(Reason::PROTOCOL_ERROR)
}

/// The settings of a frame: identifier and value.
pub fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload
        .as_chunks::<6>()
        .0
        .iter()
        .map(|&[i0, i1, v0, v1, v2, v3]| (u16::from_be_bytes([i0, i1]), u32::from_be_bytes([v0, v1, v2, v3])))
}
