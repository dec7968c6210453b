//! Tunnels under way: asked again (`review`) when there is a new table, and cut at once if that would not let them in any
//! more.
//!
//! Streams are not listed here: they are cut with the next of their data, which is all a policy can keep from anybody.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};

use dodai_core::call::Caller;
use dodai_core::failure::Failure;
use dodai_core::head::RequestHead;
use dodai_core::id::ServiceId;
use dodai_core::snapshot::Listener;
use http::request::Parts;
use tokio::time::Instant;

use crate::forward::{Forward, Proven};
use crate::identity::Certified;
use crate::jwt::Claims;
use crate::request::{Request, Side};
use crate::review::Review;
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
    start: Instant,
    service: Option<ServiceId>,
    /// The service that was asked for, where its head does not tell.
    meant: Option<ServiceId>,
    came: Parts,
    /// The head that its service saw, if that is another.
    went: Option<Parts>,
    claims: Option<std::sync::Arc<Claims>>,
    proven: Option<Proven>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    cut: Option<Failure>,
    waker: Option<Waker>,
}

impl Live {
    /// A tunnel of `side` to `service` begins, where `meant` was asked for; `head` is what it was asked for by. It counts
    /// until it is dropped.
    pub fn enter(
        &self,
        side: &Side,
        head: Parts,
        service: Option<&ServiceId>,
        meant: Option<&ServiceId>,
    ) -> Rc<Watch> {
        self.watch(Watch {
            listener: side.listener.clone(),
            caller: side.caller.clone(),
            client: side.client.clone(),
            certified: side.certified.clone(),
            start: Instant::now(),
            service: service.cloned(),
            meant: meant.cloned(),
            came: head,
            went: None,
            claims: None,
            proven: None,
            state: RefCell::default(),
        })
    }

    /// A tunnel begins that a call asked for. It counts until it is dropped.
    pub fn enter_call(&self, side: &Side, request: &Request, forward: &Forward) -> Option<Rc<Watch>> {
        let [came, went] = request.parts_of_both().ok()?;
        Some(self.watch(Watch {
            listener: side.listener.clone(),
            caller: side.caller.clone(),
            client: side.client.clone(),
            certified: side.certified.clone(),
            start: request.lap.start,
            service: Some(forward.service.id().clone()),
            meant: None,
            came,
            went: Some(went),
            claims: forward.claims.clone(),
            proven: forward.proven.clone(),
            state: RefCell::default(),
        }))
    }

    fn watch(&self, watch: Watch) -> Rc<Watch> {
        let watch = Rc::new(watch);
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
            let review = Review {
                listener: &watch.listener,
                caller: &watch.caller,
                client: &watch.client,
                certified: watch.certified.as_deref(),
                start: watch.start,
                service: watch.service.as_ref(),
                came: RequestHead::Map(&watch.came),
                went: Some(RequestHead::Map(watch.went.as_ref().unwrap_or(&watch.came))),
                claims: watch.claims.as_deref(),
                proven: watch.proven.as_ref(),
                meant: watch.meant.as_ref(),
            };
            if let Err(failure) = review.still_allowed(table) {
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
