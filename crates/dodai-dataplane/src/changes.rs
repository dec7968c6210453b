//! Changes of headers: written out once where every call gets the same, made for a call where they say something of it.
//!
//! What is made is made last, when the filters have let a call through and before it goes anywhere; a rule without such
//! values costs nothing for them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use dodai_core::head::{Edit, Edits, Prepared, RequestHead, Short};
use dodai_core::snapshot::HeaderEdits;
use dodai_core::trace::Span;
use dodai_log::line_format::{self, Field, LineFormat, Piece};
use http::{HeaderName, HeaderValue};

use crate::entry::Entry;
use crate::limits::MAX_MADE;
use crate::route::BadRule;
use crate::spine;

/// Headers that tell where a message ends or who it is for. An edit could make the next hop see another
/// message than we do.
const OURS: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Changes of the headers of a head.
#[derive(Debug)]
pub struct Changes {
    plain: Arc<Prepared>,
    made: Box<[Made]>,
}

/// A header whose value says something of a call.
#[derive(Debug)]
struct Made {
    name: HeaderName,
    value: LineFormat,
    /// Whether it is added beside what is there.
    adds: bool,
}

impl Changes {
    /// Compiles `source` of `rule`.
    pub fn compile(rule: &str, source: &HeaderEdits) -> Result<Changes, BadRule> {
        let bad = |header: &str| BadRule::Header { rule: rule.to_owned(), header: header.to_owned() };
        let name = |text: &str| HeaderName::from_bytes(text.as_bytes()).map_err(|_| bad(text));
        let value = |header: &str, text: &str| {
            HeaderValue::from_str(text).map(|_| Short::from_slice(text.as_bytes())).map_err(|_| bad(header))
        };
        let named = source.set.iter().chain(&source.add).map(|(header, _)| header);
        let made = source.made.iter().map(|one| &one.name);
        if let Some(header) = source
            .remove
            .iter()
            .chain(named)
            .chain(made)
            .find(|header| OURS.iter().any(|ours| header.eq_ignore_ascii_case(ours)))
        {
            return Err(BadRule::Ours { rule: rule.to_owned(), header: header.clone() });
        }
        let mut list = Vec::new();
        for header in &source.remove {
            list.push(Edit::Remove(name(header)?));
        }
        for (header, text) in &source.set {
            list.push(Edit::Set(name(header)?, value(header, text)?));
        }
        for (header, text) in &source.add {
            list.push(Edit::Append(name(header)?, value(header, text)?));
        }
        let made = source.made.iter().map(|one| {
            value(&one.name, &one.value)?;
            let read = LineFormat::parse_value(&one.value).map_err(|_| bad(&one.name))?;
            Ok(Made { name: name(&one.name)?, value: read, adds: one.adds })
        });
        Ok(Changes { plain: Prepared::new(list), made: made.collect::<Result<_, BadRule>>()? })
    }

    /// Those that are the same for every call.
    pub fn plain(&self) -> &Arc<Prepared> {
        &self.plain
    }

    /// Whether some are made for each call.
    pub fn makes(&self) -> bool {
        !self.made.is_empty()
    }

    /// Adds those to `edits` that are made for `call`. A header that would be empty is taken away instead of set, so that
    /// nobody can send it in its place, and is not added.
    pub fn make(&self, call: &Call<'_>, edits: &mut Edits) {
        for one in &self.made {
            let value = call.value(&one.value);
            match (value.is_empty(), one.adds) {
                (false, false) => edits.push(Edit::Set(one.name.clone(), value)),
                (false, true) => edits.push(Edit::Append(one.name.clone(), value)),
                (true, false) => edits.push(Edit::Remove(one.name.clone())),
                (true, true) => {}
            }
        }
    }
}

/// What values say something of.
pub struct Call<'a> {
    /// How it came in.
    pub entry: &'a Entry<'a>,
    /// Its head as it came.
    pub head: &'a RequestHead<'a>,
    /// What has changed in it since.
    pub changed: &'a Edits,
    /// The rule that matched; empty if there is none.
    pub route: &'a str,
}

impl Call<'_> {
    fn value(&self, format: &LineFormat) -> Short {
        let mut out = Short::new();
        for piece in format.pieces() {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Field(field) => self.field(*field, &mut out),
                Piece::Request(names, most) => {
                    let found = names.iter().find_map(|name| self.header(name)).unwrap_or_default();
                    out.extend_from_slice(&found[..found.len().min(most.unwrap_or(MAX_MADE))]);
                }
                // A value that names one is refused when it is read.
                Piece::Response(..) => {}
            }
        }
        out.truncate(MAX_MADE);
        // What others say of themselves must not end a header.
        for byte in out.iter_mut().filter(|byte| (**byte < b' ' && **byte != b'\t') || **byte == 127) {
            *byte = b'?';
        }
        out
    }

    /// A header, as it has become by now; method, path and authority as they came.
    fn header(&self, name: &str) -> Option<&[u8]> {
        let own = match name {
            ":method" => self.head.method(),
            ":path" => self.head.target(),
            ":authority" => self.head.authority(),
            ":scheme" if self.entry.is_https(self.head) => "https",
            ":scheme" => "http",
            name => return self.changed.value(name, self.head.header(name)),
        };
        Some(own.as_bytes()).filter(|own| !own.is_empty())
    }

    fn field(&self, field: Field, out: &mut Short) {
        let entry = self.entry;
        let client = entry.client.unwrap_or_default();
        let certificate = entry.certified.map(|certified| &certified.certificate);
        let mut put = |text: &str| out.extend_from_slice(text.as_bytes());
        match field {
            Field::StartTime => put(&line_format::time(SystemTime::now())),
            Field::RouteName => put(self.route),
            Field::DownstreamRemoteAddress => match client.parse::<IpAddr>() {
                Ok(IpAddr::V6(_)) => put(&format!("[{client}]:{}", entry.port)),
                Ok(IpAddr::V4(_)) => put(&format!("{client}:{}", entry.port)),
                Err(_) => {}
            },
            Field::DownstreamRemoteAddressWithoutPort => put(client),
            Field::DownstreamPeerUriSan => {
                put(entry.facts.and_then(|facts| facts.identity()).map_or("", |identity| identity));
            }
            Field::DownstreamPeerSubject => put(certificate.map_or("", |one| &one.subject)),
            Field::DownstreamTlsVersion => {
                if let Some(version) = entry.facts.and_then(|facts| facts.tls()) {
                    put("TLSv");
                    put(version);
                }
            }
            Field::TraceId => {
                let parent = self.header("traceparent").and_then(Span::parse);
                put(&parent.map(|span| format!("{:032x}", span.trace)).unwrap_or_default());
            }
            Field::DodaiCaller => put(&spine::caller_label(entry.caller)),
            Field::DodaiDirection => put(spine::direction(&entry.listener.role).as_str()),
            Field::DodaiListener => put(&entry.listener.name),
            Field::Protocol
            | Field::ResponseCode
            | Field::ResponseCodeDetails
            | Field::ResponseFlags
            | Field::ResponseFlagsLong
            | Field::BytesReceived
            | Field::BytesSent
            | Field::Duration
            | Field::ResponseDuration
            | Field::ResponseTxDuration
            | Field::UpstreamHost
            | Field::UpstreamCluster
            | Field::UpstreamRequestAttemptCount
            | Field::UpstreamTransportFailureReason
            | Field::GrpcStatus
            | Field::DodaiRevision => {}
        }
    }
}
