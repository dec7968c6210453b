//! The apps that a part of the runtime has a task for, while they are in the snapshot and have a runtime API.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dodai_core::id::AppId;
use dodai_core::snapshot::Snapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Apps, each with what its task shares with others.
pub(crate) struct Watched<T>(Mutex<HashMap<AppId, One<T>>>);

struct One<T> {
    speaks_grpc: bool,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
    shared: T,
}

impl<T> Drop for One<T> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a task is begun with.
pub(crate) struct Begun {
    /// Whose it is.
    pub app: AppId,
    /// The app serves `AppCallback`.
    pub speaks_grpc: bool,
    /// Whether it has a ready instance here.
    pub ready: watch::Receiver<bool>,
    /// Cancelled when the app leaves, and when it speaks another protocol: then another task is begun.
    pub stop: CancellationToken,
}

impl<T> Default for Watched<T> {
    fn default() -> Watched<T> {
        Watched(Mutex::default())
    }
}

impl<T> Watched<T> {
    fn apps(&self) -> MutexGuard<'_, HashMap<AppId, One<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the tasks of apps that left the snapshot or have no runtime API, and begins those of new ones.
    pub fn apply(&self, snapshot: &Snapshot, begin: impl Fn(Begun) -> T) {
        let with_api = snapshot.apps().filter(|app| app.runtime_api);
        let known: HashMap<&AppId, bool> = with_api.map(|app| (&app.id, app.grpc_callbacks)).collect();
        let mut apps = self.apps();
        apps.retain(|app, _| known.contains_key(app));
        for (app, speaks_grpc) in known {
            let before = apps.get(app);
            if before.is_some_and(|one| one.speaks_grpc == speaks_grpc) {
                continue;
            }
            let ready = watch::Sender::new(before.is_some_and(|one| *one.ready.borrow()));
            let stop = CancellationToken::new();
            let begun = Begun { app: app.clone(), speaks_grpc, ready: ready.subscribe(), stop: stop.clone() };
            let shared = begin(begun);
            apps.insert(app.clone(), One { speaks_grpc, ready, stop, shared });
        }
    }

    /// Tells whether an app has a ready instance here.
    pub fn app_ready(&self, app: &AppId, ready: bool) {
        if let Some(one) = self.apps().get(app) {
            one.ready.send_if_modified(|now| std::mem::replace(now, ready) != ready);
        }
    }

    /// Whether an app serves `AppCallback`.
    pub fn speaks_grpc(&self, app: &AppId) -> bool {
        self.apps().get(app).is_some_and(|one| one.speaks_grpc)
    }

    /// Looks at what the task of an app shares, if it has one.
    pub fn look(&self, app: &AppId, look: impl FnOnce(&T)) {
        if let Some(one) = self.apps().get(app) {
            look(&one.shared);
        }
    }
}
