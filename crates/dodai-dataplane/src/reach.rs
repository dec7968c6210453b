//! How an endpoint is talked to: over a kept HTTP/1 connection, an HTTP/2 one, or in this process.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dodai_core::call::{Caller, Serve};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{host_of, port_of};
use dodai_core::snapshot::{ClientTls, Protocol};
use dodai_transport::stream::Stream;
use http::uri::Scheme;

use crate::capture;
use crate::endpoint::{Keep, Key, Lease, Need, Taken};
use crate::local::{InFlight, Way};
use crate::mesh::Callee;
use crate::proxied::Announce;
use crate::request::Side;
use crate::route::Rule;
use crate::secure::Secure;
use crate::service::{Endpoint, Place, Service};
use crate::timer::Deadline;
use crate::wire::Wire;
use crate::worker::{Shared, Worker};

/// Where a connection goes.
#[derive(Clone, Debug)]
pub enum Address {
    /// A socket address.
    Socket(SocketAddr),
    /// A host name and port.
    Host(Arc<str>, u16),
}

impl Address {
    /// Reads a host with an optional port.
    pub fn of(authority: &str, default_port: u16) -> Address {
        let port = port_of(authority).unwrap_or(default_port);
        let host = host_of(authority).trim_start_matches('[').trim_end_matches(']');
        match host.parse() {
            Ok(ip) => Address::Socket(SocketAddr::new(ip, port)),
            Err(_) => Address::Host(host.into(), port),
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        match self {
            Address::Socket(address) => address.port(),
            Address::Host(_, port) => *port,
        }
    }
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
    /// How long connecting may take in milliseconds; 0 for the base's limit. Small, as every HTTP/1 connection
    /// of a client has room for a target.
    pub connect_timeout_ms: u32,
    /// What is spoken on it.
    pub protocol: Protocol,
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
    /// Whether the callee's own checks are made by this base: its instance runs here, or outside the mesh, where
    /// nobody else would make them.
    pub fn is_checked_here(&self) -> bool {
        match self {
            Reach::Http1(target) | Reach::Http2(target) => target.callee.is_none(),
            Reach::Serve(..) => true,
        }
    }

    /// The same, connecting within what the call's rule says, if it says something.
    pub fn by(mut self, rule: Option<&Rule>) -> Reach {
        let within = rule.and_then(|rule| rule.policy.connect_timeout);
        if let (Some(within), Reach::Http1(target) | Reach::Http2(target)) = (within, &mut self) {
            target.connect_timeout_ms = millis(within);
        }
        self
    }

    /// The same for the client at the other end of `side`, where the endpoint wants to know.
    pub fn behalf_of(mut self, side: &Side) -> Reach {
        if let Reach::Http1(target) | Reach::Http2(target) = &mut self
            && let Some(announce) = &mut target.key.announce
            && let Some(ends) = side.ends()
        {
            *announce = Arc::new(Announce { version: announce.version, ends: Some(ends) });
        }
        self
    }
}

/// The way to `endpoint` for calls to `service`.
pub fn of(
    endpoint: &Arc<Endpoint>,
    service: &Service,
    caller: &Caller,
    shared: &Shared,
) -> Result<Reach, Failure> {
    if service.spec.protocol == Protocol::Udp {
        let text = format!("{} is reached by UDP only, at an address that `calls` declares", service.label);
        return Err(Failure::new(Kind::NotImplemented, text));
    }
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
                    let port = service.spec.target.as_ref().unwrap_or(&service.spec.id.port);
                    let address = ports.get(port).copied().ok_or_else(|| {
                        Failure::new(Kind::NoEndpoint, format!("{} does not serve `{port}`", endpoint.label))
                    })?;
                    let key = Key {
                        endpoint: endpoint.id,
                        address: service.label.clone(),
                        at: Some(address),
                        source: None,
                        tls: None,
                        announce: None,
                    };
                    let address = Address::Socket(address);
                    Ok(spoken(service, target(key, address, Some(in_flight))))
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
                tls: None,
                announce: None,
            };
            let callee = Callee { caller: caller.clone(), service: service.spec.id.clone() };
            let callee = Some(Box::new(callee));
            Ok(spoken(service, Target { callee, ..target(key, Address::Socket(*address), None) }))
        }
        Place::Address(name, address, tls, told) => {
            let announce = told.map(|version| Arc::new(Announce { version, ends: None }));
            let (address_of, tls) = (name.clone(), tls.clone());
            let key =
                Key { endpoint: endpoint.id, address: address_of, at: None, source: None, tls, announce };
            Ok(spoken(service, target(key, address.clone(), None)))
        }
    }
}

/// At least one millisecond, because 0 means something else.
fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX).max(1)
}

fn target(key: Key, address: Address, in_flight: Option<InFlight>) -> Target {
    Target { key, address, callee: None, in_flight, connect_timeout_ms: 0, protocol: Protocol::Http }
}

fn spoken(service: &Service, mut target: Target) -> Reach {
    target.connect_timeout_ms = service.spec.policy.connect_timeout.map_or(0, millis);
    target.protocol = service.spec.protocol;
    match service.spec.protocol {
        Protocol::Http | Protocol::Tcp | Protocol::Udp => Reach::Http1(target),
        Protocol::Http2 | Protocol::Grpc => Reach::Http2(target),
    }
}

/// An address outside the mesh, without TLS.
pub fn external(authority: &str, default_port: u16) -> Target {
    outside(authority, default_port, None)
}

/// An address as it is.
pub fn straight(address: SocketAddr) -> Target {
    external(&address.to_string(), address.port())
}

/// Where a call goes that is for a host outside the mesh: there, or for a client whose connections the kernel leads
/// here, where it connected to.
pub fn beyond(side: &Side, authority: &str, default_port: u16) -> Result<Target, Failure> {
    match (&side.wanted, side.captured()) {
        (Some(wanted), Some(captured)) if captured.allow_unknown => Ok(straight(wanted.address)),
        (Some(wanted), Some(_)) => Err(capture::denied(wanted.address)),
        (Some(_) | None, _) => Ok(external(authority, default_port)),
    }
}

/// A host outside the mesh as a URL means it: `https` is TLS, on port 443 unless the URL names one, to whoever
/// proves to be that host.
pub fn url(authority: &str, scheme: &Scheme) -> Result<Target, Failure> {
    if *scheme == Scheme::HTTPS {
        let tls = Secure::new(authority, &ClientTls::default());
        Ok(outside(authority, 443, Some(Arc::new(tls))))
    } else if *scheme == Scheme::HTTP {
        Ok(outside(authority, 80, None))
    } else {
        let text = format!("{scheme}://{authority} cannot be called: only http and https can");
        Err(Failure::new(Kind::BadRequest, text))
    }
}

fn outside(authority: &str, default_port: u16, tls: Option<Arc<Secure>>) -> Target {
    let address = Address::of(authority, default_port);
    let key = Key { endpoint: 0, address: authority.into(), at: None, source: None, tls, announce: None };
    target(key, address, None)
}

/// A kept connection to `target`, or a new one; also says whether it was used before.
pub async fn connection(
    worker: &Rc<Worker>,
    deadline: &Deadline,
    target: &Target,
    caps: &dodai_core::snapshot::Breaker,
    need: Need,
) -> Result<(Wire, Keep, bool), Failure> {
    let lease = match worker.pools.try_take(&target.key, caps, need, worker.latest()) {
        Some(Taken::Kept(lease)) => lease,
        // Waiting and connecting are rare; boxed, they cost a connection nothing while it does neither.
        other => Box::pin(fresh(worker, deadline, target, caps, need, other)).await?,
    };
    let reused = lease.reused;
    let (stream, keep) = lease.split();
    Ok((Wire::new(stream), keep, reused))
}

async fn fresh(
    worker: &Rc<Worker>,
    deadline: &Deadline,
    target: &Target,
    caps: &dodai_core::snapshot::Breaker,
    need: Need,
    taken: Option<Taken>,
) -> Result<Lease, Failure> {
    let late = || {
        Failure::new(Kind::Timeout, format!("no connection to {} became free in time", target.key.address))
    };
    let taken = match taken {
        Some(taken) => taken,
        None => deadline.bound(worker.pools.take(&target.key, caps, need)).await.ok_or_else(late)??,
    };
    match taken {
        Taken::Kept(lease) => Ok(lease),
        Taken::New(slot) => {
            let stream = deadline.bound(dial(worker, target)).await.ok_or_else(late)??;
            Ok(slot.fill(stream))
        }
    }
}

/// Connects to `target`, with the handshake if it is on another base or wants TLS.
pub async fn dial(worker: &Worker, target: &Target) -> Result<Stream, Failure> {
    let shared = &worker.shared;
    let within = match target.connect_timeout_ms {
        0 => shared.limits.connect_timeout,
        millis => Duration::from_millis(millis.into()),
    };
    let mut stream = match &target.address {
        Address::Socket(address) => shared.network.connect_addr(*address, within).await?,
        Address::Host(host, port) => shared.network.connect(host, *port, within).await?,
    };
    if let Some(announce) = &target.key.announce {
        Box::pin(announce.tell(&mut stream, &target.key.address, within)).await?;
    }
    let late = |_| {
        let text = format!("TLS handshake for {}: not done within {within:?}", target.key.address);
        Failure::new(Kind::Tls, text)
    };
    if let Some(tls) = &target.key.tls {
        let secured = Box::pin(shared.outward.secure(stream, tls, target.protocol));
        let secured = tokio::time::timeout(within, secured).await.map_err(late).flatten();
        shared.dialled.count(secured.as_ref().ok().and_then(Stream::tls_version));
        return secured;
    }
    match (&target.callee, &shared.mesh) {
        (None, _) => Ok(stream),
        (Some(callee), Some(mesh)) => {
            let secured = tokio::time::timeout(within, Box::pin(mesh.secure(stream, callee))).await;
            let secured = secured.map_err(late).flatten();
            shared.dialled.count(secured.as_ref().ok().and_then(Stream::tls_version));
            secured
        }
        (Some(_), None) => Err(Failure::new(Kind::NoEndpoint, "this base is not part of a mesh")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_port_and_security() {
        let check = |url: &str, expect: Option<(u16, bool)>| {
            let url: http::Uri = url.parse().expect("a URL");
            let (scheme, authority) =
                (url.scheme().expect("a scheme"), url.authority().expect("an authority"));
            let found = super::url(authority.as_str(), scheme).ok().map(|target| match target.address {
                Address::Host(_, port) => (port, target.key.tls.is_some()),
                Address::Socket(address) => (address.port(), target.key.tls.is_some()),
            });
            assert_eq!(found, expect, "{url}");
        };
        check("https://a.example/", Some((443, true)));
        check("HTTPS://a.example/", Some((443, true)));
        check("https://a.example:80/", Some((80, true)));
        check("https://[::1]/", Some((443, true)));
        check("http://a.example/", Some((80, false)));
        check("http://10.0.0.1:443/", Some((443, false)));
        check("ftp://a.example/", None);
    }
}
