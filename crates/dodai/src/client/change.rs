//! Commands that change documents: apply, diff, delete.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bytes::Bytes;
use dodai_api::{Document, Kind};
use http::Method;
use serde_json::{Value, json};

use super::arguments::{Apply, Delete, Diff};
use super::connection::{Connection, encode};
use super::show;
use crate::exit::{DIFFERS, Failed};
use crate::local::MAX_ARTIFACT_BYTES;
use crate::output::Output;
use crate::progress::Progress;
use crate::validate::{self, File};

/// `dodai apply`.
pub async fn apply(connection: &Connection, arguments: &Apply, output: &Output) -> anyhow::Result<()> {
    let paths = arguments.paths.resolve()?;
    let mut query = vec![format!("owner={}&dryRun={}", arguments.owner, arguments.dry_run)];
    if arguments.prune {
        let [path] = paths.as_slice() else {
            anyhow::bail!("--prune takes one path: what it removes is what came from there earlier");
        };
        query.push(format!("prune={}", encode(&path.canonicalize()?.display().to_string())));
    }
    let progress = Progress::on(output);
    let answer = send(connection, &paths, &query.join("&"), !arguments.dry_run, progress).await?;
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
pub async fn diff(connection: &Connection, arguments: &Diff, output: &Output) -> anyhow::Result<ExitCode> {
    let progress = Progress::on(output);
    let answer =
        send(connection, &arguments.paths.resolve()?, "owner=file&dryRun=true", false, progress).await?;
    warn(&answer, output);
    let mut documents = answer["documents"].as_array().into_iter().flatten();
    let differs = documents.any(|document| document["verdict"] != "unchanged");
    let code = if differs && arguments.exit_code { ExitCode::from(DIFFERS) } else { ExitCode::SUCCESS };
    if output.value(&answer) {
        return Ok(code);
    }
    for document in answer["documents"].as_array().into_iter().flatten() {
        let text = |name: &str| document[name].as_str().unwrap_or_default();
        if text("verdict") == "unchanged" {
            continue;
        }
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
    if !differs {
        output.say("nothing would change");
    }
    Ok(code)
}

/// `dodai delete`.
pub async fn delete(connection: &Connection, arguments: &Delete, output: &Output) -> anyhow::Result<()> {
    if let Some(wanted) = &arguments.wanted {
        let (kind, name) = wanted.one(arguments.name.as_deref())?;
        let answer = remove(connection, kind, &arguments.namespace, &name).await?;
        if !output.value(&answer) {
            output.say(&format!("{kind}/{}/{name} deleted", arguments.namespace));
        }
        return Ok(());
    }
    let files = collect(&arguments.paths)?;
    // Only what they are called counts: what they refer to may be gone already.
    let mut project = dodai_api::Project::default();
    for file in &files {
        let one = dodai_api::read(&dodai_api::Source { name: &file.name, bytes: &file.bytes });
        project.read.documents.extend(one.documents);
        project.read.errors.extend(one.errors);
    }
    validate::report(&project, &files, output);
    anyhow::ensure!(project.read.errors.is_empty(), Failed::Invalid);
    let (mut deleted, mut missing) = (Vec::new(), Vec::new());
    // What refers to others comes behind them in most files, and goes first.
    for located in project.read.documents.iter().rev() {
        let key = located.value.key();
        match remove(connection, key.kind, key.namespace.as_str(), key.name.as_str()).await {
            Ok(_) => {
                output.say(&format!("{key} deleted"));
                deleted.push(key.to_string());
            }
            Err(error) if error.downcast_ref::<Failed>() == Some(&Failed::NotFound) => {
                output.warn(&format!("{key} is not there"));
                missing.push(key.to_string());
            }
            Err(error) => return Err(error.context(format!("{key} cannot be deleted"))),
        }
    }
    let _for_people = output.value(&json!({ "deleted": deleted, "missing": missing }));
    anyhow::ensure!(!deleted.is_empty(), anyhow::Error::new(Failed::NotFound).context("nothing was deleted"));
    Ok(())
}

async fn remove(connection: &Connection, kind: Kind, namespace: &str, name: &str) -> anyhow::Result<Value> {
    let path = format!("/v1/documents/{kind}/{}/{}", encode(namespace), encode(name));
    connection.json(Method::DELETE, &path, Bytes::new()).await
}

fn warn(answer: &Value, output: &Output) {
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        output.warn(&show::problem(warning));
    }
}

/// The documents below some paths.
fn collect(paths: &[PathBuf]) -> anyhow::Result<Vec<File>> {
    let mut files = Vec::new();
    for path in paths {
        let mut below = Vec::new();
        validate::collect(path, &mut below)?;
        // A file that was named by hand and holds no document: its problem is to be told.
        let is_folder = path.is_dir();
        below.retain(|file| !is_folder || validate::holds_documents(file));
        files.extend(below);
    }
    anyhow::ensure!(!files.is_empty(), "there are no documents in {}", listed(paths));
    Ok(files)
}

/// Sends the documents below some paths, and digests of the modules that they name; with `upload`, those modules
/// too.
async fn send(
    connection: &Connection,
    paths: &[PathBuf],
    query: &str,
    upload: bool,
    progress: Progress,
) -> anyhow::Result<Value> {
    let files = collect(paths)?;
    let mut artifacts = BTreeMap::new();
    for (app, bytes) in modules(connection, &files).await? {
        let digest = match upload {
            true => connection.upload(bytes.into(), progress).await?,
            false => dodai_modules::digest_of(&bytes).to_string(),
        };
        artifacts.insert(app, digest);
    }
    let file = |file: &File| json!({ "name": file.name, "content": String::from_utf8_lossy(&file.bytes) });
    let body = json!({ "files": files.iter().map(file).collect::<Vec<_>>(), "artifacts": artifacts });
    let headers = [("content-type", "application/json")];
    let path = format!("/v1/documents?{query}");
    let sent = connection.json_as(Method::POST, &path, &headers, body.to_string().into());
    progress.during(|| "applying documents".to_owned(), sent).await
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The modules that the server cannot read by itself, those outside the folder it runs on, by `namespace/name` of
/// their apps. What comes from standard input is relative to the current folder.
async fn modules(connection: &Connection, files: &[File]) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let status = connection.get("/v1/status").await?;
    let own = status["folder"].as_str().map(PathBuf::from);
    let mut modules = Vec::new();
    for file in files {
        let folder = if file.name == validate::STDIN {
            std::env::current_dir()?
        } else {
            let path =
                Path::new(&file.name).canonicalize().with_context(|| format!("cannot find {}", file.name))?;
            path.parent().unwrap_or(Path::new("/")).to_owned()
        };
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
            let bytes = dodai_core::file::read(&path, MAX_ARTIFACT_BYTES).with_context(|| {
                format!("cannot read {}, the artefact of app {}", path.display(), app.metadata.name)
            })?;
            modules.push((format!("{}/{}", app.metadata.namespace, app.metadata.name), bytes));
        }
    }
    Ok(modules)
}
