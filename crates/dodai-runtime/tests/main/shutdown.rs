//! The end: what is in hand ends or goes back, then components close.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use dodai_core::call::{Answer, Call, Door};
use dodai_core::failure::{Failure, Kind};
use dodai_core::snapshot::{Resource, Snapshot};
use dodai_core::task::Tasks;
use dodai_runtime::{Runtime, Settings};

use crate::world::{World, app, blocks, reply, subscription};

/// Answers a delivery after three seconds.
struct Slow(Arc<AtomicU32>);

impl Door for Slow {
    fn enter(&self, call: Call) -> Answer<'_> {
        Box::pin(async move {
            if call.head.uri.path() == "/dapr/subscribe" {
                return reply(404, "");
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
            self.0.fetch_add(1, SeqCst);
            reply(200, "")
        })
    }
}

fn resources() -> Vec<Resource> {
    let mut all = blocks();
    all.push(Resource::Subscription(subscription("/orders", None, &[])));
    all
}

#[tokio::test(start_paused = true)]
async fn deliveries_under_way_end_before_components_close() {
    let mut registry = Default::default();
    dodai_capability::memory::register(&mut registry);
    crate::drivers::register(&mut registry);
    let (tasks, done) = (Tasks::new(), Arc::new(AtomicU32::new(0)));
    let door = Arc::new(Slow(done.clone()));
    let runtime =
        Runtime::new(registry, door, Default::default(), Default::default(), Settings::default(), &tasks);
    runtime.apply(&Snapshot::of(1, resources()));
    runtime.app_ready(&app("shop/cart"), true);
    while !runtime.subscriptions().values().any(|health| health.ready) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let world = World { runtime, door: World::new(vec![]).await.door, tasks };
    world.publish("t", "x").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.runtime.close(Duration::from_secs(10)).await;
    assert_eq!(done.load(SeqCst), 1, "the app took it");
    assert!(world.runtime.health().values().all(|health| !health.ready), "{:?}", world.runtime.health());
    assert_eq!(
        world.cart("GET", "/v1.0/healthz/outbound", "").await.error(),
        (500, "ERR_OUTBOUND_HEALTH_NOT_READY".into())
    );
    assert!(world.tasks.drain(Duration::from_secs(1)).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_without_an_app_does_not_hold_up_the_end() {
    let world = World::new(resources()).await;
    world.runtime.app_ready(&app("shop/cart"), true);
    world.until("joined", || world.runtime.subscriptions().values().any(|health| health.ready)).await;
    world.script(|_| Err(Failure::new(Kind::NoEndpoint, "nobody")));
    world.publish("t", "x").await;
    world.until("tried", || !world.seen_at("/orders").is_empty()).await;
    let begun = tokio::time::Instant::now();
    world.runtime.close(Duration::from_secs(10)).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_app_may_ask_for_the_end() {
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let shutdown: dodai_runtime::Shutdown = Arc::new(move |id| {
        assert_eq!(*id, app("shop/cart"));
        count.fetch_add(1, SeqCst);
    });
    let world = World::with(blocks(), Settings { shutdown, ..Settings::default() }, |_| {}).await;
    assert_eq!(world.cart("POST", "/v1.0/shutdown", "").await.status, 204);
    assert_eq!(world.cart("GET", "/v1.0/shutdown", "").await.status, 405);
    assert_eq!(asked.load(SeqCst), 1);
}
