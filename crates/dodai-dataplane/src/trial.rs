//! Filters that are only tried: an operator sees what a policy would refuse before it refuses anything.

use std::time::Instant;

use dodai_core::failure::Failure;
use dodai_core::head::Edits;
use dodai_core::seldom::Seldom;

use crate::filter::{self, Filter, Passed, Seen, Wait};
use crate::jwt::Checked;
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

    /// Tries it on a call that has `waited` for what it wanted, with the claims of its token. Returns what it must wait for
    /// first.
    pub fn run(&self, seen: &Seen<'_>, passed: &mut Passed, waited: bool) -> Option<Wait> {
        let claims = passed.claims.as_deref().or(passed.tried_claims.as_deref());
        let tried = match &self.filter {
            Filter::Access(access) => access.check(seen, claims),
            Filter::RateLimits(_) if passed.counted => Ok(()),
            Filter::RateLimits(limits) => limits.take(seen, claims).map_err(filter::used_up),
            Filter::Jwt(jwt) => match jwt.check(&seen.head, waited, &mut Edits::new()) {
                Ok(Checked::Wait(issuer)) => return Some(Wait::Keys(issuer)),
                Ok(Checked::Token(claims)) => {
                    passed.tried_claims = Some(claims);
                    Ok(())
                }
                Ok(Checked::None) => Ok(()),
                Err(failure) => Err(failure),
            },
            Filter::Authorizer(_) => return Some(Wait::Verdict),
            Filter::Request(_)
            | Filter::Response(_)
            | Filter::Rewrite { .. }
            | Filter::Mirror { .. }
            | Filter::Cors(_)
            | Filter::Fault(_)
            | Filter::Trial(_) => Ok(()),
        };
        if let Err(failure) = tried {
            self.would_refuse(seen, &failure);
        }
        None
    }

    /// Counts and tells a call that it would refuse.
    pub fn would_refuse(&self, seen: &Seen<'_>, failure: &Failure) {
        self.tally.count(Event::WouldRefuse);
        if let Some(times) = self.told.count(&self.policy, Instant::now()) {
            let (caller, method, path) = (seen.caller, seen.head.method(), seen.head.path());
            tracing::info!(policy = self.policy, %caller, method, path, %failure, times, "a policy that is only tried would refuse this call");
        }
    }
}
