//! Subscriptions that an app reads as a stream: it gets events and says of each what became of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dodai_capability::Metadata;
use dodai_core::failure::{Failure, Kind as FailureKind};
use dodai_core::id::AppId;
use dodai_core::status::Health;
use dodai_core::task::Kind;
use dodai_proto::apps::dapr::proto::runtime::v1::TopicEventRequest;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::plan::Plan;
use super::verdict::Verdict;
use super::worker::{Way, Worker};
use super::{Deliveries, Running, grpc};

type Waiting = HashMap<String, oneshot::Sender<Verdict>>;

/// Whoever reads the events of one subscription.
pub(crate) struct Reader {
    events: mpsc::Sender<TopicEventRequest>,
    /// Events that were read and not spoken of, by id.
    waiting: Mutex<Waiting>,
}

impl Reader {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an event to the reader and waits for its word, up to `timeout`.
    pub(super) async fn bring(
        &self,
        event: TopicEventRequest,
        timeout: Duration,
    ) -> Result<Verdict, Failure> {
        let (tell, told) = oneshot::channel();
        self.waiting().insert(event.id.clone(), tell);
        let answered = async {
            let gone = || Failure::new(FailureKind::NoEndpoint, "nobody reads the stream any more");
            self.events.send(event).await.map_err(|_| gone())?;
            // Both branches only wait.
            tokio::select! {
                told = told => {
                    Ok(told.unwrap_or_else(|_| Verdict::Again("another event has the same id".into())))
                }
                () = self.events.closed() => Err(gone()),
            }
        };
        let answer = tokio::time::timeout(timeout, answered).await;
        self.waiting().retain(|_, tell| !tell.is_closed());
        answer.unwrap_or_else(|_| {
            let late = format!("the app did not speak of an event within {timeout:?}");
            Err(Failure::new(FailureKind::Timeout, late))
        })
    }

    /// Takes what the app says of an event; of one that nobody waits for it says nothing new.
    pub fn tell(&self, id: &str, status: i32) {
        if let Some(tell) = self.waiting().remove(id) {
            let _late = tell.send(grpc::of_status(status));
        }
    }
}

/// What an app subscribes to by a stream.
pub(crate) struct Streamed {
    pub pubsub: String,
    pub topic: String,
    pub dead_letter: Option<String>,
    pub metadata: Metadata,
}

/// The app's end of a subscription. Dropping it ends the subscription; messages that were not spoken of come again.
pub(crate) struct Events {
    pub events: mpsc::Receiver<TopicEventRequest>,
    pub reader: Arc<Reader>,
    /// The app is there as long as it reads.
    _ready: watch::Sender<bool>,
    _stop: DropGuard,
}

impl Deliveries {
    /// Starts a subscription that one caller reads.
    pub fn stream(&self, app: &AppId, wish: Streamed) -> Events {
        let (to, events) = mpsc::channel(self.0.settings.delivery_concurrency.max(1));
        let reader = Arc::new(Reader { events: to, waiting: Mutex::default() });
        let (ready, is_ready) = watch::channel(true);
        let stop = CancellationToken::new();
        let plan = Arc::new(Plan::streamed(wish));
        let health = Health { ready: false, reason: "it is being joined".into() };
        let health = Arc::new(Mutex::new(health));
        let worker = Worker {
            deliveries: self.clone(),
            app: app.clone(),
            plan: plan.clone(),
            stop: stop.clone(),
            ready: is_ready,
            health: health.clone(),
            way: Way::Stream(reader.clone()),
        };
        let mut apps = self.apps();
        let streams = &mut apps.entry(app.clone()).or_default().streams;
        streams.retain(|running| !running.stop.is_cancelled());
        streams.push(Running { plan, stop: stop.clone(), health });
        drop(apps);
        self.0.tasks.spawn(Kind::Delivery, worker.run());
        Events { events, reader, _ready: ready, _stop: stop.drop_guard() }
    }
}
