//! Publishing over gRPC.

use dodai_core::call::Context;
use dodai_proto::apps::dapr::proto::runtime::v1::{
    BulkPublishRequest, BulkPublishRequestEntry, BulkPublishResponse, BulkPublishResponseFailedEntry,
    PublishEventRequest,
};
use tonic::metadata::MetadataMap;

use crate::api::Api;
use crate::api::publish::{Entry, Trace};
use crate::api::refusal::Refusal;

/// Who asks, and what travels with the question.
pub(super) struct From {
    pub context: Context,
    pub metadata: MetadataMap,
}

impl From {
    fn trace(&self) -> Trace {
        let state = self.metadata.get("tracestate").and_then(|state| state.to_str().ok());
        Trace::new(&self.context.span, state.unwrap_or_default())
    }
}

pub(super) async fn publish(api: &Api, from: From, asked: PublishEventRequest) -> Result<(), Refusal> {
    let PublishEventRequest { pubsub_name, topic, data, data_content_type, metadata } = asked;
    let target = api.target(&pubsub_name, &topic, &from.context.caller)?;
    api.publish(&target, data, &data_content_type, metadata, &from.trace()).await
}

/// Publishes many messages; the answer names those that were not.
pub(super) async fn publish_many(
    api: &Api,
    from: From,
    asked: BulkPublishRequest,
) -> Result<BulkPublishResponse, Refusal> {
    let BulkPublishRequest { pubsub_name, topic, entries, metadata } = asked;
    let target = api.target(&pubsub_name, &topic, &from.context.caller)?;
    target.check_ids(entries.iter().map(|entry| entry.entry_id.as_str()))?;
    let entries = entries.into_iter().map(|entry| {
        let BulkPublishRequestEntry { entry_id, event, content_type, metadata } = entry;
        Entry { id: entry_id, data: event, content_type, metadata }
    });
    let failed = api.publish_many(&target, entries.collect(), &metadata, &from.trace()).await?;
    let failed =
        failed.into_iter().map(|one| BulkPublishResponseFailedEntry { entry_id: one.id, error: one.error });
    Ok(BulkPublishResponse { failed_entries: failed.collect() })
}
