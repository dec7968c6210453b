//! The first head on a connection, read by somebody who does not serve it: is this a call for us?

use super::block::Block;
use super::frame::{
    END_HEADERS, HEADER, HEADERS, Header, LARGEST, PING, PRIORITY, SETTINGS, WINDOW_UPDATE, WITH_PRIORITY,
    unpadded,
};
use super::hpack::Decoder;

/// What the bytes after the preface show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// The head has not come yet, or comes in pieces.
    Begun,
    /// For whom the first call is.
    Authority(String),
    /// This is no HTTP/2.
    Broken,
}

/// Reads what came after the preface.
pub fn first(mut bytes: &[u8], limit: usize) -> First {
    while let Some(header) = Header::read(bytes) {
        if header.length > LARGEST {
            return First::Broken;
        }
        let Some(payload) = bytes.get(HEADER..HEADER + header.length) else { return First::Begun };
        match header.kind {
            HEADERS if !header.has(END_HEADERS) => return First::Begun,
            HEADERS => return head(header, payload, limit).unwrap_or(First::Broken),
            SETTINGS | WINDOW_UPDATE | PING | PRIORITY => bytes = &bytes[HEADER + header.length..],
            // What a later version may add comes before a head too.
            other if other > 9 => bytes = &bytes[HEADER + header.length..],
            _ => return First::Broken,
        }
    }
    First::Begun
}

fn head(header: Header, payload: &[u8], limit: usize) -> Option<First> {
    let fields = unpadded(header, payload).ok()?;
    let fields = if header.has(WITH_PRIORITY) { fields.get(5..)? } else { fields };
    let mut block = Block::new();
    Decoder::default().decode(fields, &mut block, limit).ok()?;
    let authority = block.get(b":authority").or_else(|| block.get(b"host"))?;
    Some(First::Authority(std::str::from_utf8(authority).ok()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let header = Header { length: payload.len(), kind, flags, stream };
        [&header.bytes()[..], payload].concat()
    }

    #[test]
    fn the_first_head_says_for_whom_it_is() {
        // `:authority` (index 1) as a literal without indexing.
        let fields = b"\x82\x86\x84\x01\x07catalog";
        let settings = frame(SETTINGS, 0, 0, &[]);
        let window = frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]);
        let check = |bytes: &[u8], expect: First| assert_eq!(first(bytes, 1000), expect, "{bytes:?}");
        let named = First::Authority("catalog".to_owned());
        let whole = [&settings[..], &window, &frame(HEADERS, END_HEADERS, 1, fields)].concat();
        check(&whole, named.clone());
        for end in 0..whole.len() {
            check(&whole[..end], First::Begun);
        }
        let weighed = [&[0, 0, 0, 0, 16][..], fields].concat();
        check(&frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, &weighed), named.clone());
        let padded = [&[2][..], fields, &[0, 0]].concat();
        check(&frame(HEADERS, END_HEADERS | super::super::frame::PADDED, 1, &padded), named);
        check(&frame(HEADERS, 0, 1, fields), First::Begun);
        check(&frame(HEADERS, END_HEADERS, 1, b"\x82\x86\x84"), First::Broken);
        check(&frame(HEADERS, END_HEADERS, 1, b"\x40"), First::Broken);
        check(&frame(0, 0, 1, b"x"), First::Broken);
        check(b"\xff\xff\xff\x04\x00\x00\x00\x00\x00", First::Broken);
    }
}
