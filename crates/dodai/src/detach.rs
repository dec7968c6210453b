//! `dodai up -d`: the same command in the background, in a session of its own.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;
use dodai_admin::seam::NotReady;
use serde_json::{Value, json};

use crate::client::connection::{self, AdminFile};
use crate::client::{Connection, arguments::Server};
use crate::environment::Environment;
use crate::local::executable;
use crate::output::Output;
use crate::progress::Progress;

/// Its output, in the data folder.
const LOG: &str = "up.log";
/// How often the parent looks.
const LOOK: Duration = Duration::from_millis(50);
/// How much of the log is shown when it failed.
const SHOWN_LINES: usize = 20;

/// Refuses a second `up` on one data folder.
pub fn refuse_second(data: &Path) -> anyhow::Result<()> {
    match connection::running(data) {
        Ok(Some(file)) if file.pid != std::process::id() => {
            anyhow::bail!(
                "process {} already runs on {}; stop it with `dodai down`",
                file.pid,
                data.display()
            )
        }
        // A damaged file is what a crash left; the store's lock still refuses a second process.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Leaves the terminal: a session of its own, which no hang-up reaches.
pub fn leave_terminal() {
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!(%error, "this process leads a group already");
    }
}

/// Starts the command again in the background and waits until it is ready.
///
/// # Errors
/// It cannot be started, or not everything is ready.
pub async fn run(data: &Path, environment: &Environment, output: &Output) -> anyhow::Result<ExitCode> {
    let text = || "waiting until everything is ready".to_owned();
    Progress::on(output).during(text, start(data, environment, output)).await
}

async fn start(data: &Path, environment: &Environment, output: &Output) -> anyhow::Result<ExitCode> {
    refuse_second(data)?;
    let path = data.join(LOG);
    let log = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let arguments = std::env::args_os().skip(1);
    let mut child = tokio::process::Command::new(executable()?)
        .args(arguments)
        .arg("--detached")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the background process")?;
    let pid = child.id().context("the background process ended at once")?;
    loop {
        tokio::select! {
            // Both are cancel safe.
            status = child.wait() => {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let end = lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default().join("\n");
                let code = status.ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
                output.warn(&format!("it ended before it was ready; {} ends with:\n{end}", path.display()));
                if let Some(why) = unwritable(&path) {
                    output.warn(&format!("there may have been more: {why}"));
                }
                return Ok(ExitCode::from(code.filter(|code| *code > 0).unwrap_or(1)));
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        let Ok(Some(file)) = connection::running(data) else { continue };
        if file.pid != pid {
            continue;
        }
        let server = Server {
            server: Some(file.address.clone()),
            token: Some(file.token.clone()),
            ..Server::default()
        };
        let status = Connection::find(&server, environment)?.get("/v1/status").await;
        if let Some(status) = status.ok().filter(|status| status["settled"] == true) {
            return told(&file, &path, &status, output);
        }
    }
}

/// Why nothing more can be written to a log, as on a disk that is full; `None` if it can.
fn unwritable(log: &Path) -> Option<String> {
    let written = OpenOptions::new().append(true).open(log).and_then(|mut file| file.write_all(b"\n"));
    written.err().map(|error| format!("cannot write {}: {error}", log.display()))
}

/// Tells how the one in the background is; what is not ready makes an exit code of its own, and it goes on.
fn told(file: &AdminFile, log: &Path, status: &Value, output: &Output) -> anyhow::Result<ExitCode> {
    let missing: Vec<NotReady> = serde_json::from_value(status["notReady"].clone()).unwrap_or_default();
    for (name, reason) in status["node"]["components"].as_object().into_iter().flatten() {
        if let Some(reason) = reason.as_str() {
            output.warn(&format!("component {name} is not ready: {reason}"));
        }
    }
    for (name, address) in status["node"]["listeners"].as_object().into_iter().flatten() {
        if let (true, Some(address)) = (name.starts_with("gateway/"), address.as_str()) {
            output.say(&format!("{name}: {address}"));
        }
    }
    let pid = file.pid;
    let value = json!({ "pid": pid, "address": file.address, "log": log, "notReady": missing });
    let _for_people = output.value(&value);
    if missing.is_empty() {
        output.say(&format!(
            "up in the background as process {pid}; `dodai ps` shows it, `dodai console` opens it in a browser, `dodai down` stops it"
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let list: Vec<String> = missing.iter().map(|one| format!("\n  {one}")).collect();
    anyhow::bail!(
        "not everything is ready:{}\nprocess {pid} goes on in the background and tries again; `dodai ps` shows it, `dodai down` stops it",
        list.concat()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_where_a_log_ends_early() {
        let log = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(unwritable(log.path()), None);
        let told = unwritable(Path::new("/dev/full")).expect("it takes nothing");
        assert!(told.contains("/dev/full") && told.contains("No space left"), "{told}");
    }
}
