//! Tunnels: after an upgrade, a CONNECT, or on a TCP listener, bytes go both ways unparsed.
//!
//! Each direction ends by itself (half-close is passed on); the tunnel ends with both, when it stands still
//! in both directions for too long, or when the base stops draining.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use dodai_core::failure::{Blame, Failure, Kind};
use dodai_core::head::{host_of, port_of};
use dodai_core::id::ServiceId;
use dodai_core::snapshot::{Backend, Protocol, Role};
use dodai_core::trace::Span;
use dodai_transport::stream::Stream;
use tokio::time::Instant;

use crate::affinity::Affinity;
use crate::answer;
use crate::live::Watch;
use crate::opening::{self, tunnel, wanted};
use crate::reach::{self, Reach, dial};
use crate::request::{Asked, Request, Side};
use crate::roll::{Facts, Speaks};
use crate::serve_h1::Client;
use crate::service::{Attempt, Endpoint, Place, Service, Verdict, Wish, now_nanos};
use crate::spine::{self, Forward, Headers, Lap, Line, Outcome};
use crate::timer::Deadline;
use crate::wire::{Broken, Wire};
use crate::worker::Worker;

/// How many newer tables one connection is opened by; no deploy follows another that fast.
const RENEWALS: usize = 3;

/// The tunnel after an upgrade: how many bytes went each way, and why it was cut, if it was.
pub async fn upgraded(
    client: &Client,
    request: &Request,
    forward: Option<&Forward>,
    up: &Wire,
    carry: Vec<u8>,
    up_carry: Vec<u8>,
) -> ([u64; 2], Option<Failure>) {
    let watch = forward.and_then(|forward| client.worker.live.enter_call(&client.side, request, forward));
    join(client, up, carry, up_carry, watch).await
}

/// Joins a client and an endpoint after an upgrade; how many bytes went each way. The carries are bytes that were read too
/// early. `watch` may end it, and then says why.
pub async fn join(
    client: &Client,
    up: &Wire,
    client_carry: Vec<u8>,
    up_carry: Vec<u8>,
    watch: Option<Rc<Watch>>,
) -> ([u64; 2], Option<Failure>) {
    let worker = &client.worker;
    let sides = [(&client.wire, up, client_carry), (up, &client.wire, up_carry)];
    let facts = client.side.facts.as_deref();
    both_ways(worker, sides, &client.deadline, watch.as_deref(), facts).await
}

/// Serves a CONNECT on an outbound listener: to a TCP service of the mesh or to a host outside. Whose connection the
/// kernel led here meant it for a proxy, which gets the head as it came and answers by itself.
pub async fn connect(client: Client, asked: Asked) {
    let Asked { authority, head } = asked;
    let authority = authority.as_str();
    let worker = client.worker.clone();
    let lap = Lap::new(
        spine::direction(&client.side.listener.role),
        client.side.label.clone(),
        Span::root(false),
        Instant::now(),
    );
    let mut service = named(&worker, &client.side, authority).await;
    let meant = service.as_ref().map(|service| service.id().clone());
    let opened = match &service {
        Some(service) if service.spec.protocol != Protocol::Tcp => {
            let text = format!(
                "{} is called directly: CONNECT reaches TCP services and hosts outside",
                service.label
            );
            Err(Failure::new(Kind::NotImplemented, text))
        }
        Some(_) | None => open_named(&worker, &client.side, &mut service, authority).await,
    };
    let mut outcome = Outcome::default();
    let line = || Line {
        listener: &client.side.listener.name,
        from: client.side.from(),
        headers: Headers::None,
        method: "CONNECT",
        target: authority,
        authority,
        protocol: "TCP",
    };
    client.deadline.set(worker.shared.limits.linger_timeout);
    match opened {
        Ok(opened) => {
            outcome.status = 200;
            outcome.endpoint = opened.endpoint();
            lap.opened(&worker, service.as_deref(), line);
            let head = head.filter(|_| service.is_none());
            let said: &[u8] = if head.is_some() { b"" } else { b"HTTP/1.1 200 OK\r\n\r\n" };
            if client.wire.write_all(said, &client.deadline).await.is_ok() {
                let mut carry = head.unwrap_or_default();
                carry.append(&mut client.carry.borrow_mut());
                let live = &worker.live;
                let enter = |to: &Service| live.enter(&client.side, tunnel(), Some(to.id()), meant.as_ref());
                let watch = service.as_deref().map(enter);
                let up = Wire::new(opened.stream);
                ([outcome.received, outcome.sent], outcome.failure) =
                    join(&client, &up, carry, Vec::new(), watch).await;
            }
        }
        Err(failure) => {
            let (status, headers, body) = answer::failure_answer(&failure);
            let mut out = Vec::new();
            crate::h1::write_local_response(&mut out, status, &headers, &body, true, false);
            let _gone = client.wire.write_all(&out, &client.deadline).await;
            outcome.status = status;
            outcome.failure = Some(failure);
        }
    }
    lap.finish(&worker, service.as_deref(), None, &outcome, line);
}

/// The service of the mesh that a client of an outbound listener means; `None` for a host outside.
pub async fn named(worker: &Worker, side: &Side, authority: &str) -> Option<Arc<Service>> {
    let Role::Outbound { app } = &side.listener.role else { return None };
    if let Some(wanted) = worker.shared.asks_for(host_of(authority), app.namespace.as_str()) {
        worker.shared.wait_for(&wanted).await;
    }
    let table = worker.shared.table.load();
    table.resolve(host_of(authority), port_of(authority), app.namespace.as_str()).cloned()
}

/// A connection to what [`named`] found, or else beyond the mesh, if that is let through.
pub async fn open_named(
    worker: &Rc<Worker>,
    side: &Side,
    service: &mut Option<Arc<Service>>,
    authority: &str,
) -> Result<Opened, Failure> {
    let Some(meant) = service else {
        if let (Role::Outbound { app }, None) = (&side.listener.role, side.captured()) {
            let (host, port) = (host_of(authority), port_of(authority));
            spine::not_ours(&worker.shared.table.load(), host, port, app.namespace.as_str())?;
        }
        let stream = dial(worker, &reach::beyond(side, authority, 443)?).await?;
        return Ok(Opened { stream, attempt: None, _in_flight: None });
    };
    let lead = opening::onward(&worker.shared.table.load(), side, Some(meant), None);
    let (to, backend) = lead.map_err(|(_, failure)| failure)?;
    open(worker, service.insert(to), backend.as_ref(), side).await
}

/// Joins a client of `side` and an endpoint of a service, which may be another than the one that was meant; `early` came from each of them too soon. How many bytes went each way.
pub async fn carry(
    worker: &Rc<Worker>,
    side: &Side,
    [service, meant]: [Option<&ServiceId>; 2],
    (down, up): (&Wire, &Wire),
    [asked, answered]: [Vec<u8>; 2],
    deadline: &Deadline,
) -> ([u64; 2], Option<Failure>) {
    let watch = worker.live.enter(side, tunnel(), service, meant);
    let sides = [(down, up, asked), (up, down, answered)];
    both_ways(worker, sides, deadline, Some(&watch), side.facts.as_deref()).await
}

/// Serves one connection of a TCP listener.
pub async fn serve(worker: Rc<Worker>, stream: Stream, side: Side) {
    side.speaks(Speaks::Tcp);
    let lap = Lap::new(
        spine::direction(&side.listener.role),
        side.label.clone(),
        Span::root(false),
        Instant::now(),
    );
    let mut outcome = Outcome::default();
    let lead = opening::lead(&worker.shared.table.load(), &side, stream.server_name());
    let (service, opened) = match lead {
        Ok((mut service, backend)) => {
            let opened = open(&worker, &mut service, backend.as_ref(), &side).await;
            (Some(service), opened)
        }
        Err((service, failure)) => (service, Err(failure)),
    };
    let line = || Line {
        listener: &side.listener.name,
        from: side.from(),
        headers: Headers::None,
        method: "-",
        target: "-",
        authority: "",
        protocol: "TCP",
    };
    match opened {
        Ok(opened) => {
            outcome.status = 200;
            outcome.endpoint = opened.endpoint();
            lap.opened(&worker, service.as_deref(), line);
            let (down, up) = (Wire::new(stream), Wire::new(opened.stream));
            let deadline = worker.deadlines.register();
            let sides = [(&down, &up, Vec::new()), (&up, &down, Vec::new())];
            let host = down.with(|stream| stream.server_name().map(str::to_owned));
            let head = if let Role::Gateway { .. } = side.listener.role {
                wanted(host.as_deref())
            } else {
                tunnel()
            };
            let watch = worker.live.enter(&side, head, service.as_deref().map(Service::id), None);
            ([outcome.received, outcome.sent], outcome.failure) =
                both_ways(&worker, sides, &deadline, Some(&watch), side.facts.as_deref()).await;
        }
        Err(failure) => outcome.failure = Some(failure),
    }
    lap.finish(&worker, service.as_deref(), None, &outcome, line);
}

/// A connection to an endpoint. It counts there, and at a local process, for as long as this lives.
pub struct Opened {
    /// The connection.
    pub stream: Stream,
    /// The try that reached it; `None` for a host outside.
    attempt: Option<Attempt>,
    _in_flight: Option<crate::local::InFlight>,
}

impl Opened {
    /// Whom it reached, if that is of the mesh.
    pub fn endpoint(&self) -> Option<Arc<Endpoint>> {
        self.attempt.as_ref().map(|attempt| attempt.endpoint.clone())
    }
}

/// A connection to an endpoint of `service`. If none can be had, a deploy may have come between: then `service`
/// becomes what a newer table says of it, and is tried in turn.
async fn open(
    worker: &Rc<Worker>,
    service: &mut Arc<Service>,
    backend: Option<&Backend>,
    side: &Side,
) -> Result<Opened, Failure> {
    let mut renewals = 0;
    loop {
        let failure = match try_open(worker, service, backend, side).await {
            Ok(opened) => return Ok(opened),
            Err(failure) => failure,
        };
        match spine::newer(service, worker) {
            Some(newer) if renewals < RENEWALS && is_about_endpoints(failure.kind) => {
                *service = newer;
                renewals += 1;
            }
            Some(_) | None => return Err(failure),
        }
    }
}

/// Whether other endpoints might have done better.
fn is_about_endpoints(kind: Kind) -> bool {
    kind.blame() == Blame::Endpoint || kind == Kind::BreakerOpen
}

/// A connection to an endpoint of `service` as it stands, trying others while none was reached.
async fn try_open(
    worker: &Rc<Worker>,
    service: &Service,
    backend: Option<&Backend>,
    side: &Side,
) -> Result<Opened, Failure> {
    let caller = &side.caller;
    let mut tried = Vec::new();
    loop {
        let endpoint = service.pick(&Wish {
            revision: backend.and_then(|backend| backend.revision.as_ref()),
            labels: backend.and_then(|backend| backend.labels.as_deref()),
            affinity: Affinity::of_connection(service, side),
            tried: &tried,
            local_only: matches!(side.listener.role, Role::Mesh),
            priority: None,
        })?;
        let attempt = endpoint.attempt(now_nanos());
        if !matches!(endpoint.place, Place::Mesh { .. }) {
            let parts = tunnel();
            spine::admit_inbound(
                service,
                &dodai_core::head::RequestHead::Map(&parts),
                caller,
                !tried.is_empty(),
            )?;
        }
        let failure = match reach::of(&endpoint, service, caller, &worker.shared)?.behalf_of(side) {
            Reach::Http1(target) | Reach::Http2(target) => match dial(worker, &target).await {
                Ok(stream) => {
                    service.answered(&attempt, Verdict::Status(200), now_nanos());
                    return Ok(Opened { stream, attempt: Some(attempt), _in_flight: target.in_flight });
                }
                Err(failure) => failure,
            },
            Reach::Serve(..) => {
                return Err(Failure::new(Kind::NotImplemented, "a module does not take TCP connections"));
            }
        };
        service.failed(&attempt, Verdict::Broken);
        if tried.contains(&endpoint.id) || tried.len() >= 3 {
            return Err(failure);
        }
        tried.push(endpoint.id);
    }
}

/// Copies both ways until both have ended or `watch` says why not; how many bytes went each way.
async fn both_ways(
    worker: &Worker,
    sides: [(&Wire, &Wire, Vec<u8>); 2],
    deadline: &Deadline,
    watch: Option<&Watch>,
    facts: Option<&Facts>,
) -> ([u64; 2], Option<Failure>) {
    let [first, second] = sides;
    for wire in [first.0, first.1] {
        wire.with(|stream| stream.watch_peer());
    }
    let own = [std::cell::Cell::new(0u64), std::cell::Cell::new(0u64)];
    // Counted where others can see it while the tunnel is under way.
    let counts = facts.map_or([&own[0], &own[1]], |facts| [&facts.received, &facts.sent]);
    let before = counts.map(std::cell::Cell::get);
    let cut = {
        let mut ahead = std::pin::pin!(one_way(worker, first, deadline, counts[0]));
        let mut back = std::pin::pin!(one_way(worker, second, deadline, counts[1]));
        let (mut ahead_open, mut back_open) = (true, true);
        poll_fn(|cx| {
            if let Some(failure) = watch.and_then(|watch| watch.poll_cut(cx)) {
                return Poll::Ready(Some(failure));
            }
            for (way, open) in [(ahead.as_mut(), &mut ahead_open), (back.as_mut(), &mut back_open)] {
                if *open && let Poll::Ready(ended) = poll_way(way, cx) {
                    *open = false;
                    if ended.is_err() {
                        return Poll::Ready(None);
                    }
                }
            }
            if ahead_open || back_open { Poll::Pending } else { Poll::Ready(None) }
        })
        .await
    };
    (std::array::from_fn(|at| counts[at].get() - before[at]), cut)
}

fn poll_way<F: Future<Output = Result<(), Broken>>>(
    way: std::pin::Pin<&mut F>,
    cx: &mut std::task::Context<'_>,
) -> Poll<Result<(), Broken>> {
    way.poll(cx)
}

/// Copies one way until the sender ends, then passes the end on.
async fn one_way(
    worker: &Worker,
    (from, to, early): (&Wire, &Wire, Vec<u8>),
    deadline: &Deadline,
    count: &std::cell::Cell<u64>,
) -> Result<(), Broken> {
    let idle = worker.shared.limits.pipe_idle_timeout;
    deadline.set(idle);
    if !early.is_empty() {
        count.set(count.get() + early.len() as u64);
        to.write_all(&early, deadline).await?;
        to.flush(deadline).await?;
    }
    loop {
        let got = from.read(worker, deadline).await?;
        if got == 0 {
            to.flush(deadline).await?;
            return to.shutdown(deadline).await;
        }
        deadline.set(idle);
        count.set(count.get() + got as u64);
        to.write_scratch(worker, 0..got, deadline).await?;
        to.flush(deadline).await?;
    }
}
