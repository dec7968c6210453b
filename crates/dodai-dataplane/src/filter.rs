//! Station four: what is checked and changed before a call is sent on.
//!
//! Filters are compiled per rule into a list and run synchronously on the borrowed head; changes go into the
//! edit lists, a refusal is a [`Failure`]. The set is closed: extension happens in modules and drivers.

use std::sync::Arc;
use std::time::Duration;

use dodai_core::call::Caller;
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edit, Edits, RequestHead, Short};
use dodai_core::snapshot::{self, Backend};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::access::Access;
use crate::authorizer::Authorizer;
use crate::changes::{Call, Changes};
use crate::cors::Cors;
use crate::entry::Entry;
use crate::fault::{Drawn, Fault};
use crate::identity::Certified;
use crate::jwt::{Checked, Claims, Jwt};
use crate::rate::RateLimit;
use crate::rate_limits::RateLimits;
use crate::rewrite::Rewrite;
use crate::route::BadRule;
use crate::tally::Tally;
use crate::trial::Trial;

/// A compiled filter.
#[derive(Debug)]
pub enum Filter {
    /// Changes the request head.
    Request(Changes),
    /// Changes the response head.
    Response(Changes),
    /// Changes host and path.
    Rewrite {
        /// The new authority.
        host: Option<Short>,
        /// The new path.
        path: Option<Rewrite>,
    },
    /// Copies the request elsewhere.
    Mirror {
        /// Where to.
        to: Backend,
        /// Of 10,000 requests, how many.
        per_ten_thousand: u16,
        /// What became of copies.
        tally: Box<Tally>,
    },
    /// Refuses calls over a rate.
    RateLimits(RateLimits),
    /// Refuses callers.
    Access(Access),
    /// Asks for a token.
    Jwt(Box<Jwt>),
    /// Asks another service.
    Authorizer(Box<Authorizer>),
    /// Does harm on purpose.
    Fault(Box<Fault>),
    /// Would refuse, and only says so.
    Trial(Box<Trial>),
    /// Tells browsers which pages may call.
    Cors(Box<Cors>),
}

impl Filter {
    /// Whether it may wait, or change a call that arrives.
    pub fn is_deep(&self) -> bool {
        match self {
            Filter::Jwt(_) | Filter::Authorizer(_) => true,
            Filter::Trial(trial) => trial.filter().is_deep(),
            Filter::Request(_)
            | Filter::Response(_)
            | Filter::Rewrite { .. }
            | Filter::Mirror { .. }
            | Filter::RateLimits(_)
            | Filter::Access(_)
            | Filter::Fault(_)
            | Filter::Cors(_) => false,
        }
    }

    /// Whether it asks for more of a call's head than is surely left of it when the call goes on, or changes it.
    pub fn keeps_head(&self) -> bool {
        match self {
            Filter::Request(_) | Filter::Rewrite { .. } | Filter::Jwt(_) | Filter::Authorizer(_) => true,
            Filter::Access(access) => access.asks_headers(),
            Filter::Response(_)
            | Filter::Mirror { .. }
            | Filter::RateLimits(_)
            | Filter::Fault(_)
            | Filter::Trial(_)
            | Filter::Cors(_) => false,
        }
    }

    /// Whether it makes headers for each call.
    pub fn makes_headers(&self) -> bool {
        matches!(self, Filter::Request(changes) | Filter::Response(changes) if changes.makes())
    }

    /// Adds the headers that it makes for a call, of which `route` is the rule: those of its head to `edits`, those of its
    /// answer to what it passed.
    pub fn make_headers(
        &self,
        entry: &Entry<'_>,
        head: &RequestHead<'_>,
        route: &str,
        passed: &mut Passed,
        edits: &mut Edits,
    ) {
        let mut made = Edits::new();
        match self {
            Filter::Request(changes) if changes.makes() => {
                changes.make(&Call { entry, head, changed: edits, route }, &mut made);
                edits.extend(&made);
            }
            Filter::Response(changes) if changes.makes() => {
                changes.make(&Call { entry, head, changed: edits, route }, &mut made);
                passed.reply.get_or_insert_default().extend(&made);
            }
            Filter::Request(_)
            | Filter::Response(_)
            | Filter::Rewrite { .. }
            | Filter::Mirror { .. }
            | Filter::RateLimits(_)
            | Filter::Access(_)
            | Filter::Jwt(_)
            | Filter::Authorizer(_)
            | Filter::Fault(_)
            | Filter::Trial(_)
            | Filter::Cors(_) => {}
        }
    }

    /// Its rate limits, if it has some.
    pub fn rate_limits(&self) -> Option<&RateLimits> {
        match self {
            Filter::RateLimits(limits) => Some(limits),
            Filter::Trial(trial) => trial.filter().rate_limits(),
            Filter::Access(_)
            | Filter::Authorizer(_)
            | Filter::Cors(_)
            | Filter::Fault(_)
            | Filter::Jwt(_)
            | Filter::Request(_)
            | Filter::Response(_)
            | Filter::Rewrite { .. }
            | Filter::Mirror { .. } => None,
        }
    }

    /// What it counted, if it counts.
    pub fn tally(&self) -> Option<&Tally> {
        match self {
            Filter::Cors(cors) => Some(&cors.tally),
            Filter::Trial(trial) => Some(&trial.tally),
            Filter::Jwt(jwt) => Some(&jwt.tally),
            Filter::Fault(fault) => Some(&fault.tally),
            Filter::Authorizer(authorizer) => Some(&authorizer.tally),
            Filter::Mirror { tally, .. } => Some(tally),
            Filter::Access(_)
            | Filter::Request(_)
            | Filter::Response(_)
            | Filter::Rewrite { .. }
            | Filter::RateLimits(_) => None,
        }
    }
}

/// The mirrors that were drawn for a call: indexes into the rule's filters.
pub type Mirrors = SmallVec<[usize; 2]>;

/// Compiles the filters of `rule`. Rate limits that `before` had as well go on counting.
pub fn compile(rule: &str, sources: &[snapshot::Filter], before: &[Filter]) -> Result<Vec<Filter>, BadRule> {
    let mut counting = before.iter().filter_map(Filter::rate_limits).flat_map(RateLimits::own).collect();
    sources.iter().map(|source| compile_one(rule, source, &mut counting)).collect()
}

fn compile_one(
    rule: &str,
    source: &snapshot::Filter,
    counting: &mut Vec<&Arc<RateLimit>>,
) -> Result<Filter, BadRule> {
    Ok(match source {
        snapshot::Filter::RequestHeaders(edits) => Filter::Request(Changes::compile(rule, edits)?),
        snapshot::Filter::ResponseHeaders(edits) => Filter::Response(Changes::compile(rule, edits)?),
        snapshot::Filter::Rewrite { host, path } => Filter::Rewrite {
            host: host.as_ref().map(|host| Short::from_slice(host.as_bytes())),
            path: path.as_ref().map(|path| Rewrite::compile(rule, path)).transpose()?,
        },
        snapshot::Filter::Mirror { to, per_ten_thousand } => {
            Filter::Mirror { to: to.clone(), per_ten_thousand: *per_ten_thousand, tally: Box::default() }
        }
        snapshot::Filter::RateLimits(limits) => {
            Filter::RateLimits(RateLimits::compile(rule, limits, counting)?)
        }
        snapshot::Filter::Access(access) => Filter::Access(Access::compile(rule, access)?),
        snapshot::Filter::Jwt(jwt) => Filter::Jwt(Box::new(Jwt::compile(rule, jwt)?)),
        snapshot::Filter::Authorizer(spec) => Filter::Authorizer(Box::new(Authorizer::compile(rule, spec)?)),
        snapshot::Filter::Fault(spec) => Filter::Fault(Box::new(Fault::compile(rule, spec)?)),
        snapshot::Filter::Trial { policy, filter } => {
            Filter::Trial(Box::new(Trial::new(policy, compile_one(rule, filter, counting)?)))
        }
        snapshot::Filter::Cors(cors) => Filter::Cors(Box::new(Cors::compile(rule, cors)?)),
    })
}

/// A call as filters see it.
pub struct Seen<'a> {
    /// Its head.
    pub head: RequestHead<'a>,
    /// Who calls.
    pub caller: &'a Caller,
    /// The address of a gateway's client.
    pub client: Option<&'a str>,
    /// The certificate that it has shown.
    pub certified: Option<&'a Certified>,
    /// When it arrived.
    pub now: Instant,
    /// What is known of it.
    pub known: Known,
}

/// What is known of a call that is looked at. Rules that ask for more get the benefit of the doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// All of it.
    All,
    /// Its head, but not what its token claims: the keys that tell are not here.
    Head,
}

/// What filters say of a call beside the changes of its head.
#[derive(Debug, Default)]
pub struct Passed {
    /// Where copies go.
    pub mirrors: Mirrors,
    /// What changes in its answer because of what it asked.
    pub reply: Option<Box<Edits>>,
    /// What its token claims.
    pub claims: Option<Arc<Claims>>,
    /// What its token claims by a policy that is only tried.
    pub tried_claims: Option<Arc<Claims>>,
    /// What harm is done to it on purpose.
    pub fault: Option<Box<Drawn>>,
    /// Whether the call has arrived: the base that sent it has edited its head already.
    pub arrived: bool,
    /// Whether rate limits have counted it: this is a further try of a call that they let through.
    pub counted: bool,
}

/// How far a call came.
#[derive(Debug)]
pub enum Ran {
    /// Every filter let it through.
    Through,
    /// A filter answers it: with this status and these headers.
    Answered(u16, Box<Edits>),
    /// The filter of this index must wait for something first: see `later`.
    Waits(usize, Wait),
}

/// What a filter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The keys of the issuer of this index.
    Keys(usize),
    /// The word of an authorizer.
    Verdict,
}

/// Runs `filters` on a call, from the one of index `from` on, which has `waited` for what it wanted if that is not the
/// first; changes of its head go to `edits`. `prefix` is what the rule matched, for prefix rewrites.
pub fn run(
    filters: &[Filter],
    from: usize,
    waited: bool,
    seen: &Seen<'_>,
    prefix: impl FnOnce() -> Option<String>,
    passed: &mut Passed,
    edits: &mut Edits,
) -> Result<Ran, Failure> {
    let mut prefix = Some(prefix);
    for (index, filter) in filters.iter().enumerate().skip(from) {
        match filter {
            Filter::Request(_) if passed.arrived => {}
            Filter::Request(changes) => edits.push_all(changes.plain()),
            // These wait for the response: see [`response_edits`].
            Filter::Response(_) => {}
            Filter::Rewrite { host, path } => {
                if let Some(host) = host {
                    edits.push(Edit::Authority(host.clone()));
                }
                if let Some(path) = path {
                    let wanted = prefix.take().filter(|_| matches!(path, Rewrite::Prefix(_)));
                    let matched = wanted.and_then(|prefix| prefix());
                    let mut target = path.target(&seen.head, matched.as_deref())?;
                    // What was taken out of the query before, such as a token, stays out.
                    if let (Some(before), Some(query)) = (edits.target(), seen.head.query()) {
                        target.truncate(target.len() - query.len() - 1);
                        let kept = before.iter().position(|byte| *byte == b'?').unwrap_or(before.len());
                        target.extend_from_slice(&before[kept..]);
                    }
                    edits.push(Edit::Target(target));
                }
            }
            Filter::Mirror { per_ten_thousand, .. } => {
                if dodai_core::trace::random() % 10_000 < u64::from(*per_ten_thousand) {
                    passed.mirrors.push(index);
                }
            }
            Filter::RateLimits(_) if passed.counted => {}
            Filter::RateLimits(limits) => limits.take(seen, passed.claims.as_deref()).map_err(used_up)?,
            Filter::Access(access) => access.check(seen, passed.claims.as_deref())?,
            // The base itself is asked for nothing: it delivers messages, and asks authorizers.
            filter if filter.is_deep() && *seen.caller == Caller::Base => {}
            Filter::Jwt(jwt) => match jwt.check(&seen.head, waited && index == from, edits)? {
                Checked::Token(claims) => passed.claims = Some(claims),
                Checked::None => {}
                Checked::Wait(issuer) => return Ok(Ran::Waits(index, Wait::Keys(issuer))),
            },
            // It has been asked when the next filter goes on.
            Filter::Authorizer(_) => return Ok(Ran::Waits(index, Wait::Verdict)),
            // Harm is done where a call starts its way.
            Filter::Fault(fault) if !passed.arrived => {
                passed.fault = fault.draw(&seen.head).or(passed.fault.take())
            }
            Filter::Fault(_) => {}
            Filter::Trial(trial) => {
                if let Some(wait) = trial.run(seen, passed, waited && index == from) {
                    return Ok(Ran::Waits(index, wait));
                }
            }
            Filter::Cors(cors) => {
                if let Some(answer) = cors.preflight(&seen.head) {
                    return Ok(Ran::Answered(204, Box::new(answer)));
                }
                cors.reply(&seen.head, passed.reply.get_or_insert_default());
            }
        }
    }
    Ok(Ran::Through)
}

/// Runs `filters` of `name` on what can neither wait nor be changed any more: a call at its callee, or a connection.
/// `again`: it is a further try of what they let through.
pub fn run_at_once(filters: &[Filter], seen: &Seen<'_>, name: &str, again: bool) -> Result<(), Failure> {
    let needs =
        |filter: &Filter| !matches!(filter, Filter::Request(_) | Filter::Response(_) | Filter::Fault(_));
    if !filters.iter().any(needs) {
        return Ok(());
    }
    let mut passed = Passed { arrived: true, counted: again, ..Passed::default() };
    let mut from = 0;
    while let Ran::Waits(at, _) = run(filters, from, true, seen, || None, &mut passed, &mut Edits::new())? {
        // Nobody waits here: who may need to is asked by `later::arrive`.
        let text = format!("{name} asks of its callers what only an HTTP call can answer");
        let failure = Failure::new(Kind::NotImplemented, text);
        let Some(Filter::Trial(trial)) = filters.get(at) else { return Err(failure) };
        trial.would_refuse(seen, &failure);
        from = at + 1;
    }
    Ok(())
}

/// Why a call beyond a rate is refused, that would fit in `wait`.
pub fn used_up(wait: Duration) -> Failure {
    let text = "the rate limit is used up; wait, or raise `rateLimits` of the policy";
    Failure::new(Kind::RateLimited, text).after(wait)
}

/// Adds the changes that `filters` make to a response head.
pub fn response_edits<'a>(filters: impl IntoIterator<Item = &'a Filter>, edits: &mut Edits) {
    for filter in filters {
        if let Filter::Response(changes) = filter {
            edits.push_all(changes.plain());
        }
    }
}
