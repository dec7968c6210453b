//! What a client may make us do for nothing: so much at once, and so much more with time.

use tokio::time::Instant;

/// A count that goes down with use and up with time.
pub struct Budget {
    left: u32,
    most: u32,
    per_second: u32,
    since: Option<Instant>,
}

impl Budget {
    /// A full budget of `most`, which grows by `per_second`.
    pub fn new(most: u32, per_second: u32) -> Budget {
        Budget { left: most, most, per_second, since: None }
    }

    /// Takes one. No means that the budget is used up.
    pub fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        if self.left == 0 {
            let seconds = now.saturating_duration_since(since).as_secs();
            if seconds == 0 {
                return false;
            }
            let more = seconds.saturating_mul(u64::from(self.per_second)).min(u64::from(self.most));
            self.left = more as u32;
            self.since = Some(now);
        }
        self.left = self.left.saturating_sub(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_budget_is_used_up_and_grows_again() {
        let start = Instant::now();
        let mut budget = Budget::new(3, 2);
        let taken = |budget: &mut Budget, at: u64| {
            (0..5).filter(|_| budget.take(start + Duration::from_secs(at))).count()
        };
        assert_eq!(taken(&mut budget, 0), 3);
        assert_eq!(taken(&mut budget, 1), 2);
        assert_eq!(taken(&mut budget, 1), 0);
        assert_eq!(taken(&mut budget, 100), 3);
    }
}
