//! `dodai deploy`: a new component into a running app, step by step.

use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use dodai_core::status::Phase;
use http::Method;
use serde_json::{Value, json};

use super::arguments::Deploy;
use super::connection::{Connection, encode};
use super::{LOOK, app_to_change, show};
use crate::local::MAX_ARTIFACT_BYTES;
use crate::output::Output;
use crate::progress::Progress;

/// Runs the command.
pub async fn run(connection: &Connection, arguments: &Deploy, output: &Output) -> anyhow::Result<()> {
    let id = app_to_change(connection, &arguments.app).await?;
    let (namespace, name) = id.split_once('/').context("write the app as `name` or `namespace/name`")?;
    // Asked first, so that nothing is uploaded for an app that is not there or takes no component.
    let app = connection.get(&format!("/v1/documents/App/{}/{}", encode(namespace), encode(name))).await?;
    takes_component(&app, &id)?;
    let mut steps = Steps::new(output);
    let digest = upload(connection, arguments, &mut steps).await?;
    let path = format!("/v1/artifacts/{}/prepare", encode(&digest));
    let compiled = connection.json(Method::POST, &path, Bytes::new());
    Progress::on(output).during(|| "compiling".to_owned(), compiled).await?;
    steps.done("compiled", "");
    let path = format!("/v1/apps/{}/{}/deploy", encode(namespace), encode(name));
    let headers = [("content-type", "application/json")];
    let body = json!({ "digest": digest }).to_string();
    let answer = connection.json_as(Method::POST, &path, &headers, body.into()).await?;
    steps.done("accepted", &id);
    let wait = arguments.wait.then_some(arguments.timeout);
    let revision = follow(connection, (namespace, name), &answer, wait, &mut steps).await?;
    output.value(&json!({ "app": id, "digest": digest, "revision": revision, "steps": steps.seconds() }));
    Ok(())
}

/// Waits, so many seconds, until the change that was answered has all traffic of its app and nothing older is left;
/// the revision. Waits for nothing where no seconds are given.
pub(super) async fn follow(
    connection: &Connection,
    (namespace, name): (&str, &str),
    answer: &Value,
    wait: Option<u64>,
    steps: &mut Steps<'_>,
) -> anyhow::Result<Option<String>> {
    let Some(timeout) = wait else { return Ok(None) };
    let generation = answer["generation"].as_u64().unwrap_or(0);
    let progress = Progress::on(steps.output);
    let (id, document) =
        (format!("{namespace}/{name}"), format!("/v1/documents/App/{}/{}", encode(namespace), encode(name)));
    let rollout = roll_out(connection, &document, &id, generation, steps);
    let waited = tokio::time::timeout(Duration::from_secs(timeout), rollout);
    let waited = progress.during(|| "rolling out".to_owned(), waited).await;
    let revision = waited.with_context(|| {
        format!("{id} is not there yet after {timeout} s; `dodai describe app {name}` says why")
    })??;
    Ok(Some(revision))
}

/// Whether a component can be put into an app; what to do instead, if not.
fn takes_component(app: &Value, id: &str) -> anyhow::Result<()> {
    let spec = &app["spec"];
    if spec["process"].is_object() {
        anyhow::bail!(
            "{id} is a process, and `deploy` puts components into modules; build its program and `dodai restart {id}`, or `dodai apply` a changed document"
        );
    }
    if spec["external"].is_object() {
        anyhow::bail!(
            "{id} is external, and `deploy` puts components into modules; start it anew where it runs"
        );
    }
    Ok(())
}

async fn upload(
    connection: &Connection,
    arguments: &Deploy,
    steps: &mut Steps<'_>,
) -> anyhow::Result<String> {
    let given = arguments.artifact.display().to_string();
    if given.starts_with("sha256:") {
        return Ok(given);
    }
    if given.parse::<dodai_api::RevisionId>().is_ok() && !arguments.artifact.exists() {
        anyhow::bail!(
            "`{given}` is the id of a revision, not a component; `dodai rollback {} --to {given}` goes back to it",
            arguments.app
        );
    }
    let bytes = dodai_core::file::read(&arguments.artifact, MAX_ARTIFACT_BYTES)
        .with_context(|| format!("cannot read {given}"))?;
    let size = bytes.len();
    let digest = connection.upload(bytes.into(), Progress::on(steps.output)).await?;
    steps.done("uploaded", &format!("{} KiB, {}", size >> 10, digest.get(..19).unwrap_or(&digest)));
    Ok(digest)
}

/// The steps that are done, told as they are.
pub(super) struct Steps<'a> {
    start: Instant,
    done: Vec<(&'static str, f64)>,
    output: &'a Output,
}

impl<'a> Steps<'a> {
    /// None yet.
    pub fn new(output: &'a Output) -> Steps<'a> {
        Steps { start: Instant::now(), done: Vec::new(), output }
    }

    /// Each with the time that it took since the beginning.
    pub fn seconds(&self) -> Vec<Value> {
        self.done.iter().map(|(step, seconds)| json!({ "step": step, "seconds": seconds })).collect()
    }

    /// One more.
    pub fn done(&mut self, step: &'static str, detail: &str) {
        if self.done.iter().any(|(other, _)| *other == step) {
            return;
        }
        let seconds = self.start.elapsed().as_secs_f64();
        self.done.push((step, seconds));
        if !self.output.is_structured() {
            self.output.say(format!("{seconds:7.3} s  {step:<9} {detail}").trim_end());
        }
    }
}

/// How far the rollout of an app is.
#[derive(Debug, PartialEq)]
enum Stage {
    /// Control has not looked at the change yet.
    Unseen,
    /// The new revision is being started.
    Starting(String),
    /// It runs; others still have traffic.
    Ready(String),
    /// It has all traffic.
    Switched(String),
}

fn stage(app: &Value, generation: u64) -> Stage {
    let status = &app["status"];
    let text = |name: &str| status[name].as_str().map(str::to_owned);
    let Some(latest) =
        text("latestRevision").filter(|_| status["observedGeneration"].as_u64() >= Some(generation))
    else {
        return Stage::Unseen;
    };
    if text("latestReadyRevision").as_ref() != Some(&latest) {
        return Stage::Starting(latest);
    }
    let mut others =
        status["revisions"].as_array().into_iter().flatten().filter(|one| one["id"] != latest.as_str());
    if others.any(|one| one["weight"].as_u64().unwrap_or(0) > 0) {
        Stage::Ready(latest)
    } else {
        Stage::Switched(latest)
    }
}

async fn roll_out(
    connection: &Connection,
    document: &str,
    id: &str,
    generation: u64,
    steps: &mut Steps<'_>,
) -> anyhow::Result<String> {
    loop {
        let stage = stage(&connection.get(document).await?, generation);
        let mut instances = show::instances(connection).await?;
        instances.retain(|one| one.app == id);
        match stage {
            Stage::Unseen => {}
            Stage::Starting(revision) => {
                let failed =
                    instances.iter().find(|one| one.revision == revision && one.phase == Phase::Failed);
                if let Some(one) = failed {
                    anyhow::bail!(
                        "revision {revision} of {id} cannot start: {}; the old one goes on",
                        one.reason
                    );
                }
            }
            Stage::Ready(revision) => steps.done("ready", &format!("revision {revision}")),
            Stage::Switched(revision) => {
                steps.done("ready", &format!("revision {revision}"));
                steps.done("switched", "");
                if instances.iter().all(|one| one.revision == revision) {
                    steps.done("drained", "the old revision is gone");
                    return Ok(revision);
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stage_is_read_from_the_status() {
        let app = |latest: &str, ready: &str, weights: &[(&str, u32)]| {
            let revisions: Vec<Value> =
                weights.iter().map(|(id, weight)| json!({"id": id, "weight": weight})).collect();
            json!({"status": {"observedGeneration": 2, "latestRevision": latest, "latestReadyRevision": ready, "revisions": revisions}})
        };
        assert_eq!(stage(&json!({}), 1), Stage::Unseen);
        assert_eq!(stage(&app("b", "b", &[]), 3), Stage::Unseen, "an older change");
        assert_eq!(stage(&app("b", "a", &[("a", 1)]), 2), Stage::Starting("b".into()));
        assert_eq!(stage(&app("b", "b", &[("a", 1), ("b", 1)]), 2), Stage::Ready("b".into()));
        assert_eq!(stage(&app("b", "b", &[("a", 0), ("b", 1)]), 2), Stage::Switched("b".into()));
    }
}
