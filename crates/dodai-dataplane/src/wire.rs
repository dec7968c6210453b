//! Reading and writing on one thread's connections: through the scratch buffer, under a deadline, with both
//! directions of a stream usable at once.
//!
//! A [`Wire`] lends its stream only inside a poll, so a read and a write side can wait at the same time in
//! one task without a lock. Data read lands in the worker's scratch buffer and must be consumed before the
//! next await.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use dodai_transport::stream::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::timer::Deadline;
use crate::worker::Worker;

/// Why waiting on a connection ended without data.
#[derive(Debug)]
pub enum Broken {
    /// The deadline fired.
    TimedOut,
    /// The connection is gone.
    Io(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        Broken::Io(error)
    }
}

/// A connection that both directions of one task share.
pub struct Wire(RefCell<Stream>);

impl Wire {
    /// Wraps a stream.
    pub fn new(stream: Stream) -> Wire {
        Wire(RefCell::new(stream))
    }

    /// The stream again.
    pub fn into_inner(self) -> Stream {
        self.0.into_inner()
    }

    /// Looks at the stream.
    pub fn with<T>(&self, look: impl FnOnce(&mut Stream) -> T) -> T {
        look(&mut self.0.borrow_mut())
    }

    /// Reads into the scratch buffer; 0 means the other side has ended. Cancel safe.
    pub async fn read(&self, worker: &Worker, deadline: &Deadline) -> Result<usize, Broken> {
        poll_fn(|cx| self.poll_read(worker, deadline, cx)).await
    }

    /// One poll of [`Wire::read`].
    pub fn poll_read(
        &self,
        worker: &Worker,
        deadline: &Deadline,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Broken>> {
        let mut scratch = worker.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        match Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Pending if deadline.poll_fired(cx) => Poll::Ready(Err(Broken::TimedOut)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes `bytes` of the scratch buffer; what the socket does not take at once is copied and waited for.
    pub async fn write_scratch(
        &self,
        worker: &Worker,
        range: std::ops::Range<usize>,
        deadline: &Deadline,
    ) -> Result<(), Broken> {
        let wrote = poll_fn(|cx| {
            let scratch = worker.scratch.borrow();
            match Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, &scratch[range.clone()]) {
                Poll::Ready(result) => Poll::Ready(result),
                Poll::Pending => Poll::Ready(Ok(0)),
            }
        })
        .await?;
        if wrote == range.len() {
            return Ok(());
        }
        let rest = worker.scratch.borrow()[range.start + wrote..range.end].to_vec();
        Box::pin(self.write_all(&rest, deadline)).await
    }

    /// Writes a head and then `range` of the scratch buffer, in one system call if the socket takes it.
    pub async fn write_head_and_scratch(
        &self,
        worker: &Worker,
        head: &[u8],
        range: std::ops::Range<usize>,
        deadline: &Deadline,
    ) -> Result<(), Broken> {
        let wrote = poll_fn(|cx| {
            let scratch = worker.scratch.borrow();
            let slices = [IoSlice::new(head), IoSlice::new(&scratch[range.clone()])];
            match Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, &slices) {
                Poll::Ready(result) => Poll::Ready(result),
                Poll::Pending => Poll::Ready(Ok(0)),
            }
        })
        .await?;
        if wrote == head.len() + range.len() {
            return Ok(());
        }
        let mut rest = head.get(wrote..).unwrap_or(&[]).to_vec();
        let body_from = range.start + wrote.saturating_sub(head.len());
        rest.extend_from_slice(&worker.scratch.borrow()[body_from..range.end]);
        Box::pin(self.write_all(&rest, deadline)).await
    }

    /// Writes all of `bytes`. Not cancel safe: part may have been written.
    pub async fn write_all(&self, bytes: &[u8], deadline: &Deadline) -> Result<(), Broken> {
        let mut at = 0;
        poll_fn(|cx| {
            while at < bytes.len() {
                match Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, &bytes[at..]) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(Broken::Io(io::ErrorKind::WriteZero.into())));
                    }
                    Poll::Ready(Ok(wrote)) => at += wrote,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Pending if deadline.poll_fired(cx) => return Poll::Ready(Err(Broken::TimedOut)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Pushes buffered bytes out (TLS).
    pub async fn flush(&self, deadline: &Deadline) -> Result<(), Broken> {
        let flushed = poll_fn(|cx| Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx));
        deadline.bound(flushed).await.ok_or(Broken::TimedOut)?.map_err(Broken::from)
    }

    /// Tells the other side that nothing more comes.
    pub async fn shutdown(&self, deadline: &Deadline) -> Result<(), Broken> {
        let ended = poll_fn(|cx| Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx));
        deadline.bound(ended).await.ok_or(Broken::TimedOut)?.map_err(Broken::from)
    }

    /// Reads until the other side ends or the deadline fires, and throws it away: closing with unread bytes
    /// in the kernel would reset the connection and could take our last response with it.
    pub async fn discard(&self, worker: &Worker, deadline: &Deadline) {
        while !deadline.has_fired() && matches!(self.read(worker, deadline).await, Ok(read) if read > 0) {}
    }
}
