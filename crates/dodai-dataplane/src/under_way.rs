//! A call of which nothing has been told yet: if it is dropped, because its caller went away, that is its record.
//!
//! Calls as parsed messages are cancelled by dropping them. Once there is an answer, its body tells the rest.

use std::sync::Arc;

use dodai_core::failure::{Failure, Kind};

use crate::lap::{Lap, Line, Outcome};
use crate::route::Rule;
use crate::service::Service;
use crate::worker::Worker;

/// Where a call went.
#[derive(Default)]
pub struct Went {
    /// To this service.
    pub service: Option<Arc<Service>>,
    /// By this rule.
    pub rule: Option<Arc<Rule>>,
}

/// A call that waits for its answer.
pub struct UnderWay<'a, L: Fn() -> Line<'a>> {
    worker: &'a Worker,
    lap: &'a Lap,
    line: L,
    ended: bool,
    /// Where it went, as far as that is known.
    pub went: Went,
    /// How it does so far.
    pub outcome: Outcome,
}

impl<'a, L: Fn() -> Line<'a>> UnderWay<'a, L> {
    /// A call that begins; `line` says what it is.
    pub fn new(worker: &'a Worker, lap: &'a Lap, line: L) -> UnderWay<'a, L> {
        UnderWay { worker, lap, line, ended: false, went: Went::default(), outcome: Outcome::default() }
    }

    /// It came to something that is told elsewhere.
    pub fn ended(mut self) -> (Went, Outcome) {
        self.ended = true;
        (std::mem::take(&mut self.went), std::mem::take(&mut self.outcome))
    }
}

impl<'a, L: Fn() -> Line<'a>> Drop for UnderWay<'a, L> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.outcome.failure = Some(Failure::new(Kind::ClientGone, "the caller left before an answer"));
        let (service, rule) = (self.went.service.as_deref(), self.went.rule.as_deref());
        self.lap.finish(self.worker, service, rule, &self.outcome, &self.line);
    }
}
