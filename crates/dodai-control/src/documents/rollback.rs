//! `rollback`: an app made what an earlier revision of it was.
//!
//! The revision's template becomes the app's again, so that going back is a rollout like any other, and the revision
//! has the id that it had. It stays until the file's own template says something new, as what was deployed does.

use dodai_api::{App, Document, DocumentKey, Revision, Workload};
use dodai_core::id::{AppId, RevisionId};
use dodai_store::{Cause, Check, Ordering, Txn};

use super::merge::{ARTIFACT_DIGEST, ARTIFACT_PATH, DEPLOYED, FieldOwner, RESTARTED, TEMPLATE_PATH};
use super::restart::gives_latest_nothing;
use super::{ATTEMPTS, DocumentStore, busy, decode, encode, store_key};
use crate::error::{Error, Result};
use crate::plan::template_revision;
use crate::records::AppRecord;

impl DocumentStore {
    /// Makes an app what revision `to` of it was; without one, what served before. Returns the document as written, and
    /// the revision.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::NotRolledBack`] where there is no such revision, or what it ran is gone.
    pub async fn rollback(
        &self,
        app: &AppId,
        to: Option<&RevisionId>,
        actor: &str,
    ) -> Result<(Document, RevisionId)> {
        let key: DocumentKey = format!("App/{app}").parse().expect("an app's id names a document");
        let refused = |reason: String| Error::NotRolledBack { app: app.to_string(), reason };
        for _ in 0..ATTEMPTS {
            let view = self.mirror().now().await?;
            let found = self.store().get(&store_key(&key)).await?.kv;
            let kv = found.ok_or_else(|| Error::NotFound(key.clone()))?;
            let mut next = decode(&kv)?;
            let Document::App(document) = &mut next else { return Err(Error::NotFound(key)) };
            let newest = template_revision(document);
            let before = || served_before(view.records.app(app)?, newest.as_ref());
            let target = to.cloned().or_else(before).ok_or_else(|| {
                refused(
                    "no other revision of it has served; `dodai get revisions` lists those that are kept"
                        .to_owned(),
                )
            })?;
            let revision = view.documents.revision(app, &target).ok_or_else(|| {
                refused(format!(
                    "it has no revision {target}; `dodai get revisions` lists those that are kept"
                ))
            })?;
            if let Some(reason) = refusal(document, revision, &target) {
                return Err(refused(reason));
            }
            if let (Some(_), Some(digest)) = (&revision.spec.template.module, &revision.spec.digest) {
                self.artifacts.module(app, digest).map_err(refused)?;
            }
            become_again(document, revision, &self.now());
            let txn = Txn::new(Cause::new(actor, format!("roll {app} back to {target}")))
                .when(&kv.key, Check::ModRevision(Ordering::Equal, kv.mod_revision))
                .put(&kv.key, encode(&next));
            if self.store().txn(txn).await?.held {
                return Ok((next, target));
            }
        }
        Err(busy(&key.to_string()))
    }
}

/// The revision to go back to: the one that still serves if the newest does not, else the one before. The newest is
/// what the document says, which control may not have looked at yet.
fn served_before(record: &AppRecord, newest: Option<&RevisionId>) -> Option<RevisionId> {
    let other = |revision: &&RevisionId| Some(*revision) != newest;
    record.serving.as_ref().filter(other).or(record.before.as_ref().filter(other)).cloned()
}

/// Why an app cannot go back to a revision.
fn refusal(app: &App, revision: &Revision, target: &RevisionId) -> Option<String> {
    if template_revision(app).as_ref() == Some(target) {
        return Some(format!("it is what revision {target} says already"));
    }
    if gives_latest_nothing(app) {
        return Some(
            "its `spec.traffic` names revisions, so change the shares there; going back moves what `latest` means".to_owned(),
        );
    }
    let other = revision.spec.digest.as_ref() != app.metadata.annotations.get(ARTIFACT_DIGEST);
    let process = matches!(revision.spec.template.workload(), Some(Workload::Process(_)));
    (process && other).then(|| {
        "the program that it ran is not kept here; put that back where it was, and run `dodai restart`"
            .to_owned()
    })
}

/// Makes an app what a revision says.
fn become_again(app: &mut App, revision: &Revision, now: &str) {
    let mut template = revision.spec.template.clone();
    let metadata = &mut app.metadata;
    let restarted = revision.metadata.annotations.get(RESTARTED).cloned();
    let mut notes = vec![(RESTARTED, restarted), (ARTIFACT_DIGEST, revision.spec.digest.clone())];
    if let (Some(module), Some(digest)) = (&mut template.module, &revision.spec.digest) {
        module.artifact.clone_from(digest);
        module.build = None;
        metadata.field_owners.insert(ARTIFACT_PATH.to_owned(), FieldOwner::Deploy.as_str().to_owned());
        notes.push((DEPLOYED, Some(now.to_owned())));
    }
    for (key, value) in notes {
        match value {
            Some(value) => drop(metadata.annotations.insert(key.to_owned(), value)),
            None => drop(metadata.annotations.remove(key)),
        }
    }
    metadata.field_owners.insert(TEMPLATE_PATH.to_owned(), FieldOwner::Deploy.as_str().to_owned());
    metadata.generation = Some(metadata.generation.unwrap_or(0) + 1);
    app.spec.set_template(template);
}
