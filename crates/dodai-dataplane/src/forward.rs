//! A call that is sent on: to which service and by which rule, with all that its tries and its answer need to know.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dodai_core::body::Body;
use dodai_core::call::Reply;
use dodai_core::head::{Edits, RequestHead};
use dodai_core::id::RevisionId;
use dodai_core::snapshot::{Hedge, Labels, Priority, RetryOn};
use tokio::time::Instant;

use crate::affinity::Affinity;
use crate::attempt::Terms;
use crate::deadline;
use crate::fault::{self, Drawn};
use crate::filter::{self, Mirrors};
use crate::jwt::Claims;
use crate::later;
use crate::limits::Limits;
use crate::overload;
use crate::route::Rule;
use crate::service::{Endpoint, Service, Wish};
use crate::spine;
use crate::worker::Worker;

/// A call that is sent on.
pub struct Forward {
    /// To this service.
    pub service: Arc<Service>,
    /// By this rule, if the service or gateway has any.
    pub rule: Option<Arc<Rule>>,
    /// Only to this revision.
    pub revision: Option<RevisionId>,
    /// Only to endpoints with these labels.
    pub labels: Option<Arc<Labels>>,
    /// What ties it to other calls.
    pub affinity: Affinity,
    /// With copies to these mirrors.
    pub mirrors: Mirrors,
    /// Only to instances of this base.
    pub local_only: bool,
    /// The base that sent it tries again what was answered or took too long, and makes tries beside slow ones.
    pub sender_tries: bool,
    /// What changes in the response because of what the call asked.
    pub reply: Option<Box<Edits>>,
    /// What harm is done to it on purpose.
    pub fault: Option<Box<Drawn>>,
    /// How long its caller still waits, if that is told.
    pub left: Option<Duration>,
    /// How long it may take with all its bodies, if that is bounded.
    pub whole: Option<Duration>,
    /// How much it matters, where its service asks for that.
    pub priority: Option<Priority>,
    /// Whether what comes once with a call, its share of retries and its mirrors, has been seen to.
    pub begun: bool,
    /// Whether the callee's rate limits have counted it here: they count calls, not tries.
    pub counted: Cell<bool>,
    /// What its token claims, if a filter of the rule has asked for one.
    pub claims: Option<Arc<Claims>>,
    /// What its token claims where it arrived, if the service asks for one.
    pub proven: Option<Proven>,
}

/// What the token of a call claims by the filters of its service; not set where another base has asked for it. Shared
/// with the bodies of the call, which are read on any thread.
pub type Proven = Arc<OnceLock<Option<Arc<Claims>>>>;

/// Where that is kept of a call to `service`, if it is.
pub fn proven(service: &Service) -> Option<Proven> {
    later::is_deep(&service.inbound).then(Proven::default)
}

impl Forward {
    /// The same way in a newer table than the one that it was decided by, if there is one. For calls that find all
    /// endpoints closed: a deploy may have come between.
    pub fn renewed(&self, worker: &Worker) -> Option<Forward> {
        spine::newer(&self.service, worker).map(|service| Forward {
            claims: self.claims.clone(),
            proven: self.proven.clone().or_else(|| proven(&service)),
            service,
            rule: self.rule.clone(),
            revision: self.revision.clone(),
            labels: self.labels.clone(),
            affinity: self.affinity,
            mirrors: self.mirrors.clone(),
            local_only: self.local_only,
            sender_tries: self.sender_tries,
            reply: self.reply.clone(),
            // Once is enough.
            fault: None,
            left: self.left,
            whole: self.whole,
            priority: self.priority,
            begun: true,
            counted: self.counted.clone(),
        })
    }

    /// The policy that holds for it since `start`.
    pub fn terms(&self, start: Instant, limits: &Limits) -> Terms<'_> {
        self.terms_within(limits.call_timeout, start, limits)
    }

    /// The same with the timeout that holds where no policy has one.
    pub fn terms_within(&self, call_timeout: Duration, start: Instant, limits: &Limits) -> Terms<'_> {
        let rule = self.rule.as_ref().map(|rule| &rule.policy);
        let mut terms = Terms::within(call_timeout, rule, &self.service.spec.policy, limits);
        terms.patience.end = self.whole.map(|whole| start + whole);
        if self.sender_tries {
            // Both would multiply their tries. What failed on the way to the app is an answer to the sender, so it is
            // still tried again here.
            (terms.try_timeout, terms.judges_answers) = (terms.timeout, false);
        }
        terms
    }

    /// Notes what its head says of how long it may take and how much it matters; `outside` the mesh nobody is believed.
    pub fn weigh(&mut self, head: &RequestHead<'_>, outside: bool, waited: Duration, edits: &mut Edits) {
        deadline::shrink(self, head, waited, edits);
        if let Some(overload) = &self.service.overload {
            self.priority = Some(overload::priority(self, overload, head, outside, edits));
        }
    }

    /// Whether it is tried again after statuses of gRPC.
    pub fn retries_grpc(&self) -> bool {
        let of_rule = self.rule.as_ref().and_then(|rule| rule.policy.retry.as_ref());
        let retry = of_rule.or(self.service.spec.policy.retry.as_ref());
        let on = retry.and_then(|retry| retry.on.as_ref());
        on.is_some_and(|on| on.iter().any(|on| matches!(on, RetryOn::Grpc(_))))
    }

    /// How it gets a further try beside one that is slow, if it is `idempotent` or need not be.
    pub fn hedge(&self, idempotent: bool) -> Option<&Hedge> {
        let of_rule = self.rule.as_ref().and_then(|rule| rule.policy.hedge.as_ref());
        let hedge = of_rule.or(self.service.spec.policy.hedge.as_ref());
        hedge.filter(|hedge| (hedge.any_method || idempotent) && !self.sender_tries)
    }

    /// Whether its answer is slowed down; a connection that is taken over cannot be.
    pub fn is_throttled(&self, upgrade: bool) -> bool {
        !upgrade && self.fault.as_ref().is_some_and(|fault| fault.throttle.is_some())
    }

    /// Makes a reply as slow as a fault wants it.
    pub fn slow(&self, reply: &mut Reply) {
        if let Some(rate) = self.fault.as_ref().and_then(|fault| fault.throttle) {
            let body = std::mem::replace(&mut reply.body, Body::empty());
            reply.body = fault::throttled(body, rate);
        }
    }

    /// What it asks of its endpoint, when those of `tried` were.
    pub fn wish<'a>(&'a self, tried: &'a [u64]) -> Wish<'a> {
        Wish {
            revision: self.revision.as_ref(),
            labels: self.labels.as_deref(),
            affinity: self.affinity,
            tried,
            local_only: self.local_only,
            priority: self.priority,
        }
    }

    /// Adds what changes in the head of a response of `endpoint` to `edits`, which is large and so not handed around.
    pub fn response_edits(&self, endpoint: Option<&Endpoint>, edits: &mut Edits) {
        if let Some(rule) = &self.rule {
            filter::response_edits(&rule.filters, edits);
        }
        // At the base where a call arrives the one that sends it edits the response.
        if !self.local_only {
            filter::response_edits(&self.service.inbound, edits);
        }
        if let Some(reply) = &self.reply {
            edits.extend(reply);
        }
        if let (Some(session), Some(endpoint)) = (&self.service.session, endpoint) {
            session.tell(endpoint, self.affinity, edits);
        }
    }
}
