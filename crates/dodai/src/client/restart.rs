//! `dodai restart`: an app started anew, its new instances beside the old until they serve.

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::json;

use super::app_to_change;
use super::connection::{Connection, encode};
use super::deploy::{Steps, follow};
use crate::output::Output;

/// `dodai restart`.
#[derive(Args, Debug)]
pub struct Restart {
    /// The app: `name`, `app/name` or `namespace/name`.
    pub app: String,
    /// Wait until the new instances have all traffic and the old ones are gone.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
}

/// Runs the command.
pub async fn run(connection: &Connection, arguments: &Restart, output: &Output) -> anyhow::Result<()> {
    let id = app_to_change(connection, &arguments.app).await?;
    let (namespace, name) = id.split_once('/').context("write the app as `name` or `namespace/name`")?;
    let mut steps = Steps::new(output);
    let path = format!("/v1/apps/{}/{}/restart", encode(namespace), encode(name));
    let answer = connection.json(Method::POST, &path, Bytes::new()).await?;
    steps.done("accepted", &id);
    let wait = arguments.wait.then_some(arguments.timeout);
    let revision = follow(connection, (namespace, name), &answer, wait, &mut steps).await?;
    output.value(&json!({ "app": id, "revision": revision, "steps": steps.seconds() }));
    Ok(())
}
