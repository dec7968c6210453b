//! What the management API asks of the base and the store, answered by them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dodai_admin::Refusal;
use dodai_admin::seam::{
    self, CallFilter, Change, ConfigKey, Flow, Jobs, Kept, Keys, LogLine, Look, Message, NodeState, Own,
    Pending, Place, Shelf, StoreState, Told, Traffic, Usage, View, Wish,
};
use dodai_base::dump::{self, Page};
use dodai_base::node;
use dodai_base::process::{self, Follow, Followed, Logs};
use dodai_base::telemetry::ring::{Next, Ring};
use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context};
use dodai_core::id::{AppId, Digest, InstanceId, Name};
use dodai_core::status::Status;
use dodai_core::trace::Span;
use dodai_modules::Host;
use dodai_store::{Changes, Range, Revision, Store};
use futures_util::stream::{SelectAll, StreamExt};
use http::StatusCode;
use serde_json::Value;
use tokio::sync::watch;

use super::calls::told;
use super::inside::inside;
use super::{jobs, measures};

/// The most bytes of an API's answer to a published message.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// The base.
pub struct Node {
    /// Its parts.
    pub base: Arc<node::Parts>,
    /// Its calls of this moment.
    pub ring: Ring,
}

impl Node {
    /// The logs of an app's instances, oldest instance first.
    fn logs_of(base: &node::Parts, app: &AppId, instance: Option<&InstanceId>) -> Vec<(InstanceId, Logs)> {
        let logs = base.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let own = logs.iter().filter(|(id, (of, _))| of == app && instance.is_none_or(|only| only == *id));
        own.map(|(id, (_, logs))| (id.clone(), logs.clone())).collect()
    }

    /// Refuses what is asked of another base.
    fn is_meant(&self, base: Option<&str>) -> Result<(), Refusal> {
        let own = self.base.config.base.as_str();
        match base.filter(|base| *base != own) {
            Some(other) => {
                Err(Refusal::not_found(format!("there is no base {other} here; this one is {own}")))
            }
            None => Ok(()),
        }
    }
}

fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn shown(instance: &InstanceId, line: &process::Line) -> LogLine {
    LogLine {
        instance: instance.to_string(),
        time_ms: millis(line.time),
        stream: line.stream.as_str().to_owned(),
        text: line.text.clone(),
    }
}

/// The last of what several instances wrote, in the order of time.
pub fn latest(mut lines: Vec<LogLine>, tail: usize) -> Vec<LogLine> {
    lines.sort_by_key(|line| line.time_ms);
    lines.split_off(lines.len().saturating_sub(tail))
}

/// One instance's lines as they come.
fn follow(instance: InstanceId, follow: Follow) -> Flow<LogLine> {
    futures_util::stream::unfold((follow, instance), |(mut follow, instance)| async move {
        let line = match follow.next().await? {
            Followed::Line(line) => shown(&instance, &line),
            Followed::Missed(count) => LogLine {
                instance: instance.to_string(),
                time_ms: millis(SystemTime::now()),
                stream: "note".to_owned(),
                text: format!("{count} lines missed: this reader is too slow"),
            },
        };
        Some((line, (follow, instance)))
    })
    .boxed()
}

/// Follows all instances of an app, those that start later too.
struct Followers {
    base: Arc<node::Parts>,
    app: AppId,
    only: Option<InstanceId>,
    known: Vec<InstanceId>,
    /// Lines from before, which come first.
    past: VecDeque<LogLine>,
    lines: SelectAll<Flow<LogLine>>,
    status: watch::Receiver<Status>,
}

impl Followers {
    /// Follows instances that are not followed yet; what they wrote before, up to so many lines.
    fn look(&mut self, tail: usize) -> Vec<LogLine> {
        let mut past = Vec::new();
        for (instance, logs) in Node::logs_of(&self.base, &self.app, self.only.as_ref()) {
            if !self.known.contains(&instance) {
                let mut lines = logs.follow(tail);
                past.extend(lines.past().iter().map(|line| shown(&instance, line)));
                self.lines.push(follow(instance.clone(), lines));
                self.known.push(instance);
            }
        }
        latest(past, tail)
    }

    async fn next(mut self) -> Option<(LogLine, Followers)> {
        loop {
            if let Some(line) = self.past.pop_front() {
                return Some((line, self));
            }
            tokio::select! {
                // Both are cancel safe; an empty set of lines has nothing to give yet.
                line = self.lines.next(), if !self.lines.is_empty() => if let Some(line) = line {
                    return Some((line, self));
                },
                changed = self.status.changed() => {
                    changed.ok()?;
                    self.past = self.look(usize::MAX).into();
                }
            }
        }
    }
}

impl seam::Node for Node {
    fn usages(&self) -> HashMap<InstanceId, Usage> {
        measures::usages(&self.base)
    }

    fn traffic(&self) -> Option<Traffic> {
        Some(measures::traffic(&self.base))
    }

    fn subscriptions(&self) -> BTreeMap<String, Option<String>> {
        let all = self.base.runtime.subscriptions().into_iter();
        all.map(|(name, health)| (name, (!health.ready).then_some(health.reason))).collect()
    }

    fn own<'a>(&'a self, _base: &'a str) -> Pending<'a, Option<Own>> {
        Box::pin(async { Ok(measures::own()) })
    }

    fn keys(&self, shelf: Shelf, prefix: String, after: Option<String>, limit: usize) -> Pending<'_, Keys> {
        Box::pin(async move { measures::keys(&self.base, &shelf, &prefix, after.as_deref(), limit).await })
    }

    fn value(&self, shelf: Shelf, key: String) -> Pending<'_, Option<Kept>> {
        Box::pin(async move { measures::kept(&self.base, &shelf, &key).await })
    }

    fn state(&self) -> NodeState {
        let status = self.base.status.borrow().clone();
        NodeState {
            applied: status.applied,
            refused: status.refused.map(|refusal| refusal.reason),
            listeners: status.listeners,
            not_open: status.not_open,
            components: self.base.runtime.health(),
            blocks: self.base.runtime.blocks(),
        }
    }

    fn keeps_output_of(&self, app: &AppId, instance: &InstanceId) -> bool {
        !Node::logs_of(&self.base, app, Some(instance)).is_empty()
    }

    fn logs(&self, app: &AppId, instance: Option<&InstanceId>, tail: usize, follow: bool) -> Flow<LogLine> {
        if follow {
            let mut followers = Followers {
                base: self.base.clone(),
                app: app.clone(),
                only: instance.cloned(),
                known: Vec::new(),
                past: VecDeque::new(),
                lines: SelectAll::new(),
                status: self.base.status.subscribe(),
            };
            followers.past = followers.look(tail).into();
            return futures_util::stream::unfold(followers, Followers::next).boxed();
        }
        let all = Node::logs_of(&self.base, app, instance);
        let lines =
            all.iter().flat_map(|(id, logs)| logs.tail(tail).into_iter().map(move |line| shown(id, &line)));
        futures_util::stream::iter(latest(lines.collect(), tail)).boxed()
    }

    fn calls(&self, filter: CallFilter) -> Flow<Told> {
        let mut subscription = self.ring.subscribe_to(filter.header.as_ref().map(|(name, _)| name.clone()));
        let recent: VecDeque<Next> =
            std::mem::take(&mut subscription.recent).into_iter().map(Next::Entry).collect();
        futures_util::stream::unfold((subscription, recent, filter), |mut state| async move {
            loop {
                let next = match state.1.pop_front() {
                    Some(next) => next,
                    None => state.0.next().await,
                };
                if let Some(value) = told(&state.2, &next) {
                    return Some((value, state));
                }
                if matches!(next, Next::Closed) {
                    return None;
                }
            }
        })
        .boxed()
    }

    fn look(&self, look: Look) -> Pending<'_, Value> {
        Box::pin(async move {
            let Look { view, after, limit, only, app, base } = look;
            self.is_meant(base.as_deref())?;
            let page = Page { after, limit, only, app };
            Ok(match view {
                View::Table => dump::table(&self.base, &page),
                View::Clusters => dump::clusters(&self.base, &page),
                View::Connections => dump::connections(&self.base, &page).await,
                View::Certificates => dump::certificates(&self.base, &page),
            })
        })
    }

    fn inside(&self, place: Place, wish: Wish) -> Pending<'_, Value> {
        Box::pin(async move {
            self.is_meant(place.base.as_deref())?;
            inside(&self.base, &place, wish).await
        })
    }

    fn jobs(&self, wanted: Jobs) -> Pending<'_, Value> {
        Box::pin(async move {
            self.is_meant(wanted.base.as_deref())?;
            jobs::list(&self.base, &wanted).await
        })
    }

    fn forget_job(&self, app: AppId, name: String, base: Option<String>) -> Pending<'_, ()> {
        Box::pin(async move {
            self.is_meant(base.as_deref())?;
            jobs::forget(&self.base, &app, &name).await
        })
    }

    fn publish(&self, message: Message) -> Pending<'_, ()> {
        Box::pin(async move {
            let bad = |error: &dyn std::fmt::Display| Refusal::bad_request(error.to_string());
            // As the base itself, to which the scopes of apps do not apply; the app only names the namespace.
            let app = AppId::parse(&format!("{}/dodai", message.namespace)).map_err(|error| bad(&error))?;
            let request = http::Request::builder()
                .method("POST")
                .uri(format!(
                    "http://dodai/v1.0/publish/{}/{}",
                    escape(&message.pubsub),
                    escape(&message.topic)
                ))
                .header("content-type", message.content_type)
                .body(())
                .map_err(|error| bad(&error))?;
            let (head, ()) = request.into_parts();
            let context = Context::new(Caller::Base, Span::root(false));
            let call = Call { head, body: Body::full(message.data), context };
            let reply = self.base.runtime.api(&app).serve(call).await;
            let reply = reply.map_err(|failure| Refusal::internal(failure.to_string()))?;
            let status = reply.head.status;
            if status.is_success() {
                return Ok(());
            }
            let body = reply.body.collect(MAX_ANSWER_BYTES).await.unwrap_or_default();
            let text = serde_json::from_slice::<Value>(&body).ok();
            let text = text.and_then(|value| value["message"].as_str().map(str::to_owned));
            let text = text.unwrap_or_else(|| format!("publishing was refused with {status}"));
            Err(Refusal::new(
                if status.is_client_error() { status } else { StatusCode::BAD_GATEWAY },
                "publish",
                text,
            ))
        })
    }

    fn config_get(&self, key: ConfigKey) -> Pending<'_, Option<String>> {
        Box::pin(async move {
            let namespace =
                Name::new(&key.namespace).map_err(|error| Refusal::bad_request(error.to_string()))?;
            let found = self.base.runtime.configuration(&namespace, &key.store, &key.key).await;
            found.map_err(|error| Refusal::not_found(error.to_string()))
        })
    }

    fn config_set(&self, key: ConfigKey, value: Option<String>) -> Pending<'_, bool> {
        Box::pin(async move {
            let namespace =
                Name::new(&key.namespace).map_err(|error| Refusal::bad_request(error.to_string()))?;
            let runtime = &self.base.runtime;
            let done = runtime.set_configuration(&namespace, &key.store, &key.key, value.as_deref()).await;
            done.map_err(|error| Refusal::not_found(error.to_string()))
        })
    }
}

/// Text as one segment of a path.
fn escape(text: &str) -> String {
    crate::client::connection::encode(text)
}

/// Artefacts in the module host's store.
pub struct Artefacts(pub Arc<Host>);

/// An artefact that cannot be used is its sender's affair; a file that cannot be written, as on a full disk, is ours.
fn refused(error: dodai_modules::Error) -> Refusal {
    let ours = matches!(error, dodai_modules::Error::File { .. });
    let text = format!("{:#}", anyhow::Error::new(error));
    if ours {
        Refusal::internal(text)
    } else {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "artifact", text)
    }
}

impl seam::Artifacts for Artefacts {
    fn put(&self, bytes: Bytes) -> Pending<'_, Digest> {
        Box::pin(async move {
            let host = self.0.clone();
            let put = tokio::task::spawn_blocking(move || host.artifacts().put(&bytes)).await;
            put.map_err(|error| Refusal::internal(error.to_string()))?.map_err(refused)
        })
    }

    fn prepare<'a>(&'a self, name: &'a str, digest: &'a Digest) -> Pending<'a, ()> {
        Box::pin(async move { self.0.prepare(name, digest).await.map_err(refused) })
    }
}

/// The document store.
pub struct StoreLedger(pub Arc<dyn Store>);

fn failed(error: dodai_store::Error) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "store", error.to_string())
}

/// A line of the change log as people read it.
fn logged(change: dodai_store::Change) -> Change {
    Change {
        revision: change.revision.0,
        key: change.key.trim_start_matches('/').to_owned(),
        action: change.action.as_str().to_owned(),
        actor: change.cause.actor,
        reason: change.cause.reason,
        time_ms: millis(change.at),
    }
}

impl seam::Ledger for StoreLedger {
    fn state(&self) -> Pending<'_, StoreState> {
        Box::pin(async move {
            let status = self.0.status().await.map_err(failed)?;
            Ok(StoreState {
                backend: status.backend.to_owned(),
                revision: status.revision.0,
                compacted: status.compacted.0,
                keys: status.keys,
                size_bytes: status.size_bytes,
                schema_version: status.schema_version,
            })
        })
    }

    fn at(&self, key: String, revision: u64) -> Pending<'_, Option<Bytes>> {
        Box::pin(async move {
            let range = Range::prefix(key.as_str()).at(Revision(revision)).limit(1);
            match self.0.range(range).await {
                // The key itself comes before those that only begin like it.
                Ok(page) => Ok(page.items.into_iter().find(|kv| kv.key == key).map(|kv| kv.value)),
                Err(dodai_store::Error::Compacted { .. }) => Ok(None),
                Err(error) => Err(failed(error)),
            }
        })
    }

    fn changes(&self, prefix: String, after: u64, limit: usize) -> Pending<'_, Vec<Change>> {
        Box::pin(async move {
            let wanted = Changes { prefix, after: Revision(after), limit };
            let found = self.0.changes(wanted).await.map_err(failed)?;
            let own = found.into_iter().filter(|change| !change.key.starts_with("/x/"));
            Ok(own.map(logged).collect())
        })
    }

    fn changes_of(&self, key: String, limit: usize) -> Pending<'_, Vec<Change>> {
        Box::pin(async move {
            let found = self.0.changes_of(&key, limit).await.map_err(failed)?;
            Ok(found.into_iter().map(logged).collect())
        })
    }

    fn backup(&self, path: PathBuf) -> Pending<'_, ()> {
        Box::pin(async move { self.0.backup(&path).await.map_err(failed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_where_an_artefact_is_not_kept() {
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = dodai_modules::Error::File { operation: "write", path: "a.wasm".into(), source };
        let refusal = refused(error);
        assert_eq!((refusal.status, refusal.code.as_ref()), (StatusCode::INTERNAL_SERVER_ERROR, "internal"));
        assert_eq!(refusal.message, "cannot write a.wasm: no storage space");
    }

    #[test]
    fn the_past_of_several_instances_is_told_in_the_order_of_time() {
        let line = |instance: &str, time_ms| LogLine {
            instance: instance.to_owned(),
            time_ms,
            stream: "stdout".to_owned(),
            text: String::new(),
        };
        let all = || vec![line("a", 1), line("a", 5), line("b", 2), line("b", 5), line("c", 4)];
        let told = |tail| -> Vec<(String, u64)> {
            latest(all(), tail).into_iter().map(|line| (line.instance, line.time_ms)).collect()
        };
        let expect =
            [("a", 1), ("b", 2), ("c", 4), ("a", 5), ("b", 5)].map(|(id, time)| (id.to_owned(), time));
        assert_eq!(told(usize::MAX), expect);
        assert_eq!(told(2), expect[3..]);
    }
}
