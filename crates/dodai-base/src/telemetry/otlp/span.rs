//! Call records as OpenTelemetry spans, with the attributes of the HTTP semantic conventions 1.x.
//!
//! One span per lap. A lap belongs to the app for which the base acts: the caller on the way out, the callee
//! on the way in; that app is the resource, so a trace shows the services and not the base between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dodai_core::record::Record;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, status::StatusCode};

use super::Settings;
use crate::telemetry::mask;

/// The flag of W3C trace context that says the trace is sampled.
const SAMPLED: u32 = 1;

/// The methods that may stand in a span as they are; others could be anything a client makes up.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

/// The message for a batch of records.
pub(super) fn request(records: &[Arc<Record>], settings: &Settings, base: &str) -> ExportTraceServiceRequest {
    let mut by_app: BTreeMap<Option<&str>, Vec<Span>> = BTreeMap::new();
    for record in records {
        by_app.entry(app(record)).or_default().push(span(record));
    }
    let scope = InstrumentationScope {
        name: "dodai".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let resource_spans = by_app.into_iter().map(|(app, spans)| ResourceSpans {
        resource: Some(resource(app, settings, base)),
        scope_spans: vec![ScopeSpans { scope: Some(scope.clone()), spans, schema_url: String::new() }],
        schema_url: String::new(),
    });
    ExportTraceServiceRequest { resource_spans: resource_spans.collect() }
}

/// The app `namespace/name` that a lap belongs to; `None` is the base itself.
fn app(record: &Record) -> Option<&str> {
    match record.direction {
        "outbound" | "api" => Some(&*record.caller).filter(|caller| caller.contains('/')),
        "inbound" => callee(record),
        _ => None,
    }
}

/// The app of the service called: `namespace/app/port` without the port.
fn callee(record: &Record) -> Option<&str> {
    record.service.rsplit_once('/').map(|(app, _)| app).filter(|app| app.contains('/'))
}

fn resource(app: Option<&str>, settings: &Settings, base: &str) -> Resource {
    let mut attributes = Vec::new();
    match app.and_then(|app| app.split_once('/')) {
        Some((namespace, name)) => {
            attributes.push(text("service.name", name));
            attributes.push(text("service.namespace", namespace));
        }
        None => attributes.push(text("service.name", &settings.service_name)),
    }
    attributes.push(text("dodai.base", base));
    let known: Vec<String> = attributes.iter().map(|attribute| attribute.key.clone()).collect();
    let more = settings.resource.iter().filter(|(name, _)| !known.contains(name));
    attributes.extend(more.map(|(name, value)| text(name, value)));
    Resource { attributes, ..Resource::default() }
}

fn span(record: &Record) -> Span {
    let lap = &record.span;
    let client = matches!(record.direction, "outbound" | "api");
    let error = error(record, client);
    let status =
        error.as_ref().map(|_| Status { message: record.detail.clone(), code: StatusCode::Error.into() });
    let parent = if lap.parent == 0 { Vec::new() } else { lap.parent.to_be_bytes().to_vec() };
    Span {
        trace_id: lap.trace.to_be_bytes().to_vec(),
        span_id: lap.id.to_be_bytes().to_vec(),
        parent_span_id: parent,
        flags: SAMPLED,
        name: name(record),
        kind: if client { SpanKind::Client } else { SpanKind::Server }.into(),
        start_time_unix_nano: nanos(record.start, Duration::ZERO),
        end_time_unix_nano: nanos(record.start, record.took),
        attributes: attributes(record, error),
        events: events(record),
        status,
        ..Span::default()
    }
}

/// The method and the service: words of which there are few.
fn name(record: &Record) -> String {
    let method = if METHODS.contains(&record.method.as_str()) { record.method.as_str() } else { "HTTP" };
    match &*record.service {
        "" => method.to_owned(),
        service => format!("{method} {service}"),
    }
}

/// What went wrong, if something did: our failure code, or the status (that of gRPC, if it said one). A 4xx is the client's error only.
fn error(record: &Record, client: bool) -> Option<String> {
    let least = if client { 400 } else { 500 };
    match record.failure {
        Some(kind) if client || kind.http_status() >= 499 => Some(kind.code().to_owned()),
        _ if record.effective_status() >= least => {
            Some(record.grpc_status.map_or(record.status, u16::from).to_string())
        }
        _ if record.status == 0 => Some("client_gone".to_owned()),
        _ => None,
    }
}

fn attributes(record: &Record, error: Option<String>) -> Vec<KeyValue> {
    let mut all = Vec::with_capacity(24);
    if METHODS.contains(&record.method.as_str()) {
        all.push(text("http.request.method", &record.method));
    } else {
        all.push(text("http.request.method", "_OTHER"));
        all.push(text("http.request.method_original", &record.method));
    }
    let target = mask::target(&record.target);
    match target.split_once('?') {
        Some((path, query)) => all.extend([text("url.path", path), text("url.query", query)]),
        None => all.push(text("url.path", &target)),
    }
    let authority = record.authority.rsplit_once('@').map_or(&*record.authority, |(_, host)| host);
    if let Ok(authority) = authority.parse::<http::uri::Authority>() {
        all.push(text("server.address", authority.host()));
        all.extend(authority.port_u16().map(|port| whole("server.port", u64::from(port))));
    }
    match record.protocol.split_once('/') {
        Some((name, version)) => {
            all.push(text("network.protocol.name", &name.to_ascii_lowercase()));
            all.push(text("network.protocol.version", version));
        }
        None => all.push(text("network.protocol.name", &record.protocol.to_ascii_lowercase())),
    }
    if record.status != 0 {
        all.push(whole("http.response.status_code", u64::from(record.status)));
    }
    if let Some(status) = record.grpc_status {
        all.push(text("rpc.system", "grpc"));
        all.push(whole("rpc.grpc.status_code", u64::from(status)));
    }
    all.push(whole("http.request.body.size", record.received));
    all.push(whole("http.response.body.size", record.sent));
    if record.retries > 0 {
        all.push(whole("http.request.resend_count", u64::from(record.retries)));
    }
    all.extend(error.map(|error| text("error.type", &error)));
    for (name, value) in [
        ("dodai.direction", record.direction),
        ("dodai.listener", &record.listener),
        ("dodai.caller", &record.caller),
        ("dodai.app", callee(record).unwrap_or("")),
        ("dodai.service", &record.service),
        ("dodai.route", &record.route),
        ("dodai.endpoint", &record.endpoint),
        ("dodai.revision", &record.revision),
    ] {
        if !value.is_empty() {
            all.push(text(name, value));
        }
    }
    all
}

/// When the response began, and when each station was left if that was stamped.
fn events(record: &Record) -> Vec<Event> {
    let event = |name: &str, after: Duration| Event {
        time_unix_nano: nanos(record.start, after),
        name: name.to_owned(),
        ..Event::default()
    };
    let mut events = Vec::new();
    if let Some(stations) = &record.stations {
        events.push(event("dodai.route", stations.route));
        events.push(event("dodai.filter", stations.filter));
        events.push(event("dodai.endpoint", stations.endpoint));
    }
    events.extend(record.first_byte.map(|after| event("dodai.first_byte", after)));
    events
}

fn nanos(at: SystemTime, after: Duration) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default() + after;
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn whole(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
