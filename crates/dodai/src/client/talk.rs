//! Commands that reach apps and components: logs, call, publish, config.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use bytes::Bytes;
use dodai_core::call::FAILURE_HEADER;
use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;

use super::arguments::{Call, Config, ConfigKey, Logs, Publish};
use super::connection::{Connection, accepted, encode};
use super::{app_id, data};
use crate::exit::code_of;
use crate::output::Output;

/// `dodai logs`.
pub async fn logs(connection: &Connection, arguments: &Logs, output: &Output) -> anyhow::Result<()> {
    let id = app_id(&arguments.app);
    let mut path = format!("/v1/apps/{id}/logs?tail={}&follow={}", arguments.tail, arguments.follow);
    if let Some(instance) = &arguments.instance {
        path.push_str(&format!("&instance={}", encode(instance)));
    }
    let mut lines = connection.events(&path).await?;
    let external = runs_elsewhere(connection, &id).await;
    if external {
        output.note(&format!("{id} is external: what it writes stays where it runs"));
    }
    let mut silent = !external;
    while let Some(line) = lines.next().await? {
        silent = false;
        if output.line(&line) {
            continue;
        }
        let text = |name: &str| line[name].as_str().unwrap_or_default();
        let from = output.paint(text("instance"), "2");
        let mark = if text("stream") == "note" { "* " } else { "" };
        output.say(&format!("{from} {mark}{}", text("text")));
    }
    if silent {
        output.note(&format!(
            "{id} has written nothing to its standard output or error that is kept; its calls are in `dodai tap`"
        ));
    }
    Ok(())
}

/// Whether nothing here runs an app, so that nothing of what it writes is here.
async fn runs_elsewhere(connection: &Connection, id: &str) -> bool {
    let app = connection.get(&format!("/v1/documents/App/{id}")).await;
    app.is_ok_and(|app| app["spec"]["external"].is_object())
}

/// `dodai call`. The exit code is 1 when the answer is 400 or above.
pub async fn call(connection: &Connection, arguments: &Call, output: &Output) -> anyhow::Result<ExitCode> {
    let body = arguments.data.as_deref().map(data).transpose()?;
    let default = if body.is_some() { "POST" } else { "GET" };
    let method = arguments.method.as_deref().unwrap_or(default);
    let path = format!(
        "/v1/call?app={}&path={}&method={}",
        encode(&app_id(&arguments.app)),
        encode(&arguments.path),
        encode(method)
    );
    let headers: Vec<(&str, &str)> =
        arguments.headers.iter().map(|header| ("dodai-call-header", header.as_str())).collect();
    let response = connection.send(Method::POST, &path, &headers, body.unwrap_or_default()).await?;
    if response.headers().contains_key(FAILURE_HEADER) {
        return refused(response, arguments, output).await;
    }
    let response = accepted(response).await?;
    let status = call_status(&response)?;
    let pairs: Vec<String> = response
        .headers()
        .get_all("dodai-call-header")
        .iter()
        .map(|pair| String::from_utf8_lossy(pair.as_bytes()).into_owned())
        .collect();
    let code = if status < 400 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if output.is_structured() {
        let bytes = super::connection::whole(response.into_body()).await?;
        let text = String::from_utf8_lossy(&bytes);
        output.value(&serde_json::json!({ "status": status, "headers": pairs, "body": text }));
        return Ok(code);
    }
    if arguments.include {
        output.say(&format!("{status}"));
        pairs.iter().for_each(|pair| output.say(pair));
        output.say("");
    }
    let mut body = response.into_body();
    let mut out = std::io::stdout();
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the answer broke off")?;
        if let Some(bytes) = frame.data_ref()
            && out.write_all(bytes).and_then(|()| out.flush()).is_err()
        {
            break;
        }
    }
    if status >= 400 && !arguments.include {
        output.warn(&format!("the app answered {status}"));
    }
    Ok(code)
}

/// What a base answers by itself when a call fails on its way: told as it is, like an answer of the app where
/// status and headers are wanted, else as an error.
async fn refused(
    response: http::Response<hyper::body::Incoming>,
    arguments: &Call,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let failure = response.headers().get(FAILURE_HEADER).and_then(|code| code.to_str().ok());
    let failure = failure.unwrap_or_default().to_owned();
    let status = call_status(&response)?;
    let error = match accepted(response).await {
        Err(error) if arguments.include => error,
        Err(error) => return Err(error),
        Ok(_) => anyhow::bail!("the server told a failure with a good status; is it another version?"),
    };
    let (header, body) = (format!("{FAILURE_HEADER}: {failure}"), format!("dodai: {failure}: {error}"));
    let whole = serde_json::json!({ "status": status, "headers": [header], "body": body });
    if !output.value(&whole) {
        output.say(&format!("{status}\n{header}\n\n{body}"));
    }
    Ok(code_of(&error))
}

/// The status of the call, beside that of the answer which brings it.
fn call_status(response: &http::Response<hyper::body::Incoming>) -> anyhow::Result<u16> {
    let status = response.headers().get("dodai-call-status").and_then(|status| status.to_str().ok());
    status.and_then(|status| status.parse().ok()).context("the server gave no status")
}

/// `dodai publish`.
pub async fn publish(connection: &Connection, arguments: &Publish, output: &Output) -> anyhow::Result<()> {
    let body = data(&arguments.data)?;
    let guessed =
        if serde_json::from_slice::<Value>(&body).is_ok() { "application/json" } else { "text/plain" };
    let kind = arguments.content_type.as_deref().unwrap_or(guessed);
    let Publish { pubsub, topic, namespace, .. } = arguments;
    let path = format!("/v1/publish/{}/{}?namespace={}", encode(pubsub), encode(topic), encode(namespace));
    let answer = connection.json_as(Method::POST, &path, &[("content-type", kind)], body).await?;
    if !output.value(&answer) {
        output.say(&format!("published to {pubsub}/{topic}"));
    }
    Ok(())
}

/// `dodai config`.
pub async fn config(connection: &Connection, arguments: &Config, output: &Output) -> anyhow::Result<()> {
    let path = |key: &ConfigKey| {
        format!("/v1/config/{}/{}?namespace={}", encode(&key.store), encode(&key.key), encode(&key.namespace))
    };
    let (answer, text) = match arguments {
        Config::Get(key) => {
            let answer = connection.get(&path(key)).await?;
            let text = answer["value"].as_str().unwrap_or_default().to_owned();
            (answer, text)
        }
        Config::Set { key, value } => {
            let answer = connection.json(Method::PUT, &path(key), data(value)?).await?;
            (answer, format!("{}/{} set", key.store, key.key))
        }
        Config::Delete(key) => {
            let answer = connection.json(Method::DELETE, &path(key), Bytes::new()).await?;
            (answer, format!("{}/{} deleted", key.store, key.key))
        }
    };
    if !output.value(&answer) {
        output.say(&text);
    }
    Ok(())
}
