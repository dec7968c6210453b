//! Rate limits: from documents to filters, and the shares of those that all bases keep together, by how much is asked of
//! each base.

use std::collections::BTreeMap;
use std::time::Duration;

use dodai_api::{self as api, Policy, RateLimitRedis, RateLimitScope};
use dodai_core::snapshot::{
    ClientTls, Filter, Pem, RateKey, RateLimit, RateStore, Resource, Share, SharedRate, Value,
};

use super::Input;
use crate::name;

/// What `requests` are for where nothing is said.
const SECOND: Duration = Duration::from_secs(1);

/// The filter of a policy's limits, if it has some.
pub(super) fn limits(policy: &Policy) -> Option<Filter> {
    let limits = policy.spec.rate_limits.iter().enumerate();
    let limits: Vec<RateLimit> = limits.map(|(at, limit)| compiled(policy, at, limit)).collect();
    (!limits.is_empty()).then_some(Filter::RateLimits(limits))
}

fn compiled(policy: &Policy, at: usize, limit: &api::RateLimit) -> RateLimit {
    let per = limit.per.map_or(SECOND, api::TimeSpan::get);
    let store = || limit.redis.as_ref().map(|redis| store(policy, redis));
    RateLimit {
        interval: per / limit.requests.max(1),
        burst: limit.burst.unwrap_or(limit.requests).max(1),
        key: limit.key.iter().filter_map(key).collect(),
        shared: name_of(policy, at, limit).map(|name| SharedRate { name, store: store() }),
    }
}

/// A part of a key; one that says nothing was refused with its document.
fn key(part: &api::RateLimitKey) -> Option<RateKey> {
    let source = |source| match source {
        api::RateLimitSource::App => RateKey::App,
        api::RateLimitSource::Address => RateKey::Address,
    };
    let header = part.header.as_ref().map(|name| RateKey::Header(name.to_ascii_lowercase()));
    let cookie = || part.cookie.clone().map(RateKey::Cookie);
    let query = || part.query_param.clone().map(RateKey::Query);
    let claim = || part.claim.clone().map(RateKey::Claim);
    header.or_else(cookie).or_else(query).or_else(claim).or(part.source.map(source))
}

/// What the limit of a policy at a place is called, if bases share it.
fn name_of(policy: &Policy, at: usize, limit: &api::RateLimit) -> Option<String> {
    let shared = limit.scope == RateLimitScope::Global;
    shared.then(|| format!("{}/{}[{at}]", policy.metadata.namespace, policy.metadata.name))
}

/// The shares of the base that is told.
pub(super) fn shares(input: &Input<'_>) -> Vec<Resource> {
    let limits = input.documents.policies().flat_map(|policy| {
        let limits = policy.spec.rate_limits.iter().enumerate();
        let by_control = limits.filter(|(_, limit)| limit.redis.is_none());
        by_control.filter_map(move |(at, limit)| Some((name_of(policy, at, limit)?, !limit.key.is_empty())))
    });
    limits.filter_map(|(limit, keyed)| share(input, limit, keyed)).map(Resource::Share).collect()
}

/// The share of the base that is told, if it keeps this limit.
fn share(input: &Input<'_>, limit: String, keyed: bool) -> Option<Share> {
    let connected = input.observed.bases().filter(|(base, one)| one.connected || *base == input.base);
    let asked = connected.filter_map(|(base, one)| Some((base, *one.status.demand.get(&limit)?)));
    let asked: Vec<_> = asked.collect();
    let own = asked.iter().find(|(base, _)| *base == input.base)?.1;
    let (count, total) = (asked.len() as u64, asked.iter().map(|(_, asked)| asked).sum());
    if !keyed {
        return Some(Share { limit, per_ten_thousand: Share::of(own, total, count), keys: BTreeMap::new() });
    }
    let told = input.observed.base(input.base)?;
    let own =
        |mark: &u64| told.status.busiest.get(&limit).and_then(|keys| keys.get(mark)).copied().unwrap_or(0);
    // Every base is told of the same keys, so that no two have more of one than there is.
    let keys = input.observed.busiest(&limit).into_iter().flatten().map(|(mark, total)| {
        let own = own(mark);
        (*mark, Share::of(own, (*total).max(own), count))
    });
    Some(Share { per_ten_thousand: Share::of(0, 0, count), keys: keys.collect(), limit: limit.clone() })
}

/// The Redis by which bases share the limit of `policy`.
fn store(policy: &Policy, redis: &RateLimitRedis) -> RateStore {
    let password = redis.password_ref.as_ref().map(|secret| Value::Secret {
        store: secret.store.to_string(),
        name: secret.key.clone(),
        key: secret.key.clone(),
    });
    RateStore {
        address: redis.address.clone(),
        database: redis.database,
        username: redis.username.clone(),
        password,
        namespace: name::name(&policy.metadata.namespace),
        tls: redis.tls.as_ref().map(|tls| {
            Box::new(ClientTls {
                server_name: tls.server_name.clone(),
                roots: tls.ca.clone().map(Pem::File),
                certificate: None,
            })
        }),
    }
}
