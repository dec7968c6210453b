//! `execute`: carries out the steps of a plan, each as one transaction bound to what was read.
//!
//! Idempotent: a step that was done already finds its keys changed and is not held, which ends the execution
//! and asks for a new plan.

use std::collections::HashSet;

use bytes::Bytes;
use dodai_api::Document;
use dodai_store::{Cause, Revision, Store, Txn};

use crate::documents::{encode, store_key, unchanged};
use crate::error::Result;
use crate::plan::Step;
use crate::records::{COUNTER, app_key, bytes, instance_key};
use crate::shared_map::SharedMap;

/// The name of the reconciler in the change log.
pub(crate) const ACTOR: &str = "control:release";

/// How many steps go to the store at once.
const MOST_TOGETHER: usize = 64;

/// How far an execution got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// How many steps were done before the first that was not.
    pub done: usize,
    /// The store's revision after the last of them.
    pub revision: Revision,
    /// Whether somebody else wrote in between; then the rest needs a new plan.
    pub raced: bool,
}

/// The keys a step writes, with their new content; `None` removes.
pub(crate) fn writes(step: &Step) -> Vec<(String, Option<Bytes>)> {
    match step {
        Step::Target { app, record, revision } => {
            let mut writes = vec![(app_key(app), Some(bytes(record)))];
            if let Some(revision) = revision {
                let document = Document::Revision(revision.clone());
                writes.push((store_key(&document.key()), Some(encode(&document))));
            }
            writes
        }
        Step::Serve { app, record } => vec![(app_key(app), Some(bytes(record)))],
        Step::Place { instance, next } => {
            vec![(COUNTER.to_owned(), Some(bytes(next))), (instance_key(&instance.id), Some(bytes(instance)))]
        }
        Step::Drain { instance, .. } | Step::Finish { instance } => {
            vec![(instance_key(&instance.id), Some(bytes(instance)))]
        }
        Step::Remove { instance, .. } => vec![(instance_key(instance), None)],
        Step::ForgetApp { app } => vec![(app_key(app), None)],
        Step::ForgetRevision { key } => vec![(store_key(key), None)],
    }
}

/// A step in words: an object, a word for machines, a sentence for people.
pub(crate) fn words(step: &Step) -> (String, &'static str, String) {
    match step {
        Step::Target { app, record, .. } => {
            (app.to_string(), "NewRevision", format!("revision {} is rolled out", record.current))
        }
        Step::Serve { app, record } => {
            (app.to_string(), "RevisionServes", format!("revision {} is ready and serves", record.current))
        }
        Step::Place { instance, .. } => {
            let text = format!("instance {} is placed on base {}", instance.id, instance.base);
            (instance.app.to_string(), "InstancePlaced", text)
        }
        Step::Drain { instance, why } => {
            let text = format!("instance {} is drained: {why}", instance.id);
            (instance.app.to_string(), "InstanceDrains", text)
        }
        Step::Finish { instance } => {
            (instance.app.to_string(), "Succeeded", format!("instance {} ended well", instance.id))
        }
        Step::Remove { instance, why } => {
            (instance.to_string(), "InstanceRemoved", format!("instance {instance} is removed: {why}"))
        }
        Step::ForgetApp { app } => (app.to_string(), "AppRemoved", format!("app {app} is gone")),
        Step::ForgetRevision { key } => {
            (key.to_string(), "RevisionDropped", "it is old and unused".to_owned())
        }
    }
}

/// Carries out steps in order. `known` holds the revision at which each key was read, and follows along.
///
/// Steps that follow one another and write different keys go to the store together, which takes them in order and syncs
/// once for all: one after the other, each would wait for the disk.
///
/// # Errors
/// What the store says; the steps before were done.
pub async fn execute(
    store: &dyn Store,
    steps: &[Step],
    known: &mut SharedMap<String, u64>,
) -> Result<Executed> {
    let mut executed = Executed { done: 0, revision: Revision::ZERO, raced: false };
    let mut rest = steps;
    while !rest.is_empty() {
        let (wave, later) = rest.split_at(together(rest));
        rest = later;
        let writes: Vec<_> = wave.iter().map(writes).collect();
        let txns = wave.iter().zip(&writes).map(|(step, writes)| store.txn(txn(step, writes, known)));
        let outcomes = futures_util::future::join_all(txns).await;
        for (outcome, writes) in outcomes.into_iter().zip(writes) {
            let outcome = outcome?;
            if !outcome.held {
                executed.raced = true;
                return Ok(executed);
            }
            for (key, value) in writes {
                match value {
                    Some(_) => known.insert(key, outcome.revision.0),
                    None => known.remove(&key),
                };
            }
            executed.done += 1;
            executed.revision = outcome.revision;
        }
    }
    Ok(executed)
}

/// How many of the first steps write different keys, and may go to the store at once.
fn together(steps: &[Step]) -> usize {
    let mut keys = HashSet::new();
    let fits = |step: &&Step| writes(step).into_iter().all(|(key, _)| keys.insert(key));
    steps.iter().take(MOST_TOGETHER).take_while(fits).count().max(1)
}

fn txn(step: &Step, writes: &[(String, Option<Bytes>)], known: &SharedMap<String, u64>) -> Txn {
    let (object, _, text) = words(step);
    let mut txn = Txn::new(Cause::new(ACTOR, format!("{object}: {text}")));
    for (key, value) in writes {
        txn = txn.when(key, unchanged(known.get(key).copied()));
        txn = match value {
            Some(value) => txn.put(key, value.clone()),
            None => txn.delete(key),
        };
    }
    txn
}
