//! Commands that change documents: apply, diff, delete.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use dodai_api::Document;
use http::Method;
use serde_json::{Value, json};

use super::arguments::{Apply, Diff, One};
use super::connection::{Connection, encode};
use super::show;
use crate::output::Output;
use crate::validate::{self, File};

/// `dodai apply`.
pub async fn apply(connection: &Connection, arguments: &Apply, output: &Output) -> anyhow::Result<()> {
    let mut query = vec!["owner=file".to_owned(), format!("dryRun={}", arguments.dry_run)];
    if arguments.prune {
        let [path] = arguments.paths.as_slice() else {
            anyhow::bail!("--prune takes one path: what it removes is what came from there earlier");
        };
        query.push(format!("prune={}", encode(&path.canonicalize()?.display().to_string())));
    }
    let answer = send(connection, &arguments.paths, &query.join("&"), !arguments.dry_run).await?;
    warn(&answer, output);
    if output.value(&answer) {
        return Ok(());
    }
    let suffix = if arguments.dry_run { " (dry run)" } else { "" };
    for document in answer["documents"].as_array().into_iter().flatten() {
        let text = |name: &str| document[name].as_str().unwrap_or_default();
        output.say(&format!("{} {}{suffix}", text("key"), text("verdict")));
    }
    Ok(())
}

/// `dodai diff`.
pub async fn diff(connection: &Connection, arguments: &Diff, output: &Output) -> anyhow::Result<()> {
    let answer = send(connection, &arguments.paths, "owner=file&dryRun=true", false).await?;
    warn(&answer, output);
    if output.value(&answer) {
        return Ok(());
    }
    let mut any = false;
    for document in answer["documents"].as_array().into_iter().flatten() {
        let text = |name: &str| document[name].as_str().unwrap_or_default();
        if text("verdict") == "unchanged" {
            continue;
        }
        any = true;
        output.say(&output.paint(&format!("{} {}", text("key"), text("verdict")), "1"));
        for change in document["changes"].as_array().into_iter().flatten() {
            let path = change["path"].as_str().unwrap_or_default();
            for (mark, side, colour) in [("-", "old", "31"), ("+", "new", "32")] {
                if !change[side].is_null() {
                    output.say(&output.paint(&format!("  {mark} {path}: {}", change[side]), colour));
                }
            }
        }
    }
    if !any {
        output.say("nothing would change");
    }
    Ok(())
}

/// `dodai delete`.
pub async fn delete(connection: &Connection, arguments: &One, output: &Output) -> anyhow::Result<()> {
    let One { kind, name, namespace } = arguments;
    let path = format!("/v1/documents/{kind}/{}/{}", encode(namespace), encode(name));
    let answer = connection.json(Method::DELETE, &path, Bytes::new()).await?;
    if !output.value(&answer) {
        output.say(&format!("{kind}/{namespace}/{name} deleted"));
    }
    Ok(())
}

fn warn(answer: &Value, output: &Output) {
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        output.warn(&show::problem(warning));
    }
}

/// Sends the documents below some paths.
async fn send(
    connection: &Connection,
    paths: &[PathBuf],
    query: &str,
    upload: bool,
) -> anyhow::Result<Value> {
    let mut files = Vec::new();
    for path in paths {
        validate::collect(path, &mut files)?;
    }
    files.retain(|file| holds_documents(&file.bytes));
    anyhow::ensure!(!files.is_empty(), "there are no documents in {}", listed(paths));
    let artifacts = if upload { upload_artifacts(connection, &files).await? } else { BTreeMap::new() };
    let file = |file: &File| json!({ "name": file.name, "content": String::from_utf8_lossy(&file.bytes) });
    let body = json!({ "files": files.iter().map(file).collect::<Vec<_>>(), "artifacts": artifacts });
    let headers = [("content-type", "application/json")];
    connection
        .json_as(Method::POST, &format!("/v1/documents?{query}"), &headers, body.to_string().into())
        .await
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn holds_documents(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    // A file without an API version at all was named by hand: its problem is to be told.
    text.contains("dodai.dev/") || text.contains("dapr.io/") || !text.contains("apiVersion")
}

/// Uploads the modules that the server cannot read by itself: those outside the folder it runs on.
async fn upload_artifacts(
    connection: &Connection,
    files: &[File],
) -> anyhow::Result<BTreeMap<String, String>> {
    let status = connection.get("/v1/status").await?;
    let own = status["folder"].as_str().map(PathBuf::from);
    let mut digests = BTreeMap::new();
    for file in files {
        let path =
            Path::new(&file.name).canonicalize().with_context(|| format!("cannot find {}", file.name))?;
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        if own.as_ref().is_some_and(|own| folder.starts_with(own)) {
            continue;
        }
        let read = dodai_api::read(&dodai_api::Source { name: &file.name, bytes: &file.bytes });
        for located in read.documents {
            let Document::App(app) = located.value else { continue };
            let Some(module) = app.spec.module.filter(|module| !module.artifact.starts_with("sha256:"))
            else {
                continue;
            };
            let path = folder.join(&module.artifact);
            let bytes = std::fs::read(&path).with_context(|| {
                format!("cannot read {}, the artefact of app {}", path.display(), app.metadata.name)
            })?;
            let answer = connection.json(Method::POST, "/v1/artifacts", bytes.into()).await?;
            let digest = answer["digest"].as_str().context("the server gave no digest")?;
            digests.insert(format!("{}/{}", app.metadata.namespace, app.metadata.name), digest.to_owned());
        }
    }
    Ok(digests)
}
