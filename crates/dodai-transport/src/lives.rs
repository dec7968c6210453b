//! The mesh connections that are open, so that trust that ends also ends them.
//!
//! A connection is *cut* when its peer's certificate is revoked: reads and writes fail at once, also those that
//! wait. It is *retiring* when a certificate it was made with has expired, or its root is trusted no longer: it takes no
//! further call, and what is under way may end. Its user looks at that between calls; only TLS connections of the mesh pay for it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Waker;
use std::time::SystemTime;

use futures_util::task::AtomicWaker;

use crate::revoked::{Facts, Revoked};

const LIVE: u8 = 0;
const RETIRING: u8 = 1;
const CUT: u8 = 2;

/// One open connection.
#[derive(Debug)]
pub(crate) struct Life {
    facts: Facts,
    /// The name of the root that vouched for the peer.
    root: Box<[u8]>,
    /// When it shall take no further call.
    until: SystemTime,
    state: AtomicU8,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Life {
    pub(crate) fn is_cut(&self) -> bool {
        self.state.load(Ordering::Relaxed) == CUT
    }

    pub(crate) fn is_retiring(&self) -> bool {
        self.state.load(Ordering::Relaxed) != LIVE
    }

    /// Wakes a reader that waits when the connection is cut; whether it is by now.
    pub(crate) fn wait_read(&self, waker: &Waker) -> bool {
        self.reader.register(waker);
        self.state.load(Ordering::Acquire) == CUT
    }

    /// As [`Life::wait_read`], for a writer.
    pub(crate) fn wait_write(&self, waker: &Waker) -> bool {
        self.writer.register(waker);
        self.state.load(Ordering::Acquire) == CUT
    }

    fn cut(&self) {
        self.state.store(CUT, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    /// Retires it unless its root is one of these.
    pub(crate) fn retire_unless(&self, trusts: impl Fn(&[u8]) -> bool) {
        if !trusts(&self.root) {
            self.retire();
        }
    }

    /// Cuts it if it is revoked, and retires it if its time has come; whether it was cut just now.
    pub(crate) fn review(&self, revoked: &Revoked, now: SystemTime) -> bool {
        if !self.is_cut() && revoked.has(&self.facts) {
            self.cut();
            return true;
        }
        if self.until <= now {
            self.retire();
        }
        false
    }

    fn retire(&self) {
        // One that is cut stays so.
        let _cut = self.state.compare_exchange(LIVE, RETIRING, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// What a look at all connections found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Connections that are open.
    pub open: usize,
    /// Connections that were cut just now.
    pub cut: usize,
}

/// All open connections under one trust.
#[derive(Debug, Default)]
pub(crate) struct Lives(Mutex<Vec<Weak<Life>>>);

impl Lives {
    /// A connection whose peer showed a certificate of these facts, which the root of this name vouched for.
    pub(crate) fn begin(&self, facts: Facts, root: Box<[u8]>, until: SystemTime) -> Arc<Life> {
        let life = Arc::new(Life {
            facts,
            root,
            until,
            state: AtomicU8::new(LIVE),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == all.capacity() {
            all.retain(|one| one.strong_count() > 0);
        }
        all.push(Arc::downgrade(&life));
        life
    }

    /// Retires those whose root is not one of these.
    pub(crate) fn retire_unless(&self, trusts: impl Fn(&[u8]) -> bool) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).for_each(|life| life.retire_unless(&trusts));
    }

    /// Cuts what is revoked and retires what has expired.
    pub(crate) fn sweep(&self, revoked: &Revoked, now: SystemTime) -> Swept {
        let mut swept = Swept::default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| {
            let Some(life) = one.upgrade() else { return false };
            swept.open += 1;
            swept.cut += usize::from(life.review(revoked, now));
            true
        });
        // Fitted each time, it would grow anew with the next connection.
        let wanted = 2 * all.len();
        if wanted < all.capacity() / 2 {
            all.shrink_to(wanted);
        }
        swept
    }
}
