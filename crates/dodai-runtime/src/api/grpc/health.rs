//! gRPC's health protocol: serving once every component that the app depends on has come up.

use std::pin::Pin;

use dodai_proto::apps::grpc::health::v1::health_check_response::ServingStatus;
use dodai_proto::apps::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse, health_server};
use futures_util::stream::{self, Stream};
use tonic::{Code, Request, Response, Status};

use super::SERVICES;
use super::status::plain;
use crate::api::Api;

/// The service.
pub(super) struct Health(pub Api);

fn status(api: &Api, service: &str) -> ServingStatus {
    match (service.is_empty() || SERVICES.contains(&service), api.health().is_ok()) {
        (false, _) => ServingStatus::ServiceUnknown,
        (true, true) => ServingStatus::Serving,
        (true, false) => ServingStatus::NotServing,
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let status = status(&self.0, &service);
        if status == ServingStatus::ServiceUnknown {
            let message = format!("there is no service `{service}` here");
            return Err(plain(Code::NotFound, "DODAI_SERVICE_UNKNOWN", message));
        }
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let changes = self.0.shared.components.changes();
        let state = (self.0.clone(), service, changes, None);
        let statuses = stream::unfold(state, |(api, service, mut changes, told)| async move {
            loop {
                let now = status(&api, &service);
                if told != Some(now) {
                    let answer = HealthCheckResponse { status: now.into() };
                    return Some((Ok(answer), (api, service, changes, Some(now))));
                }
                changes.changed().await.ok()?;
            }
        });
        Ok(Response::new(Box::pin(statuses)))
    }
}
