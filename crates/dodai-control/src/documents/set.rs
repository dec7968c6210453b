//! A set of documents in memory, by kind and key, with typed access. Clones share what they have in common: a set of
//! thousands is copied for each plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dodai_api::{
    App, Base, Document, DocumentKey, Gateway, Kind, Name, ObjectName, ParentKind, ParentRef, Policy,
    Revision, Route, Service, TargetRef, dapr,
};
use dodai_core::id::{AppId, BaseId, RevisionId};

use crate::name;
use crate::reads::{Read, Reads};
use crate::shared_map::{SharedMap, same};

/// Documents by key.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    by_kind: BTreeMap<Kind, Own>,
    /// Those that belong to something, by that.
    belonging: SharedMap<(Belonging, AppId), Own>,
    reads: Reads,
}

/// How a document belongs to an app or a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Belonging {
    /// A revision is of an app.
    Revision,
    /// A policy is put on what has this name, of whatever kind.
    Policy,
    /// A route hangs on a service.
    Route,
}

/// What a document belongs to.
fn owners(document: &Document) -> BTreeSet<(Belonging, AppId)> {
    match document {
        Document::Revision(revision) => {
            let owner = name::app_in(&revision.metadata.namespace, &revision.spec.app);
            [(Belonging::Revision, owner)].into()
        }
        Document::Policy(policy) => {
            let target = |target: &TargetRef| name::app_in(&policy.metadata.namespace, &target.name);
            policy.spec.target_refs.iter().map(|one| (Belonging::Policy, target(one))).collect()
        }
        Document::Route(route) => {
            let services = route.spec.parent_refs.iter().filter(|parent| parent.kind == ParentKind::Service);
            services.map(|parent| (Belonging::Route, parent_id(route, parent))).collect()
        }
        Document::Namespace(_)
        | Document::App(_)
        | Document::Service(_)
        | Document::Gateway(_)
        | Document::Base(_)
        | Document::Component(_)
        | Document::Subscription(_)
        | Document::Resiliency(_)
        | Document::Configuration(_)
        | Document::HttpEndpoint(_) => BTreeSet::new(),
    }
}

/// What a route hangs on.
pub(crate) fn parent_id(route: &Route, parent: &ParentRef) -> AppId {
    name::app_in(parent.namespace.as_ref().unwrap_or(&route.metadata.namespace), &parent.name)
}

/// Documents of one kind.
type Own = SharedMap<DocumentKey, Arc<Document>>;

impl PartialEq for Documents {
    fn eq(&self, other: &Documents) -> bool {
        self.by_kind == other.by_kind
    }
}

macro_rules! of_kind {
    ($($(#[doc = $doc:literal])* $method:ident: $variant:ident($type:ty);)*) => {
        impl Documents {
            $($(#[doc = $doc])*
            pub fn $method(&self) -> impl Iterator<Item = &$type> {
                self.of_kind(Kind::$variant).filter_map(|document| match document.as_ref() {
                    Document::$variant(document) => Some(document.as_ref()),
                    _ => None,
                })
            })*
        }
    };
}

of_kind! {
    /// The apps, in order of namespace and name, as are all that follow.
    apps: App(App);
    /// The revisions.
    revisions: Revision(Revision);
    /// The service documents.
    services: Service(Service);
    /// The gateways.
    gateways: Gateway(Gateway);
    /// The routes.
    routes: Route(Route);
    /// The policies.
    policies: Policy(Policy);
    /// The bases.
    bases: Base(Base);
    /// The components.
    components: Component(dapr::Component);
    /// The subscriptions.
    subscriptions: Subscription(dapr::Subscription);
    /// The resiliency documents.
    resiliencies: Resiliency(dapr::Resiliency);
    /// The configurations.
    configurations: Configuration(dapr::Configuration);
    /// What is outside the mesh and has a name.
    endpoints: HttpEndpoint(dapr::HttpEndpoint);
}

impl FromIterator<Document> for Documents {
    fn from_iter<I: IntoIterator<Item = Document>>(documents: I) -> Documents {
        let mut all = Documents::default();
        documents.into_iter().for_each(|document| all.insert(Arc::new(document)));
        all
    }
}

impl Documents {
    /// The same documents; looks at them are noted in `reads`.
    pub(crate) fn noting(&self, reads: &Reads) -> Documents {
        Documents { reads: reads.clone(), ..self.clone() }
    }

    /// Where looks at them are noted.
    pub(crate) fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Adds or replaces a document.
    pub fn insert(&mut self, document: Arc<Document>) {
        let key = document.key();
        self.remove(&key);
        for at in owners(&document) {
            let mut own = self.belonging.get(&at).cloned().unwrap_or_default();
            own.insert(key.clone(), document.clone());
            self.belonging.insert(at, own);
        }
        self.by_kind.entry(key.kind).or_default().insert(key, document);
    }

    /// Removes a document.
    pub fn remove(&mut self, key: &DocumentKey) -> Option<Arc<Document>> {
        let all = self.by_kind.get_mut(&key.kind)?;
        let gone = all.remove(key)?;
        if all.is_empty() {
            self.by_kind.remove(&key.kind);
        }
        for at in owners(&gone) {
            let mut own = self.belonging.get(&at).cloned().unwrap_or_default();
            own.remove(key);
            if own.is_empty() {
                self.belonging.remove(&at);
            } else {
                self.belonging.insert(at, own);
            }
        }
        Some(gone)
    }

    fn belonging(&self, how: Belonging, owner: &AppId) -> impl Iterator<Item = &Arc<Document>> {
        self.reads.note(|| Read::Belonging(how, owner.clone()));
        self.belonging.get(&(how, owner.clone())).into_iter().flat_map(SharedMap::values)
    }

    /// One document.
    pub fn get(&self, key: &DocumentKey) -> Option<&Arc<Document>> {
        self.reads.note(|| Read::Document(key.clone()));
        self.by_kind.get(&key.kind)?.get(key)
    }

    /// Every document, in order of kind, namespace and name. Not noted: nothing that is kept is made of all of them.
    pub fn iter(&self) -> impl Iterator<Item = (&DocumentKey, &Arc<Document>)> {
        self.by_kind.values().flat_map(SharedMap::iter)
    }

    /// The documents of one kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Document>> {
        self.reads.note(|| Read::Kind(kind));
        self.by_kind.get(&kind).into_iter().flat_map(SharedMap::values)
    }

    /// Which documents of one kind there are.
    pub fn keys(&self, kind: Kind) -> impl Iterator<Item = &DocumentKey> {
        self.reads.note(|| Read::Names(kind));
        self.by_kind.get(&kind).into_iter().flat_map(SharedMap::keys)
    }

    /// Tells what is not the same in `to`.
    pub(crate) fn differences(&self, to: &Documents, mut tell: impl FnMut(Read)) {
        let none = SharedMap::default();
        for kind in Kind::ALL.iter().copied() {
            let (old, new) = (self.by_kind.get(&kind), to.by_kind.get(&kind));
            let mut changed = false;
            old.unwrap_or(&none).differences(new.unwrap_or(&none), |key, old, new| {
                if same(old, new) {
                    return;
                }
                changed = true;
                if old.is_some() != new.is_some() {
                    tell(Read::Names(kind));
                }
                for one in old.into_iter().chain(new) {
                    for (how, owner) in owners(one) {
                        tell(Read::Belonging(how, owner));
                    }
                }
                tell(Read::Document(key.clone()));
            });
            if changed {
                tell(Read::Kind(kind));
            }
        }
    }

    fn named(&self, kind: Kind, namespace: &Name, name: ObjectName) -> Option<&Document> {
        self.get(&DocumentKey { kind, namespace: namespace.clone(), name }).map(Arc::as_ref)
    }

    /// One app.
    pub fn app(&self, id: &AppId) -> Option<&App> {
        let own = name::document(&id.name);
        let Document::App(app) = self.named(Kind::App, &name::document(&id.namespace), own.into())? else {
            return None;
        };
        Some(app)
    }

    /// One namespace's document.
    pub fn namespace(&self, name: &Name) -> Option<&dodai_api::Namespace> {
        let Document::Namespace(namespace) =
            self.named(Kind::Namespace, &Name::default_namespace(), name.clone().into())?
        else {
            return None;
        };
        Some(namespace)
    }

    /// The document of one base.
    pub fn base(&self, id: &BaseId) -> Option<&Base> {
        let own: ObjectName = id.as_str().parse().ok()?;
        let Document::Base(base) = self.named(Kind::Base, &Name::default_namespace(), own)? else {
            return None;
        };
        Some(base)
    }

    /// One service document.
    pub fn service(&self, id: &AppId) -> Option<&Service> {
        let own = name::document(&id.name);
        let Document::Service(service) =
            self.named(Kind::Service, &name::document(&id.namespace), own.into())?
        else {
            return None;
        };
        Some(service)
    }

    /// One configuration.
    pub fn configuration(&self, namespace: &Name, name: &ObjectName) -> Option<&dapr::Configuration> {
        let Document::Configuration(configuration) =
            self.named(Kind::Configuration, namespace, name.clone())?
        else {
            return None;
        };
        Some(configuration)
    }

    /// One revision of an app.
    pub fn revision(&self, app: &AppId, id: &RevisionId) -> Option<&Revision> {
        let key = revision_key(app, id);
        let Document::Revision(revision) = self.get(&key)?.as_ref() else { return None };
        Some(revision)
    }

    /// The revisions of one app.
    pub fn revisions_of(&self, app: &AppId) -> impl Iterator<Item = &Revision> {
        self.belonging(Belonging::Revision, app).filter_map(|document| {
            let Document::Revision(revision) = document.as_ref() else { return None };
            Some(revision.as_ref())
        })
    }

    /// The policies on what has this name.
    pub fn policies_on(&self, target: &AppId) -> impl Iterator<Item = &Policy> {
        self.belonging(Belonging::Policy, target).filter_map(|document| {
            let Document::Policy(policy) = document.as_ref() else { return None };
            Some(policy.as_ref())
        })
    }

    /// The routes that hang on a service.
    pub fn routes_on(&self, service: &AppId) -> impl Iterator<Item = &Route> {
        self.belonging(Belonging::Route, service).filter_map(|document| {
            let Document::Route(route) = document.as_ref() else { return None };
            Some(route.as_ref())
        })
    }
}

/// The key of the document of one revision. The app's name is cut so that the whole stays a DNS label.
pub(crate) fn revision_key(app: &AppId, id: &RevisionId) -> DocumentKey {
    let short = app.name.as_str().get(..52).unwrap_or(app.name.as_str());
    let name = format!("{short}-{id}");
    DocumentKey {
        kind: Kind::Revision,
        namespace: name::document(&app.namespace),
        name: name.parse().expect("a DNS label with a revision's id behind it is a document's name"),
    }
}
