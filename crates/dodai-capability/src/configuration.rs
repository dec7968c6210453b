//! Configuration: values that operators change while apps run, and a feed of the changes.
//!
//! A feed never holds more than the latest change of each key: a slow reader skips intermediate values and never
//! stale ones. Rejected: a queue of changes, which is either unbounded or loses the last one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use crate::answer::Answer;
use crate::fault::{Fault, Kind};
use crate::metadata::Metadata;

/// How many keys may have an unread change in one feed.
pub const FEED_CAPACITY: usize = 16_384;

/// One value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: String,
    /// The store's version of it; it grows with every change.
    pub version: String,
    /// What else is known.
    pub metadata: Metadata,
}

/// A change of one key: its new value, or `None` if it was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which key.
    pub key: String,
    /// What it is now.
    pub item: Option<Item>,
}

/// Why a configuration request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Error {
    /// A stable word for this error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Fault(fault) => fault.kind().as_str(),
        }
    }
}

/// A configuration store as apps see it.
pub trait Store: Send + Sync {
    /// Reads the given keys, or all of them when none is given. Unknown keys are left out.
    fn get<'a>(
        &'a self,
        keys: &'a [String],
        metadata: &'a Metadata,
    ) -> Answer<'a, Result<BTreeMap<String, Item>, Error>>;

    /// Follows the given keys, or all of them when none is given. The feed begins with the next change.
    fn subscribe<'a>(
        &'a self,
        keys: &'a [String],
        metadata: &'a Metadata,
    ) -> Answer<'a, Result<Subscription, Error>>;
}

/// A configuration store as operators see it.
pub trait Writer: Send + Sync {
    /// Sets a value; returns it with its new version.
    fn set<'a>(&'a self, key: &'a str, value: &'a str, metadata: Metadata)
    -> Answer<'a, Result<Item, Error>>;

    /// Deletes a value; returns whether there was one.
    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, Result<bool, Error>>;
}

#[derive(Default)]
struct Pending {
    changes: BTreeMap<String, Option<Item>>,
    ended: bool,
    lagged: bool,
}

struct Feed {
    keys: BTreeSet<String>,
    pending: Mutex<Pending>,
    arrived: Notify,
}

impl Feed {
    fn offer(&self, change: &Change) {
        if !self.keys.is_empty() && !self.keys.contains(&change.key) {
            return;
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.changes.len() >= FEED_CAPACITY && !pending.changes.contains_key(&change.key) {
            pending.lagged = true;
            pending.changes.clear();
        }
        if !pending.lagged {
            pending.changes.insert(change.key.clone(), change.item.clone());
        }
        drop(pending);
        self.arrived.notify_one();
    }
}

/// A stream of changes. Dropping it ends it.
pub struct Subscription(Arc<Feed>);

impl Subscription {
    /// Waits until something has changed, then returns all changes since the last call, one per key. `None`
    /// when the component was closed. Cancel safe.
    ///
    /// # Errors
    /// [`FEED_CAPACITY`] keys changed unread; subscribe again and read anew.
    pub async fn next(&mut self) -> Option<Result<Vec<Change>, Error>> {
        loop {
            {
                let mut pending = self.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
                if pending.lagged {
                    pending.ended = true;
                    pending.lagged = false;
                    let what = format!(
                        "more than {FEED_CAPACITY} keys changed unread; subscribe again and read them anew"
                    );
                    return Some(Err(Fault::new(Kind::Full, what).into()));
                }
                if !pending.changes.is_empty() {
                    let changes = std::mem::take(&mut pending.changes);
                    return Some(Ok(changes.into_iter().map(|(key, item)| Change { key, item }).collect()));
                }
                if pending.ended {
                    return None;
                }
            }
            self.0.arrived.notified().await;
        }
    }
}

/// What the feeds of a store follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Some feed follows every key.
    pub all: bool,
    /// Those that feeds follow by name.
    pub keys: BTreeSet<String>,
}

impl Followed {
    /// Whether a change of this key is told to anybody.
    pub fn has(&self, key: &str) -> bool {
        self.all || self.keys.contains(key)
    }
}

/// The feeds of one store: what a driver tells its changes to.
#[derive(Default)]
pub struct Feeds(Mutex<Vec<Weak<Feed>>>);

impl Feeds {
    /// A new feed of `keys` (none: all).
    pub fn subscribe(&self, keys: &[String]) -> Subscription {
        let feed = Arc::new(Feed {
            keys: keys.iter().cloned().collect(),
            pending: Mutex::default(),
            arrived: Notify::new(),
        });
        let mut feeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.retain(|feed| feed.strong_count() > 0);
        feeds.push(Arc::downgrade(&feed));
        Subscription(feed)
    }

    /// Whether anybody follows.
    pub fn is_empty(&self) -> bool {
        let mut feeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.retain(|feed| feed.strong_count() > 0);
        feeds.is_empty()
    }

    /// What they follow now.
    pub fn followed(&self) -> Followed {
        let feeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut followed = Followed::default();
        for feed in feeds.iter().filter_map(Weak::upgrade) {
            followed.all |= feed.keys.is_empty();
            followed.keys.extend(feed.keys.iter().cloned());
        }
        followed
    }

    /// Whether any of them follows this key.
    pub fn follow(&self, key: &str) -> bool {
        let feeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.iter().filter_map(Weak::upgrade).any(|feed| feed.keys.is_empty() || feed.keys.contains(key))
    }

    /// Tells every feed that wants it.
    pub fn tell(&self, change: &Change) {
        let feeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for feed in feeds.iter().filter_map(Weak::upgrade) {
            feed.offer(change);
        }
    }

    /// Ends every feed, after what it has yet to read.
    pub fn end(&self) {
        let feeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for feed in feeds.iter().filter_map(Weak::upgrade) {
            feed.pending.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
            feed.arrived.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, value: &str) -> Change {
        Change { key: key.into(), item: Some(Item { value: value.into(), ..Item::default() }) }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_the_latest_of_each_key() {
        let feeds = Feeds::default();
        let mut feed = feeds.subscribe(&["a".into(), "b".into()]);
        for value in ["1", "2", "3"] {
            feeds.tell(&change("a", value));
            feeds.tell(&change("other", value));
        }
        feeds.tell(&Change { key: "b".into(), item: None });
        feeds.end();
        let seen = feed.next().await.expect("open").expect("no lag");
        assert_eq!(seen, [change("a", "3"), Change { key: "b".into(), item: None }]);
        assert!(feed.next().await.is_none());
        drop(feed);
        assert!(feeds.is_empty());
    }

    #[test]
    fn feeds_tell_what_they_follow() {
        let feeds = Feeds::default();
        assert_eq!(feeds.followed(), Followed::default());
        let some = feeds.subscribe(&["a".into(), "b".into()]);
        let other = feeds.subscribe(&["b".into(), "c".into()]);
        let keys = ["a", "b", "c"].map(str::to_owned).into();
        assert_eq!(feeds.followed(), Followed { all: false, keys });
        assert!(feeds.follow("c") && !feeds.follow("d"));
        let all = feeds.subscribe(&[]);
        assert!(feeds.followed().has("d") && feeds.follow("d"));
        drop((some, other, all));
        assert!(!feeds.follow("a") && !feeds.followed().has("a"));
    }

    #[tokio::test]
    async fn a_feed_that_lags_too_far_says_so_and_ends() {
        let feeds = Feeds::default();
        let mut feed = feeds.subscribe(&[]);
        for key in 0..=FEED_CAPACITY {
            feeds.tell(&change(&key.to_string(), "x"));
        }
        assert!(feed.next().await.expect("a word").is_err());
        assert!(feed.next().await.is_none());
    }
}
