//! The Dapr HTTP API: which request is which, what it says, and how it is answered.
//!
//! A call is routed by a pure function and handed to the building block it asks for, which knows nothing of HTTP.
//! Always holds: what Dapr has and this API does not is answered with a reason in Dapr's error shape. Rejected: a web
//! framework's router, whose extractors answer errors in shapes of their own.

mod about;
mod bindings;
mod configuration;
mod cors;
mod invoke;
mod jobs;
mod lock;
mod object;
mod publish;
mod query;
mod reply;
mod route;
mod secrets;
mod state;

use bytes::Bytes;
use dodai_core::body::Body;
use dodai_core::call::{Call, Reply};
use dodai_core::failure::Failure;
use http::StatusCode;
use http::header::ORIGIN;

use super::Api;
use super::refusal::Refusal;
pub use cors::Origins;
use reply::Outcome;
use route::Route;

impl Api {
    /// Answers one call of the HTTP API.
    pub(super) async fn over_http(&self, call: Call) -> Result<Reply, Failure> {
        let Some(origins) = &self.shared.settings.origins else { return Ok(self.answer(call).await) };
        if let Some(reply) = origins.preflight(&call.head) {
            return Ok(reply);
        }
        let origin = call.head.headers.get(ORIGIN).cloned();
        let mut reply = self.answer(call).await;
        origins.mark(origin.as_ref(), &mut reply.head.headers);
        Ok(reply)
    }

    async fn answer(&self, call: Call) -> Reply {
        let route = route::route(&call.head.method, call.head.uri.path());
        let is_probe = matches!(route, Route::Health | Route::OutboundHealth);
        if !is_probe && !self.admits(&call.head.headers) {
            return Reply::new(StatusCode::UNAUTHORIZED, "invalid api token\n");
        }
        self.dispatch(route, call).await.unwrap_or_else(reply::refused)
    }

    async fn dispatch(&self, route: Route, call: Call) -> Outcome {
        match route {
            Route::SaveState { store } => self.http_save_state(store, call).await,
            Route::GetState { store, key } => self.http_get_state(store, &key, call).await,
            Route::DeleteState { store, key } => self.http_delete_state(store, key, call).await,
            Route::BulkGetState { store } => self.http_bulk_get_state(store, call).await,
            Route::Transact { store } => self.http_transact(store, call).await,
            Route::QueryState { store } => Err(self.query_state(store)),
            Route::Publish { pubsub, topic } => self.http_publish(&pubsub, topic, call).await,
            Route::BulkPublish { pubsub, topic } => self.http_bulk_publish(&pubsub, &topic, call).await,
            Route::GetSecret { store, key } => self.http_secret(&store, &key, &call.head).await,
            Route::GetBulkSecret { store } => self.http_secrets(&store, &call.head).await,
            Route::GetConfiguration { store } => self.http_configuration(&store, &call.head).await,
            Route::FollowConfiguration { store } => self.http_follow(&store, &call.head).await,
            Route::UnfollowConfiguration { store, id } => self.http_unfollow(&store, &id),
            Route::TryLock { store } => self.http_try_lock(&store, call).await,
            Route::Unlock { store } => self.http_unlock(&store, call).await,
            Route::InvokeBinding { name } => self.http_invoke_binding(&name, call).await,
            Route::ScheduleJob { name } => self.http_schedule_job(&name, call).await,
            Route::GetJob { name } => self.http_get_job(&name).await,
            Route::DeleteJob { name } => self.http_delete_job(name).await,
            Route::GetMetadata => self.http_metadata(),
            Route::SetMetadata { key } => self.http_set_metadata(key, call).await,
            Route::Health => self.http_health(&call),
            Route::OutboundHealth => self.http_outbound_health(),
            Route::Shutdown => self.http_shutdown(),
            Route::Invoke => self.http_invoke(call).await,
            // A header may still name an app for a path that the API has not, but never for one that it has.
            Route::NotServed(api) => Err(Refusal::not_served(api)),
            Route::WrongMethod(allowed) => Err(Refusal::wrong_method(allowed)),
            Route::Malformed { name } => {
                let message =
                    format!("failed to unescape request parameter {name:?}; escape it as %xx of UTF-8");
                Err(Refusal::bad_request("ERR_MALFORMED_REQUEST", message))
            }
        }
    }

    /// The whole body, up to the limit.
    async fn body(&self, body: Body) -> Result<Bytes, Refusal> {
        body.collect(self.shared.settings.max_body).await.map_err(|failure| Refusal::body(&failure))
    }
}
