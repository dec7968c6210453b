//! How a call came in, as the spine wants to know it.

use std::cell::Cell;

use dodai_core::call::Caller;
use dodai_core::head::RequestHead;
use dodai_core::id::ServiceId;
use dodai_core::snapshot::{Listener, Role};
use dodai_core::trace::Span;
use tokio::time::Instant;

use crate::forwarded::{self, Via};
use crate::identity::Certified;
use crate::request::Captured;
use crate::roll::Facts;

/// How a call came in.
pub struct Entry<'a> {
    /// The listener, or the in-process way in.
    pub listener: &'a Listener,
    /// Who calls.
    pub caller: &'a Caller,
    /// The client's address in text, for gateways.
    pub client: Option<&'a str>,
    /// The client's port, for gateways.
    pub port: u16,
    /// What is known of the connection, if it is one.
    pub facts: Option<&'a Facts>,
    /// The proxy that brought the call, if what it says of the client counts.
    pub via: Option<&'a Via>,
    /// The certificate that a gateway's client has shown.
    pub certified: Option<&'a Certified>,
    /// Whether the peer's side is encrypted.
    pub secure: bool,
    /// The service that another base asked for by SNI.
    pub service: Option<&'a ServiceId>,
    /// What holds because the kernel led the connection here.
    pub captured: Option<&'a Captured>,
    /// Where it is noted when the route was found, if somebody wants to know.
    pub routed: Option<&'a Cell<Option<Instant>>>,
    /// The span, where it is ours to say if it is sampled: a rule may say otherwise than the base.
    pub redraws: Option<&'a Cell<Span>>,
}

impl Entry<'_> {
    /// Whether it comes from outside the mesh, through a gateway.
    pub fn is_outside(&self) -> bool {
        matches!(self.listener.role, Role::Gateway { .. })
    }

    /// Whether the client's side is encrypted: as a proxy says, where that counts.
    pub fn is_https(&self, head: &RequestHead<'_>) -> bool {
        self.via.and_then(|_| forwarded::is_https(head)).unwrap_or(self.secure)
    }
}
