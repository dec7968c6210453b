//! The secrets API over HTTP.

use std::collections::BTreeMap;

use http::StatusCode;
use http::request::Parts;

use super::query;
use super::reply::{Outcome, encoded};
use crate::api::Api;
use crate::api::secrets::revealed;

impl Api {
    pub(super) async fn http_secret(&self, store: &str, key: &str, head: &Parts) -> Outcome {
        let values = self.get_secret(store, key, &query::metadata(head.uri.query())).await?;
        encoded(StatusCode::OK, &revealed(&values))
    }

    pub(super) async fn http_secrets(&self, store: &str, head: &Parts) -> Outcome {
        let all = self.get_secrets(store, &query::metadata(head.uri.query())).await?;
        let shown: BTreeMap<&str, BTreeMap<&str, &str>> =
            all.iter().map(|(name, values)| (name.as_str(), revealed(values))).collect();
        encoded(StatusCode::OK, &shown)
    }
}
