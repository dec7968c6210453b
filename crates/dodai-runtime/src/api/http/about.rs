//! Metadata, health and shutdown over HTTP.

use dodai_core::call::Call;
use http::StatusCode;

use super::query;
use super::reply::{Outcome, empty, encoded};
use crate::api::Api;
use crate::api::refusal::Refusal;

impl Api {
    pub(super) fn http_metadata(&self) -> Outcome {
        encoded(StatusCode::OK, &self.metadata())
    }

    pub(super) async fn http_set_metadata(&self, key: String, call: Call) -> Outcome {
        let value = self.body(call.body).await?;
        self.set_metadata(key, String::from_utf8_lossy(&value).into_owned())?;
        Ok(empty())
    }

    pub(super) fn http_health(&self, call: &Call) -> Outcome {
        self.health()?;
        match query::first(call.head.uri.query(), "appid") {
            Some(wanted) if wanted != self.app.name.as_str() => {
                Err(Refusal::internal("ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match"))
            }
            Some(_) | None => Ok(empty()),
        }
    }

    pub(super) fn http_outbound_health(&self) -> Outcome {
        self.outbound_health()?;
        Ok(empty())
    }

    pub(super) fn http_shutdown(&self) -> Outcome {
        self.shutdown();
        Ok(empty())
    }
}
