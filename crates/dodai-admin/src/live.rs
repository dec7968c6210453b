//! The pulse of a server for consoles: once a second its counters go into the history, and who listens is told what
//! is new. A message is made once however many listen, and only while somebody does.
//!
//! A message says which parts of the API have changed rather than repeating them; the page asks for what it shows.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use bytes::Bytes;
use dodai_control::control::{Control, Event};
use dodai_core::task::{Kind, Tasks};
use futures_util::StreamExt;
use http::{HeaderMap, Uri, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::broadcast;

use crate::api::{Answer, Shared, json as answer, query};
use crate::apps::{self, Instance};
use crate::history::{History, Point, STEP_SECONDS, Use};
use crate::seam::Node;

/// Between two messages.
const BEAT: Duration = Duration::from_secs(1);
/// How many messages are kept for consoles that come back, and how far one may fall behind.
const KEPT: usize = 64;
/// The most events in one message; more are asked for.
const MAX_EVENTS: usize = 50;

/// One message as it goes out.
#[derive(Clone)]
struct Message {
    id: u64,
    text: Bytes,
}

/// The pulse. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Live(Arc<Inner>);

struct Inner {
    control: Control,
    node: Arc<dyn Node>,
    history: Mutex<History>,
    kept: Mutex<VecDeque<Message>>,
    sender: broadcast::Sender<Message>,
}

/// What a message says.
#[derive(Serialize)]
struct Beat<'a> {
    /// Seconds since 1970.
    second: u64,
    /// The store's revision: documents and the change log are as of then.
    documents: u64,
    /// Changes when instances come, go or change their phase.
    instances: u64,
    /// Changes when the node's listeners or components do.
    node: u64,
    apps: BTreeMap<&'a str, &'a Point>,
    edges: Vec<(&'a str, &'a str, u32, u32, u64, u64)>,
    events: Vec<Event>,
}

impl Live {
    /// Begins to read `node` once a second, until `tasks` close.
    pub fn start(control: Control, node: Arc<dyn Node>, tasks: &Tasks) -> Live {
        let (sender, _) = broadcast::channel(KEPT);
        let inner = Inner { control, node, history: Mutex::default(), kept: Mutex::default(), sender };
        let live = Live(Arc::new(inner));
        tasks.spawn(Kind::Loop, live.clone().run(tasks.clone()));
        live
    }

    async fn run(self, tasks: Tasks) {
        let (mut event, mut last) = (0, 0);
        loop {
            tokio::select! {
                // Both only wait.
                () = tokio::time::sleep(until_beat(since_epoch())) => {}
                () = tasks.closing() => return,
            }
            let second = since_epoch().as_secs();
            // The clock may have been put back a little: no second comes twice. One that was put back far begins anew.
            if second > last || last - second > KEPT as u64 {
                event = self.beat(second, event);
                last = second;
            }
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.0.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Message>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the node and tells who listens; events after `event` are new. Returns the newest event.
    fn beat(&self, second: u64, event: u64) -> u64 {
        let is_heard = self.0.sender.receiver_count() > 0;
        // Looking at every process costs more than reading counters.
        let instances = (is_heard || second.is_multiple_of(STEP_SECONDS))
            .then(|| apps::all(&self.0.control, self.0.node.as_ref()));
        let traffic = self.0.node.traffic();
        let mut history = self.history();
        history.step(second, &traffic, instances.as_deref().map(uses).as_ref());
        let newest = *self.0.control.events_changed().borrow();
        let Some(instances) = instances.filter(|_| is_heard) else {
            self.kept().clear();
            return newest;
        };
        let mut events = self.0.control.events(event);
        let spare = events.len().saturating_sub(MAX_EVENTS);
        events.drain(..spare);
        let shapes: Vec<_> =
            instances.iter().map(|one| (&one.id, one.phase, &one.reason, one.restarts, one.pid)).collect();
        let beat = Beat {
            second,
            documents: self.0.control.view().revision.0,
            instances: mark(&format!("{shapes:?}")),
            node: mark(&format!("{:?}", self.0.node.state())),
            apps: history.latest_apps(),
            edges: history.latest_edges(),
            events,
        };
        let Ok(text) = serde_json::to_string(&beat) else { return newest };
        drop(history);
        let message =
            Message { id: second, text: Bytes::from(format!("id: {second}\nevent: beat\ndata: {text}\n\n")) };
        let mut kept = self.kept();
        while kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(message.clone());
        // It fails when the last listener has just gone.
        let _nobody = self.0.sender.send(message);
        newest
    }

    /// Messages after the one with number `after`, or an event `anew` if they are no longer kept, and then all that come.
    fn follow(&self, after: Option<u64>) -> impl futures_util::Stream<Item = Bytes> + Send + 'static {
        let (receiver, past) = {
            // Under the lock, so that nothing falls between the two or comes twice.
            let kept = self.kept();
            let past = match after {
                Some(after) if kept.iter().any(|message| message.id == after) => kept
                    .iter()
                    .filter(|message| message.id > after)
                    .map(|message| message.text.clone())
                    .collect(),
                _ => VecDeque::from([anew()]),
            };
            (self.0.sender.subscribe(), past)
        };
        futures_util::stream::unfold((receiver, past), |(mut receiver, mut past)| async move {
            if let Some(text) = past.pop_front() {
                return Some((text, (receiver, past)));
            }
            let text = match receiver.recv().await {
                Ok(message) => message.text,
                Err(broadcast::error::RecvError::Lagged(_)) => anew(),
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((text, (receiver, past)))
        })
    }
}

/// What each app uses in all.
fn uses(instances: &[Instance]) -> BTreeMap<String, Use> {
    let mut uses: BTreeMap<String, Use> = BTreeMap::new();
    for one in instances {
        let used = uses.entry(one.app.clone()).or_default();
        used.cpu_ms += one.cpu_ms.unwrap_or(0);
        used.memory_bytes += one.memory_bytes.unwrap_or(0);
    }
    uses
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Until the middle of a second, where a timer that is a little late or early is still in the same one.
fn until_beat(now: Duration) -> Duration {
    let gone = (now.as_millis() + BEAT.as_millis() / 2) % BEAT.as_millis();
    BEAT - Duration::from_millis(u64::try_from(gone).unwrap_or_default())
}

/// Tells a page to ask for everything anew.
fn anew() -> Bytes {
    Bytes::from_static(b"event: anew\ndata: {}\n\n")
}

/// A number that changes with the text, exact in every language.
fn mark(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish() >> 12
}

#[derive(Deserialize)]
struct LiveQuery {
    after: Option<u64>,
}

/// `GET /v1/live`: what is new, once a second, as server-sent events; goes on after `Last-Event-ID` or `after`.
pub(crate) async fn live(State(parts): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    let LiveQuery { after } = query(&uri)?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let tasks = parts.tasks.clone();
    let end = async move { tasks.closing().await };
    let events = parts.live.follow(last.or(after)).map(Ok::<_, std::convert::Infallible>).take_until(end);
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrafficQuery {
    seconds: Option<u64>,
    app: Option<String>,
}

/// `GET /v1/traffic?seconds=300&app=default/shop`: the last so many seconds of every app and edge, or of one app with the
/// points of its edges.
pub(crate) async fn traffic(State(parts): Shared, uri: Uri) -> Answer {
    let TrafficQuery { seconds, app } = query(&uri)?;
    let history = parts.live.history();
    let range = history.range(seconds.unwrap_or(300));
    let (apps, edges) = (history.apps(range, app.as_deref()), history.edges(range, app.as_deref()));
    answer(&json!({ "range": range, "apps": apps, "edges": edges }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_are_in_the_middle_of_a_second() {
        for (now_ms, wait_ms) in [(0, 500), (499, 1), (500, 1000), (501, 999), (999, 501), (7_250, 250)] {
            assert_eq!(until_beat(Duration::from_millis(now_ms)), Duration::from_millis(wait_ms), "{now_ms}");
        }
    }
}
