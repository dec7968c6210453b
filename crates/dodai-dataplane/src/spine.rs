//! The spine: takes a head through route and filter, and says what to do with the call.
//!
//! Both ways of carrying a call (bytes relayed between two HTTP/1 connections, and parsed messages for
//! everything else) come through [`admit`]; neither decides anything itself. A call between two apps of one
//! base passes twice: once as outbound of the caller, once as inbound of the callee.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use dodai_core::call::{Caller, HOPS_HEADER, MAX_HOPS};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edits, RequestHead, Short, port_of};
use dodai_core::snapshot::{Action, Backend, Role};
use dodai_core::trace::{Span, random};
use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::affinity::Affinity;
use crate::filter::{self, Filter, Known, Mirrors, Passed, Ran, Seen};
use crate::forward;
use crate::forwarded;
use crate::identity;
use crate::later::Later;
use crate::matcher;
use crate::request_id;
use crate::route::Rule;
use crate::service::Service;
use crate::stats::Direction;
use crate::subset::{self, Part};
use crate::table::Table;
use crate::trace;
use crate::worker::Worker;

pub use crate::answer::Local;
pub use crate::entry::Entry;
pub use crate::forward::Forward;
pub use crate::lap::{Headers, Lap, Line, Outcome};
pub use crate::trace::span;

const HOPS: HeaderName = HeaderName::from_static(HOPS_HEADER);
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What becomes of a call.
pub enum Decision {
    /// It is sent to a service.
    Forward(Forward),
    /// It goes to a host outside the mesh.
    External,
    /// It is answered here.
    Answer(Box<Local>),
    /// A rule refuses it.
    Refused(Box<(Failure, Arc<Rule>)>),
    /// It is for the runtime API of the caller.
    Api,
    /// It must wait before it can be decided.
    Later(Box<Later>),
}

impl Decision {
    /// Whether the head that the call came with is needed for as long as it is under way, beside the one it goes on with.
    pub fn keeps_head(&self) -> bool {
        match self {
            Decision::Forward(forward) => {
                forward.rule.as_ref().is_some_and(|rule| rule.keeps_head)
                    || forward.service.inbound.iter().any(|filter| matches!(filter, Filter::Request(_)))
            }
            Decision::Later(later) => later.rule.keeps_head,
            Decision::External | Decision::Answer(_) | Decision::Refused(_) | Decision::Api => false,
        }
    }
}

/// The same service as a newer table has it, if there is one and it differs.
pub fn newer(service: &Arc<Service>, worker: &Worker) -> Option<Arc<Service>> {
    let table = worker.shared.table.load();
    table.service(&service.spec.id).filter(|found| !Arc::ptr_eq(found, service)).cloned()
}

/// The direction of calls on a listener.
pub fn direction(role: &Role) -> Direction {
    match role {
        Role::Gateway { .. } => Direction::Gateway,
        Role::Outbound { .. } | Role::Dependency { .. } => Direction::Outbound,
        Role::Mesh | Role::Captured(_) => Direction::Inbound,
        Role::Api { .. } => Direction::Api,
    }
}

/// Stations route and filter, for a call that arrived at `now`. What changes in its head goes to `edits`, which
/// stays with the caller: it is large, and done with once the head is written.
pub fn admit(
    table: &Table,
    entry: &Entry<'_>,
    head: &RequestHead<'_>,
    span: &Span,
    now: Instant,
    edits: &mut Edits,
) -> Result<Decision, Failure> {
    mark(edits, table, entry, head, span)?;
    let mut decided = lead(table, entry, head, now, edits)?;
    if let Decision::Forward(forward) = &mut decided {
        forward.weigh(head, entry.is_outside(), Duration::ZERO, edits);
    }
    Ok(decided)
}

/// Where a call is led.
fn lead(
    table: &Table,
    entry: &Entry<'_>,
    head: &RequestHead<'_>,
    now: Instant,
    edits: &mut Edits,
) -> Result<Decision, Failure> {
    match &entry.listener.role {
        Role::Gateway { routes } => {
            let router = table.router(routes).ok_or_else(|| no_route(head))?;
            let rule = router.route(head, entry.caller).ok_or_else(|| no_route(head))?;
            apply(table, entry, head, rule, now, edits)
        }
        Role::Outbound { app } => {
            let (host, port) = (head.host(), port_of(head.authority()));
            let Some(service) = table.resolve(host, port, app.namespace.as_str()) else {
                return outside(table, host, port, app.namespace.as_str());
            };
            inside(table, entry, head, service, now, edits)
        }
        Role::Dependency { service, .. } => {
            let service = table.service(service).ok_or_else(|| no_route(head))?;
            inside(table, entry, head, service, now, edits)
        }
        Role::Mesh => {
            // The name in the handshake counts: the authority is what the caller's own users wrote.
            let service = match entry.service {
                Some(id) => table.service(id),
                None => head
                    .host()
                    .split_once('.')
                    .and_then(|(name, namespace)| table.resolve(name, port_of(head.authority()), namespace)),
            };
            let service = service.ok_or_else(|| no_route(head))?.clone();
            service.admits(entry.secure, entry.captured.is_some())?;
            // Nobody else's word counts than that of who has proven to be of the mesh.
            let Part { revision, labels, source } =
                if entry.secure { subset::read(head) } else { Part::default() };
            let affinity = Affinity::of(&service, head, entry).or_source(source);
            let mirrors = Mirrors::new();
            Ok(Decision::Forward(Forward {
                proven: forward::proven(&service),
                claims: None,
                service,
                rule: None,
                revision,
                labels,
                affinity,
                mirrors,
                local_only: true,
                sender_tries: entry.secure,
                reply: None,
                fault: None,
                left: None,
                whole: None,
                priority: None,
                begun: false,
                counted: Cell::new(false),
            }))
        }
        Role::Api { .. } | Role::Captured(_) => {
            Err(Failure::new(Kind::Internal, "this listener has no routes of its own"))
        }
    }
}

/// A call to a service from inside the mesh, by its rules if it has any.
fn inside(
    table: &Table,
    entry: &Entry<'_>,
    head: &RequestHead<'_>,
    service: &Arc<Service>,
    now: Instant,
    edits: &mut Edits,
) -> Result<Decision, Failure> {
    if service.rules.is_empty() {
        return Ok(forward(service.clone(), entry, None, Passed::default(), head, edits));
    }
    let rule = service.rules.find(&matcher::Seen::new(head, entry.caller)).ok_or_else(|| no_route(head))?;
    apply(table, entry, head, rule, now, edits)
}

/// A name that no service has: a mistake if it looks like one of ours, else a host outside the mesh.
fn outside(table: &Table, host: &str, port: Option<u16>, namespace: &str) -> Result<Decision, Failure> {
    not_ours(table, host, port, namespace)?;
    if !host.contains(['.', ':']) && host != "localhost" {
        return Err(Failure::new(
            Kind::NoRoute,
            format!(
                "no app named `{host}` is known in namespace {namespace}; check the name, or write name.namespace"
            ),
        ));
    }
    Ok(Decision::External)
}

/// An app of ours that has nothing at this port is not looked for elsewhere.
///
/// # Errors
/// It is one.
pub fn not_ours(table: &Table, host: &str, port: Option<u16>, namespace: &str) -> Result<(), Failure> {
    if !table.knows(host, namespace) {
        return Ok(());
    }
    let port = port.unwrap_or_default();
    Err(Failure::new(Kind::NoRoute, format!("{host} has no service on port {port}")))
}

fn no_route(head: &RequestHead<'_>) -> Failure {
    Failure::new(
        Kind::NoRoute,
        format!("no route matches {} {}{}", head.method(), head.authority(), head.path()),
    )
}

/// How many times a call has entered a base, as its head says.
pub fn hops(head: &RequestHead<'_>) -> u8 {
    let value = head.header(HOPS_HEADER).and_then(|value| std::str::from_utf8(value).ok());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// What every hop adds: the trace, the hop count and, at a gateway, where the call came from.
fn mark(
    edits: &mut Edits,
    table: &Table,
    entry: &Entry<'_>,
    head: &RequestHead<'_>,
    span: &Span,
) -> Result<(), Failure> {
    identity::settle(edits, table, entry, head);
    edits.set(TRACEPARENT, &span.traceparent());
    trace::tell(edits, head, span);
    let hops = hops(head);
    if hops >= MAX_HOPS {
        return Err(Failure::new(
            Kind::Loop,
            format!("the call went through {hops} hops; two routes or apps send it in a circle"),
        ));
    }
    let digits = [b'0' + (hops + 1) / 10, b'0' + (hops + 1) % 10];
    edits.set(HOPS, &digits);
    // Only the base that sent a call says which of the endpoints it is for.
    subset::strip(head, edits);
    if let (Role::Gateway { .. }, Some(client)) = (&entry.listener.role, entry.client) {
        let mut chain = Short::new();
        head.for_each_header(|name, value| {
            if name.eq_ignore_ascii_case("x-forwarded-for") {
                chain.extend_from_slice(value);
                chain.extend_from_slice(b", ");
            }
        });
        let peer = entry.via.map_or(client, |via| &via.peer.0);
        chain.extend_from_slice(peer.as_bytes());
        edits.push(dodai_core::head::Edit::Set(X_FORWARDED_FOR, chain));
        if entry.via.and_then(|_| forwarded::is_https(head)).is_none() {
            edits.set(X_FORWARDED_PROTO, if entry.secure { b"https" } else { b"http" });
        }
        if let Some(which) = entry.listener.request_id {
            request_id::settle(which, entry, head, edits);
        }
    }
    Ok(())
}

/// Runs a rule's filters and its action.
fn apply(
    table: &Table,
    entry: &Entry<'_>,
    head: &RequestHead<'_>,
    rule: &Arc<Rule>,
    now: Instant,
    edits: &mut Edits,
) -> Result<Decision, Failure> {
    if let Some(routed) = entry.routed {
        routed.set(Some(Instant::now()));
    }
    if let (Some(span), Some(share)) = (entry.redraws, rule.policy.sample_per_ten_thousand) {
        span.set(Span { sampled: trace::draws(share), ..span.get() });
        edits.unset(&TRACEPARENT);
        edits.set(TRACEPARENT, &span.get().traceparent());
        trace::tell_anew(edits, head, &span.get());
    }
    let prefix = || rule.matched_prefix(head, entry.caller).map(str::to_owned);
    let client = entry.client.filter(|client| !client.is_empty());
    let (caller, certified) = (entry.caller, entry.certified);
    let seen = Seen { head: *head, caller, client, certified, now, known: Known::All };
    let mut passed = Passed::default();
    let ran = filter::run(&rule.filters, 0, false, &seen, prefix, &mut passed, edits);
    settle(table, entry, head, rule, ran, passed, edits)
}

/// What becomes of a call whose filters ran.
pub fn settle(
    table: &Table,
    entry: &Entry<'_>,
    head: &RequestHead<'_>,
    rule: &Arc<Rule>,
    ran: Result<Ran, Failure>,
    passed: Passed,
    edits: &mut Edits,
) -> Result<Decision, Failure> {
    match ran {
        Ok(Ran::Through) => act(table, entry, head, rule, passed, edits),
        Ok(Ran::Waits(at, wait)) => {
            let prefix = rule.matched_prefix(head, entry.caller).map(str::to_owned);
            Ok(Decision::Later(Box::new(Later { rule: rule.clone(), at: (at, wait), passed, prefix })))
        }
        Ok(Ran::Answered(status, answer)) => {
            let mut headers = HeaderMap::new();
            answer.apply_to(&mut headers);
            let body = String::new();
            Ok(Decision::Answer(Box::new(Local {
                status,
                headers,
                body,
                rule: Some(rule.clone()),
                failure: None,
            })))
        }
        Err(failure) => match passed.reply {
            Some(reply) => Ok(Decision::Answer(Local::refused(failure, rule, &reply))),
            None => Ok(Decision::Refused(Box::new((failure, rule.clone())))),
        },
    }
}

/// What a rule does with a call that its filters let through.
fn act(
    table: &Table,
    entry: &Entry<'_>,
    head: &RequestHead<'_>,
    rule: &Arc<Rule>,
    mut passed: Passed,
    edits: &mut Edits,
) -> Result<Decision, Failure> {
    if rule.makes_headers {
        rule.filters.iter().for_each(|one| one.make_headers(entry, head, &rule.name, &mut passed, edits));
    }
    match &rule.action {
        Action::Forward(backends) => {
            let backend = draw(backends, rule.total_weight).ok_or_else(|| {
                Failure::new(
                    Kind::NoEndpoint,
                    format!("rule {} sends nothing anywhere: all weights are 0", rule.name),
                )
            })?;
            let service = table.service(&backend.service).ok_or_else(|| {
                Failure::new(Kind::NoEndpoint, format!("{} is not known on this base", backend.service))
            })?;
            Ok(forward(service.clone(), entry, Some((rule, backend)), passed, head, edits))
        }
        Action::Respond { status, body } => {
            Ok(Decision::Answer(Local::new(*status, HeaderMap::new(), body.clone(), rule, passed)))
        }
        Action::Redirect { scheme, host, port, path: _, status } => {
            let own = if entry.is_https(head) { "https" } else { "http" };
            let scheme = scheme.as_deref().unwrap_or(own);
            let host = host.as_deref().unwrap_or(head.host());
            let kept = if scheme == own { port_of(head.authority()) } else { None };
            let usual = if scheme == "https" { 443 } else { 80 };
            let port = port
                .or(kept)
                .filter(|port| *port != usual)
                .map(|port| format!(":{port}"))
                .unwrap_or_default();
            let target = match &rule.redirected {
                Some(path) => path.target(head, rule.matched_prefix(head, entry.caller))?,
                None => Short::from_slice(head.target().as_bytes()),
            };
            let location = format!("{scheme}://{host}{port}{}", String::from_utf8_lossy(&target));
            let location = HeaderValue::try_from(location);
            let headers = HeaderMap::from_iter(location.ok().map(|location| (LOCATION, location)));
            Ok(Decision::Answer(Local::new(*status, headers, String::new(), rule, passed)))
        }
    }
}

/// To a service, with the changes to the head that it asks for itself.
fn forward(
    service: Arc<Service>,
    entry: &Entry<'_>,
    by: Option<(&Arc<Rule>, &Backend)>,
    mut passed: Passed,
    head: &RequestHead<'_>,
    edits: &mut Edits,
) -> Decision {
    // The base that sends a call edits its headers for the service; the one it arrives at must not do it again.
    for filter in &service.inbound {
        if let Filter::Request(changes) = filter {
            edits.push_all(changes.plain());
        }
        if filter.makes_headers() {
            filter.make_headers(entry, head, by.map_or("", |(rule, _)| &rule.name), &mut passed, edits);
        }
        if let (Filter::Fault(fault), None) = (filter, &passed.fault) {
            passed.fault = fault.draw(head);
        }
    }
    let affinity = Affinity::of(&service, head, entry);
    let (mut revision, mut labels) = (None, None);
    if let Some((_, backend)) = by {
        (revision, labels) = (backend.revision.clone(), backend.labels.clone());
        // Who brought the call ends the chain of addresses; whose call it is has to be told.
        let source = entry.via.and_then(|_| affinity.source(&service));
        subset::write(revision.as_ref(), labels.as_deref(), source, edits);
    }
    let Passed { mirrors, reply, fault, claims, .. } = passed;
    Decision::Forward(Forward {
        proven: forward::proven(&service),
        claims,
        service,
        rule: by.map(|(rule, _)| rule.clone()),
        revision,
        labels,
        affinity,
        mirrors,
        local_only: false,
        sender_tries: false,
        reply,
        fault,
        left: None,
        whole: None,
        priority: None,
        begun: false,
        counted: Cell::new(false),
    })
}

/// Draws a backend by weight.
pub fn draw(backends: &[Backend], total: u32) -> Option<&Backend> {
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

/// Checks a call on its way into an instance: the callee's inbound filters. `again`: it is a further try.
pub fn admit_inbound(
    service: &Service,
    head: &RequestHead<'_>,
    caller: &Caller,
    again: bool,
) -> Result<(), Failure> {
    let now = Instant::now();
    let seen = Seen { head: *head, caller, client: None, certified: None, now, known: Known::All };
    filter::run_at_once(&service.inbound, &seen, &service.label, again)
}

/// What the base itself is called where it calls.
pub const BASE_LABEL: &str = "base";

/// The caller as a metric label.
pub fn caller_label(caller: &Caller) -> Arc<str> {
    match caller {
        Caller::Outside => "outside".into(),
        Caller::Base => BASE_LABEL.into(),
        Caller::App(app) => app.to_string().into(),
    }
}
