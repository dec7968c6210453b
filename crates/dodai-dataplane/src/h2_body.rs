//! Bodies of HTTP/2 streams as pulled bodies, and bodies sent into HTTP/2 streams.
//!
//! Receive capacity is given back to the sender when a frame has been pulled, so a slow reader slows the
//! sender down and nothing piles up here beyond the stream's window.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use dodai_core::body::Body;
use dodai_core::failure::{Failure, Kind};
use h2::{RecvStream, SendStream};
use http_body::{Frame, SizeHint};

use crate::timer::Deadline;

/// The body of a received message. Trailers of more than `most` bytes are a failure of kind `too_large`.
pub fn received(stream: RecvStream, length: Option<u64>, most: usize, too_large: Kind) -> Body {
    if stream.is_end_stream() {
        Body::empty()
    } else {
        Body::boxed(Received { stream, length, data_done: false, most, too_large })
    }
}

/// The length that a message announces.
pub fn announced(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

struct Received {
    stream: RecvStream,
    length: Option<u64>,
    data_done: bool,
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
        if !self.data_done {
            match std::task::ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    let _closed = self.stream.flow_control().release_capacity(data.len());
                    self.length = self.length.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(failure(&error)))),
                None => self.data_done = true,
            }
        }
        match std::task::ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => {
                let size: usize =
                    trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
                let most = self.most;
                Poll::Ready(Some(if size > most {
                    Err(Failure::new(
                        self.too_large,
                        format!("trailers of {size} bytes; at most {most} are taken"),
                    ))
                } else {
                    Ok(Frame::trailers(trailers))
                }))
            }
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(failure(&error)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// What an HTTP/2 error on a stream means.
pub fn failure(error: &h2::Error) -> Failure {
    let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let kind = if refused { Kind::Refused } else { Kind::Reset };
    Failure::new(kind, format!("the HTTP/2 stream ended early: {error}"))
}

/// Sends a body, with its trailers. An error means that the stream is gone; a body that fails resets it, and so
/// does a receiver that takes nothing for as long as `idle`.
pub async fn send(
    mut to: SendStream<Bytes>,
    mut body: Body,
    deadline: &Deadline,
    idle: Duration,
) -> Result<(), Failure> {
    loop {
        let frame = tokio::select! {
            // `frame` is cancel safe, and a reset ends the matter.
            frame = body.frame() => frame,
            reset = poll_fn(|cx| to.poll_reset(cx)) => {
                return Err(Failure::new(Kind::ClientGone, format!("the stream was reset: {reset:?}")));
            }
        };
        match frame {
            None => return to.send_data(Bytes::new(), true).map_err(|error| failure(&error)),
            Some(Err(failure)) => {
                to.send_reset(reset_reason(&failure));
                return Err(failure);
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let end = http_body::Body::is_end_stream(&body);
                    deadline.set(idle);
                    let Some(sent) = deadline.bound(send_data(&mut to, data, end)).await else {
                        to.send_reset(h2::Reason::CANCEL);
                        return Err(Failure::new(Kind::Idle, "the receiver took nothing for too long"));
                    };
                    deadline.clear();
                    sent?;
                    if end {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return to.send_trailers(trailers).map_err(|error| failure(&error));
                    }
                }
            },
        }
    }
}

/// Sends one piece within the receiver's window.
async fn send_data(to: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> Result<(), Failure> {
    let gone = || Failure::new(Kind::ClientGone, "the stream was closed by its receiver");
    if data.is_empty() && end {
        return to.send_data(data, true).map_err(|error| failure(&error));
    }
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let room = match poll_fn(|cx| to.poll_capacity(cx)).await {
            Some(Ok(room)) => room,
            Some(Err(error)) => return Err(failure(&error)),
            None => return Err(gone()),
        };
        let piece = data.split_to(room.min(data.len()));
        let last = end && data.is_empty();
        to.send_data(piece, last).map_err(|error| failure(&error))?;
    }
    Ok(())
}

/// The reset that tells the other side why a body was cut.
fn reset_reason(failure: &Failure) -> h2::Reason {
    let standing_still = [Kind::ClientGone, Kind::Draining, Kind::Idle, Kind::Timeout];
    if standing_still.contains(&failure.kind) { h2::Reason::CANCEL } else { h2::Reason::INTERNAL_ERROR }
}
