//! HPACK (RFC 7541): the tables, and decoding of field blocks.
//!
//! A block that is too large is still read to its end, or the table would be lost, but what exceeds the limit is not
//! kept.

use std::collections::VecDeque;

use super::block::{Block, FIELD_COST};
use super::huffman;

/// The table size that both sides start with; ours stays.
pub const TABLE: usize = 4096;

/// A block that cannot be read; the connection is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// The static table; its first entry has index 1.
pub const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// A dynamic table: the newest entries up to a size, in one run of bytes.
pub struct Table {
    bytes: Vec<u8>,
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
    inserted: u64,
}

struct Entry {
    start: usize,
    name: usize,
    value: usize,
}

impl Table {
    /// An empty table of at most `max` bytes.
    pub fn new(max: usize) -> Table {
        Table { bytes: Vec::new(), entries: VecDeque::new(), size: 0, max, inserted: 0 }
    }

    /// How many entries were ever put in.
    pub fn inserted(&self) -> u64 {
        self.inserted
    }

    /// The most bytes it may hold.
    pub fn max(&self) -> usize {
        self.max
    }

    /// The entry that was put in as number `sequence`, counted from 1, if it is still there.
    pub fn by_sequence(&self, sequence: u64) -> Option<(&[u8], &[u8])> {
        let back = usize::try_from(self.inserted.checked_sub(sequence)?).ok()?;
        self.newest(back)
    }

    /// The entry with `back` newer ones.
    fn newest(&self, back: usize) -> Option<(&[u8], &[u8])> {
        let entry = self.entries.get(self.entries.len().checked_sub(back + 1)?)?;
        let middle = entry.start + entry.name;
        Some((&self.bytes[entry.start..middle], &self.bytes[middle..middle + entry.value]))
    }

    /// Puts an entry in. One that is larger than the table empties it.
    pub fn insert(&mut self, name: &[u8], value: &[u8]) {
        let cost = name.len() + value.len() + FIELD_COST;
        self.inserted += 1;
        self.evict(cost);
        if cost > self.max {
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.entries.push_back(Entry { start, name: name.len(), value: value.len() });
        self.size += cost;
    }

    /// Changes the size.
    pub fn resize(&mut self, max: usize) {
        self.max = max;
        self.evict(0);
    }

    /// Makes room for `more` bytes.
    fn evict(&mut self, more: usize) {
        while self.size + more > self.max {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.size -= oldest.name + oldest.value + FIELD_COST;
        }
        if self.entries.is_empty() {
            self.bytes.clear();
        } else if self.bytes.len() > 2 * self.max {
            let gone = self.entries.front().map_or(0, |first| first.start);
            self.bytes.drain(..gone);
            for entry in &mut self.entries {
                entry.start -= gone;
            }
        }
    }
}

/// Reads field blocks.
pub struct Decoder {
    table: Table,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { table: Table::new(TABLE) }
    }
}

impl Decoder {
    /// Appends the fields of `coded` to `block`, as far as the list stays within `limit`.
    pub fn decode(&mut self, coded: &[u8], block: &mut Block, limit: usize) -> Result<(), Broken> {
        let mut rest = coded;
        let mut may_resize = true;
        while let Some(&first) = rest.first() {
            if first & 0xe0 == 0x20 {
                let max = integer(&mut rest, 5)?;
                if !may_resize || max > TABLE {
                    return Err(Broken);
                }
                self.table.resize(max);
                continue;
            }
            may_resize = false;
            if first & 0x80 != 0 {
                let index = integer(&mut rest, 7)?;
                let (name, value) = self.entry(index)?;
                let start = block.open().len();
                block.open().extend_from_slice(name);
                block.open().extend_from_slice(value);
                block.close(start, name.len(), false, limit);
            } else {
                self.literal(&mut rest, first, block, limit)?;
            }
        }
        Ok(())
    }

    fn literal(
        &mut self,
        rest: &mut &[u8],
        first: u8,
        block: &mut Block,
        limit: usize,
    ) -> Result<(), Broken> {
        let kept = first & 0x40 != 0;
        let index = integer(rest, if kept { 6 } else { 4 })?;
        let start = block.open().len();
        if index == 0 {
            string(rest, block.open())?;
        } else {
            let (name, _) = self.entry(index)?;
            block.open().extend_from_slice(name);
        }
        let middle = block.open().len();
        string(rest, block.open())?;
        if kept {
            let (name, value) = block.open()[start..].split_at(middle - start);
            self.table.insert(name, value);
        }
        block.close(start, middle - start, first & 0xf0 == 0x10, limit);
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), Broken> {
        match index {
            0 => Err(Broken),
            1..=61 => {
                let (name, value) = STATIC[index - 1];
                Ok((name.as_bytes(), value.as_bytes()))
            }
            _ => self.table.newest(index - 62).ok_or(Broken),
        }
    }
}

/// Reads an integer whose first byte has `bits` of it (RFC 7541 section 5.1).
fn integer(rest: &mut &[u8], bits: u32) -> Result<usize, Broken> {
    let (&first, mut tail) = rest.split_first().ok_or(Broken)?;
    let most = (1usize << bits) - 1;
    let mut value = usize::from(first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (&byte, after) = tail.split_first().ok_or(Broken)?;
            tail = after;
            // Nothing that is right needs more than 28 bits.
            if shift > 21 {
                return Err(Broken);
            }
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = tail;
    Ok(value)
}

/// Reads a string and appends it to `out`.
fn string(rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
    let coded = rest.first().ok_or(Broken)? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let (text, tail) = rest.split_at_checked(length).ok_or(Broken)?;
    *rest = tail;
    if coded {
        return huffman::decode(text, out).ok_or(Broken);
    }
    out.extend_from_slice(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(block: &Block) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        block.iter().map(|(name, value, _)| (text(name), text(value))).collect()
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex"))
            .collect()
    }

    #[test]
    fn examples_of_the_specification() {
        // RFC 7541 appendix C.3 (plain) and C.4 (Huffman): three requests on one connection.
        let plain = [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ];
        let coded = [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ];
        for blocks in [plain, coded] {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for block in blocks {
                let mut fields_of = Block::new();
                decoder.decode(&hex(block), &mut fields_of, 4096).expect("reads");
                seen.push(fields(&fields_of));
            }
            let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
                list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
            };
            let first =
                [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
            assert_eq!(seen[0], pairs(&first));
            assert_eq!(seen[1], pairs(&[&first[..], &[("cache-control", "no-cache")]].concat()));
            let third = [
                (":method", "GET"),
                (":scheme", "https"),
                (":path", "/index.html"),
                (":authority", "www.example.com"),
                ("custom-key", "custom-value"),
            ];
            assert_eq!(seen[2], pairs(&third));
            assert_eq!((decoder.table.size, decoder.table.entries.len()), (164, 3));
        }
    }

    #[test]
    fn small_tables_forget_the_oldest() {
        // RFC 7541 appendix C.5: responses with a table of 256 bytes.
        let mut decoder = Decoder::default();
        decoder.table.resize(256);
        let blocks = [
            "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
            "4803333037c1c0bf",
        ];
        let mut last = Block::new();
        for block in blocks {
            last = Block::new();
            decoder.decode(&hex(block), &mut last, 4096).expect("reads");
        }
        assert_eq!(last.get(b":status"), Some(b"307".as_slice()));
        assert_eq!(last.get(b"location"), Some(b"https://www.example.com".as_slice()));
        assert_eq!((decoder.table.size, decoder.table.entries.len()), (222, 4));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let check = |block: &str| {
            let broken = Decoder::default().decode(&hex(block), &mut Block::new(), 4096);
            assert_eq!(broken, Err(Broken), "{block}");
        };
        check("80"); // index 0
        check("be"); // an entry that is not there
        check("ff8080808001"); // an integer without end
        check("400a6375"); // a string that is cut
        check("3fe21f"); // a table larger than ours
        check("8220"); // a size update after a field
        check("4082ffff00"); // padding too long
    }

    #[test]
    fn too_large_lists_are_cut_but_remembered() {
        let mut decoder = Decoder::default();
        let mut block = Block::new();
        decoder
            .decode(&hex("400a637573746f6d2d6b65790c637573746f6d2d76616c756582"), &mut block, 45)
            .expect("reads");
        assert!(block.is_oversized());
        assert_eq!(fields(&block), [(":method".to_owned(), "GET".to_owned())]);
        let mut next = Block::new();
        decoder.decode(&hex("be"), &mut next, 4096).expect("it is in the table");
        assert_eq!(next.get(b"custom-key"), Some(b"custom-value".as_slice()));
    }

    #[test]
    fn a_table_that_turns_over_often_stays_small() {
        let mut table = Table::new(200);
        for number in 0..1000u32 {
            table.insert(b"name", number.to_string().as_bytes());
            assert_eq!(table.newest(0), Some((b"name".as_slice(), number.to_string().as_bytes())));
            assert!(table.bytes.len() <= 3 * 200 && table.size <= 200);
        }
        assert_eq!(table.by_sequence(1000).map(|(_, value)| value), Some(b"999".as_slice()));
        assert_eq!(table.by_sequence(1), None);
        table.insert(&[b'x'; 300], b"");
        assert!(table.entries.is_empty());
    }
}
