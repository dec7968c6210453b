//! What the base decides for its runtime: limits, pauses and seams, with the defaults of one table.

use std::sync::Arc;
use std::time::Duration;

use dodai_capability::clock::Clock;
use dodai_capability::jobs;
use dodai_core::id::AppId;

use crate::api::Origins;

/// The level of the Dapr API that the metadata API reports, since SDKs compare it.
pub const DAPR_LEVEL: &str = "1.18.0";

/// Called when an app asks for its base to shut down.
pub type Shutdown = Arc<dyn Fn(&AppId) + Send + Sync>;

/// How pauses between tries grow: from `first`, doubling, up to `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub most: Duration,
}

impl Backoff {
    /// The pause after `failures` failures in a row, counted from 1.
    pub fn pause(&self, failures: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(self.most)
    }
}

/// How a stand-alone sidecar reaches its app, as the metadata API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppConnection {
    /// The app's port.
    pub port: u16,
    /// `http` or `h2c`.
    pub protocol: String,
    /// The host the app listens on.
    pub address: String,
    /// Calls to it at once.
    pub max_concurrency: Option<u32>,
    /// How its health is asked for; `None` if it is not.
    pub health: Option<AppHealth>,
}

/// How an app's health is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppHealth {
    /// The path.
    pub path: String,
    /// The time between two checks.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// Failures in a row that mean unhealthy.
    pub threshold: u32,
}

/// Limits and seams of one runtime.
#[derive(Clone)]
pub struct Settings {
    /// The longest request body, but for invocation, which streams: 4 MiB, as daprd.
    pub max_body: usize,
    /// Pauses before a component that did not come up is opened again: 1 s to 60 s.
    pub component_backoff: Backoff,
    /// How long an app may take to answer a delivery: 60 s.
    pub delivery_timeout: Duration,
    /// Deliveries of one subscription at once: 16; 1 where a component says `concurrencyMode: single`.
    pub delivery_concurrency: usize,
    /// Pauses before a message that an app did not take is delivered again: 1 s to 60 s.
    pub delivery_backoff: Backoff,
    /// Deliveries of one message at most where a dead letter topic takes it afterwards: 4. Without one
    /// there is no bound but the message's own life.
    pub delivery_attempts: u32,
    /// Configuration subscriptions of one app at most: 256; one more ends the one asked for longest ago.
    pub max_followers: usize,
    /// Streaming subscriptions of one app at most: 256; one more is refused.
    pub max_streams: usize,
    /// Jobs of one app at most: 10,000; one more is refused.
    pub max_jobs: usize,
    /// How long an app may take to answer a run of a job: 1 h. The run is long over when it is called failed, so that
    /// it does not come again beside itself.
    pub job_timeout: Duration,
    /// Where jobs are kept; `None` for in memory, as long as the process.
    pub jobs: Option<Arc<dyn jobs::Store>>,
    /// By what jobs run: the machine's clock.
    pub clock: Clock,
    /// The app, where all is for one: `{appID}`, `{namespace}` and `{podName}` in settings of components then mean
    /// something.
    pub sidecar_of: Option<AppId>,
    /// How the app is reached, where that is one app for the whole base.
    pub connection: Option<AppConnection>,
    /// Whether apps are asked for their subscriptions (`GET /dapr/subscribe`): yes.
    pub asks_subscriptions: bool,
    /// Whose pages may call the API from a browser: nobody's.
    pub origins: Option<Origins>,
    /// What `POST /v1.0/shutdown` does; nothing unless set.
    pub shutdown: Shutdown,
}

impl Default for Settings {
    fn default() -> Settings {
        let backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };
        Settings {
            max_body: 4 << 20,
            component_backoff: backoff,
            delivery_timeout: Duration::from_secs(60),
            delivery_concurrency: 16,
            delivery_backoff: backoff,
            delivery_attempts: 4,
            max_followers: 256,
            max_streams: 256,
            max_jobs: 10_000,
            job_timeout: Duration::from_secs(3_600),
            jobs: None,
            clock: Clock::system(),
            sidecar_of: None,
            connection: None,
            asks_subscriptions: true,
            origins: None,
            shutdown: Arc::new(
                |app| tracing::warn!(%app, "an app asked for a shutdown, which this base does not offer"),
            ),
        }
    }
}

impl Settings {
    /// Where jobs are kept.
    pub(crate) fn jobs(&self) -> Arc<dyn jobs::Store> {
        self.jobs.clone().unwrap_or_else(|| Arc::new(jobs::Memory::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(5) };
        let pauses: Vec<u64> = (0..5).map(|failures| backoff.pause(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 1, 2, 4, 5]);
        assert_eq!(backoff.pause(u32::MAX), backoff.most);
    }
}
