//! How services and their endpoints stand at one moment, for metrics and for whoever wants to see: copies of what calls
//! have taught, made when somebody asks. Nothing on the path of a call is in here.

use std::sync::Arc;
use std::time::Duration;

use dodai_core::id::RevisionId;

use crate::place::{Endpoint, Place};
use crate::service::Service;

/// Why an endpoint gets calls or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It gets calls.
    Ready,
    /// It failed too often in a row and is left alone.
    BreakerOpen,
    /// It does worse than the others and is left alone.
    Ejected,
    /// Its answers to checks say that it is not well.
    Unwell,
    /// It is an instance of this base that is not ready.
    Closed,
}

impl State {
    /// Every state.
    pub const ALL: [State; 5] =
        [State::Ready, State::BreakerOpen, State::Ejected, State::Unwell, State::Closed];

    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::BreakerOpen => "breaker_open",
            State::Ejected => "ejected",
            State::Unwell => "unwell",
            State::Closed => "closed",
        }
    }
}

/// What is known of one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointView {
    /// Unique in this process.
    pub id: u64,
    /// Its name in logs.
    pub label: Arc<str>,
    /// `local`, `mesh` or `address`.
    pub place: &'static str,
    /// Where it is, as far as this base knows.
    pub address: String,
    /// The revision it runs.
    pub revision: RevisionId,
    /// Its share beside others.
    pub weight: u32,
    /// Its tier; the smaller goes first.
    pub tier: u8,
    /// Why it gets calls or none.
    pub state: State,
    /// Calls under way.
    pub in_flight: u32,
    /// The peak-EWMA of its latency; none before the first answer.
    pub latency: Option<Duration>,
    /// Failures in a row.
    pub failures: u32,
    /// How long its breaker stays open.
    pub open_for: Option<Duration>,
    /// How long it stays ejected.
    pub ejected_for: Option<Duration>,
    /// How often it was ejected, less the quiet intervals since.
    pub ejections: u32,
    /// Since when it gets calls.
    pub age: Duration,
}

/// What is known of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceView {
    /// `namespace/app/port`.
    pub label: Arc<str>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
    /// Whether so few are well that all get calls; none if that is not asked for.
    pub panics: Option<bool>,
    /// Retries that could be made at once; may be below 0.
    pub retry_budget: f64,
    /// Retries that were not made for want of budget.
    pub retries_refused: u64,
    /// How many calls it bears, if that is asked for.
    pub concurrency_limit: Option<u32>,
}

impl ServiceView {
    /// Calls under way.
    pub fn in_flight(&self) -> u64 {
        self.endpoints.iter().map(|one| u64::from(one.in_flight)).sum()
    }

    /// How many endpoints are in a state.
    pub fn count(&self, state: State) -> usize {
        self.endpoints.iter().filter(|one| one.state == state).count()
    }
}

impl Service {
    /// How it stands at `now` on the clock of [`crate::service::now_nanos`].
    pub fn survey(&self, now: u64) -> ServiceView {
        let endpoints: Vec<EndpointView> = self.endpoints().iter().map(|one| one.survey(now)).collect();
        let (all, good) = self
            .endpoints()
            .iter()
            .filter(|one| one.is_open())
            .fold((0, 0), |(all, good), one| (all + 1, good + u64::from(one.standing.is_good(now))));
        let least = u64::from(self.spec.health.panic_percent);
        ServiceView {
            label: self.label.clone(),
            endpoints,
            panics: (least > 0).then_some(good * 100 < all * least),
            retry_budget: self.budget.left(),
            retries_refused: self.budget.refused(),
            concurrency_limit: self.overload.as_ref().map(|overload| overload.limit()),
        }
    }
}

impl Endpoint {
    /// How it stands at `now`.
    pub fn survey(&self, now: u64) -> EndpointView {
        let (place, address) = match &self.place {
            Place::Local(_) => ("local", String::new()),
            Place::Mesh { base, address } => ("mesh", format!("{base} at {address}")),
            Place::Address(name, ..) => ("address", name.to_string()),
        };
        let state = if !self.is_open() {
            State::Closed
        } else if self.is_left_alone(now) {
            State::BreakerOpen
        } else if self.standing.is_ejected(now) {
            State::Ejected
        } else if self.standing.is_unwell() {
            State::Unwell
        } else {
            State::Ready
        };
        let from_now = |until: u64| (until > now).then(|| Duration::from_nanos(until - now));
        let (latency, failures, open_until) = self.learnt();
        EndpointView {
            id: self.id,
            label: self.label.clone(),
            place,
            address,
            revision: self.revision.clone(),
            weight: self.weight,
            tier: self.tier,
            state,
            in_flight: self.in_flight(),
            latency: (latency > 0).then(|| Duration::from_nanos(latency)),
            failures,
            open_for: from_now(open_until),
            ejected_for: from_now(self.standing.ejected_until()),
            ejections: self.standing.ejections(),
            age: Duration::from_nanos(
                now.saturating_sub(self.standing.since.load(std::sync::atomic::Ordering::Relaxed)),
            ),
        }
    }
}
