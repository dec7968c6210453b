//! Reads the certificates of listeners again, so that a renewed one is served without a restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dodai_core::task::Tasks;

use crate::node::Parts;

/// How soon a changed file is seen.
const EVERY: Duration = Duration::from_secs(2);

/// Reloads certificates until `tasks` close. What cannot be used is told once; the last good one stays.
pub async fn tend(parts: Arc<Parts>, tasks: Tasks) {
    let mut told = BTreeMap::new();
    loop {
        tokio::select! {
            // Both only wait.
            () = tokio::time::sleep(EVERY) => {}
            () = tasks.closing() => return,
        }
        let bad = parts.plane.reload_certificates().await;
        let bad: BTreeMap<String, String> =
            bad.into_iter().map(|(listener, error)| (listener, error.to_string())).collect();
        for (listener, reason) in bad.iter().filter(|(listener, reason)| told.get(*listener) != Some(*reason))
        {
            tracing::warn!(listener, reason, "a certificate cannot be used; the last good one stays");
        }
        told = bad;
    }
}
