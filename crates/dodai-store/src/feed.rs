//! How committed events reach watchers. The writer publishes each commit to the [`Hub`], which keeps the
//! recent events and wakes the watchers; each [`Follower`] reads at its own pace, from the recent events
//! if they reach back far enough, else from the back end's history.
//!
//! No queue per watcher, so nothing to overflow. Rejected: a bounded channel per watcher, which has to
//! fall back to history anyway when it is full.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::key_value::{KeyValue, Revision};
use crate::plan::cut_whole_revisions;
use crate::watch::{Batch, Event, Feed, Watch};

/// About how many events a batch holds.
const BATCH_EVENTS: usize = 512;
/// How many bytes of keys and values the recent events may hold.
const RECENT_BYTES: usize = 8 * 1024 * 1024;
/// How long a watcher whose keys do not change goes without hearing of the store's progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Events of a stretch of history.
#[derive(Debug)]
pub(crate) struct Stretch {
    pub(crate) events: Vec<Event>,
    /// All matching events up to here are in `events`.
    pub(crate) through: Revision,
}

/// A back end's history.
pub(crate) trait History: Send + Sync + 'static {
    /// The events under `prefix` with a revision of `from` or later, about `limit` of them, whole
    /// revisions. Fails with `Compacted` if `from` lies before what is kept.
    fn stretch<'a>(&'a self, prefix: &'a str, from: Revision, limit: usize)
    -> BoxFuture<'a, Result<Stretch>>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Present {
    revision: Revision,
    closed: bool,
}

struct Recent {
    limit: usize,
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Every event after this revision is in `events`.
    complete_after: Revision,
}

/// Where the writer tells what it committed.
pub(crate) struct Hub {
    present: watch::Sender<Present>,
    recent: Mutex<Recent>,
    compacted: AtomicU64,
}

impl Hub {
    pub(crate) fn new(revision: Revision, compacted: Revision, limit: usize) -> Hub {
        let recent = Recent { limit, events: VecDeque::new(), bytes: 0, complete_after: revision };
        Hub {
            present: watch::Sender::new(Present { revision, closed: false }),
            recent: Mutex::new(recent),
            compacted: AtomicU64::new(compacted.0),
        }
    }

    /// Where history starts.
    pub(crate) fn compacted(&self) -> Revision {
        Revision(self.compacted.load(Ordering::Acquire))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.present.borrow().closed
    }

    /// Tells watchers that `revision` and all `events` up to it are committed. Called in commit order.
    pub(crate) fn publish(&self, events: Vec<Event>, revision: Revision) {
        if events.is_empty() {
            return;
        }
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).extend(events);
        self.present.send_modify(|present| present.revision = revision);
    }

    /// Watchers that start before `revision` are refused from now on.
    pub(crate) fn compact(&self, revision: Revision) {
        self.compacted.fetch_max(revision.0, Ordering::AcqRel);
    }

    /// Ends all watchers.
    pub(crate) fn close(&self) {
        self.present.send_modify(|present| present.closed = true);
    }

    /// A watch over this hub and the history behind it.
    pub(crate) fn watch(self: &Arc<Self>, history: Arc<dyn History>, prefix: &str, from: Revision) -> Watch {
        Watch::new(Follower {
            hub: self.clone(),
            history,
            present: self.present.subscribe(),
            prefix: prefix.to_owned(),
            position: from.previous(),
            from: Some(from),
            told: None,
            next_progress: Instant::now() + PROGRESS_INTERVAL,
        })
    }

    fn recent(&self, prefix: &str, after: Revision, through: Revision) -> Option<Stretch> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.stretch(prefix, after, through)
    }
}

impl Recent {
    fn extend(&mut self, events: Vec<Event>) {
        for event in events {
            self.bytes += weight(&event);
            self.events.push_back(Arc::new(event));
        }
        while self.events.len() > self.limit || self.bytes > RECENT_BYTES {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= weight(&oldest);
            self.complete_after = oldest.revision();
        }
    }

    /// The events after `after`, unless some of them are no longer here.
    fn stretch(&self, prefix: &str, after: Revision, through: Revision) -> Option<Stretch> {
        if after < self.complete_after {
            return None;
        }
        let start = self.events.partition_point(|event| event.revision() <= after);
        let end = self.events.partition_point(|event| event.revision() <= through);
        let matching = self.events.range(start..end).filter(|event| event.key().starts_with(prefix));
        // One whole revision may be longer than a batch, so the limit cuts the clone, not the search.
        let mut events: Vec<&Arc<Event>> = matching.collect();
        let cut = cut_whole_revisions(&mut events, BATCH_EVENTS, |event| event.revision());
        let last = events.last().map(|event| event.revision());
        let through = if cut { last.unwrap_or(through) } else { through };
        Some(Stretch { events: events.into_iter().map(|event| Event::clone(event)).collect(), through })
    }
}

fn weight(event: &Event) -> usize {
    let bytes = |kv: &KeyValue| kv.key.len() + kv.value.len();
    let now = match event {
        Event::Put { kv, .. } => bytes(kv),
        Event::Delete { key, .. } => key.len(),
    };
    now + event.prev().map_or(0, bytes)
}

/// One watcher.
struct Follower {
    hub: Arc<Hub>,
    history: Arc<dyn History>,
    present: watch::Receiver<Present>,
    prefix: String,
    /// Every event up to here has been given.
    position: Revision,
    /// Where it starts, until it has started.
    from: Option<Revision>,
    /// The revision of the last batch that was given.
    told: Option<Revision>,
    next_progress: Instant,
}

impl Follower {
    async fn next(&mut self) -> Result<Batch> {
        if let Some(requested) = self.from {
            let compacted = self.hub.compacted();
            if requested < compacted {
                return Err(Error::Compacted { requested, compacted });
            }
            self.from = None;
        }
        loop {
            let present = *self.present.borrow_and_update();
            if present.closed {
                return Err(Error::Closed);
            }
            if self.position < present.revision {
                let stretch = self.read(present.revision).await?;
                self.position = stretch.through;
                if !stretch.events.is_empty() {
                    return Ok(self.tell(stretch.events));
                }
                continue;
            }
            if self.told.is_none() {
                return Ok(self.tell(Vec::new()));
            }
            let untold = self.told < Some(self.position);
            tokio::select! {
                // Cancel safe: a change that is seen stays seen in the receiver, and is read above.
                changed = self.present.changed() => changed.map_err(|_| Error::Closed)?,
                // Cancel safe: the deadline is kept in `self`.
                () = tokio::time::sleep_until(self.next_progress), if untold => {
                    return Ok(self.tell(Vec::new()));
                }
            }
        }
    }

    async fn read(&self, through: Revision) -> Result<Stretch> {
        match self.hub.recent(&self.prefix, self.position, through) {
            Some(stretch) => Ok(stretch),
            None => self.history.stretch(&self.prefix, self.position.next(), BATCH_EVENTS).await,
        }
    }

    /// A batch for the consumer. A watch that starts in the future is caught up until that comes.
    fn tell(&mut self, events: Vec<Event>) -> Batch {
        let present = self.present.borrow().revision;
        let revision = if events.is_empty() { self.position.min(present) } else { self.position };
        self.told = Some(self.position);
        self.next_progress = Instant::now() + PROGRESS_INTERVAL;
        Batch { events, revision, caught_up: self.position >= present }
    }
}

impl Feed for Follower {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch>> {
        Box::pin(Follower::next(self))
    }
}
