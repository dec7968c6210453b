//! Runs the jobs of one app while it is ready.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use dodai_capability::Fault;
use dodai_capability::jobs::{Due, Outcome, Record};
use dodai_core::id::AppId;
use dodai_core::trace::Span;
use dodai_proto::apps::dapr::proto::common::v1::HttpExtension;
use dodai_proto::apps::dapr::proto::common::v1::http_extension::Verb;
use dodai_proto::apps::dapr::proto::runtime::v1::JobEventRequest;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{Jobs, as_any, body};
use crate::callback::{Ask, Unanswered, escaped, is_unreachable};

/// How long an app that is ready but cannot be reached is left alone.
const UNREACHABLE_PAUSE: Duration = Duration::from_secs(1);
/// How often jobs are looked for that another process may have written.
const LOOK: Duration = Duration::from_millis(500);
/// How long nothing but an app that cannot be reached is borne where others may run its jobs, whose way may be open.
const GIVE_WAY: Duration = Duration::from_secs(5);
/// How long one of the others may then take over: longer than they wait between two looks.
const STAY_OUT: Duration = Duration::from_secs(2);
/// How often the clock is looked at while a job waits: it may have been set.
const CLOCK_LOOK: Duration = Duration::from_secs(5);

pub(super) struct Runner {
    pub jobs: Jobs,
    pub app: AppId,
    /// The app in the store's words.
    pub key: String,
    pub speaks_grpc: bool,
    pub changed: Arc<Notify>,
    pub stop: CancellationToken,
}

/// A run that has ended.
struct Ran {
    name: String,
    /// Whether the app was there.
    reached: bool,
}

/// What is under way.
type Running<'a> = FuturesUnordered<BoxFuture<'a, Ran>>;

/// Why no more runs are begun.
enum End {
    /// The app is not ready any more, or this runner shall stop, or there are no jobs for it.
    Over,
    /// The app cannot be reached from here.
    Unreached,
}

impl Runner {
    pub async fn run(self, mut ready: watch::Receiver<bool>) {
        let mut failures = 0;
        loop {
            // All are cancel safe.
            let there = tokio::select! {
                biased;
                () = self.stopping() => return,
                there = ready.wait_for(|ready| *ready) => there.is_ok(),
            };
            if !there {
                return;
            }
            let outcome = match self.jobs.0.store.hold(&self.key).await {
                Ok(Some(_hold)) => self.run_held(&mut ready).await,
                Ok(None) => Ok(End::Over),
                Err(fault) => Err(fault),
            };
            let gives_way = matches!(outcome, Ok(End::Unreached));
            let pause = match outcome {
                Ok(end) => {
                    failures = 0;
                    if matches!(end, End::Unreached) { STAY_OUT } else { LOOK }
                }
                Err(fault) => {
                    failures += 1;
                    tracing::warn!(app = %self.app, "jobs do not run: {fault}");
                    self.jobs.0.settings.component_backoff.pause(failures)
                }
            };
            // All are cancel safe.
            tokio::select! {
                biased;
                () = self.stopping() => return,
                () = self.changed.notified(), if !gives_way => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn stopping(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.jobs.0.tasks.closing() => {}
        }
    }

    /// Whether a run may begin.
    fn may_begin(&self, ready: &watch::Receiver<bool>) -> bool {
        *ready.borrow() && !self.stop.is_cancelled() && !self.jobs.0.tasks.is_closing()
    }

    /// Runs what is due until the app is not ready any more; then waits for what is under way.
    async fn run_held(&self, ready: &mut watch::Receiver<bool>) -> Result<End, Fault> {
        let mut names = HashSet::new();
        let mut running = Running::new();
        let ended = self.run_due(ready, &mut running, &mut names).await;
        while running.next().await.is_some() {}
        ended
    }

    async fn run_due<'a>(
        &'a self,
        ready: &mut watch::Receiver<bool>,
        running: &mut Running<'a>,
        names: &mut HashSet<String>,
    ) -> Result<End, Fault> {
        let most = self.jobs.0.settings.delivery_concurrency.max(1);
        let is_shared = self.jobs.0.store.is_shared();
        // Whatever the clock was when this base last ran.
        let mut seen_ms = i64::MAX;
        let mut unreached: Option<Instant> = None;
        while *ready.borrow_and_update() {
            let now_ms = self.jobs.now_ms();
            if now_ms < seen_ms {
                self.set_back(now_ms, names).await?;
            }
            seen_ms = now_ms;
            let room = most.saturating_sub(running.len());
            let but = names.iter().cloned().collect();
            let Due { now, next_ms } = self.jobs.0.store.due(&self.key, now_ms, room, but).await?;
            for record in now {
                names.insert(record.job.name.clone());
                running.push(Box::pin(self.run_one(record, ready.clone())));
            }
            let wait = next_ms
                .map(|next| u64::try_from(next - now_ms).map_or(Duration::ZERO, Duration::from_millis));
            // All are cancel safe, and what runs lives outside.
            tokio::select! {
                biased;
                () = self.stopping() => return Ok(End::Over),
                changed = ready.changed() => if changed.is_err() { return Ok(End::Over) },
                Some(Ran { name, reached }) = running.next(), if !running.is_empty() => {
                    names.remove(&name);
                    unreached = if reached { None } else { unreached.or_else(|| Some(Instant::now())) };
                    if is_shared && unreached.is_some_and(|since| since.elapsed() >= GIVE_WAY) {
                        tracing::warn!(app = %self.app, "the app cannot be reached; others may run its jobs");
                        return Ok(End::Unreached);
                    }
                }
                () = self.changed.notified() => {}
                () = self.jobs.0.clock.sleep(wait.unwrap_or(CLOCK_LOOK).min(CLOCK_LOOK)), if wait.is_some() => {}
                () = tokio::time::sleep(LOOK), if is_shared => {}
            }
        }
        Ok(End::Over)
    }

    /// Brings nearer what the clock has put off by going back. What is under way goes by the new time when it has ended.
    async fn set_back(&self, now_ms: i64, running: &HashSet<String>) -> Result<(), Fault> {
        let records = match self.jobs.0.store.list(&self.key, None).await {
            Ok(records) => records,
            Err(dodai_capability::jobs::Error::Fault(fault)) => return Err(fault),
            // Those are refusals of wishes that are not ours.
            Err(_) => return Ok(()),
        };
        for record in records.into_iter().filter(|record| !running.contains(&record.job.name)) {
            if let Some(progress) = record.set_back(now_ms) {
                tracing::info!(app = %self.app, job = record.job.name, "the clock was set back; the job runs by the new time");
                self.jobs.0.store.settle(&self.key, &record, Some(progress)).await?;
            }
        }
        Ok(())
    }

    /// One run from its call to its outcome in the store.
    async fn run_one(&self, record: Record, ready: watch::Receiver<bool>) -> Ran {
        let (app, name) = (&self.app, &record.job.name);
        // Time may have passed since it was found.
        if !self.may_begin(&ready) {
            return Ran { name: record.job.name, reached: false };
        }
        let Some(outcome) = self.bring(&record).await else {
            // Nobody was there: that says nothing about the job, which stays due.
            tokio::select! {
                () = self.stopping() => {}
                () = tokio::time::sleep(UNREACHABLE_PAUSE) => {}
            }
            return Ran { name: record.job.name, reached: false };
        };
        match &outcome {
            Outcome::Taken => tracing::debug!(%app, name, "the app took a job"),
            Outcome::Refused(problem) | Outcome::Failed(problem) => {
                tracing::warn!(%app, name, "the app did not take a job: {problem}");
            }
        }
        let progress = record.after(outcome, self.jobs.now_ms());
        let mut failures = 0;
        // Until it is kept the job does not run again, or it would again and again.
        while let Err(fault) = self.jobs.0.store.settle(&self.key, &record, progress.clone()).await {
            failures += 1;
            tracing::warn!(%app, name, "how a job ended could not be kept: {fault}");
            tokio::select! {
                () = self.stopping() => break,
                () = tokio::time::sleep(self.jobs.0.settings.component_backoff.pause(failures)) => {}
            }
        }
        Ran { name: record.job.name, reached: true }
    }

    /// Calls the app; `None` if nobody was there.
    async fn bring(&self, record: &Record) -> Option<Outcome> {
        let callbacks = &self.jobs.0.callbacks;
        let timeout = self.jobs.0.settings.job_timeout;
        let name = &record.job.name;
        if self.speaks_grpc {
            let data = record.job.data.as_ref().map(as_any);
            let event = JobEventRequest {
                name: name.clone(),
                method: format!("job/{name}"),
                content_type: data.as_ref().map(|data| data.type_url.clone()).unwrap_or_default(),
                data,
                http_extension: Some(HttpExtension { verb: Verb::Post.into(), querystring: String::new() }),
            };
            return match callbacks.on_job_event(&self.app, timeout, Span::root(false), event).await {
                Ok(_) => Some(Outcome::Taken),
                Err(Unanswered::Failed(failure)) if is_unreachable(&failure) => None,
                Err(Unanswered::Refused(status)) if status.code() == Code::NotFound => {
                    Some(Outcome::Refused(format!("the app answered NotFound: {}", status.message())))
                }
                Err(unanswered) => Some(Outcome::Failed(unanswered.told())),
            };
        }
        let (content_type, body) = body::of(record.job.data.as_ref());
        let path = format!("/job/{}", escaped(name));
        let ask = Ask {
            method: Method::POST,
            path: &path,
            content_type,
            headers: HeaderMap::new(),
            body,
            span: Span::root(false),
        };
        Some(match callbacks.call_within(timeout, &self.app, ask).await {
            Ok((status, _)) if status.is_success() => Outcome::Taken,
            // daprd does not try this one again either.
            Ok((StatusCode::NOT_FOUND, _)) => Outcome::Refused("the app answered 404".to_owned()),
            Ok((status, _)) => Outcome::Failed(format!("the app answered {}", status.as_u16())),
            Err(failure) if is_unreachable(&failure) => return None,
            Err(failure) => Outcome::Failed(failure.detail.to_string()),
        })
    }
}
