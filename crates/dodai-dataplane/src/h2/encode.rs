//! Writing field blocks (RFC 7541).
//!
//! What tends to come again goes into the table, so that it costs a byte or two the next time; what does not, or must
//! not be kept, goes out as it is. Lookups are by a hash that may forget: it costs bytes, never correctness.

use std::hash::{BuildHasher, Hasher};

use super::hpack::{STATIC, TABLE, Table};
use super::huffman;

/// Slots of each lookup; more than twice what a table of 4 KiB usually holds.
const SLOTS: usize = 128;

/// Fields whose values differ from call to call. Values of the others are worth a place in the table.
const FLEETING: [&[u8]; 16] = [
    b":path",
    b"age",
    b"content-length",
    b"content-range",
    b"date",
    b"etag",
    b"grpc-timeout",
    b"if-modified-since",
    b"if-none-match",
    b"last-modified",
    b"location",
    b"range",
    b"traceparent",
    b"tracestate",
    b"x-forwarded-for",
    b"x-request-id",
];

/// Secrets, which must not be kept by anybody on their way.
const SECRET: [&[u8]; 3] = [b"authorization", b"cookie", b"proxy-authorization"];

/// The largest field that is put into the table.
const LARGEST: usize = 512;

/// Writes field blocks.
pub struct Encoder {
    table: Table,
    /// Number of the entry with this name and value, by hash.
    whole: Box<[u64; SLOTS]>,
    /// Number of an entry with this name, by hash.
    named: Box<[u64; SLOTS]>,
    /// The smallest size, and the size, that the other side has yet to be told of.
    resized: Option<(usize, usize)>,
    /// Whether literals are written in Huffman code.
    compact: bool,
}

impl Encoder {
    /// An encoder with an empty table. `compact` spends time to save bytes.
    pub fn new(compact: bool) -> Encoder {
        let slots = || Box::new([0; SLOTS]);
        Encoder { table: Table::new(TABLE), whole: slots(), named: slots(), resized: None, compact }
    }

    /// The other side takes a table of at most `max` bytes.
    pub fn resize(&mut self, max: usize) {
        let max = max.min(TABLE);
        if max != self.table.max() || self.resized.is_some() {
            let least = self.resized.map_or(max, |(least, _)| least.min(max));
            self.resized = Some((least, max));
            self.table.resize(least);
            self.table.resize(max);
        }
    }

    /// Begins a block; what must stand at its start goes to `out`.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((least, max)) = self.resized.take() {
            if least < max {
                integer(out, 0x20, 5, least);
            }
            integer(out, 0x20, 5, max);
        }
    }

    /// Appends one field, whose name is in small letters.
    pub fn field(&mut self, name: &[u8], value: &[u8], sensitive: bool, out: &mut Vec<u8>) {
        let fixed = fixed(name, value);
        if let Some((index, true)) = fixed {
            return integer(out, 0x80, 7, index);
        }
        if sensitive || SECRET.contains(&name) {
            return self.literal(0x10, 4, fixed.map(|(index, _)| index), name, value, out);
        }
        let (whole, named) = hash(name, value);
        if let Some(index) = self.find(self.whole[whole], name, Some(value)) {
            return integer(out, 0x80, 7, index);
        }
        let index = fixed.map(|(index, _)| index).or_else(|| self.find(self.named[named], name, None));
        if name.len() + value.len() > LARGEST || FLEETING.contains(&name) {
            return self.literal(0, 4, index, name, value, out);
        }
        self.literal(0x40, 6, index, name, value, out);
        self.table.insert(name, value);
        (self.whole[whole], self.named[named]) = (self.table.inserted(), self.table.inserted());
    }

    /// The index of entry `sequence`, if it is still there and is what is looked for.
    fn find(&self, sequence: u64, name: &[u8], value: Option<&[u8]>) -> Option<usize> {
        let (found, text) = self.table.by_sequence(sequence).filter(|_| sequence > 0)?;
        let same = found == name && value.is_none_or(|value| value == text);
        let back = usize::try_from(self.table.inserted() - sequence).ok()?;
        same.then_some(STATIC.len() + 1 + back)
    }

    fn literal(
        &self,
        kind: u8,
        bits: u32,
        index: Option<usize>,
        name: &[u8],
        value: &[u8],
        out: &mut Vec<u8>,
    ) {
        integer(out, kind, bits, index.unwrap_or(0));
        if index.is_none() {
            self.string(name, out);
        }
        self.string(value, out);
    }

    fn string(&self, text: &[u8], out: &mut Vec<u8>) {
        if self.compact {
            let length = huffman::length(text);
            if length < text.len() {
                integer(out, 0x80, 7, length);
                return huffman::encode(text, out);
            }
        }
        integer(out, 0, 7, text.len());
        out.extend_from_slice(text);
    }
}

/// Slots of a field: of name and value, and of the name.
fn hash(name: &[u8], value: &[u8]) -> (usize, usize) {
    let mut hasher = foldhash::fast::FixedState::with_seed(0).build_hasher();
    hasher.write(name);
    let named = hasher.finish();
    hasher.write(value);
    let slot = |hash: u64| (hash ^ (hash >> 32)) as usize % SLOTS;
    (slot(hasher.finish()), slot(named))
}

/// The entry of the static table with this name, and whether it has this value.
fn fixed(name: &[u8], value: &[u8]) -> Option<(usize, bool)> {
    let first = match name {
        b":authority" => 1,
        b":method" => 2,
        b":path" => 4,
        b":scheme" => 6,
        b":status" => 8,
        b"accept" => 19,
        b"accept-charset" => 15,
        b"accept-encoding" => 16,
        b"accept-language" => 17,
        b"accept-ranges" => 18,
        b"access-control-allow-origin" => 20,
        b"age" => 21,
        b"allow" => 22,
        b"authorization" => 23,
        b"cache-control" => 24,
        b"content-disposition" => 25,
        b"content-encoding" => 26,
        b"content-language" => 27,
        b"content-length" => 28,
        b"content-location" => 29,
        b"content-range" => 30,
        b"content-type" => 31,
        b"cookie" => 32,
        b"date" => 33,
        b"etag" => 34,
        b"expect" => 35,
        b"expires" => 36,
        b"from" => 37,
        b"host" => 38,
        b"if-match" => 39,
        b"if-modified-since" => 40,
        b"if-none-match" => 41,
        b"if-range" => 42,
        b"if-unmodified-since" => 43,
        b"last-modified" => 44,
        b"link" => 45,
        b"location" => 46,
        b"max-forwards" => 47,
        b"proxy-authenticate" => 48,
        b"proxy-authorization" => 49,
        b"range" => 50,
        b"referer" => 51,
        b"refresh" => 52,
        b"retry-after" => 53,
        b"server" => 54,
        b"set-cookie" => 55,
        b"strict-transport-security" => 56,
        b"transfer-encoding" => 57,
        b"user-agent" => 58,
        b"vary" => 59,
        b"via" => 60,
        b"www-authenticate" => 61,
        _ => return None,
    };
    let mut index = first;
    while let Some((of, text)) = STATIC.get(index - 1)
        && of.as_bytes() == name
    {
        if text.as_bytes() == value && !value.is_empty() {
            return Some((index, true));
        }
        index += 1;
    }
    Some((first, false))
}

/// Writes an integer whose first byte has `bits` of it behind `kind`.
fn integer(out: &mut Vec<u8>, kind: u8, bits: u32, value: usize) {
    let most = (1usize << bits) - 1;
    if value < most {
        return out.push(kind | value as u8);
    }
    out.push(kind | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::super::block::Block;
    use super::super::hpack::Decoder;
    use super::*;
    use proptest::prelude::*;

    fn write(encoder: &mut Encoder, fields: &[(Vec<u8>, Vec<u8>, bool)]) -> Vec<u8> {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        for (name, value, sensitive) in fields {
            encoder.field(name, value, *sensitive, &mut out);
        }
        out
    }

    #[test]
    fn the_static_table_is_found_by_name() {
        for (position, (name, value)) in STATIC.iter().enumerate() {
            let (index, whole) = fixed(name.as_bytes(), value.as_bytes()).expect("known");
            assert_eq!(STATIC[index - 1].0, *name);
            assert_eq!(whole, !value.is_empty(), "{name}");
            assert!(!whole || index == position + 1, "{name} {value}");
        }
        assert_eq!(fixed(b":status", b"418"), Some((8, false)));
        assert_eq!(fixed(b"x-other", b""), None);
    }

    #[test]
    fn what_comes_again_is_short_and_secrets_are_not_kept() {
        let mut encoder = Encoder::new(false);
        let field = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec(), false);
        let fields = [field(":method", "GET"), field("x-team", "blue"), field("user-agent", "probe/1")];
        let first = write(&mut encoder, &fields);
        let second = write(&mut encoder, &fields);
        assert_eq!((first.len() > 20, second.as_slice()), (true, [0x82, 0xbf, 0xbe].as_slice()));
        let secret = write(&mut encoder, &[field("authorization", "Bearer x")]);
        assert_eq!(secret[0] & 0xf0, 0x10);
        let fleeting = write(&mut encoder, &[field("traceparent", "00-1")]);
        assert_eq!(fleeting[0], 0);
        assert_eq!(encoder.table.inserted(), 2);
    }

    #[test]
    fn a_smaller_table_is_told_of() {
        let mut encoder = Encoder::new(false);
        encoder.resize(0);
        encoder.resize(100);
        let out = write(&mut encoder, &[]);
        assert_eq!(out, [0x20, 0x3f, 0x45]);
        assert!(write(&mut encoder, &[]).is_empty());
    }

    fn fields() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>, bool)>> {
        let name = prop_oneof![
            proptest::sample::select(vec![
                ":method",
                ":path",
                "cookie",
                "x-a",
                "x-b",
                "content-length",
                "etag"
            ])
            .prop_map(|name| name.as_bytes().to_vec()),
            proptest::collection::vec(b'a'..=b'z', 1..300),
        ];
        let value = prop_oneof![
            proptest::sample::select(vec!["GET", "/", "", "1", "2", "some value"])
                .prop_map(|value| value.as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..400),
        ];
        proptest::collection::vec((name, value, any::<bool>()), 0..20)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_is_written_reads_back(
            blocks in proptest::collection::vec((fields(), proptest::option::of(0usize..5000)), 1..12),
            compact in any::<bool>(),
        ) {
            let (mut encoder, mut decoder) = (Encoder::new(compact), Decoder::default());
            for (fields, resize) in blocks {
                if let Some(max) = resize {
                    encoder.resize(max);
                }
                let out = write(&mut encoder, &fields);
                let mut block = Block::new();
                prop_assert_eq!(decoder.decode(&out, &mut block, usize::MAX), Ok(()));
                let secret = |name: &[u8], sensitive: bool| sensitive || SECRET.contains(&name);
                let known = |name: &[u8], value: &[u8]| fixed(name, value).is_some_and(|(_, whole)| whole);
                let wanted: Vec<_> = fields.iter().map(|(name, value, sensitive)| {
                    (name.as_slice(), value.as_slice(), secret(name, *sensitive) && !known(name, value))
                }).collect();
                prop_assert_eq!(block.iter().collect::<Vec<_>>(), wanted);
            }
        }
    }
}
