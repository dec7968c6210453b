//! HTTP/1.1 on the wire (RFC 9112), without I/O: bytes in, borrowed heads and body lengths out.
//!
//! Heads stay the bytes that arrived; forwarding copies runs of them around the lines that change. What two
//! parsers could read differently is refused rather than repaired.

mod chunk;
mod flow;
mod head;
mod lines;
mod wide;
mod write;

pub use chunk::{BadChunk, Chunks, Fed};
pub use flow::{Flow, parse_trailers};
pub(crate) use head::well_formed_authority;
pub use head::{
    BadHead, Framing, HeaderList, Parsed, RequestLine, ResponseHead, parse_request, parse_response,
};
pub use write::{
    write_local_map, write_local_response, write_map_request, write_map_response, write_request,
    write_response,
};
