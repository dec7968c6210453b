//! Keeps the store of uploaded artefacts from filling up: what no app and none of its kept revisions names is
//! removed, with the code compiled from it. What was uploaded lately stays, for its document may be on the way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dodai_control::control::{Control, View};
use dodai_core::id::Digest;
use dodai_core::task::{Kind, Tasks};
use dodai_modules::Host;

/// How long an upload may be without a document that names it.
const SPARE: Duration = Duration::from_secs(3600);

/// Keeps `modules` to what the documents of `control` name, until `tasks` close.
pub fn spawn(control: &Control, modules: &Arc<Host>, tasks: &Tasks) {
    tasks.spawn(Kind::Loop, tend(control.clone(), modules.clone(), tasks.clone()));
}

/// Removes what nothing names at the start, whenever something was forgotten, and every so often.
async fn tend(control: Control, modules: Arc<Host>, tasks: Tasks) {
    let mut changes = control.watch();
    let mut known: Option<BTreeSet<Digest>> = None;
    loop {
        let keep = named(&control.view());
        if known.as_ref().is_none_or(|known| !known.is_subset(&keep)) {
            prune(&modules, &keep).await;
        }
        known = Some(keep);
        tokio::select! {
            // All only wait.
            changed = changes.next() => if changed.is_none() { return },
            // What was too new at the last look, or ran still.
            () = tokio::time::sleep(SPARE) => known = None,
            () = tasks.closing() => return,
        }
    }
}

/// Every artefact that a document names.
fn named(view: &View) -> BTreeSet<Digest> {
    let revisions = view.documents.revisions().filter_map(|one| one.spec.digest.as_deref());
    let apps = view.documents.apps().filter_map(|one| one.spec.module.as_ref());
    let apps = apps.map(|module| module.artifact.as_str()).filter(|name| name.starts_with("sha256:"));
    revisions.chain(apps).map(Digest::new).collect()
}

async fn prune(modules: &Arc<Host>, keep: &BTreeSet<Digest>) {
    let (modules, keep) = (modules.clone(), keep.clone());
    match tokio::task::spawn_blocking(move || modules.prune(&keep, SPARE)).await {
        Ok(Ok(0)) => {}
        Ok(Ok(files)) => tracing::info!(files, "artefacts and code that no document names were removed"),
        Ok(Err(error)) => tracing::warn!(%error, "artefacts that no document names could not be removed"),
        Err(error) => tracing::error!(%error, "removing artefacts ended early"),
    }
}
