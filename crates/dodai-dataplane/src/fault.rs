//! Faults made on purpose: what a caller would see if what it calls were slow, broken or thin.
//!
//! They are drawn for each call where it starts its way, before any try, so no endpoint and no breaker hears of them.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use dodai_core::body::{Body, pipe};
use dodai_core::call::Reply;
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::RequestHead;
use dodai_core::snapshot::{self, FaultAbort};
use dodai_core::trace::random;
use http::{HeaderValue, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::attempt::Terms;
use crate::matcher::Named;
use crate::route::BadRule;
use crate::spine::Forward;
use crate::tally::{Event, Tally};
use crate::worker::Worker;

/// Faults of a rule, compiled.
#[derive(Debug)]
pub struct Fault {
    spec: snapshot::Fault,
    headers: Vec<Named>,
    /// What was done.
    pub tally: Tally,
}

/// What befalls one call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawn {
    /// It waits so long first.
    pub delay: Option<Duration>,
    /// It ends so, without having gone anywhere.
    pub end: Option<End>,
    /// Its answer's body comes at most so fast, in bytes a second.
    pub throttle: Option<u64>,
}

/// How a call ends by a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this status, or this gRPC status for callers of gRPC.
    Status(FaultAbort),
    /// Its connection or stream is cut.
    Reset,
}

impl Fault {
    /// Compiles `spec` of `rule`.
    pub fn compile(rule: &str, spec: &snapshot::Fault) -> Result<Fault, BadRule> {
        let headers = spec.headers.iter().map(|one| Named::compile(rule, one)).collect::<Result<_, _>>()?;
        Ok(Fault { spec: spec.clone(), headers, tally: Tally::default() })
    }

    /// What befalls a call with this head; most often nothing.
    pub fn draw(&self, head: &RequestHead<'_>) -> Option<Box<Drawn>> {
        if !self.headers.iter().all(|named| named.matches(head.header(&named.name))) {
            return None;
        }
        let spec = &self.spec;
        let hits = |share: u16| share > 0 && random() % 10_000 < u64::from(share);
        let mut drawn = Drawn::default();
        if let Some((delay, share)) = spec.delay
            && hits(share)
        {
            drawn.delay = Some(delay);
            self.tally.count(Event::FaultDelayed);
        }
        if spec.reset.is_some_and(hits) {
            drawn.end = Some(End::Reset);
            self.tally.count(Event::FaultReset);
        } else if let Some((abort, share)) = spec.abort
            && hits(share)
        {
            drawn.end = Some(End::Status(abort));
            self.tally.count(Event::FaultAborted);
        } else if let Some((rate, share)) = spec.throttle
            && hits(share)
        {
            drawn.throttle = Some(rate);
            self.tally.count(Event::FaultThrottled);
        }
        (drawn != Drawn::default()).then(|| Box::new(drawn))
    }
}

/// Why a call was ended on purpose.
pub fn failure() -> Failure {
    Failure::new(Kind::FaultInjected, "a policy's `fault` ended this call on purpose")
}

/// The answer to a call that was ended on purpose.
pub fn answer(abort: FaultAbort, is_grpc: bool) -> Reply {
    let (http, grpc) = match abort {
        FaultAbort::Http(status) => (status, Kind::FaultInjected.grpc_status()),
        FaultAbort::Grpc(status) => (Kind::FaultInjected.http_status(), status),
    };
    if is_grpc {
        let mut reply = crate::serve_h2::grpc_failure(&failure());
        reply.head.headers.insert("grpc-status", HeaderValue::from(u16::from(grpc)));
        return reply;
    }
    let mut reply = crate::serve_h2::http_failure(&failure());
    reply.head.status = StatusCode::from_u16(http).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    reply
}

/// Its body.
pub fn text(is_grpc: bool) -> &'static str {
    if is_grpc { "" } else { "dodai: fault_injected: a policy's `fault` ended this call on purpose\n" }
}

/// Does to a call what a fault wants; the answer to it, if it ends.
pub async fn befall(
    worker: &Worker,
    forward: &Forward,
    fault: &Drawn,
    head: &http::request::Parts,
) -> Result<Option<Reply>, Failure> {
    if let Some(delay) = fault.delay {
        let rule = forward.rule.as_ref().map(|rule| &rule.policy);
        let within = Terms::of(rule, &forward.service.spec.policy, &worker.shared.limits).timeout;
        tokio::time::sleep(delay.min(within)).await;
        if delay >= within {
            let text = "the delay of a `fault` was longer than the call may take";
            return Err(Failure::new(Kind::Timeout, text));
        }
    }
    match fault.end {
        None => Ok(None),
        Some(End::Status(abort)) => Ok(Some(answer(abort, RequestHead::Map(head).is_grpc()))),
        // The head goes out with the body's failure behind it, which resets the stream.
        Some(End::Reset) => {
            let (writer, body) = pipe(1, None);
            writer.fail(failure());
            let (head, ()) = http::Response::new(()).into_parts();
            Ok(Some(Reply { head, body }))
        }
    }
}

/// A body that comes at most `rate` bytes a second.
pub fn throttled(body: Body, rate: u64) -> Body {
    if http_body::Body::is_end_stream(&body) {
        return body;
    }
    Body::boxed(Throttled { body, rate: rate.max(1), rest: None, timer: None })
}

/// The longest piece that passes at once, as a share of a second: small enough to be steady.
const PIECES_PER_SECOND: u64 = 20;

struct Throttled {
    body: Body,
    rate: u64,
    rest: Option<Bytes>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Throttled {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = &mut *self;
        if let Some(timer) = &mut this.timer {
            ready!(timer.as_mut().poll(cx));
            this.timer = None;
        }
        let mut data = match this.rest.take() {
            Some(rest) => rest,
            None => match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return Poll::Ready(other),
            },
        };
        let most = usize::try_from((this.rate / PIECES_PER_SECOND).max(1)).unwrap_or(usize::MAX);
        let piece = data.split_to(data.len().min(most));
        if !data.is_empty() {
            this.rest = Some(data);
        }
        let pause = Duration::from_secs_f64(piece.len() as f64 / this.rate as f64);
        this.timer = Some(Box::pin(tokio::time::sleep_until(Instant::now() + pause)));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.rest.as_ref().map_or(0, |rest| rest.len() as u64);
        self.body.size_hint().exact().map_or_else(SizeHint::new, |rest| SizeHint::with_exact(rest + held))
    }
}
