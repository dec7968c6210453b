//! `apply`: checks documents with everything that is stored, writes what changes, prunes what is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dodai_api::{
    Beside, Code, Document, DocumentKey, Kind, Located, Problem, Severity, validate, validate_set,
};
use dodai_store::{Cause, Txn};

use super::merge::{ARTIFACT_DIGEST, ARTIFACT_PATH, Claim, FieldOwner, SCOPE, merge, undeploys};
use super::{ATTEMPTS, DocumentStore, Documents, busy, encode, is_in, store_key, unchanged};
use crate::error::{Error, Result};
use crate::mirror::View;
use crate::name;

/// The most documents in one transaction: what the store takes in operations.
const CHUNK: usize = 128;
/// The most bytes in one transaction, with room below the store's limit for one that was counted too low.
const CHUNK_BYTES: usize = 1280 << 10;

/// A set of documents to write.
#[derive(Clone, Debug)]
pub struct Apply<'a> {
    /// The documents, with their places where they come from files.
    pub documents: &'a [Located<Document>],
    /// Who writes: `user:ada`, `up`.
    pub actor: &'a str,
    /// Which writer owns what is written.
    pub owner: FieldOwner,
    /// Removes what this owner wrote earlier in this scope (the project's name) and does not write now.
    pub prune: Option<&'a str>,
    /// Only says what would happen.
    pub dry_run: bool,
}

/// What became of the documents of one [`Apply`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// One for each document, in order, then those pruned.
    pub written: Vec<Written>,
    /// Things that will not do what they seem to.
    pub warnings: Vec<Problem>,
}

/// What became of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The document.
    pub key: DocumentKey,
    /// What became of it.
    pub verdict: Verdict,
    /// Its generation now; `None` when it is gone.
    pub generation: Option<u64>,
}

/// What became of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is new.
    Created,
    /// It changed.
    Configured,
    /// It was like this already and was not written.
    Unchanged,
    /// It is gone.
    Pruned,
}

impl Verdict {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Created => "created",
            Verdict::Configured => "configured",
            Verdict::Unchanged => "unchanged",
            Verdict::Pruned => "pruned",
        }
    }
}

/// What stands in the store and stays beside what is applied.
struct Staying<'a> {
    documents: &'a Documents,
    gone: &'a BTreeSet<DocumentKey>,
}

impl Beside for Staying<'_> {
    fn get(&self, key: &DocumentKey) -> Option<&Document> {
        self.documents.get(key).filter(|_| !self.gone.contains(key)).map(Arc::as_ref)
    }

    fn of_kind(&self, kind: Kind) -> Box<dyn Iterator<Item = &Document> + '_> {
        let all = self.documents.of_kind(kind).map(Arc::as_ref);
        Box::new(all.filter(|document| self.gone.is_empty() || !self.gone.contains(&document.key())))
    }
}

/// One write: the new content, or `None` to remove; bound to what was read.
struct Write {
    key: DocumentKey,
    document: Option<Document>,
    read: Option<u64>,
}

impl DocumentStore {
    /// Writes a set of documents. All or nothing for up to 128 changed documents of 1.25 MiB together. More are
    /// written in several transactions, what is referred to before what refers to it, so that every state in
    /// between is valid; a warning says so.
    ///
    /// # Errors
    /// [`Error::Refused`] with every problem; then nothing was written.
    pub async fn apply(&self, apply: &Apply<'_>) -> Result<Applied> {
        let (digests, unstored) = self.digests(apply)?;
        let mut tried: Vec<(DocumentKey, Option<u64>)> = Vec::new();
        let mut contested = apply.documents.first().map(|document| document.value.key());
        for _ in 0..ATTEMPTS {
            let stored = self.mirror().now().await?;
            contested = tried
                .drain(..)
                .find(|(key, read)| revision(&stored, key) != *read)
                .map(|(key, _)| key)
                .or(contested);
            let applied: BTreeSet<DocumentKey> =
                apply.documents.iter().map(|document| document.value.key()).collect();
            let gone = pruned(apply, &stored.documents, &applied);
            let mut warnings = check(apply, &Staying { documents: &stored.documents, gone: &gone })?;
            warnings.extend(unstored.iter().cloned());
            warnings
                .extend(stored.unreadable.iter().filter_map(|(key, (_, why))| unreadable(apply, key, why)));
            warnings.extend(apply.documents.iter().filter(|_| self.remote).filter_map(unread));
            let (written, mut writes) = self.decide(apply, &stored, &digests, gone)?;
            let next: BTreeMap<&DocumentKey, &Document> =
                writes.iter().filter_map(|write| Some((&write.key, write.document.as_ref()?))).collect();
            warnings.extend(apply.documents.iter().filter_map(|located| put_back(located, &stored, &next)));
            writes.sort_by_key(|write| (write.document.is_none(), rank(write)));
            if writes.len() > CHUNK {
                warnings.push(in_parts(writes.len()));
            }
            tried.extend(writes.iter().map(|write| (write.key.clone(), write.read)));
            if apply.dry_run || self.write(apply, writes).await? {
                return Ok(Applied { written, warnings });
            }
        }
        Err(busy(&contested.map_or_else(|| "the set of documents".to_owned(), |key| key.to_string())))
    }

    /// The digests of the artefacts that the documents name. In a dry run a digest may be of what is not stored
    /// yet, since it is uploaded when it counts: that is a warning.
    fn digests(&self, apply: &Apply<'_>) -> Result<(BTreeMap<DocumentKey, String>, Vec<Problem>)> {
        let (mut digests, mut problems, mut unstored) = (BTreeMap::new(), Vec::new(), Vec::new());
        for document in apply.documents {
            let Document::App(app) = &document.value else { continue };
            let id = name::app_id(&app.metadata);
            let (path, found) = match (&app.spec.module, &app.spec.process) {
                (Some(module), _) => {
                    ("spec.module.artifact", self.artifacts.module(&id, &module.artifact).map(Some))
                }
                (None, Some(process)) => ("spec.process.command", self.artifacts.process(&id, process)),
                (None, None) => continue,
            };
            match found {
                Ok(Some(digest)) => {
                    digests.insert(document.value.key(), digest.to_string());
                }
                Ok(None) => {}
                Err(reason) if apply.dry_run && is_digest(app) => {
                    let digest = app.spec.module.as_ref().map(|module| module.artifact.clone());
                    digests.extend(digest.map(|digest| (document.value.key(), digest)));
                    let found = problem(document, Code::UnknownReference, path, reason);
                    unstored.push(Problem { severity: Severity::Warning, ..found });
                }
                Err(reason) => problems.push(problem(document, Code::UnknownReference, path, reason)),
            }
        }
        if problems.is_empty() { Ok((digests, unstored)) } else { Err(Error::Refused(problems)) }
    }

    fn decide(
        &self,
        apply: &Apply<'_>,
        stored: &View,
        digests: &BTreeMap<DocumentKey, String>,
        gone: BTreeSet<DocumentKey>,
    ) -> Result<(Vec<Written>, Vec<Write>)> {
        let (mut written, mut writes) = (Vec::new(), Vec::new());
        let now = self.now();
        for located in apply.documents {
            let (wanted, key) = (&located.value, located.value.key());
            let existing = stored.documents.get(&key).map(Arc::as_ref);
            let read = revision(stored, &key);
            if let Some(expected) = wanted.metadata().revision
                && read != Some(expected)
            {
                let found = read.map_or("it is gone".to_owned(), |read| format!("it is at revision {read}"));
                let detail = format!("expected revision {expected}, {found}");
                return Err(Error::Conflict { key: key.to_string(), detail });
            }
            let claim = Claim {
                owner: apply.owner,
                scope: apply.prune,
                digest: digests.get(&key).map(String::as_str),
                now: &now,
                uid: &uuid::Uuid::new_v4().to_string(),
            };
            let next = merge(existing, wanted, &claim);
            let verdict = match (&next, existing) {
                (None, _) => Verdict::Unchanged,
                (Some(_), None) => Verdict::Created,
                (Some(_), Some(_)) => Verdict::Configured,
            };
            let generation = next.as_ref().or(existing).and_then(|document| document.metadata().generation);
            written.push(Written { key: key.clone(), verdict, generation });
            if next.is_some() {
                writes.push(Write { key, document: next, read });
            }
        }
        for key in gone {
            let read = stored.documents.get(&key).and_then(|document| document.metadata().revision);
            written.push(Written { key: key.clone(), verdict: Verdict::Pruned, generation: None });
            writes.push(Write { key, document: None, read });
        }
        Ok((written, writes))
    }

    /// Whether everything was written; `false` asks to read again.
    async fn write(&self, apply: &Apply<'_>, writes: Vec<Write>) -> Result<bool> {
        let fresh = || Txn::new(Cause::new(apply.actor, format!("apply as {}", apply.owner.as_str())));
        let mut txn = fresh();
        for write in writes {
            let key = store_key(&write.key);
            let value = write.document.as_ref().map(encode);
            let size = value.as_ref().map_or(0, bytes::Bytes::len);
            let full = txn.then.len() >= CHUNK || txn.size_bytes() + size > CHUNK_BYTES;
            if full
                && !txn.then.is_empty()
                && !self.store().txn(std::mem::replace(&mut txn, fresh())).await?.held
            {
                return Ok(false);
            }
            txn = txn.when(&key, unchanged(write.read));
            txn = match value {
                Some(value) => txn.put(key, value),
                None => txn.delete(key),
            };
        }
        Ok(txn.then.is_empty() || self.store().txn(txn).await?.held)
    }
}

/// As of when a document is stored, also one that cannot be read.
fn revision(stored: &View, key: &DocumentKey) -> Option<u64> {
    let readable = stored.documents.get(key).and_then(|document| document.metadata().revision);
    readable.or_else(|| stored.unreadable.get(key).map(|(revision, _)| *revision))
}

/// A document that takes back what was deployed: it does what it says, and that may surprise.
fn put_back(
    located: &Located<Document>,
    stored: &View,
    next: &BTreeMap<&DocumentKey, &Document>,
) -> Option<Problem> {
    let key = located.value.key();
    let next = *next.get(&key)?;
    let time = undeploys(stored.documents.get(&key)?, next)?;
    let Document::App(app) = next else { return None };
    let artifact = &app.spec.module.as_ref()?.artifact;
    let digest = app.metadata.annotations.get(ARTIFACT_DIGEST).filter(|digest| *digest != artifact);
    let digest = digest.map(|digest| format!(", {digest}")).unwrap_or_default();
    let at = if time.is_empty() { String::new() } else { format!(" at {time}") };
    let text = format!(
        "this puts back the artefact of the document ({artifact}{digest}) in place of the one deployed{at}"
    );
    let found = problem(located, Code::Conflict, ARTIFACT_PATH, text);
    let remedy = Some("point `spec.module.artifact` at the new file to keep that".to_owned());
    Some(Problem { remedy, severity: Severity::Warning, ..found })
}

fn is_digest(app: &dodai_api::App) -> bool {
    app.spec.module.as_ref().is_some_and(|module| module.artifact.starts_with("sha256:"))
}

/// What others refer to comes first; of what goes, last.
fn rank(write: &Write) -> i8 {
    let rank = match write.key.kind {
        Kind::Namespace | Kind::Base => 0,
        Kind::Component | Kind::Configuration => 1,
        Kind::App => 2,
        Kind::Revision | Kind::Service | Kind::HttpEndpoint => 3,
        Kind::Gateway => 4,
        Kind::Route | Kind::Subscription | Kind::Resiliency => 5,
        Kind::Policy => 6,
    };
    if write.document.is_some() { rank } else { -rank }
}

fn in_parts(count: usize) -> Problem {
    let parts = count.div_ceil(CHUNK);
    let message =
        format!("{count} documents change: they are written in {parts} transactions or more, not in one");
    Problem {
        file: String::new(),
        document: 0,
        line: 0,
        column: 0,
        path: String::new(),
        message,
        remedy: Some(
            "if that is interrupted, apply again: what was written stays, the rest follows".to_owned(),
        ),
        code: Code::TooLarge,
        severity: Severity::Warning,
    }
}

/// What the owner wrote earlier in this scope and does not write now.
fn pruned(apply: &Apply<'_>, stored: &Documents, applied: &BTreeSet<DocumentKey>) -> BTreeSet<DocumentKey> {
    let Some(scope) = apply.prune else { return BTreeSet::new() };
    let own = |document: &Document| {
        let metadata = document.metadata();
        metadata.field_owners.get("").is_some_and(|owner| owner == apply.owner.as_str())
            && metadata.annotations.get(SCOPE).is_some_and(|found| found == scope)
    };
    let goes = |(key, document): &(&DocumentKey, &Arc<Document>)| own(document) && !applied.contains(*key);
    // A namespace stays while anything is in it.
    let used = |namespace: &DocumentKey| {
        let mut left = stored.iter().filter(|one| !goes(one)).map(|(key, _)| key);
        left.any(|key| is_in(key, namespace)) || applied.iter().any(|key| is_in(key, namespace))
    };
    let gone = stored.iter().filter(goes).map(|(key, _)| key);
    gone.filter(|key| key.kind != Kind::Namespace || !used(key)).cloned().collect()
}

/// Checks the documents by themselves and together with what will be beside them. Returns the warnings.
fn check(apply: &Apply<'_>, beside: &Staying<'_>) -> Result<Vec<Problem>> {
    let mut own = Vec::new();
    let mut found = Vec::new();
    for document in apply.documents {
        let mut document = document.clone();
        if document.file.is_empty() {
            // Problems of documents without a file are not told; the key names them as well as a file does.
            document.file = Arc::from(document.value.key().to_string());
        }
        if document.value.kind() == Kind::Revision && apply.owner != FieldOwner::Control {
            let text = "revisions are made by the server; change the app, or its `spec.traffic`".to_owned();
            found.push(problem(&document, Code::ReadOnly, "kind", text));
        }
        found.extend(validate(&document.value).into_iter().map(|problem| document.locate(problem)));
        own.push(document);
    }
    found.extend(validate_set(&own, beside));
    let (errors, warnings): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|problem| problem.severity == Severity::Error);
    if errors.is_empty() { Ok(warnings) } else { Err(Error::Refused(errors)) }
}

/// A stored document that is passed over, unless it is about to be overwritten.
fn unreadable(apply: &Apply<'_>, key: &DocumentKey, why: &str) -> Option<Problem> {
    let overwritten = apply.documents.iter().any(|document| document.value.key() == *key);
    let remedy = format!("apply it again, or remove it with `dodai delete {key}`");
    (!overwritten).then(|| Problem {
        file: key.to_string(),
        document: 0,
        line: 0,
        column: 0,
        path: String::new(),
        message: format!("it is passed over: {why}"),
        remedy: Some(remedy),
        code: Code::InvalidValue,
        severity: Severity::Warning,
    })
}

/// What a base that joins a server does not read of a document.
fn unread(document: &Located<Document>) -> Option<Problem> {
    let Document::Configuration(configuration) = &document.value else { return None };
    configuration.spec.tracing.as_ref()?;
    let text = "bases that join a server export what their environment says".to_owned();
    let remedy = "set `OTEL_EXPORTER_OTLP_ENDPOINT` where each base runs, and leave this out".to_owned();
    let found = problem(document, Code::NoEffect, "spec.tracing", text);
    Some(Problem { remedy: Some(remedy), severity: Severity::Warning, ..found })
}

fn problem(document: &Located<Document>, code: Code, path: &str, message: String) -> Problem {
    let file =
        if document.file.is_empty() { document.value.key().to_string() } else { document.file.to_string() };
    let (line, column) = document.place(path).unwrap_or_default();
    Problem {
        file,
        document: document.index,
        line,
        column,
        path: path.to_owned(),
        message,
        remedy: None,
        code,
        severity: Severity::Error,
    }
}
