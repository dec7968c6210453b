//! The way in for calls that start inside the base: modules, APIs, deliveries.
//!
//! A call is carried to a data-plane thread over a bounded queue and takes the same stations as any other,
//! as outbound of its caller.

use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use dodai_core::call::{Answer, Call, Caller, Door, HOPS_HEADER, MAX_HOPS, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::id::{AppId, Name, ServiceId};
use dodai_core::snapshot::{Listener, Protocol, Role};
use dodai_core::task;
use tokio::sync::{mpsc, oneshot};

use crate::message;
use crate::request::Side;
use crate::spine::caller_label;
use crate::worker::{Shared, Worker};

/// Callers whose way in one thread remembers; beyond that the map starts anew.
const MAX_SIDES: usize = 1024;

/// A call on its way to a data-plane thread.
pub struct Visit {
    call: Call,
    answer: oneshot::Sender<Result<Reply, Failure>>,
}

/// The door of a data plane.
#[derive(Clone)]
pub struct PlaneDoor {
    threads: Arc<[mpsc::Sender<Visit>]>,
    next: Arc<AtomicUsize>,
    /// Not kept alive by the door, which those hold that it holds.
    shared: Weak<Shared>,
}

impl PlaneDoor {
    /// A door to these threads.
    pub fn new(threads: Vec<mpsc::Sender<Visit>>, shared: &Arc<Shared>) -> PlaneDoor {
        PlaneDoor { threads: threads.into(), next: Arc::default(), shared: Arc::downgrade(shared) }
    }

    /// Calls that wait for a thread, and the most that may.
    pub fn queued(&self) -> (usize, usize) {
        let capacity = self.threads.iter().map(mpsc::Sender::max_capacity).sum();
        let free: usize = self.threads.iter().map(mpsc::Sender::capacity).sum();
        (usize::saturating_sub(capacity, free), capacity)
    }
}

impl Door for PlaneDoor {
    fn enter(&self, mut call: Call) -> Answer<'_> {
        Box::pin(async move {
            if call.context.hops >= MAX_HOPS {
                return Err(Failure::new(
                    Kind::Loop,
                    format!("the call went through {MAX_HOPS} hops: it runs in a circle"),
                ));
            }
            call.head.headers.insert(HOPS_HEADER, http::HeaderValue::from(u16::from(call.context.hops)));
            let (answer, answered) = oneshot::channel();
            let thread = self.next.fetch_add(1, Relaxed) % self.threads.len();
            self.threads[thread].try_send(Visit { call, answer }).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Failure::new(
                    Kind::QueueFull,
                    "too many calls from inside the base wait for a data-plane thread",
                ),
                mpsc::error::TrySendError::Closed(_) => {
                    Failure::new(Kind::Draining, "the base is shutting down")
                }
            })?;
            answered.await.unwrap_or_else(|_| Err(Failure::new(Kind::Draining, "the base is shutting down")))
        })
    }

    fn learn<'a>(&'a self, app: &'a AppId) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let Some(shared) = self.shared.upgrade() else { return };
            let host = format!("{}.{}", app.name, app.namespace);
            if let Some(wanted) = shared.asks_for(&host, app.namespace.as_str()) {
                shared.wait_for(&wanted).await;
            }
        })
    }
}

/// Takes calls from the door until it is closed.
pub async fn serve(worker: Rc<Worker>, mut visits: mpsc::Receiver<Visit>) {
    let mut sides: HashMap<Caller, Rc<Side>> = HashMap::new();
    while let Some(visit) = visits.recv().await {
        let caller = visit.call.context.caller.clone();
        if sides.len() >= MAX_SIDES {
            sides.clear();
        }
        let side = sides.entry(caller).or_insert_with_key(|caller| Rc::new(side_of(caller))).clone();
        // Boxed, as in `serve_h2`.
        worker.tasks.spawn_local(task::Kind::Call, Box::pin(visit_one(worker.clone(), side, visit)));
    }
}

async fn visit_one(worker: Rc<Worker>, side: Rc<Side>, visit: Visit) {
    let Visit { call, mut answer } = visit;
    let result = tokio::select! {
        // Dropping the call cancels it, which is what a caller that left wants.
        result = message::forward(&worker, &side, call, "in-process") => result,
        () = answer.closed() => return,
    };
    let _left = answer.send(result);
}

/// The in-process way of this base itself to one service.
pub fn side_to(service: &ServiceId) -> Side {
    let side = side_of(&Caller::Base);
    let Role::Outbound { app } = side.listener.role.clone() else { return side };
    let role = Role::Dependency { app, service: service.clone() };
    Side { listener: Arc::new(Listener { role, ..side.listener.as_ref().clone() }), ..side }
}

/// The in-process way in of a caller.
pub fn side_of(caller: &Caller) -> Side {
    let base = || {
        let name = |text| Name::new(text).expect("a valid name");
        AppId::new(name("default"), name("base"))
    };
    let app = caller.app().cloned().unwrap_or_else(base);
    let listener = Listener::new(
        format!("door/{caller}"),
        ([127, 0, 0, 1], 0).into(),
        Protocol::Http,
        Role::Outbound { app },
    );
    let label = caller_label(caller);
    Side {
        listener: Arc::new(listener),
        caller: caller.clone(),
        label,
        client: std::sync::Arc::default(),
        port: 0,
        via: None,
        certified: None,
        wanted: None,
        secure: false,
        service: None,
        facts: None,
    }
}
