//! The life of one instance: runs, one after the other, until it is told to end or its restart policy
//! says so. One run is in `run`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use dodai_core::task::Tasks;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

use super::backoff::{Backoff, Next, dice};
use super::cgroup::Group;
use super::logs::Capture;
use super::status::{Exit, Phase, Status};
use super::supervisor::Surroundings;
use super::{Spec, run};
use crate::shim::wire::Identity;

/// What the owner wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    Run,
    Stop { grace: Duration },
    Kill,
}

impl Intent {
    /// Whether this order goes further than an earlier one. A shorter grace goes further than a longer one.
    pub(super) fn exceeds(self, earlier: Intent) -> bool {
        match (earlier, self) {
            (Intent::Run, Intent::Stop { .. } | Intent::Kill) | (Intent::Stop { .. }, Intent::Kill) => true,
            (Intent::Stop { grace: earlier }, Intent::Stop { grace }) => grace < earlier,
            (Intent::Run | Intent::Stop { .. } | Intent::Kill, Intent::Run) | (Intent::Kill, _) => false,
        }
    }
}

/// What can be measured of a running instance.
#[derive(Clone)]
pub(super) struct Running {
    pub group: Group,
    /// The process that everything of the app descends from.
    pub keeper: i32,
}

pub(super) type Measured = Arc<Mutex<Option<Running>>>;

/// How a run ended.
pub(super) enum End {
    /// The program did not start.
    Refused(String),
    /// It ended; with the reason if it was ended on purpose.
    Ended { exit: Exit, why: Option<String> },
}

pub(super) struct Instance {
    pub spec: Spec,
    pub identity: Option<Identity>,
    pub base: Arc<Surroundings>,
    pub tasks: Tasks,
    pub capture: Capture,
    pub written: oneshot::Receiver<()>,
    pub status: watch::Sender<Status>,
    pub orders: watch::Receiver<Intent>,
    /// Keeps the channel of orders open when every handle is gone.
    pub _intent: Arc<watch::Sender<Intent>>,
    pub measured: Measured,
}

impl Instance {
    /// Runs until the end. Dropping this closes the lease, and with it ends the app.
    pub(super) async fn run(mut self) {
        let last = self.live().await;
        self.capture.logs().close();
        let Instance { capture, written, status, .. } = self;
        drop(capture);
        // The last lines are on disk before the end is told.
        let _ = written.await;
        status.send_modify(|status| {
            status.phase = last;
            status.pid = None;
        });
    }

    async fn live(&mut self) -> Phase {
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            self.status.send_modify(|status| status.phase = Phase::Starting);
            let end = run::run(self).await;
            self.measured.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (exit, reason) = self.record(end);
            let code = match exit {
                Some(Exit::Code(code)) => Some(code),
                _ => None,
            };
            if self.order() != Intent::Run {
                return Phase::Exited { code };
            }
            match backoff.after(&self.spec.restart, exit, began.elapsed(), dice()) {
                Next::Done => return Phase::Exited { code },
                Next::GiveUp => return Phase::Failed { reason },
                Next::After { delay, attempt } => {
                    self.capture.note(format!("{reason}; starts again in {delay:.1?}"));
                    let until = SystemTime::now() + delay;
                    self.status.send_modify(|status| status.phase = Phase::BackingOff { until, attempt });
                    // Cancel safe: a timer and two levels.
                    tokio::select! {
                        () = sleep(delay) => {}
                        _ = self.orders.wait_for(|intent| *intent != Intent::Run) => return Phase::Exited { code },
                        () = self.tasks.closing() => return Phase::Exited { code },
                    }
                    self.status.send_modify(|status| status.restarts = status.restarts.saturating_add(1));
                }
            }
        }
    }

    /// What is wanted now: an order, or the end of the tracker.
    pub(super) fn order(&self) -> Intent {
        let order = *self.orders.borrow();
        if order == Intent::Run && self.tasks.is_closing() {
            return Intent::Stop { grace: self.spec.stop.grace };
        }
        order
    }

    fn record(&self, end: End) -> (Option<Exit>, String) {
        let (exit, reason) = match end {
            End::Refused(reason) => (None, reason),
            End::Ended { exit, why: Some(why) } => (Some(exit), why),
            End::Ended { exit, why: None } => (Some(exit), exit.to_string()),
        };
        self.status.send_modify(|status| {
            status.pid = None;
            status.last_exit = exit.or(status.last_exit);
            status.reason = Some(reason.clone());
        });
        (exit, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_only_go_further() {
        let stop = |secs| Intent::Stop { grace: Duration::from_secs(secs) };
        let rising = [Intent::Run, stop(10), stop(1), Intent::Kill];
        for (low, one) in rising.iter().enumerate() {
            for (high, other) in rising.iter().enumerate() {
                assert_eq!(other.exceeds(*one), high > low, "{other:?} after {one:?}");
            }
        }
    }
}
