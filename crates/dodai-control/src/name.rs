//! From the names of documents to those of the data path. Both are DNS labels, so nothing can fail.

use dodai_api::{Metadata, Name as DocumentName, RevisionId as DocumentRevision};
use dodai_core::id::{AppId, Name, RevisionId, ServiceId};

/// A name of a document as one of the data path.
pub(crate) fn name(name: &DocumentName) -> Name {
    Name::new(name.as_str()).expect("names in documents are DNS labels")
}

/// The app that a document of a dodai.dev kind names by its own name and namespace.
pub(crate) fn app_id(metadata: &Metadata) -> AppId {
    let own = Name::new(metadata.name.as_str()).expect("names of dodai.dev documents are DNS labels");
    AppId::new(name(&metadata.namespace), own)
}

/// An app of a namespace.
pub(crate) fn app_in(namespace: &DocumentName, app: &DocumentName) -> AppId {
    AppId::new(name(namespace), name(app))
}

/// A revision's id.
pub(crate) fn revision(id: &DocumentRevision) -> RevisionId {
    RevisionId::new(id.as_str())
}

/// A port of an app or service.
pub(crate) fn service(owner: &AppId, port: &DocumentName) -> ServiceId {
    ServiceId { owner: owner.clone(), port: name(port) }
}

/// The name of a document, from a name of the data path.
pub(crate) fn document(name: &Name) -> DocumentName {
    name.as_str().parse().expect("names of the data path are DNS labels")
}

/// The name that an app has beside a service of its own name.
pub(crate) fn behind(app: &AppId) -> AppId {
    let short = app.name.as_str().get(..58).unwrap_or(app.name.as_str());
    let own = Name::new(&format!("{short}--app")).expect("a DNS label that is cut and ended stays one");
    AppId::new(app.namespace.clone(), own)
}

/// A port's name with its number, for a port whose name is taken.
pub(crate) fn numbered(port: &DocumentName, number: u16) -> DocumentName {
    let short = port.as_str().get(..57).unwrap_or(port.as_str());
    format!("{short}-{number}").parse().expect("a DNS label that is cut and ended stays one")
}
