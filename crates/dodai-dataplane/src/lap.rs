//! What is known of a call while it is under way, and its record at the end.
//!
//! Counting a call is a few atomic adds; a record with owned strings is built only for a sink that wants it.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dodai_core::body::Body;
use dodai_core::call::{Caller, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::RequestHead;
use dodai_core::id::{AppId, ServiceId};
use dodai_core::record::{MAX_METHOD, MAX_TEXT, Record, Sink, clipped};
use dodai_core::snapshot::Listener;
use dodai_core::trace::Span;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::filter::{Known, Seen};
use crate::live;
use crate::request::Side;
use crate::route::Rule;
use crate::service::{Endpoint, Service};
use crate::stats::{Direction, Labels, Names, Series};
use crate::worker::{Shared, Worker};

/// What is known of a call while it is under way, for its record.
#[derive(Clone)]
pub struct Lap {
    /// The lap.
    pub direction: Direction,
    /// Who calls.
    pub caller: Arc<str>,
    /// When the head was complete.
    pub start: Instant,
    /// The span.
    pub span: Span,
}

/// How a call ended.
#[derive(Clone, Default)]
pub struct Outcome {
    /// The status sent; 0 if none could be.
    pub status: u16,
    /// Why we answered ourselves.
    pub failure: Option<Failure>,
    /// Tries after the first.
    pub retries: u32,
    /// Body bytes from the caller.
    pub received: u64,
    /// Body bytes to the caller.
    pub sent: u64,
    /// When the response head came.
    pub first_byte: Option<Duration>,
    /// The same as a time.
    pub answered_at: Option<Instant>,
    /// The gRPC status, if it is known.
    pub grpc_status: Option<u8>,
    /// The endpoint and revision of the last try.
    pub endpoint: Option<Arc<Endpoint>>,
}

impl Outcome {
    /// The response head is there.
    pub fn answered(&mut self, lap: &Lap) {
        let now = Instant::now();
        self.answered_at = Some(now);
        self.first_byte = Some(now.saturating_duration_since(lap.start));
    }
}

/// What the access log says of the request.
pub struct Line<'a> {
    /// The listener's name.
    pub listener: &'a str,
    /// The method.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// The authority.
    pub authority: &'a str,
    /// The protocol.
    pub protocol: &'static str,
}

impl Lap {
    /// A lap that starts now.
    pub fn new(direction: Direction, caller: Arc<str>, span: Span) -> Lap {
        Lap { direction, caller, start: Instant::now(), span }
    }

    /// Counts the call and hands its record to whoever wants it. `line` is only asked for then.
    pub fn finish<'a>(
        &self,
        worker: &Worker,
        service: Option<&Service>,
        rule: Option<&Rule>,
        outcome: &Outcome,
        line: impl FnOnce() -> Line<'a>,
    ) {
        let names = self.names(service, rule);
        worker.count(&names, |series| self.close(&worker.shared.sinks, series, &names, outcome, line));
    }

    /// Like [`Lap::finish`] for a response whose body is still to come: the call ends with it.
    pub fn finish_later(
        &self,
        worker: &Worker,
        service: Option<&Service>,
        rule: Option<&Rule>,
        outcome: Outcome,
        line: Line<'_>,
        received: Option<Arc<AtomicU64>>,
    ) -> Ending {
        let labels = self.names(service, rule).labels();
        Ending {
            shared: worker.shared.clone(),
            series: worker.series(labels.clone()),
            labels,
            lap: self.clone(),
            outcome,
            received,
            watched: None,
            protocol: line.protocol,
            words: [line.listener, line.method, line.target, line.authority].map(str::to_owned),
        }
    }

    fn names<'a>(&'a self, service: Option<&'a Service>, rule: Option<&'a Rule>) -> Names<'a> {
        Names {
            direction: self.direction,
            caller: &self.caller,
            service: service.map_or(&*EMPTY, |service| &service.label),
            route: rule.map_or(&*EMPTY, |rule| &rule.name),
        }
    }

    fn close<'a>(
        &self,
        sinks: &[Arc<dyn Sink>],
        series: &Series,
        names: &Names<'_>,
        outcome: &Outcome,
        line: impl FnOnce() -> Line<'a>,
    ) {
        let took = self.start.elapsed();
        let kind = outcome.failure.as_ref().map(|failure| failure.kind);
        series.record(outcome.status, kind, took, outcome.retries);
        let wanted = |sink: &&Arc<dyn Sink>| sink.wants(&self.span, outcome.status, kind);
        if !sinks.iter().any(|sink| wanted(&sink)) {
            return;
        }
        let line = line();
        let (endpoint, revision) = match &outcome.endpoint {
            Some(endpoint) => (endpoint.label.clone(), endpoint.revision.as_str().into()),
            None => (EMPTY.clone(), EMPTY.clone()),
        };
        let detail = outcome.failure.as_ref().map_or("", |failure| &*failure.detail);
        let record = Arc::new(Record {
            direction: self.direction.as_str(),
            listener: line.listener.into(),
            caller: names.caller.clone(),
            service: names.service.clone(),
            route: names.route.clone(),
            endpoint,
            revision,
            method: clipped(line.method, MAX_METHOD).to_owned(),
            target: clipped(line.target, MAX_TEXT).to_owned(),
            authority: clipped(line.authority, MAX_TEXT).to_owned(),
            protocol: line.protocol,
            status: outcome.status,
            grpc_status: outcome.grpc_status,
            failure: kind,
            detail: clipped(detail, MAX_TEXT).to_owned(),
            received: outcome.received,
            sent: outcome.sent,
            retries: outcome.retries,
            start: SystemTime::now() - took,
            took,
            first_byte: outcome.first_byte,
            span: self.span,
            stations: None,
        });
        for sink in sinks.iter().filter(wanted) {
            sink.record(&record);
        }
    }
}

static EMPTY: LazyLock<Arc<str>> = LazyLock::new(|| "".into());

/// A call that ends with the body of its response, on whatever thread that is read.
pub struct Ending {
    shared: Arc<Shared>,
    series: Arc<Series>,
    labels: Labels,
    lap: Lap,
    outcome: Outcome,
    received: Option<Arc<AtomicU64>>,
    watched: Option<Watched>,
    protocol: &'static str,
    /// Listener, method, target, authority.
    words: [String; 4],
}

/// What a call is looked at again by when there is a new table.
struct Watched {
    epoch: u64,
    listener: Arc<Listener>,
    client: Arc<str>,
}

impl Ending {
    /// Cuts the call when a table that is newer than `epoch` would not let it in.
    pub fn watched(mut self, side: &Side, epoch: u64) -> Ending {
        self.watched = Some(Watched { epoch, listener: side.listener.clone(), client: side.client.clone() });
        self
    }

    /// Whether the newest table would let the call in, as far as can be said of it by now.
    fn review(&mut self) -> Result<(), Failure> {
        let Some(watched) = &mut self.watched else { return Ok(()) };
        let epoch = self.shared.epoch.load(Relaxed);
        if watched.epoch == epoch {
            return Ok(());
        }
        watched.epoch = epoch;
        let [_, method, target, authority] = &self.words;
        let uri =
            http::Uri::builder().scheme("http").authority(authority.as_str()).path_and_query(target.as_str());
        let uri = uri.build().or_else(|_| target.parse());
        let request = http::Request::builder().method(method.as_str());
        let Ok(request) = request.uri(uri.unwrap_or_default()).body(()) else { return Ok(()) };
        let (parts, ()) = request.into_parts();
        let caller = match &*self.labels.caller {
            "base" => Caller::Base,
            text => AppId::parse(text).map_or(Caller::Outside, Caller::App),
        };
        let seen = Seen {
            head: RequestHead::Map(&parts),
            caller: &caller,
            client: Some(&*watched.client).filter(|client| !client.is_empty()),
            now: Instant::now(),
            known: Known::Line,
        };
        let service = ServiceId::parse(&self.labels.service).ok();
        live::still_allowed(&self.shared.table.load(), &watched.listener, service.as_ref(), &seen)
    }

    /// Ends the call now if the reply has no body, else with it.
    pub fn with(mut self, reply: Reply) -> Reply {
        self.outcome.grpc_status = grpc_status(&reply.head.headers);
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
        let [listener, method, target, authority] = &self.words;
        let line = || Line { listener, method, target, authority, protocol: self.protocol };
        let Labels { direction, caller, service, route } = &self.labels;
        let names = Names { direction: *direction, caller, service, route };
        self.lap.close(&self.shared.sinks, &self.series, &names, &self.outcome, line);
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
        if let (Some(ending), Some(Ok(_))) = (&mut self.ending, &frame)
            && let Err(failure) = ending.review()
        {
            // What carries on below is closed too.
            self.body = Body::empty();
            frame = Some(Err(failure));
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
