//! What can be called and where it is: services of apps, service documents, endpoints.

use std::collections::BTreeMap;

use dodai_api::{self as api, App, RevisionChoice, ServiceSpec, Workload};
use dodai_core::id::{AppId, Name, RevisionId, ServiceId};
use dodai_core::snapshot::{Breaker, Health, Protocol, Service};

use super::balancing::Balancing;
use super::workload::protocol;
use super::{Frame, Input, policy, route};
use crate::documents::Documents;
use crate::name;

/// One port that can be called, before policies and rules.
#[derive(Clone, Debug)]
pub(super) struct Offered {
    pub id: ServiceId,
    pub protocol: Protocol,
    pub port: Option<u16>,
    pub default: bool,
    /// Whether it is what is meant where nothing says which port.
    pub first: bool,
    /// The apps whose instances serve it.
    pub apps: Vec<AppId>,
    /// The name that documents know it by: that of the port of a service document, or of the app's service.
    pub section: Name,
    /// The service of the instances that answers.
    pub target: Name,
    /// Whether it goes by the name of a service, and not only by that of an app behind one.
    named: bool,
    balance: Option<api::LoadBalancing>,
}

impl Offered {
    /// The service that policies and routes know it by.
    pub fn service(&self) -> Option<&AppId> {
        self.named.then_some(&self.id.owner)
    }

    /// Whether `section` of its service means this port.
    pub fn is_called(&self, section: &api::Name) -> bool {
        self.named && self.section.as_str() == section.as_str()
    }
}

/// One service of a snapshot and the apps behind it.
pub(super) struct Compiled {
    pub service: Service,
    pub apps: Vec<AppId>,
    /// Where what is near the caller gets its calls first: the regions that take over from its own, in order.
    pub near: Option<Vec<String>>,
}

/// The ports behind one name: those of the service document, or of the app.
pub(super) fn offered(documents: &Documents, owner: &AppId) -> Vec<Offered> {
    let document = documents.service(owner);
    let apps = match document {
        Some(service) => selected(documents, owner, &service.spec),
        None => vec![owner.clone()],
    };
    let behind: Option<&App> = apps.first().and_then(|app| documents.app(app));
    let own: &[api::AppService] = behind.map_or(&[], |app| &app.spec.services);
    let ports = document.map_or(&[][..], |service| &service.spec.ports);
    let balance = document.and_then(|service| service.spec.load_balancing.clone());
    let mut all: Vec<Offered> = Vec::new();
    let mut offer =
        |section: &api::Name, target: &api::Name, spoken: api::Protocol, port: Option<api::Port>| {
            // The id names the port of the instances, unless another port leads there already.
            let taken = |id: &ServiceId| all.iter().any(|one| one.id == *id);
            let numbered = || name::numbered(section, port.map_or(0, api::Port::get));
            let ids = [name::service(owner, target), name::service(owner, section)];
            let id =
                ids.into_iter().find(|id| !taken(id)).unwrap_or_else(|| name::service(owner, &numbered()));
            all.push(Offered {
                default: all.is_empty(),
                first: all.is_empty(),
                id,
                protocol: protocol(spoken),
                port: port.map(api::Port::get),
                apps: apps.clone(),
                section: name::name(section),
                target: name::name(target),
                named: true,
                balance: balance.clone(),
            });
        };
    for service in own.iter().filter(|_| ports.is_empty()) {
        offer(&service.name, &service.name, service.protocol, service.port);
    }
    for port in ports {
        let wanted = port.target_service.as_ref().unwrap_or(&port.name);
        let there = own.iter().find(|service| service.name == *wanted).or(own.first());
        offer(&port.name, there.map_or(wanted, |service| &service.name), port.protocol, Some(port.port));
    }
    all
}

/// The ports of an app itself, whatever a service of its name says. Where such a service stands before the app
/// or leads elsewhere, they get a name of their own.
pub(super) fn straight(documents: &Documents, id: &AppId) -> Vec<Offered> {
    let Some(app) = documents.app(id) else { return Vec::new() };
    let known = offered(documents, id);
    if documents.service(id).is_none() {
        return known;
    }
    let of = |(at, service): (usize, &api::AppService)| {
        let target = name::name(&service.name);
        let same = known.iter().find(|one| one.apps.as_slice() == [id.clone()] && one.target == target);
        Offered {
            id: same.map_or_else(|| name::service(&name::behind(id), &service.name), |one| one.id.clone()),
            protocol: protocol(service.protocol),
            port: service.port.map(api::Port::get),
            default: false,
            first: at == 0,
            apps: vec![id.clone()],
            section: target.clone(),
            target,
            named: same.is_some(),
            balance: None,
        }
    };
    app.spec.services.iter().enumerate().map(of).collect()
}

/// Whether any app is behind a service document.
pub(crate) fn selects(documents: &Documents, owner: &AppId) -> bool {
    let apps = documents.service(owner).map(|service| selected(documents, owner, &service.spec));
    apps.into_iter().flatten().any(|app| documents.app(&app).is_some())
}

fn selected(documents: &Documents, owner: &AppId, spec: &ServiceSpec) -> Vec<AppId> {
    let Some(selector) = &spec.selector else { return vec![owner.clone()] };
    let chosen = |app: &&App| {
        let label = |key: &str| label_of(app, key);
        app.metadata.namespace.as_str() == owner.namespace.as_str()
            && selector.app.as_ref().is_none_or(|own| app.metadata.name.as_str() == own.as_str())
            && selector.labels.iter().all(|(key, value)| label(key) == Some(value))
    };
    documents.apps().filter(chosen).map(|app| name::app_id(&app.metadata)).collect()
}

fn label_of<'a>(app: &'a App, key: &str) -> Option<&'a String> {
    app.spec.labels.get(key).or_else(|| app.metadata.labels.get(key))
}

/// The value of a label of an app.
pub(super) fn label<'a>(documents: &'a Documents, app: &AppId, key: &str) -> Option<&'a String> {
    label_of(documents.app(app)?, key)
}

/// The port that a reference means: by name, by number, or the default one.
pub(super) fn resolve(
    documents: &Documents,
    owner: &AppId,
    service: Option<&api::Name>,
    port: Option<u16>,
) -> Option<Offered> {
    let mut all = offered(documents, owner);
    let at = match (service, port) {
        (Some(name), _) => all
            .iter()
            .position(|one| one.is_called(name))
            .or(all.iter().position(|one| one.target.as_str() == name.as_str())),
        (None, Some(port)) => all.iter().position(|one| one.port == Some(port)),
        (None, None) => all.iter().position(|one| one.default),
    }?;
    Some(all.swap_remove(at))
}

/// What is told of one name: its ports, and those of the app behind it if some rule leads there straight.
pub(super) fn services(input: &Input<'_>, frame: &Frame, owner: &AppId) -> Vec<Compiled> {
    let mut compiled: BTreeMap<ServiceId, Compiled> = BTreeMap::new();
    let apart = frame.apart.contains(owner);
    // What goes by its own name only is not looked at further: of thousands, few are told.
    if !frame.has(owner) && input.documents.service(owner).is_none() && !apart {
        return Vec::new();
    }
    let more = if apart { straight(input.documents, owner) } else { Vec::new() };
    for one in offered(input.documents, owner).into_iter().chain(more) {
        let told = frame.has(owner) || one.apps.iter().any(|app| frame.local.contains(app));
        if told && !compiled.contains_key(&one.id) {
            compiled.insert(one.id.clone(), compile(input, &one));
        }
    }
    compiled.into_values().collect()
}

/// Whether nobody has a name that was asked about.
pub(super) fn is_absent(input: &Input<'_>, frame: &Frame, owner: &AppId, own: &[Compiled]) -> bool {
    let is_it = |id: &ServiceId| id.owner == *owner;
    let behind = || frame.apart.iter().filter(|app| name::behind(app) == *owner);
    frame.wanted.contains(owner)
        && !own.iter().any(|one| is_it(&one.service.id))
        && !behind().any(|app| straight(input.documents, app).iter().any(|one| is_it(&one.id)))
}

fn compile(input: &Input<'_>, one: &Offered) -> Compiled {
    let effective = policy::for_service(input, one);
    let balancing = one.balance.as_ref().map(Balancing::of).or(effective.balancing).unwrap_or_default();
    let health = Health {
        slow_start: balancing.slow_start,
        spill_below_percent: balancing.spill_below.unwrap_or_default(),
        ..effective.health.unwrap_or_default()
    };
    let (traffic, absent) = match one.apps.as_slice() {
        [app] => (traffic(input, app), absent(input.documents, app)),
        _ => (Vec::new(), Vec::new()),
    };
    let mtls: Vec<_> = one.apps.iter().map(|app| mutual_tls(input.documents, app)).collect();
    let service = Service {
        id: one.id.clone(),
        protocol: one.protocol,
        port: one.port,
        target: Some(one.target.clone()).filter(|target| *target != one.id.port),
        default: one.default,
        rules: route::service_rules(input, one),
        traffic,
        absent,
        balance: balancing.balance,
        sticky: balancing.sticky,
        policy: effective.call,
        breaker: Breaker {
            max_connection_age: effective.max_connection_age,
            ..effective.breaker.unwrap_or_default()
        },
        concurrency: effective.concurrency,
        health,
        plain: !mtls.is_empty() && mtls.iter().all(|said| *said == Some(api::MutualTls::Permissive)),
        strict: mtls.contains(&Some(api::MutualTls::Strict)),
        inbound: effective.filters,
    };
    Compiled { service, apps: one.apps.clone(), near: balancing.spill_below.map(|_| balancing.failover) }
}

/// What an app, or else its namespace, says of callers without mutual TLS; `None` if neither does.
fn mutual_tls(documents: &Documents, id: &AppId) -> Option<api::MutualTls> {
    let app = documents.app(id)?;
    app.spec.mtls.or_else(|| {
        let namespace = documents.namespace(&app.metadata.namespace)?;
        let said = namespace.metadata.labels.get(api::MTLS_LABEL)?;
        // What is in the store from before such words were refused is taken for the stricter one.
        Some(api::MutualTls::parse(said).unwrap_or(api::MutualTls::Strict))
    })
}

/// The shares of an app's revisions that can take calls; all to the newest ready one unless it says otherwise.
pub(crate) fn traffic(input: &Input<'_>, id: &AppId) -> Vec<(RevisionId, u32)> {
    let serving = input.records.app(id).and_then(|record| record.serving.clone());
    let Some(app) = input.documents.app(id) else { return Vec::new() };
    let mut shares: BTreeMap<RevisionId, u32> = BTreeMap::new();
    for share in app.spec.traffic.iter().filter(|share| share.weight.0 > 0) {
        let revision = match &share.revision {
            RevisionChoice::Latest => serving.clone(),
            RevisionChoice::Id(revision) => {
                Some(name::revision(revision)).filter(|revision| can_serve(input, id, revision))
            }
        };
        if let Some(revision) = revision {
            *shares.entry(revision).or_default() += share.weight.0;
        }
    }
    if shares.is_empty() && absent(input.documents, id).is_empty() {
        shares.extend(serving.map(|serving| (serving, 1)));
    }
    shares.into_iter().collect()
}

/// The shares of revisions that an app's traffic names and that do not exist.
pub(crate) fn absent(documents: &Documents, id: &AppId) -> Vec<(RevisionId, u32)> {
    let traffic = documents.app(id).map_or(&[][..], |app| &app.spec.traffic);
    let named = traffic.iter().filter(|share| share.weight.0 > 0).filter_map(|share| match &share.revision {
        RevisionChoice::Latest => None,
        RevisionChoice::Id(revision) => Some((name::revision(revision), share.weight.0)),
    });
    named.filter(|(revision, _)| documents.revision(id, revision).is_none()).collect()
}

fn can_serve(input: &Input<'_>, app: &AppId, revision: &RevisionId) -> bool {
    addresses(input.documents, app, revision).is_some_and(|external| !external.addresses.is_empty())
        || input.records.of(app).any(|one| one.revision == *revision && input.observed.is_ready(one))
}

/// Where a revision listens that runs elsewhere; none if it does not.
pub(super) fn addresses<'a>(
    documents: &'a Documents,
    app: &AppId,
    revision: &RevisionId,
) -> Option<&'a api::External> {
    match documents.revision(app, revision)?.spec.template.workload()? {
        Workload::External(external) => Some(external),
        Workload::Module(_) | Workload::Process(_) => None,
    }
}
