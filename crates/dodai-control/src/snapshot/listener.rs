//! The listeners of local apps: egress, the runtime API, declared TCP dependencies; and the mesh port.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dodai_api::{AccessAction, App, InterceptedCaller, Interception, Port};
use dodai_core::id::AppId;
use dodai_core::snapshot::{Capture, CaptureWay, CapturedCaller, Listener, Protocol, Role};

use super::Input;
use super::service::resolve;
use crate::name;

/// A free port that only this machine reaches.
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub(super) fn listeners(input: &Input<'_>, local: &BTreeSet<AppId>) -> Vec<Listener> {
    let mut all = Vec::new();
    for id in local {
        let Some(app) = input.documents.app(id) else { continue };
        let outbound = input.settings.outbound.get(id).copied();
        if outbound.is_some() || !input.settings.attached.contains(id) {
            all.push(Listener::new(
                format!("outbound/{id}"),
                outbound.unwrap_or(ANY),
                Protocol::Http,
                Role::Outbound { app: id.clone() },
            ));
        }
        if app.spec.dapr.as_ref().is_none_or(|dapr| dapr.enabled) {
            all.extend(apis(input, id));
        }
        all.extend(dependencies(input, id, app));
    }
    all.extend(captured(input));
    if let Some(address) = input.settings.mesh {
        let name = "mesh".to_owned();
        all.push(Listener::new(name, address, Protocol::Http2, Role::Mesh));
    }
    all
}

/// What takes connections that rules of the kernel lead to this base, in both families.
fn captured(input: &Input<'_>) -> Vec<Listener> {
    let Some(interception) = interception(input) else { return Vec::new() };
    let listener = |name: &str, ip: IpAddr, port: Port, way: &CaptureWay, unknown| {
        Listener::new(
            format!("intercept/{name}/{}", if ip.is_ipv4() { "ipv4" } else { "ipv6" }),
            SocketAddr::new(ip, port.get()),
            Protocol::Tcp,
            Role::Captured(Capture { way: way.clone(), allow_unknown: unknown == AccessAction::Allow }),
        )
    };
    let mut all = Vec::new();
    if let Some(outbound) = &interception.outbound {
        let caller = |one: &InterceptedCaller| CapturedCaller {
            user: one.user,
            app: name::app_in(&one.namespace, &one.app),
        };
        let way = CaptureWay::Outbound { callers: outbound.callers.iter().map(caller).collect() };
        let ips = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        all.extend(ips.map(|ip| listener("outbound", ip, outbound.port, &way, outbound.unknown)));
    }
    if let Some(inbound) = &interception.inbound {
        // Redirected connections come to the address of the interface that they came by.
        let ips = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let way = CaptureWay::Inbound;
        all.extend(ips.map(|ip| listener("inbound", ip, inbound.port, &way, inbound.unknown)));
    }
    all
}

/// What the document of this base says of connections that are led to it.
pub(super) fn interception<'a>(input: &Input<'a>) -> Option<&'a Interception> {
    input.documents.base(input.base)?.spec.interception.as_ref()
}

/// The runtime API of one app, at each of its addresses.
fn apis(input: &Input<'_>, id: &AppId) -> Vec<Listener> {
    let addresses = input.settings.api.get(id).map_or(&[ANY][..], Vec::as_slice);
    let listener = |(at, address): (usize, &SocketAddr)| {
        Listener::new(
            if at == 0 { format!("api/{id}") } else { format!("api/{id}/{at}") },
            *address,
            Protocol::Http,
            Role::Api { app: id.clone() },
        )
    };
    addresses.iter().enumerate().map(listener).collect()
}

/// One listener for each declared call over TCP or UDP, or with an address of its own.
fn dependencies(input: &Input<'_>, id: &AppId, app: &App) -> Vec<Listener> {
    let mut all = Vec::new();
    for call in &app.spec.calls {
        let there = name::app_in(call.namespace.as_ref().unwrap_or(&app.metadata.namespace), &call.app);
        let port = call.port.map(dodai_api::Port::get);
        let Some(found) = resolve(input.documents, &there, call.service.as_ref(), port) else { continue };
        let protocol = call.protocol.map_or(found.protocol, super::workload::protocol);
        if !matches!(protocol, Protocol::Tcp | Protocol::Udp) && call.listen.is_none() {
            continue;
        }
        // What the service speaks counts: carried as bytes, calls would pass its policies by.
        all.push(Listener::new(
            format!("dependency/{id}/{}", found.id),
            call.listen.map_or(ANY, dodai_api::SocketAddress::get),
            found.protocol,
            Role::Dependency { app: id.clone(), service: found.id },
        ));
    }
    all
}
