//! One installed module: the far side of an endpoint that calls are given to.
//!
//! A call waits for one of `max_concurrency` places in a bounded queue, then runs on a module thread. The
//! module counts every call from its arrival until its guest and its body have ended, so that a drain
//! knows exactly when nothing is left.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dodai_core::call::{Answer, Call, Reply, Serve};
use dodai_core::failure::{Failure, Kind};
use dodai_core::id::{AppId, InstanceId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::engine::Started;
use crate::instance::Loaded;
use crate::metrics::{Gauge, Metrics, up};
use crate::outlet::Outlet;
use crate::plan::Plan;
use crate::run;
use crate::threads::Threads;
use crate::ticker::Running;

/// What a drain came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Calls that were in flight when the drain began and ended by themselves; one that was answered but
    /// not yet wound up counts.
    pub finished: usize,
    /// Calls that were cut at the deadline.
    pub cut: usize,
}

/// A module that takes calls.
pub struct Module {
    plan: Arc<Plan>,
    engine: Arc<Started>,
    threads: Arc<Threads>,
    loaded: Mutex<Option<Arc<Loaded>>>,
    places: Arc<Semaphore>,
    max_queued: u64,
    draining: AtomicBool,
    flights: TaskTracker,
    cut: CancellationToken,
    cut_calls: Arc<AtomicUsize>,
}

/// What a running call holds; dropped last. The fields are in the order in which they are given back: a
/// drain that sees the flight end finds everything else done.
struct Place {
    _permit: OwnedSemaphorePermit,
    _running: Running,
    _flight: Flight,
}

/// A call that has arrived and not ended.
struct Flight {
    _gauge: Gauge,
    _token: TaskTrackerToken,
}

impl Module {
    pub(crate) fn new(loaded: Arc<Loaded>, threads: Arc<Threads>, max_queued: u32) -> Module {
        let (plan, engine) = (loaded.plan.clone(), loaded.linked.engine.clone());
        let places = plan.spec.max_concurrency.max(1) as usize;
        Module {
            plan,
            engine,
            threads,
            loaded: Mutex::new(Some(loaded)),
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            max_queued: max_queued.into(),
            draining: AtomicBool::new(false),
            flights: TaskTracker::new(),
            cut: CancellationToken::new(),
            cut_calls: Arc::default(),
        }
    }

    /// The instance that this is.
    pub fn instance(&self) -> &InstanceId {
        &self.plan.instance
    }

    /// The app that it belongs to.
    pub fn app(&self) -> &AppId {
        &self.plan.app
    }

    /// What it did and uses.
    pub fn metrics(&self) -> Metrics {
        self.plan.counters.read()
    }

    /// Refuses new calls, waits until every call in flight has ended or `deadline` has passed, cuts the
    /// rest, and frees all that the module holds. A second drain waits for the same end.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        self.draining.store(true, Ordering::SeqCst);
        let in_flight = self.flights.len();
        self.flights.close();
        if tokio::time::timeout(deadline, self.flights.wait()).await.is_err() {
            self.cut.cancel();
            self.flights.wait().await;
        }
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(loaded) = loaded {
            loaded.clear();
        }
        let cut = self.cut_calls.load(Ordering::SeqCst);
        Drained { finished: in_flight.saturating_sub(cut), cut }
    }

    pub(crate) fn sweep(&self, now: tokio::time::Instant) {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(loaded) = loaded {
            loaded.sweep(now);
        }
    }

    async fn answer(&self, call: Call) -> Result<Reply, Failure> {
        let counters = &self.plan.counters;
        up(&counters.calls);
        let admitted = match is_tunnel(&call) {
            true => Err(Failure::new(
                Kind::NotImplemented,
                format!("{} is a module, which takes no upgrades and tunnels", self.plan.name()),
            )),
            false => self.admit(call.context.deadline).await,
        };
        let (place, loaded) = match admitted {
            Ok(admitted) => admitted,
            Err(failure) => {
                counters.failed(failure.kind);
                return Err(failure);
            }
        };
        let (reply, answer) = oneshot::channel();
        let (cut, cut_calls) = (self.cut.clone(), self.cut_calls.clone());
        self.threads.spawn(async move {
            // The place goes last: when it is free, the instance and the module's code are too.
            let place = place;
            if run::run(&loaded, call, Outlet::Waiting(reply), &cut).await {
                cut_calls.fetch_add(1, Ordering::SeqCst);
            }
            drop(loaded);
            drop(place);
        });
        answer.await.unwrap_or_else(|_| {
            Err(Failure::new(Kind::Internal, format!("the task that ran {} ended early", self.plan.name())))
        })
    }

    async fn admit(&self, deadline: Option<Instant>) -> Result<(Place, Arc<Loaded>), Failure> {
        // Count first, then look: a drain that has begun either sees this call or is seen by it.
        let flight = Flight {
            _gauge: Gauge::raise(&self.plan.counters, |counters| &counters.in_flight),
            _token: self.flights.token(),
        };
        if self.draining.load(Ordering::SeqCst) {
            return Err(self.is_draining());
        }
        let permit = self.permit(deadline).await?;
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let loaded = loaded.ok_or_else(|| self.is_draining())?;
        let place = Place { _permit: permit, _running: self.engine.ticker.begin(), _flight: flight };
        Ok((place, loaded))
    }

    /// One of the places, at once or after a wait in the queue.
    async fn permit(&self, deadline: Option<Instant>) -> Result<OwnedSemaphorePermit, Failure> {
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let (name, counters) = (self.plan.name(), &self.plan.counters);
        let queue = Gauge::raise(counters, |counters| &counters.queued);
        if counters.queued.load(Ordering::Relaxed) > self.max_queued {
            let detail = format!(
                "{name} serves {} calls at once and {} wait already",
                self.plan.spec.max_concurrency, self.max_queued
            );
            return Err(Failure::new(Kind::QueueFull, detail));
        }
        let mut longest = self.plan.spec.wall_time;
        if let Some(deadline) = deadline {
            longest = longest.min(deadline.saturating_duration_since(Instant::now()));
        }
        let permit = tokio::select! {
            biased;
            permit = tokio::time::timeout(longest, self.places.clone().acquire_owned()) => permit,
            () = self.cut.cancelled() => {
                self.cut_calls.fetch_add(1, Ordering::SeqCst);
                return Err(self.is_draining());
            }
        };
        drop(queue);
        match permit {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(self.is_draining()),
            Err(_) => {
                let detail = format!("{name} had no free place within {longest:?}");
                Err(Failure::new(Kind::QueueFull, detail))
            }
        }
    }

    fn is_draining(&self) -> Failure {
        let detail = format!("{} ({}) is draining", self.plan.name(), self.plan.instance);
        Failure::new(Kind::Draining, detail)
    }
}

fn is_tunnel(call: &Call) -> bool {
    call.head.method == http::Method::CONNECT || call.head.headers.contains_key(http::header::UPGRADE)
}

impl Serve for Module {
    fn serve(&self, call: Call) -> Answer<'_> {
        Box::pin(self.answer(call))
    }
}
