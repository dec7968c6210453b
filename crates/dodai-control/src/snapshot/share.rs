//! Shares of rate limits that all bases keep together, by how much is asked of each base.
//!
//! Together they are never more than the whole. Each base keeps a small part whatever is asked of it, so that the first
//! calls there do not find nothing.

use dodai_api::{Policy, RateLimitScope};
use dodai_core::snapshot::{Resource, Share};

use super::Input;

/// Everything, in ten thousandths.
const WHOLE: u64 = 10_000;
/// What is given out whatever is asked, all bases together.
const EVEN: u64 = 1_000;

/// What a shared limit of a policy is called; `None` if each base keeps its own.
pub(super) fn limit_name(policy: &Policy) -> Option<String> {
    let limit = policy.spec.rate_limit.as_ref()?;
    let shared = limit.scope == RateLimitScope::Global;
    shared.then(|| format!("{}/{}", policy.metadata.namespace, policy.metadata.name))
}

/// The shares of the base that is told.
pub(super) fn shares(input: &Input<'_>) -> Vec<Resource> {
    let names = input.documents.policies().filter_map(limit_name);
    names.filter_map(|limit| share(input, &limit).map(|of| (limit, of))).map(resource).collect()
}

fn resource((limit, per_ten_thousand): (String, u16)) -> Resource {
    Resource::Share(Share { limit, per_ten_thousand })
}

/// The share of the base that is told, if it keeps this limit.
fn share(input: &Input<'_>, limit: &str) -> Option<u16> {
    let connected = input.observed.bases.iter().filter(|(base, one)| one.connected || *base == input.base);
    let asked = connected.filter_map(|(base, one)| Some((base, *one.status.demand.get(limit)?)));
    let asked: Vec<_> = asked.collect();
    let own = asked.iter().find(|(base, _)| *base == input.base)?.1;
    let (count, total) = (asked.len() as u64, asked.iter().map(|(_, asked)| asked).sum::<u64>());
    let by_demand = ((WHOLE - EVEN) * own).checked_div(total);
    let share = by_demand.map_or(WHOLE / count, |part| EVEN / count + part);
    u16::try_from(share.clamp(1, WHOLE)).ok()
}
