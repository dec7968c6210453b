//! Filters that are only tried: an operator sees what a policy would refuse before it refuses anything.

use std::time::Instant;

use dodai_core::failure::Failure;
use dodai_core::seldom::Seldom;

use crate::filter::{self, Filter, Seen};
use crate::jwt::Claims;
use crate::tally::{Event, Tally};

/// A filter that is only tried.
#[derive(Debug)]
pub struct Trial {
    policy: String,
    filter: Filter,
    told: Seldom,
    /// What it would have done.
    pub tally: Tally,
}

impl Trial {
    /// Tries `filter` of `policy`.
    pub fn new(policy: &str, filter: Filter) -> Trial {
        Trial { policy: policy.to_owned(), filter, told: Seldom::default(), tally: Tally::default() }
    }

    /// What is tried.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Counts and tells what the filter would refuse.
    pub fn run(&self, seen: &Seen<'_>, claims: Option<&Claims>) {
        let Err(failure) = self.verdict(seen, claims) else { return };
        self.tally.count(Event::WouldRefuse);
        if let Some(times) = self.told.count(&self.policy, Instant::now()) {
            let (caller, method, path) = (seen.caller, seen.head.method(), seen.head.path());
            tracing::info!(policy = self.policy, %caller, method, path, %failure, times, "a policy that is only tried would refuse this call");
        }
    }

    fn verdict(&self, seen: &Seen<'_>, claims: Option<&Claims>) -> Result<(), Failure> {
        match &self.filter {
            Filter::Access(access) => access.check(seen, claims),
            Filter::RateLimits(limits) => limits.take(seen, claims).map_err(filter::used_up),
            Filter::Request(_)
            | Filter::Response(_)
            | Filter::Rewrite { .. }
            | Filter::Mirror { .. }
            | Filter::Cors(_)
            | Filter::Jwt(_)
            | Filter::Fault(_)
            | Filter::Authorizer(_)
            | Filter::Trial(_) => Ok(()),
        }
    }
}
