//! Bytes in and out of a TCP socket, by the kernel's own interface.
//!
//! The C library's `recv` and `send` are points where a thread may be cancelled, and pay for that in a process of
//! several threads: 3 % of a relayed call. Otherwise this is what `tokio` does, with its rule that a read or write
//! which moved less than it could leaves nothing more to do until the kernel says so.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Reads into `buf`. Cancel safe.
pub(crate) fn poll_read(
    tcp: &mut TcpStream,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    if buf.initialized().len() < buf.capacity() {
        // What was never written to is not lent out here.
        return Pin::new(tcp).poll_read(cx, buf);
    }
    loop {
        ready!(tcp.poll_read_ready(cx))?;
        let space = buf.initialize_unfilled();
        let room = space.len();
        let moved = moved(tcp, Interest::READABLE, room, || {
            rustix::net::recv(&*tcp, &mut *space, RecvFlags::empty()).map(|(got, _)| got)
        });
        match moved {
            Ok(got) => {
                buf.advance(got);
                return Poll::Ready(Ok(()));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// Writes some of `bytes`. Cancel safe.
pub(crate) fn poll_write(tcp: &TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        let send = || rustix::net::send(tcp, bytes, SendFlags::NOSIGNAL);
        match moved(tcp, Interest::WRITABLE, bytes.len(), send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return Poll::Ready(other),
        }
    }
}

/// How many bytes `call` moved of at most `room`.
fn moved(
    tcp: &TcpStream,
    interest: Interest,
    room: usize,
    mut call: impl FnMut() -> Result<usize, Errno>,
) -> io::Result<usize> {
    let mut short = None;
    let tried = tcp.try_io(interest, || {
        let count = loop {
            match call() {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        if count > 0 && count < room {
            // Told as if nothing could be moved, the socket counts as not ready until the kernel says otherwise.
            short = Some(count);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(count)
    });
    short.map_or(tried, Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.expect("connected"), far.expect("accepted").0)
    }

    async fn read(tcp: &mut TcpStream, space: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(space);
        poll_fn(|cx| poll_read(tcp, cx, &mut buf)).await?;
        Ok(buf.filled().len())
    }

    #[tokio::test]
    async fn what_is_written_arrives_in_pieces_of_any_size() {
        let (near, mut far) = pair().await;
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        let all = sent.clone();
        let writing = async move {
            let mut at = 0;
            while at < all.len() {
                at += poll_fn(|cx| poll_write(&near, cx, &all[at..])).await.expect("written");
            }
            drop(near);
        };
        let reading = async move {
            let (mut got, mut space) = (Vec::new(), vec![0; 70_000]);
            for room in [1, 7, 70_000].into_iter().cycle() {
                match read(&mut far, &mut space[..room]).await.expect("read") {
                    0 => break,
                    count => got.extend_from_slice(&space[..count]),
                }
            }
            got
        };
        let ((), got) = tokio::join!(writing, reading);
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    }

    #[tokio::test]
    async fn a_full_socket_waits_until_there_is_room() {
        let (near, mut far) = pair().await;
        let block = vec![1; 1 << 20];
        let mut filled = 0;
        while let Poll::Ready(wrote) = poll_fn(|cx| Poll::Ready(poll_write(&near, cx, &block))).await {
            filled += wrote.expect("written");
        }
        let emptied = async {
            let (mut got, mut space) = (0, vec![0; 1 << 20]);
            while got < filled + 1 {
                got += read(&mut far, &mut space).await.expect("read");
            }
            got
        };
        let written = poll_fn(|cx| poll_write(&near, cx, &block[..1]));
        let (wrote, got) = tokio::join!(written, emptied);
        assert_eq!((wrote.expect("written"), got), (1, filled + 1));
    }

    #[tokio::test]
    async fn an_end_and_a_broken_connection_are_told() {
        let (mut near, mut far) = pair().await;
        far.shutdown().await.expect("shut down");
        assert_eq!(read(&mut near, &mut [0; 8]).await.expect("its end"), 0);
        drop(far);
        let mut broken = None;
        for _ in 0..100 {
            if let Err(error) = poll_fn(|cx| poll_write(&near, cx, b"more")).await {
                broken = Some(error.kind());
                break;
            }
            tokio::task::yield_now().await;
        }
        assert!(
            matches!(broken, Some(io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)),
            "{broken:?}"
        );
    }
}
