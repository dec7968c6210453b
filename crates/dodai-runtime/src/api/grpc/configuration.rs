//! Configuration over gRPC: changes come by a stream.

use std::collections::BTreeMap;
use std::pin::Pin;

use dodai_capability::configuration::{Change, Item};
use dodai_proto::apps::dapr::proto::common::v1::ConfigurationItem;
use dodai_proto::apps::dapr::proto::runtime::v1::{
    GetConfigurationRequest, GetConfigurationResponse, SubscribeConfigurationRequest,
    SubscribeConfigurationResponse, UnsubscribeConfigurationRequest, UnsubscribeConfigurationResponse,
};
use futures_util::stream::{self, Stream, StreamExt as _};
use tonic::Status;

use crate::api::Api;
use crate::api::configuration::Wish;
use crate::api::refusal::Refusal;

/// What a subscriber reads: the id first, then changes until the subscription ends.
pub(super) type Changes = Pin<Box<dyn Stream<Item = Result<SubscribeConfigurationResponse, Status>> + Send>>;

/// A value as the API shows it; a deleted one has nothing in it.
fn shown(item: Option<Item>) -> ConfigurationItem {
    let Item { value, version, metadata } = item.unwrap_or_default();
    ConfigurationItem { value, version, metadata }
}

pub(super) async fn get(
    api: &Api,
    asked: GetConfigurationRequest,
) -> Result<GetConfigurationResponse, Refusal> {
    let items = api.get_configuration(&asked.store_name, &asked.keys, &asked.metadata).await?;
    let items = items.into_iter().map(|(key, item)| (key, shown(Some(item))));
    Ok(GetConfigurationResponse { items: items.collect() })
}

pub(super) async fn subscribe(api: &Api, asked: SubscribeConfigurationRequest) -> Result<Changes, Refusal> {
    let wish = Wish::new(&asked.store_name, &asked.keys, asked.metadata);
    let following = api.stream_configuration(wish).await?;
    let id = following.id.clone();
    let first = SubscribeConfigurationResponse { id, items: BTreeMap::new() };
    let later = stream::unfold(following, |mut following| async move {
        let changes = following.changes.recv().await?;
        let items = changes.into_iter().map(|Change { key, item }| (key, shown(item))).collect();
        let news = SubscribeConfigurationResponse { id: following.id.clone(), items };
        Some((Ok(news), following))
    });
    Ok(stream::iter([Ok(first)]).chain(later).boxed())
}

pub(super) fn unsubscribe(
    api: &Api,
    asked: &UnsubscribeConfigurationRequest,
) -> Result<UnsubscribeConfigurationResponse, Refusal> {
    Ok(match api.unfollow_configuration(&asked.store_name, &asked.id)? {
        Ok(()) => UnsubscribeConfigurationResponse { ok: true, message: String::new() },
        Err(message) => UnsubscribeConfigurationResponse { ok: false, message },
    })
}
