//! The lock API over HTTP.

use dodai_capability::lock::Release;
use dodai_core::call::Call;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::object::Object;
use super::reply::{Outcome, encoded};
use crate::api::Api;
use crate::api::lock::Wish;
use crate::api::refusal::Refusal;

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

impl Request {
    fn wish(&self) -> Wish<'_> {
        Wish { resource: &self.resource_id, owner: &self.lock_owner }
    }
}

#[derive(Serialize)]
struct Taken {
    success: bool,
}

#[derive(Serialize)]
struct Released {
    status: u8,
}

impl Api {
    async fn lock_request(&self, call: Call) -> Result<Request, Refusal> {
        let body = self.body(call.body).await?;
        let request: Result<Object<Request>, _> = serde_json::from_slice(&body);
        request.map(|Object(request)| request).map_err(|error| Refusal::malformed(&error))
    }

    pub(super) async fn http_try_lock(&self, store: &str, call: Call) -> Outcome {
        let request = self.lock_request(call).await?;
        let success = self.try_lock(store, &request.wish(), request.expiry_in_seconds).await?;
        encoded(StatusCode::OK, &Taken { success })
    }

    pub(super) async fn http_unlock(&self, store: &str, call: Call) -> Outcome {
        let request = self.lock_request(call).await?;
        let status = match self.unlock(store, &request.wish()).await? {
            Release::Success => 0,
            Release::DoesNotExist => 1,
            Release::BelongsToOthers => 2,
        };
        encoded(StatusCode::OK, &Released { status })
    }
}
