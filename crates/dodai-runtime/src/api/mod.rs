//! The Dapr HTTP API of one app.
//!
//! A call is routed by a pure function, its token checked, and handed to the building block it asks for.
//! Whatever leads out again (invocation) re-enters through the `Door` as the app. Always holds: what Dapr has
//! and this API does not is answered with a reason in Dapr's error shape. Rejected: a web framework's
//! router, whose extractors answer errors in shapes of their own.

pub(crate) mod about;
mod bindings;
mod configuration;
mod cors;
mod invoke;
mod lock;
mod object;
mod patience;
mod publish;
mod query;
mod refusal;
mod route;
mod secrets;
mod state;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use bytes::Bytes;
use dodai_capability::component::Capabilities;
use dodai_core::body::Body;
use dodai_core::call::{Answer, Call, Door, Reply, Serve};
use dodai_core::id::AppId;
use dodai_core::snapshot::App;
use http::StatusCode;
use http::header::ORIGIN;

use crate::components::{Block, Components, Live};
use crate::delivery::Deliveries;
use crate::settings::Settings;
pub use cors::Origins;
use refusal::{Outcome, Refusal, absent};
use route::Route;

/// The header with the token of an app, both ways.
pub(crate) const TOKEN_HEADER: &str = "dapr-api-token";

/// What all APIs of a base share.
pub(crate) struct Shared {
    pub components: Components,
    pub door: Arc<dyn Door>,
    pub deliveries: Deliveries,
    pub settings: Settings,
    /// What apps may call outside by name.
    pub endpoints: ArcSwap<Vec<about::Endpoint>>,
    /// Set when the runtime closes: health checks then say so.
    pub closing: AtomicBool,
}

/// The API of one app.
pub struct Api {
    app: AppId,
    /// What the app may use; replaced when the snapshot changes.
    terms: ArcSwap<App>,
    /// What the app added to its metadata.
    extended: Mutex<BTreeMap<String, String>>,
    followers: configuration::Followers,
    shared: Arc<Shared>,
}

impl Api {
    pub(crate) fn new(app: App, shared: Arc<Shared>) -> Api {
        Api {
            app: app.id.clone(),
            terms: ArcSwap::from_pointee(app),
            extended: Mutex::default(),
            followers: configuration::Followers::default(),
            shared,
        }
    }

    /// Replaces what the app may use; calls under way keep what they began with.
    pub(crate) fn set_terms(&self, app: &App) {
        if **self.terms.load() != *app {
            self.terms.store(Arc::new(app.clone()));
        }
    }

    /// Ends what the app follows: nobody who asked for it is there any more.
    pub(crate) fn end_followers(&self) {
        self.followers.end_all();
    }

    async fn handle(&self, call: Call) -> Result<Reply, dodai_core::failure::Failure> {
        let Some(origins) = &self.shared.settings.origins else { return self.answer(call).await };
        if let Some(reply) = origins.preflight(&call.head) {
            return Ok(reply);
        }
        let origin = call.head.headers.get(ORIGIN).cloned();
        let mut reply = self.answer(call).await?;
        origins.mark(origin.as_ref(), &mut reply.head.headers);
        Ok(reply)
    }

    async fn answer(&self, call: Call) -> Result<Reply, dodai_core::failure::Failure> {
        let route = route::route(&call.head.method, call.head.uri.path());
        let is_probe = matches!(route, Route::Health | Route::OutboundHealth);
        if !is_probe && !self.admits(&call) {
            return Ok(Reply::new(StatusCode::UNAUTHORIZED, "invalid api token\n"));
        }
        let answered = self.dispatch(route, call).await;
        Ok(answered.unwrap_or_else(Refusal::into_reply))
    }

    async fn dispatch(&self, route: Route, call: Call) -> Outcome {
        match route {
            Route::SaveState { store } => self.save_state(store, call).await,
            Route::GetState { store, key } => self.get_state(store, &key, call).await,
            Route::DeleteState { store, key } => self.delete_state(store, &key, call).await,
            Route::BulkGetState { store } => self.bulk_get_state(store, call).await,
            Route::Transact { store } => self.transact(store, call).await,
            Route::QueryState { store } => self.query_state(store),
            Route::Publish { pubsub, topic } => self.publish(&pubsub, topic, call).await,
            Route::BulkPublish { pubsub, topic } => self.bulk_publish(&pubsub, &topic, call).await,
            Route::GetSecret { store, key } => self.get_secret(&store, &key, &call.head).await,
            Route::GetBulkSecret { store } => self.get_bulk_secret(&store, &call.head).await,
            Route::GetConfiguration { store } => self.get_configuration(&store, &call.head).await,
            Route::FollowConfiguration { store } => self.follow_configuration(&store, &call.head).await,
            Route::UnfollowConfiguration { store, id } => self.unfollow_configuration(&store, &id),
            Route::TryLock { store } => self.try_lock(&store, call).await,
            Route::InvokeBinding { name } => self.invoke_binding(&name, call).await,
            Route::Unlock { store } => self.unlock(&store, call).await,
            Route::GetMetadata => self.metadata(),
            Route::SetMetadata { key } => self.set_metadata(key, call).await,
            Route::Health => self.health(&call),
            Route::OutboundHealth => self.outbound_health(),
            Route::Shutdown => self.shutdown(),
            Route::Invoke => self.invoke(call).await,
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

    fn admits(&self, call: &Call) -> bool {
        let terms = self.terms.load();
        let Some(token) = &terms.scopes.api_token else { return true };
        let given = call.head.headers.get(TOKEN_HEADER).map_or(&[][..], |given| given.as_bytes());
        equal(token.as_bytes(), given)
    }

    /// What is configured of a component, for how patient one is with it.
    fn wanted(&self, name: &str) -> Option<Arc<dodai_core::snapshot::Component>> {
        self.shared.components.wanted(&self.app.namespace, name)
    }

    /// The component of that name with one of its capabilities.
    fn component<T>(
        &self,
        block: Block,
        name: &str,
        pick: impl FnOnce(&Capabilities) -> Option<T>,
    ) -> Result<(Arc<Live>, T), Refusal> {
        let found = self.shared.components.find(&self.app, block, name, pick);
        found.map_err(|reason| absent(block, name, self.app.name.as_str(), reason))
    }

    /// The whole body, up to the limit.
    async fn body(&self, body: Body) -> Result<Bytes, Refusal> {
        body.collect(self.shared.settings.max_body).await.map_err(|failure| Refusal::body(&failure))
    }
}

impl Serve for Api {
    fn serve(&self, call: Call) -> Answer<'_> {
        Box::pin(self.handle(call))
    }
}

/// Compares in a time that depends on the lengths only.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let differs = a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differs) == 0
}
