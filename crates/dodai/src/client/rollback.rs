//! `dodai rollback`: an app made what an earlier revision of it was, step by step like a deploy.

use anyhow::Context;
use clap::Args;
use http::Method;
use serde_json::json;

use super::app_to_change;
use super::connection::{Connection, encode};
use super::deploy::{Steps, follow};
use crate::output::Output;

/// `dodai rollback`.
#[derive(Args, Debug)]
pub struct Rollback {
    /// The app: `name`, `app/name` or `namespace/name`.
    pub app: String,
    /// The revision to go back to, from `dodai get revisions`; default: the one that served before.
    #[arg(long, value_name = "REVISION")]
    pub to: Option<dodai_api::RevisionId>,
    /// Wait until that revision has all traffic and the other is gone.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
}

/// Runs the command.
pub async fn run(connection: &Connection, arguments: &Rollback, output: &Output) -> anyhow::Result<()> {
    let id = app_to_change(connection, &arguments.app).await?;
    let (namespace, name) = id.split_once('/').context("write the app as `name` or `namespace/name`")?;
    let mut steps = Steps::new(output);
    let path = format!("/v1/apps/{}/{}/rollback", encode(namespace), encode(name));
    let headers = [("content-type", "application/json")];
    let body = json!({ "to": arguments.to }).to_string();
    let answer = connection.json_as(Method::POST, &path, &headers, body.into()).await?;
    let revision = answer["revision"].as_str().unwrap_or_default();
    steps.done("accepted", &format!("{id} back to revision {revision}"));
    let wait = arguments.wait.then_some(arguments.timeout);
    follow(connection, (namespace, name), &answer, wait, &mut steps).await?;
    output.value(&json!({ "app": id, "revision": revision, "steps": steps.seconds() }));
    Ok(())
}
