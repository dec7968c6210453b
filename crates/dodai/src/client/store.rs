//! `dodai store`: back up and look at the running store; check and restore a stopped one.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::arguments::{Server, Store};
use super::connection::{self, Connection};
use crate::environment::Environment;
use crate::output::Output;
use crate::progress::Progress;

/// Runs the command.
pub async fn run(
    command: Store,
    server: &Server,
    environment: &Environment,
    output: &Output,
) -> anyhow::Result<()> {
    let progress = Progress::on(output);
    match command {
        Store::Backup { path } => {
            let path =
                std::path::absolute(&path).with_context(|| format!("{} is no path", path.display()))?;
            let connection = Connection::find(server, environment)?;
            let bytes = progress.during(|| "backing up".to_owned(), backup(&connection, &path)).await?;
            let answer = json!({ "path": path, "bytes": bytes });
            told(&answer, &format!("backed up to {}", path.display()), output);
        }
        Store::Status => {
            let answer = Connection::find(server, environment)?.get("/v1/store").await?;
            if !output.value(&answer) {
                output.say(super::to_yaml(&answer).trim_end());
            }
        }
        Store::Verify { path } => {
            anyhow::ensure!(path.is_file(), "there is no file {}", path.display());
            let verify = tokio::task::spawn_blocking(move || dodai_store::verify(&path));
            let status = progress.during(|| "checking".to_owned(), verify).await??;
            let answer = json!({ "revision": status.revision.0, "keys": status.keys, "size_bytes": status.size_bytes });
            told(&answer, &format!("sound: {} keys at revision {}", status.keys, status.revision), output);
        }
        Store::Restore { path } => {
            let data = match (&server.data_folder, &server.project_folder) {
                (Some(data), _) => data.clone(),
                (None, Some(folder)) => folder.join(".dodai"),
                (None, None) => std::env::current_dir()?.join(".dodai"),
            };
            if let Some(file) = connection::running(&data)? {
                anyhow::bail!(
                    "process {} runs on {}; stop it with `dodai down` first",
                    file.pid,
                    data.display()
                );
            }
            anyhow::ensure!(
                data.is_dir(),
                "there is no data folder {}; name it with --folder or --data-folder",
                data.display()
            );
            let to = data.join(crate::up::STORE);
            let answer = json!({ "restored": to });
            let text = format!("restored {}; the store that was there is beside it", to.display());
            let restore = tokio::task::spawn_blocking(move || dodai_store::restore(&path, &to));
            progress.during(|| "restoring".to_owned(), restore).await??;
            told(&answer, &text, output);
        }
    }
    Ok(())
}

/// Keeps the server's copy of its store in a new file, which only its owner can read: it holds secrets. The name
/// is there once the copy is whole.
async fn backup(connection: &Connection, path: &Path) -> anyhow::Result<u64> {
    anyhow::ensure!(!path.exists(), "{} exists; choose another name or remove it", path.display());
    let cannot = || format!("cannot write {}", path.display());
    let folder = path.parent().with_context(cannot)?;
    let mut partial =
        tempfile::Builder::new().prefix(".dodai-backup").tempfile_in(folder).with_context(cannot)?;
    let answer = connection.send(Method::POST, "/v1/store/backup", &[], Bytes::new()).await?;
    let mut body = connection::accepted(answer).await?.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the server went away while it was sending the backup")?;
        if let Some(data) = frame.data_ref() {
            partial.write_all(data).with_context(cannot)?;
            bytes += data.len() as u64;
        }
    }
    partial.as_file().sync_all().with_context(cannot)?;
    partial.persist_noclobber(path).with_context(cannot)?;
    Ok(bytes)
}

fn told(answer: &Value, text: &str, output: &Output) {
    if !output.value(answer) {
        output.say(text);
    }
}
