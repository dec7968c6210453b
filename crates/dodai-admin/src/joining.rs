//! Join tokens: what a base needs to come to this server for the first time.

use std::time::Duration;

use axum::extract::State;
use dodai_core::id::BaseId;
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::Refusal;
use crate::api::Shared;
use crate::wire::{Actor, Answer, Ask, Asked, json};

/// How long a token is good unless asked otherwise.
const DEFAULT_TTL: Duration = Duration::from_secs(15 * 60);
/// How long it must be good at least: somebody has to bring it to its base.
const LEAST_TTL: Duration = Duration::from_secs(10);
/// How long it can be good at most.
const MOST_TTL: Duration = Duration::from_secs(24 * 3600);

/// How bases come to this server.
#[derive(Clone, Debug)]
pub struct Joining {
    /// `host:port` of the control stream, as bases reach it.
    pub address: String,
    /// The pin of the certificate authority; a rotation changes it.
    pub pin: watch::Receiver<String>,
    /// The trust domain.
    pub domain: String,
}

/// What token is wanted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "TokenWanted")]
pub(crate) struct Wanted {
    /// The only base that may use it; any where it is left out.
    base: Option<String>,
    /// How long it is good in seconds, 15 minutes where it is left out: 10 at least, a day at most.
    ttl_seconds: Option<u64>,
}

impl Ask for Wanted {
    const LOOKS: &'static str = r#"{"base": "one", "ttlSeconds": 900}"#;
}

/// A token with which a base joins, and what it needs beside it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "JoinToken")]
pub(crate) struct Made {
    /// The token.
    token: String,
    /// The only base that may use it, if not any.
    base: Option<String>,
    /// How long it is good, in seconds.
    ttl_seconds: u64,
    /// `host:port` of the control stream, as bases reach it.
    server: String,
    /// The pin of the certificate authority.
    pin: String,
    /// The trust domain.
    trust_domain: String,
}

/// `POST /v1/tokens` with `{"base": "one", "ttlSeconds": 900}`, both optional. The token is shown this once.
pub(crate) async fn create(
    State(parts): Shared,
    Actor(actor): Actor,
    Asked(wanted): Asked<Wanted>,
) -> Answer<Made> {
    let Some(joining) = &parts.joining else {
        let text = "no base can join this process";
        let refusal = Refusal::new(StatusCode::CONFLICT, "not_a_server", text);
        return Err(refusal.remedy("run `dodai server`, and make the token there"));
    };
    if let Some(base) = &wanted.base
        && let Err(error) = base.parse::<dodai_api::Name>()
    {
        return Err(Refusal::bad_request(format!("`{base}` cannot be a base's name: {error}")));
    }
    let ttl = wanted.ttl_seconds.map_or(DEFAULT_TTL, Duration::from_secs);
    if ttl < LEAST_TTL {
        let text = format!("a join token is good for {} s at least", LEAST_TTL.as_secs());
        return Err(Refusal::bad_request(text).remedy("leave the time out for 15 minutes"));
    }
    if ttl > MOST_TTL {
        let text = format!("a join token is good for {} hours at most", MOST_TTL.as_secs() / 3600);
        return Err(Refusal::bad_request(text).remedy("make a new one when it is needed"));
    }
    let base = wanted.base.map(BaseId::new);
    let token = parts.control.join_token(base.clone(), ttl, &actor).await?;
    json(&Made {
        token: token.reveal().to_owned(),
        base: base.map(|base| base.to_string()),
        ttl_seconds: ttl.as_secs(),
        server: joining.address.clone(),
        pin: joining.pin.borrow().clone(),
        trust_domain: joining.domain.clone(),
    })
}
