//! A parsed call whose answer has begun: it ends, and is counted, with the body of that, on whatever thread it is read.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use dodai_core::body::Body;
use dodai_core::call::Reply;
use dodai_core::failure::{Failure, Kind};
use dodai_log::Logging;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::identity::Certified;
use crate::lap::{Headers, Lap, Line, Named, Origin, Outcome, requested};
use crate::logging;
use crate::review::Watched;
use crate::route::Rule;
use crate::service::Service;
use crate::stats::{Labels, Names, Series};
use crate::worker::{Shared, Worker};

impl Lap {
    /// Like [`Lap::finish`] for a response whose body is still to come: the call ends with it, or when it is allowed no more
    /// if it is `watched`.
    #[expect(clippy::too_many_arguments, reason = "what a call came to, from two callers")]
    pub fn finish_later(
        &self,
        worker: &Worker,
        service: Option<&Service>,
        rule: Option<&Rule>,
        outcome: Outcome,
        line: Line<'_>,
        received: Option<Arc<AtomicU64>>,
        watched: Option<Arc<Watched>>,
    ) -> Ending {
        let words = match &watched {
            Some(_) => Default::default(),
            None => [line.listener, line.method, line.target, line.authority].map(str::to_owned),
        };
        let labels = self.names(service, rule).labels();
        let headers = match worker.heeds().request_headers {
            true => requested(&worker.shared, &line),
            false => Named::new(),
        };
        Ending {
            notes: worker.heeds().response_headers,
            headers,
            client: line.from.client.cloned(),
            port: line.from.port,
            identity: line.from.identity.cloned(),
            certified: line.from.certified.cloned(),
            tls: line.from.tls,
            shared: worker.shared.clone(),
            logging: logging::of(service, rule).cloned(),
            series: worker.series(labels.clone()),
            labels,
            lap: self.clone(),
            outcome,
            received,
            watched,
            protocol: line.protocol,
            words,
        }
    }
}

/// A call that ends with the body of its response, on whatever thread that is read.
pub struct Ending {
    shared: Arc<Shared>,
    logging: Option<Arc<Logging>>,
    series: Arc<Series>,
    labels: Labels,
    lap: Lap,
    outcome: Outcome,
    received: Option<Arc<AtomicU64>>,
    watched: Option<Arc<Watched>>,
    protocol: &'static str,
    /// Listener, method, target, authority, where they are not those of what is watched.
    words: [String; 4],
    /// Whether headers of the response are asked for.
    notes: bool,
    headers: Named,
    client: Option<Arc<str>>,
    port: u16,
    identity: Option<Arc<str>>,
    certified: Option<Arc<Certified>>,
    tls: Option<&'static str>,
}

impl Ending {
    /// Ends the call now if the reply has no body, else with it.
    pub fn with(mut self, reply: Reply) -> Reply {
        self.outcome.grpc_status = grpc_status(&reply.head.headers);
        if self.notes {
            let find = |name: &str| reply.head.headers.get(name).map(http::HeaderValue::as_bytes);
            self.lap.keep(&self.shared, find);
        }
        if http_body::Body::is_end_stream(&reply.body) {
            self.finish();
            return reply;
        }
        let body = Body::boxed(Counted { body: reply.body, ending: Some(Box::new(self)) });
        Reply { head: reply.head, body }
    }

    fn finish(mut self) {
        if let Some(received) = &self.received {
            self.outcome.received = received.load(Relaxed);
        }
        let [listener, method, target, authority] = match &self.watched {
            Some(call) => {
                let (listener, head) = call.words();
                [listener, head.method(), head.target(), head.authority()]
            }
            None => self.words.each_ref().map(String::as_str),
        };
        let (identity, certified) = (self.identity.as_ref(), self.certified.as_ref());
        let from =
            Origin { client: self.client.as_ref(), port: self.port, identity, certified, tls: self.tls };
        let headers = Headers::Kept(&self.headers);
        let line = || Line { listener, from, headers, method, target, authority, protocol: self.protocol };
        let Labels { direction, caller, service, route } = &self.labels;
        let names = Names { direction: *direction, caller, service, route };
        let (logging, took) = (self.logging.as_ref(), self.lap.start.elapsed());
        self.lap.close(&self.shared, &self.series, &names, logging, &self.outcome, took, line);
    }
}

/// The status in a gRPC response's trailers, or in its head if it has nothing else.
fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// A response body at whose end the call is counted.
struct Counted {
    body: Body,
    ending: Option<Box<Ending>>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let mut frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(call) = self.ending.as_ref().and_then(|ending| ending.watched.as_ref()) {
            let cut = match &frame {
                Some(Ok(_)) => call.review().err(),
                // It may have broken off because the request was cut.
                Some(Err(_)) => call.cut(),
                None => None,
            };
            if let Some(failure) = cut {
                // What carries on below is closed too.
                self.body = Body::empty();
                frame = Some(Err(failure));
            }
        }
        if let Some(ending) = &mut self.ending {
            match &frame {
                Some(Ok(frame)) => {
                    ending.outcome.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
                    if let Some(trailers) = frame.trailers_ref() {
                        ending.outcome.grpc_status = grpc_status(trailers).or(ending.outcome.grpc_status);
                    }
                }
                Some(Err(failure)) => ending.outcome.failure = Some(failure.clone()),
                None => {}
            }
        }
        if !matches!(frame, Some(Ok(_)))
            && let Some(ending) = self.ending.take()
        {
            ending.finish();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(mut ending) = self.ending.take() {
            if !http_body::Body::is_end_stream(&self.body) {
                ending.outcome.failure =
                    Some(Failure::new(Kind::ClientGone, "the caller left before the end"));
            }
            ending.finish();
        }
    }
}
