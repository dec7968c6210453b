//! Headers that tell an app who calls: true when they arrive, or not there.
//!
//! At a gateway they are taken away, because nobody outside has a name in the mesh, unless its document trusts who comes. Elsewhere a caller that names
//! itself is named as it proved to be. Trailers never have them: [`crate::h1`] and `h2_body` refuse those.

use dodai_core::call::{CALLER_HEADER, Caller, tells_identity};
use dodai_core::head::{Edit, Edits, RequestHead};
use dodai_core::snapshot::Role;
use http::HeaderName;

use crate::table::Table;

const CALLER: HeaderName = HeaderName::from_static(CALLER_HEADER);

/// Takes away what a call says of identities and may not, and mends what is wrong.
pub fn settle(edits: &mut Edits, table: &Table, role: &Role, caller: &Caller, head: &RequestHead<'_>) {
    head.for_each_header(|name, value| {
        if !tells_identity(name.as_bytes()) {
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
}
