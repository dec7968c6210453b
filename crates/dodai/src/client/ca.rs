//! `dodai ca`: the roots of the mesh, the steps of exchanging one, and what is revoked.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::{Args, Subcommand};
use dodai_core::snapshot::Whose;
use http::Method;
use serde_json::Value;

use super::LOOK;
use super::connection::{Connection, encode};
use crate::output::Output;
use crate::progress::Progress;

/// `dodai ca`.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Show the roots, where a rotation stands, what each base has confirmed, and what is revoked.
    Show,
    /// Begin to exchange the root: make a new one, and let every base trust it beside the old one.
    Rotate(Wait),
    /// Go on: let the new root sign, and have every certificate renewed by it.
    Issue(Step),
    /// End it: take the old root out. There is no way back from here.
    Finish(Step),
    /// Call it off. What the new root has signed is renewed by the old one; `finish` then takes the new one out.
    Cancel(Wait),
    /// Make certificates void: those of a base and of the apps on it, those of an app, or a single one.
    #[command(
        after_help = "Example:\n  dodai ca revoke base/one\n  dodai ca revoke app/shop/cart\n  dodai ca revoke serial/4f00a1..."
    )]
    Revoke(Which),
    /// Take that back.
    Reinstate(Which),
}

/// A step of a rotation that needs the one before to be confirmed.
#[derive(Args, Debug)]
pub struct Step {
    /// Go on although bases have not confirmed the step before; they may have to join again.
    #[arg(long)]
    pub force: bool,
    /// Whether to wait.
    #[command(flatten)]
    pub wait: Wait,
}

/// Whether to wait for a step.
#[derive(Args, Debug)]
pub struct Wait {
    /// Wait until every base has confirmed this step.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait.
    #[arg(long, default_value = "5m", value_name = "TIME", requires = "wait")]
    pub timeout: dodai_api::TimeSpan,
}

/// Whose certificates.
#[derive(Args, Debug)]
pub struct Which {
    /// `base/NAME`, `app/NAMESPACE/NAME` or `serial/HEX`.
    #[arg(value_parser = whose)]
    pub whose: Whose,
}

fn whose(text: &str) -> Result<Whose, String> {
    Whose::parse(text).ok_or_else(|| {
        format!("`{text}` names no certificates; write base/NAME, app/NAMESPACE/NAME or serial/HEX")
    })
}

/// Runs the command.
pub async fn run(connection: &Connection, command: &Ca, output: &Output) -> anyhow::Result<()> {
    let answer = match command {
        Ca::Show => connection.get("/v1/ca").await?,
        Ca::Rotate(wait) => step(connection, "rotate", wait, output).await?,
        Ca::Issue(how) => step(connection, &forced("issue", how), &how.wait, output).await?,
        Ca::Finish(how) => step(connection, &forced("finish", how), &how.wait, output).await?,
        Ca::Cancel(wait) => step(connection, "cancel", wait, output).await?,
        Ca::Revoke(which) => revoked(connection, Method::PUT, which).await?,
        Ca::Reinstate(which) => revoked(connection, Method::DELETE, which).await?,
    };
    if !output.value(&answer) {
        show(&answer, output);
    }
    Ok(())
}

fn forced(name: &str, how: &Step) -> String {
    format!("{name}?force={}", how.force)
}

async fn step(connection: &Connection, what: &str, how: &Wait, output: &Output) -> anyhow::Result<Value> {
    let mut answer = connection.json(Method::POST, &format!("/v1/ca/steps/{what}"), Bytes::new()).await?;
    if !how.wait {
        return Ok(answer);
    }
    let confirmed = async {
        while !waited_for(&answer).is_empty() {
            tokio::time::sleep(LOOK).await;
            answer = connection.get("/v1/ca").await?;
        }
        anyhow::Ok(())
    };
    let limit: Duration = how.timeout.get();
    let done = Progress::on(output)
        .during(|| "waiting for the bases".to_owned(), tokio::time::timeout(limit, confirmed))
        .await;
    match done {
        Ok(done) => done?,
        Err(_) => {
            return Err(anyhow::anyhow!(waited_for(&answer).join("; "))).context(format!(
                "not all bases have confirmed within {limit:?}; `dodai ca show` says more"
            ));
        }
    }
    Ok(answer)
}

async fn revoked(connection: &Connection, method: Method, which: &Which) -> anyhow::Result<Value> {
    let parts: Vec<String> = which.whose.to_string().split('/').map(encode).collect();
    connection.json(method, &format!("/v1/ca/revoked/{}", parts.join("/")), Bytes::new()).await
}

fn items<'a>(answer: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    answer[list].as_array().into_iter().flatten()
}

fn waited_for(answer: &Value) -> Vec<String> {
    let why = |base: &Value| Some(format!("base {}: {}", base["name"].as_str()?, base["waitsFor"].as_str()?));
    items(answer, "bases").filter_map(why).collect()
}

fn show(answer: &Value, output: &Output) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let phase = text(&answer["phase"]);
    let next = match phase.as_str() {
        "steady" => "one root; nothing is being exchanged",
        "announced" => "the new root is being made known; next: `dodai ca issue`",
        "issuing" => "certificates are being renewed by the new root; next: `dodai ca finish`",
        "returning" => "called off, certificates are being renewed by the old root; next: `dodai ca finish`",
        "finishing" => {
            "the old root could not be taken out, and there is no way back; next: `dodai ca finish` again"
        }
        _ => "",
    };
    output.say(&format!("{phase}: {next}\n"));
    let yes = |holds: bool| if holds { "yes" } else { "no" }.to_owned();
    let roots: Vec<Vec<String>> = items(answer, "roots")
        .map(|root| vec![text(&root["pin"]), yes(root["signs"].as_bool().unwrap_or_default())])
        .collect();
    output.table(&["ROOT", "SIGNS"], &roots);
    let bases: Vec<Vec<String>> = items(answer, "bases")
        .map(|base| {
            let count = base["trusts"].as_array().map_or(0, Vec::len);
            let waits = base["waitsFor"].as_str().unwrap_or("nothing").to_owned();
            let connected = yes(base["connected"].as_bool().unwrap_or_default());
            vec![text(&base["name"]), connected, count.to_string(), waits]
        })
        .collect();
    output.say("");
    output.table(&["BASE", "CONNECTED", "ROOTS", "WAITS FOR"], &bases);
    let revoked: Vec<Vec<String>> = items(answer, "revoked")
        .map(|one| vec![text(&one["whose"]), one["until"].to_string(), text(&one["actor"])])
        .collect();
    if !revoked.is_empty() {
        output.say("");
        output.table(&["REVOKED", "ISSUED UNTIL", "BY"], &revoked);
    }
}
