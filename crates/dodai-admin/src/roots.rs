//! The certificate authority: its roots, the steps of exchanging one, and what is revoked.

use std::sync::Arc;

use axum::extract::{Path, State};
use dodai_core::snapshot::Whose;
use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::Refusal;
use crate::api::{Parts, Shared};
use crate::seam::{RootStep, Roots, Trust};
use crate::wire::{Actor, Answer, Query, json};

fn roots(parts: &Parts) -> Result<&Arc<dyn Roots>, Refusal> {
    parts.roots.as_ref().ok_or_else(|| {
        let refusal =
            Refusal::new(StatusCode::CONFLICT, "not_a_server", "this process signs no certificates");
        refusal.remedy("ask the `dodai server` that the bases joined")
    })
}

/// Bases have not confirmed what the next step needs.
pub fn not_confirmed(waits: &[String]) -> Refusal {
    let text = format!("not all bases have confirmed the step before: {}", waits.join("; "));
    Refusal::new(StatusCode::CONFLICT, "not_confirmed", text).remedy(
        "wait for them (`dodai ca show`), remove those that are gone for good (`dodai delete base NAME`), or go on without them with --force: they may have to join again then",
    )
}

/// The rotation stands where the step leads nowhere.
pub fn out_of_order(why: String) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "rotation", why)
}

/// `GET /v1/ca`
pub(crate) async fn show(State(parts): Shared) -> Answer<Trust> {
    json(&roots(&parts)?.show().await?)
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct StepPath {
    /// `rotate`, `issue`, `finish` or `cancel`.
    step: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct How {
    /// Whether to pass over bases that have not confirmed the step before.
    #[serde(default)]
    force: bool,
}

/// `POST /v1/ca/steps/{rotate|issue|finish|cancel}?force=true`
pub(crate) async fn step(
    State(parts): Shared,
    Path(StepPath { step }): Path<StepPath>,
    Query(How { force }): Query<How>,
    Actor(actor): Actor,
) -> Answer<Trust> {
    let step = RootStep::parse(&step).ok_or_else(|| {
        Refusal::not_found(format!("`{step}` is no step of exchanging a root"))
            .remedy("the steps are rotate, issue, finish and cancel")
    })?;
    json(&roots(&parts)?.step(step, force, actor).await?)
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct RevokedPath {
    /// `base/NAME`, `app/NAMESPACE/NAME` or `serial/HEX`.
    whose: String,
}

/// `PUT /v1/ca/revoked/{base/NAME | app/NAMESPACE/NAME | serial/HEX}`
pub(crate) async fn revoke(
    State(parts): Shared,
    Path(RevokedPath { whose }): Path<RevokedPath>,
    Actor(actor): Actor,
) -> Answer<Trust> {
    json(&roots(&parts)?.revoke(named(&whose)?, false, actor).await?)
}

/// `DELETE` of the same.
pub(crate) async fn reinstate(
    State(parts): Shared,
    Path(RevokedPath { whose }): Path<RevokedPath>,
    Actor(actor): Actor,
) -> Answer<Trust> {
    json(&roots(&parts)?.revoke(named(&whose)?, true, actor).await?)
}

fn named(text: &str) -> Result<Whose, Refusal> {
    Whose::parse(text).ok_or_else(|| {
        let refusal = Refusal::bad_request(format!("`{text}` names no certificates"));
        refusal.remedy("name them as base/NAME, app/NAMESPACE/NAME or serial/HEX")
    })
}
