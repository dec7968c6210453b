//! Drivers that tests steer by properties: secrets, and state stores that fail, hang or watch their users.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dodai_capability::component::{Capabilities, Context, Error, Lifecycle, Opening, Registry, Spec};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::secrets::{self, Features, Values};
use dodai_capability::state::{self, Delete, Get, Item, Set, Store};
use dodai_capability::{Answer, Metadata, memory, pubsub};
use dodai_core::features::Blocks;

pub fn register(registry: &mut Registry) {
    registry.register("secretstores.test", "v1", Blocks::default(), Secrets);
    registry.register("state.flaky", "v1", Blocks::default(), Flaky(AtomicU32::new(0)));
    registry.register("pubsub.slow", "v1", Blocks::default(), Slow);
}

/// A broker that lets members in after its property `delay`, or not at all if `refuses` says why.
struct Slow;

struct SlowBroker {
    inner: memory::Pubsub,
    delay: Duration,
    refuses: String,
}

impl dodai_capability::component::Factory for Slow {
    fn open<'a>(&'a self, spec: &'a Spec, _: &'a Context) -> Open<'a> {
        Box::pin(async move {
            let mut read = spec.read();
            let delay = read.duration(&["delay"], Duration::ZERO)?;
            let refuses = read.text(&["refuses"]).unwrap_or_default().to_owned();
            let inner = memory::Pubsub::new(memory::PubsubLimits::default());
            let broker = Arc::new(SlowBroker { inner, delay, refuses });
            Ok((Capabilities { pubsub: Some(broker), ..Capabilities::default() }, read.finish()))
        })
    }
}

impl pubsub::Broker for SlowBroker {
    fn features(&self) -> pubsub::Features {
        self.inner.features()
    }

    fn publish(&self, message: pubsub::Publish) -> Answer<'_, Result<(), pubsub::Error>> {
        self.inner.publish(message)
    }

    fn subscribe(
        &self,
        request: pubsub::Subscribe,
    ) -> Answer<'_, Result<pubsub::Subscription, pubsub::Error>> {
        Answer::later(async move {
            tokio::time::sleep(self.delay).await;
            if !self.refuses.is_empty() {
                return Err(Fault::new(Kind::Unavailable, self.refuses.clone()).into());
            }
            self.inner.subscribe(request).await
        })
    }
}

struct Secrets;

struct Shown(BTreeMap<String, Values>);

impl secrets::Store for Shown {
    fn features(&self) -> Features {
        Features { multiple_values: false }
    }

    fn get<'a>(&'a self, name: &'a str, _: &'a Metadata) -> Answer<'a, Result<Values, secrets::Error>> {
        let found = self.0.get(name).cloned();
        Answer::ready(found.ok_or_else(|| secrets::Error::NotFound { name: name.to_owned() }))
    }

    fn get_all<'a>(
        &'a self,
        _: &'a Metadata,
    ) -> Answer<'a, Result<BTreeMap<String, Values>, secrets::Error>> {
        Answer::ready(Ok(self.0.clone()))
    }
}

type Open<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Opening, Error>> + Send + 'a>>;

impl dodai_capability::component::Factory for Secrets {
    fn open<'a>(&'a self, spec: &'a Spec, _: &'a Context) -> Open<'a> {
        let all = spec
            .properties
            .iter()
            .map(|(name, value)| (name.to_owned(), Values::from([(name.to_owned(), value.reveal().into())])));
        let shown = Shown(all.collect());
        Box::pin(async move {
            Ok((Capabilities { secrets: Some(Arc::new(shown)), ..Capabilities::default() }, Vec::new()))
        })
    }
}

/// Fails as often as its property `failures` says.
struct Flaky(AtomicU32);

impl dodai_capability::component::Factory for Flaky {
    fn open<'a>(&'a self, spec: &'a Spec, _: &'a Context) -> Open<'a> {
        Box::pin(async move {
            let mut read = spec.read();
            let failures = read.number(&["failures"], 0)?;
            if u64::from(self.0.fetch_add(1, SeqCst)) < failures {
                return Err(read.fault(Fault::new(Kind::Unavailable, "nobody answers at store:6379")));
            }
            let store = Arc::new(memory::State::new(1 << 20));
            Ok((Capabilities { state: Some(store), ..Capabilities::default() }, Vec::new()))
        })
    }
}

/// What became of one opened store.
pub struct Watched {
    pub mark: String,
    pub closed: AtomicBool,
    pub used_after_close: AtomicBool,
}

/// Stores that answer after a pause with their own mark, and remember how they were treated.
#[derive(Clone, Default)]
pub struct Watching(pub Arc<Mutex<Vec<Arc<Watched>>>>);

impl Watching {
    pub fn all(&self) -> Vec<Arc<Watched>> {
        self.0.lock().expect("not poisoned").clone()
    }
}

struct WatchedStore(Arc<Watched>);

impl dodai_capability::component::Factory for Watching {
    fn open<'a>(&'a self, spec: &'a Spec, _: &'a Context) -> Open<'a> {
        Box::pin(async move {
            let mut read = spec.read();
            let mark = read.required(&["mark"])?.to_owned();
            if mark == "broken" {
                return Err(read.fault(Fault::new(Kind::Unavailable, "it is broken")));
            }
            let watched = Arc::new(Watched {
                mark,
                closed: AtomicBool::new(false),
                used_after_close: AtomicBool::new(false),
            });
            self.0.lock().expect("not poisoned").push(watched.clone());
            let store = Arc::new(WatchedStore(watched));
            let serves = Capabilities {
                state: Some(store.clone()),
                lifecycle: Some(store),
                ..Capabilities::default()
            };
            Ok((serves, read.finish()))
        })
    }
}

impl Lifecycle for WatchedStore {
    fn close(&self) -> Answer<'_, ()> {
        self.0.closed.store(true, SeqCst);
        Answer::ready(())
    }
}

impl Store for WatchedStore {
    fn features(&self) -> state::Features {
        state::Features::default()
    }

    fn get<'a>(&'a self, _: &'a Get) -> Answer<'a, Result<Option<Item>, state::Error>> {
        Answer::later(async move {
            tokio::time::sleep(std::time::Duration::from_millis(7)).await;
            if self.0.closed.load(SeqCst) {
                self.0.used_after_close.store(true, SeqCst);
            }
            let value = format!("{:?}", self.0.mark).into();
            Ok(Some(Item { value, etag: None, content_type: None, expires: None }))
        })
    }

    fn set(&self, _: Set) -> Answer<'_, Result<(), state::Error>> {
        Answer::ready(Err(Fault::new(Kind::Unsupported, "read only").into()))
    }

    fn delete(&self, _: Delete) -> Answer<'_, Result<(), state::Error>> {
        Answer::ready(Err(Fault::new(Kind::Unsupported, "read only").into()))
    }
}

/// Opens as a store that the test has at hand.
pub struct Given(pub Arc<dyn Store>);

impl dodai_capability::component::Factory for Given {
    fn open<'a>(&'a self, _: &'a Spec, _: &'a Context) -> Open<'a> {
        let serves = Capabilities { state: Some(self.0.clone()), ..Capabilities::default() };
        Box::pin(async move { Ok((serves, Vec::new())) })
    }
}
