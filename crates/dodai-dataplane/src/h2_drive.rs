//! Moves bytes between a socket and an HTTP/2 connection.
//!
//! Reads land in a buffer that the thread's connections share. What calls have put into the outbox goes out together
//! when the driver is polled next, which is after the calls that one read woke have run: one write for many messages.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use dodai_transport::stream::Stream;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::h2;
use crate::timer::Deadline;
use crate::worker::Worker;

/// The size of the shared read buffer.
const READ: usize = 64 * 1024;
/// Reads in a row before others get their turn.
const READS: usize = 4;
/// Pieces of one write.
const SLICES: usize = 32;

/// A socket and its connection.
pub struct Driver {
    stream: Stream,
    at: h2::Shared,
    /// The beginning of a frame that has not arrived whole.
    rest: Vec<u8>,
    read: u64,
    wrote: u64,
    flush: bool,
    /// Whether the socket is of no more use.
    gone: bool,
}

impl Driver {
    /// A driver for `at`; `early` are bytes that were read from `stream` already.
    pub fn new(stream: Stream, at: h2::Shared, early: Vec<u8>) -> Driver {
        Driver { stream, at, rest: early, read: 0, wrote: 0, flush: false, gone: false }
    }

    /// Whether the connection should take no further call; see [`Stream::is_retiring`].
    pub fn is_retiring(&self) -> bool {
        self.stream.is_retiring()
    }

    /// Bytes that came in all.
    pub fn read(&self) -> u64 {
        self.read
    }

    /// Bytes that came in, and that went out.
    pub fn passed(&self) -> (u64, u64) {
        (self.read, self.wrote)
    }

    /// Moves what can be moved now. Ready when the connection is over. Cancel safe.
    pub fn poll(&mut self, worker: &Worker, cx: &mut Context<'_>) -> Poll<()> {
        let wrote = self.poll_write(cx);
        {
            let mut connection = self.at.lock();
            if let Poll::Ready(Err(_)) = wrote {
                self.gone = true;
                connection.lost();
                return Poll::Ready(());
            }
            if connection.failed().is_some() {
                return if connection.outbox().is_empty() { Poll::Ready(()) } else { Poll::Pending };
            }
            if connection.is_finished() {
                return Poll::Ready(());
            }
            connection.set_driver(cx.waker());
        }
        let read = self.poll_read(worker, cx);
        let mut connection = self.at.lock();
        if let Poll::Ready(Err(_)) = read {
            self.gone = true;
            connection.lost();
            return Poll::Ready(());
        }
        // What reading brought about, and what the calls that it woke will bring about, goes out together.
        let more = !connection.outbox().is_empty() && wrote.is_ready();
        if read.is_ready() || more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Ends our side and waits a moment for the other side's end: closed with bytes unread, the socket would take back
    /// what was written last.
    pub async fn linger(mut self, deadline: &Deadline, within: Duration) {
        if self.gone {
            return;
        }
        deadline.set(within);
        let ending = async {
            let mut rest = [0; 512];
            if self.stream.shutdown().await.is_ok() {
                while matches!(self.stream.read(&mut rest).await, Ok(1..)) {}
            }
        };
        // Who does not end in time is cut.
        let _in_time = deadline.bound(ending).await;
    }

    /// Writes what waits. Ready when nothing does.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut connection = self.at.lock();
        while !connection.outbox().is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = connection.outbox().slices(&mut slices);
            let stream = Pin::new(&mut self.stream);
            let wrote = match &slices[..filled] {
                [one] => ready!(stream.poll_write(cx, one)),
                many => ready!(stream.poll_write_vectored(cx, many)),
            }?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            connection.wrote(wrote);
            self.wrote += wrote as u64;
            self.flush = self.stream.is_tls();
        }
        if self.flush {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what is there. Ready when there may be more, or the other side has closed.
    fn poll_read(&mut self, worker: &Worker, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut input = std::mem::take(&mut *worker.input.borrow_mut());
        let end = self.read_into(&mut input, worker, cx);
        if !input.is_empty() {
            self.rest = input.to_vec();
            input.clear();
        }
        *worker.input.borrow_mut() = input;
        end
    }

    fn read_into(
        &mut self,
        input: &mut BytesMut,
        worker: &Worker,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let early = self.read == 0 && !self.rest.is_empty();
        input.extend_from_slice(&std::mem::take(&mut self.rest));
        if early {
            self.take(input, worker);
        }
        for _ in 0..READS {
            input.reserve(READ - input.len().min(READ / 2));
            let got = ready!(pin!(self.stream.read_buf(input)).poll(cx))?;
            if got == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.read += got as u64;
            self.take(input, worker);
        }
        Poll::Ready(Ok(()))
    }

    fn take(&self, input: &mut BytesMut, worker: &Worker) {
        let mut connection = self.at.lock();
        connection.receive(input, worker.ticked());
        if connection.failed().is_some() {
            // Nothing of it is looked at any more.
            input.advance(input.len());
        }
    }
}
