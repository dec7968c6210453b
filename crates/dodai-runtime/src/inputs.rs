//! Input bindings: events of components, brought to the apps that want them.
//!
//! An app that is ready is asked once for each binding whether it takes its events (`OPTIONS` of the route); then each
//! event is a `POST` there, one after the other, and what the app answers may be written to a store and sent to output
//! bindings. Always holds: an event under way is brought to its end when the component changes or the app leaves.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dodai_capability::Metadata;
use dodai_capability::binding::{Event, Request};
use dodai_capability::state::{Operation, Set};
use dodai_core::failure::Failure;
use dodai_core::id::AppId;
use dodai_core::snapshot::Snapshot;
use dodai_core::task::{Kind, Tasks};
use dodai_core::trace::Span;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::callback::{Ask, Callbacks, escaped};
use crate::components::{Block, Components, Live};

/// How long an app may take to say whether it takes a binding's events, as with Dapr.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an app that cannot be reached is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// The input bindings of one base. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Inputs(Arc<Inner>);

struct Inner {
    components: Components,
    callbacks: Callbacks,
    tasks: Tasks,
    apps: Mutex<HashMap<AppId, Watched>>,
}

/// An app that may take events.
struct Watched {
    ready: watch::Sender<bool>,
    stop: CancellationToken,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What an app may answer to an event.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Answered<'a> {
    store_name: String,
    #[serde(borrow)]
    state: Vec<Pair<'a>>,
    to: Vec<String>,
    concurrency: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Pair<'a> {
    key: String,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

/// Whether a component goes that way; one that says nothing goes both.
pub(crate) fn has_direction(live: &Live, direction: &str) -> bool {
    let said = live.property("direction");
    said.is_none_or(|said| said.split(',').any(|word| word.trim().eq_ignore_ascii_case(direction)))
}

impl Inputs {
    pub fn new(components: Components, callbacks: Callbacks, tasks: Tasks) -> Inputs {
        Inputs(Arc::new(Inner { components, callbacks, tasks, apps: Mutex::default() }))
    }

    /// Forgets apps that left the snapshot or have no runtime API.
    pub fn apply(&self, snapshot: &Snapshot) {
        let known: HashSet<&AppId> =
            snapshot.apps().filter(|app| app.runtime_api).map(|app| &app.id).collect();
        let mut apps = self.0.apps.lock().unwrap_or_else(PoisonError::into_inner);
        apps.retain(|app, _| known.contains(app));
        for app in known {
            apps.entry(app.clone()).or_insert_with(|| self.watch(app));
        }
    }

    /// Tells whether an app has a ready instance here.
    pub fn app_ready(&self, app: &AppId, ready: bool) {
        let apps = self.0.apps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = apps.get(app) {
            watched.ready.send_if_modified(|now| std::mem::replace(now, ready) != ready);
        }
    }

    fn watch(&self, app: &AppId) -> Watched {
        let watched = Watched { ready: watch::Sender::new(false), stop: CancellationToken::new() };
        let keeper = keep(self.clone(), app.clone(), watched.ready.subscribe(), watched.stop.clone());
        self.0.tasks.spawn(Kind::Delivery, keeper);
        watched
    }

    /// Ends reading; events under way come to their end, up to `deadline`.
    pub async fn close(&self, deadline: Duration) {
        let cut = self.0.tasks.drain(deadline).await;
        if !cut.is_empty() {
            tracing::warn!(?cut, "events of bindings were cut");
        }
    }
}

/// Reads the bindings that the app may have while it is ready.
async fn keep(inputs: Inputs, app: AppId, mut ready: watch::Receiver<bool>, stop: CancellationToken) {
    let mut running: BTreeMap<String, (Arc<Live>, CancellationToken)> = BTreeMap::new();
    loop {
        let mut changes = inputs.0.components.changes();
        let mut wanted = BTreeMap::new();
        if *ready.borrow_and_update() {
            let live = inputs.0.components.of_app(&app).into_iter().filter_map(|slot| slot.live());
            let reads =
                |live: &Arc<Live>| live.component.serves.input.is_some() && has_direction(live, "input");
            wanted.extend(live.filter(reads).map(|live| (live.name().to_owned(), live)));
        }
        running.retain(|name, (old, stop)| {
            let stays = wanted.get(name).is_some_and(|new| Arc::ptr_eq(new, old));
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (name, live) in wanted {
            running.entry(name).or_insert_with(|| {
                let reading = stop.child_token();
                let reader = Reader {
                    inputs: inputs.clone(),
                    app: app.clone(),
                    live: live.clone(),
                    stop: reading.clone(),
                };
                inputs.0.tasks.spawn(Kind::Delivery, reader.run());
                (live, reading)
            });
        }
        // All branches are cancel safe.
        tokio::select! {
            () = stop.cancelled() => return,
            () = inputs.0.tasks.closing() => return stop.cancel(),
            changed = ready.changed() => {
                if changed.is_err() {
                    return stop.cancel();
                }
            }
            _ = changes.changed() => {}
        }
    }
}

/// One binding, read for one app.
struct Reader {
    inputs: Inputs,
    app: AppId,
    live: Arc<Live>,
    stop: CancellationToken,
}

impl Reader {
    async fn run(self) {
        let (app, binding) = (&self.app, self.live.name());
        let Some(input) = self.live.component.serves.input.clone() else { return };
        let route = self.live.property("route").unwrap_or(binding);
        let path = format!("/{}", escaped(route.trim_start_matches('/')));
        // Cancel safe: nothing is read yet.
        let takes = tokio::select! {
            () = self.stop.cancelled() => return,
            takes = self.takes(&path) => takes,
        };
        if !takes {
            tracing::debug!(%app, binding, "the app takes no events of the binding");
            return;
        }
        let mut events = match input.read().await {
            Ok(events) => events,
            Err(error) => {
                tracing::warn!(%app, binding, "a binding cannot be read: {error}");
                return;
            }
        };
        loop {
            // Cancel safe: an event is taken in whole or not at all.
            let event = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                event = events.next() => event,
            };
            let Some(event) = event else { return };
            if let Err(problem) = self.bring(&path, event).await {
                tracing::warn!(%app, binding, "an event was not taken: {problem}");
            }
        }
    }

    async fn ask(&self, method: Method, path: &str, event: Event) -> Result<(StatusCode, Bytes), Failure> {
        let timeout = if method == Method::OPTIONS { ASK_TIMEOUT } else { self.inputs.0.callbacks.timeout };
        let ask = Ask {
            method,
            path,
            content_type: "application/json",
            trace_state: None,
            body: event.data,
            span: Span::root(false),
        };
        self.inputs.0.callbacks.call_within(timeout, &self.app, ask).await
    }

    /// Whether the app takes the events. One that cannot be reached is asked again.
    async fn takes(&self, path: &str) -> bool {
        loop {
            match self.ask(Method::OPTIONS, path, Event::default()).await {
                Ok((status, _)) => return status.is_success() || status == StatusCode::METHOD_NOT_ALLOWED,
                Err(failure) => {
                    tracing::debug!(app = %self.app, path, "the app does not say whether it takes events: {}", failure.detail);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn bring(&self, path: &str, event: Event) -> Result<(), String> {
        let answered = self.ask(Method::POST, path, event).await;
        let (status, body) = answered.map_err(|failure| failure.detail.to_string())?;
        if !status.is_success() {
            return Err(format!("the app answered {status}"));
        }
        // Any other text is no wish of the app.
        let Ok(wishes) = serde_json::from_slice::<Answered<'_>>(&body) else { return Ok(()) };
        self.write(&wishes).await?;
        self.send(&wishes).await
    }

    async fn write(&self, wishes: &Answered<'_>) -> Result<(), String> {
        let store = &wishes.store_name;
        if wishes.state.is_empty() || store.is_empty() {
            return Ok(());
        }
        let components = &self.inputs.0.components;
        let found = components.find(&self.app, Block::State, store, |all| all.state.clone());
        let (live, state) =
            found.map_err(|absent| format!("its state store {store} cannot be used: {absent:?}"))?;
        let prefix = live.prefix(&self.app).map_err(|error| error.to_string())?;
        let sets = wishes.state.iter().map(|pair| {
            let key = prefix.apply(&pair.key).map_err(|error| error.to_string())?;
            let value = pair.value.map_or("null", RawValue::get).to_owned();
            Ok(Set::new(key, value))
        });
        let sets: Vec<Set> = sets.collect::<Result<_, String>>()?;
        if state.features().transaction {
            let steps = sets.into_iter().map(Operation::Upsert).collect();
            return state.transact(steps, Metadata::new()).await.map_err(|error| error.to_string());
        }
        let written = state.set_many(sets).await;
        written.into_iter().collect::<Result<(), _>>().map_err(|error| error.to_string())
    }

    async fn send(&self, wishes: &Answered<'_>) -> Result<(), String> {
        let data = wishes.data.map(|data| Bytes::copy_from_slice(data.get().as_bytes())).unwrap_or_default();
        let one = |name: &String| {
            let (name, data) = (name.clone(), data.clone());
            async move {
                let components = &self.inputs.0.components;
                let found = components.find(&self.app, Block::Bindings, &name, |all| all.output.clone());
                let (_live, output) =
                    found.map_err(|absent| format!("output binding {name} cannot be used: {absent:?}"))?;
                let request = Request { operation: "create".to_owned(), data, metadata: Metadata::new() };
                output
                    .invoke(request)
                    .await
                    .map(|_| ())
                    .map_err(|error| format!("output binding {name}: {error}"))
            }
        };
        if wishes.concurrency.eq_ignore_ascii_case("parallel") {
            return join_all(wishes.to.iter().map(one)).await.into_iter().collect();
        }
        for name in &wishes.to {
            one(name).await?;
        }
        Ok(())
    }
}
