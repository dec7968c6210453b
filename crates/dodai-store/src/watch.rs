//! What a watch gives: events in revision order, without gap and without duplicate.

use futures_core::future::BoxFuture;

use crate::error::Result;
use crate::key_value::{KeyValue, Revision};

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was written.
    Put {
        /// As it is now; `kv.mod_revision` is the event's revision.
        kv: KeyValue,
        /// As it was before, if it existed. Also absent when that has been compacted.
        prev: Option<KeyValue>,
    },
    /// The key was removed.
    Delete {
        /// The key.
        key: String,
        /// As it was before. Absent only when that has been compacted.
        prev: Option<KeyValue>,
        /// The event's revision.
        mod_revision: Revision,
    },
}

impl Event {
    /// The revision that made this event.
    pub fn revision(&self) -> Revision {
        match self {
            Event::Put { kv, .. } => kv.mod_revision,
            Event::Delete { mod_revision, .. } => *mod_revision,
        }
    }

    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Event::Put { kv, .. } => &kv.key,
            Event::Delete { key, .. } => key,
        }
    }

    /// The key as it was before.
    pub fn prev(&self) -> Option<&KeyValue> {
        match self {
            Event::Put { prev, .. } | Event::Delete { prev, .. } => prev.as_ref(),
        }
    }
}

/// Events that follow one another. A batch never splits the events of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The events, in revision order. Empty in a progress notification.
    pub events: Vec<Event>,
    /// All events up to here have now been given. To resume later, watch from the revision after it.
    pub revision: Revision,
    /// Whether that was all there is: the watcher has seen the present.
    pub caught_up: bool,
}

/// What produces the batches of a [`Watch`]; a back end supplies it.
pub trait Feed: Send {
    /// The next batch. Must be cancel safe.
    fn next(&mut self) -> BoxFuture<'_, Result<Batch>>;
}

/// A running watch; dropping it ends it. It holds no queue: it reads history at the pace of its consumer,
/// so a slow consumer costs nothing and loses nothing, until the history that it still needs is compacted.
pub struct Watch(Box<dyn Feed>);

impl Watch {
    /// A watch over a back end's feed.
    pub fn new(feed: impl Feed + 'static) -> Watch {
        Watch(Box::new(feed))
    }

    /// The next batch; waits until there is one. The first call answers at once, with an empty batch if
    /// the watch starts at the present; a batch without events also comes now and then while only other
    /// keys change, so that a consumer may resume from there.
    ///
    /// Cancel safe: no event is lost when the future is dropped.
    ///
    /// # Errors
    /// [`Error::Compacted`](crate::Error::Compacted) when the history it needs is gone (list again, and
    /// watch from there) and [`Error::Closed`](crate::Error::Closed) are final. After any other error the
    /// call may be repeated, and goes on where it was.
    pub async fn next(&mut self) -> Result<Batch> {
        self.0.next().await
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}
