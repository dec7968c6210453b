//! Bodies that carry a rule with them: a limit, an idle timeout, or that a call is in flight.

use std::pin::Pin;
use std::task::{Context as Poller, Poll};

use bytes::Bytes;
use dodai_core::body::Body;
use dodai_core::call::Reply;
use dodai_core::failure::{Failure, Kind};
use http_body::Frame;

use crate::timer::Patience;

/// Refuses a body that is too long, at once if its length is known.
pub fn limit(body: Body, max: Option<u64>) -> Result<Body, Failure> {
    let Some(max) = max else { return Ok(body) };
    match body.exact_length() {
        Some(length) if length > max => Err(Failure::new(
            Kind::BodyTooLarge,
            format!("the body is {length} bytes; at most {max} are allowed here"),
        )),
        Some(_) => Ok(body),
        None => Ok(Body::boxed(Limited { body, left: max })),
    }
}

/// A reply whose body keeps something alive until it is dropped: a count of calls in flight, a stream.
pub fn guarded<G: Send + Unpin + 'static>(reply: Reply, guard: Option<G>) -> Reply {
    let Some(guard) = guard else { return reply };
    if http_body::Body::is_end_stream(&reply.body) {
        return reply;
    }
    Reply { head: reply.head, body: Body::boxed(Guarded { body: reply.body, _guard: guard }) }
}

/// A reply whose body may not stand still for too long, nor take too long altogether. One that is here whole is left as
/// it is. Who writes it is told when it must be through.
pub fn timed(reply: Reply, patience: Patience) -> Reply {
    let Reply { mut head, body } = reply;
    if patience.end.is_some() {
        head.extensions.insert(patience);
    }
    match body.whole() {
        Ok(bytes) => Reply { head, body: Body::full(bytes) },
        Err(body) => Reply { head, body: Body::boxed(Timed { body, patience, timer: None, waiting: false }) },
    }
}

struct Guarded<G> {
    body: Body,
    _guard: G,
}

struct Limited {
    body: Body,
    left: u64,
}

struct Timed {
    body: Body,
    patience: Patience,
    /// Most bodies never wait, so there is none before one does.
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    waiting: bool,
}

type Framed = Poll<Option<Result<Frame<Bytes>, Failure>>>;

impl<G: Unpin> http_body::Body for Guarded<G> {
    type Data = Bytes;
    type Error = Failure;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Framed {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Failure;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Framed {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                let failure = Failure::new(Kind::BodyTooLarge, "the body is larger than this route allows");
                return Poll::Ready(Some(Err(failure)));
            };
            self.left = left;
        }
        Poll::Ready(frame)
    }
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = Failure;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Framed {
        let this = &mut *self;
        let late =
            |patience: &Patience| patience.late(Kind::Idle, "the response body stood still for too long");
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.waiting = false;
            let is_data = matches!(&frame, Some(Ok(frame)) if frame.is_data());
            return Poll::Ready(if is_data && this.patience.is_over() {
                Some(Err(late(&this.patience)))
            } else {
                frame
            });
        }
        let until = this.patience.due();
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if !this.waiting {
            timer.as_mut().reset(until);
            this.waiting = true;
        }
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(late(&this.patience)))),
            Poll::Pending => Poll::Pending,
        }
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
