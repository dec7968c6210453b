//! What an app wishes beside taking an event: values to be written, output bindings to be asked.

use bytes::Bytes;
use dodai_capability::Metadata;
use dodai_capability::binding::Request;
use dodai_capability::metadata::Ttl;
use dodai_capability::state::{Etag, Operation, Set};
use dodai_core::id::AppId;
use dodai_proto::apps::dapr::proto::common::v1::StateItem;
use dodai_proto::apps::dapr::proto::runtime::v1::BindingEventResponse;
use dodai_proto::apps::dapr::proto::runtime::v1::binding_event_response::BindingEventConcurrency;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::{Options, state_options, words};
use crate::components::{Block, Components};

/// The wishes of one answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    store: String,
    values: Vec<Item>,
    to: Vec<String>,
    at_once: bool,
    data: Bytes,
}

/// A value to be written.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    key: String,
    value: Bytes,
    etag: Option<String>,
    options: Options,
    metadata: Metadata,
}

/// The answer of an app that speaks HTTP.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Answered<'a> {
    store_name: String,
    #[serde(borrow)]
    state: Vec<Pair<'a>>,
    to: Vec<String>,
    concurrency: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Pair<'a> {
    key: String,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(default)]
    etag: Option<String>,
    #[serde(default)]
    options: Option<Options>,
    #[serde(default)]
    metadata: Metadata,
}

impl Wishes {
    /// Those of an HTTP body; a text that is no such answer has none.
    pub fn read(body: &[u8]) -> Wishes {
        let Ok(answered) = serde_json::from_slice::<Answered<'_>>(body) else { return Wishes::default() };
        let bytes = |raw: &RawValue| Bytes::copy_from_slice(raw.get().as_bytes());
        let item = |pair: Pair<'_>| {
            let Pair { key, value, etag, options, metadata } = pair;
            let value = value.map_or(Bytes::from_static(b"null"), bytes);
            Item { key, value, etag, options: options.unwrap_or_default(), metadata }
        };
        Wishes {
            store: answered.store_name,
            values: answered.state.into_iter().map(item).collect(),
            to: answered.to,
            at_once: answered.concurrency.eq_ignore_ascii_case("parallel"),
            data: answered.data.map(bytes).unwrap_or_default(),
        }
    }

    /// Those of `BindingEventResponse`.
    pub fn told(answer: BindingEventResponse) -> Wishes {
        let BindingEventResponse { store_name, states, to, data, concurrency } = answer;
        let item = |item: StateItem| {
            let StateItem { key, value, etag, metadata, options } = item;
            let (etag, options) = (etag.map(|etag| etag.value), state_options(options));
            Item { key, value, etag, options, metadata }
        };
        Wishes {
            store: store_name,
            values: states.into_iter().map(item).collect(),
            to,
            at_once: concurrency == i32::from(BindingEventConcurrency::Parallel),
            data,
        }
    }

    /// Does what the app wishes: values first, then bindings.
    pub async fn grant(self, components: &Components, app: &AppId) -> Result<(), String> {
        let Wishes { store, values, to, at_once, data } = self;
        write(components, app, &store, values).await?;
        if at_once {
            return join_all(to.iter().map(|name| send(components, app, name, &data)))
                .await
                .into_iter()
                .collect();
        }
        for name in &to {
            send(components, app, name, &data).await?;
        }
        Ok(())
    }
}

async fn write(components: &Components, app: &AppId, store: &str, values: Vec<Item>) -> Result<(), String> {
    if values.is_empty() || store.is_empty() {
        return Ok(());
    }
    let found = components.find(app, Block::State, store, |all| all.state.clone());
    let (live, state) =
        found.map_err(|absent| format!("its state store {store} cannot be used: {absent:?}"))?;
    let prefix = live.prefix(app).map_err(|error| error.to_string())?;
    let sets = values.into_iter().map(|Item { key, value, etag, options, metadata }| {
        let key = prefix.apply(&key).map_err(|error| error.to_string())?;
        let ttl = Ttl::from_metadata(&metadata).map_err(|fault| fault.to_string())?;
        let (concurrency, consistency) = words(&options).map_err(|fault| fault.to_string())?;
        let etag = etag.map(Etag::from);
        Ok(Set { etag, concurrency, consistency, ttl, metadata, ..Set::new(key, value) })
    });
    let sets: Vec<Set> = sets.collect::<Result<_, String>>()?;
    if state.features().transaction {
        let steps = sets.into_iter().map(Operation::Upsert).collect();
        return state.transact(steps, Metadata::new()).await.map_err(|error| error.to_string());
    }
    let written = state.set_many(sets).await;
    written.into_iter().collect::<Result<(), _>>().map_err(|error| error.to_string())
}

async fn send(components: &Components, app: &AppId, name: &str, data: &Bytes) -> Result<(), String> {
    let found = components.find(app, Block::Bindings, name, |all| all.output.clone());
    let (_live, output) =
        found.map_err(|absent| format!("output binding {name} cannot be used: {absent:?}"))?;
    let request = Request { operation: "create".to_owned(), data: data.clone(), metadata: Metadata::new() };
    let asked = output.invoke(request).await;
    asked.map(|_| ()).map_err(|error| format!("output binding {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use dodai_proto::apps::dapr::proto::common::v1::StateOptions;
    use dodai_proto::apps::dapr::proto::common::v1::state_options::{StateConcurrency, StateConsistency};

    use super::*;

    #[test]
    fn both_protocols_wish_the_same() {
        let http = Wishes::read(
            br#"{"storeName":"s","state":[{"key":"k","value":[1],"etag":"7","metadata":{"ttlInSeconds":"9"},
            "options":{"concurrency":"first-write","consistency":"strong"}}],
            "to":["a","b"],"concurrency":"Parallel","data":{"n":1}}"#,
        );
        let grpc = Wishes::told(BindingEventResponse {
            store_name: "s".to_owned(),
            states: vec![StateItem {
                key: "k".to_owned(),
                value: Bytes::from_static(b"[1]"),
                etag: Some(dodai_proto::apps::dapr::proto::common::v1::Etag { value: "7".to_owned() }),
                metadata: [("ttlInSeconds".to_owned(), "9".to_owned())].into(),
                options: Some(StateOptions {
                    concurrency: StateConcurrency::ConcurrencyFirstWrite.into(),
                    consistency: StateConsistency::ConsistencyStrong.into(),
                }),
            }],
            to: vec!["a".to_owned(), "b".to_owned()],
            data: Bytes::from_static(br#"{"n":1}"#),
            concurrency: BindingEventConcurrency::Parallel.into(),
        });
        assert_eq!(http, grpc);
        assert_eq!(grpc.values[0].options.concurrency, "first-write");
        for other in ["", "done", "[1]", r#"{"to":7}"#] {
            assert_eq!(Wishes::read(other.as_bytes()), Wishes::default(), "{other}");
        }
    }
}
