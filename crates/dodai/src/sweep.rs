//! Keeps the store of uploaded artefacts from filling up: what no app and none of its kept revisions names is
//! removed, with the code compiled from it. What was uploaded lately stays, for its document may be on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dodai_api::{Document, DocumentKey};
use dodai_control::control::{Changed, Control};
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
    let mut named = Named::default();
    for (key, document) in control.view().documents.iter() {
        named.put(key, artifact(document));
    }
    let mut forgot = true;
    loop {
        if forgot {
            prune(&modules, named.all()).await;
        }
        forgot = tokio::select! {
            // All only wait.
            changed = changes.next() => match changed {
                // Each is taken in, whatever the others did.
                Some(changed) => changed.iter().filter(|one| named.take(one)).count() > 0,
                None => return,
            },
            // What was too new at the last look, or ran still.
            () = tokio::time::sleep(SPARE) => true,
            () = tasks.closing() => return,
        };
    }
}

/// The artefact that a document names.
fn artifact(document: &Document) -> Option<Digest> {
    if let Document::Revision(revision) = document {
        return revision.spec.digest.as_deref().map(Digest::new);
    }
    let Document::App(app) = document else { return None };
    let artifact = app.spec.module.as_ref().map(|module| module.artifact.as_str());
    artifact.filter(|name| name.starts_with("sha256:")).map(Digest::new)
}

/// Every artefact that a document names.
#[derive(Default)]
struct Named(BTreeMap<DocumentKey, Digest>);

impl Named {
    /// A document names this from now on; whether it named another.
    fn put(&mut self, key: &DocumentKey, artifact: Option<Digest>) -> bool {
        let before = match artifact.clone() {
            Some(artifact) => self.0.insert(key.clone(), artifact),
            None => self.0.remove(key),
        };
        before.is_some() && before != artifact
    }

    fn take(&mut self, changed: &Changed) -> bool {
        match changed {
            Changed::Put(document) => self.put(&document.key(), artifact(document)),
            Changed::Deleted(key) => self.put(key, None),
        }
    }

    fn all(&self) -> BTreeSet<Digest> {
        self.0.values().cloned().collect()
    }
}

async fn prune(modules: &Arc<Host>, keep: BTreeSet<Digest>) {
    let modules = modules.clone();
    match tokio::task::spawn_blocking(move || modules.prune(&keep, SPARE)).await {
        Ok(Ok(0)) => {}
        Ok(Ok(files)) => tracing::info!(files, "artefacts and code that no document names were removed"),
        Ok(Err(error)) => tracing::warn!(%error, "artefacts that no document names could not be removed"),
        Err(error) => tracing::error!(%error, "removing artefacts ended early"),
    }
}
