//! HTTP/2 on the wire (RFC 9113) and HPACK (RFC 7541), without I/O: bytes in, streams with heads, data and trailers
//! out, and back.
//!
//! A [`Connection`] is told what arrived and keeps what is to be written; [`Receiving`] and [`Sending`] are the two
//! halves of one stream, for the tasks of calls. Nothing grows without bound: windows bound what is received (small frames
//! are gathered while they wait), the outbox what is to be sent, budgets what a client may make us do for nothing.

mod block;
mod budget;
mod connection;
mod encode;
mod frame;
mod half;
mod hpack;
mod huffman;
mod inbox;
mod message;
mod outbox;
mod peek;
mod receive;
mod send;
mod stream;
#[cfg(test)]
mod tests;

pub use block::Block;
pub use connection::{Connection, Role, Settings};
pub use encode::Encoder;
pub use half::{Gone, Receiving, Sending, Shared};
pub use hpack::{Broken, Decoder};
pub use message::{Malformed, Pseudo, check_request, write_fields, write_request, write_response};
pub use peek::{First, first};
pub use stream::Piece;

/// How a client announces HTTP/2 (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Why a stream or connection ended (RFC 9113 section 7).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reason(pub u32);

impl Reason {
    /// Nothing is wrong.
    pub const NO_ERROR: Reason = Reason(0);
    /// The other side broke the protocol.
    pub const PROTOCOL_ERROR: Reason = Reason(1);
    /// It could not be done.
    pub const INTERNAL_ERROR: Reason = Reason(2);
    /// More was sent than the window allowed.
    pub const FLOW_CONTROL_ERROR: Reason = Reason(3);
    /// A frame for a stream that is done.
    pub const STREAM_CLOSED: Reason = Reason(5);
    /// A frame has a wrong size.
    pub const FRAME_SIZE_ERROR: Reason = Reason(6);
    /// Nothing was done for the stream; it may be tried again.
    pub const REFUSED_STREAM: Reason = Reason(7);
    /// Nobody wants it any more.
    pub const CANCEL: Reason = Reason(8);
    /// A field block cannot be read.
    pub const COMPRESSION_ERROR: Reason = Reason(9);
    /// The other side asks for too much.
    pub const ENHANCE_YOUR_CALM: Reason = Reason(11);
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.0 {
            0 => "NO_ERROR",
            1 => "PROTOCOL_ERROR",
            2 => "INTERNAL_ERROR",
            3 => "FLOW_CONTROL_ERROR",
            4 => "SETTINGS_TIMEOUT",
            5 => "STREAM_CLOSED",
            6 => "FRAME_SIZE_ERROR",
            7 => "REFUSED_STREAM",
            8 => "CANCEL",
            9 => "COMPRESSION_ERROR",
            10 => "CONNECT_ERROR",
            11 => "ENHANCE_YOUR_CALM",
            12 => "INADEQUATE_SECURITY",
            13 => "HTTP_1_1_REQUIRED",
            other => return write!(f, "error {other:#x}"),
        };
        f.write_str(name)
    }
}

impl std::fmt::Debug for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
