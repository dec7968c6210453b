//! Bodies of HTTP/2 streams as pulled bodies, and bodies sent into HTTP/2 streams.
//!
//! The other side may send anew what has been pulled, so a slow reader slows the sender down and nothing piles up here
//! beyond the stream's window.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use dodai_core::body::Body;
use dodai_core::call::tells_identity;
use dodai_core::failure::{Failure, Kind};
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::answer::grpc_message;
use crate::h2::{self, Gone, Piece, Reason, Receiving, Sending};
use crate::h2_head;
use crate::timer::{Deadline, Patience};
use crate::trailers::allowed;

/// The body of a received message. Trailers of more than `most` bytes, or that say who calls, are a failure of kind
/// `too_large`.
pub fn received(from: Receiving, length: Option<u64>, most: usize, too_large: Kind) -> Body {
    if from.is_end() { Body::empty() } else { Body::boxed(Received { from, length, most, too_large }) }
}

/// The length that a message announces.
pub fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

struct Received {
    from: Receiving,
    length: Option<u64>,
    most: usize,
    too_large: Kind,
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let piece = ready!(self.from.poll_piece(cx));
        Poll::Ready(match piece {
            None => None,
            Some(Ok(Piece::Data(data))) => {
                self.length = self.length.map(|left| left.saturating_sub(data.len() as u64));
                Some(Ok(Frame::data(data)))
            }
            Some(Ok(Piece::Trailers(block))) if block.is_oversized() || block.size() > self.most => {
                let most = self.most;
                Some(Err(Failure::new(self.too_large, format!("trailers of more than {most} bytes"))))
            }
            Some(Ok(Piece::Trailers(block))) if block.iter().any(|(name, ..)| tells_identity(name)) => {
                Some(Err(Failure::new(self.too_large, "a trailer says who calls")))
            }
            Some(Ok(Piece::Trailers(block))) => Some(Ok(Frame::trailers(h2_head::fields(&block)))),
            Some(Ok(Piece::Interim(_) | Piece::Head(_))) => {
                Some(Err(Failure::new(Kind::Protocol, "the HTTP/2 stream has two heads")))
            }
            Some(Err(gone)) => Some(Err(failure(gone))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.from.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// What the end of a stream before its time means.
pub fn failure(gone: Gone) -> Failure {
    let kind = match gone {
        Gone::Unseen | Gone::Reset(Reason::REFUSED_STREAM) => Kind::Refused,
        Gone::Broken(_) => Kind::Protocol,
        Gone::Reset(_) | Gone::Lost => Kind::Reset,
    };
    Failure::new(kind, format!("the HTTP/2 stream ended early: {gone}"))
}

/// Sends a body, with its trailers. An error means that the stream is gone; a body that fails resets it, and so
/// does a receiver that does not keep `patience`. `is_grpc` is said of answers only.
pub async fn send(
    to: &mut Sending,
    mut body: Body,
    deadline: &Deadline,
    patience: &Patience,
    is_grpc: bool,
) -> Result<(), Failure> {
    loop {
        match next_frame(to, &mut body).await? {
            None => return send_data(to, Bytes::new(), true, deadline, patience).await,
            Some(Err(failure)) => {
                cut(to, &failure, is_grpc);
                return Err(failure);
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let end = http_body::Body::is_end_stream(&body);
                    send_data(to, data, end, deadline, patience).await?;
                    if end {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        to.head(true, |encoder, out| {
                            h2::write_fields(encoder, out, allowed(h2_head::of_map(&trailers)));
                        });
                        return Ok(());
                    }
                }
            },
        }
    }
}

type Next = Option<Result<Frame<Bytes>, Failure>>;

/// The body's next frame, unless the stream is cut before.
async fn next_frame(to: &mut Sending, body: &mut Body) -> Result<Next, Failure> {
    poll_fn(|cx| {
        if let Poll::Ready(frame) = http_body::Body::poll_frame(Pin::new(&mut *body), cx) {
            return Poll::Ready(Ok(frame));
        }
        let gone = ready!(to.poll_gone(cx));
        Poll::Ready(Err(unread(gone)))
    })
    .await
}

/// Sends one piece within the receiver's window, which must take something of it, again and again.
async fn send_data(
    to: &mut Sending,
    mut data: Bytes,
    end: bool,
    deadline: &Deadline,
    patience: &Patience,
) -> Result<(), Failure> {
    loop {
        let before = data.len();
        deadline.set_at(patience.due());
        let turn = poll_fn(|cx| match to.poll_data(cx, &mut data, end) {
            Poll::Ready(sent) => Poll::Ready(Turn::Done(sent)),
            Poll::Pending if data.len() < before => Poll::Ready(Turn::Some),
            Poll::Pending if deadline.poll_fired(cx) => Poll::Ready(Turn::Nothing),
            Poll::Pending => Poll::Pending,
        })
        .await;
        deadline.clear();
        match turn {
            Turn::Done(sent) => return sent.map_err(unread),
            Turn::Some => {}
            Turn::Nothing => {
                to.reset(Reason::CANCEL);
                return Err(patience.late(Kind::Idle, "the receiver took nothing for too long"));
            }
        }
    }
}

/// How much the receiver took.
enum Turn {
    Done(Result<(), Gone>),
    Some,
    Nothing,
}

fn unread(gone: Gone) -> Failure {
    Failure::new(Kind::ClientGone, format!("nobody reads the stream any more: {gone}"))
}

/// Ends a message that is not whole: with a reset, or where a call of gRPC took too long with trailers that say so.
pub fn cut(to: &mut Sending, failure: &Failure, is_grpc: bool) {
    if is_grpc && failure.kind == Kind::Overtime {
        let (status, text) = (failure.kind.grpc_status().to_string(), grpc_message(&failure.detail));
        let fields = [("grpc-status", &status), ("grpc-message", &text)];
        let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes(), false));
        return to.head(true, |encoder, out| h2::write_fields(encoder, out, fields.into_iter()));
    }
    to.reset(reset_reason(failure));
}

/// The reset that tells the other side why a body was cut.
pub fn reset_reason(failure: &Failure) -> Reason {
    let standing_still = [Kind::ClientGone, Kind::Draining, Kind::Idle, Kind::Overtime, Kind::Timeout];
    if standing_still.contains(&failure.kind) { Reason::CANCEL } else { Reason::INTERNAL_ERROR }
}
