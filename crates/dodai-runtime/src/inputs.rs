//! Input bindings: events of components, brought to the apps that want them.
//!
//! An app that is ready is asked once for each binding whether it takes its events (`OPTIONS` of the route, or
//! `ListInputBindings` of an app that speaks gRPC); then each event is a `POST` there or an `OnBindingEvent`, one after
//! the other, and what the app answers may be written to a store and sent to output bindings. Always holds: an event
//! under way is brought to its end when the component changes or the app leaves; only what would be tried again is not.

mod headers;
mod wishes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dodai_capability::binding::Event;
use dodai_core::failure::Failure;
use dodai_core::id::AppId;
use dodai_core::snapshot::{RetryPolicy, Snapshot};
use dodai_core::task::{Kind, Tasks};
use dodai_core::trace::Span;
use dodai_proto::apps::dapr::proto::runtime::v1::BindingEventRequest;
use http::{HeaderMap, Method, StatusCode};
use tokio_util::sync::CancellationToken;

use wishes::Wishes;

use crate::callback::{Ask, Callbacks, Unanswered, escaped};
use crate::components::{Components, Live};
use crate::watched::{Begun, Watched};

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
    apps: Watched<()>,
}

/// Whether a component goes that way; one that says nothing goes both.
pub(crate) fn has_direction(live: &Live, direction: &str) -> bool {
    let said = live.property("direction");
    said.is_none_or(|said| said.split(',').any(|word| word.trim().eq_ignore_ascii_case(direction)))
}

impl Inputs {
    pub fn new(components: Components, callbacks: Callbacks, tasks: Tasks) -> Inputs {
        Inputs(Arc::new(Inner { components, callbacks, tasks, apps: Watched::default() }))
    }

    /// Forgets apps that left the snapshot or have no runtime API.
    pub fn apply(&self, snapshot: &Snapshot) {
        self.0.apps.apply(snapshot, |begun| {
            self.0.tasks.spawn(Kind::Delivery, keep(self.clone(), begun));
        });
    }

    /// Tells whether an app has a ready instance here.
    pub fn app_ready(&self, app: &AppId, ready: bool) {
        self.0.apps.app_ready(app, ready);
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
async fn keep(inputs: Inputs, begun: Begun) {
    let Begun { app, speaks_grpc, mut ready, stop } = begun;
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
                    speaks_grpc,
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
    speaks_grpc: bool,
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

    /// Whether the app says by `OPTIONS` that it takes the events.
    async fn is_wanted(&self, path: &str) -> Result<bool, Failure> {
        let ask = Ask {
            method: Method::OPTIONS,
            path,
            content_type: "application/json",
            headers: HeaderMap::new(),
            body: Bytes::new(),
            span: Span::root(false),
        };
        let (status, _) = self.inputs.0.callbacks.call_within(ASK_TIMEOUT, &self.app, ask).await?;
        Ok(status.is_success() || status == StatusCode::METHOD_NOT_ALLOWED)
    }

    /// Whether the app takes the events. One that cannot be reached is asked again; one whose component says
    /// `direction: input` is not asked, as with daprd.
    async fn takes(&self, path: &str) -> bool {
        if self.live.property("direction").is_some() {
            return true;
        }
        loop {
            let asked = if self.speaks_grpc { self.is_listed().await } else { self.is_wanted(path).await };
            match asked {
                Ok(takes) => return takes,
                Err(failure) => {
                    tracing::debug!(app = %self.app, path, "the app does not say whether it takes events: {}", failure.detail);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Whether the binding is among those that the app names. One that refuses to answer names none.
    async fn is_listed(&self) -> Result<bool, Failure> {
        match self.inputs.0.callbacks.list_bindings(&self.app, ASK_TIMEOUT).await {
            Ok(listed) => Ok(listed.bindings.iter().any(|name| name == self.live.name())),
            Err(Unanswered::Failed(failure)) => Err(failure),
            Err(refused) => {
                if !refused.is_unimplemented() {
                    tracing::warn!(app = %self.app, binding = self.live.name(), "ListInputBindings: {}", refused.told());
                }
                Ok(false)
            }
        }
    }

    /// Brings an event and does what the app wishes, as often and as long as documents say for the component's
    /// `inbound`.
    async fn bring(&self, path: &str, event: Event) -> Result<(), String> {
        let wanted = self.inputs.0.components.wanted(&self.app.namespace, self.live.name());
        let patience = wanted.map(|wanted| wanted.inbound.clone()).unwrap_or_default();
        let timeout = patience.timeout.unwrap_or(self.inputs.0.callbacks.timeout);
        let mut retries = 0;
        let wishes = loop {
            let untaken = match self.bring_once(path, &event, timeout).await {
                Ok(wishes) => break wishes,
                Err(untaken) => untaken,
            };
            let retry = patience.retry.as_ref();
            let Some(retry) = retry.filter(|retry| retries < retry.attempts && untaken.may_pass(retry))
            else {
                return Err(untaken.reason);
            };
            // Both only wait.
            tokio::select! {
                () = self.stop.cancelled() => return Err(untaken.reason),
                () = tokio::time::sleep(retry.pause(retries)) => {}
            }
            retries += 1;
        };
        wishes.grant(&self.inputs.0.components, &self.app).await
    }

    async fn bring_once(&self, path: &str, event: &Event, timeout: Duration) -> Result<Wishes, Untaken> {
        let Event { data, metadata } = event.clone();
        let span = headers::parent(&metadata).map_or_else(|| Span::root(false), |parent| parent.child());
        let callbacks = &self.inputs.0.callbacks;
        if self.speaks_grpc {
            let event = BindingEventRequest { name: self.live.name().to_owned(), data, metadata };
            let answer = callbacks.on_binding_event(&self.app, timeout, span, event).await;
            return answer
                .map(Wishes::told)
                .map_err(|unanswered| Untaken { reason: unanswered.told(), status: None });
        }
        let ask = Ask {
            method: Method::POST,
            path,
            content_type: "application/json",
            headers: headers::of(&metadata),
            body: data,
            span,
        };
        match callbacks.call_within(timeout, &self.app, ask).await {
            Ok((status, body)) if status.is_success() => Ok(Wishes::read(&body)),
            Ok((status, _)) => {
                Err(Untaken { reason: format!("the app answered {status}"), status: Some(status.as_u16()) })
            }
            Err(failure) => Err(Untaken { reason: failure.detail.to_string(), status: None }),
        }
    }
}

/// Why an event was not taken.
struct Untaken {
    reason: String,
    /// What the app answered, over HTTP.
    status: Option<u16>,
}

impl Untaken {
    /// Whether it is to be brought again: without an answer of HTTP always, as with daprd.
    fn may_pass(&self, retry: &RetryPolicy) -> bool {
        self.status.is_none_or(|status| retry.statuses.contains(&status))
    }
}
