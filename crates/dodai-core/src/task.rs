//! Structured tasks: every task is born from a [`Tasks`] tracker that somebody passed in, and carries a
//! [`Kind`] that says what it is, whether it is cut or awaited at shutdown, and what its failure means.
//!
//! Shutdown has two phases: [`Tasks::close`] tells every task to wind down (they watch
//! [`Tasks::closing`]), then [`Tasks::drain`] waits up to a deadline and aborts the rest, reporting what
//! was cut. Always holds: no task outlives its tracker's `drain`. Rejected: a process-wide registry, which
//! would let two in-process clusters in one test see each other's tasks.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TrackedFuture;

/// What happens to a task of some kind when its tracker closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnClose {
    /// It watches [`Tasks::closing`] and ends by itself; it is aborted only at the drain deadline.
    Finish,
    /// It is aborted at once: it holds nothing that needs an orderly end.
    Abort,
}

/// Every kind of task the project runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Accepts connections on one listener.
    Listener,
    /// Serves one accepted connection.
    Connection,
    /// Drives one connection that we opened.
    OutboundConnection,
    /// Carries one call or a part of it (mirrors, hedges, body pumps).
    Call,
    /// A loop that reconciles, watches or sweeps until told to stop.
    Loop,
    /// Watches one supervised process.
    Process,
    /// Runs one module's calls.
    Module,
    /// Delivers messages of one subscription.
    Delivery,
    /// Serves our own APIs (management, metrics, control stream).
    Api,
    /// Ships telemetry somewhere else.
    Telemetry,
}

impl Kind {
    /// The cancel policy of this kind.
    pub fn on_close(self) -> OnClose {
        match self {
            Kind::Connection
            | Kind::OutboundConnection
            | Kind::Call
            | Kind::Process
            | Kind::Module
            | Kind::Delivery
            | Kind::Api
            | Kind::Loop => OnClose::Finish,
            Kind::Listener | Kind::Telemetry => OnClose::Abort,
        }
    }

    /// The word for this kind in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Listener => "listener",
            Kind::Connection => "connection",
            Kind::OutboundConnection => "outbound_connection",
            Kind::Call => "call",
            Kind::Loop => "loop",
            Kind::Process => "process",
            Kind::Module => "module",
            Kind::Delivery => "delivery",
            Kind::Api => "api",
            Kind::Telemetry => "telemetry",
        }
    }
}

#[derive(Default)]
struct Live {
    next: u64,
    aborts: BTreeMap<u64, (Kind, Option<AbortHandle>)>,
}

struct Shared {
    tracker: TaskTracker,
    closing: CancellationToken,
    live: Mutex<Live>,
}

/// A tracker of tasks. Cheap to clone; clones share one set.
#[derive(Clone)]
pub struct Tasks(Arc<Shared>);

/// What [`Tasks::drain`] had to abort, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut(pub BTreeMap<Kind, usize>);

impl Cut {
    /// Whether everything ended by itself.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Tasks::new()
    }
}

impl Tasks {
    /// A new, open tracker.
    pub fn new() -> Tasks {
        Tasks::under(CancellationToken::new())
    }

    /// A tracker that also closes when this one does; closing it leaves this one open.
    pub fn child(&self) -> Tasks {
        Tasks::under(self.0.closing.child_token())
    }

    fn under(closing: CancellationToken) -> Tasks {
        Tasks(Arc::new(Shared { tracker: TaskTracker::new(), closing, live: Mutex::default() }))
    }

    /// Spawns a `Send` task on the current runtime. A panic inside ends that task only; it is logged.
    #[expect(clippy::disallowed_methods, reason = "the one place where tasks are born")]
    pub fn spawn<F>(&self, kind: Kind, future: F) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (id, future) = self.register(kind, future);
        let handle = tokio::spawn(future).abort_handle();
        self.keep(id, handle)
    }

    /// Spawns a task on the current `LocalRuntime` or `LocalSet`.
    #[expect(clippy::disallowed_methods, reason = "the one place where tasks are born")]
    pub fn spawn_local<F>(&self, kind: Kind, future: F) -> AbortHandle
    where
        F: Future<Output = ()> + 'static,
    {
        let (id, future) = self.register(kind, future);
        let handle = tokio::task::spawn_local(future).abort_handle();
        self.keep(id, handle)
    }

    fn register<F: Future<Output = ()>>(&self, kind: Kind, future: F) -> (u64, Tracked<F>) {
        let id = {
            let mut live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
            live.next += 1;
            let id = live.next;
            live.aborts.insert(id, (kind, None));
            id
        };
        let done = Done { shared: self.0.clone(), id, kind };
        (id, Tracked { future: self.0.tracker.track_future(future), _done: done })
    }

    /// Remembers how to abort a task, unless it has ended already.
    fn keep(&self, id: u64, handle: AbortHandle) -> AbortHandle {
        let mut live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, slot)) = live.aborts.get_mut(&id) {
            *slot = Some(handle.clone());
        }
        handle
    }

    /// Ends when the tracker closes. Cancel safe.
    pub async fn closing(&self) {
        self.0.closing.cancelled().await;
    }

    /// Whether the tracker has been closed.
    pub fn is_closing(&self) -> bool {
        self.0.closing.is_cancelled()
    }

    /// How many tasks are live, by kind.
    pub fn live(&self) -> BTreeMap<Kind, usize> {
        let live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = BTreeMap::new();
        for (kind, _) in live.aborts.values() {
            *count.entry(*kind).or_insert(0) += 1;
        }
        count
    }

    /// Phase one: no orderly work is cut, but every task learns that it should end.
    pub fn close(&self) {
        self.0.closing.cancel();
        self.0.tracker.close();
        self.abort(|kind| kind.on_close() == OnClose::Abort);
    }

    /// Phase two: closes, waits until all tasks ended or `deadline` has passed, then aborts the rest and
    /// waits until they are gone. Returns what was cut.
    pub async fn drain(&self, deadline: Duration) -> Cut {
        self.close();
        if tokio::time::timeout(deadline, self.0.tracker.wait()).await.is_ok() {
            return Cut::default();
        }
        let cut = Cut(self.live());
        self.abort(|_| true);
        self.0.tracker.wait().await;
        cut
    }

    fn abort(&self, which: impl Fn(Kind) -> bool) {
        let live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, handle) in live.aborts.values().filter(|(kind, _)| which(*kind)) {
            if let Some(handle) = handle {
                handle.abort();
            }
        }
    }
}

// Not an `async` block, which would hold the future twice: as what it captured, and as what it awaits.
pin_project_lite::pin_project! {
    /// A task of ours.
    struct Tracked<F> {
        #[pin]
        future: TrackedFuture<F>,
        _done: Done,
    }
}

impl<F: Future<Output = ()>> Future for Tracked<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().future.poll(cx)
    }
}

/// Forgets a task when its future is dropped, however that came about.
struct Done {
    shared: Arc<Shared>,
    id: u64,
    kind: Kind,
}

impl Drop for Done {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(kind = self.kind.as_str(), "a task panicked; only that task ended");
        }
        let mut live = self.shared.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.aborts.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_those_that_finish_and_cuts_the_others() {
        let tasks = Tasks::new();
        let watcher = tasks.clone();
        tasks.spawn(Kind::Loop, async move { watcher.closing().await });
        tasks.spawn(Kind::Call, std::future::pending());
        tokio::task::yield_now().await;
        let cut = tasks.drain(Duration::from_secs(5)).await;
        assert_eq!(cut.0, BTreeMap::from([(Kind::Call, 1)]));
        assert!(tasks.live().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_closes_with_its_parent_but_not_the_other_way() {
        let parent = Tasks::new();
        let child = parent.child();
        child.close();
        assert!(!parent.is_closing());
        let other = parent.child();
        parent.close();
        assert!(other.is_closing());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_at_once_is_forgotten() {
        let tasks = Tasks::new();
        tasks.spawn(Kind::Call, async {});
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(tasks.live().is_empty());
        assert!(tasks.drain(Duration::ZERO).await.is_empty());
    }
}
