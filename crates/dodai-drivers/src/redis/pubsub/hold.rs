//! A message in hand, and when the members of a group look for those that are due again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dodai_capability::Answer;
use dodai_capability::pubsub::{Error, Receipt, Subscribe, Verdict};
use dodai_core::task;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::super::link::Again;
use super::scripts::{ACK, LATER};
use super::{FOREVER, MOST_PENDING, Shared, millis};

/// The server counts whole milliseconds: what is due is looked for so much later.
const ROUNDING: Duration = Duration::from_millis(2);

/// Those who wait for messages of one group.
pub(super) struct Waiters {
    pub(super) arrived: Notify,
    /// Nothing new was taken because so many messages are unsettled.
    full: AtomicBool,
    looks: Mutex<Looks>,
}

/// When to look for messages that were given before: that costs the server more than taking a new one.
struct Looks {
    next: Instant,
    /// When messages that were put off here may come again; later ones of too many are found by a look in between.
    due: BTreeSet<Instant>,
}

impl Default for Waiters {
    fn default() -> Waiters {
        let looks = Mutex::new(Looks { next: Instant::now(), due: BTreeSet::new() });
        Waiters { arrived: Notify::new(), full: AtomicBool::new(false), looks }
    }
}

impl Waiters {
    /// Whether it is time to look. If so nobody needs to before something is due, or `poll` has passed.
    pub(super) fn look(&self, poll: Duration) -> bool {
        let now = Instant::now();
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if now < looks.next && looks.due.first().is_none_or(|due| now < *due) {
            return false;
        }
        looks.due = looks.due.split_off(&(now + Duration::from_nanos(1)));
        looks.next = now + poll;
        true
    }

    /// There may be more, or it is not known.
    pub(super) fn look_again(&self) {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner).next = Instant::now();
    }

    /// When to look next.
    pub(super) fn next_look(&self) -> Instant {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.due.first().map_or(looks.next, |due| looks.next.min(*due))
    }

    fn due_at(&self, at: Instant) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.due.insert(at);
        if looks.due.len() > MOST_PENDING {
            looks.due.pop_last();
        }
        drop(looks);
        self.arrived.notify_one();
    }

    /// Notes that nothing new is taken before one is settled.
    pub(super) fn is_full(&self) {
        self.full.store(true, Ordering::Release);
    }

    fn settled(&self) {
        if self.full.swap(false, Ordering::AcqRel) {
            self.arrived.notify_one();
        }
    }
}

/// Which delivery it is.
#[derive(Clone)]
pub(super) struct Mark {
    pub(super) shared: Arc<Shared>,
    pub(super) wanted: Subscribe,
    /// After how long without a word it goes to another.
    pub(super) lease: Duration,
    pub(super) id: String,
    pub(super) attempt: u32,
}

impl Mark {
    async fn tell(&self, text: &'static str, idle: Option<Duration>) -> Result<(), Error> {
        let mut pipe = redis::pipe();
        let eval = pipe.cmd("EVAL").arg(text).arg(1).arg(&self.wanted.topic);
        eval.arg(&self.wanted.group).arg(&self.id).arg(self.attempt);
        idle.into_iter().for_each(|idle| {
            eval.arg(millis(idle));
        });
        let what = || format!("settling message {} of topic `{}`", self.id, self.wanted.topic);
        let (held,): (bool,) = self.shared.link.ask(&what, &pipe, Again::Harmless).await?;
        let lost = || Error::LeaseLost { topic: self.wanted.topic.clone(), id: self.id.clone() };
        if held { Ok(()) } else { Err(lost()) }
    }

    /// Makes it due after `wait`, at most after a whole lease: that is all that the server can note.
    async fn put_off(&self, wait: Duration) -> Result<(), Error> {
        self.tell(LATER, Some(self.lease.saturating_sub(wait))).await
    }

    /// Keeps it in hand until a whole lease before its end remains, or it is settled, lost or dropped.
    async fn keep(self, until: Instant, mut settled: oneshot::Receiver<()>) {
        loop {
            let next = until.min(Instant::now() + self.lease / 2);
            tokio::select! {
                _ = &mut settled => return,
                () = self.shared.link.closing() => return,
                () = self.shared.tasks.closing() => return,
                () = tokio::time::sleep_until(next) => {}
            }
            match self.put_off(self.lease).await {
                // Whoever settles it is told.
                Err(Error::LeaseLost { .. }) => return,
                Err(error) => tracing::debug!("{error}; it is kept a little later"),
                Ok(()) if next >= until => return,
                Ok(()) => {}
            }
            if Instant::now() >= until + self.lease {
                return;
            }
        }
    }
}

/// A message in hand.
pub(super) struct Hold {
    mark: Mark,
    waiters: Arc<Waiters>,
    /// Ends the task that keeps it for longer than a lease.
    kept: Mutex<Option<oneshot::Sender<()>>>,
}

impl Hold {
    pub(super) fn new(mark: Mark, waiters: Arc<Waiters>) -> Hold {
        Hold { mark, waiters, kept: Mutex::default() }
    }

    async fn extend(&self, lease: Duration) -> Result<(), Error> {
        let Mark { lease: usual, shared, .. } = &self.mark;
        // Without redelivery it stays in hand in any case.
        self.mark.put_off(if *usual == FOREVER { FOREVER } else { lease }).await?;
        let kept = (lease > *usual).then(|| {
            let (keeps, settled) = oneshot::channel();
            let until = Instant::now() + (lease - *usual);
            shared.tasks.spawn(task::Kind::Loop, self.mark.clone().keep(until, settled));
            keeps
        });
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(())
    }
}

impl Receipt for Hold {
    fn settle(self: Box<Self>, verdict: Verdict) -> Answer<'static, Result<(), Error>> {
        Answer::later(async move {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
            match verdict {
                Verdict::Ack | Verdict::Drop => {
                    self.mark.tell(ACK, None).await?;
                    self.waiters.settled();
                }
                Verdict::Retry { after } => {
                    self.mark.put_off(after).await?;
                    self.waiters.due_at(Instant::now() + after.min(self.mark.lease) + ROUNDING);
                }
            }
            Ok(())
        })
    }

    fn extend(&self, lease: Duration) -> Answer<'_, Result<(), Error>> {
        Answer::later(self.extend(lease))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn looks_are_rare_but_where_something_is_due() {
        const POLL: Duration = Duration::from_secs(5);
        let after = async |seconds| tokio::time::advance(Duration::from_secs(seconds)).await;
        let waiters = Waiters::default();
        assert!(waiters.look(POLL) && !waiters.look(POLL));
        waiters.due_at(Instant::now() + Duration::from_secs(2));
        waiters.due_at(Instant::now() + Duration::from_secs(4));
        assert_eq!(waiters.next_look(), Instant::now() + Duration::from_secs(2));
        after(3).await;
        assert!(waiters.look(POLL) && !waiters.look(POLL));
        after(1).await;
        assert!(waiters.look(POLL) && !waiters.look(POLL));
        assert_eq!(waiters.next_look(), Instant::now() + POLL);
        waiters.look_again();
        assert!(waiters.look(POLL) && !waiters.look(POLL));
        after(5).await;
        assert!(waiters.look(POLL));
    }
}
