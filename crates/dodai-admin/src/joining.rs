//! Join tokens: what a base needs to come to this server for the first time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use dodai_core::id::BaseId;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use crate::Refusal;
use crate::api::{Answer, Shared, json as answer, read};
use crate::documents::actor;

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wanted {
    base: Option<String>,
    ttl_seconds: Option<u64>,
}

/// `POST /v1/tokens` with `{"base": "one", "ttlSeconds": 900}`, both optional. The token is shown this once.
pub(crate) async fn create(State(parts): Shared, headers: HeaderMap, body: Body) -> Answer {
    let Some(joining) = &parts.joining else {
        let text = "no base can join this process";
        let refusal = Refusal::new(StatusCode::CONFLICT, "not_a_server", text);
        return Err(refusal.remedy("run `dodai server`, and make the token there"));
    };
    let remedy = "send `{\"base\": \"one\", \"ttlSeconds\": 900}`";
    let body = read(body, 4096).await?;
    let wanted: Wanted = serde_json::from_slice(if body.is_empty() { b"{}" } else { &body })
        .map_err(|error| Refusal::bad_request(format!("the body: {error}")).remedy(remedy))?;
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
    let token = parts.control.join_token(base.clone(), ttl, &actor(&headers)).await?;
    answer(&json!({
        "token": token.reveal(),
        "base": base.map(|base| base.to_string()),
        "ttlSeconds": ttl.as_secs(),
        "server": joining.address,
        "pin": *joining.pin.borrow(),
        "trustDomain": joining.domain,
    }))
}
