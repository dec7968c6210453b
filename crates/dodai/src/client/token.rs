//! `dodai token create`: what a base needs to join, and the command to paste there.

use http::Method;
use serde_json::json;

use super::arguments::{Token, TokenCreate};
use super::connection::Connection;
use crate::output::Output;

/// The trust domain that need not be said.
const USUAL_DOMAIN: &str = "cluster.local";

/// Runs the command.
pub async fn run(connection: &Connection, arguments: &Token, output: &Output) -> anyhow::Result<()> {
    let Token::Create(TokenCreate { base, ttl }) = arguments;
    let body = json!({ "base": base, "ttlSeconds": ttl.get().as_secs() }).to_string();
    let headers = [("content-type", "application/json")];
    let answer = connection.json_as(Method::POST, "/v1/tokens", &headers, body.into()).await?;
    if output.value(&answer) {
        return Ok(());
    }
    let text = |name: &str| answer[name].as_str().unwrap_or_default();
    output.say(text("token"));
    let minutes = answer["ttlSeconds"].as_u64().unwrap_or(0).div_ceil(60);
    output.say(&format!("\ngood once, for {minutes} minutes; on the machine of the base run:\n"));
    let name = base.as_ref().map(|base| format!(" --name {base}")).unwrap_or_default();
    let domain = text("trustDomain");
    let domain = if domain == USUAL_DOMAIN { String::new() } else { format!(" --trust-domain {domain}") };
    output.say(&format!(
        "  dodai base --join {}{name}{domain} --token {} \\\n    --pin {}",
        text("server"),
        text("token"),
        text("pin")
    ));
    output.say("\nwhere bases are on several machines, add `--mesh ADDRESS:7444`, at which the others reach this one");
    Ok(())
}
