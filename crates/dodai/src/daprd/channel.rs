//! The app beside the sidecar: waiting until it listens, then following its health.
//!
//! Messages are brought to it while it is there and healthy. daprd looks once whether the app listens, and
//! again only with health checks on; so does this.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dodai_base::node::Parts;
use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context, Door};
use dodai_core::id::AppId;
use dodai_core::trace::Span;
use http::Request;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::options::{HealthCheck, Protocol};

/// The time between two tries to connect to an app that does not listen yet.
const KNOCK_EVERY: Duration = Duration::from_millis(50);
/// How long one try may take.
const KNOCK_WITHIN: Duration = Duration::from_secs(1);

/// What is known of the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not been seen.
    Unseen,
    /// It takes calls.
    Healthy,
    /// It fails its health checks.
    Unhealthy,
}

/// Follows an app.
pub struct Follower {
    /// The base.
    pub parts: Arc<Parts>,
    /// The app.
    pub app: AppId,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// How its health is asked for.
    pub health: Option<HealthCheck>,
    /// Where what is known is told.
    pub state: watch::Sender<State>,
}

impl Follower {
    /// Runs until it is dropped. Cancel safe.
    pub async fn run(self) {
        tracing::info!(address = %self.address, "waiting for the app to listen");
        while !self.knock().await {
            tokio::time::sleep(KNOCK_EVERY).await;
        }
        tracing::info!(address = %self.address, "the app listens");
        let Some(check) = &self.health else {
            self.tell(State::Healthy);
            return std::future::pending().await;
        };
        let mut verdict = Verdict { failures: 0, threshold: check.threshold };
        loop {
            if let Some(state) = verdict.take(self.is_well(check).await) {
                self.tell(state);
            }
            tokio::time::sleep(check.interval).await;
        }
    }

    fn tell(&self, state: State) {
        if self.state.send_replace(state) == state {
            return;
        }
        let ready = state == State::Healthy;
        if self.health.is_some() {
            tracing::info!(app = %self.app, "the app is {}", if ready { "healthy" } else { "not healthy" });
        }
        if ready {
            self.parts.runtime.app_ready(&self.app, true);
        } else {
            // It did not start anew, so it will not ask for its configuration again.
            self.parts.runtime.app_unwell(&self.app);
        }
    }

    async fn knock(&self) -> bool {
        let connected = tokio::time::timeout(KNOCK_WITHIN, TcpStream::connect(self.address)).await;
        connected.is_ok_and(|connected| connected.is_ok())
    }

    /// One health check, on the way that every call to the app takes.
    async fn is_well(&self, check: &HealthCheck) -> bool {
        if self.protocol == Protocol::Grpc {
            return self.parts.runtime.is_well(&self.app, check.timeout).await;
        }
        let authority = format!("{}.{}", self.app.name, self.app.namespace);
        let request = Request::get(format!("http://{authority}{}", check.path)).header("host", authority);
        let Ok(request) = request.body(()) else { return false };
        let (head, ()) = request.into_parts();
        let deadline = Instant::now() + check.timeout;
        let mut context = Context::new(Caller::Base, Span::root(false));
        context.deadline = Some(deadline.into_std());
        let call = Call { head, body: Body::empty(), context };
        let door = self.parts.plane.door();
        let answered = tokio::time::timeout_at(deadline, door.enter(call)).await;
        answered.is_ok_and(|reply| reply.is_ok_and(|reply| reply.head.status.is_success()))
    }
}

/// Counts failures in a row.
struct Verdict {
    failures: u32,
    threshold: u32,
}

impl Verdict {
    /// What one check means; `None` while a failure may still be an accident.
    fn take(&mut self, well: bool) -> Option<State> {
        if well {
            self.failures = 0;
            return Some(State::Healthy);
        }
        self.failures = self.failures.saturating_add(1);
        (self.failures >= self.threshold).then_some(State::Unhealthy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_in_a_row_mean_unhealthy() {
        let mut verdict = Verdict { failures: 0, threshold: 3 };
        let told: Vec<_> =
            [false, true, false, false, false, false, true].map(|well| verdict.take(well)).into();
        let (well, ill) = (Some(State::Healthy), Some(State::Unhealthy));
        assert_eq!(told, [None, well, None, None, ill, ill, well]);
    }
}
