//! A set of documents in memory, by kind and key, with typed access. Clones share the documents, and the kinds that
//! do not change: a set of thousands is copied for each plan.

use std::collections::BTreeMap;
use std::sync::Arc;

use dodai_api::{
    App, Base, Document, DocumentKey, Gateway, Kind, Name, ObjectName, Policy, Revision, Route, Service, dapr,
};
use dodai_core::id::{AppId, RevisionId};

use crate::name;

/// Documents by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Documents {
    by_kind: BTreeMap<Kind, Arc<BTreeMap<DocumentKey, Arc<Document>>>>,
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
    /// Adds or replaces a document.
    pub fn insert(&mut self, document: Arc<Document>) {
        let key = document.key();
        Arc::make_mut(self.by_kind.entry(key.kind).or_default()).insert(key, document);
    }

    /// Removes a document.
    pub fn remove(&mut self, key: &DocumentKey) -> Option<Arc<Document>> {
        let own = self.by_kind.get_mut(&key.kind)?;
        let gone = Arc::make_mut(own).remove(key);
        if own.is_empty() {
            self.by_kind.remove(&key.kind);
        }
        gone
    }

    /// One document.
    pub fn get(&self, key: &DocumentKey) -> Option<&Arc<Document>> {
        self.by_kind.get(&key.kind)?.get(key)
    }

    /// Every document, in order of kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (&DocumentKey, &Arc<Document>)> {
        self.by_kind.values().flat_map(|own| own.iter())
    }

    /// The documents of one kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Document>> {
        self.by_kind.get(&kind).into_iter().flat_map(|own| own.values())
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
    pub fn revisions_of<'a>(&'a self, app: &'a AppId) -> impl Iterator<Item = &'a Revision> {
        self.revisions().filter(move |revision| {
            revision.spec.app.as_str() == app.name.as_str()
                && revision.metadata.namespace.as_str() == app.namespace.as_str()
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
