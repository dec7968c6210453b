//! Filters that must wait: the explicit "go async" of station four. Only a call that waits pays for it, with one box.
//!
//! A call that waits at a gateway or with its caller is a [`Later`]; what waits where a call arrives is in [`arrive`].

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use dodai_core::call::Caller;
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edits, RequestHead};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use crate::answer::Local;
use crate::authorizer::Verdict;
use crate::filter::{self, Filter, Known, Passed, Ran, Seen, Wait};
use crate::request::Side;
use crate::route::Rule;
use crate::spine::{self, Decision, Forward};
use crate::worker::Worker;

/// What comes of waiting. Cancel safe: a call that leaves takes nothing along that others wait for.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + 'a>>;

/// A call whose filters must wait before it can be decided.
pub struct Later {
    /// The rule that it matched.
    pub rule: Arc<Rule>,
    /// The filter that waits, and for what.
    pub at: (usize, Wait),
    /// What the filters before it said.
    pub passed: Passed,
    /// The path prefix that the rule matched.
    pub prefix: Option<String>,
}

impl Later {
    /// Waits and decides a call that began at `start`. `head` has the changes of the filters that ran before; further
    /// ones go to `edits`.
    pub fn resume<'a>(
        mut self: Box<Self>,
        worker: &'a Rc<Worker>,
        side: &'a Side,
        head: &'a Parts,
        start: Instant,
        edits: &'a mut Edits,
    ) -> Waiting<'a, Decision> {
        Box::pin(async move {
            let entry = side.entry();
            let head = RequestHead::Map(head);
            let client = entry.client.filter(|client| !client.is_empty());
            loop {
                let (caller, certified, now) = (entry.caller, entry.certified, Instant::now());
                let seen = Seen { head, caller, client, certified, now, known: Known::All };
                let rule = self.rule.clone();
                let from =
                    match wait_for(worker, &rule.filters, self.at, &seen, &mut self.passed, edits).await {
                        Ok(Waited::Again) => self.at.0,
                        Ok(Waited::Past) => self.at.0 + 1,
                        Ok(Waited::Denied(status, headers, body)) => {
                            return Ok(Decision::Answer(Local::denied(
                                status,
                                headers,
                                body,
                                Some(&rule),
                                self.passed,
                            )));
                        }
                        Err(failure) => {
                            let table = worker.shared.table.load();
                            let ran = Err(failure);
                            return spine::settle(&table, &entry, &head, &rule, ran, self.passed, edits);
                        }
                    };
                let prefix = || self.prefix.clone();
                let waited = from == self.at.0;
                let ran = filter::run(&rule.filters, from, waited, &seen, prefix, &mut self.passed, edits);
                if let Ok(Ran::Waits(next, wait)) = ran {
                    self.at = (next, wait);
                    continue;
                }
                let table = worker.shared.table.load();
                let mut decided = spine::settle(&table, &entry, &head, &rule, ran, self.passed, edits)?;
                if let Decision::Forward(forward) = &mut decided {
                    forward.weigh(&head, entry.is_outside(), start.elapsed(), edits);
                }
                return Ok(decided);
            }
        })
    }
}

/// Whether filters on arrival may wait or change the call.
pub fn is_deep(filters: &[Filter]) -> bool {
    filters.iter().any(Filter::is_deep)
}

/// What becomes of a call that arrives.
pub enum Arrived {
    /// It goes on, changed so; and so is its answer.
    Through {
        /// What changes in its head.
        call: Box<Edits>,
        /// What changes in the head of its answer.
        reply: Option<Box<Edits>>,
    },
    /// An authorizer wants its client to be told this. Bases on the way pass it on as they do any answer.
    Denied(Box<Local>),
}

/// Runs the filters of its service on a call that arrives.
pub fn arrive<'a>(
    worker: &'a Rc<Worker>,
    forward: &'a Forward,
    caller: &'a Caller,
    head: &'a Parts,
) -> Waiting<'a, Arrived> {
    Box::pin(async move {
        let service = &*forward.service;
        let counted = forward.counted.replace(true);
        let mut passed = Passed { arrived: true, counted, ..Passed::default() };
        let mut edits = Edits::new();
        let (mut from, mut waited) = (0, false);
        loop {
            let head = RequestHead::Map(head);
            let now = Instant::now();
            let seen = Seen { head, caller, client: None, certified: None, now, known: Known::All };
            match filter::run(&service.inbound, from, waited, &seen, || None, &mut passed, &mut edits)? {
                Ran::Through => {
                    if let Some(proven) = &forward.proven {
                        // A further try brings the same.
                        let _known = proven.set(passed.claims);
                    }
                    return Ok(Arrived::Through { call: Box::new(edits), reply: passed.reply });
                }
                Ran::Answered(..) => {
                    let text = "a filter that answers stands where calls arrive";
                    return Err(Failure::new(Kind::Internal, text));
                }
                Ran::Waits(at, wait) => {
                    let found =
                        wait_for(worker, &service.inbound, (at, wait), &seen, &mut passed, &mut edits)
                            .await?;
                    (from, waited) = match found {
                        Waited::Again => (at, true),
                        Waited::Past => (at + 1, false),
                        Waited::Denied(status, headers, body) => {
                            let local = Local::denied(status, headers, body, None, passed);
                            return Ok(Arrived::Denied(local));
                        }
                    };
                }
            }
        }
    })
}

/// What waiting came to.
enum Waited {
    /// The filter that waited can say now.
    Again,
    /// It has said yes.
    Past,
    /// It has said no, with this answer.
    Denied(StatusCode, HeaderMap, String),
}

async fn wait_for(
    worker: &Rc<Worker>,
    filters: &[Filter],
    (at, wait): (usize, Wait),
    seen: &Seen<'_>,
    passed: &mut Passed,
    edits: &mut Edits,
) -> Result<Waited, Failure> {
    match (filters.get(at), wait) {
        (Some(Filter::Jwt(jwt)), Wait::Keys(issuer)) => {
            if let Some(source) = jwt.source(issuer, &worker.shared.key_sources) {
                source.wait(worker).await;
            }
            Ok(Waited::Again)
        }
        (Some(Filter::Authorizer(authorizer)), Wait::Verdict) => match authorizer.ask(worker, seen).await? {
            Verdict::Allowed(call, reply) => {
                edits.extend(&call);
                if !reply.is_empty() {
                    passed.reply.get_or_insert_default().extend(&reply);
                }
                Ok(Waited::Past)
            }
            Verdict::Denied(status, headers, body) => Ok(Waited::Denied(status, headers, body)),
        },
        (Some(Filter::Trial(trial)), wait) => {
            match (trial.filter(), wait) {
                (Filter::Jwt(jwt), Wait::Keys(issuer)) => {
                    if let Some(source) = jwt.source(issuer, &worker.shared.key_sources) {
                        source.wait(worker).await;
                    }
                    return Ok(Waited::Again);
                }
                (Filter::Authorizer(authorizer), Wait::Verdict) => {
                    let refused = match authorizer.ask(worker, seen).await {
                        Ok(Verdict::Allowed(..)) => None,
                        Ok(Verdict::Denied(status, ..)) => {
                            Some(Failure::new(Kind::Denied, format!("the authorizer answered {status}")))
                        }
                        Err(failure) => Some(failure),
                    };
                    refused.iter().for_each(|failure| trial.would_refuse(seen, failure));
                }
                (_, Wait::Keys(_) | Wait::Verdict) => {}
            }
            Ok(Waited::Past)
        }
        (_, Wait::Keys(_) | Wait::Verdict) => Err(Failure::new(Kind::Internal, "nothing waits there")),
    }
}
