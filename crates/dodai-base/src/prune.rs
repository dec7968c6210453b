//! Keeps the disk of a base that gets its artefacts from elsewhere from filling up: what its snapshot does not
//! name and nothing here runs is removed, for it can be fetched again. Where artefacts are uploaded to this
//! machine, whoever keeps the documents does this; only they know what is still needed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dodai_core::id::Digest;
use dodai_core::snapshot::{Shape, Snapshot};
use dodai_core::task::Tasks;
use tokio::sync::watch;

use crate::node::Parts;

/// How long after a change the disk is looked at, and how often while something to be removed still runs.
const LOOK: Duration = Duration::from_secs(1);

/// Prunes at the start and whenever the snapshot names fewer artefacts, until told to stop.
pub async fn tend(parts: Arc<Parts>, mut snapshots: watch::Receiver<Arc<Snapshot>>, tasks: Tasks) {
    if parts.config.artifacts.is_none() {
        return;
    }
    let mut known: Option<BTreeSet<Digest>> = None;
    // Something that has to go still ran at the last look.
    let mut again = false;
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        // Before the first snapshot nothing is known to be superfluous.
        if snapshot.version > 0 {
            let keep = artifacts(&snapshot);
            if again || known.is_none_or(|known| !known.is_subset(&keep)) {
                again = !prune(&parts, &keep).await;
            }
            known = Some(keep);
        }
        tokio::select! {
            // All only wait.
            changed = snapshots.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK), if again => {}
            () = tasks.closing() => return,
        }
    }
}

/// The artefacts that a snapshot names.
fn artifacts(snapshot: &Snapshot) -> BTreeSet<Digest> {
    let of = |shape: &Shape| match shape {
        Shape::Module(module) => Some(module.artifact.clone()),
        Shape::Process(_) => None,
    };
    snapshot.workloads().filter_map(|workload| of(&workload.shape)).collect()
}

/// Removes what can be removed. `false` if something that is not to be kept still runs.
async fn prune(parts: &Arc<Parts>, keep: &BTreeSet<Digest>) -> bool {
    let all = parts.modules.in_use().is_subset(keep);
    let (modules, wanted) = (parts.modules.clone(), keep.clone());
    match tokio::task::spawn_blocking(move || modules.prune(&wanted, Duration::ZERO)).await {
        Ok(Ok(0)) => {}
        Ok(Ok(files)) => tracing::info!(files, "artefacts and code that nothing needs were removed"),
        Ok(Err(error)) => tracing::warn!(%error, "artefacts that nothing needs could not be removed"),
        Err(error) => tracing::error!(%error, "removing artefacts ended early"),
    }
    all
}
