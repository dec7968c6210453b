//! One connection of an in-memory network: two pipes and who waits at their ends.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::{BUFFER, Faults, Net, lock};

/// Which end of a line: the index of the pipe that it writes into.
const DIALLER: usize = 0;
const LISTENER: usize = 1;

/// One end of a connection.
pub struct Line {
    shared: Arc<Shared>,
    side: usize,
    /// Wakes the reader when a delayed chunk arrives.
    arrival: Option<Pin<Box<Sleep>>>,
    /// Whether dropping it breaks the connection.
    abrupt: bool,
}

pub(super) struct Shared {
    net: Weak<super::Shared>,
    addrs: [SocketAddr; 2],
    delay: Duration,
    pipes: Mutex<[Pipe; 2]>,
}

/// One direction.
#[derive(Default)]
struct Pipe {
    under_way: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// The writer closed it: the reader sees the end after the last byte.
    ended: bool,
    /// The connection broke: the reader sees a reset after the last byte that was under way.
    broken: bool,
    /// The reader went away. What is written next is lost; only then is the writer told, as with TCP, where
    /// the first segment is what provokes the reset.
    unread: bool,
    told: bool,
    /// After so many more bytes the connection breaks.
    left: Option<u64>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wakers(&mut self) -> [Option<Waker>; 2] {
        [self.reader.take(), self.writer.take()]
    }
}

pub(super) fn pair(
    net: Weak<super::Shared>,
    from: SocketAddr,
    to: SocketAddr,
    faults: &Faults,
) -> (Line, Line) {
    let mut pipes = [Pipe::default(), Pipe::default()];
    pipes[DIALLER].left = faults.cut_inbound_after;
    pipes[LISTENER].left = faults.cut_outbound_after;
    let shared = Arc::new(Shared { net, addrs: [from, to], delay: faults.delay, pipes: Mutex::new(pipes) });
    let end = |side| Line { shared: shared.clone(), side, arrival: None, abrupt: false };
    (end(DIALLER), end(LISTENER))
}

impl Shared {
    /// The address that was dialled.
    pub(super) fn listener(&self) -> SocketAddr {
        self.addrs[LISTENER]
    }

    /// Breaks the connection at once. False when it was broken or closed already.
    pub(super) fn reset(&self) -> bool {
        let mut pipes = lock(&self.pipes);
        let live = pipes.iter().any(|pipe| !(pipe.broken || pipe.ended && pipe.under_way.is_empty()));
        for pipe in pipes.iter_mut() {
            pipe.broken = true;
            pipe.under_way.clear();
            pipe.bytes = 0;
        }
        let wakers = [pipes[0].wakers(), pipes[1].wakers()];
        drop(pipes);
        wake(wakers);
        live
    }

    /// Makes both ends look again.
    pub(super) fn wake(&self) {
        let mut pipes = lock(&self.pipes);
        let wakers = [pipes[0].wakers(), pipes[1].wakers()];
        drop(pipes);
        wake(wakers);
    }

    fn is_cut(&self) -> bool {
        let [a, b] = self.addrs.map(|addr| addr.ip());
        self.net.upgrade().is_some_and(|net| Net(net).is_cut(a, b))
    }
}

fn wake(wakers: [[Option<Waker>; 2]; 2]) {
    wakers.into_iter().flatten().flatten().for_each(Waker::wake);
}

impl Line {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether the far end sees a reset behind the last byte when this end is dropped.
    pub fn set_abrupt(&mut self, abrupt: bool) {
        self.abrupt = abrupt;
    }

    /// The address of this end.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.addrs[self.side]
    }

    /// The address of the far end.
    pub fn peer_addr(&self) -> SocketAddr {
        self.shared.addrs[1 - self.side]
    }

    /// Sets the alarm for a chunk that arrives at `when`. Ready if it is there already.
    fn poll_arrival(arrival: &mut Option<Pin<Box<Sleep>>>, when: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if when <= Instant::now() {
            *arrival = None;
            return Poll::Ready(());
        }
        let sleep = arrival.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(when)));
        if sleep.deadline() != when {
            sleep.as_mut().reset(when);
        }
        sleep.as_mut().poll(cx)
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let line = self.get_mut();
        let mut pipes = lock(&line.shared.pipes);
        let pipe = &mut pipes[1 - line.side];
        pipe.reader = Some(cx.waker().clone());
        if line.shared.is_cut() && !pipe.broken {
            return Poll::Pending;
        }
        let Some((when, chunk)) = pipe.under_way.front_mut() else {
            return match (pipe.broken, pipe.ended) {
                (true, _) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                (false, true) => Poll::Ready(Ok(())),
                (false, false) => Poll::Pending,
            };
        };
        if Line::poll_arrival(&mut line.arrival, *when, cx).is_pending() {
            return Poll::Pending;
        }
        let count = chunk.len().min(buf.remaining());
        buf.put_slice(&chunk[..count]);
        chunk.advance(count);
        if chunk.is_empty() {
            pipe.under_way.pop_front();
        }
        pipe.bytes -= count;
        let writer = pipe.writer.take();
        drop(pipes);
        if let Some(writer) = writer {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let line = self.get_mut();
        let mut pipes = lock(&line.shared.pipes);
        let pipe = &mut pipes[line.side];
        if pipe.broken || pipe.told || pipe.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if pipe.unread {
            pipe.told = true;
            return Poll::Ready(Ok(buf.len()));
        }
        let allowed = usize::try_from(pipe.left.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let count = buf.len().min(BUFFER - pipe.bytes).min(allowed);
        if count == 0 && !buf.is_empty() && allowed > 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if count > 0 {
            let arrives = Instant::now() + line.shared.delay;
            pipe.under_way.push_back((arrives, Bytes::copy_from_slice(&buf[..count])));
            pipe.bytes += count;
        }
        pipe.left = pipe.left.map(|left| left - count as u64);
        let cut = pipe.left == Some(0);
        if cut {
            pipes.iter_mut().for_each(|pipe| pipe.broken = true);
        }
        let wakers = if cut {
            [pipes[0].wakers(), pipes[1].wakers()]
        } else {
            [[pipes[line.side].reader.take(), None], [None, None]]
        };
        drop(pipes);
        wake(wakers);
        if count == 0 && !buf.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Poll::Ready(Ok(count))
    }

    /// As a socket does: what is written together arrives together.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).take(BUFFER).collect();
        self.poll_write(cx, &all)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipes = lock(&self.shared.pipes);
        pipes[self.side].ended = true;
        let reader = pipes[self.side].reader.take();
        drop(pipes);
        wake([[reader, None], [None, None]]);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut pipes = lock(&self.shared.pipes);
        pipes[self.side].ended = true;
        pipes[self.side].broken |= self.abrupt;
        pipes[1 - self.side].unread = true;
        let wakers = [pipes[0].wakers(), pipes[1].wakers()];
        drop(pipes);
        wake(wakers);
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({} -> {})", self.local_addr(), self.peer_addr())
    }
}
