//! One subscription at work: join the group, pull while the app is ready, push by whatever way the app has, settle.
//!
//! A message whose app cannot be reached stays in hand, its lease prolonged, without counting as an attempt. One
//! that the app did not take goes back to the broker with a pause. What cannot or shall not be delivered
//! goes to the dead letter topic, if there is one. On shutdown messages in hand go back at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dodai_capability::event::{self, Event};
use dodai_capability::pubsub::{self, Delivery, Message, Publish, Subscribe};
use dodai_capability::scopes::{Topics, Use};
use dodai_core::failure::Failure;
use dodai_core::id::AppId;
use dodai_core::snapshot::{BulkDelivery, Patience};
use dodai_core::status::Health;
use dodai_core::trace::Span;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use http::{HeaderMap, Method, StatusCode};
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bulk;
use super::grpc;
use super::plan::Plan;
use super::stream::Reader;
use super::verdict::{Verdict, verdict};
use super::{Deliveries, Inner};
use crate::callback::{Ask, is_unreachable, trace_state};
use crate::components::{Block, Live};

/// How long an app that is ready but cannot be reached is left alone.
const UNREACHABLE_PAUSE: Duration = Duration::from_secs(1);

/// What a lease is longer than a delivery may take.
const LEASE_MARGIN: Duration = Duration::from_secs(15);

/// A bulk delivery of so many bytes waits for no more messages.
const MAX_BULK_BYTES: usize = 4 << 20;

/// How events get to the app.
#[derive(Clone)]
pub(super) enum Way {
    /// By calls to its paths.
    Http,
    /// By calls of its `AppCallback` service.
    Grpc,
    /// By a stream that it reads.
    Stream(Arc<Reader>),
}

/// One subscription of one app.
pub(super) struct Worker {
    pub deliveries: Deliveries,
    pub app: AppId,
    pub plan: Arc<Plan>,
    pub stop: CancellationToken,
    pub ready: watch::Receiver<bool>,
    pub health: Arc<Mutex<Health>>,
    pub way: Way,
    /// Who waits for the word that the first try to join came out so.
    pub joined: Option<oneshot::Sender<Result<(), String>>>,
}

/// Deliveries under way, of the membership that we pull from and of those before it.
type InHand<'a> = FuturesUnordered<BoxFuture<'a, ()>>;

/// A membership in a consumer group.
struct Membership {
    /// Held until the last message is settled, so that the component stays open.
    live: Arc<Live>,
    messages: pubsub::Subscription,
    concurrency: usize,
}

/// Messages that one delivery will carry.
#[derive(Default)]
struct Gathered {
    deliveries: Vec<Delivery>,
    bytes: usize,
}

/// Why pulling ended.
enum End {
    Stop,
    /// The component changed or closed: join again.
    Again,
    Failed(String),
}

/// An event to deliver, ready to be sent again.
struct Parcel<'a> {
    event: &'a Event,
    path: &'a str,
    body: Bytes,
    span: Span,
    headers: HeaderMap,
}

impl Worker {
    /// Runs until the subscription is stopped or the base closes, and deliveries in hand have ended.
    pub async fn run(mut self) {
        let joined = self.joined.take();
        let mut in_hand = InHand::new();
        self.stay_joined(joined, &mut in_hand).await;
        while in_hand.next().await.is_some() {}
    }

    async fn stay_joined<'a>(
        &'a self,
        mut waiting: Option<oneshot::Sender<Result<(), String>>>,
        in_hand: &mut InHand<'a>,
    ) {
        let mut tell = |outcome| {
            if let Some(waiting) = waiting.take() {
                let _gone = waiting.send(outcome);
            }
        };
        let mut failures = 0;
        loop {
            let mut changes = self.inner().components.changes();
            // Cancel safe: a membership that is dropped leaves the group, its messages stay.
            let joined = tokio::select! {
                () = self.stopping() => return,
                joined = beside(in_hand, self.join()) => joined,
            };
            let problem = match joined {
                Ok(membership) => {
                    self.report(true, String::new());
                    tell(Ok(()));
                    match self.pull(membership, in_hand, &mut changes).await {
                        End::Stop => return,
                        End::Again => {
                            failures = 0;
                            continue;
                        }
                        End::Failed(problem) => problem,
                    }
                }
                Err(problem) => problem,
            };
            failures += 1;
            tracing::warn!(app = %self.app, pubsub = self.plan.pubsub, topic = self.plan.topic, "no messages: {problem}");
            tell(Err(problem.clone()));
            self.report(false, problem);
            let pause = tokio::time::sleep(self.inner().settings.component_backoff.pause(failures));
            // All branches are cancel safe.
            tokio::select! {
                () = self.stopping() => return,
                _ = changes.changed() => {}
                () = beside(in_hand, pause) => {}
            }
        }
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.deliveries.0
    }

    fn report(&self, ready: bool, reason: String) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = Health { ready, reason };
    }

    async fn stopping(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.inner().tasks.closing() => {}
        }
    }

    /// A message may wait for others before it is brought, and the app has its time after that.
    pub(super) fn lease(&self) -> Duration {
        self.plan.bulk.map_or(Duration::ZERO, |bulk| bulk.wait) + self.timeout() + LEASE_MARGIN
    }

    /// What documents say of deliveries of the component.
    fn patience(&self) -> Patience {
        let wanted = self.inner().components.wanted(&self.app.namespace, &self.plan.pubsub);
        wanted.map(|wanted| wanted.inbound.clone()).unwrap_or_default()
    }

    /// How long the app may take for one delivery.
    fn timeout(&self) -> Duration {
        self.patience().timeout.unwrap_or(self.inner().settings.delivery_timeout)
    }

    /// Calls the app about messages in hand.
    pub(super) async fn ask(
        &self,
        ask: Ask<'_>,
        in_hand: &[Delivery],
    ) -> Result<(StatusCode, Bytes), Failure> {
        let timeout = self.hold(in_hand).await;
        self.inner().callbacks.call_within(timeout, &self.app, ask).await
    }

    /// How long the app may take now; the leases of messages in hand are kept where that is longer than usual.
    pub(super) async fn hold(&self, in_hand: &[Delivery]) -> Duration {
        let timeout = self.timeout();
        if timeout > self.inner().settings.delivery_timeout {
            self.prolong(in_hand, timeout + LEASE_MARGIN).await;
        }
        timeout
    }

    /// Keeps the leases of messages. One that is lost is delivered elsewhere as well; what the app answers is told all
    /// the same.
    pub(super) async fn prolong(&self, deliveries: &[Delivery], lease: Duration) {
        for delivery in deliveries {
            if let Err(error) = delivery.extend(lease).await {
                tracing::debug!(app = %self.app, topic = self.plan.topic, "a lease was lost: {error}");
            }
        }
    }

    fn broker(&self) -> Result<(Arc<Live>, Arc<dyn pubsub::Broker>), String> {
        let found = self
            .inner()
            .components
            .find(&self.app, Block::Pubsub, &self.plan.pubsub, |all| all.pubsub.clone());
        found.map_err(|absent| match absent {
            crate::components::Absent::NotReady(reason) => {
                format!("pub/sub component `{}` is not ready: {reason}", self.plan.pubsub)
            }
            crate::components::Absent::Missing | crate::components::Absent::Unconfigured => {
                format!("there is no pub/sub component `{}` that {} may use", self.plan.pubsub, self.app)
            }
        })
    }

    async fn join(&self) -> Result<Membership, String> {
        let (live, broker) = self.broker()?;
        let app = self.app.name.as_str();
        let topic = &self.plan.topic;
        if !Topics::new(&live.component.spec.properties, app).allow(Use::Subscribe, topic) {
            return Err(format!(
                "app `{app}` may not subscribe to topic `{topic}` of `{}`; change the component's subscriptionScopes, allowedTopics or protectedTopics",
                self.plan.pubsub
            ));
        }
        let group = live.property("consumerID").map_or_else(|| app.to_owned(), |text| self.filled(text));
        let single = live.property("concurrencyMode").is_some_and(|mode| mode.eq_ignore_ascii_case("single"));
        let concurrency = if single { 1 } else { self.inner().settings.delivery_concurrency.max(1) };
        let request = Subscribe {
            lease: self.lease(),
            metadata: self.plan.metadata.clone(),
            ..Subscribe::new(topic, group)
        };
        let messages = broker.subscribe(request).await.map_err(|error| error.to_string())?;
        Ok(Membership { live, messages, concurrency })
    }

    /// Templates that daprd knows in `consumerID`.
    fn filled(&self, text: &str) -> String {
        let (app, namespace) = (self.app.name.as_str(), self.app.namespace.as_str());
        let text = text.replace("{appID}", app).replace("{podName}", app);
        let text = text.replace("{namespace}", &format!("{namespace}.{app}"));
        if text.contains("{uuid}") { text.replace("{uuid}", &uuid::Uuid::new_v4().to_string()) } else { text }
    }

    /// Whether another component has taken the place of the one we pull from, or the app lost it.
    fn has_moved(&self, live: &Arc<Live>) -> bool {
        self.broker().map_or(true, |(now, _)| !Arc::ptr_eq(&now, live))
    }

    /// Pulls from one membership. What is in hand when that ends goes on, and keeps its component open.
    async fn pull<'a>(
        &'a self,
        membership: Membership,
        in_hand: &mut InHand<'a>,
        changes: &mut watch::Receiver<u64>,
    ) -> End {
        let Membership { live, mut messages, concurrency } = membership;
        let mut ready = self.ready.clone();
        let (bulk, turns) = (self.plan.bulk, bulk::turns(concurrency));
        let mut gathered = Gathered::default();
        let mut due = Instant::now();
        let bring = |gathered: &mut Gathered| {
            let (live, deliveries) = (live.clone(), std::mem::take(gathered).deliveries);
            let turns = turns.clone();
            Box::pin(async move {
                self.bring(deliveries, &turns).await;
                drop(live);
            })
        };
        let end = loop {
            let pulls = *ready.borrow_and_update() && in_hand.len() < concurrency;
            if gathered.is_full(bulk) {
                in_hand.push(bring(&mut gathered));
                continue;
            }
            // Cancel safe: a source gives a message taken for a dropped future to the next one, and
            // deliveries in hand live outside.
            tokio::select! {
                biased;
                () = self.stopping() => break End::Stop,
                changed = changes.changed() => {
                    if changed.is_err() || self.has_moved(&live) {
                        break End::Again;
                    }
                }
                changed = ready.changed() => {
                    if changed.is_err() {
                        break End::Stop;
                    }
                }
                Some(()) = in_hand.next(), if !in_hand.is_empty() => {}
                () = tokio::time::sleep_until(due), if !gathered.deliveries.is_empty() => {
                    in_hand.push(bring(&mut gathered));
                }
                message = messages.next(), if pulls => match message {
                    Some(Ok(delivery)) => {
                        if gathered.deliveries.is_empty() {
                            due = Instant::now() + bulk.map_or(Duration::ZERO, |bulk| bulk.wait);
                        }
                        gathered.bytes = gathered.bytes.saturating_add(delivery.message.data.len());
                        gathered.deliveries.push(delivery);
                    }
                    Some(Err(error)) => break End::Failed(error.to_string()),
                    None if self.has_moved(&live) => break End::Again,
                    None => break End::Failed("the component ended the subscription".into()),
                },
            }
        };
        for delivery in gathered.deliveries {
            self.settle(delivery, pubsub::Verdict::Retry { after: Duration::ZERO }).await;
        }
        end
    }

    async fn bring(&self, batch: Vec<Delivery>, turns: &Semaphore) {
        if self.plan.bulk.is_some() {
            return self.deliver_many(batch, turns).await;
        }
        for delivery in batch {
            self.deliver(delivery).await;
        }
    }

    async fn deliver(&self, delivery: Delivery) {
        let event = match self.event(&delivery.message) {
            Ok(event) => event,
            Err(reason) => return self.give_up(delivery, &reason).await,
        };
        if event.has_expired(SystemTime::now()) {
            return self.give_up(delivery, "it has expired").await;
        }
        let Some(path) = self.plan.path(&event) else {
            return self.give_up(delivery, "no routing rule matches it").await;
        };
        let parent = event.text("traceparent").or_else(|| event.text("traceid"));
        let span = parent.and_then(|text| Span::parse(text.as_bytes())).map(|parent| parent.child());
        let body = if self.plan.is_raw() { event.to_bytes() } else { delivery.message.data.clone() };
        let span = span.unwrap_or_else(|| Span::root(false));
        let headers = trace_state(event.text("tracestate"));
        let parcel = Parcel { event: &event, path, body, span, headers };
        loop {
            match self.push(&parcel, &delivery).await {
                Ok(Verdict::Taken) => return self.settle(delivery, pubsub::Verdict::Ack).await,
                Ok(Verdict::Dropped(reason)) => return self.give_up(delivery, &reason).await,
                Ok(Verdict::Again(reason)) => return self.put_off(delivery, &reason).await,
                Err(failure) if is_unreachable(&failure) => {
                    if !self.wait_for_app(std::slice::from_ref(&delivery)).await {
                        let at_once = pubsub::Verdict::Retry { after: Duration::ZERO };
                        return self.settle(delivery, at_once).await;
                    }
                }
                Err(failure) => return self.put_off(delivery, &failure.detail).await,
            }
        }
    }

    pub(super) fn event(&self, message: &Message) -> Result<Event, String> {
        if self.plan.is_raw() {
            let (id, bus) = (event::id_of(message, &self.plan.pubsub), &self.plan.pubsub);
            return Ok(Event::from_raw(&message.data, &id, &message.topic, bus));
        }
        Event::parse(&message.data).map_err(|_| {
            "it is no event; if its publisher sends it without an envelope, set rawPayload on the subscription".to_owned()
        })
    }

    async fn push(&self, parcel: &Parcel<'_>, delivery: &Delivery) -> Result<Verdict, Failure> {
        let event = || grpc::event(parcel.event, parcel.path, &self.plan);
        match &self.way {
            Way::Http => {}
            Way::Grpc => {
                let timeout = self.hold(std::slice::from_ref(delivery)).await;
                let answer = self.inner().callbacks.on_topic_event(&self.app, timeout, parcel.span, event());
                return grpc::verdict(answer.await);
            }
            Way::Stream(reader) => {
                let timeout = self.hold(std::slice::from_ref(delivery)).await;
                return reader.bring(event(), timeout).await;
            }
        }
        let ask = Ask {
            method: Method::POST,
            path: parcel.path,
            content_type: event::MEDIA_TYPE,
            headers: parcel.headers.clone(),
            body: parcel.body.clone(),
            span: parcel.span,
        };
        let (status, body) = self.ask(ask, std::slice::from_ref(delivery)).await?;
        Ok(verdict(status, &body))
    }

    /// Waits until the app may be tried again, keeping the messages. False: they shall be given back.
    pub(super) async fn wait_for_app(&self, deliveries: &[Delivery]) -> bool {
        let mut ready = self.ready.clone();
        let was_ready = *ready.borrow_and_update();
        loop {
            let pause = if was_ready { UNREACHABLE_PAUSE } else { self.lease() / 3 };
            let mut tried = false;
            // All branches are cancel safe.
            tokio::select! {
                () = self.stopping() => return false,
                changed = ready.wait_for(|ready| *ready), if !was_ready => {
                    if changed.is_err() {
                        return false;
                    }
                    tried = true;
                }
                () = tokio::time::sleep(pause) => {}
            }
            for delivery in deliveries {
                // A lease that is lost means that somebody else has the message.
                if delivery.extend(self.lease()).await.is_err() {
                    return false;
                }
            }
            if tried || was_ready {
                return true;
            }
        }
    }

    /// Back to the broker with a pause, or given up when it has been tried often enough.
    pub(super) async fn put_off(&self, delivery: Delivery, reason: &str) {
        let settings = &self.inner().settings;
        let attempt = delivery.attempt;
        tracing::debug!(app = %self.app, topic = self.plan.topic, attempt, "a message was not taken: {reason}");
        let (most, after) = match self.patience().retry {
            Some(retry) => (retry.attempts.saturating_add(1), retry.pause(attempt.saturating_sub(1))),
            None => (settings.delivery_attempts, settings.delivery_backoff.pause(attempt)),
        };
        if self.plan.dead_letter.is_some() && attempt >= most {
            return self.give_up(delivery, reason).await;
        }
        self.settle(delivery, pubsub::Verdict::Retry { after }).await;
    }

    /// To the dead letter topic, if there is one; else it is dropped.
    pub(super) async fn give_up(&self, delivery: Delivery, reason: &str) {
        let (id, topic) = (&delivery.message.id, &self.plan.topic);
        let Some(dead_letter) = &self.plan.dead_letter else {
            tracing::warn!(app = %self.app, topic, id, "a message was dropped: {reason}");
            return self.settle(delivery, pubsub::Verdict::Drop).await;
        };
        let message = &delivery.message;
        let letter = Publish {
            topic: dead_letter.clone(),
            // A message without an envelope is its publisher's, byte for byte.
            data: if self.plan.is_raw() { message.data.clone() } else { lasting(&message.data) },
            content_type: message.content_type.clone(),
            ttl: None,
            metadata: message.metadata.clone(),
        };
        let published = match self.broker() {
            Ok((_live, broker)) => broker.publish(letter).await.map_err(|error| error.to_string()),
            Err(problem) => Err(problem),
        };
        let verdict = match published {
            Ok(()) => {
                tracing::info!(app = %self.app, topic, id, dead_letter, "a message went to its dead letter topic: {reason}");
                pubsub::Verdict::Drop
            }
            Err(problem) => {
                tracing::warn!(app = %self.app, topic, id, dead_letter, "a dead letter could not be published: {problem}");
                pubsub::Verdict::Retry {
                    after: self.inner().settings.delivery_backoff.pause(delivery.attempt),
                }
            }
        };
        self.settle(delivery, verdict).await;
    }

    pub(super) async fn settle(&self, delivery: Delivery, verdict: pubsub::Verdict) {
        if let Err(error) = delivery.settle(verdict).await {
            tracing::warn!(app = %self.app, topic = self.plan.topic, "a delivery could not be settled: {error}");
        }
    }
}

impl Gathered {
    fn is_full(&self, bulk: Option<BulkDelivery>) -> bool {
        let most = bulk.map_or(1, |bulk| bulk.most as usize);
        self.deliveries.len() >= most || self.bytes >= MAX_BULK_BYTES
    }
}

/// Waits for something while deliveries in hand go on. Cancel safe where the task is.
async fn beside<T>(in_hand: &mut InHand<'_>, task: impl Future<Output = T>) -> T {
    let mut task = std::pin::pin!(task);
    loop {
        // Cancel safe: both go on where they were.
        tokio::select! {
            done = &mut task => return done,
            Some(()) = in_hand.next(), if !in_hand.is_empty() => {}
        }
    }
}

/// The event without its expiration: a dead letter that has expired would reach nobody.
fn lasting(data: &Bytes) -> Bytes {
    let event: Result<BTreeMap<String, Box<RawValue>>, _> = serde_json::from_slice(data);
    let Ok(mut event) = event else { return data.clone() };
    if event.remove("expiration").is_none() {
        return data.clone();
    }
    serde_json::to_vec(&event).map_or_else(|_| data.clone(), Bytes::from)
}
