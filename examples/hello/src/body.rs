//! Bodies as streams: never more of one in memory than a chunk.

use crate::bindings::wasi::http::types::{IncomingBody, OutgoingBody};
use crate::bindings::wasi::io::streams::{InputStream, OutputStream, StreamError};

const CHUNK: u64 = 64 * 1024;

/// Length and FNV-1a 64 hash of the bytes seen so far.
pub struct Digest {
    /// How many.
    pub length: u64,
    /// Their hash.
    pub hash: u64,
}

impl Default for Digest {
    fn default() -> Digest {
        Digest { length: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }
}

impl Digest {
    /// Takes in more bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Chunk `at` of `/stream`: its number, filled with dots to `size`, the last byte a line end.
pub fn chunk(at: u64, size: usize) -> Vec<u8> {
    let mut bytes = at.to_string().into_bytes();
    bytes.resize(size, b'.');
    bytes[size - 1] = b'\n';
    bytes
}

/// Reads to the end; `false` if the body broke off.
pub fn read(body: IncomingBody, mut each: impl FnMut(&[u8])) -> bool {
    let Ok(stream) = body.stream() else { return false };
    loop {
        match stream.blocking_read(CHUNK) {
            Ok(chunk) => each(&chunk),
            Err(StreamError::Closed) => return true,
            Err(StreamError::LastOperationFailed(_)) => return false,
        }
    }
}

/// Writes all of `bytes` and ends the body.
pub fn write_whole(body: OutgoingBody, bytes: &[u8]) {
    write_chunks(body, std::iter::once(bytes));
}

/// Writes and flushes chunk after chunk and ends the body. One that cannot be written whole is left without an end.
pub fn write_chunks<B: AsRef<[u8]>>(body: OutgoingBody, mut chunks: impl Iterator<Item = B>) {
    let Ok(stream) = body.write() else { return };
    let sent = chunks.try_for_each(|chunk| write_all(&stream, chunk.as_ref()));
    drop(stream);
    if sent.is_ok() {
        let _ = OutgoingBody::finish(body, None);
    }
}

/// Passes a body on. One that breaks off is left without an end, so that the reader sees it.
pub fn copy(from: IncomingBody, to: OutgoingBody) {
    let (Ok(input), Ok(output)) = (from.stream(), to.write()) else { return };
    let copied = copy_stream(&input, &output);
    drop((input, output));
    if copied.is_ok() {
        let _ = OutgoingBody::finish(to, None);
    }
}

fn copy_stream(input: &InputStream, output: &OutputStream) -> Result<(), StreamError> {
    loop {
        match input.blocking_read(CHUNK) {
            Ok(chunk) => write_all(output, &chunk)?,
            Err(StreamError::Closed) => return Ok(()),
            Err(error @ StreamError::LastOperationFailed(_)) => return Err(error),
        }
    }
}

fn write_all(stream: &OutputStream, mut bytes: &[u8]) -> Result<(), StreamError> {
    let ready = stream.subscribe();
    while !bytes.is_empty() {
        let room = stream.check_write()?;
        if room == 0 {
            ready.block();
            continue;
        }
        let now = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        stream.write(&bytes[..now])?;
        bytes = &bytes[now..];
    }
    stream.flush()?;
    ready.block();
    stream.check_write().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a_64_however_the_bytes_come() {
        let mut digest = Digest::default();
        assert_eq!(digest.hash, 0xcbf2_9ce4_8422_2325);
        digest.add(b"foo");
        digest.add(b"bar");
        assert_eq!((digest.length, digest.hash), (6, 0x8594_4171_f739_67e8));
    }

    #[test]
    fn a_chunk_has_its_size_and_a_line_end() {
        assert_eq!(chunk(7, 4), b"7..\n");
        assert_eq!(chunk(12345, 1), b"\n");
    }
}
