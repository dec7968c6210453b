//! What policies are put on: the target is there, and so is the part of it that is named. A guard whose target
//! is a typing error would guard nothing.

use super::set::World;
use crate::app::AppSpec;
use crate::dapr::{Component, ResiliencySpec};
use crate::document::{Document, Kind};
use crate::name::Name;
use crate::policy::{PolicySpec, TargetKind};
use crate::read::{Code, Problem, suggest};
use crate::route::ParentRef;
use crate::service::ServiceSpec;

impl<'a> World<'a> {
    pub(super) fn check_policy(&self, namespace: &Name, spec: &PolicySpec) -> Vec<Problem> {
        let mut found = Vec::new();
        for (i, target) in spec.target_refs.iter().enumerate() {
            let path = format!("spec.targetRefs[{i}]");
            let (kind, there) = match target.kind {
                TargetKind::App => (Kind::App, self.app(namespace, &target.name).is_some()),
                TargetKind::Service => (Kind::Service, self.serves(namespace, &target.name)),
                TargetKind::Gateway => (Kind::Gateway, self.gateway(namespace, &target.name).is_some()),
                TargetKind::Route => {
                    (Kind::Route, self.get(Kind::Route, namespace, &target.name.clone().into()).is_some())
                }
            };
            if !there {
                found.push(self.missing(&format!("{path}.name"), kind, namespace, target.name.as_str()));
            } else if let Some(section) = &target.section_name {
                let (part, known) = self.sections(target.kind, namespace, &target.name);
                let whole = format!("the {kind} `{}`", target.name);
                found.extend(no_section(&format!("{path}.sectionName"), &whole, part, section, &known));
            }
        }
        found.extend(self.access_apps(namespace, spec));
        for (i, limit) in spec.rate_limits.iter().enumerate() {
            let Some(secret) = limit.redis.as_ref().and_then(|redis| redis.password_ref.as_ref()) else {
                continue;
            };
            let path = format!("spec.rateLimits[{i}].redis.passwordRef.store");
            found.extend(self.component(&path, namespace, secret.store.as_str(), "secretstores."));
        }
        if let Some(authorizer) = &spec.ext_authz {
            let to = &authorizer.backend_ref;
            let there = to.namespace.as_ref().unwrap_or(namespace);
            if !self.serves(there, &to.name) {
                let path = "spec.extAuthz.backendRef.name";
                found.push(self.missing(path, Kind::Service, there, to.name.as_str()));
            }
        }
        found
    }

    /// Apps that rules of access name. One that is not there may come later: a warning.
    fn access_apps(&self, namespace: &Name, spec: &PolicySpec) -> Vec<Problem> {
        let mut found = Vec::new();
        for (i, rule) in spec.access.iter().flat_map(|access| &access.rules).enumerate() {
            for (j, app) in rule.from.iter().flat_map(|from| &from.apps).enumerate() {
                let Ok((other, name)) = super::access::parse_app(app) else { continue };
                let there = other.as_ref().unwrap_or(namespace);
                if self.app(there, &name).is_none() {
                    let path = format!("spec.access.rules[{i}].from.apps[{j}]");
                    found.push(self.missing(&path, Kind::App, there, name.as_str()).warning());
                }
            }
        }
        found
    }

    /// What the parts of a target are called, and which there are.
    fn sections(&self, kind: TargetKind, namespace: &Name, name: &Name) -> (&'static str, Vec<&'a Name>) {
        match kind {
            TargetKind::App => ("service", self.app(namespace, name).map(services).unwrap_or_default()),
            TargetKind::Service => ("port", self.ports(namespace, name)),
            TargetKind::Gateway => {
                let listeners = self.gateway(namespace, name).map(|gateway| &gateway.listeners);
                ("listener", listeners.into_iter().flatten().map(|listener| &listener.name).collect())
            }
            TargetKind::Route => match self.get(Kind::Route, namespace, &name.clone().into()) {
                Some(Document::Route(route)) => {
                    ("named rule", route.spec.rules.iter().filter_map(|rule| rule.name.as_ref()).collect())
                }
                Some(_) | None => ("named rule", Vec::new()),
            },
        }
    }

    /// The names of the ports of a service: its own, or those of the app behind it.
    fn ports(&self, namespace: &Name, name: &Name) -> Vec<&'a Name> {
        match self.service(namespace, name) {
            Some(service) if !service.ports.is_empty() => {
                service.ports.iter().map(|port| &port.name).collect()
            }
            Some(service) => self.behind(namespace, name, service).map(services).unwrap_or_default(),
            None => self.app(namespace, name).map(services).unwrap_or_default(),
        }
    }

    /// The app whose services are the ports of a service that names none.
    fn behind(&self, namespace: &Name, name: &Name, service: &ServiceSpec) -> Option<&'a AppSpec> {
        let Some(selector) = &service.selector else { return self.app(namespace, name) };
        self.apps(namespace).find_map(|app| {
            let label = |key| app.spec.labels.get(key).or_else(|| app.metadata.labels.get(key));
            let selected = selector.app.as_ref().is_none_or(|own| app.metadata.name.as_str() == own.as_str())
                && selector.labels.iter().all(|(key, value)| label(key) == Some(value));
            selected.then_some(&app.spec)
        })
    }

    /// The problem of a route under a part of a service that is not there.
    pub(super) fn service_part(&self, path: &str, namespace: &Name, parent: &ParentRef) -> Option<Problem> {
        let section = parent.section_name.as_ref()?;
        let whole = format!("the Service `{}`", parent.name);
        let known = self.ports(namespace, &parent.name);
        no_section(&format!("{path}.sectionName"), &whole, "port", section, &known)
    }

    /// An app that a dapr.io document names may run where we do not see it: a warning.
    pub(super) fn resiliency_targets(&self, namespace: &Name, spec: &ResiliencySpec) -> Vec<Problem> {
        let unknown =
            spec.targets.apps.keys().filter(|target| {
                target.parse::<Name>().ok().is_none_or(|name| !self.serves(namespace, &name))
            });
        let problem = |target: &String| {
            let mut path = "spec.targets.apps".to_owned();
            crate::read::push_key(&mut path, target);
            self.missing(&path, Kind::App, namespace, target).warning()
        };
        let mut found: Vec<Problem> = unknown.map(problem).collect();
        for target in spec.targets.components.keys() {
            let known =
                target.parse().is_ok_and(|name| self.get(Kind::Component, namespace, &name).is_some());
            if !known {
                let mut path = "spec.targets.components".to_owned();
                crate::read::push_key(&mut path, target);
                found.push(self.missing(&path, Kind::Component, namespace, target).warning());
            }
        }
        found
    }

    /// Apps that reach a component whose type their configuration denies: they will not get it.
    pub(super) fn denied(&self, namespace: &Name, component: &Component) -> Vec<Problem> {
        let mut found = Vec::new();
        for app in self.apps(namespace) {
            let scoped = component.scopes.is_empty()
                || component.scopes.iter().any(|scope| scope == app.metadata.name.as_str());
            let wanted = app.spec.dapr.as_ref().and_then(|dapr| dapr.configuration.as_ref());
            let Some(wanted) = wanted.filter(|_| scoped) else { continue };
            let Some(Document::Configuration(rules)) = self.get(Kind::Configuration, namespace, wanted)
            else {
                continue;
            };
            let (kind, version) = (&component.spec.kind, &component.spec.version);
            if rules.spec.components.as_ref().is_some_and(|rules| rules.denies(kind, version)) {
                let message = format!(
                    "the app `{}` may not use it: its Configuration `{wanted}` denies `{kind}`",
                    app.metadata.name
                );
                let problem = Problem::new(Code::NoEffect, "spec.type", message);
                found.push(
                    problem.remedy("leave the app out of `scopes`, or take the type out of `deny`").warning(),
                );
            }
        }
        found
    }

    /// A namespace without a document works, and is most often a typing error.
    pub(super) fn unknown_namespace(&self, document: &Document) -> Option<Problem> {
        let namespace = &document.metadata().namespace;
        let counts = document.kind().is_strict() && document.kind() != Kind::Revision;
        let own = Name::default_namespace();
        if !counts
            || *namespace == own
            || self.get(Kind::Namespace, &own, &namespace.clone().into()).is_some()
        {
            return None;
        }
        let all = self.of_kind(Kind::Namespace).map(Document::metadata);
        let known: Vec<&str> = all.map(|namespace| namespace.name.as_str()).collect();
        let message = format!("there is no Namespace `{namespace}`");
        let remedy = suggest(namespace.as_str(), &known).unwrap_or_else(|| {
            format!("add a Namespace document named `{namespace}`, or leave `namespace` out")
        });
        let problem = Problem::new(Code::UnknownReference, "metadata.namespace", message);
        Some(problem.remedy(remedy).warning())
    }
}

fn services(app: &AppSpec) -> Vec<&Name> {
    app.services.iter().map(|service| &service.name).collect()
}

fn no_section(path: &str, whole: &str, part: &str, section: &Name, known: &[&Name]) -> Option<Problem> {
    if known.contains(&section) {
        return None;
    }
    let known: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
    let remedy = match suggest(section.as_str(), &known) {
        Some(nearest) => nearest,
        None if known.is_empty() => format!("it has no {part}; leave `sectionName` out"),
        None => format!("it has `{}`", known.join("`, `")),
    };
    let message = format!("{whole} has no {part} `{section}`");
    Some(Problem::new(Code::UnknownReference, path, message).remedy(remedy))
}
