//! The lock API.

use std::sync::Arc;
use std::time::Duration;

use dodai_capability::lock::{Outcome as Locking, Release, Store};
use dodai_core::call::Call;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::Api;
use super::object::Object;
use super::refusal::{Outcome, Refusal, encoded};
use crate::components::{Block, Live};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Request {
    #[serde(alias = "resource_id")]
    resource_id: String,
    #[serde(alias = "lock_owner")]
    lock_owner: String,
    #[serde(alias = "expiry_in_seconds")]
    expiry_in_seconds: i32,
}

/// What is to be locked, as the store calls it.
struct Resource {
    _live: Arc<Live>,
    locks: Arc<dyn Store>,
    key: String,
}

#[derive(Serialize)]
struct Taken {
    success: bool,
}

#[derive(Serialize)]
struct Released {
    status: u8,
}

fn wrong(what: &str, store: &str) -> Refusal {
    Refusal::bad_request("ERR_MALFORMED_REQUEST", format!("{what} in lock store {store}"))
}

impl Api {
    fn lock_of(&self, store: &str, request: &Request, code: &'static str) -> Result<Resource, Refusal> {
        let (live, locks) = self.component(Block::Lock, store, |all| all.lock.clone())?;
        if request.resource_id.is_empty() {
            return Err(wrong("ResourceId is empty", store));
        }
        if request.lock_owner.is_empty() {
            return Err(wrong("LockOwner is empty", store));
        }
        let prefix = live.prefix(&self.app).map_err(|error| Refusal::internal(code, error.to_string()))?;
        let words =
            if code == "ERR_TRY_LOCK" { "failed to try acquiring lock" } else { "failed to release lock" };
        let key = prefix
            .apply(&request.resource_id)
            .map_err(|illegal| Refusal::internal(code, format!("{words}: {illegal}")))?;
        Ok(Resource { _live: live, locks, key: format!("lock||{key}") })
    }

    pub(super) async fn try_lock(&self, store: &str, call: Call) -> Outcome {
        let body = self.body(call.body).await?;
        let Object(request): Object<Request> =
            serde_json::from_slice(&body).map_err(|error| Refusal::malformed(&error))?;
        let resource = self.lock_of(store, &request, "ERR_TRY_LOCK")?;
        let seconds = u64::try_from(request.expiry_in_seconds).ok().filter(|seconds| *seconds > 0);
        let seconds = seconds.ok_or_else(|| wrong("ExpiryInSeconds is not positive", store))?;
        let outcome =
            resource.locks.try_lock(&resource.key, &request.lock_owner, Duration::from_secs(seconds)).await;
        let outcome = outcome.map_err(|error| {
            Refusal::internal("ERR_TRY_LOCK", format!("failed to try acquiring lock: {error}"))
        })?;
        encoded(StatusCode::OK, &Taken { success: matches!(outcome, Locking::Acquired { .. }) })
    }

    pub(super) async fn unlock(&self, store: &str, call: Call) -> Outcome {
        let body = self.body(call.body).await?;
        let Object(request): Object<Request> =
            serde_json::from_slice(&body).map_err(|error| Refusal::malformed(&error))?;
        let resource = self.lock_of(store, &request, "ERR_UNLOCK")?;
        let release = resource.locks.unlock(&resource.key, &request.lock_owner).await;
        let release = release
            .map_err(|error| Refusal::internal("ERR_UNLOCK", format!("failed to release lock: {error}")))?;
        let status = match release {
            Release::Success => 0,
            Release::DoesNotExist => 1,
            Release::BelongsToOthers => 2,
        };
        encoded(StatusCode::OK, &Released { status })
    }
}
