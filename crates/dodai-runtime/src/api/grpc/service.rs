//! Dapr's service: each method is one of a building block.

use dodai_capability::jobs::Which;
use dodai_capability::lock::Release;
use dodai_core::call::{Caller, Context};
use dodai_core::trace::Span;
use dodai_proto::apps::dapr::proto::common::v1::InvokeResponse;
use dodai_proto::apps::dapr::proto::runtime::v1::dapr_server::Dapr;
use dodai_proto::apps::dapr::proto::runtime::v1::unlock_response::Status as Unlocked;
use dodai_proto::apps::dapr::proto::runtime::v1::*;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Streaming};

use super::pubsub::From;
use super::status::{Told, told};
use super::{bindings, configuration, invoke, jobs, metadata, pubsub, state, subscribe};
use crate::api::Api;
use crate::api::lock::Wish;
use crate::api::secrets::revealed;

/// The service of one app.
pub(super) struct Service(pub Api);

/// A request apart: what travels with it, its metadata, and what it says.
fn apart<T>(request: Request<T>) -> (Context, MetadataMap, T) {
    let (metadata, mut extensions, asked) = request.into_parts();
    let context = extensions.remove::<Context>();
    (context.unwrap_or_else(|| Context::new(Caller::Outside, Span::root(false))), metadata, asked)
}

fn secret(values: &dodai_capability::secrets::Values) -> std::collections::BTreeMap<String, String> {
    revealed(values).into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[tonic::async_trait]
impl Dapr for Service {
    async fn invoke_service(&self, request: Request<InvokeServiceRequest>) -> Told<InvokeResponse> {
        let (context, metadata, asked) = apart(request);
        invoke::invoke(&self.0, context, metadata, asked).await
    }

    async fn get_state(&self, request: Request<GetStateRequest>) -> Told<GetStateResponse> {
        told(state::get(&self.0, request.into_inner()).await)
    }

    async fn get_bulk_state(&self, request: Request<GetBulkStateRequest>) -> Told<GetBulkStateResponse> {
        told(state::get_many(&self.0, request.into_inner()).await)
    }

    async fn save_state(&self, request: Request<SaveStateRequest>) -> Told<()> {
        told(state::save(&self.0, request.into_inner()).await)
    }

    async fn query_state_alpha1(&self, request: Request<QueryStateRequest>) -> Told<QueryStateResponse> {
        told(Err(self.0.query_state(request.into_inner().store_name)))
    }

    async fn delete_state(&self, request: Request<DeleteStateRequest>) -> Told<()> {
        told(state::delete(&self.0, request.into_inner()).await)
    }

    async fn delete_bulk_state(&self, request: Request<DeleteBulkStateRequest>) -> Told<()> {
        told(state::delete_many(&self.0, request.into_inner()).await)
    }

    async fn execute_state_transaction(&self, request: Request<ExecuteStateTransactionRequest>) -> Told<()> {
        told(state::transact(&self.0, request.into_inner()).await)
    }

    async fn publish_event(&self, request: Request<PublishEventRequest>) -> Told<()> {
        let (context, metadata, asked) = apart(request);
        told(pubsub::publish(&self.0, From { context, metadata }, asked).await)
    }

    async fn bulk_publish_event_alpha1(
        &self,
        request: Request<BulkPublishRequest>,
    ) -> Told<BulkPublishResponse> {
        self.bulk_publish_event(request).await
    }

    async fn bulk_publish_event(&self, request: Request<BulkPublishRequest>) -> Told<BulkPublishResponse> {
        let (context, metadata, asked) = apart(request);
        told(pubsub::publish_many(&self.0, From { context, metadata }, asked).await)
    }

    type SubscribeTopicEventsAlpha1Stream = subscribe::Brought;

    async fn subscribe_topic_events_alpha1(
        &self,
        request: Request<Streaming<SubscribeTopicEventsRequestAlpha1>>,
    ) -> Told<subscribe::Brought> {
        subscribe::subscribe(&self.0, request.into_inner()).await
    }

    async fn invoke_binding(&self, request: Request<InvokeBindingRequest>) -> Told<InvokeBindingResponse> {
        let (_, metadata, asked) = apart(request);
        bindings::invoke(&self.0, metadata, asked).await
    }

    async fn get_secret(&self, request: Request<GetSecretRequest>) -> Told<GetSecretResponse> {
        let GetSecretRequest { store_name, key, metadata } = request.into_inner();
        let values = self.0.get_secret(&store_name, &key, &metadata).await;
        told(values.map(|values| GetSecretResponse { data: secret(&values) }))
    }

    async fn get_bulk_secret(&self, request: Request<GetBulkSecretRequest>) -> Told<GetBulkSecretResponse> {
        let GetBulkSecretRequest { store_name, metadata } = request.into_inner();
        let all = self.0.get_secrets(&store_name, &metadata).await;
        told(all.map(|all| {
            let all =
                all.iter().map(|(name, values)| (name.clone(), SecretResponse { secrets: secret(values) }));
            GetBulkSecretResponse { data: all.collect() }
        }))
    }

    async fn get_configuration_alpha1(
        &self,
        request: Request<GetConfigurationRequest>,
    ) -> Told<GetConfigurationResponse> {
        self.get_configuration(request).await
    }

    async fn get_configuration(
        &self,
        request: Request<GetConfigurationRequest>,
    ) -> Told<GetConfigurationResponse> {
        told(configuration::get(&self.0, request.into_inner()).await)
    }

    type SubscribeConfigurationAlpha1Stream = configuration::Changes;

    async fn subscribe_configuration_alpha1(
        &self,
        request: Request<SubscribeConfigurationRequest>,
    ) -> Told<configuration::Changes> {
        self.subscribe_configuration(request).await
    }

    type SubscribeConfigurationStream = configuration::Changes;

    async fn subscribe_configuration(
        &self,
        request: Request<SubscribeConfigurationRequest>,
    ) -> Told<configuration::Changes> {
        told(configuration::subscribe(&self.0, request.into_inner()).await)
    }

    async fn unsubscribe_configuration_alpha1(
        &self,
        request: Request<UnsubscribeConfigurationRequest>,
    ) -> Told<UnsubscribeConfigurationResponse> {
        self.unsubscribe_configuration(request).await
    }

    async fn unsubscribe_configuration(
        &self,
        request: Request<UnsubscribeConfigurationRequest>,
    ) -> Told<UnsubscribeConfigurationResponse> {
        told(configuration::unsubscribe(&self.0, request.get_ref()))
    }

    async fn try_lock_alpha1(&self, request: Request<TryLockRequest>) -> Told<TryLockResponse> {
        let TryLockRequest { store_name, resource_id, lock_owner, expiry_in_seconds } = request.into_inner();
        let wish = Wish { resource: &resource_id, owner: &lock_owner };
        let taken = self.0.try_lock(&store_name, &wish, expiry_in_seconds).await;
        told(taken.map(|success| TryLockResponse { success }))
    }

    async fn unlock_alpha1(&self, request: Request<UnlockRequest>) -> Told<UnlockResponse> {
        let UnlockRequest { store_name, resource_id, lock_owner } = request.into_inner();
        let wish = Wish { resource: &resource_id, owner: &lock_owner };
        let released = self.0.unlock(&store_name, &wish).await;
        told(released.map(|release| {
            let status = match release {
                Release::Success => Unlocked::Success,
                Release::DoesNotExist => Unlocked::LockDoesNotExist,
                Release::BelongsToOthers => Unlocked::LockBelongsToOthers,
            };
            UnlockResponse { status: status.into() }
        }))
    }

    async fn schedule_job_alpha1(&self, request: Request<ScheduleJobRequest>) -> Told<ScheduleJobResponse> {
        self.schedule_job(request).await
    }

    async fn schedule_job(&self, request: Request<ScheduleJobRequest>) -> Told<ScheduleJobResponse> {
        told(jobs::schedule(&self.0, request.into_inner()).await)
    }

    async fn get_job_alpha1(&self, request: Request<GetJobRequest>) -> Told<GetJobResponse> {
        self.get_job(request).await
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Told<GetJobResponse> {
        let found = self.0.get_job(&request.get_ref().name).await;
        told(found.map(|job| GetJobResponse { job: Some(jobs::told(job)) }))
    }

    async fn delete_job_alpha1(&self, request: Request<DeleteJobRequest>) -> Told<DeleteJobResponse> {
        self.delete_job(request).await
    }

    async fn delete_job(&self, request: Request<DeleteJobRequest>) -> Told<DeleteJobResponse> {
        let deleted = self.0.delete_jobs(Which::Name(request.into_inner().name)).await;
        told(deleted.map(|()| DeleteJobResponse {}))
    }

    async fn delete_jobs_by_prefix_alpha1(
        &self,
        request: Request<DeleteJobsByPrefixRequestAlpha1>,
    ) -> Told<DeleteJobsByPrefixResponseAlpha1> {
        let prefix = request.into_inner().name_prefix.unwrap_or_default();
        told(self.0.delete_jobs(Which::Prefix(prefix)).await.map(|()| DeleteJobsByPrefixResponseAlpha1 {}))
    }

    async fn delete_jobs_by_prefix(
        &self,
        request: Request<DeleteJobsByPrefixRequest>,
    ) -> Told<DeleteJobsByPrefixResponse> {
        let prefix = request.into_inner().name_prefix.unwrap_or_default();
        told(self.0.delete_jobs(Which::Prefix(prefix)).await.map(|()| DeleteJobsByPrefixResponse {}))
    }

    async fn list_jobs_alpha1(&self, _: Request<ListJobsRequestAlpha1>) -> Told<ListJobsResponseAlpha1> {
        told(jobs::list(&self.0).await.map(|jobs| ListJobsResponseAlpha1 { jobs }))
    }

    async fn list_jobs(&self, _: Request<ListJobsRequest>) -> Told<ListJobsResponse> {
        told(jobs::list(&self.0).await.map(|jobs| ListJobsResponse { jobs }))
    }

    async fn get_metadata(&self, _request: Request<GetMetadataRequest>) -> Told<GetMetadataResponse> {
        Ok(Response::new(metadata::told(self.0.metadata())))
    }

    async fn set_metadata(&self, request: Request<SetMetadataRequest>) -> Told<()> {
        let SetMetadataRequest { key, value } = request.into_inner();
        told(self.0.set_metadata(key, value))
    }

    async fn shutdown(&self, _request: Request<ShutdownRequest>) -> Told<()> {
        self.0.shutdown();
        Ok(Response::new(()))
    }
}
