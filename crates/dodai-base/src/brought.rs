//! Whether the server has brought what it keeps for the configuration stores that this base has open.
//!
//! A store is opened when the first instance that uses it is placed here, and the server writes the values into it
//! that were set before. Who reads one for an environment, which stays as it is, waits for that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How long to wait for the server at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// What has been brought. Cheap to clone.
#[derive(Clone)]
pub struct Brought(Arc<watch::Sender<State>>);

struct State {
    /// Whether there may be a server that brings something.
    expects: bool,
    /// The stores, `namespace/name`, that have everything.
    stores: BTreeSet<String>,
}

impl Default for Brought {
    fn default() -> Brought {
        Brought(Arc::new(watch::Sender::new(State { expects: true, stores: BTreeSet::new() })))
    }
}

impl Brought {
    /// The server is there, or is not. What it brought before may be out of date when it comes back.
    pub fn connected(&self, yes: bool) {
        self.0.send_modify(|state| {
            state.expects = yes;
            state.stores.clear();
        });
    }

    /// Whether the server is there.
    pub fn is_connected(&self) -> bool {
        self.0.borrow().expects
    }

    /// These stores, `namespace/name`, have everything.
    pub fn mark(&self, stores: BTreeSet<String>) {
        self.0.send_modify(|state| state.stores = stores);
    }

    /// Forgets the stores that are not open any more.
    pub(crate) fn keep<T>(&self, open: &BTreeMap<String, T>) {
        self.0.send_if_modified(|state| {
            let before = state.stores.len();
            state.stores.retain(|store| open.contains_key(store));
            state.stores.len() != before
        });
    }

    /// Ends when a store has everything, when there is no server to wait for, or after 5 seconds. Cancel safe.
    pub async fn wait(&self, store: &str) {
        let mut state = self.0.subscribe();
        let there = state.wait_for(|state| !state.expects || state.stores.contains(store));
        if tokio::time::timeout(PATIENCE, there).await.is_err() {
            tracing::warn!(
                store,
                "the server did not bring its configuration values in time; going on with what is there"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn who_reads_waits_for_the_server_but_not_for_ever() {
        let brought = Brought::default();
        let waited = async |brought: &Brought| {
            let start = Instant::now();
            brought.wait("default/settings").await;
            start.elapsed()
        };
        assert_eq!(waited(&brought).await, PATIENCE, "nobody came");
        brought.mark(["default/settings".to_owned()].into());
        assert_eq!(waited(&brought).await, Duration::ZERO);
        brought.keep(&BTreeMap::from([("default/other", ())].map(|(name, ())| (name.to_owned(), ()))));
        assert_eq!(waited(&brought).await, PATIENCE, "it was closed in between");
        brought.connected(false);
        assert_eq!(waited(&brought).await, Duration::ZERO, "there is no server");
        brought.connected(true);
        let later = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            brought.mark(["default/settings".to_owned()].into());
        };
        let (took, ()) = tokio::join!(waited(&brought), later);
        assert_eq!(took, Duration::from_secs(1));
    }
}
