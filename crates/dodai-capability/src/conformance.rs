//! Suites that every driver passes, whatever it keeps its data in.
//!
//! A driver's tests build a [`Bench`] and call `run` of each capability it serves. A suite panics at the first
//! case that does not hold and names it. Cases use names of their own, so they may run against one store in
//! any order; time is moved by the bench, never waited for.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "suites are test code: they fail by panicking"
)]

pub mod binding;
pub mod configuration;
pub mod lock;
pub mod pubsub;
pub mod secrets;
pub mod state;

use std::future::Future;
use std::time::Duration;

use futures_core::future::BoxFuture;

use crate::component::Component;

/// How long a case waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a driver lends the suites.
pub struct Bench {
    /// The component under test.
    pub component: Component,
    /// Opens the component again on the same data, after the one given was closed.
    pub reopen: Box<dyn Fn() -> BoxFuture<'static, Component> + Send + Sync>,
    /// Moves the driver's clock.
    pub advance: Box<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Bench {
    /// Closes the component and opens it anew.
    pub async fn restart(&mut self) {
        self.component.close().await;
        self.component = (self.reopen)().await;
    }
}

/// Waits for what must come.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: did not come within {PATIENCE:?}"),
    }
}
