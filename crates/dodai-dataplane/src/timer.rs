//! Deadlines of connections without a timer per request: each connection task owns one [`Deadline`] cell,
//! and one sweep per thread looks at all of them every [`TICK`].
//!
//! Setting a deadline is two stores. A deadline fires at most one tick late, never early. Rejected: tokio
//! timers per request (measured at 9 to 13 % of a hop's CPU).

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use dodai_core::failure::{Failure, Kind};
use tokio::time::Instant;

/// How often deadlines are looked at.
pub const TICK: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Cells {
    at: Cell<Option<Instant>>,
    fired: Cell<bool>,
    interruptible: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// How long a body may stand still, and when the call with all its bodies must be over.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long nothing may move.
    pub idle: Duration,
    /// When the call must be over, if that is bounded.
    pub end: Option<Instant>,
}

impl Patience {
    /// When a step that begins now is late.
    pub fn due(&self) -> Instant {
        let still = Instant::now() + self.idle;
        self.end.map_or(still, |end| end.min(still))
    }

    /// Whether the call must be over by now.
    pub fn is_over(&self) -> bool {
        self.end.is_some_and(|end| end <= Instant::now())
    }

    /// Why a step that was late ends the call: of `kind`, unless it is the call that took too long.
    pub fn late(&self, kind: Kind, text: impl Into<Cow<'static, str>>) -> Failure {
        if self.is_over() {
            return Failure::new(Kind::Overtime, "the call took longer altogether than it may");
        }
        Failure::new(kind, text)
    }
}

/// All deadlines of one thread.
#[derive(Default)]
pub struct Deadlines {
    cells: RefCell<Vec<Weak<Cells>>>,
}

/// The deadline of one task.
pub struct Deadline(Rc<Cells>);

impl Deadlines {
    /// A new deadline that is not set.
    pub fn register(&self) -> Deadline {
        let cells = Rc::new(Cells::default());
        self.cells.borrow_mut().push(Rc::downgrade(&cells));
        Deadline(cells)
    }

    /// Fires what is due and forgets dropped deadlines.
    pub fn sweep(&self, now: Instant) {
        let mut cells = self.cells.borrow_mut();
        cells.retain(|weak| {
            let Some(cell) = weak.upgrade() else { return false };
            if cell.at.get().is_some_and(|at| at <= now) {
                cell.at.set(None);
                cell.fired.set(true);
                if let Some(waker) = cell.waker.borrow().as_ref() {
                    waker.wake_by_ref();
                }
            }
            true
        });
        if cells.capacity() > 64 && cells.len() < cells.capacity() / 4 {
            cells.shrink_to_fit();
        }
    }
}

impl Deadlines {
    /// Fires every deadline that waits for nothing in particular, whatever its time: for draining.
    pub fn interrupt(&self) {
        for cell in self.cells.borrow().iter().filter_map(Weak::upgrade) {
            if cell.interruptible.get() {
                cell.fired.set(true);
                if let Some(waker) = cell.waker.borrow().as_ref() {
                    waker.wake_by_ref();
                }
            }
        }
    }
}

impl Deadline {
    /// Whether a drain may end this wait at once: true while a connection sits between two requests.
    pub fn set_interruptible(&self, yes: bool) {
        self.0.interruptible.set(yes);
    }

    /// Runs `future` until it is done or the deadline fires (`None`). Cancel safe if `future` is.
    pub async fn bound<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending if self.poll_fired(cx) => std::task::Poll::Ready(None),
            std::task::Poll::Pending => std::task::Poll::Pending,
        })
        .await
    }

    /// Fires `after` from now, unless set again or cleared.
    pub fn set(&self, after: Duration) {
        self.set_at(Instant::now() + after);
    }

    /// Fires at `at`, unless set again or cleared.
    pub fn set_at(&self, at: Instant) {
        self.0.at.set(Some(at));
        self.0.fired.set(false);
    }

    /// Fires at `at` if nothing fires it before; says whether something does.
    pub fn bounds(&self, at: Instant) -> bool {
        let is_before = self.0.fired.get() || self.0.at.get().is_some_and(|set| set < at);
        if !is_before {
            self.set_at(at);
        }
        is_before
    }

    /// Does not fire.
    pub fn clear(&self) {
        self.0.at.set(None);
        self.0.fired.set(false);
    }

    /// Whether it fired since it was set.
    pub fn has_fired(&self) -> bool {
        self.0.fired.get()
    }

    /// Whether it fired since it was set. Registers the task to be woken when it does.
    pub fn poll_fired(&self, cx: &Context<'_>) -> bool {
        let mut waker = self.0.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.0.fired.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn fires_once_due_and_not_after_being_cleared() {
        let all = Deadlines::default();
        let deadline = all.register();
        let cx = Context::from_waker(Waker::noop());
        deadline.set(Duration::from_secs(1));
        all.sweep(Instant::now());
        assert!(!deadline.poll_fired(&cx));
        tokio::time::advance(Duration::from_secs(1)).await;
        all.sweep(Instant::now());
        assert!(deadline.poll_fired(&cx));
        deadline.set(Duration::from_secs(1));
        deadline.clear();
        tokio::time::advance(Duration::from_secs(2)).await;
        all.sweep(Instant::now());
        assert!(!deadline.poll_fired(&cx));
        drop(deadline);
        all.sweep(Instant::now());
        assert!(all.cells.borrow().is_empty());
    }
}
