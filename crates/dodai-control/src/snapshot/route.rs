//! Gateways and routes: listeners, virtual hosts, rules in the order of the Gateway API's precedence.
//!
//! A rule with several matches becomes one rule for each, because precedence is a property of a match. Hosts
//! do not shadow each other: the rules of wider host names follow those of a narrower one.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use dodai_api::{self as api, Gateway, ListenerProtocol, ParentKind, Route, TargetKind, TlsMode};
use dodai_core::id::AppId;
use dodai_core::snapshot::{
    Certificate, ClientAuthorities, Listener, Protocol, ProxyProtocol, RequestId, Role, Routes, Rule, Tls,
    TlsName, VirtualHost,
};

use super::policy::{Part, merged};
use super::precedence::Order;
use super::service::Offered;
use super::{Input, guard, rule};
use crate::documents::{Documents, parent_id};
use crate::name;

/// The name of the core listener of each gateway listener. Those that share an address share the first's.
pub(crate) fn gateway_listener_names(documents: &Documents) -> BTreeMap<(AppId, String), String> {
    let mut by_address: BTreeMap<(String, api::Port, bool), String> = BTreeMap::new();
    let mut names = BTreeMap::new();
    for gateway in documents.gateways() {
        let id = name::app_id(&gateway.metadata);
        for listener in &gateway.spec.listeners {
            let own = format!("gateway/{id}/{}", listener.name);
            // TCP and UDP have ports of their own.
            let key = (listener.address.clone(), listener.port, listener.protocol == ListenerProtocol::Udp);
            let shared = by_address.entry(key).or_insert(own);
            names.insert((id.clone(), listener.name.to_string()), shared.clone());
        }
    }
    names
}

/// The apps and services that routes under gateways lead to.
pub(super) fn gateway_targets(documents: &Documents) -> BTreeSet<AppId> {
    let hangs =
        |route: &&Route| route.spec.parent_refs.iter().any(|parent| parent.kind == ParentKind::Gateway);
    documents.routes().filter(hangs).flat_map(targets).collect()
}

/// The apps that a backend of some route names as apps, whatever service has the same name.
pub(super) fn app_targets(documents: &Documents) -> BTreeSet<AppId> {
    let is_app = |backend: &&api::BackendRef| backend.kind == api::BackendKind::App;
    let of = |route: &Route| -> Vec<AppId> {
        let all = backends(route);
        all.iter().filter(is_app).map(|backend| rule::backend_owner(route, backend)).collect()
    };
    documents.routes().flat_map(of).collect()
}

/// The apps and services that routes under one service lead to.
pub(super) fn service_targets(documents: &Documents, owner: &AppId) -> BTreeSet<AppId> {
    documents.routes_on(owner).flat_map(targets).collect()
}

fn targets(route: &Route) -> Vec<AppId> {
    backends(route).iter().map(|backend| rule::backend_owner(route, backend)).collect()
}

/// Everything that the rules of a route send calls or copies to.
fn backends(route: &Route) -> Vec<api::BackendRef> {
    let mirrors = |rule: &api::Rule| {
        let refs = rule.filters.iter().filter_map(|filter| filter.request_mirror.as_ref());
        refs.map(|mirror| mirror.backend_ref.clone()).collect::<Vec<_>>()
    };
    let all = route.spec.rules.iter().flat_map(|rule| rule.backend_refs.iter().cloned().chain(mirrors(rule)));
    all.collect()
}

/// What of a route leads nowhere, for its status.
pub(crate) fn unresolved(documents: &Documents, route: &Route) -> Vec<String> {
    let mut missing = Vec::new();
    for backend in route.spec.rules.iter().flat_map(|rule| &rule.backend_refs) {
        if rule::backend(documents, route, backend).is_none() {
            let port = backend.port.map(|port| format!(" with port {port}")).unwrap_or_default();
            missing.push(format!("there is no service `{}`{port}", rule::backend_owner(route, backend)));
        }
    }
    missing
}

/// One flat rule and what its place is decided by.
struct Ranked {
    order: Order,
    rule: Rule,
}

/// The flat rules of one route.
fn ranked(input: &Input<'_>, route: &Route) -> Vec<Ranked> {
    let mut all = Vec::new();
    for (index, one) in route.spec.rules.iter().enumerate() {
        let matches: Vec<Option<&api::Match>> =
            if one.matches.is_empty() { vec![None] } else { one.matches.iter().map(Some).collect() };
        for wanted in matches {
            let rule = rule::compile(input, route, (index, one), wanted);
            all.push(Ranked { order: Order::of(wanted, route, index), rule });
        }
    }
    all
}

/// The rules of routes that hang on one service port.
pub(super) fn service_rules(input: &Input<'_>, one: &Offered) -> Vec<Rule> {
    let mut all = Vec::new();
    let Some(service) = one.service() else { return Vec::new() };
    for route in input.documents.routes_on(service) {
        let hangs = route.spec.parent_refs.iter().any(|parent| {
            parent.kind == ParentKind::Service
                && parent_id(route, parent) == *service
                && parent.section_name.as_ref().is_none_or(|section| one.is_called(section))
                && parent.port.is_none_or(|port| one.port == Some(port.get()))
        });
        if hangs {
            all.extend(ranked(input, route));
        }
    }
    sorted(all)
}

fn sorted(mut all: Vec<Ranked>) -> Vec<Rule> {
    all.sort_by(|a, b| a.order.cmp(&b.order));
    all.into_iter().map(|ranked| ranked.rule).collect()
}

/// Every gateway's listeners and the routes behind them.
pub(super) fn gateways(input: &Input<'_>) -> (Vec<Listener>, Vec<Routes>) {
    let names = gateway_listener_names(input.documents);
    let mut listeners: BTreeMap<String, Listener> = BTreeMap::new();
    let mut hosts: BTreeMap<String, BTreeMap<String, Vec<Ranked>>> = BTreeMap::new();
    let mut strict: BTreeSet<String> = BTreeSet::new();
    for gateway in input.documents.gateways() {
        let id = name::app_id(&gateway.metadata);
        for one in &gateway.spec.listeners {
            let Some(own) = names.get(&(id.clone(), one.name.to_string())) else { continue };
            let Ok(address) = one.address.parse::<IpAddr>() else { continue };
            let address = SocketAddr::new(address, one.port.get());
            match listeners.entry(own.clone()) {
                Entry::Vacant(free) => {
                    free.insert(listener(input, own, address, one));
                }
                // One socket for both: what the client names during the handshake tells them apart.
                Entry::Occupied(mut shared) => share(shared.get_mut(), listener(input, own, address, one)),
            }
            // Where listeners share a socket, all of them must trust who comes.
            if one.identity_headers == api::IdentityHeaders::Strip {
                strict.insert(own.clone());
            }
            let hosts = hosts.entry(own.clone()).or_default();
            for (host, rules) in attached(input, gateway, &id, one) {
                hosts.entry(host).or_default().extend(rules);
            }
        }
    }
    let routes = hosts.into_iter().map(|(name, hosts)| {
        let trusted = !strict.contains(&name);
        Routes { name, hosts: widened(hosts), trusted }
    });
    (listeners.into_values().collect(), routes.collect())
}

fn listener(input: &Input<'_>, own: &str, address: SocketAddr, one: &api::Listener) -> Listener {
    let protocol = match one.protocol {
        ListenerProtocol::Http | ListenerProtocol::Https => Protocol::Http,
        ListenerProtocol::Tcp | ListenerProtocol::Tls => Protocol::Tcp,
        ListenerProtocol::Udp => Protocol::Udp,
    };
    let role = Role::Gateway { routes: own.to_owned() };
    let proxy = one.proxy_protocol.as_ref().map(|proxy| ProxyProtocol {
        required: proxy.mode == api::ProxyProtocolMode::Require,
        trusted: proxy.trusted.clone(),
    });
    let request_id = one.request_id.map(|which| match which {
        api::RequestId::Generate => RequestId::Generate,
        api::RequestId::Keep => RequestId::Keep,
    });
    Listener {
        tls: tls(input, one),
        proxy,
        trusted_proxies: one.trusted_proxies.clone(),
        request_id,
        max_connection_age: one.max_connection_age.map(api::TimeSpan::get),
        ..Listener::new(own, address, protocol, role)
    }
}

/// What happens to TLS on a listener. Certificates by name are below the base's data folder, so their paths
/// stay relative; files begin at the project.
fn tls(input: &Input<'_>, one: &api::Listener) -> Option<Tls> {
    let tls = one.tls.as_ref()?;
    let host = one.hostname.as_deref().unwrap_or("*").to_ascii_lowercase();
    let names = vec![TlsName { host, passes: tls.mode == TlsMode::Passthrough }];
    let path = |file: &String| match &input.settings.project {
        Some(project) => project.join(file).display().to_string(),
        None => file.clone(),
    };
    let files = tls.certificate_file.iter().zip(&tls.key_file);
    let files = files.map(|(chain, key)| Certificate { chain_file: path(chain), key_file: path(key) });
    let kept = tls.certificate_refs.iter().map(|one| Certificate {
        chain_file: format!("certificates/{}/tls.crt", one.name),
        key_file: format!("certificates/{}/tls.key", one.name),
    });
    let only_newest = tls.min_version == api::TlsVersion::V1_3;
    let clients = tls.frontend_validation.as_ref().map(|clients| {
        let kept = clients.ca_certificate_refs.iter().map(|one| format!("certificates/{}/ca.crt", one.name));
        ClientAuthorities {
            files: clients.ca_certificate_file.iter().map(path).chain(kept).collect(),
            revoked_file: clients.crl_file.as_ref().map(path),
            is_optional: clients.mode == api::FrontendValidationMode::AllowInsecureFallback,
        }
    });
    Some(Tls { certificates: files.chain(kept).collect(), names, only_newest, clients })
}

/// Adds the TLS of a listener to one that has the same address.
fn share(all: &mut Listener, more: Listener) {
    // All that speak HTTP say the same; one whose TLS goes through says nothing.
    if all.trusted_proxies.is_empty() {
        all.trusted_proxies = more.trusted_proxies;
    }
    all.request_id = all.request_id.or(more.request_id);
    all.max_connection_age = all.max_connection_age.or(more.max_connection_age);
    let (Some(tls), Some(more_tls)) = (&mut all.tls, more.tls) else { return };
    if tls.certificates.is_empty() {
        // So far everything goes through; what is spoken matters only where TLS ends.
        all.protocol = more.protocol;
    }
    for certificate in more_tls.certificates {
        if !tls.certificates.contains(&certificate) {
            tls.certificates.push(certificate);
        }
    }
    tls.only_newest |= more_tls.only_newest;
    tls.clients = tls.clients.take().or(more_tls.clients);
    tls.names.extend(more_tls.names);
    tls.names.sort_by(|a, b| by_width(&a.host, &b.host));
}

/// The rules under one listener by host name; `*` for every host.
fn attached(
    input: &Input<'_>,
    gateway: &Gateway,
    id: &AppId,
    listener: &api::Listener,
) -> BTreeMap<String, Vec<Ranked>> {
    let section = Some(listener.name.as_str());
    let part = |section| Part { kind: TargetKind::Gateway, app: id, section };
    let policy = merged(input, &[part(section), part(None)]);
    let mut hosts: BTreeMap<String, Vec<Ranked>> = BTreeMap::new();
    for route in input.documents.routes() {
        let hangs = route.spec.parent_refs.iter().any(|parent| {
            parent.kind == ParentKind::Gateway
                && parent_id(route, parent) == *id
                && parent.section_name.as_ref().is_none_or(|name| *name == listener.name)
                && parent.port.is_none_or(|port| port == listener.port)
        });
        if !hangs {
            continue;
        }
        for host in shared_hosts(&route.spec.hostnames, listener.hostname.as_deref()) {
            let mut rules = ranked(input, route);
            for ranked in &mut rules {
                let filters = std::mem::take(&mut ranked.rule.filters);
                ranked.rule.filters = policy.filters.iter().cloned().chain(filters).collect();
                guard::pages_first(&mut ranked.rule.filters);
                rule::fall_back(&mut ranked.rule.policy, &policy.call);
            }
            hosts.entry(host).or_default().extend(rules);
        }
    }
    // A listener without routes answers, and its answer is that there is no route.
    if hosts.is_empty() && !gateway.spec.listeners.is_empty() {
        hosts.insert(listener.hostname.clone().unwrap_or_else(|| "*".to_owned()), Vec::new());
    }
    hosts
}

/// The host names that both a route and its listener answer for; the narrower of two that overlap.
fn shared_hosts(route: &[String], listener: Option<&str>) -> BTreeSet<String> {
    let lower = |host: &str| host.to_ascii_lowercase();
    match (route, listener.map(lower)) {
        ([], None) => BTreeSet::from(["*".to_owned()]),
        ([], Some(listener)) => BTreeSet::from([listener]),
        (hosts, None) => hosts.iter().map(|host| lower(host)).collect(),
        (hosts, Some(listener)) => {
            let both = hosts.iter().map(|host| lower(host)).filter_map(|host| {
                if covers(&listener, &host) {
                    Some(host)
                } else {
                    covers(&host, &listener).then(|| listener.clone())
                }
            });
            both.collect()
        }
    }
}

/// Whether `wide` answers for everything that `narrow` does.
fn covers(wide: &str, narrow: &str) -> bool {
    if wide == "*" || wide == narrow {
        return true;
    }
    let Some(suffix) = wide.strip_prefix('*') else { return false };
    let inner = narrow.strip_prefix("*.").map_or(narrow, |_| &narrow[1..]);
    inner.len() > suffix.len() && inner.ends_with(suffix)
}

/// The narrower host first.
fn by_width(a: &str, b: &str) -> std::cmp::Ordering {
    let key = |host: &str| (host.starts_with('*'), std::cmp::Reverse(host.len()));
    key(a).cmp(&key(b)).then_with(|| a.cmp(b))
}

/// Virtual hosts, the narrower first; the rules of wider ones follow their own.
fn widened(hosts: BTreeMap<String, Vec<Ranked>>) -> Vec<VirtualHost> {
    let sorted: BTreeMap<String, Vec<Rule>> =
        hosts.into_iter().map(|(host, rules)| (host, sorted(rules))).collect();
    let mut names: Vec<&String> = sorted.keys().collect();
    names.sort_by(|a, b| by_width(a, b));
    let virtual_host = |host: &&String| {
        let wider = names.iter().filter(|other| *other != host && covers(other, host));
        let rules = sorted[*host].iter().chain(wider.flat_map(|other| &sorted[*other]));
        VirtualHost { names: vec![(*host).clone()], rules: rules.cloned().collect() }
    };
    names.iter().map(virtual_host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrower_of_two_hosts_is_shared() {
        let check = |route: &[&str], listener: Option<&str>, expect: &[&str]| {
            let route: Vec<String> = route.iter().map(|host| (*host).to_owned()).collect();
            let expect: BTreeSet<String> = expect.iter().map(|host| (*host).to_owned()).collect();
            assert_eq!(shared_hosts(&route, listener), expect, "{route:?} under {listener:?}");
        };
        check(&[], None, &["*"]);
        check(&[], Some("a.example"), &["a.example"]);
        check(&["A.example"], None, &["a.example"]);
        check(&["a.example.com"], Some("*.example.com"), &["a.example.com"]);
        check(&["*.example.com"], Some("a.example.com"), &["a.example.com"]);
        check(&["*.example.com"], Some("*.com"), &["*.example.com"]);
        check(&["example.com"], Some("*.example.com"), &[]);
        check(&["b.example.com"], Some("a.example.com"), &[]);
    }
}
