//! What goes on longer than the table that let it in: looked at again by every new table, and cut if that would not
//! let it in any more.
//!
//! Tunnels are cut at once. Streams are cut with the next of their data, which is all a policy can keep from anybody.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};

use dodai_core::call::Caller;
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::RequestHead;
use dodai_core::id::ServiceId;
use dodai_core::snapshot::{Listener, Role};
use tokio::time::Instant;

use crate::filter::{Filter, Known, Seen};
use crate::identity::Certified;
use crate::matcher;
use crate::request::Side;
use crate::route::Rule;
use crate::service::Service;
use crate::table::Table;

/// The tunnels of one thread.
#[derive(Default)]
pub struct Live {
    all: RefCell<Vec<Weak<Watch>>>,
    epoch: std::cell::Cell<u64>,
}

/// A tunnel under way.
pub struct Watch {
    listener: std::sync::Arc<Listener>,
    caller: Caller,
    client: std::sync::Arc<str>,
    certified: Option<std::sync::Arc<Certified>>,
    head: http::request::Parts,
    service: Option<ServiceId>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    cut: Option<Failure>,
    waker: Option<Waker>,
}

impl Live {
    /// A tunnel of `side` to `service` begins; `head` is what it was asked for by. It counts until it is dropped.
    pub fn enter(&self, side: &Side, head: http::request::Parts, service: Option<&ServiceId>) -> Rc<Watch> {
        let watch = Rc::new(Watch {
            listener: side.listener.clone(),
            caller: side.caller.clone(),
            client: side.client.clone(),
            certified: side.certified.clone(),
            head,
            service: service.cloned(),
            state: RefCell::default(),
        });
        let mut all = self.all.borrow_mut();
        if all.len() == all.capacity() {
            all.retain(|weak| weak.strong_count() > 0);
        }
        all.push(Rc::downgrade(&watch));
        watch
    }

    /// Cuts what `table` does not allow, if it is a newer one than at the last look.
    pub fn review(&self, table: &Table, epoch: u64) {
        if self.epoch.replace(epoch) == epoch {
            return;
        }
        self.all.borrow_mut().retain(|weak| {
            let Some(watch) = weak.upgrade() else { return false };
            let client = Some(&*watch.client).filter(|client| !client.is_empty());
            let (head, now) = (RequestHead::Map(&watch.head), Instant::now());
            let (caller, certified) = (&watch.caller, watch.certified.as_deref());
            let seen = Seen { head, caller, client, certified, now, known: Known::Head };
            if let Err(failure) = still_allowed(table, &watch.listener, watch.service.as_ref(), &seen) {
                let mut state = watch.state.borrow_mut();
                state.cut = Some(failure);
                if let Some(waker) = state.waker.take() {
                    waker.wake();
                }
            }
            true
        });
    }
}

impl Watch {
    /// Why the tunnel ends, if it does. Otherwise the task is woken when that changes.
    pub fn poll_cut(&self, cx: &Context<'_>) -> Option<Failure> {
        let mut state = self.state.borrow_mut();
        if state.cut.is_none() && !state.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        state.cut.take()
    }
}

/// Whether `table` would let in a call that went to `service`.
pub fn still_allowed(
    table: &Table,
    listener: &Listener,
    service: Option<&ServiceId>,
    seen: &Seen<'_>,
) -> Result<(), Failure> {
    allowed(table, listener, service, seen).map_err(|failure| {
        Failure::new(Kind::Denied, format!("{} any more: the policy changed meanwhile", failure.detail))
    })
}

/// Whether `table` lets in what `seen` tells of a call to `service`. Where no rule leads nothing is said: that endpoints
/// go is not a matter of who may call.
fn allowed(
    table: &Table,
    listener: &Listener,
    service: Option<&ServiceId>,
    seen: &Seen<'_>,
) -> Result<(), Failure> {
    let service = service.and_then(|id| table.service(id));
    if let Some(rule) = rule(table, listener, service.map(|service| &**service), seen) {
        guards(&rule.filters, seen)?;
    }
    match service {
        Some(service) => guards(&service.inbound, &Seen { client: None, certified: None, ..*seen }),
        None => Ok(()),
    }
}

/// The rule for what `seen` tells of a call to `service` through `listener`.
pub fn rule<'a>(
    table: &'a Table,
    listener: &Listener,
    service: Option<&'a Service>,
    seen: &Seen<'_>,
) -> Option<&'a Rule> {
    let rule = match &listener.role {
        Role::Gateway { routes } => table.router(routes)?.route(&seen.head, seen.caller),
        Role::Outbound { .. } | Role::Dependency { .. } => {
            service?.rules.find(&matcher::Seen::new(&seen.head, seen.caller))
        }
        Role::Mesh | Role::Api { .. } | Role::Captured(_) => None,
    };
    rule.map(|rule| &**rule)
}

fn guards(filters: &[Filter], seen: &Seen<'_>) -> Result<(), Failure> {
    for filter in filters {
        if let Filter::Access(access) = filter {
            access.check(seen, None)?;
        }
    }
    Ok(())
}
