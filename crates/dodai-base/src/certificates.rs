//! Reads the certificates of listeners again, so that a renewed one is served without a restart, and says when one is about to
//! end.
//!
//! Files are looked at by the monotonic clock and told apart by what is in them, so a wall clock that jumps neither keeps a
//! renewed certificate back nor has one read again. What a certificate says of its time is held against the wall clock, of
//! which each word is said once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dodai_core::task::Tasks;
use dodai_transport::certificate::Facts;

use crate::dump::time;
use crate::node::Parts;

/// How soon a changed file is seen.
const EVERY: Duration = Duration::from_secs(2);
/// A certificate with less than this part of its life left should have been renewed: most are after two thirds.
const LAST_PART: u32 = 10;

/// Reloads certificates until `tasks` close. What cannot be used is told once, and what is about to end; the last good one
/// stays.
pub async fn tend(parts: Arc<Parts>, tasks: Tasks) {
    let mut told = BTreeMap::new();
    loop {
        tokio::select! {
            // Both only wait.
            () = tokio::time::sleep(EVERY) => {}
            () = tasks.closing() => return,
        }
        let bad = parts.plane.reload_certificates().await;
        let now = SystemTime::now();
        let ends = parts.plane.certificates().into_iter().filter_map(|(listener, served)| {
            let (file, ends) = (served.pair.chain.display(), ends(&served.leaf, now)?);
            Some(((listener, file.to_string()), format!("{file} {ends}")))
        });
        let bad = bad.into_iter().map(|(listener, error)| {
            ((listener, String::new()), format!("it cannot be used, the last good one stays: {error}"))
        });
        let now_told: BTreeMap<(String, String), String> = ends.chain(bad).collect();
        for ((listener, _), reason) in fresh(&told, &now_told) {
            tracing::warn!(listener, reason, "a certificate needs to be looked at");
        }
        told = now_told;
    }
}

/// What is to be told and was not yet.
fn fresh<'a, K: Ord>(
    told: &BTreeMap<K, String>,
    now: &'a BTreeMap<K, String>,
) -> impl Iterator<Item = (&'a K, &'a String)> {
    now.iter().filter(move |(of, reason)| told.get(of) != Some(*reason))
}

/// What is wrong with the time of a certificate. The words do not depend on how wrong it is.
fn ends(leaf: &Facts, now: SystemTime) -> Option<String> {
    let Facts { not_before, not_after, .. } = leaf;
    if now < *not_before {
        let from = time(*not_before);
        return Some(format!("is not valid before {from}: clients refuse it, or the clock here is wrong"));
    }
    let Ok(left) = not_after.duration_since(now) else {
        return Some(format!("expired at {}: clients refuse it; renew it", time(*not_after)));
    };
    let life = not_after.duration_since(*not_before).unwrap_or_default();
    (left < life / LAST_PART).then(|| format!("expires at {}; renew it", time(*not_after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_said_once_whatever_the_clock_does() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let leaf = Facts {
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            names: Vec::new(),
            not_before: at(1000),
            not_after: at(2000),
        };
        let mut told = BTreeMap::new();
        // The clock goes on, jumps ahead and comes back, is set back too far, and is right again.
        let said = [1500, 1950, 1951, 90_000, 91_000, 1952, 10, 20, 1500, 1900, 1901].map(|now| {
            let now: BTreeMap<&str, String> =
                ends(&leaf, at(now)).map(|ends| ("a", ends)).into_iter().collect();
            let said =
                fresh(&told, &now).map(|(_, said)| said.split(' ').next().unwrap_or_default().to_owned());
            let said: Vec<String> = said.collect();
            told = now;
            said.concat()
        });
        assert_eq!(said, ["", "expires", "", "expired", "", "expires", "is", "", "", "", "expires"]);
        assert!(
            ends(&leaf, at(10)).unwrap().contains("1970-01-01T00:16:40Z: clients refuse it, or the clock")
        );
    }
}
