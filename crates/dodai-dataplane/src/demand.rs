//! Names that were called and that this base has not been told of: asked for, and waited for.
//!
//! A base among others is told only what its apps declare to call. The first call to another name asks control, which
//! answers with the service or with the word that nobody has that name. Bounded: so many names, the oldest forgotten
//! first; one wait per name and try, after which the call goes the way of an unknown name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use dodai_core::id::AppId;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::limits::{DEMAND_AGAIN, DEMAND_NAMES, DEMAND_WAIT};
use crate::worker::Shared;

/// Says to control which apps are wanted, all of them each time.
pub type Ask = Box<dyn Fn(BTreeSet<AppId>) + Send + Sync>;

/// What is asked for.
pub struct Demand {
    ask: Ask,
    /// Since when each name is asked for, this time.
    asked: Mutex<BTreeMap<AppId, Instant>>,
    /// Goes up with every table.
    tables: watch::Sender<u64>,
}

impl Demand {
    /// Asks by `ask`; what was `wanted` before is wanted still.
    pub fn new(wanted: BTreeSet<AppId>, ask: Ask) -> Demand {
        let now = Instant::now();
        let asked = wanted.into_iter().map(|app| (app, now)).collect();
        Demand { ask, asked: Mutex::new(asked), tables: watch::Sender::new(0) }
    }

    /// Asks for `app` if nobody did lately. Says whether it is worth waiting for the answer.
    pub fn is_worth_waiting(&self, app: &AppId) -> bool {
        let now = Instant::now();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = asked.get_mut(app) {
            let waited = now.saturating_duration_since(*since);
            if waited >= DEMAND_AGAIN {
                *since = now;
            }
            return waited < DEMAND_WAIT || waited >= DEMAND_AGAIN;
        }
        if asked.len() >= DEMAND_NAMES
            && let Some(oldest) = asked.iter().min_by_key(|(_, since)| **since).map(|(app, _)| app.clone())
        {
            asked.remove(&oldest);
        }
        asked.insert(app.clone(), now);
        let wanted = asked.keys().cloned().collect();
        drop(asked);
        (self.ask)(wanted);
        true
    }

    /// Waits until a table tells of `app`, one way or the other, or for as long as it is worth it. Cancel safe.
    pub async fn wait(&self, shared: &Shared, app: &AppId) {
        let since = self.asked.lock().unwrap_or_else(PoisonError::into_inner).get(app).copied();
        let until = since.unwrap_or_else(Instant::now) + DEMAND_WAIT;
        let mut tables = self.tables.subscribe();
        let told = async { while !shared.table.load().tells_of(app) && tables.changed().await.is_ok() {} };
        let _late = tokio::time::timeout_at(until, told).await;
    }

    /// There is a new table.
    pub fn told(&self) {
        self.tables.send_modify(|count| *count = count.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn of_more_names_than_are_kept_the_oldest_is_forgotten() {
        let (sender, asked) = watch::channel(BTreeSet::new());
        let demand = Demand::new(BTreeSet::new(), Box::new(move |wanted| drop(sender.send_replace(wanted))));
        let app = |at: usize| AppId::parse(&format!("shop/a{at}")).expect("valid");
        for at in 0..DEMAND_NAMES {
            assert!(demand.is_worth_waiting(&app(at)));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(asked.borrow().len(), DEMAND_NAMES);
        assert!(demand.is_worth_waiting(&app(DEMAND_NAMES)));
        let expect: BTreeSet<AppId> = (1..=DEMAND_NAMES).map(app).collect();
        assert_eq!(*asked.borrow(), expect);
    }
}
