//! The spine: takes a head through route and filter, and says what to do with the call.
//!
//! Both ways of carrying a call (bytes relayed between two HTTP/1 connections, and parsed messages for
//! everything else) come through [`admit`]; neither decides anything itself. A call between two apps of one
//! base passes twice: once as outbound of the caller, once as inbound of the callee.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dodai_core::call::{Caller, FAILURE_HEADER, HOPS_HEADER, MAX_HOPS};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edits, RequestHead, Short, port_of};
use dodai_core::id::RevisionId;
use dodai_core::record::Record;
use dodai_core::snapshot::{Action, Backend, Listener, Role};
use dodai_core::trace::{Span, random};
use http::HeaderName;
use tokio::time::Instant;

use crate::filter::{self, Effects, Filter};
use crate::route::{self, Rule};
use crate::service::Service;
use crate::stats::{Direction, Labels};
use crate::table::Table;
use crate::worker::Worker;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// How a call came in.
pub struct Entry<'a> {
    /// The listener, or the in-process way in.
    pub listener: &'a Listener,
    /// Who calls.
    pub caller: &'a Caller,
    /// The client's address in text, for gateways.
    pub client: Option<&'a str>,
    /// Whether the client's side is encrypted.
    pub secure: bool,
}

/// What becomes of a call.
pub enum Decision {
    /// It is sent to a service.
    Forward(Box<Forward>),
    /// It goes to a host outside the mesh.
    External(Box<Effects>),
    /// It is answered here.
    Answer(Box<Local>),
    /// It is for the runtime API of the caller.
    Api,
}

/// A call that is sent on.
pub struct Forward {
    /// To this service.
    pub service: Arc<Service>,
    /// By this rule, if the service or gateway has any.
    pub rule: Option<Arc<Rule>>,
    /// Only to this revision.
    pub revision: Option<RevisionId>,
    /// With these changes.
    pub effects: Effects,
    /// Only to instances of this base.
    pub local_only: bool,
}

/// An answer that needs no endpoint.
pub struct Local {
    /// The status.
    pub status: u16,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// The body.
    pub body: String,
    /// The rule that gave it.
    pub rule: Arc<Rule>,
}

/// The direction of calls on a listener.
pub fn direction(role: &Role) -> Direction {
    match role {
        Role::Gateway { .. } => Direction::Gateway,
        Role::Outbound { .. } | Role::OutboundTcp { .. } => Direction::Outbound,
        Role::Mesh => Direction::Inbound,
        Role::Api { .. } => Direction::Api,
    }
}

/// The span of a hop: a child of the caller's, or a new trace.
pub fn span(head: &RequestHead<'_>, worker: &Worker) -> Span {
    let share = u64::from(worker.shared.sample_per_ten_thousand);
    Span::for_hop(head.header("traceparent"), || random() % 10_000 < share)
}

/// Stations route and filter.
pub fn admit(table: &Table, entry: &Entry<'_>, head: &RequestHead<'_>, span: &Span) -> Result<Decision, Failure> {
    let mut effects = Effects::default();
    mark(&mut effects.request, entry, head, span)?;
    match &entry.listener.role {
        Role::Gateway { routes } => {
            let router = table.router(routes).ok_or_else(|| no_route(head))?;
            let rule = router.route(head).ok_or_else(|| no_route(head))?;
            apply(table, entry, head, rule, effects)
        }
        Role::Outbound { app } => {
            let (host, port) = (head.host(), port_of(head.authority()));
            let Some(service) = table.resolve(host, port, app.namespace.as_str()) else {
                return outside(table, host, port, app.namespace.as_str(), effects);
            };
            if service.rules.is_empty() {
                return Ok(forward(service.clone(), None, None, effects, false));
            }
            let rule = route::route(&service.rules, head).ok_or_else(|| no_route(head))?;
            apply(table, entry, head, rule, effects)
        }
        Role::OutboundTcp { service, .. } => {
            let service = table.service(service).ok_or_else(|| no_route(head))?;
            Ok(forward(service.clone(), None, None, effects, false))
        }
        Role::Mesh => {
            let host = head.host();
            let (name, namespace) = host.split_once('.').unwrap_or((host, ""));
            let service = table.resolve(name, port_of(head.authority()), namespace).ok_or_else(|| no_route(head))?;
            Ok(forward(service.clone(), None, None, effects, true))
        }
        Role::Api { .. } => Err(Failure::new(Kind::Internal, "an API listener has no routes")),
    }
}

/// A name that no service has: a mistake if it looks like one of ours, else a host outside the mesh.
fn outside(table: &Table, host: &str, port: Option<u16>, namespace: &str, effects: Effects) -> Result<Decision, Failure> {
    if table.knows(host, namespace) {
        let port = port.unwrap_or_default();
        return Err(Failure::new(Kind::NoRoute, format!("{host} has no service on port {port}")));
    }
    if !host.contains(['.', ':']) && host != "localhost" {
        return Err(Failure::new(
            Kind::NoRoute,
            format!("no app named `{host}` is known in namespace {namespace}; check the name, or write name.namespace"),
        ));
    }
    Ok(Decision::External(Box::new(effects)))
}

fn no_route(head: &RequestHead<'_>) -> Failure {
    Failure::new(Kind::NoRoute, format!("no route matches {} {}{}", head.method(), head.authority(), head.path()))
}

/// What every hop adds: the trace, the hop count and, at a gateway, where the call came from.
fn mark(edits: &mut Edits, entry: &Entry<'_>, head: &RequestHead<'_>, span: &Span) -> Result<(), Failure> {
    edits.set(TRACEPARENT, &span.traceparent());
    let hops = head.header(HOPS_HEADER).and_then(|value| std::str::from_utf8(value).ok()?.parse::<u8>().ok()).unwrap_or(0);
    if hops >= MAX_HOPS {
        return Err(Failure::new(
            Kind::Loop,
            format!("the call went through {hops} hops; two routes or apps send it in a circle"),
        ));
    }
    let digits = [b'0' + (hops + 1) / 10, b'0' + (hops + 1) % 10];
    edits.set(HeaderName::from_static(HOPS_HEADER), &digits);
    if let (Role::Gateway { .. }, Some(client)) = (&entry.listener.role, entry.client) {
        let mut chain = Short::new();
        if let Some(before) = head.header("x-forwarded-for") {
            chain.extend_from_slice(before);
            chain.extend_from_slice(b", ");
        }
        chain.extend_from_slice(client.as_bytes());
        edits.push(dodai_core::head::Edit::Set(X_FORWARDED_FOR, chain));
        edits.set(X_FORWARDED_PROTO, if entry.secure { b"https" } else { b"http" });
    }
    Ok(())
}

/// Runs a rule's filters and its action.
fn apply(
    table: &Table,
    entry: &Entry<'_>,
    head: &RequestHead<'_>,
    rule: &Arc<Rule>,
    mut effects: Effects,
) -> Result<Decision, Failure> {
    let prefix = || rule.matched_prefix(head).map(str::to_owned);
    filter::run(&rule.filters, head, entry.caller, prefix, &mut effects)?;
    match &rule.action {
        Action::Forward(backends) => {
            let backend = draw(backends, rule.total_weight).ok_or_else(|| {
                Failure::new(Kind::NoEndpoint, format!("rule {} sends nothing anywhere: all weights are 0", rule.name))
            })?;
            let service = table.service(&backend.service).ok_or_else(|| {
                Failure::new(Kind::NoEndpoint, format!("{} is not known on this base", backend.service))
            })?;
            Ok(forward(service.clone(), Some(rule.clone()), backend.revision.clone(), effects, false))
        }
        Action::Respond { status, body } => {
            let local = Local { status: *status, location: None, body: body.clone(), rule: rule.clone() };
            Ok(Decision::Answer(Box::new(local)))
        }
        Action::Redirect { scheme, host, port, path, status } => {
            let scheme = scheme.as_deref().unwrap_or(if entry.secure { "https" } else { "http" });
            let host = host.as_deref().unwrap_or(head.host());
            let port = port.or_else(|| port_of(head.authority())).map(|port| format!(":{port}")).unwrap_or_default();
            let target = match path {
                Some(path) => filter::rewrite(path, head, rule.matched_prefix(head)),
                None => Short::from_slice(head.target().as_bytes()),
            };
            let location = format!("{scheme}://{host}{port}{}", String::from_utf8_lossy(&target));
            let local = Local { status: *status, location: Some(location), body: String::new(), rule: rule.clone() };
            Ok(Decision::Answer(Box::new(local)))
        }
    }
}

fn forward(
    service: Arc<Service>,
    rule: Option<Arc<Rule>>,
    revision: Option<RevisionId>,
    effects: Effects,
    local_only: bool,
) -> Decision {
    Decision::Forward(Box::new(Forward { service, rule, revision, effects, local_only }))
}

/// Draws a backend by weight.
fn draw(backends: &[Backend], total: u32) -> Option<&Backend> {
    if let [only] = backends {
        return (only.weight > 0).then_some(only);
    }
    let mut point = random().checked_rem(u64::from(total))?;
    backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        if point < weight {
            return true;
        }
        point -= weight;
        false
    })
}

/// Checks a call that arrives at an instance of this base: the callee's inbound filters.
pub fn admit_inbound(service: &Service, head: &RequestHead<'_>, caller: &Caller) -> Result<(), Failure> {
    let needs = |filter: &Filter| matches!(filter, Filter::Access(_) | Filter::RateLimit(_));
    if !service.inbound.iter().any(needs) {
        return Ok(());
    }
    filter::run(&service.inbound, head, caller, || None, &mut Effects::default())
}

/// The caller as a metric label.
pub fn caller_label(caller: &Caller) -> Arc<str> {
    match caller {
        Caller::Outside => "outside".into(),
        Caller::Base => "base".into(),
        Caller::App(app) => app.to_string().into(),
    }
}

/// What is known of a call while it is under way, for its record.
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
#[derive(Default)]
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
    /// The endpoint and revision of the last try.
    pub endpoint: Option<(Arc<str>, RevisionId)>,
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
        thread_local! { static EMPTY: Arc<str> = "".into(); }
        let empty = || EMPTY.with(Arc::clone);
        let labels = Labels {
            direction: self.direction,
            caller: self.caller.clone(),
            service: service.map_or_else(empty, |service| service.label.clone()),
            route: rule.map_or_else(empty, |rule| rule.name.clone()),
        };
        let took = self.start.elapsed();
        let kind = outcome.failure.as_ref().map(|failure| failure.kind);
        worker.series(labels.clone()).record(outcome.status, kind, took, outcome.retries);
        let wanted = |sink: &&Arc<dyn dodai_core::record::Sink>| sink.wants(&self.span, outcome.status, kind);
        if !worker.shared.sinks.iter().any(|sink| wanted(&sink)) {
            return;
        }
        let line = line();
        let (endpoint, revision) = match &outcome.endpoint {
            Some((endpoint, revision)) => (endpoint.clone(), revision.as_str().into()),
            None => (empty(), empty()),
        };
        let record = Record {
            direction: self.direction.as_str(),
            listener: line.listener.into(),
            caller: labels.caller,
            service: labels.service,
            route: labels.route,
            endpoint,
            revision,
            method: line.method.to_owned(),
            target: line.target.to_owned(),
            authority: line.authority.to_owned(),
            protocol: line.protocol,
            status: outcome.status,
            grpc_status: None,
            failure: kind,
            detail: outcome.failure.as_ref().map(|failure| failure.detail.to_string()).unwrap_or_default(),
            received: outcome.received,
            sent: outcome.sent,
            retries: outcome.retries,
            start: SystemTime::now() - took,
            took,
            first_byte: outcome.first_byte,
            span: self.span,
            stations: None,
        };
        for sink in worker.shared.sinks.iter().filter(wanted) {
            sink.record(record.clone());
        }
    }
}

/// The headers and text of the answer to a failed call.
pub fn failure_answer(failure: &Failure) -> (u16, [(&'static str, &'static str); 1], String) {
    let code = failure.kind.code();
    (failure.kind.http_status(), [(FAILURE_HEADER, code)], format!("dodai: {code}: {}\n", failure.detail))
}

/// The `grpc-message` of a failed call, percent-encoded as gRPC's HTTP/2 mapping asks.
pub fn grpc_message(failure: &Failure) -> String {
    let mut text = String::new();
    for byte in failure.to_string().bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}
