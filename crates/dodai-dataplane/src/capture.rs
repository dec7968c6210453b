//! Connections that the kernel led here: where they were meant to go, whose they are, and what becomes of them.
//!
//! What is declared counts first: a service that has the address says what is spoken. Otherwise the address is dialled
//! at once and both sides are listened to (`converse.rs`), so that no server which speaks first is waited for. HTTP of
//! a known name, or to a service's address, is served as by the listeners that the stations know; the rest is bytes.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use dodai_core::call::Caller;
use dodai_core::failure::{Failure, Kind};
use dodai_core::id::{AppId, Name, ServiceId};
use dodai_core::snapshot::{Capture, CaptureWay, CapturedCaller, Listener, Protocol, Role};
use dodai_transport::origin;
use dodai_transport::stream::Stream;

use crate::captures::Fate;
use crate::converse::{Converse, Heard};
use crate::guess::Guess;
use crate::pipe;
use crate::request::{Captured, Side, Wanted};
use crate::roll::{Entrant, Tenure};
use crate::service::Service;
use crate::spine::caller_label;
use crate::worker::Worker;

/// A connection as it came.
pub struct Arrival {
    /// By this listener.
    pub listener: Arc<Listener>,
    /// The connection.
    pub stream: Stream,
    /// From here.
    pub peer: SocketAddr,
    /// Where it was meant to go, if a proxy told.
    pub wanted: Option<Box<Wanted>>,
    /// What it shares with the others of its listener.
    pub tenure: Rc<Tenure>,
}

/// A connection that is to be served as one that speaks HTTP: with whom, and what was read of it.
pub type Spoken = (Stream, Side, Vec<u8>);

/// Serves what is not HTTP.
pub async fn serve(worker: Rc<Worker>, arrival: Arrival) -> Option<Spoken> {
    let listener = arrival.listener.clone();
    let Role::Captured(capture) = &listener.role else { return None };
    let destination = match destination(&worker, &arrival) {
        Ok(destination) => destination,
        Err(reason) => {
            refuse(&worker, arrival, capture, reason);
            return None;
        }
    };
    match &capture.way {
        CaptureWay::Outbound { callers } => outbound(worker, arrival, (capture, callers), destination).await,
        CaptureWay::Inbound => inbound(worker, arrival, capture, destination).await,
    }
}

/// Where the client meant to go, or why that cannot be.
fn destination(worker: &Worker, arrival: &Arrival) -> Result<SocketAddr, &'static str> {
    let destination = match (&arrival.wanted, arrival.stream.as_tcp()) {
        (Some(told), _) => Some(told.address).filter(|told| *told != arrival.listener.address),
        (None, Some(tcp)) => origin::meant_for(tcp, arrival.listener.address.port()),
        (None, None) => None,
    };
    let destination = destination.ok_or(
        "it was meant for this listener itself, which only takes what the kernel leads to it; connect to where you \
         want to go",
    )?;
    if worker.shared.captures.is_unmarked()
        && origin::own_uid().is_some_and(|own| origin::peer_uid(destination, arrival.peer) == Some(own))
    {
        return Err(
            "it is from the base's own user, so it may well be the base's own and would go in circles; \
                    install the rules with `--exclude-users` for that user",
        );
    }
    Ok(destination)
}

fn refuse(worker: &Worker, arrival: Arrival, capture: &Capture, reason: &str) {
    worker.shared.captures.count(&capture.way, Fate::Refused);
    let (listener, peer) = (&*arrival.listener.name, arrival.peer);
    if let Some(times) = worker.shared.captures.refused.count(listener, Instant::now()) {
        tracing::warn!(listener, %peer, times, reason, "an intercepted connection is refused");
    }
    arrival.stream.abort();
}

/// A connection that leaves this machine.
async fn outbound(
    worker: Rc<Worker>,
    arrival: Arrival,
    (capture, callers): (&Capture, &[CapturedCaller]),
    destination: SocketAddr,
) -> Option<Spoken> {
    let Arrival { listener, stream, peer, tenure, .. } = arrival;
    let (app, caller) = who(&worker, callers, destination, peer);
    let owner = worker.shared.table.load().owner(&destination).map(|(service, _)| service.clone());
    let captured = Captured { allow_unknown: capture.allow_unknown, endpoint: None };
    let label = caller_label(&caller);
    let entrant = Entrant { tenure, peer, caller: &label, identity: None, tls: None };
    let facts = Some(worker.roll.enter(entrant));
    let mut side = Side {
        listener: Arc::new(Listener {
            role: Role::Outbound { app: app.clone() },
            ..listener.as_ref().clone()
        }),
        label: label.clone(),
        caller,
        client: Arc::default(),
        port: 0,
        via: None,
        certified: None,
        wanted: Some(Box::new(Wanted { address: destination, captured: Some(captured) })),
        secure: false,
        service: None,
        facts,
    };
    let mut talk = Converse::new(worker.clone(), stream, destination);
    if let Some(service) = owner.clone().filter(|service| service.spec.protocol == Protocol::Tcp) {
        return talk.carry_to(&capture.way, side, service).await;
    }
    if owner.is_none() && capture.allow_unknown {
        talk.dial();
    }
    let heard = talk.hear(owner.is_some() || !capture.allow_unknown).await;
    let to_owner = |mut side: Side, owner: &Service| {
        side.listener = Arc::new(Listener {
            role: Role::Dependency { app, service: owner.id().clone() },
            ..side.listener.as_ref().clone()
        });
        side
    };
    match heard {
        Heard::Client(Guess::Http1(authority) | Guess::Http2(authority)) => {
            match pipe::named(&worker, &side, &authority).await {
                Some(service) if service.spec.protocol == Protocol::Tcp => {
                    return talk.carry_to(&capture.way, side, service).await;
                }
                Some(_) => {}
                None => match &owner {
                    Some(owner) => side = to_owner(side, owner),
                    None => return talk.pass_on(&capture.way, side, true).await,
                },
            }
            talk.route(&capture.way, side)
        }
        Heard::Client(Guess::Tls(name)) => {
            let named = match &name {
                Some(name) => pipe::named(&worker, &side, name).await,
                None => None,
            };
            match named.or(owner) {
                Some(service) => talk.carry_to(&capture.way, side, service).await,
                None => talk.pass_on(&capture.way, side, false).await,
            }
        }
        Heard::Silence => talk.give_up(&capture.way, side).await,
        Heard::Server | Heard::Client(_) => match &owner {
            Some(owner) => talk.route(&capture.way, to_owner(side, owner)),
            None => talk.pass_on(&capture.way, side, false).await,
        },
    }
}

/// Whose connection it is: the app that runs as its user, or the one that all others are. Names are looked up in its
/// namespace.
fn who(
    worker: &Worker,
    callers: &[CapturedCaller],
    destination: SocketAddr,
    peer: SocketAddr,
) -> (AppId, Caller) {
    // From where the client stands, it is connected to where it meant to go.
    let user = || origin::peer_uid(destination, peer);
    let own = worker.shared.users.app_of(user);
    let app = own.or_else(|| {
        let asks = callers.iter().any(|caller| caller.user.is_some());
        let user = if asks { user() } else { None };
        callers.iter().find(|one| one.user.is_none() || one.user == user).map(|one| one.app.clone())
    });
    match app {
        Some(app) => (app.clone(), Caller::App(app)),
        None => {
            let name = |text| Name::new(text).expect("a valid name");
            (AppId::new(name("default"), name("unknown")), Caller::Outside)
        }
    }
}

/// A connection that comes to this machine.
async fn inbound(
    worker: Rc<Worker>,
    arrival: Arrival,
    capture: &Capture,
    destination: SocketAddr,
) -> Option<Spoken> {
    let Arrival { listener, stream, peer, tenure, .. } = arrival;
    let arrives = worker.shared.table.load().arrival(&destination);
    let (service, endpoint) = arrives.unzip();
    let captured = Captured { allow_unknown: capture.allow_unknown, endpoint: endpoint.flatten() };
    let label = caller_label(&Caller::Outside);
    let entrant = Entrant { tenure, peer, caller: &label, identity: None, tls: None };
    let facts = Some(worker.roll.enter(entrant));
    let side = Side {
        listener: Arc::new(Listener { role: Role::Mesh, ..listener.as_ref().clone() }),
        // No connection without a handshake says who its client is.
        caller: Caller::Outside,
        label: label.clone(),
        client: peer.ip().to_canonical().to_string().into(),
        port: peer.port(),
        via: None,
        certified: None,
        wanted: Some(Box::new(Wanted { address: destination, captured: Some(captured) })),
        secure: false,
        service: service.as_ref().map(|service| Box::new(service.id().clone())),
        facts,
    };
    let mut talk = Converse::new(worker, stream, destination);
    let Some(service) = service else {
        return talk.pass_on(&capture.way, side, false).await;
    };
    if service.spec.protocol == Protocol::Tcp {
        return talk.carry_to(&capture.way, side, service).await;
    }
    match talk.hear(true).await {
        // An app's own TLS proves nobody of the mesh.
        Heard::Client(Guess::Tls(_)) => talk.carry_to(&capture.way, side, service).await,
        Heard::Silence => talk.give_up(&capture.way, side).await,
        Heard::Server | Heard::Client(_) => talk.route(&capture.way, side),
    }
}

/// Why a connection to `destination` is not let through.
pub fn denied(destination: SocketAddr) -> Failure {
    let text = format!(
        "nothing is known of {destination}, and connections to such addresses are not let through here \
         (`interception` of the Base says `unknown: deny`)"
    );
    Failure::new(Kind::Denied, text)
}

/// The service of an app that listens on `port` of this machine, by the ports of instances that run here.
pub fn serving<'a>(
    mut services: impl Iterator<Item = &'a Arc<Service>>,
    port: u16,
) -> Option<&'a Arc<Service>> {
    use crate::local::Way;
    use crate::service::Place;
    services.find(|service| {
        let id: &ServiceId = service.id();
        let name = service.spec.target.as_ref().unwrap_or(&id.port);
        service.endpoints().iter().any(|endpoint| match &endpoint.place {
            Place::Local(local) => match &**local.way() {
                Way::Ports(ports) => ports.get(name).is_some_and(|at| at.port() == port),
                Way::Closed(_) | Way::Serve(_) => false,
            },
            Place::Mesh { .. } | Place::Address(..) => false,
        })
    })
}
