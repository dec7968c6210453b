//! The first message of a TLS client, read without answering it: the host name it wants decides whether TLS
//! ends here or goes through. What was read is read again by whoever gets the stream.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::AsyncReadExt as _;

use super::{HandshakeError, within};
use crate::stream::Stream;

/// A stream of which the client's first message has been read already.
pub struct Early {
    pub(crate) stream: Stream,
    pub(crate) bytes: Vec<u8>,
    /// How many of the bytes have been read again.
    pub(crate) taken: usize,
    pub(crate) server_name: Option<Box<str>>,
    /// Whether it is the first message of TLS that was read.
    pub(crate) is_tls: bool,
}

impl fmt::Debug for Early {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Early").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// What first bytes say that may begin TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// The first message has not come whole.
    More,
    /// The host that the client wants, if it names one.
    Wants(Option<String>),
    /// This is no TLS.
    None,
}

/// Reads the first bytes of a client.
pub fn read(bytes: &[u8]) -> Hello {
    let mut parser = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if parser.read_tls(&mut rest).is_err() {
            return Hello::None;
        }
        match parser.accept() {
            Ok(Some(hello)) => return Hello::Wants(hello.client_hello().server_name().map(str::to_owned)),
            Ok(None) => {}
            Err(_) => return Hello::None,
        }
    }
    Hello::More
}

/// Reads the client's first message, within `timeout`. The stream that comes back begins with that message
/// and knows the name in it. Dropping the future closes the connection.
pub async fn peek(mut stream: Stream, timeout: Duration) -> Result<Stream, HandshakeError> {
    let mut bytes = Vec::with_capacity(1024);
    let read = async {
        let mut parser = Acceptor::default();
        loop {
            let before = bytes.len();
            if stream.read_buf(&mut bytes).await.map_err(HandshakeError::Io)? == 0 {
                return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            let mut fresh = &bytes[before..];
            while !fresh.is_empty() {
                parser.read_tls(&mut fresh).map_err(HandshakeError::Io)?;
                match parser.accept() {
                    Ok(Some(hello)) => return Ok(hello.client_hello().server_name().map(Into::into)),
                    Ok(None) => {}
                    Err((error, _)) => return Err(HandshakeError::refused(&error)),
                }
            }
        }
    };
    match within(timeout, read).await {
        None => Err(HandshakeError::TimedOut(timeout)),
        Some(Err(error)) => Err(error),
        Some(Ok(server_name)) => {
            Ok(Stream::Early(Box::new(Early { stream, bytes, taken: 0, server_name, is_tls: true })))
        }
    }
}
