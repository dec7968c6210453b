//! What is known of a call while it is under way, and its record at the end.
//!
//! Counting a call is a few atomic adds; a record with owned strings is built only for a sink that wants it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edits, RawHeader};
use dodai_core::record::{Brief, MAX_METHOD, MAX_TEXT, Record, Sink, Stations, clipped, effective_status};
use dodai_core::trace::Span;
use dodai_log::Logging;
use http::HeaderMap;
use tokio::time::Instant;

use crate::identity::Certified;
use crate::logging;
use crate::route::Rule;
use crate::service::{Endpoint, Service};
use crate::spine::BASE_LABEL;
use crate::stats::{Direction, Ended, Names, Series};
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
    /// When it left each station, if somebody wants to know.
    pub(crate) stations: Option<Box<Cell<Stations>>>,
    /// Response headers that a sink asked for. Here, because a lap lies in a box and an outcome in every connection.
    pub(crate) headers: RefCell<Option<Box<Named>>>,
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

/// Headers by lower-case name.
pub type Named = Vec<(Box<str>, String)>;

impl Outcome {
    /// The response head is there, now.
    pub fn answered(&mut self, lap: &Lap, now: Instant) {
        self.answered_at = Some(now);
        self.first_byte = Some(now.saturating_duration_since(lap.start));
    }
}

/// Where a request came from.
#[derive(Clone, Copy, Default)]
pub struct Origin<'a> {
    /// The client's address, at gateways; empty elsewhere.
    pub client: Option<&'a Arc<str>>,
    /// Its port.
    pub port: u16,
    /// The name it has proven.
    pub identity: Option<&'a Arc<str>>,
    /// The certificate that a gateway's client has shown.
    pub certified: Option<&'a Arc<Certified>>,
    /// The version of TLS.
    pub tls: Option<&'static str>,
}

/// The headers of a request, however it arrived.
#[derive(Clone, Copy, Default)]
pub enum Headers<'a> {
    /// It has none.
    #[default]
    None,
    /// A head as HTTP/1 writes it.
    Text(&'a str),
    /// A parsed head.
    Map(&'a HeaderMap),
    /// Those of a head in place.
    Raw(&'a [RawHeader<'a>]),
    /// Those of an HTTP/2 stream, with what changes in them on their way.
    Edited(&'a [RawHeader<'a>], &'a Edits),
    /// Those that were kept.
    Kept(&'a Named),
}

impl<'a> Headers<'a> {
    /// The first of a name in small letters.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        match self {
            Headers::None => None,
            Headers::Text(head) => {
                let fields = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
                let mut found = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
                found.next().map(|(_, value)| value.trim().as_bytes())
            }
            Headers::Map(map) => map.get(name).map(http::HeaderValue::as_bytes),
            Headers::Raw(all) => {
                all.iter().find(|one| one.name.eq_ignore_ascii_case(name)).map(|one| one.value)
            }
            Headers::Edited(all, edits) => edits.value(name, Headers::Raw(all).get(name)),
            Headers::Kept(all) => {
                all.iter().find(|(kept, _)| **kept == *name).map(|(_, value)| value.as_bytes())
            }
        }
    }
}

/// What the access log says of the request.
pub struct Line<'a> {
    /// The listener's name.
    pub listener: &'a str,
    /// Where it came from.
    pub from: Origin<'a>,
    /// Its headers.
    pub headers: Headers<'a>,
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
    /// A lap that begins at `start`.
    pub fn new(direction: Direction, caller: Arc<str>, span: Span, start: Instant) -> Lap {
        Lap { direction, caller, start, span, stations: None, headers: RefCell::default() }
    }

    /// The route was found at `routed`, and the filters have let the call through by now. Called only where somebody
    /// wants to know.
    #[cold]
    pub fn admitted(&mut self, routed: Option<Instant>) {
        let filter = self.start.elapsed();
        let route = routed.map_or(filter, |at| at.saturating_duration_since(self.start));
        self.stations = Some(Box::new(Cell::new(Stations { route, filter, ..Stations::default() })));
    }

    /// Keeps the headers of a response that some sink asks for.
    pub fn note<'h>(&self, worker: &Worker, find: impl Fn(&str) -> Option<&'h [u8]>) {
        if worker.heeds().response_headers {
            self.keep(&worker.shared, find);
        }
    }

    pub(crate) fn keep<'h>(&self, shared: &Shared, find: impl Fn(&str) -> Option<&'h [u8]>) {
        let table = shared.table.load();
        let named = asked(shared, &table.logged().response, |sink, ask| sink.response_headers(ask), find);
        // In place of those of a try that failed before anything of it was passed on.
        self.headers.replace(Some(Box::new(named)));
    }

    /// A try begins.
    pub fn tried(&self) {
        if let Some(stations) = &self.stations {
            let attempt = self.start.elapsed();
            stations.set(Stations { attempt, endpoint: attempt, ..stations.get() });
        }
    }

    /// The endpoint of the try is reached.
    pub fn reached(&self) {
        if let Some(stations) = &self.stations {
            stations.set(Stations { endpoint: self.start.elapsed(), ..stations.get() });
        }
    }

    /// Tells those who want to know that a tunnel begins.
    pub fn opened<'a>(&self, worker: &Worker, service: Option<&Service>, line: impl FnOnce() -> Line<'a>) {
        if !worker.heeds().openings {
            return;
        }
        let (shared, names) = (&worker.shared, self.names(service, None));
        let outcome = Outcome::default();
        let took = self.start.elapsed();
        let record = self.record(shared, &names, logging::of(service, None), &outcome, took, line());
        let record = Arc::new(Record { is_opening: true, ..record });
        for sink in shared.sinks.iter().filter(|sink| sink.heeds().openings) {
            sink.record(&record);
        }
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
        let (names, logging) = (self.names(service, rule), logging::of(service, rule));
        let took = worker.now().saturating_duration_since(self.start);
        worker
            .count(&names, |series| self.close(&worker.shared, series, &names, logging, outcome, took, line));
    }

    pub(crate) fn names<'a>(&'a self, service: Option<&'a Service>, rule: Option<&'a Rule>) -> Names<'a> {
        Names {
            direction: self.direction,
            caller: &self.caller,
            service: service.map_or(&*EMPTY, |service| &service.label),
            route: rule.map_or(&*EMPTY, |rule| &rule.name),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a call ended with, from two callers")]
    pub(crate) fn close<'a>(
        &self,
        shared: &Shared,
        series: &Series,
        names: &Names<'_>,
        logging: Option<&Arc<Logging>>,
        outcome: &Outcome,
        took: Duration,
        line: impl FnOnce() -> Line<'a>,
    ) {
        let kind = outcome.failure.as_ref().map(|failure| failure.kind);
        // What a base itself asks of an app or brings to it comes again once the app can be reached; nobody called.
        if kind == Some(Kind::NoEndpoint) && &**names.caller == BASE_LABEL {
            return;
        }
        let effective_status = effective_status(outcome.status, outcome.grpc_status);
        let bucket = series.record(&Ended {
            status: outcome.status,
            grpc_status: outcome.grpc_status,
            failure: kind,
            took,
            retries: outcome.retries,
            received: outcome.received,
            sent: outcome.sent,
        });
        // Where the call began: the base of the callee counts no arrival once more.
        if let (Direction::Gateway | Direction::Outbound, Some(endpoint)) =
            (self.direction, &outcome.endpoint)
        {
            endpoint.tally(&shared.stats, names.service).record(effective_status, bucket);
        }
        if self.span.sampled {
            series.exemplify(&self.span, took);
        }
        let brief = Brief {
            span: &self.span,
            effective_status,
            failure: kind,
            took,
            caller: names.caller,
            service: names.service,
            route: names.route,
            logging,
        };
        let sinks = &shared.sinks;
        let wanted = |sink: &&Arc<dyn Sink>| sink.wants(&brief);
        if !sinks.iter().any(|sink| wanted(&sink)) {
            return;
        }
        let record = Arc::new(self.record(shared, names, logging, outcome, took, line()));
        for sink in sinks.iter().filter(wanted) {
            sink.record(&record);
        }
    }

    /// The record of a call that ends now.
    fn record(
        &self,
        shared: &Shared,
        names: &Names<'_>,
        logging: Option<&Arc<Logging>>,
        outcome: &Outcome,
        took: Duration,
        line: Line<'_>,
    ) -> Record {
        let kind = outcome.failure.as_ref().map(|failure| failure.kind);
        let (endpoint, revision) = match &outcome.endpoint {
            Some(endpoint) => (endpoint.label.clone(), endpoint.revision.as_str().into()),
            None => (EMPTY.clone(), EMPTY.clone()),
        };
        let detail = outcome.failure.as_ref().map_or("", |failure| &*failure.detail);
        let (client, port) = (line.from.client.map_or("", |client| &**client), line.from.port);
        let client = match client.contains(':') {
            _ if client.is_empty() => String::new(),
            true => format!("[{client}]:{port}"),
            false => format!("{client}:{port}"),
        };
        let request_headers = requested(shared, &line);
        let first_byte = outcome.first_byte;
        let ended = |stations: Stations| Stations { response: first_byte.unwrap_or(took), ..stations };
        Record {
            direction: self.direction.as_str(),
            listener: line.listener.into(),
            is_opening: false,
            client,
            identity: line.from.identity.unwrap_or(&*EMPTY).clone(),
            subject: line
                .from
                .certified
                .map_or_else(Box::default, |one| one.certificate.subject.as_str().into()),
            tls: line.from.tls.unwrap_or_default(),
            caller: names.caller.clone(),
            service: names.service.clone(),
            route: names.route.clone(),
            endpoint,
            revision,
            method: clipped(line.method, MAX_METHOD).to_owned(),
            target: clipped(line.target, MAX_TEXT).to_owned(),
            authority: clipped(line.authority, MAX_TEXT).to_owned(),
            request_headers,
            response_headers: self.headers.borrow().as_deref().cloned().unwrap_or_default(),
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
            first_byte,
            span: self.span,
            stations: self.stations.as_deref().map(|stations| Box::new(ended(stations.get()))),
            logging: logging.cloned(),
        }
    }
}

/// The headers of a request that are asked for.
pub(crate) fn requested(shared: &Shared, line: &Line<'_>) -> Named {
    let table = shared.table.load();
    let find = |name: &str| line.headers.get(name);
    asked(shared, &table.logged().request, |sink, ask| sink.request_headers(ask), find)
}

/// The headers that sinks and documents ask for, as far as there are any.
fn asked<'h>(
    shared: &Shared,
    declared: &BTreeSet<String>,
    names: impl Fn(&dyn Sink, &mut dyn FnMut(&str)),
    find: impl Fn(&str) -> Option<&'h [u8]>,
) -> Named {
    let mut kept = Named::new();
    let mut ask = |name: &str| {
        if !kept.iter().any(|(known, _)| **known == *name)
            && let Some(value) = find(name)
        {
            let value = String::from_utf8_lossy(value);
            kept.push((name.into(), clipped(&value, MAX_TEXT).to_owned()));
        }
    };
    shared.sinks.iter().for_each(|sink| names(&**sink, &mut ask));
    declared.iter().for_each(|name| ask(name));
    kept
}

static EMPTY: LazyLock<Arc<str>> = LazyLock::new(|| "".into());
