//! The wall clock as a seam: durable drivers keep points in time that outlive the process, and their tests
//! must not wait for them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

/// Tells the wall-clock time. Cheap to clone.
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<watch::Sender<SystemTime>>>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Clock {
        Clock(None)
    }

    /// A clock that moves only by [`Clock::advance`]; clones move together.
    pub fn manual(start: SystemTime) -> Clock {
        Clock(Some(Arc::new(watch::Sender::new(start))))
    }

    /// The time now.
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            None => SystemTime::now(),
            Some(time) => *time.borrow(),
        }
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        let since = self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    /// Moves a manual clock forward and wakes those that sleep on it. The machine's clock stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Some(time) = &self.0 {
            time.send_modify(|now| *now += by);
        }
    }

    /// Waits until the clock has moved on by `wait`. Cancel safe.
    pub async fn sleep(&self, wait: Duration) {
        match &self.0 {
            None => tokio::time::sleep(wait).await,
            Some(time) => {
                let due = *time.borrow() + wait;
                let mut seen = time.subscribe();
                // The sender lives in `self`, so this ends only when the time has come.
                let _reached = seen.wait_for(|now| *now >= due).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_its_sleepers() {
        let clock = Clock::manual(SystemTime::UNIX_EPOCH);
        let other = clock.clone();
        let (_, ()) = tokio::join!(clock.sleep(Duration::from_millis(1_500)), async {
            other.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
            other.advance(Duration::from_secs(1));
        });
        assert_eq!(clock.now_ms(), 2_000);
    }
}
