//! The configuration API over HTTP: changes are posted to the app that asked for them.

use std::collections::BTreeMap;

use http::StatusCode;
use http::request::Parts;
use serde::Serialize;

use super::query;
use super::reply::{Outcome, empty, encoded};
use crate::api::Api;
use crate::api::configuration::Wish;
use crate::delivery::follow::Shown;

#[derive(Serialize)]
struct Subscribed<'a> {
    id: &'a str,
}

#[derive(Serialize)]
struct Unsubscribed {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ok: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

impl Api {
    pub(super) async fn http_configuration(&self, store: &str, head: &Parts) -> Outcome {
        let query = head.uri.query();
        let items = self.get_configuration(store, &query::all(query, "key"), &query::metadata(query)).await?;
        if items.is_empty() {
            return Ok(empty());
        }
        let items: BTreeMap<&str, Shown<'_>> =
            items.iter().map(|(key, item)| (key.as_str(), Shown::of(Some(item)))).collect();
        encoded(StatusCode::OK, &items)
    }

    pub(super) async fn http_follow(&self, store: &str, head: &Parts) -> Outcome {
        let query = head.uri.query();
        let wish = Wish::new(store, &query::all(query, "key"), query::metadata(query));
        let id = self.follow_configuration(wish).await?;
        encoded(StatusCode::OK, &Subscribed { id: &id })
    }

    pub(super) fn http_unfollow(&self, store: &str, id: &str) -> Outcome {
        match self.unfollow_configuration(store, id)? {
            Ok(()) => encoded(StatusCode::OK, &Unsubscribed { ok: true, message: String::new() }),
            Err(message) => encoded(StatusCode::INTERNAL_SERVER_ERROR, &Unsubscribed { ok: false, message }),
        }
    }
}
