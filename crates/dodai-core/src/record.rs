//! The record of one call: made once at its end, feeding metrics, access log, traces and the console.
//!
//! Metrics take a few fields from the data path directly; a whole [`Record`] with owned strings is built only
//! when some [`Sink`] wants that call.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dodai_log::Logging;

use crate::failure::Kind;
use crate::trace::Span;

/// What happened to one call on one lap of the stations.
#[derive(Clone, Debug)]
pub struct Record {
    /// `gateway`, `outbound`, `inbound` or `api`.
    pub direction: &'static str,
    /// The listener's name, or the crate-internal way in.
    pub listener: Arc<str>,
    /// Whether a tunnel begins here; its end has a record of its own.
    pub is_opening: bool,
    /// The client's address and port, at gateways; empty elsewhere.
    pub client: String,
    /// The name that the other side has proven; empty if it has not.
    pub identity: Arc<str>,
    /// The subject of the certificate that a gateway's client has shown; empty if it has not.
    pub subject: Box<str>,
    /// The version of TLS between the client and this base; empty without.
    pub tls: &'static str,
    /// The caller: an app, `outside` or `base`.
    pub caller: Arc<str>,
    /// The service called; empty when no route matched.
    pub service: Arc<str>,
    /// The rule that matched; empty if the service has none.
    pub route: Arc<str>,
    /// The endpoint of the last try; empty if none was chosen.
    pub endpoint: Arc<str>,
    /// The revision of that endpoint; empty if none was chosen.
    pub revision: Arc<str>,
    /// The method token, cut at [`MAX_METHOD`].
    pub method: String,
    /// Path and query as they arrived, cut at [`MAX_TEXT`].
    pub target: String,
    /// The authority as it arrived, cut at [`MAX_TEXT`].
    pub authority: String,
    /// Request headers that a sink asked for, by lower-case name, cut at [`MAX_TEXT`].
    pub request_headers: Vec<(Box<str>, String)>,
    /// Response headers that a sink asked for.
    pub response_headers: Vec<(Box<str>, String)>,
    /// `HTTP/1.1`, `HTTP/2`, `gRPC`, `TCP`.
    pub protocol: &'static str,
    /// The status sent; 0 when the caller went away first.
    pub status: u16,
    /// The gRPC status, when there was one.
    pub grpc_status: Option<u8>,
    /// Why we answered ourselves, if we did.
    pub failure: Option<Kind>,
    /// The failure's detail, cut at [`MAX_TEXT`].
    pub detail: String,
    /// Body bytes from the caller.
    pub received: u64,
    /// Body bytes to the caller.
    pub sent: u64,
    /// Tries after the first.
    pub retries: u32,
    /// When the head was complete.
    pub start: SystemTime,
    /// From then to the last byte of the response.
    pub took: Duration,
    /// From then to the response head; `None` if there was none from an endpoint.
    pub first_byte: Option<Duration>,
    /// The span of this lap.
    pub span: Span,
    /// When each station was left, counted from `start`; only for sampled or tapped calls.
    pub stations: Option<Box<Stations>>,
    /// What a document says of the access log of such calls, if one does.
    pub logging: Option<Arc<Logging>>,
}

impl Record {
    /// What tells how it went: see [`effective_status`].
    pub fn effective_status(&self) -> u16 {
        effective_status(self.status, self.grpc_status)
    }
}

/// What tells how a call went: the status of HTTP, or where gRPC says that it failed, the status which says the same.
/// Statuses of gRPC by which a caller is at fault, or nobody, are left as they are.
pub fn effective_status(status: u16, grpc_status: Option<u8>) -> u16 {
    match grpc_status {
        // UNKNOWN, INTERNAL, DATA_LOSS
        Some(2 | 13 | 15) => 500,
        // DEADLINE_EXCEEDED
        Some(4) => 504,
        // UNAVAILABLE
        Some(14) => 503,
        Some(_) | None => status,
    }
}

/// When a call left each station, counted from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stations {
    /// The route was found.
    pub route: Duration,
    /// The filters let it through.
    pub filter: Duration,
    /// The last try began.
    pub attempt: Duration,
    /// A connection or instance was ready.
    pub endpoint: Duration,
    /// The response head arrived.
    pub response: Duration,
}

/// What is known of a call that ended before a record is built of it.
#[derive(Clone, Copy, Debug)]
pub struct Brief<'a> {
    /// The span.
    pub span: &'a Span,
    /// The status that tells how it went; 0 when the caller went away first.
    pub effective_status: u16,
    /// Why we answered ourselves, if we did.
    pub failure: Option<Kind>,
    /// How long it took.
    pub took: Duration,
    /// The caller: an app, `outside` or `base`.
    pub caller: &'a str,
    /// The service called.
    pub service: &'a str,
    /// The rule that matched.
    pub route: &'a str,
    /// What a document says of the access log of such calls.
    pub logging: Option<&'a Arc<Logging>>,
}

/// What sinks ask for beyond a plain record. Data-plane threads look it up now and then, so a change counts a moment
/// later; what nobody asks for costs a call nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heeds {
    /// When calls leave each station.
    pub stations: bool,
    /// Request headers; which, [`Sink::request_headers`] says.
    pub request_headers: bool,
    /// Response headers; which, [`Sink::response_headers`] says.
    pub response_headers: bool,
    /// That a tunnel begins.
    pub openings: bool,
}

impl Heeds {
    /// What both ask for together.
    #[must_use]
    pub fn and(self, other: Heeds) -> Heeds {
        Heeds {
            stations: self.stations || other.stations,
            request_headers: self.request_headers || other.request_headers,
            response_headers: self.response_headers || other.response_headers,
            openings: self.openings || other.openings,
        }
    }
}

/// Takes records. Called on data-plane threads: it must not block, and bounds its own queue.
pub trait Sink: Send + Sync {
    /// Whether a record should be built for this call.
    fn wants(&self, call: &Brief<'_>) -> bool;
    /// What it asks for at this moment.
    fn heeds(&self) -> Heeds {
        Heeds::default()
    }
    /// Names the request headers that it asks for, in small letters.
    fn request_headers(&self, _ask: &mut dyn FnMut(&str)) {}
    /// Names the response headers that it asks for, in small letters.
    fn response_headers(&self, _ask: &mut dyn FnMut(&str)) {}
    /// Takes the record, which every sink that wants the call shares; when its queue is full, drops and counts
    /// it.
    fn record(&self, record: &Arc<Record>);
}

/// The longest target, authority or detail of a record, in bytes: a caller chooses them, so a queue bounded by
/// records alone would not bound memory.
pub const MAX_TEXT: usize = 2048;

/// The longest method token of a record, in bytes.
pub const MAX_METHOD: usize = 64;

/// Text cut to at most so many bytes, between two characters.
pub fn clipped(text: &str, most: usize) -> &str {
    if text.len() <= most { text } else { &text[..text.floor_char_boundary(most)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = format!("/{}", "é".repeat(5_000));
        let cut = clipped(&long, MAX_TEXT);
        assert_eq!(cut.len(), MAX_TEXT - 1);
        assert!(cut.ends_with('é'));
        assert_eq!(clipped("GET", MAX_METHOD), "GET");
    }
}
