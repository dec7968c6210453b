//! Shares of rate limits that all bases keep together, by how much is asked of each base.

use dodai_api::{Policy, RateLimitRedis, RateLimitScope};
use dodai_core::snapshot::{ClientTls, Pem, RateStore, Resource, Share, Value};

use super::Input;
use crate::name;

/// What a shared limit of a policy is called; `None` if each base keeps its own.
pub(super) fn limit_name(policy: &Policy) -> Option<String> {
    let limit = policy.spec.rate_limit.as_ref()?;
    let shared = limit.scope == RateLimitScope::Global;
    shared.then(|| format!("{}/{}", policy.metadata.namespace, policy.metadata.name))
}

/// The shares of the base that is told.
pub(super) fn shares(input: &Input<'_>) -> Vec<Resource> {
    let by_control =
        |policy: &&Policy| policy.spec.rate_limit.as_ref().is_some_and(|limit| limit.redis.is_none());
    let names = input.documents.policies().filter(by_control).filter_map(limit_name);
    names.filter_map(|limit| share(input, &limit).map(|of| (limit, of))).map(resource).collect()
}

fn resource((limit, per_ten_thousand): (String, u16)) -> Resource {
    Resource::Share(Share { limit, per_ten_thousand })
}

/// The share of the base that is told, if it keeps this limit.
fn share(input: &Input<'_>, limit: &str) -> Option<u16> {
    let connected = input.observed.bases().filter(|(base, one)| one.connected || *base == input.base);
    let asked = connected.filter_map(|(base, one)| Some((base, *one.status.demand.get(limit)?)));
    let asked: Vec<_> = asked.collect();
    let own = asked.iter().find(|(base, _)| *base == input.base)?.1;
    let (count, total) = (asked.len() as u64, asked.iter().map(|(_, asked)| asked).sum());
    Some(Share::of(own, total, count))
}

/// The Redis by which bases share the limit of `policy`.
pub(super) fn store(policy: &Policy, redis: &RateLimitRedis) -> RateStore {
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
