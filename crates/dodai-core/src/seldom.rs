//! Warnings that could fill a log: told at most once in a while about one thing, with how many there were.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long nothing more is told about a thing.
const PAUSE: Duration = Duration::from_secs(10);
/// Things that are remembered; when there are more, those that were told longest ago are told anew.
const MAX_SUBJECTS: usize = 1024;

/// Says when a warning is to be told again.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<BTreeMap<String, Told>>);

#[derive(Debug)]
struct Told {
    at: Instant,
    since: u64,
}

impl Seldom {
    /// Counts a warning about `subject` at `now`. `Some` if it is to be told: then how many there were since the
    /// last that was, this one among them.
    pub fn count(&self, subject: &str, now: Instant) -> Option<u64> {
        let mut subjects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = subjects.get_mut(subject) {
            told.since += 1;
            if now.saturating_duration_since(told.at) < PAUSE {
                return None;
            }
            told.at = now;
            return Some(std::mem::take(&mut told.since));
        }
        if subjects.len() >= MAX_SUBJECTS {
            subjects.retain(|_, told| now.saturating_duration_since(told.at) < PAUSE);
        }
        if subjects.len() < MAX_SUBJECTS {
            subjects.insert(subject.to_owned(), Told { at: now, since: 0 });
        }
        Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_comes_once_in_ten_seconds_with_its_count() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let check = |subject: &str, ms: u64, expect: Option<u64>| {
            assert_eq!(seldom.count(subject, start + Duration::from_millis(ms)), expect, "{subject} at {ms}");
        };
        check("web", 0, Some(1));
        check("web", 100, None);
        check("api", 100, Some(1));
        check("web", 9_999, None);
        check("web", 10_000, Some(3));
        check("web", 10_001, None);
        check("web", 40_000, Some(2));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        for number in 0..2 * MAX_SUBJECTS {
            assert_eq!(seldom.count(&number.to_string(), start), Some(1));
        }
        assert_eq!(seldom.0.lock().expect("no panic").len(), MAX_SUBJECTS);
        assert_eq!(seldom.count("later", start + PAUSE), Some(1));
        assert_eq!(seldom.0.lock().expect("no panic").len(), 1);
    }
}
