//! A list of header fields in one run of bytes: how heads and trailers of HTTP/2 are kept.

/// The fields of one head or of trailers, in order.
#[derive(Clone, Default)]
pub struct Block {
    bytes: Vec<u8>,
    fields: Vec<Field>,
    oversized: bool,
}

#[derive(Clone, Copy)]
struct Field {
    start: u32,
    name: u16,
    value: u32,
    sensitive: bool,
}

/// What a field costs beside its bytes when the size of a list is counted (RFC 9113 section 6.5.2).
pub const FIELD_COST: usize = 32;

impl Block {
    /// An empty block.
    pub fn new() -> Block {
        Block::default()
    }

    /// An empty block for fields that take `coded` bytes on the wire.
    pub(super) fn with_room_for(coded: usize) -> Block {
        let bytes = Vec::with_capacity(2 * coded + 256);
        Block { bytes, fields: Vec::with_capacity(16), oversized: false }
    }

    /// The fields: name, value, and whether the value must not be kept by anybody on its way.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8], bool)> {
        self.fields.iter().map(|field| {
            let start = field.start as usize;
            let middle = start + usize::from(field.name);
            let end = middle + field.value as usize;
            (&self.bytes[start..middle], &self.bytes[middle..end], field.sensitive)
        })
    }

    /// The first value of `name`.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(found, ..)| *found == name).map(|(_, value, _)| value)
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The bytes of all names and values.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether fields were left out because the list is too large.
    pub fn is_oversized(&self) -> bool {
        self.oversized
    }

    /// Adds a field.
    pub fn push(&mut self, name: &[u8], value: &[u8], sensitive: bool) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.close(start, name.len(), sensitive, usize::MAX);
    }

    /// Where the next field's bytes are put, name then value; [`Block::close`] makes a field of them.
    pub(super) fn open(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Makes a field of the bytes from `start`, unless the list would be larger than `limit`.
    pub(super) fn close(&mut self, start: usize, name: usize, sensitive: bool, limit: usize) {
        let value = self.bytes.len() - start - name;
        let size = self.bytes.len() + (self.fields.len() + 1) * FIELD_COST;
        let (Ok(short), Ok(at), Ok(long)) = (u16::try_from(name), u32::try_from(start), u32::try_from(value))
        else {
            return self.leave_out(start);
        };
        if size > limit {
            return self.leave_out(start);
        }
        self.fields.push(Field { start: at, name: short, value: long, sensitive });
    }

    fn leave_out(&mut self, start: usize) {
        self.bytes.truncate(start);
        self.oversized = true;
    }
}

impl std::fmt::Debug for Block {
    /// Names only: values may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, ..)| String::from_utf8_lossy(name))).finish()
    }
}
