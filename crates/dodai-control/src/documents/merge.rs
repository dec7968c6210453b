//! What becomes of a stored document when somebody writes it: bookkeeping and field ownership. Pure.
//!
//! The owner of the whole document stands in `fieldOwners` under the empty path. `deploy` owns the artefact
//! of an app from the moment it set it until the file's own template says something new; what the file said
//! last is remembered as the id of the revision that it would make.

use dodai_api::{Document, revision_id};
use serde_json::Value;

/// Notes that control keeps on documents begin with this.
pub(crate) const INTERNAL: &str = "dodai.dev/";
/// The digest of the artefact of an app's template.
pub(crate) const ARTIFACT_DIGEST: &str = "dodai.dev/artifact-digest";
/// The revision that the file's template would make.
pub(crate) const FILE_REVISION: &str = "dodai.dev/file-revision";
/// When somebody last wanted the app started anew.
pub(crate) const RESTARTED: &str = "dodai.dev/restarted-at";
/// When `deploy` set the artefact that the app has.
pub(crate) const DEPLOYED: &str = "dodai.dev/deployed-at";
/// Which set of files a document was written from.
pub(crate) const SCOPE: &str = "dodai.dev/scope";
/// The path of the artefact in `fieldOwners`.
pub(crate) const ARTIFACT_PATH: &str = "spec.module.artifact";

/// All that a revision fixes, in `fieldOwners`: somebody went back to one.
pub(crate) const TEMPLATE_PATH: &str = "spec";

/// Who writes a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldOwner {
    /// A project's folder, kept in step by `dodai up` and `dodai apply`.
    File,
    /// `dodai deploy`.
    Deploy,
    /// The command line.
    Cli,
    /// The console.
    Console,
    /// Control itself.
    Control,
}

impl FieldOwner {
    /// The word in `metadata.fieldOwners`.
    pub fn as_str(self) -> &'static str {
        match self {
            FieldOwner::File => "file",
            FieldOwner::Deploy => "deploy",
            FieldOwner::Cli => "cli",
            FieldOwner::Console => "console",
            FieldOwner::Control => "control",
        }
    }
}

/// What a writer brings beside the document.
pub(crate) struct Claim<'a> {
    pub owner: FieldOwner,
    pub scope: Option<&'a str>,
    /// The digest of the artefact that the document names.
    pub digest: Option<&'a str>,
    /// RFC 3339.
    pub now: &'a str,
    /// For a document that is new.
    pub uid: &'a str,
}

/// The document to store, or `None` if nothing would change.
pub(crate) fn merge(existing: Option<&Document>, wanted: &Document, claim: &Claim<'_>) -> Option<Document> {
    let mut next = wanted.clone();
    next.clear_status();
    let old = existing.map(Document::metadata);
    let metadata = next.metadata_mut();
    metadata.annotations.retain(|key, _| !key.starts_with(INTERNAL));
    metadata.field_owners = old.map(|old| old.field_owners.clone()).unwrap_or_default();
    metadata.field_owners.insert(String::new(), claim.owner.as_str().to_owned());
    metadata.revision = None;
    metadata.owner_app = old.and_then(|old| old.owner_app.clone());
    // A write that names no set of files leaves the document in the one it came from, if the owner stays.
    let stays = old.filter(|old| old.field_owners.get("").is_some_and(|owner| owner == claim.owner.as_str()));
    let kept = stays.and_then(|old| old.annotations.get(SCOPE)).map(String::as_str);
    if let Some(scope) = claim.scope.or(kept) {
        metadata.annotations.insert(SCOPE.to_owned(), scope.to_owned());
    }
    own_artifact(existing, &mut next, claim);
    let metadata = next.metadata_mut();
    match old {
        Some(old) => {
            metadata.uid = old.uid.clone();
            metadata.creation_timestamp = old.creation_timestamp.clone();
            metadata.generation = old.generation;
        }
        None => {
            metadata.uid = Some(claim.uid.to_owned());
            metadata.creation_timestamp = Some(claim.now.to_owned());
            metadata.generation = Some(1);
        }
    }
    let Some(existing) = existing else { return Some(next) };
    if wants_more(existing, &next) {
        let metadata = next.metadata_mut();
        metadata.generation = Some(metadata.generation.unwrap_or(0) + 1);
        return Some(next);
    }
    let (old, new) = (existing.metadata(), next.metadata());
    let same = old.labels == new.labels
        && old.annotations == new.annotations
        && old.field_owners == new.field_owners;
    (!same).then_some(next)
}

/// Whether what is wanted differs, not only the notes about it.
fn wants_more(old: &Document, new: &Document) -> bool {
    let digest = |document: &Document| document.metadata().annotations.get(ARTIFACT_DIGEST).cloned();
    content(old) != content(new) || digest(old) != digest(new)
}

/// Everything but metadata and status: dapr.io documents carry `scopes` and `auth` beside their spec.
fn content(document: &Document) -> Value {
    let mut value = document.to_value();
    if let Value::Object(map) = &mut value {
        map.remove("metadata");
        map.remove("status");
    }
    value
}

/// When the artefact was deployed that `next` takes away again; empty if nobody wrote that down. `None` if it takes
/// none away.
pub(crate) fn undeploys<'a>(existing: &'a Document, next: &Document) -> Option<&'a str> {
    let (old, new) = (existing.metadata(), next.metadata());
    let deployed =
        old.field_owners.contains_key(ARTIFACT_PATH) && !new.field_owners.contains_key(ARTIFACT_PATH);
    let other = old.annotations.get(ARTIFACT_DIGEST) != new.annotations.get(ARTIFACT_DIGEST);
    (deployed && other).then(|| old.annotations.get(DEPLOYED).map_or("", String::as_str))
}

fn own_artifact(existing: Option<&Document>, next: &mut Document, claim: &Claim<'_>) {
    let Document::App(app) = next else { return };
    let mut digest = claim.digest.map(str::to_owned);
    let old = existing.map(Document::metadata);
    let note = |key: &str| old.and_then(|old| old.annotations.get(key)).cloned();
    let deployed = old.and_then(|old| old.field_owners.get(ARTIFACT_PATH)).is_some();
    let old_module = match existing {
        Some(Document::App(old)) => old.spec.module.as_ref(),
        _ => None,
    };
    let mut said = note(FILE_REVISION);
    let mut keep = deployed;
    // Whether what somebody went back to is kept.
    let mut stays = claim.owner == FieldOwner::Deploy;
    if claim.owner == FieldOwner::File {
        let says = revision_id(&app.spec.template(), claim.digest).to_string();
        let unchanged = said.as_ref() == Some(&says);
        keep = deployed && unchanged;
        stays = unchanged;
        said = Some(says);
        let back = old.is_some_and(|old| old.field_owners.contains_key(TEMPLATE_PATH));
        if let (true, true, Some(Document::App(old))) = (back, unchanged, existing) {
            app.spec.set_template(old.spec.template());
            digest = note(ARTIFACT_DIGEST);
        } else if let (true, Some(module), Some(old)) = (keep, &mut app.spec.module, old_module) {
            module.artifact.clone_from(&old.artifact);
            digest = note(ARTIFACT_DIGEST);
        }
    } else if claim.owner != FieldOwner::Deploy {
        let named = |module: Option<&dodai_api::Module>| module.map(|module| module.artifact.clone());
        keep = deployed && named(app.spec.module.as_ref()) == named(old_module);
        // Whoever writes another part of the document has nothing against what somebody went back to.
        stays = matches!(existing, Some(Document::App(old)) if revision_id(&app.spec.template(), claim.digest)
            == revision_id(&old.spec.template(), note(ARTIFACT_DIGEST).as_deref()));
    }
    if claim.owner == FieldOwner::Deploy {
        app.metadata.field_owners.insert(ARTIFACT_PATH.to_owned(), claim.owner.as_str().to_owned());
    } else if !keep {
        app.metadata.field_owners.remove(ARTIFACT_PATH);
    }
    if !stays {
        app.metadata.field_owners.remove(TEMPLATE_PATH);
    }
    let at = if claim.owner == FieldOwner::Deploy && !(deployed && digest == note(ARTIFACT_DIGEST)) {
        Some(claim.now.to_owned())
    } else {
        note(DEPLOYED).filter(|_| keep)
    };
    let notes =
        [(ARTIFACT_DIGEST, digest), (FILE_REVISION, said), (RESTARTED, note(RESTARTED)), (DEPLOYED, at)];
    let notes = notes.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    app.metadata.annotations.extend(notes);
}
