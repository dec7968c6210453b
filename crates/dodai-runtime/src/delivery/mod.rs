//! Deliveries: what a base brings to its apps, messages of their subscriptions and changes of configuration.
//!
//! Each subscription is a task that pulls from the broker while its app is ready and pushes through the
//! `Door`. Which subscriptions run follows from what is declared and what the app tells; a change stops and
//! starts only what differs. Always holds: a message is settled once its fate is known and never before.

mod ask;
mod bulk;
pub(crate) mod follow;
mod grpc;
mod plan;
#[cfg(test)]
mod properties;
pub(crate) mod stream;
mod verdict;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dodai_capability::Metadata;
use dodai_core::id::{AppId, Name};
use dodai_core::snapshot::Snapshot;
use dodai_core::status::Health;
use dodai_core::task::{Kind, Tasks};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use grpc::value_of;
use plan::Plan;
pub(crate) use plan::{Described, Source};
use worker::{Way, Worker};

use crate::callback::Callbacks;
use crate::components::Components;
use crate::settings::Settings;

/// A configuration subscription of an app.
pub(crate) struct Followed {
    pub app: AppId,
    pub store: String,
    /// None: all.
    pub keys: Vec<String>,
    pub metadata: Metadata,
    pub id: String,
}

struct Inner {
    components: Components,
    callbacks: Callbacks,
    settings: Settings,
    tasks: Tasks,
    apps: Mutex<HashMap<AppId, AppState>>,
}

/// How a subscription is at first.
const JOINING: &str = "it is being joined";

/// All deliveries of one base. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Deliveries(Arc<Inner>);

struct AppState {
    declared: Vec<Arc<Plan>>,
    told: Vec<Arc<Plan>>,
    /// What is wrong with subscriptions that do not run, by name.
    problems: BTreeMap<String, String>,
    ready: watch::Sender<bool>,
    running: BTreeMap<(String, String), Running>,
    /// Subscriptions that are read as streams; those that have ended are taken out when one more comes.
    streams: Vec<Running>,
    /// It serves `AppCallback` instead of Dapr's HTTP callbacks.
    speaks_grpc: bool,
    /// Ends the question to the app which subscriptions it has.
    asking: CancellationToken,
    /// That question has an answer, be it a refusal; true while nothing is asked.
    answered: bool,
    /// It has no runtime API: nothing is asked of it and nothing is brought to it.
    left_alone: bool,
    /// It was told how an app that answers every path is not asked.
    hinted: bool,
}

struct Running {
    plan: Arc<Plan>,
    stop: CancellationToken,
    health: Arc<Mutex<Health>>,
}

impl Default for AppState {
    fn default() -> AppState {
        AppState {
            declared: Vec::new(),
            told: Vec::new(),
            problems: BTreeMap::new(),
            ready: watch::Sender::new(false),
            running: BTreeMap::new(),
            streams: Vec::new(),
            speaks_grpc: false,
            asking: CancellationToken::new(),
            answered: true,
            left_alone: false,
            hinted: false,
        }
    }
}

impl Drop for AppState {
    fn drop(&mut self) {
        self.asking.cancel();
        self.running.values().chain(&self.streams).for_each(|running| running.stop.cancel());
    }
}

impl Deliveries {
    pub fn new(components: Components, callbacks: Callbacks, settings: Settings, tasks: Tasks) -> Deliveries {
        Deliveries(Arc::new(Inner { components, callbacks, settings, tasks, apps: Mutex::default() }))
    }

    fn apps(&self) -> MutexGuard<'_, HashMap<AppId, AppState>> {
        self.0.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the declared subscriptions those of the snapshot. Apps that left it are forgotten.
    pub fn apply(&self, snapshot: &Snapshot) {
        let mut declared: HashMap<&AppId, Vec<Arc<Plan>>> = HashMap::new();
        let mut problems: HashMap<&AppId, BTreeMap<String, String>> = HashMap::new();
        let left_alone: HashSet<&AppId> =
            snapshot.apps().filter(|app| !app.runtime_api).map(|app| &app.id).collect();
        for subscription in snapshot.subscriptions().filter(|one| !left_alone.contains(&one.app)) {
            match Plan::declared(subscription) {
                Ok(plan) => declared.entry(&subscription.app).or_default().push(Arc::new(plan)),
                Err(problem) => {
                    tracing::warn!(subscription = subscription.name, "a subscription was refused: {problem}");
                    problems.entry(&subscription.app).or_default().insert(subscription.name.clone(), problem);
                }
            }
        }
        let mut apps = self.apps();
        let mut known: Vec<&AppId> = snapshot.apps().map(|app| &app.id).collect();
        known.extend(declared.keys().chain(problems.keys()));
        apps.retain(|app, _| known.contains(&app));
        let speak_grpc: HashSet<&AppId> =
            snapshot.apps().filter(|app| app.grpc_callbacks).map(|app| &app.id).collect();
        for app in declared.keys().chain(problems.keys()).chain(&left_alone).chain(&speak_grpc) {
            apps.entry((*app).clone()).or_default();
        }
        for (app, state) in apps.iter_mut() {
            self.set_speaks_grpc(app, state, speak_grpc.contains(app));
            self.set_left_alone(app, state, left_alone.contains(app));
            let plans = declared.remove(app).unwrap_or_default();
            state.problems.retain(|name, _| name == ask::PROBLEM);
            state.problems.extend(problems.remove(app).unwrap_or_default());
            if state.declared != plans {
                state.declared = plans;
                self.reconcile(app, state);
            }
        }
    }

    /// Tells whether an app has a ready instance here. When it becomes ready it is asked for its subscriptions.
    pub fn app_ready(&self, app: &AppId, ready: bool) {
        let mut apps = self.apps();
        let state = apps.entry(app.clone()).or_default();
        if state.ready.send_replace(ready) == ready {
            return;
        }
        self.ask(app, state);
    }

    /// Asks an app for its subscriptions, if it is ready and has the runtime API; else asks no longer.
    fn ask(&self, app: &AppId, state: &mut AppState) {
        state.asking.cancel();
        state.answered = true;
        if *state.ready.borrow() && !state.left_alone && self.0.settings.asks_subscriptions {
            state.asking = CancellationToken::new();
            state.answered = false;
            self.0.tasks.spawn(Kind::Delivery, ask::run(self.clone(), app.clone(), state.asking.clone()));
        }
    }

    /// What runs is started anew, by the other way.
    fn set_speaks_grpc(&self, app: &AppId, state: &mut AppState, speaks_grpc: bool) {
        if state.speaks_grpc == speaks_grpc {
            return;
        }
        state.speaks_grpc = speaks_grpc;
        state.told.clear();
        for (_, running) in std::mem::take(&mut state.running) {
            running.stop.cancel();
        }
        self.reconcile(app, state);
        self.ask(app, state);
    }

    /// Whether an app serves `AppCallback`.
    pub fn speaks_grpc(&self, app: &AppId) -> bool {
        self.apps().get(app).is_some_and(|state| state.speaks_grpc)
    }

    /// The way to apps.
    pub fn callbacks(&self) -> &Callbacks {
        &self.0.callbacks
    }

    fn set_left_alone(&self, app: &AppId, state: &mut AppState, left_alone: bool) {
        if state.left_alone == left_alone {
            return;
        }
        state.left_alone = left_alone;
        if left_alone {
            state.told.clear();
            state.problems.clear();
            self.reconcile(app, state);
        }
        self.ask(app, state);
    }

    /// Takes over what an app told of its subscriptions.
    fn set_told(&self, app: &AppId, told: Vec<Arc<Plan>>, problem: Option<String>) {
        let mut apps = self.apps();
        let Some(state) = apps.get_mut(app).filter(|state| !state.left_alone) else { return };
        state.problems.remove(ask::PROBLEM);
        if let Some(problem) = problem {
            tracing::warn!(%app, "not all subscriptions of the app can run: {problem}");
            state.problems.insert(ask::PROBLEM.to_owned(), problem);
        }
        state.told = told;
        state.answered = true;
        self.reconcile(app, state);
    }

    /// Takes over that an app answers every path and so has told nothing.
    fn set_silent(&self, app: &AppId) {
        if let Some(state) = self.apps().get_mut(app)
            && !std::mem::replace(&mut state.hinted, true)
        {
            tracing::info!(%app, "the app answers GET /dapr/subscribe with something else, so it has no subscriptions of its own; {}", ask::remedy(self));
        }
        self.set_told(app, Vec::new(), None);
    }

    /// Keeps the old subscriptions of an app that does not say which it has; `answered` tells whether it said anything.
    fn set_problem(&self, app: &AppId, problem: String, answered: bool) {
        if let Some(state) = self.apps().get_mut(app) {
            if state.problems.get(ask::PROBLEM) != Some(&problem) {
                tracing::warn!(%app, "{problem}");
            }
            state.answered |= answered;
            state.problems.insert(ask::PROBLEM.to_owned(), problem);
        }
    }

    fn reconcile(&self, app: &AppId, state: &mut AppState) {
        let wanted = plan::merged(&state.told, &state.declared);
        state.running.retain(|key, running| {
            let stays = wanted.iter().any(|plan| plan.key() == *key && *plan == running.plan);
            if !stays {
                running.stop.cancel();
            }
            stays
        });
        let way = if state.speaks_grpc { Way::Grpc } else { Way::Http };
        for plan in wanted {
            let ready = &state.ready;
            state.running.entry(plan.key()).or_insert_with(|| {
                let stop = CancellationToken::new();
                let health = Health { ready: false, reason: JOINING.into() };
                let health = Arc::new(Mutex::new(health));
                let worker = Worker {
                    deliveries: self.clone(),
                    app: app.clone(),
                    plan: plan.clone(),
                    stop: stop.clone(),
                    ready: ready.subscribe(),
                    health: health.clone(),
                    way: way.clone(),
                    joined: None,
                };
                if let Some(cut) = &plan.cut {
                    tracing::warn!(%app, pubsub = plan.pubsub, topic = plan.topic, "{cut}");
                }
                self.0.tasks.spawn(Kind::Delivery, worker.run());
                Running { plan, stop, health }
            });
        }
    }

    /// Why messages may not reach an app that is ready: it has not said what it subscribes to, or that is not joined.
    pub fn unsubscribed(&self, app: &AppId) -> Option<String> {
        let apps = self.apps();
        let state = apps.get(app)?;
        if !state.answered {
            let unasked = || "it has not said yet what it subscribes to".to_owned();
            return Some(state.problems.get(ask::PROBLEM).cloned().unwrap_or_else(unasked));
        }
        state.running.values().find_map(|one| {
            let health = one.health.lock().unwrap_or_else(PoisonError::into_inner);
            (!health.ready).then(|| format!("{}/{}: {}", one.plan.pubsub, one.plan.topic, health.reason))
        })
    }

    /// Whether an app is being asked, or something that it subscribes to is being joined for the first time.
    pub fn is_subscribing(&self, app: &AppId) -> bool {
        self.apps().get(app).is_some_and(|state| {
            let joining = |one: &Running| {
                let health = one.health.lock().unwrap_or_else(PoisonError::into_inner);
                !health.ready && health.reason == JOINING
            };
            !state.answered || state.running.values().any(joining)
        })
    }

    /// The subscriptions of an app as the metadata API shows them.
    pub fn describe(&self, app: &AppId) -> Vec<Described> {
        let apps = self.apps();
        let running =
            apps.get(app).into_iter().flat_map(|state| state.running.values().chain(&state.streams));
        let running = running.filter(|running| !running.stop.is_cancelled());
        running.map(|running| running.plan.describe()).collect()
    }

    /// The topics that take dead letters, each with those that they come from.
    pub fn dead_letters(&self, namespace: &Name, pubsub: &str) -> BTreeMap<String, BTreeSet<String>> {
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let apps = self.apps();
        let own = apps.iter().filter(|(app, _)| app.namespace == *namespace).map(|(_, state)| state);
        let running = own.flat_map(|state| state.running.values().chain(&state.streams));
        let running = running.filter(|running| !running.stop.is_cancelled());
        for plan in running.map(|running| &running.plan).filter(|plan| plan.pubsub == pubsub) {
            if let Some(to) = &plan.dead_letter {
                all.entry(to.clone()).or_default().insert(plan.topic.clone());
            }
        }
        all
    }

    /// How every subscription is: `namespace/app pubsub/topic`, or the name of one that cannot run. Streams of
    /// one topic are one line, with `(stream)` behind it.
    pub fn health(&self) -> BTreeMap<String, Health> {
        let mut all = BTreeMap::new();
        for (app, state) in self.apps().iter() {
            for ((pubsub, topic), running) in &state.running {
                let health = running.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
                all.insert(format!("{app} {pubsub}/{topic}"), health);
            }
            for running in state.streams.iter().filter(|running| !running.stop.is_cancelled()) {
                let Plan { pubsub, topic, .. } = &*running.plan;
                let health = running.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let known = all.entry(format!("{app} {pubsub}/{topic} (stream)")).or_insert(health.clone());
                // Of several streams of one topic the one that is not well is told.
                if !health.ready {
                    *known = health;
                }
            }
            for (name, problem) in &state.problems {
                let health = Health { ready: false, reason: problem.clone() };
                let is_grpc = state.speaks_grpc && name == ask::PROBLEM;
                let name = if is_grpc { ask::GRPC_QUESTION } else { name };
                all.insert(format!("{app} {name}"), health);
            }
        }
        all
    }

    /// Follows whether an app is ready.
    fn ready(&self, app: &AppId) -> watch::Receiver<bool> {
        self.apps().entry(app.clone()).or_default().ready.subscribe()
    }

    /// Stops pulling, lets deliveries under way end, and gives back the rest, up to `deadline`.
    pub async fn close(&self, deadline: std::time::Duration) {
        let cut = self.0.tasks.drain(deadline).await;
        if !cut.is_empty() {
            tracing::warn!(?cut, "deliveries were cut; their messages come again");
        }
    }
}
