//! A snapshot in live form: what the stations read while a call passes.
//!
//! Compiling is pure but for taking over live state from the table before. A table is immutable and swapped
//! whole; a snapshot that does not compile leaves the old table in place and says why.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use dodai_core::id::{AppId, BaseId, Name, ServiceId};
use dodai_core::snapshot::{self, Listener, Resource, ResourceKind, Role, Snapshot};
use dodai_log::Headers;
use thiserror::Error;

use crate::capture;
use crate::filter::Filter;
use crate::hosts::Hosts;
use crate::local::Locals;
use crate::logging;
use crate::rate_limits::RateLimits;
use crate::reach::Address;
use crate::route::{BadRule, Router, Rule};
use crate::service::{Place, Service};
use crate::shared_rate::Limits;
use crate::tally::{self, Tally};

/// Why a snapshot is refused.
#[derive(Debug, Error)]
pub enum Refused {
    /// A rule does not compile.
    #[error(transparent)]
    Rule(#[from] BadRule),
    /// A gateway listener names routes that are not there.
    #[error("listener {listener} refers to routes `{routes}`, which the snapshot does not hold")]
    Routes {
        /// The listener.
        listener: String,
        /// What it refers to.
        routes: String,
    },
    /// Two listeners want one address.
    #[error("listeners {first} and {second} both want {address}; give one of them another port")]
    Address {
        /// One listener.
        first: String,
        /// The other.
        second: String,
        /// The address.
        address: std::net::SocketAddr,
    },
}

/// The live form of one snapshot.
pub struct Table {
    /// The snapshot's version.
    pub version: u64,
    /// Listeners by name.
    pub listeners: BTreeMap<String, Arc<Listener>>,
    routers: foldhash::HashMap<String, Arc<Router>>,
    services: foldhash::HashMap<ServiceId, Arc<Service>>,
    /// Services by namespace and owner name, the default one first.
    names: foldhash::HashMap<String, foldhash::HashMap<String, Vec<Arc<Service>>>>,
    /// Limits that all bases keep together.
    limits: Limits,
    /// Whether some service takes callers that do not speak mutual TLS.
    takes_plain: bool,
    /// Headers that documents want in the access log.
    logged: Headers,
    /// Services by their addresses outside the mesh, and which endpoint that is; for connections that the kernel leads
    /// here.
    owners: foldhash::HashMap<SocketAddr, (Arc<Service>, u64)>,
    /// Names that nobody has, of those that were asked about.
    absent: foldhash::HashSet<AppId>,
}

impl Table {
    /// A table of nothing.
    pub fn empty() -> Table {
        Table {
            version: 0,
            listeners: BTreeMap::new(),
            routers: Default::default(),
            services: Default::default(),
            names: Default::default(),
            limits: Limits::new(),
            takes_plain: false,
            logged: Headers::default(),
            owners: Default::default(),
            absent: Default::default(),
        }
    }

    /// Compiles `snapshot` for `base`, taking over from `old` what stayed the same.
    pub fn compile(
        snapshot: &Snapshot,
        old: &Table,
        base: &BaseId,
        locals: &Locals,
        hosts: &Hosts,
    ) -> Result<Table, Refused> {
        let mut table = Table { version: snapshot.version, ..Table::empty() };
        for source in snapshot.of_kind(ResourceKind::Service) {
            let Resource::Service(spec) = source.as_ref() else { continue };
            let endpoints = snapshot.endpoints_of(&spec.id);
            let known = old.services.get(&spec.id);
            let service = Service::compile(spec, source, endpoints, known, base, locals, hosts)?;
            table.add(service);
        }
        for source in snapshot.of_kind(ResourceKind::Routes) {
            let Resource::Routes(routes) = source.as_ref() else { continue };
            let router = Router::compile(routes, source, old.routers.get(&routes.name))?;
            table.routers.insert(routes.name.clone(), router);
        }
        table.add_listeners(snapshot, old)?;
        table.join_limits(old);
        let of_services = table.services.values().filter_map(|service| service.logging.as_ref());
        let of_rules = table.rules().filter_map(|rule| rule.logging.as_ref());
        table.logged = logging::headers(of_rules.chain(of_services));
        table.find_owners();
        table.absent = snapshot.absents().map(|one| one.app.clone()).collect();
        Ok(table)
    }

    /// The same with services where their names are now, if some are elsewhere.
    pub fn spread(&self, base: &BaseId, locals: &Locals, hosts: &Hosts) -> Option<Table> {
        let moved: Vec<_> =
            self.services.values().filter_map(|one| one.spread(base, locals, hosts)).collect();
        if moved.is_empty() {
            return None;
        }
        let mut table = Table {
            version: self.version,
            listeners: self.listeners.clone(),
            routers: self.routers.clone(),
            services: self.services.clone(),
            names: self.names.clone(),
            limits: self.limits.clone(),
            takes_plain: self.takes_plain,
            logged: self.logged.clone(),
            owners: Default::default(),
            absent: self.absent.clone(),
        };
        for service in moved {
            let owner = &service.spec.id.owner;
            let by_name = table.names.get_mut(owner.namespace.as_str());
            let list = by_name.and_then(|by_name| by_name.get_mut(owner.name.as_str()));
            for known in list.into_iter().flatten().filter(|known| known.id() == service.id()) {
                known.clone_from(&service);
            }
            table.services.insert(service.spec.id.clone(), service);
        }
        table.find_owners();
        Some(table)
    }

    /// Every rule, of listeners and of services.
    fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        let mut seen = HashSet::new();
        let of_services = self.services.values().flat_map(|service| service.rules.list());
        let rules = self.routers.values().flat_map(|router| router.rules()).chain(of_services);
        rules.filter(move |rule| seen.insert(Arc::as_ptr(rule)))
    }

    /// Every list of filters, with the name that it counts by.
    fn filters(&self) -> impl Iterator<Item = (&Arc<str>, &[Filter])> {
        let rules = self.rules().map(|rule| (&rule.name, rule.filters.as_slice()));
        rules.chain(self.services.values().map(|service| (&service.label, service.inbound.as_slice())))
    }

    /// Headers that documents want in the access log.
    pub fn logged(&self) -> &Headers {
        &self.logged
    }

    fn join_limits(&mut self, old: &Table) {
        let mut limits = Limits::new();
        let filters = self.filters().flat_map(|(_, filters)| filters);
        for shared in filters.filter_map(Filter::rate_limits).flat_map(RateLimits::shared) {
            shared.join(&mut limits, &old.limits);
        }
        self.limits = limits;
    }

    fn find_owners(&mut self) {
        if !self.listeners.values().any(|listener| matches!(listener.role, Role::Captured(_))) {
            return;
        }
        let mut services: Vec<&Arc<Service>> = self.services.values().collect();
        services.sort_by_key(|service| (!service.spec.default, service.id()));
        let mut owners = foldhash::HashMap::default();
        for service in services {
            for endpoint in service.endpoints() {
                if let Place::Address(_, Address::Socket(address), ..) = &endpoint.place {
                    owners.entry(*address).or_insert_with(|| (service.clone(), endpoint.token));
                }
            }
        }
        self.owners = owners;
    }

    /// The service that has this address outside the mesh, and which of its endpoints that is. Known only where the
    /// kernel leads connections here.
    pub fn owner(&self, address: &SocketAddr) -> Option<&(Arc<Service>, u64)> {
        self.owners.get(address)
    }

    /// The service that a connection is for which came to `address` of this machine, and the endpoint with that address
    /// if it is outside the mesh.
    pub fn arrival(&self, address: &SocketAddr) -> Option<(Arc<Service>, Option<u64>)> {
        let loopback = match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let outside = self.owner(address).or_else(|| self.owner(&SocketAddr::new(loopback, address.port())));
        if let Some((service, endpoint)) = outside {
            return Some((service.clone(), Some(*endpoint)));
        }
        capture::serving(self.services.values(), address.port()).map(|service| (service.clone(), None))
    }

    /// Limits that all bases keep together.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether some service takes callers that do not speak mutual TLS.
    pub fn takes_plain(&self) -> bool {
        self.takes_plain
    }

    fn add(&mut self, service: Arc<Service>) {
        self.takes_plain |= service.spec.plain;
        let owner = &service.spec.id.owner;
        let by_name = self.names.entry(owner.namespace.as_str().to_owned()).or_default();
        let list = by_name.entry(owner.name.as_str().to_owned()).or_default();
        let at = if service.spec.default { 0 } else { list.len() };
        list.insert(at, service.clone());
        self.services.insert(service.spec.id.clone(), service);
    }

    fn add_listeners(&mut self, snapshot: &Snapshot, old: &Table) -> Result<(), Refused> {
        // TCP and UDP have ports of their own.
        let mut addresses: HashMap<(bool, std::net::SocketAddr), &str> = HashMap::new();
        for listener in snapshot.listeners() {
            if let snapshot::Role::Gateway { routes } = &listener.role
                && !self.routers.contains_key(routes)
            {
                return Err(Refused::Routes { listener: listener.name.clone(), routes: routes.clone() });
            }
            let at = (listener.protocol == snapshot::Protocol::Udp, listener.address);
            if listener.address.port() != 0
                && let Some(first) = addresses.insert(at, &listener.name)
            {
                let (first, second) = (first.to_owned(), listener.name.clone());
                return Err(Refused::Address { first, second, address: listener.address });
            }
            let same = old.listeners.get(&listener.name).filter(|known| ***known == *listener).cloned();
            let listener = same.unwrap_or_else(|| Arc::new(listener.clone()));
            self.listeners.insert(listener.name.clone(), listener);
        }
        Ok(())
    }

    /// What filters did, by rule, or by service for what is checked on arrival.
    pub fn tallies(&self) -> Vec<tally::Reading> {
        let mut counts: BTreeMap<(Arc<str>, &str), tally::Reading> = BTreeMap::new();
        for (name, filters) in self.filters() {
            for (event, count) in filters.iter().filter_map(Filter::tally).flat_map(Tally::read) {
                let empty = tally::Reading { rule: name.clone(), event, count: 0 };
                counts.entry((name.clone(), event.as_str())).or_insert(empty).count += count;
            }
        }
        let of_services =
            self.services.values().flat_map(|one| one.tallies().map(move |tally| (&one.label, tally)));
        for (rule, (event, count)) in
            of_services.flat_map(|(label, tally)| tally.read().map(move |read| (label, read)))
        {
            counts
                .insert((rule.clone(), event.as_str()), tally::Reading { rule: rule.clone(), event, count });
        }
        counts.into_values().collect()
    }

    /// One service.
    pub fn service(&self, id: &ServiceId) -> Option<&Arc<Service>> {
        self.services.get(id)
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The routes of all gateways, by name.
    pub fn routers(&self) -> impl Iterator<Item = (&str, &Arc<Router>)> {
        self.routers.iter().map(|(name, router)| (name.as_str(), router))
    }

    /// The routes of a gateway.
    pub fn router(&self, name: &str) -> Option<&Arc<Router>> {
        self.routers.get(name)
    }

    /// The service that `host` and `port` mean to a caller in `namespace`: `catalog`, `catalog.shop`,
    /// either with `.svc` or `.svc.cluster.local` behind it. Without a port, or with the port of the URL's
    /// scheme, it is the owner's default service.
    pub fn resolve(&self, host: &str, port: Option<u16>, namespace: &str) -> Option<&Arc<Service>> {
        let (name, namespace) = mesh_name(host, namespace)?;
        let list = self.names.get(namespace)?.get(name)?;
        match port {
            None | Some(80 | 443) => {
                list.iter().find(|service| service.spec.port == port && port.is_some()).or(list.first())
            }
            Some(_) => list.iter().find(|service| service.spec.port == port),
        }
    }

    /// Whether `host` has the form of a name in this mesh and somebody by that name exists.
    pub fn knows(&self, host: &str, namespace: &str) -> bool {
        mesh_name(host, namespace).is_some_and(|(name, namespace)| {
            self.names.get(namespace).is_some_and(|names| names.contains_key(name))
        })
    }

    /// The app that `host` may mean to a caller in `namespace` and of which nothing has been told.
    pub fn untold(&self, host: &str, namespace: &str) -> Option<AppId> {
        let (name, namespace) = mesh_name(host, namespace)?;
        if self.names.get(namespace).is_some_and(|names| names.contains_key(name)) {
            return None;
        }
        let app = AppId::new(Name::new(namespace).ok()?, Name::new(name).ok()?);
        (!self.absent.contains(&app)).then_some(app)
    }

    /// Whether it is known that `app` can be called, or that it cannot.
    pub fn tells_of(&self, app: &AppId) -> bool {
        let named =
            self.names.get(app.namespace.as_str()).is_some_and(|names| names.contains_key(app.name.as_str()));
        named || self.absent.contains(app)
    }

    /// The default service of an app.
    pub fn default_service(&self, app: &AppId) -> Option<&Arc<Service>> {
        self.names.get(app.namespace.as_str())?.get(app.name.as_str())?.first()
    }
}

/// Splits a host name into name and namespace, if it can be a mesh name.
fn mesh_name<'a>(host: &'a str, namespace: &'a str) -> Option<(&'a str, &'a str)> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let host = host.strip_suffix(".cluster.local").unwrap_or(host);
    let host = host.strip_suffix(".svc").unwrap_or(host);
    match host.split_once('.') {
        None if !host.is_empty() => Some((host, namespace)),
        Some((name, namespace)) if !namespace.contains('.') => Some((name, namespace)),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dodai_core::snapshot::{Protocol, Routes};

    fn service(id: &str, port: Option<u16>, default: bool) -> Resource {
        Resource::Service(snapshot::Service {
            port,
            default,
            ..snapshot::Service::new(ServiceId::parse(id).expect("valid"))
        })
    }

    fn compile(resources: Vec<Resource>) -> Result<Table, Refused> {
        Table::compile(
            &Snapshot::of(1, resources),
            &Table::empty(),
            &BaseId::new("b"),
            &Locals::default(),
            &Hosts::default(),
        )
    }

    #[test]
    fn names_resolve_by_namespace_and_port() {
        let table = compile(vec![
            service("shop/catalog/grpc", Some(9000), false),
            service("shop/catalog/http", Some(8080), true),
            service("other/catalog/http", None, true),
        ])
        .expect("compiles");
        let check = |host: &str, port: Option<u16>, expect: Option<&str>| {
            let found = table.resolve(host, port, "shop").map(|service| service.spec.id.to_string());
            assert_eq!(found.as_deref(), expect, "{host} {port:?}");
        };
        check("catalog", None, Some("shop/catalog/http"));
        check("catalog", Some(80), Some("shop/catalog/http"));
        check("catalog", Some(9000), Some("shop/catalog/grpc"));
        check("catalog", Some(1), None);
        check("catalog.other", None, Some("other/catalog/http"));
        check("catalog.other.svc.cluster.local", None, Some("other/catalog/http"));
        check("catalog.shop.svc", Some(8080), Some("shop/catalog/http"));
        check("www.example.com", None, None);
        check("", None, None);
    }

    #[test]
    fn what_stays_the_same_is_taken_over() {
        let locals = Locals::default();
        let base = BaseId::new("b");
        let first = Snapshot::of(1, [service("shop/a/http", None, true), service("shop/b/http", None, true)]);
        let old =
            Table::compile(&first, &Table::empty(), &base, &locals, &Hosts::default()).expect("compiles");
        let second =
            Snapshot::of(2, [service("shop/a/http", None, true), service("shop/b/http", Some(1), true)]);
        let new = Table::compile(&second, &old, &base, &locals, &Hosts::default()).expect("compiles");
        let same = |id: &str| {
            let id = ServiceId::parse(id).expect("valid");
            Arc::ptr_eq(&old.services[&id], &new.services[&id])
        };
        assert!(same("shop/a/http") && !same("shop/b/http"));
    }

    #[test]
    fn listeners_that_cannot_stand_are_refused() {
        let listener = |name: &str, routes: &str, port: u16| {
            Resource::Listener(Listener::new(
                name,
                ([127, 0, 0, 1], port).into(),
                Protocol::Http,
                Role::Gateway { routes: routes.to_owned() },
            ))
        };
        let routes = Resource::Routes(Routes { name: "r".to_owned(), hosts: vec![], trusted: false });
        let missing = compile(vec![listener("a", "x", 1), routes.clone()]).err().expect("refused");
        assert!(missing.to_string().contains("routes `x`"), "{missing}");
        let clash = compile(vec![listener("a", "r", 1), listener("b", "r", 1), routes.clone()])
            .err()
            .expect("refused");
        assert!(clash.to_string().contains("both want 127.0.0.1:1"), "{clash}");
        assert!(compile(vec![listener("a", "r", 0), listener("b", "r", 0), routes]).is_ok());
    }
}
