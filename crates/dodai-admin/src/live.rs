//! The pulse of a server for consoles: once a second its counters go into the history, and who listens is told what
//! is new. A message is made once however many listen, and only while somebody does.
//!
//! A message says which parts of the API have changed rather than repeating them; the page asks for what it shows.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use bytes::Bytes;
use dodai_control::control::{Control, Event};
use dodai_core::task::{Kind, Tasks};
use http::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::api::Shared;
use crate::apps::{self, Instance};
use crate::feed::Events;
use crate::history::{
    BaseEdge, EdgeOf, History, LiveEdge, Point, Range, RevisionSum, STEP_SECONDS, Sum, Use,
};
use crate::seam::Node;
use crate::wire::{Answer, Query, json};

/// Between two messages.
const BEAT: Duration = Duration::from_secs(1);
/// How many messages are kept for consoles that come back, and how far one may fall behind. So many more are made after
/// the last console has left.
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

/// What the parts of the API are as of: a page asks again for what depends on one that has changed.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Marks {
    /// The store's revision: documents and the change log are as of then.
    documents: u64,
    /// Changes when instances come, go or change their phase.
    instances: u64,
    /// Changes when the node's listeners or components do.
    node: u64,
}

/// What is new since a second ago.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Beat<'a> {
    /// Seconds since 1970.
    second: u64,
    #[serde(flatten)]
    marks: Marks,
    /// The last second of every app in which something happened.
    apps: BTreeMap<&'a str, &'a Point>,
    /// Edges that carried something in it.
    edges: Vec<LiveEdge<'a>>,
    /// What happened.
    events: Vec<Event>,
}

/// One message: `beat` events say what is new, `anew` events that everything is to be asked for anew.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "messages are written once for all who listen; this says what they are")]
pub(crate) enum News {
    Beat(Beat<'static>),
    Anew(Marks),
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
        let mut pulse = Pulse { id: first_id(), unheard: KEPT, read: Instant::now(), cpu: HashMap::new() };
        loop {
            tokio::select! {
                // Both only wait.
                () = tokio::time::sleep(until_beat(since_epoch())) => {}
                () = tasks.closing() => return,
            }
            let second = since_epoch().as_secs();
            // The clock may have been put back a little: no second comes twice. One that was put back far begins anew.
            if second > last || last - second > KEPT as u64 {
                event = self.beat(second, event, &mut pulse);
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
    fn beat(&self, second: u64, event: u64, pulse: &mut Pulse) -> u64 {
        pulse.unheard = if self.0.sender.receiver_count() > 0 { 0 } else { pulse.unheard.saturating_add(1) };
        // Who has just left may come back, and goes on where it was.
        let is_heard = pulse.unheard < KEPT;
        // Looking at every process costs more than reading counters.
        let instances = (is_heard || second.is_multiple_of(STEP_SECONDS))
            .then(|| apps::all(&self.0.control, self.0.node.as_ref()));
        let traffic = self.0.node.traffic();
        let mut history = self.history();
        let now = Instant::now();
        let elapsed = now.duration_since(std::mem::replace(&mut pulse.read, now));
        let uses = instances.as_deref().map(|instances| uses(instances, &mut pulse.cpu));
        history.step(second, elapsed, traffic.as_ref(), uses.as_ref());
        let newest = *self.0.control.events_changed().borrow();
        let Some(instances) = instances.filter(|_| is_heard) else {
            self.kept().clear();
            return newest;
        };
        let mut events = self.0.control.events(event);
        let spare = events.len().saturating_sub(MAX_EVENTS);
        events.drain(..spare);
        let beat = Beat {
            second,
            marks: self.marks(&instances),
            apps: history.latest_apps(),
            edges: history.latest_edges(),
            events,
        };
        let Ok(text) = serde_json::to_string(&beat) else { return newest };
        drop(history);
        pulse.id += 1;
        let id = pulse.id;
        let message = Message { id, text: Bytes::from(format!("id: {id}\nevent: beat\ndata: {text}\n\n")) };
        let mut kept = self.kept();
        while kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(message.clone());
        // It fails when the last listener has just gone.
        let _nobody = self.0.sender.send(message);
        newest
    }

    fn marks(&self, instances: &[Instance]) -> Marks {
        let shapes: Vec<_> =
            instances.iter().map(|one| (&one.id, one.phase, &one.reason, one.restarts, one.pid)).collect();
        Marks {
            documents: self.0.control.view().revision.0,
            instances: mark(&format!("{shapes:?}")),
            node: mark(&format!("{:?}", self.0.node.state())),
        }
    }

    /// Tells a page to ask for everything anew, and what that will at least be as of.
    fn anew(&self) -> Bytes {
        let marks = self.marks(&apps::all(&self.0.control, self.0.node.as_ref()));
        let text = serde_json::to_string(&marks).unwrap_or_else(|_| "{}".to_owned());
        Bytes::from(format!("event: anew\ndata: {text}\n\n"))
    }

    /// Messages after the one with number `after`, or an event `anew` if they are no longer kept, and then all that come.
    fn follow(&self, after: Option<u64>) -> impl futures_util::Stream<Item = Bytes> + Send + 'static {
        let anew = self.anew();
        let (receiver, past) = {
            // Under the lock, so that nothing falls between the two or comes twice.
            let kept = self.kept();
            let past = match after {
                Some(after) if kept.iter().any(|message| message.id == after) => kept
                    .iter()
                    .filter(|message| message.id > after)
                    .map(|message| message.text.clone())
                    .collect(),
                _ => VecDeque::from([anew]),
            };
            (self.0.sender.subscribe(), past)
        };
        futures_util::stream::unfold(
            (receiver, past, self.clone()),
            |(mut receiver, mut past, live)| async move {
                if let Some(text) = past.pop_front() {
                    return Some((text, (receiver, past, live)));
                }
                let text = match receiver.recv().await {
                    Ok(message) => message.text,
                    Err(broadcast::error::RecvError::Lagged(_)) => live.anew(),
                    Err(broadcast::error::RecvError::Closed) => return None,
                };
                Some((text, (receiver, past, live)))
            },
        )
    }
}

/// What each app uses in all, and the processor time of every instance for the look that comes next. Only what an
/// instance spent between two looks that know it counts: one that was away brings its whole life back with it.
fn uses(instances: &[Instance], cpu: &mut HashMap<String, u64>) -> BTreeMap<String, Use> {
    let before = std::mem::take(cpu);
    let mut uses: BTreeMap<String, Use> = BTreeMap::new();
    for one in instances {
        let used = uses.entry(one.app.clone()).or_default();
        used.memory_bytes = used.memory_bytes.saturating_add(one.memory_bytes.unwrap_or(0));
        if let Some(now) = one.cpu_ms {
            let spent = before.get(&one.id).map_or(0, |then| now.saturating_sub(*then));
            used.cpu_ms = used.cpu_ms.saturating_add(spent);
            cpu.insert(one.id.clone(), now);
        }
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

/// Where the loop stands.
struct Pulse {
    /// The number of the last message.
    id: u64,
    /// How many beats nobody has heard.
    unheard: usize,
    /// When the counters were read last, by a clock that never jumps.
    read: Instant,
    /// The processor time of each instance since its start, as of the last look, in milliseconds.
    cpu: HashMap<String, u64>,
}

/// The number before the first message: another with each start, so that no console takes the messages of a new server
/// for those that it knows. Exact in every language.
fn first_id() -> u64 {
    mark(&format!("{:?} {}", since_epoch(), std::process::id())) >> 20 << 20
}

/// A number that changes with the text, exact in every language.
fn mark(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish() >> 12
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct LiveQuery {
    /// Go on after the message with this id, as the header `Last-Event-ID` does.
    after: Option<u64>,
}

/// `GET /v1/live`: what is new, once a second, as server-sent events; goes on after `Last-Event-ID` or `after`.
pub(crate) async fn live(
    State(parts): Shared,
    Query(LiveQuery { after }): Query<LiveQuery>,
    headers: HeaderMap,
) -> Events<News> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    Events::written(parts.live.follow(last.or(after)), parts.tasks.clone())
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrafficQuery {
    /// How far back: 300 where it is left out, 3600 at most. Up to 300 in steps of a second, else of fifteen.
    seconds: Option<u64>,
    /// Only this app, `namespace/name`, with the points of its edges.
    app: Option<String>,
}

/// What calls were lately.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Traffic {
    /// The part of the past that this is about.
    range: Range,
    /// False on a server to which no base has told yet what it measures: then nothing is known, rather than that there
    /// were none.
    known: bool,
    /// Bases that are connected and do not say what they measure, so that it is missing here.
    silent: Vec<String>,
    /// The points of each app.
    apps: BTreeMap<String, Vec<Point>>,
    /// What each app got over the whole range.
    sums: BTreeMap<String, Sum>,
    /// Who called whom.
    edges: Vec<EdgeOf>,
    /// What each revision answered, of all apps or of the one that was asked for.
    revisions: Vec<RevisionSum>,
    /// The same calls by the base where they began and the one that answered; empty where one app was asked for.
    bases: Vec<BaseEdge>,
}

/// `GET /v1/traffic?seconds=300&app=default/shop`: the last so many seconds of every app, edge, revision and pair of bases,
/// or of one app with the points of its edges.
pub(crate) async fn traffic(
    State(parts): Shared,
    Query(TrafficQuery { seconds, app }): Query<TrafficQuery>,
) -> Answer<Traffic> {
    let history = parts.live.history();
    let range = history.range(seconds.unwrap_or(300));
    let only = app.as_deref();
    let traffic = Traffic {
        range,
        known: history.knows_calls(),
        silent: parts.node.silent(),
        apps: history.apps(range, only),
        sums: history.sums(range, only),
        edges: history.edges(range, only),
        revisions: history.revisions(range, only),
        bases: if only.is_none() { history.bases(range) } else { Vec::new() },
    };
    drop(history);
    json(&traffic)
}

#[cfg(test)]
mod tests {
    use dodai_core::status::Phase;

    use super::*;

    #[test]
    fn an_instance_that_comes_back_has_spent_nothing_and_an_app_only_what_its_instances_did() {
        let one = |id: &str, cpu_ms| Instance {
            id: id.to_owned(),
            app: "default/shop".to_owned(),
            revision: String::new(),
            shape: String::new(),
            base: String::new(),
            phase: Phase::Ready,
            reason: String::new(),
            restarts: 0,
            pid: None,
            ports: BTreeMap::new(),
            in_flight: 0,
            created_ms: 0,
            cpu_ms,
            memory_bytes: None,
        };
        let mut cpu = HashMap::new();
        let mut spent = |a, b| uses(&[one("a", a), one("b", b)], &mut cpu)["default/shop"].cpu_ms;
        assert_eq!(spent(Some(9_000), Some(7_000_000)), 0, "nobody knows when it was spent");
        assert_eq!(spent(Some(9_400), None), 400);
        assert_eq!(spent(Some(9_500), Some(7_000_900)), 100, "what was not known before counts from here");
        assert_eq!(
            spent(Some(20), Some(7_001_000)),
            100,
            "a process that began anew took nothing of the other"
        );
    }

    #[test]
    fn beats_are_in_the_middle_of_a_second() {
        for (now_ms, wait_ms) in [(0, 500), (499, 1), (500, 1000), (501, 999), (999, 501), (7_250, 250)] {
            assert_eq!(until_beat(Duration::from_millis(now_ms)), Duration::from_millis(wait_ms), "{now_ms}");
        }
    }
}
