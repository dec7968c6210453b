//! Where the answer of one call goes: first a head to whoever waits, then bytes into a body.

use bytes::{Bytes, BytesMut};
use dodai_core::body::{self, Body, CREDIT, Writer};
use dodai_core::call::Reply;
use dodai_core::failure::{Failure, Kind};
use futures_util::FutureExt;
use http::HeaderMap;
use http_body_util::BodyExt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use wasmtime_wasi_http::WasiBody;

/// The far end of one call, in whichever state it is.
pub(crate) enum Outlet {
    /// Somebody waits for the head.
    Waiting(oneshot::Sender<Result<Reply, Failure>>),
    /// The head went out, the body goes on.
    Streaming(Writer),
    /// Everything went out.
    Done,
}

/// How a body ended.
pub(crate) enum Pumped {
    /// Whole, with or without trailers.
    Whole(Option<HeaderMap>),
    /// The caller went away.
    Gone,
    /// The guest gave it up or left it unfinished.
    Unfinished,
}

impl Outlet {
    /// Ends when nobody waits for the head any more.
    pub(crate) async fn gone(&mut self) {
        match self {
            Outlet::Waiting(reply) => reply.closed().await,
            Outlet::Streaming(writer) => writer.cancelled().await,
            Outlet::Done => std::future::pending().await,
        }
    }

    /// Sends a whole answer.
    pub(crate) fn reply(&mut self, head: http::response::Parts, body: Body) {
        if let Outlet::Waiting(reply) = std::mem::replace(self, Outlet::Done) {
            // A caller that went away in this moment needs no answer.
            let _ = reply.send(Ok(Reply { head, body }));
        }
    }

    /// Sends the head; the body follows through [`Outlet::poll_pump`].
    pub(crate) fn begin(&mut self, head: http::response::Parts) {
        let length = head
            .headers
            .get(http::header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let (writer, body) = body::pipe(CREDIT, length);
        self.reply(head, body);
        *self = Outlet::Streaming(writer);
    }

    /// Moves what the guest wrote to the caller, at most the pipe's credit ahead of it. `guest_done` says
    /// that nothing more will be written.
    pub(crate) fn poll_pump(
        &mut self,
        from: &mut WasiBody,
        guest_done: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Pumped> {
        let Outlet::Streaming(writer) = self else { return Poll::Ready(Pumped::Gone) };
        loop {
            match writer.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Pumped::Gone),
                Poll::Pending => return Poll::Pending,
            }
            let frame = match Pin::new(&mut from.frame()).poll(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Pumped::Unfinished),
                Poll::Ready(None) => return Poll::Ready(Pumped::Whole(None)),
                Poll::Pending if guest_done => return Poll::Ready(Pumped::Unfinished),
                Poll::Pending => return pin!(writer.cancelled()).poll(cx).map(|()| Pumped::Gone),
            };
            match frame.into_data() {
                Ok(data) => {
                    if writer.push(data).is_err() {
                        return Poll::Ready(Pumped::Gone);
                    }
                }
                Err(frame) => return Poll::Ready(Pumped::Whole(frame.into_trailers().ok())),
            }
        }
    }

    /// Queues bytes without waiting for room.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if let Outlet::Streaming(writer) = self {
            // A caller that went away in this moment needs no body.
            let _ = writer.push(bytes);
        }
    }

    /// Ends the body.
    pub(crate) fn finish(&mut self, trailers: Option<HeaderMap>) {
        if let Outlet::Streaming(writer) = std::mem::replace(self, Outlet::Done) {
            writer.finish(trailers);
        }
    }

    /// Tells the caller that the call failed, in whichever state it is.
    pub(crate) fn fail(self, failure: Failure) {
        match self {
            Outlet::Waiting(reply) => drop(reply.send(Err(failure))),
            Outlet::Streaming(writer) => writer.fail(failure),
            Outlet::Done => {}
        }
    }
}

/// The whole body of a guest that has returned; `None` if it did not end it.
pub(crate) fn take_whole(body: &mut WasiBody) -> Option<(Bytes, Option<HeaderMap>)> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    loop {
        // Nobody writes any more: what is not there now will not come.
        match body.frame().now_or_never()? {
            None => return Some((join(first, all), None)),
            Some(Err(_)) => return None,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if first.is_empty() => first = data,
                Ok(data) => {
                    if all.is_empty() {
                        all.extend_from_slice(&first);
                    }
                    all.extend_from_slice(&data);
                }
                Err(frame) => return Some((join(first, all), frame.into_trailers().ok())),
            },
        }
    }
}

/// The common body is one chunk, which is not copied.
fn join(first: Bytes, all: BytesMut) -> Bytes {
    if all.is_empty() { first } else { all.freeze() }
}

/// The failure of a guest that left its response without an end.
pub(crate) fn unfinished(name: &str) -> Failure {
    Failure::new(Kind::Protocol, format!("{name} returned without finishing its response body"))
}
