//! The connection between control and a base, with faults: news travels late, or not at all once it is cut.

use std::sync::Arc;
use std::time::Duration;

use dodai_core::snapshot::Snapshot;
use dodai_core::status::{Link, Status};
use dodai_core::task::{Kind, Tasks};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A connection; dropping it cuts it.
pub struct Wire(AbortHandle);

impl Wire {
    /// Carries what `link` tells to `snapshots`, and `status` back, both `delay` later.
    pub fn join(
        link: Link,
        snapshots: watch::Sender<Arc<Snapshot>>,
        status: watch::Receiver<Status>,
        delay: Duration,
        tasks: &Tasks,
    ) -> Wire {
        Wire(tasks.spawn_local(Kind::Loop, carry(link, snapshots, status, delay, tasks.clone())))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn carry(
    link: Link,
    snapshots: watch::Sender<Arc<Snapshot>>,
    mut status: watch::Receiver<Status>,
    delay: Duration,
    tasks: Tasks,
) {
    let Link { snapshots: mut told, status: reported, .. } = link;
    let down = async {
        while told.changed().await.is_ok() {
            tokio::time::sleep(delay).await;
            let snapshot = told.borrow_and_update().clone();
            snapshots.send_replace(snapshot);
        }
    };
    let up = async {
        while status.changed().await.is_ok() {
            tokio::time::sleep(delay).await;
            reported.send_replace(status.borrow_and_update().clone());
        }
    };
    tokio::select! {
        // Each direction is state, so what a cut loses is told again over the next connection.
        () = down => {}
        () = up => {}
        () = tasks.closing() => {}
    }
}
