//! Whole bodies in and out of WASI streams.

use crate::bindings::wasi::http::types::{IncomingBody, OutgoingBody};
use crate::bindings::wasi::io::streams::{InputStream, OutputStream, StreamError};

const CHUNK: u64 = 64 * 1024;

/// Why a body could not be read.
pub(crate) enum Unread {
    /// It is longer than the limit.
    TooLong,
    /// The other side went away.
    Broken,
}

/// Reads a body of at most `limit` bytes.
pub(crate) fn read(body: IncomingBody, limit: usize) -> Result<Vec<u8>, Unread> {
    let stream: InputStream = body.stream().map_err(|()| Unread::Broken)?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(CHUNK) {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(_)) => return Err(Unread::Broken),
        }
        if bytes.len() > limit {
            return Err(Unread::TooLong);
        }
    }
}

/// Writes a whole body and ends it. A reader that went away is not an error here: nobody is left to tell.
pub(crate) fn write(body: OutgoingBody, bytes: &[u8]) {
    if let Ok(stream) = body.write() {
        let sent = write_all(&stream, bytes);
        drop(stream);
        if sent.is_err() {
            return;
        }
    }
    let _ = OutgoingBody::finish(body, None);
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
    Ok(())
}
