//! Bodies: a pulled stream of bytes with trailers, the same for all protocols.
//!
//! A [`Body`] is `Send`, so that it can cross from a data-plane thread to a module thread or an API service
//! and back; it implements [`http_body::Body`]. [`pipe`] makes one that another side fills, bounded by a
//! credit in bytes: [`Writer::send`] waits while the reader is behind. Dropping the reader cancels the
//! writer; dropping the writer before [`Writer::finish`] fails the reader, so a cut body is never taken for
//! a whole one.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::failure::{Failure, Kind};

/// The credit of a pipe between threads, in bytes.
pub const CREDIT: usize = 64 * 1024;

/// A body.
pub struct Body(Inner);

enum Inner {
    Empty,
    Full(Bytes),
    Pipe(Reader),
    Boxed { body: Pin<Box<dyn http_body::Body<Data = Bytes, Error = Failure> + Send>> },
}

impl Body {
    /// No bytes, no trailers.
    pub fn empty() -> Body {
        Body(Inner::Empty)
    }

    /// All bytes at once.
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        if bytes.is_empty() { Body::empty() } else { Body(Inner::Full(bytes)) }
    }

    /// Somebody else's body.
    pub fn boxed<B>(body: B) -> Body
    where
        B: http_body::Body<Data = Bytes, Error = Failure> + Send + 'static,
    {
        Body(Inner::Boxed { body: Box::pin(body) })
    }

    /// All bytes, if they are here at once; else the body again.
    pub fn whole(self) -> Result<Bytes, Body> {
        match self.0 {
            Inner::Empty => Ok(Bytes::new()),
            Inner::Full(bytes) => Ok(bytes),
            Inner::Pipe(_) | Inner::Boxed { .. } => Err(self),
        }
    }

    /// The exact length in bytes, when it is known.
    pub fn exact_length(&self) -> Option<u64> {
        http_body::Body::size_hint(self).exact()
    }

    /// The next frame, `None` at the end. Cancel safe.
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, Failure>> {
        poll_fn(|cx| http_body::Body::poll_frame(Pin::new(self), cx)).await
    }

    /// Reads everything, up to `limit` bytes; trailers are dropped.
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, Failure> {
        if let Inner::Full(bytes) = &self.0 {
            return if bytes.len() <= limit { Ok(bytes.clone()) } else { Err(too_large(limit)) };
        }
        let mut all = Vec::new();
        while let Some(frame) = self.frame().await {
            if let Ok(data) = frame?.into_data() {
                if all.len() + data.len() > limit {
                    return Err(too_large(limit));
                }
                all.extend_from_slice(&data);
            }
        }
        Ok(all.into())
    }
}

fn too_large(limit: usize) -> Failure {
    Failure::new(Kind::BodyTooLarge, format!("the body is larger than {limit} bytes"))
}

impl Default for Body {
    fn default() -> Body {
        Body::empty()
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Inner::Empty => f.write_str("Body(empty)"),
            Inner::Full(bytes) => write!(f, "Body({} bytes)", bytes.len()),
            Inner::Pipe(_) | Inner::Boxed { .. } => f.write_str("Body(stream)"),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match &mut self.0 {
            Inner::Empty => Poll::Ready(None),
            Inner::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Inner::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Inner::Pipe(reader) => reader.poll_frame(cx),
            Inner::Boxed { body } => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Empty => true,
            Inner::Full(_) => false,
            Inner::Pipe(reader) => reader.is_end(),
            Inner::Boxed { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Pipe(reader) => reader.length.map_or_else(SizeHint::new, SizeHint::with_exact),
            Inner::Boxed { body } => body.size_hint(),
        }
    }
}

#[derive(Default)]
struct State {
    frames: VecDeque<Frame<Bytes>>,
    queued: usize,
    finished: bool,
    failure: Option<Failure>,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Shared {
    credit: usize,
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Reader {
    shared: Arc<Shared>,
    length: Option<u64>,
}

/// The side of a [`pipe`] that fills the body.
pub struct Writer(Arc<Shared>);

/// The reader of a [`pipe`] went away: whoever wanted the body no longer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled;

/// A body that the returned writer fills. At most `credit` bytes (or one larger chunk) are queued.
/// `length` is the exact length when it is known beforehand.
pub fn pipe(credit: usize, length: Option<u64>) -> (Writer, Body) {
    let shared = Arc::new(Shared { credit, state: Mutex::default() });
    (Writer(shared.clone()), Body(Inner::Pipe(Reader { shared, length })))
}

impl Writer {
    /// Waits until there is room for more bytes, or the reader is gone. Cancel safe.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cancelled>> {
        let mut state = self.0.lock();
        if state.reader_gone {
            return Poll::Ready(Err(Cancelled));
        }
        if state.queued < self.0.credit {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Queues `bytes` without waiting; call after [`Writer::poll_ready`] said yes.
    pub fn push(&mut self, bytes: Bytes) -> Result<(), Cancelled> {
        let mut state = self.0.lock();
        if state.reader_gone {
            return Err(Cancelled);
        }
        if !bytes.is_empty() {
            state.queued += bytes.len();
            state.frames.push_back(Frame::data(bytes));
            wake(&mut state.reader);
        }
        Ok(())
    }

    /// Waits for room, then queues `bytes`. Cancel safe: when dropped before it is done, nothing was queued.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), Cancelled> {
        poll_fn(|cx| self.poll_ready(cx)).await?;
        self.push(bytes)
    }

    /// Ends when the reader is gone. Cancel safe.
    pub async fn cancelled(&mut self) {
        poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.reader_gone {
                return Poll::Ready(());
            }
            state.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends the body, with trailers if there are any.
    pub fn finish(self, trailers: Option<HeaderMap>) {
        let mut state = self.0.lock();
        if let Some(trailers) = trailers {
            state.frames.push_back(Frame::trailers(trailers));
        }
        state.finished = true;
        wake(&mut state.reader);
    }

    /// Cuts the body: the reader gets `failure` after what was queued.
    pub fn fail(self, failure: Failure) {
        let mut state = self.0.lock();
        state.failure = Some(failure);
        wake(&mut state.reader);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if !state.finished && state.failure.is_none() {
            state.failure = Some(Failure::new(Kind::Reset, "the body was cut before its end"));
        }
        wake(&mut state.reader);
    }
}

impl Reader {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let mut state = self.shared.lock();
        if let Some(frame) = state.frames.pop_front() {
            if let Some(data) = frame.data_ref() {
                state.queued -= data.len();
                wake(&mut state.writer);
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        if state.finished {
            return Poll::Ready(None);
        }
        if let Some(failure) = &state.failure {
            return Poll::Ready(Some(Err(failure.clone())));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end(&self) -> bool {
        let state = self.shared.lock();
        state.finished && state.frames.is_empty()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.reader_gone = true;
        state.frames.clear();
        wake(&mut state.writer);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn bytes_and_trailers_arrive_in_order() {
        let (mut writer, mut body) = pipe(8, None);
        writer.send(Bytes::from_static(b"ab")).await.expect("room");
        writer.send(Bytes::from_static(b"cd")).await.expect("room");
        let trailers =
            HeaderMap::from_iter([(http::HeaderName::from_static("a"), http::HeaderValue::from_static("1"))]);
        writer.finish(Some(trailers.clone()));
        let mut data = Vec::new();
        let mut got = None;
        while let Some(frame) = body.frame().await {
            match frame.expect("whole").into_data() {
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => got = frame.into_trailers().ok(),
            }
        }
        assert_eq!((data.as_slice(), got), (b"abcd".as_slice(), Some(trailers)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_waits_for_a_slow_reader() {
        let (mut writer, mut body) = pipe(4, None);
        writer.send(Bytes::from_static(b"12345")).await.expect("one chunk may exceed the credit");
        let blocked =
            tokio::time::timeout(Duration::from_secs(1), writer.send(Bytes::from_static(b"6"))).await;
        assert!(blocked.is_err());
        body.frame().await.expect("a frame").expect("whole");
        writer.send(Bytes::from_static(b"6")).await.expect("room again");
    }

    #[tokio::test]
    async fn a_dropped_writer_is_a_failure_and_a_dropped_reader_a_cancellation() {
        let (writer, mut body) = pipe(4, None);
        drop(writer);
        assert_eq!(body.frame().await.expect("an answer").expect_err("cut").kind, Kind::Reset);
        let (mut writer, body) = pipe(4, None);
        drop(body);
        assert_eq!(writer.send(Bytes::from_static(b"x")).await, Err(Cancelled));
    }

    #[tokio::test]
    async fn collect_stops_at_the_limit() {
        assert_eq!(Body::full("abc").collect(3).await.expect("fits"), "abc");
        assert_eq!(Body::full("abcd").collect(3).await.expect_err("too large").kind, Kind::BodyTooLarge);
    }
}
