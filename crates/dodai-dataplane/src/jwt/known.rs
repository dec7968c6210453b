//! Tokens that were proved lately: a client's next call costs a hash in place of a signature.
//!
//! Each thread has its own, so nothing is locked. A token is known by a keyed hash of it, of the issuer as one rule has
//! it, and of the keys that proved it: other keys, or another rule, know nothing. Always holds: what is known is bounded,
//! and known only while the token counts, also where the wall clock is set back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::rand::SystemRandom;

use super::Claims;

/// Tokens that are known at most: so many young ones, and as many that were young before.
const MOST: usize = 256;
/// Larger ones are proved each time.
const LARGEST: usize = 8 << 10;

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known::new());
}

/// What a token is known by.
pub type Mark = [u8; 32];

struct Known {
    /// None if there was no randomness for one; then nothing is known.
    key: Option<hmac::Key>,
    young: HashMap<Mark, Entry>,
    old: HashMap<Mark, Entry>,
}

#[derive(Clone)]
struct Entry {
    /// In seconds since the epoch.
    counts: Range<f64>,
    claims: Arc<Claims>,
}

/// What `token` is known by, if it can be: to this `issuer` with these keys.
pub fn mark(issuer: u64, keys: u64, token: &str) -> Option<Mark> {
    if token.len() > LARGEST {
        return None;
    }
    KNOWN.with_borrow(|known| {
        let mut with = hmac::Context::with_key(known.key.as_ref()?);
        with.update(&issuer.to_be_bytes());
        with.update(&keys.to_be_bytes());
        with.update(token.as_bytes());
        with.sign().as_ref().try_into().ok()
    })
}

/// What a token claims that is known `now`, in seconds since the epoch.
pub fn recall(mark: &Mark, now: f64) -> Option<Arc<Claims>> {
    KNOWN.with_borrow_mut(|known| known.recall(mark, now))
}

/// A token was proved that `counts` in that time, in seconds since the epoch.
pub fn remember(mark: Mark, counts: Range<f64>, claims: Arc<Claims>) {
    KNOWN.with_borrow_mut(|known| known.remember(mark, Entry { counts, claims }));
}

impl Known {
    fn new() -> Known {
        let key = hmac::Key::generate(HMAC_SHA256, &SystemRandom::new()).ok();
        Known { key, young: HashMap::new(), old: HashMap::new() }
    }

    fn recall(&mut self, mark: &Mark, now: f64) -> Option<Arc<Claims>> {
        if let Some(entry) = self.young.get(mark) {
            return entry.counts.contains(&now).then(|| entry.claims.clone());
        }
        let entry = self.old.remove(mark).filter(|entry| entry.counts.contains(&now))?;
        self.remember(*mark, entry.clone());
        Some(entry.claims)
    }

    fn remember(&mut self, mark: Mark, entry: Entry) {
        if self.young.len() >= MOST {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(mark, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(until: f64) -> Entry {
        Entry { counts: 0.0..until, claims: Arc::default() }
    }

    #[test]
    fn what_is_known_is_bounded_and_what_is_used_stays() {
        let mut known = Known::new();
        let mark = |at: u32| {
            let mut mark = [0; 32];
            mark[..4].copy_from_slice(&at.to_be_bytes());
            mark
        };
        for at in 0..10 * MOST as u32 {
            known.remember(mark(at), entry(100.0));
            assert!(known.recall(&mark(0), 1.0).is_some(), "{at}");
            assert!(known.young.len() <= MOST && known.old.len() <= MOST);
        }
        assert!(known.recall(&mark(1), 1.0).is_none());
    }

    #[test]
    fn nothing_is_known_beyond_its_time() {
        let mut known = Known::new();
        known.remember([1; 32], entry(100.0));
        assert!(known.recall(&[1; 32], 99.0).is_some());
        assert!(known.recall(&[1; 32], 100.0).is_none());
    }

    #[test]
    fn issuer_keys_and_every_byte_count() {
        let marks = [mark(1, 1, "a.b.c"), mark(2, 1, "a.b.c"), mark(1, 2, "a.b.c"), mark(1, 1, "a.b.d")];
        for (at, one) in marks.iter().enumerate() {
            assert!(one.is_some() && !marks[..at].contains(one), "{at}");
        }
        assert_eq!(mark(1, 1, "a.b.c"), marks[0]);
        assert_eq!(mark(1, 1, &"a".repeat(LARGEST + 1)), None);
    }
}
