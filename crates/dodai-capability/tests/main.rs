//! The in-memory drivers pass the suites that all drivers pass.
#![cfg(feature = "conformance")]

use std::time::Duration;

use dodai_capability::component::{Context, Registry, Spec};
use dodai_capability::conformance::{self, Bench};
use dodai_capability::memory;

async fn bench(kind: &'static str) -> Bench {
    bench_of(Spec::new("under-test", kind)).await
}

async fn bench_of(spec: Spec) -> Bench {
    let mut registry = Registry::new();
    memory::register(&mut registry);
    let component = registry.open(spec, &Context::default()).await.expect("opens");
    assert!(component.warnings.is_empty(), "{:?}", component.warnings);
    Bench {
        component,
        reopen: Box::new(|| Box::pin(async { unreachable!("memory does not outlive its component") })),
        advance: Box::new(|by: Duration| Box::pin(tokio::time::advance(by))),
    }
}

#[tokio::test(start_paused = true)]
async fn state() {
    conformance::state::run(&mut bench("state.in-memory").await).await;
}

#[tokio::test(start_paused = true)]
async fn state_that_is_encrypted() {
    let mut spec = Spec::new("under-test", "state.in-memory");
    let key = "cb321007ad11a9d23f963bff600d58e0".into();
    spec.properties.insert_secret("primaryEncryptionKey", "mine", key);
    conformance::state::run(&mut bench_of(spec).await).await;
}

#[tokio::test(start_paused = true)]
async fn pubsub() {
    conformance::pubsub::run(&mut bench("pubsub.in-memory").await).await;
}

#[tokio::test(start_paused = true)]
async fn configuration() {
    conformance::configuration::run(&mut bench("configuration.in-memory").await, false).await;
}

#[tokio::test(start_paused = true)]
async fn lock() {
    conformance::lock::run(&bench("lock.in-memory").await).await;
}
