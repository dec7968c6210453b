//! The clocks of leases. Which leases exist and what hangs on them is the back end's (durable) affair;
//! here is only when each one ends, kept in memory, and the loop that ends them.
//!
//! A keep-alive is not a durable write, so after a crash a lease starts its full time to live anew; after
//! an orderly stop it goes on with what remained. Time that the store was down does not count: nobody
//! could have kept the lease alive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use dodai_core::task::Tasks;
use futures_core::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::key_value::LeaseId;

/// The longest time to live.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// After a restart holders get at least this long (or their whole time to live) to be heard again.
const RESTART_GRACE: Duration = Duration::from_secs(5);
/// When a lease cannot be ended (no space, I/O error), the next attempt follows after this.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

struct Term {
    ttl: Duration,
    ends: Instant,
    /// It ran out and is being ended: too late to keep it alive.
    ending: bool,
    /// A shortened rest is on disk; the next keep-alive has to take that back durably.
    shortened: bool,
}

#[derive(Default)]
struct Book {
    terms: BTreeMap<LeaseId, Term>,
    closed: bool,
}

/// When each lease ends.
#[derive(Default)]
pub(crate) struct Terms {
    book: Mutex<Book>,
    changed: Notify,
}

/// What a keep-alive found.
pub(crate) struct Renewal {
    pub(crate) ttl: Duration,
    /// The back end has a shortened rest on record that no longer holds.
    pub(crate) was_shortened: bool,
}

impl Terms {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the clock of a new lease.
    pub(crate) fn start(&self, lease: LeaseId, ttl: Duration) {
        let term = Term { ttl, ends: Instant::now() + ttl, ending: false, shortened: false };
        self.book().terms.insert(lease, term);
        self.changed.notify_one();
    }

    /// Starts the clock of a lease found on opening, with the rest that was recorded for it.
    pub(crate) fn resume(&self, lease: LeaseId, ttl: Duration, rest: Option<Duration>) {
        let left = rest.map_or(ttl, |rest| rest.max(RESTART_GRACE).min(ttl));
        let shortened = rest.is_some();
        let term = Term { ttl, ends: Instant::now() + left, ending: false, shortened };
        self.book().terms.insert(lease, term);
        self.changed.notify_one();
    }

    /// Starts a lease's time anew.
    pub(crate) fn renew(&self, lease: LeaseId) -> Result<Renewal> {
        let mut book = self.book();
        if book.closed {
            return Err(Error::Closed);
        }
        match book.terms.get_mut(&lease) {
            Some(term) if !term.ending => {
                // The loop may wake too early for the old end; it then finds nothing due and sleeps on.
                term.ends = Instant::now() + term.ttl;
                let was_shortened = std::mem::take(&mut term.shortened);
                Ok(Renewal { ttl: term.ttl, was_shortened })
            }
            Some(_) | None => Err(Error::LeaseNotFound { lease }),
        }
    }

    /// A keep-alive could not take the shortened rest back; the next one has to try again.
    pub(crate) fn still_shortened(&self, lease: LeaseId) {
        if let Some(term) = self.book().terms.get_mut(&lease) {
            term.shortened = true;
        }
    }

    /// Forgets a lease that is gone.
    pub(crate) fn forget(&self, lease: LeaseId) {
        self.book().terms.remove(&lease);
    }

    /// What remains of each lease now.
    pub(crate) fn rests(&self) -> Vec<(LeaseId, Duration)> {
        let now = Instant::now();
        let book = self.book();
        book.terms.iter().map(|(id, term)| (*id, term.ends.saturating_duration_since(now))).collect()
    }

    /// Ends the loop.
    pub(crate) fn close(&self) {
        self.book().closed = true;
        self.changed.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.book().closed
    }

    fn next_end(&self) -> Option<Instant> {
        self.book().terms.values().filter(|term| !term.ending).map(|term| term.ends).min()
    }

    fn take_due(&self) -> Vec<LeaseId> {
        let now = Instant::now();
        let mut book = self.book();
        let due = book.terms.iter_mut().filter(|(_, term)| !term.ending && term.ends <= now);
        due.map(|(id, term)| {
            term.ending = true;
            *id
        })
        .collect()
    }

    /// Ending it failed, so its keys are still there; until the next attempt it may be kept alive after all.
    fn retry(&self, lease: LeaseId) {
        if let Some(term) = self.book().terms.get_mut(&lease) {
            term.ends = Instant::now() + RETRY_INTERVAL;
            term.ending = false;
        }
    }
}

/// Ends leases in a back end.
pub(crate) trait EndLease: Send + Sync + 'static {
    /// Removes the lease and all its keys, because its time is up.
    fn expire(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>>;
}

/// Checks a requested time to live.
pub(crate) fn check_ttl(ttl: Duration) -> Result<()> {
    if ttl < Duration::from_millis(1) || ttl > MAX_TTL {
        return Err(Error::InvalidTtl { ttl_ms: ttl.as_millis(), max_ms: MAX_TTL.as_millis() });
    }
    Ok(())
}

/// Ends leases as their time comes, until the store is dropped or closed, or `tasks` close.
pub(crate) async fn run<S: EndLease>(terms: Arc<Terms>, store: Weak<S>, tasks: Tasks) {
    while !terms.is_closed() {
        let next = terms.next_end();
        let end = next.unwrap_or_else(Instant::now);
        tokio::select! {
            // Cancel safe, all three: nothing is taken before the branch runs.
            () = tasks.closing() => return,
            () = terms.changed.notified() => {}
            () = tokio::time::sleep_until(end), if next.is_some() => {
                let Some(store) = store.upgrade() else { return };
                end_due(&terms, &*store).await;
            }
        }
    }
}

async fn end_due<S: EndLease>(terms: &Terms, store: &S) {
    for lease in terms.take_due() {
        match store.expire(lease).await {
            Ok(()) | Err(Error::LeaseNotFound { .. }) => terms.forget(lease),
            Err(Error::Closed) => return,
            Err(error) => {
                tracing::warn!(%lease, %error, "a lease that ran out could not be ended; trying again");
                terms.retry(lease);
            }
        }
    }
}
