//! State over gRPC.

use std::borrow::Cow;
use std::collections::BTreeMap;

use dodai_capability::metadata::{CONTENT_TYPE, lookup};
use dodai_capability::state::{Error, Item};
use dodai_capability::{Metadata, event};
use dodai_proto::apps::dapr::proto::common::v1::state_options::{StateConcurrency, StateConsistency};
use dodai_proto::apps::dapr::proto::common::v1::{StateItem, StateOptions};
use dodai_proto::apps::dapr::proto::runtime::v1::{
    BulkStateItem, DeleteBulkStateRequest, DeleteStateRequest, ExecuteStateTransactionRequest,
    GetBulkStateRequest, GetBulkStateResponse, GetStateRequest, GetStateResponse, SaveStateRequest,
    TransactionalStateOperation,
};
use serde::de::IgnoredAny;

use crate::api::Api;
use crate::api::refusal::Refusal;
use crate::api::state::{Options, Removal, Step, Write, expiry, unknown_operation};

/// Numbers that mean nothing leave it to the store, as in daprd.
pub(crate) fn options(given: Option<StateOptions>) -> Options {
    let StateOptions { concurrency, consistency } = given.unwrap_or_default();
    let concurrency = match StateConcurrency::try_from(concurrency) {
        Ok(StateConcurrency::ConcurrencyFirstWrite) => "first-write",
        Ok(StateConcurrency::ConcurrencyLastWrite) => "last-write",
        Ok(StateConcurrency::ConcurrencyUnspecified) | Err(_) => "",
    };
    Options { concurrency: Cow::Borrowed(concurrency), consistency: Cow::Borrowed(word(consistency)) }
}

fn word(consistency: i32) -> &'static str {
    match StateConsistency::try_from(consistency) {
        Ok(StateConsistency::ConsistencyEventual) => "eventual",
        Ok(StateConsistency::ConsistencyStrong) => "strong",
        Ok(StateConsistency::ConsistencyUnspecified) | Err(_) => "",
    }
}

/// What is to be written. A value that is said to be JSON must be.
fn write(item: StateItem) -> Result<Write, Refusal> {
    let StateItem { key, value, etag, metadata, options: given } = item;
    if lookup(&metadata, CONTENT_TYPE).is_some_and(event::is_json)
        && let Err(error) = serde_json::from_slice::<IgnoredAny>(&value)
    {
        let message = format!("the value of key {key} is no JSON, which its contentType says: {error}");
        return Err(Refusal::bad_request("ERR_MALFORMED_REQUEST", message));
    }
    Ok(Write { key, value, etag: etag.map(|etag| etag.value), options: options(given), metadata })
}

fn removal(item: StateItem) -> Removal {
    let StateItem { key, etag, metadata, options: given, .. } = item;
    Removal { key, etag: etag.map(|etag| etag.value), options: options(given), metadata }
}

/// What comes with a value besides its etag.
fn told(item: &Item) -> Metadata {
    expiry(item).map_or_else(Metadata::new, |(name, value)| BTreeMap::from([(name.to_owned(), value)]))
}

fn etag(item: &Item) -> String {
    item.etag.as_ref().map_or_else(String::new, |etag| etag.as_str().to_owned())
}

pub(super) async fn get(api: &Api, asked: GetStateRequest) -> Result<GetStateResponse, Refusal> {
    let mine = api.state(asked.store_name)?;
    let consistency = Cow::Borrowed(word(asked.consistency));
    let item = api.get_state(&mine, &asked.key, consistency, asked.metadata).await?;
    Ok(item.map_or_else(GetStateResponse::default, |item| GetStateResponse {
        etag: etag(&item),
        metadata: told(&item),
        data: item.value,
    }))
}

pub(super) async fn get_many(api: &Api, asked: GetBulkStateRequest) -> Result<GetBulkStateResponse, Refusal> {
    let mine = api.state(asked.store_name)?;
    let items = api.get_states(&mine, &asked.keys, asked.parallelism.into(), &asked.metadata).await?;
    let items = asked.keys.into_iter().zip(items).map(|(key, item)| bulk_item(key, item));
    Ok(GetBulkStateResponse { items: items.collect() })
}

fn bulk_item(key: String, item: Result<Option<Item>, Error>) -> BulkStateItem {
    let nothing = BulkStateItem { key, ..BulkStateItem::default() };
    match item {
        Err(error) => BulkStateItem { error: error.to_string(), ..nothing },
        Ok(None) => nothing,
        Ok(Some(item)) => {
            BulkStateItem { etag: etag(&item), metadata: told(&item), data: item.value, ..nothing }
        }
    }
}

pub(super) async fn save(api: &Api, asked: SaveStateRequest) -> Result<(), Refusal> {
    let mine = api.state(asked.store_name)?;
    let writes: Result<Vec<Write>, Refusal> = asked.states.into_iter().map(write).collect();
    api.save_state(&mine, writes?).await
}

pub(super) async fn delete(api: &Api, asked: DeleteStateRequest) -> Result<(), Refusal> {
    let DeleteStateRequest { store_name, key, etag, options: given, metadata } = asked;
    let mine = api.state(store_name)?;
    let etag = etag.map(|etag| etag.value);
    api.delete_state(&mine, Removal { key, etag, options: options(given), metadata }).await
}

pub(super) async fn delete_many(api: &Api, asked: DeleteBulkStateRequest) -> Result<(), Refusal> {
    let mine = api.state(asked.store_name)?;
    api.delete_states(&mine, asked.states.into_iter().map(removal).collect()).await
}

pub(super) async fn transact(api: &Api, asked: ExecuteStateTransactionRequest) -> Result<(), Refusal> {
    let mine = api.transactional_state(asked.store_name)?;
    let steps: Result<Vec<Step>, Refusal> = asked.operations.into_iter().map(step).collect();
    api.transact(&mine, steps?, asked.metadata).await
}

fn step(operation: TransactionalStateOperation) -> Result<Step, Refusal> {
    let item = operation.request.unwrap_or_default();
    match operation.operation_type.as_str() {
        "upsert" => Ok(Step::Upsert(write(item)?)),
        "delete" => Ok(Step::Delete(removal(item))),
        other => Err(unknown_operation(other)),
    }
}
