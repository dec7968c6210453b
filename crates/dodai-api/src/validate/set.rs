//! Rules between documents: what they refer to is there, no two want one port, no apps wait for each other.
//!
//! The set and what stands beside it are taken as the whole world. What stands beside was checked when it came, so it
//! is looked up and never walked without need: a change of one document among thousands costs what it refers to.

use std::collections::{BTreeMap, BTreeSet};

use super::gateway::{CLASH_REMEDY, DIFFER_REMEDY, clash, differ};
use crate::App;
use crate::app::{AppSpec, RevisionChoice};
use crate::dapr::Component;
use crate::document::{Document, DocumentKey, Kind};
use crate::gateway::{GatewaySpec, Listener, ListenerProtocol};
use crate::name::{Name, ObjectName};
use crate::quantity::Port;
use crate::read::{Code, Located, Problem, suggest};
use crate::route::{BackendKind, BackendRef, ParentKind, ParentRef, RouteSpec};
use crate::service::ServiceSpec;

/// What stands already where documents are added.
pub trait Beside {
    /// One document.
    fn get(&self, key: &DocumentKey) -> Option<&Document>;
    /// The documents of a kind, in order of namespace and name.
    fn of_kind(&self, kind: Kind) -> Box<dyn Iterator<Item = &Document> + '_>;
}

impl Beside for BTreeMap<DocumentKey, Document> {
    fn get(&self, key: &DocumentKey) -> Option<&Document> {
        BTreeMap::get(self, key)
    }

    fn of_kind(&self, kind: Kind) -> Box<dyn Iterator<Item = &Document> + '_> {
        Box::new(self.values().filter(move |document| document.kind() == kind))
    }
}

/// Checks documents together, and with those `beside` them that they do not take the place of. Each problem carries
/// its place; what is wrong with documents beside is not told.
pub fn validate_set(documents: &[Located<Document>], beside: &dyn Beside) -> Vec<Problem> {
    let mut world = World { by_key: BTreeMap::new(), beside, found: Vec::new() };
    for document in documents {
        let key = document.value.key();
        if let Some(first) = world.by_key.get(&key) {
            let message = format!("`{key}` is defined twice");
            let at = first.place("metadata.name").map(|(line, _)| format!(":{line}")).unwrap_or_default();
            let remedy = format!("it is at {}{at} already; rename or remove one of the two", first.file);
            world.add(
                document,
                Problem::new(Code::DuplicateDocument, "metadata.name", message).remedy(remedy),
            );
        } else {
            world.by_key.insert(key, document);
        }
    }
    for document in documents {
        world.check(document);
    }
    world.dependency_cycles(documents);
    world.port_clashes(documents);
    world.found.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    world.found
}

pub(super) struct World<'a> {
    by_key: BTreeMap<DocumentKey, &'a Located<Document>>,
    beside: &'a dyn Beside,
    found: Vec<Problem>,
}

impl<'a> World<'a> {
    fn add(&mut self, document: &Located<Document>, problem: Problem) {
        self.found.push(document.locate(problem));
    }

    pub(super) fn get(&self, kind: Kind, namespace: &Name, name: &ObjectName) -> Option<&'a Document> {
        let key = DocumentKey { kind, namespace: namespace.clone(), name: name.clone() };
        self.by_key.get(&key).map(|document| &document.value).or_else(|| self.beside.get(&key))
    }

    /// Every document of a kind: those of the set, then those beside it.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &'a Document> {
        let own = self.by_key.values().map(|document| &document.value);
        let beside = self.beside.of_kind(kind);
        own.filter(move |document| document.kind() == kind)
            .chain(beside.filter(|document| !self.by_key.contains_key(&document.key())))
    }

    /// Every app of a namespace.
    pub(super) fn apps(&self, namespace: &Name) -> impl Iterator<Item = &'a App> {
        self.of_kind(Kind::App).filter_map(move |document| {
            let Document::App(app) = document else { return None };
            (app.metadata.namespace == *namespace).then_some(app.as_ref())
        })
    }

    pub(super) fn app(&self, namespace: &Name, name: &Name) -> Option<&'a AppSpec> {
        match self.get(Kind::App, namespace, &name.clone().into()) {
            Some(Document::App(app)) => Some(&app.spec),
            Some(_) | None => None,
        }
    }

    pub(super) fn gateway(&self, namespace: &Name, name: &Name) -> Option<&'a GatewaySpec> {
        match self.get(Kind::Gateway, namespace, &name.clone().into()) {
            Some(Document::Gateway(gateway)) => Some(&gateway.spec),
            Some(_) | None => None,
        }
    }

    pub(super) fn service(&self, namespace: &Name, name: &Name) -> Option<&'a ServiceSpec> {
        match self.get(Kind::Service, namespace, &name.clone().into()) {
            Some(Document::Service(service)) => Some(&service.spec),
            Some(_) | None => None,
        }
    }

    /// Whether a service of this name can be called: a document, or an app's own.
    pub(super) fn serves(&self, namespace: &Name, name: &Name) -> bool {
        self.service(namespace, name).is_some()
            || self.app(namespace, name).is_some_and(|app| !app.services.is_empty())
    }

    /// The problem of a reference that leads nowhere, with the nearest name there is.
    pub(super) fn missing(&self, path: &str, kind: Kind, namespace: &Name, name: &str) -> Problem {
        let apps = (kind == Kind::Service).then_some(Kind::App);
        let all = apps.into_iter().chain([kind]).flat_map(|kind| self.of_kind(kind)).map(Document::metadata);
        let own = all.filter(|metadata| metadata.namespace == *namespace);
        let names: Vec<&str> = own.map(|metadata| metadata.name.as_str()).collect();
        let remedy = match suggest(name, &names) {
            Some(nearest) => nearest,
            None if names.is_empty() => format!("namespace `{namespace}` has no {kind}; add one"),
            None => format!("there are `{}`", names.join("`, `")),
        };
        Problem::new(
            Code::UnknownReference,
            path,
            format!("there is no {kind} `{name}` in namespace `{namespace}`"),
        )
        .remedy(remedy)
    }

    fn check(&mut self, document: &'a Located<Document>) {
        let namespace = &document.value.metadata().namespace;
        let problems = match &document.value {
            Document::App(app) => self.check_app(namespace, app.metadata.name.as_str(), &app.spec),
            Document::Service(service) => {
                self.check_service(namespace, service.metadata.name.as_str(), &service.spec)
            }
            Document::Route(route) => self.check_route(namespace, &route.spec),
            Document::Policy(policy) => self.check_policy(namespace, &policy.spec),
            Document::Component(component) => self.check_component(namespace, component),
            Document::Subscription(subscription) => {
                let wanted = &subscription.spec.pubsubname;
                let mut found = self.component("spec.pubsubname", namespace, wanted, "pubsub.");
                found.extend(self.scopes(namespace, &subscription.scopes));
                found.into_iter().map(Problem::warning).collect()
            }
            Document::Resiliency(resiliency) => {
                let mut found = self.scopes(namespace, &resiliency.scopes);
                found.extend(self.resiliency_targets(namespace, &resiliency.spec));
                found
            }
            Document::HttpEndpoint(endpoint) => {
                let mut found = self.scopes(namespace, &endpoint.scopes);
                found.extend(self.taken(namespace, endpoint.metadata.name.as_str()));
                found
            }
            Document::Revision(revision) => match self.app(namespace, &revision.spec.app) {
                Some(_) => Vec::new(),
                None => vec![self.missing("spec.app", Kind::App, namespace, revision.spec.app.as_str())],
            },
            Document::Namespace(_)
            | Document::Gateway(_)
            | Document::Base(_)
            | Document::Configuration(_) => Vec::new(),
        };
        let unknown = self.unknown_namespace(&document.value);
        for problem in problems.into_iter().chain(unknown) {
            self.add(document, problem);
        }
    }

    /// The problem of an endpoint whose name means an app or a service already.
    fn taken(&self, namespace: &Name, name: &str) -> Option<Problem> {
        let name: Name = name.parse().ok()?;
        let taken = self.app(namespace, &name).is_some() || self.service(namespace, &name).is_some();
        let message = format!("calls to `{name}` go to the app or service of that name");
        let problem = Problem::new(Code::Conflict, "metadata.name", message);
        taken.then(|| problem.remedy("give one of the two another name"))
    }

    /// A component of a type that begins with `block`.
    pub(super) fn component(&self, path: &str, namespace: &Name, name: &str, block: &str) -> Vec<Problem> {
        let found =
            name.parse().ok().and_then(|name: ObjectName| self.get(Kind::Component, namespace, &name));
        match found {
            Some(Document::Component(component)) if component.spec.kind.starts_with(block) => Vec::new(),
            Some(Document::Component(component)) => {
                let message = format!("the component `{name}` is a `{}`", component.spec.kind);
                let remedy = format!("name a component whose type begins with `{block}`");
                vec![Problem::new(Code::UnknownReference, path, message).remedy(remedy)]
            }
            Some(_) | None => vec![self.missing(path, Kind::Component, namespace, name)],
        }
    }

    fn check_app(&self, namespace: &Name, own: &str, spec: &AppSpec) -> Vec<Problem> {
        let mut found = Vec::new();
        for (i, app) in spec.depends_on.iter().enumerate().filter(|(_, app)| app.as_str() != own) {
            if self.app(namespace, app).is_none() {
                found.push(self.missing(&format!("spec.dependsOn[{i}]"), Kind::App, namespace, app.as_str()));
            }
        }
        for (i, call) in spec.calls.iter().enumerate() {
            let path = format!("spec.calls[{i}]");
            let there = call.namespace.as_ref().unwrap_or(namespace);
            match self.app(there, &call.app) {
                Some(app) => found.extend(app_part(&path, &call.app, app, call.service.as_ref(), call.port)),
                None if self.service(there, &call.app).is_some() => {}
                None => found.push(self.missing(&format!("{path}.app"), Kind::App, there, call.app.as_str())),
            }
        }
        for (i, variable) in spec.env.iter().enumerate() {
            if let Some(secret) = &variable.secret_ref {
                let path = format!("spec.env[{i}].secretRef.store");
                found.extend(self.component(&path, namespace, secret.store.as_str(), "secretstores."));
            }
            if let Some(config) = &variable.config_ref {
                let path = format!("spec.env[{i}].configRef.store");
                found.extend(self.component(&path, namespace, config.store.as_str(), "configuration."));
            }
        }
        for (i, config) in spec.config.iter().enumerate() {
            let path = format!("spec.config[{i}].store");
            found.extend(self.component(&path, namespace, config.store.as_str(), "configuration."));
        }
        for (bucket, store) in spec.module.iter().flat_map(|module| &module.keyvalue) {
            let mut path = "spec.module.keyvalue".to_owned();
            crate::read::push_key(&mut path, bucket);
            found.extend(self.component(&path, namespace, store.as_str(), "state."));
        }
        if let Some(name) = spec.dapr.as_ref().and_then(|dapr| dapr.configuration.as_ref())
            && self.get(Kind::Configuration, namespace, name).is_none()
        {
            found.push(self.missing(
                "spec.dapr.configuration",
                Kind::Configuration,
                namespace,
                name.as_str(),
            ));
        }
        for (i, share) in spec.traffic.iter().enumerate() {
            found.extend(self.revision(&format!("spec.traffic[{i}].revision"), &share.revision));
        }
        found
    }

    /// Revisions may live in a store nobody asked: one that is not here is a warning.
    fn revision(&self, path: &str, choice: &RevisionChoice) -> Option<Problem> {
        let RevisionChoice::Id(id) = choice else { return None };
        let is_it =
            |document: &Document| matches!(document, Document::Revision(revision) if revision.spec.id == *id);
        let known = self.of_kind(Kind::Revision).any(is_it);
        let message = format!("the revision `{id}` is not among the documents");
        let remedy = "calls for it are refused unless the server has it: see `dodai get revisions`";
        (!known).then(|| Problem::new(Code::UnknownReference, path, message).remedy(remedy).warning())
    }

    fn check_service(&self, namespace: &Name, own: &str, spec: &ServiceSpec) -> Vec<Problem> {
        let mut found = Vec::new();
        let named = match &spec.selector {
            Some(selector) => selector.app.as_ref().map(|app| ("spec.selector.app", app.clone())),
            None => own.parse().ok().map(|name| ("metadata.name", name)),
        };
        if let Some((path, name)) = named {
            match self.app(namespace, &name) {
                None => found.push(self.missing(path, Kind::App, namespace, name.as_str())),
                Some(app) => {
                    for (i, port) in spec.ports.iter().enumerate() {
                        let path = format!("spec.ports[{i}].targetService");
                        let target = port.target_service.as_ref();
                        found.extend(target.and_then(|target| no_service(&path, &name, app, target)));
                    }
                }
            }
        } else if let Some(selector) = &spec.selector {
            let selected = self.apps(namespace).any(|app| {
                let label = |key| app.spec.labels.get(key).or_else(|| app.metadata.labels.get(key));
                selector.labels.iter().all(|(key, value)| label(key) == Some(value))
            });
            if !selected {
                let problem = Problem::new(Code::NoEffect, "spec.selector.labels", "no app has these labels");
                found.push(problem.remedy("put them on an app, or name it in `selector.app`").warning());
            }
        }
        found
    }

    fn check_route(&self, namespace: &Name, spec: &RouteSpec) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut listeners: Vec<&Listener> = Vec::new();
        for (i, parent) in spec.parent_refs.iter().enumerate() {
            match self.parent(&format!("spec.parentRefs[{i}]"), namespace, parent) {
                Ok(more) => listeners.extend(more),
                Err(problem) => found.push(*problem),
            }
        }
        let raw = [ListenerProtocol::Tcp, ListenerProtocol::Tls, ListenerProtocol::Udp];
        let bytes = |listener: &&Listener| raw.contains(&listener.protocol);
        let carries_bytes = listeners.iter().find(|listener| bytes(listener));
        for (i, rule) in spec.rules.iter().enumerate() {
            let path = format!("spec.rules[{i}]");
            for (j, backend) in rule.backend_refs.iter().enumerate() {
                found.extend(self.backend(&format!("{path}.backendRefs[{j}]"), namespace, backend));
            }
            for (j, filter) in rule.filters.iter().enumerate() {
                if let Some(mirror) = &filter.request_mirror {
                    let path = format!("{path}.filters[{j}].requestMirror.backendRef");
                    found.extend(self.backend(&path, namespace, &mirror.backend_ref));
                }
            }
            let plain = rule.matches.is_empty() && rule.filters.is_empty() && rule.retry.is_none();
            if let Some(listener) = carries_bytes.filter(|_| !plain) {
                let message = format!("the listener `{}` carries bytes that are not parsed", listener.name);
                let remedy = "keep `backendRefs` only, or hang the route on an HTTP listener";
                found.push(Problem::new(Code::Conflict, path, message).remedy(remedy));
            }
        }
        found
    }

    /// The listeners a route hangs on; none for a service.
    fn parent(
        &self,
        path: &str,
        namespace: &Name,
        parent: &ParentRef,
    ) -> Result<Vec<&'a Listener>, Box<Problem>> {
        let there = parent.namespace.as_ref().unwrap_or(namespace);
        let name = parent.name.as_str();
        match parent.kind {
            ParentKind::Service if self.serves(there, &parent.name) => self
                .service_part(path, there, parent)
                .map_or(Ok(Vec::new()), |problem| Err(Box::new(problem))),
            ParentKind::Service => {
                Err(Box::new(self.missing(&format!("{path}.name"), Kind::Service, there, name)))
            }
            ParentKind::Gateway => {
                let Some(gateway) = self.gateway(there, &parent.name) else {
                    return Err(Box::new(self.missing(&format!("{path}.name"), Kind::Gateway, there, name)));
                };
                let wanted = |listener: &&Listener| {
                    parent.section_name.as_ref().is_none_or(|section| listener.name == *section)
                        && parent.port.is_none_or(|port| listener.port == port)
                };
                let listeners: Vec<&Listener> = gateway.listeners.iter().filter(wanted).collect();
                if !listeners.is_empty() || gateway.listeners.is_empty() {
                    return Ok(listeners);
                }
                let all: Vec<String> =
                    gateway.listeners.iter().map(|l| format!("`{}` ({})", l.name, l.port)).collect();
                let key = if parent.section_name.is_some() { "sectionName" } else { "port" };
                let message = format!("the gateway `{name}` has no such listener");
                let problem = Problem::new(Code::UnknownReference, format!("{path}.{key}"), message);
                Err(Box::new(problem.remedy(format!("it has {}", all.join(", ")))))
            }
        }
    }

    fn backend(&self, path: &str, namespace: &Name, backend: &BackendRef) -> Vec<Problem> {
        let there = backend.namespace.as_ref().unwrap_or(namespace);
        let app = self.app(there, &backend.name);
        let mut found: Vec<Problem> = backend
            .revision
            .as_ref()
            .and_then(|r| self.revision(&format!("{path}.revision"), r))
            .into_iter()
            .collect();
        let name = backend.name.as_str();
        match (backend.kind, app, self.service(there, &backend.name)) {
            (BackendKind::Service, _, Some(service)) => {
                if let Some(port) = backend.port
                    && !service.ports.is_empty()
                    && !service.ports.iter().any(|p| p.port == port)
                {
                    let all: Vec<String> = service.ports.iter().map(|p| p.port.to_string()).collect();
                    let message = format!("the service `{name}` has no port {port}");
                    let problem = Problem::new(Code::UnknownReference, format!("{path}.port"), message);
                    found.push(problem.remedy(format!("it has {}", all.join(", "))));
                }
            }
            (BackendKind::Service | BackendKind::App, Some(app), _) if !app.services.is_empty() => {
                found.extend(app_part(path, &backend.name, app, None, backend.port));
            }
            (BackendKind::Service | BackendKind::App, Some(_), _) => {
                let message = format!("the app `{name}` serves nothing");
                let problem = Problem::new(Code::UnknownReference, format!("{path}.name"), message);
                found.push(problem.remedy("declare what it serves in its `spec.services`"));
            }
            (BackendKind::Service, None, None) => {
                found.push(self.missing(&format!("{path}.name"), Kind::Service, there, name));
            }
            (BackendKind::App, None, _) => {
                found.push(self.missing(&format!("{path}.name"), Kind::App, there, name))
            }
        }
        found
    }

    fn check_component(&self, namespace: &Name, component: &Component) -> Vec<Problem> {
        let mut found = self.scopes(namespace, &component.scopes);
        found.extend(self.denied(namespace, component));
        if let Some(auth) = &component.auth {
            let problems = self.component("auth.secretStore", namespace, &auth.secret_store, "secretstores.");
            found.extend(problems.into_iter().map(Problem::warning));
        }
        found
    }

    /// An app that a dapr.io document names may run where we do not see it: a warning.
    fn scopes(&self, namespace: &Name, scopes: &[String]) -> Vec<Problem> {
        let unknown = scopes.iter().enumerate().filter(|(_, scope)| {
            scope.parse::<Name>().ok().is_none_or(|name| self.app(namespace, &name).is_none())
        });
        unknown
            .map(|(i, scope)| self.missing(&format!("scopes[{i}]"), Kind::App, namespace, scope).warning())
            .collect()
    }

    fn dependency_cycles(&mut self, documents: &'a [Located<Document>]) {
        let mut done: BTreeSet<(&Name, &str)> = BTreeSet::new();
        for document in documents {
            let Document::App(app) = &document.value else { continue };
            let start = (&app.metadata.namespace, app.metadata.name.as_str());
            if let Some(cycle) = self.cycle_from(start, &mut done) {
                let message = format!("these apps wait for each other: {}", cycle.join(" -> "));
                let problem = Problem::new(Code::DependencyCycle, "spec.dependsOn", message);
                // Told at the first app of the cycle that is in the set; one that stood before is not looked at anew.
                let key = |name: &String| {
                    let name = name.parse().ok()?;
                    Some(DocumentKey { kind: Kind::App, namespace: start.0.clone(), name })
                };
                let own = cycle.iter().filter_map(key).find_map(|key| self.by_key.get(&key).copied());
                let Some(at) = own else { continue };
                self.add(at, problem.remedy("remove one of these from its `dependsOn`"));
            }
        }
    }

    /// Depth-first without recursion: the chain of apps from `start`, and where each stands in its list.
    fn cycle_from(
        &self,
        start: (&'a Name, &'a str),
        done: &mut BTreeSet<(&'a Name, &'a str)>,
    ) -> Option<Vec<String>> {
        if done.contains(&start) {
            return None;
        }
        let mut chain: Vec<(&'a str, usize)> = vec![(start.1, 0)];
        let mut cycle = None;
        while let Some((name, next)) = chain.last_mut() {
            let depends =
                name.parse().ok().and_then(|name| self.app(start.0, &name)).map(|app| &app.depends_on);
            let Some(wanted) = depends.and_then(|depends| depends.get(*next)) else {
                done.insert((start.0, *name));
                chain.pop();
                continue;
            };
            *next += 1;
            if let Some(position) = chain.iter().position(|(name, _)| *name == wanted.as_str()) {
                if cycle.is_none() {
                    let names = chain[position..].iter().map(|(name, _)| (*name).to_owned());
                    cycle = Some(names.chain([wanted.to_string()]).collect());
                }
            } else if !done.contains(&(start.0, wanted.as_str())) {
                chain.push((wanted.as_str(), 0));
            }
        }
        cycle
    }

    fn port_clashes(&mut self, documents: &'a [Located<Document>]) {
        let mut listeners: Vec<(DocumentKey, &'a Listener)> = Vec::new();
        let mut workloads: BTreeMap<Port, &'a str> = BTreeMap::new();
        for document in documents {
            if let Document::Gateway(gateway) = &document.value {
                let key = document.value.key();
                for (i, listener) in gateway.spec.listeners.iter().enumerate() {
                    if let Some((owner, other)) = listeners.iter().find(|(_, other)| clash(other, listener)) {
                        let port = listener.port;
                        let message =
                            format!("port {port} is taken by the listener `{}` of `{owner}`", other.name);
                        let path = format!("spec.listeners[{i}].port");
                        self.add(document, Problem::new(Code::PortClash, path, message).remedy(CLASH_REMEDY));
                    }
                    let differing = |(owner, other): &(DocumentKey, &'a Listener)| {
                        differ(other, listener).map(|key| (owner.clone(), other.name.clone(), key))
                    };
                    if let Some((owner, name, key)) = listeners.iter().find_map(differing) {
                        let message = format!(
                            "the listener `{name}` of `{owner}` says something else of `{key}` on the same port"
                        );
                        let path = format!("spec.listeners[{i}].{key}");
                        self.add(document, Problem::new(Code::Conflict, path, message).remedy(DIFFER_REMEDY));
                    }
                }
                listeners.extend(gateway.spec.listeners.iter().map(|listener| (key.clone(), listener)));
            }
            if let Document::App(app) = &document.value
                && app.spec.process.is_some()
            {
                for problem in workload_clashes(app.metadata.name.as_str(), &app.spec, &mut workloads) {
                    self.add(document, problem);
                }
            }
        }
    }
}

/// Fixed ports of a process that another instance on the same machine would want too.
fn workload_clashes<'a>(own: &'a str, spec: &AppSpec, taken: &mut BTreeMap<Port, &'a str>) -> Vec<Problem> {
    let mut found = Vec::new();
    for (i, service) in spec.services.iter().enumerate() {
        let Some(port) = service.port else { continue };
        let (message, remedy) = match taken.insert(port, own).filter(|other| *other != own) {
            Some(other) => (
                format!("the app `{other}` listens on port {port} too"),
                "leave `port` out and listen on `PORT`, unless the two run on different machines",
            ),
            None if spec.scale.most() > 1 => (
                format!("two instances cannot both listen on port {port} of one machine"),
                "leave `port` out and listen on `PORT`",
            ),
            None => continue,
        };
        let path = format!("spec.services[{i}].port");
        found.push(Problem::new(Code::PortClash, path, message).remedy(remedy).warning());
    }
    found
}

/// Whether an app has the service or port a reference names.
fn app_part(
    path: &str,
    name: &Name,
    app: &AppSpec,
    service: Option<&Name>,
    port: Option<Port>,
) -> Option<Problem> {
    if let Some(service) = service {
        return no_service(&format!("{path}.service"), name, app, service);
    }
    let port = port?;
    let ports: Vec<Port> = app.services.iter().filter_map(|service| service.port).collect();
    // An app whose ports are chosen at run time can be called by any number.
    if ports.is_empty() || ports.len() < app.services.len() || ports.contains(&port) {
        return None;
    }
    let all: Vec<String> = ports.iter().map(Port::to_string).collect();
    let problem = Problem::new(
        Code::UnknownReference,
        format!("{path}.port"),
        format!("the app `{name}` has no port {port}"),
    );
    Some(problem.remedy(format!("it has {}", all.join(", "))))
}

fn no_service(path: &str, name: &Name, app: &AppSpec, service: &Name) -> Option<Problem> {
    if app.services.iter().any(|own| own.name == *service) {
        return None;
    }
    let known: Vec<&str> = app.services.iter().map(|own| own.name.as_str()).collect();
    let remedy = match suggest(service.as_str(), &known) {
        Some(nearest) => nearest,
        None if known.is_empty() => "declare it in the app's `spec.services`".to_owned(),
        None => format!("it has `{}`", known.join("`, `")),
    };
    Some(
        Problem::new(Code::UnknownReference, path, format!("the app `{name}` has no service `{service}`"))
            .remedy(remedy),
    )
}
