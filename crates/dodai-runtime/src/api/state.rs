//! State as apps use it: their keys behind their prefix, etags, expiry, and how patient one is with the store.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use dodai_capability::keys::Prefix;
use dodai_capability::metadata::{self, CONTENT_TYPE, TTL_EXPIRE_TIME, Ttl};
use dodai_capability::state::{
    Concurrency, Consistency, Delete, Error, Etag, Get, Item, Operation, Set, Store,
};
use dodai_capability::{Metadata, fault};
use http::StatusCode;
use serde::Deserialize;

use super::refusal::Refusal;
use super::{Api, patience};
use crate::components::{Block, Live};

/// Reads of one bulk request at once at most.
const MAX_PARALLELISM: usize = 256;

/// Words about one operation; empty ones leave it to the store.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Options {
    pub concurrency: Cow<'static, str>,
    pub consistency: Cow<'static, str>,
}

/// A value to write.
pub(super) struct Write {
    pub key: String,
    pub value: Bytes,
    pub etag: Option<String>,
    pub options: Options,
    pub metadata: Metadata,
}

/// A value to remove.
pub(super) struct Removal {
    pub key: String,
    pub etag: Option<String>,
    pub options: Options,
    pub metadata: Metadata,
}

/// One step of a transaction.
pub(super) enum Step {
    Upsert(Write),
    Delete(Removal),
}

/// A state store as one app sees it.
pub(super) struct Mine {
    _live: Arc<Live>,
    store: Arc<dyn Store>,
    prefix: Prefix,
    name: String,
}

type Told = fn(&Mine, &Error) -> Refusal;

impl Mine {
    fn key(&self, key: &str) -> Result<String, Refusal> {
        self.prefix.apply(key).map_err(|_| {
            let message = format!("input key/keyPrefix '{key}' can't contain '||'");
            Refusal::bad_request("ERR_MALFORMED_REQUEST", message)
                .with_violation(key)
                .with_resource("state", &self.name, "")
                .with_info("DAPR_STATE_ILLEGAL_KEY", &[])
        })
    }

    fn set(&self, write: Write, failed: Told) -> Result<Set, Refusal> {
        must_be_named(&write.key)?;
        let Write { key, value, etag, options, metadata } = write;
        let ttl = Ttl::from_metadata(&metadata).map_err(|fault| failed(self, &fault.into()))?;
        let (concurrency, consistency) = words(&options).map_err(|fault| failed(self, &fault.into()))?;
        Ok(Set {
            key: self.key(&key)?,
            value,
            etag: etag.map(Etag::from),
            concurrency,
            consistency,
            ttl,
            content_type: metadata::lookup(&metadata, CONTENT_TYPE).map(Arc::from),
            metadata,
        })
    }

    fn delete(&self, removal: Removal, failed: impl Fn(&Error) -> Refusal) -> Result<Delete, Refusal> {
        let Removal { key, etag, options, metadata } = removal;
        let (concurrency, consistency) = words(&options).map_err(|fault| failed(&fault.into()))?;
        Ok(Delete { key: self.key(&key)?, etag: etag.map(Etag::from), concurrency, consistency, metadata })
    }

    fn operation(&self, step: Step) -> Result<Operation, Refusal> {
        match step {
            Step::Upsert(write) => Ok(Operation::Upsert(self.set(write, not_transacted)?)),
            Step::Delete(removal) => {
                must_be_named(&removal.key)?;
                let delete = self.delete(removal, |error| not_transacted(self, error))?;
                Ok(Operation::Delete(delete))
            }
        }
    }
}

/// What the words mean.
pub(crate) fn words(options: &Options) -> Result<(Concurrency, Consistency), fault::Fault> {
    let unknown = |what: &str, text: &str, known: &str| {
        fault::Fault::new(
            fault::Kind::Invalid,
            format!("unrecognized {what} option '{text}'; give {known} or nothing"),
        )
    };
    let concurrency = Concurrency::parse(&options.concurrency)
        .ok_or_else(|| unknown("concurrency", &options.concurrency, "first-write, last-write"))?;
    let consistency = Consistency::parse(&options.consistency)
        .ok_or_else(|| unknown("consistency", &options.consistency, "strong, eventual"))?;
    Ok((concurrency, consistency))
}

fn must_be_named(key: &str) -> Result<(), Refusal> {
    match key.is_empty() {
        true => Err(Refusal::bad_request("ERR_MALFORMED_REQUEST", "\"key\" is a required field")),
        false => Ok(()),
    }
}

/// Status and words for a store's error, as daprd gives them.
fn told(error: &Error) -> (StatusCode, String) {
    match error {
        Error::EtagMismatch { .. } => {
            (StatusCode::CONFLICT, format!("possible etag mismatch. error from state store: {error}"))
        }
        Error::EtagMalformed { .. } => (StatusCode::BAD_REQUEST, format!("invalid etag value: {error}")),
        Error::Fault(fault) if fault.kind() == fault::Kind::Invalid => {
            (StatusCode::BAD_REQUEST, error.to_string())
        }
        Error::TooManyOperations { .. } | Error::Fault(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
        }
    }
}

/// Of several failures one about etags tells the caller most.
fn worst(outcomes: Vec<Result<(), Error>>) -> Option<Error> {
    let mut errors: Vec<Error> = outcomes.into_iter().filter_map(Result::err).collect();
    errors.sort_by_key(|error| !matches!(error, Error::EtagMismatch { .. } | Error::EtagMalformed { .. }));
    errors.into_iter().next()
}

fn not_saved(mine: &Mine, error: &Error) -> Refusal {
    let (status, words) = told(error);
    let message = format!("failed saving state in state store {}: {words}", mine.name);
    Refusal::new(status, "ERR_STATE_SAVE", message)
}

fn not_deleted(key: &str, error: &Error) -> Refusal {
    let (status, words) = told(error);
    Refusal::new(status, "ERR_STATE_DELETE", format!("failed deleting state with key {key}: {words}"))
}

fn not_deleted_all(mine: &Mine, error: &Error) -> Refusal {
    let (status, words) = told(error);
    let message = format!("failed deleting state in state store {}: {words}", mine.name);
    Refusal::new(status, "ERR_STATE_DELETE_BULK", message)
}

fn not_transacted(_: &Mine, error: &Error) -> Refusal {
    Refusal::internal("ERR_STATE_TRANSACTION", format!("error while executing state transaction: {error}"))
}

fn too_many(mine: &Mine, given: usize, limit: usize) -> Refusal {
    let message = format!(
        "the transaction contains {given} operations, which is more than what the state store supports: {limit}"
    );
    Refusal::bad_request("ERR_STATE_STORE_TOO_MANY_TRANSACTIONS", message)
        .with_resource("state", &mine.name, "")
        .with_info(
            "DAPR_STATE_TOO_MANY_TRANSACTIONS",
            &[("currentOpsTransaction", &given.to_string()), ("maxOpsPerTransaction", &limit.to_string())],
        )
}

/// A step of a transaction that is neither upsert nor delete.
pub(super) fn unknown_operation(operation: &str) -> Refusal {
    let message = format!("operation type {operation} not supported");
    Refusal::bad_request("ERR_NOT_SUPPORTED_STATE_OPERATION", message)
}

/// When a value expires, as metadata that comes with it.
pub(super) fn expiry(item: &Item) -> Option<(&'static str, String)> {
    item.expires.map(|at| (TTL_EXPIRE_TIME, metadata::rfc3339(at)))
}

impl Api {
    /// The state store of that name.
    pub(super) fn state(&self, name: String) -> Result<Mine, Refusal> {
        let (live, store) = self.component(Block::State, &name, |all| all.state.clone())?;
        let prefix = live
            .prefix(&self.app)
            .map_err(|error| Refusal::internal("ERR_STATE_STORE_NOT_CONFIGURED", error.to_string()))?;
        Ok(Mine { _live: live, store, prefix, name })
    }

    /// The state store of that name, which must have transactions.
    pub(super) fn transactional_state(&self, name: String) -> Result<Mine, Refusal> {
        let mine = self.state(name)?;
        if mine.store.features().transaction {
            return Ok(mine);
        }
        let message = format!("state store {} doesn't support transactions", mine.name);
        Err(Refusal::internal("ERR_STATE_STORE_NOT_SUPPORTED", message)
            .with_help(
                "https://docs.dapr.io/reference/components-reference/supported-state-stores/",
                "Check the list of state stores and the features they support",
            )
            .with_resource("state", &mine.name, "")
            .with_info("DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED", &[]))
    }

    pub(super) async fn save_state(&self, mine: &Mine, writes: Vec<Write>) -> Result<(), Refusal> {
        let sets: Result<Vec<Set>, Refusal> =
            writes.into_iter().map(|write| mine.set(write, not_saved)).collect();
        let mut sets = sets?;
        let wanted = self.wanted(&mine.name);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let outcomes = match sets.len() {
            0 => return Ok(()),
            1 => vec![patience::ask(patience, &mine.name, sets.remove(0), |one| mine.store.set(one)).await],
            _ => mine.store.set_many(sets).await,
        };
        worst(outcomes).map_or(Ok(()), |error| Err(not_saved(mine, &error)))
    }

    pub(super) async fn get_state(
        &self,
        mine: &Mine,
        key: &str,
        consistency: Cow<'static, str>,
        metadata: Metadata,
    ) -> Result<Option<Item>, Refusal> {
        let failed = |status, words: String| {
            let message = format!("fail to get {key} from state store {}: {words}", mine.name);
            Refusal::new(status, "ERR_STATE_GET", message)
        };
        let options = Options { consistency, ..Options::default() };
        let (_, consistency) =
            words(&options).map_err(|fault| failed(StatusCode::BAD_REQUEST, fault.to_string()))?;
        let request = Get { key: mine.key(key)?, consistency, metadata };
        let wanted = self.wanted(&mine.name);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let item = patience::ask(patience, &mine.name, &request, |one| mine.store.get(one)).await;
        item.map_err(|error| {
            let (status, words) = told(&error);
            failed(status, words)
        })
    }

    /// Reads many values, each by itself, in the order asked. A parallelism that is none leaves it to the store.
    pub(super) async fn get_states(
        &self,
        mine: &Mine,
        keys: &[String],
        parallelism: i64,
        metadata: &Metadata,
    ) -> Result<Vec<Result<Option<Item>, Error>>, Refusal> {
        let mut gets = Vec::with_capacity(keys.len());
        for key in keys {
            gets.push(Get { key: mine.key(key)?, metadata: metadata.clone(), ..Get::default() });
        }
        let parallelism = usize::try_from(parallelism).unwrap_or(0).min(MAX_PARALLELISM);
        Ok(mine.store.get_many(&gets, parallelism).await)
    }

    pub(super) async fn delete_state(&self, mine: &Mine, removal: Removal) -> Result<(), Refusal> {
        let key = removal.key.clone();
        let delete = mine.delete(removal, |error| not_deleted(&key, error))?;
        let wanted = self.wanted(&mine.name);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let done = patience::ask(patience, &mine.name, delete, |one| mine.store.delete(one)).await;
        done.map_err(|error| not_deleted(&key, &error))
    }

    pub(super) async fn delete_states(&self, mine: &Mine, removals: Vec<Removal>) -> Result<(), Refusal> {
        let mut deletes = Vec::with_capacity(removals.len());
        for removal in removals {
            deletes.push(mine.delete(removal, |error| not_deleted_all(mine, error))?);
        }
        let outcomes = mine.store.delete_many(deletes).await;
        worst(outcomes).map_or(Ok(()), |error| Err(not_deleted_all(mine, &error)))
    }

    /// Does all steps or none. `mine` is of [`Api::transactional_state`].
    pub(super) async fn transact(
        &self,
        mine: &Mine,
        steps: Vec<Step>,
        metadata: Metadata,
    ) -> Result<(), Refusal> {
        let operations: Result<Vec<Operation>, Refusal> =
            steps.into_iter().map(|step| mine.operation(step)).collect();
        let operations = operations?;
        if operations.is_empty() {
            return Ok(());
        }
        let limit = mine.store.features().max_operations;
        if let Some(limit) = limit.filter(|limit| operations.len() > *limit) {
            return Err(too_many(mine, operations.len(), limit));
        }
        let wanted = self.wanted(&mine.name);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let whole = (operations, metadata);
        let done = patience::ask(patience, &mine.name, whole, |(operations, metadata)| {
            mine.store.transact(operations, metadata)
        })
        .await;
        match done {
            Ok(()) => Ok(()),
            Err(Error::TooManyOperations { given, limit }) => Err(too_many(mine, given, limit)),
            Err(error) => Err(not_transacted(mine, &error)),
        }
    }

    /// Why the store cannot be queried: none can.
    pub(super) fn query_state(&self, store: String) -> Refusal {
        match self.state(store) {
            Err(refusal) => refusal,
            Ok(mine) => {
                Refusal::internal("ERR_STATE_STORE_NOT_SUPPORTED", "state store does not support querying")
                    .with_resource("state", &mine.name, "")
                    .with_info("DAPR_STATE_QUERYING_NOT_SUPPORTED", &[])
            }
        }
    }
}
