//! The listeners of local apps: egress, the runtime API, declared TCP dependencies; and the mesh port.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use dodai_api::App;
use dodai_core::id::AppId;
use dodai_core::snapshot::{Listener, Protocol, Role};

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
            all.push(Listener {
                name: format!("outbound/{id}"),
                address: outbound.unwrap_or(ANY),
                protocol: Protocol::Http,
                role: Role::Outbound { app: id.clone() },
                tls: None,
                proxy: None,
            });
        }
        if app.spec.dapr.as_ref().is_none_or(|dapr| dapr.enabled) {
            all.extend(apis(input, id));
        }
        all.extend(dependencies(input, id, app));
    }
    if let Some(address) = input.settings.mesh {
        let name = "mesh".to_owned();
        all.push(Listener {
            name,
            address,
            protocol: Protocol::Http2,
            role: Role::Mesh,
            tls: None,
            proxy: None,
        });
    }
    all
}

/// The runtime API of one app, at each of its addresses.
fn apis(input: &Input<'_>, id: &AppId) -> Vec<Listener> {
    let addresses = input.settings.api.get(id).map_or(&[ANY][..], Vec::as_slice);
    let listener = |(at, address): (usize, &SocketAddr)| Listener {
        name: if at == 0 { format!("api/{id}") } else { format!("api/{id}/{at}") },
        address: *address,
        protocol: Protocol::Http,
        role: Role::Api { app: id.clone() },
        tls: None,
        proxy: None,
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
        all.push(Listener {
            name: format!("dependency/{id}/{}", found.id),
            address: call.listen.map_or(ANY, dodai_api::SocketAddress::get),
            // What the service speaks counts: carried as bytes, calls would pass its policies by.
            protocol: found.protocol,
            role: Role::Dependency { app: id.clone(), service: found.id },
            tls: None,
            proxy: None,
        });
    }
    all
}
