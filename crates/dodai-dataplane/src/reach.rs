//! How an endpoint is talked to: over a kept HTTP/1 connection, an HTTP/2 one, or in this process.

use std::net::SocketAddr;
use std::sync::Arc;

use dodai_core::call::{Caller, Serve};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{host_of, port_of};
use dodai_core::snapshot::Protocol;
use dodai_transport::stream::Stream;

use crate::endpoint::Key;
use crate::local::{InFlight, Way};
use crate::mesh::Callee;
use crate::service::{Endpoint, Place, Service};
use crate::worker::{Shared, Worker};

/// Where a connection goes.
#[derive(Clone, Debug)]
pub enum Address {
    /// A socket address.
    Socket(SocketAddr),
    /// A host name and port.
    Host(Arc<str>, u16),
}

/// An endpoint that is reached by a connection.
pub struct Target {
    /// The pool's key.
    pub key: Key,
    /// Where to connect.
    pub address: Address,
    /// Who calls whom, if it is another base.
    pub callee: Option<Box<Callee>>,
    /// Counted as in flight at a local process.
    pub in_flight: Option<InFlight>,
}

/// A way to an endpoint.
pub enum Reach {
    /// A connection that speaks HTTP/1.1.
    Http1(Target),
    /// A connection that speaks HTTP/2.
    Http2(Target),
    /// In this process.
    Serve(Arc<dyn Serve>, Option<InFlight>),
}

impl Reach {
    /// Whether the endpoint is an instance on this base.
    pub fn is_local(&self) -> bool {
        match self {
            Reach::Http1(target) | Reach::Http2(target) => target.in_flight.is_some(),
            Reach::Serve(..) => true,
        }
    }
}

/// The way to `endpoint` for calls to `service`.
pub fn of(
    endpoint: &Arc<Endpoint>,
    service: &Service,
    caller: &Caller,
    shared: &Shared,
) -> Result<Reach, Failure> {
    match &endpoint.place {
        Place::Local(local) => {
            let in_flight = local.enter();
            match &**local.way() {
                Way::Closed(reason) => {
                    let name = &service.spec.id.owner.name;
                    Err(Failure::new(Kind::NoEndpoint, format!("{name} has no ready instance: {reason}")))
                }
                Way::Serve(serve) => Ok(Reach::Serve(serve.clone(), Some(in_flight))),
                Way::Ports(ports) => {
                    let port = &service.spec.id.port;
                    let address = ports.get(port).copied().ok_or_else(|| {
                        Failure::new(Kind::NoEndpoint, format!("{} does not serve `{port}`", endpoint.label))
                    })?;
                    let key = Key {
                        endpoint: endpoint.id,
                        address: service.label.clone(),
                        at: Some(address),
                        source: None,
                    };
                    let address = Address::Socket(address);
                    Ok(spoken(service, Target { key, address, callee: None, in_flight: Some(in_flight) }))
                }
            }
        }
        Place::Mesh { base, address } => {
            if shared.mesh.is_none() {
                let text =
                    format!("{} is on base {base}, and this base is not part of a mesh", service.label);
                return Err(Failure::new(Kind::NoEndpoint, text));
            }
            let key = Key {
                endpoint: endpoint.id,
                address: service.label.clone(),
                at: Some(*address),
                source: caller.app().cloned(),
            };
            let callee = Callee { caller: caller.clone(), service: service.spec.id.clone() };
            let (address, callee) = (Address::Socket(*address), Some(Box::new(callee)));
            Ok(spoken(service, Target { key, address, callee, in_flight: None }))
        }
        Place::Address(address) => {
            let mut target = external(address, 80);
            target.key.endpoint = endpoint.id;
            Ok(spoken(service, target))
        }
    }
}

fn spoken(service: &Service, target: Target) -> Reach {
    match service.spec.protocol {
        Protocol::Http | Protocol::Tcp => Reach::Http1(target),
        Protocol::Http2 | Protocol::Grpc => Reach::Http2(target),
    }
}

/// A plain address outside the mesh.
pub fn external(authority: &str, default_port: u16) -> Target {
    let port = port_of(authority).unwrap_or(default_port);
    let host = host_of(authority).trim_start_matches('[').trim_end_matches(']');
    let address = match host.parse() {
        Ok(ip) => Address::Socket(SocketAddr::new(ip, port)),
        Err(_) => Address::Host(host.into(), port),
    };
    let key = Key { endpoint: 0, address: authority.into(), at: None, source: None };
    Target { key, address, callee: None, in_flight: None }
}

/// Connects to `target`, with the handshake if it is on another base.
pub async fn dial(worker: &Worker, target: &Target) -> Result<Stream, Failure> {
    let shared = &worker.shared;
    let within = shared.limits.connect_timeout;
    let stream = match &target.address {
        Address::Socket(address) => shared.network.connect_addr(*address, within).await?,
        Address::Host(host, port) => shared.network.connect(host, *port, within).await?,
    };
    match (&target.callee, &shared.mesh) {
        (None, _) => Ok(stream),
        (Some(callee), Some(mesh)) => {
            let late = |_| {
                Failure::new(Kind::Tls, format!("TLS handshake for {}: not done in time", target.key.address))
            };
            tokio::time::timeout(within, Box::pin(mesh.secure(stream, callee))).await.map_err(late)?
        }
        (Some(_), None) => Err(Failure::new(Kind::NoEndpoint, "this base is not part of a mesh")),
    }
}
