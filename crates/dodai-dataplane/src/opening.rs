//! A connection that opens, by the rules: where it leads, and whether who opens it is let in.
//!
//! It has no head, only the name wanted of TLS. What a rule asks for and no connection can show, such as a token, it
//! does not have: then it is refused.

use std::sync::Arc;

use dodai_core::failure::{Failure, Kind};
use dodai_core::head::RequestHead;
use dodai_core::snapshot::{Action, Backend, Role};
use http::request::Parts;
use tokio::time::Instant;

use crate::filter::{self, Known, Seen};
use crate::request::Side;
use crate::review;
use crate::service::Service;
use crate::spine;
use crate::table::Table;

/// Where a connection leads, and to which part of it.
pub type Lead = (Arc<Service>, Option<Backend>);
/// Why it leads nowhere, and the service that was meant, if one was.
pub type Refused = (Option<Arc<Service>>, Failure);

/// The head by which a connection is matched that wants `host` in TLS.
pub fn wanted(host: Option<&str>) -> Parts {
    http::Request::get(host.unwrap_or("*")).body(()).unwrap_or_default().into_parts().0
}

/// The head by which a connection is checked that has none.
pub fn tunnel() -> Parts {
    http::Request::connect("/").body(()).unwrap_or_default().into_parts().0
}

/// Where a connection of a listener for TCP or UDP leads; the name wanted of TLS is matched as a host.
pub fn lead(table: &Table, side: &Side, host: Option<&str>) -> Result<Lead, Refused> {
    let service = match &side.listener.role {
        Role::Dependency { service, .. } => table.service(service),
        Role::Mesh => side.service.as_deref().and_then(|id| table.service(id)),
        Role::Gateway { .. } | Role::Outbound { .. } | Role::Api { .. } | Role::Captured(_) => None,
    };
    onward(table, side, service, host)
}

/// Where the rules of a gateway, or those for calls to `service`, lead a connection; to `service` if none matches. What
/// the service at the end asks of its callers is asked where the connection arrives.
pub fn onward(
    table: &Table,
    side: &Side,
    service: Option<&Arc<Service>>,
    host: Option<&str>,
) -> Result<Lead, Refused> {
    let head = if let Role::Gateway { .. } = side.listener.role { wanted(host) } else { tunnel() };
    let seen = Seen {
        head: RequestHead::Map(&head),
        caller: &side.caller,
        client: Some(&*side.client).filter(|client| !client.is_empty()),
        certified: side.certified.as_deref(),
        now: Instant::now(),
        known: Known::All,
    };
    let nowhere =
        || (service.cloned(), Failure::new(Kind::NoRoute, "no rule leads this connection anywhere"));
    let Some(rule) = review::rule(table, &side.listener, service.map(|service| &**service), &seen) else {
        return service.map(|service| (service.clone(), None)).ok_or_else(nowhere);
    };
    let Action::Forward(backends) = &rule.action else { return Err(nowhere()) };
    let backend = spine::draw(backends, rule.total_weight).ok_or_else(nowhere)?;
    let to = table.service(&backend.service).ok_or_else(nowhere)?;
    match filter::run_at_once(&rule.filters, &seen, &rule.name, false) {
        Ok(()) => Ok((to.clone(), Some(backend.clone()))),
        Err(failure) => Err((Some(to.clone()), failure)),
    }
}
