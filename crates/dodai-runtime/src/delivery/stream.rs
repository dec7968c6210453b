//! Subscriptions that an app reads as a stream: it gets events and says of each what became of it.

use std::collections::{HashMap, VecDeque};
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

/// How long a reader waits until its subscription has been joined.
const JOIN_WAIT: Duration = Duration::from_secs(10);

type Waiting = HashMap<String, VecDeque<oneshot::Sender<Verdict>>>;

/// Events that were given to a reader and not spoken of, by id: publishers choose ids, and may give one to several
/// events, which are then spoken of in the order in which they were read.
#[derive(Default)]
pub(crate) struct Answers(Mutex<Waiting>);

impl Answers {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect(&self, id: &str) -> oneshot::Receiver<Verdict> {
        let (tell, told) = oneshot::channel();
        self.waiting().entry(id.to_owned()).or_default().push_back(tell);
        told
    }

    /// Forgets those whose word nobody waits for any more.
    fn tidy(&self, id: &str) {
        let mut waiting = self.waiting();
        if let Some(all) = waiting.get_mut(id) {
            all.retain(|tell| !tell.is_closed());
            if all.is_empty() {
                waiting.remove(id);
            }
        }
    }

    /// Takes what the app says of an event; of one that nobody waits for it says nothing new.
    pub fn tell(&self, id: &str, status: i32) {
        let oldest = self.waiting().get_mut(id).and_then(VecDeque::pop_front);
        if let Some(tell) = oldest {
            let _late = tell.send(grpc::of_status(status));
        }
        self.tidy(id);
    }
}

/// Whoever reads the events of one subscription. Its worker alone holds it: the stream ends when the worker has.
pub(crate) struct Reader {
    events: mpsc::Sender<TopicEventRequest>,
    answers: Arc<Answers>,
}

impl Reader {
    /// Gives an event to the reader and waits for its word, up to `timeout`.
    pub(super) async fn bring(
        &self,
        event: TopicEventRequest,
        timeout: Duration,
    ) -> Result<Verdict, Failure> {
        let id = event.id.clone();
        let told = self.answers.expect(&id);
        let answered = async {
            let gone = || Failure::new(FailureKind::NoEndpoint, "nobody reads the stream any more");
            self.events.send(event).await.map_err(|_| gone())?;
            // Both branches only wait.
            tokio::select! {
                told = told => told.map_err(|_| gone()),
                () = self.events.closed() => Err(gone()),
            }
        };
        let answer = tokio::time::timeout(timeout, answered).await;
        self.answers.tidy(&id);
        answer.unwrap_or_else(|_| {
            let late = format!("the app did not speak of an event within {timeout:?}");
            Err(Failure::new(FailureKind::Timeout, late))
        })
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
    /// Ends when the subscription has been stopped and deliveries in hand have ended.
    pub events: mpsc::Receiver<TopicEventRequest>,
    pub answers: Arc<Answers>,
    /// The app is there as long as it reads.
    _ready: watch::Sender<bool>,
    _stop: DropGuard,
}

/// Why a stream does not begin.
#[derive(Debug)]
pub(crate) enum NotBegun {
    /// The app reads so many already.
    TooMany(usize),
    /// The group could not be joined.
    NotJoined(String),
}

impl Deliveries {
    /// Starts a subscription that one caller reads, and waits until it has been joined: what is published from
    /// then on comes.
    ///
    /// # Errors
    /// The app has too many, or the broker does not let it in within 10 seconds.
    pub async fn stream(&self, app: &AppId, wish: Streamed) -> Result<Events, NotBegun> {
        let (tell, joined) = oneshot::channel();
        let events = self.start_stream(app, wish, tell)?;
        match tokio::time::timeout(JOIN_WAIT, joined).await {
            Ok(Ok(Ok(()))) => Ok(events),
            Ok(Ok(Err(problem))) => Err(NotBegun::NotJoined(problem)),
            Ok(Err(_)) => Err(NotBegun::NotJoined("this base is closing".into())),
            Err(_) => Err(NotBegun::NotJoined(format!("the broker did not answer within {JOIN_WAIT:?}"))),
        }
    }

    fn start_stream(
        &self,
        app: &AppId,
        wish: Streamed,
        joined: oneshot::Sender<Result<(), String>>,
    ) -> Result<Events, NotBegun> {
        let (to, events) = mpsc::channel(self.0.settings.delivery_concurrency.max(1));
        let answers = Arc::<Answers>::default();
        let reader = Arc::new(Reader { events: to, answers: answers.clone() });
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
            way: Way::Stream(reader),
            joined: Some(joined),
        };
        let mut apps = self.apps();
        let streams = &mut apps.entry(app.clone()).or_default().streams;
        streams.retain(|running| !running.stop.is_cancelled());
        if streams.len() >= self.0.settings.max_streams {
            return Err(NotBegun::TooMany(streams.len()));
        }
        streams.push(Running { plan, stop: stop.clone(), health });
        drop(apps);
        self.0.tasks.spawn(Kind::Delivery, worker.run());
        Ok(Events { events, answers, _ready: ready, _stop: stop.drop_guard() })
    }
}
