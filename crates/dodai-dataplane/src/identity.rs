//! Headers that tell an app who calls: true when they arrive, or not there.
//!
//! At a gateway they are taken away, because nobody outside has a name in the mesh, unless its document trusts who comes;
//! a client that has shown a certificate is told of by that. Elsewhere a caller that names
//! itself is named as it proved to be. Trailers never have them: [`crate::h1`] and `h2_body` refuse those.

use std::sync::Arc;

use dodai_core::call::{CALLER_HEADER, Caller, tells_identity};
use dodai_core::head::{Edit, Edits, Prepared, RequestHead, Short};
use dodai_core::snapshot::Role;
use dodai_transport::client_certificate::ClientCertificate;
use dodai_transport::stream::Stream;
use http::HeaderName;

use crate::entry::Entry;
use crate::table::Table;

const CALLER: HeaderName = HeaderName::from_static(CALLER_HEADER);
const CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// A gateway's client that has shown a certificate.
#[derive(Debug)]
pub struct Certified {
    /// What it says.
    pub certificate: ClientCertificate,
    /// What apps are told of it.
    told: Arc<Prepared>,
}

impl Certified {
    /// Who is at the other end of `stream`, if that was proven by a certificate which is not one of the mesh.
    pub fn of(stream: &Stream) -> Option<Arc<Certified>> {
        let certificate = ClientCertificate::of(stream.peer_certificate()?)?;
        let value = Short::from_slice(certificate.forwarded().as_bytes());
        Some(Arc::new(Certified { certificate, told: Prepared::new(vec![Edit::Set(CERTIFICATE, value)]) }))
    }
}

/// Takes away what a call says of identities and may not, and mends what is wrong.
pub fn settle(edits: &mut Edits, table: &Table, entry: &Entry<'_>, head: &RequestHead<'_>) {
    let (role, caller) = (&entry.listener.role, entry.caller);
    head.for_each_header(|name, value| {
        if !tells_identity(name.as_bytes()) {
            return;
        }
        // What servers of CGI's kind read as if it were spelled with hyphens. Nobody here writes it so.
        if name.contains('_') {
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                edits.push(Edit::Remove(name));
            }
            return;
        }
        let is_caller = name.eq_ignore_ascii_case(CALLER_HEADER);
        match (role, caller) {
            (
                Role::Outbound { .. }
                | Role::Dependency { .. }
                | Role::Mesh
                | Role::Api { .. }
                | Role::Captured(_),
                Caller::App(app),
            ) => {
                if is_caller && value != app.name.as_str().as_bytes() {
                    edits.set(CALLER, app.name.as_str().as_bytes());
                }
            }
            (Role::Outbound { .. } | Role::Dependency { .. } | Role::Api { .. }, Caller::Base) => {}
            (Role::Gateway { routes }, _)
                if table.router(routes).is_some_and(|router| router.is_trusted()) => {}
            (Role::Gateway { .. }, _) | (_, Caller::Outside | Caller::Base) => {
                if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                    edits.push(Edit::Remove(name));
                }
            }
        }
    });
    if let Some(certified) = entry.certified {
        edits.push_all(&certified.told);
    }
}
