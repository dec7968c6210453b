//! Request bodies that can be sent again: what passes is kept, up to a limit, until the call is committed.
//!
//! A try gets a [`Replay::lend`] of the body; the next try's starts over with what was kept and goes on with
//! what has not come yet. Once more than the limit has passed, nothing is kept and there is no further try.
//! Always holds: only what was lent last reads on; [`Replay::recall`] makes sure of it before a further try is
//! settled, or a try that is being given up could read the beginning away under the next.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use dodai_core::body::Body;
use dodai_core::failure::{Failure, Kind};
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::limits::KEPT_PIECES;
use crate::review::Watched;

struct Kept {
    body: Body,
    length: Option<u64>,
    data: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    bytes: usize,
    ended: bool,
    /// Too much has passed, or the call is committed: nothing is kept any more.
    lost: bool,
    /// Goes up when what was lent is taken back.
    turn: u32,
    /// The call, which may be allowed no more.
    watched: Option<Arc<Watched>>,
}

/// A body that several tries share, one after another.
pub struct Replay {
    kept: Arc<Mutex<Kept>>,
    limit: usize,
    received: Arc<AtomicU64>,
}

impl Replay {
    /// Keeps up to `limit` bytes of `body`, which ends with a failure when its call is allowed no more.
    pub fn new(body: Body, limit: usize, watched: Option<Arc<Watched>>) -> Replay {
        let length = body.exact_length();
        let ended = http_body::Body::is_end_stream(&body);
        let (data, trailers) = (Vec::new(), None);
        let kept = Kept { body, length, data, trailers, bytes: 0, ended, lost: false, turn: 0, watched };
        Replay { kept: Arc::new(Mutex::new(kept)), limit, received: Arc::default() }
    }

    /// The body from its start. What was lent before must have been taken back.
    pub fn lend(&self) -> Body {
        let (length, turn) = {
            let kept = self.lock();
            (kept.length, kept.turn)
        };
        if length == Some(0) {
            return Body::empty();
        }
        let (kept, received) = (self.kept.clone(), self.received.clone());
        Body::boxed(Lent { kept, limit: self.limit, received, at: 0, trailers_sent: false, turn })
    }

    /// Takes back what was lent, which reads nothing any more. Says whether the body can be lent again.
    pub fn recall(&self) -> bool {
        let mut kept = self.lock();
        let is_cut = kept.watched.as_ref().is_some_and(|call| call.cut().is_some());
        if kept.lost || is_cut {
            return false;
        }
        kept.turn += 1;
        true
    }

    /// How many bytes have come so far; goes on counting.
    pub fn received(&self) -> Arc<AtomicU64> {
        self.received.clone()
    }

    /// Whether the body can be lent again.
    pub fn is_whole(&self) -> bool {
        !self.lock().lost
    }

    /// No further try: keeps nothing from now on.
    pub fn commit(&self) {
        let mut kept = self.lock();
        // What the current reader has not taken yet is still needed; it stands at the end of what is kept.
        kept.lost = true;
    }

    /// All bytes, when the whole body is here and ended.
    pub fn copy(&self) -> Option<Bytes> {
        let kept = self.lock();
        let ended = kept.ended || http_body::Body::is_end_stream(&kept.body);
        if !ended || kept.lost || kept.trailers.is_some() {
            return None;
        }
        match kept.data.as_slice() {
            [one] => Some(one.clone()),
            many => Some(many.concat().into()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Lent {
    kept: Arc<Mutex<Kept>>,
    limit: usize,
    received: Arc<AtomicU64>,
    at: usize,
    trailers_sent: bool,
    turn: u32,
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let shared = self.kept.clone();
        let mut kept = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.turn != self.turn {
            return Poll::Ready(Some(Err(Failure::new(Kind::Reset, "the body went to another try"))));
        }
        if let Some(data) = kept.data.get(self.at).cloned() {
            self.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if kept.ended {
            let trailers = if self.trailers_sent { None } else { kept.trailers.clone() };
            self.trailers_sent = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = match std::task::ready!(Pin::new(&mut kept.body).poll_frame(cx)) {
            None => {
                kept.ended = true;
                return Poll::Ready(None);
            }
            Some(Err(failure)) => return Poll::Ready(Some(Err(failure))),
            Some(Ok(frame)) => frame,
        };
        if let Some(Err(failure)) = kept.watched.as_ref().map(|call| call.review()) {
            return Poll::Ready(Some(Err(failure)));
        }
        if let Some(data) = frame.data_ref() {
            self.received.fetch_add(data.len() as u64, Relaxed);
            let pieces = kept.data.len() + 1;
            if kept.lost || kept.bytes + data.len() > self.limit || pieces > KEPT_PIECES {
                kept.lost = true;
                kept.data = Vec::new();
                self.at = 0;
            } else {
                kept.bytes += data.len();
                kept.data.push(data.clone());
                self.at += 1;
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            kept.trailers = Some(trailers.clone());
            kept.ended = true;
            self.trailers_sent = true;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let unread = self.at < kept.data.len() || (kept.trailers.is_some() && !self.trailers_sent);
        !unread && (kept.ended || http_body::Body::is_end_stream(&kept.body))
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dodai_core::body::pipe;

    async fn read(body: &mut Body) -> (Vec<u8>, Option<HeaderMap>) {
        let (mut data, mut trailers) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            match frame.expect("whole").into_data() {
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        (data, trailers)
    }

    #[tokio::test]
    async fn the_second_try_gets_what_the_first_saw_and_the_rest() {
        let (mut writer, body) = pipe(64, None);
        let replay = Replay::new(body, 64, None);
        writer.send(Bytes::from_static(b"one")).await.expect("room");
        let mut first = replay.lend();
        assert_eq!(first.frame().await.expect("a frame").expect("whole").into_data().expect("data"), "one");
        drop(first);
        assert!(replay.recall());
        writer.send(Bytes::from_static(b"two")).await.expect("room");
        let trailers =
            HeaderMap::from_iter([(http::HeaderName::from_static("a"), http::HeaderValue::from_static("1"))]);
        writer.finish(Some(trailers.clone()));
        assert!(replay.is_whole());
        assert_eq!(read(&mut replay.lend()).await, (b"onetwo".to_vec(), Some(trailers.clone())));
        assert_eq!(read(&mut replay.lend()).await, (b"onetwo".to_vec(), Some(trailers)));
    }

    #[tokio::test]
    async fn a_try_that_is_given_up_reads_nothing_away() {
        let (mut writer, body) = pipe(64, None);
        let replay = Replay::new(body, 4, None);
        writer.send(Bytes::from_static(b"abc")).await.expect("room");
        let mut first = replay.lend();
        assert_eq!(first.frame().await.expect("a frame").expect("whole").into_data().expect("data"), "abc");
        assert!(replay.recall());
        writer.send(Bytes::from_static(b"defgh")).await.expect("room");
        writer.finish(None);
        assert!(first.frame().await.expect("an answer").is_err(), "it is another try's");
        assert_eq!(read(&mut replay.lend()).await.0, b"abcdefgh");
        assert!(!replay.recall(), "too much has passed");
    }

    #[tokio::test]
    async fn beyond_the_limit_nothing_is_kept_and_nothing_is_lost() {
        let (mut writer, body) = pipe(64, None);
        let replay = Replay::new(body, 4, None);
        for piece in ["ab", "cd", "ef", "gh"] {
            writer.send(Bytes::from_static(piece.as_bytes())).await.expect("room");
        }
        writer.finish(None);
        assert_eq!(read(&mut replay.lend()).await.0, b"abcdefgh");
        assert!(!replay.is_whole());
    }

    #[tokio::test]
    async fn so_many_pieces_are_kept_and_no_more() {
        for (pieces, whole) in [(KEPT_PIECES, true), (KEPT_PIECES + 1, false)] {
            let (mut writer, body) = pipe(pieces, None);
            let replay = Replay::new(body, 2 * pieces, None);
            for _ in 0..pieces {
                writer.send(Bytes::from_static(b"a")).await.expect("room");
            }
            writer.finish(None);
            assert_eq!(read(&mut replay.lend()).await.0, vec![b'a'; pieces]);
            assert_eq!(replay.is_whole(), whole, "{pieces} pieces");
        }
    }

    #[tokio::test]
    async fn a_whole_body_is_copied_without_reading_it_twice() {
        let replay = Replay::new(Body::full("abc"), 64, None);
        assert_eq!(replay.copy(), None, "not read yet");
        assert_eq!(read(&mut replay.lend()).await.0, b"abc");
        assert_eq!(replay.copy().expect("whole"), "abc");
        assert_eq!(read(&mut Replay::new(Body::empty(), 64, None).lend()).await.0, b"");
    }
}
