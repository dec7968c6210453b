//! What a base is told to be: pure, comparable data. Control makes it, the data plane compiles it.
//!
//! A [`Snapshot`] is a set of [`Resource`]s by [`Key`]. Control sends [`Delta`]s with versions; a base
//! applies them, compiles the result into live form, and swaps it whole or refuses it whole. Everything here
//! serialises, because it also lives on the base's disk as the last good snapshot. Always holds:
//! `apply(a, diff(a, b)) == b`. Rejected: one struct per kind with a map each, which needs nine copies of
//! diff and apply.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{AppId, ServiceId};

mod balancing;
mod capture;
mod guard;
mod health;
mod rate;
mod resilience;
mod routing;
mod service;
mod trust;
mod workload;

pub use balancing::*;
pub use capture::*;
pub use guard::*;
pub use health::*;
pub use rate::*;
pub use resilience::*;
pub use routing::*;
pub use service::*;
pub use trust::*;
pub use workload::*;

/// The kinds of resources, in the order in which they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    /// [`App`]
    App,
    /// [`Component`]
    Component,
    /// [`Subscription`]
    Subscription,
    /// [`Workload`]
    Workload,
    /// [`Service`]
    Service,
    /// [`Endpoints`]
    Endpoints,
    /// [`Routes`]
    Routes,
    /// [`Listener`]
    Listener,
    /// [`Absent`]
    Absent,
    /// [`Share`]
    Share,
    /// [`Trust`]
    Trust,
}

/// The name of one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its name within the kind.
    pub name: String,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "a resource always stands behind an Arc")]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum Resource {
    /// What every base knows of an app: identity, API scopes.
    App(App),
    /// A configured component that instances here may use.
    Component(Component),
    /// A declared subscription of an app that runs here.
    Subscription(Subscription),
    /// An instance this base must run.
    Workload(Workload),
    /// Something that can be called.
    Service(Service),
    /// Where a service is.
    Endpoints(Endpoints),
    /// What a listener matches calls against.
    Routes(Routes),
    /// A socket to listen on.
    Listener(Listener),
    /// A name that this base asked about and that nobody has.
    Absent(Absent),
    /// What this base may take of a limit that all bases keep together.
    Share(Share),
    /// Whom it trusts.
    Trust(Trust),
}

/// A name without a service: the answer to a base that wanted one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// The name.
    pub app: AppId,
}

impl Resource {
    /// The key under which this resource stands in a snapshot.
    pub fn key(&self) -> Key {
        let (kind, name) = match self {
            Resource::App(app) => (ResourceKind::App, app.id.to_string()),
            Resource::Component(component) => (ResourceKind::Component, component.key()),
            Resource::Subscription(subscription) => (ResourceKind::Subscription, subscription.name.clone()),
            Resource::Workload(workload) => (ResourceKind::Workload, workload.instance.to_string()),
            Resource::Service(service) => (ResourceKind::Service, service.id.to_string()),
            Resource::Endpoints(endpoints) => (ResourceKind::Endpoints, endpoints.service.to_string()),
            Resource::Routes(routes) => (ResourceKind::Routes, routes.name.clone()),
            Resource::Listener(listener) => (ResourceKind::Listener, listener.name.clone()),
            Resource::Absent(absent) => (ResourceKind::Absent, absent.app.to_string()),
            Resource::Share(share) => (ResourceKind::Share, share.limit.clone()),
            // There is one.
            Resource::Trust(_) => (ResourceKind::Trust, "mesh".to_owned()),
        };
        Key { kind, name }
    }
}

/// Everything one base is told, at one version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The version that control gave it; grows.
    pub version: u64,
    /// The resources by key. Shared, so that unchanged ones are recognised by pointer.
    #[serde(with = "as_list")]
    resources: BTreeMap<Key, Arc<Resource>>,
}

/// The changes from one snapshot to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The version it leads to.
    pub version: u64,
    /// New and changed resources.
    pub upserts: Vec<Arc<Resource>>,
    /// Keys that are gone.
    pub removals: Vec<Key>,
}

impl Delta {
    /// Whether nothing changes but the version.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removals.is_empty()
    }
}

/// What a resource holds, if it is of that kind.
macro_rules! only {
    ($resource:expr, $kind:ident) => {
        match $resource.as_ref() {
            Resource::$kind(value) => Some(value),
            _ => None,
        }
    };
}

macro_rules! by_kind {
    ($($(#[doc = $doc:literal])* $method:ident: $kind:ident;)*) => {
        $($(#[doc = $doc])*
        pub fn $method(&self) -> impl Iterator<Item = &$kind> {
            self.of_kind(ResourceKind::$kind).filter_map(|resource| only!(resource, $kind))
        })*
    };
}

impl Snapshot {
    by_kind! {
        /// The apps in name order.
        apps: App;
        /// The components in name order.
        components: Component;
        /// The subscriptions in name order.
        subscriptions: Subscription;
        /// The workloads in instance order.
        workloads: Workload;
        /// The services in name order.
        services: Service;
        /// The endpoints in service order.
        endpoints: Endpoints;
        /// The route tables in name order.
        routes: Routes;
        /// The listeners in name order.
        listeners: Listener;
        /// The names that nobody has, of those that were asked about.
        absents: Absent;
        /// The shares of limits that all bases keep together.
        shares: Share;
        /// Whom this base trusts, if it is told.
        trusts: Trust;
    }
}

impl Snapshot {
    /// A snapshot of these resources; a later one replaces an earlier one of the same key.
    pub fn of(version: u64, resources: impl IntoIterator<Item = Resource>) -> Snapshot {
        let resources = resources.into_iter().map(|resource| (resource.key(), Arc::new(resource))).collect();
        Snapshot { version, resources }
    }

    /// Every resource in application order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<Resource>)> {
        self.resources.iter()
    }

    /// The resources of one kind.
    pub fn of_kind(&self, kind: ResourceKind) -> impl Iterator<Item = &Arc<Resource>> {
        let first = Key { kind, name: String::new() };
        self.resources
            .range(first..)
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(_, resource)| resource)
    }

    /// One resource.
    pub fn get(&self, kind: ResourceKind, name: &str) -> Option<&Arc<Resource>> {
        self.resources.get(&Key { kind, name: name.to_owned() })
    }

    /// One service.
    pub fn service(&self, id: &ServiceId) -> Option<&Service> {
        only!(self.get(ResourceKind::Service, &id.to_string())?, Service)
    }

    /// The resource that says where a service is; shared, so that an unchanged one is recognised by pointer.
    pub fn endpoints_of(&self, id: &ServiceId) -> Option<(&Endpoints, &Arc<Resource>)> {
        let resource = self.get(ResourceKind::Endpoints, &id.to_string())?;
        Some((only!(resource, Endpoints)?, resource))
    }

    /// One app.
    pub fn app(&self, id: &AppId) -> Option<&App> {
        self.apps().find(|app| app.id == *id)
    }

    /// Adds or replaces one resource.
    pub fn insert(&mut self, resource: Resource) {
        self.resources.insert(resource.key(), Arc::new(resource));
    }

    /// What leads from `self` to `to`.
    pub fn diff(&self, to: &Snapshot) -> Delta {
        let same = |key: &Key, new: &Arc<Resource>| {
            self.resources.get(key).is_some_and(|old| Arc::ptr_eq(old, new) || old == new)
        };
        let upserts = to.resources.iter().filter(|(key, new)| !same(key, new)).map(|(_, new)| new.clone());
        let removals = self.resources.keys().filter(|key| !to.resources.contains_key(key)).cloned();
        Delta { version: to.version, upserts: upserts.collect(), removals: removals.collect() }
    }

    /// The snapshot that `delta` leads to; unchanged resources are shared with this one.
    pub fn apply(&self, delta: &Delta) -> Snapshot {
        let mut next = self.clone();
        next.version = delta.version;
        for key in &delta.removals {
            next.resources.remove(key);
        }
        for resource in &delta.upserts {
            next.resources.insert(resource.key(), resource.clone());
        }
        next
    }
}

/// A map keyed by a struct is written as a plain list; the keys follow from the resources.
mod as_list {
    use super::{Arc, BTreeMap, Key, Resource};
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(map: &BTreeMap<Key, Arc<Resource>>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(map.values().map(Arc::as_ref))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Key, Arc<Resource>>, D::Error> {
        let list = Vec::<Resource>::deserialize(from)?;
        Ok(list.into_iter().map(|resource| (resource.key(), Arc::new(resource))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Digest, InstanceId, Name, RevisionId};
    use proptest::prelude::*;

    fn id(name: u8) -> AppId {
        let name = Name::new(&format!("app-{name}")).expect("valid");
        AppId::new(Name::new("default").expect("valid"), name)
    }

    /// A resource of one of eight kinds, with one of a few names and one of a few contents.
    fn resource(kind: u8, name: u8, content: u8) -> Resource {
        let (app, text) = (id(name), content.to_string());
        let service = ServiceId { owner: app.clone(), port: Name::new("http").expect("valid") };
        let here = Target::Address(format!("10.0.0.{content}:80"));
        match kind {
            0 => Resource::App(App {
                scopes: Scopes { secrets: vec![], api_token: Some(text) },
                ..App::new(app)
            }),
            1 => Resource::Component(Component {
                namespace: app.namespace,
                name: app.name.to_string(),
                driver: "state.sqlite".to_owned(),
                version: text,
                settings: vec![],
                scopes: vec![],
                ignore_errors: content == 0,
                init_timeout: std::time::Duration::from_secs(5),
                inbound: Patience::default(),
                outbound: Patience::default(),
            }),
            2 => Resource::Subscription(Subscription {
                name: app.to_string(),
                app,
                pubsub: "bus".to_owned(),
                topic: text,
                rules: vec![],
                path: None,
                dead_letter_topic: None,
                bulk: None,
                metadata: BTreeMap::new(),
            }),
            3 => Resource::Workload(workload(app, content)),
            4 => Resource::Service(Service {
                port: Some(content.into()),
                default: content == 0,
                ..Service::new(service)
            }),
            5 => Resource::Endpoints(Endpoints {
                service,
                list: vec![Endpoint::new(RevisionId::new("r"), here)],
            }),
            6 => Resource::Routes(Routes {
                name: app.to_string(),
                hosts: vec![VirtualHost { names: vec![text], rules: vec![] }],
                trusted: false,
            }),
            _ => Resource::Listener(Listener::new(
                app.to_string(),
                ([127, 0, 0, 1], content.into()).into(),
                Protocol::Tcp,
                Role::Mesh,
            )),
        }
    }

    fn workload(app: AppId, content: u8) -> Workload {
        Workload {
            instance: InstanceId::new(app.to_string()),
            app,
            revision: RevisionId::new("r"),
            shape: Shape::Module(ModuleSpec {
                artifact: Digest::new("sha256:0"),
                reuse: true,
                max_concurrency: content.into(),
                memory: 1,
                wall_time: std::time::Duration::from_secs(1),
                cpu_time: std::time::Duration::from_secs(1),
                allowed_hosts: vec![],
                config: vec![],
                keyvalue: BTreeMap::new(),
            }),
            services: vec![],
            env: vec![],
            probes: Probes::default(),
            limits: Limits::default(),
            depends_on: vec![],
            once: false,
            draining: content == 1,
        }
    }

    fn snapshots() -> impl Strategy<Value = Snapshot> {
        let one = (0u8..8, 0u8..3, 0u8..3).prop_map(|(kind, name, content)| resource(kind, name, content));
        let resources = proptest::collection::vec(one, 0..24);
        (0u64..9, resources).prop_map(|(version, resources)| Snapshot::of(version, resources))
    }

    proptest! {
        #[test]
        fn applying_a_diff_leads_there(a in snapshots(), b in snapshots()) {
            prop_assert_eq!(a.apply(&a.diff(&b)), b);
        }

        #[test]
        fn what_did_not_change_is_neither_sent_nor_copied(a in snapshots(), b in snapshots()) {
            let delta = a.diff(&b);
            let next = a.apply(&delta);
            for (key, resource) in a.iter() {
                let same = b.get(key.kind, &key.name) == Some(resource);
                let told = delta.upserts.iter().any(|one| one.key() == *key) || delta.removals.contains(key);
                prop_assert_eq!(told, !same);
                let kept = next.get(key.kind, &key.name).is_some_and(|now| Arc::ptr_eq(now, resource));
                prop_assert_eq!(kept, same);
            }
        }

        #[test]
        fn a_diff_with_itself_is_empty(a in snapshots()) {
            prop_assert!(a.diff(&a).is_empty());
        }

        #[test]
        fn a_snapshot_reads_back_from_json(a in snapshots()) {
            let json = serde_json::to_string(&a).expect("serialises");
            prop_assert_eq!(serde_json::from_str::<Snapshot>(&json).expect("reads back"), a);
        }
    }
}
