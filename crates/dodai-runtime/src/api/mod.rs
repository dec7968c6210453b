//! The Dapr API of one app, over HTTP and gRPC.
//!
//! The building blocks (`state.rs`, `publish.rs`, ...) say what is done and how it fails; `http/` and `grpc/` read
//! requests and write answers in their protocol. Whatever leads out again (invocation) re-enters through the `Door`
//! as the app.

pub(crate) mod about;
mod bindings;
mod configuration;
mod grpc;
mod http;
mod invoke;
mod jobs;
mod lock;
mod patience;
mod publish;
mod refusal;
mod secrets;
mod state;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use ::http::HeaderMap;
use arc_swap::ArcSwap;
use dodai_capability::component::Capabilities;
use dodai_core::call::{Answer, Call, Door, Serve};
use dodai_core::id::AppId;
use dodai_core::snapshot::App;

pub(crate) use self::grpc::state_options;
pub use self::http::Origins;
pub(crate) use self::state::{Options, words};
use crate::components::{Block, Components, Live};
use crate::delivery::Deliveries;
use crate::jobs::Jobs;
use crate::settings::Settings;
use refusal::{Refusal, absent};

/// The header with the token of an app, both ways.
pub(crate) const TOKEN_HEADER: &str = "dapr-api-token";

/// The longest name of a topic, in bytes.
pub(crate) const MAX_TOPIC: usize = 512;

/// What all APIs of a base share.
pub(crate) struct Shared {
    pub components: Components,
    pub door: Arc<dyn Door>,
    pub deliveries: Deliveries,
    pub jobs: Jobs,
    pub settings: Settings,
    /// What apps may call outside by name.
    pub endpoints: ArcSwap<Vec<about::Endpoint>>,
    /// Set when the runtime closes: health checks then say so.
    pub closing: AtomicBool,
}

/// The API of one app. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

/// What the clones of one API share.
pub struct Inner {
    app: AppId,
    /// What the app may use; replaced when the snapshot changes.
    terms: ArcSwap<App>,
    /// What the app added to its metadata.
    extended: Mutex<BTreeMap<String, String>>,
    followers: configuration::Followers,
    shared: Arc<Shared>,
}

impl std::ops::Deref for Api {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Api {
    pub(crate) fn new(app: App, shared: Arc<Shared>) -> Api {
        Api(Arc::new(Inner {
            app: app.id.clone(),
            terms: ArcSwap::from_pointee(app),
            extended: Mutex::default(),
            followers: configuration::Followers::default(),
            shared,
        }))
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

    /// Whether a request has the app's token, if it needs one.
    fn admits(&self, headers: &HeaderMap) -> bool {
        let terms = self.terms.load();
        let Some(token) = &terms.scopes.api_token else { return true };
        let given = headers.get(TOKEN_HEADER).map_or(&[][..], |given| given.as_bytes());
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
}

impl Serve for Api {
    fn serve(&self, call: Call) -> Answer<'_> {
        if grpc::is_meant(&call.head) {
            return Box::pin(self.over_grpc(call));
        }
        Box::pin(self.over_http(call))
    }
}

/// Compares in a time that depends on the lengths only.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let differs = a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differs) == 0
}
