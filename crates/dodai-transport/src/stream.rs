//! A byte stream with an address: plain TCP, an in-memory line, or TLS over either, of which the first message
//! may have been looked at.
//!
//! Plain streams stay small, since a base holds many; the state of TLS is boxed. Reading and writing are as
//! cancel safe as `tokio`'s: a dropped `read` or `write` has moved no bytes.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::identity::PeerIdentity;
use crate::lives::Life;
use crate::memory::Line;
use crate::socket;
use crate::tls::Alpn;
use crate::tls::hello::Early;

/// How long the far side of a tunnel is silent before it is asked whether it is there.
pub const PEER_SILENT: Duration = Duration::from_secs(60);
/// Between two further questions.
const PEER_ASKED: Duration = Duration::from_secs(10);

/// A connection.
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A line of an in-memory network.
    Memory(Line),
    /// TLS over one of the others.
    Tls(Box<Tls>),
    /// One of the others, with the first bytes of its client put back.
    Early(Box<Early>),
}

/// A TLS connection and what its handshake brought to light.
pub struct Tls {
    pub(crate) stream: TlsStream<Stream>,
    pub(crate) identity: Option<PeerIdentity>,
    /// Where both sides proved who they are: whether that still holds.
    pub(crate) life: Option<Arc<Life>>,
    pub(crate) alpn: Option<Alpn>,
    pub(crate) server_name: Option<Box<str>>,
}

impl Stream {
    /// The address of the far side.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Stream::Tcp(tcp) => tcp.peer_addr(),
            Stream::Memory(line) => Ok(line.peer_addr()),
            Stream::Tls(tls) => tls.stream.get_ref().0.peer_addr(),
            Stream::Early(early) => early.stream.peer_addr(),
        }
    }

    /// The address of this side.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Stream::Tcp(tcp) => tcp.local_addr(),
            Stream::Memory(line) => Ok(line.local_addr()),
            Stream::Tls(tls) => tls.stream.get_ref().0.local_addr(),
            Stream::Early(early) => early.stream.local_addr(),
        }
    }

    /// Who the far side has proven to be. Nobody without mesh TLS.
    pub fn identity(&self) -> Option<&PeerIdentity> {
        self.tls().and_then(|tls| tls.identity.as_ref())
    }

    /// The certificate that the far side has shown and that was found good.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.tls()?.stream.get_ref().1.peer_certificates()?.first()
    }

    /// The protocol agreed on during the handshake.
    pub fn alpn(&self) -> Option<Alpn> {
        self.tls().and_then(|tls| tls.alpn)
    }

    /// The version of TLS agreed on during the handshake, such as `1.3`.
    pub fn tls_version(&self) -> Option<&'static str> {
        let (_, connection) = self.tls()?.stream.get_ref();
        // There are but two that are offered here.
        let is_newer = connection.protocol_version()? == rustls::ProtocolVersion::TLSv1_3;
        Some(if is_newer { "1.3" } else { "1.2" })
    }

    /// The host name that the dialling side named during the handshake, or wants in one that goes through.
    pub fn server_name(&self) -> Option<&str> {
        match self {
            Stream::Tls(tls) => tls.server_name.as_deref(),
            Stream::Early(early) => early.server_name.as_deref(),
            Stream::Tcp(_) | Stream::Memory(_) => None,
        }
    }

    /// Whether it should take no further call: a certificate that it was made with has expired or is revoked.
    pub fn is_retiring(&self) -> bool {
        self.tls().and_then(|tls| tls.life.as_ref()).is_some_and(|life| life.is_retiring())
    }

    /// Whether it is encrypted, and the key is ours.
    pub fn is_tls(&self) -> bool {
        self.tls().is_some()
    }

    /// Whether it is encrypted, and the key is the client's and somebody else's: the first message was looked at.
    pub fn passes_tls(&self) -> bool {
        matches!(self, Stream::Early(early) if early.is_tls)
    }

    /// The same with `bytes`, which were read from it, put back.
    #[must_use]
    pub fn with_early(self, bytes: Vec<u8>) -> Stream {
        if bytes.is_empty() {
            return self;
        }
        let early = Early { stream: self, bytes, taken: 0, server_name: None, is_tls: false };
        Stream::Early(Box::new(early))
    }

    /// Closes it at once: the far side gets a reset, as if nobody had listened.
    pub fn abort(mut self) {
        self.set_abrupt(true);
    }

    /// Whether the far side gets a reset when this end is dropped, and not an end in order.
    pub fn set_abrupt(&mut self, abrupt: bool) {
        match self {
            // Where it fails, the connection is gone already.
            Stream::Tcp(tcp) => {
                let _ = socket2::SockRef::from(&*tcp).set_linger(abrupt.then_some(Duration::ZERO));
            }
            Stream::Memory(line) => line.set_abrupt(abrupt),
            Stream::Tls(tls) => tls.stream.get_mut().0.set_abrupt(abrupt),
            Stream::Early(early) => early.stream.set_abrupt(abrupt),
        }
    }

    /// Lets the kernel ask a silent far side whether it is still there, from [`PEER_SILENT`] on. For tunnels, whose
    /// silence says nothing: one whose far side vanished without a word would else stay for as long as it may be idle.
    pub fn watch_peer(&self) {
        let alive =
            socket2::TcpKeepalive::new().with_time(PEER_SILENT).with_interval(PEER_ASKED).with_retries(6);
        if let Some(tcp) = self.socket() {
            // Where it fails, the connection is gone already.
            let _ = socket2::SockRef::from(tcp).set_tcp_keepalive(&alive);
        }
    }

    /// The socket under all layers.
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(tcp) => Some(tcp),
            Stream::Tls(tls) => tls.stream.get_ref().0.socket(),
            Stream::Early(early) => early.stream.socket(),
            Stream::Memory(_) => None,
        }
    }

    /// The socket, where bytes of the stream are bytes of the socket: for splice and socket options.
    pub fn as_tcp(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(tcp) => Some(tcp),
            Stream::Memory(_) | Stream::Tls(_) | Stream::Early(_) => None,
        }
    }

    fn tls(&self) -> Option<&Tls> {
        match self {
            Stream::Tls(tls) => Some(tls),
            Stream::Tcp(_) | Stream::Memory(_) | Stream::Early(_) => None,
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Stream {
        Stream::Tcp(tcp)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Stream::Tcp(_) => "tcp",
            Stream::Memory(_) => "memory",
            Stream::Tls(_) => "tls",
            Stream::Early(_) => "early",
        };
        let peer = self.peer_addr().map_or_else(|_| "gone".to_owned(), |peer| peer.to_string());
        write!(f, "Stream({kind} {peer})")
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => socket::poll_read(tcp, cx, buf),
            Stream::Memory(line) => Pin::new(line).poll_read(cx, buf),
            Stream::Tls(tls) => tls.poll_read(cx, buf),
            Stream::Early(early) => early.poll_read(cx, buf),
        }
    }
}

impl Tls {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(life) = &self.life else { return Pin::new(&mut self.stream).poll_read(cx, buf) };
        if life.is_cut() {
            return Poll::Ready(Err(revoked()));
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_pending() && life.wait_read(cx.waker()) { Poll::Ready(Err(revoked())) } else { read }
    }

    /// Writes, unless the connection is cut; one that waits is woken when it is.
    fn guarded<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TlsStream<Stream>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.life.as_ref().is_some_and(|life| life.is_cut()) {
            return Poll::Ready(Err(revoked()));
        }
        let written = write(Pin::new(&mut self.stream), cx);
        let is_cut = |life: &Arc<Life>| life.wait_write(cx.waker());
        if written.is_pending() && self.life.as_ref().is_some_and(is_cut) {
            return Poll::Ready(Err(revoked()));
        }
        written
    }
}

fn revoked() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the peer's certificate was revoked")
}

impl Early {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.taken == self.bytes.len() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = buf.remaining().min(self.bytes.len() - self.taken);
        buf.put_slice(&self.bytes[self.taken..self.taken + count]);
        self.taken += count;
        if self.taken == self.bytes.len() {
            // The first message is kept no longer than needed.
            (self.bytes, self.taken) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => socket::poll_write(tcp, cx, buf),
            Stream::Memory(line) => Pin::new(line).poll_write(cx, buf),
            Stream::Tls(tls) => tls.guarded(cx, |stream, cx| stream.poll_write(cx, buf)),
            Stream::Early(early) => Pin::new(&mut early.stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Stream::Memory(line) => Pin::new(line).poll_write_vectored(cx, bufs),
            Stream::Tls(tls) => tls.guarded(cx, |stream, cx| stream.poll_write_vectored(cx, bufs)),
            Stream::Early(early) => Pin::new(&mut early.stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(tcp) => tcp.is_write_vectored(),
            Stream::Memory(line) => line.is_write_vectored(),
            Stream::Tls(tls) => tls.stream.is_write_vectored(),
            Stream::Early(early) => early.stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Memory(line) => Pin::new(line).poll_flush(cx),
            Stream::Tls(tls) => tls.guarded(cx, |stream, cx| stream.poll_flush(cx)),
            Stream::Early(early) => Pin::new(&mut early.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Memory(line) => Pin::new(line).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(&mut tls.stream).poll_shutdown(cx),
            Stream::Early(early) => Pin::new(&mut early.stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_connection_stays_small() {
        let size = size_of::<Stream>();
        assert!(size <= 48, "{size}");
    }

    #[tokio::test]
    async fn the_peer_of_a_tunnel_is_watched_under_every_layer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let far = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let stream = Stream::from(far).with_early(b"early".to_vec());
        let socket = |stream: &Stream| socket2::SockRef::from(stream.socket().expect("TCP")).keepalive();
        assert!(!socket(&stream).expect("told"));
        stream.watch_peer();
        assert!(socket(&stream).expect("told"));
    }
}
