//! One component's place: what is wanted there, what is live, and how it is.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use dodai_capability::component::Properties;
use dodai_core::id::{AppId, Name};
use dodai_core::snapshot;
use dodai_core::status::{Health, OPENING};
use tokio::sync::watch;

use super::{Block, Components, Live, resolve};
use crate::error::Error;

/// The place of one component. It stays while the component changes.
pub(crate) struct Slot {
    namespace: Name,
    name: String,
    /// What should be here; `None` when it is to go.
    wanted: watch::Sender<Option<Arc<snapshot::Component>>>,
    live: ArcSwapOption<Live>,
    health: Mutex<Health>,
}

impl Slot {
    pub(super) fn new(wanted: snapshot::Component) -> Slot {
        Slot {
            namespace: wanted.namespace.clone(),
            name: wanted.name.clone(),
            wanted: watch::Sender::new(Some(Arc::new(wanted))),
            live: ArcSwapOption::empty(),
            health: Mutex::new(Health { ready: false, reason: OPENING.into() }),
        }
    }

    pub fn namespace(&self) -> &Name {
        &self.namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn want(&self, wanted: &snapshot::Component) {
        self.wanted.send_if_modified(|now| {
            let differs = now.as_deref() != Some(wanted);
            if differs {
                *now = Some(Arc::new(wanted.clone()));
            }
            differs
        });
    }

    pub(super) fn want_none(&self) {
        self.wanted.send_replace(None);
    }

    /// What is configured, if it has not been taken away.
    pub fn wanted(&self) -> Option<Arc<snapshot::Component>> {
        self.wanted.borrow().clone()
    }

    /// Whether the component is of that sort by its type.
    pub fn is(&self, block: Block) -> bool {
        self.wanted.borrow().as_ref().is_some_and(|wanted| wanted.driver.starts_with(block.prefix()))
    }

    /// Whether `app` may use it.
    pub fn serves(&self, app: &AppId) -> bool {
        let wanted = self.wanted.borrow();
        let scopes = wanted.as_ref().map(|wanted| &wanted.scopes);
        app.namespace == self.namespace
            && scopes.is_some_and(|scopes| {
                scopes.is_empty() || scopes.iter().any(|scope| scope == app.name.as_str())
            })
    }

    /// The open component.
    pub fn live(&self) -> Option<Arc<Live>> {
        self.live.load_full()
    }

    pub fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn report(&self, ready: bool, reason: String) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = Health { ready, reason };
    }

    fn failed(&self, error: &Error) {
        let (namespace, name) = (&self.namespace, &self.name);
        if self.health().reason.ends_with(&error.to_string()) {
            // It was told when it was found out; a try that ends the same way is no news.
            tracing::debug!(%namespace, name, "a component still does not come up: {error}");
        } else if matches!(error, Error::NotReady { .. }) {
            // The other one tells what is wrong with it, if anything is.
            tracing::info!(%namespace, name, "a component waits for another: {error}");
        } else {
            tracing::warn!(%namespace, name, code = error.code(), "a component did not come up: {error}");
        }
        let live = self.live.load().is_some();
        let reason = error.to_string();
        let reason = if live {
            format!("a change was refused, the settings before it stay: {reason}")
        } else {
            reason
        };
        self.report(live, reason);
    }
}

/// Keeps what is live equal to what is wanted, until it is to go or the components close.
pub(super) async fn keep(slot: Arc<Slot>, components: Components) {
    let tasks = components.tasks.clone();
    // Cancel safe: an opening that is dropped leaves nothing behind, and what is live is let go below.
    tokio::select! {
        biased;
        () = tasks.closing() => {}
        () = follow(&slot, &components) => {}
    }
    slot.report(false, "it has been closed".into());
    slot.live.store(None);
    components.shared.changes.send_modify(|change| *change += 1);
}

async fn follow(slot: &Slot, components: &Components) {
    let mut wanted = slot.wanted.subscribe();
    let mut failures = 0;
    loop {
        let Some(want) = wanted.borrow_and_update().clone() else { return };
        let others = components.changes();
        let is_live = slot.live.load().as_ref().is_some_and(|live| same(&live.made_from, &want));
        // A change that arrives while the one before it is being opened makes that opening pointless.
        let opened = if is_live {
            Ok(None)
        } else {
            tokio::select! {
                opened = open(&want, components) => opened.map(Some),
                _ = wanted.changed() => continue,
            }
        };
        match opened {
            Ok(live) => {
                failures = 0;
                if let Some(live) = live {
                    slot.live.store(Some(Arc::new(live)));
                }
                slot.report(true, String::new());
                components.shared.changes.send_modify(|change| *change += 1);
                if wanted.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                failures += 1;
                slot.failed(&error);
                wait(&mut wanted, others, components.shared.backoff.pause(failures), &error).await;
            }
        }
    }
}

/// Scopes and tolerance of errors are not part of what is open.
fn same(a: &snapshot::Component, b: &snapshot::Component) -> bool {
    a.driver == b.driver && a.version == b.version && a.settings == b.settings
}

async fn wait(
    wanted: &mut watch::Receiver<Option<Arc<snapshot::Component>>>,
    mut others: watch::Receiver<u64>,
    pause: std::time::Duration,
    error: &Error,
) {
    let another = async {
        if !error.waits_for_another() || others.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    // All branches are cancel safe.
    tokio::select! {
        _ = wanted.changed() => {}
        () = another => {}
        () = tokio::time::sleep(pause) => {}
    }
}

/// Opens the component and sees that it answers, within its init timeout for each.
async fn open(want: &snapshot::Component, components: &Components) -> Result<Live, Error> {
    let properties: Properties = resolve::properties(components, want).await?;
    let spec = dodai_capability::component::Spec {
        name: want.name.clone(),
        kind: want.driver.clone(),
        version: want.version.clone(),
        properties,
        scopes: want.scopes.clone(),
        ignore_errors: want.ignore_errors,
        init_timeout: want.init_timeout,
    };
    let shared = &components.shared;
    let component = shared.registry.open(spec, &shared.context).await?;
    // From here on dropping it closes it.
    let live = Live { component, made_from: want.clone(), tasks: components.tasks.clone() };
    let timeout = dodai_capability::component::Error::Timeout {
        name: want.name.clone(),
        kind: want.driver.clone(),
        timeout: want.init_timeout,
    };
    match tokio::time::timeout(want.init_timeout, live.component.ping()).await {
        Ok(Ok(())) => Ok(live),
        Ok(Err(fault)) => Err(Error::Ping { name: want.name.clone(), fault }),
        Err(_) => Err(timeout.into()),
    }
}
