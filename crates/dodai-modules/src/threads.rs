//! The threads that run module code: each a single-threaded runtime of its own, apart from the data plane,
//! so that a guest that computes never stalls a connection.
//!
//! They start with the first module. A call goes to the thread with the fewest calls; what bounds their
//! queues is each module's own bound on calls at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dodai_core::task::{Kind, Tasks};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::Error;

/// Where guests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// So many threads of their own.
    Threads(usize),
    /// The runtime of whoever installs the first module: for deterministic tests.
    Inline,
}

struct Thread {
    runtime: Handle,
    calls: Arc<AtomicUsize>,
}

/// The running threads. Dropping them ends them.
pub(crate) struct Threads {
    threads: Vec<Thread>,
    tasks: Tasks,
    _stop: DropGuard,
}

impl Threads {
    /// Starts them. Called within a runtime.
    pub(crate) fn start(placement: Placement, tasks: Tasks) -> Result<Threads, Error> {
        let stop = CancellationToken::new();
        let threads = match placement {
            Placement::Inline => vec![Thread { runtime: Handle::current(), calls: Arc::default() }],
            Placement::Threads(count) => (0..count.max(1))
                .map(|index| start(index, stop.clone()))
                .collect::<std::io::Result<_>>()
                .map_err(|error| Error::Engine {
                    reason: format!("cannot start a module thread: {error}"),
                })?,
        };
        Ok(Threads { threads, tasks, _stop: stop.drop_guard() })
    }

    /// Runs one call on the least busy thread.
    pub(crate) fn spawn(&self, call: impl Future<Output = ()> + Send + 'static) {
        let thread = self
            .threads
            .iter()
            .min_by_key(|thread| thread.calls.load(Ordering::Relaxed))
            .expect("there is at least one thread");
        let busy = Busy::on(&thread.calls);
        let _entered = thread.runtime.enter();
        self.tasks.spawn(Kind::Module, async move {
            let _busy = busy;
            call.await;
        });
    }

    /// Runs a loop of the host itself.
    pub(crate) fn spawn_loop(&self, future: impl Future<Output = ()> + Send + 'static) {
        let _entered = self.threads[0].runtime.enter();
        self.tasks.spawn(Kind::Loop, future);
    }
}

/// One call counted on a thread.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn on(calls: &Arc<AtomicUsize>) -> Busy {
        calls.fetch_add(1, Ordering::Relaxed);
        Busy(calls.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn start(index: usize, stop: CancellationToken) -> std::io::Result<Thread> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name(format!("module-{index}")).spawn(move || {
        runtime.block_on(stop.cancelled());
        // What is still there is aborted as the runtime goes.
    })?;
    Ok(Thread { runtime: handle, calls: Arc::default() })
}
